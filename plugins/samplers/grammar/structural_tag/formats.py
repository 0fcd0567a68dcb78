"""Structural tags as JSON has them: the formats of xgrammar, which vLLM and SGLang take too.

https://xgrammar.mlc.ai/docs/tutorials/structural_tag.html. Our own are `lenient`
and `about` of a schema, `not_begin` and `lark`.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=0, le=1 << 31)]


class Format(msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True, kw_only=True):
    """A part of the text."""


class ConstString(Format, frozen=True, tag="const_string"):
    """Exactly this text."""

    value: str


class JSONSchema(Format, frozen=True, tag="json_schema"):
    """A JSON value. With `lenient` what cannot be enforced is left out; `about` names the schema in messages."""

    json_schema: bool | dict[str, Any]
    style: str = "json"
    lenient: bool = False
    about: str = ""


class Regex(Format, frozen=True, tag="regex"):
    """What an expression matches."""

    pattern: str


class GBNF(Format, frozen=True, tag="grammar"):
    """What a grammar in GBNF allows."""

    grammar: str


class Lark(Format, frozen=True, tag="lark"):
    """What a grammar in lark's notation allows."""

    grammar: str


class AnyText(Format, frozen=True, tag="any_text"):
    """Any text in which none of `excludes` occurs, nor what follows it, and that does not begin with `not_begin`."""

    excludes: list[str] = []
    max_chars: Count | None = None
    not_begin: str = ""


class Token(Format, frozen=True, tag="token"):
    """One token, by its id or text."""

    token: int | str


class ExcludeToken(Format, frozen=True, tag="exclude_token"):
    """One token that is none of these."""

    exclude_tokens: list[int | str] = []


class AnyTokens(Format, frozen=True, tag="any_tokens"):
    """Tokens that are none of these."""

    exclude_tokens: list[int | str] = []
    max_tokens: Count | None = None


class Sequence(Format, frozen=True, tag="sequence"):
    """One after another."""

    elements: list[AnyFormat]


class Or(Format, frozen=True, tag="or"):
    """One of these."""

    elements: list[AnyFormat]


class Optional(Format, frozen=True, tag="optional"):
    """The content or nothing."""

    content: AnyFormat


class Star(Format, frozen=True, tag="star"):
    """The content any number of times."""

    content: AnyFormat


class Plus(Format, frozen=True, tag="plus"):
    """The content at least once."""

    content: AnyFormat


class Repeat(Format, frozen=True, tag="repeat"):
    """The content so many times; a `max` of -1 is without end."""

    content: AnyFormat
    min: Count
    max: Annotated[int, Meta(ge=-1, le=1 << 31)]


class Tag(Format, frozen=True, tag="tag"):
    """The content between a beginning and an end, of which there may be several."""

    begin: str | Token
    content: AnyFormat
    end: str | list[str] | Token


class TriggeredTags(Format, frozen=True, tag="triggered_tags"):
    """Any text; where a trigger occurs in it, a tag that begins with it follows.

    `at_least_one`: it begins with a tag; `stop_after_first`: and ends with the first.
    """

    triggers: list[str]
    tags: list[Tag]
    at_least_one: bool = False
    stop_after_first: bool = False
    excludes: list[str] = []


class TokenTriggeredTags(Format, frozen=True, tag="token_triggered_tags"):
    """The same for tags that begin with a token."""

    trigger_tokens: list[int | str]
    tags: list[Tag]
    exclude_tokens: list[int | str] = []
    at_least_one: bool = False
    stop_after_first: bool = False


class TagsWithSeparator(Format, frozen=True, tag="tags_with_separator"):
    """Tags and nothing but `separator` between them."""

    tags: list[Tag]
    separator: str
    at_least_one: bool = False
    stop_after_first: bool = False


class Dispatch(Format, frozen=True, tag="dispatch"):
    """Any text; where a pattern occurs in it, what stands beside the pattern follows. With `loop` again and again."""

    rules: list[tuple[str, AnyFormat]]
    loop: bool = True
    excludes: list[str] = []


AnyFormat = (
    ConstString | JSONSchema | Regex | GBNF | Lark | AnyText | Token | ExcludeToken | AnyTokens | Sequence | Or
    | Optional | Star | Plus | Repeat | Tag | TriggeredTags | TokenTriggeredTags | TagsWithSeparator | Dispatch
)  # fmt: skip


class Structure(msgspec.Struct, frozen=True):
    """A tag of the first kind of structural tags: a JSON value between two texts."""

    begin: str
    end: str
    schema: bool | dict[str, Any] = True


class StructuralTag(msgspec.Struct, frozen=True):
    """What a request asks for: a format; or `structures` and `triggers`, as it was first."""

    type: str = "structural_tag"
    format: AnyFormat | None = None
    structures: list[Structure] = []
    triggers: list[str] = []
