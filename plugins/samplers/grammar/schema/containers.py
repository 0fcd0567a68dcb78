"""Objects and arrays: what follows what, with commas only between what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamakit.plugins.samplers.grammar.automata import DFA, determinize, product, trimmed
from llamakit.plugins.samplers.grammar.build import EMPTY, NOTHING, alt, repeat, seq, text
from llamakit.plugins.samplers.grammar.charset import EVERYTHING
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.schema import texts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llamakit.plugins.samplers.grammar.ir import Node
    from llamakit.plugins.samplers.grammar.schema.convert import Converter

Schema = dict[str, Any]
MOST_UNIQUE = 8  # values of an enumeration whose arrays are written out


def object_node(converter: Converter, schema: Schema, pointer: str) -> Node:
    """An object: declared properties in order, then others where they are allowed."""
    from llamakit.plugins.samplers.grammar.schema.convert import count

    properties = _table(converter, schema, pointer, "properties")
    required = schema.get("required", [])
    if not isinstance(required, list):
        raise converter.error(pointer, "required", "it is a list of names")
    least, most = (count(converter, schema, pointer, key) for key in ("minProperties", "maxProperties"))
    pairs = []
    for name, part in properties.items():
        value = converter.visit(part, f"{pointer}/properties/{_escaped(name)}")
        if value == NOTHING:
            if name in required:
                return NOTHING
            continue
        pairs.append((converter.pair(texts.literal(name), value), name in required))
    other = _others(converter, schema, pointer, list(properties))
    missing = [name for name in required if name not in properties]
    for name in missing:
        pairs.append((converter.pair(texts.literal(name), _of_others(converter, schema, pointer)), True))
    if missing and other is not None:
        other = _others(converter, schema, pointer, [*properties, *missing])
    inside = _members(converter, pairs, other, least or 0, most, pointer)
    space = converter.space()
    return seq([text("{"), space, inside, space, text("}")])


def _of_others(converter: Converter, schema: Schema, pointer: str) -> Node:
    """The value of a property that is required but not declared."""
    extra = schema.get("additionalProperties", True)
    return converter.visit(extra, f"{pointer}/additionalProperties")


def _members(
    converter: Converter, pairs: list[tuple[Node, bool]], other: Node | None, least: int, most: int | None, pointer: str
) -> Node:
    comma = seq([text(","), converter.space()])
    n_required = sum(required for _, required in pairs)
    if not pairs:
        return _repeated(comma, other, least, most) if other is not None else (EMPTY if least == 0 else NOTHING)
    if (least > n_required or (most is not None and (most < len(pairs) or other is not None))) and (
        n_required != len(pairs) or other is not None
    ):
        converter.cannot(pointer, "minProperties", "it stands beside optional properties")
    elif least > n_required or (most is not None and most < n_required):
        return NOTHING
    tail = repeat(seq([comma, other]), 0, None) if other is not None else EMPTY
    rests: list[Node] = [tail]  # what may follow when something was there already, from the end
    for pair, required in reversed(pairs):
        step = seq([comma, pair])
        rest = rests[-1]
        part = seq([step if required else repeat(step, 0, 1), rest])
        rests.append(converter.builder.new_rule("rest", pointer, part))
    rests.reverse()  # rests[i]: from property i on
    ways: list[Node] = []
    for i, (pair, required) in enumerate(pairs):
        ways.append(seq([pair, rests[i + 1]]))
        if required:
            return alt(ways)
    if other is not None:
        ways.append(seq([other, tail]))
    return repeat(alt(ways), 0, 1)


def _repeated(comma: Node, item: Node, least: int, most: int | None) -> Node:
    """So many items with commas between them."""
    if most is not None and most < least:
        return NOTHING
    if most == 0:
        return EMPTY
    rest = repeat(seq([comma, item]), max(least - 1, 0), None if most is None else most - 1)
    return repeat(seq([item, rest]), 0 if least == 0 else 1, 1)


def _others(converter: Converter, schema: Schema, pointer: str, names: list[str]) -> Node | None:
    """A property beyond the declared ones; None if there can be none."""
    patterns = _table(converter, schema, pointer, "patternProperties")
    extra = schema.get("additionalProperties", True if not names and not patterns else None)
    ways = []
    if len(patterns) > 1:
        converter.cannot(pointer, "patternProperties", "with several patterns a name may match more than one")
    taken: list[DFA] = []
    for pattern, part in patterns.items():
        place = f"{pointer}/patternProperties/{_escaped(pattern)}"
        dfa = _name_condition(converter, {"pattern": pattern}, place)
        if dfa is None:
            continue
        value = converter.visit(part, place)
        ways.append(converter.pair(_name(_without(dfa, names)), value))
        taken.append(dfa)
    if extra is not None and extra is not False:
        value = converter.visit(extra, f"{pointer}/additionalProperties")
        ways.append(converter.pair(_other_name(converter, schema, pointer, names, taken), value))
    found = alt([way for way in ways if way != NOTHING])
    return None if found == NOTHING else found


def _other_name(converter: Converter, schema: Schema, pointer: str, names: list[str], taken: list[DFA]) -> Node:
    """The name of a property that is neither declared nor matches a pattern."""
    condition = schema.get("propertyNames", True)
    if condition is False:
        return NOTHING
    if isinstance(condition, dict) and "$ref" in condition:
        condition = converter.resolve(condition["$ref"], pointer)
    if isinstance(condition, dict) and ("enum" in condition or "const" in condition):
        values = [condition["const"]] if "const" in condition else condition["enum"]
        return alt([texts.literal(v) for v in values if isinstance(v, str) and v not in names])
    plain = condition is True or not set(condition) & {"pattern", "minLength", "maxLength", "format"}
    if plain and not names and not taken:
        return converter.string()
    dfa = _name_condition(converter, {} if plain else condition, f"{pointer}/propertyNames")
    dfa = _anything() if dfa is None else dfa
    for other in taken:
        dfa = product(dfa, other, without=True)
    return _name(_without(dfa, names))


def _name_condition(converter: Converter, condition: Schema, pointer: str) -> DFA | None:
    """What a name must be, as an automaton; None where it cannot be said."""
    from llamakit.plugins.samplers.grammar.regex import parse_pattern
    from llamakit.plugins.samplers.grammar.schema.convert import count
    from llamakit.plugins.samplers.grammar.schema.formats import format_node

    least, most = (
        count(converter, condition, pointer, "minLength") or 0,
        count(converter, condition, pointer, "maxLength"),
    )
    try:
        nodes = [parse_pattern(condition["pattern"], search=True)] if "pattern" in condition else []
        named = format_node(condition["format"]) if "format" in condition else None
        nodes += [named] if named is not None else []
        if not nodes and least == 0 and most is None:
            return _anything()
        return texts.both(nodes, least, most) if nodes else product(_anything(), texts.of_length(least, most))
    except GrammarError as error:
        converter.cannot(pointer, "pattern", error.message)
        return None


def _anything() -> DFA:
    dfa = DFA()
    dfa.add(True)
    dfa.edges[0] = [(lo, hi, 0) for lo, hi in EVERYTHING]
    return dfa


def _without(dfa: DFA, names: Iterable[str]) -> DFA:
    """The same without some texts."""
    known = alt([text(name) for name in names])
    return trimmed(dfa) if known == NOTHING else product(dfa, determinize(known), without=True)


def _name(dfa: DFA) -> Node:
    if not any(dfa.accepting):
        return NOTHING
    return texts.quoted(texts.encoded_automaton(dfa.node()))


def array_node(converter: Converter, schema: Schema, pointer: str) -> Node:
    """An array: the items that have their own schema, then the others."""
    from llamakit.plugins.samplers.grammar.schema.convert import count

    first = schema.get("prefixItems", [])
    items = schema.get("items", True)
    if isinstance(items, list):  # as drafts before 2020 wrote it
        first, items = items, schema.get("additionalItems", True)
    if not isinstance(first, list):
        raise converter.error(pointer, "prefixItems", "it is a list of schemas")
    least, most = (count(converter, schema, pointer, key) for key in ("minItems", "maxItems"))
    least = least or 0
    space = converter.space()
    if schema.get("uniqueItems") is True and (most is None or most > 1):
        node = _unique(converter, items, pointer, least, most) if not first else None
        if node is not None:
            return seq([text("["), space, node, space, text("]")])
        converter.cannot(pointer, "uniqueItems", "only the items of short enumerations can be kept apart")
    fixed = [converter.visit(part, f"{pointer}/prefixItems/{i}") for i, part in enumerate(first)]
    rest = converter.visit(items, f"{pointer}/items") if most is None or most > len(fixed) else NOTHING
    return seq([text("["), space, _items(converter, fixed, rest, least, most), space, text("]")])


def _items(converter: Converter, fixed: list[Node], rest: Node, least: int, most: int | None) -> Node:
    comma = seq([text(","), converter.space()])
    most_rest = None if most is None else max(most - len(fixed), 0)
    if not fixed:
        return _repeated(comma, rest, least, 0 if rest == NOTHING else most)
    least_rest = max(least - len(fixed), 0)
    if rest == NOTHING:
        node: Node = EMPTY if least_rest == 0 else NOTHING
    else:
        node = repeat(seq([comma, rest]), least_rest, most_rest)
    for i in range(len(fixed) - 1, -1, -1):
        if most is not None and i >= most:
            node = EMPTY
            continue
        part = seq([comma, fixed[i], node]) if i else seq([fixed[i], node])
        node = part if i < least else repeat(part, 0, 1)
    return node


def _unique(converter: Converter, items: Any, pointer: str, least: int, most: int | None) -> Node | None:
    """Arrays of different values out of a short enumeration, written out by what is left; None for other items."""
    if isinstance(items, dict) and "$ref" in items:
        items = converter.resolve(items["$ref"], pointer)
    values = items.get("enum") if isinstance(items, dict) else None
    if isinstance(items, dict) and items.get("type") == "boolean":
        values = [True, False]
    if not isinstance(values, list) or len(values) > MOST_UNIQUE:
        return None
    comma = seq([text(","), converter.space()])
    rules: dict[frozenset[int], Node] = {}

    def following(left: frozenset[int]) -> Node:
        """What may come behind the values that are used up."""
        used = len(values) - len(left)
        if left not in rules:
            enough = used >= least
            if (most is not None and used >= most) or not left:
                return EMPTY if enough else NOTHING
            ways = [seq([comma if used else EMPTY, converter.constant(values[i]), following(left - {i})]) for i in left]
            body = repeat(alt(ways), 0, 1) if enough else alt(ways)
            rules[left] = converter.builder.new_rule("unique", pointer, body)
        return rules[left]

    return following(frozenset(range(len(values))))


def _table(converter: Converter, schema: Schema, pointer: str, key: str) -> Schema:
    value = schema.get(key, {})
    if not isinstance(value, dict):
        raise converter.error(pointer, key, "it is an object of schemas by name")
    return value


def _escaped(name: str) -> str:
    """A name as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


__all__ = ["array_node", "object_node"]
