"""Runs of the tools of 2023: the fixtures' updates, every output, continuing, and the ends of runs."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

from llamakit import Session
from llamakit.cli import run
from llamakit.errors import ModelFileError, UsageError
from llamakit.gguf import open_gguf
from llamakit.gguf.ggla import read_ggla
from llamakit.gguf.quantize import quantize_file
from llamakit.lora.files import read_adapter_file
from llamakit.models import load_model
from llamakit.models.lora import load_adapter
from llamakit.testing.lora import adapted_logits
from llamakit.train.tools_2023.checkpoint import read_checkpoint, write_checkpoint
from llamakit.train.tools_2023.mt19937 import MT19937
from llamakit.train.tools_2023.plan import plan_2023
from llamakit.training_2023 import Tool2023, run_2023

BASE = ("--model-base", "tiny-base-f32.gguf")


@pytest.fixture
def in_folder(test_data, monkeypatch):
    """Runs begin in the fixtures' folder: the samples' hash is of the file's name as it is spelled, data.txt."""
    folder = test_data / "fixtures" / "training"
    monkeypatch.chdir(folder)
    return folder


def args_of(out, *args) -> list[str]:
    """Two windows of 16 tokens, a rate that moves from the first update on, everything written into `out`."""
    return [
        "--train-data", "data.txt", "--checkpoint-in", "", "--checkpoint-out", str(out / "c-ITERATION.gguf"), "-b", "2",
        "-c", "16", "--warmup", "0", "--save-every", "1", "--seed", "1", "-t", "1", *map(str, args),
    ]  # fmt: skip


def finetune(out, *args, **more):
    lora = ("--lora-out", out / "lora-ITERATION.bin")
    return run_2023("finetune", args_of(out, *lora, *args), **({"backend": "reference"} | more))


def scratch(out, *args, **more):
    shape = ("--vocab-model", "tiny-base-f32.gguf", "--model-out", out / "m-ITERATION.gguf")
    small = ("--embd", "16", "--ff", "24", "--head", "2", "--layer", "2")
    return run_2023("train-text-from-scratch", args_of(out, *shape, *small, *args), **({"backend": "reference"} | more))


def first_normals(seed: int, n: int) -> np.ndarray:
    """What libstdc++'s std::normal_distribution<float> makes of std::mt19937: the polar method, second value first."""
    one = np.float32(1)
    u = MT19937(seed).draw(4 * n + 64).astype(np.float32) / np.float32(2**32)
    x, y = (2 * np.minimum(u, np.nextafter(one, 0 * one)) - one).reshape(-1, 2).T
    square = x * x + y * y
    kept = (square <= 1) & (square > 0)
    factor = np.sqrt(-2 * np.log(square[kept]) / square[kept])
    return np.stack([y[kept] * factor, x[kept] * factor], 1).ravel()[:n]


def write_first(path):
    """The run of the fixtures before its first update: adapters as 2023 drew them from the seed 1, no moments yet."""
    one = read_checkpoint("parity/P-1.gguf")
    draws, at, tensors = np.clip(first_normals(1, sum(x.size for x in one.tensors.values())), -1, 1), 0, {}
    for name, x in one.tensors.items():
        tensors[name] = (draws[at : at + x.size] / np.sqrt(np.float32(sum(x.shape)))).reshape(x.shape)
        at += x.size
    zero = {name: np.zeros_like(x) for name, x in tensors.items()}
    counts = {
        "iterations": 0,
        "samples": 0,
        "tokens": 0,
        "shuffle": msgspec.structs.replace(one.shuffle, next_sample=0),
    }
    write_checkpoint(path, dataclasses.replace(one, tensors=tensors, first=zero, second=zero, **counts))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("start", [0, 1])
