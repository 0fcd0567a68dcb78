"""Runs on a tiny model: they learn, stop, go on to the same bytes, and fail without losing anything."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pytest

from llamakit import Session
from llamakit.errors import DataError, LlamaKitError, ModelFileError, UsageError
from llamakit.gguf import ValueType, open_gguf
from llamakit.gguf.writer import GGUFWriter
from llamakit.models.lora import load_adapter
from llamakit.passes.memory import plan as memory_plan
from llamakit.testing.killing import Runs
from llamakit.testing.lora import adapted_logits
from llamakit.train import checkpoint
from llamakit.train.mask import Encoder
from llamakit.train.plan import values_of
from llamakit.train.report import read_log
from llamakit.training import Trainer
from tests.unit.train.tiny import QUICK, TEXT, trainer


def losses(run: Trainer) -> list[float]:
    found = []
    run.on_step(lambda info: found.append(info.loss))
    run.run()
    return found


def contents(out) -> dict[str, bytes]:
    paths = [out / "adapter.gguf", *(path for _, path in checkpoint.numbered(out / "checkpoints"))]
    return {path.name: path.read_bytes() for path in paths if path.exists()}


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit", "sgd", "muon"])
def test_it_learns(base, data, tmp_path, optimizer):
    rates = {"adamw": 2e-2, "adamw_8bit": 2e-2, "sgd": 1.0, "muon": 2e-2}
    options = {"optimizer": optimizer, "lr": rates[optimizer], "steps": 30, "full": True, "save_every": 0}
    found = losses(trainer(base, data, tmp_path / "run", **options))
    assert found[0] == pytest.approx(math.log(259), abs=0.3)
    assert found[-1] < 0.75 * found[0]


def test_a_full_run_leaves_a_model_that_is_served(base, data, tmp_path):
    run = trainer(base, data, tmp_path / "run", full=True)
    run.run()
    with open_gguf(tmp_path / "run" / "model.gguf") as made, open_gguf(base) as old:
        assert list(made.metadata) == list(old.metadata)
        assert not np.array_equal(made.tensor("blk.0.attn_q.weight"), old.tensor("blk.0.attn_q.weight"))
    with Session(tmp_path / "run" / "model.gguf", backend="cpu") as session:
        session.generate("the", max_tokens=4)


@pytest.mark.parametrize("options", [{}, {"alpha": 5.0}, {"rslora": True}, {"rank_pattern": {"attn_*": 3}}])
def test_what_is_served_is_what_was_trained(base, data, tmp_path, options):
    run = trainer(base, data, tmp_path / "run", **options, targets=["*"])
    run.run()
    batch = run.windows[0].batch([0])
    expected = run.stepper.loss(batch) / batch.loss_weight
    with Session(base) as session:
        adapter = load_adapter(tmp_path / "run" / "adapter.gguf", session.model)
    rows = adapted_logits(base, batch.tokens.tolist(), "cpu", adapter.tensors).astype(np.float64)
    top = rows.max(1)
    found = np.log(np.exp(rows - top[:, None]).sum(1)) + top - rows[np.arange(len(rows)), batch.targets]
    assert np.average(found, weights=batch.weights) == pytest.approx(expected, abs=1e-5)


def test_a_run_that_stops_goes_on_to_the_same_bytes(base, data, tmp_path):
    trainer(base, data, tmp_path / "whole").run()
    first = trainer(base, data, tmp_path / "parts")
    first.on_step(lambda info: first.stop() if info.step == 3 else None)
    assert first.run().reason == "interrupted"
    assert Trainer.resume(tmp_path / "parts").run().step == 6
    whole, parts = contents(tmp_path / "whole"), contents(tmp_path / "parts")
    same_place = {name: text.replace(b"parts", b"whole") for name, text in parts.items()}
    assert same_place == whole


def test_the_same_bytes_at_any_number_of_threads_and_with_checkpointing(base, data, tmp_path):
    made = []
    for name, threads, mode in (("a", 1, "off"), ("b", 2, "off"), ("c", 2, "on")):
        session = Session(base, backend="cpu", threads=threads)
        session.trainer(data=[str(data)], out=str(tmp_path / name), checkpointing=mode, **QUICK).run()
        made.append((tmp_path / name / "adapter.gguf").read_bytes())
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize(("batch", "accumulation"), [(1, 4), (2, 2)])
def test_accumulation_is_one_large_batch(base, data, tmp_path, batch, accumulation):
    large = losses(trainer(base, data, tmp_path / "large", batch=4))
    small = losses(trainer(base, data, tmp_path / "small", batch=batch, grad_accumulation=accumulation))
    assert small == pytest.approx(large, rel=1e-5)


def test_packing_changes_no_loss(base, tmp_path):
    records = [{"prompt": f"say {i}:", "completion": TEXT[: 5 + 7 * i % 40]} for i in range(12)]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    found = {}
    for packing in ("segments", "none"):
        run = trainer(base, path, tmp_path / packing, packing=packing, ctx=64, batch=64, steps=3)
        found[packing] = losses(run)
    assert found["segments"] == pytest.approx(found["none"], rel=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(base, data, tmp_path):
    run = trainer(base, data, tmp_path / "run")
    run.on_step(lambda info: run.stepper.states["blk.0.attn_q.weight.lora_b"].write(
        np.full((16, 2), np.inf)) if info.step == 3 else None)  # fmt: skip
    with pytest.raises(LlamaKitError, match="step 4: the loss is nan"):
        run.run()
    assert [step for step, _ in checkpoint.numbered(tmp_path / "run" / "checkpoints")] == [2]
    assert Trainer.resume(tmp_path / "run").run().step == 6


def test_what_cannot_be_trained_is_told(base, data, tmp_path):
    with pytest.raises(UsageError, match="no weight fits 'attn_x'"):
        _ = trainer(base, data, tmp_path / "a", targets=["attn_x"]).adapters
    with pytest.raises(UsageError, match="rank 17 is more than"):
        _ = trainer(base, data, tmp_path / "a", rank=17).adapters
    with pytest.raises(DataError):
        trainer(base, tmp_path / "missing.txt", tmp_path / "a").run()
    trainer(base, data, tmp_path / "b").run()
    with pytest.raises(UsageError, match="holds a run already"):
        trainer(base, data, tmp_path / "b").run()
    with pytest.raises(ModelFileError, match="no checkpoint"):
        Trainer.resume(tmp_path / "c")
    data.write_text(TEXT)
    with pytest.raises(DataError, match="content has changed"):
        Trainer.resume(tmp_path / "b", steps=9).run()


def test_samples_that_have_become_others_are_refused(base, data, tmp_path, monkeypatch):
    options = {"val_split": 0.3, "packing": "segments"}
    trainer(base, data, tmp_path / "run", **options).run()
    with pytest.raises(DataError, match="the samples are not what the run began with"):
        Trainer.resume(tmp_path / "run", steps=9, val_split=0.2).run()
    with monkeypatch.context() as patch:
        encode = Encoder.encode  # as another version of a tokenizer or a template might
        patch.setattr(
            Encoder,
            "encode",
            lambda self, record: encode(self, msgspec.structs.replace(record, text="x" + record.text)),
        )
        with pytest.raises(DataError, match="the samples are not what the run began with"):
            Trainer.resume(tmp_path / "run", steps=9).run()
    assert Trainer.resume(tmp_path / "run", steps=9).run().step == 9
    _, head = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert len(head.samples_digest) == 64
    old = msgspec.json.decode(msgspec.json.encode(head))  # a checkpoint of before is taken
    del old["samples_digest"]
    assert msgspec.json.decode(msgspec.json.encode(old), type=checkpoint.Checkpoint).samples_digest == ""


@pytest.mark.parametrize("change", [{"ctx": 24}, {"packing": "none"}, {"seed": 7}, {"shuffle": False},
                                    {"truncate": "start"}])  # fmt: skip
def test_windows_that_have_become_others_are_refused(base, tmp_path, change):
    """Wherever the place in the data may be, in other windows it is another one."""
    path = tmp_path / "data.jsonl"
    records = [{"prompt": "p" * (i % 9), "completion": TEXT[: 5 + 7 * i % 40]} for i in range(12)]
    path.write_text("\n".join(map(json.dumps, records)))
    trainer(base, path, tmp_path / "run", packing="segments", ctx=32, steps=2).run()
    (name,) = change
    with pytest.raises(DataError, match=f"the (windows|samples) are not what the run began with\n.*{name} was "):
        Trainer.resume(tmp_path / "run", steps=4, **change).run()
    assert Trainer.resume(tmp_path / "run", steps=4, ctx=32, lr=1e-3).run().step == 4


@pytest.mark.parametrize(
    "change",
    [{"alpha": 32.0}, {"rslora": True}, {"rank": 3}, {"optimizer": "sgd"}, {"full": True}, {"targets": ["attn_q"]}],
)
def test_what_is_trained_cannot_change_within_a_run(base, data, tmp_path, change):
    trainer(base, data, tmp_path / "run", steps=1).run()
    (name,) = change
    with pytest.raises(UsageError, match=f"cannot change within a run\n.*{name} was"):
        Trainer.resume(tmp_path / "run", **change)


@pytest.mark.parametrize("text", [
    "", "[1]", "{", '{"version": "x"}', '{"version": 1}', "\ud800", "[" * 100_000,
    lambda head: head.replace('"step":1', '"step":-1'), lambda head: head.replace('"step":1', '"step":"1"'),
    lambda head: head.replace('"position":2', '"position":-1'), lambda head: head.replace('"rank":2', '"rank":0'),
    lambda head: head.replace('"position":2', '"position":100000'),
])  # fmt: skip
def test_damaged_checkpoints_are_errors_of_the_file(base, data, tmp_path, text):
    trainer(base, data, tmp_path / "run", steps=1).run()
    ((_, path),) = checkpoint.numbered(tmp_path / "run" / "checkpoints")
    with open_gguf(path) as file:
        head, tensors = file.metadata[checkpoint.KEY], {name: np.array(file.tensor(name)) for name in file.tensors}
    made = text(head) if callable(text) else text
    assert made != head
    with GGUFWriter(path) as writer:
        writer.add(checkpoint.KEY, made.encode("utf-8", "surrogatepass"), ValueType.STRING)
        for name, values in tensors.items():
            writer.add_tensor(name, values)
    with pytest.raises(ModelFileError):
        Trainer.resume(tmp_path / "run", steps=3).run()


def test_a_quantised_base_is_not_trained_whole(base, data, tmp_path):
    from llamakit.gguf.quantize import quantize_file

    quantize_file(base, tmp_path / "q.gguf", "q8_0")
    with pytest.raises(UsageError, match="tensors of the base are quantised"):
        trainer(tmp_path / "q.gguf", data, tmp_path / "a", full=True).run()
    assert trainer(tmp_path / "q.gguf", data, tmp_path / "b").run().step == 6


def test_the_best_validation_is_kept_and_no_improvement_ends(base, data, tmp_path):
    options = {"val_split": 0.2, "val_every": 1, "lr": 30.0, "steps": 40, "patience": 3, "clip": 0.0, "keep": 1}
    run = trainer(base, data, tmp_path / "run", **options)
    result = run.run()
    assert result.reason == "no improvement"
    assert result.step == result.best_step + 3
    steps = [step for step, _ in checkpoint.numbered(tmp_path / "run" / "checkpoints")]
    assert steps == [result.best_step, result.step]


def test_a_run_whose_patience_is_used_up_does_no_further_step(base, data, tmp_path):
    options = {"val_split": 0.2, "val_every": 2, "lr": 30.0, "steps": 30, "patience": 1, "clip": 0.0}
    ended = trainer(base, data, tmp_path / "run", **options).run()
    assert ended.reason == "no improvement"
    before = contents(tmp_path / "run")
    again = Trainer.resume(tmp_path / "run").run()
    assert (again.reason, again.step, again.loss) == ("no improvement", ended.step, None)
    assert contents(tmp_path / "run") == before
    assert Trainer.resume(tmp_path / "run", patience=0, steps=ended.step + 1).run().reason == "done"


@pytest.mark.parametrize("at", [1, 3])
def test_a_validation_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(base, data, tmp_path, at):
    run = trainer(base, data, tmp_path / "run", val_split=0.2, val_every=1, save_every=1)
    validate = run.run_state.validate
    run.run_state.validate = lambda: math.nan if run.run_state.progress.step == at else validate()
    with pytest.raises(LlamaKitError, match=f"step {at}: the loss of the validation data is nan"):
        run.run()
    steps = [step for step, _ in checkpoint.numbered(tmp_path / "run" / "checkpoints")]
    assert steps == list(range(1, at))
    if steps:
        assert Trainer.resume(tmp_path / "run").run().step == 6


def test_a_run_that_is_done_has_no_further_loss(base, data, tmp_path):
    assert isinstance(trainer(base, data, tmp_path / "run", steps=1).run().loss, float)
    assert Trainer.resume(tmp_path / "run").run().loss is None


def test_norms_count_as_much_as_was_asked_for(base, data, tmp_path):
    """Their rank is 1 whatever is asked for, but the scale is that of all others."""
    for options, scale in (({"rank": 4, "alpha": 8.0}, 2.0), ({"rank": 4, "alpha": 8.0, "rslora": True}, 4.0)):
        found = trainer(base, data, tmp_path / "run", targets=["*"], **options).adapters
        assert found["output_norm.weight"].rank == 1
        assert {each.scale for each in found.values()} == {scale}


def test_from_python_too_steps_are_logged_and_options_heeded(base, data, tmp_path, monkeypatch):
    calls, boards = [], []
    monkeypatch.setattr("os.nice", lambda more: calls.append(more) or 3)
    monkeypatch.setattr(
        "llamakit.train.tensorboard.TensorBoardWriter", lambda folder, after_step: Board(boards, folder, after_step)
    )
    trainer(base, data, tmp_path / "run", steps=2, nice=5, tensorboard=True).run()
    assert calls == [0, 2]
    assert boards == [(tmp_path / "run" / "tensorboard", 0), 1, 2, "closed"]
    Trainer.resume(tmp_path / "run", steps=3).run()
    assert [entry.step for entry in read_log(tmp_path / "run" / "log.jsonl")] == [1, 2, 3]
    with pytest.raises(UsageError, match="does not run 2 threads"):
        trainer(base, data, tmp_path / "b", threads=2)
    with Session(base, threads=2) as session:
        assert session.trainer(out="x", threads=2).options.threads == 2


class Board:
    """In place of TensorBoard's writer."""

    def __init__(self, seen, folder, after_step):
        self.seen = seen
        seen.append((folder, after_step))

    def __call__(self, info):
        self.seen.append(info.step)

    def close(self):
        self.seen.append("closed")


