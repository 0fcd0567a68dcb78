"""Errors as the server answers them: which status, and the JSON body that every API but a few shares."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import falcon
import msgspec

from llamakit.errors import (
    ContextLengthError,
    FileWriteError,
    LlamaKitError,
    ModelChangedError,
    NotFoundError,
    OutOfMemoryError,
    QueueFullError,
    UnavailableError,
    UsageError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from llamakit.errors import ModelFileError
    from llamakit.pool import ModelInfo


class AuthenticationError(LlamaKitError):
    """No API key, or one that is not known."""

    code = "authentication"


class ForbiddenError(LlamaKitError):
    """A Host or Origin that is not allowed."""

    code = "forbidden"


class TooLargeError(LlamaKitError):
    """A body above the limit."""

    code = "too_large"


class NotSupportedError(LlamaKitError):
    """Something that this server was not started for."""

    code = "not_supported"


class MethodError(LlamaKitError):
    """A path that answers other methods only."""

    code = "method_not_allowed"


def refused_file(error: ModelFileError, file: Path, what: str, param: str) -> LlamaKitError:
    """What to answer where a file that a request named is of no use; the error as it is if the model was changed."""
    if isinstance(error, ModelChangedError) and str(file) not in error.message:
        return error
    return UsageError(what, found=error.message.replace(str(file), file.name), param=param)


# The first class that an error is an instance of gives its status.
STATUS: tuple[tuple[type[LlamaKitError], str], ...] = (
    (UsageError, falcon.HTTP_400),
    (ContextLengthError, falcon.HTTP_400),
    (AuthenticationError, falcon.HTTP_401),
    (ForbiddenError, falcon.HTTP_403),
    (NotFoundError, falcon.HTTP_404),
    (MethodError, falcon.HTTP_405),
    (TooLargeError, falcon.HTTP_413),
    (QueueFullError, falcon.HTTP_429),
    (NotSupportedError, falcon.HTTP_501),
    (UnavailableError, falcon.HTTP_503),
    (ModelChangedError, falcon.HTTP_503),
    (OutOfMemoryError, falcon.HTTP_503),
    (FileWriteError, falcon.HTTP_507),
)
TYPES = {
    "400": "invalid_request_error",
    "401": "authentication_error",
    "403": "permission_error",
    "404": "not_found_error",
    "405": "invalid_request_error",
    "413": "invalid_request_error",
    "429": "rate_limit_error",
    "501": "not_supported_error",
    "503": "unavailable_error",
}
FOLDERS = re.compile(r"(?<![\w:/.])(?:[A-Za-z]:[\\/]|~?/)(?:[^\s/\\:'\",]+[\\/])+")


def status_of(error: LlamaKitError) -> str:
    """The status line of an error, such as "400 Bad Request"."""
    return next((status for cls, status in STATUS if isinstance(error, cls)), falcon.HTTP_500)


def type_of(error: LlamaKitError) -> str:
    """OpenAI's word for the kind of an error, such as "invalid_request_error"."""
    if isinstance(error, ContextLengthError):
        return "exceed_context_size_error"
    return TYPES.get(status_of(error)[:3], "server_error")


def retry_after(error: LlamaKitError) -> int | None:
    """Seconds until trying again makes sense, where an error says so."""
    if isinstance(error, (QueueFullError, UnavailableError)):
        return error.retry_after
    return 30 if isinstance(error, OutOfMemoryError) else None


def body_of(error: LlamaKitError) -> dict[str, Any]:
    """{"error": {code, message, param, found, hint, type}}; folders of this machine are left out of it."""
    # Names of files may be no text, which JSON cannot hold.
    record: dict[str, Any] = {
        name: str(text).encode(errors="replace").decode() for name, text in error.record().items()
    }
    if status_of(error)[0] == "5":
        record = {name: without_folders(text) for name, text in record.items()}
    record["param"] = record["param"] or None
    if isinstance(error, ContextLengthError) and error.n_ctx:
        record |= {"n_prompt_tokens": error.n_prompt_tokens, "n_ctx": error.n_ctx}
    return {"error": record | {"type": type_of(error)}}


def forget_frames(error: BaseException) -> None:
    """Let go of what an error was raised through, once it is answered.

    The frames hold the request's texts, and often the error itself (`error = ...; raise error`): a cycle that would
    keep them until the garbage collector runs.
    """
    left, seen = [error], set()
    while left:
        at = left.pop()
        if id(at) not in seen:
            seen.add(id(at))
            at.__traceback__ = None
            left += [each for each in (at.__context__, at.__cause__) if each is not None]


def without_folders(text: str) -> str:
    """A text in which every absolute path is cut to its last part."""
    return FOLDERS.sub("", text)


def from_falcon(error: falcon.HTTPError) -> LlamaKitError:
    """One of falcon's own errors as one of ours."""
    text = error.description or error.title or "this cannot be answered"
    message = (text[:1].lower() + text[1:]).rstrip(".")
    by_code = {401: AuthenticationError, 403: ForbiddenError, 404: NotFoundError, 405: MethodError, 413: TooLargeError}
    code = error.status_code
    if code in by_code:
        return by_code[code](message)
    return UsageError(message) if code < 500 else LlamaKitError(message)


def not_loaded(info: ModelInfo) -> tuple[str, str, float | None] | None:
    """The trouble with a model that is not loaded: it loads, or could not be; None if it will when it is asked for."""
    if info.loaded:
        return None
    if info.loading or not info.last_used:  # the default one is loaded at the start
        return "loading", "loading model", round(info.progress, 3)
    return ("model_error", f"the model cannot be loaded: {info.error}", None) if info.error else None


def unwell(resp: falcon.Response, code: str, message: str, progress: float | None) -> None:
    """Answer 503 with the error, a word for people, and how far the loading is."""
    error = UnavailableError(message, retry_after=1 if progress is not None else 5)
    error.code = code
    value: dict[str, Any] = {"status": message} | body_of(error)
    if progress is not None:
        value["progress"] = progress
    resp.status = "503 Service Unavailable"
    resp.set_header("Retry-After", str(error.retry_after))
    resp.content_type = "application/json"
    resp.data = msgspec.json.encode(value)
