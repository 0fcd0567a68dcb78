"""Checkpoints of 2023: read by name, written to the byte, those of before GGUF too; damage is an error."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from llamakit.cli import run
from llamakit.errors import LlamaKitError, ModelFileError, UsageError
from llamakit.gguf import open_gguf
from llamakit.gguf.quantize import copy_key
from llamakit.gguf.writer import GGUFWriter
from llamakit.train.tools_2023.checkpoint import (
    read_checkpoint,
    with_vocabulary,
    write_checkpoint,
    write_model,
)
from llamakit.train.tools_2023.moments import (
    ORDERS,
    Order,
    find_order,
    join_moments,
    named_order,
    parameter_order,
    split_moments,
)

CHECKPOINTS = [
    "seed-finetune-checkpoint-q8_0-it3.gguf", "seed-train-checkpoint-it2.gguf", "parity/P-1.gguf", "parity/P-2.gguf",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(test_data):
    return test_data / "fixtures" / "training"


def gradients(path) -> dict[str, np.ndarray]:
    """Gradients by name, in the order of the graph."""
    data, at, found = path.read_bytes(), 0, {}
    while at < len(data):
        name, n = data[at : at + 64].split(b"\0")[0].decode(), struct.unpack_from("<q", data, at + 64)[0]
        found[name] = np.frombuffer(data, "<f4", n, at + 72)
        at += 72 + 4 * n
    return found


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_what_is_read_is_written_again_to_the_byte(tmp_path, folder, name):
    checkpoint = read_checkpoint(folder / name)
    write_checkpoint(tmp_path / "c.gguf", checkpoint)
    assert (tmp_path / "c.gguf").read_bytes() == (folder / name).read_bytes()


def test_a_plain_model_is_a_checkpoint_without_an_optimizer(tmp_path, folder):
    """The 2023 tool crashed on it."""
    checkpoint = read_checkpoint(folder / "tiny-base-f32.gguf")
    assert (checkpoint.kind, checkpoint.iterations, dict(checkpoint.first)) == ("train_model", 0, {})
    write_model(tmp_path / "m.gguf", checkpoint)
    assert (tmp_path / "m.gguf").read_bytes() == (folder / "tiny-base-f32.gguf").read_bytes()


def test_counters_ranks_and_shuffle(folder):
    c = read_checkpoint(folder / CHECKPOINTS[0])
    assert (c.kind, c.iterations, c.samples, c.tokens, c.epochs) == ("finetune_lora", 3, 8, 96, 0)
    assert c.ranks == {name: 1 if name.endswith("norm") else 4 for name in c.ranks}
    assert len(c.ranks) == 12
    assert (c.shuffle.sample_count, c.shuffle.next_sample, c.optimizer.iterations) == (3213, 8, 3)
    adapters = c.adapters()
    assert adapters["token_embd.weight"].A.shape == (4, 32)
    assert adapters["token_embd.weight"].B.shape == (32000, 4)
    assert np.array_equal(adapters["blk.1.attn_q.weight"].A, c.tensors["blk.1.attn_q.weight.lora_a"].T)
    moments = c.adapters(c.second)
    assert moments["blk.1.ffn_up.weight"].B.shape == adapters["blk.1.ffn_up.weight"].B.shape


def test_the_order_of_the_graph_is_that_of_the_gradients(folder):
    assert list(gradients(folder / "parity" / "grad-0.bin")) == parameter_order(2, True, Order())


def test_moments_by_name_are_those_of_the_gradients(folder):
    """After one update m is (1 - beta1) g and v is (1 - beta2) g g; the norm was below the clipping."""
    found = gradients(folder / "parity" / "grad-0.bin")
    checkpoint = read_checkpoint(folder / "parity" / "P-1.gguf")
    for name, g in found.items():
        scale = np.abs(g).max()
        assert np.abs(checkpoint.first[name].ravel() - 0.1 * g).max() <= 1e-6 * scale
        assert np.abs(checkpoint.second[name].ravel() - 0.001 * g.astype(np.float64) ** 2).max() <= 1e-6 * scale**2


def test_a_folder_is_no_checkpoint(tmp_path):
    """It was said to have no adapter."""
    with pytest.raises(ModelFileError, match="is a folder; a checkpoint is one file"):
        read_checkpoint(tmp_path)


def test_two_updates_from_the_first_checkpoint_give_the_second(folder):
    """AdamW of 2023 on the named state: P-1 and the gradients at it give P-2."""
    one, two = (read_checkpoint(folder / "parity" / f"P-{k}.gguf") for k in (1, 2))
    grads = {name: g.astype(np.float64) for name, g in gradients(folder / "parity" / "grad-1.bin").items()}
    norm = np.sqrt(sum(float((g**2).sum()) for g in grads.values()))
    lr = 1e-3 * (0.9 * 0.5 * (1 + np.cos(np.pi / 1000)) + 0.1)  # warm-up 0, step 1 of 1000
    for name, gradient in grads.items():
        g = gradient.reshape(one.tensors[name].shape) * min(1.0, 1.0 / norm)
        m, v = 0.9 * one.first[name] + 0.1 * g, 0.999 * one.second[name] + 0.001 * g * g
        x = one.tensors[name] * (1 - 0.1 * lr) - lr / (1 - 0.9**2) * m / (np.sqrt(v / (1 - 0.999**2)) + 1e-8)
        assert np.abs(x - two.tensors[name]).max() < 1e-6
        assert np.abs(m - two.first[name]).max() <= 1e-5 * np.abs(m).max()


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("lora", [True, False])
def test_the_order_is_found_from_the_moments(order, lora):
    """Moments of one size a parameter, rows of tokens that did not occur zero: as any order would leave them."""
    rng = np.random.default_rng(3)
    sizes = {"attn_norm": (16,), "ffn_norm": (16,), "ffn_gate": (40, 16), "ffn_up": (40, 16), "ffn_down": (16, 40)}
    sizes |= {f"attn_{x}": (16, 16) for x in ("q", "k", "v", "output")}
    shapes = {"token_embd.weight": (100, 16), "output_norm.weight": (16,), "output.weight": (100, 16)}
    shapes |= {f"blk.{i}.{stem}.weight": shape for i in range(3) for stem, shape in sizes.items()}
    if lora:
        pairs = {name: (shape[-1], shape[0] if len(shape) == 2 else 1) for name, shape in shapes.items()}
        ranks = {name: 1 if len(shapes[name]) == 1 else 4 for name in shapes}
        shapes = {
            f"{n}.lora_{part}": (size, ranks[n])
            for n, pair in pairs.items()
            for part, size in zip("ab", pair, strict=True)
        }
    second = {name: np.float32(10 ** rng.uniform(-9, -4)) * rng.chisquare(1, shape) for name, shape in shapes.items()}
    rows = "token_embd.weight.lora_b" if lora else "token_embd.weight"
    second[rows][rng.permutation(100)[:70]] = 0
    flat = join_moments(second, parameter_order(3, lora, order))
    assert find_order(flat, shapes, 3, lora) == order
    again = split_moments(flat, shapes, parameter_order(3, lora, order))
    assert all(np.array_equal(again[name], values.astype(np.float32)) for name, values in second.items())


def tensor(values: np.ndarray | None, name: bytes, at: int) -> bytes:
    """A tensor as files of before GGUF have it; `at` is where it begins."""
    dims = () if values is None else values.shape[::-1]
    name = b"" if values is None else name
    head = struct.pack(f"<III{len(dims)}I", len(dims), len(name), 0, *dims) + name
    head += bytes(-(at + len(head)) % 32)
    return head + (b"" if values is None else values.astype("<f4").tobytes())


def before_gguf(checkpoint, version: int, past: int = 0, lbfgs: bool = False, ff: int | None = None) -> bytes:
    """The same checkpoint in the format of before, by its description alone."""
    lora = checkpoint.kind == "finetune_lora"
    get = {key.removeprefix("llama."): value[2] for key, value in checkpoint.model.items()}
    n_vocab = len(checkpoint.tensors["output.weight.lora_b" if lora else "output.weight"])
    out = bytearray(b"lcgg" if lora else b"pcgg")
    out += struct.pack("<4I", 0, checkpoint.iterations, checkpoint.samples, checkpoint.tokens)
    out += struct.pack("<6I", n_vocab, get["embedding_length"], 32, get["attention.head_count"], get["block_count"], 8)
    stems = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_down", "ffn_up")
    if lora:
        kinds = (*stems, "token_embd", "output_norm", "output")
        out += struct.pack("<12I", *(checkpoint.ranks[kind] for kind in kinds))
    for stem in ["token_embd", "output_norm", "output", *(f"blk.{i}.{s}" for i in range(2) for s in stems)]:
        for suffix in (".lora_a", ".lora_b") if lora else ("",):
            out += tensor(checkpoint.tensors[f"{stem}.weight{suffix}"], b"layers.x", len(out))
    order = parameter_order(2, lora, checkpoint.order)
    m, v = join_moments(checkpoint.first, order), join_moments(checkpoint.second, order)
    losses = np.arange(past, dtype=np.float32) if past else None
    n = len(m)
    if version == 0:
        out += struct.pack("<I", 0)
        out += struct.pack("<Iiifi??xx", int(lbfgs), 4, past, 1e-5, 0, False, False)
        out += struct.pack("<9f", *range(9)) + struct.pack("<3i5fI", 6, 100, 20, 1, 2, 3, 4, 5, 1)
        out += struct.pack("<QiI", n, checkpoint.iterations, 0)
        arrays = [m, m + 1, m + 2, m, v, m + 3, m + 4, losses]
    else:
        out += struct.pack("<IiiQiI", 1, past, 6, n, checkpoint.iterations, 0)
        arrays = [m, v, losses]
    if lbfgs:
        arrays = [m, m, m, m, v, losses, np.ones(6), np.ones(6), np.ones((6, n)), np.ones((6, n))]
    for values in arrays:
        out += tensor(values, b"opt", len(out))
    return bytes(out + (struct.pack("<ffiiii", 3.5, 0.5, 1, 2, 3, 4) if lbfgs else struct.pack("<ffi", 3.5, 4.5, 2)))


@pytest.mark.parametrize("past", [0, 3])
@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("name", CHECKPOINTS[:2])
def test_checkpoints_of_before_gguf(tmp_path, folder, name, version, past):
    wanted = read_checkpoint(folder / name)
    (tmp_path / "old.bin").write_bytes(before_gguf(wanted, version, past))
    found = read_checkpoint(tmp_path / "old.bin")
    assert (found.kind, found.iterations, found.samples, found.tokens) == (
        wanted.kind, wanted.iterations, wanted.samples, wanted.tokens,
    )  # fmt: skip
    for mine, theirs in ((found.tensors, wanted.tensors), (found.first, wanted.first), (found.second, wanted.second)):
        assert mine.keys() == theirs.keys()
        assert all(np.array_equal(mine[key], theirs[key]) for key in theirs)
    assert found.shuffle is None
    assert found.optimizer.counters == {"best_loss": 3.5, "previous_loss": 4.5, "no_improvement_count": 2}
    assert found.model["llama.feed_forward_length"][2] == 64
    write_checkpoint(tmp_path / "new.gguf", found)
    again = read_checkpoint(tmp_path / "new.gguf")
    assert again.optimizer == found.optimizer
    assert again.optimizer.past_count == past
    assert all(np.array_equal(again.first[key], wanted.first[key]) for key in wanted.first)
    with open_gguf(tmp_path / "new.gguf") as file:
        assert (file.version, file.metadata["training.file_version"]) == (2, 0)


def test_lbfgs_of_before_gguf_is_known_by_its_size(tmp_path, folder):
    (tmp_path / "old.bin").write_bytes(before_gguf(read_checkpoint(folder / CHECKPOINTS[2]), 1, lbfgs=True))
    found = read_checkpoint(tmp_path / "old.bin")
    assert (found.optimizer.type, found.optimizer.counters["line_search_k"], len(found.state)) == ("lbfgs", 2, 9)
    write_checkpoint(tmp_path / "new.gguf", found)
    again = read_checkpoint(tmp_path / "new.gguf")
    assert again.optimizer == found.optimizer
    assert again.state.keys() == found.state.keys()


def test_convert_checkpoint(tmp_path, folder, capsys):
    source, base = str(tmp_path / "old.bin"), str(folder / "tiny-base-f32.gguf")
    wanted = read_checkpoint(folder / CHECKPOINTS[1])
    (tmp_path / "old.bin").write_bytes(before_gguf(wanted, 1))
    out = str(tmp_path / "new.gguf")
    assert run(["convert-checkpoint", "-i", source, "-o", out, "--ff", "64", "--vocab_model", base]) == 0
    assert "left to right, flash" in capsys.readouterr().err
    from llamakit import Session

    with Session(out) as session:  # a train_model checkpoint with a vocabulary is a model
        assert session.tokenize("the moon", add_bos=False)
    assert run(["convert-checkpoint", "--input", source, "--output", out, "--ff", "96"]) == 2
    assert run(["convert-checkpoint", "-i", str(tmp_path / "none"), "-o", out]) == 3
    with pytest.raises(ModelFileError, match="no vocabulary"):
        with_vocabulary(wanted, folder / "parity" / "P-1.gguf")


def test_damaged_checkpoints_are_errors(tmp_path, folder):
    old = before_gguf(read_checkpoint(folder / CHECKPOINTS[2]), 1)
    new = (folder / "parity" / "P-1.gguf").read_bytes()
    rng, path = np.random.default_rng(0), tmp_path / "bad"
    bad = [old[:n] for n in (4, 19, 60, 100, 5000, len(old) - 4)] + [
        old + b"x",
        b"lcgg" + struct.pack("<I", 7) + old[8:],
    ]
    for data in bad:
        path.write_bytes(data)
        with pytest.raises(ModelFileError):
            read_checkpoint(path)
    for _ in range(60):
        source = old if rng.random() < 0.5 else new
        changed = bytearray(source)
        for _ in range(rng.integers(1, 5)):
            changed[rng.integers(4, 2500)] = rng.integers(0, 256)
        path.write_bytes(changed)
        try:
            write_checkpoint(tmp_path / "out.gguf", read_checkpoint(path))
        except LlamaKitError:
            continue


def test_what_is_no_checkpoint_of_2023_says_so(tmp_path, folder, test_data):
    (tmp_path / "text").write_bytes(b"hello, world")
    with pytest.raises(ModelFileError, match="neither with GGUF nor with ggcl"):
        read_checkpoint(tmp_path / "text")
    with pytest.raises(UsageError, match="ltr-no-flash"):
        named_order("sideways")


def changed(source, path, **values):
    """A checkpoint with other metadata: key, with __ for ., and value; None leaves it out."""
    new = {key.replace("__", "."): value for key, value in values.items()}
    with open_gguf(source) as file, GGUFWriter(path) as writer:
        for key in file.metadata:
            copy_key(file, writer, key)
        for key, value in new.items():
            writer.add(key, value)
        for name, info in file.tensors.items():
            writer.add_tensor(name, file.raw(name), info.type, info.shape)
    return path


@pytest.mark.parametrize("key", ["training__iteration_count", "training__epoch_count", "optimizer__iteration_count"])
@pytest.mark.parametrize("value", [-1, -(1 << 63), (1 << 64) - 1])
def test_counts_that_nobody_counted_to(tmp_path, folder, key, value):
    """They ended a run with an internal error, or when it was to be saved."""
    path = changed(folder / CHECKPOINTS[0], tmp_path / "bad.gguf", **{key: value})
    with pytest.raises(ModelFileError, match="the checkpoint is damaged: it counts"):
        read_checkpoint(path)


@pytest.mark.parametrize("value", [-1, 0, (1 << 64) - 1, float("nan"), "x", [1], ["a"], True])
def test_a_context_that_is_none(tmp_path, folder, capsys, value):
    path = changed(folder / CHECKPOINTS[0], tmp_path / "bad.gguf", llama__context_length=value)
    args = ["--model-base", folder / "tiny-base-f32.gguf", "--train-data", folder / "data.txt", "--checkpoint-in", path]
    outputs = ["--checkpoint-out", tmp_path / "c.gguf", "--lora-out", tmp_path / "l.bin", "--adam-iter", 1]
    assert run(["finetune", *map(str, [*args, *outputs])]) == 3
    assert "llama.context_length is" in capsys.readouterr().err


def test_a_checkpoint_that_does_not_say_how_wide_it_is(tmp_path, folder):
    path = changed(folder / CHECKPOINTS[0], tmp_path / "bad.gguf", llama__feed_forward_length=None)
    assert run(["convert-checkpoint", "-i", str(path), "-o", str(tmp_path / "out.gguf")]) == 0
    assert run(["convert-checkpoint", "-i", str(path), "-o", str(tmp_path / "out.gguf"), "--ff", "64"]) == 2
