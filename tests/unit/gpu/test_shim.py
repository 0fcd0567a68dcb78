"""The kernels' text on the host's compiler: items as fibres in shuffled order, under sanitizers, without warnings."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from llamakit.errors import BackendError
from llamakit.gguf import GGMLType, quants
from llamakit.gpu.device import GPUDevice
from llamakit.gpu.driver import At, Traits
from llamakit.gpu.packings import PACKINGS
from llamakit.gpu.source import Kernels, module_text, stored_defines
from llamakit.gpu.steps.values import multiply
from llamakit.registry import Registry
from llamakit.testing import shim
from llamakit.testing.conformance import Case, cases, check, check_top
from llamakit.testing.shim import ShimDriver
from llamakit.testing.training import TrainingCase, check_training, experts_back, training_cases

pytestmark = pytest.mark.skipif(shim.compiler() is None, reason="needs a C++ compiler")
TOGETHER = ("linear", "experts", "rms_norm", "layer_norm", "attention", "step_attention")  # whose items share a row
SMALL = [c for c in cases() if c.rows <= 20 and c.type in (GGMLType.F32, GGMLType.Q4_K, GGMLType.IQ2_XS)]
LANES = 8


def usual(case: Case) -> bool:
    """Of each kernel one case or two."""
    if case.op == "linear":
        return (case.rows, case.n_out) in ((3, 33), (17, 16)) or (case.type is GGMLType.Q4_K and case.rows == 2)
    return case.op in ("experts", "layer_norm", "step_attention") or case.sinks or case.n_in == 129


def usual_in_panels(case: Case) -> bool:
    """Of each type one kernel, of two types all."""
    return case.op == "embedding" or case.type is GGMLType.Q4_K or (case.type is GGMLType.Q4_0 and case.rows > 5)


def split(found, usual):
    return [pytest.param(case, id=str(case), marks=[] if usual(case) else [pytest.mark.soak]) for case in found]


@pytest.fixture(scope="module")
def reference():
    return Registry.discover().backend("reference")().open()


@pytest.fixture(scope="module")
def grouped():
    return GPUDevice(ShimDriver(LANES, 16))


@pytest.fixture(scope="module")
def in_panels():
    return GPUDevice(ShimDriver(2 * LANES, 16, packed=True))  # 64 items a panel: two by two of 32


@pytest.mark.parametrize("case", split([c for c in SMALL if c.op in TOGETHER], usual))
def test_items_in_any_order(case, grouped, reference):
    check(case, grouped, reference)


@pytest.mark.parametrize("case", split([c for c in cases() if c.type in PACKINGS], usual_in_panels))
def test_panels_in_any_order(case, in_panels, reference):
    check(case, in_panels, reference)


@pytest.mark.parametrize("case", split([c for c in training_cases() if c.rows == 7], lambda c: c.name[-1] in "ks"))
def test_training_in_any_order(case, grouped, reference):
    check_training(case, grouped, reference)


@pytest.mark.parametrize("rows", [3, 20])
def test_experts_may_begin_and_end_within_panels(rows, in_panels, reference):
    """Of 35 rows; pairs that run each for itself, and sorted by expert."""
    check(Case("experts", rows=rows, n_in=65, n_out=35, type=GGMLType.F16), in_panels, reference)


def test_gradients_of_experts_that_begin_and_end_within_panels(in_panels, reference):
    build = partial(experts_back, type=GGMLType.F16, shape=(5, 65, 35, 19))
    check_training(TrainingCase("odd experts", build, 7), in_panels, reference)


def usual_gradient(case: TrainingCase) -> bool:
    """Of types that are packed alike one; embeddings read panels of all."""
    return case.rows == 70 and case.name.rpartition("-")[2] in (
        "F16",
        "Q4_0",
        "Q5_1",
        "Q6_K",
        "IQ2_XS",
        "IQ4_NL",
        "TQ2_0",
    )


@pytest.mark.parametrize("case", split([c for c in training_cases() if "linear_back-" in c.name], usual_gradient))
def test_gradients_from_panels_in_any_order(case, in_panels, reference):
    check_training(case, in_panels, reference)


@pytest.mark.parametrize("lanes", [1, LANES])
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 16, 8), (37, 35, 41), (33, 64, 19)], ids=str)
@pytest.mark.parametrize("transposed", ["", "a", "b", "ab"])
def test_products_of_operands_that_lie_in_any_way(lanes, shape, transposed):
    """Tiles and what is left of them, with a bias or added to what is there."""
    (m, n, k), rng, driver = shape, np.random.default_rng(1), ShimDriver(lanes)
    left, right = rng.normal(size=(m, k)).astype(np.float32), rng.normal(size=(k, n)).astype(np.float32)
    bias, before = rng.normal(size=n).astype(np.float32), rng.normal(size=(m, n)).astype(np.float32)
    places = []
    for values, name in ((left, "a"), (right, "b"), (bias, ""), (before, "")):
        data = np.ascontiguousarray(values.T if name and name in transposed else values)
        places.append(At(driver.allocate(data.nbytes)))
        driver.write(places[-1], data)
    a, b, added, c = places
    steps = (*((1, m) if "a" in transposed else (k, 1)), *((1, k) if "b" in transposed else (n, 1)), n)
    out = np.empty((m, n), np.float32)
    for given, expected in ((None, before + left @ right), (added, left @ right + bias)):
        multiply(Kernels(driver), a, b, c, shape, steps, given, add=given is None)
        driver.read(c, out)
        assert np.allclose(out, expected, atol=1e-4)


@pytest.mark.parametrize("window", [8, 250])
def test_windows_that_begin_behind_the_first_part_of_positions(window, grouped, reference):
    check(Case("attention", rows=5, past=300, window=window, sinks=True), grouped, reference)


def test_pairs_are_sorted_by_expert_and_fill_tiles():
    """Of each expert all pairs in order; what is left of its last tile is -1; tiles that are left over are nobody's."""
    driver, kernels = (made := ShimDriver(1)), Kernels(made)
    chosen, n_expert, tile, n_tile = np.array([2, 0, 2, 2, 0, 2, 3, 2], np.int32), 4, 4, 6
    places = [At(driver.allocate(4 * n)) for n in (len(chosen), n_expert, n_tile * tile, n_tile)]
    driver.write(places[0], chosen)
    for name, n, rest in (("count_pairs", n_expert, ()), ("place_pairs", n_expert + 1, (tile, n_tile))):
        given = places[: 2 + 2 * bool(rest)]
        kernels.items(kernels.get(name, "mixture"), n, *given, len(chosen), n_expert, *rest)
    order, owners = np.empty((n_tile, tile), np.int32), np.empty(n_tile, np.int32)
    driver.read(places[2], order)
    driver.read(places[3], owners)
    assert owners.tolist() == [0, 2, 2, 3, -1, -1]
    assert order[:4].tolist() == [[1, 4, -1, -1], [0, 2, 3, 5], [7, -1, -1, -1], [6, -1, -1, -1]]


