"""Frameworks over OpenAI's API, as docs/clients.md lists them: the real LangChain, Pydantic AI and OpenAI's Agents.

Instructor and LlamaIndex want an older client of OpenAI than the others: what they send was recorded, and is sent here.
"""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.rest.test_client_matrix import ANSWER, ASK, FUNCTION, PARAMETERS, TOOLS
from tests.rest.test_client_matrix import server as server  # noqa: PLC0414 - the fixture

QUESTION = ASK[0]["content"]
CITIES = [("agent", ["Rome"]), ("both", ["Rome", "Oslo"])]
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


def get_weather(city: str) -> str:
    """The weather of a city."""
    asked.append(city)
    return "12"


asked: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_asked(monkeypatch):
    asked.clear()
    for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2", "OPENAI_AGENTS_DISABLE_TRACING"):
        monkeypatch.setenv(name, "1" if "DISABLE" in name else "false")


def place_class():
    """What structured answers are of."""
    from pydantic import BaseModel

    class Place(BaseModel):
        city: str

    return Place


# -- LangChain ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def langchain(server):
    module = pytest.importorskip("langchain_openai")
    import httpx

    with httpx.Client() as http:
        yield lambda model: module.ChatOpenAI(
            model=model, base_url=f"{server.url}/v1", api_key="x", max_retries=0, http_client=http, stream_usage=True
        )


def test_langchain_text_and_stream(langchain):
    chat = langchain("words")
    assert chat.invoke(QUESTION).content == ANSWER
    parts = list(chat.stream(QUESTION))
    assert "".join(part.content for part in parts) == ANSWER
    assert sum(part.usage_metadata["output_tokens"] for part in parts if part.usage_metadata) > 0


@pytest.mark.parametrize(("model", "cities"), CITIES)
def test_langchain_tools_over_two_turns(langchain, model, cities):
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool

    chat = langchain(model).bind_tools([tool(get_weather)])
    whole = chat.invoke(QUESTION)
    streamed = None
    for part in chat.stream(QUESTION):
        streamed = part if streamed is None else streamed + part
    for message in (whole, streamed):
        assert [call["args"]["city"] for call in message.tool_calls] == cities
        results = [ToolMessage("12", tool_call_id=call["id"]) for call in message.tool_calls]
        assert chat.invoke([HumanMessage(QUESTION), message, *results]).content == ANSWER


def test_langchain_structured(langchain):
    for method in ("json_schema", "json_mode"):
        made = langchain("form").with_structured_output(place_class(), method=method).invoke(QUESTION)
        assert made.city == "Rome"
    forced = langchain("agent").bind_tools([TOOLS[0]], tool_choice="get_weather").invoke(QUESTION)
    assert forced.tool_calls[0]["args"] == {"city": "Rome"}


def test_langchain_embeddings(server):
    module = pytest.importorskip("langchain_openai")
    import httpx

    with httpx.Client() as http:
        texts = module.OpenAIEmbeddings(
            model="words", base_url=f"{server.url}/v1", api_key="x", max_retries=0, http_client=http,
            check_embedding_ctx_length=False,
        )  # fmt: skip
        assert len(texts.embed_documents(["a", "b"])) == 2


# -- Pydantic AI -------------------------------------------------------------------------------------------------------


def pydantic_agent(server, model, **more):
    pydantic_ai = pytest.importorskip("pydantic_ai")
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=f"{server.url}/v1", api_key="x")
    return pydantic_ai.Agent(OpenAIChatModel(model, provider=provider), **more), provider.client


def run_with(client, work):
    """Run a coroutine, and close the client that it used."""

    async def run():
        async with client:
            return await work()

    return asyncio.run(run())


def test_pydantic_ai_text_stream_and_structured(server):
    agent, client = pydantic_agent(server, "words")

    async def both():
        made = await agent.run(QUESTION)
        async with agent.run_stream(QUESTION) as stream:
            return made.output, await stream.get_output()

    assert run_with(client, both) == (ANSWER, ANSWER)
    from pydantic_ai import NativeOutput

    agent, client = pydantic_agent(server, "form", output_type=NativeOutput(place_class()))
    made = run_with(client, lambda: agent.run(QUESTION))
    assert made.output.city == "Rome"


