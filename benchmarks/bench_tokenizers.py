"""Encoding speed beside the `tokenizers` package on one thread: seconds of CPU time, best of some runs.

python benchmarks/bench_tokenizers.py VOCABULARY.gguf TEXT...
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from llamakit.gguf import open_gguf
from llamakit.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATTERNS = {"llama-bpe": (LLAMA3, True), "gpt-2": (GPT2, False)}
RUNS = 5


def peer_bpe(metadata: Mapping[str, Any]) -> tokenizers.Tokenizer:
    pattern, ignore_merges = PATTERNS[metadata["tokenizer.ggml.pre"]]
    vocabulary = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    peer = tokenizers.Tokenizer(models.BPE(vocabulary, merges, ignore_merges=ignore_merges))
    peer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    peer.decoder = decoders.ByteLevel()
    return peer


def peer_spm(metadata: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """SPM as BPE: every split of a token into two tokens is a merge, ranked by the token's score."""
    tokens = list(metadata["tokenizer.ggml.tokens"])
    vocabulary = {token: i for i, token in enumerate(tokens)}
    scores = metadata["tokenizer.ggml.scores"]
    ranked = [
        (-float(scores[i]), (token[:cut], token[cut:]))
        for token, i in vocabulary.items()
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]
    merges = [pair for _, pair in sorted(ranked, key=lambda item: item[0])]
    peer = tokenizers.Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    peer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    return peer


def best(encode: Callable[[], object]) -> float:
    """Seconds of CPU time of the fastest run, after one that warms up."""
    encode()
    times = []
    for _ in range(RUNS):
        started = time.process_time()
        encode()
        times.append(time.process_time() - started)
    return min(times)


def main(vocabulary: str, files: list[str]) -> None:
    metadata = open_gguf(vocabulary).metadata
    started = time.perf_counter()
    ours = load_tokenizer(metadata)
    loaded = time.perf_counter() - started
    peer = peer_spm(metadata) if ours.model == "llama" else peer_bpe(metadata)
    for file in files:
        text = Path(file).read_text(encoding="utf-8")
        same = ours.encode(text) == peer.encode(text, add_special_tokens=False).ids
        mine = best(lambda text=text: ours.encode(text))
        theirs = best(lambda text=text: peer.encode(text, add_special_tokens=False))
        fresh = best(lambda text=text: load_and_encode(metadata, text)) - best(lambda: load_tokenizer(metadata))
        row = {
            "vocabulary": Path(vocabulary).name,
            "text": Path(file).name,
            "same_ids": same,
            "load_seconds": round(loaded, 4),
            "seconds": round(mine, 4),
            "seconds_without_word_cache": round(fresh, 4),
            "tokenizers_seconds": round(theirs, 4),
            "times_faster": round(theirs / mine, 1),
        }
        print(json.dumps(row))


def load_and_encode(metadata: Mapping[str, object], text: str) -> list[int]:
    return load_tokenizer(metadata).encode(text)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
