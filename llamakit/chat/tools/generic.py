"""Models whose template tells nothing: an answer that is a call as JSON, or an array of them."""

from llamakit.chat.tools.format import ToolFormat

GENERIC = ToolFormat(name="generic", bare=True, listed=True, separator=", ")
