"""What keeps an answer to a conversation to its tools, to the form that is asked for, and to thinking first."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
from llamakit.plugins.frontends.rest.body import sampler_options, wrong
from llamakit.plugins.frontends.rest.fields import skip_samplers
from llamakit.plugins.frontends.rest.nested import Names, known

from llamakit.bounded_json import NestedJson
from llamakit.chat.tools.structure import Function, Structure
from llamakit.errors import UsageError
from llamakit.sampler import SequenceContext

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llamakit.plugins.frontends.rest.chat import Conversation, Prompt
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.engine.request import Request
    from llamakit.session import Session


def constraint_key(state: ServerState, option: str, param: str) -> str:
    """The flat name of an option of the sampler `grammar`; UsageError where it is not installed."""
    for key in (option, f"grammar.{option}"):
        if key in sampler_options(state):
            return key
    raise UsageError(
        f"{param} needs the sampler 'grammar', which is not installed",
        hint="ask for JSON in the prompt, and check the answer", param=param,
    )  # fmt: skip


def constrained(state: ServerState, session: Session, prompt: Prompt, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler options with those that keep to a conversation: its tools are called as their schemas say.

    What `sampling` asks for itself, such as a schema, holds for the answer after the thought; with tools that need not
    be called it is the other thing that the answer may be.
    """
    talk = prompt.talk
    if talk is None or talk.continue_last:
        return dict(sampling)
    keys = _keys(state)
    given = {key: option for key, option in keys.items() if sampling.get(key) not in (None, "", [], ())}
    asked = next(((option, sampling[key]) for key, option in given.items()), None)
    if len(given) > 1 or (asked is None and not prompt.tool_names):
        return dict(sampling)  # of several, the sampler says which cannot both be asked for
    if talk.must_call is not None and asked is not None and asked[0] != "json_schema":
        raise UsageError(
            f"the answer must call a tool, so {asked[0]} cannot be asked for", hint="tool_choice auto",
            param="tool_choice",
        )  # fmt: skip
    if talk.must_call is not None:
        asked = None  # the answer is a call, so the form that texts should have says nothing
    if "structural_tag" not in keys.values():
        if talk.must_call is not None:
            constraint_key(state, "structural_tag", "tool_choice")
        return dict(sampling)
    content = None if asked is None else _format(*asked, lenient=_lenient(state, sampling))
    structure = Structure(session.tokenizer.is_control_text)
    if prompt.tool_names:
        answer = structure.answer(
            prompt.format, _functions(talk, prompt), required=talk.must_call is not None,
            several=talk.parallel and not talk.must_call, content=content,
        )  # fmt: skip
    elif content is not None and (prompt.format.channels or prompt.format.to_user):
        answer = structure.answer(prompt.format, [], required=False, several=False, content=content)
    elif prompt.markers is None or content is None:
        return dict(sampling)
    else:
        answer = content
    if prompt.markers is not None and not prompt.format.channels:
        answer = structure.thought(prompt.markers, answer, inside=prompt.inside)
    tag = {"type": "structural_tag", "format": answer}
    rest = {key: value for key, value in sampling.items() if key not in given}
    return rest | {constraint_key(state, "structural_tag", "tools"): tag}


def _keys(state: ServerState, *more: str) -> dict[str, str]:
    """The options that constrain, by flat name."""
    options = sampler_options(state)
    return {key: option for option in (*CONSTRAINTS, *more) for key in (option, f"grammar.{option}") if key in options}


def _lenient(state: ServerState, sampling: Mapping[str, Any]) -> bool:
    return any(sampling.get(key) for key in ("lenient", "grammar.lenient") if key in sampler_options(state))


def _functions(talk: Conversation, prompt: Prompt) -> list[Function]:
    """The functions that may be called."""
    names = prompt.tool_names
    functions = [tool["function"] for tool in talk.tools if tool["function"]["name"] in names]
    if talk.must_call:
        functions = [function for function in functions if function["name"] == talk.must_call]
    return [
        Function(each["name"], each.get("parameters"), strict=each.get("strict") is True)
        for each in {each["name"]: each for each in functions}.values()
    ]


def _format(option: str, value: Any, *, lenient: bool) -> dict[str, Any]:
    """What an option asks for as a format of a structural tag."""
    match option:
        case "grammar" | "lark":
            return {"type": option, "grammar": value}
        case "regex":
            return {"type": "regex", "pattern": value}
        case "choices":
            return {"type": "or", "elements": [{"type": "const_string", "value": each} for each in value]}
        case "structural_tag":
            found = _decoded(value, "structural_tag")
            if not isinstance(found, dict) or not isinstance(found.get("format"), dict):
                raise UsageError("with tools or thoughts a structural_tag needs a format", param="structural_tag")
            return dict(found["format"])
    return {"type": "json_schema", "json_schema": _decoded(value, "json_schema"), "lenient": lenient}


