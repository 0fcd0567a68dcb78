"""`POST /completion`: the shapes of 2023, and that streamed, whole and repeated answers are the same."""

from __future__ import annotations

import json

import pytest

PROMPT = "Once upon a time"
SETTINGS = """
    frequency_penalty grammar ignore_eos logit_bias mirostat mirostat_eta mirostat_tau model n_ctx n_keep n_predict
    n_probs penalize_nl presence_penalty repeat_last_n repeat_penalty seed stop stream temp tfs_z top_k top_p typical_p
"""
FIELDS = """
    content generation_settings model prompt stop stopped_eos stopped_limit stopped_word stopping_word timings
    tokens_cached tokens_evaluated tokens_predicted truncated
"""
TIMINGS = """
    predicted_ms predicted_n predicted_per_second predicted_per_token_ms prompt_ms prompt_n prompt_per_second
    prompt_per_token_ms
"""


def test_the_whole_answer_has_the_fields_of_2023_in_order(native):
    answer = native.complete(prompt=PROMPT, n_predict=8, temperature=0)
    assert list(answer) == FIELDS.split()
    assert list(answer["generation_settings"]) == SETTINGS.split()
    assert list(answer["timings"]) == TIMINGS.split()
    assert answer["prompt"] == PROMPT
    assert (answer["tokens_evaluated"], answer["tokens_predicted"]) == (5, 8)
    assert answer["tokens_cached"] == 12  # the last token is not evaluated
    assert (answer["stop"], answer["stopped_limit"], answer["truncated"]) == (True, True, False)
    assert (answer["stopped_eos"], answer["stopped_word"], answer["stopping_word"]) == (False, False, "")


@pytest.mark.usefixtures("stories260k")
def test_defaults_are_those_of_the_code_of_2023(native):
    settings = native.complete(prompt=PROMPT, n_predict=1)["generation_settings"]
    expected = {
        "n_predict": 1, "n_keep": 0, "temp": 0.8, "top_k": 40, "top_p": 0.95, "tfs_z": 1.0, "typical_p": 1.0,
        "repeat_penalty": 1.1, "repeat_last_n": 64, "presence_penalty": 0.0, "frequency_penalty": 0.0,
        "penalize_nl": True, "mirostat": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.1, "grammar": "", "seed": 4294967295,
        "ignore_eos": False, "logit_bias": [], "stop": [], "n_probs": 0, "stream": False,
    }  # fmt: skip
    assert {name: settings[name] for name in expected} == expected
    assert settings["n_ctx"] == 512


def test_settings_echo_what_the_request_set(native):
    given = {
        "top_k": 5, "top_p": 0.5, "tfs_z": 0.9, "typical_p": 0.8, "repeat_penalty": 1.2, "repeat_last_n": 9,
        "presence_penalty": 0.1, "frequency_penalty": 0.2, "penalize_nl": False, "mirostat": 2, "mirostat_tau": 3.0,
        "mirostat_eta": 0.2, "seed": 7, "stop": ["zzz"], "n_probs": 1, "n_keep": -1, "n_predict": 1, "ignore_eos": True,
    }  # fmt: skip
    bias = [[5, False], [6, 1.5]]
    settings = native.complete(prompt=PROMPT, temperature=0.3, logit_bias=bias, **given)["generation_settings"]
    assert {name: settings[name] for name in given} == given | {"n_keep": 5}
    assert settings["temp"] == 0.3
    assert settings["logit_bias"] == [[5, None], [6, 1.5]]


@pytest.mark.usefixtures("stories260k")
def test_the_bytes_of_a_stream(native):
    response = native.post("/completion", prompt=PROMPT, n_predict=3, temperature=0, stream=True)
    assert response.headers["Content-Type"] == "text/event-stream"
    parts = response.data.decode().split("\n\n")
    assert parts.pop() == ""
    assert parts[:3] == [
        'data: {"content":",","stop":false}',
        'data: {"content":" there","stop":false}',
        'data: {"content":" was","stop":false}',
    ]
    assert len(parts) == 4
    last = json.loads(parts[3].removeprefix("data: "))
    assert list(last) == FIELDS.split()
    assert (last["content"], last["stop"]) == ("", True)
    assert parts[3] == "data: " + json.dumps(last, separators=(",", ":"), ensure_ascii=False)


