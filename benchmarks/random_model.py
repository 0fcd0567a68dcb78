"""A model with random weights in the shape of a real one, for measuring speed and memory.

python benchmarks/random_model.py OUT.gguf [--shape 1.1b|7b|moe|58m|260k] [--type Q4_0] [--seed N] [--vocab FILE.gguf]

The vocabulary comes from another GGUF file: by default, from vocab/ggml-vocab-llama-spm.gguf in the folder that
LLAMAKIT_TEST_DATA names. Weights are normal with a variance of 1/n_in, so that values neither grow nor vanish.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from llamakit.gguf import GGMLType, GGUFFile, GGUFWriter, StringArray, native, open_gguf
from llamakit.gguf.constants import ValueType
from llamakit.gguf.quantize import RECIPES, choose_type, find_recipe, fit
from llamakit.gguf.reader import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

ROWS = 4096  # rows of a matrix that are made at a time


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of a network. `n_vocab` cuts the vocabulary."""

    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_ff: int
    n_ctx: int
    n_vocab: int | None = None
    n_expert: int = 0
    n_expert_used: int = 0


SHAPES = {
    "1.1b": Shape(n_layer=22, n_embd=2048, n_head=32, n_head_kv=4, n_ff=5632, n_ctx=2048),
    "7b": Shape(n_layer=32, n_embd=4096, n_head=32, n_head_kv=32, n_ff=11008, n_ctx=4096),
    "moe": Shape(n_layer=12, n_embd=1024, n_head=16, n_head_kv=4, n_ff=2048, n_ctx=2048, n_expert=16, n_expert_used=2),
    "58m": Shape(n_layer=8, n_embd=512, n_head=8, n_head_kv=8, n_ff=1408, n_ctx=512, n_vocab=32000),
    "260k": Shape(n_layer=5, n_embd=64, n_head=8, n_head_kv=4, n_ff=172, n_ctx=512, n_vocab=512),
}


def tensors(s: Shape, n_vocab: int) -> dict[str, tuple[int, ...]]:
    """Shapes by name, in numpy order."""
    kv = s.n_embd // s.n_head * s.n_head_kv
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (n_vocab, s.n_embd)}
    layer = {
        "attn_norm": (s.n_embd,), "attn_q": (s.n_embd, s.n_embd), "attn_k": (kv, s.n_embd),
        "attn_v": (kv, s.n_embd), "attn_output": (s.n_embd, s.n_embd), "ffn_norm": (s.n_embd,),
        "ffn_gate": (s.n_ff, s.n_embd), "ffn_up": (s.n_ff, s.n_embd), "ffn_down": (s.n_embd, s.n_ff),
    }  # fmt: skip
    if s.n_expert:
        layer["ffn_gate_inp"] = (s.n_expert, s.n_embd)
        layer |= {f"{name}_exps": (s.n_expert, *layer.pop(name)) for name in ("ffn_gate", "ffn_up", "ffn_down")}
    for i in range(s.n_layer):
        shapes |= {f"blk.{i}.{name}.weight": shape for name, shape in layer.items()}
    return shapes | {"output_norm.weight": (s.n_embd,), "output.weight": (n_vocab, s.n_embd)}


def describe(writer: GGUFWriter, s: Shape, name: str, file_type: int, n_vocab: int) -> None:
    """The model's own metadata."""
    writer.add("general.architecture", "llama")
    writer.add("general.name", name)
    writer.add("general.file_type", file_type, ValueType.UINT32)
    sizes = {
        "context_length": s.n_ctx, "embedding_length": s.n_embd, "block_count": s.n_layer,
        "feed_forward_length": s.n_ff, "attention.head_count": s.n_head, "attention.head_count_kv": s.n_head_kv,
        "rope.dimension_count": s.n_embd // s.n_head, "vocab_size": n_vocab,
    }  # fmt: skip
    if s.n_expert:
        sizes |= {"expert_count": s.n_expert, "expert_used_count": s.n_expert_used}
    for key, value in sizes.items():
        writer.add(f"llama.{key}", value, ValueType.UINT32)
    writer.add("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add("llama.rope.freq_base", 10000.0)


def copy_vocabulary(vocab: GGUFFile, writer: GGUFWriter, n_vocab: int) -> None:
    """Everything about the tokenizer, its lists cut to `n_vocab`."""
    for key in vocab.metadata:
        if not key.startswith("tokenizer."):
            continue
        type_, element = vocab.metadata.value_type(key)
        value = vocab.metadata[key]
        per_token = key.rpartition(".")[2] in ("tokens", "scores", "token_type")
        if per_token and isinstance(value, (StringArray, np.ndarray)):
            value = value[:n_vocab]
        writer.add(key, value, type_, element)


def weights(shape: tuple[int, ...], type: GGMLType, rng: np.random.Generator) -> Callable[[], npt.NDArray[np.uint8]]:
    """Makes a tensor's bytes when its turn to be written comes, a slice of rows at a time."""

    def make() -> npt.NDArray[np.uint8]:
        if len(shape) == 1:
            return np.ones(shape, np.float32).view(np.uint8)
        n_row, row = math.prod(shape[:-1]), shape[-1]
        scale = np.float32(row**-0.5)
        parts = [
            native.quantize(type, rng.standard_normal((min(ROWS, n_row - i), row), np.float32) * scale)
            for i in range(0, n_row, ROWS)
        ]
        return np.concatenate(parts)

    return make


def write_model(out: Path, shape: str, type_name: str, vocab: Path, seed: int = 0) -> None:
    """Write the file; the same arguments give the same bytes."""
    s, recipe, rng = SHAPES[shape], find_recipe(type_name), np.random.default_rng(seed)
    with open_gguf(vocab) as source, GGUFWriter(out) as writer:
        known = source.metadata["tokenizer.ggml.tokens"]
        n_vocab = min(len(known), s.n_vocab or len(known))  # type: ignore[arg-type]
        describe(writer, s, f"random-{shape}", recipe.file_type, n_vocab)
        copy_vocabulary(source, writer, n_vocab)
        for name, size in tensors(s, n_vocab).items():
            info = TensorInfo(name, GGMLType.F32, size, 0, 0)
            type_ = fit(choose_type(info, recipe, s.n_layer, tied=False), size[-1])
            writer.add_tensor(name, weights(size, type_, rng), type_, size)


def default_vocabulary() -> Path:
    """The file whose tokenizer is taken where none is named."""
    folder = os.environ.get("LLAMAKIT_TEST_DATA")
    if folder is None:
        sys.exit("name a vocabulary, or a folder with vocab/ggml-vocab-llama-spm.gguf in LLAMAKIT_TEST_DATA")
    return Path(folder) / "vocab" / "ggml-vocab-llama-spm.gguf"


def main() -> None:
    """Read the command line, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="1.1b")
    parser.add_argument("--type", type=str.upper, choices=RECIPES, default="Q4_0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocab", type=Path, help="a GGUF file whose tokenizer is taken")
    args = parser.parse_args()
    start = time.perf_counter()
    write_model(args.out, args.shape, args.type, args.vocab or default_vocabulary(), args.seed)
    print(f"{args.out}: {args.out.stat().st_size / 2**20:,.1f} MiB in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
