"""Chat templates in the forms of the families, written for these tests, and what a talk becomes in each.

In `expected`, « and » are around what counts in the loss; a family whose template rewrites the past gives several
samples.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Family(NamedTuple):
    template: str
    controls: tuple[str, ...]
    expected: list[str]
    markers: tuple[str, ...] = ()
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None


TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "And you?"},
    {"role": "assistant", "content": "Fine."},
]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"x": 1, "y": 2}}}
CALLING = [
    {"role": "user", "content": "1 + 2?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": "It is 3."},
]

LLAMA2 = (
    "{% set head = '' %}{% set rest = messages %}"
    "{% if messages[0].role == 'system' %}{% set head = '<<SYS>>\n' ~ messages[0].content ~ '\n<</SYS>>\n\n' %}"
    "{% set rest = messages[1:] %}{% endif %}"
    "{% for m in rest %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ head if loop.first }}{{ m.content }} [/INST]"
    "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% if tools %}<|start_header_id|>system<|end_header_id|>\n\nToday Date: "
    "{{ strftime_now('%d %b %Y') }}\n{{ tools | tojson }}<|eot_id|>{% endif %}{% for m in messages %}"
    "<|start_header_id|>{{ 'ipython' if m.role == 'tool' else m.role }}<|end_header_id|>\n\n"
    "{% if m.tool_calls %}{% set f = m.tool_calls[0].function %}"
    '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}<|eom_id|>'
    "{% else %}{{ m.content | trim }}<|eot_id|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA3_TOKENS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>")
CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helper.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN2 = (
    "<|im_start|>system\nYou are a helper.{% if tools %}{{ '\n# Tools\n' ~ tools | tojson }}{% endif %}<|im_end|>\n"
    "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n"
    "</tool_response><|im_end|>\n{% elif m.tool_calls %}<|im_start|>assistant{% for call in m.tool_calls %}"
    "{% set f = call.function %}{{ '\n<tool_call>\n' }}"
    '{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}{{ "\n" }}'
    "</tool_call>{% endfor %}<|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Thoughts of earlier answers are dropped, and the last answer has an empty one if it has none.
QWEN3 = (
    "{% set last = namespace(user=-1) %}{% for m in messages if m.role == 'user' %}"
    "{% set last.user = messages.index(m) %}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > last.user %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n"
    "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The generation prompt opens a thought, which no answer of the past has.
DEEPSEEK_R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "<｜User｜>{{ m.content }}{% else %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}<｜end▁of▁sentence｜>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
# Tools, and the system's words, stand before the last question only.
MISTRAL3 = (
    "{% set ns = namespace(last=0) %}{% set talk = messages %}{% set head = '' %}{% if messages[0].role == 'system' %}"
    "{% set head = messages[0].content ~ '\n\n' %}{% set talk = messages[1:] %}{% endif %}"
    "{% for m in talk %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{{ bos_token }}"
    "{% for m in talk %}{% if m.role == 'user' %}{% if loop.index0 == ns.last and tools %}[AVAILABLE_TOOLS]"
    "{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}[INST]{{ head if loop.index0 == ns.last }}{{ m.content }}[/INST]"
    "{% elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]{% elif m.tool_calls %}[TOOL_CALLS]["
    '{"name": "{{ m.tool_calls[0].function.name }}", "arguments": {{ m.tool_calls[0].function.arguments | tojson }}}]'
    "{{ eos_token }}{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
MISTRAL3_TOKENS = (
    "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
)  # fmt: skip
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
PHI4 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
VICUNA = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }} {% elif m.role == 'user' %}"
    "USER: {{ m.content }} {% else %}ASSISTANT: {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
# Nothing ends an answer but a new line, so the end token is put behind each.
ALPACA = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n{% elif m.role == 'user' %}### Instruction:\n"
    "{{ m.content }}\n\n{% else %}### Response:\n{{ m.content }}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{% endif %}"
)
HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>"
    "{{ m.content }}{{ '<|return|>' if m.role == 'assistant' and loop.last else '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)

FAMILIES: dict[str, Family] = {
    "llama2": Family(LLAMA2, (), [
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]« Hello! </s>»<s>[INST] And you? [/INST]« Fine. </s>»",
    ]),
    "llama3": Family(LLAMA3, LLAMA3_TOKENS, [
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«Hello!<|eot_id|>»"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd you?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«Fine.<|eot_id|>»",
    ]),
    "llama3 calling": Family(LLAMA3, LLAMA3_TOKENS, [
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n"
        '[{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]<|eot_id|>'
        "<|start_header_id|>user<|end_header_id|>\n\n1 + 2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
        '«{"name": "add", "parameters": {"x": 1, "y": 2}}<|eom_id|>»'
        "<|start_header_id|>ipython<|end_header_id|>\n\n3<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«It is 3.<|eot_id|>»",
    ], messages=CALLING, tools=TOOLS),
    "chatml": Family(CHATML, ("<|im_start|>", "<|im_end|>"), [
        "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n«Hello!<|im_end|>»\n<|im_start|>user\nAnd you?<|im_end|>\n"
        "<|im_start|>assistant\n«Fine.<|im_end|>»\n",
    ]),
    "qwen2 calling": Family(QWEN2, ("<|im_start|>", "<|im_end|>"), [
        "<s><|im_start|>system\nYou are a helper.\n# Tools\n"
        '[{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]<|im_end|>\n'
        "<|im_start|>user\n1 + 2?<|im_end|>\n<|im_start|>assistant\n"
        '«<tool_call>\n{"name": "add", "arguments": {"x": 1, "y": 2}}\n</tool_call><|im_end|>»\n'
        "<|im_start|>user\n<tool_response>\n3\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
        "«It is 3.<|im_end|>»\n",
    ], ("<tool_call>", "</tool_call>"), CALLING, TOOLS),
    "qwen3": Family(QWEN3, ("<|im_start|>", "<|im_end|>"), [
        "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n«<think>\n\n</think>\n\nHello!<|im_end|>»\n",
        "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nAnd you?<|im_end|>\n"
        "<|im_start|>assistant\n«<think>\n\n</think>\n\nFine.<|im_end|>»\n",
    ], ("<think>", "</think>")),
    "qwen3 thinking": Family(QWEN3, ("<|im_start|>", "<|im_end|>"), [
        "<s><|im_start|>user\n1 + 2?<|im_end|>\n"
        "<|im_start|>assistant\n«<think>\nThree.\n</think>\n\nIt is 3.<|im_end|>»\n",
    ], ("<think>", "</think>"), [
        CALLING[0], {"role": "assistant", "content": "It is 3.", "reasoning_content": "Three."},
    ]),
    "deepseek-r1": Family(DEEPSEEK_R1, ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"), [
        "<s>Be brief.<｜User｜>Hi<｜Assistant｜>«Hello!<｜end▁of▁sentence｜>»<｜User｜>And you?<｜Assistant｜>"
        "«Fine.<｜end▁of▁sentence｜>»",
    ], ("<think>", "</think>")),
    "mistral": Family(MISTRAL, (), [
        "<s>[INST] Be brief.\n\nHi [/INST]« Hello!</s>»[INST] And you? [/INST]« Fine.</s>»",
    ]),
    "mistral3": Family(MISTRAL3, MISTRAL3_TOKENS, [
        "<s>[INST]Be brief.\n\nHi[/INST]«Hello!</s>»",
        "<s>[INST]Hi[/INST]Hello!</s>[INST]Be brief.\n\nAnd you?[/INST]«Fine.</s>»",
    ]),
    "mistral3 calling": Family(MISTRAL3, MISTRAL3_TOKENS, [
        '<s>[AVAILABLE_TOOLS][{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]'
        '[/AVAILABLE_TOOLS][INST]1 + 2?[/INST]«[TOOL_CALLS][{"name": "add", "arguments": {"x": 1, "y": 2}}]</s>»'
        "[TOOL_RESULTS]3[/TOOL_RESULTS]«It is 3.</s>»",
    ], messages=CALLING, tools=TOOLS),
    "gemma": Family(GEMMA, ("<start_of_turn>", "<end_of_turn>"), [
        "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n«Hello!<end_of_turn>»\n"
        "<start_of_turn>user\nAnd you?<end_of_turn>\n<start_of_turn>model\n«Fine.<end_of_turn>»\n",
    ]),
    "phi3": Family(PHI3, ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), [
        "<s><|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n«Hello!<|end|>»\n"
        "<|user|>\nAnd you?<|end|>\n<|assistant|>\n«Fine.<|end|>»\n",
    ]),
    "phi4": Family(PHI4, ("<|im_start|>", "<|im_sep|>", "<|im_end|>"), [
        "<s><|im_start|>system<|im_sep|>Be brief.<|im_end|><|im_start|>user<|im_sep|>Hi<|im_end|>"
        "<|im_start|>assistant<|im_sep|>«Hello!<|im_end|>»<|im_start|>user<|im_sep|>And you?<|im_end|>"
        "<|im_start|>assistant<|im_sep|>«Fine.<|im_end|>»",
    ]),
    "zephyr": Family(ZEPHYR, (), [
        "<s><|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\n«Hello!</s>»\n"
        "<|user|>\nAnd you?</s>\n<|assistant|>\n«Fine.</s>»\n",
    ]),
    "vicuna": Family(VICUNA, (), [
        "<s>Be brief. USER: Hi ASSISTANT:« Hello!</s>»USER: And you? ASSISTANT:« Fine.</s>»",
    ]),
    "alpaca": Family(ALPACA, (), [
        "<s>Be brief.\n\n### Instruction:\nHi\n\n### Response:\n«Hello!</s>»",
        "<s>Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello!\n\n### Instruction:\nAnd you?\n\n"
        "### Response:\n«Fine.</s>»",
    ]),
    "alpaca calling": Family(ALPACA, (), [
        "<s>These tools can be called:\n"
        '{"name":"add","parameters":{"type":"object"}}\n'
        'To call one, answer with nothing but {"name": <name>, "arguments": <object>}\n\n'
        '### Instruction:\n1 + 2?\n\n### Response:\n«{"name": "add", "arguments": {"x": 1, "y": 2}}</s>»',
    ], messages=CALLING[:2], tools=TOOLS),
    "harmony": Family(HARMONY, ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"), [
        "<s><|start|>system<|message|>Be brief.<|end|><|start|>user<|message|>Hi<|end|>"
        "<|start|>assistant«<|channel|>final<|message|>Hello!<|return|>»",
        "<s><|start|>system<|message|>Be brief.<|end|><|start|>user<|message|>Hi<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Hello!<|end|><|start|>user<|message|>And you?<|end|>"
        "<|start|>assistant«<|channel|>final<|message|>Fine.<|return|>»",
    ]),
}  # fmt: skip
