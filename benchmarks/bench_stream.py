"""What a token costs on the way out: processor time of everything behind the engine, for one client.

    python benchmarks/bench_stream.py [model.gguf]

A stand-in for the engine emits tokens at a steady rate, so that each is written alone, into the real server; the client
is another process. The time of the stand-in's own sleeping is taken off.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from llamakit.plugins.frontends.rest.keys import read_keys
from llamakit.plugins.frontends.rest.listen import listen
from llamakit.plugins.frontends.rest.options import ServeOptions
from llamakit.plugins.frontends.rest.server import Server
from llamakit.plugins.frontends.rest.startup import make_state

from llamakit import embedded
from llamakit.engine.job import Finished, Job, Token
from llamakit.engine.request import FinishReason, Likely, Piece, Request, Result, Timings
from llamakit.registry import Registry

PAUSE = 0.0005  # seconds between two tokens
TOP = Likely.of((1, 2), (-0.5, -1.5))
CHAT = {"messages": [{"role": "user", "content": "x"}], "stream": True}
BODIES = (
    ("/completion", {"prompt": "x", "stream": True}),
    ("/completion", {"prompt": "x", "stream": True, "n_probs": 2}),
    ("/completion", {"prompt": "x"}),
    ("/v1/completions", {"prompt": "x", "stream": True, "max_tokens": 1 << 20}),
    ("/v1/chat/completions", CHAT),
    ("/v1/messages", CHAT | {"max_tokens": 1 << 20}),
    ("/api/chat", CHAT),
)
CLIENT = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
connection.request("POST", sys.argv[2], sys.argv[3], {"Content-Type": "application/json"})
response = connection.getresponse()
assert response.status == 200, response.read()
while response.read1(65536): pass
"""


def fake_submit(n: int) -> Any:
    """In place of `Service.submit`: `n` tokens, one after the other."""

    def submit(request: Request, *, id: str = "", gone: Any = None, **_whose: Any) -> Job:
        job = Job(request, id=id, gone=gone)
        threading.Thread(target=emit, args=(job,)).start()
        return job

    def emit(job: Job) -> None:
        piece = Piece(token_id=400, text=" word", logprob=-0.5, top=TOP, after=Likely.of((1, 2), (0.5, 0.3)))
        for _ in range(n):
            job.emit(Token(0, piece))
            time.sleep(PAUSE)
        timings = Timings(n_prompt=3, n_generated=n, generate_seconds=n * PAUSE)
        result = Result(
            tokens=[400] * n, text=" word" * n, tail="", reason=FinishReason.LENGTH, timings=timings
        )  # fmt: skip
        job.emit(Finished(0, result))

    return submit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=embedded.FILE)
    parser.add_argument("--tokens", type=int, default=10_000)
    args = parser.parse_args()
    options = ServeOptions(parallel=8)
    keys, sock = read_keys(options), listen("127.0.0.1", 0)
    state = make_state(options, Registry.discover(), {"model": args.model}, {"n_seq": 8}, keys)
    Server(state, sock, keys).start()
    with state.pool.lease() as session:
        session.service.submit = fake_submit(args.tokens)
    began = time.process_time()
    for _ in range(args.tokens):
        time.sleep(PAUSE)
    idle = time.process_time() - began
    print(f"{'us/token':>9}  request")
    for path, body in BODIES:
        began = time.process_time()
        subprocess.run([sys.executable, "-c", CLIENT, str(sock.getsockname()[1]), path, json.dumps(body)], check=True)
        spent = time.process_time() - began - idle
        print(f"{spent / args.tokens * 1e6:9.1f}  {path} {json.dumps(body)}", flush=True)


if __name__ == "__main__":
    main()
