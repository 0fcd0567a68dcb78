"""Objects and arrays: what follows what, with commas only between what is there."""

from __future__ import annotations

from math import comb
from typing import TYPE_CHECKING, Any

from llamakit.plugins.samplers.grammar.automata import DFA, determinize, product, trimmed
from llamakit.plugins.samplers.grammar.build import EMPTY, NOTHING, alt, repeat, seq, text
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.schema import texts
from llamakit.plugins.samplers.grammar.schema.merge import UNSEEN, normal
from llamakit.plugins.samplers.grammar.schema.scalars import count, excluded_texts, text_conditions, without
from llamakit.plugins.samplers.grammar.schema.valid import all_of, identity, places, value_schemas

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llamakit.plugins.samplers.grammar.ir import Node
    from llamakit.plugins.samplers.grammar.schema.convert import Converter

Schema = dict[str, Any]
MOST_SETS = 300  # sets of values of which each has been in an array, which are written out
MOST_COUNTED = 4000  # places of an object or array, times how many things are counted there
MOST_REGIONS = 16  # kinds of names by the patterns that they match


def object_node(converter: Converter, schema: Schema, pointer: str) -> Node:
    """An object: declared properties in order, then others where they are allowed."""
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise converter.error(pointer, "required", "it is a list of names")
    least, most = (count(converter, schema, pointer, key) for key in ("minProperties", "maxProperties"))
    for excluded in all_of(schema, "not"):
        least = max(least or 0, int({} in excluded.get("enum", ())))
        if any(isinstance(value, dict) and value for value in excluded.get("enum", ())):
            converter.cannot(pointer, "not", "an object cannot be excluded")
    properties, patterns = (_table(converter, schema, pointer, key) for key in ("properties", "patternProperties"))
    automata = {
        name: _name_condition(converter, {"pattern": name}, f"{pointer}/patternProperties") for name in patterns
    }
    known = {name: dfa for name, dfa in automata.items() if dfa is not None}
    if len(known) < len(patterns):
        schema = schema | {"patternProperties": {name: patterns[name] for name in known}}
    pairs = []
    names = list(dict.fromkeys([*properties, *required, *schema.get(UNSEEN, ())]))
    for name in names:
        value = _value(converter, schema, name, pointer)
        if value == NOTHING:
            if name in required:
                return NOTHING
            continue
        pairs.append((converter.pair(texts.literal(name), value), name in required))
    other = _others(converter, schema, pointer, names, known)
    inside = _members(converter, pairs, other, least or 0, most, pointer)
    space = converter.space()
    return seq([text("{"), space, inside, space, text("}")])


def _value(converter: Converter, schema: Schema, name: str, pointer: str) -> Node:
    """The value of a property that is declared or required."""
    if not _named(converter, schema, name, pointer):
        return NOTHING
    whole, *further = value_schemas(schema, name)
    declared = name in schema.get("properties", ())
    place = f"{pointer}/properties/{escaped(name)}" if declared else f"{pointer}/additionalProperties"
    for part in further:
        whole = converter.merged(whole, part, place)
    return converter.visit(whole, place)


def _named(converter: Converter, schema: Schema, name: str, pointer: str) -> bool:
    condition = schema.get("propertyNames", True)
    try:
        return condition is True or converter.validator.holds(name, condition)
    except GrammarError as error:
        converter.cannot(f"{pointer}/propertyNames", "pattern", error.message)
        return True


def _members(
    converter: Converter, pairs: list[tuple[Node, bool]], other: Node | None, least: int, most: int | None, pointer: str
) -> Node:
    """What is between the braces, by how many properties there are already: as far as that matters."""
    comma = seq([text(","), converter.space()])
    if not pairs:
        return _repeated(comma, other, least, most) if other is not None else (EMPTY if least == 0 else NOTHING)
    n_required = sum(required for _, required in pairs)
    if most is not None and (most < n_required or most < least):
        return NOTHING
    least = 0 if least <= n_required else least
    most = None if most is not None and other is None and most >= len(pairs) else most
    if least > len(pairs) and other is None:
        return NOTHING
    counted = max(min(least, len(pairs)), 1) if most is None else min(most, len(pairs))
    if len(pairs) * counted > MOST_COUNTED:
        converter.cannot(pointer, "minProperties" if least else "maxProperties", "there are too many properties")
        least, most, counted = 0, None, 1
    rows = [_tail(comma, other, n, least, most) for n in range(counted + 1)]  # by how many there are, from the end
    for i, (pair, required) in reversed(list(enumerate(pairs))):
        following = []
        for n in range(min(i, counted) + 1):
            step = seq([comma if n else EMPTY, pair])
            full = most is not None and n >= most
            ways = [] if full else [seq([step, rows[min(n + 1, counted)]])]
            ways += [] if required else [rows[n]]
            same = n == counted and most is None  # one rest behind both, whose masks are then made once
            made = seq([repeat(seq([comma, pair]), int(required), 1), rows[n]]) if same else alt(ways)
            simple = n == 0 or made in (NOTHING, EMPTY)
            following.append(made if simple else converter.builder.new_rule("rest", pointer, made))
        rows = following
    return rows[0]


