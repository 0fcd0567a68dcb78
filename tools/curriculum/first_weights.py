"""First weights that can look something up before they have learned anything: python -m curriculum.first_weights

Training from random weights spends most of its time on finding out how to copy: heads that look at the token before,
and heads that look for where the last tokens stood before and say what followed. Here both are put together by hand,
and training begins with what else there is to learn. (In-context copying by such pairs of heads: Olsson et al. 2022,
https://arxiv.org/abs/2209.11895; that structured first weights speed up attention: Trockman and Kolter 2023,
https://arxiv.org/abs/2305.09828. The construction is ours.)

The residual stream of n_embd values has the token in its first half; the other half has four places for the tokens 1 to
4 back, which the heads of block 0 fill. Block 1 compares the last three tokens with all of these. What the other blocks
add is zero at first.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llamakit.gguf import GGUFWriter, open_gguf
from llamakit.tokenizer import Tokenizer, load_tokenizer
from llamakit.train.init import normal

Array = np.ndarray[Any, np.dtype[np.float64]]
BACK = 4  # tokens back that block 0 sees
MATCHED = (1.0, 0.8, 0.6)  # weights of the last token, the one before, ... where block 1 compares
SHARE = 0.5  # of an embedding that is the same for all tokens, beside what is its own
SPACE = 0.7  # how much a leading space adds to the embedding of a word
SHARPNESS = 60.0  # of the heads that look back, at heads of 32 values
MATCH = 1.8  # of the heads that compare
COPIED = 3.0  # how much of a found token is added, in embeddings
NOISE = 0.1  # of the usual random weights, under those that are put together
TURNS_FAST, TURNS_SLOW = 0.05, 0.012  # radians a position: above, fit for places; below, for contents


@dataclass(frozen=True)
class Shape:
    """Sizes of the model."""

    n_embd: int = 256
    n_layer: int = 6
    n_head: int = 8  # as many keys and values
    n_ff: int = 704
    n_ctx: int = 1024
    rope_base: float = 500_000.0
    epsilon: float = 1e-5

    @property
    def n_dim(self) -> int:
        """Values of a head."""
        return self.n_embd // self.n_head


class FirstWeights:
    """The tensors of a model for a vocabulary, by GGUF's names; matrices are (outputs, inputs)."""

    def __init__(self, shape: Shape, tokenizer: Tokenizer, seed: int = 1, scale: float = 0.1) -> None:
        if shape.n_head < BACK or shape.n_embd % (8 * shape.n_head):
            raise ValueError(
                f"{shape.n_embd} values in {shape.n_head} heads: at least {BACK}, with a multiple of 8 each"
            )
        self.shape, self.scale = shape, scale
        self._seed, self._drawn = seed, 0
        self.half, self.place = shape.n_embd // 2, shape.n_embd // 8
        self.angles = shape.rope_base ** (-2 * np.arange(shape.n_dim // 2) / shape.n_dim)
        self._shared = self._unit(self.half)
        self._own = self._tokens(tokenizer)
        self.tensors = {"token_embd.weight": self._embedding(), "output_norm.weight": np.ones(shape.n_embd)}
        for block in range(shape.n_layer):
            self.tensors |= {f"blk.{block}.{name}": value for name, value in self._block(block).items()}

    def _normal(self, *sizes: int) -> Array:
        """Random numbers that are the same on every machine."""
        self._drawn += 1
        drawn: Array = normal(self._seed, f"first weights {self._drawn}", math.prod(sizes))
        return drawn.reshape(sizes)

    def _unit(self, n: int) -> Array:
        vector = self._normal(n)
        vector /= np.linalg.norm(vector)
        return vector

    def _orthogonal(self, rows: int, columns: int) -> Array:
        """Rows (or columns, if there are fewer) at right angles to each other."""
        n = max(rows, columns)
        whole: Array = np.linalg.qr(self._normal(n, n))[0]
        return whole[:rows, :columns]

    def _tokens(self, tokenizer: Tokenizer) -> Array:
        """What is a token's own, (n_vocab, half): a word with a space before it is like the word without."""
        own = self._normal(tokenizer.n_vocab, self.half)
        space = self._normal(self.half) * SPACE
        for token in range(tokenizer.n_vocab):
            text = tokenizer.token_text(token)
            bare = tokenizer.id_of(text[1:]) if text.startswith("\u2581") and len(text) > 1 else None
            if bare is not None:
                own[token] = own[bare] + space
        own -= np.outer(own @ self._shared, self._shared)
        own *= np.sqrt(self.half) / np.linalg.norm(own, axis=1, keepdims=True)
        return own

    def _embedding(self) -> Array:
        whole = np.zeros((len(self._own), self.shape.n_embd))
        whole[:, : self.half] = self.scale * (self._own + SHARE * np.sqrt(self.half) * self._shared)
        return whole

    def _block(self, block: int) -> dict[str, Array]:
        """Random weights that add nothing at first; over them, in the first two blocks, what is put together."""
        n, ff = self.shape.n_embd, self.shape.n_ff
        usual = {name: self._normal(n, n) / np.sqrt(n) for name in ("attn_q", "attn_k", "attn_v")}
        if block == 0:
            usual = self._looking_back({name: NOISE * value for name, value in usual.items()})
        elif block == 1:
            usual = self._comparing({name: NOISE * value for name, value in usual.items()})
        gates = {name: self._normal(ff, n) / np.sqrt(n) for name in ("ffn_gate", "ffn_up")}
        zero = {"attn_output": np.zeros((n, n)), "ffn_down": np.zeros((n, ff))}
        norms = {"attn_norm.weight": np.ones(n), "ffn_norm.weight": np.ones(n)}
        return {f"{name}.weight": value for name, value in (zero | usual | gates).items()} | norms

    def _looking_back(self, weights: dict[str, Array]) -> dict[str, Array]:
        """Block 0: head h attends to the token h + 1 back, by angles alone, and writes it into its place."""
        d, half, place = self.shape.n_dim, self.half, self.place
        size = np.sqrt(self.shape.n_embd / half / (1 + SHARE**2))  # of a value after the norm
        strength = np.where(self.angles < TURNS_FAST, 0, self.angles) * SHARPNESS * np.sqrt(d / 32)
        weights["attn_output"] = np.zeros((self.shape.n_embd, self.shape.n_embd))
        self._seen = self._orthogonal(place, half)
        for head in range(BACK):
            rows = slice(head * d, (head + 1) * d)
            key, query = np.zeros(d), np.zeros(d)
            key[0::2] = np.sqrt(strength)
            query[0::2] = np.sqrt(strength) * np.cos((head + 1) * self.angles)
            query[1::2] = -np.sqrt(strength) * np.sin((head + 1) * self.angles)
            read = self._shared / (size * SHARE * np.sqrt(half))
            weights["attn_q"][rows, :half] += np.outer(query, read)
            weights["attn_k"][rows, :half] += np.outer(key, read)
            weights["attn_v"][rows] = 0
            weights["attn_v"][head * d : head * d + place, :half] = self._seen
            to = half + head * place
            weights["attn_output"][to : to + place, head * d : head * d + place] = np.eye(place) * self.scale / size
        return weights

    def _comparing(self, weights: dict[str, Array]) -> dict[str, Array]:
        """Block 1: each head finds where the last tokens stood before, and adds its part of what followed them."""
        d, half, place = self.shape.n_dim, self.half, self.place
        slow = np.flatnonzero(self.angles < TURNS_SLOW)
        values = np.sort(np.concatenate([2 * slow, 2 * slow + 1]))[-place:]
        part = half // self.shape.n_head
        weights["attn_output"] = np.zeros((self.shape.n_embd, self.shape.n_embd))
        for head in range(self.shape.n_head):
            rows = head * d + values
            for back, weight in enumerate(MATCHED):
                mixed = self._orthogonal(place, place)[: len(values)] * weight * MATCH
                now = slice(half + (back - 1) * place, half + back * place)
                if back:
                    weights["attn_q"][rows, now] += mixed
                else:
                    weights["attn_q"][rows, :half] += mixed @ self._seen
                weights["attn_k"][rows, half + back * place : half + (back + 1) * place] += mixed
            to, at = slice(head * part, (head + 1) * part), slice(head * d, head * d + part)
            weights["attn_v"][at, to] += np.eye(part)
            weights["attn_output"][to, at] = np.eye(part) * COPIED * self.scale
        return weights


def write(path: Path, vocabulary: Path, shape: Shape, *, name: str = "LlamaKit small", seed: int = 1) -> int:
    """A model in float32 with the vocabulary of a GGUF file; returns how many parameters it has."""
    with open_gguf(vocabulary) as file:
        made = FirstWeights(shape, load_tokenizer(file.metadata), seed).tensors
        with GGUFWriter(path) as writer:
            writer.add("general.architecture", "llama")
            writer.add("general.name", name)
            writer.add("general.file_type", 0)
            for key, value in file.metadata.items():
                if key.startswith("tokenizer."):
                    writer.add(key, value)
            for key, value in _hyperparameters(shape, len(made["token_embd.weight"])).items():
                writer.add(f"llama.{key}", value)
            for tensor, value in made.items():
                writer.add_tensor(tensor, value.astype(np.float32))
    return sum(value.size for value in made.values())


def _hyperparameters(shape: Shape, n_vocab: int) -> dict[str, int | float]:
    return {
        "vocab_size": n_vocab, "context_length": shape.n_ctx, "embedding_length": shape.n_embd,
        "block_count": shape.n_layer, "feed_forward_length": shape.n_ff, "attention.head_count": shape.n_head,
        "attention.head_count_kv": shape.n_head, "attention.layer_norm_rms_epsilon": shape.epsilon,
        "rope.dimension_count": shape.n_dim, "rope.freq_base": shape.rope_base,
    }  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vocabulary", type=Path, help="a GGUF file with the vocabulary")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    for name, value in vars(Shape()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = vars(parser.parse_args())
    vocabulary, out, seed = (options.pop(name) for name in ("vocabulary", "out", "seed"))
    print(f"{out}: {write(out, vocabulary, Shape(**options), seed=seed):,} parameters")


if __name__ == "__main__":
    main()
