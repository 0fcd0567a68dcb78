"""Qwen3-Coder: a call in XML, each parameter between `<parameter=name>` and `</parameter>`."""

from llamakit.chat.tools.format import ToolFormat

QWEN3_CODER = ToolFormat(
    name="qwen3-coder", summary="<function=name><parameter=name>", signs=(("<function=", "<parameter="),),
    begin="<tool_call>\n", end="\n</tool_call>", before_name="<function=", after_name=">\n",
    after_arguments="</function>", plain_name=True, separator="\n", arguments="keys", key_begin="<parameter=",
    key_end=">\n", value_end="\n</parameter>\n",
)  # fmt: skip
