"""OpenAI's gpt-oss: messages in channels (harmony); a call is one to a function.

https://cookbook.openai.com/articles/openai-harmony
"""

from llamakit.chat.tools.format import ToolFormat

GPT_OSS = ToolFormat(
    name="gpt-oss", summary="messages in channels", signs=(("<|channel|>", "<|message|>"),),
    begin="<|channel|>commentary to=functions.", end="<|call|>", before_name="",
    after_name=" <|constrain|>json<|message|>", after_arguments="", plain_name=True, several=False, channels=True,
)  # fmt: skip
