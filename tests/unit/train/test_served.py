"""What is served is what was trained: through the session, with the adapter as anybody loads it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from llamakit import Session
from llamakit.cli import llamakit
from llamakit.errors import UsageError
from llamakit.gguf.quantize import quantize_file
from llamakit.models.lora import load_adapter
from llamakit.testing.lora import adapted_logits
from llamakit.testing.vocabulary import BYTES
from llamakit.train.scratch import ShapeOptions, choose_shape, write_new_model
from llamakit.train.vocabulary import add_vocabulary

OPTIONS = {
    "plain": {}, "alpha": {"alpha": 5.0}, "rslora": {"rslora": True}, "ranks": {"rank_pattern": {"attn_*": 3}},
}  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """One model by type."""
    folder = tmp_path_factory.mktemp("bases")
    shape = choose_shape(ShapeOptions(embd=32, layers=2, heads=2, kv_heads=1, ff=64), 259, 64)
    write_new_model(folder / "F32.gguf", shape, lambda writer: add_vocabulary(writer, BYTES), seed=1)
    for type in ("Q4_0", "Q8_0"):
        quantize_file(folder / "F32.gguf", folder / f"{type}.gguf", type.lower())
    return {type: folder / f"{type}.gguf" for type in ("F32", "Q4_0", "Q8_0")}


def train(base, tmp_path, **options):
    """A run of six steps; the adapter's file and a batch of one window with the trainer's loss."""
    (tmp_path / "data.txt").write_text("the cat sat on the mat and the dog sat on the log. " * 40)
    values = {"ctx": 32, "batch": 2, "rank": 2, "lr": 1e-2, "steps": 6, "packing": "wrapped", "val_split": 0.0}
    with Session(base, backend="cpu") as session:
        run = session.trainer(data=[str(tmp_path / "data.txt")], out=str(tmp_path / "run"), **values | options)
        run.run()
        batch = run.windows[0].batch([0])
        return tmp_path / "run" / "adapter.gguf", batch, run.stepper.loss(batch) / batch.loss_weight


def loss(logits, batch) -> float:
    rows = logits.astype(np.float64)
    top = rows.max(1)
    found = np.log(np.exp(rows - top[:, None]).sum(1)) + top - rows[np.arange(len(rows)), batch.targets]
    return float(np.average(found, weights=batch.weights))


@pytest.mark.parametrize("forward", ["f32", "native"])
@pytest.mark.parametrize("type", ["F32", "Q4_0", "Q8_0"])
def test_the_loss_of_the_served_adapter_is_the_trainers(bases, tmp_path, type, forward):
    adapter, batch, expected = train(bases[type], tmp_path, forward=forward)
    tokens, settings = batch.tokens.tolist(), {"activations": forward, "kv_type": "f32"}
    with Session(bases[type], backend="cpu", lora=[(str(adapter), 1.0)], **settings) as session:
        assert loss(session.logits(tokens), batch) == pytest.approx(expected, abs=1e-4 if forward == "native" else 1e-5)
    with Session(bases[type], backend="cpu", **settings) as session:
        assert abs(loss(session.logits(tokens), batch) - expected) > 0.1  # the base is another one


@pytest.mark.parametrize("type", ["F32", "Q4_0"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_served_logits_are_those_of_the_definition(bases, tmp_path, type, options):
    adapter, batch, _ = train(bases[type], tmp_path, forward="f32", targets=["*"], **options)
    tokens, settings = batch.tokens.tolist(), {"activations": "f32", "kv_type": "f32"}
    with Session(bases[type], backend="cpu", lora=[(str(adapter), 1.0)], **settings) as session:
        tensors = load_adapter(adapter, session.model).tensors
        expected = adapted_logits(bases[type], tokens, "reference", tensors)
        assert np.abs(session.logits(tokens) - expected).max() < 1e-4


def test_activations_are_those_that_are_asked_for(bases):
    tokens = list(range(40))
    with Session(bases["Q4_0"], backend="reference", kv_type="f32") as session:
        exact = session.logits(tokens)
    for activations, least, most in (("f32", 0.0, 1e-4), ("native", 1e-3, 1.0)):
        with Session(bases["Q4_0"], backend="cpu", kv_type="f32", activations=activations) as session:
            assert least <= np.abs(session.logits(tokens) - exact).max() < most
    with pytest.raises(UsageError, match="activations"):
        Session(bases["Q4_0"], activations="int4")


def test_perplexity_counts_adapters(bases, tmp_path):
    adapter, _, _ = train(bases["F32"], tmp_path)
    command = ["perplexity", "-m", str(bases["F32"]), "-f", str(tmp_path / "data.txt"), "-c", "64", "--json", "-q"]
    found = [CliRunner().invoke(llamakit, [*command, *more]).stdout for more in ([], ["--lora", str(adapter)])]
    base, trained = (json.loads(each)["perplexity"] for each in found)
    assert trained < 0.9 * base
