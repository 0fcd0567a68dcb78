"""A grammar changes nothing of an answer that keeps to it anyhow, and draws as if it had masked from the start."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from llamakit.plugins.samplers.grammar.compile import network
from llamakit.plugins.samplers.grammar.gbnf import parse_gbnf
from llamakit.plugins.samplers.grammar.regex import parse_regex

from llamakit import _sampling
from llamakit.sampler import Candidates, Sampler, Stage
from llamakit.session import Session

BYTES = [bytes([byte]) for byte in range(256)]
DRAWS = 40_000


def stage(grammar: Any, tokens: list[bytes] = BYTES) -> Any:
    """A started stage over a vocabulary of byte strings."""
    program = _sampling.GrammarProgram(network(grammar), _sampling.TokenTrie(tokens, [], []))
    made = _sampling.GrammarStage(program)
    made.start()
    return made


@pytest.mark.parametrize("source", ['root ::= "ab" root | "é" | [^a-y]{2,3}', 'root ::= [0-9]+ ("," [0-9]+)*'])
def test_what_is_permitted_is_what_the_mask_keeps(source):
    grammar, chance = parse_gbnf(source), random.Random(1)
    tokens = [*BYTES, b"ab", b"aba", b"12,", b",", b"\xc3\xa9", b"zzz", b"zzzz"]
    program = _sampling.GrammarProgram(network(grammar), _sampling.TokenTrie(tokens, [], []))
    for _ in range(20):
        matcher = _sampling.GrammarMatcher(program)
        made = _sampling.GrammarStage(program)
        made.start()
        for _ in range(6):
            bits = matcher.mask()
            allowed = [i for i in range(len(tokens)) if bits[i // 32] >> (i % 32) & 1]
            assert [i for i in range(len(tokens)) if made.permits(i)] == allowed
            if not allowed:
                break
            token = chance.choice(allowed)
            assert matcher.accept(token)
            made.accept(token)


def test_drawing_again_keeps_the_masked_distribution():
    """A draw that is kept where it is permitted, and else repeated apart, is a draw from what is permitted."""
    logits = np.full((1, 256), -np.inf, np.float32)
    probabilities = {"a": 0.5, "b": 0.25, "c": 0.15, "d": 0.1}
    for letter, p in probabilities.items():
        logits[0, ord(letter)] = np.log(p)
    grammar, dist = stage(parse_regex("[bd]")), _sampling.Dist(7, 0)
    count = dict.fromkeys(probabilities, 0)
    for _ in range(DRAWS):
        [(token, message)] = _sampling.sample_rows(logits, [0], [[grammar, dist]])
        assert not message
        count[chr(token)] += 1
        dist.accept(token)
    assert count["a"] == count["c"] == 0
    share = 0.25 / 0.35
    assert abs(count["b"] / DRAWS - share) < 5 * np.sqrt(share * (1 - share) / DRAWS)


class NoLetter(Sampler):
    """A masking sampler in Python."""

    name = "no_letter"
    stage = Stage.LOGITS
    token = ord("a")

    def masks(self) -> bool:
        return True

    def permits(self, token_id: int) -> bool:
        return token_id != self.token

    def apply(self, candidates: Candidates) -> None:
        bits = np.full(8, 0xFFFFFFFF, np.uint32)
        bits[self.token // 32] &= np.uint32(0xFFFFFFFF ^ (1 << self.token % 32))
        candidates.mask(bits)

    def clone(self) -> Sampler:
        return self


def test_the_same_for_masks_written_in_python():
    from llamakit.plugins.samplers.dist import Dist

    from llamakit.engine.sampling import SamplerChain
    from llamakit.sampler import SequenceContext

    context = SequenceContext(n_vocab=256, n_ctx=64, seed=3)
    logits = np.random.default_rng(0).normal(0, 2, (300, 256)).astype(np.float32)
    logits[:, ord("a")] += 4  # likely enough to be drawn often
    free = [SamplerChain([Dist(None, context)]).sample(row) for row in logits]
    held = [SamplerChain([NoLetter(None, context), Dist(None, context)]).sample(row) for row in logits]
    assert ord("a") in free
    assert ord("a") not in held
    assert all(h == f for f, h in zip(free, held, strict=True) if f != ord("a"))


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.3])
@pytest.mark.parametrize("more", [{}, {"top_k": 10, "repeat_penalty": 1.2}, {"mirostat": 2}])
def test_answers_agree_as_long_as_they_keep_to_the_grammar(small_model, backend_name, temperature, more):
    options = {"max_tokens": 48, "temperature": temperature, **more}
    left = stayed = 0
    with Session(small_model, backend=backend_name, threads=1) as session:
        for seed in range(8):
            free = session.generate("Once upon a time", seed=seed, **options)
            for pattern in ("[^L]*", "[^.]*(\\.[^.]*){0,2}", "(.|\n)*", "[a-zA-Z ,.]*"):
                held = session.generate("Once upon a time", seed=seed, regex=pattern, **options)
                same = next((i for i, (a, b) in enumerate(zip(free.tokens, held.tokens, strict=False)) if a != b), None)
                if same is None:
                    assert held.tokens == free.tokens[: len(held.tokens)]
                    stayed += 1
                    continue
                prefix = session.detokenize(free.tokens[: same + 1])
                grammar = stage(parse_regex(pattern))
                reached = [byte for byte in prefix.encode() if grammar.permits(byte) and not grammar.accept(byte)]
                assert len(reached) < len(prefix.encode()), f"{pattern} would have permitted {prefix!r}"
                left += 1
    assert stayed
    assert left