def test_samples_to_validate_on_that_fit_no_window_are_told(base, data, tmp_path):
    path = tmp_path / "val.jsonl"
    path.write_text(json.dumps({"prompt": TEXT, "completion": "x"}))
    with pytest.raises(DataError, match="no sample to validate on has an answer within its first 16 tokens"):
        trainer(base, data, tmp_path / "run", val_data=[str(path)], packing="segments").run()


def test_a_run_goes_on_from_any_folder(base, data, tmp_path, monkeypatch):
    monkeypatch.chdir(data.parent)
    trainer(base, data.name, "run", steps=1).run()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert Trainer.resume(tmp_path / "run", steps=2).run().step == 2
    with pytest.raises(DataError, match=f"no data file {data.name}\n.*other"):
        trainer(base, data.name, "run2").run()


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_last(base, data, tmp_path, monkeypatch):
    run = trainer(base, data, tmp_path / "run")

    def full(info):
        if info.step == 3:
            monkeypatch.setattr("os.fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))

    run.on_step(full)
    with pytest.raises(LlamaKitError, match="No space left on device"):
        run.run()
    monkeypatch.undo()
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert names == {"step-00000002.gguf"}
    assert Trainer.resume(tmp_path / "run").run().step == 6


def test_a_plan_is_of_the_run_that_memory_makes(base, data, tmp_path, monkeypatch):
    run = trainer(base, data, tmp_path / "run", batch=8)
    kept = 4 * memory_plan(run._graphs(run.session.model, recomputes=False).gradients).total
    memory = msgspec.structs.replace(run.session.device.memory(), free=int(1.9 * kept))
    monkeypatch.setattr(type(run.session.device), "memory", lambda self: memory)
    measured = []
    monkeypatch.setattr(
        "llamakit.train.plan.measure", lambda make, *_: (measured.extend(make(n) for n in (1, 2)), (1.0, 0.1))[1]
    )
    found, own = run.plan(), run.stepper.graphs
    assert found.recomputes
    needed = values_of(run.session.device, own, run._sources(own), validates=False)
    assert found.values_again == needed < found.values
    assert found.memory - found.weights - found.states - found.saving == found.values_again
    for graph in (own.gradients, *(stepper.graphs.gradients for stepper in measured)):
        assert any(node.name.endswith(".again") for node in graph.nodes)
    ample = trainer(base, data, tmp_path / "run", batch=8)
    memory = msgspec.structs.replace(memory, free=int(2.1 * kept))
    assert not ample.recomputes
    assert ample.graphs is ample._kept


def test_adamw_keeps_two_numbers_beside_the_gradient(base, data, tmp_path):
    run = trainer(base, data, tmp_path / "run")
    n = sum(math.prod(tensor.shape) for tensor in run.graphs.trained.values())
    assert run.graphs.state_bytes == 4 * (1 + 1 + 2) * n  # the weight, its gradient, two moments


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_moment_goes_on_to_the_same_bytes(base, data, tmp_path):
    runs = Runs(base, data, tmp_path, {**QUICK, "steps": 60, "save_every": 1, "keep": 3})
    seconds = runs.finish(0)
    for _ in range(4):
        runs.kill_after(1, np.random.default_rng().uniform(0.3, 0.9) * seconds)
    runs.finish(1, threads=2)
    assert runs.ending(1) == runs.ending(0)


def test_a_checkpoint_tells_what_it_is(base, data, tmp_path):
    trainer(base, data, tmp_path / "run").run()
    _, path = checkpoint.numbered(tmp_path / "run" / "checkpoints")[-1]
    head = checkpoint.read_head(path)
    assert head.progress.step == 6
    assert head.options.rank == 2
    with pytest.raises(ModelFileError, match="not a checkpoint of llamakit finetune"):
        checkpoint.read_head(base)
    assert msgspec.json.decode(msgspec.json.encode(head), type=checkpoint.Checkpoint) == head
