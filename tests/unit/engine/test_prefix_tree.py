"""The prefix tree against a plain set of prefixes, and what happens when blocks run short."""

from __future__ import annotations

import gc
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from llamakit.engine.kv_cache import BlockPool
from llamakit.engine.prefix_tree import Node, PrefixTree

SIZE = 3
texts = st.lists(st.integers(0, 2), min_size=1, max_size=12)


def add(tree, pool, key, tokens, filled=None):
    """Insert a whole text as an ended sequence would: whole blocks, then what is left."""
    node = tree.root(key)
    for start in range(0, len(tokens), SIZE):
        block = pool.allocate()
        node = tree.insert(node, tokens[start : start + SIZE], block)
        if filled is not None and node.block == block:
            filled[block] = (key, tokens[: start + SIZE])
        pool.release(block)  # the tree holds it now, or holds another with the same content
    if node.parent is not None:
        tree.use(node)


def common(a, b):
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), texts), max_size=20), st.lists(st.tuples(st.sampled_from("abc"), texts))
)
def test_the_longest_known_beginning_is_found(known, asked):
    pool = BlockPool(200)
    tree = PrefixTree(pool, SIZE)
    for key, tokens in known:
        add(tree, pool, key, tokens)
    assert pool.n_free == 200 - len(tree)
    for key, tokens in asked:
        path, length = tree.match(key, tokens)
        assert length == max((common(tokens, other) for other_key, other in known if other_key == key), default=0)
        spelled = [token for node in path for token in node.tokens]
        assert spelled[:length] == tokens[:length]
        assert len(path) == -(-length // SIZE)
    tree.clear()
    assert pool.n_free == 200


@settings(max_examples=200, deadline=None)
@given(st.lists(texts, min_size=1, max_size=12), st.integers(1, 30), st.integers(0, 11))
def test_eviction_frees_what_nobody_holds_and_leaves_paths_whole(known, wanted, held):
    pool = BlockPool(60)
    tree = PrefixTree(pool, SIZE)
    for tokens in known:
        add(tree, pool, "a", tokens)
    path, length = tree.match("a", known[held % len(known)])
    for node in path:
        pool.retain(node.block)
    free, n = pool.n_free, len(tree)
    gone = tree.evict(free + wanted)
    assert gone == min(wanted, n - len(path))
    assert (pool.n_free, len(tree)) == (free + gone, n - gone)
    assert tree.match("a", known[held % len(known)]) == (path, length)  # what is held stays


def test_the_least_recently_used_goes_first():
    pool = BlockPool(9)
    tree = PrefixTree(pool, SIZE)
    for first in range(3):
        add(tree, pool, "a", [first] * 6)
    tree.match("a", [0] * 6)
    tree.evict(pool.n_free + 2)
    assert [tree.match("a", [first] * 6)[1] for first in range(3)] == [6, 0, 6]
    tree.evict(pool.n_free + 1)
    assert tree.match("a", [0] * 6)[1] == 3  # the end goes before the beginning


def test_many_keys_leave_no_empty_roots_behind():
    pool = BlockPool(4)
    tree = PrefixTree(pool, SIZE)
    for key in range(10_000):
        add(tree, pool, key, [1, 2, 3])
        tree.evict(4)
    assert len(tree._roots) <= 4097


def check(tree, pool):
    """All that points at nodes points at the same ones, and they hold their blocks."""
    by_use = list(tree._oldest_first())
    by_bucket = {id(n) for first in tree._buckets for n in chain(first, "next")}
    by_parent, left = [], list(tree._roots.values())
    while left:
        node = left.pop()
        children = list(chain(node.child, "sibling_before"))
        assert [n.sibling_after for n in children] == [None, *children][: len(children)]
        assert all(n.parent is node for n in children)
        by_parent += children
        left += children
    assert len(tree) == len(by_use) == len(by_bucket) == len(by_parent)
    assert {id(n) for n in by_use} == by_bucket == {id(n) for n in by_parent}
    age = {id(n): i for i, n in enumerate(by_use)}
    assert all(age[id(n)] < age[id(n.parent)] for n in by_use if n.parent.parent is not None)
    assert all(pool.holders(n.block) for n in by_use)
    assert all(n.block == -1 and n.parent is None for n in tree._spare)


def chain(node, link):
    while node is not None:
        yield node
        node = getattr(node, link)


steps = st.one_of(
    st.tuples(st.just("add"), st.sampled_from("ab"), texts),
    st.tuples(st.just("match"), st.sampled_from("ab"), texts),
    st.tuples(st.just("drop"), st.sampled_from("ab"), texts),
    st.tuples(st.just("evict"), st.just("a"), texts),
    st.tuples(st.just("prune"), st.sampled_from("ab"), texts),
    st.tuples(st.just("forget"), st.sampled_from("ab"), texts),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=40))
def test_nodes_that_are_used_again_are_where_they_belong(asked):
    """Whatever is found is in the block that was filled with it, after what comes before."""
    pool = BlockPool(40)
    tree = PrefixTree(pool, SIZE)
    filled: dict[int, tuple[str, list[int]]] = {}  # what a block holds: the key, and the text up to its end
    for what, key, tokens in asked:
        if what == "add" and pool.n_free >= 4:
            add(tree, pool, key, tokens, filled)
            assert tree.match(key, tokens)[1] == len(tokens)
        elif what == "match":
            path, n = tree.match(key, tokens)
            for i, node in enumerate(path):
                whose, text = filled[node.block]
                assert whose == key
                assert text[: i * SIZE] == tokens[: i * SIZE]
                assert text[i * SIZE :] == node.tokens
            assert [token for node in path for token in node.tokens][:n] == tokens[:n]
        elif what == "drop":
            tree.drop(key, tokens)
        elif what == "evict":
            tree.evict(pool.n_free + len(tokens))
        elif what == "prune" and (path := tree.match(key, tokens)[0]):
            block = path[-1].block
            pool.retain(block)  # as the sequence does whose text it is
            tree.prune(path[-1], 1)
            pool.release(block)
        elif what == "forget":
            tree.forget(key)
            assert tree.match(key, tokens) == ([], 0)
        check(tree, pool)
    tree.clear()
    check(tree, pool)


def test_a_tree_makes_nothing_once_it_was_full():
    """A node made beside many answers kept the memory of them all from being given back: 45 MiB of a server's."""
    pool = BlockPool(600)
    tree = PrefixTree(pool, SIZE)

    def fill(first):
        for number in range(200):
            add(tree, pool, "a", [first, number, 0, 1, 2, 3, 4, 5])

    fill(0)
    assert pool.n_free == 0
    nodes = set(tree._oldest_first())
    before = sys.getallocatedblocks()
    for first in range(1, 5):
        tree.evict(600)
        fill(first)
    assert sys.getallocatedblocks() - before < 20
    assert set(tree._oldest_first()) == nodes


def test_a_text_that_nobody_else_may_find_leaves_nothing_for_the_collector():
    """Each request without a cache has a key of its own."""
    pool = BlockPool(60)
    tree = PrefixTree(pool, SIZE)
    add(tree, pool, "a", [1, 2, 3])
    gc.collect()
    gc.disable()
    try:
        before = sum(type(each) is Node for each in gc.get_objects())
        for number in range(100):
            add(tree, pool, ("private", number), [1, 2, 3, 4])
            tree.forget(("private", number))
        assert sum(type(each) is Node for each in gc.get_objects()) == before
    finally:
        gc.enable()