def test_updates_continued_from_2023_are_its_next_ones(tmp_path, in_folder, backend, start):
    """Two updates from the first weights of 2023, and one from P-1: values, moments, counters and shuffle."""
    first = "parity/P-1.gguf" if start else tmp_path / "P-0.gguf"
    if not start:
        write_first(first)
    steps = []
    more = ("--checkpoint-in", first, "--adam-iter", 2 - start)
    assert finetune(tmp_path, *BASE, *more, backend=backend, on_step=steps.append) == "done"
    for k in range(start + 1, 3):
        found, wanted = read_checkpoint(tmp_path / f"c-{k}.gguf"), read_checkpoint(f"parity/P-{k}.gguf")
        assert (found.shuffle, found.iterations, found.samples, found.tokens) == (
            wanted.shuffle, wanted.iterations, wanted.samples, wanted.tokens,
        )  # fmt: skip
        for name, values in wanted.tensors.items():
            assert np.abs(found.tensors[name] - values).max() < 2e-5, name
        for mine, theirs in ((found.first, wanted.first), (found.second, wanted.second)):
            assert distance(mine, theirs) < 1e-4
    assert abs(steps[-1].loss - wanted.optimizer.counters["previous_loss"]) < 1e-2


def distance(found, wanted) -> float:
    """Of two sets of arrays, relative to the second."""

    def norm(arrays) -> float:
        return float(np.sqrt(sum(float((np.asarray(x, np.float64) ** 2).sum()) for x in arrays)))

    return norm(found[name].astype(np.float64) - x for name, x in wanted.items()) / norm(wanted.values())


def test_only_write_lora_is_the_adapter_that_2023_wrote(tmp_path, in_folder):
    start = ("--checkpoint-in", "seed-finetune-checkpoint-q8_0-it3.gguf", "--only-write-lora")
    assert finetune(tmp_path, *BASE, *start) == "written"
    wanted = (in_folder / "seed-lora-q8_0-it3.ggla.bin").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora-3.bin", "lora-LATEST.bin"]
    assert (tmp_path / "lora-3.bin").read_bytes() == (tmp_path / "lora-LATEST.bin").read_bytes() == wanted
    with pytest.raises(UsageError, match="no checkpoint"):
        finetune(tmp_path, *BASE, "--only-write-lora")


