"""The errors of LlamaKit.

`LlamaKitError` is the one class for what the person at the keyboard can put right. The command line and the
server catch it at their edge and show it without a traceback; anything else is a defect of ours and keeps its
traceback. An error says what was asked and why not (`message`), what was found instead (`found`) and what would
work (`hint`); `param` names the option or field at fault.
"""

from __future__ import annotations

import errno

LONGEST_SHOWN = 80
LONGEST_NAME = 100  # characters of a name that a message shows, and that known ones are compared with
NO_ROOM = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))  # of an OSError: a full disk


class LlamaKitError(Exception):
    """Something the user can put right."""

    code = "cannot_be_met"
    exit_code = 6

    def __init__(self, message: str, *, found: str = "", hint: str = "", param: str = "") -> None:
        super().__init__(message)
        self.message, self.found, self.hint, self.param = message, found, hint, param

    def __str__(self) -> str:
        """All of it, a line or more for each part."""
        lines = [self.message]
        for label, text in (("found", self.found), ("try", self.hint)):
            if text:
                lines.append(f"  {label:<8}" + text.replace("\n", "\n" + " " * 10))
        return "\n".join(lines)

    def record(self) -> dict[str, str]:
        """The same for programs: `--json` on standard error, bodies of the server."""
        return {
            "code": self.code, "message": self.message, "param": self.param, "found": self.found, "hint": self.hint
        }  # fmt: skip


def shown(value: object) -> str:
    """A value of any kind for a message: as JSON has it, at most a line long; "nothing" for none."""
    if value is None:
        return "nothing"
    import msgspec

    try:
        text = msgspec.json.encode(value).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        text = str(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"


class ReaderGone(Exception):  # noqa: N818 - no error of anybody's
    """Whoever read standard output has closed it: stop, quietly."""


class UsageError(LlamaKitError):
    """A wrong option, name or value: the request itself is at fault."""

    code = "wrong_usage"
    exit_code = 2


class ModelFileError(LlamaKitError):
    """A model file that is missing, damaged or of a kind that is not supported."""

    code = "model_file"
    exit_code = 3


class ModelChangedError(ModelFileError):
    """A file that was written to, or cut off, while it was in use: what was read of it may be anything."""

    code = "model_changed"


class FileWriteError(LlamaKitError, OSError):
    """A file that could not be written, to a full disk for instance. What was there before is as it was."""

    code = "cannot_write"


class PluginError(LlamaKitError):
    """A plugin that is missing, broken, or in conflict with another."""

    code = "plugin"
    exit_code = 2


class BackendError(LlamaKitError):
    """A backend that is unavailable, or that failed while running."""

    code = "backend"
    exit_code = 5


class DeviceLostError(BackendError):
    """A device that is gone with all that it held; `Device.reopen` may bring it back."""


class OutOfMemoryError(LlamaKitError):
    """What was asked for does not fit into the memory there is."""

    code = "out_of_memory"
    exit_code = 4


class ContextLengthError(LlamaKitError):
    """A prompt that does not fit into the context."""

    code = "context_length"
    exit_code = 6
    n_prompt_tokens = 0
    n_ctx = 0


class QueueFullError(LlamaKitError):
    """Too many requests wait already. `retry_after`: seconds until trying again makes sense."""

    code = "queue_full"

    def __init__(self, message: str, *, retry_after: int = 1, found: str = "", hint: str = "", param: str = "") -> None:
        super().__init__(message, found=found, hint=hint, param=param)
        self.retry_after = retry_after


class UnavailableError(LlamaKitError):
    """It cannot be done now: the server shuts down, a model is loading, a backend is stuck."""

    code = "unavailable"

    def __init__(self, message: str, *, retry_after: int = 5, found: str = "", hint: str = "", param: str = "") -> None:
        super().__init__(message, found=found, hint=hint, param=param)
        self.retry_after = retry_after


class NotFoundError(LlamaKitError):
    """Something that was named is not there."""

    code = "not_found"


class DataError(LlamaKitError):
    """Data to learn from that is missing, damaged or not understood."""

    code = "data"
