"""The cpu backend, on every instruction set that this machine has, against the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llamakit.errors import BackendError
from llamakit.gguf import GGMLType
from llamakit.graph.attrs import AttentionAttrs
from llamakit.graph.graph import Dim, DType, GraphBuilder
from llamakit.graph.ops import Op
from llamakit.registry import Registry
from llamakit.testing.conformance import Case, Setup, Source, cases, check, check_top, run

REGISTRY = Registry.discover()
MIXING = ("linear", "attention", "experts")  # ops that take rows together


def isas() -> list[str]:
    probe = REGISTRY.backend("cpu").probe()
    return list(probe.devices[0].details) if probe.available else []


@pytest.fixture(scope="module")
def reference():
    return REGISTRY.backend("reference")().open()


@pytest.fixture(scope="module", params=isas())
def device(request):
    cls = REGISTRY.backend("cpu")
    return cls(cls.Options(isa=request.param, threads=2)).open()


def test_there_are_kernels():
    assert "generic" in isas()


@pytest.mark.parametrize("case", cases(), ids=str)
def test_conformance(case, device, reference):
    check(case, device, reference)


WEIGHED = [c for c in cases() if c.op in ("linear", "experts", "embedding")]


@pytest.mark.parametrize("no_mmap", [False, True])
@pytest.mark.parametrize("case", WEIGHED, ids=str)
def test_weights_that_are_not_packed_give_the_same_bits(case, no_mmap):
    cls = REGISTRY.backend("cpu")
    packed, mapped = (
        cls(cls.Options(threads=2, no_repack=no_repack, no_mmap=no_mmap)).open() for no_repack in (False, True)
    )
    assert np.array_equal(run(case, packed), run(case, mapped))


@pytest.mark.parametrize("case", [c for c in cases() if c.op in MIXING and c.rows > 1], ids=str)
def test_a_row_does_not_depend_on_the_others(case, device):
    """The same bits for the first row alone and among others."""
    alone = run(Case(**(case.__dict__ | {"rows": 1})), device)
    assert np.array_equal(alone[0], run(case, device)[0])


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_changes_nothing(threads):
    cls = REGISTRY.backend("cpu")
    few, two = (cls(cls.Options(threads=n)).open() for n in (threads, 2))
    experts = Case("experts", rows=20, n_in=256, n_out=512, type=GGMLType.Q4_0)
    for case in (Case("linear", rows=9, n_in=512, n_out=700), Case("attention", rows=20, past=300), experts):
        assert np.array_equal(run(case, few), run(case, two))


def test_what_a_device_does_not_know_is_said(device, reference):
    """Attention without a cache has no soft caps and the like on the cpu."""
    for extra in ({"soft_cap": 1.0}, {"slopes": (1.0,) * 4}):
        setup = Setup(Case("step_attention"))
        node = setup.build().nodes[-1]
        assert device.supports(node)
        changed = replace(node, attrs=replace(node.attrs, **extra))
        assert not device.supports(changed)
        assert reference.supports(changed)


VARIANTS = [{"soft_cap": 1.0}, {"slopes": (0.5, 0.25, 0.1, 0.0)}, {"sinks": True}]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: next(iter(variant)))
def test_attention_without_a_cache_is_refused_by_name_where_there_is_no_kernel(variant, device, reference):
    """Never computed as if it were plain: the reference, which knows them, gives other numbers than plain attention."""

    def graph(**extra):
        g = GraphBuilder("g")
        rows = Dim("rows", 8)
        q, k, v = (g.input(name, (rows, n, 16), DType.F32) for name, n in (("q", 4), ("k", 2), ("v", 2)))
        where = (g.input("positions", (rows,)), g.input("sequences", (rows,)))
        sinks = g.parameter("sinks", (4,)) if extra.pop("sinks", False) else None
        attrs = AttentionAttrs(0.25, None, **extra)
        return g.build(out=g.add(Op.ATTENTION, "node", (q, k, v, *where, None, None), tensors=(sinks,), attrs=attrs))

    def results(device, made):
        weights = {}
        for name, tensor in made.parameters.items():
            source = Source(name, GGMLType.F32, np.linspace(-1, 1, 4).astype(np.float32).reshape(tensor.shape))
            weights[name] = device.load(source, made.uses()[name])
        program = device.compile(made, weights)
        rng = np.random.default_rng(1)
        for name in "qkv":
            program.inputs[name][...] = rng.normal(size=program.inputs[name].shape)
        program.inputs["positions"][:] = np.arange(8)
        return program.run({"rows": 8})["out"].numpy().copy()

    plain, changed = graph(), graph(**variant)
    assert np.allclose(results(device, plain), results(reference, plain), atol=1e-5)
    assert not np.allclose(results(reference, changed), results(reference, plain), atol=1e-2)
    assert not device.supports(changed.nodes[-1])
    with pytest.raises(BackendError, match="node.*attention"):
        results(device, changed)


def test_a_step_without_rows_does_nothing(device):
    setup = Setup(Case("attention"))
    program = device.compile(setup.build(), {}, kv=device.kv_cache(setup.kv))
    for longest in (0, 40):
        assert program.run({"rows": 0, "seqs": 0}, longest=longest)["out"].shape[0] == 0


def test_the_likeliest_tokens_are_found(device, reference):
    check_top(device)
    check_top(reference)
