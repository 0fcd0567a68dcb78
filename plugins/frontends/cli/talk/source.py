"""Where answers come from: a model in this process, or a server. Both look the same to the rest of the chat."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from llamakit.plugins.frontends.cli.talk.conversation import Turn
    from llamakit.plugins.frontends.cli.talk.settings import Knob


class Chosen(msgspec.Struct, frozen=True):
    """A token of an answer with its log-probability, and those that could have been: (text, log-probability)."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class Piece(msgspec.Struct, frozen=True):
    """More text of an answer; `n` tokens of it."""

    text: str
    n: int = 1
    chosen: tuple[Chosen, ...] = ()


class Waiting(msgspec.Struct, frozen=True):
    """What an answer that has not begun waits for, such as "2 answers before this one"."""

    text: str


class Answer(msgspec.Struct, kw_only=True):
    """How an answer ended. Counts are tokens, rates tokens per second; None is not known."""

    reason: str  # "end of text", "length", "context full", "stop string", "stopped", "connection lost", ...
    seed: int | None = None
    n_prompt: int | None = None
    n_cached: int | None = None
    n_generated: int = 0
    rate: float | None = None
    prompt_rate: float | None = None
    first_seconds: float | None = None

    @property
    def n_context(self) -> int | None:
        """Tokens in the context afterwards."""
        return None if self.n_prompt is None else self.n_prompt + self.n_generated


class Source(ABC):
    """Gives answers. Only `stream` runs on another thread than the rest."""

    title = ""  # for the first line
    model = ""  # the name of the model
    n_ctx: int | None = None

    @abstractmethod
    def stream(
        self, turns: Sequence[Turn], begun: str, params: Mapping[str, Any]
    ) -> Generator[Piece | Waiting, None, Answer]:
        """Answer the turns; `begun` is the text of an answer to go on with. Closing it ends the work."""

    def abort(self) -> None:
        """Wake up a `stream` that waits for something, so that it can be closed. From any thread."""
        return

    @abstractmethod
    def knobs(self) -> dict[str, Knob]:
        """The sampler options there are, by the names they are set with."""

    @abstractmethod
    def render(self, turns: Sequence[Turn], begun: str = "") -> tuple[str, list[int]] | None:
        """The exact text and tokens that a model is given; None where that cannot be known."""

    def count(self, turns: Sequence[Turn]) -> int | None:
        """How many tokens these turns take."""
        rendered = self.render(turns)
        return None if rendered is None else len(rendered[1])

    @abstractmethod
    def count_text(self, text: str) -> int | None:
        """How many tokens a text takes."""

    @abstractmethod
    def models(self) -> list[str]:
        """Names of the models to choose from; empty where any file can be."""

    @abstractmethod
    def switch(self, name: str) -> str:
        """Use another model; returns a line that says which. The old one stays if that is not possible."""

    @abstractmethod
    def adapters(self) -> dict[str, float]:
        """The LoRA adapters that can be used, and the scales that they have where none are chosen."""

    @abstractmethod
    def add_adapter(self, file: str) -> str:
        """Load an adapter from a file; returns its name."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back."""
