"""Markdown for a terminal: text is cut into blocks as it comes, and each block is rendered when it is complete."""

from __future__ import annotations

import re
import time
from functools import cache
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})([^`]*)$")
HEADING = re.compile(r" {0,3}#{1,6}(\s|$)")
LIST_ITEM = re.compile(r"\s*([-*+]|\d{1,9}[.)])\s")
RULE = re.compile(r" {0,3}([-*_])[ \t]*(\1[ \t]*){2,}$")
TRAILING = re.compile(r" +((?:\x1b\[[0-9;]*m)*)$", re.MULTILINE)
CODES = re.compile(r"\x1b\[[0-9;]*m")
LONGEST = 1 << 14  # characters of a block that is rendered: more than a screen has, and nothing takes long
COLOUR_SECONDS = 0.5  # of this thread, for a block of code: some languages' lexers take time by its square
STYLES = {
    "markdown.code": "cyan", "markdown.block_quote": "dim", "markdown.item.bullet": "bold",
    "markdown.item.number": "bold",
    "markdown.h1": "bold underline", "markdown.h2": "bold", "markdown.h3": "bold", "markdown.h4": "bold",
    "markdown.h5": "bold", "markdown.h6": "bold", "markdown.link": "underline", "markdown.link_url": "dim",
    "markdown.hr": "dim", "markdown.table.border": "dim", "markdown.table.header": "bold",
}  # fmt: skip


class Blocks:
    """Cuts Markdown into blocks. `feed` takes complete lines; what it returns never changes again."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._fence = ""  # the characters that opened a block of code

    def feed(self, line: str) -> list[str]:
        """Take a line (without its newline); returns the blocks that it completes; an empty line is one."""
        if self._fence:
            self._lines.append(line)
            bare = line.strip()
            closes = bare.startswith(self._fence) and not bare.strip(self._fence[0])
            return self.flush() if closes else []
        fence = FENCE.match(line)
        if fence:
            done = self.flush()
            self._fence, self._lines = fence[1], [line]
            return done
        if not line.strip():
            return [*self.flush(), line]
        if HEADING.match(line) or (not self._lines and RULE.match(line)):
            return [*self.flush(), line]
        self._lines.append(line)
        return []

    def flush(self) -> list[str]:
        """End the block that is open."""
        block, self._lines, self._fence = self._lines, [], ""
        return ["\n".join(block)] if block else []

    @property
    def in_code(self) -> bool:
        """Whether the block that is open is one of code."""
        return bool(self._fence)

    @property
    def open(self) -> str:
        """The complete lines of the block that is not complete."""
        return "".join(f"{line}\n" for line in self._lines)


def render(block: str, width: int, *, in_list: bool = False) -> str:
    """A block with codes for colour, without a newline at its end. `in_list`: it may be indented under an item."""
    if not block.strip():
        return ""
    if len(block) > LONGEST:  # a server may send any number of characters in one piece
        return block
    lines = block.split("\n")
    fence = FENCE.match(lines[0])
    if fence:
        return _code(lines, fence)
    indent = min((len(line) - len(line.lstrip(" ")) for line in lines if line.strip()), default=0)
    if indent >= 4 and not in_list:
        return block  # code by its indentation: shown as it is
    if not in_list:
        indent = 0
    text = "\n".join(line[indent:] for line in lines)
    rendered = _print(_markdown()(text), max(width - indent, 20))
    return "\n".join(" " * indent + line if line else line for line in rendered.split("\n"))


def is_list(block: str, in_list: bool) -> bool:
    """Whether what follows the block may still belong to a list."""
    return bool(LIST_ITEM.match(block)) or (in_list and (not block.strip() or block.startswith("  ")))


def _code(lines: list[str], fence: re.Match[str]) -> str:
    """Code keeps its characters: nothing is wrapped, put before or after, so that copying gives the code."""
    from rich.syntax import Syntax

    closed = len(lines) > 1 and lines[-1].strip().startswith(fence[1])
    code = "\n".join(lines[1:-1] if closed else lines[1:])
    language = fence[2].strip().split(" ")[0].lower() or "text"
    lexer = Syntax("", language).lexer
    if lexer is not None:
        lexer.get_tokens = _in_time(lexer.get_tokens)
    try:
        text = Syntax("", lexer or language, theme="ansi_dark", background_color="default").highlight(code)
        text.right_crop(len(text.plain) - len(code))
        shown = _codes(text) if text.plain == code else code  # a highlighter must not change the code
    except TimeoutError:
        shown = code
    return "\n".join(
        [_dim(lines[0]), *([shown] if len(lines) > 1 + closed else []), *([_dim(lines[-1])] if closed else [])]
    )


def _in_time(get_tokens: Callable[[str], Iterable[Any]]) -> Callable[[str], Iterator[Any]]:
    """The tokens of a lexer; TimeoutError if they take too long."""

    def bounded(code: str) -> Iterator[Any]:
        began = time.thread_time()
        for token in get_tokens(code):
            if time.thread_time() - began > COLOUR_SECONDS:
                raise TimeoutError
            yield token

    return bounded


def _dim(text: str) -> str:
    return f"\x1b[2m{text}\x1b[0m"


def _codes(text: Any) -> str:
    """A rich text with its codes, and otherwise as it is."""
    from rich.color import ColorSystem
    from rich.console import Console

    return "".join(
        segment.style.render(segment.text, color_system=ColorSystem.STANDARD) if segment.style else segment.text
        for segment in text.render(Console(file=StringIO()), end="")
    )


def _print(renderable: Any, width: int) -> str:
    """What rich prints, without the spaces at the ends of lines and without empty lines around it."""
    from rich.console import Console
    from rich.theme import Theme

    console = Console(
        file=StringIO(), force_terminal=True, color_system="standard", width=width, theme=Theme(STYLES),
        legacy_windows=False, highlight=False, markup=False, emoji=False,
    )  # fmt: skip
    with console.capture() as capture:
        console.print(renderable, end="")
    lines = TRAILING.sub(r"\1", capture.get()).split("\n")
    while lines and not CODES.sub("", lines[0]).strip():
        lines.pop(0)
    while lines and not CODES.sub("", lines[-1]).strip():
        lines.pop()
    return "\n".join(lines)


@cache
def _markdown() -> type:
    """rich's Markdown with lines kept, headings at the left, and HTML shown as the text it is."""
    from rich.markdown import Heading, Markdown

    class LeftHeading(Heading):
        LEVEL_ALIGN = dict.fromkeys(Heading.LEVEL_ALIGN, "left")

        def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
            text = self.text.copy()
            text.justify = "left"
            yield text

    class Kept(Markdown):
        elements = {**Markdown.elements, "heading_open": LeftHeading}

        def __init__(self, markup: str) -> None:
            from markdown_it import MarkdownIt

            super().__init__("", code_theme="ansi_dark", hyperlinks=False)
            parser = MarkdownIt("commonmark", {"html": False}).enable("strikethrough").enable("table")
            self.markup, self.parsed = markup, parser.parse(markup)
            for token in self.parsed:
                for child in token.children or ():
                    if child.type == "softbreak":
                        child.type = "hardbreak"

    return Kept
