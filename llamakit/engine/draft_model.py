"""A small model that guesses how the answers of a large one go on.

It has the large model's vocabulary, a cache of its own, and takes the likeliest token each time. It reads what it has
not seen of each sequence in the same steps in which it guesses, long prompts in pieces.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from llamakit.engine.batch import Batch
from llamakit.engine.kv_cache import BlockPool, BlockTable
from llamakit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence as Sequence_

    from llamakit.backend import KVCache
    from llamakit.engine.runner import Runner
    from llamakit.engine.sequence import Sequence
    from llamakit.tokenizer import Tokenizer

COMPARED = 1024  # tokens of the two vocabularies that must be spelled alike, spread over all
CATCH_UP = 64  # tokens of one sequence that are read in a step beside guessing, so that answers do not wait long


class _Seen:
    """What the draft model has evaluated of a sequence."""

    def __init__(self, table: BlockTable) -> None:
        self.table = table
        self.tokens: list[int] = []

    def rewind_to(self, tokens: Sequence_[int]) -> None:
        """Forget what is not the beginning of `tokens`: guesses that were not chosen."""
        n = min(len(self.tokens), len(tokens) - 1)
        while n and self.tokens[n - 1] != tokens[n - 1]:
            n -= 1
        self.table.truncate(n)
        del self.tokens[n:]


class ModelDrafter:
    """Guesses by a model (`engine.speculation.Drafter`)."""

    def __init__(self, runner: Runner, kv: KVCache, n_ctx: int, most: int) -> None:
        self.runner, self.kv, self.n_ctx, self.most = runner, kv, n_ctx, most
        self.seconds_per_token = 0.0
        self._pool = BlockPool(kv.spec.n_block)
        self._seen: WeakKeyDictionary[Sequence, _Seen] = WeakKeyDictionary()

    def propose(self, wanted: Sequence_[tuple[Sequence, int]]) -> None:
        """Read what is new, then guess token by token, all sequences together."""
        ready = []
        for sequence, n in wanted[: self.runner.n_seq]:
            seen = self._seen.get(sequence)
            if seen is None:
                seen = self._seen[sequence] = _Seen(BlockTable(self._pool, self.kv))
            seen.rewind_to(sequence.tokens)
            if self._read(sequence, seen):
                ready.append((sequence, seen, min(n, self.n_ctx - len(sequence.tokens))))
        guesses: dict[Sequence, list[int]] = {sequence: [] for sequence, _, _ in ready}
        last = {sequence: sequence.tokens[-1] for sequence, _, _ in ready}
        while ready:
            ready = self._with_room([(s, seen, n) for s, seen, n in ready if len(guesses[s]) < n])
            for (sequence, _, _), token_id in zip(ready, self._next(ready, last), strict=True):
                guesses[sequence].append(token_id)
                last[sequence] = token_id
        for sequence, tokens in guesses.items():
            sequence.draft = tokens

    def forget(self, sequence: Sequence) -> None:
        """Give its blocks back."""
        seen = self._seen.pop(sequence, None)
        if seen is not None:
            seen.table.release()

    def reset(self) -> None:
        """Give all blocks back."""
        self._pool = BlockPool(self.kv.spec.n_block)
        self._seen.clear()

    @property
    def _free(self) -> int:
        return self._pool.n_free

    def _with_room(self, ready: list[tuple[Sequence, _Seen, int]]) -> list[tuple[Sequence, _Seen, int]]:
        """Those for whose next token there are free blocks, for all of them together."""
        free, found = self._free, []
        for each in ready:
            missing = each[1].table.missing(1)
            if missing <= free:
                free -= missing
                found.append(each)
        return found

    def _read(self, sequence: Sequence, seen: _Seen) -> bool:
        """Evaluate what is before the last token; False while more is left, or there is no room for it."""
        missing = sequence.tokens[len(seen.tokens) : -1]
        part = missing[: min(CATCH_UP, self.runner.n_row)]
        if part:
            if seen.table.missing(len(part)) > self._free:
                return False
            batch = Batch()
            batch.add(part, seen.table, n_output=0)
            self.runner.run(batch)
            seen.tokens += part
        return len(part) == len(missing)

    def _next(self, ready: Sequence_[tuple[Sequence, _Seen, int]], last: dict[Sequence, int]) -> list[int]:
        """The likeliest next token of each sequence."""
        if not ready:
            return []
        batch, began = Batch(), time.perf_counter()
        for sequence, seen, _ in ready:
            batch.add([last[sequence]], seen.table)
            seen.tokens.append(last[sequence])
        logits = self.runner.run(batch)["logits"]
        rows = range(len(ready))
        top = logits.numpy().argmax(axis=1) if logits.on_host else logits.top(rows, 1).ids[:, 0]
        tokens: list[int] = top.tolist()
        cost = (time.perf_counter() - began) / len(ready)
        self.seconds_per_token += 0.1 * (cost - self.seconds_per_token)
        return tokens


def check_vocabulary(target: Tokenizer, draft: Tokenizer) -> None:
    """A draft model must number its tokens as the target does."""
    step = max(1, target.n_vocab // COMPARED)
    if draft.n_vocab != target.n_vocab:
        raise UsageError(
            f"the draft model has {draft.n_vocab:,} tokens, the model {target.n_vocab:,}",
            hint="a draft model of the same family", param="model_draft",
        )  # fmt: skip
    for token in range(0, target.n_vocab, step):
        if draft.token_text(token) != target.token_text(token):
            here, there = target.token_text(token), draft.token_text(token)
            raise UsageError(
                f"the draft model spells token {token} {there!r}, the model {here!r}",
                hint="a draft model of the same family", param="model_draft",
            )  # fmt: skip
