"""The real Python clients of OpenAI, Anthropic, Ollama and LiteLLM against a real server."""

from __future__ import annotations

import math
import os

import pytest

HOW = "is not installed: pip install --group pyproject.toml:oracle"
TALK = [{"role": "user", "content": "Tell me a story."}]
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


def need(name):
    return pytest.importorskip(name, reason=f"{name} {HOW}")


@pytest.fixture(scope="module")
def secured(serve_module, small_model):
    """Two models behind a key."""
    return serve_module({"stories": small_model, "other": small_model}, api_key=["sesame"])


@pytest.fixture(scope="module")
def openai(secured):
    with need("openai").OpenAI(base_url=f"{secured.url}/v1", api_key="sesame", max_retries=0) as client:
        yield client


def test_openai_chat(openai):
    asked = {"model": "stories", "messages": TALK, "max_tokens": 12, "seed": 7, "temperature": 0.8}
    whole = openai.chat.completions.create(**asked)
    assert whole.choices[0].finish_reason in ("length", "stop")
    assert whole.usage.completion_tokens <= 12
    chunks = list(openai.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_openai_chat_with_everything(openai):
    found = openai.chat.completions.create(
        model="stories", messages=TALK, max_tokens=6, n=2, logprobs=True, top_logprobs=3, stop=["zzz"], temperature=1.2,
        seed=1, extra_body={"top_k": 10, "min_p": 0.01, "samplers": ["top_k", "min_p", "temperature"]},
    )  # fmt: skip
    assert [c.index for c in found.choices] == [0, 1]
    for choice in found.choices:
        for token in choice.logprobs.content:
            assert token.logprob <= 0
            assert len(token.top_logprobs) == 3
    assert found.choices[0].message.content != found.choices[1].message.content


def test_openai_completions(openai):
    found = openai.completions.create(
        model="stories", prompt=["Once upon a time", "The sun"], max_tokens=5, echo=True, logprobs=2, temperature=0
    )
    assert [c.text.split()[0] for c in found.choices] == ["Once", "The"]
    first = found.choices[0].logprobs
    assert all(p <= 0 for p in first.token_logprobs)  # the first one too: it follows the BOS token
    assert len(first.tokens) == len(first.text_offset)
    best = openai.completions.create(
        model="stories", prompt="Lily", max_tokens=5, n=1, best_of=4, temperature=1.5, seed=3
    )
    assert len(best.choices) == 1
    pieces = list(openai.completions.create(model="stories", prompt="Lily", max_tokens=5, stream=True, temperature=0))
    alone = openai.completions.create(model="stories", prompt="Lily", max_tokens=5, temperature=0)
    assert "".join(p.choices[0].text for p in pieces if p.choices) == alone.choices[0].text
    assert openai.completions.create(model="stories", prompt=[1, 2, 3], max_tokens=1).usage.prompt_tokens == 3


def test_openai_embeddings_and_models(openai):
    plain = openai.embeddings.create(model="stories", input=["a cat", "a dog"], encoding_format="float")
    packed = openai.embeddings.create(model="stories", input=["a cat", "a dog"])  # base64 on the wire
    for a, b in zip(plain.data, packed.data, strict=True):
        assert a.embedding == pytest.approx(b.embedding, abs=1e-6)
        assert math.sqrt(sum(x * x for x in a.embedding)) == pytest.approx(1, abs=1e-4)
    assert {model.id for model in openai.models.list()} == {"stories", "other"}
    assert openai.models.retrieve("stories").id == "stories"


def test_openai_responses(openai):
    asked = {"model": "stories", "input": "Tell me a story.", "max_output_tokens": 16, "temperature": 0}
    whole = openai.responses.create(**asked)
    assert whole.output_text
    events = list(openai.responses.create(**asked, stream=True))
    assert events[0].type == "response.created"
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == whole.output_text
    assert events[-1].response.usage.output_tokens == whole.usage.output_tokens


def test_openai_errors(openai, secured):
    module = need("openai")
    with pytest.raises(module.NotFoundError, match="no model 'gpt-x'"):
        openai.chat.completions.create(model="gpt-x", messages=TALK)
    with pytest.raises(module.BadRequestError) as caught:
        openai.chat.completions.create(model="stories", messages=[{"role": "user", "content": "word " * 2000}])
    assert caught.value.code == "context_length"
    with pytest.raises(module.BadRequestError) as caught:
        openai.chat.completions.create(model="stories", messages=TALK, temperature=-1)
    assert caught.value.param == "temperature"
    wrong = module.OpenAI(base_url=f"{secured.url}/v1", api_key="wrong", max_retries=0)
    with wrong, pytest.raises(module.AuthenticationError):
        wrong.models.list()


def test_anthropic(secured):
    module = need("anthropic")
    with module.Anthropic(base_url=secured.url, api_key="sesame", max_retries=0) as client:
        asked = {"model": "stories", "messages": TALK, "system": "Be kind.", "max_tokens": 12}
        asked["extra_body"] = {"temperature": 0}
        whole = client.messages.create(**asked)
        assert whole.stop_reason in ("max_tokens", "end_turn")
        with client.messages.stream(**asked) as stream:
            text = "".join(stream.text_stream)
            last = stream.get_final_message()
        assert text == whole.content[0].text
        assert last.usage.output_tokens == whole.usage.output_tokens
        counted = client.messages.count_tokens(model="stories", messages=TALK, system="Be kind.")
        assert counted.input_tokens == whole.usage.input_tokens + whole.usage.cache_read_input_tokens
        with pytest.raises(module.NotFoundError):
            client.messages.create(**{**asked, "model": "claude-x"})


def test_ollama(secured):
    module = need("ollama")
    with module.Client(host=secured.url, headers={"Authorization": "Bearer sesame"}) as client:
        options = {"num_predict": 8, "temperature": 0, "seed": 1}
        whole = client.generate(model="stories", prompt="Once upon a time", options=options)
        pieces = list(client.generate(model="stories", prompt="Once upon a time", options=options, stream=True))
        assert "".join(p.response for p in pieces) == whole.response
        assert pieces[-1].done
        assert pieces[-1].eval_count == whole.eval_count == 8
        chat = client.chat(model="stories", messages=TALK, options=options)
        parts = list(client.chat(model="stories", messages=TALK, options=options, stream=True))
        assert "".join(p.message.content for p in parts) == chat.message.content
        assert [m.model for m in client.list().models] == ["stories:latest", "other:latest"]
        assert client.show("stories").modelinfo["general.architecture"] == "llama"
        assert len(client.embed(model="stories", input=["a", "b"]).embeddings) == 2
        assert client.ps().models
        with pytest.raises(module.ResponseError):
            client.generate(model="nope", prompt="x")


def test_litellm(secured):
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it looks for prices on the network
    litellm = need("litellm")
    asked = {
        "model": "openai/stories", "api_base": f"{secured.url}/v1", "api_key": "sesame", "messages": TALK,
        "max_tokens": 8, "temperature": 0,
    }  # fmt: skip
    whole = litellm.completion(**asked)
    text = "".join(c.choices[0].delta.content or "" for c in litellm.completion(**asked, stream=True))
    assert text == whole.choices[0].message.content
    assert whole.usage.completion_tokens == 8
