"""Markdown as it streams to a terminal: same result however it is cut, code untouched, scrollback never rewritten."""

from __future__ import annotations

import random
import re
import time
from itertools import count

import pytest
from llamakit.plugins.frontends.cli.talk import view
from llamakit.plugins.frontends.cli.talk.markdown import Blocks, render
from llamakit.plugins.frontends.cli.talk.source import Piece
from llamakit.plugins.frontends.cli.talk.terminal import Terminal
from rich.cells import cell_len

from tests.timing import is_quick

TEXT = """# Title

A *paragraph* with `code`, **bold** and a line
break, and enough words after it to be wrapped on any narrow terminal there may be.
1. one
2. two
   - nested

3. loose

```python
def f(x):
    return "a very long line of code that is wider than the terminal is, so that it is wrapped by it"

    # after an empty line
```
| a | b |
|---|---|
| 1 | <b> |

> quoted
---
日本語のテキストも表示されます。
last line without an end"""


class Screen:
    """A terminal of the codes that the chat uses; remembers every row, and whether one above the screen was changed."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.height = columns, rows
        self.lines: list[str] = [""]
        self.row = self.column = 0
        self.rewrote = False

    def write(self, text: str, raw: bool = False) -> None:
        for token in re.findall(r"\x1b\[(?:\d*[AJ]|[\d;]*m)|.", text, re.DOTALL):
            if token == "\n":
                self._down()
            elif token == "\r":
                self.column = 0
            elif token.endswith("A") and token[0] == "\x1b":
                self.row -= int(token[2:-1])
                self.rewrote |= self.row < len(self.lines) - self.height
            elif token.endswith("J") and token[0] == "\x1b":
                self.lines[self.row :] = [self.lines[self.row][: self.column]]
            elif token[0] != "\x1b":
                self._put(token)

    def _down(self) -> None:
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.lines):
            self.lines.append("")

    def _put(self, c: str) -> None:
        width = cell_len(c)
        if self.column + width > self.columns:
            self._down()
        self.lines[self.row] += c
        self.column += width


def shown(monkeypatch, pieces: list[str], columns: int = 40, rows: int = 20, markdown: bool = True) -> Screen:
    screen = Screen(columns, rows)
    monkeypatch.setattr(view, "write", screen.write)
    monkeypatch.setattr(Terminal, "size", staticmethod(lambda: (columns, rows)))
    shown = (view.MarkdownView if markdown else view.View)(Terminal("never"))
    for piece in pieces:
        shown.show(Piece(piece))
    shown.end()
    assert shown.text == "".join(pieces)
    assert not screen.rewrote
    return screen


def cut(text: str, seed: int) -> list[str]:
    rng = random.Random(seed)
    pieces = []
    while text:
        n = rng.choice([1, 2, 3, 7, 40, 400])
        pieces.append(text[:n])
        text = text[n:]
    return pieces


@pytest.mark.parametrize("seed", range(5))
def test_it_looks_the_same_however_it_comes(monkeypatch, seed):
    whole = shown(monkeypatch, [TEXT], rows=50)
    pieces = [TEXT] if seed == 0 else list(TEXT) if seed == 1 else cut(TEXT, seed)
    assert shown(monkeypatch, pieces, rows=50).lines == whole.lines


@pytest.mark.parametrize("rows", [2, 3, 5, 8])
@pytest.mark.parametrize("columns", [3, 20, 40])
def test_scrollback_is_never_rewritten_and_no_word_is_lost(monkeypatch, rows, columns):
    long = "\n\n".join(" ".join(f"word{i}x{j}" for j in range(40)) for i in range(5))
    screen = shown(monkeypatch, cut(f"{TEXT} 👨‍👩‍👧 family\n\n{long}\n", rows * columns), columns, rows)
    text = re.sub(r"\s", "", "".join(screen.lines))
    for i in range(5):
        assert "".join(f"word{i}x{j}" for j in range(40)) in text


def test_rendered_text_has_the_meaning_of_the_marks():
    assert "\x1b[1m" in render("**bold**", 40)
    assert "**" not in render("**bold**", 40)
    assert render("# Title", 40).endswith("Title\x1b[0m")
    assert render("two\nlines", 40) == "two\nlines"
    assert render("<b>x</b> :smile: [red]", 40) == "<b>x</b> :smile: [red]"
    assert "https://x.y" in render("[text](https://x.y)", 40)


@pytest.mark.parametrize(
    "code", ["x = 1\n\n\ty\n  z", "a" * 200, "", "  indented\n", "<&> ' \\ [bold]x[/bold]", "\x7f~~~"]
)
@pytest.mark.parametrize("language", ["", "python", "no-such-language", "c++"])
def test_code_keeps_its_characters(code, language):
    plain = re.sub(r"\x1b\[[\d;]*m", "", render(f"```{language}\n{code}\n```", 30))
    assert plain == f"```{language}\n{code}\n```"


def test_blocks_are_found():
    blocks = Blocks()
    done = [block for line in TEXT.split("\n") for block in blocks.feed(line)] + blocks.flush()
    assert "\n".join(done) == TEXT
    assert "# Title" in done
    assert any(block.startswith("```python") and block.endswith("```") for block in done)


def test_control_characters_of_a_model_do_not_reach_the_terminal(monkeypatch):
    screen = shown(monkeypatch, ["a\x1b[2Jb\x07c\n", "\x9b31mred\n\n"])
    assert "a\ufffd[2Jb\ufffdc" in screen.lines[0]
    assert "\x9b" not in "".join(screen.lines)


@pytest.mark.parametrize("mark", ["*", "_", "`", "[", "> ", "- ", "|", "#", "<", "1. ", "![", "\\"])
def test_no_input_is_slow(mark):
    assert is_quick(2, lambda: render(mark * 1000, 40))


def test_rows_are_counted_as_terminals_do():
    assert view.rows_down("", 4, 0) == 0
    assert view.rows_down("abcd", 4, 0) == 0  # the cursor waits at the edge
    assert view.rows_down("abcde", 4, 0) == 1
    assert view.rows_down("abcd\n", 4, 0) == 1
    assert view.rows_down("日本語", 4, 0) == 1
    assert view.rows_down("a日本", 4, 0) == 1  # a wide character is not cut in two


def test_what_the_model_computes_meanwhile_takes_no_colours(monkeypatch):
    block = "```python\nreturn 1\n```"
    as_ever = render(block, 80)
    monkeypatch.setattr(time, "process_time", count(0.0, 10.0).__next__)
    assert render(block, 80) == as_ever
    assert "\x1b[" in as_ever.split("\n")[1]


@pytest.mark.parametrize(
    "block", ["```perl\n" + "s{" * 8000 + "\n```", "|a" * 40_000 + "\n" + "|-" * 40_000, "```perl\n" + "s{" * 50_000],
    ids=["code", "table", "long code"],
)  # fmt: skip
def test_blocks_that_take_long_are_shown_as_they_are(block):
    """A server can send them in one piece: minutes of the processor for 64 KiB."""
    shown = []
    assert is_quick(5, lambda: shown.append(render(block, 80)))
    assert re.sub(r"\x1b\[[\d;]*m", "", shown[0]) == block
