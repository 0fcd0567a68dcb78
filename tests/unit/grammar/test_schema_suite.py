"""The JSON-Schema-Test-Suite of draft 2020-12: nothing invalid gets through, and what is refused is named.

It is in the source distribution of the Python package `jsonschema`; JSON_SCHEMA_SUITE names the folder with that
file, as `pip download --no-deps --no-binary jsonschema jsonschema -d FOLDER` leaves it.
"""

from __future__ import annotations

import itertools
import json
import os
import tarfile
from functools import cache
from pathlib import Path

import pytest
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.schema import schema_to_grammar

FOLDER = "/json/tests/draft2020-12/"
OTHER_FILES = ("refRemote", "vocabulary", "ecmascript-regex")  # other documents, and what a schema is written in
MOST_REFUSED = 30  # by name: references to other documents, opposites that no schema can say, uniqueItems
# Valid, but never written (docs/grammar.md): 1.0 for an integer, properties beyond the declared ones.
MOST_REJECTED = 21


@cache
def suite() -> dict[str, list[dict]]:
    """The cases by file."""
    folder = os.environ.get("JSON_SCHEMA_SUITE")
    archives = sorted(Path(folder).glob("jsonschema-*.tar.gz")) if folder else []
    if not archives:
        pytest.skip("needs the sources of jsonschema in JSON_SCHEMA_SUITE")
    found = {}
    with tarfile.open(archives[-1]) as archive:
        for member in archive:
            _, inside, name = member.name.partition(FOLDER)
            parts = name.removesuffix(".json").split("/")
            wanted = inside and name.endswith(".json") and parts[:-1] in ([], ["optional", "format"])
            if wanted and parts[-1] not in OTHER_FILES:
                found["/".join(parts)] = json.load(archive.extractfile(member))
    assert len(found) > 60
    return found


def judged(matches):
    """Each test of the suite that a text can be written for: file, case, test, and whether the text gets through."""
    for name, cases in suite().items():
        for case in cases:
            try:
                grammar, _ = schema_to_grammar(case["schema"])
                holds = matches(grammar)
            except GrammarError as error:
                if "no text" not in error.message:
                    yield name, case, None, str(error)
                    continue
                holds = bool  # nothing gets through
            for test in case["tests"]:
                if not any("\ud800" <= c <= "\udfff" for c in json.dumps(test["data"], ensure_ascii=False)):
                    yield name, case, test, [text for text in orders(test["data"]) if holds is not bool and holds(text)]


def orders(value) -> list[str]:
    """The texts of a value: properties come in the order of the schema, which is some order."""
    if isinstance(value, dict) and len(value) < 4:
        inner = [dict(pairs) for pairs in itertools.permutations(value.items())]
        return [json.dumps(each, ensure_ascii=False) for each in inner]
    return [json.dumps(value, ensure_ascii=False)]


def test_nothing_invalid_gets_through_and_little_is_refused(matches):
    refused, through, rejected, n = [], [], [], 0
    for name, case, test, found in judged(matches):
        if test is None:
            refused.append((name, case["description"], found))
            continue
        n += 1
        if found and not test["valid"]:
            through.append((name, case["description"], test["description"]))
        if not found and test["valid"]:
            rejected.append((name, case["description"], test["description"]))
    assert through == []
    assert n > 1400
    assert len(refused) <= MOST_REFUSED, refused
    # Formats are enforced here, and of hosts in other scripts those that need no look at tables of characters.
    plain = [each for each in rejected if not each[0].startswith(("format", "optional/format/idn-hostname"))]
    assert len(plain) <= MOST_REJECTED, plain
