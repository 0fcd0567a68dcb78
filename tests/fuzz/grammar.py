"""The grammar matcher against Python's `re` and against `jsonschema`, on random expressions, grammars and schemas.

    python tests/fuzz/grammar.py --count 100000

A case is one text judged by both sides. For schemas: every text that the grammar makes is a valid value, every valid
value written in three ways is in the grammar, and every value that `jsonschema` refuses is refused. Names that come
twice in an object are left aside: JSON's readers keep the last one, which no grammar can know.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import re
import sys
import time

from llamakit.plugins.samplers.grammar.compile import network
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.gbnf import parse_gbnf
from llamakit.plugins.samplers.grammar.generate import random_text
from llamakit.plugins.samplers.grammar.regex import parse_regex
from llamakit.plugins.samplers.grammar.schema import schema_to_grammar

from llamakit import _sampling

LETTERS = "abcx1. é-\n"
FORMATS = ["date", "uuid", "ipv4", "ipv6"]
ATOMS = [
    "a",
    "b",
    "c",
    "[ab]",
    "[^a]",
    "\\d",
    "\\w",
    "\\W",
    "ab",
    "[a-c1]",
    "x",
    "\\.",
    "\\s",
    "é",
    "[^\\d\\s]",
    "(?:)",
]
COUNTS = ["*", "+", "?", "{2}", "{1,3}", "{2,}", "{0,12}", "{0}"]
TEXTS = ["", "a", "ab", "abc", "cab", "zebra", 'say "x"', "\\", "é中😀", "x-1", "12", "\n", "a" * 13]


class DisagreementError(AssertionError):
    """The two sides do not agree."""


def holder(grammar):
    """A function that says whether a text is in a grammar, byte by byte in the native matcher."""
    trie = _sampling.TokenTrie([bytes([byte]) for byte in range(256)], [], [])
    program = _sampling.GrammarProgram(network(grammar), trie)

    def holds(text):
        matcher = _sampling.GrammarMatcher(program)
        return (not text or matcher.accept_bytes(text.encode())) and matcher.can_end()

    return holds


# -- expressions and regular grammars ---------------------------------------------------------------------------------


def expression(chance, depth):
    """A random regular expression."""
    kind = chance.random()
    if depth == 0 or kind < 0.3:
        return chance.choice(ATOMS)
    if kind < 0.6:
        return expression(chance, depth - 1) + expression(chance, depth - 1)
    if kind < 0.78:
        return f"(?:{expression(chance, depth - 1)}|{expression(chance, depth - 1)})"
    return f"(?:{expression(chance, depth - 1)})" + chance.choice(COUNTS)


def regular(chance, depth):
    """The same language twice: in GBNF, and as an expression."""
    kind = chance.random()
    if depth == 0 or kind < 0.3:
        return chance.choice(
            [('"a"', "a"), ('"bc"', "bc"), ("[ab]", "[ab]"), ("[^a]", "[^a]"), ('"."', "\\."), ("[0-9]", "[0-9]"),
             ("[\\u00e9x]", "[éx]"), ('""', "(?:)"), (".", "[\\s\\S]")]
        )  # fmt: skip
    one, two = regular(chance, depth - 1), regular(chance, depth - 1)
    if kind < 0.6:
        return f"({one[0]}) ({two[0]})", f"(?:{one[1]})(?:{two[1]})"
    if kind < 0.78:
        return f"({one[0]} | {two[0]})", f"(?:{one[1]}|{two[1]})"
    count = chance.choice(COUNTS)
    return f"({one[0]}){count}", f"(?:{one[1]}){count}"


def some_texts(chance, grammar, n):
    """Texts of the grammar, these with a character changed, and texts out of the air."""
    for i in range(n):
        if i % 3 == 2:
            yield "".join(chance.choice(LETTERS) for _ in range(chance.randint(0, 7)))
            continue
        text = random_text(grammar, chance, budget=12)
        if i % 3 == 1:
            at = chance.randint(0, len(text))
            text = text[:at] + chance.choice(["", *LETTERS]) + text[at + chance.randint(0, 1) :]
        yield text[:60]


def check_expression(chance, n=24):
    """One random expression; returns the number of cases."""
    if chance.random() < 0.5:
        source = expression(chance, 3)
        grammar, pattern = parse_regex(source), source
    else:
        source, pattern = regular(chance, 3)
        grammar = parse_gbnf("root ::= " + source)
    holds, reference = holder(grammar), re.compile(pattern, re.ASCII)
    count = 0
    for text in some_texts(chance, grammar, n):
        if any(c not in " \t\n\r\f\v" and (c.isspace() or c == "\ufeff") for c in text):
            continue  # ECMAScript and Python do not mean the same by white space
        if holds(text) != bool(reference.fullmatch(text)):
            raise DisagreementError(f"{source!r} on {text!r}: ours says {holds(text)}")
        count += 1
    return count


# -- schemas ----------------------------------------------------------------------------------------------------------


def schema(chance, depth):
    """A random schema of the supported keywords."""
    makers = [string, integer, number, constants, simple]
    if depth > 0:
        makers += [array, object_, object_, union, merged, conditional, excluded, containing, named]
    return chance.choice(makers)(chance, depth)


def string(chance, _depth):
    """Strings by length, pattern or format."""
    made = {"type": "string"}
    if chance.random() < 0.5:
        made["minLength"] = chance.randint(0, 3)
    if chance.random() < 0.5:
        made["maxLength"] = made.get("minLength", 0) + chance.randint(0, 14)
    kind = chance.random()
    if kind < 0.3:
        made["pattern"] = chance.choice(["^[a-c]*$", "a", "^a|b$", '["\\\\]', "^\\w+-\\d$", "[^a]$", "^.{2,6}$"])
    elif kind < 0.45:
        made = {"type": "string", "format": chance.choice(FORMATS)}
    return made


def integer(chance, _depth):
    """Integers by bounds and divisor."""
    made = {"type": "integer"}
    low = chance.choice([-1000, -17, -1, 0, 1, 7, 99, 12345])
    if chance.random() < 0.6:
        made[chance.choice(["minimum", "exclusiveMinimum"])] = low
    if chance.random() < 0.6:
        made[chance.choice(["maximum", "exclusiveMaximum"])] = low + chance.choice([2, 9, 100, 4321])
    if chance.random() < 0.3:
        made["multipleOf"] = chance.choice([1, 2, 5, 7, 12])
        made = made if "maximum" in made else {**made, "maximum": low + 50}
    return made


def number(chance, _depth):
    """Numbers by bounds."""
    made = {"type": "number"}
    low = chance.choice([-100, -1.25, -0.5, 0, 0.001, 3, 99.5])
    if chance.random() < 0.7:
        made[chance.choice(["minimum", "exclusiveMinimum"])] = low
    if chance.random() < 0.7:
        made[chance.choice(["maximum", "exclusiveMaximum"])] = low + chance.choice([0.5, 1, 10.75, 1000])
    if chance.random() < 0.3:
        made["multipleOf"] = chance.choice([0.5, 0.25, 1.5, 3])
    return made


def constants(chance, _depth):
    """Enumerations and constants."""
    values = [*TEXTS, 0, 1, -7, 2.5, True, False, None, [], [1, "a"], {}, {"k": [None]}]
    if chance.random() < 0.3:
        return {"const": chance.choice(values)}
    beside = chance.choice([{}, {}, {"type": "string"}, {"minimum": 1}, {"pattern": "a"}, {"maxLength": 3}])
    return {"enum": chance.sample(values, chance.randint(1, 6)), **beside}


def simple(chance, _depth):
    """Types without conditions, one or several."""
    return {
        "type": chance.choice(
            ["boolean", "null", "string", "integer", "number", ["string", "null"], ["integer", "boolean"]]
        )
    }


def array(chance, depth):
    """Arrays: lists and tuples."""
    made = {"type": "array", "items": schema(chance, depth - 1)}
    if chance.random() < 0.3:
        made["prefixItems"] = [schema(chance, depth - 1) for _ in range(chance.randint(1, 3))]
        if chance.random() < 0.5:
            made["items"] = False
    if chance.random() < 0.2:
        made = {"type": "array", "items": {"enum": chance.sample(range(30), 4)}, "uniqueItems": True}
    least = chance.randint(0, 3)
    if chance.random() < 0.5:
        made["minItems"] = least
    if chance.random() < 0.5:
        made["maxItems"] = least + chance.randint(0, 4)
    return made


NAMES = ["id", "a", "b", "name", "x-1", "é", 'q"', "a/b", "long_property_name", ""]


def object_(chance, depth):
    """Objects: records and maps."""
    if chance.random() < 0.2:
        made = {"type": "object", "additionalProperties": schema(chance, depth - 1)}
        if chance.random() < 0.5:
            made["propertyNames"] = {"pattern": "^[a-m]{1,9}$"}
        return made
    names = chance.sample(NAMES, chance.randint(1, 5))
    made = {"type": "object", "properties": {name: schema(chance, depth - 1) for name in names}}
    made["required"] = [name for name in names if chance.random() < 0.5]
    if chance.random() < 0.3:
        made["additionalProperties"] = chance.choice([False, schema(chance, 0)])
    if chance.random() < 0.3:
        made["minProperties"] = chance.randint(0, len(names))
    if chance.random() < 0.3 and made.get("additionalProperties", False) is False:
        made["maxProperties"] = chance.randint(made.get("minProperties", 0), len(names))
    return made


def union(chance, depth):
    """Alternatives."""
    return {"anyOf": [schema(chance, depth - 1) for _ in range(chance.randint(1, 3))]}


def merged(chance, depth):
    """Conditions that hold together."""
    one, two = object_(chance, depth), object_(chance, depth)
    chosen = chance.choice([[one, two], [string(chance, 0), {"maxLength": 9}], [integer(chance, 0), {"minimum": -5}]])
    return {"allOf": chosen}


def conditional(chance, depth):
    """What depends on a property."""
    made = object_(chance, depth)
    names = list(made.get("properties", {"a": {}, "b": {}}))
    one, two = chance.choice(names), chance.choice(names)
    kind = chance.random()
    if kind < 0.4:
        condition = {"properties": {one: chance.choice([{"const": chance.choice(TEXTS)}, {"type": "string"}])}}
        condition |= chance.choice([{}, {"required": [one]}])
        made["if"], made["then"] = condition, chance.choice([{"required": [two]}, {"properties": {two: False}}])
        if chance.random() < 0.5:
            made["else"] = {"maxProperties": 2}
    elif kind < 0.7:
        made["dependentRequired"] = {one: [two]}
    else:
        made["dependentSchemas"] = {one: {"properties": {two: schema(chance, 0)}}}
    return made


def excluded(chance, depth):
    """All but something; one of several."""
    made = schema(chance, depth - 1)
    kind = chance.random()
    if kind < 0.5:
        return {"allOf": [made, {"not": schema(chance, 0)}]}
    return {"oneOf": [made, schema(chance, 0)]}


def containing(chance, depth):
    """Arrays that must have some items."""
    made = {"type": "array", "items": schema(chance, depth - 1), "contains": schema(chance, 0)}
    if chance.random() < 0.5:
        made["minContains"] = chance.randint(0, 2)
    if chance.random() < 0.5:
        made["maxContains"] = chance.randint(2, 3)
    if chance.random() < 0.5:
        made["maxItems"] = chance.randint(2, 5)
    return made


def named(chance, depth):
    """Objects by the names of their properties."""
    patterns = chance.sample(["^a", "b", "-\\d$", "^.$", "e"], chance.randint(1, 3))
    made = {"type": "object", "patternProperties": {pattern: schema(chance, depth - 1) for pattern in patterns}}
    if chance.random() < 0.5:
        made["properties"] = {name: schema(chance, 0) for name in chance.sample(NAMES, 2)}
    if chance.random() < 0.6:
        made["additionalProperties"] = chance.choice([False, schema(chance, 0)])
    if chance.random() < 0.3:
        made["propertyNames"] = chance.choice([{"maxLength": 5}, {"not": {"const": "a"}}, {"pattern": "[a-e]"}])
    return made


def mutations(chance, value):
    """The value with one thing changed somewhere: other types, neighbours, missing and further parts."""
    places = [((), value)]
    for path, each in places:
        if len(places) > 60:
            break
        inner = each.items() if isinstance(each, dict) else enumerate(each) if isinstance(each, list) else ()
        places += [((*path, key), part) for key, part in inner]
    for _ in range(6):
        path, each = chance.choice(places)
        changed = changes(chance, copy.deepcopy(each))
        made = copy.deepcopy(value)
        if not path:
            yield changed
            continue
        at = made
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = changed
        yield made


def changes(chance, value):
    """Something near a value, or something else."""
    near = [None, True, 0, -1, 1.5, "", "a", [], {}]
    if isinstance(value, bool) or value is None:
        near += [not value]
    elif isinstance(value, int | float):
        near += [value + 1, value - 1, -value, value * 10, value + 0.5]
    elif isinstance(value, str):
        near += [value + "a", value[1:], value + "-1", value[:-1] + '"', value * 2]
    elif isinstance(value, list):
        near += [[*value, 1], value[1:], value[:-1], value[::-1], value * 2]
    elif value:
        name = chance.choice(list(value))
        near += [{key: part for key, part in value.items() if key != name}, {**value, "zz": 1}, {**value, "zz": "s"}]
    return chance.choice(near)


BEYOND = (
    "contains",
    "pattern",
    "patternProperties",
    "not",
    "oneOf",
    "maxContains",
    "uniqueItems",
    "minProperties",
    "multipleOf",
)


class TwiceError(Exception):
    """An object has a name twice."""


def _pairs(pairs):
    if len({name for name, _ in pairs}) < len(pairs):
        raise TwiceError
    return dict(pairs)


def spelled(value):
    """Whether Python writes the value as the grammar does: bounded numbers have no exponent, 18 digits at most."""
    return not re.search(r"\de[+-]?\d|\d{18}", json.dumps(value))


def check_schema(chance, validators, n=10):
    """One random schema; returns the number of cases."""
    made = schema(chance, chance.randint(0, 3))
    try:
        grammar = schema_to_grammar(made)[0]
    except GrammarError as error:
        if "matches no text" in error.message or error.keyword in BEYOND:
            return 0  # a contradiction, or beyond the limits
        raise DisagreementError(f"{json.dumps(made)} is refused: {error.message}") from None
    holds, valid = holder(grammar), validators(made)
    count = 0
    for _ in range(n):
        text = random_text(grammar, chance, budget=24)
        if not holds(text):
            raise DisagreementError(f"{json.dumps(made)} makes {text!r} and refuses it")
        try:
            value = json.loads(text, object_pairs_hook=_pairs)
        except TwiceError:
            continue
        except json.JSONDecodeError:
            raise DisagreementError(f"{json.dumps(made)} makes {text!r}, which is not JSON") from None
        if not valid(value):
            raise DisagreementError(f"{json.dumps(made)} makes {text!r}, which is not valid")
        count += 1
        if spelled(value):
            for shown in (
                json.dumps(value),
                json.dumps(value, ensure_ascii=False, indent=2),
                json.dumps(value, ensure_ascii=False, separators=(",", ":")),
            ):
                escaped = shown.isascii() and not text.isascii()
                if not escaped and not holds(shown) and not _respelled(made, text):
                    raise DisagreementError(f"{json.dumps(made)} refuses {shown!r}, made as {text!r}")
                count += 1
        for other in mutations(chance, value):
            shown = json.dumps(other, ensure_ascii=False)
            if holds(shown) and not valid(other):
                raise DisagreementError(f"{json.dumps(made)} allows {shown!r}, which is not valid")
            count += 1
    return count


def _respelled(made, text):
    """Python's JSON changes 1.50 to 1.5, 1.0e1 to 10.0 and escapes, of which constants and divisors allow one form."""
    return json.dumps(json.loads(text)) != text and ("\\" in text or bool(re.search(r"\d[.eE]", text)))


