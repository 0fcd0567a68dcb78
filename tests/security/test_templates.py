"""Chat templates of strangers: whatever they do takes little time and memory, and none of it here."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from llamakit.chat import worker_pool
from llamakit.chat.template import ChatTemplate
from llamakit.errors import ModelFileError, UnavailableError, UsageError

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
BIG = "{% set x = 'ab ' * 9999999 %}"
HOSTILE = {
    "lipsum": "{% for i in range(99999) %}{{ lipsum(n=200, max=200) }}{% endfor %}",
    "lipsum at once": "{{ lipsum(n=99999, max=9999) }}",
    "slice": BIG + "{{ x|slice(99999999)|list|length }}",
    "batch": BIG + "{{ x|batch(1)|list|length }}",
    "wordwrap": BIG + "{{ x|wordwrap(1) }}{{ x|wordwrap(1) }}",
    "sum of lists": "{{ ([[1] * 999999] * 999)|sum(start=[])|length }}",
    "sort": BIG + "{{ x|list|sort|length }}",
    "unique": BIG + "{{ x|list|unique|list|length }}",
    "groupby": BIG + "{{ ([{'a': 1}] * 9999999)|groupby('a')|list|length }}",
    "pprint": BIG + "{{ ([x] * 99)|pprint|length }}",
    "center at compile time": "{{ 'x'|center(4000000000) }}",
    "center": "{{ messages[0].content|center(4000000000) }}",
    "ljust": "{{ messages[0].content.ljust(4000000000) }}",
    "zfill": "{{ messages[0].content.zfill(4000000000) }}",
    "expandtabs": "{{ (messages[0].content + '\\t').expandtabs(2000000000) }}",
    "replace": BIG + "{{ x.replace('a', x) }}",
    "join": BIG + "{{ x|list|join(x) }}",
    "format": "{{ '{:>4000000000}'.format(messages[0].content) }}",
    "tojson": "{{ messages|tojson(indent=900000000) }}",
    "indent": BIG + "{{ x|indent(900000) }}",
    "range": "{{ range(99999)|list * 99999 }}",
    "power": "{{ (10 ** 400) ** 400 }}",
    "int": "{{ ('9' * 9999999)|int }}",
    "elif": "{% if a == 0 %}" + "".join(f"{{% elif a == {i} %}}x" for i in range(100_000)) + "{% endif %}",
    "nested ifs": "{% if messages %}" * 5500 + "x" + "{% endif %}" * 5500,
    "nested blocks": "".join(f"{{% block b{i} %}}" for i in range(3000)) + "{% endblock %}" * 3000,
    "nested brackets": "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "nested lists": "{{ " + "[" * 5000 + "]" * 5000 + " }}",
    "macros": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "caller": "{% macro f() %}{% call f() %}{% endcall %}{% endmacro %}{{ f() }}",
    "cyclers": "{% for i in range(99999) %}{% for j in range(99999) %}{{ cycler(1).next() }}{% endfor %}{% endfor %}",
    "urlize": BIG + "{{ (x * 2)|urlize }}",
    "striptags": "{{ ('<' * 999999)|striptags }}",
    "xmlattr": "{{ {'a': 'b' * 60000000}|xmlattr * 9 }}",
}  # fmt: skip


def render(source):
    try:
        return ChatTemplate(source).render(TALK)
    except ModelFileError as error:
        return error


def peak():
    """Bytes of this process that were in memory at most since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def forget_peak():
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@pytest.fixture(scope="module")
def hurried_pool():
    pool = worker_pool.WorkerPool()
    yield pool
    pool.close()


@pytest.fixture
def short_of_time(hurried_pool, monkeypatch):
    """Processes that may take half a second for a request: what ends then would have ended later too."""
    monkeypatch.setattr(worker_pool, "CPU_SECONDS", 0.5)
    monkeypatch.setattr(worker_pool, "pool", hurried_pool)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.usefixtures("short_of_time")
def test_hostile_templates_end_soon_and_take_nothing_here(name):
    forget_peak()
    before, cpu, began = peak(), time.process_time(), time.monotonic()
    found = render(HOSTILE[name])
    assert isinstance(found, ModelFileError) or len(found) < 70_000_000
    assert "chat template" in str(found) or isinstance(found, str)
    assert time.process_time() - cpu < 3
    assert time.monotonic() - began < 60  # the process has a limit on its processor time: this is for a busy machine
    assert peak() - before < 400 << 20  # at most the longest text that a template may make


def test_what_comes_after_a_hostile_template_works():
    for name in ("sort", "nested ifs", "center", "macros"):
        render(HOSTILE[name])
        assert render("{{ messages[0].content }}") == "Hi"


@pytest.mark.parametrize(
    "source",
    [
        "{{ cycler.__init__.__globals__.os.environ }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ ''|attr('__class__') }}",
        "{{ ('%s' % 'x').__class__.__mro__[1].__subclasses__() }}",
        "{% set f = '{0.__class__}'.format %}{{ f(messages) }}",
        "{{ ['{0.__class__.__init__.__globals__}']|map('format', cycler)|first }}",
        "{{ '{0.__init__.__globals__[os].environ}'|attr('format')(joiner) }}",
        "{{ messages|map(attribute='__class__')|list }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}{{ self._TemplateReference__context }}",
        "{{ dict.__base__.__subclasses__() }}",
        "{{ tools.__class__ }}{{ strftime_now.__globals__ }}{{ raise_exception.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% extends '/etc/passwd' %}",
    ],
)
def test_templates_reach_neither_python_nor_the_environment(source, monkeypatch):
    monkeypatch.setenv("LLAMAKIT_SECRET", "a-secret-of-mine")
    worker_pool.pool.close()  # so that the next one is started in this environment
    found = str(render(source))
    assert "a-secret-of-mine" not in found
    for inside in ("root:x:", "uid=", "<class", "<function", "subprocess.Popen", "'os'"):
        assert inside not in found, found


