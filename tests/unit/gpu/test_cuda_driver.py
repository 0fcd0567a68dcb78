"""The cuda plugin on a driver that is a fake: contexts, lifetimes, errors, and whole models, with no GPU."""

from __future__ import annotations

import gc
import sys
import threading
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from llamakit import Session
from llamakit.errors import BackendError, DeviceLostError, OutOfMemoryError
from llamakit.gguf import GGMLType
from llamakit.gpu.compiled import CompiledKernels
from llamakit.gpu.driver import At, Feature
from llamakit.gpu.steps.values import multiply
from llamakit.registry import Registry
from llamakit.testing import shim
from llamakit.testing.conformance import Case, run
from llamakit.testing.fake_cuda import MAGIC, CUresult, FakeBLAS, FakeCUDA

pytestmark = pytest.mark.skipif(shim.compiler() is None, reason="needs a C++ compiler")
PLUGIN = "llamakit.plugins.backends.cuda."
KERNEL = "KERNEL void twice(BUF(float, x)) { USE(float, x); x[ITEM] *= 2; }"


@pytest.fixture
def cu(monkeypatch, tmp_path):
    """The fake in place of the bindings, and a compiler that leaves the source as it is."""
    fake = FakeCUDA()
    bindings = ModuleType("cuda.bindings")
    bindings.driver = fake
    kept = {name: module for name, module in sys.modules.items() if name.startswith(PLUGIN)}
    for name in kept:
        del sys.modules[name]
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", fake)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiler, driver = import_module(PLUGIN + "compiler"), import_module(PLUGIN + "driver")

    def compiled(source, architecture):
        if "nonsense" in source:
            error = compiler.CompileError(f"NVRTC does not compile a kernel for {architecture}")
            error.log = "line 1: nonsense"
            raise error
        return compiler.Compiled(MAGIC + source.encode(), "all well")

    monkeypatch.setattr(compiler, "version", lambda: "12.9")
    monkeypatch.setattr(driver, "version", lambda: "12.9")
    monkeypatch.setattr(driver, "compile_cubin", compiled)
    fake.blas = FakeBLAS(fake)
    monkeypatch.setattr(driver, "library", lambda: fake.blas)
    yield fake
    for name in [each for each in sys.modules if each.startswith(PLUGIN)]:
        del sys.modules[name]
    sys.modules.update(kept)
    assert fake.misuses == []


def opened(**options):
    backend = Registry.discover().backend("cuda")
    return backend(backend.Options(**options)).open()


def source(text: str = KERNEL) -> str:
    from llamakit.gpu.source import read

    return f"#define LANES 1\n{read('prelude_cuda.h')}{read('common.cl')}{text}"


def told(error: BackendError) -> str:
    """What is in the file that an error names."""
    return Path(error.found.removeprefix("all that the compiler said in ")).read_text()


def doubled(driver) -> list[float]:
    place = At(driver.allocate(16))
    driver.write(place, np.arange(4, dtype=np.float32))
    driver.launch(driver.kernel(driver.build(source()), "twice"), 1, 4, [place])
    out = np.empty(4, np.float32)
    driver.read(place, out)
    return out.tolist()


@pytest.mark.parametrize("old", [False, True])
def test_the_context_of_the_thread_is_what_it_was(cu, old):
    cu.old_bindings = old
    theirs = object()  # of another library, such as PyTorch's
    cu.stack.append(theirs)
    device = opened()
    assert doubled(device.driver) == [0, 2, 4, 6]
    assert cu.stack == [theirs]
    found = []
    thread = threading.Thread(target=lambda: found.append((doubled(device.driver), list(cu.stack))))
    thread.start()
    thread.join()
    assert found == [([0, 2, 4, 6], [])]
    device.close()
    assert cu.stack == [theirs]


def test_all_is_given_back_once(cu):
    device = opened()
    block = device.driver.allocate(64)
    place = At(device.driver.allocate(64))
    block.free()
    block.free()
    del place
    gc.collect()
    assert cu.used == 0
    kept = device.driver.allocate(64)
    doubled(device.driver)
    (context,) = cu.contexts
    device.close()
    device.close()
    assert not context.alive
    assert not context.modules
    assert not context.streams
    assert cu.calls.count("cuCtxDestroy") == 1
    kept.free()  # nothing, and no misuse
    with pytest.raises(DeviceLostError):
        device.driver.write(At(kept), np.zeros(1, np.float32))


def test_memory_is_freed_by_a_thread_that_has_no_context(cu):
    device = opened()
    blocks = [device.driver.allocate(64)]
    thread = threading.Thread(target=blocks.clear)
    thread.start()
    thread.join()
    gc.collect()
    assert cu.used == 0
    device.close()


