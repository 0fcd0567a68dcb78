"""A light streaming client: many requests at once on one thread, by asyncio and raw sockets."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class AnswerError(Exception):
    """A server answered with an error, or not at all."""


@dataclass
class Answer:
    """One streamed answer: seconds from the request to each event that brought text, and how it ended."""

    arrivals: list[float] = field(default_factory=list)
    text: str = ""
    reason: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)

    @property
    def gaps(self) -> list[float]:
        """Seconds between events."""
        return [b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)]


async def complete(host: str, port: int, body: dict[str, Any], timeout: float = 900.0) -> Answer:
    """POST /v1/completions with "stream": true, to its end."""
    answer, start = Answer(), time.perf_counter()
    async with asyncio.timeout(timeout):
        async for data in events(host, port, "/v1/completions", body | {"stream": True}):
            now = time.perf_counter() - start
            if "error" in data:
                raise AnswerError(str(data["error"]))
            choice = (data.get("choices") or [{}])[0]
            if choice.get("text"):
                answer.arrivals.append(now)
                answer.text += choice["text"]
            answer.reason = choice.get("finish_reason") or answer.reason
            answer.usage = data.get("usage") or answer.usage
    return answer


async def events(host: str, port: int, path: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each server-sent event of a POST, until the stream or `[DONE]` ends it."""
    reader, writer = await asyncio.open_connection(host, port, limit=1 << 22)
    try:
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Accept: text/event-stream\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        await writer.drain()
        status, headers = await read_head(reader)
        if status != 200:
            text = await reader.read(2000)
            raise AnswerError(f"{path} answered {status}: {text.decode(errors='replace')}")
        async for line in lines(reader, headers):
            if line == b"data: [DONE]":
                return
            if line.startswith(b"data:"):
                yield json.loads(line[5:])
    finally:
        writer.close()


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers, their names in lower case."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in head[1:] if line)
    return int(head[0].split()[1]), {name.lower(): value.strip() for name, _, value in pairs}


async def lines(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[bytes]:
    """Lines of a body, however it is cut into chunks."""
    rest = b""
    async for part in parts(reader, headers):
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r")


async def parts(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[bytes]:
    """Pieces of a body as they come, chunked or until the end of the connection."""
    if headers.get("transfer-encoding") != "chunked":
        while part := await reader.read(1 << 16):
            yield part
        return
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        yield (await reader.readexactly(size + 2))[:-2]
