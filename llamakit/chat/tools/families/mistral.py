"""Mistral's: after the control token `[TOOL_CALLS]` an array of calls, or since 2025 `name[ARGS]{...}` after each.

https://docs.mistral.ai/cookbooks/concept-deep-dive-tokenization-tool_calling
"""

from llamakit.chat.tools.format import ToolFormat

MISTRAL = ToolFormat(
    name="mistral", summary="[TOOL_CALLS] and an array", signs=(("[TOOL_CALLS]",),), begin="[TOOL_CALLS]", listed=True,
    separator=", ", short_ids=True,
)  # fmt: skip
MISTRAL_ARGS = ToolFormat(
    name="mistral-args", summary="[TOOL_CALLS]name[ARGS]{JSON}", signs=(("[TOOL_CALLS]", "[ARGS]"),),
    begin="[TOOL_CALLS]", before_name="", id_mark="[CALL_ID]", after_name="[ARGS]", after_arguments="",
    plain_name=True, short_ids=True,
)  # fmt: skip
