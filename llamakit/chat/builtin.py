"""Chat templates by name, for files whose own is missing or broken. Written for the published forms of each family."""

BUILTIN = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama2": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}[INST] <<SYS>>\n{{ m.content }}\n<</SYS>>\n\n"
        "{% elif m.role == 'user' %}{% if loop.index0 == 0 or messages[loop.index0 - 1].role != 'system' %}[INST] "
        "{% endif %}{{ m.content }} [/INST]{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
        "{% elif m.role == 'system' %}[INST] {{ m.content }}\n\n{% else %}"
        "{% if loop.index0 == 0 or messages[loop.index0 - 1].role != 'system' %}[INST] {% endif %}"
        "{{ m.content }} [/INST]{% endif %}{% endfor %}"
    ),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}"
        "{{ raise_exception('there is no system role') }}{% endif %}"
        "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "phi3": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "zephyr": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "deepseek": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
        "{% elif m.role == 'user' %}<｜User｜>{{ m.content }}"
        "{% else %}<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
    ),
    "vicuna": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n{% elif m.role == 'user' %}"
        "USER: {{ m.content }}\n{% else %}ASSISTANT: {{ m.content }}{{ eos_token }}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    ),
    "llama4": (
        "{{ bos_token }}{% for m in messages %}<|header_start|>{{ m.role }}<|header_end|>\n\n"
        "{{ m.content | trim }}<|eot|>{% endfor %}"
        "{% if add_generation_prompt %}<|header_start|>assistant<|header_end|>\n\n{% endif %}"
    ),
    "phi4": (
        "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
    ),
    "granite": (
        "{% for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
    ),
    "command-r": (
        "{{ bos_token }}{% set names = {'system': 'SYSTEM', 'assistant': 'CHATBOT'} %}{% for m in messages %}"
        "<|START_OF_TURN_TOKEN|><|{{ names.get(m.role, 'USER') }}_TOKEN|>{{ m.content | trim }}<|END_OF_TURN_TOKEN|>"
        "{% endfor %}{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
    ),
    "gpt-oss": (
        "{% for m in messages %}<|start|>{{ 'developer' if m.role == 'system' else m.role }}"
        "{{ '<|channel|>final' if m.role == 'assistant' }}<|message|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
    ),
    "deepseek2": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n"
        "{% elif m.role == 'user' %}User: {{ m.content }}\n\n"
        "{% else %}Assistant: {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    ),
    "kimi-k2": (
        "{% for m in messages %}<|im_{{ m.role }}|>{{ m.role }}<|im_middle|>{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_assistant|>assistant<|im_middle|>{% endif %}"
    ),
    "seed_oss": (
        "{% for m in messages %}<seed:bos>{{ m.role }}\n{{ m.content | trim }}<seed:eos>{% endfor %}"
        "{% if add_generation_prompt %}<seed:bos>assistant\n{% endif %}"
    ),
    "chatglm4": (
        "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "falcon3": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token if m.role == 'assistant' }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "exaone3": (
        "{% for m in messages %}[|{{ m.role }}|]{{ m.content | trim }}{{ '[|endofturn|]' if m.role != 'user' }}\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}[|assistant|]{% endif %}"
    ),
    "openchat": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}<|end_of_turn|>{% else %}"
        "GPT4 Correct {{ m.role | capitalize }}: {{ m.content }}<|end_of_turn|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}GPT4 Correct Assistant:{% endif %}"
    ),
    "smolvlm": (
        "<|im_start|>{% for m in messages %}{{ m.role | capitalize }}: {{ m.content }}<end_of_utterance>\n{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    ),
    "rwkv-world": (
        "{% for m in messages %}{{ m.role | capitalize }}: {{ m.content }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    ),
}
MISTRAL = (  # as of its third version: how instructions, and what the system says, are framed
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}SYSTEM"
    "{% elif m.role == 'assistant' %}@{{ m.content }}{{ eos_token }}"
    "{% else %}[INST]@{{ m.content }}[/INST]{% endif %}{% endfor %}"
)
FRAMED = "[SYSTEM_PROMPT]@{{ m.content }}[/SYSTEM_PROMPT]"
NONE = "{{ raise_exception('there is no system role') }}"
BUILTIN |= {
    "mistral-v3": MISTRAL.replace("SYSTEM", NONE, 1).replace("@", " "),
    "mistral-v3-tekken": MISTRAL.replace("SYSTEM", NONE, 1).replace("@", ""),
    "mistral-v7": MISTRAL.replace("SYSTEM", FRAMED, 1).replace("@", " "),
    "mistral-v7-tekken": MISTRAL.replace("SYSTEM", FRAMED, 1).replace("@", ""),
    # names that llama.cpp has for forms that are here already
    **dict.fromkeys(("llama2-sys", "llama2-sys-bos", "llama2-sys-strip"), BUILTIN["llama2"]),
    "mistral-v1": BUILTIN["mistral"], "deepseek3": BUILTIN["deepseek"], "vicuna-orca": BUILTIN["vicuna"],
}  # fmt: skip
