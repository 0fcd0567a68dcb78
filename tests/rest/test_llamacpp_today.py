"""What llama.cpp's route has gained since 2023."""

from __future__ import annotations

PROMPT = "Once upon a time"


def test_several_prompts(native):
    body = {"n_predict": 3, "temperature": 0, "cache_prompt": True}
    found = native.complete(prompt=[PROMPT, "The dog"], **body)
    assert [each["index"] for each in found] == [0, 1]
    for each, prompt in zip(found, (PROMPT, "The dog"), strict=True):
        assert each["prompt"].endswith(prompt)  # with the text of the token that begins it
        assert each["prompt"] != prompt
        assert each["content"] == native.complete(prompt=prompt, **body)["content"]
    assert "content" in native.complete(prompt=[PROMPT, "The dog"], n_predict=1)  # as in 2023: one, of two texts
    nested = native.complete(prompt=[[400, 401], PROMPT, {"prompt_string": PROMPT}], n_predict=2)
    assert len(nested) == 3
    events = native.stream(prompt=[[400], [401]], n_predict=3)
    assert {event["index"] for event in events} == {0, 1}
    assert sum(event["stop"] for event in events) == 2


def test_an_object_as_prompt(native):
    body = {"n_predict": 3, "temperature": 0}
    assert (
        native.complete(prompt={"prompt_string": PROMPT}, **body)["content"]
        == native.complete(prompt=PROMPT, **body)["content"]
    )
    assert native.refused(prompt={"prompt_string": "x", "multimodal_data": ["y"]})["param"] == "prompt"


def test_fields_of_today(native):
    found = native.complete(prompt=PROMPT, n_predict=3, cache_prompt=True, return_tokens=True)
    assert (found["stop_type"], found["has_new_line"], len(found["tokens"])) == ("limit", False, 3)
    assert found["timings"]["cache_n"] >= 0
    assert found["timings"]["predicted_n"] == 3
    assert native.complete(prompt=PROMPT, n_predict=3)["timings"]["predicted_n"] == 2  # as in 2023
    assert native.complete(prompt=PROMPT, n_predict=3, stop=["a"], temperature=0, cache_prompt=True)["stop_type"] in (
        "word",
        "limit",
    )
    whole = native.complete(prompt=PROMPT, n_predict=1, response_fields=[])
    assert {"content", "timings", "generation_settings"} <= set(whole)
    assert "stop_type" not in native.complete(prompt=PROMPT, n_predict=1)  # the form of 2023


def test_times_with_every_token(native):
    events = native.stream(prompt=PROMPT, n_predict=4, timings_per_token=True)
    counts = [event["timings"]["predicted_n"] for event in events[:-1]]
    assert counts == sorted(counts)
    assert counts[-1] >= 3


def test_a_limit_of_time(native):
    found = native.complete(prompt=PROMPT, n_predict=100_000, ignore_eos=True, t_max_predict_ms=60)
    assert found["tokens_predicted"] < 100_000
    assert found["stopped_limit"]


def test_a_prompt_that_is_too_long(serve):
    server = serve(settings={"ctx_size": 64})
    for path, body in {
        "/completion": {"prompt": "word " * 200, "context_shift": False},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "word " * 200}]},
    }.items():
        status, answer = server.post(path, body)
        error = answer["error"]
        assert (status, error["type"], error["n_ctx"]) == (400, "exceed_context_size_error", 64)
        assert error["n_prompt_tokens"] > 64
    assert server.post("/completion", {"prompt": "word " * 200, "n_predict": 1})[1]["truncated"] is True  # as in 2023


def test_progress_has_the_keys_of_llamacpp(native):
    events = native.stream(prompt="word " * 30, n_predict=1, return_progress=True, cache_prompt=False)
    progress = [event["prompt_progress"] for event in events if "prompt_progress" in event]
    assert {"total", "cache", "processed", "time_ms"} <= set(progress[-1])


def test_tokens_are_counted_for_every_api(server):
    talk = [{"role": "user", "content": "Hello there"}]
    counts = {
        server.post("/v1/chat/completions/input_tokens", {"messages": talk})[1]["input_tokens"],
        server.post("/v1/responses/input_tokens", {"input": "Hello there"})[1]["input_tokens"],
        server.post("/v1/messages/count_tokens", {"messages": talk})[1]["input_tokens"],
        server.post("/v1/chat/completions", {"messages": talk, "max_tokens": 1})[1]["usage"]["prompt_tokens"],
    }
    assert len(counts) == 1


def test_the_newer_form_is_llamacpp_s_of_today(native):
    old = native.complete(prompt=PROMPT, n_predict=1, ignore_eos=True, logit_bias=[[300, 1.5]])
    new = native.complete(prompt=PROMPT, n_predict=1, ignore_eos=True, logit_bias=[[300, 1.5]], cache_prompt=True)
    assert old["prompt"] == PROMPT
    assert [300, 1.5] in old["generation_settings"]["logit_bias"]
    assert {"token": 300, "bias": 1.5} in new["generation_settings"]["logit_bias"]
    assert new["generation_settings"]["temperature"] == new["generation_settings"]["temp"]


def test_probabilities_after_the_samplers_by_today_s_name(native):
    found = native.complete(prompt=PROMPT, n_predict=3, n_probs=4, post_sampling_probs=True, top_k=4)
    assert len(found["completion_probabilities"]) == 3
    for each in found["completion_probabilities"]:
        assert {"id", "token", "bytes", "prob"} <= set(each)
        assert 0 < each["prob"] <= 1
        assert all({"id", "token", "bytes", "prob"} == set(top) for top in each["top_probs"])
        assert all(top["prob"] > 0 for top in each["top_probs"])
    old = native.complete(prompt=PROMPT, n_predict=1, n_probs=4)
    assert set(old["completion_probabilities"][0]) == {"content", "probs"}


def test_a_request_of_today_shifts_only_where_it_says_so(serve):
    server = serve(settings={"ctx_size": 64})
    long = {"prompt": "word " * 200, "n_predict": 1}
    status, answer = server.post("/completion", long | {"cache_prompt": True})
    assert (status, answer["error"]["type"]) == (400, "exceed_context_size_error")
    assert "exceeds the available context size" in answer["error"]["message"]
    assert server.post("/completion", long | {"cache_prompt": True, "context_shift": True})[0] == 200
    server.state.defaults = {"context_shift": True}
    assert server.post("/completion", long | {"cache_prompt": True})[0] == 200


def test_the_probability_of_a_token_that_is_not_among_the_likeliest(native):
    """It was told as 0 there, whatever was drawn."""
    body = {"prompt": "Once", "n_predict": 30, "seed": 1, "temperature": 5.0, "top_k": 0, "ignore_eos": True}
    few, many = (
        native.complete(**body, n_probs=n, post_sampling_probs=True)["completion_probabilities"] for n in (2, 500)
    )
    assert [each["id"] for each in few] == [each["id"] for each in many]
    assert [each["prob"] for each in few] == [each["prob"] for each in many]
    assert any(each["id"] not in [top["id"] for top in each["top_probs"]] for each in few)
    assert all(each["prob"] > 0 for each in few)
