"""Qwen3: Qwen2 without the biases, with an RMS norm of each head's queries and keys. arXiv:2505.09388."""

from __future__ import annotations

from llamakit.models.llama import Variant

VARIANT = Variant(rope_pairs="halves", qk_norm=True)
