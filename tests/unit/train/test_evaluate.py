"""Scores beside a computation by hand from logits."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from llamakit import embedded
from llamakit.models.lora import load_adapter
from llamakit.testing.lora import adapted_logits
from llamakit.train import checkpoint
from llamakit.train.evaluate import Score, score
from tests.unit.train.tiny import TEXT, trainer

LETTERS = TEXT.replace(" ", "")  # a space would be three bytes of this vocabulary


def by_hand(base, windows, adapters=None) -> tuple[float, float, int]:
    """(sum of weight * nats, sum of weights, bytes) of every sample by itself, from logits in float64.

    Tokens of the base are bytes, behind three that are no text.
    """
    nats, weight, n_bytes = 0.0, 0.0, 0
    for sample in windows.samples:
        rows = adapted_logits(base, sample.tokens[:-1].tolist(), "cpu", adapters).astype(np.float64)
        p = np.exp(rows - rows.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        targets, weights = sample.tokens[1:], sample.weights[1:].astype(np.float64)
        nats += float(-(weights * np.log(p[np.arange(len(targets)), targets])).sum())
        weight += float(weights.sum())
        n_bytes += int(((targets >= 3) & (weights > 0)).sum())
    return nats, weight, n_bytes


@pytest.mark.parametrize("packing", ["none", "segments"])
@pytest.mark.parametrize("batch", [1, 3])
def test_base_and_trained_beside_logits(base, tmp_path, packing, batch):
    records = [{"prompt": f"{i}:", "completion": LETTERS[: 3 + 11 * i % 26]} for i in range(7)]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    options = {"packing": packing, "ctx": 32, "batch": batch}
    run = trainer(base, path, tmp_path / "run", **options, lr=0.05, clip=0.0)
    run.run()
    adapter = load_adapter(tmp_path / "run" / "adapter.gguf", run.session.model)
    again = trainer(base, path, tmp_path / "other", **options)
    found = again.scores(checkpoint.latest(tmp_path / "run" / "checkpoints")[0])
    for each, adapters in zip(found, (None, adapter.tensors), strict=True):
        nats, tokens, n_bytes = by_hand(base, again.windows[0], adapters)
        assert each.tokens == tokens == sum(len(record["completion"]) + 1 for record in records)  # with the end's
        assert n_bytes == tokens - len(records)
        assert each.loss == pytest.approx(nats / tokens, rel=1e-5)
        assert each.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-4)
        assert each.bits_per_byte == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-5)
    assert found[1].loss < 0.99 * found[0].loss


def test_tokens_that_count_more_or_less_weigh_in_the_mean(base, tmp_path):
    records = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": text, "weight": weight}]}
        for text, weight in (("the cat", 1.0), ("sat on the mat and", 0.25), ("x", 0.5))
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    run = trainer(base, path, tmp_path / "run", packing="none", ctx=32)
    assert {0.25, 0.5, 1.0} <= set(run.windows[0].batch(range(3)).weights.tolist())
    found = score(run.stepper, run.windows[0], run.session.tokenizer, 2)
    nats, weight, n_bytes = by_hand(base, run.windows[0])
    assert weight < found.tokens
    assert found.loss == pytest.approx(nats / weight, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(found.loss * found.tokens / math.log(2) / n_bytes, rel=1e-9)


def test_bytes_are_those_of_the_answers(tmp_path):
    """Pieces of several bytes, a letter of two; what ends an answer is not text."""
    answers = ["The fox eats grapes.", " déjà vu", "12"]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": "q", "completion": text}) for text in answers))
    run = trainer(embedded.FILE, path, tmp_path / "run", packing="segments", template="plain", ctx=64)
    found = score(run.stepper, run.windows[0], run.session.tokenizer, 4)
    n_bytes = sum(len(text.encode()) for text in answers)
    assert found.tokens < n_bytes
    assert found.bits_per_byte == pytest.approx(found.loss * found.tokens / math.log(2) / n_bytes, rel=1e-9)


class Losses:
    """A stepper whose loss is given."""

    def __init__(self, nats: float) -> None:
        self.nats = nats

    def loss(self, batch) -> float:
        return self.nats * batch.loss_weight


@pytest.mark.parametrize(("nats", "perplexity"), [(0.0, 1.0), (1.0, math.e), (1e4, math.exp(700))])
def test_a_perplexity_is_a_number(base, data, tmp_path, nats, perplexity):
    run = trainer(base, data, tmp_path / "run")
    found = score(Losses(nats), run.windows[0], run.session.tokenizer, 4)
    assert isinstance(found, Score)
    assert found.loss == pytest.approx(nats)
    assert found.perplexity == pytest.approx(perplexity)
