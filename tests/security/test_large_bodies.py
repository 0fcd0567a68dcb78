"""Large bodies are looked at one at a time: many threads would leave the engine a turn in as many."""

from __future__ import annotations

import importlib.metadata
import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
from llamakit.plugins.frontends.rest import body, messages
from llamakit.plugins.frontends.rest import chat as chat_of
from llamakit.plugins.frontends.rest.apis.llamacpp import text
from llamakit.plugins.frontends.rest.apis.openai import chat
from llamakit.plugins.samplers import grammar
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.schema import schema_to_grammar

from llamakit import _text, bounded_json, serialized
from llamakit.chat import fit, worker_pool
from llamakit.chat.profile import Profile
from llamakit.errors import UsageError
from llamakit.sampler import SequenceContext
from tests.timing import is_quick
from tests.waiting import PATIENCE

ARRAYS = "[" + "[]," * 300_000 + "1]"  # more values than are decoded, in less than a megabyte


@pytest.mark.parametrize("sizes", [[1000] * 4, [300_000] * 4])
def test_bodies_of_a_kind_are_decoded_one_at_a_time(serve, monkeypatch, sizes):
    server, decode, lock = serve(), body.decode_object, threading.Lock()
    now, peak = 0, 0

    def counted(data):
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        time.sleep(0.1)
        with lock:
            now -= 1
        return decode(data)

    monkeypatch.setattr(serialized, "WAIT_SECONDS", 60.0)
    monkeypatch.setattr(body, "decode_object", counted)
    assert tokenized(server, sizes) == {200}
    assert peak == 1


def test_bodies_of_three_kinds_are_decoded_at_once(serve, monkeypatch):
    """A short one does not wait for long ones."""
    server, decode, together = serve(), body.decode_object, threading.Barrier(3)

    def met(data):
        together.wait(60)
        return decode(data)

    monkeypatch.setattr(serialized, "WAIT_SECONDS", 60.0)
    monkeypatch.setattr(body, "decode_object", met)
    assert tokenized(server, [1000, 20_000, 300_000]) == {200}


def tokenized(server, sizes):
    """The statuses of requests of these sizes at once."""
    with ThreadPoolExecutor(len(sizes)) as pool:
        asked = [pool.submit(server.post, "/tokenize", {"content": "a" * size}) for size in sizes]
        return {each.result()[0] for each in asked}


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings", "/completion", "/embedding"])
def test_ids_are_counted_before_they_are_looked_at(server, path):
    """A message was made for each of them, in case it were wrong."""
    name = "input" if path.endswith("embeddings") else "content" if path == "/embedding" else "prompt"
    status, answer = server.post(path, {name: [5] * 200_000})
    assert status == 400
    assert "the text is too long: it has 200,000 tokens or more" in str(answer)
    status, answer = server.post(path, {name: [5, 6, 1 << 20]})
    assert status == 400
    assert "token 1048576 is outside the vocabulary" in str(answer)
    assert f"{name}[2]" in str(answer)


def cost(text):
    return _text.json_cost(text.encode(), bounded_json.PER_LARGE)


def test_what_json_costs():
    assert (
        cost('{"a": [1, 2, -3.5e-7], "b": null}') == 4 * 10 + 3 + 1
    )  # an object, an array, two names; commas, a fraction
    assert cost(r'["a,[\"{", "\\", ""]') == 4 * 10 + 2  # what is in a text counts no more
    assert cost("9223372036854775807") == cost("0") == 0
    assert cost("1e-308") == cost("0.12345678901234567e-308") == 1  # a fraction or an exponent
    assert cost("0.012345678901234568") == cost("-0.00012345678901234567") == 1  # 17 digits
    assert cost("0." + "0" * 800 + "1") == 80 + 1
    assert cost("1e-" + "0" * 799 + "1") == 80 + 1
    assert cost("9007199254740993.0") == 1 + 2 * 16  # a decoder must look closely how to round it
    assert cost("1e23") == cost("0.0E+23") + 2 == 1 + 2 * 24
    assert cost("8.98e307") == 1 + 2 * 308
    assert cost("1e" + "9" * 100) == 10 + 1 + 2 * 1000
    assert cost(json.dumps("é\n" * 100)) == 10 + 200 // 4
    assert cost("9007199254740993.0000000000") == 13 + 1 + 2 * 16
    assert cost("[" + "1" * 4000 + "]") == 10 + 2000
    assert cost('"' + "1" * 1000) == cost('"\\') == cost('"') == 10  # cut off
    assert cost("") == 0


