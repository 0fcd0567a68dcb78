"""The opencl backend's own affairs: which devices it takes, what it keeps, and what it says when something is wrong."""

from __future__ import annotations

import mmap
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from llamakit.engine.runner import kv_spec
from llamakit.errors import BackendError, DeviceLostError, LlamaKitError, ModelChangedError, OutOfMemoryError
from llamakit.gguf import GGMLType, open_gguf
from llamakit.gpu import memory, selftest, source, trials, tuning
from llamakit.gpu.compiled import CompiledKernels
from llamakit.gpu.device import GPUDevice
from llamakit.gpu.driver import At, Feature
from llamakit.gpu.source import Kernels
from llamakit.models import GraphSizes, load_model
from llamakit.registry import Registry
from llamakit.testing import conformance
from llamakit.testing.hollow import write_hollow_llama
from llamakit.weights import load_weights, tensor_sources

cl = pytest.importorskip("pyopencl", reason="needs pyopencl")
OPENCL = Registry.discover().backend("opencl")
PROBE = OPENCL.probe()
needs_device = pytest.mark.skipif(not PROBE.available, reason=PROBE.reason)
KERNEL = "__kernel void twice(__global float *x, const long at) { x[get_global_id(0)] *= 2; }"


@pytest.fixture
def driver(tmp_path):
    found = OPENCL().open().driver
    found.compiled = CompiledKernels(tmp_path)
    return found


def test_without_pyopencl_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "llamakit.plugins.backends.opencl.devices", raising=False)
    monkeypatch.setitem(sys.modules, "pyopencl", None)
    probe = Registry.discover().backend("opencl").probe()
    assert not probe.available
    assert "pip install 'llamakit[opencl]'" in probe.reason
    with pytest.raises(BackendError, match="pyopencl is not installed"):
        OPENCL().open()


def fake(**more):
    device = {
        "name": "x", "available": True, "compiler_available": True, "opencl_c_version": "OpenCL C 1.2 y",
        "endian_little": True,
    }  # fmt: skip
    return SimpleNamespace(**(device | more))


@pytest.mark.parametrize(
    ("platform", "device", "reason"),
    [
        ("OpenCL 3.0 PoCL 3.1", {}, ""),
        ("OpenCL 2.0 PoCL 3.0-rc2", {}, "3.1 or later"),
        ("OpenCL 3.0", {"compiler_available": False}, "no compiler"),
        ("OpenCL 1.1", {"opencl_c_version": "OpenCL C 1.1 "}, "1.2 is needed"),
        ("OpenCL 3.0", {"endian_little": False}, "big-endian"),
    ],
)
def test_devices_that_cannot_be_used_are_told_apart(platform, device, reason):
    from llamakit.plugins.backends.opencl.devices import _refusal

    found = _refusal(SimpleNamespace(version=platform), fake(**device))
    assert reason in found
    assert bool(found) == bool(reason)


@needs_device
def test_kernels_are_kept_and_damaged_ones_made_again(driver, monkeypatch):
    def run():
        place = At(driver.allocate(16))
        driver.write(place, np.arange(4, dtype=np.float32))
        driver.launch(driver.kernel(driver.build(KERNEL), "twice"), 1, 4, [place])
        out = np.empty(4, np.float32)
        driver.read(place, out)
        return out.tolist()

    assert run() == [0, 2, 4, 6]
    (kept,) = driver.compiled.folder.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(CompiledKernels, "put", lambda *args: pytest.fail("it was compiled again"))
        assert run() == [0, 2, 4, 6]
    driver.compiled.put(kept.name, b"no program at all")
    assert run() == [0, 2, 4, 6]
    assert driver.compiled.get(kept.name) != b"no program at all"


@needs_device
def test_a_kernel_that_does_not_compile_says_where_to_read_why(driver):
    with pytest.raises(BackendError, match="does not compile a kernel") as found:
        driver.build("__kernel nonsense")
    path = found.value.found.removeprefix("all of it in ")
    assert "nonsense" in (driver.compiled.folder / path).read_text()


@needs_device
def test_memory_that_is_not_there_is_told_before_it_is_asked_for(driver):
    used = driver.used
    with pytest.raises(OutOfMemoryError, match="1,073,741,824.0 MiB more are needed") as found:
        driver.allocate(1 << 50)
    assert "MiB are free" in found.value.found
    assert "-ngl" in found.value.hint
    block = driver.allocate(1 << 20)
    assert driver.used == used + (1 << 20)
    block.free()
    block.free()
    assert driver.used == used


@needs_device
@pytest.mark.parametrize(
    ("code", "kind"), [(-2, DeviceLostError), (-36, DeviceLostError), (-4, OutOfMemoryError), (-30, BackendError)]
)
def test_errors_are_ours(driver, code, kind):
    with pytest.raises(kind, match="copying"), driver.translated("copying"):
        raise failure(code)


