"""The prefix tree: evaluated beginnings of texts, found again by later requests.

Each node is one block of the KV cache with the tokens that it holds; its path from the root spells a prefix. A root
belongs to a key: adapters and salt, since they change what is in the blocks or who may share them. The tree holds
every block once (`BlockPool.retain`); when memory is short the least recently used leaves that nobody else holds go.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamakit.engine.kv_cache import BlockPool

WIDTH = array("i").itemsize
MOST_COMPARED = 64  # children that are compared token by token when none holds the whole next block
MOST_ROOTS = 4096  # from there on, roots that hold nothing are forgotten


class Node:
    """A block; `key` spells its tokens, `size` many, or fewer in a leaf that an ended text left.

    As bytes: numbers would lie where they were made, one here and one there among those of answers, and what is free
    between them could not be given back.
    """

    __slots__ = ("block", "children", "key", "parent")

    def __init__(self, key: bytes, block: int, parent: Node | None) -> None:
        self.key, self.block, self.parent = key, block, parent
        self.children: dict[bytes, Node] = {}

    @property
    def n_token(self) -> int:
        """How many tokens it holds."""
        return len(self.key) // WIDTH


class PrefixTree:
    """Prefixes by key. Not thread-safe: the engine's thread owns it."""

    def __init__(self, pool: BlockPool, block_size: int) -> None:
        self.pool, self.size = pool, block_size
        self._roots: dict[Hashable, Node] = {}
        self._used: OrderedDict[Node, None] = OrderedDict()  # least recently used first, children before parents

    def __len__(self) -> int:
        return len(self._used)

    def root(self, key: Hashable) -> Node:
        """Where the prefixes of a key begin."""
        found = self._roots.get(key)
        if found is None:
            if len(self._roots) >= MOST_ROOTS:
                self._roots = {key: root for key, root in self._roots.items() if root.children}
            found = self._roots[key] = Node(b"", -1, None)
        return found

    def match(self, key: Hashable, tokens: Sequence[int]) -> tuple[list[Node], int]:
        """The nodes of the longest known beginning of `tokens`, and its length; the last may be known in part."""
        path: list[Node] = []
        node, length = self._roots.get(key), 0
        while node is not None and length < len(tokens):
            wanted = _spelled(tokens[length : length + self.size])
            child = node.children.get(wanted)
            if child is not None and child.n_token == self.size:
                path.append(child)
                node, length = child, length + self.size
                continue
            best, n = self._nearest(node, wanted)
            if best is not None:
                path.append(best)
                length += n
            break
        self._touch(path)
        return path, length

    def insert(self, parent: Node, tokens: Sequence[int], block: int) -> Node:
        """A block that holds `tokens` after `parent`; if one is known already, that one is returned."""
        key = _spelled(tokens)
        child = parent.children.get(key)
        if child is None:
            nearest, n = self._nearest(parent, key)
            if nearest is not None and n == len(tokens):  # the beginning of a block that is known
                self._touch([nearest])
                return nearest
            if nearest is not None and n == nearest.n_token:  # the text went on where one had ended
                self._remove(nearest)
            child = parent.children[key] = Node(key, block, parent)
            self.pool.retain(block)
        self._touch([child])
        return child

    def evict(self, n_wanted: int) -> int:
        """Let go of blocks until `n_wanted` are free in the pool, as far as that goes; returns how many went."""
        missing = n_wanted - self.pool.n_free
        victims: list[Node] = []
        dropped: dict[Node, int] = {}  # children that go, by parent
        for node in self._used if missing > 0 else ():
            if len(node.children) == dropped.get(node, 0) and self.pool.holders(node.block) == 1:
                victims.append(node)
                if node.parent is not None:
                    dropped[node.parent] = dropped.get(node.parent, 0) + 1
                if len(victims) == missing:
                    break
        for node in victims:
            self._remove(node)
        return len(victims)

    def prune(self, node: Node, n: int) -> None:
        """Let go of the path that ends in `node`, the last first: at most `n` blocks, which one sequence uses alone."""
        at: Node | None = node
        for _ in range(n):
            if at is None or at.parent is None or at.children or self.pool.holders(at.block) != 2:
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
            held = node.children or self.pool.holders(node.block) != 1
            start = place * self.size
            if held or node.key != _spelled(tokens[start : start + node.n_token]):
                break
            self._remove(node)
            left = start
        return length - left

    def forget(self, key: Hashable) -> None:
        """Let go of everything under a key."""
        root = self._roots.pop(key, None)
        left = list(root.children.values()) if root is not None else []
        while left:
            node = left.pop()
            left += node.children.values()
            del self._used[node]
            self.pool.release(node.block)

    def clear(self) -> None:
        """Forget everything."""
        for node in self._used:
            self.pool.release(node.block)
        self._used.clear()
        self._roots.clear()

    def _nearest(self, node: Node, wanted: bytes) -> tuple[Node | None, int]:
        """The child that shares most tokens with `wanted`, and how many."""
        best: Node | None = None
        length = 0
        for number, child in enumerate(reversed(node.children.values())):
            if number == MOST_COMPARED:
                break
            n = _common(child.key, wanted)
            if n > length:
                best, length = child, n
        return best, length

    def _touch(self, path: Sequence[Node]) -> None:
        """Mark as just used, with all that is above: children first, so that they go first."""
        node = path[-1] if path else None
        while node is not None and node.parent is not None:
            self._used[node] = None
            self._used.move_to_end(node)
            node = node.parent

    def _remove(self, node: Node) -> None:
        del self._used[node]
        self.pool.release(node.block)
        parent = node.parent
        assert parent is not None  # roots are not in `_used`
        del parent.children[node.key]


def _spelled(tokens: Sequence[int]) -> bytes:
    """Tokens as a key."""
    return array("i", tokens).tobytes()


def _common(a: bytes, b: bytes) -> int:
    """How many tokens at the start are the same."""
    n = 0
    for x, y in zip(memoryview(a).cast("i"), memoryview(b).cast("i"), strict=False):
        if x != y:
            break
        n += 1
    return n
