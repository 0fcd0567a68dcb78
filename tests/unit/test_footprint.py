"""What a model takes, told before anything is loaded, beside what the process then takes."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from llamakit.engine.runner import kv_spec
from llamakit.errors import OutOfMemoryError
from llamakit.gguf import GGMLType, open_gguf
from llamakit.models import GraphSizes, load_model
from llamakit.passes.pipeline import prepare
from llamakit.registry import Registry
from llamakit.session import Session
from llamakit.testing.hollow import write_hollow_llama
from llamakit.weights import tensor_sources

PEAK = """
import json, sys
import numpy as np
from llamakit.engine.runner import kv_spec
from llamakit.gguf import open_gguf
from llamakit.models import GraphSizes, load_model
from llamakit.passes.pipeline import prepare
from llamakit.registry import Registry
from llamakit.weights import load_weights, tensor_sources

def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024

path, backend, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
cls = Registry.discover().backend(backend)
device = cls(cls.Options(**json.loads(sys.argv[4]))).open()
with open_gguf(path) as file:
    model = load_model(file)
    blocks = rows // 32
    graph = prepare(model.build(GraphSizes(rows=rows, seqs=1, blocks_per_seq=blocks, out_rows=rows)))
    sources, spec = tensor_sources(model.uses(), file), kv_spec(model, blocks, "f16")
    made = device.footprint(graph, sources, spec)
    np.ones((512, 512)) @ np.ones((512, 512))  # the library of products takes its own
    device.load(sources["blk.0.attn_k.weight"], model.uses()["blk.0.attn_k.weight"])  # and so does what is imported
    before = status("VmRSS:")
    program = device.compile(graph, load_weights(device, sources, model.uses()), kv=device.kv_cache(spec))
    for name, value in program.inputs.items():
        value[...] = np.arange(value.size).reshape(value.shape) if value.size == rows or value.ndim == 2 else 0
    program.inputs["sequences"][:] = 0
    program.run({"rows": rows, "out_rows": rows, "seqs": 1}, longest=rows)
    used = rows * device.kv_size(spec) // (spec.n_block * spec.block_size)
    print(json.dumps([made.total + used, status("VmHWM:") - before]))
"""

HEADS = {"n_head": 16, "n_head_kv": 4}
SHAPES = {
    "weights": (HEADS | {"n_layer": 10, "n_embd": 2048, "n_ff": 5632, "n_vocab": 32000}, 64),
    "rows": (HEADS | {"n_layer": 2, "n_embd": 1024, "n_ff": 2816, "n_vocab": 32000, "type": GGMLType.F16}, 1024),
    "experts": (
        HEADS | {"n_layer": 2, "n_embd": 1024, "n_ff": 2816, "n_vocab": 4096, "n_expert": 8, "type": GGMLType.Q8_0},
        1024,
    ),
}


def measure(path, backend: str, rows: int, **options: object) -> tuple[int, int]:
    """(footprint, peak of a process of its own) in bytes."""
    arguments = [sys.executable, "-c", PEAK, str(path), backend, str(rows), json.dumps(options)]
    told, peak = json.loads(subprocess.check_output(arguments, text=True, timeout=300))
    return told, peak


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read from /proc")
@pytest.mark.parametrize("name", SHAPES)
def test_a_footprint_is_what_a_process_takes(name, tmp_path):
    shape, rows = SHAPES[name]
    told, peak = measure(write_hollow_llama(tmp_path / "hollow.gguf", **shape), "cpu", rows, threads=2)
    print(f"{name}: {told / 2**20:.1f} MiB told, {peak / 2**20:.1f} MiB at the peak")
    assert peak > 100 << 20
    assert told == pytest.approx(peak, rel=0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read from /proc")
@pytest.mark.parametrize(("n_vocab", "rows"), [(32000, 32), (2000, 256)])
def test_the_reference_tells_about_it_too(n_vocab, rows, tmp_path):
    shape = {"n_layer": 2, "n_embd": 1024, "n_head": 8, "n_head_kv": 8, "n_ff": 2816, "n_vocab": n_vocab}
    told, peak = measure(write_hollow_llama(tmp_path / "hollow.gguf", **shape), "reference", rows)
    print(f"{told / 2**20:.1f} MiB told, {peak / 2**20:.1f} MiB at the peak")
    assert told == pytest.approx(peak, rel=0.05)


def test_a_model_of_34b_is_planned_at_once_and_unread(tmp_path):
    path = write_hollow_llama(
        tmp_path / "34b.gguf", n_layer=48, n_embd=8192, n_head=64, n_head_kv=8, n_ff=22016, n_vocab=32000, n_ctx=16384
    )
    assert path.stat().st_size > 17 << 30
    with open_gguf(path) as file:
        device = Registry.discover().backend("cpu")().open()
        began = time.process_time()
        model = load_model(file)
        graph = prepare(model.build(GraphSizes(rows=512, seqs=4, blocks_per_seq=513)))
        made = device.footprint(graph, tensor_sources(model.uses(), file), kv_spec(model, 512, "f16"))
        assert time.process_time() - began < 2
    assert 17 << 30 < made.weights < 18 << 30
    assert 0 < made.program < 1 << 30


def session_of(path, free: int, **settings: object) -> Session:
    """A session whose device has so much memory, and must not load anything."""
    from llamakit.backend import Memory

    session = Session(path, backend="cpu", **settings)
    session.device.memory = lambda: Memory(1 << 40, free)
    session.device.load = lambda *_: pytest.fail("a weight is loaded")
    return session


def test_what_does_not_fit_is_told_before_anything_is_loaded(tmp_path):
    path = write_hollow_llama(
        tmp_path / "7b.gguf", n_layer=32, n_embd=4096, n_head=32, n_head_kv=32, n_ff=11008, n_vocab=32000
    )
    with session_of(path, 2 << 30) as session, pytest.raises(OutOfMemoryError, match=r"the model needs 3\.\d+ GiB, 2"):
        session.engine  # noqa: B018
    with session_of(path, 5 << 30, ctx_size=4096) as session, pytest.raises(OutOfMemoryError, match=r"4,096 tokens"):
        session.engine  # noqa: B018
    with session_of(path, 5 << 30) as session:  # the model's own context is cut to what is left
        assert 0 < session.kv_bytes <= (5 << 30) - session.footprint.total
        assert session.n_ctx < 4096


@pytest.mark.parametrize("options", [{}, {"no_repack": True}, {"no_repack": True, "no_mmap": True}], ids=str)
def test_weights_take_what_was_told(options, stories260k):
    with Session(stories260k, backend="cpu", backend_options=options) as session:
        told = session.footprint.weights
        loaded = sum(weight.n_bytes for weight in session.weights.values())
    vectors = 4 * 64 * 11
    assert told == (vectors if options == {"no_repack": True} else loaded)