def failure(code):
    return cl.RuntimeError(SimpleNamespace(routine=lambda: "x", code=lambda: code, what=lambda: "y"))


@needs_device
def test_short_resources_are_told_from_a_device_that_is_lost(driver, monkeypatch):
    """CL_OUT_OF_RESOURCES is what drivers say of either."""

    def told(needed):
        with pytest.raises(LlamaKitError, match="allocating") as found, driver.translated("allocating", needed):
            raise failure(-5)
        return found.value

    assert type(told(1 << 20)) is OutOfMemoryError
    assert "are free" in told(1 << 20).found
    assert type(told(0)) is BackendError
    monkeypatch.setattr(driver, "_answers", lambda: False)
    assert type(told(1 << 20)) is DeviceLostError


@needs_device
@pytest.mark.parametrize("code", [-5, -54])
def test_groups_that_are_too_large_are_no_loss(driver, code):
    kernel = driver.kernel(driver.build(KERNEL), "twice").function

    class Refused:
        function_name = "twice"
        get_work_group_info = kernel.get_work_group_info

        def __call__(self, *given):
            raise failure(code)

    most = kernel.get_work_group_info(cl.kernel_work_group_info.WORK_GROUP_SIZE, driver.device)
    with pytest.raises(BackendError, match=f"twice is to run in groups of {2 * most} items") as found:
        driver.launch(SimpleNamespace(function=Refused(), typed=True), 1, 2 * most, [])
    assert not isinstance(found.value, DeviceLostError)
    assert f"lanes = {most}" in found.value.hint


@needs_device
def test_memory_that_went_with_a_device_is_not_used(driver):
    place = At(driver.allocate(16))
    driver.free_all()
    driver.reopen()
    assert driver.used == 0
    with pytest.raises(DeviceLostError, match="given back"):
        driver.write(place, np.zeros(4, np.float32))


@needs_device
def test_what_a_device_is_asked_for_is_checked():
    with pytest.raises(BackendError, match="power of two"):
        OPENCL(OPENCL.Options(lanes=3)).open()
    with pytest.raises(BackendError, match="no device 99"):
        OPENCL().open(99)
    told = OPENCL().open().kernels()
    assert {"device", "platform", "kernels", "weights"} <= told.keys()


@needs_device
def test_a_device_that_was_lost_is_of_use_again(small_model, monkeypatch):
    from llamakit import Session

    with Session(small_model, backend="opencl", ctx_size=64) as session:
        before = session.generate("Once", max_tokens=5, temperature=0).tokens
        driver, used = session.device.driver, []
        allocate = driver.allocate
        monkeypatch.setattr(driver, "allocate", lambda n, **more: (allocate(n, **more), used.append(driver.used))[0])
        held = driver.used
        session.reopen()
        assert session.generate("Once", max_tokens=5, temperature=0).tokens == before
        assert max(used) <= held + (1 << 20)  # what was lost is not held beside what is loaded


@pytest.fixture
def outputs(monkeypatch):
    """Trials that are faked: `wrong` are the lanes whose groups compute wrongly, `tried` those that were tried."""
    found = SimpleNamespace(wrong={8}, tried=[])

    def made(device):
        lanes = device.kernel_store.traits.lanes
        found.tried.append(lanes)
        return {"any": np.ones(4, np.float32) + (lanes in found.wrong)}

    monkeypatch.setattr(trials, "outputs", made)
    return found


@needs_device
def test_groups_that_compute_wrongly_are_not_used(tmp_path, outputs, caplog):
    """As with a compiler that gets barriers wrong; what was found is kept by driver, and tried again with another."""

    def opened():
        device = OPENCL(OPENCL.Options(lanes=8)).open()
        device.driver.compiled = CompiledKernels(tmp_path)
        return device

    device = opened()
    assert device.load(conformance.Source("w", GGMLType.F32, np.ones(4, np.float32)), frozenset())
    assert outputs.tried == [8, 1]
    assert device.kernel_store.traits.lanes == device.driver.traits.lanes == 1
    assert "kernels for GPUs give wrong values" in caplog.text
    outputs.wrong.clear()
    case = conformance.Case("rms_norm")
    expected = conformance.run(case, OPENCL().open())
    for details, lanes in ((None, 1), (("another driver",), 8)):
        again = opened()
        if details:
            again.driver.info = msgspec.structs.replace(again.driver.info, details=details)
        assert np.allclose(conformance.run(case, again), expected, atol=1e-5)
        assert again.kernel_store.traits.lanes == lanes


