"""What requests may hold is bounded before it is held, and all of it comes back."""

from __future__ import annotations

import ctypes
import gc
import json
import resource
import sys
import threading
import time
from pathlib import Path

import pytest
from llamakit.plugins.frontends.rest import memory as memory_module
from llamakit.plugins.frontends.rest.body import decode
from llamakit.plugins.frontends.rest.memory import Memory, Share

from llamakit.chat.prompt import chat_prompt
from llamakit.engine.engine import Engine
from llamakit.engine.group import Group
from llamakit.engine.job import Job
from llamakit.engine.request import Guidance, Request
from llamakit.engine.sequence import Sequence, Track
from llamakit.errors import ContextLengthError, QueueFullError, UsageError


class Malloc(ctypes.Structure):
    """`struct mallinfo2` of the C library."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keep",
        )
    ]


def held() -> tuple[int, int]:
    """Bytes that are allocated in this process, of large pieces, and the number of Python's small ones.

    What the system shows as resident depends on what the allocator keeps for later, which these do not.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("the C library does not tell what is allocated (mallinfo2 of glibc 2.33)")
    libc.mallinfo2.restype = Malloc
    found = libc.mallinfo2()
    return found.uordblks + found.hblkhd, sys.getallocatedblocks()


@pytest.mark.parametrize(
    "shape",
    [{}, {"n": 3}, {"best_of": 3}, {"beams": 3}, {"guidance": Guidance([1, 7], 1.5)}, {"stop": ("xyz",)}, {"n": 9}],
    ids=lambda shape: "-".join(shape) or "plain",
)
def test_nothing_of_a_finished_request_waits_for_the_garbage_collector(hash_model, shape):
    engine: Engine = hash_model.make_engine(n_seq=6)
    gc.collect()
    gc.disable()
    try:
        gc.set_debug(gc.DEBUG_SAVEALL)
        request = Request(prompt=[1, 5, 6], max_tokens=8, options={"temperature": 1.0}, ignore_eos=True, **shape)
        job = Job(request)
        try:
            list(engine.run(job))
        except UsageError:
            assert shape == {"n": 9}
        del job, request
        gc.collect()
        kinds = {type(each) for each in gc.garbage}
        assert not kinds & {Group, Sequence, Track, Job, Request}, kinds
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_memory_is_shared_out_and_comes_back():
    memory, environ = Memory(1000), {"CONTENT_LENGTH": "20"}
    first = Share(memory, environ)
    assert environ["llamakit.memory"] is first
    assert (first.error, memory.taken) == (None, 480)
    assert first.take(500) is None
    second = Share(memory, {"CONTENT_LENGTH": "10"})
    assert isinstance(second.error, QueueFullError)
    assert "takes too much memory" in Share(memory, {"CONTENT_LENGTH": "50"}).error.message
    second.close()
    first.close()
    first.close()
    assert memory.taken == 0


def test_what_requests_leave_free_goes_back_to_the_system(monkeypatch):
    trimmed = []
    monkeypatch.setattr(memory_module, "give_back_memory", lambda: trimmed.append(1))
    memory = Memory(1 << 30)
    memory.look()
    assert trimmed == []  # nothing was held
    assert memory.take(1000) is None
    memory.look()
    assert trimmed == []  # somebody is at work
    memory.give(1000)
    memory.look()
    memory.look()
    assert trimmed == [1]
    memory.take(memory_module.LARGE)
    memory.take(1000)
    memory.give(memory_module.LARGE)
    memory.look()
    assert trimmed == [1, 1]  # somebody always is, but most is free


