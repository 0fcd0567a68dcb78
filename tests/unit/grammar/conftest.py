"""A vocabulary of all bytes, and whether a text is in a grammar by the native matcher."""

from __future__ import annotations

import pytest
from llamakit.plugins.samplers.grammar.analysis import productive
from llamakit.plugins.samplers.grammar.compile import network

from llamakit import _sampling


@pytest.fixture(scope="session")
def matches():
    """`matches(grammar)` gives a function that says whether a text is in it."""
    trie = _sampling.TokenTrie([bytes([byte]) for byte in range(256)], [], [])

    def make(grammar):
        if not productive(grammar)[grammar.root]:
            return lambda text: False
        program = _sampling.GrammarProgram(network(grammar), trie)

        def holds(text):
            matcher = _sampling.GrammarMatcher(program)
            return (not text or matcher.accept_bytes(text.encode())) and matcher.can_end()

        return holds

    return make