def test_the_process_for_templates_can_do_little(monkeypatch):
    monkeypatch.setenv("LLAMAKIT_API_KEY", "k-1234")
    worker = worker_pool.Worker()
    try:
        folder = Path(f"/proc/{worker.process.pid}")
        assert b"k-1234" not in (folder / "environ").read_bytes()
        lines = (folder / "limits").read_text().splitlines()
        limits = {line[:25].strip(): line[25:].split()[0] for line in lines}
        assert limits["Max file size"] == limits["Max processes"] == limits["Max core file size"] == "0"
        assert int(limits["Max address space"]) < 2 << 30
        assert int(limits["Max open files"]) <= 16
    finally:
        worker.close()


def test_more_templates_at_once_than_processes():
    def ask(i):
        return ChatTemplate(f"{{{{ messages[0].content }}}} {i % 5}").render(TALK)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(100))) == [f"Hi {i % 5}" for i in range(100)]
    assert len(worker_pool.pool._idle) <= worker_pool.MOST_WORKERS


def test_a_process_that_was_killed_is_replaced():
    assert render("{{ messages|length }}") == "2"
    for worker in worker_pool.pool._idle:
        worker.process.kill()
        worker.process.wait()
    assert render("{{ messages|length }}") == "2"


def test_waiting_for_a_process_ends_with_an_error(monkeypatch):
    monkeypatch.setattr(worker_pool, "WAIT_SECONDS", 0.1)
    pool = worker_pool.WorkerPool()
    held = [pool._places.acquire() for _ in range(worker_pool.MOST_WORKERS)]
    assert all(held)
    with pytest.raises(UnavailableError, match="too many chat templates"):
        pool.ask("x", {})


def test_a_process_that_does_not_answer_is_killed(monkeypatch):
    pool = worker_pool.WorkerPool()
    pool.ask("x", {})
    (worker,) = pool._idle
    monkeypatch.setattr(worker_pool, "ANSWER_SECONDS", 0.5)
    os.kill(worker.process.pid, 19)  # SIGSTOP
    with pytest.raises(ModelFileError, match="did not end in time"):
        pool.ask("x", {})
    assert worker.process.poll() is not None
    monkeypatch.undo()
    assert pool.ask("y", {}) == "y"
    pool.close()


def test_a_large_server_keeps_its_process_warm():
    """Linux counts for a process what its parent took: where that was much, each answer had a process of its own."""
    code = """
from llamakit.chat.worker_pool import WorkerPool
large, pool = b"x" * (300 << 20), WorkerPool()
pool.ask("x", {})
(worker,) = pool._idle
pool.ask("y", {})
assert pool._idle == [worker]
pool.close()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_values_that_are_no_json_are_refused():
    with pytest.raises(UsageError, match="JSON only"):
        ChatTemplate("{{ x }}").render(TALK, x=object())
    text = "\ud800 \U0001f600 \u0000 \u2028"
    assert ChatTemplate("{{ x }}{{ y }}").render(TALK, x=text, y=1 << 80) == f"{text}{1 << 80}"


def test_a_template_slows_no_other_request_of_a_server(serve, small_model, tmp_path, monkeypatch, request):
    """A model's template that loops for ever with what several clients say, beside a stream."""
    from llamakit.gguf import GGUFWriter, open_gguf

    file = tmp_path / "model.gguf"
    with open_gguf(small_model) as model, GGUFWriter(file) as writer:
        for key in model.metadata:
            writer.add(key, model.metadata[key], *model.metadata.value_type(key))
        said = TALK[-1]["content"]  # what is tried before anything is said comes through
        slow = "{% if messages[-1].content == '" + said + "' %}{{ ('x' * 30000000)|list|sort|length }}{% endif %}"
        writer.add("tokenizer.chat_template", slow)
        for name, info in model.tensors.items():
            writer.add_tensor(name, model.raw(name), info.type, info.shape)
    monkeypatch.setattr(worker_pool, "CPU_SECONDS", 1.0)
    workers = worker_pool.WorkerPool()
    request.addfinalizer(workers.close)
    monkeypatch.setattr(worker_pool, "pool", workers)
    server = serve({"stories": file})
    body = {"prompt": "Once", "n_predict": 100_000, "stream": True, "ignore_eos": True}
    gaps = []  # in time of this process, which all that is done here takes
    with ThreadPoolExecutor(3) as pool, closing(server.events("/completion", body)) as stream:
        next(stream)
        last = time.process_time()
        posts = [pool.submit(server.post, "/v1/chat/completions", {"messages": TALK}) for _ in range(3)]
        for _ in stream:
            gaps.append(time.process_time() - last)
            last = time.process_time()
            if all(post.done() for post in posts):
                break
        answers = [post.result() for post in posts]
    assert all(status >= 400 and "chat template" in answer["error"]["message"] for status, answer in answers)
    assert max(gaps) < 0.7  # without a limit each takes seconds of a processor: none of it is taken here