def test_no_prompt_is_bos_alone(native):
    assert native.complete(n_predict=0)["tokens_evaluated"] == 1
    assert native.complete(prompt="", n_predict=0)["tokens_evaluated"] == 1


def test_n_predict_0_fills_the_cache(native):
    words = "The cat sat on the mat and looked at the big red ball"
    first = native.complete(prompt=words, n_predict=0)
    assert (first["content"], first["tokens_predicted"], first["stopped_limit"]) == ("", 0, True)
    second = native.complete(prompt=words, n_predict=1)
    assert second["timings"]["prompt_n"] == 1


def test_prompts_of_texts_and_ids(native):
    """The ids are those of hand-made prompts: BOS only before text, each text encoded alone."""
    tokens = native.ids("Hello")
    n = len(tokens)
    for prompt, expected in [
        ("Hello", 1 + n),
        (["Hello"], 1 + n),
        (["Hello", 400, "Hello"], 1 + n + 1 + n),
        ([400, "Hello"], 1 + n),
        ([400, 401], 2),
        ([""], 1),
        (["", 400], 2),
    ]:
        assert native.complete(prompt=prompt, n_predict=0)["tokens_evaluated"] == expected, prompt
    whole = native.complete(prompt="Hello world", n_predict=9, temperature=0)["content"]
    ids = [1, *native.ids("Hello world")]
    assert native.complete(prompt=ids, n_predict=9, temperature=0)["content"] == whole
    assert native.complete(prompt="<s>Hello world", n_predict=9, temperature=0)["content"] == whole


@pytest.mark.usefixtures("stories260k")
def test_a_prompt_that_is_too_long_loses_its_middle(native):
    """tokens >= n_ctx: the first n_keep stay, whole halves of the rest go from behind them."""
    ids = [1] + [400 + i % 100 for i in range(699)]
    answer = native.complete(prompt=ids, n_predict=4, n_keep=5, temperature=0, n_probs=3)
    assert answer["truncated"] is True
    assert answer["tokens_evaluated"] == 700
    half = (512 - 5) // 2
    kept = ids[:5] + ids[5 + half :]
    assert answer["generation_settings"]["n_keep"] == 5
    same = native.complete(prompt=kept, n_predict=4, temperature=0, n_probs=3)
    assert same["content"] == answer["content"]
    for a, b in zip(same["completion_probabilities"], answer["completion_probabilities"], strict=True):
        assert [each["tok_str"] for each in a["probs"]] == [each["tok_str"] for each in b["probs"]]
        assert [each["prob"] for each in a["probs"]] == pytest.approx([each["prob"] for each in b["probs"]], rel=1e-5)
    assert same["truncated"] is False


@pytest.mark.usefixtures("stories260k")
def test_old_context_is_dropped_while_generating(native):
    answer = native.complete(prompt=PROMPT, n_predict=600, ignore_eos=True, seed=1, n_keep=-1)
    assert (answer["tokens_predicted"], answer["truncated"], answer["stopped_limit"]) == (600, True, True)
    assert answer["tokens_cached"] <= 512


@pytest.mark.usefixtures("stories260k")
def test_without_a_limit_it_ends_at_max_predict(native):
    answer = native.complete(prompt=PROMPT, n_predict=-1, ignore_eos=True, seed=1, top_k=1)
    assert answer["stopped_limit"] is True
    assert answer["tokens_predicted"] == 8 * 512


@pytest.mark.usefixtures("stories260k")
def test_minus_2_ends_with_the_context(native):
    answer = native.complete(prompt=PROMPT, n_predict=-2, ignore_eos=True, seed=1)
    assert (answer["truncated"], answer["stopped_limit"]) == (False, True)
    assert answer["tokens_evaluated"] + answer["tokens_predicted"] in (512, 513)


@pytest.mark.usefixtures("stories260k")
def test_without_context_shift_it_ends_with_the_context(native):
    answer = native.complete(prompt=PROMPT, n_predict=600, ignore_eos=True, seed=1, context_shift=False)
    assert (answer["truncated"], answer["stopped_limit"], answer["stop_type"]) == (False, True, "context")


