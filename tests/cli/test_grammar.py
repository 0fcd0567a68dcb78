"""`llamakit grammar`: explaining a grammar, checking texts, writing random ones, and GBNF of any of them."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from llamakit.cli import llamakit, run


def output(*args, stdin=None, code=0):
    found = CliRunner().invoke(llamakit, ["grammar", *map(str, args)], input=stdin)
    assert found.exit_code == code, found.output
    return found.stdout


def test_texts_and_the_place_where_they_leave_it():
    shown = output("--regex", "[a-z]{2}\n[0-9]+", "ab\n7", "ab\nx", "ab", code=1).splitlines()
    assert shown[0] == "yes  'ab\\n7'"
    assert "     line 2, column 1: 'x' cannot stand here; possible: [0-9]" in shown
    assert "     line 1, column 3: the text ends too early; possible: [\\n]" in shown
    assert output("--choices", '["yes", "no"]', "-", stdin="no") == "yes  'no'\n"


def test_lark_from_a_file_becomes_gbnf(tmp_path):
    file = tmp_path / "sum.lark"
    file.write_text('start: N ("+" N)*\nN: /[0-9]+/\n%ignore " "\n')
    assert output("--lark-file", file, "1 + 2") == "yes  '1 + 2'\n"
    printed = output("--lark-file", file, "--print")
    assert output("--grammar", printed, " 1+ 22") == "yes  ' 1+ 22'\n"
    output("--grammar", printed, "1 +", code=1)


def test_random_texts_and_seeds():
    args = ("--regex", "[a-z]{3}-[0-9]{2}", "--count", 20, "--seed", 4)
    texts = output(*args).splitlines()
    assert len(texts) == 20
    assert all(re.fullmatch("[a-z]{3}-[0-9]{2}", text) for text in texts)
    assert output(*args).splitlines() == texts


def test_json_output(tmp_path):
    file = tmp_path / "schema.json"
    file.write_text('{"type": "integer", "not": {"multipleOf": 7}}')
    shown = output("--json-schema-file", file, "--lenient", "--json", "--print", "--count", 2, "12", "x", code=1)
    found = json.loads(shown)
    assert found["kind"] == "json_schema"
    assert found["n_state"] > found["n_rule"] == len(found["rules"])
    assert found["left_out"] == ["#: not: it needs the opposite of a schema: 'multipleOf' has no opposite"]
    assert [check["accepted"] for check in found["checks"]] == [True, False]
    assert found["checks"][1]["column"] == 1
    assert found["gbnf"].startswith("root ::= ")
    assert all(int(text) is not None for text in found["texts"])


def test_a_schema_printed_is_a_grammar_again(tmp_path):
    schema = {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]}
    printed = output("--json-schema", json.dumps(schema), "--print")
    file = tmp_path / "grammar.gbnf"
    file.write_text(printed)
    assert output("--grammar-file", file, '{"b": true}')
    output("--grammar-file", file, "{}", code=1)


def test_warnings_and_explanation():
    found = CliRunner().invoke(llamakit, ["grammar", "--grammar", 'root ::= root "a" | "b"\nb ::= "x"'])
    assert found.exit_code == 0
    assert "rules 1" in found.stdout
    assert "'b' (line 2, column 1) is never used" in found.stderr
    assert "begins with itself" in found.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "no grammar is given"),
        (("--regex", "a", "--grammar", 'root ::= "a"'), "more than one grammar"),
        (("--grammar", "root ::= (\nx"), "line 2, column 2"),
        (("--grammar", "root ::= b"), "'b' is used but not defined"),
        (("--lark", "start: a\na: (b"), "line 2, column 6"),
        (("--lark", 'start: start2\nstart2: start | "x"'), "start -> start2 -> start"),
        (("--json-schema", "{"), "json_schema is not JSON"),
        (("--regex", "a(?=b)"), "column 3"),
        (("--grammar", "root ::= <think>"), "needs the vocabulary of a model"),
        (("--grammar", "root ::= <[3]>", "--count", "1"), "names tokens"),
        (("--regex", r"[^\s\S]", "--count", "1"), "matches no"),
        (("--regex", r"[^\s\S]", "a"), "matches no"),
        (("--grammar-file", "/no/such/file"), "cannot be read"),
    ],
)
def test_errors_name_the_place(capsys, args, said):
    assert run(["grammar", *args]) == 2
    assert said in capsys.readouterr().err


def test_names_of_tokens_with_a_model(small_model):
    shown = output("-m", small_model, "--grammar", 'root ::= <s> "a"', "--print")
    assert shown == 'root ::= <[1]> "a"\n'


def test_json_schema_to_grammar_as_scripts_of_2023_call_it(tmp_path, capsys):
    file = tmp_path / "person.json"
    properties = {"name": {"type": "string"}, "age": {"type": "integer"}}
    file.write_text(json.dumps({"type": "object", "properties": properties, "required": ["name", "age"]}))
    checked = ('{"name": "a", "age": 1}', '{"age": 1, "name": "a"}')
    for order, accepted in (((), [True, False]), (("--prop-order", "age,name"), [False, True])):
        made = CliRunner().invoke(llamakit, ["json-schema-to-grammar", str(file), *order])
        assert made.exit_code == 0
        found = json.loads(output("--grammar", made.stdout, "--json", *checked, code=1))
        assert [check["accepted"] for check in found["checks"]] == accepted
    file.write_text("{nothing")
    for order in ((), ("--prop-order", "a")):
        assert run(["json-schema-to-grammar", str(file), *order]) == 2
        assert "not JSON" in capsys.readouterr().err
