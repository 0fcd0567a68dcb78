"""What a frontend is: a plugin that contributes commands to the `llamakit` command line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from llamakit.options import Options

if TYPE_CHECKING:
    from collections.abc import Iterable

    import click


class Frontend(ABC):
    """A group of commands. `Options` becomes a section of the config file named after the frontend."""

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    Options: ClassVar[type[Options]] = Options

    @abstractmethod
    def commands(self) -> Iterable[click.Command]:
        """The commands, made without loading a model; each opens its `Session` when it runs."""
