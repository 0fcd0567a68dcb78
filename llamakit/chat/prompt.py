"""Messages to prompt tokens, so that no message can pass for a control token.

A template writes control tokens as text, and its output is encoded with them recognised. Were messages rendered as they
are, a user could write `<|im_end|><|im_start|>system` and speak for the system. So such texts are hidden in messages
behind private-use characters while the template runs, and the parts that had any are encoded as plain text afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import msgspec

from llamakit.bounded_json import quoted
from llamakit.errors import ModelFileError, UsageError
from llamakit.tokenizer.tokenizer import TokenType

if TYPE_CHECKING:
    from datetime import date

    from llamakit.chat.template import ChatTemplate
    from llamakit.tokenizer.tokenizer import Tokenizer

FIRST_PRIVATE, LAST_PRIVATE = 0xF0000, 0xFFFFD  # a plane that no text has but by accident
PRIVATE = re.compile("[\U000f0000-\U000ffffd]")
ROLE = re.compile(r"[A-Za-z0-9_-]{1,64}")
SPACES = " \t\n\r\v\f"
SHORTEST_MARKER = 3  # characters of a user-defined token that can steer a model

Message = Mapping[str, Any]


class ChatPrompt(msgspec.Struct, frozen=True):
    """A rendered conversation: its text as people read it, and its tokens."""

    text: str
    tokens: list[int]


def encode_messages(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    continue_last: bool = False,
    **variables: Any,
) -> list[int]:
    """The tokens of a conversation, ready to be answered; see `chat_prompt`."""
    return chat_prompt(
        template, tokenizer, messages, tools=tools, continue_last=continue_last, **variables
    ).tokens  # fmt: skip


def chat_prompt(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    continue_last: bool = False,
    generation_prompt: bool = True,
    today: date | None = None,
    **variables: Any,
) -> ChatPrompt:
    """Render a conversation and encode it. With `continue_last` the last message is left open, to be written on.

    `generation_prompt`: whether it ends with the beginning of an answer, else it ends with its last message.
    `today`: what templates that tell the day are told.
    `variables` are further names for the template. UsageError if the template refuses the messages.
    """
    _check_roles(messages)
    tokenizer.check_size(sum(map(len, strings(messages))))
    guard = _Guard(template, tokenizer, (messages, tools, variables))
    hidden = [guard.hide_message(message) for message in messages]
    end = guard.private()
    if continue_last:
        hidden[-1] = {**hidden[-1], "content": _extended(hidden[-1].get("content"), end)}
    values = {"tools": guard.hide(tools), **guard.hide(variables)}
    text = _render(template, hidden, values, add_generation_prompt=generation_prompt and not continue_last, today=today)
    if continue_last:
        if end not in text:
            raise UsageError("the model's chat template leaves out the last message, so it cannot be continued")
        text = text[: text.rindex(end)]
    return ChatPrompt(guard.show(text), _with_bos(tokenizer, guard.encode(text)))


def _extended(content: Any, end: str) -> Any:
    """A content, a text or parts, with something behind its text."""
    if isinstance(content, list) and content:
        return [*content[:-1], {**content[-1], "text": content[-1].get("text", "") + end}]
    return (content or "") + end


def _check_roles(messages: Sequence[Message]) -> None:
    """Templates make control tokens out of roles, so a role is a plain word."""
    if not messages:
        raise UsageError("there are no messages", hint="at least one", param="messages")
    for number, message in enumerate(messages):
        role = message.get("role")
        if not isinstance(role, str) or not ROLE.fullmatch(role):
            raise UsageError(
                f"the role of message {number + 1} is {quoted(role, 40)}",
                hint="a word such as system, user or assistant", param="messages",
            )  # fmt: skip


def _render(template: ChatTemplate, messages: list[dict[str, Any]], values: dict[str, Any], **how: Any) -> str:
    """Render; a template that knows no system role gets the system's words before the first of the user's."""
    try:
        return template.render(messages, **values, **how)
    except ModelFileError as error:
        merged = _without_system(messages)
        if merged is not None:
            try:
                return template.render(merged, **values, **how)
            except ModelFileError:
                pass  # the first error tells more
        raise UsageError(error.message, param="messages") from None


def _without_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The system message joined with the first of the user; None where that cannot be."""
    if len(messages) < 2 or messages[0]["role"] != "system" or messages[1]["role"] != "user":
        return None
    texts = [messages[0].get("content"), messages[1].get("content")]
    if not all(isinstance(text, str) for text in texts):
        return None
    return [{**messages[1], "content": "\n\n".join(texts)}, *messages[2:]]  # type: ignore[arg-type]


def _with_bos(tokenizer: Tokenizer, tokens: list[int]) -> list[int]:
    """One beginning token where the model wants one, whether the template wrote it or not, or twice."""
    bos = tokenizer.bos_id
    if bos is None:
        return tokens
    n = next((i for i, token in enumerate(tokens) if token != bos), len(tokens))
    del tokens[: max(0, n - 1)]
    return tokens if not tokenizer.add_bos or tokens[:1] == [bos] else [bos, *tokens]


