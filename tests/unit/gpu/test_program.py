"""The host side of GPUs, on a driver that records: arguments, lifetimes, order, aliasing. No device is needed."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from llamakit import embedded
from llamakit.backend import KVSpec
from llamakit.engine.runner import kv_spec
from llamakit.errors import BackendError, OutOfMemoryError, UsageError
from llamakit.gguf import GGMLType, open_gguf
from llamakit.gpu.device import GPUDevice
from llamakit.gpu.driver import At, Traits
from llamakit.gpu.source import FEW_UNITS, Kernels
from llamakit.graph.graph import Dim, DType, GraphBuilder
from llamakit.graph.ops import Op
from llamakit.models import GraphSizes, load_model
from llamakit.registry import Registry
from llamakit.testing.conformance import Case, Setup, cases
from llamakit.testing.recording import RecordingDriver
from llamakit.testing.training import Setup as TrainingSetup
from llamakit.testing.training import training_cases
from llamakit.weights import load_weights, tensor_sources

ANYWHERE = {"bias", "slopes", "sinks", "chosen", "log_sums", "weights", "losses", "scalars"}  # given even if not there

TYPES = (GGMLType.F32, GGMLType.Q4_K)


@pytest.fixture
def device():
    return GPUDevice(RecordingDriver())


def compiled(case: Case, device: GPUDevice):
    setup = Setup(case)
    graph = setup.build()
    weights = {name: device.load(source, graph.uses()[name]) for name, source in setup.weights.items()}
    kv = None if setup.kv is None else device.kv_cache(setup.kv)
    states = {name: device.state(tensor.shape, tensor.dtype) for name, tensor in graph.states.items()}
    table = None
    if setup.adapters:
        table = device.adapter_table({name: setup.weights[name].shape for name in setup.adapters[1]}, 2)
        for slot, adapters in setup.adapters.items():
            table.set(slot, adapters)
    program = device.compile(graph, weights, kv=kv, adapters=table, states=states)
    for name, values in setup.inputs.items():
        program.inputs[name][...] = values
    return program


@pytest.mark.parametrize("case", [c for c in cases() if c.type in TYPES], ids=str)
def test_every_launch_is_as_its_kernel_declares(case, device):
    program = compiled(case, device)
    made = program.run({"rows": case.rows, "out_rows": 2, "seqs": 1}, longest=case.past + case.rows)["out"]
    assert made.numpy().shape == made.shape
    assert device.driver.launches or case.op == "reshape"


@pytest.mark.parametrize("case", [c for c in training_cases() if c.rows == 7], ids=str)
def test_training_launches_too(case, device):
    run_training(case, device)
    assert device.driver.launches


def run_training(case, device):
    setup = TrainingSetup()
    case.build(setup)
    graph = setup.g.build(**{f"r{i}": value for i, value in enumerate(setup.g.nodes[-1].outputs)})
    weights = {name: device.load(source, graph.uses()[name]) for name, source in setup.weights.items()}
    states = {name: device.state(tensor.shape, tensor.dtype) for name, tensor in graph.states.items()}
    program = device.compile(graph, weights, states=states)
    for name, values in setup.inputs.items():
        program.inputs[name][...] = values
    program.run(dict.fromkeys(graph.dims(), case.rows))


def body(source: str, kernel: str) -> str:
    """The text of a kernel."""
    return source.split(f"KERNEL void {kernel}(")[1].partition("\nKERNEL ")[0]


def test_items_that_write_what_others_read_meet_at_a_fence_of_buffers(device):
    """Barriers order local memory alone where nothing else is said, but what a unit hands over may lie in a buffer."""
    found = set()
    for case in training_cases():
        if case.rows != 7:
            continue
        device.driver.launches.clear()
        run_training(case, device)
        for launch in device.driver.launches:
            read = {(id(place.block), place.offset) for name, place in launch.places("read") if name not in ANYWHERE}
            written = {(id(place.block), place.offset) for _, place in launch.places("write")}
            text = next(s for s in device.driver.sources if f"KERNEL void {launch.kernel}(" in s)
            if read & written and "PART;" in body(text, launch.kernel):  # of units, whose items work together
                found.add(launch.kernel)
                assert "MEET_FOR_ALL" in body(text, launch.kernel), launch.kernel
    assert "cross_entropy" in found


class Model:
    """A small real model on a recording driver."""

    def __init__(self, path) -> None:
        self.file = open_gguf(path)
        self.model = load_model(self.file, None, Registry.discover())
        self.device = GPUDevice(RecordingDriver())
        self.driver = self.device.driver
        self.sources = tensor_sources(self.model.uses(), self.file)
        self.weights = load_weights(self.device, self.sources, self.model.uses())
        self.kv = self.device.kv_cache(kv_spec(self.model, 4, "f16"))
        self.graph = self.model.build(GraphSizes(rows=32, seqs=2, blocks_per_seq=4))
        self.program = self.device.compile(self.graph, self.weights, kv=self.kv)

    def run(self, rows: int):
        self.driver.launches.clear()
        self.driver.events.clear()
        return self.program.run({"rows": rows, "out_rows": 1, "seqs": 1}, longest=rows)


def test_a_step_is_one_copy_in_and_reads_what_it_made(small_model):
    model = Model(small_model)
    for rows in (1, 20):
        out = model.run(rows)
        assert model.driver.events.count("write") == 1
        assert model.driver.events[0] == "write"
        arena, made = model.program._arena.block, set()
        for launch in model.driver.launches:
            for name, place in launch.places("read"):
                known = place.block is not arena or place.offset in made or name in ANYWHERE
                assert known, f"{launch.kernel} reads {name}, which nothing made"
            made |= {place.offset for _, place in launch.places("write") if place.block is arena}
        assert out["logits"].place.offset in made


def test_steps_that_come_again_are_played_from_a_tape(small_model):
    model = Model(small_model)
    made = []
    for rows in (1, 20, 1, 1, 20, 1):
        model.run(rows)
        played = "tape" in model.driver.events
        made.append((rows, played, [(each.kernel, each.n_group, each.arguments) for each in model.driver.launches]))
    assert [played for _, played, _ in made] == [False, False, True, True, True, True]
    for rows, _, launches in made:
        assert launches == next(first for n, _, first in made if n == rows)


def test_tapes_end_when_adapters_change(device):
    program = compiled(Case("linear", rows=6, adapters=True), device)
    table = program._lowering.adapters

    def kernels():
        device.driver.launches.clear()
        program.run({"rows": 6})
        return [each.kernel for each in device.driver.launches]

    assert kernels() == kernels() == kernels() == ["linear", "shrink", "expand"]
    table.clear(1)
    table.clear(2)
    assert kernels() == kernels() == kernels() == ["linear"]


def test_few_tapes_are_kept(small_model, monkeypatch):
    monkeypatch.setattr("llamakit.gpu.program.MOST_TAPES", 3)
    model = Model(small_model)
    for rows in [*range(1, 9)] * 3:
        model.run(rows)
    assert len(model.program._tapes) == 3


def test_what_edits_nothing_is_not_copied(device):
    from llamakit.backend import LogitEdits
    from llamakit.gpu.top import _changes

    none = LogitEdits(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.float32))
    assert not _changes(none)
    assert _changes(LogitEdits(none.ids, none.repeats, none.values, scale=0.5))
    assert _changes(LogitEdits(none.ids, none.repeats, none.values, mask=np.zeros(1, np.uint32)))


def test_no_launch_writes_what_it_reads(small_model):
    """But for what adds to it: the sizes of values are those of the plan, so places that differ do not overlap."""
    model = Model(small_model)
    model.run(20)
    arena = model.program._arena.block
    for launch in model.driver.launches:
        written = {place.offset for _, place in launch.places("write") if place.block is arena}
        read = {p.offset for name, p in launch.places("read") if p.block is arena and name not in ANYWHERE}
        assert not written & read, launch.kernel


def test_memory_is_given_back(small_model):
    model = Model(small_model)
    alive = sum(block.alive for block in model.driver.blocks)
    model.program.close()
    model.kv.close()
    assert sum(block.alive for block in model.driver.blocks) <= alive - 2 - len(model.kv.spec.layers)


@pytest.mark.parametrize(
    ("rows", "type_", "library", "kernels"),
    [
        (16, "Q4_K", True, ["panel_linear"]),
        (17, "Q4_K", False, ["panel_product"]),
        (17, "Q4_K", True, ["panel_decode", "matmul"]),
        (16, "IQ2_XS", False, ["linear"]),
        (17, "IQ2_XS", False, ["decode_rows", "matmul"]),
    ],
)
def test_few_rows_meet_the_quantised_weight_and_many_tiles_or_slices(
    device, monkeypatch, rows, type_, library, kernels
):
    """`library`: whether the driver has one for products, which takes slices."""
    monkeypatch.setattr(device.driver, "multiplies", lambda shape: library, raising=False)
    program = compiled(Case("linear", rows=rows, n_in=512, n_out=35, type=GGMLType[type_]), device)
    device.driver.launches.clear()
    program.run({"rows": rows})
    assert [launch.kernel for launch in device.driver.launches] == kernels


@pytest.mark.parametrize(
    ("n_in", "most", "n_item"), [(4096, 1024, 256), (64, 1024, 32), (192, 1024, 128), (4096, 96, 64)]
)
def test_a_panel_has_as_many_items_as_it_has_steps_and_the_device_lets_a_kernel_have(
    device, monkeypatch, n_in, most, n_item
):
    monkeypatch.setattr(device.driver, "most_items", lambda kernel: most, raising=False)
    program = compiled(Case("linear", n_in=n_in, n_out=35, type=GGMLType.Q4_0), device)
    device.driver.launches.clear()
    program.run({"rows": 3})
    assert [(launch.kernel, launch.n_group, launch.n_item) for launch in device.driver.launches] == [
        ("panel_linear", 3, n_item)
    ]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("lanes", "tile"), [(64, 4), (1, 8)])
def test_few_pairs_run_each_for_itself_and_many_sorted_by_expert(lanes, tile, packed):
    for rows, sorted_ in ((5, False), (6, True), (101, True)):
        device = GPUDevice(RecordingDriver(Traits("cuda", lanes, 128, 1 << 30, packed=packed)))
        case = Case("experts", rows=rows, n_in=256, n_out=256, type=GGMLType.Q4_K)
        compiled(case, device).run({"rows": rows})
        kernels = [launch.kernel for launch in device.driver.launches]
        assert ("place_pairs" in kernels) is sorted_
        name, per_expert = ("panel_linear", 17) if packed else ("linear", 256)  # of 16 panels, if it begins within one
        assert kernels.count(name) == 3
        units = next(each for each in device.driver.launches if each.kernel == name)
        n_pair = rows * case.n_used
        n_tile = n_pair // tile + min(case.n_expert, n_pair) if sorted_ else n_pair
        n_unit = n_tile * per_expert
        assert units.n_group == (n_unit if lanes > 1 or n_unit <= FEW_UNITS else -(-n_unit // 128))


def test_positions_are_split_where_rows_are_few(device):
    for rows, kernels in ((5, ["store_cells", "attention", "merge_attention"]), (20, ["store_cells", "attention"])):
        device.driver.launches.clear()
        compiled(Case("attention", rows=rows, past=300), device).run({"rows": rows, "seqs": 1}, longest=300 + rows)
        assert [launch.kernel for launch in device.driver.launches] == kernels


@pytest.mark.parametrize("quantised", [False, True])
def test_the_footprint_is_what_is_allocated(small_model, quantised):
    model = Model(embedded.FILE if quantised else small_model)
    told, parts = model.device.footprint(model.graph, model.sources), []
    for weight in model.weights.values():
        parts += [part.place.block.n_bytes for part in weight.parts]
        assert weight.packed == (quantised and len(weight.shape) > 1)
    assert told.weights == sum(weight.n_bytes for weight in model.weights.values()) == sum(parts)
    held = model.program._arena.block.n_bytes + model.program._inputs.block.n_bytes
    assert 0 <= held - told.program < 4096
    assert model.device.kv_size(model.kv.spec) == sum(place.block.n_bytes for place in model.kv.layers)


@pytest.mark.parametrize(
    ("name", "value"),
    [("tokens", -1), ("tokens", 99999), ("cells", 4096), ("positions", 4096), ("sequences", 2), ("block_tables", 99)],
)
def test_numbers_out_of_range_are_refused_before_anything_runs(small_model, name, value):
    model = Model(small_model)
    model.program.inputs[name].flat[0] = value
    with pytest.raises(BackendError, match=name):
        model.run(1)
    assert model.driver.launches == []


def test_slots_out_of_range_are_refused(device):
    program = compiled(Case("linear", rows=6, adapters=True), device)
    for slot in (-1, 3):
        program.inputs["slots"][4] = slot
        with pytest.raises(BackendError, match="adapter"):
            program.run({"rows": 6})
        assert device.driver.launches == []


def test_what_kernels_cannot_count_is_refused_before_memory_is_taken(device):
    g = GraphBuilder("large")
    x = g.input("x", (Dim("rows", 1 << 20), 64), DType.F32)
    weight = g.parameter("w", (4096, 64))
    graph = g.build(out=g.add(Op.LINEAR, "wide", (x, None), tensors=(weight, None)))
    before = len(device.driver.blocks)
    with pytest.raises(BackendError, match="result of wide, 4,294,967,296 elements, is too large"):
        device.compile(graph, {"w": None})
    with pytest.raises(BackendError, match="a state of 2,147,483,648 elements is too large"):
        device.state((1 << 16, 1 << 15))
    assert len(device.driver.blocks) == before
    kernels = Kernels(device.driver)
    with pytest.raises(BackendError, match="a step of 3,000,000,000 elements"):
        kernels.items(kernels.get("scale"), 3_000_000_000, At(device.driver.allocate(4)), 3_000_000_000, 1.0)


def test_a_cache_that_does_not_fit_says_what_would(small_model):
    model = Model(small_model)
    small = model.kv.spec
    each = model.device.kv_size(small) // small.n_block
    free = model.driver.memory().free
    large = msgspec.structs.replace(small, n_block=free // each + 10)
    before = len(model.driver.blocks)
    with pytest.raises(OutOfMemoryError, match="keys and values of") as found:
        model.device.kv_cache(large)
    assert f"{free // each * small.block_size:,} positions fit" in found.value.hint
    assert len(model.driver.blocks) == before


def test_with_low_vram_only_the_cache_is_in_main_memory(small_model, monkeypatch):
    usual, low = Model(small_model), RecordingDriver(Traits("cuda", 64, 128, 1 << 30, cache_on_host=True))
    assert not any(block.host for block in usual.driver.blocks)
    kv = GPUDevice(low).kv_cache(usual.kv.spec)
    assert [place.block.host for place in kv.layers] == [True] * len(usual.kv.spec.layers)


def test_caches_say_what_they_cannot_be(device):
    layer = Setup(Case("attention", head_dim=24, n_head=1, n_head_kv=1))
    layer.build()
    odd = KVSpec(layers=layer.kv.layers, n_block=2, block_size=16, type="q8_0")
    with pytest.raises(UsageError, match="f16 instead"):
        device.kv_cache(odd)
    device.driver.traits = Traits("cuda", 64, 128, 100)
    with pytest.raises(OutOfMemoryError, match="at once"):
        device.kv_cache(layer.kv)


def test_adapters_are_repacked_and_their_pool_grows(device):
    table = device.adapter_table({"w": (48, 64)}, 2)
    setup = Setup(Case("linear", adapters=True))
    setup.build()
    before = table.pool.block
    table.set(1, setup.adapters[1])
    assert table.ranks == {"w": 3}
    table.set(2, setup.adapters[2])
    assert table.ranks == {"w": 8}
    assert table.pool.block is not before
    table.clear(2)
    assert table.ranks == {"w": 3}
    with pytest.raises(UsageError, match="no such tensor"):
        table.set(1, {"v": setup.adapters[1]["w"]})
    with pytest.raises(UsageError, match="slots 1 to 2"):
        table.set(3, {})


def test_every_op_has_steps():
    from llamakit.gpu.lower import ALIASES
    from llamakit.gpu.steps import STEPS

    assert STEPS.keys() | set(ALIASES) == set(Op)


def test_states_hold_what_their_type_can(device):
    values = np.linspace(-3, 3, 600, dtype=np.float32).reshape(2, 300)
    reference = Registry.discover().backend("reference")().open()
    for dtype in (DType.F32, DType.BF16, DType.I8):
        mine, theirs = device.state((2, 300), dtype), reference.state((2, 300), dtype)
        assert not mine.read().any()
        mine.write(values)
        theirs.write(values)
        assert np.allclose(mine.read(), theirs.read(), rtol=0, atol=1e-6)
    with pytest.raises(UsageError, match="shape"):
        mine.write(values[0])
