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
from llamakit.chat.tools import FORMATS, GENERIC, joined, reader_of
from llamakit.chat.tools.derived import derived
from llamakit.chat.tools.format import ToolFormat
from llamakit.chat.tools.marks import common_start
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
THOUGHT = "probe of a thought"
THOUGHTS = ("reasoning_content", "thinking", "reasoning")  # what templates call the thought of a message
END_OF_THOUGHT = re.compile(r"</([^<>\s]+)>")
TOOL, CALLED, SECOND = "probe_tool", "probe_called", "probe_second"
VALUES = {"probe_text": "probe value", "probe_number": 7}
DESCRIBED = {
    "type": "function",
    "function": {
        "name": TOOL, "description": "A probe.",
        "parameters": {
            "type": "object", "required": ["probe_text"],
            "properties": {"probe_text": {"type": "string", "description": "A text."}},
        },
    },
}  # fmt: skip
UNDESCRIBED = {
    "type": "function",
    "function": {
        "name": TOOL, "parameters": {"type": "object", "properties": {"probe_text": {"type": "string"}}},
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
    parts; `developer`: it knows that role; `descriptions`: it refuses tools and parameters that have none; `named_ids`:
    it shows ids of calls in place of names, which therefore are in them; `thought`: the key of a message's thought, if
    it shows one.
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
    descriptions: bool = False
    named_ids: bool = False
    thought: str = ""


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
        self.thoughts = find_markers(template.source)
        self.parts = False
        self._thought = ""
        self._tools: list[dict[str, Any]] | None = None  # given where nothing else is asked for
        if self._render([_user(USER)]) is None and self._render([_user(USER)], tools=[DESCRIBED]) is not None:
            self._tools = [DESCRIBED]  # a template for conversations with tools alone
        self.parts = not self._shows([_user(USER)], USER) and self._shows([_user(USER, parts=True)], USER)

        plain = self._render([_user(USER), _said(ANSWER)], add_generation_prompt=False) or ""
        self._head, _, self._end = plain.rpartition(ANSWER)
        for key in THOUGHTS:
            self._look_for_thoughts(key)

    def _look_for_thoughts(self, key: str) -> None:
        """Whether the thought of an answer, under this key, is shown, and between which markers."""
        if self._thought:
            return
        text = self._render([_user(USER), _said(ANSWER) | {key: THOUGHT}], add_generation_prompt=False) or ""
        before, thought, after = text.partition(THOUGHT)
        if not thought or ANSWER not in after:
            return
        self._thought = key
        end = END_OF_THOUGHT.match(after.partition(ANSWER)[0].strip())
        if self.thoughts is None and end is not None and f"<{end[1]}>" in before:
            self.thoughts = Markers(f"<{end[1]}>", end[0])

    def profile(self) -> Profile:
        """All answers."""
        source = self.template.source
        how, text, calls = self._calls()
        turns = [_user(USER), _said(ANSWER)]
        system = self._shows([_system(SYSTEM), _user(USER)], SYSTEM, USER)
        described = self._render([_user(USER)], tools=[DESCRIBED]) or ""
        return Profile(
            format=self._format(text, how), markers=self.thoughts, tools=TOOL in described, calls=calls,
            text_arguments=how.get("text", False), null_content=how.get("null", False),
            short_ids=how.get("short", False), results=calls and self._result(how),
            one_call=calls and not self._two(how), system=system,
            systems=system
            and self._shows([_system(SYSTEM), *turns, _system(LATER), _user("x")], SYSTEM, LATER)
            and self._shows([_system(SYSTEM), _system(LATER), _user("x")], SYSTEM, LATER),
            repeats=self._shows([_user(USER), _user(LATER)], USER, LATER), parts=self.parts,
            developer="developer" in source
            and self._shows([{"role": "developer", "content": SYSTEM}, _user(USER)], SYSTEM),
            descriptions=TOOL in described and self._render([_user(USER)], tools=[UNDESCRIBED]) is None,
            named_ids=how.get("named", False), thought=self._thought,
        )  # fmt: skip

    def _calls(self) -> tuple[dict[str, bool], str, bool]:
        """How calls have to be given, what stands for one in a prompt, and whether it is shown at all."""
        ways = [
            {"null": null, "text": text, "short": short, "named": named}
            for named, short in ((False, False), (False, True), (True, False)) for text in (False, True)
            for null in (False, True)
        ]  # fmt: skip
        best: tuple[dict[str, bool], str] | None = None
        named: tuple[dict[str, bool], str] | None = None  # where no value is to be seen
        for way in ways:
            if named is not None and way["named"]:
                break
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
        turns = [_user(USER), _calling(way, SECOND)]
        return self._shows(turns, SECOND) or self._shows(turns, SECOND, tools=[DESCRIBED])

    def _result(self, way: dict[str, bool]) -> bool:
        """Whether the result of a tool is shown."""
        turns = [_user(USER), _calling(way), _result(way)]
        return self._shows(turns, RESULT) or self._shows(turns, RESULT, tools=[DESCRIBED])

    def _format(self, call: str, way: dict[str, bool]) -> ToolFormat:
        """Whose form a call is in, with the texts that the template writes; else whose signs are in the source."""
        source = self.template.source
        signed = [each for each in self.formats if any(all(sign in source for sign in signs) for signs in each.signs)]
        if not call:
            return signed[0] if signed else GENERIC
        one, two = self._answer(_calling(way)), self._answer(_calling(way, SECOND))
        found = next((each for each in self.formats if _fits(each, call)), None)
        found = found or next((each for each in signed if _is_read(each, one, two)), None)
        if found is not None and (found.channels or found.bare or _is_written(found, one, two)):
            return _exact(found, call)
        own = derived(one, two, (CALLED, SECOND), VALUES)
        if own is not None and not self._ends_turn(own) and _is_written(own, one, two) and _is_read(own, one, two):
            return own if found is None else _named(own, found)
        return GENERIC if found is None else _exact(found, call)

    def _ends_turn(self, format: ToolFormat) -> bool:
        """Whether calls begin with what ends an answer, so that no model would write them."""
        return bool(self._end.strip()) and format.opening.strip().startswith(self._end.strip())

    def _answer(self, message: Message) -> str:
        """What a prompt has for a message behind what asks for an answer, up to where its turn ends; "" if nothing."""
        for tools in (None, [DESCRIBED]):
            asked = self._render([_user(USER)], tools=tools)
            whole = self._render([_user(USER), message], tools=tools, add_generation_prompt=False)
            if asked is None or whole is None:
                continue
            same = self._head if self._head and whole.startswith(self._head) else common_start(asked, whole)
            text = whole[same.rfind("<") if same.rfind("<") > same.rfind(">") else len(same) :]
            end = self._end.strip()
            text = text.removesuffix(self._end) if text.endswith(self._end) else text.rstrip().removesuffix(end)
            thought, mark, rest = text.partition(self.thoughts.end) if self.thoughts else ("", "", "")
            return rest.lstrip() if mark and CALLED not in thought else text
        return ""

    def _shows(self, messages: list[Message], *texts: str, **values: Any) -> bool:
        """Whether a prompt is made, with all of these texts in it."""
        text = self._render(messages, **values)
        return text is not None and all(each in text for each in texts)

    def _render(self, messages: list[Message], **values: Any) -> str | None:
        values["tools"] = values.get("tools") or self._tools
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
    if not format.bare and _squeezed(format.opening + "[" * format.listed) not in _squeezed(text):
        return False
    format = _exact(format, text)
    opening = format.opening.strip()
    start = text.find(opening) if opening and opening in text else _start(format, text) if format.bare else -1
    if start < 0:
        return False
    calls = _read(format, text[start:])
    own = _squeezed(format.written(CALLED))
    return calls[:1] == [(CALLED, VALUES)] and (format.arguments != "json" or own in _squeezed(text))


def _read(format: ToolFormat, text: str) -> list[tuple[str, Any]]:
    """The calls of the probes that are in a text, as far as they are whole."""
    reader = reader_of(format, {CALLED: SCHEMA, SECOND: SCHEMA})
    try:
        deltas = reader.push(text)[1] + reader.flush()[1]
        return [(call.name, msgspec.json.decode(call.arguments)) for call in joined(deltas)]
    except msgspec.DecodeError:
        return []


def _is_read(format: ToolFormat, one: str, two: str) -> bool:
    """Whether the format tells one call, and two where the template shows two."""
    calls = [(CALLED, VALUES), (SECOND, VALUES)]
    return _read(format, one) == calls[:1] and (SECOND not in two or _read(format, two) == calls)


def _is_written(format: ToolFormat, one: str, two: str) -> bool:
    """Whether the format writes calls as the template does."""
    calls = [(CALLED, VALUES), (SECOND, VALUES)]
    return format.text(calls[:1]) in one and (SECOND not in two or format.text(calls) in two)


def _start(format: ToolFormat, text: str) -> int:
    """Where a call without markers begins."""
    if format.arguments == "python":
        return text.find("[" + CALLED)
    found = re.search(r"\[?\{\s*\"(?:name|type)\"", text)
    return found.start() if found else -1


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _exact(format: ToolFormat, text: str) -> ToolFormat:
    """The format with white space in and behind its first marker as the template writes it."""
    opening = format.opening.strip()
    if not opening or format.arguments == "python" or format.channels:
        return format
    spelled = r"\s*".join(map(re.escape, opening.split()))
    found = re.search(spelled + r"\s*(?=\S)", text)
    if found is None:
        return format
    return msgspec.structs.replace(format, **{"section_begin" if format.section_begin else "begin": found[0]})


def _named(own: ToolFormat, family: ToolFormat) -> ToolFormat:
    """A format of the family, with the texts of the template."""
    kept = {"name": family.name, "summary": family.summary, "signs": family.signs, "short_ids": family.short_ids}
    return msgspec.structs.replace(own, **kept)


def _system(text: str) -> Message:
    return {"role": "system", "content": text}


def _user(text: str, *, parts: bool = False) -> Message:
    message = {"role": "user", "content": text}
    return as_parts(message) if parts else message


def _said(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _calling(way: dict[str, bool], second: str = "") -> Message:
    """A message with a call, given in one of the ways; with one of `second` behind it."""
    arguments: Any = '{"probe_text": "probe value", "probe_number": 7}' if way.get("text") else dict(VALUES)
    calls = [_call(way, name, number, arguments) for number, name in enumerate(filter(None, (CALLED, second)))]
    return {"role": "assistant", "content": None if way.get("null") else "", "tool_calls": calls}


def _call(way: dict[str, bool], name: str, number: int, arguments: Any) -> dict[str, Any]:
    return {"id": _id(way, name, number), "type": "function", "function": {"name": name, "arguments": arguments}}


def _id(way: dict[str, bool], name: str = CALLED, number: int = 0) -> str:
    """The id of a call."""
    if way.get("named"):
        return named_id(name, number)
    return f"probe{number}abc" if way.get("short") else f"call_probe{number}"


def named_id(name: str, number: int) -> str:
    """The id of a call with the name of its function, as Kimi has them."""
    return f"functions.{name}:{number}"


def _result(way: dict[str, bool]) -> Message:
    return {
        "role": "tool", "content": RESULT, "tool_call_id": _id(way), "name": CALLED
    }  # fmt: skip
