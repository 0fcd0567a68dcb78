"""Liquid's LFM2: a list of calls as in Python, between tokens of its own, which few of its templates show."""

from llamakit.chat.tools.format import ToolFormat

LFM2 = ToolFormat(
    name="lfm2", summary="<|tool_call_start|>[f(x=1), g()]<|tool_call_end|>",
    signs=(("<|tool_call_start|>",), ("<|tool_list_start|>",), ("List of tools: [",)),
    section_begin="<|tool_call_start|>", section_end="<|tool_call_end|>", listed=True, before_name="", after_name="(",
    after_arguments=")", plain_name=True, separator=", ", arguments="python",
)  # fmt: skip