def test_threads_share_few_places_for_freed_memory(process):
    """Each thread that answered kept the most that it ever freed: 84 MiB became 105."""
    server = process("--max-predict", "8")

    def wave(n):
        body = {"prompt": "Once upon a time there was a girl. " * 6000, "n_predict": 1}
        threads = [threading.Thread(target=server.request, args=("POST", "/completion", body)) for _ in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def resident():
        time.sleep(1.5)  # freed memory is given back every second
        return int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * resource.getpagesize()

    for _ in range(4):
        wave(24)
    before = resident()
    for _ in range(6):
        wave(24)
    assert resident() < 1.1 * before


@pytest.mark.parametrize(
    "body",
    [b"[" + b"[]," * 2_000_000 + b"1]", b"[" + b"{}," * 2_000_000 + b"1]", b"[" + b"1," * 8_000_000 + b"1]",
     b"[" + b'"a",' * 8_000_000 + b"1]", b'{"a":"\\"", "b":[' + b"[]," * 1_000_000 + b"1]}"],
)  # fmt: skip
def test_a_body_of_very_many_values_is_refused_before_it_is_decoded(body):
    began = time.process_time()
    with pytest.raises(UsageError, match="too many"):
        decode(body)
    assert time.process_time() - began < 1.5


def test_a_text_full_of_brackets_and_commas_is_no_array():
    text = '[{"a": "\\"}"},' * 500_000
    assert decode(json.dumps({"prompt": text}).encode())["prompt"] == text


def test_a_text_that_cannot_fit_is_refused_before_it_is_encoded(server):
    tokenizer = server.state.pool.loaded().tokenizer
    longest = max(len(tokenizer.piece(token)) for token in range(tokenizer.n_vocab))
    assert tokenizer.encode("a" * (8 * tokenizer.context))
    began = time.process_time()
    with pytest.raises(ContextLengthError, match="at least"):
        tokenizer.encode("a" * (max(64 * tokenizer.context, 1 << 17) * longest + 1))
    with pytest.raises(ContextLengthError, match="at least"):
        chat_prompt(
            server.state.pool.loaded().chat_template, tokenizer,
            [{"role": "user", "content": "a" * (tokenizer.context * longest + 1)}],
        )  # fmt: skip
    assert time.process_time() - began < 0.5


def test_control_tokens_in_a_message_take_time_in_proportion(server):
    """3 MB of them took 65 seconds."""
    session = server.state.pool.loaded()
    context, session.tokenizer.context = session.tokenizer.context, 0
    try:
        seconds = []
        for n in (20_000, 160_000):
            began = time.process_time()
            chat_prompt(session.chat_template, session.tokenizer, [{"role": "user", "content": "<s>" * n}])
            seconds.append(time.process_time() - began)
    finally:
        session.tokenizer.context = context
    assert seconds[1] < 8 * 3 * seconds[0] + 0.2, seconds


def wait_until_free(server):
    """What a request held is given back just after its answer was sent."""
    end = time.monotonic() + 10
    while server.state.memory.taken and time.monotonic() < end:
        time.sleep(0.01)
    assert server.state.memory.taken == 0


LONG = "Once upon a time there was a girl. " * 80_000  # 2.8 megabytes


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/completion", {"prompt": LONG, "n_predict": 1}),
        ("/completion", {"prompt": [LONG, 5, LONG], "n_predict": 1}),
        ("/v1/completions", {"prompt": LONG, "max_tokens": 1}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}], "max_tokens": 1}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "<s>" * 900_000}], "max_tokens": 1}),
        ("/v1/messages", {"messages": [{"role": "user", "content": LONG}], "max_tokens": 1}),
        ("/v1/responses", {"input": LONG, "max_output_tokens": 1}),
        ("/api/generate", {"prompt": LONG, "options": {"num_predict": 1}}),
        ("/api/chat", {"messages": [{"role": "user", "content": LONG}]}),
        ("/infill", {"input_prefix": LONG, "input_suffix": LONG, "n_predict": 1}),
        ("/v1/embeddings", {"input": [LONG, LONG]}),
        ("/embedding", {"content": LONG}),
        ("/apply-template", {"messages": [{"role": "user", "content": LONG}]}),
    ],
)
def test_large_requests_of_every_api_leave_nothing_behind(server, path, body):
    def send():
        status, _ = server.post(path, body)
        assert 400 <= status < 500

    send()
    wait_until_free(server)
    before = held()
    gc.disable()
    try:
        for _ in range(4):
            send()
        wait_until_free(server)
        after = held()
    finally:
        gc.enable()
    assert after[0] - before[0] < len(LONG)  # four bodies of one request each would be four times that and more
    assert after[1] - before[1] < 100_000


def test_a_body_above_what_requests_may_hold(serve):
    small = serve(request_memory="8M")
    assert small.post("/completion", {"prompt": "a" * 1000, "n_predict": 1})[0] == 200
    status, answer = small.post("/completion", {"prompt": "a" * 1_000_000, "n_predict": 1})
    assert status == 413
    assert "--request-memory" in answer["error"]["hint"]
    with small.open("/completion", {"prompt": "a" * 200_000, "n_predict": 3000, "stream": True, "ignore_eos": True}):
        while small.state.memory.taken < 4 << 20:
            time.sleep(0.01)
        status, answer = small.post("/completion", {"prompt": "a" * 200_000, "n_predict": 1})
        assert (status, answer["error"]["code"]) == (429, "queue_full")
        assert small.post("/completion", {"prompt": "a", "n_predict": 1})[0] == 200
    wait_until_free(small)


def test_pieces_of_many_tokens_are_not_held_as_objects(server):
    tokenizer = server.state.pool.loaded().tokenizer
    text = "Once upon a \u00e9 <s>" * 3000
    plain = server.post("/tokenize", {"content": text})[1]["tokens"]
    server.post("/tokenize", {"content": text, "with_pieces": True})
    before = held()
    shown = server.post("/tokenize", {"content": text, "with_pieces": True})[1]["tokens"]
    assert [each["id"] for each in shown] == plain
    assert len(plain) > 20_000
    whole = b"".join(
        each["piece"].encode() if isinstance(each["piece"], str) else bytes(each["piece"]) for each in shown
    )
    assert whole == b"".join(tokenizer.piece(token) for token in plain)
    del shown
    wait_until_free(server)
    after = held()
    assert after[0] - before[0] < 4 << 20
    assert after[1] - before[1] < len(plain)


def test_vectors_of_every_token_are_counted_before_they_are_made(serve):
    small = serve(request_memory="16M")
    texts = ["Once upon a time there was a girl. " * 10] * 100
    status, answer = small.post("/embedding", {"input": texts, "pooling": "none"})
    assert status == 413
    assert "takes too much memory" in answer["error"]["message"]
    assert small.post("/embedding", {"input": texts})[0] == 200
    wait_until_free(small)
