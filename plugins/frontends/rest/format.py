"""The parts of answers that several APIs have in common: ids, log-probabilities, and what goes beyond them."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import msgspec
from llamakit.plugins.frontends.rest.body import few
from llamakit.plugins.frontends.rest.likely import chosen_json

from llamakit.engine.job import Queued
from llamakit.engine.request import FinishReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llamakit.chat.tools import ToolCall
    from llamakit.engine.job import PromptProgress
    from llamakit.engine.request import Piece, Request, Result
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


def finish_reason(result: Result, *, called: bool = False) -> str:
    """OpenAI's word for why an answer ended."""
    if called:
        return "tool_calls"
    return "length" if result.reason in LENGTH else "stop"


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
            "prompt_per_second": _rate(t.n_prompt - t.n_truncated - t.n_cached, t.prompt_seconds),
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
            "ignored": few(ignored),
        },
    }


def _rate(n: int, seconds: float) -> float | None:
    return n / seconds if seconds > 0 else None


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token's text; one that is not a whole character is shown by its bytes, as OpenAI does."""
    return text_or_bytes(tokenizer.piece(token, special=True), "bytes:")


def text_or_bytes(data: bytes, mark: str) -> str:
    """The text of a token's bytes; if they are not whole characters, the bytes after a mark."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return mark + "".join(f"\\x{byte:02x}" for byte in data)


def chat_logprobs(tokenizer: Tokenizer, pieces: Iterable[Piece]) -> list[bytes]:
    """The `logprobs` of a chat, of each token with the likeliest in its place.

    Each is JSON at once: as objects, those of a whole answer take much memory, and long to become text together.
    """
    return [
        chosen_json(tokenizer, _chat_token, piece.token_id, piece.logprob, "top_logprobs", piece.top)
        for piece in pieces
    ]


def _chat_token(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    data = tokenizer.piece(token, special=True)
    return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data), "id": token}


def objects_of(calls: Iterable[ToolCall]) -> list[tuple[ToolCall, dict[str, Any]]]:
    """Calls with their arguments as objects; without those that the end of the answer cut, or that are not objects."""
    found = []
    for call in calls:
        try:
            value = msgspec.json.decode(call.arguments or "{}")
        except (msgspec.DecodeError, RecursionError):
            continue
        if isinstance(value, dict) and not call.cut:
            found.append((call, value))
    return found


def progress_value(part: Queued | PromptProgress) -> dict[str, Any]:
    """How many requests are before this one, or how much of the prompt is evaluated."""
    if isinstance(part, Queued):
        return {"queue": {"ahead": part.ahead}}
    ms = round(part.seconds * 1e3)
    progress = {"total": part.total, "cached": part.cached, "processed": part.processed, "ms": ms}
    progress |= {"cache": part.cached, "time_ms": ms}  # as llama.cpp calls them
    return {"prompt_progress": progress}
