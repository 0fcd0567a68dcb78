"""A LoRA adapter of one tensor: what model files are read into and what backends take."""

from __future__ import annotations

from typing import Any

import msgspec


class Adapter(msgspec.Struct, frozen=True):
    """One LoRA adapter for one tensor: delta = scale * B A. A is (rank, n_in), B is (n_out, rank), float32.

    For a norm weight, A is None and B is (n,): the delta itself, times scale. For an embedding weight
    (n_vocab, n_embd), B is (n_vocab, rank) and A is (rank, n_embd): row t gets scale * B[t] A.
    """

    A: Any
    B: Any
    scale: float = 1.0
