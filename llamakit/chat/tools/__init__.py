"""Calls of tools: how families of models write them, reading them from answers, and the structure that keeps to them.

A family is a `ToolFormat`. Ours are in `families`; plugins give more by the hook `llamakit_tool_formats`.
`llamakit.chat.profile` finds the one of a chat template.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.chat.tools.calls import CallDelta, ToolCall, joined, merge
from llamakit.chat.tools.families import FORMATS
from llamakit.chat.tools.families.hermes import HERMES
from llamakit.chat.tools.families.llama3 import LLAMA3
from llamakit.chat.tools.families.mistral import MISTRAL, MISTRAL_ARGS
from llamakit.chat.tools.format import ToolFormat
from llamakit.chat.tools.generic import GENERIC
from llamakit.chat.tools.python import PythonCallReader
from llamakit.chat.tools.reader import ToolCallReader
from llamakit.chat.tools.recipients import RecipientReader

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = [
    "FORMATS", "GENERIC", "HERMES", "LLAMA3", "MISTRAL", "MISTRAL_ARGS", "CallDelta", "ToolCall", "ToolCallReader",
    "ToolFormat", "find_format", "joined", "merge", "reader_of",
]  # fmt: skip


def reader_of(format: ToolFormat, names: Collection[str]) -> ToolCallReader | PythonCallReader | RecipientReader:
    """What reads the calls of one answer; `names` of the tools, or a mapping of them to their parameters' schemas."""
    if format.to_user:
        return RecipientReader(format, names)
    return PythonCallReader(format, names) if format.arguments == "python" else ToolCallReader(format, names)


def find_format(source: str) -> ToolFormat:
    """How a model with a chat template of this source calls tools, among the families that we know."""
    from llamakit.chat.profile import profile_of

    return profile_of(source).format