def test_every_save_continues_to_the_bit_the_last_one_too(tmp_path, in_folder, small_model):
    """2023 took one batch more before its last save."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    small = (
        "--model-base",
        small_model,
        "--fill-with-next-samples",
        "--sample-random-offsets",
        "--sample-start",
        "the",
        "--grad-acc",
        "2",
    )
    finetune(tmp_path / "a", *small, "--adam-iter", "4")
    finetune(tmp_path / "b", *small, "--adam-iter", "2", "--save-every", "0")
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        "c-2.gguf", "c-LATEST.gguf", "lora-2.bin", "lora-LATEST.bin",
    ]  # fmt: skip
    assert (tmp_path / "b" / "c-2.gguf").read_bytes() == (tmp_path / "a" / "c-2.gguf").read_bytes()
    # Other flags of memory: the moments stay with their tensors. The seed is the checkpoint's.
    more = ("--checkpoint-in", tmp_path / "b" / "c-LATEST.gguf", "--no-flash", "--no-checkpointing", "--seed", "5")
    finetune(tmp_path / "b", *small, *more, "--adam-iter", "2")
    for name in ("c-4.gguf", "lora-4.bin", "c-LATEST.gguf"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def next_loss(tool: Tool2023, path, adapter=None) -> tuple[float, float]:
    """The loss of a run's next window: of the trainer, and of the logits of the adapter as it is served, or the base's.

    The run is at its beginning, behind the window of its first update.
    """
    tool.stream.take(1)
    batch = tool.stream.batch(1)
    with open_gguf(path) as file:
        tensors = load_adapter(adapter, load_model(file)).tensors if adapter else {}
    logits = adapted_logits(path, batch.tokens.tolist(), adapters=tensors).astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return tool.stepper.accumulate(batch, batch.loss_weight), float(-logs[np.arange(len(logs)), batch.targets].mean())


@pytest.mark.parametrize(("name", "ranks"), [
    ("lora-ITERATION.bin",
     ("--lora-r", "4", "--lora-alpha", "16", "--rank-wq", "2", "--rank-tok-embd", "3", "--rank-att-norm", "2")),
    ("lora-ITERATION.gguf",  # the base is 32 wide
     ("--lora-r", "32", "--rank-wk", "31", "--rank-tok-embd", "32", "--rank-out-norm", "32")),
])  # fmt: skip
def test_what_is_served_is_what_was_trained_whatever_alpha(tmp_path, in_folder, name, ranks):
    """Alpha, ranks of kinds, the largest too, norms, embeddings: the trainer's loss is that of the adapter's file."""
    more = (*BASE, *ranks, "--rank-w1", "0", "--adam-alpha", "0.02", "--lora-out", tmp_path / name)
    finetune(tmp_path, *more, "--adam-iter", "3")
    again = args_of(tmp_path, *more, "--checkpoint-in", tmp_path / "c-3.gguf")
    with Tool2023(plan_2023("finetune", again), backend="reference") as tool:
        assert "blk.0.ffn_gate.weight" not in tool.start.adapters()
        trained, served = next_loss(tool, "tiny-base-f32.gguf", tmp_path / name.replace("ITERATION", "3"))
    with Tool2023(plan_2023("finetune", args_of(tmp_path, *more)), backend="reference") as tool:
        first, base = next_loss(tool, "tiny-base-f32.gguf")
    assert abs(trained - served) < 1e-4
    assert abs(first - base) < 1e-4  # B is 0 in a new adapter: the run begins with the base itself
    assert abs(trained - base) > 1e-2


@pytest.mark.parametrize(("args", "flag", "tensor"), [
    (("--lora-r", "33"), "--lora-r 33", "token_embd"), (("--rank-wk", "99"), "--rank-wk 99", "blk.0.attn_k"),
    (("--rank-out-norm", "33"), "--rank-out-norm 33", "output_norm"),
    (("--rank-tok-embd", "40"), "--rank-tok-embd 40", "token_embd"),
    (("--rank-ffn_up", "33"), "--rank-w3 33", "blk.0.ffn_up"),
])  # fmt: skip
def test_ranks_above_a_size_are_refused_before_anything_is_trained(tmp_path, in_folder, args, flag, tensor):
    """No reader would take such an adapter."""
    with pytest.raises(UsageError, match=f"{flag} is more than the smaller side of '{tensor}.weight'") as caught:
        finetune(tmp_path, *BASE, *args)
    assert caught.value.hint == "at most 32"
    assert list(tmp_path.iterdir()) == []


def test_alpha_is_the_checkpoint_s(tmp_path, in_folder):
    """It is written where it is not r, taken where none is said, and what is imported has it; others are refused."""
    alpha, none = ("--lora-alpha", "16"), ("--rank-wq", "2", "--rank-att-norm", "0", "--rank-ffn-norm", "0")
    small = (*BASE, *none, "--rank-out-norm", "0", "--rank-tok-embd", "0", "--rank-out", "0", "--lora-out")
    finetune(tmp_path, *small, tmp_path / "l-ITERATION.gguf", *alpha, "--adam-iter", "1", backend="cpu")
    start = ("--checkpoint-in", tmp_path / "c-1.gguf")
    adapter, checkpoint = (read_adapter_file(tmp_path / f"{name}-1.gguf").tensors for name in "lc")
    assert checkpoint.keys() == adapter.keys()
    for name, each in checkpoint.items():
        assert each.scale == 4.0
        assert np.allclose(each.scale * each.B @ each.A, adapter[name].scale * adapter[name].B @ adapter[name].A)
    made = {}
    for given in (alpha, ()):
        finetune(tmp_path, *small, tmp_path / "n.gguf", *start, *given, "--adam-iter", "1", backend="cpu")
        made[given] = [(tmp_path / name).read_bytes() for name in ("c-2.gguf", "n.gguf")]
    assert made[alpha] == made[()]
    finetune(tmp_path, *small, tmp_path / "w.bin", *start, "--only-write-lora")
    head = read_ggla(tmp_path / "w.bin")
    assert (head.r, head.alpha) == (4, 16)
    for path, given, found in ((start[1], "8", "4"), ("parity/P-1.gguf", "8", "1")):
        more = small if path == start[1] else (*BASE, "--lora-out")
        with pytest.raises(UsageError, match=f"was trained with alpha / r = {found}.*\n.*--lora-alpha {given}"):
            finetune(tmp_path, *more, tmp_path / "x.bin", "--checkpoint-in", path, "--lora-alpha", given)
    assert not (tmp_path / "x.bin").exists()
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(start[1].read_bytes().replace(b"lora.alpha\x04", b"lora.alpha\x06"))  # now a float
    for read in (read_adapter_file, read_checkpoint):
        with pytest.raises(ModelFileError, match="training.lora.alpha"):
            read(damaged)


@pytest.mark.parametrize("type_name", ["F32", "F16", "Q8_0", "Q4_0"])
def test_any_base_with_grouped_queries(tmp_path, small_model, type_name):
    """2023 stopped at grouped queries and at F16."""
    base, text = tmp_path / "base.gguf", tmp_path / "text.txt"
    quantize_file(small_model, base, type_name)
    text.write_text("Once upon a time there was a little dog who liked to dig. " * 8)
    losses = []
    more = ("--model-base", base, "--train-data", text, "--adam-iter", "8", "--adam-alpha", "0.01", "--save-every", "0")
    finetune(tmp_path, *more, on_step=lambda info: losses.append(info.loss))
    assert losses[-1] < 0.7 * losses[0]
    with open_gguf(base) as file:
        assert load_adapter(tmp_path / "lora-LATEST.bin", load_model(file)).rank == 4


def test_a_model_from_scratch_is_continued_and_used(tmp_path, in_folder):
    losses = []
    more = ("--adam-alpha", "0.02", "--save-every", "3")
    assert scratch(tmp_path, *more, "--adam-iter", "4", on_step=lambda info: losses.append(info.loss)) == "done"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"{stem}-{n}.gguf" for stem in "cm" for n in ("3", "4", "LATEST")}
    assert losses[-1] < losses[0]
    with Session(tmp_path / "m-LATEST.gguf") as session:
        assert session.model.hparams.n_layer == 2
        assert session.logits(session.tokenize("the moon", add_bos=True)).shape[1] == 32000
    scratch(tmp_path, *more, "--checkpoint-in", tmp_path / "c-3.gguf", "--adam-iter", "1")
    with open_gguf(tmp_path / "c-4.gguf") as file:
        assert file.metadata["training.iteration_count"] == 4
    # The same from the model alone, without an optimizer, on which 2023 crashed.
    scratch(tmp_path, *more, "--checkpoint-in", tmp_path / "m-3.gguf", "--adam-iter", "1")
    assert read_checkpoint(tmp_path / "c-1.gguf").optimizer.iterations == 1
    start = ("--checkpoint-in", tmp_path / "c-LATEST.gguf", "--only-write-model", "--model-out", tmp_path / "w.gguf")
    assert scratch(tmp_path, *start) == "written"
    assert (tmp_path / "w.gguf").read_bytes() == (tmp_path / "m-1.gguf").read_bytes()


def test_a_model_from_scratch_keeps_its_rope(tmp_path, in_folder):
    """2023 wrote the scale where its own reader took the inverse."""
    scratch(
        tmp_path, "--rope-freq-scale", "0.25", "--rope-freq-base", "500", "--norm-rms-eps", "1e-4", "--adam-iter", "1"
    )
    with open_gguf(tmp_path / "m-1.gguf") as file:
        h = load_model(file).hparams
    assert (h.rope.factor, h.rope.scaling, h.rope.freq_base) == (4.0, "linear", 500.0)
    assert h.norm_epsilon == pytest.approx(1e-4)
    with Tool2023(
        plan_2023("finetune", ["--model-base", str(tmp_path / "m-1.gguf"), "--rope-freq-scale", "0.5"])
    ) as tool:
        assert tool.session.model.cache_layers()[0].rope.inv_freq[0] == pytest.approx(0.5)
        assert tool.session.model.hparams.norm_epsilon == pytest.approx(1e-4)


def test_a_model_of_elsewhere_is_trained_whole(tmp_path, stories260k):
    losses = []
    (tmp_path / "text.txt").write_text("Once upon a time there was a little dog who liked to dig. " * 8)
    more = ("--train-data", tmp_path / "text.txt", "--checkpoint-in", stories260k, "--save-every", "0")
    scratch(tmp_path, *more, "--adam-iter", "6", on_step=lambda info: losses.append(info.loss))
    assert losses[-1] < 0.8 * losses[0]
    with open_gguf(stories260k) as old, open_gguf(tmp_path / "m-LATEST.gguf") as new:
        assert old.tensors.keys() == new.tensors.keys()
        assert load_model(new).hparams.n_head_kv == load_model(old).hparams.n_head_kv


@pytest.mark.slow
def test_the_train_checkpoint_of_2023_is_continued(tmp_path, in_folder):
    infos = []
    start = ("--checkpoint-in", "seed-train-checkpoint-it2.gguf", "--adam-iter", "2")
    assert scratch(tmp_path, *start, on_step=infos.append) == "done"
    assert [info.step for info in infos] == [3, 4]
    first, last = read_checkpoint("seed-train-checkpoint-it2.gguf"), read_checkpoint(tmp_path / "c-4.gguf")
    assert last.shuffle.next_sample == first.shuffle.next_sample + 4
    assert infos[0].loss < first.optimizer.counters["previous_loss"] + 0.05


def test_runs_end_where_rules_say(tmp_path, small_model):
    (tmp_path / "few.txt").write_text("the moon the dog runs over the fox")
    few = (
        "--model-base",
        small_model,
        "--train-data",
        tmp_path / "few.txt",
        "--sample-start",
        "the",
        "--save-every",
        "0",
    )
    assert "--epochs" in finetune(tmp_path, *few, "--epochs", "2", "--adam-iter", "50")
    assert read_checkpoint(tmp_path / "c-LATEST.gguf").epochs == 2
    assert "--adam-epsf" in finetune(tmp_path, *few, "--adam-epsf", "100", "--adam-iter", "50")
    reason = finetune(tmp_path, *few, "--opt-past", "2", "--opt-delta", "100", "--adam-iter", "50")
    assert "--opt-delta" in reason
    saved = read_checkpoint(tmp_path / "c-LATEST.gguf")
    assert (saved.optimizer.past_count, saved.state["optimizer.adam.past_loss_values"].shape) == (2, (2,))


def test_what_does_not_fit_is_said(tmp_path, in_folder):
    start = ("--checkpoint-in", "parity/P-1.gguf")
    with pytest.raises(UsageError, match="does not fit: .*attn_q.*\n.*--checkpoint-in ''"):
        finetune(tmp_path, *BASE, *start, "--rank-wq", "2")
    with pytest.raises(UsageError, match="of train_model, not of finetune"):
        finetune(tmp_path, *BASE, "--checkpoint-in", "seed-train-checkpoint-it2.gguf")
    with pytest.raises(UsageError, match="cannot be read"):
        finetune(tmp_path, *BASE, "--train-data", tmp_path / "none.txt")
    with pytest.raises(ModelFileError, match="no file"):
        finetune(tmp_path, "--model-base", tmp_path / "none.gguf")
    with pytest.raises(ModelFileError, match="no vocabulary"):
        scratch(tmp_path, "--vocab-model", "parity/P-1.gguf")
    assert not list(tmp_path.iterdir())


def test_from_the_command_line(tmp_path, in_folder, capsys):
    """`llamakit finetune` knows the flags of 2023 when it sees them, and keeps its own else."""
    more = ("--lora_out", tmp_path / "l.gguf", "--adam-iter", "1", "--backend", "reference")
    assert run(["finetune", *args_of(tmp_path, *BASE, *more)]) == 0
    assert "saved iteration 1" in capsys.readouterr().err
    assert (tmp_path / "c-1.gguf").exists()
    with open_gguf(tmp_path / "l.gguf") as file:
        assert file.metadata["general.type"] == "adapter"
    assert run(["finetune", "--model-base", "tiny-base-f32.gguf", "--adam-itre", "1"]) == 2
    assert "--adam-iter" in capsys.readouterr().err
    assert run(["finetune", "-m", "tiny-base-f32.gguf"]) == 2
    assert "--data" in capsys.readouterr().err
    start = ("--checkpoint-in", tmp_path / "c-1.gguf", "--only-write-lora", "--lora-out", tmp_path / "again.gguf")
    assert run(["finetune", *args_of(tmp_path, *BASE, *start)]) == 0
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "l.gguf").read_bytes()
