"""Answers of `POST /completion` as the 2023 server wrote them; keys go out in alphabetical order."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from llamakit.plugins.frontends.rest.answer import AnswerReader, Delta, Done, gather
from llamakit.plugins.frontends.rest.dialect import Writer
from llamakit.plugins.frontends.rest.fields import RANDOM_SEED
from llamakit.plugins.frontends.rest.format import extensions_of, progress_value, text_or_bytes
from llamakit.plugins.frontends.rest.likely import chosen_json, likely_json
from llamakit.plugins.frontends.rest.long_json import LongJson
from llamakit.plugins.frontends.rest.sse import event, event_pieces

from llamakit.engine.request import FinishReason
from llamakit.options import fields_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from llamakit.plugins.frontends.rest.answer import Part
    from llamakit.plugins.frontends.rest.apis.llamacpp.fields import CompletionBody

    from llamakit.engine.request import Piece, Request, Result, Timings
    from llamakit.registry import Registry
    from llamakit.session import Session
    from llamakit.tokenizer import Tokenizer

# The sampler options that `generation_settings` shows, and their names there.
SETTINGS = {
    "frequency_penalty": "frequency_penalty", "mirostat": "mirostat", "mirostat_eta": "mirostat_eta",
    "mirostat_tau": "mirostat_tau", "penalize_nl": "penalize_nl", "presence_penalty": "presence_penalty",
    "repeat_last_n": "repeat_last_n", "repeat_penalty": "repeat_penalty", "temp": "temperature", "tfs_z": "tfs_z",
    "top_k": "top_k", "top_p": "top_p", "typical_p": "typical_p",
}  # fmt: skip
SETTINGS_IN_FORCE = "generation_settings"
MORE_TIMINGS = ("cache_n", "queue_ms", "draft_n", "draft_n_accepted")  # for those who ask for progress
STOP_TYPES = {FinishReason.END: "eos", FinishReason.STOP: "word", FinishReason.LENGTH: "limit"}  # of today
# Reasons that 2023 did not know; the answer names them.
OTHER_REASONS = {
    FinishReason.DEADLINE: "deadline",
    FinishReason.CANCELLED: "cancelled",
    FinishReason.CONTEXT: "context",
    FinishReason.GRAMMAR: "grammar",
}


def encode(value: Any) -> bytes:
    """Compact JSON with alphabetical keys; infinite numbers are null."""
    return msgspec.json.encode(value, order="sorted")


def generation_settings(
    registry: Registry, n_ctx: int, model: str, fields: CompletionBody, sampling: Mapping[str, object],
    request: Request | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The settings in force for a request; of the defaults where `request` is None."""
    defaults = {f.name: f.default for sampler in registry.samplers().values() for f in fields_of(sampler.Options)}
    values = {shown: sampling.get(name, defaults.get(name)) for shown, name in SETTINGS.items()}
    bias: Any = (request.options.get("logit_bias") if request is not None else None) or []
    return values | {
        "grammar": sampling.get("grammar", ""),
        "ignore_eos": fields.ignore_eos if request is None else request.ignore_eos,
        "logit_bias": [[token, None if value is False else float(value)] for token, value in bias],
        "model": model,
        "n_ctx": n_ctx,
        "n_keep": fields.n_keep if request is None else request.keep,
        "n_predict": fields.n_predict,
        "n_probs": fields.n_probs,
        "seed": RANDOM_SEED if fields.seed < 0 else fields.seed,
        "stop": [] if request is None else list(request.stop),
        "stream": fields.stream,
    }


BEFORE, AFTER = b'data: {"content":', b',"stop":false}\n\n'
encode_text = msgspec.json.Encoder().encode


