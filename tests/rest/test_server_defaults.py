"""What the server's settings give to requests that say nothing, in every API."""

from __future__ import annotations

import pytest
from llamakit.plugins.frontends.rest.options import ServeOptions
from llamakit.plugins.frontends.rest.startup import settings_of

from llamakit.config import Config, make_schema
from llamakit.errors import UsageError
from llamakit.registry import Registry
from llamakit.testing.scripted_model import scripted_model

TALK = [{"role": "user", "content": "Once"}]


def test_seed_and_limit_hold_where_a_request_says_nothing(serve):
    server = serve()
    server.state.defaults = {
        "seed": 7,
        **dict.fromkeys(("n_predict", "max_tokens", "max_output_tokens", "num_predict"), 3),
    }
    _, answer = server.post("/completion", {"prompt": "Once"})
    assert (answer["generation_settings"]["seed"], answer["tokens_predicted"]) == (7, 3)
    _, answer = server.post("/completion", {"prompt": "Once", "seed": 8, "n_predict": 2})
    assert (answer["generation_settings"]["seed"], answer["tokens_predicted"]) == (8, 2)
    for n in (9, -1, -2):  # never more than the server's
        assert server.post("/completion", {"prompt": "Once", "n_predict": n})[1]["tokens_predicted"] == 3
    for path, body in {
        "/v1/chat/completions": {"messages": TALK}, "/v1/completions": {"prompt": "Once"}, "/v1/responses": {"input": "Once"},
        "/api/chat": {"messages": TALK, "stream": False}, "/v1/messages": {"messages": TALK, "max_tokens": 3},
    }.items():  # fmt: skip
        status, answer = server.post(path, body)
        assert (status, answer["llamakit"]["seed"], answer["timings"]["predicted_n"]) == (200, 7, 3), path
    _, answer = server.post("/v1/chat/completions", {"messages": TALK, "max_completion_tokens": 2})
    assert answer["usage"]["completion_tokens"] == 2
    assert server.post("/v1/messages", {"messages": TALK})[0] == 400  # what an API wants, it still wants


def test_a_prefix_of_all_routes(serve):
    server = serve(api_prefix="/llm/")
    assert server.get("/llm/health")[0] == 200
    assert server.post("/llm/completion", {"prompt": "a", "n_predict": 1})[0] == 200
    assert server.request("GET", "/llm/")[0] == 200
    for path in ("/health", "/llmhealth", "/"):
        assert server.request("GET", path)[0] == 404


def test_a_server_without_its_page(serve):
    server = serve(no_ui=True)
    assert server.request("GET", "/")[0] == 404
    assert server.get("/health")[0] == 200


def test_thoughts_that_stay_in_the_text(serve, tmp_path):
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{# <think> </think> #}{{ enable_thinking }}"
    model = scripted_model(tmp_path / "m.gguf", "<think>\nHm.\n</think>\n\nYes.", template=template)
    body = {"messages": TALK, "temperature": 0}
    message = serve({"m": model}).post("/v1/chat/completions", body)[1]["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("Yes.", "Hm.")
    server = serve({"m": model}, reasoning_format="none", reasoning_budget=0)
    message = server.post("/v1/chat/completions", body)[1]["choices"][0]["message"]
    assert message["content"] == "<think>\nHm.\n</think>\n\nYes."
    assert "reasoning_content" not in message
    assert server.post("/apply-template", {"messages": TALK})[1]["prompt"] == "OnceFalse"


def test_templates_by_name_and_file(serve, tmp_path):
    broken = scripted_model(tmp_path / "b.gguf", "Hi", template="{{ range .Messages }}{{ .Content }}{{ end }}")
    server = serve({"b": broken})
    assert server.post("/v1/chat/completions", {"messages": TALK})[0] != 200
    status, shown = server.post("/api/show", {"model": "b"})
    assert (status, shown["template"]) == (200, "{{ range .Messages }}{{ .Content }}{{ end }}")
    file = tmp_path / "t.jinja"
    file.write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}{{ name }}")
    for template, prompt in {
        "chatml": "<|im_start|>user\nOnce<|im_end|>\n<|im_start|>assistant\n", str(file): "[Once]x",
        "{{ messages[0].content }}!": "Once!",
    }.items():  # fmt: skip
        server = serve({"b": broken}, settings={"chat_template": template}, chat_template_kwargs='{"name": "x"}')
        assert server.post("/apply-template", {"messages": TALK})[1]["prompt"] == prompt
        assert server.post("/v1/chat/completions", {"messages": TALK, "max_tokens": 2})[0] == 200


def test_the_template_for_tools(serve, tmp_path):
    keys = {"tokenizer.chat_template.tool_use": "tools: {{ tools | tojson }} {{ messages[0].content }}"}
    model = scripted_model(tmp_path / "m.gguf", "Hi", template="{{ messages[0].content }}", metadata=keys)
    server = serve({"m": model})
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    assert server.post("/apply-template", {"messages": TALK})[1]["prompt"] == "Once"
    assert server.post("/apply-template", {"messages": TALK, "tools": tools})[1]["prompt"].startswith("tools: [{")


@pytest.mark.parametrize("asked", ["tool_use", "t.jinja", "{{ " + "m" * 5000 + " }}", "\0", ""])
def test_a_template_is_asked_for_by_the_name_that_the_model_has_for_it(asked):
    """One of several in the model's file was no name, for the server alone."""
    options = ServeOptions(chat_template=asked)
    assert settings_of(Config(make_schema(None)), options, Registry.discover())["chat_template"] == asked


def test_a_template_that_is_none_is_told(small_model):
    from llamakit import Session

    with Session(small_model, chat_template="no-such") as session, pytest.raises(UsageError, match="no chat template"):
        session.template()
