"""What a step of a run is: whose loss, at which rate, how long; which weights stay; and what it goes on with."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest

from llamakit import Session
from llamakit.errors import LlamaKitError, ModelFileError
from llamakit.gguf import open_gguf
from llamakit.gguf.writer import GGUFWriter
from llamakit.train import checkpoint
from llamakit.train.schedule import factor
from llamakit.training import Trainer
from tests.unit.train.tiny import TEXT, trainer

ANSWERS = (3, 40, 11, 25, 1, 33)  # bytes
PLAIN_SGD = {"optimizer": "sgd", "optimizer_options": {"momentum": 0.0}, "full": True}  # a step is rate * gradient


@pytest.fixture
def unequal(tmp_path):
    """Six windows, whose answers have anything from one to forty tokens that count."""
    path = tmp_path / "unequal.jsonl"
    records = [{"prompt": f"say {i}:", "completion": TEXT[:n]} for i, n in enumerate(ANSWERS)]
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def told(run: Trainer) -> list:
    found = []
    run.on_step(found.append)
    run.run()
    return found


def values(run: Trainer) -> dict[str, np.ndarray]:
    return {name: run.stepper.states[name].read().astype(np.float64) for name in run.graphs.trained}


def norm(arrays) -> float:
    return math.sqrt(sum(float((each**2).sum()) for each in arrays))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("batch", "accumulation"), [(1, 6), (2, 3), (4, 2)])
def test_micro_steps_of_unequal_answers_are_one_large_batch(base, unequal, tmp_path, batch, accumulation, full):
    """Each token counts the same: means of micro-steps' means would be others. Plain SGD, whose step has a length."""
    options = {**PLAIN_SGD, "full": full, "lr": 1.0, "clip": 0.0, "packing": "none", "ctx": 64, "steps": 3}
    made = {}
    for name, sizes in (("large", (6, 1)), ("small", (batch, accumulation))):
        run = trainer(base, unequal, tmp_path / name, **options, batch=sizes[0], grad_accumulation=sizes[1])
        counting = {run.windows[0].batch([i]).loss_tokens for i in range(6)}
        assert len(counting) == 6
        made[name] = (told(run), values(run))
    for small, large in zip(made["small"][0], made["large"][0], strict=True):
        assert small.loss == pytest.approx(large.loss, rel=1e-6)
        assert small.grad_norm == pytest.approx(large.grad_norm, rel=1e-5)
    for name, large in made["large"][1].items():
        assert np.abs(made["small"][1][name] - large).max() <= 1e-5 * np.abs(large).max(), name


def test_gradients_of_unequal_micro_steps_add_up_to_those_of_the_batch(base, unequal, tmp_path):
    runs = [trainer(base, unequal, tmp_path / "run", packing="none", ctx=64, batch=6, full=True) for _ in range(2)]
    windows = runs[0].windows[0]
    whole = windows.batch(range(6))
    runs[0].stepper.accumulate(whole, whole.loss_weight)
    for i in range(6):
        runs[1].stepper.accumulate(windows.batch([i]), whole.loss_weight)
    for name in runs[0].graphs.trained:
        large, small = (run.stepper.states[f"{name}.grad"].read() for run in runs)
        assert np.abs(large).max() > 0
        assert np.abs(small - large).max() < 1e-5 * np.abs(large).max(), name


@pytest.mark.parametrize("batch", [1, 2, 6])
def test_validation_counts_every_token_the_same(base, unequal, data, tmp_path, batch):
    options = {"packing": "none", "ctx": 64, "batch": batch}
    run = trainer(base, data, tmp_path / "run", val_data=[str(unequal)], **options)
    windows = [run.windows[1].batch([i]) for i in range(len(run.windows[1]))]
    tokens = [each.loss_tokens for each in windows]
    means = [run.stepper.loss(each) / count for each, count in zip(windows, tokens, strict=True)]
    assert len(set(tokens)) == 6
    expected = float(np.average(means, weights=tokens))
    assert abs(expected - np.mean(means)) > 5e-5  # the two ways differ here
    assert run.run_state.validate() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("options", "clip"), [
    ({"schedule": "cosine", "warmup": 2, "min_lr": 0.1}, 0.0), ({"schedule": "linear", "warmup": 0}, 0.0),
    ({"schedule": "cosine", "cycles": 2, "warmup": 0.2}, 0.05), ({"schedule": "constant"}, 0.05),
])  # fmt: skip
def test_weights_move_at_the_rate_of_the_schedule_by_the_clipped_gradient(base, data, tmp_path, options, clip):
    """The whole step is as long as rate * norm, over all tensors together: each clipped alone would move further."""
    run = trainer(base, data, tmp_path / "run", **PLAIN_SGD, **options, lr=0.5, clip=clip)
    before, seen = values(run), []

    def look(info):
        after = values(run)
        moved = {name: after[name] - before[name] for name in after}
        before.update(after)
        rate = 0.5 * factor(run.options, info.step - 1, 6)
        assert info.lr == pytest.approx(rate)
        length = min(info.grad_norm, clip or math.inf)
        assert norm(moved.values()) == pytest.approx(rate * length, rel=1e-3)
        assert info.grad_norm > 0.1
        seen.append(info.lr)

    run.on_step(look).run()
    assert len(seen) == 6
    assert (len(set(seen)) == 1) == (options["schedule"] == "constant")


def test_the_schedule_goes_on_where_it_was(base, data, tmp_path):
    whole = told(trainer(base, data, tmp_path / "whole"))
    first = trainer(base, data, tmp_path / "parts")
    first.on_step(lambda info: first.stop() if info.step == 3 else None).run()
    rest = told(Trainer.resume(tmp_path / "parts"))
    assert [info.lr for info in rest] == [info.lr for info in whole[3:]]
    assert len({info.lr for info in whole}) > 3


