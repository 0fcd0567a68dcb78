"""Strings and numbers with their conditions."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from llamakit.plugins.samplers.grammar.automata import DFA, determinize, product
from llamakit.plugins.samplers.grammar.build import NOTHING, alt, text
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.schema import numbers, texts
from llamakit.plugins.samplers.grammar.schema.formats import WITHOUT_EFFECT, format_node
from llamakit.plugins.samplers.grammar.schema.patterns import pattern_node
from llamakit.plugins.samplers.grammar.schema.valid import all_of

if TYPE_CHECKING:
    from llamakit.plugins.samplers.grammar.ir import Node
    from llamakit.plugins.samplers.grammar.schema.convert import Converter

Schema = dict[str, Any]


def string_node(converter: Converter, schema: Schema, pointer: str) -> Node:
    """A string with its length, patterns and formats, and without what it must not be."""
    least, most = count(converter, schema, pointer, "minLength") or 0, count(converter, schema, pointer, "maxLength")
    conditions = text_conditions(converter, schema, pointer)
    excluded = [node for each in all_of(schema, "not") for node in excluded_texts(converter, each, pointer)]
    if most is not None and most < least:
        return NOTHING
    if not conditions and not excluded:
        return converter.string() if (least, most) == (0, None) else texts.any_string(least, most)
    try:
        if len(conditions) == 1 and not excluded:
            return texts.conditioned(conditions[0], least, most)
        return texts.of_automaton(without(texts.both(conditions, least, most), excluded))
    except GrammarError as error:
        converter.cannot(pointer, "pattern" if "pattern" in schema else "format", str(error.message))
        return texts.any_string(least, most)


def text_conditions(converter: Converter, schema: Schema, pointer: str) -> list[Node]:
    """What a text must be by `pattern` and `format`."""
    found: list[Node] = []
    for pattern in all_of(schema, "pattern"):
        try:
            if not isinstance(pattern, str):
                raise GrammarError("it is a regular expression")
            found.append(pattern_node(pattern))
        except GrammarError as error:
            converter.cannot(pointer, "pattern", str(error.message))
    for name in all_of(schema, "format"):
        if isinstance(name, str) and name not in WITHOUT_EFFECT:
            node = format_node(name)
            if node is None:
                converter.cannot(pointer, "format", f"the format {name[:40]!r} is not known")
            else:
                found.append(node)
    return found


def excluded_texts(converter: Converter, schema: Schema, pointer: str) -> list[Node]:
    """The texts that one part of a `not` is about."""
    if "enum" in schema:
        values = [value for value in schema["enum"] if isinstance(value, str)]
        return [alt([text(value) for value in values])] if values else []
    return text_conditions(converter, schema, pointer)


def without(dfa: DFA, nodes: list[Node]) -> DFA:
    """The texts of an automaton that no node describes."""
    for node in nodes:
        dfa = product(dfa, determinize(node), without=True)
    return dfa


def number_node(converter: Converter, schema: Schema, pointer: str) -> Node:
    """A number or an integer with its bounds and divisor, and without single values."""
    low, high = (_bound(converter, schema, pointer, *keys) for keys in (LOW, HIGH))
    excluded = sorted(
        {
            Decimal(str(value))
            for each in all_of(schema, "not")
            for value in each.get("enum", ())
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
    )
    ways = []
    for end in [*excluded, None]:
        upto = high if end is None or (high[0] is not None and high[0] < end) else (end, True)
        ways.append(_between(converter, schema, pointer, low, upto))
        if end is not None and (low[0] is None or end >= low[0]):
            low = (end, True)
    return alt(ways)


MOST_BOUND = 10**310  # more than any number of 64 bits
Bound = tuple[Decimal | None, bool]  # and whether it is excluded
LOW = ("minimum", "exclusiveMinimum", max)
HIGH = ("maximum", "exclusiveMaximum", min)


def _between(converter: Converter, schema: Schema, pointer: str, low: Bound, high: Bound) -> Node:
    (lo, open_lo), (hi, open_hi) = low, high
    multiple = schema.get("multipleOf")
    if multiple is not None and (
        not isinstance(multiple, int | float) or isinstance(multiple, bool) or not 0 < multiple < 1e17
    ):
        raise converter.error(pointer, "multipleOf", "it is a number above 0")
    step = Fraction(1) if multiple is None else Fraction(str(multiple))
    try:
        if schema.get("type") == "integer" or (multiple is not None and step.denominator == 1):
            least = None if lo is None else int(lo.to_integral_value("ROUND_FLOOR")) + 1 if open_lo else _up(lo)
            greatest = None if hi is None else int(hi.to_integral_value("ROUND_CEILING")) - 1 if open_hi else _down(hi)
            return numbers.integer(least, greatest, step.numerator)
        if multiple is None:
            return numbers.number(lo, hi, open_lo=open_lo, open_hi=open_hi)
        return numbers.multiples(lo, hi, Decimal(str(multiple)), open_lo=open_lo, open_hi=open_hi)
    except GrammarError as error:
        converter.cannot(pointer, "multipleOf", error.message)
        return numbers.INTEGER if schema.get("type") == "integer" else numbers.NUMBER


def _up(x: Decimal) -> int:
    return int(x.to_integral_value("ROUND_CEILING"))


def _down(x: Decimal) -> int:
    return int(x.to_integral_value("ROUND_FLOOR"))


def _bound(converter: Converter, schema: Schema, pointer: str, key: str, exclusive: str, choose: Any) -> Bound:
    found: list[tuple[Decimal, bool]] = []
    for name in (key, exclusive):
        value = schema.get(name)
        if value is None:
            continue
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise converter.error(pointer, name, "it is a number")
        if isinstance(value, float) and not math.isfinite(value):
            raise converter.error(pointer, name, "it is a finite number")
        if abs(value) >= MOST_BOUND:
            raise converter.error(pointer, name, f"it has more than {len(str(MOST_BOUND)) - 1} digits")
        exact = Decimal(str(value))
        if -int(exact.as_tuple().exponent) > numbers.MOST_DIGITS:
            raise converter.error(pointer, name, f"it has more than {numbers.MOST_DIGITS} places")
        found.append((exact, name == exclusive))
    if not found:
        return None, False
    best = choose(value for value, _ in found)
    return best, any(opened for value, opened in found if value == best)


def count(converter: Converter, schema: Schema, pointer: str, key: str) -> int | None:
    """A keyword that is a count."""
    value = schema.get(key)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise converter.error(pointer, key, "it is a count")
    return min(value, 1 << 31)