def test_after_a_fault_a_new_context_is_made_and_only_ours_is_ended(cu):
    device = opened()
    old = device.driver.allocate(64)
    cu.stop_at = 1
    with pytest.raises(DeviceLostError, match="running kernel twice: CUDA_ERROR_ILLEGAL_ADDRESS"):
        doubled(device.driver)
    with pytest.raises(DeviceLostError):
        device.driver.allocate(64)
    device.reopen()
    assert [context.alive for context in cu.contexts] == [False, True]
    assert doubled(device.driver) == [0, 2, 4, 6]
    with pytest.raises(DeviceLostError, match="given back"):
        device.driver.write(At(old), np.zeros(1, np.float32))
    device.close()


def test_memory_that_is_not_there(cu):
    device = opened()
    held = device.driver.allocate(200 << 20)
    with pytest.raises(OutOfMemoryError, match=r"Fake GPU: 100.0 MiB more are needed") as error:
        device.driver.allocate(100 << 20)
    assert "56.0 of 256.0 MiB are free" in error.value.found
    assert "-ngl" in error.value.hint
    held.free()
    device.close()


def test_groups_that_are_too_large_are_no_loss(cu):
    device = opened()
    cu.stop_at, cu.launch_error = 1, CUresult.CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES
    with pytest.raises(BackendError, match="twice") as error:
        doubled(device.driver)
    assert not isinstance(error.value, DeviceLostError)
    assert "backend.cuda.lanes" in error.value.hint
    assert doubled(device.driver) == [0, 2, 4, 6]
    device.close()


def test_modules_that_do_not_load_name_their_kernels_and_a_file(cu):
    device = opened()
    cu.load_error = CUresult.CUDA_ERROR_NO_BINARY_FOR_GPU
    with pytest.raises(BackendError, match=r"NO_BINARY_FOR_GPU \(twice\)") as error:
        device.driver.build(source())
    assert "all well" in told(error.value)
    cu.load_error = CUresult.CUDA_SUCCESS
    with pytest.raises(BackendError, match=r"sm_90 \(twice\)") as error:
        device.driver.build(source(KERNEL + "nonsense"))
    assert "line 1: nonsense" in told(error.value)
    with pytest.raises(BackendError, match="kernel thrice"):
        device.driver.kernel(device.driver.build(source()), "thrice")
    device.close()


def test_kept_kernels_are_used_and_those_that_do_not_load_made_again(cu, monkeypatch):
    device = opened()
    assert doubled(device.driver) == [0, 2, 4, 6]
    (kept,) = device.driver.compiled.folder.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(CompiledKernels, "put", lambda *args: pytest.fail("it was compiled again"))
        assert doubled(device.driver) == [0, 2, 4, 6]
    device.driver.compiled.put(kept.name, b"of another driver")
    assert doubled(device.driver) == [0, 2, 4, 6]
    device.close()


def test_what_is_missing_is_said_in_a_line(cu, monkeypatch):
    backend = Registry.discover().backend("cuda")
    assert backend.probe().available
    compiler = sys.modules[PLUGIN + "compiler"]

    def missing():
        raise BackendError("NVRTC, which compiles the kernels, is not found: pip install 'llamakit[cuda]'")

    with monkeypatch.context() as patch:
        patch.setattr(compiler, "version", missing)
        assert "NVRTC" in backend.probe().reason
        assert "pip install" in backend.probe().reason
        assert not backend.probe().available
    cu.init = CUresult.CUDA_ERROR_NO_DEVICE
    assert "finds no GPU" in backend.probe().reason
    cu.init, cu.version = CUresult.CUDA_SUCCESS, 11040
    assert "CUDA 11.4; version 525" in backend.probe().reason
    cu.version, cu.capability = 12080, {"major": 6, "minor": 1}
    assert "compute capability 6.1" in backend.probe().reason
    assert not backend.probe().available


def test_a_model_says_what_it_says_elsewhere_and_comes_back_in_the_same_memory(cu, small_model):
    wanted = {"max_tokens": 5, "temperature": 0.0}
    with Session(small_model, backend="cpu", kv_type="f32", ctx_size=64) as session:
        expected = session.generate("Once upon", **wanted).tokens
    with Session(
        small_model, backend="cuda", kv_type="f32", ctx_size=64, batch_size=8, backend_options={"lanes": 4}
    ) as session:
        assert session.generate("Once upon", **wanted).tokens == expected
        peak = cu.peak
        cu.stop_at = cu.n_launch + 20
        with pytest.raises(DeviceLostError):
            session.generate("There", **wanted)
        session.reopen()
        assert cu.peak <= peak + 4096
        assert session.generate("Once upon", **wanted).tokens == expected
    gc.collect()
    assert cu.used == 0
    assert cu.graphs == set()
    assert not any(context.alive for context in cu.contexts)


