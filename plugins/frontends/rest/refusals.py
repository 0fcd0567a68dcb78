"""What is refused before it is a request, such as a chunk without a size: answered in JSON like every error.

It shares with `server` the parts of waitress that are not documented: `channel_class`, `parser_class` and
`error_task_class`.
"""

from __future__ import annotations

from typing import Any

import msgspec
import waitress.channel
import waitress.parser
import waitress.task
from llamakit.plugins.frontends.rest.errors import TooLargeError, body_of

from llamakit.errors import LlamaKitError, UsageError


class JSONErrorTask(waitress.task.ErrorTask):  # type: ignore[misc]
    """Answers what waitress found wrong with a request's head or framing, and closes the connection."""

    def execute(self) -> None:
        """Write the answer."""
        error: Any = self.request.error
        body = msgspec.json.encode(body_of(as_ours(error)))
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class Parser(waitress.parser.HTTPRequestParser):  # type: ignore[misc]
    """A parser that refuses a target which is no URL, where waitress lets the error of the standard library through."""

    path = ""  # what waitress logs when the client leaves before its refusal, unless `parse_header` gets to set it

    def parse_header(self, header_plus: bytes) -> None:
        """Read the first line and the headers."""
        try:
            super().parse_header(header_plus)
        except ValueError as error:
            raise waitress.parser.ParsingError(f"The target is no URL: {error}") from None


class Channel(waitress.channel.HTTPChannel):  # type: ignore[misc]
    """A connection whose refusals are JSON."""

    error_task_class = JSONErrorTask
    parser_class = Parser


def as_ours(error: Any) -> LlamaKitError:
    """One of waitress's errors as one of ours; what it says of a defect stays in the log."""
    if error.code == 500:
        shown = LlamaKitError("the server made a mistake", found="the server's log tells more")
        shown.code = "internal"
        return shown
    cls = TooLargeError if error.code in (413, 431) else UsageError
    return cls(f"this is not a request that can be read: {error.body[:1].lower()}{error.body[1:200]}")
