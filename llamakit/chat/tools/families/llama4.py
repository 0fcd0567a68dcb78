"""Llama 4, and Llama 3.2 of 1B and 3B: a list of calls as in Python.

https://www.llama.com/docs/model-cards-and-prompt-formats/llama4/
"""

from llamakit.chat.tools.format import ToolFormat

LLAMA4 = ToolFormat(
    name="llama4", summary="[f(x=1), g()]", signs=(("func_name1(params_name1=",),), section_begin="<|python_start|>",
    section_end="<|python_end|>", bare=True, listed=True, before_name="", after_name="(", after_arguments=")",
    plain_name=True, separator=", ", arguments="python",
)  # fmt: skip