@pytest.mark.parametrize(("model", "cities"), CITIES)
def test_pydantic_ai_tools_over_two_turns(server, model, cities):
    agent, client = pydantic_agent(server, model, tools=[get_weather], system_prompt="Be short.")
    made = run_with(client, lambda: agent.run(QUESTION))
    assert (made.output, sorted(asked)) == (ANSWER, sorted(cities))


# -- OpenAI's Agents ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize(("model", "cities"), [("words", []), *CITIES])
def test_openai_agents(server, api, model, cities):
    agents = pytest.importorskip("agents")
    import openai

    agents.set_tracing_disabled(True)
    kind = agents.OpenAIChatCompletionsModel if api == "chat" else agents.OpenAIResponsesModel

    async def both():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
            tools = [agents.function_tool(get_weather)] if cities else []
            agent = agents.Agent(
                name="Weather", instructions="Be short.", model=kind(model=model, openai_client=client), tools=tools
            )
            whole = await agents.Runner.run(agent, QUESTION)
            streamed = agents.Runner.run_streamed(agent, QUESTION)
            async for _ in streamed.stream_events():
                pass
            return whole.final_output, streamed.final_output

    assert asyncio.run(both()) == (ANSWER, ANSWER)
    assert sorted(asked) == sorted(cities * 2)


# -- what the others send ----------------------------------------------------------------------------------------------


def chat(server, **body):
    """A whole answer's message."""
    status, made = server.post("/v1/chat/completions", {"messages": ASK} | body)
    assert status == 200, made
    return made["choices"][0]["message"]


def test_instructor_shaped(server):
    """Structured answers by a forced tool, exactly one, whole and as partial streams; by a form told to the system."""
    tool = {"type": "function", "function": {**FUNCTION, "name": "Place", "description": "Correctly extracted `Place`"}}
    forced = {"tools": [tool], "tool_choice": {"type": "function", "function": {"name": "Place"}}}
    (call,) = chat(server, model="form", **forced)["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("Place", {"city": "Rome"})
    body = {"model": "form", "messages": ASK, "stream": True, **forced}
    events = [event for event in server.events("/v1/chat/completions", body) if event != "[DONE]"]
    calls = [call for e in events for choice in e["choices"] for call in choice["delta"].get("tool_calls") or []]
    assert {call["index"] for call in calls} == {0}
    assert json.loads("".join(call["function"].get("arguments") or "" for call in calls)) == {"city": "Rome"}
    talk = [{"role": "system", "content": f"As a genius expert: {PARAMETERS}"}, *ASK]
    answer = chat(server, model="form", messages=talk, response_format={"type": "json_object"}, max_retries=None)
    assert json.loads(answer["content"]) == {"city": "Rome"}


def test_llama_index_shaped(server):
    """Contents as parts, tools that are not strict, results by id and name; completions and embeddings of batches."""
    function = {**FUNCTION, "parameters": {**PARAMETERS, "additionalProperties": False}}
    body = {
        "model": "both", "messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
        "tools": [{"type": "function", "function": function, "strict": False}], "tool_choice": "auto",
        "parallel_tool_calls": True, "temperature": 0.1, "stream": False,
    }  # fmt: skip
    calls = chat(server, **body)["tool_calls"]
    assert len(calls) == 2
    results = [
        {"role": "tool", "content": "12", "tool_call_id": call["id"], "name": "get_weather"} for call in calls
    ]  # fmt: skip
    talk = [*body["messages"], {"role": "assistant", "content": None, "tool_calls": calls}, *results]
    assert chat(server, **body | {"messages": talk})["content"] == ANSWER
    plain = {"model": "words", "prompt": "Weather?\n", "max_tokens": 64, "temperature": 0.1}
    assert server.post("/v1/completions", plain)[0] == 200
    texts = {"model": "words", "input": ["a", "b", "c"], "encoding_format": "base64"}
    assert len(server.post("/v1/embeddings", texts)[1]["data"]) == 3
