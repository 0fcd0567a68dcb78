"""Conversations in files: the JSON of the web page's export, other programs' message lists, and Markdown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from llamakit.plugins.frontends.cli.talk.command import content_of
from llamakit.plugins.frontends.cli.talk.conversation import Conversation, Message, now

from llamakit.errors import UsageError
from llamakit.gguf.atomic import whole_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT, VERSION = "llamakit.conversations", 1
MAX_MESSAGES = 100_000
TITLE_LENGTH = 60


class Record(msgspec.Struct, kw_only=True):
    """A conversation as the file has it."""

    id: str = ""
    kind: str = "chat"
    title: str = ""
    created: int | float | str = 0
    updated: int | float | str = 0
    pinned: bool | int = False
    leaf: str | None = ""
    system: str | None = ""
    template: str | None = None
    model: str | None = None
    adapters: list[Any] = []
    params: dict[str, Any] = {}
    draft: str | None = ""
    messages: list[Message] = []


class File(msgspec.Struct, kw_only=True):
    """The whole file."""

    format: str
    version: int
    exported: str = ""
    conversations: list[Record]
    presets: list[Any] = []
    settings: Any = []


def save(path: Path, conversation: Conversation, model: str, params: Mapping[str, Any]) -> None:
    """Write a conversation, for its owner: as Markdown if `path` ends in .md, else as JSON; whole or not at all."""
    if path.suffix == ".md":
        data = to_markdown(conversation).encode("utf-8", "replace")
    else:
        data = msgspec.json.format(msgspec.json.encode(_file(conversation, model, params)), indent=1) + b"\n"
    if not path.parent.is_dir():  # a slip of the pen makes no folders
        raise UsageError(f"{path} cannot be written: there is no folder {path.parent}")
    with whole_file(path, len(data), mode=0o600) as file:
        file.write(data)
    conversation.saved = True


def _file(conversation: Conversation, model: str, params: Mapping[str, Any]) -> File:
    record = Record(
        id=conversation.id, title=conversation.title or title_of(conversation), created=conversation.created,
        updated=now(), leaf=conversation.leaf, system=conversation.system, model=model, params=dict(params),
        messages=list(conversation.messages.values()),
    )  # fmt: skip
    exported = datetime.now(UTC).isoformat(timespec="seconds")
    return File(format=FORMAT, version=VERSION, exported=exported, conversations=[record])


def title_of(conversation: Conversation) -> str:
    """The first words that were said."""
    first = next((m.text for m in conversation.path() if m.role == "user"), "")
    line = " ".join(first.split())
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1] + "…"


def to_markdown(conversation: Conversation) -> str:
    """The branch that is spoken, for people to read."""
    parts = [f"# {conversation.title or title_of(conversation) or 'Conversation'}\n"]
    for turn in conversation.turns():
        parts.append(f"## {turn['role'].capitalize()}\n\n{turn['content']}\n")
    return "\n".join(parts)


def load(path: Path) -> tuple[Conversation, dict[str, Any]]:
    """Read a conversation and its sampler options; of several conversations in a file, the one last changed."""
    data = content_of(path)
    try:
        value = msgspec.json.decode(data)
        if isinstance(value, list):
            return _from_turns(value), {}
        file = msgspec.convert(value, File)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UsageError(
            f"{path} holds no conversation: {error}",
            hint="a file that /save or the web page wrote, or a JSON list of messages with role and content",
        ) from None
    if file.format != FORMAT or file.version != VERSION:
        raise UsageError(
            f"{path} has the format {file.format!r}, version {file.version}",
            found=f"this program reads {FORMAT}, version {VERSION}",
        )
    return _from_record(path, file)


def _from_record(path: Path, file: File) -> tuple[Conversation, dict[str, Any]]:
    records = [record for record in file.conversations if record.kind == "chat"]
    if not records:
        raise UsageError(f"{path} holds no chat", found=f"{len(file.conversations)} conversations of other kinds")
    record = max(records, key=lambda r: str(r.updated))
    if len(record.messages) > MAX_MESSAGES:
        raise UsageError(f"{path} has {len(record.messages):,} messages; at most {MAX_MESSAGES:,} are read")
    conversation = Conversation(record.messages, leaf=record.leaf or "", system=record.system or "")
    conversation.title = record.title
    conversation.id = record.id or conversation.id
    if conversation.leaf not in conversation.messages:
        leaves = conversation.leaves()
        conversation.leaf = leaves[-1].id if leaves else ""
    return conversation, record.params


def _from_turns(value: list[Any]) -> Conversation:
    class Said(msgspec.Struct):
        role: str
        content: str

    conversation = Conversation()
    for said in msgspec.convert(value, list[Said]):
        if said.role == "system":
            conversation.system = said.content
        else:
            conversation.add("assistant" if said.role == "assistant" else "user", said.content)
    conversation.saved = True
    return conversation
