"""Answers from a model in this process."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from llamakit.plugins.frontends.cli.talk.command import path_of
from llamakit.plugins.frontends.cli.talk.settings import Knob, knobs_of
from llamakit.plugins.frontends.cli.talk.source import Answer, Chosen, Piece, Source, Waiting

from llamakit.errors import LlamaKitError
from llamakit.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from llamakit.plugins.frontends.cli.params import Context
    from llamakit.plugins.frontends.cli.talk.conversation import Turn

    from llamakit import Session
    from llamakit.engine.job import Job
    from llamakit.engine.request import Piece as EnginePiece
    from llamakit.engine.request import Result


class Local(Source):
    """Uses a `Session`."""

    def __init__(self, context: Context, lora: tuple[str, ...] = ()) -> None:
        self.context, self.lora = context, lora  # files of adapters
        self._job: Job | None = None
        self._open()

    def _open(self) -> None:
        more = {"lora": [(file, 1.0) for file in self.lora]} if self.lora else {}
        self.session: Session = self.context.session(**more)
        name = self.session.file.metadata.get("general.name")
        self.model = one_line(name if isinstance(name, str) and name else self.session.path.stem)
        self.n_ctx = self.session.n_ctx
        self.title = f"{self.model} on {self.session.backend[0].name}, context {self.n_ctx:,}"

    def stream(
        self, turns: Sequence[Turn], begun: str, params: Mapping[str, Any]
    ) -> Generator[Piece | Waiting, None, Answer]:
        """Answer the turns."""
        values = dict(params)
        seed = values.pop("seed", -1)
        seed = secrets.randbits(32) if seed is None or seed < 0 else seed
        values["samplers"] = _names(values.get("samplers"))
        if self.session.adapters is None:
            values.pop("adapters", None)
        tokens = self.render(turns, begun)[1]
        request = self.session.request(tokens, **values, seed=seed, shift=False, progress=True)
        result = yield from self._told(self.session.service.submit(request))
        return _answer(result, seed)

    def _told(self, job: Job) -> Generator[Piece | Waiting, None, Result]:
        from llamakit.engine.job import Finished, PromptProgress, Token, raise_error

        self._job, result = job, None
        try:
            for event in job:
                if isinstance(event, Token):
                    yield Piece(event.piece.text, 1, self._chosen(event.piece))
                elif isinstance(event, PromptProgress):
                    yield Waiting(f"read {event.processed:,} of {event.total:,} tokens")
                elif isinstance(event, Finished):
                    result = event.result
        finally:
            job.cancel()
        assert result is not None  # the last event of every job
        raise_error(result)
        if result.tail:
            yield Piece(result.tail, 0)
        return result

    def abort(self) -> None:
        """Cancel the answer: the engine sees it before its next step, also while it reads a prompt."""
        if self._job is not None:
            self._job.cancel()

    def _chosen(self, piece: EnginePiece) -> tuple[Chosen, ...]:
        if piece.logprob is None:
            return ()
        top = tuple((self._text(token), logprob) for token, logprob in piece.top)
        return (Chosen(self._text(piece.token_id), piece.logprob, top),)

    def _text(self, token_id: int) -> str:
        return self.session.tokenizer.piece(token_id).decode("utf-8", "replace")

    def render(self, turns: Sequence[Turn], begun: str = "") -> tuple[str, list[int]]:
        """The text that the chat template makes, and its tokens."""
        from llamakit.chat.fit import fitted
        from llamakit.chat.profile import profile
        from llamakit.chat.tools import FORMATS

        template = self.session.chat_template
        messages, _ = fitted([dict(turn) for turn in turns], None, profile(template, FORMATS))
        text = template.render(messages, add_generation_prompt=True) + begun
        return text, self.session.tokenize(text, add_bos=not template.writes_bos, parse_special=True)

    def count_text(self, text: str) -> int:
        """How many tokens a text takes."""
        return len(self.session.tokenize(text))

    def knobs(self) -> dict[str, Knob]:
        """The options of every sampler that is installed; those of other packages with the sampler's name."""
        from llamakit.options import json_schema

        registry = self.context.registry
        found: dict[str, Knob] = {}
        for name, sampler in registry.samplers().items():
            prefix = f"{name}." if f"sampler.{name}" in registry.third_party else ""
            found |= knobs_of(json_schema(sampler.Options), prefix)
        return found

    def models(self) -> list[str]:
        """Any file."""
        return []

    def switch(self, name: str) -> str:
        """Open another file in place of the model."""
        from llamakit.gguf import open_gguf
        from llamakit.models import load_model

        path = path_of(name)
        with open_gguf(path) as file:  # a file that is not a model is refused before anything is closed
            load_model(file)
        self._reopen(str(path), lora=())
        return self.title

    def _reopen(self, model: str | None = None, lora: tuple[str, ...] = ()) -> None:
        """Close the session and open another; where that is not possible, the old one again."""
        config = self.context.config
        before = config["model"], self.lora
        self.session.close()
        try:
            config.set("model", model or before[0], "/model")
            self.lora = lora
            self._open()
        except LlamaKitError:
            config.set("model", before[0], "/model")
            self.lora = before[1]
            self._open()
            raise

    def adapters(self) -> dict[str, float]:
        """The adapters that are loaded."""
        store = self.session.adapters
        return {} if store is None else {info.name: info.scale for info in store.infos()}

    def add_adapter(self, file: str) -> str:
        """Load an adapter; a session that was opened without room for any is opened again."""
        if self.session.adapters is not None:
            return self.session.load_adapter(file).name
        self._reopen(lora=(file,))
        return list(self.adapters())[-1]

    def close(self) -> None:
        """Close the session."""
        self.session.close()


def _names(value: object) -> tuple[str, ...] | None:
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(";") if name.strip()) or None
    return tuple(value) if isinstance(value, (tuple, list)) else None


def _answer(result: Result, seed: int) -> Answer:
    t = result.timings
    evaluated = t.n_prompt - t.n_cached
    return Answer(
        reason=str(result.reason) + (f" {result.stopped_by!r}" if result.stopped_by else ""), seed=seed,
        n_prompt=t.n_prompt, n_cached=t.n_cached, n_generated=t.n_generated,
        rate=(t.n_generated - 1) / t.generate_seconds if t.n_generated > 1 and t.generate_seconds else None,
        prompt_rate=evaluated / t.prompt_seconds if t.prompt_seconds else None, first_seconds=t.first_seconds,
    )  # fmt: skip
