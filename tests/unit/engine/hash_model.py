"""A stand-in for a model: logits are a hash of every token that a row sees through its block table.

It reads and writes cells as attention does, so that a wrong block, a stale copy or a position too many changes the
answer. A step takes microseconds, which makes thousands of random schedules possible.
"""

from __future__ import annotations

import zlib

import numpy as np

from llamakit.backend import Buffer, CacheLayer, KVSpec
from llamakit.engine.embedder import Embedder
from llamakit.engine.engine import Engine
from llamakit.engine.runner import Runner
from llamakit.registry import Registry

N_VOCAB, BLOCK = 40, 4
END = 2


class HashCache:
    """The token that each cell holds, and the row's adapter slot that wrote it."""

    def __init__(self, n_block: int) -> None:
        self.spec = KVSpec(layers=(CacheLayer(1, 2, 2),), n_block=n_block, block_size=BLOCK)
        self.cells = np.full((n_block * BLOCK,), -1, np.int64)

    def copy(self, source, destination):
        for a, b in zip(source, destination, strict=True):
            self.cells[b * BLOCK : (b + 1) * BLOCK] = self.cells[a * BLOCK : (a + 1) * BLOCK]

    def shift(self, source, destination, delta):
        self.cells[list(destination)] = self.cells[list(source)].copy()

    def export(self, cells):
        return self.cells[list(cells)].view(np.uint8).reshape(1, len(cells), 8).copy()

    def restore(self, cells, data):
        self.cells[list(cells)] = data.reshape(len(cells), 8).view(np.int64)[:, 0]


class _Buffer(Buffer):
    def __init__(self, data):
        self.data, self.shape = data, data.shape

    def numpy(self):
        return self.data


class HashProgram:
    """`fail_at`: the step that raises; `hook`: called before every step."""

    def __init__(self, kv: HashCache, n_row: int, n_out: int, n_seq: int, n_block: int, output: str = "logits") -> None:
        self.kv, self.output = kv, output
        self.memory = 1 << 20  # tokens that it looks back
        self.deep = False  # whether a cell tells what was before its token as it was written, as those of layers do
        self.fail_at, self.steps, self.hook = -1, 0, lambda: None
        sizes = {"tokens": n_row, "positions": n_row, "sequences": n_row, "cells": n_row, "out_rows": n_out}
        self.inputs = {name: np.zeros(size, np.int32) for name, size in sizes.items()}
        self.inputs["block_tables"] = np.zeros((n_seq, n_block), np.int32)

    def run(self, sizes, *, longest=0):
        self.steps += 1
        self.hook()
        if self.steps == self.fail_at:
            raise RuntimeError("the device fell over")
        n, cells = sizes["rows"], self.inputs["cells"]
        assert len(set(cells[:n].tolist())) == n, "two rows write the same cell"
        self.kv.cells[cells[:n]] = self.inputs["tokens"][:n]
        if self.deep:
            for row in range(n):
                self.kv.cells[cells[row]] = zlib.crc32(self._seen(row).tobytes())
        rows = [self._row(int(r)) for r in self.inputs["out_rows"][: sizes["out_rows"]]]
        return {self.output: _Buffer(np.array(rows, np.float32).reshape(len(rows), N_VOCAB))}

    def _seen(self, row: int):
        position, sequence = int(self.inputs["positions"][row]), int(self.inputs["sequences"][row])
        table = self.inputs["block_tables"][sequence]
        seen = [int(self.kv.cells[table[p // BLOCK] * BLOCK + p % BLOCK]) for p in range(position + 1)]
        assert -1 not in seen, "a position was read that nobody wrote"
        return np.array(seen[-self.memory :], np.int64)

    def _row(self, row: int):
        random = np.random.default_rng(zlib.crc32(self._seen(row).tobytes()))
        return random.normal(0, 3, N_VOCAB)


class Letters:
    """A tokenizer: token 3 + i is a letter, 1 begins, 2 ends."""

    n_vocab, eog_ids, nl_id, bos_id = N_VOCAB, frozenset({END}), None, 1

    def piece(self, token, special=True):
        return chr(60 + token)

    def last_shown(self, ids):
        return list(ids)  # all of them, by which tests know a prompt again

    def detokenizer(self, prompt=(), shown=()):
        return _Detokenizer()

    def decode(self, tokens):
        return "".join(self.piece(token) for token in tokens)


class _Detokenizer:
    pending = False

    def push(self, token):
        return chr(60 + token)

    def flush(self):
        return ""


class Knows:
    """A drafter that guesses what the answers are: `known` has their tokens by seed and by number of the answer."""

    most, seconds_per_token = 4, 0.0

    def __init__(self, known):
        self.known = known

    def propose(self, wanted):
        for sequence, n in wanted:
            done, tokens = len(sequence.generated), self.known[sequence.group.request.seed][sequence.choice]
            sequence.draft = tokens[done : done + n]

    def forget(self, sequence):
        pass


def make_engine(n_block=200, n_row=16, n_out=16, n_seq=8, n_ctx=64, memory=1 << 20, deep=False, **options) -> Engine:
    """An engine over a hash model that looks back `memory` tokens; `deep`: see `HashProgram`."""
    kv = HashCache(n_block)

    def runner(n_output, output):
        program = HashProgram(kv, n_row, n_output, n_seq, n_ctx // BLOCK + 2, output)
        program.memory, program.deep = memory, deep
        return Runner(program, n_row, n_output, n_seq)

    samplers = Registry.discover().samplers()
    options.setdefault("embedder", Embedder(lambda: runner(n_row, "embeddings")))
    return Engine(runner(n_out, "logits"), kv, Letters(), samplers, n_ctx, **options)
