"""Requests that come at once and are the first of their kind: what is worked out for them is worked out once.

msgspec lets other threads see a class that it has not finished working out. Two first requests ended the process.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parents[2]
SLOW = """
import json, threading, time
from msgspec import Struct
from llamakit import typed

def slow(kind):
    time.sleep(0.2)  # as other threads have their turn while a class is worked out
    return kind

class Inner(Struct):
    first: "slow(int)"
    second: list[int] = []

class Outer(Struct):
    inner: Inner
    others: "slow(list[Inner])" = []

value = {"inner": {"first": 1, "second": [2]}, "others": [{"first": 3}]}
found = []
def ask(cls, value):
    found.append(typed.convert(value, cls))

asked = [(Outer, value), (Inner, value["inner"]), (Outer, value)]
threads = [threading.Thread(target=ask, args=each) for each in asked]
for thread in threads:
    thread.start()
    time.sleep(0.1)
for thread in threads:
    thread.join()
assert len(found) == 3, found
"""


def test_a_class_is_worked_out_by_one_thread():
    done = subprocess.run([sys.executable, "-c", SLOW], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_new_server_that_is_asked_by_many_at_once(process):
    form = {"type": "tag", "begin": "<a>", "content": {"type": "any_text"}, "end": "b"}
    tag = {"type": "structural_tag", "format": form}
    bodies = [
        ("/completion", {"prompt": "a", "n_predict": 1, "structural_tag": tag}), ("/tokenize", {"content": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}),
        ("/v1/responses", {"input": "a", "max_output_tokens": 1}), ("/v1/embeddings", {"input": "a"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}),
    ]  # fmt: skip
    server, found = process("--parallel", "8"), []
    barrier = threading.Barrier(24)

    def ask(i):
        barrier.wait()
        found.append(server.request("POST", *bodies[i % len(bodies)])[0])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200] * 24
    assert server.process.poll() is None


def test_nothing_in_a_server_works_out_a_class_by_itself():
    direct = re.compile(r"msgspec\.convert\(|json\.decode\([^)\n]*type=(?!str\b|tuple|dict|list)|json\.Decoder\(")
    places = [*(ROOT / "llamakit").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    found = {str(path.relative_to(ROOT)) for path in places if direct.search(path.read_text())}
    alone = {"plugins/frontends/cli/talk/export.py", "llamakit/train/report.py", "llamakit/train/checkpoint.py"}
    assert found - alone == {"llamakit/typed.py"}
