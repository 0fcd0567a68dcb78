"""Log lines on standard error, for people or as JSON. Prompts and answers are never logged."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any

from llamakit.terminal import json_text, safe

if TYPE_CHECKING:
    from llamakit.plugins.frontends.rest.options import ServeOptions

requests = logging.getLogger("llamakit.rest.requests")
LEVEL_NAMES = {"WARNING": "warning", "ERROR": "error", "CRITICAL": "error", "INFO": "info", "DEBUG": "debug"}


class TextFormat(logging.Formatter):
    """ "12:30:01 warning: ..."; the line of a request without a level."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        level = "" if record.levelno <= logging.INFO else f"{LEVEL_NAMES[record.levelname]}: "
        text = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {level}{one_line(record.getMessage())}"
        return f"{text}\n{safe(self.formatException(record.exc_info))}" if record.exc_info else text


class JsonFormat(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the fields of a request."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        fields: dict[str, Any] = {
            "time": round(record.created, 3), "level": LEVEL_NAMES[record.levelname], "logger": record.name,
            "message": record.getMessage(), **getattr(record, "fields", {}),
        }  # fmt: skip
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json_text(fields)


def one_line(text: str) -> str:
    """A text that cannot forge a second line, nor send control codes to a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def set_up(options: ServeOptions) -> logging.Handler:
    """Send the logs of LlamaKit and waitress to standard error; returns the handler that does it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormat() if options.log_format == "json" else TextFormat())
    for name in ("llamakit", "waitress"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    logging.getLogger("llamakit").setLevel(logging.INFO)
    requests.setLevel(logging.INFO if options.verbose or options.log_format == "json" else logging.WARNING)
    logging.getLogger("waitress").setLevel(logging.WARNING)  # clients that leave are no news
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # so are short moments without a free thread
    return handler


def log_request(environ: dict[str, Any], status: str, seconds: float) -> None:
    """The line of a request that was answered."""
    if not requests.isEnabledFor(logging.INFO):
        return
    context = environ.get("llamakit.context")
    fields = {
        "id": getattr(context, "id", ""), "method": environ.get("REQUEST_METHOD", ""),
        "path": environ.get("PATH_INFO", "")[:200].encode("latin-1", "replace").decode("utf-8", "replace"),
        "status": int(status[:3]) if status[:3].isdigit() else 0, "ms": round(seconds * 1000, 1),
        "tokens": getattr(context, "tokens", None),
    }  # fmt: skip
    tokens = f"  {fields['tokens']} tokens" if fields["tokens"] is not None else ""
    text = f"{fields['method']} {fields['path']}  {fields['status']}  {fields['ms']:g} ms{tokens}  {fields['id']}"
    requests.info("%s", text, extra={"fields": fields})
