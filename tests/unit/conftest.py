from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest

from llamakit.gguf import open_gguf
from llamakit.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VOCABULARIES = ("llama-spm", "phi-3", "gpt-2", "llama-bpe", "falcon")


@functools.cache
def _load(path: Path) -> Tokenizer:
    return load_tokenizer(open_gguf(path).metadata)


@pytest.fixture(scope="session")
def vocabulary(test_data: Path) -> Callable[[str], Tokenizer]:
    """A real vocabulary by name."""
    return lambda name: _load(test_data / "vocab" / f"ggml-vocab-{name}.gguf")
