"""What a chat template can do, found by rendering small conversations through it: probes.

Templates say nothing of themselves, and what is in their source may be in a branch that never runs. So each question is
asked as a real one: does a call appear in the prompt, and in whose form; is a system message refused; are two users.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import msgspec

from llamakit.chat.reasoning import Markers, find_markers
from llamakit.chat.template import ChatTemplate
from llamakit.chat.tools import FORMATS, GENERIC, reader_of
from llamakit.chat.tools.format import ToolFormat
from llamakit.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Sequence

SYSTEM, USER, ANSWER, LATER, RESULT = (
    "probe of the system",
    "probe of a user",
    "probe of an answer",
    "a later probe",
    "probe result",
)
TOOL, CALLED, SECOND = "probe_tool", "probe_called", "probe_second"
VALUES = {"probe_text": "probe value", "probe_number": 7}
ID, SHORT_ID = "call_probe0", "probe0abc"
DESCRIBED = {
    "type": "function",
    "function": {
        "name": TOOL, "description": "A probe.",
        "parameters": {"type": "object", "properties": {"probe_text": {"type": "string"}}, "required": ["probe_text"]},
    },
}  # fmt: skip
PATIENCE = 15.0  # seconds for all probes of a template; one that takes so long is not asked any more
SCHEMA = {"type": "object", "properties": {"probe_text": {"type": "string"}, "probe_number": {"type": "integer"}}}

Message = dict[str, Any]


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What a template can do.

    `format`: how its model calls tools; `markers`: around thoughts; `tools`: it describes tools; `calls`: it shows
    those of the history; `results`: it shows results of tools; `text_arguments`: it wants arguments as text;
    `null_content`: it shows calls only beside no content; `one_call`: it shows one call of a message at most;
    `short_ids`: it refuses ids that are not nine letters and digits; `system`: it shows a system message, `systems`:
    also several, and in the middle; `repeats`: two users may follow each other; `parts`: it walks contents as lists of
    parts; `developer`: it knows that role.
    """

    format: ToolFormat = GENERIC
    markers: Markers | None = None
    tools: bool = False
    calls: bool = False
    results: bool = False
    text_arguments: bool = False
    null_content: bool = False
    short_ids: bool = False
    one_call: bool = False
    system: bool = True
    systems: bool = True
    repeats: bool = True
    parts: bool = False
    developer: bool = False


_known: WeakKeyDictionary[ChatTemplate, tuple[tuple[ToolFormat, ...], Profile]] = WeakKeyDictionary()


def profile(template: ChatTemplate, formats: Sequence[ToolFormat]) -> Profile:
    """What a template can do; `formats`, by precedence, are those that it may be of. Asked once for each template."""
    found = _known.get(template)
    if found is None or found[0] != tuple(formats):
        found = _known[template] = (tuple(formats), _Probe(template, formats).profile())
    return found[1]


@lru_cache(maxsize=64)
def profile_of(source: str) -> Profile:
    """The same for a source, with the families that we know."""
    return profile(ChatTemplate(source), FORMATS)


