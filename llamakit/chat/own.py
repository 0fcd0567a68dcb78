"""The chat template of models that LlamaKit trains from scratch, and the tokens that it needs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

CONTROL = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>")
MARKERS = ("<tool_call>", "</tool_call>")  # texts of an answer, so no control tokens


@cache
def own_template() -> str:
    """Its source: turns between role and end token, tools a line each, calls in the form of Hermes."""
    return Path(__file__).with_name("own.jinja").read_text(encoding="utf-8")
