"""The errors of LlamaKit.

`LlamaKitError` is the one class for what the person at the keyboard can put right. The command line and the
server catch it at their edge and print its message without a traceback; anything else is a defect of ours
and keeps its traceback. A message says what was asked, what was found and what would work.
"""

from __future__ import annotations


class LlamaKitError(Exception):
    """Something the user can put right."""

    exit_code = 6


class ReaderGone(Exception):  # noqa: N818 - no error of anybody's
    """Whoever read standard output has closed it: stop, quietly."""


class UsageError(LlamaKitError):
    """A wrong option, name or value: the request itself is at fault."""

    exit_code = 2


class ModelFileError(LlamaKitError):
    """A model file that is missing, damaged or of a kind that is not supported."""

    exit_code = 3


class PluginError(LlamaKitError):
    """A plugin that is missing, broken, or in conflict with another."""

    exit_code = 2


class BackendError(LlamaKitError):
    """A backend that is unavailable, or that failed while running."""

    exit_code = 5


class OutOfMemoryError(LlamaKitError):
    """What was asked for does not fit into the memory there is."""

    exit_code = 4


class ContextLengthError(LlamaKitError):
    """A prompt that does not fit into the context."""

    exit_code = 6
