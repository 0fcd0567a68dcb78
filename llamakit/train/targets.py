"""What is trained: which weights get an adapter of which shape, or which are trained themselves."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from llamakit.errors import UsageError
from llamakit.graph.ops import Op
from llamakit.options import near
from llamakit.passes.lora import AdapterShape
from llamakit.train.options import PROJECTIONS, TrainOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llamakit.graph.graph import Graph

ADAPTED = (Op.LINEAR, Op.EMBEDDING, Op.HEAD_LOSS, Op.RMS_NORM)


def adapter_shapes(graph: Graph, options: TrainOptions) -> dict[str, AdapterShape]:
    """The adapters of a model, by tensor. UsageError for patterns that fit no weight, or leave none to train.

    `graph` is that of the loss. A pattern fits a name without its ".weight", or the last part of that. `rank` is cut
    where a tensor is smaller (`cut_ranks`), which changes no scale; ranks by pattern, which mean that tensor, are not.
    """
    weights = {
        tensor.name: tensor.shape
        for node in graph.nodes
        if node.op in ADAPTED
        for tensor in node.tensors[:1]
        if tensor is not None and len(node.outputs[0].shape) <= 2
    }
    tables: dict[str, Iterable[str]] = {
        "targets": () if options.targets == list(PROJECTIONS) else options.targets,  # not every model has all of those
        "rank_pattern": options.rank_pattern, "alpha_pattern": options.alpha_pattern,
    }  # fmt: skip
    for what, patterns in tables.items():
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
            if len(shape) > 1 and rank > min(shape) and _value(options.rank_pattern, name, 0):
                found = f"rank {rank} is more than the smaller side of {name!r} {shape}"
                raise UsageError(found, hint=f"at most {min(shape)}", param="rank_pattern")
            most = 1 if len(shape) == 1 else min(shape)  # more would say no more of it
            shapes[name] = AdapterShape(min(int(rank), most), scale)
    if not shapes:
        raise _nothing(weights, options)
    largest = max(min(weights[name]) for name in shapes)
    if options.rank > largest and options.rank != TrainOptions().rank and not options.rank_pattern:
        found = f"rank {options.rank} is more than the smaller side of every weight that is trained"
        raise UsageError(found, hint=f"at most {largest}", param="rank")
    return shapes


def _nothing(weights: Iterable[str], options: TrainOptions) -> UsageError:
    if any(fits(pattern, name) for pattern in options.targets for name in weights):
        return UsageError("there is nothing to train: all ranks are 0", param="rank_pattern")
    there = ", ".join(sorted({_last(name) for name in weights}))
    return UsageError(f"no weight fits {', '.join(options.targets)}", found=there, hint="--targets", param="targets")


def cut_ranks(adapters: Mapping[str, AdapterShape], options: TrainOptions) -> dict[str, int]:
    """The ranks that are less than was asked for, by the last part of the names; not those of norms, which have 1."""
    return {
        _last(name): shape.rank
        for name, shape in adapters.items()
        if shape.rank < _value(options.rank_pattern, name, options.rank) and not name.endswith("_norm.weight")
    }


def left_out(adapters: Mapping[str, AdapterShape], options: TrainOptions) -> list[str]:
    """Targets by default that the model has no weights for."""
    if options.targets != list(PROJECTIONS) or 0 in options.rank_pattern.values():
        return []
    return [pattern for pattern in options.targets if not any(fits(pattern, name) for name in adapters)]


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
