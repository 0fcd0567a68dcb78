"""Masks against trying every token, and what a matcher keeps when it goes back."""

from __future__ import annotations

import json
import random
import time

import numpy as np
import pytest
from llamakit.plugins.samplers.grammar.compile import network, shared
from llamakit.plugins.samplers.grammar.gbnf import parse_gbnf
from llamakit.plugins.samplers.grammar.schema import schema_to_grammar

from llamakit import _sampling
from llamakit.gguf import open_gguf
from llamakit.tokenizer import load_tokenizer

GRAMMARS = {
    "json": lambda: schema_to_grammar(True)[0],
    "order": lambda: schema_to_grammar(ORDER)[0],
    "counted": lambda: parse_gbnf('root ::= "{" [^}]{3,40} "}" | ("ab" | "a"){2,5} [^\\n]{0,20}'),
    "words": lambda: parse_gbnf('root ::= (word " "){2,} word "."\nword ::= [a-zé]+ | [0-9]{1,3}'),
}
ORDER = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
        "note": {"type": "string", "maxLength": 80},
        "lines": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"sku": {"enum": ["a1", "b2"]}, "n": {"type": "integer", "minimum": 1, "maximum": 99}},
                "required": ["sku", "n"],
            },
            "maxItems": 5,
        },
        "day": {"type": "string", "format": "date"},
    },
    "required": ["id", "lines"],
}
TEXTS = {
    "json": json.dumps({"name": "Lily été", "tags": ["a", None, 1.5], "nested": {"x": "deep text, and more 中文"}}),
    "order": json.dumps(
        {"id": "AB-1234", "note": "Leave it there", "lines": [{"sku": "a1", "n": 7}], "day": "2024-05-06"}
    ),
    "counted": "{" + "x" * 30 + "}",
    "words": "the fox is 12 years old.",
}


@pytest.fixture(scope="module", params=["llama-spm", "llama-bpe"])
def tokenizer(request, test_data):
    return load_tokenizer(open_gguf(test_data / "vocab" / f"ggml-vocab-{request.param}.gguf").metadata)


def tokens_of(tokenizer, text):
    """Tokens that spell exactly this text."""
    ids = tokenizer.encode(text)
    first = tokenizer.piece(ids[0])
    if first.startswith(b" "):  # the space that some vocabularies put before a text
        ids = ([tokenizer.id_of(first[1:].decode())] if len(first) > 1 else []) + ids[1:]
    return ids


@pytest.mark.parametrize("name", GRAMMARS)
def test_a_mask_allows_just_what_can_be_accepted(tokenizer, name):
    program = _sampling.GrammarProgram(network(GRAMMARS[name]()), shared.trie(tokenizer))
    matcher, chance = _sampling.GrammarMatcher(program), random.Random(1)
    for step, token in enumerate(tokens_of(tokenizer, TEXTS[name])):
        if step % 4 == 0:
            bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
            allowed = np.flatnonzero(bits[: tokenizer.n_vocab]).tolist()
            some = chance.sample(range(tokenizer.n_vocab), 3000) + chance.sample(allowed, min(len(allowed), 500))
            for each in some:
                assert bool(bits[each]) == matcher.clone().accept(each), (step, each, tokenizer.piece(each))
        assert matcher.accept(token), (step, tokenizer.piece(token))
    assert matcher.can_end()
    assert any(matcher.clone().accept(end) for end in tokenizer.eog_ids)


def test_going_back_and_copies(tokenizer):
    program = _sampling.GrammarProgram(network(GRAMMARS["json"]()), shared.trie(tokenizer))
    matcher, masks = _sampling.GrammarMatcher(program), []
    ids = tokens_of(tokenizer, TEXTS["json"])
    for token in ids:
        masks.append(matcher.mask().copy())
        matcher.accept(token)
    for back in (1, 5, len(ids)):
        other = matcher.clone()
        other.rewind(back)
        assert (other.mask() == masks[len(ids) - back]).all()
        assert other.n_token == len(ids) - back
        for token in ids[len(ids) - back :]:
            assert other.accept(token)
    assert not matcher.accept(tokenizer.n_vocab + 5)
    assert not matcher.accept(-1)


def test_control_tokens_are_never_allowed(tokenizer):
    program = _sampling.GrammarProgram(network(parse_gbnf("root ::= .*")), shared.trie(tokenizer))
    matcher = _sampling.GrammarMatcher(program)
    bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
    for token in range(tokenizer.n_vocab):
        if tokenizer.is_control(token):
            assert bool(bits[token]) == (token in tokenizer.eog_ids)


def test_fixed_text_is_forced(tokenizer):
    grammar = parse_gbnf('root ::= "x" [0-9]')
    matcher = _sampling.GrammarMatcher(_sampling.GrammarProgram(network(grammar), shared.trie(tokenizer)))
    assert matcher.forced_bytes(10) == b"x"
    assert tokenizer.decode(matcher.forced(5)).strip() in ("x", "")


def test_masks_are_fast(tokenizer):
    program = _sampling.GrammarProgram(network(GRAMMARS["order"]()), shared.trie(tokenizer))
    times = []
    for _ in range(2):
        matcher, began = _sampling.GrammarMatcher(program), time.process_time()
        ids = tokens_of(tokenizer, TEXTS["order"])
        for token in ids:
            matcher.compute()
            matcher.accept(token)
        times.append((time.process_time() - began) / len(ids))
    assert times[0] < 1e-3  # about 30 microseconds on a quiet machine
    assert times[1] < 1e-4  # about 1
