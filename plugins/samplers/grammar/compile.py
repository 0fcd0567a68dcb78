"""From the intermediate form to the native network, and what is shared between requests."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from llamakit.plugins.samplers.grammar.budget import limited
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.ir import Alt, Automaton, Chars, Grammar, Node, Ref, Repeat, Seq, Text, Tokens

from llamakit.tokenizer import TokenType

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from llamakit.tokenizer import Tokenizer

WARM_MASKS = 48  # made when a grammar is new, while its prompt waits
MOST_PROGRAMS = 64  # grammars that are kept ready, the least recently used go first
MOST_BYTES = 512 << 20  # that they may take; each by itself stays below about 80 MB
LONG_REPEAT = 8  # turns from which on a repetition is worth a mask of its own
HIDDEN = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.UNUSED)


def network(grammar: Grammar) -> Any:
    """The native network of a grammar; GrammarError if it matches nothing or is too large."""
    from llamakit import _sampling

    shared = _shared(grammar)
    builder = _sampling.GrammarBuilder(len(grammar.rules) + len(shared))
    writer = _Writer(builder, shared)
    try:
        for number, rule in enumerate(grammar.rules):
            builder.rule(number, writer.write(rule.body, whole=True))
        for node, number in shared.items():
            builder.rule(number, writer.write(node, whole=True))
        return builder.finish(grammar.root)
    except _sampling.GrammarLimitError as error:
        raise GrammarError(str(error)) from None


class _Writer:
    """Writes nodes to the builder, children first. Trees are at most `ir.MAX_DEPTH` deep."""

    def __init__(self, builder: Any, shared: dict[Node, int]) -> None:
        self._builder, self._shared = builder, shared

    def write(self, node: Node, *, whole: bool = False) -> int:
        """A node's number; `whole`: it is the body of a rule."""
        b = self._builder
        if not whole and isinstance(node, Seq) and node in self._shared:
            return int(b.ref(self._shared[node]))
        match node:
            case Text(data):
                made = b.text(data)
            case Chars(ranges):
                made = b.chars(ranges)
            case Tokens(ids, negated):
                made = b.tokens(ids, negated)
            case Ref(rule):
                made = b.ref(rule)
            case Seq(items):
                made = b.seq([self.write(item) for item in items])
            case Alt(items):
                made = b.alt([self.write(item) for item in items])
            case Repeat(item, least, most):
                made = b.repeat(self.write(item), least, -1 if most is None else most)
            case Automaton(states):
                made = b.automaton([state.edges for state in states], [state.accepting for state in states])
        return int(made)


def _shared(grammar: Grammar) -> dict[Node, int]:
    """Sequences with a loop in them, such as strings, which become rules: their masks are made once for all places."""
    found: dict[Node, int] = {}
    for rule in grammar.rules:
        for node in _nodes(rule.body):
            if isinstance(node, Seq) and node is not rule.body and node not in found and _has_loop(node):
                found[node] = len(grammar.rules) + len(found)
    return found


def _has_loop(node: Seq) -> bool:
    return any(isinstance(item, Repeat) and (item.most is None or item.most >= LONG_REPEAT) for item in node.items)


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    if isinstance(node, (Seq, Alt)):
        for item in node.items:
            yield from _nodes(item)
    elif isinstance(node, Repeat):
        yield from _nodes(node.item)


class Shared:
    """Vocabularies as trees, one for each tokenizer, and programs by what they were made from."""

    def __init__(self) -> None:
        self._tries: WeakKeyDictionary[Tokenizer, Any] = WeakKeyDictionary()
        self._programs: OrderedDict[tuple[Hashable, Any], tuple[Any, list[str]]] = OrderedDict()
        self._lock = threading.Lock()

    def trie(self, tokenizer: Tokenizer) -> Any:
        """The tree of a vocabulary. Control, unknown and unused tokens are not in it."""
        from llamakit import _sampling

        with self._lock:
            if tokenizer not in self._tries:
                ids = range(tokenizer.n_vocab)
                hidden = [i for i in ids if tokenizer.token_type(i) in HIDDEN]
                pieces = [tokenizer.piece(i, special=True) for i in ids]
                self._tries[tokenizer] = _sampling.TokenTrie(pieces, hidden, sorted(tokenizer.eog_ids))
            return self._tries[tokenizer]

    def program(
        self, key: Hashable, tokenizer: Tokenizer, make: Callable[[list[str]], Grammar]
    ) -> tuple[Any, list[str]]:
        """The program for a key and what was left out of it; GrammarError for what is too large.

        It is made of `make(left_out)`, and warmed, if it is new. Programs of a tokenizer that is gone go too.
        """
        from llamakit import _sampling

        trie = self.trie(tokenizer)
        whole = (key, trie)  # the tree itself: as long as it is kept here, no other has its address
        with self._lock:
            if whole in self._programs:
                self._programs.move_to_end(whole)
                return self._programs[whole]
        left_out: list[str] = []

        try:
            with limited():
                program = _sampling.GrammarProgram(network(make(left_out)), trie)
                program.warm(WARM_MASKS)
        except _sampling.GrammarLimitError as error:
            raise GrammarError(str(error)) from None
        with self._lock:
            self._programs[whole] = program, left_out
            known = set(self._tries.values())
            for gone in [each for each in self._programs if each[1] not in known]:
                del self._programs[gone]
            size = sum(each.n_byte for each, _ in self._programs.values())
            while len(self._programs) > MOST_PROGRAMS or (size > MOST_BYTES and len(self._programs) > 1):
                size -= self._programs.popitem(last=False)[1][0].n_byte
        return program, left_out


shared = Shared()
