"""Valid blocks of random bytes, for the tensor types that nothing here can write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llamakit.gguf import quants

if TYPE_CHECKING:
    import numpy.typing as npt

    from llamakit.gguf import GGMLType


def random_blocks(type: GGMLType, n: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Valid blocks of random bytes. Scales are of like size, since tolerances come from the norm of all outputs."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (n, type.type_size), dtype=np.uint8)
    scale = (rng.uniform(0.5, 2, (n, 2)) * rng.choice([-1, 1], (n, 2))).astype(np.float16).view(np.uint8)
    where = {
        "Q4_0": (0, 2), "Q4_1": (0, 4), "Q5_0": (0, 2), "Q5_1": (0, 4), "Q8_0": (0, 2), "Q2_K": (80, 84),
        "Q3_K": (108, 110), "Q4_K": (0, 4), "Q5_K": (0, 4), "Q6_K": (208, 210), "F16": (0, 2),
        "IQ4_NL": (0, 2), "IQ4_XS": (0, 2), "TQ1_0": (52, 54), "TQ2_0": (64, 66), "IQ1_S": (0, 2), "IQ2_XXS": (0, 2),
        "IQ2_XS": (0, 2), "IQ2_S": (0, 2), "IQ3_XXS": (0, 2), "IQ3_S": (0, 2),
    }  # fmt: skip
    if type.name in where:
        a, b = where[type.name]
        raw[:, a:b] = scale[:, : b - a]
    if type.name == "Q8_K":
        raw[:, :4] = rng.normal(size=(n, 1)).astype(np.float32).view(np.uint8)
    if type.name == "IQ1_M":  # four bits of d in the upper ones of each of four words
        parts = np.stack([scale[:, 0] << 4, scale[:, 0], scale[:, 1] << 4, scale[:, 1]], axis=1)
        raw[:, 49::2] = raw[:, 49::2] & 15 | parts & 0xF0
    if type.name == "MXFP4":
        raw[:, 0] = rng.integers(0, 252, n)
    if type.name in ("F32", "BF16"):
        raw = quants.quantize(type, rng.normal(size=(n, 1)).astype(np.float32)).reshape(n, -1)
    return raw.reshape(-1)
