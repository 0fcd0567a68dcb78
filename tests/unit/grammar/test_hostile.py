"""Input that is meant to take memory or time: it is refused, or compiled, before it hurts."""

from __future__ import annotations

import pytest
from llamakit.plugins.samplers.grammar import parse
from llamakit.plugins.samplers.grammar.compile import network
from llamakit.plugins.samplers.grammar.errors import GrammarError

from llamakit import _sampling
from llamakit.errors import UsageError
from tests.timing import is_quick

SECONDS = 0.25  # for a refusal: 0.05 on a quiet machine


def nested(n, make, inner):
    """`make` applied n times."""
    for _ in range(n):
        inner = make(inner)
    return inner


def chain(key, n, last):
    """Definitions each of which names the next one twice: 2 to the n ways through them."""
    links = {f"d{i}": {"type": "object", key: [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(n)}
    return {"$defs": links | {f"d{n}": last}, "$ref": "#/$defs/d0"}


REFUSED = {
    "repetitions of repetitions": ("gbnf", "root ::= " + "(" * 20 + '"a"?' + "{1,1000})" * 20),
    "60,000 parentheses": ("gbnf", "root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000),
    "10 MB of GBNF": ("gbnf", 'root ::= "' + "a" * 10_000_000 + '"'),
    "10 MB of an expression": ("regex", "a" * 10_000_000),
    "10 MB of a schema": ("json_schema", '{"enum": ["' + "a" * 10_000_000 + '"]}'),
    "10 MB of a constant": ("json_schema", {"const": "a" * 10_000_000}),
    "a long cycle on the left": (
        "gbnf",
        "\n".join(f'r{i} ::= r{i + 1} "x" | "a"' for i in range(200)) + '\nr200 ::= r0 "y"\nroot ::= r0',
    ),
    "counted groups in an expression": ("regex", "(((((a{1,1000}){1,1000}){1,1000}){1,1000}){1,1000})"),
    "2 to the 200 states": (
        "json_schema",
        {"type": "string", "pattern": "(a|b)*a(a|b){200}", "maxLength": 300, "not": {"const": "a"}},
    ),
    "2 to the 36 states": ("json_schema", {"type": "string", "pattern": "^(.*a.{12}){3}$", "minLength": 90}),
    "written-out repetitions": ("json_schema", {"pattern": "^((a{0,200}){0,200}){0,200}$", "minLength": 3}),
    "200,000 constants": ("json_schema", {"enum": [f"v{i}" for i in range(200_000)]}),
    "2 to the 40 alternatives": ("json_schema", chain("anyOf", 40, {"type": "object"})),
    "schemas 500 deep": ("json_schema", nested(500, lambda inner: {"type": "array", "items": inner}, {})),
    "2,000 alternatives": ("json_schema", {"oneOf": [{"const": i} for i in range(2000)]}),
    "alternatives that nothing tells apart": (
        "json_schema",
        {"oneOf": [{"type": "object", "properties": {f"p{i}": {"type": "string"}}} for i in range(400)]},
    ),
    "opposites of opposites": (
        "json_schema",
        {
            "$defs": {f"d{i}": {"not": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 3}} for i in range(60)}
            | {"d60": {"type": "string"}},
            "$ref": "#/$defs/d0",
        },
    ),
    "constants beside a cycle": (
        "json_schema",
        {"enum": list(range(99)), "anyOf": [{"not": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}}]},
    ),
    "conditions on conditions": (
        "json_schema",
        {
            "type": "object",
            "allOf": [
                {"if": {"properties": {f"p{i}": {"const": i}}}, "then": {"required": [f"q{i}"]}} for i in range(40)
            ],
        },
    ),
    "many remainders": ("json_schema", {"type": "integer", "multipleOf": 997, "minimum": 1, "maximum": 10**17}),
    "names by an exponential pattern": (
        "json_schema",
        {"patternProperties": {"(a|b)*a(a|b){11}": {}}, "additionalProperties": {}},
    ),
}


@pytest.fixture(scope="module", autouse=True)
def imported():
    """Readers and tables are there before the clock runs."""
    for kind, source in (("gbnf", 'root ::= "a"'), ("regex", "a"), ("json_schema", {"pattern": "a", "maxLength": 3})):
        network(parse(kind, source))


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_at_once(name):
    kind, source = REFUSED[name]
    trie = _sampling.TokenTrie([bytes([byte]) for byte in range(256)], [], [])
    messages = []

    def read():
        with pytest.raises((GrammarError, UsageError, _sampling.GrammarLimitError)) as caught:
            _sampling.GrammarProgram(network(parse(kind, source)), trie).warm(48)
        messages.append(str(caught.value))

    assert is_quick(SECONDS, read)
    assert len(messages[0]) < 2000  # and the answer does not repeat what was sent


def test_merged_references_are_shared():
    """allOf of the same two references, 40 deep, is small although there are 2 to the 40 ways to read it."""
    links = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}
    schema = {"$defs": links | {"d40": {"type": "string"}}, "$ref": "#/$defs/d0"}
    found = []
    assert is_quick(SECONDS, lambda: found.append(parse("json_schema", schema)))
    assert len(found[0].rules) < 10
