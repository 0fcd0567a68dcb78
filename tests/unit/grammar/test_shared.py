"""Programs that requests share belong to one vocabulary each, and go with it."""

from __future__ import annotations

from llamakit.plugins.samplers.grammar.compile import Shared
from llamakit.plugins.samplers.grammar.gbnf import parse_gbnf

from llamakit import _sampling
from llamakit.tokenizer import TokenType


class Vocabulary:
    """A tokenizer, as far as grammars see one."""

    def __init__(self, pieces):
        self.pieces, self.n_vocab, self.eog_ids = pieces, len(pieces), ()

    def token_type(self, id):
        return TokenType.NORMAL

    def piece(self, id, *, special):
        return self.pieces[id]


def made(shared, vocabulary):
    return shared.program("key", vocabulary, lambda left_out: parse_gbnf('root ::= "a"'))[0]


def test_a_vocabulary_at_the_address_of_one_that_is_gone_gets_a_program_of_its_own():
    shared = Shared()
    for number in range(40):
        vocabulary = Vocabulary([b"b"] * number + [b"a"])
        matcher = _sampling.GrammarMatcher(made(shared, vocabulary))
        assert matcher.accept(number), number
        del vocabulary, matcher


def test_programs_of_a_vocabulary_that_is_gone_are_not_kept():
    shared = Shared()
    first, second = Vocabulary([b"a"]), Vocabulary([b"b", b"a"])
    kept = made(shared, first)
    made(shared, second)
    assert len(shared._programs) == 2
    del second
    third = Vocabulary([b"a", b"c"])
    made(shared, third)
    assert len(shared._programs) == 2
    assert made(shared, first) is kept
