"""Embeddings beside generation: texts are evaluated in batches of their own, one after each step of the engine.

Whose texts come next is by how much was done for each client, so many texts of one do not keep another waiting.

Their keys and values take blocks of the same cache for as long as they are evaluated. The program whose every row has
an output is compiled when the first text comes.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.engine.batch import Batch
from llamakit.engine.failure import own_failure
from llamakit.engine.kv_cache import BlockTable
from llamakit.engine.request import Embed, Vectors
from llamakit.errors import ContextLengthError, UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from llamakit.engine.engine import Engine
    from llamakit.engine.runner import Runner

log = logging.getLogger("llamakit.engine")
POOLINGS = ("mean", "last", "cls", "none")


class _Text:
    """One text on its way: what is evaluated of it, and what was pooled so far."""

    def __init__(self, tokens: list[int], pooling: str) -> None:
        self.tokens, self.pooling = tokens, pooling
        self.table: BlockTable | None = None
        self.rows: list[npt.NDArray[np.float32]] = []
        self.sum: Any = 0.0

    def take(self, states: npt.NDArray[np.float32], first: bool) -> None:
        """States (n, n_embd) of the next tokens."""
        if self.pooling == "none":
            self.rows.append(states.copy())
        elif self.pooling == "mean":
            self.sum = self.sum + states.sum(axis=0, dtype=np.float64)
        elif self.pooling == "last" or first:
            self.sum = states[-1 if self.pooling == "last" else 0].astype(np.float64)

    def value(self, normalize: bool) -> npt.NDArray[np.float32]:
        """The vector, or the vectors."""
        if self.pooling == "none":
            found = np.concatenate(self.rows).astype(np.float64)
        else:
            found = self.sum / len(self.tokens) if self.pooling == "mean" else self.sum
        if normalize:
            norm = np.linalg.norm(found, axis=-1, keepdims=True)
            found = found / np.where(norm > 0, norm, 1.0)
        result: npt.NDArray[np.float32] = found.astype(np.float32)
        return result


class _Work:
    """One request for vectors."""

    def __init__(
        self, embed: Embed, selection: Any, gone: Callable[[], bool] | None, owner: str = "", weight: float = 1.0
    ) -> None:
        self.embed, self.selection, self.slot, self.gone = embed, selection, -1, gone
        self.owner, self.weight = owner, weight
        self.n_token = sum(map(len, embed.prompts))
        self.texts = [_Text(tokens, embed.pooling) for tokens in embed.prompts]
        self.next = 0  # the text that is evaluated now
        self.done = threading.Event()
        self.error: BaseException | None = None

    @property
    def begun(self) -> bool:
        """Whether a part of a text is evaluated, whose keys and values are held until its end."""
        table = self.texts[self.next].table if self.next < len(self.texts) else None
        return table is not None and table.length > 0

    def begin_again(self) -> None:
        """Forget what is evaluated of the text whose turn it is."""
        begun = self.texts[self.next]
        assert begun.table is not None  # it is begun
        begun.table.release()
        self.texts[self.next] = _Text(begun.tokens, begun.pooling)

    @property
    def unwanted(self) -> bool:
        """Whether whoever asked has left; what cannot tell is taken for a client that left."""
        try:
            return self.gone is not None and self.gone()
        except BaseException:
            return True


class Embedder:
    """Evaluates texts for their states. `make_runner` compiles the program, on the engine's thread."""

    def __init__(self, make_runner: Callable[[], Runner]) -> None:
        self._make_runner = make_runner
        self._runner: Runner | None = None
        self._queue: deque[_Work] = deque()
        self._done: dict[str, float] = {}  # tokens evaluated for each client that waits, by its weight
        self._failed: list[_Work] = []  # in a step that failed; they are told when the engine is in order again

    def forget(self) -> None:
        """The program is gone: compile it again when it is needed."""
        self._runner = None

    def wait(
        self,
        engine: Engine,
        embed: Embed,
        wait: Callable[[threading.Event], object] | None = None,
        gone: Callable[[], bool] | None = None,
    ) -> Vectors:
        """Queue texts and `wait` for the engine's thread to make their vectors; without one the caller steps.

        `gone` tells whether whoever asked has left; then the rest is not evaluated (UnavailableError).
        """
        work = _Work(embed, check(engine, embed), gone)
        self.add(work)
        return self.vectors(engine, work, wait)

    def work(
        self, engine: Engine, embed: Embed, gone: Callable[[], bool] | None = None, owner: str = "", weight: float = 1.0
    ) -> _Work:
        """A request, checked, to `add` and to get the `vectors` of.

        `owner` names the client, of which one of `weight` 2 gets twice as much as one of 1.
        """
        return _Work(embed, check(engine, embed), gone, owner, weight)

    def add(self, work: _Work) -> None:
        """Queue a request."""
        self._queue.append(work)

    def vectors(self, engine: Engine, work: _Work, wait: Callable[[threading.Event], object] | None = None) -> Vectors:
        """Wait for a request that was added."""
        if wait is not None:
            wait(work.done)
        while not work.done.is_set():
            self._step(engine)
        if work.error is not None:
            raise work.error
        return Vectors([text.value(work.embed.normalize) for text in work.texts], work.n_token)

    def _step(self, engine: Engine) -> None:
        """A step on the caller's thread, who gets what it raises."""
        try:
            engine.step()
        except BaseException:
            self._failed.clear()
            raise

    def __len__(self) -> int:
        """Requests that are not done."""
        return len(self._queue)

    def held_by(self, owner: str) -> tuple[int, int]:
        """Requests of a client that are not done, and the tokens of their texts."""
        mine = [each for each in tuple(self._queue) if each.owner == owner]
        return len(mine), sum(each.n_token for each in mine)

    def turn(self, engine: Engine) -> bool:
        """Evaluate one batch of the request whose turn it is; False when there is none, or no room for it yet."""
        for each in tuple(self._queue):  # other threads add to it meanwhile
            if each.unwanted:
                self._end(engine, each, UnavailableError("whoever asked for vectors has left"))
        for work in self._in_turn():
            try:
                begun = self._begin(engine, work)
            except BaseException as error:  # of its adapters, or of what embeddings alone need: generation goes on
                self._end(engine, work, own_failure(error, "an adapter"))
                return True
            if begun:
                return self._evaluate(engine, work)
        return False

    def _in_turn(self) -> list[_Work]:
        """Who is next: what is begun, else the clients for which least was done, each by the order of its requests."""
        works = tuple(self._queue)
        begun = [each for each in works if each.begun]
        if begun:
            return begun[:1]
        waiting = {each.owner for each in works}
        least = min((n for owner, n in self._done.items() if owner in waiting), default=0.0)
        self._done = {owner: max(least, self._done.get(owner, least)) for owner in waiting}
        return sorted(works, key=lambda each: self._done[each.owner])

    def _evaluate(self, engine: Engine, work: _Work) -> bool:
        """One batch of a request's texts."""
        try:
            moved = self._run(engine, work)
        except BaseException:
            self._release(engine, work)
            self._failed.append(work)
            raise
        if work.next == len(work.texts):
            self._end(engine, work, None)
        return moved

    def make_way(self) -> bool:
        """Give the blocks of a text back that is not whole, which begins anew later; whether there was one."""
        for work in tuple(self._queue):
            if work.begun:
                work.begin_again()
                return True
        return False

    def abandon(self, engine: Engine, error: BaseException) -> None:
        """End all of it with an error; what it holds is given back."""
        ended, self._failed = self._failed, []
        while self._queue:
            ended.append(self._queue.popleft())
        for work in ended:  # whoever is told may ask again at once: that is not of these
            try:
                self._release(engine, work)
            except BaseException:  # of a device that is gone: the others are to be told all the same
                log.exception("a request for vectors could not give back what it held")
            work.error = error
            work.done.set()

    def _begin(self, engine: Engine, work: _Work) -> bool:
        """What a request needs before its first batch: the program and a slot for its adapters; False: none is free."""
        if self._runner is None:
            self._runner = self._make_runner()
        if work.slot < 0:
            slot = 0 if engine.adapters is None else engine.adapters.acquire(work.selection)
            if slot is None:
                return False
            work.slot = slot
        return True

    def _run(self, engine: Engine, work: _Work) -> bool:
        assert self._runner is not None  # `_begin` made it
        batch, parts = self._fill(engine, work, self._runner)
        if not parts:
            return False
        self._done[work.owner] = self._done.get(work.owner, 0.0) + len(batch) / work.weight
        states = self._runner.run(batch)["embeddings"].numpy()
        for text, row, start, n in parts:
            text.take(states[row : row + n], start == 0)
            if start + n == len(text.tokens) and text.table is not None:
                text.table.release()
                work.next += 1
        return True

    def _fill(self, engine: Engine, work: _Work, runner: Runner) -> tuple[Batch, list[tuple[_Text, int, int, int]]]:
        """As much of the next texts as fits into a batch: (text, first output, first position, rows)."""
        batch, parts = Batch(), list[tuple[_Text, int, int, int]]()
        left = min(runner.n_row, engine.prompt_rows)
        others = len(self._done) > 1
        for text in work.texts[work.next :]:
            if not left or len(batch.tables) == runner.n_seq:
                break
            if others and parts and len(text.tokens) > left:
                break  # what is begun is first brought to its end, and others wait for their turn
            if text.table is None:
                text.table = engine.space.new_table()
            start = text.table.length
            n = min(left, len(text.tokens) - start)
            if not engine.space.find_room(text.table.missing(len(text.tokens) - start)):
                break  # a part alone would hold blocks and get no further
            row = batch.add(text.tokens[start : start + n], text.table, n_output=n, adapter=work.slot)
            parts.append((text, row, start, n))
            left -= n
            if start + n < len(text.tokens):
                break
        return batch, parts

    def _end(self, engine: Engine, work: _Work, error: BaseException | None) -> None:
        self._release(engine, work)
        work.error = error
        work.done.set()

    def _release(self, engine: Engine, work: _Work) -> None:
        if work in self._queue:
            self._queue.remove(work)
        for text in work.texts:
            if text.table is not None:
                text.table.release()
        slot, work.slot = work.slot, -1
        if engine.adapters is not None and slot >= 0:
            engine.adapters.release(slot)


def check(engine: Engine, embed: Embed) -> Any:
    """What is wrong with texts is raised; returns the adapters that they are evaluated with."""
    if embed.pooling not in POOLINGS:
        raise UsageError(f"pooling {embed.pooling!r}: use {', '.join(POOLINGS)}", param="pooling")
    for number, tokens in enumerate(embed.prompts):
        where = f" (text {number + 1} of {len(embed.prompts)})" if len(embed.prompts) > 1 else ""
        if not tokens:
            raise UsageError(f"there is nothing to embed: the text gives no tokens{where}", param="input")
        if len(tokens) > engine.n_ctx:
            raise ContextLengthError(
                f"the text is too large: it has {len(tokens):,} tokens, the context holds {engine.n_ctx:,}{where}",
                hint="a shorter text, or a larger context (-c)", param="input",
            )  # fmt: skip
        if min(tokens) < 0 or max(tokens) >= engine.tokenizer.n_vocab:
            raise UsageError(
                f"a token is outside the vocabulary, 0..{engine.tokenizer.n_vocab - 1}{where}", param="input"
            )
    from llamakit.engine.prepare import select

    return select(engine, embed.adapters)
