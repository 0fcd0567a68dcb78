"""Llama 3.1 to 3.3: the answer is one call with `parameters`, at times behind the control token `<|python_tag|>`.

https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1/#json-based-tool-calling
"""

from llamakit.chat.tools.format import ToolFormat

LLAMA3 = ToolFormat(
    name="llama3", summary="one call with parameters", signs=(("<|python_tag|>",), ('"parameters": ',)),
    begin="<|python_tag|>", bare=True, after_name=', "parameters": ', separator="; ", several=False,
)  # fmt: skip
