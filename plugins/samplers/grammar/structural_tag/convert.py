"""The formats of a structural tag as nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from llamakit.plugins.samplers.grammar import LONGEST
from llamakit.plugins.samplers.grammar.automata import DFA, determinize, of_length, product
from llamakit.plugins.samplers.grammar.build import ANY, EMPTY, Builder, alt, optional, repeat, seq, text
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.ir import Tokens
from llamakit.plugins.samplers.grammar.regex import parse_pattern, parse_regex
from llamakit.plugins.samplers.grammar.structural_tag import formats as f
from llamakit.plugins.samplers.grammar.structural_tag.free_text import without

from llamakit.bounded_json import decode
from llamakit.typed import convert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from llamakit.plugins.samplers.grammar.ir import Grammar, Node, Ref

PARAM = "structural_tag"
MOST_FREE = 1000  # characters of all the texts that a free text must not have
MOST_FREE_TOGETHER = 10_000  # for all free texts
MOST_NESTED = 60
Stops = tuple[str, ...]  # what follows, as far as that is known


def read(source: dict[str, Any] | str) -> f.AnyFormat:
    """The format that is asked for; GrammarError for anything else."""
    if not isinstance(source, str) and len(msgspec.json.encode(source)) > LONGEST:
        raise GrammarError(f"the structural tag has more than {LONGEST:,} characters", param=PARAM)
    try:
        value = decode(source.encode(), PARAM, PARAM)[0] if isinstance(source, str) else source
        tag = convert(value, f.StructuralTag)
    except RecursionError:
        raise GrammarError("the structural tag is nested too deep", param=PARAM) from None
    except msgspec.DecodeError as error:
        raise GrammarError(f"structural_tag: {error}", param=PARAM) from None
    if tag.type != "structural_tag":
        raise GrammarError(f"a structural tag of type {tag.type[:40]!r}", hint="structural_tag", param=PARAM)
    if tag.format is not None:
        return tag.format
    if not tag.structures:
        raise GrammarError("a structural tag has neither format nor structures", param=PARAM)
    tags = [f.Tag(begin=s.begin, content=f.JSONSchema(json_schema=s.schema), end=s.end) for s in tag.structures]
    return f.TriggeredTags(triggers=tag.triggers, tags=tags)


class Converter:
    """Makes the rules of one structural tag."""

    def __init__(self, token_ids: Callable[[str], list[int]] | None, left_out: list[str]) -> None:
        self._token_ids, self._left_out = token_ids, left_out
        self._builder = Builder()
        self._schemas: dict[bytes, Ref] = {}
        self._n_free, self._depth = 0, 0
        self._free: dict[tuple[frozenset[str], int | None, str], Node] = {}

    def grammar(self, format: f.AnyFormat) -> Grammar:
        """The rules, beginning with `root`."""
        root = self._builder.new_rule("root", "format")
        self._builder.define(root, self._node(format, (), "format"))
        return self._builder.grammar(root)

    def _node(self, format: f.AnyFormat, stops: Stops, where: str) -> Node:
        """What a format allows where `stops` may follow it."""
        if self._depth >= MOST_NESTED:
            raise GrammarError(f"a structural tag has more than {MOST_NESTED} formats within one another", param=PARAM)
        self._depth += 1
        made = self._made(format, stops, where)
        self._depth -= 1
        return made

    def _made(self, format: f.AnyFormat, stops: Stops, where: str) -> Node:
        match format:
            case f.ConstString():
                return text(format.value)
            case f.JSONSchema():
                return self._schema(format, where)
            case f.Regex() | f.GBNF() | f.Lark():
                return self._language(format, where)
            case f.AnyText():
                return self._text([*format.excludes, *stops], where, format)
            case f.Token():
                return Tokens(self._ids([format.token], where), False)
            case f.ExcludeToken():
                return Tokens(self._ids(format.exclude_tokens, where), True)
            case f.AnyTokens():
                return repeat(Tokens(self._ids(format.exclude_tokens, where), True), 0, format.max_tokens)
            case f.Sequence():
                return self._sequence(format.elements, stops, where)
            case f.Or():
                ways = self._elements(format.elements, stops, where)
                return self._joined(alt(ways), ways, where)
            case f.Optional() | f.Star() | f.Plus() | f.Repeat():
                return self._repeat(format, stops, where)
            case f.Tag():
                return self._tag(format, where)
            case f.TagsWithSeparator():
                return self._separated(format, where)
            case f.Dispatch():
                return self._dispatch(format, stops, where)
            case f.TriggeredTags():
                return self._triggered(format, stops, where)
            case f.TokenTriggeredTags():
                return self._token_triggered(format, where)

    # -- what is put together ------------------------------------------------------------------------------------

    def _joined(self, node: Node, parts: Iterable[Node], where: str) -> Node:
        """The node, or a rule of its own where it has become too deep."""
        return self._builder.shallow(node, parts, where.rpartition(".")[2].partition("[")[0], where)

    def _elements(self, elements: list[f.AnyFormat], stops: Stops, where: str) -> list[Node]:
        return [self._node(each, stops, f"{where}.elements[{i}]") for i, each in enumerate(elements)]

    def _sequence(self, elements: list[f.AnyFormat], stops: Stops, where: str) -> Node:
        parts: list[Node] = []
        for i in range(len(elements) - 1, -1, -1):
            parts.append(self._node(elements[i], stops, f"{where}.elements[{i}]"))
            stops = _before(elements[i], stops)
        parts.reverse()
        return self._joined(seq(parts), parts, where)

    def _repeat(self, format: f.Optional | f.Star | f.Plus | f.Repeat, stops: Stops, where: str) -> Node:
        least, most = _times(format)
        if most is not None and most < least:
            raise GrammarError(f"{where}: max is {most}, less than min, {least}", param=PARAM)
        again = () if most == 1 else _before(format.content, ())
        item = self._node(format.content, (*again, *stops), f"{where}.content")
        return self._joined(repeat(item, least, most), [item], where)

    def _tag(self, tag: f.Tag, where: str) -> Node:
        ends = tag.end if isinstance(tag.end, list) else [tag.end]
        if not ends:
            raise GrammarError(f"{where}.end names no end", hint='a text, also ""', param=PARAM)
        stops = tuple(end for end in ends if isinstance(end, str) and end)
        content = self._node(tag.content, stops, f"{where}.content")
        begin = self._marker(tag.begin, f"{where}.begin")
        end = alt(self._marker(each, f"{where}.end") for each in ends)
        return self._joined(seq([begin, content, end]), [begin, content, end], where)

    def _marker(self, marker: str | f.Token, where: str) -> Node:
        return text(marker) if isinstance(marker, str) else self._node(marker, (), where)

    def _tags(self, tags: list[f.Tag], where: str) -> Node:
        if not tags:
            raise GrammarError(f"{where} has no tags", param=PARAM)
        ways = [self._tag(tag, f"{where}.tags[{i}]") for i, tag in enumerate(tags)]
        return self._builder.new_rule("tag", where, alt(ways))

    def _separated(self, format: f.TagsWithSeparator, where: str) -> Node:
        tag = self._tags(format.tags, where)
        more = EMPTY if format.stop_after_first else repeat(seq([text(format.separator), tag]), 0, None)
        row = seq([tag, more])
        return row if format.at_least_one else optional(row)

    # -- text with something in it -------------------------------------------------------------------------------

    def _dispatch(self, format: f.Dispatch, stops: Stops, where: str) -> Node:
        patterns = [pattern for pattern, _ in format.rules]
        free = self._text([*patterns, *format.excludes, *stops], where)
        ways = []
        for i, (pattern, content) in enumerate(format.rules):
            node = self._node(content, (*patterns, *stops), f"{where}.rules[{i}]")
            ways.append(self._joined(seq([text(pattern), node]), [node], where))
        return self._with_text(free, alt(ways), once=not format.loop, where=where)

    def _triggered(self, format: f.TriggeredTags, stops: Stops, where: str) -> Node:
        for tag in format.tags:
            if not isinstance(tag.begin, str) or not any(tag.begin.startswith(t) for t in format.triggers):
                begin = tag.begin if isinstance(tag.begin, str) else "a token"
                raise GrammarError(f"{where}: no trigger begins the tag {begin[:40]!r}", param=PARAM)
        tags = self._tags(format.tags, where)
        if format.at_least_one and format.stop_after_first:
            return tags
        free = self._text([*format.triggers, *format.excludes, *stops], where)
        rest = self._with_text(free, tags, once=format.stop_after_first, where=where)
        return seq([tags, rest]) if format.at_least_one else rest

    def _token_triggered(self, format: f.TokenTriggeredTags, where: str) -> Node:
        tags = self._tags(format.tags, where)
        if format.at_least_one and format.stop_after_first:
            return tags
        excluded = self._ids([*format.trigger_tokens, *format.exclude_tokens], where)
        rest = self._with_text(repeat(Tokens(excluded, True), 0, None), tags, once=format.stop_after_first, where=where)
        return seq([tags, rest]) if format.at_least_one else rest

    def _with_text(self, free: Node, way: Node, *, once: bool, where: str) -> Node:
        """Free text with ways in it; with `once` the first one ends it."""
        if once:
            return seq([free, optional(way)])
        turn = self._builder.new_rule("turn", where, seq([way, free]))
        return seq([free, repeat(turn, 0, None)])

    def _text(self, excludes: list[str], where: str, more: f.AnyText | None = None) -> Node:
        """Any text that has none of the others in it."""
        unwanted = frozenset(excludes)
        max_chars, not_begin = (None, "") if more is None else (more.max_chars, more.not_begin)
        if "" in unwanted:
            raise GrammarError(f"{where}: every text has the empty text in it", param=PARAM)
        if not unwanted and not not_begin:
            return repeat(ANY, 0, max_chars)
        key = (unwanted, max_chars, not_begin)
        if key not in self._free:
            size = sum(map(len, unwanted))
            self._n_free += size
            if size > MOST_FREE or self._n_free > MOST_FREE_TOGETHER:
                most = f"{MOST_FREE:,} characters, or {MOST_FREE_TOGETHER:,} in all free texts"
                raise GrammarError(f"{where}: the texts not to occur have more than {most}", param=PARAM)
            dfa = without(unwanted)
            if not_begin:
                dfa = product(dfa, _beginning_with(not_begin, where), without=True)
            if max_chars is not None:
                dfa = product(dfa, of_length(0, max_chars))
            self._free[key] = self._builder.new_rule("text", where, dfa.node())
        return self._free[key]

    # -- other languages -----------------------------------------------------------------------------------------

    def _schema(self, format: f.JSONSchema, where: str) -> Node:
        from llamakit.plugins.samplers.grammar.schema import schema_to_grammar

        if format.style != "json":
            raise GrammarError(f"{where}: the style {format.style[:40]!r} is not possible", hint="json", param=PARAM)
        key = msgspec.json.encode([format.json_schema, format.lenient])
        if key not in self._schemas:
            about = format.about or where
            try:
                grammar, left_out = schema_to_grammar(format.json_schema, lenient=format.lenient)
            except GrammarError as error:
                if not format.lenient:
                    raise _within(about, error) from None
                grammar, _ = schema_to_grammar({"type": "object"} if _is_object(format.json_schema) else True)
                left_out = [error.message]
            self._left_out += [f"{about}: {each}" for each in left_out]
            self._schemas[key] = self._builder.include(grammar)
        return self._schemas[key]

    def _language(self, format: f.Regex | f.GBNF | f.Lark, where: str) -> Node:
        from llamakit.plugins.samplers.grammar.gbnf import parse_gbnf
        from llamakit.plugins.samplers.grammar.lark_notation import parse_lark

        try:
            match format:
                case f.Regex():
                    grammar = parse_regex(format.pattern)
                case f.GBNF():
                    grammar = parse_gbnf(format.grammar, token_ids=self._token_ids, warnings=[])
                case f.Lark():
                    grammar = parse_lark(format.grammar, token_ids=self._token_ids, warnings=[])
        except GrammarError as error:
            raise _within(where, error) from None
        return self._builder.include(grammar)

    def _ids(self, tokens: list[int | str], where: str) -> tuple[int, ...]:
        """Ids of tokens; GrammarError for a text that is not one token."""
        return tuple(sorted({self._id(token, where) for token in tokens}))

    def _id(self, token: int | str, where: str) -> int:
        if isinstance(token, int):
            if token < 0:
                raise GrammarError(f"{where}: there is no token {token}", param=PARAM)
            return token
        if self._token_ids is None:
            raise GrammarError(f"{where} names the token {token[:40]!r}, which needs the vocabulary of a model")
        ids = self._token_ids(token)
        if len(ids) != 1:
            raise GrammarError(f"{where}: {token[:40]!r} is {len(ids)} tokens", hint="the text of one", param=PARAM)
        return ids[0]


def _beginning_with(pattern: str, where: str) -> DFA:
    """All texts that begin with what an expression matches."""
    try:
        return determinize(seq([parse_pattern(pattern, search=False), repeat(ANY, 0, None)]))
    except GrammarError as error:
        raise _within(where, error) from None


def _within(where: str, error: GrammarError) -> GrammarError:
    """The same error, with the part of the structural tag that it is in."""
    return GrammarError(
        f"{where}: {error.message}", line=error.line, column=error.column, pointer=error.pointer,
        keyword=error.keyword, found=error.found, hint=error.hint, param=PARAM,
    )  # fmt: skip


def _is_object(schema: bool | dict[str, Any]) -> bool:
    return isinstance(schema, dict) and (schema.get("type") == "object" or "properties" in schema)


def _times(format: f.Optional | f.Star | f.Plus | f.Repeat) -> tuple[int, int | None]:
    match format:
        case f.Optional():
            return 0, 1
        case f.Star():
            return 0, None
        case f.Plus():
            return 1, None
        case f.Repeat():
            return format.min, None if format.max < 0 else format.max


def _before(format: f.AnyFormat, stops: Stops) -> Stops:
    """What may follow a free text before a format, as far as that is texts; `stops` are what may follow the format."""
    match format:
        case f.ConstString():
            return (format.value,) if format.value else stops
        case f.Tag():
            return (format.begin,) if isinstance(format.begin, str) and format.begin else ()
        case f.TagsWithSeparator():
            begins = tuple(tag.begin for tag in format.tags if isinstance(tag.begin, str) and tag.begin)
            return begins if format.at_least_one else (*begins, *stops)
        case f.Or():
            return tuple({stop: None for each in format.elements for stop in _before(each, stops)})
        case f.Sequence():
            for each in reversed(format.elements):
                stops = _before(each, stops)
            return stops
        case f.Optional() | f.Star() | f.Plus() | f.Repeat():
            own = _before(format.content, stops)
            return own if _times(format)[0] else (*own, *stops)
    return ()
