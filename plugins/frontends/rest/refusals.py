"""What is refused before it is a request, such as a chunk without a size: answered in JSON like every error.

It shares with `server` the parts of waitress that are not documented (`channel_class`, `error_task_class`).
"""

from __future__ import annotations

from typing import Any

import msgspec
import waitress.channel
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


class Channel(waitress.channel.HTTPChannel):  # type: ignore[misc]
    """A connection whose refusals are JSON."""

    error_task_class = JSONErrorTask


def as_ours(error: Any) -> LlamaKitError:
    """One of waitress's errors as one of ours; what it says of a defect stays in the log."""
    if error.code == 500:
        shown = LlamaKitError("the server made a mistake", found="the server's log tells more")
        shown.code = "internal"
        return shown
    cls = TooLargeError if error.code in (413, 431) else UsageError
    return cls(f"this is not a request that can be read: {error.body[:1].lower()}{error.body[1:200]}")
