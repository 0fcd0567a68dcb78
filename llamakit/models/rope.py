"""Rope scaling: every method comes down to an inverse frequency per pair of dimensions, and one magnitude.

Sources: RoFormer, arXiv:2104.09864; position interpolation (linear), arXiv:2306.15595; YaRN, arXiv:2309.00071; the
factors of LLaMA 3.1 come in the file as the tensor `rope_freqs.weight`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from llamakit.errors import ModelFileError, UsageError
from llamakit.graph.ops import RopeAttrs

if TYPE_CHECKING:
    import numpy.typing as npt

    from llamakit.models.hparams import RopeParams

SCALINGS = ("none", "linear", "yarn")


class RopeOverrides(msgspec.Struct, frozen=True, kw_only=True):
    """What a user sets over the file's values; None leaves them. `freq_scale` is 1 / factor, as in llama.cpp."""

    freq_base: float | None = None
    freq_scale: float | None = None
    scaling: str | None = None
    n_ctx_orig: int | None = None


def override(params: RopeParams, overrides: RopeOverrides | None) -> RopeParams:
    """`params` with the user's values."""
    if overrides is None:
        return params
    changes: dict[str, object] = {}
    if overrides.freq_base is not None:
        changes["freq_base"] = _positive("rope frequency base", overrides.freq_base)
    if overrides.freq_scale is not None:
        changes["factor"] = 1.0 / _positive("rope frequency scale", overrides.freq_scale)
        changes["scaling"] = params.scaling if params.scaling != "none" else "linear"
    if overrides.scaling is not None:
        changes["scaling"] = overrides.scaling
    if overrides.n_ctx_orig is not None:
        changes["n_ctx_orig"] = overrides.n_ctx_orig
    return msgspec.structs.replace(params, **changes)


def rope_attrs(params: RopeParams, pairs: str, factors: npt.NDArray[np.float32] | None) -> RopeAttrs:
    """The table for `params`; `factors` (n_rot / 2,) divide the frequencies (`rope_freqs.weight`)."""
    half = params.n_rot // 2
    inv_freq = params.freq_base ** (-np.arange(half, dtype=np.float64) / half)
    if factors is not None:
        if factors.shape != (half,) or not (np.isfinite(factors).all() and (factors > 0).all()):
            raise ModelFileError(f"tensor 'rope_freqs.weight' must hold {half} positive numbers, has {factors.shape}")
        inv_freq = inv_freq / factors
    magnitude = params.attn_factor
    if params.scaling == "linear":
        inv_freq = inv_freq / params.factor
    elif params.scaling == "yarn":
        inv_freq, magnitude = _yarn(params, inv_freq)
    elif params.scaling != "none":
        raise UsageError(f"rope scaling {params.scaling!r} is not known; there are: {', '.join(SCALINGS)}")
    return RopeAttrs(tuple(float(f) for f in inv_freq), pairs, float(magnitude))


def _yarn(params: RopeParams, inv_freq: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], float]:
    """Interpolate slow dimensions, leave fast ones, ramp between; raise the magnitude by 0.1 ln(factor) + 1."""

    def dimension(rotations: float) -> float:
        """The pair that turns `rotations` times within the original context."""
        turns = params.n_ctx_orig / (rotations * 2 * math.pi)
        return params.n_rot * math.log(turns) / (2 * math.log(params.freq_base))

    low = max(math.floor(dimension(params.beta_fast)), 0)
    high = min(math.ceil(dimension(params.beta_slow)), params.n_rot - 1)
    ramp = np.clip((np.arange(len(inv_freq)) - low) / max(high - low, 0.001), 0, 1)
    extrapolated = (1 - ramp) * params.ext_factor
    mixed = inv_freq / params.factor * (1 - extrapolated) + inv_freq * extrapolated
    magnitude = params.attn_factor
    if params.ext_factor != 0 and params.factor > 1:
        magnitude *= 0.1 * math.log(params.factor) + 1.0
    return mixed, magnitude


def _positive(what: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise UsageError(f"{what} is {value}: give a number above 0")
    return value
