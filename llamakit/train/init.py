"""First values of trained tensors: they depend on the seed and the tensor's name alone, on every machine."""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING

import numpy as np

from llamakit.passes.lora import ONES, A
from llamakit.train.cursor import MASK

if TYPE_CHECKING:
    from numpy.typing import NDArray

STANDARD_DEVIATION = 0.02  # of weights that are trained from scratch, as in GPT-2


def uniform(seed: int, name: str, n: int) -> NDArray[np.float64]:
    """n numbers of [0, 1), (n,): raw draws of the counter-based generator Philox, which never change."""
    key = np.array([seed & MASK, zlib.crc32(name.encode())], np.uint64)
    draws: NDArray[np.uint64] = np.asarray(np.random.Philox(key=key).random_raw(n), np.uint64)
    return (draws >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(seed: int, name: str, n: int) -> NDArray[np.float64]:
    """n numbers of the standard normal distribution, (n,). Box and Muller 1958."""
    half = (n + 1) // 2
    u = uniform(seed, name, 2 * half)
    radius, angle = np.sqrt(-2 * np.log1p(-u[:half])), 2 * math.pi * u[half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:n]


def first_adapter(name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Of an adapter's tensor: B is zero, so that training begins with the base itself.

    A is uniform within 1 / sqrt(n_in), as PEFT has it (He et al. 2015, arXiv:1502.01852, with a slope of sqrt 5).
    """
    if not name.endswith(A):
        return np.full(shape, name.endswith(ONES), np.float32)
    bound = 1 / math.sqrt(shape[1])
    return ((2 * uniform(seed, name, math.prod(shape)) - 1) * bound).astype(np.float32).reshape(shape)


def first_weight(name: str, shape: tuple[int, ...], n_layer: int, seed: int) -> NDArray[np.float32]:
    """Of a model from scratch: norms are 1, biases 0, matrices normal.

    What is added to the residual stream is smaller by the root of how often that happens, as in GPT-2.
    """
    if name.endswith("norm.weight"):
        return np.ones(shape, np.float32)
    if len(shape) == 1:
        return np.zeros(shape, np.float32)
    residual = name.endswith(("attn_output.weight", "ffn_down.weight"))
    size = STANDARD_DEVIATION / (math.sqrt(2 * n_layer) if residual else 1.0)
    return (normal(seed, name, math.prod(shape)) * size).astype(np.float32).reshape(shape)
