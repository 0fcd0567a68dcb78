"""The prefix tree against a plain set of prefixes, and what happens when blocks run short."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from llamakit.engine.kv_cache import BlockPool
from llamakit.engine.prefix_tree import PrefixTree

SIZE = 3
texts = st.lists(st.integers(0, 2), min_size=1, max_size=12)


def add(tree, pool, key, tokens):
    """Insert a whole text as an ended sequence would: whole blocks, then what is left."""
    node = tree.root(key)
    for start in range(0, len(tokens), SIZE):
        block = pool.allocate()
        node = tree.insert(node, tokens[start : start + SIZE], block)
        pool.release(block)  # the tree holds it now, or holds another with the same content


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
