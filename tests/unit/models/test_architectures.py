"""Architectures are plugins; layers may differ in heads and width, and so may what they keep in the cache."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points

import numpy as np
import pytest

from llamakit.backend import CacheLayer, KVSpec
from llamakit.errors import ModelFileError
from llamakit.gguf import GGUFWriter, open_gguf
from llamakit.graph.attrs import RopeAttrs
from llamakit.models import load_model
from llamakit.registry import Registry
from llamakit.session import Session
from llamakit.testing.lora import adapted_logits
from llamakit.testing.renamed import write_renamed

PLUGIN = """
from llamakit.hookspecs import hookimpl
from llamakit.models import LlamaFamily

class Striped(LlamaFamily):
    name = "striped"

    def read(self, file):
        return read_hparams(file.metadata, self.name, {k: t.shape for k, t in file.tensors.items()}, "", 1e-5)

from llamakit.models.hparams import read_hparams

@hookimpl
def llamakit_architectures():
    return [Striped]
"""


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """The plugins there are, and one more: a single file."""
    tmp_path.joinpath("striped_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    yield Registry([*entry_points(group="llamakit"), EntryPoint("architecture.striped", "striped_plugin", "llamakit")])
    sys.modules.pop("striped_plugin", None)


def test_one_file_adds_an_architecture(registry, small_model, tmp_path):
    changes = {"attention.layer_norm_rms_epsilon": None}  # this one knows its own
    path = write_renamed(small_model, tmp_path / "striped.gguf", "striped", changes)
    with Session(path, registry=registry, backend="cpu") as session, Session(small_model, backend="cpu") as llama:
        found, expected = (s.generate("Once", max_tokens=12, temperature=0).text for s in (session, llama))
    assert found == expected
    with (
        open_gguf(path) as file,
        pytest.raises(ModelFileError, match="'striped' is not supported; .*llama"),
    ):
        load_model(file)


def test_what_we_bring_comes_through_the_same_door():
    registry = Registry.discover()
    names = registry.entry_names("architecture")
    assert {"llama", "mistral", "baichuan", "qwen2", "qwen3", "qwen3moe"} <= set(names)
    assert all(registry.architecture(name).name == name for name in names)
    assert {info.name for info in registry.plugins("architecture")} >= set(names)


HEADS, HEADS_KV, WIDTHS = (4, 8, 4), (4, 2, 1), (48, 32, 80)
N_EMBD, N_VOCAB, HEAD_DIM = 32, 48, 8


def write_uneven(path, **changes: object):
    """A llama of three layers, none like another."""
    rng = np.random.default_rng(0)
    sizes = {
        "context_length": 64, "embedding_length": N_EMBD, "block_count": 3, "attention.key_length": HEAD_DIM,
        "attention.value_length": HEAD_DIM, "feed_forward_length": np.array(WIDTHS, np.int32),
        "attention.head_count": np.array(HEADS, np.int32), "attention.head_count_kv": np.array(HEADS_KV, np.int32),
    }  # fmt: skip
    shapes = {"token_embd": (N_VOCAB, N_EMBD), "output": (N_VOCAB, N_EMBD), "output_norm": (N_EMBD,)}
    for i, (n_head, n_kv, n_ff) in enumerate(zip(HEADS, HEADS_KV, WIDTHS, strict=True)):
        q, kv = (n_head * HEAD_DIM, N_EMBD), (n_kv * HEAD_DIM, N_EMBD)
        layer = {"attn_q": q, "attn_k": kv, "attn_v": kv, "attn_output": q[::-1], "attn_norm": (N_EMBD,)}
        layer |= {"ffn_gate": (n_ff, N_EMBD), "ffn_up": (n_ff, N_EMBD), "ffn_down": (N_EMBD, n_ff)}
        shapes |= {f"blk.{i}.{name}": shape for name, shape in (layer | {"ffn_norm": (N_EMBD,)}).items()}
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", "llama")
        writer.add("llama.attention.layer_norm_rms_epsilon", 1e-5)
        for key, value in (sizes | changes).items():
            writer.add(f"llama.{key}", value)
        for name, shape in shapes.items():
            values = rng.normal(size=shape) * 0.3 + (len(shape) == 1)
            writer.add_tensor(f"{name}.weight", values.astype(np.float32))
    return path


def test_layers_may_differ(tmp_path):
    path = write_uneven(tmp_path / "uneven.gguf")
    with open_gguf(path) as file:
        model = load_model(file)
    assert [layer.n_head_kv for layer in model.cache_layers()] == list(HEADS_KV)
    assert (model.hparams.n_head, model.hparams.n_ff) == (8, 80)
    found, expected = (adapted_logits(path, [1, 7, 3, 40, 12], backend) for backend in ("cpu", "reference"))
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("attention.head_count_kv", np.array([1, 2], np.int32), "for each of 3 layers"),
        ("feed_forward_length", np.array([48, 0, 80], np.int32), "for each of 3 layers"),
        ("feed_forward_length", np.array([48.0, 32.0, 80.0], np.float32), "for each of 3 layers"),
        ("attention.head_count_kv", np.array([4, 3, 1], np.int32), "8 heads do not divide into 3"),
    ],
)
def test_layers_that_cannot_be_are_refused(key, value, message, tmp_path):
    path = write_uneven(tmp_path / "x.gguf", **{key: value})
    with open_gguf(path) as file, pytest.raises(ModelFileError, match=message):
        load_model(file)


ROPE = RopeAttrs(tuple(10000.0 ** -np.linspace(0, 1, 16)), "halves")
LAYERS = (CacheLayer(2, 32, 64, ROPE), CacheLayer(1, 64, 32), CacheLayer(4, 32, 32, ROPE))


@pytest.mark.parametrize("type_", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("block_size", [16, 8])
def test_caches_of_uneven_layers_agree(type_, block_size):
    spec = KVSpec(layers=LAYERS, n_block=4, block_size=block_size, type=type_)
    devices = [Registry.discover().backend(name)().open() for name in ("cpu", "reference")]
    native, plain = (device.kv_cache(spec) for device in devices)
    rng, cells = np.random.default_rng(0), list(range(4 * block_size))
    for layer, shape in enumerate(LAYERS):
        size = (len(cells), shape.n_head_kv)
        plain.write(
            layer,
            np.array(cells),
            rng.normal(size=(*size, shape.head_dim_k)),
            rng.normal(size=(*size, shape.head_dim_v)),
        )
    written = plain.export(cells)
    native.restore(cells, written)
    assert np.array_equal(native.export(cells), written)
    for cache in (native, plain):
        cache.copy([0], [3])
        cache.shift([1, 2], [block_size, block_size + 1], -3)
    found, expected = native.export(cells), plain.export(cells)
    if type_ == "f32":
        assert np.allclose(found.view(np.float32), expected.view(np.float32), atol=1e-5)
    kept = [cell for cell in cells if cell not in (block_size, block_size + 1)]
    assert np.array_equal(found[:, kept], expected[:, kept])
