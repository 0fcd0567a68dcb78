"""The parts of OpenAI's answers: ids, counts, log-probabilities, and what LlamaKit tells beyond them."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any

import msgspec
from llamakit.plugins.frontends.rest.format import token_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llamakit.plugins.frontends.rest.answer import Done

    from llamakit.engine.request import Piece, PromptToken
    from llamakit.session import Session
    from llamakit.tokenizer import Tokenizer


def fingerprint(session: Session, version: str) -> str:
    """What an answer with a seed depends on: program, backend and kind of KV cache."""
    return f"llamakit-{version}-{session.backend[0].name}-{session.settings.kv_type}"


def usage_of(n_prompt: int, done: Iterable[Done]) -> dict[str, Any]:
    """Counts of tokens: the prompt's once, the answers' together."""
    ends = list(done)
    completion = sum(end.result.timings.n_generated for end in ends)
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": completion,
        "total_tokens": n_prompt + completion,
        "prompt_tokens_details": {"cached_tokens": max((end.result.timings.n_cached for end in ends), default=0)},
        "completion_tokens_details": {"reasoning_tokens": sum(end.n_reasoning for end in ends)},
    }


class TextLogprobs:
    """`logprobs` of completions: four lists of the same length, and where each token begins in the text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at, self._begun, self._length = 0, False, 0

    def of(self, tokens: Sequence[Piece | PromptToken], text: str) -> dict[str, Any]:
        """The lists for the tokens of some more text. Parts of one character have the place where it begins."""
        found: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        self._length += len(text)
        if tokens and not self._begun:
            self._begun = True
            if not text.startswith(" ") and self.tokenizer.piece(tokens[0].token_id).startswith(b" "):
                self._at = -1  # the space that vocabularies put before a text is not in it
        for token in tokens:
            word = token_text(self.tokenizer, token.token_id)
            found["tokens"].append(word)
            found["token_logprobs"].append(token.logprob)
            found["top_logprobs"].append(self._top(word, token))
            found["text_offset"].append(min(max(self._at, 0), self._length))
            self._at += len(self._decoder.decode(self.tokenizer.piece(token.token_id)))
        return found

    def _top(self, word: str, token: Piece | PromptToken) -> msgspec.Raw | None:
        """The likeliest by their texts, as JSON at once; of two with the same text the likelier counts."""
        if token.logprob is None:
            return None
        top: dict[str, float] = {}
        for token_id, logprob in token.top:
            top.setdefault(token_text(self.tokenizer, token_id), logprob)
        top.setdefault(word, token.logprob)
        return msgspec.Raw(msgspec.json.encode(top))