def adapter_of(path) -> dict[str, np.ndarray]:
    with open_gguf(path) as file:
        return {name: np.array(file.tensor(name)) for name in file.tensors if ".lora_" in name}


def kept(out, step: int) -> dict[str, np.ndarray]:
    """What a checkpoint has of what an adapter holds."""
    with open_gguf(dict(checkpoint.numbered(out / "checkpoints"))[step]) as file:
        return {name: np.array(file.tensor(name)) for name in file.tensors if name.endswith((".lora_a", ".lora_b"))}


def same(one, other) -> bool:
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("stopped", [False, True])
def test_the_best_weights_are_exported_and_not_the_last(base, data, tmp_path, stopped):
    """Scripted validations: the third is the best; a run that goes on behind it does not lose it."""
    out, script = tmp_path / "run", {1: 3.0, 2: 2.0, 3: 1.0, 4: 1.5, 5: 2.5, 6: 1.2}
    options = {"val_split": 0.2, "val_every": 1, "lr": 0.05, "save_every": 1, "keep": 1}

    def go(run: Trainer, until: int):
        state = run.run_state
        state.validate = lambda: script[state.progress.step]
        return run.on_step(lambda info: run.stop() if info.step == until else None).run()

    result = go(trainer(base, data, out, **options), 4 if stopped else 0)
    if stopped:
        assert (result.step, result.best_step) == (4, 3)
        assert same(adapter_of(out / "adapter.gguf"), kept(out, 3))
        result = go(Trainer.resume(out), 0)
    assert (result.step, result.best_step, result.best_loss) == (6, 3, 1.0)
    assert [step for step, _ in checkpoint.numbered(out / "checkpoints")] == [3, 6]
    exported = adapter_of(out / "adapter.gguf")
    assert same(exported, kept(out, 3))
    assert not same(exported, kept(out, 6))
    path, head = checkpoint.best(out / "checkpoints")
    assert (path.name, head.progress.step) == ("step-00000003.gguf", 3)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_base_of_numbers_that_are_none_is_told_at_the_first_step(base, data, tmp_path, value):
    """No rate would help."""
    path = tmp_path / "base.gguf"
    shutil.copy(base, path)
    changed(path, "blk.0.attn_q.weight", value)
    with pytest.raises(LlamaKitError, match="step 1: the loss is nan") as caught:
        trainer(path, data, tmp_path / "run").run()
    assert caught.value.hint.startswith(
        "the base itself gives it, before anything is trained: llamakit inspect --check"
    )
    assert not list((tmp_path / "run").rglob("*.gguf"))


def test_without_validation_the_last_weights_are_exported(base, data, tmp_path):
    trainer(base, data, tmp_path / "run").run()
    assert same(adapter_of(tmp_path / "run" / "adapter.gguf"), kept(tmp_path / "run", 6))


def changed(path, name: str, value: float | None = None) -> None:
    """The same model with one other number."""
    with open_gguf(path) as file:
        tensors = {key: np.array(file.tensor(key)) for key in file.tensors}
        metadata = [(key, file.value_type(key), file.metadata[key]) for key in file.metadata]
    tensors[name].flat[0] = tensors[name].flat[0] + 1e-3 if value is None else value
    with GGUFWriter(path) as writer:
        for key, types, value in metadata:
            writer.add(key, list(value) if types[1] is not None else value, *types)
        for key, array in tensors.items():
            writer.add_tensor(key, array)


def test_a_base_with_other_content_is_refused_and_the_same_one_taken_anywhere(base, data, tmp_path):
    place, elsewhere = tmp_path / "base.gguf", tmp_path / "elsewhere.gguf"
    shutil.copy(base, place)
    trainer(place, data, tmp_path / "run", steps=2).run()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    shutil.copy(base, elsewhere)
    changed(place, "blk.0.attn_q.weight")
    with pytest.raises(ModelFileError, match="is not the base that the run began with"):
        Trainer.resume(tmp_path / "run", steps=3).run()
    assert before == {path: path.read_bytes() for path in before}
    result = Trainer.resume(tmp_path / "run", session=Session(elsewhere, backend="cpu"), steps=3).run()
    assert (result.reason, result.step) == ("done", 3)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_gradient_that_is_not_finite_ends_the_run_and_changes_nothing(base, data, tmp_path, value):
    out, losses, last = tmp_path / "run", [], {}
    run = trainer(base, data, out)

    def spoil(info):
        losses.append(info.loss)
        if info.step == 3:
            last.update(values(run))
            gradient = run.stepper.states["blk.1.ffn_down.weight.lora_b.grad"]
            array = np.zeros(gradient.shape, np.float32)
            array.flat[5] = value
            gradient.write(array)

    with pytest.raises(LlamaKitError, match="step 4: a gradient is not finite; nothing was changed by it") as caught:
        run.on_step(spoil).run()
    assert "the checkpoint of step 2 is kept" in caught.value.hint
    assert all(np.isfinite(losses))
    assert len(losses) == 3
    assert all(np.array_equal(array, last[name]) for name, array in values(run).items())
    assert [step for step, _ in checkpoint.numbered(out / "checkpoints")] == [2]
    assert same(adapter_of(out / "adapter.gguf"), kept(out, 2))
    assert Trainer.resume(out).run().step == 6
    trainer(base, data, tmp_path / "whole").run()
    assert (out / "adapter.gguf").read_bytes() == (tmp_path / "whole" / "adapter.gguf").read_bytes()
