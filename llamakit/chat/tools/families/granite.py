"""IBM's Granite 3: after `<|tool_call|>` an array of calls (Granite 4 calls as Hermes does)."""

from llamakit.chat.tools.format import ToolFormat

GRANITE = ToolFormat(
    name="granite", summary="<|tool_call|> and an array", signs=(("<|tool_call|>",),), begin="<|tool_call|>",
    listed=True, separator=", ",
)  # fmt: skip
