"""What requests may hold is bounded before it is held, and all of it comes back."""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import pytest
from llamakit.plugins.frontends.rest import generation
from llamakit.plugins.frontends.rest import memory as memory_module
from llamakit.plugins.frontends.rest.body import decode
from llamakit.plugins.frontends.rest.memory import Memory, Share

from llamakit import system
from llamakit.chat.prompt import chat_prompt
from llamakit.engine import admission
from llamakit.engine.engine import Engine
from llamakit.engine.group import Group
from llamakit.engine.job import Finished, Job
from llamakit.engine.request import FinishReason, Guidance, Request
from llamakit.engine.sequence import Sequence, Track
from llamakit.engine.service import Service, ServiceOptions
from llamakit.errors import ContextLengthError, QueueFullError, UsageError
from tests.timing import is_quick
from tests.waiting import until


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
    monkeypatch.setattr(memory_module, "give_back_memory", lambda *, somebody_waits: trimmed.append(somebody_waits))
    memory = Memory(1 << 30)
    memory.look()
    assert trimmed == []  # nothing was held
    assert memory.take(1000) is None
    memory.look()
    assert trimmed == []  # somebody is at work
    memory.give(1000)
    memory.look()
    memory.look()
    assert trimmed == [False]
    memory.take(memory_module.LARGE)
    memory.take(1000)
    memory.give(memory_module.LARGE)
    memory.look()
    assert trimmed == [False, True]  # somebody always is, but most is free
    memory.take(1)
    memory.look()
    assert trimmed == [False, True]
    monkeypatch.setattr(memory_module, "SECONDS", -1.0)
    memory.look()
    assert trimmed == [False, True, True]  # it was long ago


PLACE = 64 << 20  # bytes of addresses that glibc sets aside for a place of freed memory


