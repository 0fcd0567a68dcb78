"""Calls of tools: how families of models write them, reading them from answers, and the structure that keeps to them.

A family is a small file with a `ToolFormat`; which one a model belongs to is seen from its chat template.
"""

from llamakit.tokenizer.tool_calls.format import ToolFormat
from llamakit.tokenizer.tool_calls.generic import GENERIC
from llamakit.tokenizer.tool_calls.hermes import HERMES
from llamakit.tokenizer.tool_calls.llama3 import LLAMA3
from llamakit.tokenizer.tool_calls.mistral import MISTRAL, MISTRAL_ARGS
from llamakit.tokenizer.tool_calls.reader import CallDelta, ToolCall, ToolCallReader, joined

__all__ = ["FORMATS", "CallDelta", "ToolCall", "ToolCallReader", "ToolFormat", "find_format", "joined"]

FORMATS = (MISTRAL_ARGS, MISTRAL, HERMES, LLAMA3, GENERIC)  # the first whose signs are in a template is it


def find_format(source: str) -> ToolFormat:
    """How a model with this chat template calls tools; the generic form where nothing tells."""
    return next(format for format in FORMATS if format.fits(source))
