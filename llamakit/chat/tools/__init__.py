"""Calls of tools: how families of models write them, reading them from answers, and the structure that keeps to them.

A family is a small file with a `ToolFormat`; which one a model belongs to is seen from its chat template.
"""

from llamakit.chat.tools.format import ToolFormat
from llamakit.chat.tools.generic import GENERIC
from llamakit.chat.tools.hermes import HERMES
from llamakit.chat.tools.llama3 import LLAMA3
from llamakit.chat.tools.mistral import MISTRAL, MISTRAL_ARGS
from llamakit.chat.tools.reader import CallDelta, ToolCall, ToolCallReader, joined

__all__ = ["FORMATS", "CallDelta", "ToolCall", "ToolCallReader", "ToolFormat", "find_format", "joined"]

FORMATS = (MISTRAL_ARGS, MISTRAL, HERMES, LLAMA3, GENERIC)  # the first whose signs are in a template is it


def find_format(source: str) -> ToolFormat:
    """How a model with this chat template calls tools; the generic form where nothing tells."""
    return next(format for format in FORMATS if format.fits(source))
