"""Hermes 2 and 3, Qwen2.5 and 3, and others: each call as JSON between `<tool_call>` and `</tool_call>`."""

from llamakit.chat.tools.format import ToolFormat

HERMES = ToolFormat(
    name="hermes", summary="<tool_call>{JSON}</tool_call>", signs=(("<tool_call>",),), begin="<tool_call>\n",
    end="\n</tool_call>", separator="\n",
)  # fmt: skip