class _Probe:
    """Asks one template."""

    def __init__(self, template: ChatTemplate, formats: Sequence[ToolFormat]) -> None:
        self.template, self.formats = template, formats
        self._spent = 0.0
        self.parts = False
        self.parts = not self._shows([_user(USER)], USER) and self._shows([_user(USER, parts=True)], USER)

    def profile(self) -> Profile:
        """All answers."""
        source = self.template.source
        how, text, calls = self._calls()
        turns = [_user(USER), _said(ANSWER)]
        system = self._shows([_system(SYSTEM), _user(USER)], SYSTEM, USER)
        described = self._render([_user(USER)], tools=[DESCRIBED]) or ""
        return Profile(
            format=self._format(text), markers=find_markers(source), tools=TOOL in described, calls=calls,
            text_arguments=how.get("text", False), null_content=how.get("null", False),
            short_ids=how.get("short", False), results=calls and self._result(how),
            one_call=calls and not self._two(how), system=system,
            systems=system
            and self._shows([_system(SYSTEM), *turns, _system(LATER), _user("x")], SYSTEM, LATER)
            and self._shows([_system(SYSTEM), _system(LATER), _user("x")], SYSTEM, LATER),
            repeats=self._shows([_user(USER), _user(LATER)], USER, LATER), parts=self.parts,
            developer="developer" in source
            and self._shows([{"role": "developer", "content": SYSTEM}, _user(USER)], SYSTEM),
        )  # fmt: skip

    def _calls(self) -> tuple[dict[str, bool], str, bool]:
        """How calls have to be given, what stands for one in a prompt, and whether it is shown at all."""
        ways = [
            {"null": null, "text": text, "short": short}
            for short in (False, True) for text in (False, True) for null in (False, True)
        ]  # fmt: skip
        best: tuple[dict[str, bool], str] | None = None
        named: tuple[dict[str, bool], str] | None = None  # where no value is to be seen
        for way in ways:
            shown = self._call(way)
            if CALLED not in shown:
                continue
            named = named or (way, shown)
            if str(VALUES["probe_text"]) not in shown:
                continue
            if any(_fits(format, shown) for format in self.formats):
                return way, shown, True
            if best is None and "{'probe" not in shown and '\\"probe' not in shown:
                best = way, shown
        best = best or named
        return (*best, True) if best else ({}, "", False)

    def _call(self, way: dict[str, bool]) -> str:
        """What a prompt has for a message with a call; nothing where it is refused."""
        before = self._render([_user(USER)], add_generation_prompt=False)
        for more in ([], [_result(way)]):
            whole = self._render([_user(USER), _calling(way), *more], add_generation_prompt=False)
            if whole is not None and before is not None:
                n = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
                return whole[n:].partition(RESULT)[0]
            whole = self._render([_user(USER), _calling(way), *more], tools=[DESCRIBED], add_generation_prompt=False)
            if whole is not None:
                return whole[whole.rfind(USER) + len(USER) :].partition(RESULT)[0]
        return ""

    def _two(self, way: dict[str, bool]) -> bool:
        """Whether a second call of a message is shown."""
        message = _calling(way)
        second = message["tool_calls"][0] | {"id": SHORT_ID[::-1]}
        second["function"] = second["function"] | {"name": SECOND}
        turns = [_user(USER), message | {"tool_calls": [*message["tool_calls"], second]}]
        return self._shows(turns, SECOND) or self._shows(turns, SECOND, tools=[DESCRIBED])

    def _result(self, way: dict[str, bool]) -> bool:
        """Whether the result of a tool is shown."""
        turns = [_user(USER), _calling(way), _result(way)]
        return self._shows(turns, RESULT) or self._shows(turns, RESULT, tools=[DESCRIBED])

    def _format(self, call: str) -> ToolFormat:
        """Whose form a call is in; else whose signs are in the source."""
        for format in self.formats:
            if call and _fits(format, call):
                return _exact(format, call)
        source = self.template.source
        signed = (each for each in self.formats if any(all(sign in source for sign in signs) for signs in each.signs))
        return next(signed, GENERIC)

    def _shows(self, messages: list[Message], *texts: str, **values: Any) -> bool:
        """Whether a prompt is made, with all of these texts in it."""
        text = self._render(messages, **values)
        return text is not None and all(each in text for each in texts)

    def _render(self, messages: list[Message], **values: Any) -> str | None:
        given = [as_parts(message) for message in messages] if self.parts else messages
        if self._spent > PATIENCE:
            return None
        began = time.monotonic()
        try:
            return self.template.render(given, **values)
        except ModelFileError:
            return None
        finally:
            self._spent += time.monotonic() - began


def as_parts(message: Message) -> Message:
    """A message whose content is a list of parts."""
    content = message.get("content")
    return message | {"content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


def _fits(format: ToolFormat, text: str) -> bool:
    """Whether a call of the probe is in a text, in this form."""
    if format.channels:
        return f"to=functions.{CALLED}" in text and "<|message|>" in text
    if not (format.bare and not format.opening.strip()) and format.opening.strip() not in text and not format.bare:
        return False
    start = text.find(format.opening.strip()) if format.opening.strip() in text else _start(format, text)
    if start < 0:
        return False
    reader = reader_of(format, {CALLED: SCHEMA})
    deltas = reader.push(text[start:])[1] + reader.flush()[1]
    if not deltas or deltas[0].name != CALLED:
        return False
    written = "".join(delta.arguments for delta in deltas)
    try:
        values = msgspec.json.decode(written)
    except msgspec.DecodeError:
        return False
    own = _squeezed(format.written(CALLED))
    return values == VALUES and (format.arguments != "json" or own in _squeezed(text))


def _start(format: ToolFormat, text: str) -> int:
    """Where a call without markers begins."""
    if format.arguments == "python":
        return text.find("[" + CALLED)
    found = re.search(r"\[?\{\s*\"(?:name|type)\"", text)
    return found.start() if found else -1


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _exact(format: ToolFormat, text: str) -> ToolFormat:
    """The format with white space after its first marker as the template writes it."""
    opening = format.opening.strip()
    if not opening or format.arguments == "python" or format.channels:
        return format
    found = re.search(re.escape(opening) + r"(\s*)(?=\S)", text)
    if found is None:
        return format
    if format.section_begin:
        return msgspec.structs.replace(format, section_begin=opening + found[1])
    return msgspec.structs.replace(format, begin=opening + found[1])


def _system(text: str) -> Message:
    return {"role": "system", "content": text}


def _user(text: str, *, parts: bool = False) -> Message:
    message = {"role": "user", "content": text}
    return as_parts(message) if parts else message


def _said(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _calling(way: dict[str, bool]) -> Message:
    """A message with a call, given in one of the ways."""
    arguments: Any = '{"probe_text": "probe value", "probe_number": 7}' if way.get("text") else dict(VALUES)
    call = {
        "id": SHORT_ID if way.get("short") else ID, "type": "function",
        "function": {"name": CALLED, "arguments": arguments},
    }  # fmt: skip
    return {"role": "assistant", "content": None if way.get("null") else "", "tool_calls": [call]}


def _result(way: dict[str, bool]) -> Message:
    return {
        "role": "tool", "content": RESULT, "tool_call_id": SHORT_ID if way.get("short") else ID, "name": CALLED
    }  # fmt: skip
