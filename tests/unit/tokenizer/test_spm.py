"""SPM against a plain restatement of its definition, and BPE against the `tokenizers` package."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

import pytest

from llamakit.gguf import open_gguf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llamakit.tokenizer import Tokenizer

    Load = Callable[[str], Tokenizer]

WORDS = [
    "the",
    " The",
    "ing",
    "\n",
    "  ",
    "é",
    "中文",
    "😀",
    "<s>",
    "'ll",
    "12345",
    "\t",
    "▁",
    "Hello,",
    "\u0301",
    "x\r\n",
]


def plain_spm(text: str, ids: dict[str, int], scores: list[float]) -> list[int]:
    """Merge the best-scored pair, the leftmost of equals, until none is a token; spell the rest in bytes."""
    parts = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = [(-scores[ids[a + b]], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in ids]
        if not pairs:
            break
        at = min(pairs)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    out: list[int] = []
    for part in parts:
        out += [ids[part]] if part in ids else [ids[f"<0x{byte:02X}>"] for byte in part.encode()]
    return out


def texts(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(WORDS, k=rng.randrange(1, 14))) for _ in range(count)]


def test_spm_follows_its_definition(vocabulary: Load, test_data: Path) -> None:
    metadata = open_gguf(test_data / "vocab" / "ggml-vocab-llama-spm.gguf").metadata
    ids = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}  # type: ignore[arg-type]
    scores = [float(score) for score in metadata["tokenizer.ggml.scores"]]  # type: ignore[attr-defined]
    tokenizer = vocabulary("llama-spm")
    for text in texts(1, 400):
        assert tokenizer.encode(text) == plain_spm(text, ids, scores), text


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe"])
def test_bpe_agrees_with_tokenizers(name: str, vocabulary: Load, test_data: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="needs the tokenizers package as an oracle")
    metadata = open_gguf(test_data / "vocab" / f"ggml-vocab-{name}.gguf").metadata
    pattern = {
        "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    }[name]
    peer = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])},  # type: ignore[arg-type]
            [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]],  # type: ignore[attr-defined]
            ignore_merges=name == "llama-bpe",
        )
    )
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    peer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, level])
    tokenizer = vocabulary(name)
    corpus = (test_data / "corpus" / "fairytales-val.txt").read_text(encoding="utf-8")[:100_000]
    for text in [corpus, *texts(2, 500)]:
        assert tokenizer.encode(text) == peer.encode(text, add_special_tokens=False).ids, text[:80]
