"""The engine: requests in, tokens out, many at a time.

`step()` is the whole of it: schedule, run, sample, accept. One thread calls it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.engine.kv_cache import BlockPool, BlockTable
from llamakit.engine.request import UNTIL_CONTEXT_FULL, FinishReason, Piece, Request, TokenLogprob
from llamakit.engine.runner import Row, Runner
from llamakit.engine.sampling import make_chain, probabilities, sample_rows
from llamakit.engine.scheduler import Chunk, schedule
from llamakit.engine.sequence import Past, Sequence
from llamakit.errors import ContextLengthError, LlamaKitError, OutOfMemoryError, UsageError
from llamakit.sampler import SequenceContext

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    import numpy.typing as npt

    from llamakit.backend import KVCache
    from llamakit.sampler import Sampler
    from llamakit.tokenizer import Tokenizer

MAX_CONTEXTS = 8  # an "endless" generation with context shift ends after this many contexts of tokens


class Engine:
    """Generates for any number of sequences at once, batched."""

    def __init__(
        self, runner: Runner, kv: KVCache, tokenizer: Tokenizer, samplers: Mapping[str, type[Sampler]], n_ctx: int
    ) -> None:
        self.runner, self.kv, self.tokenizer, self.samplers, self.n_ctx = runner, kv, tokenizer, samplers, n_ctx
        self.pool = BlockPool(kv.spec.n_block)
        self.sequences: list[Sequence] = []

    def submit(self, request: Request, past: Past | None = None) -> Sequence:
        """Queue a request. `past`, if given, is used up: what it has in common with the prompt is not run again."""
        self._check(request)
        chain = make_chain(self.samplers, self._options(request), request.samplers, self._context(request))
        chain.accept_many(request.prompt)
        sequence = Sequence(request, self.tokenizer, chain, self._table(request, past))
        self.sequences.append(sequence)
        return sequence

    def step(self) -> bool:
        """Evaluate one batch and sample from it; False when there was nothing to do."""
        self.sequences = [s for s in self.sequences if s.result is None]
        for sequence in self.sequences:
            self._make_room(sequence)
        runner = self.runner
        chunks = schedule((s for s in self.sequences if s.result is None), runner.n_row, runner.n_out, runner.n_seq)
        chunks = [chunk for chunk in chunks if self._reserve(chunk)]
        if not chunks:
            return any(s.result is None for s in self.sequences)
        rows = [row for i, chunk in enumerate(chunks) for row in _rows(chunk, i)]
        cells = [cell for chunk in chunks for cell in chunk.sequence.table.extend(chunk.n)]
        outputs = runner.run(rows, cells, [chunk.sequence.table for chunk in chunks])
        sampled = [chunk.sequence for chunk in chunks if chunk.last]
        if sampled:
            self._sample(sampled, outputs["logits"].numpy())
        return True

    def stream(self, sequence: Sequence) -> Iterator[Piece]:
        """Step until `sequence` is finished, yielding its pieces; ending early cancels it."""
        try:
            while sequence.result is None:
                self.step()
                yield from sequence.take()
        finally:
            self.cancel(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """End a request now; its blocks stay with it until `retire`."""
        if sequence.result is None:
            sequence.finish(FinishReason.CANCELLED)
        self.sequences = [s for s in self.sequences if s is not sequence]

    def retire(self, sequence: Sequence) -> Past:
        """Take the evaluated past out of a finished sequence, for the next request or for `Past.release`."""
        self.cancel(sequence)
        return Past(sequence.tokens[: sequence.table.length], sequence.table)

    def _check(self, request: Request) -> None:
        n = len(request.prompt)
        if n == 0:
            raise UsageError("the prompt is empty and the model adds no BOS token: give at least one token")
        if n > self.n_ctx:
            raise ContextLengthError(
                f"the prompt does not fit: it has {n:,} tokens, the context holds {self.n_ctx:,}",
                found=f"{n - self.n_ctx:,} tokens too many",
                hint="a shorter text, or a larger context (-c)",
                param="prompt",
            )
        if request.max_tokens < UNTIL_CONTEXT_FULL:
            raise UsageError(
                f"max_tokens is {request.max_tokens}: use a count, -1 (until the end) or -2 (context full)"
            )
        bad = [token for token in request.prompt if not 0 <= token < self.tokenizer.n_vocab]
        if bad:
            raise UsageError(f"token {bad[0]} is outside the vocabulary, 0..{self.tokenizer.n_vocab - 1}")

    def _options(self, request: Request) -> dict[str, object]:
        options = dict(request.options)
        if request.ignore_eos:
            options["ignore_eos"] = True
        return options

    def _context(self, request: Request) -> SequenceContext:
        return SequenceContext(
            n_vocab=self.tokenizer.n_vocab,
            n_ctx=self.n_ctx,
            seed=request.seed,
            newline_id=self.tokenizer.nl_id,
            eog_ids=self.tokenizer.eog_ids,
        )

    def _table(self, request: Request, past: Past | None) -> BlockTable:
        if past is None:
            return BlockTable(self.pool, self.kv)
        past.table.truncate(past.common(request.prompt))
        return past.table

    def _make_room(self, sequence: Sequence) -> None:
        """Finish or shift a sequence whose next token does not fit into the context."""
        if len(sequence.tokens) <= self.n_ctx:
            return
        request = sequence.request
        budget = MAX_CONTEXTS * self.n_ctx if request.max_tokens < 0 else request.max_tokens
        if not request.shift or request.max_tokens == UNTIL_CONTEXT_FULL:
            sequence.finish(FinishReason.CONTEXT)
        elif len(sequence.generated) >= budget:
            sequence.finish(FinishReason.LENGTH)
        else:
            self._shift(sequence)

    def _shift(self, sequence: Sequence) -> None:
        """Drop the older half of what follows the kept tokens (and the BOS), as the 2023 server did."""
        n_past, keep = sequence.table.length, sequence.keep + 1
        n = (n_past - keep) // 2
        if n < 1:
            sequence.finish(FinishReason.CONTEXT)
            return
        sequence.table.discard(keep, n)
        del sequence.tokens[keep : keep + n]
        sequence.shifted = True
        sequence.timings.n_shifted += n

    def _reserve(self, chunk: Chunk) -> bool:
        if chunk.sequence.table.missing(chunk.n) <= self.pool.n_free:
            return True
        if len(self.sequences) == 1:
            chunk.sequence.finish(FinishReason.ERROR, error=OutOfMemoryError("the KV cache has no free blocks left"))
        return False  # waits for another sequence to finish

    def _sample(self, sequences: list[Sequence], logits: npt.NDArray[np.float32]) -> None:
        wanted = [(row, s) for row, s in enumerate(sequences) if s.request.max_tokens != 0]
        for sequence in sequences:
            if sequence.request.max_tokens == 0:  # only the prompt was to be evaluated
                sequence.finish(FinishReason.LENGTH)
        choices = sample_rows(logits, [row for row, _ in wanted], [s.chain for _, s in wanted])
        for (row, sequence), choice in zip(wanted, choices, strict=True):
            if choice.error is not None:
                sequence.finish(FinishReason.ERROR, error=choice.error)
                continue
            piece = Piece(token_id=choice.token_id, text="")
            if sequence.request.logprobs is not None:
                piece = _with_logprobs(logits[row], choice.token_id, sequence.request.logprobs)
            sequence.chain.accept(choice.token_id)
            sequence.accept(choice.token_id, piece)


def _rows(chunk: Chunk, index: int) -> list[Row]:
    """The rows of a chunk, before its table is extended."""
    start, tokens = chunk.sequence.table.length, chunk.sequence.tokens
    stop = start + chunk.n
    return [Row(tokens[p], p, index, chunk.last and p == stop - 1) for p in range(start, stop)]


def _with_logprobs(logits: npt.NDArray[np.float32], token_id: int, n: int) -> Piece:
    logprob, top = probabilities(logits, token_id, n)
    likeliest = tuple(TokenLogprob(int(i), float(p)) for i, p in top)
    return Piece(token_id=token_id, text="", logprob=float(logprob), top=likeliest)


def raise_error(sequence: Sequence) -> None:
    """Raise what ended the sequence, if an error did."""
    if sequence.result is not None and sequence.result.error is not None:
        error = sequence.result.error
        raise error if isinstance(error, LlamaKitError) else LlamaKitError(str(error)) from error
