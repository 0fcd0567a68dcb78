"""The parts of OpenAI's answers: ids, counts, log-probabilities, and what LlamaKit tells beyond them."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from llamakit.engine.request import FinishReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llamakit.plugins.frontends.rest.answer import Done

    from llamakit.engine.request import Piece, PromptToken, Request, Result, TokenLogprob
    from llamakit.session import Session
    from llamakit.tokenizer import Tokenizer

LENGTH = (FinishReason.LENGTH, FinishReason.CONTEXT, FinishReason.DEADLINE)
STOP_REASONS = {
    FinishReason.END: "end", FinishReason.STOP: "stop", FinishReason.LENGTH: "length", FinishReason.CONTEXT: "context",
    FinishReason.GRAMMAR: "grammar", FinishReason.DEADLINE: "deadline",
    FinishReason.CANCELLED: "cancelled", FinishReason.ERROR: "error",
}  # fmt: skip


def new_id(prefix: str) -> str:
    """A random id."""
    return prefix + secrets.token_hex(12)


def fingerprint(session: Session, version: str) -> str:
    """What an answer with a seed depends on: program, backend and kind of KV cache."""
    return f"llamakit-{version}-{session.backend[0].name}-{session.settings.kv_type}"


def finish_reason(result: Result, *, called: bool = False) -> str:
    """OpenAI's word for why an answer ended."""
    if called:
        return "tool_calls"
    return "length" if result.reason in LENGTH else "stop"


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


def extensions_of(request: Request, result: Result, ignored: Sequence[str]) -> dict[str, Any]:
    """`timings` and `llamakit`, which go with the last of an answer."""
    t = result.timings
    ms = t.generate_seconds * 1e3
    n = max(t.n_generated - 1, 0)  # the first token comes with the prompt's evaluation
    return {
        "timings": {
            "prompt_n": t.n_prompt - t.n_truncated - t.n_cached,
            "cache_n": t.n_cached,
            "prompt_ms": t.prompt_seconds * 1e3,
            "predicted_n": t.n_generated,
            "predicted_ms": ms,
            "predicted_per_second": n / ms * 1e3 if ms > 0 else None,
            "queue_ms": t.queue_seconds * 1e3,
            "draft_n": t.n_drafted,
            "draft_n_accepted": t.n_accepted,
        },
        "llamakit": {
            "seed": request.seed,
            "stop_reason": STOP_REASONS[result.reason],
            "samplers": list(result.samplers),
            "adapters": [{"name": name, "scale": scale} for name, scale in result.adapters],
            "ignored": list(ignored),
        },
    }


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token's text; one that is no whole character is shown by its bytes, as OpenAI does."""
    data = tokenizer.piece(token, special=True)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def chat_logprobs(tokenizer: Tokenizer, pieces: Iterable[Piece]) -> dict[str, Any]:
    """`logprobs` of a chat: each token and the likeliest in its place."""
    content = [
        _chat_token(tokenizer, piece.token_id, piece.logprob) | {"top_logprobs": _top(tokenizer, piece.top)}
        for piece in pieces
    ]
    return {"content": content, "refusal": None}


def _top(tokenizer: Tokenizer, top: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    return [_chat_token(tokenizer, each.token_id, each.logprob) for each in top]


def _chat_token(tokenizer: Tokenizer, token: int, logprob: float | None) -> dict[str, Any]:
    data = tokenizer.piece(token, special=True)
    return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data), "id": token}


class TextLogprobs:
    """`logprobs` of completions: four lists of the same length, and where each token begins in the text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.offset = tokenizer, 0

    def of(self, tokens: Sequence[Piece | PromptToken], text: str) -> dict[str, Any]:
        """The lists for the tokens of some more text."""
        found: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        at, end = self.offset, self.offset + len(text)
        if tokens and not text.startswith(" ") and self.tokenizer.piece(tokens[0].token_id).startswith(b" "):
            at -= 1  # the space that vocabularies put before a text is not in it
        for token in tokens:
            word = token_text(self.tokenizer, token.token_id)
            found["tokens"].append(word)
            found["token_logprobs"].append(token.logprob)
            found["top_logprobs"].append(self._top(word, token))
            found["text_offset"].append(min(max(at, self.offset), end))
            at += len(self.tokenizer.piece(token.token_id).decode("utf-8", "ignore"))
        self.offset = end
        return found

    def _top(self, word: str, token: Piece | PromptToken) -> dict[str, float] | None:
        """The likeliest by their texts; of two with the same text the likelier counts."""
        if token.logprob is None:
            return None
        top: dict[str, float] = {}
        for each in token.top:
            top.setdefault(token_text(self.tokenizer, each.token_id), each.logprob)
        top.setdefault(word, token.logprob)
        return top