def _tail(comma: Node, other: Node | None, n: int, least: int, most: int | None) -> Node:
    """The properties beyond the declared ones, where there are n already."""
    if other is None:
        return EMPTY if n >= least else NOTHING
    if n == 0:
        return _repeated(comma, other, least, most)
    return repeat(seq([comma, other]), max(least - n, 0), None if most is None else most - n)


def _repeated(comma: Node, item: Node, least: int, most: int | None) -> Node:
    """So many items with commas between them."""
    if most is not None and most < least:
        return NOTHING
    if most == 0:
        return EMPTY
    rest = repeat(seq([comma, item]), max(least - 1, 0), None if most is None else most - 1)
    return repeat(seq([item, rest]), 0 if least == 0 else 1, 1)


def _others(
    converter: Converter, schema: Schema, pointer: str, names: list[str], patterns: dict[str, DFA]
) -> Node | None:
    """A property beyond the declared ones; None if there can be none."""
    hidden = all(part is False for part in schema.get("properties", {}).values())
    extra = schema.get("additionalProperties", schema.get("unevaluatedProperties", hidden and not patterns))
    condition = schema.get("propertyNames", True)
    ways = []
    try:
        for dfa, parts in _regions(converter, condition, pointer, patterns):
            if not parts and extra is False:
                continue
            whole, *further = [schema["patternProperties"][name] for name in parts] or [extra]
            keyword = f"patternProperties/{escaped(parts[0])}" if parts else "additionalProperties"
            for part in further:
                whole = converter.merged(whole, part, pointer)
            value = converter.visit(whole, f"{pointer}/{keyword}")
            if dfa is None and not names:
                name: Node = converter.string()
            else:
                name = texts.of_automaton(_without(texts.both([]) if dfa is None else dfa, names))
            ways.append(converter.pair(name, value))
    except GrammarError as error:
        if error.pointer:
            raise
        converter.cannot(pointer, "patternProperties" if patterns else "propertyNames", error.message)
        ways = [converter.pair(converter.string(), converter.value())]
    found = alt([way for way in ways if way != NOTHING])
    return None if found == NOTHING else found


def _regions(
    converter: Converter, condition: Any, pointer: str, patterns: dict[str, DFA]
) -> list[tuple[DFA | None, list[str]]]:
    """Names by the patterns that they match, each with its automaton; None stands for any name."""
    start = _name_condition(converter, condition, f"{pointer}/propertyNames")
    if start is not None and not any(start.accepting):
        return []
    found: list[tuple[DFA | None, list[str]]] = [(start, [])]
    for pattern, dfa in patterns.items():
        split: list[tuple[DFA | None, list[str]]] = []
        for region, parts in found:
            names = texts.both([]) if region is None else region
            for inside in (True, False):
                part = product(names, dfa, without=not inside)
                if any(part.accepting):
                    split.append((part, [*parts, pattern] if inside else parts))
        found = split
        if len(found) > MOST_REGIONS:
            raise GrammarError(f"its patterns overlap in more than {MOST_REGIONS} ways")
    return found


def _name_condition(converter: Converter, condition: Any, pointer: str) -> DFA | None:
    """What a name must be, as an automaton; None where it can be anything."""
    condition = converter.flat(condition, pointer)
    if condition is True:
        return None
    if condition is False or "string" not in condition.get("type", "string"):
        return DFA.empty()
    for key in condition:
        if key in ("anyOf", "oneOf"):
            converter.cannot(pointer, key, "it is not possible for names")
    least, most = (count(converter, condition, pointer, key) for key in ("minLength", "maxLength"))
    nodes = text_conditions(converter, condition, pointer)
    if "enum" in condition:
        nodes.append(alt([text(name) for name in condition["enum"] if isinstance(name, str)]))
    excluded = [node for each in all_of(condition, "not") for node in excluded_texts(converter, each, pointer)]
    if not nodes and not excluded and not least and most is None:
        return None
    try:
        return without(texts.both(nodes, least or 0, most), excluded)
    except GrammarError as error:
        converter.cannot(pointer, "pattern", error.message)
        return None


def _without(dfa: DFA, names: Iterable[str]) -> DFA:
    """The same without some texts."""
    known = alt([text(name) for name in names])
    return trimmed(dfa) if known == NOTHING else product(dfa, determinize(known), without=True)