# What ECMAScript's expressions mean, for Python, as they are written in JSON.
PYTHON = {'$"': '\\\\Z"', '"^.': '"^[^\\n\\r\\u2028\\u2029]', "\\\\d": "[0-9]", "\\\\w": "[a-zA-Z0-9_]"}


def validators():
    """`jsonschema` with the formats that it checks exactly."""
    import jsonschema

    formats = jsonschema.FormatChecker(FORMATS)

    def make(made):
        shown = json.dumps(made)
        for ours, python in PYTHON.items():
            shown = shown.replace(ours, python)
        made = json.loads(shown)
        check = jsonschema.Draft202012Validator(made, format_checker=formats)
        return check.is_valid

    return make


def run(count, seed):
    """`count` cases, half of them about schemas; returns how many of each. DisagreementError if any is wrong."""
    done = {"expressions": 0, "schemas": 0}
    made = validators()
    while sum(done.values()) < count:
        chance = random.Random(f"grammar {seed}")
        kind = "expressions" if done["expressions"] <= done["schemas"] else "schemas"
        try:
            done[kind] += check_expression(chance) if kind == "expressions" else check_schema(chance, made)
        except Exception as failure:
            raise DisagreementError(f"seed {seed}: {type(failure).__name__}: {failure}") from failure
        seed += 1
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    began = time.perf_counter()
    try:
        done = run(args.count, args.seed)
    except DisagreementError as failure:
        print(failure, file=sys.stderr)
        return 1
    print(f"{sum(done.values()):,} cases, none wrong: {done} in {time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