def places(pid):
    """How many places for freed memory a process has beside its first."""
    spans = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, rights, *_ = line.split()
        first, last = (int(each, 16) for each in span.split("-"))
        spans.append((first, last, rights))
    return sum(
        rights == "rw-p" and first % PLACE == 0 and (last, first + PLACE, "---p") in spans
        for first, last, rights in spans
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_threads_share_few_places_for_freed_memory(process):
    """Each thread that answered had its own, and kept the most that it ever freed: 84 MiB became 105."""
    server = process("--max-predict", "8")
    body = {"prompt": "Once upon a time there was a girl. " * 6000, "n_predict": 1}
    with ThreadPoolExecutor(24) as pool:
        answers = [pool.submit(server.request, "POST", "/completion", body) for _ in range(48)]
    assert {each.result()[0] for each in answers} == {200}
    assert places(server.pid) <= 2  # there were fifteen


LARGE_ONES = """
import sys, threading
from llamakit.system import give_back_memory, keep_little

def resident():
    give_back_memory()
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def on_a_thread(megabytes):
    thread = threading.Thread(target=lambda: b"x" * (megabytes << 20))
    thread.start()
    thread.join()

if sys.argv[1] == "little":
    assert keep_little()
on_a_thread(31)
before = resident()
on_a_thread(30)
print(resident() - before)
"""


MANY_OBJECTS = """
import gc, sys, weakref
from llamakit.system import collect_when_asked, give_back_memory

class Item: pass

if sys.argv[1] == "asked":
    collect_when_asked()
looks = []
gc.callbacks.append(lambda phase, info: looks.append(info["generation"]))
kept = [(i, [i]) for i in range(400_000)]
before = looks.count(2)
item = Item()
item.itself, known = item, weakref.ref(item)
del item
give_back_memory()
print(before, known() is None)
"""


@pytest.mark.parametrize(("when", "looks"), [("usual", False), ("asked", True)])
def test_the_collector_looks_at_all_objects_when_asked(tmp_path, when, looks):
    """A schema with 20,000 numbers that must not be stopped everybody for 200 to 300 ms at a time."""
    (tmp_path / "many.py").write_text(MANY_OBJECTS)
    command = [sys.executable, str(tmp_path / "many.py"), when]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert (said[0] == "0") == looks
    assert said[1] == "True"  # and what refers to itself goes then


@pytest.mark.parametrize(("most", "looks"), [(10, 0), (1 << 30, 1)])
def test_not_too_many_objects_are_looked_at_while_somebody_waits(monkeypatch, most, looks):
    """Answers of many tokens with their probabilities are as many objects: streams waited for the collector."""
    passes = []
    monkeypatch.setattr(system, "MOST_WALKED", most)
    monkeypatch.setattr(gc, "collect", lambda: passes.append(1))
    system.give_back_memory(somebody_waits=True)
    assert len(passes) == looks
    system.give_back_memory()
    assert len(passes) == looks + 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_large_bodies_leave_nothing(tmp_path):
    """The C library took the next large ones from memory that it keeps, at whose end twice as much stayed."""
    (tmp_path / "large.py").write_text(LARGE_ONES)
    left = {}
    for kept in ("much", "little"):
        command = [sys.executable, str(tmp_path / "large.py"), kept]
        left[kept] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert left["little"] < 2 << 20, left
    assert left["much"] > 8 << 20, left  # without the settings


def refused(body):
    with pytest.raises(UsageError, match="too many"):
        decode(body)


@pytest.mark.parametrize(
    "body",
    [b"[" + b"[]," * 2_000_000 + b"1]", b"[" + b"{}," * 2_000_000 + b"1]", b"[" + b"1," * 8_000_000 + b"1]",
     b"[" + b'"a",' * 8_000_000 + b"1]", b'{"a":"\\"", "b":[' + b"[]," * 1_000_000 + b"1]}"],
)  # fmt: skip
def test_a_body_of_very_many_values_is_refused_before_it_is_decoded(body):
    assert is_quick(1.5, lambda: refused(body))


@pytest.mark.parametrize(
    "body",
    [b'{"prompt":"a",' + b",".join(b'"k%d":1' % i for i in range(1_000_000)) + b"}",
     b"[" + b'"\\\\",' * 400_000 + b"1]", b"[" + b'"a\\"b",' * 400_000 + b"1]", b"[" + b'{"a":"b"},' * 100_000 + b"1]"],
)  # fmt: skip
def test_what_takes_longer_to_make_counts_more(body):
    """A million names held all other threads for half a second of the processor."""
    assert is_quick(1.5, lambda: refused(body))
    assert len(decode(body[: len(body) // 50].rpartition(b",")[0] + body[-1:])) > 100


def test_a_text_full_of_brackets_and_commas_is_no_array():
    text = '[{"a": "\\"}"},' * 500_000
    assert decode(json.dumps({"prompt": text}).encode())["prompt"] == text


def test_a_text_that_cannot_fit_is_refused_before_it_is_encoded(server):
    tokenizer = server.state.pool.loaded().tokenizer
    longest = max(len(tokenizer.piece(token)) for token in range(tokenizer.n_vocab))
    assert tokenizer.encode("a" * (8 * tokenizer.context))

    def refused():
        with pytest.raises(ContextLengthError, match="at least"):
            tokenizer.encode("a" * (max(64 * tokenizer.context, 1 << 17) * longest + 1))
        with pytest.raises(ContextLengthError, match="at least"):
            chat_prompt(
                server.state.pool.loaded().chat_template, tokenizer,
                [{"role": "user", "content": "a" * (tokenizer.context * longest + 1)}],
            )  # fmt: skip

    assert is_quick(0.5, refused, time.process_time)


def test_control_tokens_in_a_message_take_time_in_proportion(server):
    """3 MB of them took 65 seconds."""
    session = server.state.pool.loaded()
    context, session.tokenizer.context = session.tokenizer.context, 0
    try:

        def prompt(n):
            chat_prompt(session.chat_template, session.tokenizer, [{"role": "user", "content": "<s>" * n}])

        began = time.process_time()
        prompt(20_000)
        few = time.process_time() - began
        assert is_quick(8 * 3 * few + 0.2, lambda: prompt(160_000), time.process_time)
    finally:
        session.tokenizer.context = context


def wait_until_free(server):
    """What a request held is given back just after its answer was sent."""
    until(lambda: not server.state.memory.taken)


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
    small = serve(request_memory="8M", max_predict=100_000_000)
    assert small.post("/completion", {"prompt": "a" * 1000, "n_predict": 1})[0] == 200
    status, answer = small.post("/completion", {"prompt": "a" * 1_000_000, "n_predict": 1})
    assert status == 413
    assert "--request-memory" in answer["error"]["hint"]
    with small.open("/completion", {"prompt": "a" * 200_000, "n_predict": -1, "stream": True, "ignore_eos": True}):
        until(lambda: small.state.memory.taken >= 4 << 20)
        status, answer = small.post("/completion", {"prompt": "a" * 200_000, "n_predict": 1})
        assert (status, answer["error"]["code"]) == (429, "queue_full")
        assert small.post("/completion", {"prompt": "a", "n_predict": 1})[0] == 200
    wait_until_free(small)


def test_a_tokenizer_keeps_little_of_large_texts_and_many_words(server):
    """What it works with grew with the largest text and the most threads that there ever were, and stayed."""
    tokenizer = server.state.pool.loaded().tokenizer
    context, tokenizer.context = tokenizer.context, 0
    try:
        tokenizer.encode("a word")
        before = held()[0]
        tokenizer.encode("a" * (8 << 20))
        assert held()[0] - before < 4 << 20
        barrier = threading.Barrier(16)

        def encode(i):
            text = " ".join(f"{i}x{j}y{i * j}" for j in range(20_000))
            barrier.wait()
            tokenizer.encode(text)

        threads = [threading.Thread(target=encode, args=(i,)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert held()[0] - before < 24 << 20
    finally:
        tokenizer.context = context


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


def test_samplers_without_end_take_no_time(server):
    """Each name was looked for in a list of those that are not known."""
    names = [f"z{i}" for i in range(50_000)] + ["top_k"] * 50_000

    def ask(samplers):
        status, answer = server.post("/completion", {"prompt": "a", "n_predict": 1, "samplers": samplers})
        assert (status, answer["error"]["param"]) == (400, "samplers")

    for samplers in (names, "top_k;" * 2_000_000, "k" * 20_000_000):
        assert is_quick(3, partial(ask, samplers), time.process_time)


@pytest.mark.parametrize("path", ["/completion", "/tokenize", "/infill", "/v1/completions", "/embedding"])
def test_tokens_that_cannot_fit_are_refused_before_they_are_looked_at(server, path):
    def ask(body):
        status, answer = server.post(path, body)
        assert status == 400, answer

    for prompt in ([5] * 500_000, ["a"] * 150_000, [5, "Once upon a time there was " * 15_000] * 30):
        body = {"prompt": prompt, "content": prompt, "n_predict": 1, "max_tokens": 1}
        if path == "/infill":
            body = {"input_prefix": "a", "input_suffix": "b", **body}
        assert is_quick(3, partial(ask, body), time.process_time)


def test_detokenizing_is_done_in_parts(server):
    tokenizer = server.state.pool.loaded().tokenizer
    tokens = [3 + i % 500 for i in range(40_000)]
    status, answer = server.post("/detokenize", {"tokens": tokens})
    assert status == 200
    assert answer["content"] == b"".join(tokenizer.piece(token) for token in tokens).decode("utf-8", "replace")
    status, answer = server.post("/detokenize", {"tokens": [*tokens, tokenizer.n_vocab]})
    assert status == 400
    assert "tokens[40000]" in answer["error"]["found"]
    assert server.post("/detokenize", {"tokens": []}) == (200, {"content": ""})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/completion", {"n_probs": 500, "ignore_eos": True}),
        ("/completion", {"n_probs": 500, "post_sampling_probs": False, "n": 4}),
        ("/completion", {"n_probs": 100, "n": 1, "best_of": 30}),
        ("/v1/completions", {"logprobs": 100, "max_tokens": 4000, "ignore_eos": True}),
        ("/v1/completions", {"logprobs": 100, "max_tokens": 1, "echo": True, "prompt": "Once upon " * 40}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "logprobs": True, "n": 7,
                                  "top_logprobs": 20, "max_tokens": 4000, "ignore_eos": True}),
    ],
)  # fmt: skip
def test_probabilities_of_whole_answers_are_counted(serve, path, body):
    """They were not: 60 answers with all their probabilities took gigabytes."""
    small = serve(request_memory="3M", max_predict=4000)
    status, answer = small.post(path, {"prompt": "Once", "n_predict": 4000, **body})
    assert status in (413, 429), answer
    assert "memory" in answer["error"]["message"]
    assert small.post(path, {"prompt": "Once", "n_predict": 4, **body, "n": 1, "max_tokens": 1, "best_of": 1,
                             "echo": False})[0] == 200  # fmt: skip
    wait_until_free(small)


def test_an_answer_waits_for_a_reader_who_is_behind(hash_model):
    """What nobody reads grew as long as the answer did: with probabilities by 100 kilobytes a token."""
    service = Service(hash_model.make_engine(), ServiceOptions())
    try:
        options = {"options": {"temperature": 1.0}, "ignore_eos": True, "max_tokens": 30_000, "shift": True}
        expected = service.submit(Request(prompt=[1, 5], seed=3, **options, logprobs=2)).results()[0].tokens
        job = service.submit(Request(prompt=[1, 5], seed=3, **options, logprobs=2))
        job.most_ahead = 100_000
        until(lambda: job.behind)
        steps = service.engine.counters.n_step
        time.sleep(0.3)
        assert service.engine.counters.n_step <= steps + 1  # nothing is evaluated, and nothing spins
        assert job._n_told - job._n_read < 101_000
        assert not service.trouble
        other = service.submit(Request(prompt=[1, 6], seed=4, **options | {"max_tokens": 50}))
        assert len(other.results()[0].tokens) == 50
        found = [event for event in job if type(event) is Finished]
        assert found[0].result.tokens == expected
        quiet = service.submit(Request(prompt=[1, 5], seed=3, **options, logprobs=2))
        quiet.most_ahead = 100_000
        while not quiet.behind:
            time.sleep(0.01)
        quiet.cancel()
        assert [e.result.reason for e in quiet if type(e) is Finished] == [FinishReason.CANCELLED]
    finally:
        service.close()


def test_what_a_stream_keeps_for_its_end_counts(serve):
    """The last event of 2023's streams has the probabilities of all tokens again."""
    small = serve(request_memory="2M", max_predict=100_000)
    body = {"prompt": "Once", "n_predict": 1000, "stream": True, "n_probs": 400, "ignore_eos": True}
    body["post_sampling_probs"] = False  # those before the samplers, which leave few
    events = list(small.events("/completion", body))
    assert 20 < len(events) < 500
    assert "memory" in events[-1]["error"]["message"]
    wait_until_free(small)
    whole = list(small.events("/completion", body | {"n_predict": 10}))
    told = [each for event in whole[:-1] for each in event["completion_probabilities"]]
    assert whole[-1]["completion_probabilities"] == told
    assert len(told) == 10


def test_a_stream_that_is_not_read_does_not_pile_up(serve):
    small = serve(max_predict=100_000)
    session = small.state.pool.loaded()
    with small.open("/completion", {"prompt": "Once", "stream": True, "n_probs": 400, "ignore_eos": True}):
        until(lambda: any(group.job.behind for group in session.service.engine.running))
        n = [group.job._n_told for group in session.service.engine.running]
        time.sleep(0.5)
        assert n
        assert n == [group.job._n_told for group in session.service.engine.running]
        assert small.post("/completion", {"prompt": "Once", "n_predict": 20})[0] == 200
    wait_until_free(small)


def test_answers_of_one_request_share_their_options(hash_model):
    """Each had a copy of its own: a bias of 65,536 tokens took 8 megabytes an answer."""
    engine = hash_model.make_engine()
    bias = [(token, 0.5) for token in range(40)]
    chains = engine.prepare(Request(prompt=[1, 5], n=4, options={"logit_bias": bias})).chains
    options = [sampler.options for chain in chains for sampler in chain.samplers if sampler.name == "logit_bias"]
    assert len(options) == 4
    assert all(each is options[0] for each in options)


def test_what_a_bias_takes_is_counted():
    plain = Request(prompt=[1], n=64)
    biased = Request(prompt=[1], n=64, options={"logit_bias": [(token, 1.0) for token in range(65_536)]})
    assert generation.bytes_of(plain, 4096) == 0
    assert generation.bytes_of(biased, 4096) > 65_536 * 200
    assert generation.bytes_of(Request(prompt=[1] * 100, prompt_logprobs=5), 4096) > 100 * 6 * 100
    ranked = Request(prompt=[1], best_of=8, logprobs=5)
    assert generation.bytes_of(ranked, 4096) > 8 * 4096 * 360


@pytest.mark.parametrize("path", ["/api/embed", "/v1/embeddings", "/embedding"])
def test_vectors_are_made_into_json_one_by_one(serve, path):
    small = serve(request_memory="2M")
    session = small.state.pool.loaded()
    texts = [f"Once upon a time {i}" for i in range(20)]
    status, answer = small.post(path, {"input": texts})
    assert status == 200
    found = answer if isinstance(answer, list) else answer.get("embeddings") or answer["data"]
    vectors = [each["embedding"] if isinstance(each, dict) else each for each in found]
    assert len(vectors) == 20
    assert {len(each) for each in vectors} == {session.model.hparams.n_embd}
    if path != "/embedding":
        expected = session.embed(texts[3])
        assert vectors[3] == pytest.approx(expected.tolist(), abs=1e-4)
    status, answer = small.post(path, {"input": ["a"] * 1500})
    assert status in (413, 429), answer
    wait_until_free(small)


def test_who_does_not_read_keeps_no_place(hash_model):
    """150 streams that nobody read held all places until they were cut: others waited for half a minute."""
    service = Service(hash_model.make_engine(n_seq=4), ServiceOptions())
    try:
        asked = [Request(prompt=[1, 5 + i], seed=i, max_tokens=50, ignore_eos=True, logprobs=2) for i in range(6)]
        expected = [service.submit(each).results()[0].tokens for each in asked]
        unread = [service.submit(each) for each in asked]
        for job in unread:
            job.most_ahead = 3000  # some eight tokens
        until(lambda: service.n_running == 4)
        other = service.submit(Request(prompt=[1, 30], seed=4, max_tokens=20, ignore_eos=True))
        assert len(other.results()[0].tokens) == 20
        assert not any(job.finished for job in unread)
        assert [job.results()[0].tokens for job in unread] == expected
    finally:
        service.close()


def test_who_reads_keeps_a_place(hash_model, monkeypatch):
    """64 answers with 1,000 probabilities a token are ahead of their reader after each step: others took their places
    every time, and one request that took seconds took minutes beside a stream."""
    engine = hash_model.make_engine(n_seq=4)
    wide = Job(Request(prompt=[1, 5], n=4, seed=3, max_tokens=25, ignore_eos=True, logprobs=2))
    wide.most_ahead = 1000  # less than a step makes
    group = engine.submit(wide)
    while not wide.behind:
        engine.step()
    other = Job(Request(prompt=[1, 6], max_tokens=5, ignore_eos=True))
    engine.submit(other)
    monkeypatch.setattr(admission, "UNREAD_SECONDS", 1000)
    engine.step()
    assert engine.running == [group]
    wide.drain()
    engine.step()
    assert wide.behind
    monkeypatch.setattr(admission, "UNREAD_SECONDS", 0)
    while not other.finished:
        engine.step()
    assert engine.counters.n_preempted == 1
    assert not wide.finished
    while not wide.read_all:
        engine.step()
        wide.drain()


def test_a_reader_who_catches_up_is_not_kept_waiting(hash_model):
    """The engine slept for a quarter of a second each time that all readers were behind."""
    service = Service(hash_model.make_engine(), ServiceOptions())
    try:
        job = service.submit(Request(prompt=[1, 5], seed=3, max_tokens=2000, ignore_eos=True, shift=True, logprobs=2))
        job.most_ahead = 3000  # some eight tokens
        seconds = []
        while not job.read_all:
            began = time.monotonic()
            while not job.behind and not job.finished:
                time.sleep(0.0005)
            if job.behind:
                seconds.append(time.monotonic() - began)
            job.read(1.0)
        assert len(seconds) > 20
        assert median(seconds) < 0.1
    finally:
        service.close()
