"""What templates of many families can do, and the prompts that messages become with them.

The templates are our own, in the form of each family: the texts that they write are the family's, nothing else is.
"""

from __future__ import annotations

import json

import pytest

from llamakit.chat.fit import fitted, short_id
from llamakit.chat.profile import profile
from llamakit.chat.template import ChatTemplate
from llamakit.chat.tools import FORMATS, joined, reader_of

TOOLS = "{% if tools %}TOOLS {{ tools | tojson }}\n{% endif %}"
CHATML_END = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


ONE = "{% if m.tool_calls | length > 1 %}{{ raise_exception('one call at once') }}{% endif %}"


def chatml(call, teach=""):
    """ChatML, with a way to write a call `c`."""
    return (
        TOOLS + teach + "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
        "{% for c in m.tool_calls or [] %}" + call + "{% endfor %}<|im_end|>\n{% endfor %}" + CHATML_END
    )


def header(call, several=True):
    """Llama 3's, with a way to write a call."""
    return (
        "{{ bos_token }}" + TOOLS + "{% for m in messages %}<|start_header_id|>"
        "{{ 'ipython' if m.role == 'tool' else m.role }}<|end_header_id|>\n\n{% if m.tool_calls %}" + ("" if several else ONE)
        + "{% for c in m.tool_calls %}" + call + "{% endfor %}{% else %}{{ m.content | trim }}{% endif %}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    )  # fmt: skip


XML = (
    "<tool_call>\n<function={{ c.function.name }}>\n{% for k, v in c.function.arguments.items() %}<parameter={{ k }}>\n"
    "{{ v if v is string else v | tojson }}\n</parameter>\n{% endfor %}</function>\n</tool_call>"
)
HERMES_CALL = (
    '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>\n'
)
NINE = "{% if c.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}"
ALTERNATE = (
    "{% set ns = namespace(last='') %}{% for m in messages %}{% if m.role == ns.last and m.role == 'user' %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% set ns.last = m.role %}{% endfor %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{% endfor %}"
)
FIRST_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('only the first message is the system') }}{% endif %}{% endfor %}"
)
MISTRAL_TURNS = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]"
    "{% elif m.role == 'tool' %}[TOOL_RESULTS] {{ m.content }}[/TOOL_RESULTS]{% elif m.tool_calls %}CALLS</s>"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)


def mistral(calls, more=""):
    return (
        "<s>{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
        + more
        + MISTRAL_TURNS.replace("CALLS", calls)
    )


