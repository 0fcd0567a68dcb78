"""Commands that read and write: files, saved conversations, the clipboard."""

from __future__ import annotations

import base64
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from llamakit.plugins.frontends.cli.talk import export
from llamakit.plugins.frontends.cli.talk.adjust import read
from llamakit.plugins.frontends.cli.talk.command import Command, needed, path_of
from llamakit.plugins.frontends.cli.talk.settings import shown

from llamakit.errors import UsageError
from llamakit.gguf.atomic import refuse_stdout

if TYPE_CHECKING:
    from llamakit.plugins.frontends.cli.talk.talk import Talk

LARGE = 1000  # tokens from which a file is asked about
CODE = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n`]*\n(.*?)^[ \t]*\1[ \t]*$", re.DOTALL | re.MULTILINE)


def insert(talk: Talk, text: str) -> None:
    """Put a file before the next message."""
    name = needed(text, "/file NAME")
    content = read(name)
    n = talk.source.count_text(content)
    size = f"{n:,} tokens" if n is not None else f"{len(content):,} characters"
    share = f", {100 * n / talk.source.n_ctx:.0f}% of the context" if n is not None and talk.source.n_ctx else ""
    if (n or 0) >= LARGE and talk.terminal.reads and not talk.terminal.ask(f"{name}: {size}{share}; insert it?"):
        return
    talk.attached.append(f"{Path(name).name}:\n\n{content.rstrip()}\n\n")
    talk.terminal.say(talk.terminal.dim(f"{Path(name).name}: {size}{share}; it goes before your next message"))


def save(talk: Talk, text: str) -> None:
    """Save the conversation."""
    refuse_stdout(text, "/save")
    path = path_of(needed(text, "/save FILE"))
    if not talk.conversation.messages:
        raise UsageError("there is nothing to save yet")
    if path.exists() and path.resolve() != talk.file:
        if not talk.terminal.reads:
            raise UsageError(f"{path} exists already", hint="/save another name")
        if not talk.terminal.ask(f"{path} exists; replace it?"):
            return
    export.save(path, talk.conversation, talk.source.model, talk.settings.values)
    talk.file = path.resolve()
    talk.terminal.say(talk.terminal.dim(f"saved {path}: {len(talk.conversation.messages)} messages"))


def load(talk: Talk, text: str) -> None:
    """Load a conversation."""
    from llamakit.plugins.frontends.cli.talk.turns import show_last

    path = path_of(needed(text, "/load FILE"))
    conversation, params = export.load(path)
    if not talk.may_forget():
        return
    talk.forget()
    talk.conversation, talk.file = conversation, path.resolve()
    knobs, unknown = talk.knobs(), []
    for name, value in params.items():
        try:
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            set_to, _ = talk.settings.set(knobs, name, text)
            talk.terminal.say(talk.terminal.dim(f"{name} {shown(set_to)}, from the file"))
        except UsageError:
            unknown.append(name)
    if unknown:
        talk.terminal.say(f"left out of the file's options: {', '.join(map(repr, unknown))}")
    show_last(talk)


def copy(talk: Talk, text: str) -> None:
    """Copy the last answer, or its last block of code, to the terminal's clipboard (OSC 52)."""
    if text not in ("", "code"):
        raise UsageError(f"/copy {text}: there is /copy and /copy code")
    answer = next((m.text for m in reversed(talk.conversation.path()) if m.role == "assistant"), None)
    if answer is None:
        raise UsageError("there is no answer to copy yet")
    if text:
        blocks = CODE.findall(answer)
        if not blocks:
            raise UsageError("the last answer has no block of code")
        answer = blocks[-1][1]
    if not talk.terminal.edits:
        raise UsageError("/copy needs a terminal")
    data = base64.b64encode(answer.encode("utf-8", "replace")).decode()
    out = sys.stdout if talk.terminal.writes else sys.stderr
    print(f"\x1b]52;c;{data}\x07", end="", file=out, flush=True)
    talk.terminal.say(talk.terminal.dim(f"sent {len(answer):,} characters to the terminal's clipboard"))


COMMANDS = (
    Command(name="file", usage="NAME", summary="put a file before your next message", run=insert, files=True),
    Command(name="save", usage="FILE", summary="save the conversation; .md: as Markdown", run=save, files=True),
    Command(name="load", usage="FILE", summary="load a conversation", run=load, files=True),
    Command(name="copy", usage="[code]", summary="the last answer to the clipboard, or its code", run=copy,
            words=lambda talk: ["code"]),
)  # fmt: skip
