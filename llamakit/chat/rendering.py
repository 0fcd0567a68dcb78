"""Compiling and rendering one Jinja template in the sandbox. `template.ChatTemplate` decides in which process.

Everything that is wrong with a template, or that it raises, comes as a `Refusal` with a text for people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from llamakit.chat.sandbox import TemplateSandbox, bound

TODAY = "llamakit_today"


class Refusal(Exception):  # noqa: N818 - it becomes a ModelFileError
    """What a template is, or does, wrong."""


class Rendering:
    """A compiled template."""

    def __init__(self, source: str) -> None:
        environment = self._sandbox = TemplateSandbox()
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
        try:
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise Refusal(f"the model's chat template has an error in line {error.lineno}: {error.message}") from None
        except (RecursionError, MemoryError):
            raise Refusal("the model's chat template cannot be compiled: it nests too deeply") from None
        except Exception as error:
            raise Refusal(f"the model's chat template cannot be compiled: {error}") from None

    def render(self, values: Mapping[str, Any]) -> str:
        """The text for these names. TODAY among them is the day that `strftime_now` tells, in ISO's form."""
        parts, length = [], 0
        values = {**values, "messages": deepcopy(values.get("messages"))}  # templates may change lists
        if isinstance(values.get("functions"), list):
            values["functions"] = _Functions(values["functions"])
        self._sandbox.start()
        try:
            if TODAY in values:
                values = {**values, "strftime_now": datetime.fromisoformat(values[TODAY]).strftime}
            for part in self._template.generate(values):
                parts.append(part)
                length += len(part)
                bound(length)
            return "".join(parts)
        except Exception as error:
            why = "it takes too much memory" if isinstance(error, MemoryError) else str(error) or type(error).__name__
            raise Refusal(f"the model's chat template refuses these messages: {why}") from None


class _Functions(list[Any]):
    """The functions, which some templates walk and others write as a text: their JSON, "" where there are none."""

    def __str__(self) -> str:
        return _to_json(list(self), indent=2) if self else ""

    def __add__(self, other: Any) -> Any:
        return str(self) + other if isinstance(other, str) else super().__add__(other)

    def __radd__(self, other: Any) -> Any:
        return other + str(self)


def _to_json(value: Any, indent: int | None = None, separators: Any = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)


def _raise(message: str) -> str:
    raise TemplateError(message)
