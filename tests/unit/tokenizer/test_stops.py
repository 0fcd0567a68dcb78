from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from llamakit.tokenizer.stops import StopMatcher


def run(stops: list[str], parts: list[str]) -> tuple[str, str | None]:
    matcher, shown = StopMatcher(stops), ""
    for part in parts:
        emitted, stop = matcher.push(part)
        shown += emitted
        if stop is not None:
            return shown, stop
    return shown + matcher.flush(), None


def test_partial_tails_are_held_back() -> None:
    matcher = StopMatcher(["</s>"])
    assert matcher.push("a</") == ("a", None)
    assert matcher.push("b") == ("</b", None)
    assert matcher.push("</s") == ("", None)
    assert matcher.push(">x") == ("", "</s>")


def test_earliest_hit_wins() -> None:
    assert run(["cd", "b"], ["abcd"]) == ("a", "b")
    assert run(["ab", "abc"], ["xabc"])[0] == "x"


@given(st.text("ab", max_size=20), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_cuts_do_not_matter(text: str, stops: list[str], data: st.DataObject) -> None:
    shown, stop = run(stops, list(text))
    hits = [text.find(s) + len(s) for s in stops if s in text]
    if not hits:
        assert (shown, stop) == (text, None)
    else:
        assert stop in stops
        assert text.startswith(shown + str(stop))
        assert not any(s in shown for s in stops)


def test_a_long_stream_takes_linear_time() -> None:
    def seconds(count: int) -> float:
        started = time.process_time()
        run(["a" * 50 + "b"], ["a"] * count)
        return time.process_time() - started

    small, large = seconds(2_000), seconds(20_000)
    assert large < 40 * small + 0.5
