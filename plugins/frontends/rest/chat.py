"""Conversations of every API in one form, and the prompts that are made of them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
from llamakit.plugins.frontends.rest.body import wrong
from llamakit.plugins.frontends.rest.nested import known

from llamakit.bounded_json import has_more_values, quoted
from llamakit.chat.fit import fitted
from llamakit.chat.profile import Profile, profile
from llamakit.chat.prompt import chat_prompt
from llamakit.chat.reasoning import Markers, begins_inside
from llamakit.chat.template import ChatTemplate
from llamakit.chat.tools import GENERIC, ToolFormat
from llamakit.errors import UsageError
from llamakit.serialized import let_others

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamakit.plugins.frontends.rest.options import ServeOptions
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.session import Session
    from llamakit.tokenizer import Tokenizer

ANY_TOOL = ""
MOST_VALUES = 1 << 18  # of messages, tools and variables: what is made of them is written out several times
RESERVED = {  # what templates are always given, and parameters of the functions that render them
    "messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "continue_last", "template", "tokenizer",
    "self",
}  # fmt: skip


class Conversation(msgspec.Struct, kw_only=True):
    """What is to be answered.

    `messages`: in the form of chat templates, with texts as contents; `tools`: as OpenAI's, {"type": "function",
    "function": {...}}; `must_call`: the tool that the answer must call, ANY_TOOL for any, None where it need not;
    `allowed`: names of the tools that may be called, None for all; `parallel`: whether several at once;
    `continue_last`: write on the last message in place of a new one; `variables`: more names for the template.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = []
    must_call: str | None = None
    allowed: frozenset[str] | None = None
    parallel: bool = True
    continue_last: bool = False
    variables: dict[str, Any] = {}

    @property
    def tool_names(self) -> frozenset[str]:
        """Names of the tools that may be called."""
        names = frozenset(tool["function"]["name"] for tool in self.tools)
        return names if self.allowed is None else names & self.allowed


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """What the model gets, and how its answer is read.

    `text`: the prompt as people read it; `begun`: text of the answer that is in the prompt already; `tail`: the
    prompt's end, where the answer's head is; `stop`: texts that end the answer; `inside`: whether the answer begins in
    a thought; `schemas`: of the parameters of the tools that may be called; `shown`: control tokens that are markers
    of thoughts or calls; `talk`: the conversation, if it is one.
    """

    tokens: list[int]
    text: str = ""
    begun: str = ""
    tail: str = ""
    stop: tuple[str, ...] = ()
    markers: Markers | None = None
    inside: bool = False
    splits: bool = True
    schemas: dict[str, Any] = {}
    format: ToolFormat = GENERIC
    shown: frozenset[int] = frozenset()
    talk: Conversation | None = None

    @property
    def tool_names(self) -> frozenset[str]:
        """Names of the tools that may be called."""
        return frozenset(self.schemas)


def make_prompt(
    state: ServerState, session: Session, talk: Conversation, *, add_generation_prompt: bool = True
) -> Prompt:
    """The prompt of a conversation. UsageError if the template refuses its messages."""
    _check(talk)
    template, stop = template_of(state.options, session, with_tools=bool(talk.tools))
    known = profile(template, state.registry.tool_formats)
    messages, tools = fitted(talk.messages, talk.tools, known)
    continues = talk.continue_last and messages[-1]["role"] == "assistant"
    made = chat_prompt(
        template, session.tokenizer, messages, tools=tools, continue_last=continues,
        generation_prompt=add_generation_prompt, **{**state.options.template_variables, **talk.variables},
    )  # fmt: skip
    functions, may_call = [tool["function"] for tool in talk.tools], talk.tool_names
    return Prompt(
        tokens=made.tokens, text=made.text, begun=text_in(messages[-1]) if continues else "", stop=stop,
        tail=_head_of_answer(made.text) if known.format.channels else "", markers=known.markers,
        splits=state.options.reasoning_format != "none",
        inside=not continues and begins_inside(made.text, known.markers), format=known.format, talk=talk,
        schemas={each["name"]: each.get("parameters") for each in functions if each["name"] in may_call},
        shown=_shown(session.tokenizer, known, with_tools=bool(may_call)),
    )  # fmt: skip


