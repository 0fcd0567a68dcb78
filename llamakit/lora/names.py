"""What PEFT calls the modules that GGUF calls tensors, and the order of rows in which the two differ.

    GGUF `blk.3.attn_q.weight`      PEFT `model.layers.3.self_attn.q_proj`

Rope turns pairs of values of a head. In files of architectures with adjacent pairs (llama), the rows of q and k lie
as (head, pair, which of the two); in the checkpoints that PEFT trains, as (head, which of the two, pair). Adapters of
q and k are converted by the same exchange of rows, of B and of DoRA's magnitudes; A and all values stay as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.bounded_json import short
from llamakit.errors import LONGEST_NAME, ModelFileError, UsageError
from llamakit.models import LlamaFamily, find_architecture

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

LAYER = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
TOP = {"token_embd": "model.embed_tokens", "output": "lm_head"}
ROUTERS = {"llama": "block_sparse_moe.gate", "qwen3moe": "mlp.gate"}  # of mixtures of experts, by architecture
PERMUTED = ("attn_q", "attn_k")
FUSED = "self_attn.W_pack"  # of Baichuan: q, k and v in one


@dataclass(frozen=True)
class Layout:
    """What is known of the base: its architecture, and its heads and layers if they are known."""

    architecture: str
    n_head: int | None = None
    n_head_kv: int | None = None
    n_layer: int | None = None

    @property
    def permutes(self) -> bool:
        """Whether the rows of q and k lie in another order than in PEFT's checkpoints."""
        found, known = find_architecture(self.architecture)
        if found is None or not issubclass(found, LlamaFamily):
            raise UsageError(
                f"adapters of architecture {short(self.architecture, LONGEST_NAME)!r} cannot be converted;"
                f" of these: {', '.join(known)}"
            )
        return found.variant.rope_pairs == "adjacent"

    def module(self, tensor: str) -> str:
        """The PEFT module of a GGUF tensor."""
        stem = tensor.removesuffix(".weight")
        if stem in TOP:
            return TOP[stem]
        match = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
        names, fused = LAYER | {"ffn_gate_inp": ROUTERS.get(self.architecture, "")}, self.architecture == "baichuan"
        if match is None or not names.get(match[2]) or (fused and match[2] in LAYER_OF_PACK):
            raise UsageError(f"PEFT has no LoRA for tensor {tensor!r} of architecture {self.architecture!r}")
        return f"model.layers.{match[1]}.{names[match[2]]}"

    def tensors(self, module: str) -> tuple[str, ...]:
        """The GGUF tensors of a PEFT module: one, or three of Baichuan's W_pack; () if it is none of a linear."""
        for stem, name in TOP.items():
            if module == name:
                return (f"{stem}.weight",)
        match = re.fullmatch(r"model\.layers\.(\d+)\.([\w.]+)", module)
        if match is None:
            return ()
        if self.architecture == "baichuan" and match[2] == FUSED:
            return tuple(f"blk.{match[1]}.{stem}.weight" for stem in LAYER_OF_PACK)
        names = {name: stem for stem, name in LAYER.items()}
        names[ROUTERS.get(self.architecture, "")] = "ffn_gate_inp"
        return (f"blk.{match[1]}.{names[match[2]]}.weight",) if match[2] in names else ()

    def to_gguf(self, tensor: str, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Rows of B (n_out, rank), or magnitudes (n_out,), in the order of GGUF."""
        return self._exchange(tensor, rows, (2, -1))

    def to_peft(self, tensor: str, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The other way round."""
        return self._exchange(tensor, rows, (-1, 2))

    def _exchange(self, tensor: str, rows: npt.NDArray[Any], inner: tuple[int, int]) -> npt.NDArray[Any]:
        part = tensor.split(".")[-2] if tensor.startswith("blk.") else ""
        if part not in PERMUTED or not self.permutes:
            return rows
        n_head = self.n_head if part == "attn_q" else self.n_head_kv
        if n_head is None:
            raise UsageError(
                f"the order of the rows of {tensor!r} depends on the number of heads, which the adapter does not say",
                hint="name the base model: -m BASE.gguf",
            )
        if rows.shape[0] % (2 * n_head):
            raise ModelFileError(f"{tensor!r}: {rows.shape[0]} rows do not divide into {n_head} heads of pairs")
        split = rows.reshape(n_head, *inner, *rows.shape[1:])
        return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)


LAYER_OF_PACK = ("attn_q", "attn_k", "attn_v")


def layout_of(metadata: Mapping[str, object], architecture: str | None = None) -> Layout:
    """From the metadata of a model, or of an adapter that says the sizes of its base."""
    name = metadata.get("general.architecture") if architecture is None else architecture
    if not isinstance(name, str):
        raise UsageError("the base's general.architecture is missing")
    keys = ("attention.head_count", "attention.head_count_kv", "block_count")
    found = (metadata.get(f"{name}.{key}") for key in keys)
    # True is an int, but no count.
    n_head, n_head_kv, n_layer = (value if type(value) is int and 0 < value < 1 << 32 else None for value in found)
    return Layout(name, n_head, n_head_kv or n_head, n_layer)