def test_the_likeliest_in_any_order(grouped):
    check_top(grouped)


SANITIZED = """
import sys
from llamakit.gguf import GGMLType, quants
from llamakit.gpu.device import GPUDevice
from llamakit.registry import Registry
from llamakit.testing.conformance import cases, check, check_top
from llamakit.testing.shim import ShimDriver
from llamakit.testing.training import check_training, training_cases

every, reference = int(sys.argv[1]), Registry.discover().backend("reference")().open()
device = GPUDevice(ShimDriver(int(sys.argv[2]), 16, sanitize=True, packed=sys.argv[3] == "packed"))
types = GGMLType.F32, GGMLType.Q4_K, GGMLType.Q6_K, GGMLType.IQ2_XS, GGMLType.Q8_0
found = [case for case in cases() if case.rows <= 20 and (every == 1 or case.type in types)]
for case in found[::every]:
    check(case, device, reference)
for case in [case for case in training_cases() if case.rows == 7 or "linear_back-Q" in case.name][::every]:
    check_training(case, device, reference)
check_top(device)
print("clean", len(found[::every]))
"""


@pytest.mark.parametrize(
    ("every", "lanes", "form"),
    [
        (53, 4, "packed"),
        pytest.param(1, 1, "raw", marks=pytest.mark.soak),
        pytest.param(3, 8, "raw", marks=pytest.mark.soak),
        pytest.param(3, 8, "packed", marks=pytest.mark.soak),
    ],
)
def test_no_kernel_leaves_its_memory_or_what_c_defines(every, lanes, form):
    made = subprocess.run(
        [sys.executable, "-c", SANITIZED, str(every), str(lanes), form], env=os.environ | shim.preload(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr[-4000:]
    assert "clean" in made.stdout


def text(kernel: str) -> str:
    return module_text(Traits("host", LANES, 16, 1 << 30), "bytes", {}) + kernel


def launched(kernel: str, n: int = LANES) -> list[int]:
    driver = ShimDriver(LANES)
    place = At(driver.allocate(4 * n))
    driver.zero(place, 4 * n)
    driver.launch(driver.kernel(driver.build(text(kernel)), "try_it"), 1, n, [place])
    out = np.empty(n, np.int32)
    driver.read(place, out)
    return out.tolist()


HANDED_ON = """
KERNEL void try_it(BUF(int, y)) {
    USE(int, y);
    SHARED int from[LANES];
    from[ITEM] = ITEM + 1;
    %s
    y[ITEM] = from[(ITEM + 1) %% LANES];
}
"""


def test_a_barrier_that_is_missing_shows():
    right = [*range(2, LANES + 1), 1]
    assert launched(HANDED_ON % "BARRIER;") == right
    assert launched(HANDED_ON % "") != right


def test_items_that_part_at_a_barrier_are_an_error():
    with pytest.raises(BackendError, match=r"kernel try_it: group 0: items 0 and \d+ part at lines"):
        launched("KERNEL void try_it(BUF(int, y)) { USE(int, y); if (ITEM < 3) BARRIER; y[ITEM] = 1; }")


def modules():
    """(file, definitions, type) of all that models use, for one kind of heads."""
    for file in ("basic", "matmul", "bytes", "mixture", "training", "states", "ceilings"):
        yield file, {}, None
    yield "top", {"WIDTH": 8}, None
    yield "step_attention+attention_back", {"HEAD_K": 64, "HEAD_V": 64}, None
    for kv_type in ("f32", "f16", "bf16", "q8_0"):
        for split_at in ({}, {"SPLIT": 256}):
            yield "cells", {"HEAD_V": 64, **split_at, **stored_defines(kv_type)}, None
    for type_ in quants.readable():
        yield "rows", {"TILE": 4}, type_
    yield "rows", {"TILE": 1, "PAIRS": 1}, GGMLType.Q4_0
    yield "rows", {"TILE": 4, "SORTED": 1}, GGMLType.Q4_0


def packed_modules(items):
    """Those that read and make panels."""
    for type_ in PACKINGS:
        yield "repack", {}, type_
        yield "panel_rows", {"TILE": 4, "ITEMS": items}, type_
        yield "panel_rows", {}, type_
        yield "panel_tiles", {}, type_
    yield "panel_rows", {"TILE": 1, "ITEMS": items, "PAIRS": 1}, GGMLType.Q4_0
    yield "panel_rows", {"TILE": 4, "ITEMS": items, "SORTED": 1}, GGMLType.Q4_0


@pytest.mark.parametrize("lanes", [1, 64])
def test_no_kernel_has_anything_to_warn_of(lanes):
    traits = Traits("host", lanes, 64, 1 << 30)
    texts = [module_text(traits, *module) for module in modules()]
    texts += [module_text(traits, *module, packed=True) for module in packed_modules(4 * lanes if lanes > 1 else 1)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(shim.warnings_of, texts))
    assert [said for said in found if said] == []
    assert "float-conversion" in shim.warnings_of(text("FN void f(int *y, float x) { y[0] = x; }"))


def test_what_the_compiler_warns_of_is_an_error():
    with pytest.raises(BackendError, match="does not compile") as found:
        launched("KERNEL void try_it(BUF(int, y)) { USE(int, y); int unset; y[ITEM] = unset; }")
    assert "unset" in found.value.found


@pytest.mark.parametrize(
    ("body", "said"),
    [("y[ITEM + LANES] = 1;", "heap-buffer-overflow"), ("y[ITEM] = 1 << (ITEM + 40);", "shift exponent")],
)
def test_sanitizers_see_what_kernels_do(body, said):
    code = (
        "import sys; from llamakit.gpu.driver import At; from llamakit.testing.shim import ShimDriver\n"
        "driver = ShimDriver(8, sanitize=True); place = At(driver.allocate(32))\n"
        "driver.launch(driver.kernel(driver.build(sys.argv[1]), 'try_it'), 1, 8, [place])"
    )
    kernel = text(f"KERNEL void try_it(BUF(int, y)) {{ USE(int, y); {body} }}")
    made = subprocess.run(
        [sys.executable, "-c", code, kernel],
        env=os.environ | shim.preload(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode != 0
    assert said in made.stderr
