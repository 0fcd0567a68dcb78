"""Checkpoints of before GGUF: `ggcl` of finetune, `ggcp` of train-text-from-scratch, little-endian.

    u32 magic, version 0, iterations, samples, tokens; n_vocab, n_embd, n_mult, n_head, n_layer, n_rot;
    ggcl: the ranks of attn_norm, wq, wk, wv, wo, ffn_norm, w1, w2, w3, tok_embeddings, norm, output;
    the tensors, their names not to be relied upon: u32 dimensions, length of the name, type 0; u32 sizes, the fastest
    first; the name; zeros up to a multiple of 32; float32 values;
    the optimizer, version 0 or 1: i32 past, i32 m of L-BFGS, u64 parameters, i32 iterations, u32 just initialised, its
    tensors, f32 best and previous loss, i32 count without improvement. Version 0 has 96 bytes of options before the
    number of parameters instead, and Adam's five further arrays; version 1 forgot the type, which its size tells.

Source: the two scripts convert-*-checkpoint-to-gguf.py of llama.cpp.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.errors import ModelFileError
from llamakit.gguf import ValueType
from llamakit.gguf.file_bytes import FileBytes
from llamakit.train.tools_2023.checkpoint import FIRST, PAST, SECOND, Checkpoint2023, OptimizerState, with_optimizer

if TYPE_CHECKING:
    from pathlib import Path

    from llamakit.train.tools_2023.moments import Order

MAGICS = (b"lcgg", b"pcgg")  # ggcl and ggcp as numbers, little-endian
OPTIONS_V0 = struct.Struct("<Iiifi??xx9f3i5fI")  # as the C structure was laid out
TENSORS = {
    "finetune_lora": (
        "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_down", "ffn_up",
    ),
}  # fmt: skip
LAYER = TENSORS["finetune_lora"]
LBFGS = (
    "current_parameters", "previous_parameters", "current_gradients", "previous_gradients", "search_direction",
    "past_loss_values", "memory_alpha", "memory_ys", "memory_s", "memory_y",
)  # fmt: skip


class _Cursor:
    """Reads a file; a read past its end is a ModelFileError."""

    def __init__(self, data: FileBytes) -> None:
        self.data, self.path, self.at = data, data.path, 0

    @property
    def left(self) -> int:
        """Bytes that are still to come."""
        return len(self.data) - self.at

    def unpack(self, format: str) -> tuple[Any, ...]:
        """The next values, little-endian."""
        return struct.unpack("<" + format, self.take(struct.calcsize("<" + format)).tobytes())

    def take(self, n: int) -> Any:
        """The next bytes."""
        if n > self.left:
            raise self.wrong(f"{n} bytes at {self.at} are wanted, {self.left} are left")
        self.at += n
        return np.frombuffer(self.data[self.at - n : self.at], np.uint8)

    def tensor(self, what: str) -> Any:
        """The next tensor in numpy order, or None for one that is not there."""
        n_dims, n_name, kind = self.unpack("III")
        if n_dims > 4 or n_name > 4096 or kind != 0:
            raise self.wrong(f"{what} has {n_dims} dimensions, a name of {n_name} bytes and type {kind}")
        sizes = self.unpack(f"{n_dims}I")
        self.take(n_name)
        self.take(min(-self.at % 32, self.left))
        if n_dims == 0:
            return None
        values = self.take(4 * math.prod(sizes)).view("<f4") if math.prod(sizes) else np.zeros(0, np.float32)
        return np.array(values, np.float32).reshape(sizes[::-1])

    def wrong(self, fault: str) -> ModelFileError:
        """The error for a fault in the file."""
        return ModelFileError(f"{self.path} is damaged: {fault}")


def read_before_gguf(path: Path, order: Order | None = None) -> Checkpoint2023:
    """Read a whole file. What such files do not say, the norms' epsilon and the context, has the value of then."""
    with FileBytes(path) as data:
        return _read(_Cursor(data), order)


