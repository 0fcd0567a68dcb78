"""The state of one request in the engine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llamakit.engine.request import FinishReason, Piece, Request, Result, Timings

if TYPE_CHECKING:
    from llamakit.engine.kv_cache import BlockTable
    from llamakit.engine.sampling import SamplerChain
    from llamakit.tokenizer import Tokenizer

UNFINISHED_CHARACTER = 3  # tokens allowed beyond the limit to complete a UTF-8 character, which has at most 4 bytes


class Past:
    """Tokens whose keys and values are in the cache: what a finished request leaves for the next one."""

    def __init__(self, tokens: list[int], table: BlockTable) -> None:
        self.tokens, self.table = tokens, table

    def common(self, prompt: list[int]) -> int:
        """How many tokens at the start are the same; the prompt's last one always counts as new."""
        limit = min(len(self.tokens), len(prompt) - 1)
        return next((i for i in range(limit) if self.tokens[i] != prompt[i]), limit)

    def release(self) -> None:
        """Give the blocks back."""
        self.table.release()
        self.tokens = []


class Sequence:
    """One request: its tokens, its place in the cache, its sampler chain and its text so far.

    `tokens` are all tokens in the context, `table.length` of them are evaluated. A sequence is in prefill while more
    than one is not.
    """

    def __init__(self, request: Request, tokenizer: Tokenizer, chain: SamplerChain, table: BlockTable) -> None:
        from llamakit.tokenizer.stops import StopMatcher

        self.request, self.tokenizer, self.chain, self.table = request, tokenizer, chain, table
        self.tokens = list(request.prompt)
        self.generated: list[int] = []
        self.detokenizer = tokenizer.detokenizer(request.prompt)
        self.stops = StopMatcher(request.stop)
        self.pieces: list[Piece] = []  # not yet taken by the caller
        self.text: list[str] = []
        self.result: Result | None = None
        self.shifted = False
        self.timings = Timings(n_prompt=len(request.prompt), n_cached=table.length)
        self._submitted = self._first = time.perf_counter()

    @property
    def n_pending(self) -> int:
        """Tokens not yet evaluated."""
        return len(self.tokens) - self.table.length

    @property
    def keep(self) -> int:
        """Tokens at the start that a context shift never drops."""
        n_prompt = len(self.request.prompt)
        return n_prompt if self.request.keep < 0 else min(self.request.keep, n_prompt)

    def accept(self, token_id: int, piece_of: Piece) -> None:
        """Take the chosen token: emit its text, finish if it ends the generation."""
        if not self.generated:
            self._first = time.perf_counter()
            self.timings.first_seconds = self.timings.prompt_seconds = self._first - self._submitted
        self.generated.append(token_id)
        self.timings.n_generated += 1
        if token_id in self.tokenizer.eog_ids and not self.request.ignore_eos:
            self.finish(FinishReason.END)
            return
        self.tokens.append(token_id)
        text, stopped_by = self.stops.push(self.detokenizer.push(token_id))
        self._emit(piece_of, text)
        if stopped_by is not None:
            self.finish(FinishReason.STOP, stopped_by=stopped_by)
        elif self._spent():
            self.finish(FinishReason.LENGTH)

    def take(self) -> list[Piece]:
        """The pieces made since the last call."""
        pieces, self.pieces = self.pieces, []
        return pieces

    def finish(
        self, reason: FinishReason, *, stopped_by: str | None = None, error: BaseException | None = None
    ) -> None:
        """End the generation; text that was held back comes out, unless a stop string ended it."""
        tail = ""
        if stopped_by is None:
            tail, stopped_by = self.stops.push(self.detokenizer.flush())
            tail += "" if stopped_by else self.stops.flush()
        self.text.append(tail)
        if self.generated:
            self.timings.generate_seconds = time.perf_counter() - self._first
        self.result = Result(
            tokens=self.generated, text="".join(self.text), tail=tail, reason=reason, timings=self.timings,
            stopped_by=stopped_by, error=error,
        )  # fmt: skip

    def _emit(self, piece: Piece, text: str) -> None:
        self.text.append(text)
        self.pieces.append(Piece(token_id=piece.token_id, text=text, logprob=piece.logprob, top=piece.top))

    def _spent(self) -> bool:
        limit = self.request.max_tokens
        if limit < 0 or len(self.generated) < limit:
            return False
        return not (self.detokenizer.pending and len(self.generated) < limit + UNFINISHED_CHARACTER)
