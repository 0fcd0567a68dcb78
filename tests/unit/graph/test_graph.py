"""Graphs: building, verifying, reading, planning."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamakit.graph.dump import dump
from llamakit.graph.graph import Dim, GraphBuilder, Tensor
from llamakit.graph.ops import GatedAttrs, GraphError, Op, ReshapeAttrs, ScaleAttrs
from llamakit.graph.verify import verify
from llamakit.passes.memory import alias, lifetimes, plan
from llamakit.passes.pipeline import prepare

ROWS = Dim("rows", 8)


def small():
    g = GraphBuilder("small")
    tokens = g.input("tokens", (ROWS,))
    x = g.add(Op.EMBEDDING, "embed", (tokens,), tensors=(g.parameter("e", (10, 6)),))
    y = g.add(Op.LINEAR, "lin", (x,), tensors=(g.parameter("w", (6, 6)), None))
    g.add(Op.SCALE, "unused", (y,), attrs=ScaleAttrs(2.0))
    return g.build(out=g.add(Op.ADD, "sum", (x, y)))


def test_a_dump_reads_like_the_network():
    assert dump(small()) == (
        "graph small\n"
        "  in  tokens (rows<=8) i32\n"
        "  embed = embedding(tokens, -; e) (rows<=8, 6)\n"
        "  lin = linear(embed, -; w, -) (rows<=8, 6)\n"
        "  unused = scale(lin) (rows<=8, 6)\n"
        "  sum = add(embed, lin) (rows<=8, 6)\n"
        "  out out = sum\n"
    )


def test_unused_nodes_are_dropped():
    assert [n.name for n in prepare(small()).nodes] == ["embed", "lin", "sum"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda n: dataclasses.replace(n[1], tensors=(Tensor("gone", (6, 6)), None)),
            "node lin .* tensor 'gone' is not declared",
        ),
        (lambda n: dataclasses.replace(n[1], inputs=(n[3].output, None)), r"input 'x' \(sum\) is made later"),
        (lambda n: dataclasses.replace(n[1], inputs=(None, None)), "input 'x' is missing"),
        (lambda n: dataclasses.replace(n[1], attrs=GatedAttrs()), "attributes must be LinearAttrs"),
        (
            lambda n: dataclasses.replace(n[1], outputs=(dataclasses.replace(n[1].output, shape=(ROWS, 7)),)),
            "its rule gives",
        ),
    ],
)
def test_a_broken_node_is_named(change, message):
    graph = small()
    nodes = list(graph.nodes)
    nodes[1] = change(nodes)
    with pytest.raises(GraphError, match=message):
        verify(graph.with_nodes(nodes))


def test_shapes_are_checked_while_building():
    g = GraphBuilder("bad")
    x = g.add(Op.EMBEDDING, "embed", (g.input("tokens", (ROWS,)),), tensors=(g.parameter("e", (10, 6)),))
    with pytest.raises(GraphError, match="node lin .* does not fit weight"):
        g.add(Op.LINEAR, "lin", (x,), tensors=(g.parameter("w", (6, 5)), None))


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.booleans()), min_size=1, max_size=20),
    st.integers(1, 64),
)
def test_no_two_living_values_overlap(edges, alignment):
    g = GraphBuilder("random")
    tokens = g.input("tokens", (ROWS,))
    values = [g.add(Op.EMBEDDING, "e", (tokens,), tensors=(g.parameter("w", (9, 6)),))]
    for i, (a, b, reshape) in enumerate(edges):
        first, second = values[a % len(values)], values[b % len(values)]
        if reshape:
            values.append(g.add(Op.RESHAPE, f"r{i}", (first,), attrs=ReshapeAttrs((6,))))
        else:
            values.append(g.add(Op.ADD, f"a{i}", (first, second)))
    graph = g.build(out=values[-1], mid=values[len(values) // 2])
    made, same, lives = plan(graph, alignment), alias(graph), lifetimes(graph)
    for value, home in same.items():
        if isinstance(home, str):
            assert made.elsewhere[value] == home
        else:
            assert made.offsets[value] == made.offsets[home]
    places = [(made.offsets[h], made.offsets[h] + life.n, life) for h, life in lives.items()]
    for i, (start, end, life) in enumerate(places):
        assert start % alignment == 0
        assert end <= made.total
        for other_start, other_end, other in places[:i]:
            together = life.first <= other.last and other.first <= life.last
            assert not (together and start < other_end and other_start < end)


def test_a_thousand_layers_build_verify_and_plan():
    g = GraphBuilder("deep")
    x = g.add(Op.EMBEDDING, "e", (g.input("tokens", (ROWS,)),), tensors=(g.parameter("w", (9, 64)),))
    for i in range(1000):
        y = g.add(Op.SCALE, f"s{i}", (x,), attrs=ScaleAttrs(0.5))
        x = g.add(Op.ADD, f"a{i}", (x, y))
    graph = prepare(g.build(out=x))
    assert plan(graph).total <= 3 * 8 * 64
