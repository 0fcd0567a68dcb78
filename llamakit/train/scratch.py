"""A model to begin with: the shape of a llama, a vocabulary, and first weights that depend on the seed alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from llamakit.errors import UsageError
from llamakit.gguf.writer import GGUFWriter
from llamakit.options import Options
from llamakit.train.init import first_weight

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ARCHITECTURE = "llama"
FARTHEST = 1.5  # times `params`, or the part of it, that a model chosen for it may have
FF_MULTIPLE = 32  # of the feed-forward's width: whole blocks of every simple quantised type


class ShapeOptions(Options, frozen=True):
    """The shape of a new model. `params` chooses the others that are 0."""

    embd: Annotated[int, Meta(ge=0, le=1 << 16, description="Width of the model; 0 = by --params.")] = 0
    layers: Annotated[int, Meta(ge=0, le=1000, description="Layers; 0 = by --params.")] = 0
    heads: Annotated[int, Meta(ge=0, le=1024, description="Heads of attention; 0 = one for 32 or 64 of the width.")] = 0
    kv_heads: Annotated[int, Meta(ge=0, le=1024, description="Heads of keys and values; 0 = as many as heads.")] = 0
    ff: Annotated[int, Meta(ge=0, le=1 << 18, description="Width of the feed-forward; 0 = 8/3 of the width.")] = 0
    params: Annotated[str, Meta(description="Number of parameters, such as 5M.")] = "5M"
    tied: Annotated[bool, Meta(description="The embedding serves as the head too.")] = True
    rope_base: Annotated[float, Meta(gt=0, le=1e9, description="Base of the rotary embedding.")] = 10000.0
    norm_eps: Annotated[float, Meta(gt=0, le=1, description="Added to the mean square in norms.")] = 1e-5


class Shape(Options, frozen=True):
    """A shape with nothing left open."""

    n_vocab: int
    n_ctx: int
    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    n_ff: int
    tied: bool
    rope_base: float
    norm_eps: float

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor with its shape in numpy order."""
        n, n_kv = self.n_embd, self.n_embd // self.n_head * self.n_head_kv
        shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (self.n_vocab, n), "output_norm.weight": (n,)}
        if not self.tied:
            shapes["output.weight"] = (self.n_vocab, n)
        for i in range(self.n_layer):
            layer = {
                "attn_norm": (n,), "attn_q": (n, n), "attn_k": (n_kv, n), "attn_v": (n_kv, n), "attn_output": (n, n),
                "ffn_norm": (n,), "ffn_gate": (self.n_ff, n), "ffn_up": (self.n_ff, n), "ffn_down": (n, self.n_ff),
            }  # fmt: skip
            shapes |= {f"blk.{i}.{name}.weight": shape for name, shape in layer.items()}
        return shapes

    @property
    def n_parameter(self) -> int:
        """How many parameters it has."""
        return sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in self.tensors.values())


def parse_count(text: str) -> int:
    """A number such as 5M, 300k or 1.1B. UsageError for anything else."""
    scales = {"k": 1e3, "m": 1e6, "b": 1e9}
    digits, scale = (text[:-1], scales[text[-1].lower()]) if text[-1:].lower() in scales else (text, 1.0)
    try:
        count = float(digits) * scale
    except ValueError:
        count = 0
    if not 1000 <= count <= 1e12:
        raise UsageError(f"--params {text!r} is not a size of a model", hint="such as 800k, 5M or 1.1B", param="params")
    return int(count)


def choose_shape(options: ShapeOptions, n_vocab: int, n_ctx: int) -> Shape:
    """What the options leave open is chosen for `params`: width and depth grow together.

    UsageError names what does not fit together, such as a width that heads do not divide.
    """
    if options.embd and options.layers:
        return _shape(options, n_vocab, n_ctx, options.embd, options.layers)
    wanted = parse_count(options.params)
    best: Shape | None = None
    fault: UsageError | None = None
    for layers in [options.layers] if options.layers else range(2, 101):
        # About 32 to 64 of width a layer: what models of all sizes have settled at (128 for the largest).
        for embd in [options.embd] if options.embd else range(layers * 32, layers * 64 + 1, 32):
            try:
                shape = _shape(options, n_vocab, n_ctx, embd, layers)
            except UsageError as error:
                fault = error
                continue
            if best is None or abs(shape.n_parameter - wanted) < abs(best.n_parameter - wanted):
                best = shape
            if shape.n_parameter > wanted:
                break  # wider ones are larger still
        if best is not None and best.n_parameter > FARTHEST * wanted:
            break  # and so are deeper ones
    if best is None:
        assert fault is not None  # there is a shape or a fault for every pair
        raise fault
    if not wanted / FARTHEST <= best.n_parameter <= wanted * FARTHEST:
        raise UsageError(
            f"no model of {options.params} parameters has the shape that is asked for",
            found=f"the nearest has {best.n_parameter:,}, {n_vocab * best.n_embd:,} of them for {n_vocab:,} tokens",
            hint="another --params, or a smaller vocabulary", param="params",
        )  # fmt: skip
    return best


def _shape(o: ShapeOptions, n_vocab: int, n_ctx: int, embd: int, layers: int) -> Shape:
    heads = o.heads or usual_heads(embd, o.kv_heads or 1)
    kv_heads = o.kv_heads or heads
    ff = o.ff or -(-8 * embd // 3 // FF_MULTIPLE) * FF_MULTIPLE
    for what, number, by in (("embd", embd, 2 * heads), ("heads", heads, kv_heads)):
        if number % by:
            raise UsageError(
                f"--{what} {number} is not a multiple of {by}", found=f"{heads} heads, {kv_heads} for keys", param=what
            )
    return Shape(
        n_vocab=n_vocab, n_ctx=n_ctx, n_embd=embd, n_layer=layers, n_head=heads, n_head_kv=kv_heads, n_ff=ff,
        tied=o.tied, rope_base=o.rope_base, norm_eps=o.norm_eps,
    )  # fmt: skip


def usual_heads(embd: int, kv_heads: int = 1) -> int:
    """Heads of at least 32, in wide models 64 numbers, as many as divide the width into even parts."""
    most = max(1, embd // (64 if embd >= 512 else 32))
    fitting = (n for n in range(most, 0, -1) if embd % (2 * n) == 0 and n % kv_heads == 0)
    return next(fitting, most)


def write_new_model(
    path: Path, shape: Shape, add_vocabulary: Callable[[GGUFWriter], None], seed: int, name: str = "llamakit"
) -> None:
    """Write the model with its first weights in F32; `add_vocabulary` adds the tokenizer's keys."""
    keys = {
        "context_length": shape.n_ctx, "embedding_length": shape.n_embd, "block_count": shape.n_layer,
        "feed_forward_length": shape.n_ff, "attention.head_count": shape.n_head,
        "attention.head_count_kv": shape.n_head_kv, "rope.dimension_count": shape.n_embd // shape.n_head,
        "rope.freq_base": shape.rope_base, "attention.layer_norm_rms_epsilon": shape.norm_eps,
        "vocab_size": shape.n_vocab,
    }  # fmt: skip
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", ARCHITECTURE)
        writer.add("general.name", name)
        writer.add("general.file_type", 0)
        for key, value in keys.items():
            writer.add(f"{ARCHITECTURE}.{key}", value)
        add_vocabulary(writer)
        for tensor, size in shape.tensors.items():
            writer.add_tensor(tensor, first_weight(tensor, size, shape.n_layer, seed))