def answer(model, **options):
    with Session(
        model, backend="cuda", kv_type="f32", ctx_size=64, batch_size=8, backend_options={"lanes": 2, **options}
    ) as session:
        return session.generate("Once upon", max_tokens=6, temperature=0.0).tokens


def test_steps_that_come_again_are_graphs_and_say_the_same(cu, small_model):
    eager = answer(small_model, graphs=False)
    assert "cuGraphLaunch" not in cu.calls
    assert answer(small_model) == eager
    # The first one's launches are as they come, the second's are recorded; two more try a graph before one is used.
    assert cu.calls.count("cuGraphLaunch") == 4 + 2
    assert cu.calls.count("cuGraphInstantiate") == 1 + 1
    assert cu.graphs == set()


def test_with_low_vram_keys_and_values_are_in_main_memory(cu, small_model):
    usual = answer(small_model)
    usual_peak, cu.peak = cu.peak, 0
    assert "cuMemHostAlloc" not in cu.calls
    assert answer(small_model, low_vram=True) == usual
    n_layer = cu.calls.count("cuMemHostAlloc")
    assert n_layer >= 1
    assert cu.calls.count("cuMemFreeHost") == n_layer
    assert cu.peak < usual_peak


@pytest.mark.parametrize("transposed", ["", "a", "b", "ab"])
def test_cublas_multiplies_operands_that_lie_in_any_way(cu, transposed):
    device, rng, (m, n, k) = opened(lanes=2), np.random.default_rng(1), (18, 33, 20)
    device.kernel_store.settle(Feature.PRODUCTS)
    tried = cu.blas.products, cu.n_launch
    left, right = rng.normal(size=(m, k)).astype(np.float32), rng.normal(size=(k, n)).astype(np.float32)
    before = rng.normal(size=(m, n)).astype(np.float32)
    places = []
    for values, name in ((left, "a"), (right, "b"), (before, "c")):
        data = np.ascontiguousarray(values.T if name in transposed else values)
        places.append(At(device.driver.allocate(data.nbytes)))
        device.driver.write(places[-1], data)
    steps = (*((1, m) if "a" in transposed else (k, 1)), *((1, k) if "b" in transposed else (n, 1)), n)
    out = np.empty((m, n), np.float32)
    for add, expected in ((True, before + left @ right), (False, left @ right)):
        multiply(device.kernel_store, *places, (m, n, k), steps, add=add)
        device.driver.read(places[-1], out)
        assert np.allclose(out, expected, atol=1e-4)
    assert (cu.blas.products - tried[0], cu.n_launch - tried[1]) == (2, 0)
    assert cu.blas.workspace[1] == 32 << 20
    odd = (2 * k, 2, n, 1, n)  # neither rows nor columns in one piece: our kernel does it
    assert not device.driver.multiply(*places, (m // 2, n, k // 2), odd, add=False)
    device.close()
    assert cu.blas.handles == 0


def test_without_cublas_or_where_it_fails_our_kernels_multiply(cu, caplog):
    case = Case("linear", rows=20, n_in=256, n_out=35, type=GGMLType.Q4_K)
    without = opened(lanes=2, cublas=False)
    expected = run(case, without)
    assert cu.blas.products == 0
    device = opened(lanes=2)
    device.kernel_store.settle(Feature.PRODUCTS)
    tried = cu.blas.products
    assert np.allclose(run(case, device), expected, atol=1e-3)
    assert cu.blas.products == tried + 1
    assert "cuBLAS" in device.kernels()["kernels"]
    cu.blas.fail = 13
    assert np.array_equal(run(case, device), expected)
    assert "cublasSgemm_v2 ends with code 13" in caplog.text
    assert "cuBLAS" not in device.kernels()["kernels"]
    device.close()
    without.close()
    assert cu.blas.handles == 0


def test_cublas_is_found_or_not():
    from llamakit.plugins.backends.cuda.cublas import library

    found = library()
    assert found is None or found.cublasCreate_v2


def test_where_graphs_cannot_be_made_all_goes_on_without(cu, small_model, caplog):
    eager = answer(small_model, graphs=False)
    cu.graph_error = CUresult.CUDA_ERROR_NOT_SUPPORTED
    assert answer(small_model) == eager
    assert cu.calls.count("cuGraphInstantiate") == 1
    assert "not recorded as graphs" in caplog.text


def test_graphs_that_do_not_do_all_are_not_used(cu, small_model, caplog):
    eager = answer(small_model, graphs=False)
    cu.graphs_end_early = True
    assert answer(small_model) == eager
    assert cu.calls.count("cuGraphLaunch") == 2  # those that were tried
    assert "recorded steps give wrong values with this driver; each kernel is launched by itself" in caplog.text
    assert answer(small_model) == eager  # what was found is kept
    assert cu.calls.count("cuGraphLaunch") == 2
    cu.version += 10  # another driver is tried again
    cu.graphs_end_early = False
    assert answer(small_model) == eager
    assert cu.calls.count("cuGraphLaunch") > 4


def test_a_library_that_rounds_is_not_used(cu, caplog):
    case = Case("linear", rows=20, n_in=256, n_out=35, type=GGMLType.Q4_K)
    without, device = opened(lanes=2, cublas=False), opened(lanes=2)
    cu.blas.exact = False
    assert np.array_equal(run(case, device), run(case, without))
    assert cu.blas.products == 2
    assert "products of the library give wrong values" in caplog.text
    assert "cuBLAS" not in device.kernels()["kernels"]
    cu.blas.exact = True
    again = opened(lanes=2)
    assert np.array_equal(run(case, again), run(case, without))  # of this version it is known
    assert cu.blas.products == 2
    for each in (without, device, again):
        each.close()


def test_what_cannot_be_kept_is_tried_at_each_start(cu, monkeypatch):
    monkeypatch.setattr(CompiledKernels, "put", lambda *args: None)
    for n in (2, 4):
        device = opened(lanes=2)
        device.kernel_store.settle(Feature.PRODUCTS)
        device.kernel_store.settle(Feature.PRODUCTS)
        assert cu.blas.products == n
        device.close()


def test_low_vram_leaves_room_for_layers_and_context(cu, small_model):
    """Keys and values that lie in main memory take none of the GPU's, so they are not planned for there."""

    def planned(**options):
        with Session(small_model, backend="cuda", n_seq=4, batch_size=8, backend_options=options, **more) as session:
            placed = session.offload
            whole = 0 if placed.device == "cpu" else n_layer
            return session.n_ctx, placed.layers[-1] if placed.layers else whole

    with Session(small_model, backend="cuda", n_seq=4, batch_size=8, gpu_layers=99) as session:
        model, n_train = session.footprint, session.model.hparams.n_ctx_train
        n_layer, kv = len(session.model.cache_layers()), session.kv_bytes
    more = {"gpu_layers": 99}
    cu.room = model.total + kv // 8
    few, most = planned(), planned(low_vram=True)
    assert few[0] < n_train
    assert most == (n_train, n_layer)
    more = {}
    cu.room = int((model.total + kv // 8) / 0.9)
    assert planned()[1] < planned(low_vram=True)[1] == n_layer
    more, cu.room = {"gpu_layers": 99}, model.weights // 2
    with pytest.raises(OutOfMemoryError, match="the model needs"):
        planned(low_vram=True)


@pytest.mark.parametrize("peers", [True, False])
def test_what_one_gpu_hands_to_another_does_not_pass_through_the_host(cu, small_model, peers):
    expected = answer(small_model, graphs=False)
    cu.n_device, cu.peers = 2, peers
    settings = {"kv_type": "f32", "ctx_size": 64, "batch_size": 8, "backend_options": {"cuda": {"lanes": 2}}}
    with Session(small_model, device="cuda:0,cuda:1", **settings) as session:
        cu.calls.clear()
        assert session.generate("Once upon", max_tokens=6, temperature=0.0).tokens == expected
        n_step = cu.calls.count("cuMemcpyPeerAsync")
        assert (n_step > 4) is peers
        assert len(cu.events) == (2 if peers else 0)
        session.reopen()
        assert session.generate("Once upon", max_tokens=6, temperature=0.0).tokens == expected
    gc.collect()
    assert cu.events == set()
    assert cu.used == 0


def test_gpus_that_fail_to_reach_each_other_go_through_the_host(cu, small_model, caplog):
    expected = answer(small_model, graphs=False)
    cu.n_device, cu.peer_error = 2, CUresult.CUDA_ERROR_NOT_SUPPORTED
    settings = {"kv_type": "f32", "ctx_size": 64, "batch_size": 8, "backend_options": {"cuda": {"lanes": 2}}}
    with Session(small_model, device="cuda:0,cuda:1", **settings) as session:
        assert session.generate("Once upon", max_tokens=6, temperature=0.0).tokens == expected
    assert cu.calls.count("cuMemcpyPeerAsync") == 1
    assert "passes through the host" in caplog.text


def test_a_device_that_is_lost_while_a_feature_is_tried_tries_it_again(cu):
    device = opened(lanes=2)
    cu.stop_at = cu.n_launch + 1
    with pytest.raises(DeviceLostError):
        device.kernel_store.settle(Feature.PRODUCTS)
    device.reopen()
    before = cu.blas.products
    device.kernel_store.settle(Feature.PRODUCTS)
    assert cu.blas.products == before + 2
    device.close()