def test_the_end_token_counts(native):
    answer = native.complete(prompt=PROMPT, n_predict=-1, logit_bias=[[2, 1000]])
    assert (answer["content"], answer["tokens_predicted"], answer["stopped_eos"]) == ("", 1, True)


def test_a_bias_is_added_and_the_last_one_for_a_token_counts(native):
    first = {"prompt": PROMPT, "n_predict": 1, "temperature": 0, "return_tokens": True}
    usual = native.complete(**first)["tokens"][0]
    for bias, expected in [
        ([[400, 1000]], 400),
        ([[400, 1000], [401, 2000]], 401),
        ([[400, 1000], [400, False]], usual),
        ([[400, False], [400, 1000]], 400),
        ({"400": 1000}, 400),
        ([[native.detokenize([400]).strip(), 1000]], native.ids(native.detokenize([400]).strip())[-1]),
    ]:
        assert native.complete(**first, logit_bias=bias)["tokens"] == [expected], bias
    assert native.complete(**first, logit_bias=[[usual, False]])["tokens"] != [usual]


def test_a_bias_for_the_end_wins_over_ignore_eos(native):
    answer = native.complete(prompt=PROMPT, n_predict=9, ignore_eos=True, logit_bias=[[2, 1000]])
    assert (answer["stopped_eos"], answer["tokens_predicted"]) == (True, 1)
    assert answer["generation_settings"]["ignore_eos"] is False
    answer = native.complete(prompt=PROMPT, n_predict=9, ignore_eos=True, logit_bias=[[400, 1]])
    assert answer["generation_settings"]["ignore_eos"] is True


def test_the_limit_gives_way_to_the_rest_of_a_character(native):
    """A byte that begins a character of four: up to three more tokens may complete it."""
    begins = native.ids("\U0001f600")[-4]
    answer = native.complete(prompt=PROMPT, n_predict=1, logit_bias=[[begins, 1000]])
    assert (answer["tokens_predicted"], answer["stopped_limit"]) == (4, True)
    assert set(answer["content"]) == {"\ufffd"}
    ends = native.complete(prompt=PROMPT, n_predict=2, logit_bias=[[400, 1000]])
    assert ends["tokens_predicted"] == 2


def test_streamed_whole_and_repeated_answers_are_the_same(native):
    stops: list[list[str]] = [[], [" the"], ["he ", "e"], [". ", "\n"], ["was a little girl named Lily. She l"]]
    for seed in range(10):
        for stop in stops:
            body = {"prompt": PROMPT, "n_predict": 24, "seed": seed, "stop": stop, "temperature": 1.5}
            whole = native.complete(**body)
            events = native.stream(**body)
            assert "".join(event["content"] for event in events) == whole["content"], (seed, stop)
            last = events[-1]
            for name in ("stopped_eos", "stopped_word", "stopped_limit", "stopping_word", "tokens_predicted"):
                assert last[name] == whole[name], (seed, stop, name)
            for word in stop:
                assert word not in whole["content"]


def test_a_stop_string_ends_the_text_before_it(native):
    full = native.complete(prompt=PROMPT, n_predict=20, temperature=0)["content"]
    word = full[12:17]
    answer = native.complete(prompt=PROMPT, n_predict=20, temperature=0, stop=["never", word])
    assert answer["content"] == full[: full.index(word)]
    assert (answer["stopped_word"], answer["stopping_word"], answer["stopped_limit"]) == (True, word, False)


def test_several_answers(native):
    answers = native.complete(prompt=PROMPT, n_predict=6, n=3, seed=5, temperature=1.5)
    assert [answer["index"] for answer in answers] == [0, 1, 2]
    assert len({answer["content"] for answer in answers}) > 1
    events = native.stream(prompt=PROMPT, n_predict=6, n=3, seed=5, temperature=1.5)
    for index, answer in enumerate(answers):
        mine = [event for event in events if event["index"] == index]
        assert "".join(event["content"] for event in mine) == answer["content"]
        assert [event["stop"] for event in mine].count(True) == 1


