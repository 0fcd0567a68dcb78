"""The prefix tree: evaluated beginnings of texts, found again by later requests.

Each node is one block of the KV cache with the tokens that it holds; its path from the root spells a prefix. A root
belongs to a key: adapters and salt, since they change what is in the blocks or who may share them. The tree holds
every block once (`BlockPool.retain`); when memory is short the least recently used leaves that nobody else holds go.

What is known outlives what was asked: memory that a node takes lies among that of the answers of its time, and keeps
all around it from being given back to the system. So nodes are made many at once and used again, and point at each
other: in a dict or a list of its own each would have memory of its own time.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamakit.engine.kv_cache import BlockPool

WIDTH = array("i").itemsize
NOTHING = b"\xff" * WIDTH  # stands where a leaf has no token: -1
MADE_AT_ONCE = 1024  # nodes
MOST_COMPARED = 64  # children that are compared token by token when none holds the whole next block
MOST_ROOTS = 4096  # from there on, roots that hold nothing are forgotten


class Node:
    """A block. `spelled`: its tokens, `n_token` many, or fewer than a block in a leaf that an ended text left.

    One that the tree has let go of has block -1, like a root, until it stands for another.
    """

    __slots__ = (
        "block", "child", "n_token", "newer", "next", "older", "parent", "sibling_after", "sibling_before", "spelled",
    )  # fmt: skip

    def __init__(self, size: int = 0) -> None:
        self.block, self.n_token, self.spelled = -1, 0, bytearray(size * WIDTH)
        self.parent: Node | None = None
        self.child: Node | None = None  # the one that came last
        self.sibling_before: Node | None = None
        self.sibling_after: Node | None = None
        self.next: Node | None = None  # in its bucket
        self.older: Node  # by use; roots have none, and nothing that refers to itself
        self.newer: Node

    @property
    def tokens(self) -> list[int]:
        """The tokens that it holds."""
        return array("i", bytes(self.spelled)).tolist()[: self.n_token]


class PrefixTree:
    """Prefixes by key. Not thread-safe: the engine's thread owns it."""

    def __init__(self, pool: BlockPool, block_size: int) -> None:
        self.pool, self.size = pool, block_size
        self._roots: dict[Hashable, Node] = {}
        self._n_made = 0
        self._spare: list[Node] = []
        # All nodes, by parent and tokens: each bucket is a chain. And all by use, children before parents: `newer` of
        # `_ring` is the node that was used longest ago, `older` the one that was used last.
        self._buckets: list[Node | None] = [None] * (1 << pool.n_block.bit_length())
        self._ring = ring = Node()
        ring.older = ring.newer = ring

    def __len__(self) -> int:
        return self._n_made - len(self._spare)

    def root(self, key: Hashable) -> Node:
        """Where the prefixes of a key begin."""
        found = self._roots.get(key)
        if found is None:
            if len(self._roots) >= MOST_ROOTS:
                self._roots = {key: root for key, root in self._roots.items() if root.child is not None}
            found = self._roots[key] = Node()
        return found

    def match(self, key: Hashable, tokens: Sequence[int]) -> tuple[list[Node], int]:
        """The nodes of the longest known beginning of `tokens`, and its length; the last may be known in part."""
        path: list[Node] = []
        node, length = self._roots.get(key), 0
        while node is not None and length < len(tokens):
            wanted = _spelled(tokens[length : length + self.size])
            child = self._find(node, wanted) if len(wanted) == self.size * WIDTH else None
            if child is None:
                child, n = self._nearest(node, wanted)
                if child is not None:
                    path.append(child)
                    length += n
                break
            path.append(child)
            node, length = child, length + self.size
        if path:
            self.use(path[-1])
        return path, length

    def insert(self, parent: Node, tokens: Sequence[int], block: int) -> Node:
        """A block that holds `tokens` after `parent`; if one is known already, that one is returned.

        By use it is just older than its parent, until `use` is called, once for a path.
        """
        spelled = _spelled(tokens)
        filled = spelled + NOTHING * (self.size - len(tokens))
        child = self._find(parent, filled)
        if child is not None:
            return child
        nearest, n = self._nearest(parent, spelled)
        if nearest is not None and n == len(tokens):  # the beginning of a block that is known
            return nearest
        if nearest is not None and n == nearest.n_token:  # the text went on where one had ended
            self._remove(nearest)
        return self._add(parent, filled, len(tokens), block)

    def use(self, node: Node) -> None:
        """Mark as just used, with all that is above: children first, so that they go first."""
        ring, at = self._ring, node
        while at.parent is not None:
            at.older.newer, at.newer.older = at.newer, at.older
            at.older, at.newer = ring.older, ring
            ring.older.newer = ring.older = at
            at = at.parent

    def evict(self, n_wanted: int) -> int:
        """Let go of blocks until `n_wanted` are free in the pool, as far as that goes; returns how many went."""
        n, missing = 0, n_wanted - self.pool.n_free
        for node in self._oldest_first() if missing > 0 else ():
            if node.child is None and self.pool.holders(node.block) == 1:
                self._remove(node)
                n += 1
                if n == missing:
                    break
        return n

    def prune(self, node: Node, n: int) -> None:
        """Let go of the path that ends in `node`, the last first: at most `n` blocks, which one sequence uses alone."""
        at: Node | None = node
        for _ in range(n):
            if at is None or at.parent is None or at.child is not None or self.pool.holders(at.block) != 2:
                return
            at, gone = at.parent, at
            self._remove(gone)

    def drop(self, key: Hashable, tokens: Sequence[int]) -> int:
        """Let go of the known beginning of a text, but for what other texts or sequences hold too.

        Returns how many of its tokens are forgotten.
        """
        path, length = self.match(key, tokens)
        left = length
        for place, node in reversed(list(enumerate(path))):
            held = node.child is not None or self.pool.holders(node.block) != 1
            start = place * self.size
            if held or node.tokens != list(tokens[start : start + node.n_token]):
                break
            self._remove(node)
            left = start
        return length - left

    def forget(self, key: Hashable) -> None:
        """Let go of everything under a key."""
        root = self._roots.pop(key, None)
        found = [root] if root is not None else []
        for node in found:  # which grows on the way
            found += _children(node)
        for node in reversed(found[1:]):
            self._remove(node)

    def clear(self) -> None:
        """Forget everything."""
        for node in self._oldest_first():
            self._remove(node)
        self._roots.clear()

    def _oldest_first(self) -> Iterator[Node]:
        """All nodes, that used longest ago first; each may be removed on the way."""
        node = self._ring.newer
        while node is not self._ring:
            node, found = node.newer, node
            yield found

    def _bucket(self, parent: Node, filled: bytes) -> int:
        return hash((id(parent), filled)) & len(self._buckets) - 1

    def _find(self, parent: Node, filled: bytes) -> Node | None:
        """The child that holds just these tokens."""
        node = self._buckets[self._bucket(parent, filled)]
        while node is not None and not (node.parent is parent and node.spelled == filled):
            node = node.next
        return node

    def _nearest(self, node: Node, wanted: bytes) -> tuple[Node | None, int]:
        """The child that shares most tokens with `wanted`, and how many."""
        best: Node | None = None
        length = 0
        for number, child in enumerate(_children(node)):
            if number == MOST_COMPARED:
                break
            n = _common(child.spelled, wanted)
            if n > length:
                best, length = child, n
        return best, length

    def _add(self, parent: Node, filled: bytes, n_token: int, block: int) -> Node:
        """A new node, the youngest of its parent's children, and just older by use than its parent."""
        if not self._spare:
            n = min(MADE_AT_ONCE, max(1, self.pool.n_block - self._n_made))
            self._spare += [Node(self.size) for _ in range(n)]
            self._n_made += n
        node = self._spare.pop()
        node.block, node.parent, node.n_token = block, parent, n_token
        node.spelled[:] = filled  # of the same length, so it stays where it is
        self.pool.retain(block)
        bucket = self._bucket(parent, filled)
        node.next, self._buckets[bucket] = self._buckets[bucket], node
        node.sibling_before, parent.child = parent.child, node
        if node.sibling_before is not None:
            node.sibling_before.sibling_after = node
        after = self._ring if parent.parent is None else parent
        node.older, node.newer = after.older, after
        after.older.newer = after.older = node
        return node

    def _remove(self, node: Node) -> None:
        """Let go of a node that has no children."""
        parent, before, after = node.parent, node.sibling_before, node.sibling_after
        assert parent is not None  # roots have no block
        bucket = self._bucket(parent, bytes(node.spelled))
        at = self._buckets[bucket]
        if at is node:
            self._buckets[bucket] = node.next
        else:
            while at is not None and at.next is not node:
                at = at.next
            assert at is not None  # it is in its bucket
            at.next = node.next
        if after is None:
            parent.child = before
        else:
            after.sibling_before = before
        if before is not None:
            before.sibling_after = after
        node.older.newer, node.newer.older = node.newer, node.older
        self.pool.release(node.block)
        node.block = -1
        node.parent = node.sibling_before = node.sibling_after = node.next = None
        self._spare.append(node)


def _children(node: Node) -> Iterator[Node]:
    """Those of a node, the last that came first."""
    child = node.child
    while child is not None:
        yield child
        child = child.sibling_before


def _spelled(tokens: Sequence[int]) -> bytes:
    """Tokens as they are compared."""
    return array("i", tokens).tobytes()


def _common(spelled: bytearray, wanted: bytes) -> int:
    """How many tokens at the start are the same."""
    n = 0
    for x, y in zip(memoryview(spelled).cast("i"), memoryview(wanted).cast("i"), strict=False):
        if x != y:
            break
        n += 1
    return n
