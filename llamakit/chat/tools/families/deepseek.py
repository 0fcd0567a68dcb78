"""DeepSeek V3 and R1 (arguments in a block of code), and V3.1: calls between tokens of their own."""

from llamakit.chat.tools.format import ToolFormat

DEEPSEEK_V3 = ToolFormat(
    name="deepseek-v3", summary="DeepSeek V3 and R1", signs=(("<｜tool▁call▁begin｜>", "```json"),),
    section_begin="<｜tool▁calls▁begin｜>", section_end="<｜tool▁calls▁end｜>", begin="<｜tool▁call▁begin｜>",
    end="<｜tool▁call▁end｜>", before_name="function<｜tool▁sep｜>", after_name="\n```json\n",
    after_arguments="\n```", plain_name=True, separator="\n",
)  # fmt: skip
DEEPSEEK_V31 = ToolFormat(
    name="deepseek-v3.1", summary="DeepSeek V3.1", signs=(("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>{"),),
    section_begin="<｜tool▁calls▁begin｜>", section_end="<｜tool▁calls▁end｜>", begin="<｜tool▁call▁begin｜>",
    end="<｜tool▁call▁end｜>", before_name="", after_name="<｜tool▁sep｜>", after_arguments="", plain_name=True,
)  # fmt: skip