@pytest.mark.parametrize("extra", [{"best_of": 4}, {"n_beams": 4}, {"n_beams": 4, "n": 2}, {"n": 2, "best_of": 4}])
def test_ranked_answers_and_searches_stream_what_they_answer_whole(native, extra):
    body = {"prompt": PROMPT, "n_predict": 8, "seed": 3, "return_tokens": True, **extra}
    whole = native.complete(**body)
    answers = whole if isinstance(whole, list) else [whole]
    events = native.stream(**body)
    for index, answer in enumerate(answers):
        mine = [event for event in events if event.get("index", 0) == index]
        assert "".join(event["content"] for event in mine) == answer["content"]
        assert mine[-1]["tokens"] == answer["tokens"]


def test_guidance_moves_the_answer(native):
    plain = native.complete(prompt=PROMPT, n_predict=12, temperature=0)["content"]
    one = native.complete(prompt=PROMPT, n_predict=12, temperature=0, negative_prompt="A dog", guidance_scale=1)
    moved = native.complete(prompt=PROMPT, n_predict=12, temperature=0, negative_prompt="Lily ran", guidance_scale=8)
    assert one["content"] == plain
    assert moved["content"] != plain


def test_guessing_ahead_changes_nothing(native):
    body = {"prompt": "one two one two one two one two", "n_predict": 30, "seed": 4}
    plain = native.complete(**body, **{"speculative.n_max": 0})
    guessed = native.complete(**body, **{"speculative.n_max": 4})
    assert guessed["content"] == plain["content"]


def test_response_fields(native):
    answer = native.complete(
        prompt=PROMPT, n_predict=2, response_fields=["content", "timings/prompt_n", "generation_settings/x", "y/z"]
    )
    assert set(answer) == {"content", "timings/prompt_n"}


def test_return_tokens(native):
    answer = native.complete(prompt=PROMPT, n_predict=6, temperature=0, return_tokens=True)
    assert len(answer["tokens"]) == 6
    events = native.stream(prompt=PROMPT, n_predict=6, temperature=0, return_tokens=True)
    assert [token for event in events[:-1] for token in event["tokens"]] == answer["tokens"]
    assert native.detokenize(answer["tokens"]) == answer["content"]


def test_progress_comes_only_when_it_is_asked_for(native):
    prompt = [1] + [400] * 300
    plain = native.stream(prompt=prompt, n_predict=2, cache_prompt=False)
    assert all("content" in event for event in plain)
    asked = native.stream(prompt=prompt, n_predict=2, cache_prompt=False, return_progress=True)
    told = [event["prompt_progress"] for event in asked if "prompt_progress" in event]
    assert told
    assert all(set(value) == {"total", "cached", "cache", "processed", "ms", "time_ms"} for value in told)
    assert told[-1]["processed"] == told[-1]["total"] == 301
    kinds = ["".join(event)[:7] for event in asked if "content" in event or "prompt_progress" in event]
    assert kinds == sorted(kinds, reverse=True)  # all progress before all text
    assert asked[-1]["stop"] is True
    assert list(asked[-1]["llamakit"]) == ["adapters", "ignored", "samplers", "seed", "stop_reason"]
    assert set(asked[-1]["timings"]) - set(plain[-1]["timings"]) == {
        "draft_n",
        "draft_n_accepted",
        "queue_ms",
    }
    again = native.complete(prompt=prompt, n_predict=2, seed=asked[-1]["llamakit"]["seed"])
    assert again["content"] == "".join(event.get("content", "") for event in asked)


def test_a_deadline_cuts_the_answer(native):
    answer = native.complete(prompt=PROMPT, n_predict=-1, ignore_eos=True, deadline=0.05)
    assert (answer["stop_type"], answer["stopped_limit"]) == ("deadline", True)


@pytest.mark.usefixtures("stories260k")
def test_any_content_type(native):
    body = json.dumps({"prompt": PROMPT, "n_predict": 2, "temperature": 0}).encode()
    for path, kind in [("/completion", "application/json"), ("/completion", "application/x-www-form-urlencoded")]:
        response = native.post(path, {"Content-Type": kind}, body)
        assert response.status == 200
        assert response.json()["content"] == ", there"


def test_unknown_fields_are_named(native):
    response = native.post("/completion", prompt=PROMPT, n_predict=1, foo=1, n_discard=-5)
    assert response.status == 200
    assert response.headers["X-Ignored-Fields"] == "foo, n_discard"
    error = native.refused(prompt=PROMPT, n_predict=1, n_predcit=1, strict=True)
    assert error["param"] == "n_predcit"
    assert "n_predict" in error["found"]
