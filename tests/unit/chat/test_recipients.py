"""Answers whose parts say whom they are for."""

from __future__ import annotations

import json

import pytest

from llamakit.chat.tools import joined, reader_of
from llamakit.chat.tools.families.functionary import FUNCTIONARY_32
from llamakit.chat.tools.structure import Function, Structure
from llamakit.grammar import study

CALL, OTHER = 'f\n{"x": [1, ">>>"]}', "g\n{}"


def read(text, size, *, cut=False, names=("f", "g")):
    reader = reader_of(FUNCTIONARY_32, names)
    told = [reader.push(text[i : i + size]) for i in range(0, len(text), size)] + [reader.flush(cut=cut)]
    calls = joined(delta for _, deltas in told for delta in deltas)
    return "".join(text for text, _ in told), [(call.name, call.arguments, call.cut) for call in calls], reader.cut


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize(
    ("text", "shown", "names"),
    [
        ("all\nHello.", "Hello.", []), (OTHER, "", ["g"]), (f">>>{OTHER}", "", ["g"]),
        (CALL, "", ["f"]), (f"{CALL}>>>{OTHER}", "", ["f", "g"]),
        (f"{OTHER}>>>f\n{{}}", "", ["g", "f"]), (f"all\nWell.\n>>>{OTHER}", "Well.", ["g"]),
        ("all\n1 >> 2 > 3", "1 >> 2 > 3", []), ("Hello.", "Hello.", []), ("h\n{}", "h\n{}", []),
    ],
)  # fmt: skip
def test_parts_are_read_wherever_they_are_cut(text, shown, names, size):
    found, calls, cut = read(text, size)
    assert (found, [name for name, _, _ in calls], cut) == (shown, names, False)


def test_without_tools_words_are_read_too():
    assert read("all\nHello.", 1, names=())[0] == "Hello."


def test_what_a_limit_cuts_leaves_no_markup():
    text = f"all\nWell.>>>{OTHER}"
    for n in range(1, len(text)):
        shown, calls, cut = read(text[:n], 1, cut=True)
        assert "Well.".startswith(shown), text[:n]
        assert cut == (bool(calls) and calls[0][2])


def test_the_grammar():
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    structure = Structure(lambda text: False)

    def judge(**how):
        how = {"required": False, "several": True, "content": None} | how
        answer = structure.answer(FUNCTIONARY_32, [Function("f", schema)], **how)
        return lambda text: study("structural_tag", {"format": answer}).check(text).accepted

    one = 'f\n{"x": 1}'
    free, must, single = judge(), judge(required=True), judge(required=True, several=False)
    assert all(map(free, ["all\nHi.", one, f"{one}>>>{one}", f"all\nHi.>>>{one}", "all\n"]))
    assert not any(map(free, ["Hi.", "g\n{}", "f\n{}", "all\nHi.>>>all\n"]))
    assert must(one)
    assert must(f"{one}>>>{one}")
    assert not must("all\nHi.")
    assert not single(f"{one}>>>{one}")
    form = judge(content={"type": "json_schema", "json_schema": {"type": "boolean"}})
    assert form("all\ntrue")
    assert form(one)
    assert not form("all\nHi.")
    assert json.loads(one.partition("\n")[2]) == {"x": 1}
