"""The state of one answer in the engine: its tokens, its place in the cache, its samplers, its text so far."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, Any

from llamakit.engine.failure import own_failure
from llamakit.engine.job import Token
from llamakit.engine.request import FinishReason, Likely, Piece, Result, Timings

if TYPE_CHECKING:
    from llamakit.engine.group import Group
    from llamakit.engine.kv_cache import BlockTable
    from llamakit.engine.prefix_tree import Node
    from llamakit.engine.request import PromptToken
    from llamakit.engine.sampling import SamplerChain
    from llamakit.tokenizer import Tokenizer

# Log-probability and the likeliest tokens before the chain, probability and the likeliest after it: fields of `Piece`.
Details = tuple[float | None, Likely, float, Likely]
UNFINISHED_CHARACTER = 3  # tokens allowed beyond the limit to complete a UTF-8 character, which has at most 4 bytes


class Track:
    """Tokens in a context, of which the first `table.length` are evaluated.

    `node` is the place in the prefix tree up to which its blocks are known there, `n_known` how many these are; a
    context shift, after which the blocks no longer spell a prefix, sets `node` to None.
    """

    chain: SamplerChain | None = None  # of those that choose

    def __init__(self, tokens: list[int], table: BlockTable) -> None:
        self.tokens, self.table = tokens, table
        self.node: Node | None = None
        self.n_known = 0
        self.draft: list[int] = []  # tokens guessed to follow, evaluated in the same step
        self.n_right = 0  # how many of them were chosen
        self.aside: Any = None  # keys and values of the first tokens, kept while it has to wait: `KVSpace.put_aside`
        self.waits = 0  # the step since which a token could have been chosen, but others came first; 0: none

    @property
    def n_pending(self) -> int:
        """Tokens not yet evaluated."""
        return len(self.tokens) - self.table.length

    def step_back(self) -> None:
        """Have the last token evaluated again, since nothing was chosen after it."""
        self.table.truncate(min(self.table.length, len(self.tokens) - 1))

    def release(self) -> None:
        """Give the blocks back; the tokens stay, so that it can be evaluated again. Guesses were for this step only."""
        self.table.release()
        self.node, self.n_known, self.draft = None, 0, []


class Sequence(Track):
    """One answer. It is in prefill while more than one token is not evaluated."""

    def __init__(self, group: Group, choice: int, tokens: list[int], chain: SamplerChain, table: BlockTable) -> None:
        from llamakit.tokenizer.stops import StopMatcher

        super().__init__(tokens, table)
        request, tokenizer = group.request, group.tokenizer
        self.group, self.choice = group, choice
        self.chain: SamplerChain = chain
        self.tokenizer: Tokenizer = tokenizer
        self.generated: list[int] = []
        self.detokenizer = tokenizer.detokenizer(group.prepared.last_shown, shown=request.shown)
        self.stops = StopMatcher(request.stop) if request.stop else None
        self.text = StringIO()  # a string for each token takes ten times as much
        self.pieces: list[Piece] = []  # kept where the answer cannot be told as it comes
        self.prompt: list[PromptToken] = []
        self.result: Result | None = None
        self.shifted = False
        self.timings: Timings = group.timings
        self.score = 0.0  # sum of log-probabilities, where answers are ranked
        self.first_time = 0.0
        self.forced = False  # whether `draft` must follow
        self.accept_rate = 0.5  # how often a guessed token was right, lately
        self._limit = group.max_tokens
        self._ends = frozenset() if request.ignore_eos else tokenizer.eog_ids

    def begin(self, now: float) -> None:
        """The first token is about to be chosen: from here on the sequence has timings of its own."""
        import msgspec

        self.timings = t = msgspec.structs.replace(self.group.timings)
        self.first_time = now
        t.first_seconds = now - self.group.submitted
        t.prompt_seconds = now - self.group.began

    def accept(self, token_id: int, details: Details | None = None) -> None:
        """Take the chosen token: tell its text, finish if it ends the generation."""
        self.generated.append(token_id)
        self.timings.n_generated += 1
        if token_id in self._ends:
            self.finish(FinishReason.END)
            return
        self.tokens.append(token_id)
        text = self.detokenizer.push(token_id)
        stopped_by = None
        if self.stops is not None:
            text, stopped_by = self.stops.push(text)
        self._tell(token_id, text, details)
        if stopped_by is not None:
            self.finish(FinishReason.STOP, stopped_by=stopped_by)
        elif len(self.generated) >= self._limit and not self._unfinished_character():
            self.finish(FinishReason.LENGTH)

    def finish(
        self, reason: FinishReason, *, stopped_by: str | None = None, error: BaseException | None = None
    ) -> None:
        """End the answer; text that was held back comes out, unless a stop string ended it."""
        if self.result is not None:
            return
        tail = ""
        try:
            if stopped_by is None:
                tail, stopped_by = self._held_back()
        except BaseException as failed:
            reason, error = FinishReason.ERROR, error or own_failure(failed, "the detokenizer or a stop rule")
        self.text.write(tail)
        if self.generated:
            self.timings.generate_seconds = self.group.now() - self.first_time
        group, scored = self.group, self.group.scored and bool(self.generated)
        self.result = Result(
            tokens=self.generated, text=self.text.getvalue(), tail=tail, reason=reason, timings=self.timings,
            choice=self.choice, stopped_by=stopped_by, error=error, prompt=tuple(self.prompt),
            score=self.score / len(self.generated) if scored else None, samplers=tuple(self.chain.names),
            adapters=group.adapters, n_context=self.table.length, pieces=tuple(self.pieces),
        )  # fmt: skip
        group.sequence_finished(self)

    def fail(self, error: BaseException, part: str) -> None:
        """End the answer since `part` of the request raised an error."""
        self.finish(FinishReason.ERROR, error=own_failure(error, part))

    def _held_back(self) -> tuple[str, str | None]:
        """What of the text was not told yet, and the stop string that ends it, if one does."""
        tail, stopped_by = self.detokenizer.flush(), None
        if self.stops is not None:
            tail, stopped_by = self.stops.push(tail)
            tail += "" if stopped_by else self.stops.flush()
        return tail, stopped_by

    def _tell(self, token_id: int, text: str, details: Details | None) -> None:
        self.text.write(text)
        if details is None:
            piece = Piece(token_id=token_id, text=text)
        else:
            logprob, top, prob, after = details
            piece = Piece(token_id=token_id, text=text, logprob=logprob, top=top, prob=prob, after=after)
        if self.group.streams:
            self.group.job.emit(Token(self.choice, piece))
        else:
            self.pieces.append(piece)

    def _unfinished_character(self) -> bool:
        return self.detokenizer.pending and len(self.generated) < self._limit + UNFINISHED_CHARACTER
