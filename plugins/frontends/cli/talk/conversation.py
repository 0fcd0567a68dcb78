"""A conversation: a tree of messages, of which one branch is spoken at a time.

The records are those of the web page and of its exports, so that each reads what the other saved.
"""

from __future__ import annotations

import secrets
import time
from typing import Any, Literal

import msgspec

Role = Literal["user", "assistant", "system", "tool"]
Turn = dict[str, str]  # {"role": ..., "content": ...}, as chat templates and servers take it


def new_id() -> str:
    """16 random bytes in hex."""
    return secrets.token_hex(16)


def now() -> int:
    """Milliseconds since 1970, as JavaScript counts."""
    return time.time_ns() // 1_000_000


class Message(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One message. `parent` is the message before it, "" for a first one; siblings are branches."""

    id: str = msgspec.field(default_factory=new_id)
    conv: str = ""
    parent: str | None = ""
    role: Role
    text: str
    created: int | float | str = 0
    model: str | None = None
    adapters: list[Any] = []
    params: dict[str, Any] = {}
    seed: int | str | None = None
    stop: str | None = None  # why an answer ended, in words
    timings: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None


class Conversation:
    """The messages of one conversation, and `leaf`, the last one of the branch that is spoken."""

    def __init__(self, messages: list[Message] | None = None, *, leaf: str = "", system: str = "") -> None:
        self.id = new_id()
        self.title = ""
        self.created = now()
        self.system = system
        self.messages = {message.id: message for message in messages or []}
        self.leaf = leaf
        self.saved = True

    # -- the branch that is spoken ------------------------------------------------------------------------------

    def path(self, leaf: str | None = None) -> list[Message]:
        """The messages from the first to `leaf` (the present one)."""
        found: list[Message] = []
        seen: set[str] = set()
        at = self.leaf if leaf is None else leaf
        while at and at in self.messages and at not in seen:
            seen.add(at)
            found.append(self.messages[at])
            at = self.messages[at].parent or ""
        return found[::-1]

    def turns(self) -> list[Turn]:
        """What a model is given: the system prompt, if there is one, then the messages."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *({"role": m.role, "content": m.text} for m in self.path())]

    @property
    def last(self) -> Message | None:
        """The last message of the branch."""
        return self.messages.get(self.leaf)

    @property
    def questions(self) -> list[Message]:
        """The user's messages of the branch, in order."""
        return [message for message in self.path() if message.role == "user"]

    # -- changes ------------------------------------------------------------------------------------------------

    def add(self, role: Role, text: str, **fields: Any) -> Message:
        """Append a message to the branch."""
        message = Message(conv=self.id, parent=self.leaf, role=role, text=text, created=now(), **fields)
        self.messages[message.id] = message
        self.leaf = message.id
        self.saved = False
        return message

    def step_back(self, n: int = 1) -> Message | None:
        """Move before the n-th last message of the user; what comes after stays as a branch. Returns that message."""
        questions = self.questions
        if not 1 <= n <= len(questions):
            return None
        message = questions[-n]
        self.leaf = message.parent or ""
        return message

    def remove(self, message: Message) -> None:
        """Take a message and everything after it out of the tree."""
        doomed = {message.id}
        while True:
            more = {m.id for m in self.messages.values() if m.parent in doomed} - doomed
            if not more:
                break
            doomed |= more
        if self.leaf in doomed:
            self.leaf = message.parent or ""
        for id in doomed:
            del self.messages[id]
        self.saved = False

    # -- branches -----------------------------------------------------------------------------------------------

    def leaves(self) -> list[Message]:
        """The last message of every branch, oldest first."""
        parents = {message.parent for message in self.messages.values()}
        return [message for id, message in self.messages.items() if id not in parents]
