"""For tests of data a vocabulary of bytes, so that texts come back letter by letter; for runs a tiny model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from llamakit.testing.vocabulary import BYTES
from llamakit.tokenizer import Tokenizer, load_tokenizer
from llamakit.train.scratch import ShapeOptions, choose_shape, write_new_model
from llamakit.train.vocabulary import add_vocabulary
from tests.unit.train.tiny import TEXT

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


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers of 16 values, whose keys are of 8, in F32."""
    path = tmp_path_factory.mktemp("base") / "base.gguf"
    shape = choose_shape(ShapeOptions(embd=16, layers=2, heads=2, kv_heads=1, ff=32), 259, 64)
    write_new_model(path, shape, lambda writer: add_vocabulary(writer, BYTES), seed=1)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A text to learn."""
    path = tmp_path / "data.txt"
    path.write_text(TEXT * 40)
    return path
