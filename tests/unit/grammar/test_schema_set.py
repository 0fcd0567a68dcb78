"""The set of schemas in benchmarks/schemas: each compiles, and accepts, refuses and makes what it should."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from pathlib import Path

import pytest
from llamakit.plugins.samplers.grammar.generate import random_text
from llamakit.plugins.samplers.grammar.schema import schema_to_grammar

FILES = sorted((Path(__file__).parents[3] / "benchmarks" / "schemas").glob("*.jsonl"))
ENTRIES = [json.loads(line) for path in FILES for line in path.read_text(encoding="utf-8").splitlines()]
FORMATS = ["date", "uuid", "ipv4", "ipv6", "email"]
OTHER_WORDS = ("nullable by OpenAPI", "old exclusive bounds")  # not of the drafts that the oracle knows
N_TEXT = 6


def test_there_are_enough_and_each_is_another():
    assert len(ENTRIES) >= 200
    assert len({json.dumps(entry["schema"], sort_keys=True) for entry in ENTRIES}) == len(ENTRIES)
    assert all(entry["valid"] and entry["invalid"] for entry in ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry["name"] for entry in ENTRIES])
def test_a_schema_of_the_set(matches, entry):
    grammar, relaxed = schema_to_grammar(entry["schema"])
    assert relaxed == []
    holds = matches(grammar)
    for value in entry["valid"]:
        assert holds(json.dumps(value, ensure_ascii=False)), value
        assert holds(json.dumps(value, ensure_ascii=False, separators=(",", ":"))), value
    for value in entry["invalid"]:
        assert not holds(json.dumps(value, ensure_ascii=False)), value
    valid = oracle(entry)
    assert all(map(valid, entry["valid"]))
    assert "format" in json.dumps(entry["schema"]) or not any(map(valid, entry["invalid"]))
    chance = random.Random(entry["name"])
    # Python's white space is not that of ECMAScript, so texts with unusual white space are left aside.
    for _ in range(N_TEXT):
        text = random_text(grammar, chance)
        assert holds(text), text
        odd = twice(text) or "\\u00" in text or any(c not in " \t\n\r" and c.isspace() for c in text)
        assert odd or valid(json.loads(text)), text


def oracle(entry):
    """`jsonschema`, where it knows the words of a schema."""
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema as an oracle")
    if entry["name"] in OTHER_WORDS:
        return lambda value: value in entry["valid"] or value not in entry["invalid"]
    if "\\p{" in json.dumps(entry["schema"], ensure_ascii=False).replace("\\\\", "\\"):
        return lambda value: value in entry["valid"] or value not in entry["invalid"]
    shown = json.dumps(entry["schema"])
    draft = "Draft7Validator" if '"additionalItems"' in shown or '"dependencies"' in shown else "Draft202012Validator"
    exact = json.loads(shown, parse_float=Decimal)  # of which the multiples of 0.01 are what they are on paper
    check = getattr(jsonschema, draft)(exact, format_checker=jsonschema.FormatChecker(FORMATS))
    return lambda value: check.is_valid(json.loads(json.dumps(value), parse_float=Decimal))


def twice(text):
    """Whether an object has a name twice, of which JSON's readers keep the last one."""
    found = []
    json.loads(text, object_pairs_hook=lambda pairs: found.append(len({k for k, _ in pairs}) < len(pairs)))
    return any(found)
