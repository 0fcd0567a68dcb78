"""`/tokenize`, `/detokenize`, `/embedding`, `/model.json`, `/apply-template`, `/infill`, OPTIONS."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.usefixtures("stories260k")
def test_tokenize_as_in_2023(native):
    """Each text of an array is encoded alone, and gets its own leading space; no BOS."""
    assert native.post("/tokenize").json() == {"tokens": []}
    assert native.post("/tokenize", content="").json() == {"tokens": []}
    hello, world = native.ids("Hello"), native.ids("world")
    assert native.ids(["Hello", 400, "world"]) == [*hello, 400, *world]
    assert native.detokenize(hello) == " Hello"
    assert native.post("/tokenize", content="Hello").data == b'{"tokens":[346,306,414]}'


@pytest.mark.usefixtures("stories260k")
def test_todays_options_of_tokenize(native):
    plain = native.ids("Hello")
    assert native.post("/tokenize", content="Hello", add_special=True).json()["tokens"] == [1, *plain]
    assert native.post("/tokenize", content="<s>").json()["tokens"][-1] == 1
    assert 1 not in native.post("/tokenize", content="<s>", parse_special=False).json()["tokens"]
    pieces = native.post("/tokenize", content="Hé", with_pieces=True).json()["tokens"]
    assert [piece["id"] for piece in pieces] == native.ids("Hé")
    assert pieces[0]["piece"] == " H"
    assert native.post("/tokenize", content="\U0001f600", with_pieces=True).json()["tokens"][-1]["piece"] == [0x80]


@pytest.mark.usefixtures("stories260k")
def test_detokenize(native):
    assert native.post("/detokenize").json() == {"content": ""}
    ids = native.ids("Lily saw a cat. \U0001f600 né")
    assert native.detokenize(ids) == " Lily saw a cat. \U0001f600 né"
    assert native.detokenize(native.ids("\U0001f600")[:-1]).endswith("\ufffd")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {"content": 1}, "content"),
        ("/tokenize", {"content": [512]}, "content"),
        ("/tokenize", {"content": [[1]]}, "content"),
        ("/tokenize", {"content": "a", "with_pieces": 1}, "with_pieces"),
        ("/detokenize", {"tokens": [512]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
        ("/detokenize", {"tokens": [1.5]}, "tokens"),
        ("/embedding", {"content": 1}, "content"),
        ("/embedding", {"content": []}, "content"),
        ("/embedding", {"input": []}, "input"),
        ("/embedding", {"input": [1, "a"]}, "input"),
        ("/embedding", {"input": [[]]}, "input[0]"),
        ("/embedding", {"input": [[-1]]}, "input[0]"),
        ("/embedding", {"content": "a", "input": "b"}, "input"),
        ("/embedding", {"content": "a", "pooling": "max"}, "pooling"),
        ("/embedding", {"input": ["a"] * 2049}, "input"),
        ("/embedding", {"content": [400] * 600}, "input"),
        ("/apply-template", {}, "messages"),
        ("/apply-template", {"messages": []}, "messages"),
        ("/apply-template", {"messages": "x"}, "messages"),
        ("/apply-template", {"messages": [1]}, "messages"),
        ("/apply-template", {"messages": [{"role": 1, "content": "x"}]}, "messages"),
        (
            "/apply-template",
            {"messages": [{"role": "user"}], "chat_template_kwargs": {"self": 1}},
            "chat_template_kwargs",
        ),
        ("/infill", {}, "input_prefix"),
        ("/infill", {"input_prefix": 1}, "input_prefix"),
        ("/infill", {"input_prefix": "a", "input_extra": [{"filename": "x"}]}, "input_extra"),
    ],
)
@pytest.mark.usefixtures("stories260k")
def test_what_is_refused(native, path, body, param):
    assert native.refused(path, **body)["param"] == param


def test_the_embedding_of_2023_is_the_last_tokens_as_it_is(native, small_model, backend_name):
    from llamakit import Session

    answer = native.post("/embedding", content="Lily saw a cat").json()
    assert list(answer) == ["embedding"]
    with Session(small_model, backend=backend_name, threads=2) as session:
        expected = session.embed("Lily saw a cat", pooling="last", normalize=False)
    assert np.asarray(answer["embedding"], np.float32).tolist() == expected.tolist()
    assert native.post("/embeddings", content="Lily saw a cat").json() == answer
    ids = [1, *native.ids("Lily saw a cat")]
    assert native.post("/embedding", content=ids).json() == answer
    assert native.post("/embedding", input=ids).json() == answer


def test_embeddings_of_several_texts(native):
    texts = ["Lily saw a cat", "The dog ran", [1, 400]]
    answer = native.post("/embedding", input=texts, pooling="mean", normalize=True).json()
    assert [item["index"] for item in answer] == [0, 1, 2]
    for item in answer:
        assert abs(np.linalg.norm(item["embedding"]) - 1) < 1e-6
    alone = native.post("/embedding", input=texts[1], pooling="mean", normalize=True).json()
    assert answer[1]["embedding"] == alone["embedding"]
    rows = native.post("/embedding", content="The dog ran", pooling="none").json()["embedding"]
    last = native.post("/embedding", content="The dog ran").json()["embedding"]
    first = native.post("/embedding", content="The dog ran", pooling="cls").json()["embedding"]
    assert len(rows) == 1 + len(native.ids("The dog ran"))
    assert (rows[-1], rows[0]) == (last, first)


def test_model_json_is_the_settings_of_a_request_without_any(native):
    status, settings = native.client.get("/model.json")
    assert status == 200
    assert list(settings) == sorted(settings)
    answer = native.complete(prompt="a", n_predict=1)["generation_settings"]
    assert settings == answer | {"n_predict": -1}


@pytest.mark.usefixtures("stories260k")
def test_apply_template(native):
    talk = [{"role": "user", "content": "Hi"}]
    assert native.post("/apply-template", messages=talk).json() == {"prompt": "User: Hi\nAssistant:"}
    closed = native.post("/apply-template", messages=talk, add_generation_prompt=False).json()
    assert closed == {"prompt": "User: Hi\n"}


def test_options_of_any_path(native):
    for path in ("/completion", "/embedding", "/nothing/here"):
        status, headers, data = native.client.request("OPTIONS", path)
        assert (status, data) == (200, b""), path
        assert headers["Content-Length"] in (None, "0")


def test_infill_without_tokens_for_it(native):
    error = native.refused("/infill", input_prefix="a", input_suffix="b")
    assert "middle" in error["message"]
    assert "pre, suf, mid" in error["found"]


@pytest.mark.usefixtures("stories260k")
def test_infill(native, monkeypatch):
    """The prompt is prefix, suffix and the mark of the middle, which it begins with `prompt`."""
    tokenizer = native.state.pool.loaded().tokenizer
    monkeypatch.setattr(tokenizer, "fim_ids", {"pre": 3, "suf": 4, "mid": 5})
    before, after = native.ids("Lily saw a"), native.ids("cat.")
    inside = after[1:] if native.detokenize(after[:1]) == " " else after
    answer = native.post(
        "/infill", input_prefix="Lily saw a", input_suffix="cat.", prompt="x", n_predict=6, temperature=0
    )
    answer = answer.json()
    from llamakit.tokenizer.infill import inner_tokens

    inside = inner_tokens(tokenizer, "cat.")
    ids = [1, 3, *before, 4, *inside, 5, *native.ids("x")]
    assert answer["tokens_evaluated"] == len(ids)
    assert answer["content"] == native.complete(prompt=ids, n_predict=6, temperature=0)["content"]
    assert answer["truncated"] is False
    long = native.post("/infill", input_prefix="word " * 600, input_suffix="cat.", n_predict=6).json()
    assert long["truncated"] is True
    assert long["tokens_evaluated"] <= 512 - 6
