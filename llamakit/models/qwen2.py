"""Qwen2: LLaMA with rope on halves of a head; its biases on q, k and v are found in the file. arXiv:2407.10671."""

from __future__ import annotations

from llamakit.models.llama import Variant

VARIANT = Variant(rope_pairs="halves")