def _read(c: _Cursor, order: Order | None) -> Checkpoint2023:
    magic = c.take(4).tobytes()
    version, iterations, samples, tokens = c.unpack("4I")
    if version != 0:
        raise ModelFileError(f"{c.path} is a checkpoint of version {version}; version 0 can be read")
    n_vocab, n_embd, n_mult, n_head, n_layer, n_rot = c.unpack("6I")
    if not (0 < n_layer < 4096 and n_embd and n_head and n_mult):
        raise c.wrong(f"it is for {n_layer} layers of {n_embd} values and {n_head} heads")
    lora = magic == MAGICS[0]
    if lora:
        c.unpack("12I")  # the ranks, which the tensors' sizes say too
    tensors = _tensors(c, n_layer, lora)
    n_ff = _check(c, tensors, n_vocab, n_embd, lora)
    sizes = {
        "context_length": 128, "embedding_length": n_embd, "feed_forward_length": n_ff, "attention.head_count": n_head,
        "block_count": n_layer, "rope.dimension_count": n_rot,
    }  # fmt: skip
    model: dict[str, Any] = {"general.architecture": (ValueType.STRING, None, b"llama")}
    model |= {"general.file_type": (ValueType.UINT32, None, 0)}
    model |= {f"llama.{key}": (ValueType.UINT32, None, value) for key, value in sizes.items()}
    if lora:
        rows = len(tensors["blk.0.attn_k.weight.lora_b"])
        model["llama.attention.head_count_kv"] = (ValueType.UINT32, None, n_head * rows // n_embd)
    model["llama.attention.layer_norm_rms_epsilon"] = (ValueType.FLOAT32, None, 1e-5)
    made = Checkpoint2023("finetune_lora" if lora else "train_model", model, tensors)
    optimizer, state = _optimizer(c, sum(values.size for values in tensors.values()))
    if c.left:
        raise c.wrong(f"{c.left} bytes are left at its end")
    return with_optimizer(made, optimizer, state, order, iterations=iterations, samples=samples, tokens=tokens)


def _tensors(c: _Cursor, n_layer: int, lora: bool) -> dict[str, Any]:
    """The parameters by their names of today."""
    names = ["token_embd", "output_norm", "output", *(f"blk.{i}.{stem}" for i in range(n_layer) for stem in LAYER)]
    found = {}
    for name in names:
        for suffix in (".lora_a", ".lora_b") if lora else ("",):
            found[f"{name}.weight{suffix}"] = c.tensor(name)
            if found[f"{name}.weight{suffix}"] is None:
                raise c.wrong(f"{name} is missing")
    return found


def _check(c: _Cursor, tensors: dict[str, Any], n_vocab: int, n_embd: int, lora: bool) -> int:
    """That the sizes fit the head; the size of the feed-forward layer, which the tensors say."""
    if lora:
        shapes = [
            (len(tensors[f"{name}.weight.lora_a"]), len(tensors[f"{name}.weight.lora_b"]))
            for name in ("token_embd", "output")
        ]
        wanted, n_ff = [(n_embd, n_vocab)] * 2, len(tensors["blk.0.ffn_gate.weight.lora_b"])
    else:
        shapes = [tensors[f"{name}.weight"].shape for name in ("token_embd", "output")]
        wanted, n_ff = [(n_vocab, n_embd)] * 2, len(tensors["blk.0.ffn_gate.weight"])
    if shapes != wanted:
        raise c.wrong(f"its embedding and output are {shapes}, its head says {n_vocab} tokens of {n_embd} values")
    return n_ff


def _optimizer(c: _Cursor, n_parameter: int) -> tuple[OptimizerState, dict[str, Any]]:
    """The optimizer's counters and tensors."""
    (version,) = c.unpack("I")
    if version == 0:
        options = OPTIONS_V0.unpack(c.take(OPTIONS_V0.size).tobytes())
        type_, past, m = options[0], options[2], options[16]
    elif version == 1:
        past, m = c.unpack("ii")
        type_ = None
    else:
        raise c.wrong(f"its optimizer is of version {version}; 0 and 1 are known")
    nx, iterations, just_initialized = c.unpack("QiI")
    if nx != n_parameter:
        raise c.wrong(f"its optimizer is of {nx} parameters, its tensors have {n_parameter} values")
    if type_ is None:
        # Two arrays of all parameters for Adam; seven and more for L-BFGS.
        type_ = 0 if c.left < 4 * nx * 3.5 else 1
    if type_ not in (0, 1):
        raise c.wrong(f"its optimizer is of type {type_}")
    if type_ == 1:
        return _lbfgs(c, m, past, iterations, bool(just_initialized))
    state: dict[str, Any] = {}
    kept = (FIRST, SECOND, PAST) if version else ("x", "g", "g2", FIRST, SECOND, "mh", "vh", PAST)
    for name in kept:
        values = c.tensor(name)
        if values is not None and name.startswith("optimizer."):
            state[name] = values
    best, previous, count = c.unpack("ffi")
    counters = {"best_loss": best, "previous_loss": previous, "no_improvement_count": count}
    return OptimizerState("adam", iterations, bool(just_initialized), max(0, past), counters), state


def _lbfgs(c: _Cursor, m: int, past: int, iterations: int, fresh: bool) -> tuple[OptimizerState, dict[str, Any]]:
    state = {f"optimizer.lbfgs.{name}": values for name in LBFGS if (values := c.tensor(name)) is not None}
    best, step, j, k, end, count = c.unpack("ffiiii")
    counters = {
        "approx_hessian_count": m, "best_loss": best, "line_search_step": step, "line_search_j": j, "line_search_k": k,
        "line_search_end": end, "no_improvement_count": count,
    }  # fmt: skip
    return OptimizerState("lbfgs", iterations, fresh, max(0, past), counters), state
