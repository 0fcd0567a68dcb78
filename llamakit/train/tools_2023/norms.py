"""Adapters of norms as 2023 trained them: w + scale * B A with A (r, n) and B (1, r), on the host, for they are few.

The graph trains nothing of them: it has the norm's weight as a state and makes its gradient g, from which
dA = scale * B^T g and dB = scale * (A g)^T follow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.passes.autodiff import GRADIENT
from llamakit.passes.lora import A, B
from llamakit.train.stepper import Stepper

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamakit.backend import Device, Weight
    from llamakit.optimizer import Optimizer
    from llamakit.train.graphs import Graphs

    Array = Any


@dataclass
class NormAdapter:
    """One norm: its weight in the base (n,), and by part (A and B) the values, moments and gradients, float32."""

    base: Array
    scale: float
    values: dict[str, Array]
    m: dict[str, Array] = field(init=False)
    v: dict[str, Array] = field(init=False)
    gradients: dict[str, Array] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.m = {part: np.zeros_like(value) for part, value in self.values.items()}
        self.v = {part: np.zeros_like(value) for part, value in self.values.items()}

    @property
    def weight(self) -> Array:
        """The norm's weight with its adapter, (n,)."""
        product = self.values[B].astype(np.float64) @ self.values[A].astype(np.float64)
        return (self.base + self.scale * product[0]).astype(np.float32)

    def take(self, gradient: Array) -> float:
        """Gradients of A and B from that of the weight; returns the sum of their squares."""
        g = gradient.astype(np.float64)
        self.gradients = {A: self.scale * np.outer(self.values[B][0], g), B: self.scale * (self.values[A] @ g)[None]}
        return sum(float((each**2).sum()) for each in self.gradients.values())

    def update(self, step: int, lr: float, factor: float, options: Any) -> None:
        """AdamW, as the optimizer of the other tensors with the same `options`; `factor`: of clipping."""
        decay = options.weight_decay if options.decay_min_ndim <= 2 else 0.0
        for part, gradient in self.gradients.items():
            g = (gradient * factor).astype(np.float32)
            m = self.m[part] = (options.beta1 * self.m[part] + (1 - options.beta1) * g).astype(np.float32)
            v = self.v[part] = (options.beta2 * self.v[part] + (1 - options.beta2) * g * g).astype(np.float32)
            root = np.sqrt(v / (1 - options.beta2**step)) + options.eps
            moved = self.values[part] * (1 - lr * decay) - lr * (m / (1 - options.beta1**step)) / root
            self.values[part] = moved.astype(np.float32)


class Stepper2023(Stepper):
    """A stepper that also trains adapters of norms, by the names of the norms."""

    def __init__(
        self,
        device: Device,
        graphs: Graphs,
        weights: Mapping[str, Weight],
        optimizer: Optimizer,
        norms: Mapping[str, NormAdapter],
    ) -> None:
        super().__init__(device, graphs, weights, optimizer)
        self.norms = norms
        self.write_norms()

    def write_norms(self) -> None:
        """Put the norms' weights on the device."""
        for name, adapter in self.norms.items():
            self.states[name].write(adapter.weight)

    def squares(self) -> list[float]:
        """Those of the norms' adapters too."""
        host = [adapter.take(self.states[name + GRADIENT].read()) for name, adapter in self.norms.items()]
        return [*super().squares(), *host]

    def apply(self, step: int, lr: float, factor: float) -> None:
        """The update of the norms too, whose gradients are set to zero as the others' are."""
        super().apply(step, lr, factor)
        for name, adapter in self.norms.items():
            adapter.update(step, lr, factor, self.optimizer.options)
            self.states[name + GRADIENT].write(np.zeros_like(adapter.base))
        self.write_norms()
