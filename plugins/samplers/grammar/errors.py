"""The one error of all grammars: what is wrong, and where."""

from __future__ import annotations

from llamakit.errors import UsageError

WIDTH = 72  # of an excerpt


class GrammarError(UsageError):
    """A grammar, schema or pattern that cannot be used.

    `line` and `column` count from 1 (0: unknown), `pointer` is a JSON pointer into a schema, `keyword` is at fault.
    """

    code = "wrong_grammar"

    def __init__(
        self, message: str, *, line: int = 0, column: int = 0, pointer: str = "", keyword: str = "",
        found: str = "", hint: str = "", param: str = "",
    ) -> None:  # fmt: skip
        super().__init__(message, found=found, hint=hint, param=param)
        self.line, self.column, self.pointer, self.keyword = line, column, pointer, keyword

    def record(self) -> dict[str, str]:
        """The error for programs, with its place."""
        place = {"line": self.line, "column": self.column, "pointer": self.pointer, "keyword": self.keyword}
        return super().record() | {name: str(value) for name, value in place.items() if value}


def at(text: str, position: int, message: str, *, hint: str = "", kind: str = "grammar") -> GrammarError:
    """An error at a position (in characters) of a text, with the line and a caret below it."""
    position = min(max(position, 0), len(text))
    start = max(text.rfind("\n", 0, position), text.rfind("\r", 0, position)) + 1
    line = text.count("\n", 0, position) + 1
    column = position - start + 1
    where = (
        f"{kind}, line {line}, column {column}: {message}" if "\n" in text else f"{kind}, column {column}: {message}"
    )
    return GrammarError(where, line=line, column=column, found=excerpt(text, start, position), hint=hint)


def excerpt(text: str, start: int, position: int) -> str:
    """The part of a line around a position, and a caret under the position."""
    ends = [end for end in (text.find("\n", position), text.find("\r", position)) if end >= 0]
    line = text[start : min([*ends, position + WIDTH])]
    skip = max(0, position - start - WIDTH // 2)
    shown = line[skip : skip + WIDTH].translate(_SHOWN)
    return ("..." if skip else "") + shown + "\n" + " " * (position - start - skip + (3 if skip else 0)) + "^"


_SHOWN = {code: " " if code == 9 else 0xFFFD for code in (*range(32), *range(0x7F, 0xA0), *range(0xD800, 0xE000))}