LISTED = (
    "[TOOL_CALLS] [{% for c in m.tool_calls %}" + NINE + '{"name": "{{ c.function.name }}", "arguments": '
    '{{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}{% if not loop.last %}, {% endif %}{% endfor %}]'
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "<｜User｜>{{ m.content }}{% elif m.role == 'tool' %}<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>{{ m.content }}"
    "<｜tool▁output▁end｜><｜tool▁outputs▁end｜>{% elif m.role == 'assistant' and m.content is none %}<｜Assistant｜>"
    "<｜tool▁calls▁begin｜>{% for c in m.tool_calls %}<｜tool▁call▁begin｜>{{ c.type }}<｜tool▁sep｜>{{ c.function.name }}"
    "\n```json\n{{ c.function.arguments }}\n```<｜tool▁call▁end｜>{% endfor %}<｜tool▁calls▁end｜><｜end▁of▁sentence｜>"
    "{% else %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)
DEEPSEEK_31 = (
    "{{ bos_token }}" + TOOLS + "{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% elif m.role == 'tool' %}<｜tool▁output▁begin｜>{{ m.content }}<｜tool▁output▁end｜>"
    "{% elif m.role == 'assistant' %}<｜Assistant｜></think>{{ m.content or '' }}{% if m.tool_calls %}<｜tool▁calls▁begin｜>"
    "{% for c in m.tool_calls %}<｜tool▁call▁begin｜>{{ c.function.name }}<｜tool▁sep｜>"
    "{{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}"
    "<｜tool▁call▁end｜>{% endfor %}<｜tool▁calls▁end｜>{% endif %}<｜end▁of▁sentence｜>{% else %}{{ m.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<｜Assistant｜></think>{% endif %}"
)
GPT_OSS = (
    "<|start|>system<|message|>Knowledge cutoff: 2024-06<|end|>{% if tools %}<|start|>developer<|message|>{{ tools | tojson }}"
    "<|end|>{% endif %}{% for m in messages %}{% if m.role == 'assistant' and m.tool_calls %}{% set c = m.tool_calls[0] %}"
    "<|start|>assistant<|channel|>commentary to=functions.{{ c.function.name }} <|constrain|>json<|message|>"
    "{{ c.function.arguments | tojson }}<|call|>{% elif m.role == 'assistant' %}<|start|>assistant<|channel|>final<|message|>"
    "{{ m.content }}<|end|>{% elif m.role == 'tool' %}<|start|>functions.{{ m.name }} to=assistant<|channel|>commentary"
    "<|message|>{{ m.content }}<|end|>{% else %}<|start|>{{ 'developer' if m.role in ('system', 'developer') else m.role }}"
    "<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
GEMMA = (
    "{{ bos_token }}" + NO_SYSTEM + ALTERNATE + "{% for m in messages %}<start_of_turn>"
    "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
SMOLVLM = (
    "<|im_start|>{% for m in messages %}{{ m.role | capitalize }}:{% for part in m.content %}{% if part.type == 'text' %}"
    " {{ part.text }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
COMMAND_R7B = (
    TOOLS + "{% for m in messages %}<|START_OF_TURN_TOKEN|>{{ m.role }}{% if m.tool_calls %}<|START_ACTION|>[\n"
    '{% for c in m.tool_calls %}    {"tool_call_id": "{{ loop.index0 }}", "tool_name": "{{ c.function.name }}", '
    '"parameters": {{ c.function.arguments | tojson }}}{% if not loop.last %},\n{% endif %}{% endfor %}\n]<|END_ACTION|>'
    "{% else %}<|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|>{% endif %}<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
)
GLM = (
    "[gMASK]<sop>"
    + TOOLS
    + "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content or '' }}{% for c in m.tool_calls or [] %}"
    "<tool_call>{{ c.function.name }}\n{% for k, v in c.function.arguments.items() %}<arg_key>{{ k }}</arg_key>\n"
    "<arg_value>{{ v if v is string else v | tojson }}</arg_value>\n{% endfor %}</tool_call>{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
KIMI = (
    TOOLS
    + "{% for m in messages %}<|im_{{ m.role }}|>{{ m.content or '' }}{% if m.tool_calls %}<|tool_calls_section_begin|>"
    "{% for c in m.tool_calls %}<|tool_call_begin|>functions.{{ c.function.name }}:{{ loop.index0 }}"
    "<|tool_call_argument_begin|>{{ c.function.arguments | tojson }}<|tool_call_end|>{% endfor %}<|tool_calls_section_end|>"
    "{% endif %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_assistant|>{% endif %}"
)
GRANITE = (
    TOOLS + "{% for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>{% if m.tool_calls %}<|tool_call|>["
    '{% for c in m.tool_calls %}{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "{% if not loop.last %}, {% endif %}{% endfor %}]{% else %}{{ m.content }}{% endif %}<|end_of_text|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)
TEXT_ONLY = "{% if c.function.arguments is not string %}{{ raise_exception('arguments must be text') }}{% endif %}"
FUNCTIONARY = header(TEXT_ONLY + "<function={{ c.function.name }}>{{ c.function.arguments }}</function>")
FUNCTIONARY_32 = (
    "{{ bos_token }}" + TOOLS + "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if m.role == 'assistant' %}{% if m.content %}>>>all\n{{ m.content }}{% endif %}{% for c in m.tool_calls or [] %}"
    "{{ '>>>' + c.function.name + '\n' + c.function.arguments }}{% endfor %}{% else %}{{ m.content }}{% endif %}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n>>>{% endif %}"
)
LLAMA3 = header('{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}', several=False)
LLAMA4 = header(
    "{{ '[' if loop.first else ', ' }}{{ c.function.name }}({% for k, v in c.function.arguments.items() %}{{ k }}="
    "{{ '\"' ~ v ~ '\"' if v is string else v | tojson }}{% if not loop.last %}, {% endif %}{% endfor %}){{ ']' if loop.last }}"
)
PHI = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
ARGS = (
    "{% for c in m.tool_calls %}[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}"
)

FAMILIES = {  # name -> template, format, what is asked of messages
    "llama-3.1": (LLAMA3, "llama3", set()),
    "llama-4": (LLAMA4, "llama4", set()),
    "qwen-2.5": (chatml(HERMES_CALL), "hermes", set()),
    "qwen-3": (chatml(HERMES_CALL, "{# <think> </think> #}"), "hermes", set()),
    "qwen-3-coder": (chatml(XML), "qwen3-coder", set()),
    "hermes-3": (chatml(HERMES_CALL), "hermes", set()),
    "mistral-v0.3": (mistral(LISTED, ALTERNATE + FIRST_SYSTEM), "mistral", {"short_ids", "one system", "alternate"}),
    "mistral-nemo": (mistral(LISTED.replace("] [", "]["), ALTERNATE), "mistral", {"short_ids", "alternate"}),
    "mistral-small-3": (mistral(ARGS), "mistral-args", set()),
    "deepseek-r1": (DEEPSEEK, "deepseek-v3", {"null_content", "text_arguments", "untold"}),
    "deepseek-v3.1": (DEEPSEEK_31, "deepseek-v3.1", set()),
    "gpt-oss": (GPT_OSS, "gpt-oss", {"developer"}),
    "gemma": (GEMMA, "generic", {"no system", "alternate", "untold", "no calls"}),
    "phi": (PHI, "generic", {"untold", "no calls"}),
    "granite": (GRANITE, "granite", set()),
    "command-r7b": (COMMAND_R7B, "command-r7b", set()),
    "functionary": (FUNCTIONARY, "functionary", {"text_arguments"}),
    "functionary-3.2": (FUNCTIONARY_32, "functionary-3.2", {"text_arguments"}),
    "glm": (GLM, "glm", set()),
    "kimi": (KIMI, "kimi", set()),
    "smolvlm": (SMOLVLM, "generic", {"parts", "untold", "no calls"}),
}
by_family = pytest.mark.parametrize("family", FAMILIES)
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


def call(name="get_weather", arguments='{"city": "Rome", "days": 2}', id="call_a1"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def made(family):
    template = ChatTemplate(FAMILIES[family][0], bos="<s>", eos="</s>")
    return template, profile(template, FORMATS)


def prompt(family, messages, tools=(), **how):
    template, known = made(family)
    found, described = fitted(messages, tools, known)
    return template.render(found, tools=described, **how)


SYSTEM = {"role": "system", "content": "Words of the system."}
USER = {"role": "user", "content": "Weather in Rome?"}
CALLED = {"role": "assistant", "content": None, "tool_calls": [call()]}
RESULT = {"role": "tool", "tool_call_id": "call_a1", "content": "12 degrees"}


@by_family
def test_the_family_is_found_by_its_calls(family):
    _, format, wants = FAMILIES[family]
    _, known = made(family)
    assert known.format.name == format
    assert known.null_content == ("null_content" in wants)
    assert known.text_arguments == ("text_arguments" in wants)
    assert known.short_ids == ("short_ids" in wants)
    assert known.system == ("no system" not in wants)
    assert known.systems == (not wants & {"no system", "one system"})
    assert known.repeats == ("alternate" not in wants)
    assert known.parts == ("parts" in wants)
    assert known.tools == ("untold" not in wants)
    assert known.calls == known.results == ("no calls" not in wants)


@by_family
def test_all_words_reach_the_model(family):
    text = prompt(family, [SYSTEM, USER])
    assert text.index("Words of the system.") < text.index("Weather in Rome?")
    assert text.count("Words of the system.") == 1


@by_family
def test_roles_that_a_template_refuses_are_merged(family):
    talk = [
        SYSTEM, {"role": "developer", "content": "Be brief."}, USER, {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "Yes."}, {"role": "system", "content": "Be kind."}, USER,
    ]  # fmt: skip
    text = prompt(family, talk)
    for each in ("Words of the system.", "Be brief.", "Hello?", "Yes.", "Be kind."):
        assert text.count(each) == 1, (each, text)
    assert text.count("Weather in Rome?") == 2


@by_family
def test_tools_calls_and_results_reach_the_model(family):
    text = prompt(family, [SYSTEM, USER, CALLED, RESULT, {"role": "user", "content": "Thanks."}], [TOOL])
    assert "get_weather" in text[: text.index("Weather in Rome?")] or "get_weather" in text
    assert text.count("get_weather") >= 2
    for each in ("Rome", "2", "12 degrees", "Thanks.", "Words of the system."):
        assert each in text
    assert '\\"' not in text
    assert "{'city" not in text


@by_family
def test_a_call_in_the_history_is_written_as_the_model_writes_it(family):
    _, known = made(family)
    calls = [call(), call("stop", "", "call_b2")][: 2 if known.format.several else 1]
    names = {"get_weather": TOOL["function"]["parameters"], "stop": {"type": "object"}}
    text = prompt(
        family, [USER, {"role": "assistant", "content": "", "tool_calls": calls}], add_generation_prompt=False
    )
    text = text[text.index("Weather in Rome?") + len("Weather in Rome?") :]
    if known.format.channels:
        assert 'to=functions.get_weather <|constrain|>json<|message|>{"city": "Rome", "days": 2}<|call|>' in text
        return
    reader = reader_of(known.format, names)
    opening = known.format.opening.strip()
    start = text.find(opening) if opening else -1
    if start < 0:
        start = min(at for sign in ('{"name"', '[{"name"', "[get_weather(") if (at := text.find(sign)) >= 0)
    deltas = reader.push(text[start:])[1] + reader.flush()[1]
    assert [(each.name, json.loads(each.arguments)) for each in joined(deltas)] == [
        ("get_weather", {"city": "Rome", "days": 2}), ("stop", {}),
    ][: len(calls)]  # fmt: skip


def test_calls_at_once_are_told_one_by_one_where_a_template_knows_no_more():
    two = {"role": "assistant", "content": "", "tool_calls": [call(), call("stop", "{}", "call_b2")]}
    text = prompt("llama-3.1", [USER, two, RESULT, {"role": "tool", "tool_call_id": "call_b2", "content": "stopped"}])
    places = [text.index(each) for each in ("get_weather", "12 degrees", '"stop"', "stopped")]
    assert places == sorted(places)


def test_mistral_gets_ids_of_nine_characters_that_belong_together():
    text = prompt("mistral-v0.3", [USER, CALLED, RESULT], [TOOL])
    assert short_id("call_a1") in text
    assert len(short_id("call_a1")) == 9
    assert short_id("abcdefghi") == "abcdefghi"


def test_ids_are_made_where_there_are_none():
    bare = [{k: v for k, v in call(id="").items() if k != "id"}, call("stop", {}, "")]
    talk = [USER, {"role": "assistant", "content": "", "tool_calls": bare}, {"role": "tool", "content": "12"},
            {"role": "tool", "content": "ok", "name": "stop"}]  # fmt: skip
    _, known = made("qwen-2.5")
    found, _ = fitted(talk, [], known)
    ids = [each["id"] for each in found[1]["tool_calls"]]
    assert len(set(ids)) == 2
    assert [message["tool_call_id"] for message in found[2:]] == ids


def test_spaces_are_those_of_the_template():
    assert made("mistral-v0.3")[1].format.begin == "[TOOL_CALLS] "
    assert made("mistral-nemo")[1].format.begin == "[TOOL_CALLS]"


def test_arguments_that_are_no_json_stay():
    text = prompt("qwen-2.5", [USER, {"role": "assistant", "content": "", "tool_calls": [call(arguments="not json")]}])
    assert "not json" in text


def test_a_format_of_another_package_comes_first():
    from llamakit.chat.tools import ToolFormat

    other = ToolFormat(name="other", begin="<tool_call>\n", end="\n</tool_call>")
    template = ChatTemplate(chatml(HERMES_CALL))
    assert profile(template, (other, *FORMATS)).format.name == "other"
    assert profile(template, FORMATS).format.name == "hermes"
