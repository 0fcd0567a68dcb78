"""A client of a server's JSON and server-sent events, on the standard library's HTTP alone."""

from __future__ import annotations

import http.client
import socket
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from llamakit.errors import ContextLengthError, LlamaKitError, NotFoundError, QueueFullError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECT_SECONDS, READ_SECONDS = 10.0, 600.0
MAX_EVENT = 16 << 20  # bytes
MAX_BODY = 64 << 20
LONGEST_WAIT = 60  # seconds that a server that is full may name


class NetworkError(LlamaKitError):
    """A server that cannot be reached, or that answers with something else than was agreed."""

    code = "network"
    exit_code = 7


class LostConnectionError(NetworkError):
    """A connection that ended in the middle of an answer."""


class Client:
    """Requests to one server. `url` may have a path before the API's; `/v1` at its end is understood."""

    def __init__(self, url: str, api_key: str | None) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise UsageError(f"{url!r} is not an address of a server", hint="--url http://127.0.0.1:8080", param="url")
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise UsageError("the API key has characters that a header cannot hold", param="api_key")
        self.url, self.host, self.port = url, parts.hostname, port
        self.place = parts.netloc.rpartition("@")[2]
        self.secure = parts.scheme == "https"
        self.base = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._sock: socket.socket | None = None  # of `events`

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        return self._json("GET", path, None)

    def post(self, path: str, body: Any) -> Any:
        """The JSON that a path answers with."""
        return self._json("POST", path, body)

    def events(self, path: str, body: Any) -> Iterator[Any]:
        """The JSON of each event, until the server says that it is done. Ends at once when `abort` is called."""
        with self._exchange("POST", path, body, abortable=True) as response:
            kind = response.headers.get("Content-Type", "")
            if "text/event-stream" not in kind:
                raise NetworkError(
                    f"{self.url} answers with {kind or 'something'}, not with events",
                    hint="--url of a server with OpenAI's API, such as llamakit serve",
                )
            yield from _events(response)

    def abort(self) -> None:
        """Cut the connection of `events`, so that a read that waits ends."""
        sock = self._sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it is cut already

    def _json(self, method: str, path: str, body: Any) -> Any:
        with self._exchange(method, path, body) as response:
            try:
                return _decoded(response.read(MAX_BODY + 1))
            except ValueError:
                raise NetworkError(f"{self.url}{path} does not answer with JSON") from None
            except (OSError, http.client.HTTPException) as error:
                raise NetworkError(f"the connection to {self.url} was lost: {_words(error)}") from None

    @contextmanager
    def _exchange(
        self, method: str, path: str, body: Any, *, abortable: bool = False
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request; the response is open in here. A status other than 200 is the error that the server tells."""
        connection = self._connection()
        response = None
        try:
            try:
                connection.connect()
                connection.sock.settimeout(READ_SECONDS)
                self._sock = connection.sock if abortable else self._sock
                data = None if body is None else msgspec.json.encode(body)
                connection.request(method, self.base + path, data, self._headers)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise NetworkError(
                    f"cannot reach {self.url}: {_words(error)}", hint="llamakit serve -m FILE, or another --url"
                ) from None
            if response.status != http.client.OK:
                raise _error(response, f"{self.url}{path}")
            yield response
        finally:
            self._sock = None if abortable else self._sock
            if response is not None:
                response.close()
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self.secure:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(self.host, self.port, timeout=CONNECT_SECONDS, context=context)
        return http.client.HTTPConnection(self.host, self.port, timeout=CONNECT_SECONDS)


def _events(response: http.client.HTTPResponse) -> Iterator[Any]:
    """Events of a response: lines of `data:` until an empty line; other fields and comments are left out."""
    data: list[bytes] = []
    size = 0
    while True:
        try:
            line = response.readline(MAX_EVENT)
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            raise LostConnectionError(f"the connection was lost: {_words(error)}") from None
        if not line:
            raise LostConnectionError("the connection was lost: the server ended it")
        size += len(line)
        if size > MAX_EVENT:
            raise NetworkError("the server sent an event that does not end")
        line = line.rstrip(b"\r\n")
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line:
            joined, data, size = b"\n".join(data), [], 0
            if not joined:
                continue
            if joined.strip() == b"[DONE]":
                return
            try:
                yield _decoded(joined)
            except ValueError:
                raise NetworkError("the server sent an event that is not JSON") from None


def _decoded(data: bytes) -> Any:
    """Bytes of JSON; ValueError for what is none, or too much."""
    if len(data) > MAX_BODY:
        raise ValueError
    try:
        return msgspec.json.decode(data)
    except RecursionError:
        raise ValueError from None


def error_of(body: Any, status: int = 500, retry_after: str | None = None) -> LlamaKitError:
    """The error that a server's body {"error": {...}} tells."""
    told = body.get("error") if isinstance(body, dict) else None
    told = told if isinstance(told, dict) else {"message": told}
    told["message"] = told.get("message") or f"the server answers with status {status}"
    parts = {name: str(told.get(name) or "") for name in ("message", "found", "hint", "param", "code")}
    code, message = parts.pop("code"), parts.pop("message")
    if code in ("context_length", "context_length_exceeded"):
        return ContextLengthError(message, **parts)
    if status == http.client.UNAUTHORIZED:
        return NetworkError(message, found=parts["found"], hint="--api-key KEY, or OPENAI_API_KEY", param="api_key")
    if status in (http.client.TOO_MANY_REQUESTS, http.client.SERVICE_UNAVAILABLE):
        digits = (retry_after or "").strip()
        wait = min(int(digits[:9]), LONGEST_WAIT) if digits.isdecimal() else 2
        return QueueFullError(message, retry_after=wait, **parts)
    if status == http.client.NOT_FOUND:
        return NotFoundError(message, **parts)
    kind: type[LlamaKitError] = UsageError if status == http.client.BAD_REQUEST else NetworkError
    return kind(message, **parts)


def _error(response: http.client.HTTPResponse, where: str) -> LlamaKitError:
    try:
        body = _decoded(response.read(MAX_EVENT))
    except (ValueError, OSError, http.client.HTTPException):
        body = {"error": f"{where} answers with status {response.status} {response.reason}"}
    return error_of(body, response.status, response.headers.get("Retry-After"))


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return "name not resolved"
    if isinstance(error, http.client.IncompleteRead):
        return "the server ended it"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
