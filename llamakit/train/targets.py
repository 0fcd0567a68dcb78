"""What is trained: which weights get an adapter of which shape, or which are trained themselves."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from llamakit.errors import UsageError
from llamakit.graph.ops import Op
from llamakit.options import near
from llamakit.passes.lora import AdapterShape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llamakit.graph.graph import Graph
    from llamakit.train.options import TrainOptions

ADAPTED = (Op.LINEAR, Op.EMBEDDING, Op.HEAD_LOSS, Op.RMS_NORM)


def adapter_shapes(graph: Graph, options: TrainOptions) -> dict[str, AdapterShape]:
    """The adapters of a model, by tensor. UsageError for patterns that fit no weight, or leave none to train.

    `graph` is that of the loss. A pattern fits a name without its ".weight", or the last part of that.
    """
    weights = {
        tensor.name: tensor.shape
        for node in graph.nodes
        if node.op in ADAPTED
        for tensor in node.tensors[:1]
        if tensor is not None and len(node.outputs[0].shape) <= 2
    }
    for what, patterns in (
        ("targets", options.targets), ("rank_pattern", options.rank_pattern), ("alpha_pattern", options.alpha_pattern)
    ):  # fmt: skip
        for pattern in patterns:
            if not any(fits(pattern, name) for name in weights):
                known = sorted({_last(name) for name in weights})
                there = near(pattern, known) or ", ".join(known)
                raise UsageError(f"{what}: no weight fits {pattern!r}", found=there, param=what)
    shapes = {}
    for name, shape in weights.items():
        rank = _value(options.rank_pattern, name, options.rank)
        if rank and any(fits(pattern, name) for pattern in options.targets):
            alpha = _value(options.alpha_pattern, name, options.alpha)
            scale = alpha / (math.sqrt(rank) if options.rslora else rank)
            rank = 1 if len(shape) == 1 else rank  # more would say no more of a vector
            if rank > min(shape):
                raise UsageError(f"rank {rank} is more than the smaller side of {name!r} {shape}", param="rank")
            shapes[name] = AdapterShape(int(rank), scale)
    if not shapes:
        raise UsageError("there is nothing to train: all ranks are 0", param="rank_pattern")
    return shapes


def fits(pattern: str, name: str) -> bool:
    """Whether a glob fits a tensor's name, without ".weight", or the last part of it."""
    whole = name.removesuffix(".weight")
    return fnmatchcase(whole, pattern) or fnmatchcase(_last(name), pattern)


def check_full(graph: Graph, types: Mapping[str, str]) -> None:
    """UsageError unless the model's weights are floats: of quantised ones the values cannot be moved a little."""
    quantised = sorted(name for name in graph.parameters if types[name] not in ("F32", "F16", "BF16"))
    if quantised:
        raise UsageError(
            f"--full trains float weights, but {len(quantised)} tensors of the base are quantised",
            found=f"{quantised[0]} is {types[quantised[0]]}",
            hint="an F16 or F32 file of the model, or an adapter (without --full)",
            param="full",
        )


def _value(patterns: Mapping[str, float], name: str, default: float) -> float:
    """That of the last pattern that fits."""
    found: Iterable[float] = [value for pattern, value in patterns.items() if fits(pattern, name)]
    return next(reversed(list(found)), default)


def _last(name: str) -> str:
    return name.removesuffix(".weight").rpartition(".")[2]
