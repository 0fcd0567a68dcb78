"""Models whose template tells nothing: an answer that is a call as JSON, or an array of them."""

from llamakit.chat.tools.format import ToolFormat

GENERIC = ToolFormat(
    name="generic", summary="a call as JSON, or an array of them", bare=True, listed=True, separator=", "
)  # fmt: skip
