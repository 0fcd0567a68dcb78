"""Thoughts are told from answers, wherever the text is cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamakit.chat.reasoning import KNOWN, Markers, Part, ReasoningSplitter, begins_inside, find_markers, split

THINK = KNOWN[0]


@pytest.mark.parametrize(
    ("text", "inside", "reasoning", "content"),
    [
        ("<think>\nHm.\n</think>\n\nYes.", False, "Hm.", "Yes."),
        ("  <think>a</think>b", False, "a", "b"),
        ("<think></think>b", False, "", "b"),
        ("<think>\n\n</think>\n\nb ", False, "", "b "),
        ("Hm.\n</think>\nYes.", True, "Hm.", "Yes."),
        ("no thought", False, "", "no thought"),
        (" <thin", False, "", " <thin"),
        ("<think>cut off </th", False, "cut off </th", ""),
        ("<think>a < b </ c</think>d", False, "a < b </ c", "d"),
        ("text <think>late</think>", False, "", "text <think>late</think>"),
        ("<think>a</think>b</think>c<think>d", False, "a", "b</think>c<think>d"),
        ("never ends", True, "never ends", ""),
        ("", False, "", ""),
        ("", True, "", ""),
        ("  ", False, "", "  "),
    ],
)
def test_whole_answers(text, inside, reasoning, content):
    assert split(text, THINK, inside=inside) == Part(reasoning, content)


def test_without_markers_all_is_the_answer():
    assert split("<think>a</think>b", None) == Part("", "<think>a</think>b")


PIECES = ["<think>", "</think>", "<", "/", "think>", "thi", " ", "\n", "a", "é", "</", ">"]


@given(
    parts=st.lists(st.sampled_from(PIECES)),
    cuts=st.lists(st.integers(0, 60)),
    inside=st.booleans(),
    markers=st.sampled_from([None, THINK, Markers("<thinking>", "</think>"), Markers("aa", "ab")]),
)
def test_pieces_together_are_the_whole(parts, cuts, inside, markers):
    text = "".join(parts)
    whole = split(text, markers, inside=inside)
    splitter = ReasoningSplitter(markers, inside=inside)
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    told = [splitter.push(text[a:b]) for a, b in itertools.pairwise(edges)] + [splitter.flush()]
    assert "".join(part.reasoning for part in told) == whole.reasoning
    assert "".join(part.content for part in told) == whole.content


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ content.split('</think>')[-1] }}", THINK),
        ("{{ '[/THINK]' }}", Markers("[THINK]", "[/THINK]")),
        ("{% for m in messages %}{% endfor %}", None),
    ],
)
def test_markers_are_found_in_templates(source, expected):
    assert find_markers(source) == expected


@pytest.mark.parametrize(
    ("prompt", "inside"),
    [
        ("<|assistant|><think>\n", True),
        ("<|assistant|><think>", True),
        ("<|assistant|>\n", False),
        ("<|assistant|><think>\n\n</think>\n\n", False),
        ("<|user|>what is <think>?<|assistant|>", False),
    ],
)
def test_prompts_that_end_inside_a_thought(prompt, inside):
    assert begins_inside(prompt, THINK) is inside
    assert not begins_inside(prompt, None)