@needs_device
@pytest.mark.parametrize(
    ("wrong", "tried", "lanes"),
    [((), [8, 1, 4, 1], 4), ((8,), [8, 1], 1), ((4,), [8, 1, 4, 1], 1), ((8, 4), [8, 1], 1), ((16,), [8, 1, 4, 1], 4)],
)
def test_the_shape_in_use_is_one_that_was_tried(tmp_path, outputs, monkeypatch, wrong, tried, lanes):
    """Of three shapes that of 4 lanes is the quickest; what was found wrong does not run, now and at the next start."""
    outputs.wrong = set(wrong)
    monkeypatch.setattr(tuning, "measure", lambda kernels, shape: float(shape.lanes))

    def loaded():
        device = OPENCL(OPENCL.Options(lanes=8)).open()
        driver = device.driver
        driver.compiled, driver.shapes = CompiledKernels(tmp_path), tuple(tuning.Shape(n, 16) for n in (8, 16, 4))
        driver.traits = replace(driver.traits, packed=True)
        device.load(conformance.Source("w", GGMLType.F32, np.ones(4, np.float32)), frozenset())
        assert device.kernel_store.traits is driver.traits
        assert driver.traits.packed is (lanes > 1)
        assert driver.without_groups is (lanes == 1)
        return driver.traits.lanes

    assert loaded() == lanes
    assert outputs.tried == tried
    assert loaded() == lanes
    assert outputs.tried == tried


@needs_device
@pytest.mark.parametrize(
    ("file", "right", "wrong", "seen"),
    [
        ("panel_rows", "warp < WARPS", "warp < 1", {"linear, 3", "back, 3", "experts, 3", "experts, 20"}),
        ("panel_tiles", "k < 32;", "k < 31;", {"linear, 20", "back, 20"}),
        ("rows", "c < n_chunk;", "c < n_chunk - 1;", {"plain, 3"}),
    ],
)
def test_what_is_tried_shows_kernels_that_are_wrong(monkeypatch, file, right, wrong, seen):
    usual = OPENCL(OPENCL.Options(lanes=16)).open().driver
    traits, read = replace(usual.traits, packed=True), source.read
    expected = trials.outputs(GPUDevice(usual, traits))
    assert right in read(file + ".cl")
    changed = {f"{file}.cl": read(f"{file}.cl").replace(right, wrong)}
    monkeypatch.setattr(source, "read", lambda name: changed.get(name) or read(name))
    found = trials.outputs(GPUDevice(usual, traits))
    assert {name.removesuffix(" rows") for name in found if not selftest._near(found[name], expected[name])} == seen


@needs_device
def test_what_is_tried_shows_that_the_likeliest_are_others(driver, monkeypatch):
    assert selftest._top(Kernels(driver))
    read = source.read
    assert "x == 0.0f ? 0.0f : x" in read("top.cl")
    monkeypatch.setattr(
        source, "read", lambda name: read(name).replace("x == 0.0f ? 0.0f : x", "x == 17.0f ? 0.0f : x")
    )
    assert not selftest._top(Kernels(driver))


@needs_device
def test_features_that_are_right_are_tried_once(tmp_path, monkeypatch):
    def opened():
        device = OPENCL(OPENCL.Options(lanes=8)).open()
        device.driver.compiled = CompiledKernels(tmp_path)
        for feature in device.driver.features:
            device.kernel_store.settle(feature)
        return device.driver

    driver = opened()
    assert driver.features == {Feature.GROUPS, Feature.TAPES}
    assert (driver.tapes, driver.traits.lanes) == (True, 8)
    monkeypatch.setattr(selftest, "TRIALS", {})
    driver = opened()
    assert (driver.tapes, driver.traits.lanes) == (True, 8)


@needs_device
def test_tapes_that_are_wrong_are_not_used(driver, monkeypatch, caplog):
    tape = type(driver.record(lambda: None))
    kernels, play = Kernels(driver), tape.play

    def forgets(self):
        self.launches.pop()
        play(self)

    monkeypatch.setattr(tape, "play", forgets)
    kernels.settle(Feature.TAPES)
    assert "recorded steps give wrong values" in caplog.text
    assert driver.record(lambda: pytest.fail("it was recorded")) is None


