"""Kimi K2: calls with numbers, between tokens of their own."""

from llamakit.chat.tools.format import ToolFormat

KIMI = ToolFormat(
    name="kimi", summary="<|tool_call_begin|>functions.name:0", signs=(("<|tool_call_argument_begin|>",),),
    section_begin="<|tool_calls_section_begin|>", section_end="<|tool_calls_section_end|>",
    begin="<|tool_call_begin|>", end="<|tool_call_end|>", before_name="functions.",
    after_name=":\0<|tool_call_argument_begin|>", after_arguments="", plain_name=True,
)  # fmt: skip
