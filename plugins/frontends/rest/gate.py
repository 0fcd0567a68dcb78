"""Between waitress and falcon: gives each request its place, counts those being answered, writes their log lines.

It works on the WSGI level because only there it is known when a stream has ended: waitress closes what it was given.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from llamakit.plugins.frontends.rest.logs import log_request
from llamakit.plugins.frontends.rest.memory import Share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from llamakit.plugins.frontends.rest.state import ServerState


class Gate:
    """The WSGI application that waitress runs."""

    def __init__(self, app: Any, state: ServerState) -> None:
        self.app, self.admission, self.verbose = app, state.admission, state.options.verbose
        self.metrics, self.memory = state.metrics, state.memory
        self.prefix = "/" + state.options.api_prefix.strip("/") if state.options.api_prefix.strip("/") else ""
        self._answering = 0
        self._lock = threading.Lock()

    @property
    def answering(self) -> int:
        """Requests that have a place and are not answered to their end."""
        return self._answering

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        answer = _Answer(self, environ)
        self._without_prefix(environ)

        def start(status: str, headers: Any, *rest: Any) -> Any:
            answer.status = status
            return start_response(status, headers, *rest)

        if environ["REQUEST_METHOD"] == "POST":
            answer.placed = self.admission.enter()
            environ["llamakit.full"] = not answer.placed  # `app.Admit` says so in the shape of the API that was called
        self.count(answer.placed)
        try:
            answer.parts = self.app(environ, start)
        except BaseException as error:
            answer.close()
            if isinstance(error, Exception):
                raise
            raise RuntimeError(f"a request ended with {type(error).__name__}") from error  # waitress answers 500
        return answer

    def _without_prefix(self, environ: dict[str, Any]) -> None:
        """Take the prefix of all routes off a path; one without it leads nowhere."""
        path: str = environ.get("PATH_INFO", "")
        if not self.prefix:
            return
        if path == self.prefix or path.startswith(self.prefix + "/"):
            environ["SCRIPT_NAME"], environ["PATH_INFO"] = self.prefix, path[len(self.prefix) :] or "/"
        else:
            environ["PATH_INFO"] = "/-" + path

    def count(self, n: int) -> None:
        """So many more are being answered."""
        with self._lock:
            self._answering += n


class _Answer:
    """What waitress sends, and closes when nothing more is sent."""

    def __init__(self, gate: Gate, environ: dict[str, Any]) -> None:
        self.gate, self.environ = gate, environ
        self.share = Share(gate.memory, environ)
        self.parts: Iterable[bytes] = ()
        self.status = ""
        self.placed = False
        self.began = time.perf_counter()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.parts)

    def close(self) -> None:
        """Called by waitress, on the thread that answered."""
        try:
            if hasattr(self.parts, "close"):
                self.parts.close()
        finally:
            self.parts = ()
            self.share.close()
            if self.placed:
                self.placed = False
                self.gate.admission.leave()
                self.gate.count(-1)
            seconds = time.perf_counter() - self.began
            self.gate.metrics.answered(self._api, self.status, seconds)
            log_request(self.environ, self.status, seconds)

    @property
    def _api(self) -> str:
        """Which API was called; "page" for files, and for what is not there."""
        context = self.environ.get("llamakit.context")
        return getattr(getattr(context, "resource", None), "llamakit_api", "page")
