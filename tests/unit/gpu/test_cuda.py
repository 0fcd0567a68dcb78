"""The cuda backend where there is no GPU: its kernels compile for all GPUs, without spills; what is missing is said."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from llamakit.cli import llamakit
from llamakit.errors import BackendError
from llamakit.gguf import GGMLType, quants
from llamakit.gpu.compiled import CompiledKernels
from llamakit.gpu.driver import Traits
from llamakit.gpu.packings import PACKINGS
from llamakit.gpu.source import TOP_WIDTH, module_text, stored_defines
from llamakit.gpu.steps.linear import MOST_ITEMS
from llamakit.gpu.steps.states import map_source
from llamakit.graph.attrs import MapAttrs
from llamakit.graph.expression import sqrt, state
from llamakit.graph.graph import DType
from llamakit.registry import Registry

pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings")
compiler = pytest.importorskip("llamakit.plugins.backends.cuda.compiler")
try:
    compiler.version()
    NVRTC = ""
except BackendError as error:
    NVRTC = error.message
needs_nvrtc = pytest.mark.skipif(bool(NVRTC), reason=NVRTC)

TRAITS = Traits("cuda", 64, 128, 1 << 40, packed=True)
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
MOST_REGISTERS = 144
HEADS = (64, 128)


def modules():
    """(file, definitions, type) of all modules that models use."""
    for file in ("basic", "matmul", "bytes", "mixture", "training", "states", "ceilings"):
        yield file, {}, None
    yield "top", {"WIDTH": TOP_WIDTH}, None
    for head in HEADS:
        yield "step_attention+attention_back", {"HEAD_K": head, "HEAD_V": head}, None
        for kv_type in ("f32", "f16", "bf16", "q8_0"):
            yield "cells", {"HEAD_V": head, **stored_defines(kv_type)}, None
            yield "cells", {"HEAD_V": head, "SPLIT": 256, **stored_defines(kv_type)}, None
    for type_ in quants.readable():
        for tile in ({"TILE": 1}, {"TILE": 4}, {"TILE": 1, "PAIRS": 1}, {"TILE": 4, "SORTED": 1}):
            if type_ in PACKINGS:
                yield "panel_rows", tile | {"ITEMS": MOST_ITEMS}, type_
            else:
                yield "rows", tile, type_
    for type_ in PACKINGS:
        yield "panel_rows", {"TILE": 8, "ITEMS": MOST_ITEMS}, type_
        yield "panel_rows", {}, type_
        yield "panel_tiles", {}, type_
        yield "repack", {}, type_


ALL = [(*module, architecture) for module in modules() for architecture in ARCHITECTURES]


def name(case) -> str:
    file, defines, type_, architecture = case
    parts = [f"{key}={value}" for key, value in defines.items()]
    return "-".join([file, *([type_.name] if type_ else []), *parts, architecture])


def usual(case) -> bool:
    """Each module once, over the oldest and the newest architectures; the whole matrix is a soak."""
    file, defines, type_, architecture = case
    heads = defines.get("HEAD_V", 128) == 128 and defines.get("STORED_BYTES", 2) == 2
    few = type_ in (None, GGMLType.Q4_K, GGMLType.IQ2_XS) and defines.get("TILE", 4) in (4, 8)
    few = few or (type_ in (GGMLType.F16, GGMLType.Q6_K) and (defines.get("TILE") == 8 or file == "panel_tiles"))
    return heads and few and architecture == ("sm_75" if file in ("rows", "basic") else "sm_90")


@needs_nvrtc
@pytest.mark.parametrize(
    "case", [pytest.param(case, id=name(case), marks=[] if usual(case) else [pytest.mark.soak]) for case in ALL]
)
def test_kernels_compile_without_spills(case):
    file, defines, type_, architecture = case
    packed = type_ in PACKINGS
    made = compiler.compile_cubin(module_text(TRAITS, file, defines, type_, packed=packed), architecture)
    assert made.code[:4] == b"\x7fELF"
    registers, spilled = made.worst()
    assert spilled == 0
    assert 0 < registers <= MOST_REGISTERS


@needs_nvrtc
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16, DType.I8])
def test_kernels_of_expressions_compile(dtype):
    attrs = MapAttrs(((0, state(0) - 0.1 * state(1) / (sqrt(state(2)) + 1e-8)), (2, 0.9 * state(2))))
    text = module_text(TRAITS, "states", {}) + map_source(attrs, (DType.F32, DType.F32, dtype))
    assert compiler.compile_cubin(text, "sm_90").code[:4] == b"\x7fELF"


@needs_nvrtc
def test_what_does_not_compile_is_told_with_all_that_the_compiler_said(tmp_path):
    with pytest.raises(BackendError, match="NVRTC does not compile a kernel for sm_90") as found:
        compiler.compile_cubin("KERNEL nonsense", "sm_90")
    assert "KERNEL" in found.value.log
    path = CompiledKernels(tmp_path).keep_log("a" * 64, found.value.log)
    assert found.value.log in (tmp_path / path).read_text()


def test_without_a_gpu_one_line_says_what_is_missing(small_model):
    probe = Registry.discover().backend("cuda").probe()
    if probe.available:
        pytest.skip("there is a GPU")
    assert "\n" not in probe.reason
    result = CliRunner().invoke(llamakit, ["generate", "-m", str(small_model), "--backend", "cuda", "-p", "x"])
    assert isinstance(result.exception, BackendError | SystemExit)
    made = subprocess.run(
        [sys.executable, "-m", "llamakit", "generate", "-m", str(small_model), "--backend", "cuda", "-p", "x"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 5
    first = made.stderr.splitlines()[0]
    assert first.startswith("error: backend cuda is not available: ")
    assert "install" in first or "finds no GPU" in first
    with pytest.raises(BackendError, match="NVIDIA driver|GPU|NVRTC"):
        Registry.discover().backend("cuda")().open()


def test_missing_packages_are_named(monkeypatch):
    import sys

    for module in [each for each in sys.modules if each.startswith("llamakit.plugins.backends.cuda.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    probe = Registry.discover().backend("cuda").probe()
    assert not probe.available
    assert "pip install 'llamakit[cuda]'" in probe.reason


def test_errors_of_the_driver_are_ours():
    from cuda.bindings import driver as cu
    from llamakit.plugins.backends.cuda.devices import call

    from llamakit.errors import DeviceLostError, OutOfMemoryError

    codes = cu.CUresult
    assert call((codes.CUDA_SUCCESS, 3), "x") == 3
    assert call((codes.CUDA_SUCCESS,), "x") == ()
    for code, kind in (
        (codes.CUDA_ERROR_OUT_OF_MEMORY, OutOfMemoryError),
        (codes.CUDA_ERROR_ILLEGAL_ADDRESS, DeviceLostError),
        (codes.CUDA_ERROR_INVALID_VALUE, BackendError),
    ):
        with pytest.raises(kind, match=code.name):
            call((code,), "x")


def test_turns_are_exact():
    """A position times a frequency, as whole and broken turns: far out it is as exact as near."""
    from llamakit.gpu.cells import turns_of
    from llamakit.graph.attrs import RopeAttrs

    rope = RopeAttrs((1.0, 0.1, 1e-5, 3.7))
    for position in (1, -5, 131072, 10**7):
        phase = (turns_of(rope).astype(object) * position) % 2**64
        angle = np.array([float(p) for p in phase]) / 2**64 * 2 * np.pi
        right = np.array([f * position for f in rope.inv_freq])
        assert np.allclose(np.cos(angle), np.cos(right), atol=1e-8)
        assert np.allclose(np.sin(angle), np.sin(right), atol=1e-8)
