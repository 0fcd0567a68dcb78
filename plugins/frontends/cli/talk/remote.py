"""Answers from a running server, by OpenAI's chat API and LlamaKit's own routes beside it."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llamakit.plugins.frontends.cli.talk.client import Client, LostConnectionError, NetworkError, error_of
from llamakit.plugins.frontends.cli.talk.settings import Knob, knobs_of
from llamakit.plugins.frontends.cli.talk.source import Answer, Chosen, Piece, Source, Waiting

from llamakit.errors import LlamaKitError, NotFoundError, QueueFullError, UsageError
from llamakit.options import near
from llamakit.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from llamakit.plugins.frontends.cli.talk.conversation import Turn

TRIES = 5  # how often a server that is full is asked again
REASONS = {"stop": "end of text", "length": "length"}
LOST = "connection lost"


class Remote(Source):
    """Uses a server."""

    def __init__(self, client: Client, model: str | None) -> None:
        self.client = client
        self._cut = False
        known = self.models()
        if model and known and model not in known:
            raise UsageError(f"{client.url} has no model {model!r}", found=near(model, known), param="model")
        self.model = model or (known[0] if known else "")
        self._describe()

    def _describe(self) -> None:
        record = next((r for r in self._records if r.get("id") == self.model), None)
        size = _count(record, "meta.n_ctx", "n_ctx", "context_length")
        if size is None:
            size = _count(self._try("/props"), "n_ctx", "default_generation_settings.n_ctx")
        self.n_ctx = size
        self.title = f"{one_line(self.model) or 'a model'} at {self.client.place}" + (
            f", context {size:,}" if size else ""
        )

    def _try(self, path: str) -> Any:
        """What a route answers that other servers need not have; None without it."""
        try:
            return self.client.get(path)
        except LlamaKitError:
            return None

    # -- answers ------------------------------------------------------------------------------------------------

    def stream(
        self, turns: Sequence[Turn], begun: str, params: Mapping[str, Any]
    ) -> Generator[Piece | Waiting, None, Answer]:
        """Answer the turns; a server that is full is asked again when it says so."""
        self._cut = False
        body = self._body(turns, begun, params)
        for tried in range(TRIES):
            try:
                return (yield from self._answer(body))
            except QueueFullError as error:
                if tried == TRIES - 1:
                    raise
                end = time.monotonic() + error.retry_after
                while (left := end - time.monotonic()) > 0 and not self._cut:
                    yield Waiting(f"the server is full; asking again in {left:.0f} s")
                    time.sleep(min(0.1, left))
        raise AssertionError  # the last try returns or raises

    def _body(self, turns: Sequence[Turn], begun: str, params: Mapping[str, Any]) -> dict[str, Any]:
        messages = [*turns, {"role": "assistant", "content": begun}] if begun else list(turns)
        body = {
            "messages": messages, "stream": True, "stream_options": {"include_usage": True}, "return_progress": True,
        }  # fmt: skip
        if self.model:
            body["model"] = self.model
        for name, value in params.items():
            if name == "logprobs":
                if value is not None:
                    body |= {"logprobs": True, "top_logprobs": value}
            elif name == "adapters":
                if value is not None:
                    body["lora"] = [{"name": adapter, "scale": scale} for adapter, scale in value]
            elif name == "samplers":
                if value:
                    body["samplers"] = [s.strip() for s in value.split(";")] if isinstance(value, str) else list(value)
            elif name not in ("seed", "max_tokens") or (value is not None and value >= 0):
                body[name] = value
        return body

    def _answer(self, body: dict[str, Any]) -> Generator[Piece | Waiting, None, Answer]:
        answer = Answer(reason="")
        try:
            for event in self.client.events("/v1/chat/completions", body):
                if "error" in event:
                    raise error_of(event)
                yield from _told(event, answer)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise NetworkError(f"the server sent an event that is not understood: {error}") from None
        except LostConnectionError:
            if answer.n_generated == 0 and not answer.reason:
                raise
            answer.reason = answer.reason or LOST
        if not answer.reason:
            answer.reason = LOST
        return answer

    def abort(self) -> None:
        """Cut the connection: the server ends its work."""
        self._cut = True
        self.client.abort()

    # -- what there is ------------------------------------------------------------------------------------------

    def models(self) -> list[str]:
        """What `/v1/models` lists."""
        listed = self.client.get("/v1/models")
        data = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(data, list):
            raise NetworkError(f"{self.client.url}/v1/models lists no models")
        self._records = [record for record in data if isinstance(record, dict)]
        return [str(record["id"]) for record in self._records if "id" in record]

    def switch(self, name: str) -> str:
        """Ask for another model from now on."""
        known = self.models()
        if name not in known:
            raise UsageError(f"{self.client.url} has no model {name!r}", found=near(name, known))
        self.model = name
        self._describe()
        return self.title

    def knobs(self) -> dict[str, Knob]:
        """The options of the server's samplers; none where it does not tell."""
        return self._knobs

    @cached_property
    def _knobs(self) -> dict[str, Knob]:
        told = self._try("/samplers")
        samplers = told.get("samplers", []) if isinstance(told, dict) else told or []
        found: dict[str, Knob] = {}
        for sampler in samplers:
            if isinstance(sampler, dict) and isinstance(sampler.get("schema"), dict):
                with suppress(TypeError, ValueError, AttributeError):  # a schema that is none tells of no options
                    found |= knobs_of(sampler["schema"], str(sampler.get("prefix") or ""))
        return found

    def render(self, turns: Sequence[Turn], begun: str = "") -> tuple[str, list[int]] | None:
        """By `/apply-template` and `/tokenize`."""
        try:
            told = self.client.post("/apply-template", {"messages": list(turns), "model": self.model})
            text = str(told["prompt"]) + begun
            return text, self._tokenize(text, add_special=True)
        except (NotFoundError, KeyError, TypeError, ValueError):
            return None

    def count_text(self, text: str) -> int | None:
        """By `/tokenize`."""
        try:
            return len(self._tokenize(text, add_special=False))
        except (NotFoundError, KeyError, TypeError, ValueError):
            return None

    def _tokenize(self, text: str, *, add_special: bool) -> list[int]:
        body = {"content": text, "add_special": add_special, "parse_special": add_special, "model": self.model}
        return [int(token) for token in self.client.post("/tokenize", body)["tokens"]]

    def adapters(self) -> dict[str, float]:
        """What `/lora-adapters` lists."""
        told = self._try("/lora-adapters")
        records = told if isinstance(told, list) else []
        found = {}
        for record in records:
            if isinstance(record, dict):
                scale = record.get("scale")
                named = str(record.get("name") or record.get("id"))
                found[named] = float(scale) if isinstance(scale, (int, float)) else 1.0
        return found

    def add_adapter(self, file: str) -> str:
        """Not from here."""
        raise UsageError(
            f"{file} is not an adapter of the server", found=near(file, self.adapters()),
            hint="adapters are loaded where the server runs: llamakit serve --lora FILE",
        )  # fmt: skip

    def close(self) -> None:
        """Nothing stays open."""


