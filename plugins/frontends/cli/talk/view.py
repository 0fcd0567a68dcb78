"""How an answer appears while it is written."""

from __future__ import annotations

import re
import sys
import time
from typing import TYPE_CHECKING

from llamakit.plugins.frontends.cli.console import write
from llamakit.plugins.frontends.cli.talk.source import Piece, Waiting

from llamakit.terminal import safe

if TYPE_CHECKING:
    from llamakit.plugins.frontends.cli.talk.terminal import Terminal

DELAY = 0.5  # seconds before it is said what is waited for
WORD = re.compile(r"\n|[^\S\n]+|\S+")
UNFINISHED = re.compile(r"[^\s\u0e00-\u0eff\u1100-\U0010ffff]{0,40}$")  # may be the beginning of a word
RISKY = frozenset("\u200d\ufe0f\ufe0e") | {chr(c) for c in (*range(0x1F1E6, 0x1F200), *range(0x1F3FB, 0x1F400))}


class View:
    """Writes an answer as it comes, and says what is waited for before it begins."""

    def __init__(self, terminal: Terminal, begun: str = "") -> None:
        self.terminal = terminal
        self.text = ""  # what was shown
        self.lead = ""  # spaces before it, which were not
        self._strip = not begun
        self._began = time.perf_counter()
        self._waits, self._width = "", 0

    def show(self, item: Piece | Waiting) -> None:
        """More of the answer, or of the waiting."""
        if isinstance(item, Waiting):
            self._waits = item.text or self._waits
            if not self.text and self.terminal.notes and not self.terminal.dumb:
                self._status()
            return
        text = item.text
        if self._strip and not self.text:
            text = text.lstrip()
            self.lead += item.text.removesuffix(text) if text else item.text
        if text:
            self._erase()
            self.text += text
            self._write(text)

    def end(self) -> None:
        """Nothing more comes."""
        self._erase()
        if not self.text.endswith("\n"):
            write("\n")

    def withdraw(self) -> None:
        """There is no answer: leave no trace of it."""
        self._erase()

    def _write(self, text: str) -> None:
        write(text)

    def _status(self) -> None:
        seconds = time.perf_counter() - self._began
        if seconds < DELAY:
            return
        line = f"  {self._waits + ', ' if self._waits else ''}{seconds:.0f} s"[: self.terminal.size()[0] - 1]
        padded = line.ljust(self._width)
        self._width = len(line)
        print(f"\r{self.terminal.dim(padded)}", end="", file=sys.stderr, flush=True)

    def _erase(self) -> None:
        if self._width:
            print("\r" + " " * self._width + "\r", end="", file=sys.stderr, flush=True)
            self._width = 0


class MarkdownView(View):
    """Shows text as it comes, and puts each block's rendered form in its place when the block is complete.

    That is done only while the block is still on the screen as it was written: what has left the screen is never
    touched.
    """

    def __init__(self, terminal: Terminal, begun: str = "") -> None:
        from llamakit.plugins.frontends.cli.talk.markdown import Blocks

        super().__init__(terminal, begun)
        self._blocks = Blocks()
        self._line = ""  # the line that has no end yet
        self._live = ""  # what is on the screen and may still be replaced; begins at the start of a line
        self._n_live = 0  # characters of the answer that it shows
        self._held = ""  # the beginning of a word: shown when it is known to fit into the line
        self._place = self._place_now()
        self._in_list = False

    def _write(self, text: str) -> None:
        text = safe(text)
        head, newline, self._line = (self._line + text).rpartition("\n")
        done = [block for line in head.split("\n") for block in self._blocks.feed(line)] if newline else []
        if done:
            self._replace(done)
        else:
            self._raw(self._held + text)

    def end(self) -> None:
        """Render what is left, also of a block that was cut off."""
        self._erase()
        done = [*(self._blocks.feed(self._line) if self._line else ()), *self._blocks.flush()]
        self._line = ""
        if done:
            self._replace(done)

    def _raw(self, text: str) -> None:
        """Show text as it came, but for an unfinished word at its end; a word too long for the line begins another."""
        if not self._live:
            self._place = self._place_now()
        code = self._blocks.in_code
        n = len(text) if code else len(text) - len(UNFINISHED.search(text)[0])  # type: ignore[index]
        text, self._held = text[:n], text[n:]
        shown = text if code else wrap(text, self._live.rpartition("\n")[2], self._place[0])
        self._live += shown
        self._n_live += n
        write(shown)

    def _replace(self, blocks: list[str]) -> None:
        """Put blocks in the place of what is live, and after them the beginning of the next one, as it came."""
        from llamakit.plugins.frontends.cli.talk.markdown import is_list, render

        rest = self._blocks.open + self._line
        up = self._rows_up()
        if up is None:  # it has left the screen: only what is new is added
            write("".join(f"{block}\n" for block in blocks)[self._n_live :])
        else:
            parts = []
            for block in blocks:
                parts.append(render(block, self._place[0], in_list=self._in_list))
                self._in_list = is_list(block, self._in_list)
            codes = (f"\x1b[{up}A" if up else "") + "\r\x1b[J"
            write(codes + "".join(f"{part}\n" for part in parts), raw=True)  # these codes are ours
        self._live, self._n_live, self._held = "", 0, ""
        if rest:
            self._raw(rest)

    def _place_now(self) -> tuple[int, int, int]:
        """What must be as it was for the cursor to be where it was left: the size, and nobody else wrote meanwhile."""
        return *self.terminal.size(), self.terminal.n_resumed

    def _rows_up(self) -> int | None:
        """Rows from the cursor up to where the live text begins; None where that is not on the screen, or not known."""
        if not self._live:
            return 0
        if self._place != self._place_now():
            return None
        columns, rows, _ = self._place
        up = rows_down(self._live, columns, 0)
        if any(c in RISKY for c in self._live) and up != rows_down(self._live, columns, 2):
            return None
        return up if up < rows else None


def wrap(text: str, line: str, columns: int) -> str:
    """Text with a newline before each word that does not fit into its line; `line`: what is in the first line."""
    from rich.cells import cell_len

    column, parts = cell_len(line), []
    for word in WORD.findall(text):
        if word == "\n":
            column = 0
        elif column + cell_len(word) > columns and column:
            if word.isspace():
                continue  # the next word begins a line
            parts.append("\n")
            column = cell_len(word)
        else:
            column += cell_len(word)
        parts.append(word)
    return "".join(parts)


def rows_down(text: str, columns: int, risky: int) -> int:
    """Rows that a cursor goes down when `text` is written from the first column.

    `risky`: the width of characters that terminals do not agree about.
    """
    from rich.cells import cell_len

    rows = column = 0
    for c in text:
        if c == "\n":
            rows, column = rows + 1, 0
        elif c == "\t":
            column = min((column // 8 + 1) * 8, columns - 1)
        else:
            width = 1 if " " <= c <= "~" else risky if c in RISKY else cell_len(c)
            if column + width > columns:
                rows, column = rows + 1, 0
            column += width
    return rows
