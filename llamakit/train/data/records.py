"""Records: one entry of a data file in one of four kinds, which is seen from the names of its fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from llamakit.errors import DataError
from llamakit.train.data.files import Place, find_files, values
from llamakit.train.data.messages import read_messages, read_tools, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

Kind = Literal["messages", "prompt", "instruct", "text"]

MESSAGES = ("messages", "conversations", "conversation")
QUESTIONS = ("instruction", "question", "query", "problem")
ANSWERS = ("output", "response", "answer", "solution", "completion")
BEFORE, AFTER = "context", "input"  # what a question is about, as the collections of both forms have it
FORMS = (
    '{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}\n'
    '{"prompt": ..., "completion": ...}\n'
    '{"instruction": ..., "input": ..., "output": ...}\n'
    '{"context": ..., "question": ..., "answer": ...}\n'
    '{"text": ...}'
)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One entry. `messages` and `tools` for the kind messages; `system`, `prompt` and `answer` for prompt and instruct;
    `text` for text. `place` is where it stands.
    """

    kind: Kind
    place: Place
    messages: list[dict[str, Any]] = []
    tools: list[dict[str, Any]] = []
    system: str = ""
    prompt: str = ""
    answer: str = ""
    text: str = ""

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """The same as messages, whatever its kind (but text)."""
        if self.kind == "messages":
            return self.messages
        head = [{"role": "system", "content": self.system}] if self.system else []
        return [*head, {"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.answer}]


def read_records(
    patterns: Iterable[str], kind: str = "auto", *, bad: list[DataError] | None = None
) -> Iterator[Record]:
    """All records of the files. What cannot be read is raised, or with `bad` put there and passed over."""
    for path in find_files(patterns):
        yield from records_of(path, kind, bad=bad)


def records_of(path: Path, kind: str = "auto", *, bad: list[DataError] | None = None) -> Iterator[Record]:
    """The records of one file."""
    for place, value in values(path):
        try:
            if isinstance(value, DataError):
                raise value
            yield Record(kind="text", place=place, text=value) if isinstance(value, str) else record(value, place, kind)
        except DataError as error:
            if bad is None:
                raise
            bad.append(error)


def record(fields: Mapping[str, Any], place: Place, kind: str = "auto") -> Record:
    """A JSON object as a record of a kind."""
    found = kind_of(fields) if kind == "auto" else kind
    readers = {"messages": _messages, "prompt": _prompt, "instruct": _instruct, "text": _text}
    made = readers[found](fields, place) if found else None
    if made is None:
        what = f"no record of the kind {kind}" if kind != "auto" else "no record of a known kind"
        raise DataError(f"{place}: {what}", found=f"the fields {', '.join(fields) or '(none)'}"[:300], hint=FORMS,
                        param="data")  # fmt: skip
    return made


def kind_of(fields: Mapping[str, Any]) -> Kind | None:
    """The kind of record that the fields make, None for none."""
    if any(isinstance(fields.get(name), list) for name in MESSAGES):
        return "messages"
    if "prompt" in fields and "completion" in fields:
        return "messages" if isinstance(fields["prompt"], list) else "prompt"
    if _first(fields, QUESTIONS) is not None and _first(fields, ANSWERS) is not None:
        return "instruct"
    if _first(fields, ("prompt",)) is not None and _first(fields, ANSWERS) is not None:
        return "prompt"
    return "text" if isinstance(fields.get("text"), str) else None


def _messages(fields: Mapping[str, Any], place: Place) -> Record | None:
    listed = next((fields[name] for name in MESSAGES if isinstance(fields.get(name), list)), None)
    if listed is not None:
        messages = read_messages(listed, str(place))
    elif isinstance(fields.get("prompt"), list) and isinstance(fields.get("completion"), list):
        given = read_messages(fields["prompt"], f"{place}, prompt")
        messages = [message | {"weight": 0.0} for message in given]
        messages += read_messages(fields["completion"], f"{place}, completion")
    else:
        return None
    system = fields.get("system")
    if isinstance(system, str) and system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    tools = read_tools(fields.get("tools") or fields.get("functions"), str(place))
    return Record(kind="messages", place=place, messages=messages, tools=tools)


def _prompt(fields: Mapping[str, Any], place: Place) -> Record | None:
    prompt, answer = fields.get("prompt"), _first(fields, ("completion", *ANSWERS))
    if not isinstance(prompt, str) or answer is None:
        return None
    return Record(kind="prompt", place=place, system=_system(fields), prompt=prompt, answer=answer)


def _instruct(fields: Mapping[str, Any], place: Place) -> Record | None:
    """A question with what it is about: a context before it, an input behind it."""
    question, answer = _first(fields, QUESTIONS), _first(fields, ANSWERS)
    if question is None or answer is None:
        return None
    parts = [fields.get(BEFORE), question, fields.get(AFTER)]
    for name in (BEFORE, AFTER):
        if fields.get(name) is not None and not isinstance(fields[name], str):
            raise DataError(f"{place}: {name} is not text", found=shown(fields[name]), param="data")
    prompt = "\n\n".join(part for part in parts if part)
    return Record(kind="instruct", place=place, system=_system(fields), prompt=prompt, answer=answer)


def _text(fields: Mapping[str, Any], place: Place) -> Record | None:
    text = fields.get("text")
    return Record(kind="text", place=place, text=text) if isinstance(text, str) else None


def _system(fields: Mapping[str, Any]) -> str:
    system = fields.get("system")
    return system if isinstance(system, str) else ""


def _first(fields: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of these fields that is a text."""
    return next((fields[name] for name in names if isinstance(fields.get(name), str)), None)
