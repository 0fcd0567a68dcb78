"""Activations and their derivatives, of each value.

Hendrycks and Gimpel 2016, arXiv:1606.08415 (gelu and silu); So et al. 2021, arXiv:2109.08668 (relu_squared).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

BEND, WIDTH = 0.044715, math.sqrt(2 / math.pi)  # of the tanh form of gelu


def activated(x: Any, kind: str) -> Any:
    """activation(x)."""
    if kind == "silu":
        return x * _logistic(x)
    if kind == "gelu":
        return 0.5 * x * (1 + np.tanh(WIDTH * (x + BEND * x**3)))
    if kind == "gelu_erf":
        return x * _normal(x)
    positive = np.maximum(x, 0)
    return positive * positive if kind == "relu_squared" else positive


def slope(x: Any, kind: str) -> Any:
    """The derivative of an activation at x; 0 at the corner of relu."""
    if kind == "silu":
        s = _logistic(x)
        return s * (1 + x * (1 - s))
    if kind == "gelu":
        tanh = np.tanh(WIDTH * (x + BEND * x**3))
        return 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh**2) * WIDTH * (1 + 3 * BEND * x**2)
    if kind == "gelu_erf":
        return _normal(x) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return 2 * np.maximum(x, 0) if kind == "relu_squared" else (x > 0).astype(x.dtype)


def _logistic(x: Any) -> Any:
    with np.errstate(over="ignore"):  # exp(-x) may reach inf, and then this is its limit, 0
        return 1 / (1 + np.exp(-x))


def _normal(x: Any) -> Any:
    """The integral of the normal distribution up to x."""
    return 0.5 * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2)))