def _decoded(value: Any, param: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return NestedJson().decode(value, param, param)
    except msgspec.DecodeError as error:
        raise UsageError(f"{param} is not JSON: {error}", param=param) from None


CONSTRAINTS = ("grammar", "lark", "json_schema", "regex", "choices", "structural_tag")  # of a sampler that may be there


ANY_OBJECT = {"type": "object"}


VLLM_NAMES = {
    "json": "json_schema", "regex": "regex", "choice": "choices", "grammar": "grammar",
    "structural_tag": "structural_tag",
}  # fmt: skip


def check_constraints(state: ServerState) -> Callable[[dict[str, Any]], list[str]]:
    """What reads vLLM's names of constraints, and refuses any where no sampler keeps to one."""

    def rewrite(values: dict[str, Any]) -> list[str]:
        _rename_constraints(values)
        if values.get("top_k") == -1:
            values["top_k"] = 0  # as vLLM writes "all"
        for name in CONSTRAINTS:
            if values.get(name) in (None, "", []):
                values.pop(name, None)
            elif name in values:
                constraint_key(state, name, name)
        return skip_samplers(state, values)

    return rewrite


def _rename_constraints(values: dict[str, Any]) -> None:
    """`structured_outputs` and `guided_json` and so on, as vLLM has them, under the sampler's names."""
    given = values.pop("structured_outputs", None) or {}
    if not isinstance(given, dict):
        raise wrong("structured_outputs", given, "an object")
    if given.get("json_object"):
        given = {"json": ANY_OBJECT} | given
    for theirs, ours in VLLM_NAMES.items():
        value = values.pop(f"guided_{theirs}", None) or given.get(theirs)
        if value:
            values[ours] = value


def left_out(state: ServerState, session: Session, requests: Sequence[Request]) -> tuple[str, ...]:
    """What of the schemas of requests with the same options is not enforced: "schema#/properties/a/uniqueItems"."""
    sampler = state.registry.samplers().get("grammar")
    noted: Any = getattr(sampler, "left_out", None)
    given = requests[0].options if requests else {}
    options = {option: given[key] for key, option in _keys(state, "lenient").items() if key in given}
    if sampler is None or noted is None or not {"json_schema", "structural_tag"} & set(options):
        return ()
    context = SequenceContext(n_vocab=session.tokenizer.n_vocab, n_ctx=session.n_ctx, tokenizer=session.tokenizer)
    return tuple(_place(note) for note in noted(sampler.Options(**options), context))


def _place(note: str) -> str:
    """A note of the sampler, "about: pointer: keyword: why", in short."""
    found = re.match(r"(?:(.*?): )?(#[^:]*): ([^:]+): ", note)
    return note if found is None else f"{(found[1] or 'schema').replace(' ', '-')}{found[2]}/{found[3]}"


def schema_options(state: ServerState, schema: Any, param: str, *, strict: bool = False) -> dict[str, Any]:
    """Sampler options for a schema; what cannot be enforced is left out, and named, unless it is strict."""
    options = {constraint_key(state, "json_schema", param): schema}
    return options if strict else options | {constraint_key(state, "lenient", param): True}


SCHEMA = ("name", "description", "schema", "strict")
# What belongs to a schema may stand in the response_format itself too; what belongs to a structural_tag does.
RESPONSE_FORMAT = known("type", "format", "structures", "triggers", *SCHEMA, json_schema=Names(dict.fromkeys(SCHEMA)))


def format_options(state: ServerState, asked: Any, param: str = "response_format") -> dict[str, Any]:
    """Sampler options for a `response_format`; nothing for text."""
    if asked is None:
        return {}
    kind = asked.get("type") if isinstance(asked, dict) else asked
    if kind == "text":
        return {}
    if kind == "json_object":
        schema = asked.get("schema") if isinstance(asked, dict) else None
        return schema_options(state, schema if isinstance(schema, dict) else ANY_OBJECT, param)
    if kind == "json_schema" and isinstance(asked, dict):
        part = asked.get("json_schema", asked)
        schema = part.get("schema") if isinstance(part, dict) else None
        if not isinstance(schema, dict):
            raise UsageError(f"{param} has no schema", hint='{"json_schema": {"schema": {...}}}', param=param)
        strict = isinstance(part, dict) and part.get("strict") is True
        return schema_options(state, schema, param, strict=strict)
    if kind == "structural_tag" and isinstance(asked, dict):
        return {constraint_key(state, "structural_tag", param): asked}
    raise wrong(param, kind, "text, json_object, json_schema or structural_tag")
