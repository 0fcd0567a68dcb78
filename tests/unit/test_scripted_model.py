"""Models that say a given text: the text, whatever the prompt, and another one where a token is in it."""

from __future__ import annotations

import pytest

from llamakit import Session
from llamakit.engine.request import FinishReason
from llamakit.errors import UsageError
from llamakit.testing.scripted_model import scripted_model

CALLS = '<tool_call>\n{"name": "x"}\n</tool_call>\n<tool_call>\n{"name": "y"}\n</tool_call>'
MARKS = ("<tool_call>", "</tool_call>")


def said(path, prompt, **params):
    """The text, control tokens too, that follows a prompt."""
    with Session(path, backend="cpu", ctx_size=8192) as session:
        ids = session.tokenizer.encode(prompt, add_special=True, parse_special=True)
        result = session.generate(ids, **params)
        return session.tokenizer.decode(result.tokens, special=True).removesuffix("</s>"), result.reason


@pytest.mark.parametrize("prompt", ["", "hi", "the fox", "x" * 3000, CALLS + "\nuser: ", "é🦊"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_text_is_said_after_any_prompt(tmp_path, prompt, temperature):
    text = f"Hello there, the fox said to the fox: hello there. {CALLS} é🦊\n\nThe end of the fox."
    path = scripted_model(tmp_path / "m.gguf", text, control=MARKS)
    assert said(path, prompt, temperature=temperature, seed=1) == (text, FinishReason.END)


def test_other_texts_follow_prompts_with_their_tokens(tmp_path):
    texts = {"": CALLS, "<tool_response>": "It is twelve degrees.", "<b>": "A third one"}
    path = scripted_model(tmp_path / "m.gguf", texts, control=(*MARKS, "<tool_response>", "<b>"))
    assert said(path, "hi")[0] == CALLS
    assert said(path, "<tool_response>12" + " and on" * 700)[0] == "It is twelve degrees."
    assert said(path, "<tool_response>12<b>3")[0] == "A third one"


def test_a_long_text(tmp_path):
    text = " ".join(map(str, range(1000)))
    path = scripted_model(tmp_path / "m.gguf", text)
    assert said(path, "x") == (text, FinishReason.END)


def test_a_vocabulary_of_another_model(tmp_path, small_model):
    from llamakit.gguf import open_gguf

    with open_gguf(small_model) as file:
        keys = {key: value for key, value in file.metadata.items() if key.startswith("tokenizer.ggml.")}
        path = scripted_model(tmp_path / "m.gguf", "a big red ball", vocabulary=keys, metadata={"general.name": "ball"})
    assert said(path, "Once upon a time")[0].strip() == "a big red ball"


def test_what_cannot_be_said_is_told(tmp_path):
    with pytest.raises(UsageError, match="look alike"):
        scripted_model(tmp_path / "m.gguf", "<a><b>x<a><b>y", control=("<a>", "<b>"))
    with pytest.raises(UsageError, match="no token '<c>'"):
        scripted_model(tmp_path / "m.gguf", {"": "x", "<c>": "y"})
    assert not (tmp_path / "m.gguf").exists()