def array_node(converter: Converter, schema: Schema, pointer: str) -> Node:
    """An array: the items that have their own schema, then the others."""
    first, items = places(schema)
    if not isinstance(first, list):
        raise converter.error(pointer, "prefixItems", "it is a list of schemas")
    least, most = (count(converter, schema, pointer, key) for key in ("minItems", "maxItems"))
    least = least or 0
    for excluded in all_of(schema, "not"):
        least = max(least, int([] in excluded.get("enum", ())))
        if any(isinstance(value, list) and value for value in excluded.get("enum", ())):
            converter.cannot(pointer, "not", "an array cannot be excluded")
    space = converter.space()
    if schema.get("uniqueItems") is True and (most is None or most > 1):
        node = _unique(converter, items, pointer, least, most) if not first and "contains" not in schema else None
        if node is not None:
            return seq([text("["), space, node, space, text("]")])
        if most is None or most > 1:
            converter.cannot(pointer, "uniqueItems", "only the items of short enumerations can be kept apart")
    if "contains" in schema:
        inside = containing(converter, schema, first, items, least, most, pointer)
    else:
        fixed = [converter.visit(part, f"{pointer}/prefixItems/{i}") for i, part in enumerate(first)]
        rest = converter.visit(items, f"{pointer}/items") if most is None or most > len(fixed) else NOTHING
        inside = _items(converter, fixed, rest, least, most)
    return seq([text("["), space, inside, space, text("]")])


def containing(
    converter: Converter, schema: Schema, first: list[Any], items: Any, least: int, most: int | None, pointer: str
) -> Node:
    """Items of which some are of a certain kind, by how many there are and how many of those."""
    wanted = schema["contains"]
    need, limit = (count(converter, schema, pointer, key) for key in ("minContains", "maxContains"))
    need = 1 if need is None else need
    if "unevaluatedItems" in schema:
        converter.cannot(pointer, "unevaluatedItems", "it stands beside contains")
    counted = max(need, 0 if limit is None else limit)
    longest = max(len(first), least, most or 0, 1)
    if (longest + 1) * (counted + 1) > MOST_COUNTED:
        converter.cannot(pointer, "contains", "there are too many ways to count the items")
        counted, need, limit, longest = 0, 0, None, max(len(first), min(least, MOST_COUNTED // 2))
    opposite = converter.opposite(wanted, f"{pointer}/contains", "maxContains") if limit is not None else True
    comma = seq([text(","), converter.space()])
    kinds: dict[int, tuple[Node, Node]] = {}  # by place: of that kind, and of another (or any, where that is the same)
    for i in range(len(first) + 1):
        part = first[i] if i < len(first) else items
        place = f"{pointer}/prefixItems/{i}" if i < len(first) else f"{pointer}/items"
        pair = [converter.visit(converter.merged(part, side, place), place) for side in (wanted, opposite)]
        kinds[i] = (pair[0], pair[1])
    rules = {
        (i, n): converter.builder.new_rule("items", pointer) for i in range(longest + 1) for n in range(counted + 1)
    }
    for (i, n), rule in rules.items():
        ways: list[Node] = [EMPTY] if i >= least and n >= need else []
        if most is None or i < most:
            inside, outside = kinds[min(i, len(first))]
            after = min(i + 1, longest)
            begin = [comma if i else EMPTY]
            if limit is None or n < limit:
                ways.append(seq([*begin, inside, rules[after, min(n + 1, counted)]]))
            ways.append(seq([*begin, outside, rules[after, n]]))
        converter.builder.define(rule, alt(ways))
    return rules[0, 0]


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
    values = _few(converter, items)
    if values is None or sum(comb(len(values), n) for n in range(min(len(values), most or 99) + 1)) > MOST_SETS:
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
            rules[left] = converter.builder.new_rule("unique", pointer)
            ways = [seq([comma if used else EMPTY, converter.constant(values[i]), following(left - {i})]) for i in left]
            body = repeat(alt(ways), 0, 1) if enough else alt(ways)
            converter.builder.define(rules[left], body)
        return rules[left]

    return following(frozenset(range(len(values))))


def _few(converter: Converter, items: Any) -> list[Any] | None:
    """The values of a schema that has only a few of them, each once; None for others."""
    if not isinstance(items, dict):
        return None
    items = normal(items)
    values = items.get("enum")
    low, high = items.get("minimum"), items.get("maximum")
    if not isinstance(values, list) and items.get("type") == "boolean":
        values = [True, False]
    elif (
        not isinstance(values, list)
        and items.get("type") == "integer"
        and isinstance(low, int)
        and isinstance(high, int)
    ):
        values = list(range(low, min(high, low + MOST_SETS) + 1))
    if not isinstance(values, list) or len(values) > MOST_SETS:
        return None
    return list({identity(value): value for value in values if converter.validator.holds(value, items)}.values())


def _table(converter: Converter, schema: Schema, pointer: str, key: str) -> Schema:
    value = schema.get(key, {})
    if not isinstance(value, dict):
        raise converter.error(pointer, key, "it is an object of schemas by name")
    return value


def escaped(name: str) -> str:
    """A name as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


__all__ = ["array_node", "object_node"]
