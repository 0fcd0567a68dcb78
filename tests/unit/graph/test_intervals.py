"""Packing lifetimes: nothing overlaps, no plan is larger than a plain first fit, tens of thousands are quick."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamakit.graph.graph import Dim, GraphBuilder
from llamakit.graph.ops import Op, ScaleAttrs
from llamakit.models import GraphSizes, HParams, RopeParams
from llamakit.models.llama import LlamaGraph, Variant
from llamakit.models.rope import rope_attrs
from llamakit.passes.intervals import Lifetime, first_fit, least, pack
from llamakit.passes.memory import lifetimes, plan
from tests.timing import is_quick

LIVES = st.lists(
    st.builds(
        lambda first, length, n: Lifetime(first, first + length, n), *[st.integers(0, 90)] * 2, st.integers(1, 9)
    ),
    max_size=60,
)


def together(a: Lifetime, b: Lifetime) -> bool:
    return a.first <= b.last and b.first <= a.last


def plain_first_fit(lives: list[Lifetime], order: list[int]) -> tuple[list[int], int]:
    """The same by looking at everything that is placed: quadratic, and plainly right."""
    placed: list[tuple[int, int, Lifetime]] = []
    offsets = [0] * len(lives)
    for i in order:
        life, offset = lives[i], 0
        for start, end in sorted((start, end) for start, end, other in placed if together(other, life)):
            if start - offset >= life.n:
                break
            offset = max(offset, end)
        placed.append((offset, offset + life.n, life))
        offsets[i] = offset
    return offsets, max((end for _, end, _ in placed), default=0)


@settings(deadline=None, max_examples=60)
@given(LIVES, st.integers(1, 64))
def test_what_lives_together_lies_apart(lives, alignment):
    packed = pack(lives, alignment)
    assert all(offset % alignment == 0 for offset in packed.offsets)
    places = list(zip(packed.offsets, lives, strict=True))
    for i, (offset, life) in enumerate(places):
        assert offset + life.n <= packed.total
        for start, other in places[:i]:
            assert not together(life, other) or offset + life.n <= start or start + other.n <= offset
    assert packed.total >= least(lives)


@settings(deadline=None, max_examples=60)
@given(LIVES, st.randoms(use_true_random=False))
def test_first_fit_is_what_a_plain_search_finds(lives, rng):
    order = list(range(len(lives)))
    rng.shuffle(order)
    found = first_fit(lives, order)
    assert (found.offsets, found.total) == plain_first_fit(lives, order)


def llama(n_layer: int, n_embd: int, n_ff: int, rows: int, n_expert: int = 0, qk_norm: bool = False):
    head_dim = n_embd // 8
    h = HParams(
        architecture="llama", n_vocab=1000, n_ctx_train=512, n_embd=n_embd, n_layer=n_layer, n_head=8, n_head_kv=2,
        head_dim_k=head_dim, head_dim_v=head_dim, n_ff=n_ff, norm_epsilon=1e-5, rope=RopeParams(n_rot=head_dim),
        n_expert=n_expert, n_expert_used=min(n_expert, 2), n_ff_expert=n_ff,
    )  # fmt: skip
    sizes = GraphSizes(rows=rows, seqs=2, blocks_per_seq=17)
    rope = rope_attrs(h.rope, "adjacent", None)
    return LlamaGraph(h, Variant(qk_norm=qk_norm), rope, set()).build(sizes, ("logits", "embeddings"))


@pytest.mark.parametrize(
    "graph",
    [
        llama(3, 64, 176, 8),
        llama(32, 512, 1376, 512),
        llama(6, 512, 1376, 64, n_expert=8),
        llama(6, 64, 80, 9, 0, True),
    ],
    ids=["small", "large", "experts", "qk_norm"],
)
def test_a_model_takes_no_more_than_first_fit_by_falling_size(graph):
    lives = list(lifetimes(graph).values())
    aligned = [Lifetime(life.first, life.last, -(-life.n // 16) * 16) for life in lives]
    _, total = plain_first_fit(aligned, sorted(range(len(lives)), key=lambda i: -aligned[i].n))
    assert plan(graph).total <= total


def training(n_layer: int, n_node: int) -> list[Lifetime]:
    """Forward values, half of them kept until the backward pass comes by, and those of the backward pass."""
    rng = random.Random(0)
    sizes, lives = (8192, 1024, 1024, 8192, 22016, 22016), []
    n_forward = n_layer * n_node
    for i in range(n_forward):
        mirrored = n_forward + 2 * (n_forward - 1 - i)
        last = mirrored + 1 if rng.random() < 0.5 else i + rng.choice((1, 1, 2, 5))
        lives.append(Lifetime(i, last, rng.choice(sizes)))
        lives += [Lifetime(at, at + rng.choice((1, 2, 3)), rng.choice(sizes)) for at in (mirrored, mirrored + 1)]
    return lives


def test_tens_of_thousands_are_packed_quickly_and_well():
    lives = training(60, 170)
    assert len(lives) > 30_000
    packed = []
    assert is_quick(4, lambda: packed.append(pack(lives, 16)), time.process_time)  # 1 on a machine of 2023
    assert packed[0].total <= 1.02 * least(lives)


def test_workspaces_lie_beside_the_values_of_their_step_only():
    g = GraphBuilder("chain")
    x = g.add(Op.EMBEDDING, "e", (g.input("tokens", (Dim("rows", 4),)),), tensors=(g.parameter("w", (9, 16)),))
    for i in range(4):
        x = g.add(Op.SCALE, f"s{i}", (x,), attrs=ScaleAttrs(2.0))
    graph = g.build(out=x)
    without, made = plan(graph), plan(graph, workspaces={1: 64, 3: 32})
    assert set(made.workspaces) == {1, 3}
    assert without.total < made.total < without.total + 64 + 32  # one after the other in the same memory
    for step, start in made.workspaces.items():
        for value, life in lifetimes(graph).items():
            if life.first <= step <= life.last:
                place = made.offsets[value]
                assert place + life.n <= start or start + {1: 64, 3: 32}[step] <= place