def anonymous() -> int:
    """Bytes of this process's memory that are of no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


@needs_device
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("shares", [True, False])
def test_where_memory_is_the_hosts_weights_stay_in_their_file(shares, tmp_path):
    device = OPENCL(OPENCL.Options(lanes=1)).open()
    if not device.driver.shares:
        pytest.skip("needs a device that uses the host's memory")
    device.driver.shares = shares
    path = write_hollow_llama(
        tmp_path / "m.gguf", n_layer=2, n_embd=2048, n_head=16, n_head_kv=4, n_ff=5632, n_vocab=8000
    )
    with open_gguf(path) as file:
        model = load_model(file)
        sources = tensor_sources(model.uses(), file)
        graph = model.build(GraphSizes(rows=2, seqs=1, blocks_per_seq=2, out_rows=1))
        whole = sum(source.n_bytes for source in sources.values())
        told = device.footprint(graph, sources).weights
        before = anonymous()
        weights = load_weights(device, sources, model.uses())
        program = device.compile(graph, weights, kv=device.kv_cache(kv_spec(model, 2, "f16")))
        program.run({"rows": 1, "seqs": 1, "out_rows": 1}, longest=1)["logits"].numpy()
        held = anonymous() - before
    assert whole > 60 << 20
    assert device.in_file is shares
    if shares:
        assert told < whole / 100
        assert held < whole / 2  # kernels take some
    else:
        assert told > 0.99 * whole


@needs_device
def test_a_driver_that_cannot_share_gets_copies(monkeypatch):
    device = OPENCL(OPENCL.Options(lanes=1)).open()
    monkeypatch.setattr(device.driver, "shares", True)
    expected = conformance.run(conformance.Case("linear"), device)
    source = conformance.Source("w", GGMLType.F32, np.ones((64, 64), np.float32))
    buffer = cl.Buffer

    def refuse(context, flags, size=0, hostbuf=None):
        if hostbuf is not None:
            raise failure(-37)  # CL_INVALID_HOST_PTR
        return buffer(context, flags, size)

    monkeypatch.setattr(cl, "Buffer", refuse)
    monkeypatch.setattr(memory, "ALIGNED", 1)
    device = OPENCL(OPENCL.Options(lanes=1)).open()
    device.driver.shares = True
    assert device.weight_size(source) == source.n_bytes  # that is known before anything is loaded
    weight = device.load(source, frozenset())
    assert not weight.in_place
    assert not device.in_file
    assert device.driver.used == source.n_bytes
    assert np.array_equal(conformance.run(conformance.Case("linear"), device), expected)


@needs_device
@pytest.mark.parametrize(("kind", "offset", "in_place"), [("cpu", 32, True), ("gpu", 32, False), ("gpu", 0, True)])
def test_gpus_are_given_whole_pages_of_the_hosts_memory(driver, kind, offset, in_place):
    """What begins within a page their drivers copy in silence: then the copy must be counted."""
    if not driver.shares:
        pytest.skip("needs a device that uses the host's memory")
    driver.info = msgspec.structs.replace(driver.info, kind=kind)
    whole = np.zeros(1 << 16, np.uint8)
    begin = -whole.ctypes.data % mmap.PAGESIZE + offset
    source = conformance.Source("w", GGMLType.F32, np.ones((64, 64), np.float32))
    raw = whole[begin : begin + source.n_bytes]
    raw[:] = source.whole()
    source.whole = lambda: raw
    device = GPUDevice(driver)
    assert device.weight_size(source) == (0 if in_place else source.n_bytes)
    weight = device.load(source, frozenset())
    assert weight.in_place is in_place
    assert driver.used == (0 if in_place else source.n_bytes)


@needs_device
@pytest.mark.parametrize("shares", [True, False])
def test_a_file_is_looked_at_when_the_device_has_read_it(small_model, monkeypatch, shares):
    """Else a step could read what is written over after somebody looked, and nobody would notice."""
    from llamakit import Session

    with Session(small_model, backend="opencl", ctx_size=64) as session:
        driver, told = session.device.driver, []
        if not driver.shares:
            pytest.skip("needs a device that uses the host's memory")
        driver.shares = shares
        for owner, name in ((driver, "launch"), (driver, "finish"), (driver, "read"), (session.file, "check")):
            monkeypatch.setattr(owner, name, noting(getattr(owner, name), name, told))
        session.generate("Once", max_tokens=4, temperature=0)
        looked = [told[:i] for i, name in enumerate(told) if name == "check" and "launch" in told[:i]]
    steps = [last(before) for before in looked]
    assert bool(steps) is shares
    assert set(steps) <= {"finish"}


def noting(function, name, told):
    def called(*given, **more):
        told.append(name)
        return function(*given, **more)

    return called


def last(names):
    """The last thing that a device was told, of what makes it work or waits for it."""
    return next(name for name in reversed(names) if name in ("launch", "finish", "read"))


@needs_device
def test_what_is_repacked_is_given_back_when_its_file_ends_early(driver):
    """Though whoever tells of the error keeps it, and with it all that the loading held."""
    source = conformance.Source("w", GGMLType.Q4_0, np.ones((64, 64), np.float32))

    def pieces():
        yield 0, source.whole()[:1000]
        raise ModelChangedError("it was changed")

    source.pieces = pieces
    with pytest.raises(ModelChangedError) as found:
        GPUDevice(driver, replace(driver.traits, packed=True)).load(source, frozenset())
    assert found.traceback
    assert driver.used == 0
