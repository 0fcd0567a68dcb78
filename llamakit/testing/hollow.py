"""Models of any size that take no room on the disk: sparse files whose weights are all zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.gguf import GGMLType, GGUFWriter

if TYPE_CHECKING:
    from pathlib import Path


class HollowWriter(GGUFWriter):
    """Writes the head of a file, and a hole where its tensors would be."""

    def add_hole(self, name: str, shape: tuple[int, ...], type: GGMLType) -> None:
        """Announce a tensor."""
        self.add_tensor(name, lambda: np.zeros(0, np.uint8), type, shape)

    def _write_tensors(self, file: Any) -> None:
        file.truncate(file.tell() + sum(self._aligned(n_bytes) for _, _, n_bytes, _ in self._tensors.values()))


def write_hollow_llama(
    path: Path,
    *,
    n_layer: int,
    n_embd: int,
    n_head: int,
    n_head_kv: int,
    n_ff: int,
    n_vocab: int,
    type: GGMLType = GGMLType.Q4_0,
    n_expert: int = 0,
    n_ctx: int = 4096,
) -> Path:
    """A llama without a vocabulary; with `n_expert`, a mixture of which each row takes two."""
    n_kv = n_embd // n_head * n_head_kv
    layer: dict[str, tuple[int, ...]] = {
        "attn_q": (n_embd, n_embd), "attn_k": (n_kv, n_embd), "attn_v": (n_kv, n_embd), "attn_output": (n_embd, n_embd),
    }  # fmt: skip
    outer = {"ffn_gate": (n_ff, n_embd), "ffn_up": (n_ff, n_embd), "ffn_down": (n_embd, n_ff)}
    layer |= {f"{name}_exps": (n_expert, *shape) for name, shape in outer.items()} if n_expert else outer
    sizes = {
        "context_length": n_ctx, "embedding_length": n_embd, "block_count": n_layer, "feed_forward_length": n_ff,
        "attention.head_count": n_head, "attention.head_count_kv": n_head_kv,
        "expert_count": n_expert, "expert_used_count": min(n_expert, 2),
    }  # fmt: skip
    with HollowWriter(path) as writer:
        writer.add("general.architecture", "llama")
        for key, value in sizes.items():
            writer.add(f"llama.{key}", value)
        writer.add("llama.attention.layer_norm_rms_epsilon", 1e-5)
        for name in ("token_embd", "output"):
            writer.add_hole(f"{name}.weight", (n_vocab, n_embd), type)
        writer.add_hole("output_norm.weight", (n_embd,), GGMLType.F32)
        for i in range(n_layer):
            for name, shape in layer.items():
                writer.add_hole(f"blk.{i}.{name}.weight", shape, type)
            for name in ("attn_norm", "ffn_norm"):
                writer.add_hole(f"blk.{i}.{name}.weight", (n_embd,), GGMLType.F32)
            if n_expert:
                writer.add_hole(f"blk.{i}.ffn_gate_inp.weight", (n_expert, n_embd), GGMLType.F32)
    return path
