"""Adapters from files: what they do to a model, and what is refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from llamakit.adapter import Adapter
from llamakit.engine.adapters import AdapterStore, combine
from llamakit.errors import ModelFileError, UsageError
from llamakit.gguf import GGMLType, GGUFWriter, open_gguf
from llamakit.models import load_model
from llamakit.models.lora import adapter_targets, changed_tensors, load_adapter, make_adapter
from llamakit.testing.lora import (
    N_EMBD,
    adapted_logits,
    ggla_bytes,
    ggla_pair,
    gguf_pair,
    tiny_shapes,
    write_gguf_adapter,
    write_tiny_model,
)

BACKENDS = ["reference", "cpu"]
Q = "blk.0.attn_q.weight"
TOKENS = [1, 7, 3, 40, 12, 9, 9, 2]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("lora") / "base.gguf")


@pytest.fixture(scope="module")
def model(base):
    with open_gguf(base) as file:
        yield load_model(file)


def logits(path, backend: str, adapters=None, deltas=None, overrides=None) -> np.ndarray:
    return adapted_logits(path, TOKENS, backend, adapters, deltas, overrides)


def deltas_of(adapter) -> dict[str, np.ndarray]:
    """The changes that an adapter stands for, in float64."""
    full = {}
    for name, each in adapter.tensors.items():
        b = np.asarray(each.B, np.float64)
        full[name] = each.scale * (b if each.A is None else b @ np.asarray(each.A, np.float64))
    return full


def assert_close(found, expected, plain) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-4)
    assert np.abs(plain - expected).max() > 1e-2  # the adapter does something


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("type_", [GGMLType.F32, GGMLType.F16], ids=lambda t: t.name)
def test_a_gguf_adapter_equals_merged_weights(tmp_path, backend, tied, type_):
    path = write_tiny_model(tmp_path / "base.gguf", tied)
    shapes = tiny_shapes(tied=tied)
    matrices = [name for name, shape in shapes.items() if len(shape) == 2]
    tensors = {}
    for i, name in enumerate(matrices):
        tensors |= gguf_pair(name, 1 + i % 5, i, shapes)
    tensors["blk.1.ffn_norm.weight"] = np.linspace(0.5, 1.5, N_EMBD, dtype=np.float32)
    file = write_gguf_adapter(tmp_path / "a.gguf", tensors, 3.0, type_)
    with open_gguf(path) as opened:
        m = load_model(opened)
        adapter = load_adapter(file, m)
        expected = {}
        for name in matrices:
            a, b = (tensors[f"{name}.{part}"] for part in ("lora_a", "lora_b"))
            if type_ == GGMLType.F16:
                a, b = a.astype(np.float16), b.astype(np.float16)
            a, b = a.astype(np.float64), b.astype(np.float64)
            rank = a.shape[1] if name == "token_embd.weight" else a.shape[0]
            expected[name] = 3.0 / rank * (a @ b.T if name == "token_embd.weight" else b @ a)
        norm = tensors["blk.1.ffn_norm.weight"].astype(np.float16 if type_ == GGMLType.F16 else np.float32)
        expected["blk.1.ffn_norm.weight"] = norm - m.tensor("blk.1.ffn_norm.weight").astype(np.float64)
    assert adapter.tensors.keys() == expected.keys()
    found = logits(path, backend, adapters=dict(adapter.tensors))
    assert_close(found, logits(path, backend, deltas=expected), logits(path, backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_adapter_of_2023_equals_merged_weights(test_data, backend):
    folder = test_data / "fixtures" / "training"
    path = folder / "tiny-base-f32.gguf"
    with open_gguf(path) as file:
        adapter = load_adapter(folder / "seed-lora-q8_0-it3.ggla.bin", load_model(file))
    assert (adapter.name, adapter.rank, adapter.alpha, len(adapter.tensors)) == ("seed-lora-q8_0-it3.ggla", 4, 4.0, 21)
    raw = (folder / "seed-lora-q8_0-it3.ggla.bin").read_bytes()
    expected = {}
    for name, pair in raw_ggla(raw).items():
        a, b = (x.astype(np.float64) for x in pair)  # (n_in, r), (n_out, r)
        delta = b @ a.T
        expected[name] = delta[0] if name.endswith("norm.weight") else delta
    found = logits(path, backend, adapters=dict(adapter.tensors))
    assert_close(found, logits(path, backend, deltas=expected), logits(path, backend))


def raw_ggla(data: bytes) -> dict[str, list[np.ndarray]]:
    """A second reader, by the format's description alone."""
    at, found = 16, {}
    while at < len(data):
        _, n_name, _, ne0, ne1 = struct.unpack_from("<5I", data, at)
        name = data[at + 20 : at + 20 + n_name].decode()
        at = -(-(at + 20 + n_name) // 32) * 32
        found.setdefault(name[:-6], []).append(np.frombuffer(data, "<f4", ne0 * ne1, at).reshape(ne1, ne0))
        at += 4 * ne0 * ne1
    return found


@pytest.mark.parametrize("type_", [0, 1], ids=["F32", "F16"])
def test_ggla_scales_by_the_rank_in_its_head(tmp_path, model, type_):
    tensors = ggla_pair("blk.0.attn_q.weight", 4, 0) | ggla_pair("output_norm.weight", 1, 1)
    path = tmp_path / "x.bin"
    path.write_bytes(ggla_bytes(tensors, r=4, alpha=8, type=type_))
    adapter = load_adapter(path, model, name="mine")
    dtype = np.float16 if type_ else np.float32
    a, b = (tensors[f"blk.0.attn_q.weight.{p}"].astype(dtype).astype(np.float32) for p in ("loraA", "loraB"))
    made = adapter.tensors["blk.0.attn_q.weight"]
    assert made.scale == adapter.tensors["output_norm.weight"].scale == 2.0
    assert np.array_equal(made.A, a.T)
    assert np.array_equal(made.B, b)
    assert adapter.tensors["output_norm.weight"].A is None
    assert (adapter.name, adapter.rank, adapter.n_bytes) == ("mine", 4, 4 * (2 * 4 * N_EMBD + N_EMBD))


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_adapters_are_their_sum(tmp_path, base, model, backend):
    one = ggla_pair("blk.0.attn_q.weight", 4, 0) | ggla_pair("blk.1.attn_norm.weight", 1, 1)
    (tmp_path / "one.bin").write_bytes(ggla_bytes(one | ggla_pair("token_embd.weight", 2, 2)))
    names = ("blk.0.attn_q.weight", "blk.1.ffn_down.weight", "token_embd.weight")
    two = {k: v for i, name in enumerate(names) for k, v in gguf_pair(name, 3, 5 + i).items()}
    two["blk.1.attn_norm.weight"] = np.full(N_EMBD, 0.7, np.float32)
    write_gguf_adapter(tmp_path / "two.gguf", two)
    adapters = [load_adapter(tmp_path / "one.bin", model), load_adapter(tmp_path / "two.gguf", model)]
    assert changed_tensors(adapters) == {*names, "blk.1.attn_norm.weight"}
    scales = (0.5, -1.25)
    total: dict[str, np.ndarray] = {}
    for adapter, scale in zip(adapters, scales, strict=True):
        for name, delta in deltas_of(adapter).items():
            total[name] = total.get(name, 0.0) + scale * delta
    summed = combine(adapters, scales)
    assert summed["blk.0.attn_q.weight"].A.shape[0] == 7
    found = logits(base, backend, adapters=summed)
    assert_close(found, logits(base, backend, deltas=total), logits(base, backend))
    store = AdapterStore(None, 0)
    with pytest.raises(UsageError, match="without adapters"):
        store.add(adapters[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_tensors_can_come_from_a_more_precise_file(tmp_path, base, backend):
    coarse = tmp_path / "coarse.gguf"
    with open_gguf(base) as file, GGUFWriter(coarse) as writer:
        for key in file.metadata:
            writer.add(key, file.metadata[key])
        for name in file.tensors:
            x = file.tensor(name)
            writer.add_tensor(name, np.round(x * 4) / np.float32(4) if x.ndim == 2 else x)
    with open_gguf(base) as fine:
        some = logits(coarse, backend, overrides={"blk.0.attn_q.weight": fine})
        every = logits(coarse, backend, overrides=dict.fromkeys(fine.tensors, fine))
    assert np.array_equal(every, logits(base, backend))
    assert np.abs(some - every).max() > 1e-2
    assert np.abs(some - logits(coarse, backend)).max() > 1e-3
    other = write_tiny_model(tmp_path / "tied.gguf", tied=True)
    with open_gguf(other) as file, pytest.raises(ModelFileError, match="has no tensor 'output.weight'"):
        logits(base, backend, overrides={"output.weight": file})


def test_what_a_loaded_adapter_says(tmp_path, model):
    tensors = gguf_pair("blk.0.attn_v.weight", 2, 0)
    path = write_gguf_adapter(tmp_path / "poet-v2.gguf", tensors, 2, metadata={"adapter.lora.task_name": "poems"})
    adapter = load_adapter(path, model)
    assert (adapter.name, adapter.alpha, adapter.path) == ("poet-v2", 2.0, path)
    assert adapter.metadata == {"format": "gguf", "general.name": "test", "adapter.lora.task_name": "poems"}
    assert not adapter.tensors["blk.0.attn_v.weight"].A.flags.writeable
    same = load_adapter(write_gguf_adapter(tmp_path / "b.gguf", tensors, 2), model)
    assert same.digest == adapter.digest
    assert load_adapter(write_gguf_adapter(tmp_path / "b.gguf", tensors, 3), model).digest != adapter.digest
    assert load_adapter(write_gguf_adapter(tmp_path / "b.gguf", tensors, 0.0), model).tensors[
        "blk.0.attn_v.weight"
    ].scale == 1.0  # fmt: skip
    no_alpha = load_adapter(write_gguf_adapter(tmp_path / "b.gguf", tensors, None), model)
    assert (no_alpha.alpha, no_alpha.tensors["blk.0.attn_v.weight"].scale) == (0.0, 1.0)
    for name in ("", "a\nb", "x" * 300):
        with pytest.raises(UsageError, match="name"):
            load_adapter(path, model, name=name)


def test_adapters_made_in_memory(model, tmp_path):
    targets = adapter_targets(model)
    assert targets == tiny_shapes()
    pair = {Q: Adapter(np.ones((2, 32), np.float32), np.ones((32, 2), np.float32), 0.5)}
    a, b = make_adapter("a", tmp_path, 1.0, pair), make_adapter("b", tmp_path, 2.0, pair)
    assert a.digest == b.digest
    assert (a.rank, a.n_bytes) == (2, 2 * 2 * 32 * 4)
