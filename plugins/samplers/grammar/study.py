"""A grammar to look at: its rules, texts that are in it, and where a text leaves it."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from llamakit.plugins.samplers.grammar import charset
from llamakit.plugins.samplers.grammar.build import walk
from llamakit.plugins.samplers.grammar.compile import network
from llamakit.plugins.samplers.grammar.errors import GrammarError, excerpt
from llamakit.plugins.samplers.grammar.generate import random_text
from llamakit.plugins.samplers.grammar.ir import Tokens
from llamakit.plugins.samplers.grammar.printer import in_class, to_gbnf

if TYPE_CHECKING:
    from llamakit.plugins.samplers.grammar.ir import Grammar

MOST_SHOWN = 100  # characters of what could follow
LARGEST_TEXT = 1 << 20  # bytes of a text that is checked


class Verdict(msgspec.Struct, frozen=True):
    """Whether a text is in a grammar; if not, the place where it leaves it, counted from 1 in characters."""

    accepted: bool
    reason: str = ""
    line: int = 0
    column: int = 0
    excerpt: str = ""
    expected: str = ""


class Study:
    """A grammar that was read, with what is odd in it and what was left out of it."""

    def __init__(self, grammar: Grammar, warnings: tuple[str, ...], left_out: tuple[str, ...]) -> None:
        self.grammar, self.warnings, self.left_out = grammar, warnings, left_out
        self._made: Any = None

    @property
    def n_rule(self) -> int:
        """How many rules it has."""
        return len(self.grammar.rules)

    @property
    def n_state(self) -> int:
        """States of the network that it is run as; GrammarError if it is too large."""
        return int(network(self.grammar).n_state)

    @property
    def names_tokens(self) -> bool:
        """Whether it names tokens of a vocabulary, which are in no text."""
        return any(isinstance(node, Tokens) for rule in self.grammar.rules for node in walk(rule.body))

    def gbnf(self) -> str:
        """The grammar in GBNF, one rule a line, `root` first. GrammarError for what GBNF has no words for."""
        return to_gbnf(self.grammar)

    def texts(self, count: int, *, seed: int | None = None) -> list[str]:
        """Random texts of the grammar, the same ones for the same seed."""
        random = Random(seed)
        return [random_text(self.grammar, random) for _ in range(count)]

    def check(self, text: str) -> Verdict:
        """Whether the text is in the grammar as a whole, and where it leaves it."""
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            return self._verdict(text, error.start, "half of a surrogate pair is not a character", "")
        if len(data) > LARGEST_TEXT:
            raise GrammarError(f"the text has {len(data):,} bytes; {LARGEST_TEXT:,} are possible")
        from llamakit import _sampling

        try:
            matcher = self._matcher()
            for place, c in enumerate(text):
                if not matcher.accept_bytes(c.encode()):  # which leaves it where it was
                    return self._verdict(text, place, f"{c!r} cannot stand here", _expected(matcher))
            if matcher.can_end():
                return Verdict(accepted=True)
            return self._verdict(text, len(text), "the text ends too early", _expected(matcher))
        except _sampling.GrammarLimitError as error:
            raise GrammarError(str(error)) from None

    def _matcher(self) -> Any:
        from llamakit import _sampling

        if self._made is None:
            trie = _sampling.TokenTrie([bytes([byte]) for byte in range(256)], [], [])
            self._made = _sampling.GrammarProgram(network(self.grammar), trie)
        return _sampling.GrammarMatcher(self._made)

    def _verdict(self, text: str, place: int, reason: str, expected: str) -> Verdict:
        start = text.rfind("\n", 0, place) + 1
        return Verdict(
            accepted=False, reason=reason, line=text.count("\n", 0, place) + 1, column=place - start + 1,
            excerpt=excerpt(text, start, place), expected=expected,
        )  # fmt: skip


def _expected(matcher: Any) -> str:
    """The characters that can follow, as a class; of those beyond ASCII only whether there are any."""
    bits = np.unpackbits(np.asarray(matcher.mask(), np.uint32).view(np.uint8), bitorder="little")[:256]
    codes = [int(byte) for byte in np.flatnonzero(bits)]
    shown = "".join(in_class(charset.normal((code, code) for code in codes if code < 0x80)))
    if len(shown) > MOST_SHOWN:
        shown = shown[:MOST_SHOWN] + "..."
    parts = ([f"[{shown}]"] if shown else []) + (["characters beyond ASCII"] if codes and codes[-1] >= 0x80 else [])
    if matcher.can_end():
        parts.append("the end")
    return ", ".join(parts)
