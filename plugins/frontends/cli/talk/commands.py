"""All commands: the table, the help, and what runs the one that was typed."""

from __future__ import annotations

import difflib
from functools import cache, partial
from typing import TYPE_CHECKING

from llamakit.plugins.frontends.cli.talk import adjust, files, look, turns
from llamakit.plugins.frontends.cli.talk.command import Command
from llamakit.plugins.frontends.cli.talk.complete import Completions

from llamakit.errors import UsageError

if TYPE_CHECKING:
    from llamakit.plugins.frontends.cli.talk.talk import Talk

SAME = {"quit": "exit", "bye": "exit", "?": "help"}
KEYS = """Alt+Enter, Ctrl+J  a new line; so do \\ at a line's end, and \"\"\" around lines
Up, Down, Ctrl+R   what was typed before        Tab     completes
Ctrl+C             stops an answer              Ctrl+D  leaves
//                 begins a message that starts with /"""


def show_help(talk: Talk, text: str) -> None:
    """List the commands, or explain one."""
    say, commands = talk.terminal.say, table()
    if text:
        command = find(text.lstrip("/"))
        say(f"{talk.terminal.bold(command.title)}  {command.summary}")
        if command.detail:
            say(command.detail)
        return
    width = max(len(command.title) for command in commands.values())
    for command in commands.values():
        say(f"{talk.terminal.bold(command.title.ljust(width))}  {command.summary}")
    say(talk.terminal.dim(KEYS))


def leave(talk: Talk, text: str) -> None:
    """Leave, as Ctrl-D does."""
    talk.done = True


@cache
def table() -> dict[str, Command]:
    """All commands by name, in the order of the help."""
    every = (
        Command(name="help", usage="[COMMAND]", summary="this list, or more about one", run=show_help,
                words=lambda _: list(table())),
        *turns.COMMANDS, *adjust.COMMANDS, *files.COMMANDS, *look.COMMANDS,
        Command(name="exit", summary="leave", run=leave),
    )  # fmt: skip
    return {command.name: command for command in every}


def find(name: str) -> Command:
    """The command of that name; a `UsageError` names the nearest one."""
    command = table().get(SAME.get(name, name))
    if command is None:
        near = difflib.get_close_matches(name, table(), 1, 0.6)
        raise UsageError(f"no command /{name}" + (f"; did you mean /{near[0]}?" if near else "; /help lists them"))
    return command


def run(talk: Talk, line: str) -> None:
    """Run a line that starts with a slash."""
    name, _, rest = line[1:].partition("\n" if "\n" in line.partition(" ")[0] else " ")
    find(name).run(talk, rest.strip())


def completions(talk: Talk) -> Completions:
    """What Tab completes in this chat."""
    every = table().values()
    words = {command.name: partial(command.words, talk) for command in every if command.words is not None}
    return Completions(table(), words, {command.name for command in every if command.files})
