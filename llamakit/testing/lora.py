"""Small models and adapter files for tests: a llama of two layers without a vocabulary, adapters in both formats."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.gguf import GGMLType, GGUFFile, GGUFWriter, open_gguf

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llamakit.adapter import Adapter

Array = Any
Shapes = dict[str, tuple[int, ...]]
N_VOCAB, N_EMBD, N_FF, N_LAYER, N_HEAD, N_HEAD_KV = 48, 32, 48, 2, 4, 2


def tiny_shapes(tied: bool = False) -> Shapes:
    """The tensors of the small model, in numpy order; `tied`: without an output of its own."""
    shapes: Shapes = {"token_embd.weight": (N_VOCAB, N_EMBD), "output_norm.weight": (N_EMBD,)}
    if not tied:
        shapes["output.weight"] = (N_VOCAB, N_EMBD)
    n_kv = N_EMBD // N_HEAD * N_HEAD_KV
    for i in range(N_LAYER):
        shapes |= {f"blk.{i}.{name}.weight": (N_EMBD,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{i}.{name}.weight": (N_EMBD, N_EMBD) for name in ("attn_q", "attn_output")}
        shapes |= {f"blk.{i}.{name}.weight": (n_kv, N_EMBD) for name in ("attn_k", "attn_v")}
        shapes |= {f"blk.{i}.{name}.weight": (N_FF, N_EMBD) for name in ("ffn_gate", "ffn_up")}
        shapes[f"blk.{i}.ffn_down.weight"] = (N_EMBD, N_FF)
    return shapes


def write_tiny_model(path: Path, tied: bool = False) -> Path:
    """Write the small model with random weights in F32."""
    rng = np.random.default_rng(0)
    sizes = {
        "context_length": 64, "embedding_length": N_EMBD, "block_count": N_LAYER, "feed_forward_length": N_FF,
        "attention.head_count": N_HEAD, "attention.head_count_kv": N_HEAD_KV,
    }  # fmt: skip
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", "llama")
        for key, value in sizes.items():
            writer.add(f"llama.{key}", value)
        writer.add("llama.attention.layer_norm_rms_epsilon", 1e-5)
        for name, shape in tiny_shapes(tied).items():
            values = rng.normal(size=shape) * 0.3 + (len(shape) == 1)
            writer.add_tensor(name, values.astype(np.float32))
    return path


def gguf_pair(name: str, rank: int, seed: int, shapes: Shapes | None = None, size: float = 0.3) -> dict[str, Array]:
    """Both parts of a random adapter of one tensor, as GGUF adapters hold them."""
    rng = np.random.default_rng(seed)
    n_out, n_in = (shapes or tiny_shapes())[name]
    a, b = rng.normal(size=(rank, n_in)) * size, rng.normal(size=(n_out, rank)) * size
    if name == "token_embd.weight":
        a, b = b, a.T
    return {f"{name}.lora_a": a.astype(np.float32), f"{name}.lora_b": b.astype(np.float32)}


def write_gguf_adapter(
    path: Path,
    tensors: Mapping[str, Array],
    alpha: object = 8.0,
    type: GGMLType = GGMLType.F32,
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """Write a GGUF adapter; `type` is F32 or F16, `metadata` replaces or adds keys, or with None removes them."""
    keys: dict[str, object] = {"general.type": "adapter", "adapter.type": "lora", "general.architecture": "llama"}
    keys |= {"adapter.lora.alpha": alpha, "general.name": "test"} | dict(metadata or {})
    with GGUFWriter(path) as writer:
        for key, value in keys.items():
            writer.add(key, value)
        for name, x in tensors.items():
            writer.add_tensor(name, x.astype(np.float16) if type == GGMLType.F16 else x, type, x.shape)
    return path


def ggla_pair(name: str, rank: int, seed: int) -> dict[str, Array]:
    """Both parts of a random adapter of one tensor, as ggla files hold them."""
    rng = np.random.default_rng(seed)
    *outer, n_in = tiny_shapes()[name]
    a, b = rng.normal(size=(n_in, rank)) * 0.3, rng.normal(size=(outer[0] if outer else 1, rank)) * 0.3
    return {f"{name}.loraA": a.astype(np.float32), f"{name}.loraB": b.astype(np.float32)}


def ggla_bytes(
    tensors: Mapping[str, Array], r: int = 4, alpha: int = 8, *, magic: bytes = b"algg", version: int = 1, type: int = 0
) -> bytes:
    """A ggla file; `type` is 0 for F32, 1 for F16."""
    out = bytearray(magic + struct.pack("<III", version, r, alpha))
    for name, x in tensors.items():
        dims = x.shape[::-1]
        out += struct.pack(f"<III{len(dims)}I", len(dims), len(name), type, *dims) + name.encode()
        out += bytes(-len(out) % 32) + x.astype("<f2" if type else "<f4").tobytes()
    return bytes(out)


def adapted_logits(
    path: Path,
    tokens: Sequence[int],
    backend: str = "reference",
    adapters: Mapping[str, Adapter] | None = None,
    deltas: Mapping[str, Array] | None = None,
    overrides: Mapping[str, GGUFFile] | None = None,
) -> Array:
    """Logits (n_tokens, n_vocab) of one step: with adapters in slot 1, or with `deltas` merged into the weights."""
    from llamakit.engine.runner import BLOCK_SIZE, kv_spec
    from llamakit.models import GraphSizes, load_model
    from llamakit.models.lora import adapter_targets
    from llamakit.registry import Registry
    from llamakit.testing.conformance import Source
    from llamakit.weights import load_weights, tensor_sources

    with open_gguf(path) as file:
        m = load_model(file)
        device = Registry.discover().backend(backend)().open()
        weights = load_weights(device, tensor_sources(m.uses(), file, overrides), m.uses())
        n = len(tokens)
        sizes = GraphSizes(rows=n, seqs=1, blocks_per_seq=1, out_rows=n)
        graph = m.build(sizes, adapters=adapters is not None)
        for name, delta in (deltas or {}).items():
            merged = (m.tensor(name).astype(np.float64) + delta).astype(np.float32)
            weights[name] = device.load(Source(name, GGMLType.F32, merged), graph.uses()[name])
        table = None
        if adapters is not None:
            table = device.adapter_table(adapter_targets(m), 1)
            table.set(1, adapters)
        kv = device.kv_cache(kv_spec(m, 1, "f32"))
        program = device.compile(graph, weights, kv=kv, adapters=table)
        rows = np.arange(n)
        values: dict[str, Any] = {"tokens": tokens, "positions": rows, "sequences": 0, "cells": rows, "out_rows": rows}
        values |= {"block_tables": 0, "adapters": 1, "out_adapters": 1}
        for key, array in program.inputs.items():
            array[:] = values[key]
        assert n <= BLOCK_SIZE
        return program.run({"rows": n, "out_rows": n, "seqs": 1}, longest=n)["logits"].numpy().copy()
