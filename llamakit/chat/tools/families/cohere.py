"""Cohere's Command R7B and A (an array between tokens), and Command R of 2024 (an array in a block of code)."""

from llamakit.chat.tools.format import ToolFormat

COMMAND_R7B = ToolFormat(
    name="command-r7b", summary="<|START_ACTION|> and an array", signs=(("<|START_ACTION|>",),),
    section_begin="<|START_ACTION|>", section_end="<|END_ACTION|>", listed=True,
    before_name='{"tool_call_id": "\0", "tool_name": ', after_name=', "parameters": ', separator=", ",
)  # fmt: skip
COMMAND_R = ToolFormat(
    name="command-r", summary="Action: and an array in a block of code", signs=(("Action:", "```json", "tool_name"),),
    section_begin="Action: ```json\n", section_end="\n```", listed=True, before_name='{"tool_name": ',
    after_name=', "parameters": ', separator=", ",
)  # fmt: skip
