"""Prompts for filling in the middle, against hand-made ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llamakit.errors import UsageError
from llamakit.tokenizer.infill import ANCHOR, ExtraFile, infill_tokens, inner_tokens

MARKS = {"pre": 1001, "suf": 1002, "mid": 1003}
BOS = 1000


def vocabulary(**marks: int) -> Any:
    """A token for each character, and one more that every text begins with, as SPM does it."""
    return SimpleNamespace(
        encode=lambda text: [32, *map(ord, text)] if text else [], add_bos=True, bos_id=BOS, fim_ids=marks
    )


def ids(text: str) -> list[int]:
    return list(map(ord, text))


def test_the_inside_of_a_text_has_no_leading_space():
    assert inner_tokens(vocabulary(), "abc") == ids("abc")
    assert inner_tokens(vocabulary(), "") == []
    assert ANCHOR.isprintable()


def test_prefix_suffix_middle():
    made = infill_tokens(vocabulary(**MARKS), "ab", "cd", limit=100, begun=[7])
    assert made.tokens == [BOS, 1001, 32, *ids("ab"), 1002, *ids("cd"), 1003, 7]
    assert made.n_dropped == 0


def test_what_is_nearest_to_the_gap_stays():
    made = infill_tokens(vocabulary(**MARKS), "p" * 50 + "q", "r" + "s" * 50, limit=24)
    assert len(made.tokens) == 24
    assert made.tokens == [BOS, 1001, *ids("p" * 14 + "q"), 1002, *ids("rssss"), 1003]
    assert made.n_dropped == 52 - 15 + 51 - 5
    short = infill_tokens(vocabulary(**MARKS), "p", "s" * 50, limit=24)
    assert short.tokens == [BOS, 1001, 32, *ids("p"), 1002, *ids("s" * 18), 1003]


def test_other_files_come_first():
    marks = MARKS | {"rep": 1004, "sep": 1005}
    files = [ExtraFile(text="one", filename="a"), ExtraFile(text="two")]
    made = infill_tokens(vocabulary(**marks), "x", "y", limit=1000, extra=files)
    head = [1004, *ids("repository\n"), 1005, *ids("a\none"), 1005, *ids("filename\ntwo"), 1005, *ids("filename\n")]
    assert made.tokens == [BOS, *head, 1001, 32, *ids("x"), 1002, *ids("y"), 1003]
    cut = infill_tokens(vocabulary(**marks), "x", "y", limit=len(made.tokens) - 4, extra=files)
    assert cut.n_dropped == 4
    assert len(cut.tokens) == len(made.tokens) - 4
    none = infill_tokens(vocabulary(**marks), "x", "y", limit=20, extra=files)
    assert none.tokens == [BOS, 1001, 32, *ids("x"), 1002, *ids("y"), 1003]


def test_files_without_marks_for_them():
    made = infill_tokens(vocabulary(**MARKS), "x", "y", limit=1000, extra=[ExtraFile(text="one", filename="a")])
    assert made.tokens == [BOS, *ids("a\none\n"), 1001, 32, *ids("x"), 1002, *ids("y"), 1003]


def test_a_vocabulary_without_marks():
    with pytest.raises(UsageError, match="cannot fill in the middle"):
        infill_tokens(vocabulary(pre=1), "x", "y", limit=10)


@pytest.mark.parametrize("limit", range(40))
def test_the_limit_holds(limit):
    made = infill_tokens(vocabulary(**MARKS), "ab" * 9, "cd" * 9, limit=limit, extra=[ExtraFile(text="e" * 9)])
    assert len(made.tokens) <= max(limit, 4)