@pytest.mark.parametrize(
    "number",
    [
        "9007199254740993.0000000000",
        "1" * 4000,
        "0." + "1" * 800,
        "9007199254740993.0",
        "1e300",
    ],
)
def test_numbers_of_many_digits_count_by_them(number):
    """Each takes a decoder so long that 30 MB of them kept everybody waiting for a second."""
    data = b'{"prompt": [' + b",".join([number.encode()] * (5_000_000 // len(number))) + b"]}"
    hints = []

    def decode():
        with pytest.raises(UsageError, match="the body has too many values") as raised:
            body.decode(data)
        hints.append(raised.value.hint)

    assert is_quick(0.1, decode)
    assert "more than 19 digits" in hints[0]
    assert body.decode(b"[" + number.encode() + b"]")  # a few of them are what they are


def test_arrays_are_decoded_alone_as_objects_are(server, monkeypatch):
    seen = []
    monkeypatch.setattr(body, "serialized", lambda n_bytes: seen.append(n_bytes) or nullcontext())
    assert server.post("/lora-adapters", [5] * 200_000)[0] == 400
    assert [n_bytes > 200_000 for n_bytes in seen] == [True]


def called(arguments):
    """A conversation with a call."""
    call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": arguments}}
    return [{"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": [call]}]


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def test_vectors_count_two_for_a_number():
    """As Python writes small ones, they have a zero before their 17 digits."""
    rng = random.Random(7)
    assert cost(json.dumps([rng.uniform(-0.05, 0.05) for _ in range(10_000)])) < 10 + 10_000 * 2.1


DEEP = ["[" * 100_000, "[" * 300 + "]" * 300]


@pytest.mark.parametrize("text", [ARRAYS, *DEEP])
@pytest.mark.parametrize("name", ["json_schema", "structural_tag", "arguments"])
@pytest.mark.parametrize("tools", [[], [TOOL]], ids=["no tools", "tools"])
def test_json_within_json_is_bounded_too(server, name, text, tools):
    """It counted as a single text, so that four requests of 27 MB took 13 GB, and minutes."""
    asked = {"messages": called("{}"), "max_tokens": 1} | ({"tools": tools} if tools else {})
    asked |= {"messages": called(text)} if name == "arguments" else {name: text}
    status, answer = server.post("/v1/chat/completions", asked)
    words = ("too many values", "nests deeper", "characters; 262,144 are possible")
    assert (status, any(each in str(answer) for each in words)) == (400, True)


@pytest.mark.parametrize("text", DEEP)
@pytest.mark.parametrize("name", ["json_schema", "structural_tag"])
@pytest.mark.parametrize("path", ["/completion", "/v1/completions"])
def test_schemas_as_texts_nest_no_deeper_without_a_conversation(server, path, name, text):
    """The decoder's own error was status 500 here."""
    asked = {"prompt": "a", "max_tokens": 1, "n_predict": 1, name: text}
    status, answer = server.post(path, asked)
    assert (status, f"{name} nests deeper than 64 levels" in str(answer)) == (400, True)


def test_schemas_as_texts_are_counted_without_a_conversation(server):
    status, answer = server.post("/completion", {"prompt": "a", "json_schema": "[" + "{" * 250_000})
    assert (status, "json_schema has too many values" in str(answer)) == (400, True)


def test_arguments_that_are_texts_twice_count_together_too():
    """Each text within the first one was counted by itself."""
    twice = json.dumps("[" + "[]," * 50_000 + "1]")
    with pytest.raises(UsageError, match="what calls were given has too many values"):
        fit.fitted(messages.from_openai(called(twice) * 5), None, Profile())


def test_messages_say_what_is_left_for_further_texts():
    nested = bounded_json.NestedJson()
    nested.decode("[" + "[]," * 150_000 + "1]", "it")
    with pytest.raises(UsageError) as raised:
        nested.decode("[" + "[]," * 150_000 + "1]", "it")
    assert raised.value.hint.startswith("possible: 447,142 small numbers, which are left of 2,097,152; ")


def test_what_is_left_out_of_a_message_shows():
    begin = bounded_json.begin_of
    assert begin([1] * 100) == [1] * 100
    assert begin([1] * 101) == [1] * 100 + ["…"]
    assert begin({f"k{i}": i for i in range(102)}) == {f"k{i}": i for i in range(100)} | {"…": "…"}
    assert begin([1] * 98 + [[2], 3]) == [1] * 98 + [[2], "…"]
    assert begin([[]] * 99 + [[5]]) == [[]] * 99 + [["…"]]
    assert begin({"a" * 101: "b" * 101}) == {"a" * 100 + "…": "b" * 100 + "…"}
    assert begin("a" * 100) == "a" * 100
    assert bounded_json.short("a" * 40, 40) == "a" * 40
    assert bounded_json.short("a" * 41, 40) == "a" * 39 + "…"
    assert bounded_json.short([1.5] * 100_000, 12) == "[1.5,1.5,1.…"


@pytest.mark.parametrize("schema", [{"type": [[1.5] * 500_000]}, {"$ref": "#/" + "x" * 5_000_000}])
def test_refusals_of_schemas_write_out_no_more_than_they_show(schema):
    told = []

    def read():
        with pytest.raises(GrammarError) as raised:
            schema_to_grammar(schema, lenient=False)
        told.append(str(raised.value))

    assert is_quick(0.5, read)
    assert len(told[0]) < 500
    assert "…" in told[0]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
def test_arguments_of_all_calls_count_together(server, path):
    talk = called("[" + "[]," * 50_000 + "1]") * 5
    status, answer = server.post(path, {"messages": talk})
    assert (status, "what calls were given has too many values" in str(answer)) == (400, True)


WIDE = [[[1.5] * 500_000], "\n" * 5_000_000, {"a" * 5_000_000: [["b" * 5_000_000]]}]


@pytest.mark.parametrize("value", WIDE, ids=["numbers", "lines", "names"])
def test_messages_write_out_no_more_than_they_show(value):
    """While 31 MB of line ends were written out for the 80 characters that are shown, everybody waited for them."""
    wholly = str(body.wrong("n_predict", value, "a whole number"))
    assert is_quick(0.005, lambda: str(body.wrong("n_predict", value, "a whole number")))
    assert len(wholly) < 150
    assert wholly.count("…") == 1


@pytest.mark.parametrize(
    ("path", "fields", "shown"),
    [
        ("/v1/chat/completions", {"messages": [{"role": [1.5] * 100_000, "content": "a"}]}, "[1.5,1.5"),
        ("/v1/messages", {"messages": [{"role": "x" * 100_000, "content": "a"}], "max_tokens": 1}, "xxx"),
        ("/api/chat", {"messages": [{"role": [1.5] * 100_000, "content": "a"}]}, "[1.5,1.5"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": [1.5] * 100_000}]}]}, "[1.5"),
        ("/completion", {"prompt": "a", "samplers": ["x" * 100_000]}, "xxx"),
        ("/completion", {"prompt": "a", "lora": [{"name": "x" * 100_000, "scale": 1}]}, "xxx"),
        ("/completion", {"prompt": "a", "strict": True, "x" * 100_000: 1}, "xxx"),
    ],
)
def test_refusals_are_short_whatever_was_sent(server, path, fields, shown):
    status, answer = server.post(path, fields)
    assert status == 400
    assert shown in str(answer)
    assert len(str(answer)) < 1000


@pytest.mark.parametrize(
    ("path", "fields", "what"),
    [
        ("/apply-template", {"messages": [{"role": "user", "content": "a" * 20_000}]}, "make_prompt"),
        ("/tokenize", {"content": "a b " * 5_000, "with_pieces": True}, "piece"),
    ],
)
def test_what_is_made_of_large_bodies_is_made_alone(server, monkeypatch, path, fields, what):
    """64 threads that did so left the engine the interpreter as the last."""
    seen, make = [], getattr(text, what)

    def made(*args, **named):
        seen.append(serialized._mine.lock in serialized._locks[1:])
        return make(*args, **named)

    monkeypatch.setattr(text, what, made)
    server.post(path, fields)
    assert seen
    assert all(seen)


def test_prompts_of_large_bodies_are_made_alone(server, monkeypatch):
    seen, statuses, make = [], [], chat.make_prompt

    def made(*args, **named):
        seen.append(serialized._locks.index(serialized._mine.lock))
        return make(*args, **named)

    monkeypatch.setattr(chat, "make_prompt", made)
    for content in ("a", "a " * 10_000):
        asked = {"messages": [{"role": "user", "content": content}]}
        statuses.append(server.post("/v1/chat/completions", asked | {"max_tokens": 1})[0])
        statuses.append(server.post("/v1/chat/completions/input_tokens", asked)[0])
    assert seen == [0, 0, 1, 1]
    assert statuses == [200, 200, 400, 400]  # the long one is longer than the context


def test_others_have_the_turn_of_who_waits_for_something_else():
    """A template that takes its ten seconds in another process would hold up everybody else's prompts."""

    def work():
        with serialized.serialized(10):
            return True

    with ThreadPoolExecutor(1) as other:
        with serialized.serialized(10), serialized.serialized(1 << 20):
            held = other.submit(work)
            time.sleep(0.05)
            assert not held.done()
            serialized.let_others()
            assert held.result(PATIENCE)
            serialized.let_others()
            assert other.submit(work).result(PATIENCE)
        assert other.submit(work).result(PATIENCE)


def test_who_waits_too_long_for_a_turn_is_told_so(server, monkeypatch):
    """Had all gone on that came together and waited long, they would have been a crowd again."""
    monkeypatch.setattr(serialized, "WAIT_SECONDS", 0.1)
    with serialized.serialized(10):
        status, answer = server.post("/tokenize", {"content": "a"})
        assert (status, "too many requests are being read" in str(answer)) == (503, True)
        assert server.post("/tokenize", {"content": "a" * 10_000})[0] == 200  # of another size
    assert server.post("/tokenize", {"content": "a"})[0] == 200


def test_a_template_at_work_holds_no_turn(monkeypatch):
    asked = []
    monkeypatch.setattr(worker_pool.pool, "_answer", lambda message: asked.append(serialized._mine.lock) or b"+ text")
    with serialized.serialized(10):
        assert worker_pool.pool.ask("{{ 1 }}", {}) == "text"
    assert asked == [None]


def test_names_of_tools_are_worked_out_once(server, monkeypatch):
    """Once for each tool, a thousand of them took a second, in which a thousand sets were made."""
    asked, names = [], chat_of.Conversation.tool_names
    counted = property(lambda talk: asked.append(1) or names.fget(talk))
    monkeypatch.setattr(chat_of.Conversation, "tool_names", counted)
    tools = [{"type": "function", "function": {"name": f"t{number}"}} for number in range(50)]
    assert server.post("/apply-template", {"messages": [{"role": "user", "content": "a"}], "tools": tools})[0] == 200
    assert len(asked) < 10


def test_packages_of_plugins_are_read_once(server, monkeypatch):
    """Their files were read and parsed for each sampler, with each request."""
    server.get("/samplers")
    monkeypatch.setattr(importlib.metadata.Distribution, "read_text", lambda *_: pytest.fail("a file was read again"))
    for path in ("/samplers", "/props"):
        assert server.get(path)[0] == 200


NUMBERS = [1.5] * 300_000
ASKED = [{"role": "user", "content": "a"}]


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"enum": NUMBERS}}}]},
        {"chat_template_kwargs": {"a": NUMBERS}},
        {"messages": called({"a": NUMBERS})},
    ],
)
def test_templates_are_given_no_more_than_can_be_written_out_soon(server, fields):
    """Two million numbers of a tool were walked for seconds, and written out while everybody waited."""
    status, answer = server.post("/v1/chat/completions", {"messages": ASKED, **fields})
    assert (status, "too many values" in str(answer)) == (400, True)


def test_schemas_are_not_written_out_to_be_refused(server, monkeypatch):
    monkeypatch.setattr(grammar.msgspec.json, "encode", lambda *_, **__: pytest.fail("it was written out"))
    with pytest.raises(GrammarError, match="more than 2,097,152 bytes"):
        grammar.program("json_schema", {"enum": [1.5] * 1_100_000}, SequenceContext(n_vocab=1, n_ctx=1))


def test_a_choice_of_a_tool_is_not_written_out(server):
    tools = [{"type": "function", "function": {"name": "a"}}]
    choice = {"type": "function", "function": {"name": [1.5] * 200_000}}
    status, answer = server.post("/v1/chat/completions", {"messages": ASKED, "tools": tools, "tool_choice": choice})
    assert (status, 'names no tool of the request: {"type' in answer["error"]["message"]) == (400, True)


def test_values_are_counted_without_a_walk_to_the_end():
    assert bounded_json.has_more_values([[1], {"a": [2, 3]}], 5)
    assert not bounded_json.has_more_values([[1], {"a": [2, 3]}], 6)
    assert not bounded_json.has_more_values("text", 0)
