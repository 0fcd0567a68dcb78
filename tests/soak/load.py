"""Many streaming clients that come and go, each whole answer compared with the one given alone."""

from __future__ import annotations

import asyncio
import importlib.util
import random
import sys
import time
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

N_REQUESTS = 48  # different ones; each is asked hundreds of times
SPEC = importlib.util.spec_from_file_location(
    "serve_client", Path(__file__).parents[2] / "benchmarks" / "serve_client.py"
)
assert SPEC
assert SPEC.loader
client = importlib.util.module_from_spec(SPEC)
sys.modules["serve_client"] = client  # dataclasses look their module up
SPEC.loader.exec_module(client)

BEGINNINGS = (
    "Once upon a time", "One day, a little girl named Lily", "The dog", "Tom and Ben went to the park. They",
    "A big red ball", "Mom said that", "In the forest there lived a bear who", "It was raining, and",
)  # fmt: skip


@dataclass
class Tally:
    """What the clients saw."""

    whole: int = 0
    left: int = 0
    events: int = 0
    faults: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


def requests(seed: int) -> list[tuple[str, dict[str, Any]]]:
    """Path and body: both APIs, short and long, greedy and drawn, with common beginnings and without."""
    rng = random.Random(seed)
    found = []
    for i in range(N_REQUESTS):
        prompt = " ".join(rng.sample(BEGINNINGS, rng.randint(1, 4)))
        body = {"prompt": prompt, "seed": i, "temperature": rng.choice([0, 0.7, 1.2]), "top_k": rng.choice([0, 10, 40])}
        body |= rng.choice([{}, {"mirostat": 2}, {"typical_p": 0.9}, {"min_p": 0.1}, {"repeat_penalty": 1.2}])
        length = rng.choice([1, 20, 60, 150])
        stop = {"stop": [rng.choice(["\n", " the", "Lily", "."])]} if rng.random() < 0.3 else {}
        if i % 2:
            found.append(("/completion", body | stop | {"n_predict": length, "stream": True}))
        else:
            found.append(("/v1/completions", body | stop | {"max_tokens": length, "stream": True}))
    return found


def text_of(data: dict[str, Any]) -> str:
    if "error" in data:
        raise client.AnswerError(str(data["error"]))
    text: str = data["content"] if "content" in data else "".join(part["text"] for part in data["choices"])
    return text


async def whole(host: str, port: int, path: str, body: dict[str, Any], tally: Tally | None = None) -> str:
    """All of an answer."""
    text = ""
    async for data in client.events(host, port, path, body):
        text += text_of(data)
        if tally:
            tally.events += 1
    return text


async def leave(host: str, port: int, path: str, body: dict[str, Any], after: int, tally: Tally) -> None:
    """Read some events and go."""
    async with aclosing(client.events(host, port, path, body)) as stream:
        n = 0
        async for data in stream:
            text_of(data)
            tally.events += 1
            n += 1
            if n > after:
                return


async def send_only(host: str, port: int, path: str) -> None:
    """Ask for something long, and go before any of it comes, or in the middle of asking."""
    _, writer = await asyncio.open_connection(host, port)
    body = b'{"prompt": "Once upon a time", "n_predict": 400, "max_tokens": 400, "stream": true}'
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    raw = head + body
    writer.write(raw[: random.choice([len(raw), len(raw), len(raw) // 2])])
    await writer.drain()
    await asyncio.sleep(random.random() * 0.05)
    writer.transport.abort()


async def visit(host: str, port: int, jobs: list[Any], alone: list[str], end: float, tally: Tally) -> None:
    """One client: request after request until the time is over."""
    while time.monotonic() < end:
        i = random.randrange(len(jobs))
        path, body = jobs[i]
        kind = random.random()
        try:
            async with asyncio.timeout(60):
                if kind < 0.1:
                    await send_only(host, port, path)
                    tally.left += 1
                elif kind < 0.3:
                    await leave(host, port, path, body, random.randrange(20), tally)
                    tally.left += 1
                else:
                    text = await whole(host, port, path, body, tally)
                    tally.whole += 1
                    if text != alone[i]:
                        tally.faults.append(f"{path} {body}: {text!r} and alone {alone[i]!r}")
        except TimeoutError:
            tally.errors["no answer in 60 s"] += 1
        except (OSError, asyncio.IncompleteReadError, client.AnswerError) as error:
            tally.errors[f"{type(error).__name__}: {error}"[:200]] += 1


async def one_after_another(host: str, port: int, jobs: list[Any]) -> list[str]:
    """The answers given alone."""
    return [await whole(host, port, path, body) for path, body in jobs]


async def all_at_once(host: str, port: int, jobs: list[Any], alone: list[str], n_clients: int, seconds: float) -> Tally:
    """Many clients for some time."""
    tally, end = Tally(), time.monotonic() + seconds
    await asyncio.gather(*(visit(host, port, jobs, alone, end, tally) for _ in range(n_clients)))
    return tally