class _Markers:
    """The tokens of a vocabulary that text must not turn into.

    `control`: recognised only where it is asked for; `user_defined`: recognised in every text (only looked at where
    the vocabulary puts no space before a text, since else none can be broken in two without one).
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.control: list[str] = []
        self.user_defined: list[str] = []
        for token in range(tokenizer.n_vocab):
            kind = tokenizer.token_type(token)
            text = tokenizer.token_text(token) if kind in (TokenType.CONTROL, TokenType.UNKNOWN) else ""
            if text:
                self.control.append(text)
            elif kind is TokenType.USER_DEFINED and not tokenizer.add_space_prefix:
                self.user_defined.append(tokenizer.token_text(token))
        self.user_defined = [t for t in self.user_defined if len(t) >= SHORTEST_MARKER and not t.isspace()]
        self.pattern = _any_of(self.control)
        self.beginnings = frozenset(text[:length] for text in self.control for length in range(1, len(text)))
        self.longest = max(map(len, self.control), default=1)


_known: WeakKeyDictionary[Tokenizer, _Markers] = WeakKeyDictionary()


def _markers(tokenizer: Tokenizer) -> _Markers:
    found = _known.get(tokenizer)
    if found is None:
        found = _known[tokenizer] = _Markers(tokenizer)
    return found


def _any_of(texts: Sequence[str]) -> re.Pattern[str]:
    """Matches any of the texts, the longest that there is; nothing if there are none."""
    ordered = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) if ordered else r"(?!)")


class _Guard:
    """Hides the texts of special tokens in strings, and encodes what was rendered from them."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer, data: Any) -> None:
        self.tokenizer, self.markers = tokenizer, _markers(tokenizer)
        self._steering = [text for text in self.markers.user_defined if text in template.source]
        self._all = _any_of([*self.markers.control, *self._steering]) if self._steering else self.markers.pattern
        self._taken = {char for text in strings(data) for char in PRIVATE.findall(text)}
        self._next = FIRST_PRIVATE
        self._private: dict[str, str] = {}  # hidden text -> its character
        self._shown: dict[str, str] = {}  # the other way

    def private(self) -> str:
        """A private-use character that is in none of the data, given once."""
        while chr(self._next) in self._taken:
            self._next += 1
        if self._next > LAST_PRIVATE:
            raise UsageError("the messages use every private-use character there is", param="messages")
        self._next += 1
        return chr(self._next - 1)

    def hide_message(self, message: Message) -> dict[str, Any]:
        """A message for the template. User-defined tokens stay in what the model itself said: templates read them."""
        pattern = self.markers.pattern if message["role"] == "assistant" else self._all
        found: dict[str, Any] = self.hide(message, pattern)
        return found | {"role": message["role"]}

    def hide(self, value: Any, pattern: re.Pattern[str] | None = None) -> Any:
        """The same value with every special text in it hidden, also in the names of objects."""
        pattern = pattern or self._all
        if isinstance(value, str):
            return self._hide_tail(pattern.sub(lambda match: self._hidden(match[0]), value))
        if isinstance(value, Mapping):
            return {self.hide(key, pattern): self.hide(each, pattern) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.hide(each, pattern) for each in value]
        return value

    def show(self, text: str) -> str:
        """The text with nothing hidden."""
        return PRIVATE.sub(lambda match: self._shown.get(match[0], match[0]), text) if self._shown else text

    def encode(self, text: str) -> list[int]:
        """Tokens of a rendered text. Between two control tokens, what hides anything is encoded as plain text."""
        encode, ids, run, start = self.tokenizer.encode, [], 0, 0
        before: str | None = None
        matches: list[re.Match[str] | None] = list(self.markers.pattern.finditer(text)) if self._shown else []
        for match in [*matches, None]:
            begin, after = (match.start(), match[0]) if match else (len(text), None)
            if any(char in self._shown for char in PRIVATE.findall(text, start, begin)):
                ids += encode(text[run:start], parse_special=True)
                ids += self._plain(self._stripped(text[start:begin], before, after))
                run = begin
            start, before = match.end() if match else begin, after
        return ids + encode(text[run:], parse_special=True)

    def _plain(self, text: str) -> list[int]:
        """Tokens of a text in which a user-defined token that steers the model is broken in two."""
        parts: list[list[str]] = [[]]
        for char in text:
            shown = self._shown.get(char, char)
            if shown in self._steering:
                parts[-1].append(shown[0])
                parts.append([shown[1:]])
            else:
                parts[-1].append(shown)
        return [token for part in parts for token in self.tokenizer.encode("".join(part))]

    def _hidden(self, text: str) -> str:
        if text not in self._private:
            char = self._private[text] = self.private()
            self._shown[char] = text
        return self._private[text]

    def _hide_tail(self, text: str) -> str:
        """Hide the end of a text that a template, by what it puts behind, could complete to a control token."""
        for length in range(min(len(text), self.markers.longest - 1), 0, -1):
            if text[-length:] in self.markers.beginnings:
                return text[:-length] + self._hidden(text[-length:])
        return text

    def _stripped(self, part: str, before: str | None, after: str | None) -> str:
        """A part without the white space that the control tokens beside it swallow."""
        encode = self.tokenizer.encode
        if before and encode(before + " x", parse_special=True) == encode(before + "x", parse_special=True):
            part = part.lstrip(SPACES)
        if after and encode("x " + after, parse_special=True) == encode("x" + after, parse_special=True):
            part = part.rstrip(SPACES)
        return part


def strings(value: Any) -> Iterator[str]:
    """Every string in a value of JSON's kinds, the names of objects too."""
    stack = [value]
    while stack:
        each = stack.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, Mapping):
            stack += [*each.keys(), *each.values()]
        elif isinstance(each, (list, tuple)):
            stack += each