def settings_today(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with what llama.cpp has changed in them since 2023."""
    bias = [{"token": token, "bias": value} for token, value in settings["logit_bias"]]
    return settings | {"logit_bias": bias, "temperature": settings["temp"], "max_tokens": settings["n_predict"]}


def sorted_event(value: Any) -> bytes:
    """One event; no `event:` or `id:` lines, keys in alphabetical order."""
    return event(value, order="sorted")


class Answers(Writer):
    """Writes the answers to one request.

    In a stream without extras an event is the text between two fixed parts: nothing else is made for a token.
    """

    order = "sorted"

    def __init__(
        self,
        session: Session,
        model: str,
        fields: CompletionBody,
        requests: list[Request],
        settings: dict[str, Any],
        n_dropped: int = 0,
        ignored: tuple[str, ...] = (),
        *,
        newer: bool = False,
        probs_today: bool = False,
    ) -> None:
        self.tokenizer: Tokenizer = session.tokenizer
        self.model, self.fields, self.requests, self.settings = model, fields, requests, settings
        # JSON of what all answers repeat, by what it is: settings may have 65,000 biases, prompts as many tokens.
        self._repeated: dict[str, LongJson] = {}
        self.readers = [AnswerReader(None, request.n) for request in requests]
        self.several, self.n_dropped = len(requests) > 1 or requests[0].n > 1, n_dropped
        self.ignored, self.newer, self.probs_today = ignored, newer, probs_today
        self._plain = not (self.several or fields.n_probs or fields.return_tokens or fields.timings_per_token)
        n_answer = sum(request.n for request in requests)
        # Of each answer, for its last event. As JSON: objects take more, and memory between them is not given back.
        self._probs = [bytearray() for _ in range(n_answer)]
        self._told = [0] * n_answer  # tokens of each answer
        self._began = 0.0

    def whole(self, parts: list[list[Part]]) -> Any:
        """The answer to wait for; a list of them where `n` asks for several, or several prompts."""
        found = [
            self.last(number, each.result, each.result.text, LongJson.array(self._encoded(each.pieces)))
            for number, some in enumerate(parts)
            for each in gather(some)
        ]
        return found if self.several else found[0]

    def event_blocks(self, number: int, part: Part) -> Iterator[bytes | bytearray]:
        """What a part tells; the end tells all probabilities again."""
        if isinstance(part, Done):
            probs = LongJson([b"[", self._probs[self._index(number, part.choice)], b"]"])
            yield from event_pieces(self.last(number, part.result, "", probs), "sorted")
        else:
            yield self.event(number, part)

    def event(self, number: int, part: Part) -> bytes:
        """A piece of text, or the end with all fields."""
        if isinstance(part, Delta):
            if self._plain:
                return BEFORE + encode_text(part.content) + AFTER if part.content else b""
            index = self._index(number, part.choice)
            self._told[index] += len(part.pieces)
            probs = b",".join(self._encoded(part.pieces))
            self._keep(probs, index)
            return sorted_event(self.part(part.content, part.pieces, probs, index)) if part.content else b""
        if isinstance(part, Done):
            return b"".join(self.event_blocks(number, part))
        return sorted_event(progress_value(part)) if self.fields.return_progress else b""

    def _keep(self, probs: bytes, index: int) -> None:
        """Keep probabilities that were told for the end."""
        kept = self._probs[index]
        self.hold(len(probs))
        if probs:
            kept += b"," + probs if kept else probs

    def _index(self, number: int, choice: int) -> int:
        """The place of an answer among all."""
        return sum(request.n for request in self.requests[:number]) + choice

    def _times(self, index: int) -> dict[str, float | int]:
        """Times of an answer on its way, by the clock of who reads it."""
        now = time.perf_counter()
        self._began = self._began or now
        n, ms = self._told[index], (now - self._began) * 1e3
        return {"predicted_ms": ms, "predicted_n": n, "predicted_per_second": _rate(n, ms)}

    def part(self, text: str, pieces: Sequence[Piece], probs: bytes, index: int) -> dict[str, Any]:
        """An event in the middle of a stream: text, and the tokens it is made of where they are asked for."""
        value: dict[str, Any] = {"content": text, "stop": False}
        if self.fields.timings_per_token:
            value["timings"] = self._times(index)
        value |= self._extras(msgspec.Raw(b"[%b]" % probs), index)
        if self.fields.return_tokens:
            value["tokens"] = [piece.token_id for piece in pieces]
        return value

    def last(self, number: int, result: Result, text: str, probs: LongJson) -> dict[str, Any]:
        """The whole answer, or with an empty `text` the last event of a stream."""
        reason, timings, request = result.reason, result.timings, self.requests[number]
        value: dict[str, Any] = {
            "content": text,
            SETTINGS_IN_FORCE: self._once(SETTINGS_IN_FORCE, lambda: self.settings),
            "model": self.model,
            "prompt": self._once(f"prompt {number}", lambda: self._prompt(number)),
            "stop": True,
            "stopped_eos": reason is FinishReason.END,
            "stopped_limit": reason in (FinishReason.LENGTH, FinishReason.CONTEXT, FinishReason.DEADLINE),
            "stopped_word": reason is FinishReason.STOP,
            "stopping_word": (result.stopped_by or "") if reason is FinishReason.STOP else "",
            "timings": timings_of(timings, newer=self.newer),
            "tokens_cached": result.n_context,
            "tokens_evaluated": len(request.prompt),
            "tokens_predicted": timings.n_generated,
            "truncated": timings.n_truncated + timings.n_shifted + self.n_dropped > 0,
        }
        if reason in OTHER_REASONS:
            value["stop_type"] = OTHER_REASONS[reason]
        if self.newer:
            value = {
                "stop_type": STOP_TYPES.get(reason, "none"), "has_new_line": "\n" in result.text, "tokens": [],
                "id_slot": self.slots[number] if self.slots else -1, **value,
            }  # fmt: skip
            value["timings"]["cache_n"] = timings.n_cached
        value |= self._extras(probs, self._index(number, result.choice))
        if self.fields.return_progress and self.fields.stream:
            details = extensions_of(request, result, self.ignored)
            value["llamakit"] = details["llamakit"]
            value["timings"] |= {name: details["timings"][name] for name in MORE_TIMINGS}
        if self.fields.return_tokens:
            value["tokens"] = result.tokens
        if not self.fields.response_fields:
            return value
        chosen = chosen_fields(value | {SETTINGS_IN_FORCE: self.settings}, self.fields.response_fields)
        return {
            path: self._once(path, partial(chosen.get, path)) if path.startswith(SETTINGS_IN_FORCE) else part
            for path, part in chosen.items()
        }

    def _once(self, what: str, make: Callable[[], Any]) -> LongJson:
        """The JSON of a value, which is made once."""
        found = self._repeated.get(what)
        if found is None:
            found = self._repeated[what] = LongJson([encode(make())])
        return found

    def _prompt(self, number: int) -> Any:
        """The prompt as it was given, as in 2023; today, the text of its tokens."""
        if self.newer:
            pieces = [self.tokenizer.piece(token, special=True) for token in self.requests[number].prompt]
            return b"".join(pieces).decode("utf-8", "replace")
        given = self.fields.prompt
        return given[number] if len(self.requests) > 1 and isinstance(given, list) else given

    def _extras(self, probs: msgspec.Raw | LongJson, index: int) -> dict[str, Any]:
        """What only some requests ask for."""
        extras: dict[str, Any] = {"index": index} if self.several else {}
        if self.fields.n_probs:
            extras["completion_probabilities"] = probs
        return extras

    def _encoded(self, pieces: Sequence[Piece]) -> list[bytes]:
        """The probabilities of each token as JSON, where they are asked for."""
        if not self.fields.n_probs:
            return []
        make = self._after if self.fields.post_sampling_probs else self._before
        if self.probs_today and self.fields.post_sampling_probs:
            make = self._after_today
        return [make(piece) for piece in pieces]

    def _after(self, piece: Piece) -> bytes:
        """A token and the likeliest that the samplers left, as in 2023."""
        text = encode_text(token_text(self.tokenizer, piece.token_id))
        likely = likely_json(self.tokenizer, drawn_2023, piece.after, order="sorted")
        return b'{"content":%b,"probs":[%b]}' % (text, likely)

    def _after_today(self, piece: Piece) -> bytes:
        """The same as llama.cpp has it now, where a request asks for it by name."""
        likely = piece.after.positive
        return chosen_json(self.tokenizer, drawn, piece.token_id, piece.prob, "top_probs", likely, order="sorted")

    def _before(self, piece: Piece) -> bytes:
        """A token and the likeliest of the model, with the logarithms of their probabilities, as llama.cpp does now."""
        token, logprob = piece.token_id, piece.logprob
        return chosen_json(self.tokenizer, scored, token, logprob, "top_logprobs", piece.top, order="sorted")


def drawn_2023(tokenizer: Tokenizer, token: int, prob: float) -> dict[str, Any]:
    """A token and its probability, as in 2023."""
    return {"prob": prob, "tok_str": token_text(tokenizer, token)}


def drawn(tokenizer: Tokenizer, token: int, prob: float) -> dict[str, Any]:
    """A token and its probability, as llama.cpp has it now."""
    return _token(tokenizer, token) | {"prob": prob}


def scored(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    """A token and the logarithm of its probability, as llama.cpp has it now."""
    return _token(tokenizer, token) | {"logprob": logprob}


def _token(tokenizer: Tokenizer, token: int) -> dict[str, Any]:
    data = tokenizer.piece(token, special=False)
    return {"id": token, "token": data.decode("utf-8", "replace"), "bytes": list(data)}


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token's text; one that is not a whole character is shown by its bytes."""
    return text_or_bytes(tokenizer.piece(token, special=False), "byte: ")


def timings_of(timings: Timings, *, newer: bool = False) -> dict[str, float | int]:
    """Counts are at least 1; a rate over no time at all is infinite, which JSON shows as null. In 2023 the first token
    did not count: it comes from the prompt's evaluation."""
    prompt_n = max(1, timings.n_prompt - timings.n_truncated - timings.n_cached)
    predicted_n = max(1, timings.n_generated - (not newer))
    prompt_ms, predicted_ms = timings.prompt_seconds * 1e3, timings.generate_seconds * 1e3
    return {
        "predicted_ms": predicted_ms,
        "predicted_n": predicted_n,
        "predicted_per_second": _rate(predicted_n, predicted_ms),
        "predicted_per_token_ms": predicted_ms / predicted_n,
        "prompt_ms": prompt_ms,
        "prompt_n": prompt_n,
        "prompt_per_second": _rate(prompt_n, prompt_ms),
        "prompt_per_token_ms": prompt_ms / prompt_n,
    }


def chosen_fields(value: dict[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """Only the named fields; "a/b" takes b out of a, under that name. What is not there is left out."""
    found: dict[str, Any] = {}
    for path in paths:
        part: Any = value
        for name in path.split("/"):
            part = part.get(name, found) if isinstance(part, dict) else found
        if part is not found:
            found[path] = part
    return found


def _rate(n: int, ms: float) -> float:
    return n / ms * 1e3 if ms > 0 else math.inf