def _told(event: dict[str, Any], answer: Answer) -> Iterator[Piece | Waiting]:
    """What one event tells; counts and reasons go into `answer`."""
    if isinstance(event.get("queue"), dict) and event["queue"].get("ahead"):
        yield Waiting(f"{event['queue']['ahead']} before this one")
    if isinstance(event.get("loading"), dict):
        yield Waiting(f"loading the model, {100 * (_number(event['loading'], 'progress') or 0):.0f}%")
    progress = event.get("prompt_progress")
    if isinstance(progress, dict):
        yield Waiting(f"read {_number(progress, 'processed') or 0:,} of {_number(progress, 'total') or 0:,} tokens")
    for choice in event.get("choices") or ():
        text = (choice.get("delta") or {}).get("content") or ""
        if not isinstance(text, str):
            raise TypeError("content is no text")
        chosen = tuple(_chosen(t) for t in (choice.get("logprobs") or {}).get("content") or ())
        if text or chosen:
            n = len(chosen) or 1
            answer.n_generated += n
            yield Piece(text, n, chosen)
        if choice.get("finish_reason"):
            answer.reason = REASONS.get(choice["finish_reason"], str(choice["finish_reason"]))
    _counts(event, answer)


def _counts(event: dict[str, Any], answer: Answer) -> None:
    usage, timings, ours = (event.get(key) or {} for key in ("usage", "timings", "llamakit"))
    if usage:
        answer.n_prompt = _counted(usage, "prompt_tokens", answer.n_prompt)
        answer.n_generated = _counted(usage, "completion_tokens", answer.n_generated)
        answer.n_cached = _counted(usage.get("prompt_tokens_details") or {}, "cached_tokens", answer.n_cached)
    if timings:
        answer.rate = _number(timings, "predicted_per_second") or answer.rate
        answer.prompt_rate = _number(timings, "prompt_per_second") or answer.prompt_rate
        answer.n_cached = _counted(timings, "cache_n", answer.n_cached)
        first = _number(timings, "prompt_ms")
        answer.first_seconds = first / 1000 if first is not None else None
    if ours:
        answer.seed = _counted(ours, "seed", answer.seed)
        answer.reason = str(ours.get("stop_reason") or answer.reason)


def _chosen(told: dict[str, Any]) -> Chosen:
    top = tuple((str(t["token"]), float(t["logprob"])) for t in told.get("top_logprobs") or ())
    return Chosen(str(told["token"]), float(told["logprob"]), top)


def _counted(record: dict[str, Any], name: str, known: int | None) -> Any:
    """A count that a server tells; what was known before where it tells none."""
    value = record.get(name)
    return value if type(value) is int and 0 <= value < 1 << 63 else known


def _count(record: Any, *paths: str) -> int | None:
    value = _number(record, *paths)
    return None if value is None else int(value)


def _number(record: Any, *paths: str) -> float | None:
    """The first number at one of the dotted paths."""
    for path in paths:
        value = record
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return value
    return None
