"""Editing entries in a terminal, with prompt_toolkit. Only the chat imports this, and only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Iterable
from typing import TYPE_CHECKING, Any

from llamakit.plugins.frontends.cli.talk.reader import BLOCK, QuitAtOnce, Reader, entry_of, is_open
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth, create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.shortcuts import CompleteStyle

if TYPE_CHECKING:
    from llamakit.plugins.frontends.cli.talk.complete import Completions
    from llamakit.plugins.frontends.cli.talk.history import Entries
    from llamakit.plugins.frontends.cli.talk.terminal import Terminal
    from prompt_toolkit.document import Document


class PromptReader(Reader):
    """Emacs keys, history by arrows and Ctrl-R, completion by Tab; pasted lines stay one entry."""

    def __init__(self, terminal: Terminal, entries: Entries, completions: Completions) -> None:
        out = sys.stdout if terminal.writes else sys.stderr
        depth = None if (terminal.colour_out if terminal.writes else terminal.colour_err) else ColorDepth.DEPTH_1_BIT
        output = create_output(stdout=out)
        if isinstance(output, Vt100_Output):
            output.enable_cpr = False  # nothing here needs the cursor's place, and some terminals never tell it
        self._session: PromptSession[str] = PromptSession(
            multiline=True, prompt_continuation="  ", key_bindings=_keys(), history=_Kept(entries),
            completer=_Completer(completions), complete_while_typing=False, complete_style=CompleteStyle.READLINE_LIKE,
            enable_suspend=True, enable_open_in_editor=False, output=output, color_depth=depth,
            reserve_space_for_menu=0,
        )  # fmt: skip

    def read(self, draft: str = "") -> str:
        """The next entry."""
        return entry_of(self._session.prompt("> ", default=draft))


def _keys() -> KeyBindings:
    keys = KeyBindings()
    editing = has_focus(DEFAULT_BUFFER)  # not while Ctrl-R searches

    @keys.add("enter", filter=editing)
    def _enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text) and (buffer.text.lstrip().startswith(BLOCK) or buffer.document.is_cursor_at_the_end):
            if buffer.text.endswith("\\") and not buffer.text.lstrip().startswith(BLOCK):
                buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=editing)
    @keys.add("c-j", filter=editing)
    def _newline(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c", filter=editing)
    def _clear(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    @keys.add("c-\\")
    def _quit(event: KeyPressEvent) -> None:
        event.app.exit(exception=QuitAtOnce)

    return keys


class _Kept(History):
    """prompt_toolkit's view of our entries, which are read already."""

    def __init__(self, entries: Entries) -> None:
        super().__init__()
        self._entries = entries

    async def load(self) -> AsyncGenerator[str, None]:
        for entry in reversed(self._entries.entries):
            yield entry

    def load_history_strings(self) -> Iterable[str]:
        return reversed(self._entries.entries)

    def append_string(self, string: str) -> None:
        self._entries.add(string)

    def store_string(self, string: str) -> None:
        self._entries.add(string)

    def get_strings(self) -> list[str]:
        return list(self._entries.entries)


class _Completer(Completer):
    def __init__(self, completions: Completions) -> None:
        self._completions = completions

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Any]:
        for word, typed in self._completions.of(document.text_before_cursor):
            yield Completion(word, start_position=-len(typed))
