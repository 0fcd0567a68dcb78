"""One example, and what makes an answer to it right."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

Message = dict[str, Any]
NOT_SAID = "The text does not say."
WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Example:
    """A conversation (or with `text` a plain text), and how its last answer is judged.

    `judge`: "same" text, "contains" all of `wanted` (and none of `unwanted`), "call" of a tool, or "json".
    """

    kind: str
    messages: list[Message] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    text: str = ""
    judge: str = "same"
    wanted: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()
    schema: dict[str, Any] | None = None

    def record(self) -> dict[str, Any]:
        """The line that `llamakit finetune` reads."""
        if self.text:
            return {"text": self.text}
        return {"messages": self.messages, **({"tools": self.tools} if self.tools else {})}

    def test_record(self) -> dict[str, Any]:
        """The same with what is needed to judge an answer."""
        judged = {"kind": self.kind, "judge": self.judge, "wanted": self.wanted, "unwanted": self.unwanted}
        return self.record() | judged | ({"schema": self.schema} if self.schema else {})


def user(content: str) -> Message:
    """What the user says."""
    return {"role": "user", "content": content}


def system(content: str) -> Message:
    """A system message."""
    return {"role": "system", "content": content}


def assistant(content: str) -> Message:
    """What the model is to answer."""
    return {"role": "assistant", "content": content}


def call(name: str, arguments: dict[str, Any]) -> Message:
    """An answer that calls a tool."""
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}


def words_of(text: str) -> str:
    """A text as bare words with a blank around each, to look for words and compare answers."""
    return " " + " ".join(WORD.findall(text.lower())) + " "


def contains(text: str, phrase: str) -> bool:
    """Whether the words of a phrase are in a text, in their order and side by side."""
    return words_of(phrase) in words_of(text)


def right(record: Mapping[str, Any], content: str, calls: list[tuple[str, str]]) -> bool:
    """Whether an answer (its text and its calls as (name, JSON of the arguments)) is right for a test record."""
    last = record["messages"][-1]
    match record["judge"]:
        case "call":
            wanted = [each["function"] for each in last["tool_calls"]]
            return [(name, _value(text)) for name, text in calls] == [(w["name"], w["arguments"]) for w in wanted]
        case "json":
            return not calls and _value(content) == _value(last["content"])
        case "contains":
            found = all(contains(content, phrase) for phrase in record["wanted"])
            return found and not calls and not any(contains(content, phrase) for phrase in record["unwanted"])
    return not calls and words_of(content) == words_of(last["content"])


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
