"""Vocabularies for tests of data: one of bytes, so that texts come back letter by letter, with any control tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from llamakit.tokenizer import Tokenizer, load_tokenizer

NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6


@functools.cache
def _of_bytes(controls: tuple[str, ...], markers: tuple[str, ...]) -> Tokenizer:
    special = [("<unk>", 2), ("<s>", CONTROL), ("</s>", CONTROL), ("▁", NORMAL)]
    special += [(text, CONTROL) for text in controls] + [(text, USER_DEFINED) for text in markers]
    tokens = [text for text, _ in special] + [f"<0x{byte:02X}>" for byte in range(256)]
    return load_tokenizer({
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * len(tokens),
        "tokenizer.ggml.token_type": [kind for _, kind in special] + [BYTE] * 256,
        "tokenizer.ggml.add_space_prefix": False,
    })  # fmt: skip


@pytest.fixture(scope="session")
def of_bytes() -> Callable[..., Tokenizer]:
    """A vocabulary of bytes, <s> and </s>; `controls` are control tokens beside them, `markers` user-defined ones."""
    return lambda controls=(), markers=(): _of_bytes(tuple(controls), tuple(markers))
