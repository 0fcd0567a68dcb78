"""The adapters of a running engine: names, selections, slots; and that a row's bits depend on its own adapter only."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from llamakit.adapter import Adapter
from llamakit.backend import AdapterTable
from llamakit.engine.adapters import MAX_SELECTED, AdapterStore, combine
from llamakit.errors import BackendError, NotFoundError, UsageError
from llamakit.gguf import GGMLType
from llamakit.graph.graph import Dim, GraphBuilder
from llamakit.graph.ops import Op, RMSNormAttrs
from llamakit.models.lora import make_adapter
from llamakit.registry import Registry
from llamakit.testing.conformance import Source


class Table(AdapterTable):
    """Remembers what it was given."""

    def __init__(self, n_slot: int) -> None:
        self.n_slot, self.slots, self.log = n_slot, {}, []
        self.broken = False

    def set(self, slot, adapters):
        if self.broken:
            raise MemoryError
        self.slots[slot] = dict(adapters)
        self.log.append(slot)

    def clear(self, slot):
        self.slots.pop(slot)


def adapter(name: str, seed: int | None = None):
    rng = np.random.default_rng(sum(name.encode()) if seed is None else seed)
    pair = Adapter(rng.normal(size=(2, 6)).astype(np.float32), rng.normal(size=(4, 2)).astype(np.float32), 0.5)
    return make_adapter(name, Path(f"/some/folder/{name}.gguf"), 1.0, {"w": pair})


def store(n_slot: int, *names: str) -> AdapterStore:
    made = AdapterStore(Table(n_slot), n_slot)
    for name in names:
        made.add(adapter(name))
    return made


def test_names_and_default_scales():
    s = store(2, "a", "b")
    s.add(adapter("quiet"), 0)
    assert sorted(s.resolve(None).names) == [("a", 1.0), ("b", 1.0)]
    s.set_scale("quiet", -0.5)
    s.set_scale("a", 0)
    assert sorted(s.resolve(None).names) == [("b", 1.0), ("quiet", -0.5)]
    assert [(i.id, i.name, i.path, i.scale, i.rank, i.n_bytes) for i in s.infos()] == [
        (0, "a", "a.gguf", 0.0, 2, 80), (1, "b", "b.gguf", 1.0, 2, 80), (2, "quiet", "quiet.gguf", -0.5, 2, 80),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="loaded already"):
        s.add(adapter("a"))
    s.remove("a")
    assert s.add(adapter("a")).id == 3  # an id is not given twice
    for call in (lambda: s.remove("quite"), lambda: s.set_scale("quite", 1)):
        with pytest.raises(NotFoundError, match="no adapter named 'quite'") as info:
            call()
        assert "quiet is nearest" in info.value.found


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 100.5, -101, True, "1", None])
def test_scales_out_of_bounds(scale):
    s = store(1, "a")
    for call in (
        lambda: s.add(adapter("b"), scale),
        lambda: s.set_scale("a", scale),
        lambda: s.resolve([("a", scale)]),
    ):
        with pytest.raises(UsageError, match="scale of adapter"):
            call()
    assert [info.name for info in s.infos()] == ["a"]


def test_selections():
    s = store(1, "poet", "clerk")
    one, other = s.resolve([("poet", 0.5), ("clerk", 2)]), s.resolve([("clerk", 2.0), ("poet", 0.5)])
    assert one.key == other.key
    assert hash(one.key) == hash(other.key)
    assert dict(one.names) == {"poet": 0.5, "clerk": 2.0}
    assert s.resolve([("poet", 0.25), ("clerk", 2)]).key != one.key
    assert s.resolve([("poet", 0), ("clerk", -0.0)]).key == s.resolve([]).key == ()
    with pytest.raises(UsageError, match="no adapter named 'peot'") as info:
        s.resolve([("peot", 1)])
    assert (info.value.found, info.value.param) == ("poet is nearest", "lora")
    with pytest.raises(UsageError, match="twice"):
        s.resolve([("poet", 1), ("poet", 1)])
    assert AdapterStore(Table(1), 1).resolve([]).names == ()
    with pytest.raises(UsageError, match="none is loaded"):
        AdapterStore(Table(1), 1).resolve([("x", 1)])
    many = store(1, *(f"n{i}" for i in range(MAX_SELECTED + 1)))
    with pytest.raises(UsageError, match="at once"):
        many.resolve(None)


def test_slots_are_shared_and_refilled_least_recently_used_first():
    s = store(2, "a", "b", "c")
    a, b, c = (s.resolve([(name, 1.0)]) for name in "abc")
    assert s.acquire(s.resolve([])) == 0
    s.release(0)
    assert (s.acquire(a), s.acquire(b), s.acquire(s.resolve([("a", 1)]))) == (1, 2, 1)
    assert s.acquire(c) is None
    s.release(1)
    assert s.acquire(c) is None  # the other request still uses it
    s.release(1)
    s.release(2)
    assert s.acquire(a) == 1  # still there: nothing is filled again
    s.release(1)
    assert s._table.log == [1, 2]
    assert s.acquire(c) == 2  # b was used longest ago
    assert s.acquire(b) == 1
    assert s._table.log == [1, 2, 2, 1]
    assert s.acquire(s.resolve([("a", 0.5)])) is None  # another scale is another content
    s.release(2)
    with pytest.raises(ValueError, match="more often"):
        s.release(2)


def test_what_is_removed_stays_until_its_requests_end():
    s = store(2, "a", "b")
    both, b = s.resolve([("a", 1), ("b", 2)]), s.resolve([("b", 1)])
    slot, second = s.acquire(both), s.acquire(b)
    s.release(second)
    s.remove("a")
    assert s.acquire(both) == slot  # resolved before: a request that waited may still start
    assert s._table.slots[slot]["w"].A.shape == (4, 6)
    s.release(slot)
    assert slot in s._table.slots
    with pytest.raises(UsageError, match="no adapter named 'a'"):
        s.resolve([("a", 1)])
    s.release(slot)
    assert slot not in s._table.slots  # nothing holds the removed adapter any more
    assert second in s._table.slots
    s.add(adapter("a", seed=99))
    assert s.resolve([("a", 1)]).key != both.key[:1]
    assert s.acquire(s.resolve([("a", 1)])) == slot


def test_a_slot_that_could_not_be_filled_holds_nothing():
    s = store(1, "a")
    a = s.resolve([("a", 1)])
    s._table.broken = True
    with pytest.raises(MemoryError):
        s.acquire(a)
    s._table.broken = False
    assert s.acquire(a) == 1
    assert s._table.log == [1]


def test_changes_from_other_threads():
    s = store(2, "a")
    stop = threading.Event()
    errors: list[BaseException] = []

    def change(number: int) -> None:
        try:
            while not stop.is_set():
                s.add(adapter(f"t{number}"))
                s.set_scale(f"t{number}", 0.5)
                s.infos()
                s.remove(f"t{number}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=change, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for i in range(300):
        selection = s.resolve(None if i % 2 else [("a", 1 + i % 3)])
        slot = s.acquire(selection)
        assert slot is not None
        s.release(slot)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [info.name for info in s.infos()] == ["a"]


@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.5, -2.0)])
def test_a_combination_is_exactly_the_sum(scales):
    parts = [adapter("a"), adapter("b")]
    made = combine(parts, scales)["w"]
    pairs = [part.tensors["w"] for part in parts]
    expected = sum(s * 0.5 * p.B.astype(np.float64) @ p.A for p, s in zip(pairs, scales, strict=True))
    np.testing.assert_allclose(made.scale * made.B.astype(np.float64) @ made.A, expected, rtol=1e-6, atol=1e-6)
    one = combine(parts[:1], (0.25,))["w"]
    assert one.A is pairs[0].A
    assert one.B is pairs[0].B
    assert one.scale == 0.125


N_IN, N_OUT, N_VOCAB, ROWS = 1120, 300, 40, 70


def adapted_graph():
    """Embedding, norm and linear, all with adapters."""
    g = GraphBuilder("adapted")
    rows = Dim("rows", ROWS)
    tokens, slots = g.input("tokens", (rows,)), g.input("adapters", (rows,))
    x = g.add(Op.EMBEDDING, "e", (tokens, slots), tensors=(g.parameter("e", (N_VOCAB, N_IN)),))
    x = g.add(Op.RMS_NORM, "n", (x, slots), tensors=(g.parameter("n", (N_IN,)),), attrs=RMSNormAttrs(1e-5))
    bias = g.parameter("b", (N_OUT,))
    return g.build(y=g.add(Op.LINEAR, "w", (x, slots), tensors=(g.parameter("w", (N_OUT, N_IN)), bias)))


class Adapted:
    """That graph on a device, with ranks that fill a part of a register, one, and more than one."""

    def __init__(self, backend: str, type_: GGMLType, values: str, **options) -> None:
        rng, graph = np.random.default_rng(3), adapted_graph()
        cls = Registry.discover().backend(backend)
        device = cls(cls.Options(**options)).open()
        shapes = {name: tuple(int(n) for n in p.shape) for name, p in graph.parameters.items()}
        types = {"e": GGMLType.F32, "w": type_}
        self.weights = {}
        for name, shape in shapes.items():
            source = Source(name, types.get(name, GGMLType.F32), rng.normal(size=shape).astype(np.float32))
            self.weights[name] = device.load(source, graph.uses()[name])
        table = device.adapter_table({n: s for n, s in shapes.items() if n != "b"}, 3)
        narrow = {"f32": lambda x: x, "f16": lambda x: x.astype(np.float16), "bf16": bf16}[values]
        make = lambda *shape: narrow(rng.normal(size=shape).astype(np.float32) * 0.05).astype(np.float32)  # noqa: E731
        for slot, rank in ((1, 5), (2, 16), (3, 40)):
            pairs = {n: Adapter(make(rank, shapes[n][1]), make(shapes[n][0], rank), 0.75) for n in ("e", "w")}
            table.set(slot, pairs | {"n": Adapter(None, make(N_IN), 0.5)})
        self.program = device.compile(graph, self.weights, adapters=table)

    def run(self, tokens, slots) -> np.ndarray:
        n = len(tokens)
        self.program.inputs["tokens"][:n], self.program.inputs["adapters"][:n] = tokens, slots
        return self.program.run({"rows": n})["y"].numpy().copy()


def bf16(x):
    return (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


@pytest.mark.parametrize("type_", [GGMLType.F32, GGMLType.Q4_0], ids=lambda t: t.name)
@pytest.mark.parametrize("values", ["f32", "f16", "bf16"])
def test_bits_depend_on_the_own_adapter_only(type_, values):
    rng = np.random.default_rng(1)
    tokens, slots = rng.integers(0, N_VOCAB, ROWS), np.sort(rng.integers(0, 4, ROWS))
    whole = Adapted("cpu", type_, values, threads=2)
    expected = whole.run(tokens, slots)
    for order in (rng.permutation(ROWS), np.arange(ROWS)[::-1]):
        assert np.array_equal(whole.run(tokens[order], slots[order]), expected[order])
    alone = np.concatenate([whole.run(tokens[i : i + 1], slots[i : i + 1]) for i in range(ROWS)])
    assert np.array_equal(alone, expected)
    cut = np.concatenate([whole.run(tokens[i : i + 23], slots[i : i + 23]) for i in range(0, ROWS, 23)])
    assert np.array_equal(cut, expected)
    for threads in (1, 3):
        assert np.array_equal(Adapted("cpu", type_, values, threads=threads).run(tokens, slots), expected)
    none = whole.run(tokens, np.zeros(ROWS, int))
    assert np.array_equal(none[slots == 0], expected[slots == 0])
    assert (none[slots > 0] != expected[slots > 0]).any(axis=1).all()


@pytest.mark.parametrize("values", ["f32", "f16", "bf16"])
def test_the_cpu_agrees_with_the_reference(values):
    rng = np.random.default_rng(1)
    tokens, slots = rng.integers(0, N_VOCAB, ROWS), rng.integers(0, 4, ROWS)
    expected = Adapted("reference", GGMLType.F32, values).run(tokens, slots)
    device = Registry.discover().backend("cpu")().open()
    for isa in device.info.details:  # every instruction set that this processor has
        found = Adapted("cpu", GGMLType.F32, values, isa=isa).run(tokens, slots)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"w": Adapter(np.ones((2, N_IN - 32), np.float32), np.ones((N_OUT, 2), np.float32))},
        {"w": Adapter(np.ones((2, N_IN), np.float32), np.ones((N_OUT + 1, 2), np.float32))},
        {"e": Adapter(np.ones((2, N_IN), np.float32), np.ones((N_VOCAB - 1, 2), np.float32))},
        {"n": Adapter(None, np.ones(N_IN - 1, np.float32))},
        {"n": Adapter(np.ones((2, N_IN), np.float32), np.ones((1, 2), np.float32))},
        {"w": Adapter(None, np.ones(N_IN, np.float32))},
    ],
)
def test_an_adapter_of_another_shape_is_no_crash(wrong):
    """A table whose targets are not those of the graph."""
    device = Registry.discover().backend("cpu")().open()
    graph, (name, pair) = adapted_graph(), next(iter(wrong.items()))
    weights = {}
    for key, parameter in graph.parameters.items():
        source = Source(key, GGMLType.F32, np.ones(tuple(int(n) for n in parameter.shape), np.float32))
        weights[key] = device.load(source, graph.uses()[key])
    shape = pair.B.shape if pair.A is None else (pair.B.shape[0], pair.A.shape[1])
    table = device.adapter_table({name: shape}, 1)
    table.set(1, wrong)
    program = device.compile(graph, weights, adapters=table)
    program.inputs["adapters"][:2] = 1
    with pytest.raises(BackendError, match="adapter has another shape"):
        program.run({"rows": 2})


def test_replacing_changes_those_who_come_and_none_who_are_there():
    s = store(2, "a", "b")
    s.set_scale("a", 0.5)
    old, before = s.resolve([("a", 0.5)]), s.infos()[0]
    slot = s.acquire(old)
    held = s._table.slots[slot]
    found = s.replace(adapter("a", seed=99))
    assert (found.id, found.scale) == (before.id, 0.5)
    new = s.resolve(None)
    assert new.key != old.key
    other = s.acquire(new)
    assert other != slot
    assert s._table.slots[slot] == held
    s.release(slot)
    assert slot not in s._table.slots  # nobody can ask for it any more
    with pytest.raises(NotFoundError):
        s.replace(adapter("c"))
