"""GLM 4.5 and later: the name, then pairs of `<arg_key>` and `<arg_value>`."""

from llamakit.chat.tools.format import ToolFormat

GLM = ToolFormat(
    name="glm", summary="<tool_call>name<arg_key><arg_value>", signs=(("<arg_key>", "<arg_value>"),),
    begin="<tool_call>", end="</tool_call>", before_name="", after_name="\n", after_arguments="", plain_name=True,
    separator="\n", arguments="keys", key_begin="<arg_key>", key_end="</arg_key>\n<arg_value>",
    value_end="</arg_value>\n",
)  # fmt: skip
