"""One driver for all APIs: from a request to its answers, whole or streamed.

An API is a `Dialect`, which reads a body (`parse`) and begins the answer to it (`begin`). What it begins is a `Writer`,
which writes whole answers (`whole`) or what is new of them (`event`). The model stays loaded until an answer ends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from llamakit.plugins.frontends.rest.answer import Delta
from llamakit.plugins.frontends.rest.body import in_turn, tell_ignored
from llamakit.plugins.frontends.rest.constrain import left_out
from llamakit.plugins.frontends.rest.errors import body_of
from llamakit.plugins.frontends.rest.generation import Exchange
from llamakit.plugins.frontends.rest.loading import load
from llamakit.plugins.frontends.rest.long_json import blocks, send
from llamakit.plugins.frontends.rest.merge import merged
from llamakit.plugins.frontends.rest.route import Operation, Route
from llamakit.plugins.frontends.rest.sse import EVENT_STREAM, event, stream

from llamakit.serialized import serialized

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import falcon
    from llamakit.plugins.frontends.rest.answer import AnswerReader, Part
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.engine.job import Event, Job
    from llamakit.engine.request import Request
    from llamakit.errors import LlamaKitError
    from llamakit.session import Session


class Asked(msgspec.Struct, kw_only=True):
    """A body that was read, as its API has it; `progress`: a stream tells of loading and of the prompt."""

    fields: Any
    body: Any = None
    model: str = ""
    stream: bool = False
    progress: bool = False
    ignored: tuple[str, ...] = ()


class InputTokensAnswer(msgspec.Struct, frozen=True):
    """How many tokens the prompts of a request have."""

    input_tokens: int
    object: str = "response.input_tokens"


class Writer(ABC):
    """Writes the answers to one request: `requests` to the engine, and a reader for each."""

    requests: list[Request]
    readers: list[AnswerReader]
    ignored: tuple[str, ...] = ()
    order: Any = None  # of the keys of a whole answer, as msgspec's
    slots: Sequence[int] = ()  # of the requests, where the server has slots
    hold: Callable[[int], None] = staticmethod(lambda n_bytes: None)  # counts what a stream keeps for its end

    @abstractmethod
    def whole(self, parts: list[list[Part]]) -> Any:
        """The answer to wait for, of all parts of each request."""

    @abstractmethod
    def event(self, number: int, part: Part) -> bytes:
        """What a stream tells of a part of request `number`."""

    def start(self) -> bytes:
        """How a stream begins."""
        return b""

    def end(self) -> bytes:
        """How it ends."""
        return b""

    def event_blocks(self, number: int, part: Part) -> Iterator[bytes | bytearray]:
        """`event` in blocks, where it may be long."""
        yield self.event(number, part)

    # -- what the driver does with it ----------------------------------------------------------------------------

    def answer(self, jobs: list[Job], keep: Callable[[list[Event]], None] = lambda events: None) -> Any:
        """Wait for all answers. `keep` counts what of them is kept meanwhile, and raises if that is too much."""
        parts: list[list[Part]] = [[] for _ in jobs]
        for number, events in merged(jobs):
            keep(events)
            parts[number] += self.readers[number].read(events)
        return self.whole(parts)

    def stream(self, jobs: list[Job]) -> Iterator[bytes]:
        """The pieces of a stream; several events are joined where the client is behind, and long ones cut."""
        yield self.start()
        for number, events in merged(jobs):
            parts = self.readers[number].read(events)
            if len(parts) == 1 and type(parts[0]) is Delta:  # most of them
                yield self.event(number, parts[0])
            else:
                yield from blocks(block for part in parts for block in self.event_blocks(number, part))
        yield self.end()


class Dialect(ABC):
    """A route that generates. `api` is its name in the metrics."""

    api: ClassVar[str]
    stream_type: ClassVar[str] = EVENT_STREAM

    def __init__(self, state: ServerState) -> None:
        self.state = state

    @abstractmethod
    def parse(self, req: falcon.Request) -> Asked:
        """What a body asks for."""

    @abstractmethod
    def begin(self, session: Session, asked: Asked, name: str) -> Writer:
        """The requests to the engine, and what writes their answers."""

    def error(self, error: LlamaKitError) -> bytes:
        """The last event of a stream that an error ended."""
        return event(body_of(error))

    def loading(self, progress: float) -> bytes:
        """The event that tells how far the loading of the model is."""
        return event({"choices": [], "loading": {"progress": progress}})

    def only_loads(self, asked: Asked, name: str) -> Any:
        """The answer to a request that generates nothing; None for all others."""
        return None

    def ended(self, asked: Asked, name: str) -> None:
        """Called when a request has been answered and its model is given back."""

    def count(self, req: falcon.Request, resp: falcon.Response) -> None:
        """How many tokens the prompts of a request would have."""
        asked = self.parse(req)
        tell_ignored(resp, asked.ignored)
        name = self.state.pool.resolve(asked.model)
        with self.state.pool.lease(name) as session, in_turn(req):
            requests = self.begin(session, asked, name).requests
        n = sum(len(request.prompt) for request in requests)
        resp.content_type = "application/json"
        resp.data = msgspec.json.encode(InputTokensAnswer(n))

    # -- the driver ----------------------------------------------------------------------------------------------

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer a request."""
        asked = self.parse(req)
        tell_ignored(resp, asked.ignored)
        name = self.state.pool.resolve(asked.model)
        with Exchange(self.state, req) as exchange:
            if asked.stream and asked.progress and self.state.pool.loaded(name) is None:
                stream(exchange, resp, lambda: self._after_loading(exchange, asked, name), self.error, self.stream_type)
                return
            exchange.at_end(lambda: self.ended(asked, name))
            session = exchange.lease(name)
            idle = self.only_loads(asked, name)
            if idle is not None:
                resp.content_type = self.stream_type if asked.stream else "application/json"
                resp.data = msgspec.json.encode(idle) + (b"\n" if asked.stream else b"")
                return
            writer, jobs = self._start(exchange, session, asked, name)
            tell_ignored(resp, writer.ignored)
            if asked.stream:
                stream(exchange, resp, lambda: writer.stream(jobs), self.error, self.stream_type)
            else:
                send(resp, writer.answer(jobs, exchange.keep), writer.order)

    def _start(self, exchange: Exchange, session: Session, asked: Asked, name: str) -> tuple[Writer, list[Job]]:
        with serialized(exchange.n_bytes):
            writer = self.begin(session, asked, name)
        writer.ignored = (*(writer.ignored or asked.ignored), *left_out(self.state, session, writer.requests))
        slot = getattr(asked.fields, "id_slot", -1)
        jobs = [exchange.start(session, request, self.api, name, slot) for request in writer.requests]
        writer.slots, writer.hold = exchange.slots, exchange.hold
        return writer, jobs

    def _after_loading(self, exchange: Exchange, asked: Asked, name: str) -> Iterator[bytes]:
        """The stream of a model that is not loaded yet: how far that is, then the answer."""
        for progress in load(self.state, name):
            yield self.loading(progress)
        writer, jobs = self._start(exchange, exchange.lease(name), asked, name)
        yield from writer.stream(jobs)


class InputTokens:
    """The route that counts the tokens of an API's requests."""

    def __init__(self, dialect: Dialect) -> None:
        self.on_post = dialect.count
        error_body = getattr(dialect, "error_body", None)
        if error_body is not None:
            self.error_body = error_body


def input_tokens(path: str, dialect: Dialect, tag: str, body: Any) -> Route:
    """Such a route."""
    operation = Operation(
        summary="Count the tokens of a request's prompts", tag=tag, body=body, response=InputTokensAnswer
    )
    return Route(path=path, resource=InputTokens(dialect), operations={"POST": operation})