def variables(effort: str | None, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Names for the template: how much to think aloud ("none": not at all), and others."""
    given = {} if effort is None else {"reasoning_effort": effort, "enable_thinking": effort != "none"}
    return {**given, **(more or {})}


def _head_of_answer(text: str) -> str:
    """What the prompt has of the answer's first message, in formats with channels."""
    _, mark, tail = text.rpartition("<|start|>assistant")
    return tail if mark else ""


def text_in(message: dict[str, Any]) -> str:
    """The text of a message, also where it is a list of parts."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _shown(tokenizer: Tokenizer, known: Profile, *, with_tools: bool) -> frozenset[int]:
    """The markers of thoughts and calls that are control tokens."""
    markers, format = known.markers, known.format
    texts = () if markers is None else (markers.begin, markers.end)
    texts += format.markers if with_tools or format.channels else ()
    found = [tokenizer.id_of(text) for text in texts]
    return frozenset(token for token in found if token is not None and tokenizer.is_control(token))


def template_of(
    options: ServeOptions, session: Session, *, with_tools: bool = False
) -> tuple[ChatTemplate, tuple[str, ...]]:
    """The template that is used, and texts that end an answer: the model's, or one with the names of the 2023 shim."""
    if not options.chat_prompt:
        if not session.has_template(with_tools=with_tools):
            let_others()
        return session.template(with_tools=with_tools), ()
    stop = _unescaped(options.stop)
    return _compiled(shim_source(options)), (stop,) if stop else ()


@lru_cache(maxsize=8)
def _compiled(source: str) -> ChatTemplate:
    return ChatTemplate(source, ours=True)


def shim_source(options: ServeOptions) -> str:
    """A template that writes chats as the 2023 shim did: a text, then a name before each message."""
    opening, system, user, answer, stop = (
        _literal(_unescaped(text))
        for text in (options.chat_prompt, options.system_name, options.user_name, options.ai_name, options.stop)
    )
    return (
        f"{{{{ {opening} }}}}{{% for m in messages %}}"
        f"{{% if m.role == 'system' %}}{{{{ {system} ~ m.content }}}}"
        f"{{% elif m.role == 'assistant' %}}{{{{ {answer} ~ m.content ~ {stop} }}}}"
        f"{{% else %}}{{{{ {user} ~ m.content }}}}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {answer}.rstrip() }}}}{{% endif %}}"
    )


def _literal(text: str) -> str:
    """A text as Jinja writes it in quotes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r") + "'"


def _unescaped(text: str) -> str:
    """`\\n` on a command line stands for a new line, as in the shim."""
    return text.replace("\\n", "\n")


def _check(talk: Conversation) -> None:
    reserved = RESERVED & set(talk.variables)
    if reserved:
        raise wrong("chat_template_kwargs", sorted(reserved), "names that the server does not set itself")
    if talk.continue_last and talk.must_call is not None:
        raise UsageError("a message that was begun cannot become a call of a tool", param="tool_choice")
    if has_more_values([talk.messages, talk.tools, talk.variables], MOST_VALUES):
        raise UsageError(
            "messages, tools and chat_template_kwargs have too many values", hint=f"possible: {MOST_VALUES:,}",
            param="tools" if talk.tools else "messages",
        )  # fmt: skip


def text_of(content: Any, where: str, kinds: Mapping[str, str]) -> str:
    """The text of a content: a text, nothing, or parts of which only texts can be read.

    `kinds`: type of each readable part -> the name of its text.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise UsageError(f"the content of {where} is neither a text nor a list of parts", param="messages")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get(kinds[kind]) if isinstance(kind, str) and kind in kinds else None
        if not isinstance(text, str):
            raise UsageError(
                f"a part of {where} cannot be read: its type is {quoted(kind, 40)}",
                hint=f"text only: {', '.join(kinds)}", param="messages",
            )  # fmt: skip
        texts.append(text)
    return "\n".join(texts) if len(texts) > 1 else "".join(texts)


FUNCTION_TYPES = ("function", None)
# What of a tool is looked at; a function goes to the template as it is, and other kinds are skipped by their names.
TOOL = known("type", "function", types=FUNCTION_TYPES)


def checked_tools(tools: Any) -> list[dict[str, Any]]:
    """Tools in OpenAI's form, without those of other kinds; UsageError for what is none."""
    found = []
    for number, tool in enumerate(tools or []):
        if other_kind(tool):
            continue
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not name:
            raise UsageError(f"tool {number + 1} has no function with a name", param="tools")
        found.append({"type": "function", "function": function})
    return found


def other_kind(tool: Any) -> str:
    """The kind of a tool, such as "web_search", that is not a function and cannot be called here; "" for a function."""
    kind = tool.get("type") if isinstance(tool, dict) else None
    return kind if isinstance(kind, str) and kind != "function" and "function" not in tool else ""


def skipped_tools(tools: Any) -> tuple[str, ...]:
    """The kinds of tools that are left out, for the header."""
    return tuple(dict.fromkeys(f"tools.{kind}" for tool in tools or [] if (kind := other_kind(tool))))
