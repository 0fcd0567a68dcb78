"""Families that nobody has told us of: how they call is found from what their template shows of a call.

The templates are our own, in the form of each family.
"""

from __future__ import annotations

import json

import pytest

from llamakit.chat.fit import fitted
from llamakit.chat.profile import profile
from llamakit.chat.template import ChatTemplate
from llamakit.chat.tools import FORMATS, joined, reader_of
from llamakit.chat.tools.structure import Function, Structure
from llamakit.grammar import study

JSON_CALL = '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
KEYS = "{% for k, v in c.function.arguments.items() %}@{% endfor %}"
RAW = "{{ v if v is string else v | tojson }}"
ROW = "{% for c in m.tool_calls %}@{% if not loop.last %}, {% endif %}{% endfor %}"
EACH = "{% for c in m.tool_calls %}@{% endfor %}"


def chat(calls, end="<|end|>\n", thought=""):
    """A template that shows tools, and calls of a message as `calls` has them."""
    return (
        "{% if tools %}TOOLS {{ tools | tojson }}{% endif %}{% for m in messages %}<|{{ m.role }}|>\n" + thought
        + "{{ m.content or '' }}{% if m.tool_calls %}" + calls + "{% endif %}" + end
        + "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )  # fmt: skip


def xml(begin, call, parameter, close, end, between="\n"):
    return begin + EACH.replace("@", call + KEYS.replace("@", parameter) + close + between) + end


PHI = EACH.replace("@", "<|tool_call|>" + JSON_CALL + "<|/tool_call|>")
MINIMAX = xml(
    "\n<minimax:tool_call>\n", '<invoke name="{{ c.function.name }}">\n',
    '<parameter name="{{ k }}">' + RAW + "</parameter>\n", "</invoke>", "</minimax:tool_call>",
)  # fmt: skip
DEEPSEEK = xml(
    "\n\n<｜DSML｜function_calls>\n", '<｜DSML｜invoke name="{{ c.function.name }}">\n',
    '<｜DSML｜parameter name="{{ k }}" string="{{ (v is string) | tojson }}">' + RAW + "</｜DSML｜parameter>\n",
    "</｜DSML｜invoke>", "</｜DSML｜function_calls>",
)  # fmt: skip
SEED = EACH.replace(
    "@", "<seed:tool_call>\n<function={{ c.function.name }}>\n"
    + KEYS.replace("@", "<parameter={{ k }}>" + RAW + "</parameter>\n") + "</function>\n</seed:tool_call>"
)  # fmt: skip
SEED_THOUGHT = "{% if m.reasoning_content %}<seed:think>{{ m.reasoning_content }}</seed:think>{% endif %}"
GLM = EACH.replace(
    "@", "<tool_call>{{ c.function.name }}"
    + KEYS.replace("@", "<arg_key>{{ k }}</arg_key><arg_value>" + RAW + "</arg_value>") + "</tool_call>"
)  # fmt: skip
MINICPM = xml(
    "", '<function name="{{ c.function.name }}">', '<param name="{{ k }}">' + RAW + "</param>", "</function>", ""
)  # fmt: skip
APERTUS = '{"{{ c.function.name }}": {{ c.function.arguments | tojson }}}'
LFM2 = (
    "{{ c.function.name }}({% for k, v in c.function.arguments.items() %}{{ k }}={{ v | tojson }}"
    "{% if not loop.last %}, {% endif %}{% endfor %})"
)
FAMILIES = {  # name -> template, how one call is written
    "phi-4-mini": (chat(PHI), '<|tool_call|>{"name": "f", "arguments": {"s": "a b", "n": 7}}<|/tool_call|>'),
    "minimax-m2": (
        chat(MINIMAX),
        '<minimax:tool_call>\n<invoke name="f">\n<parameter name="s">a b</parameter>\n'
        '<parameter name="n">7</parameter>\n</invoke>\n</minimax:tool_call>',
    ),
    "deepseek-v3.2": (
        chat(DEEPSEEK),
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">\n'
        '<｜DSML｜parameter name="s" string="true">a b</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="n" string="false">7</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        "</｜DSML｜function_calls>",
    ),
    "seed-oss": (
        chat(SEED, thought=SEED_THOUGHT),
        "<seed:tool_call>\n<function=f>\n<parameter=s>a b</parameter>\n<parameter=n>7</parameter>\n"
        "</function>\n</seed:tool_call>",
    ),
    "glm-4.7": (
        chat(GLM),
        "<tool_call>f<arg_key>s</arg_key><arg_value>a b</arg_value>"
        "<arg_key>n</arg_key><arg_value>7</arg_value></tool_call>",
    ),
    "minicpm": (chat(MINICPM), '<function name="f"><param name="s">a b</param><param name="n">7</param></function>'),
    "nemotron": (
        chat("<TOOLCALL>[" + ROW.replace("@", JSON_CALL) + "]</TOOLCALL>"),
        '<TOOLCALL>[{"name": "f", "arguments": {"s": "a b", "n": 7}}]</TOOLCALL>',
    ),
    "apertus": (
        chat("<|tools_prefix|>[" + ROW.replace("@", APERTUS) + "]<|tools_suffix|>"),
        '<|tools_prefix|>[{"f": {"s": "a b", "n": 7}}]<|tools_suffix|>',
    ),
    "firefunction": (
        "{{ 'Functions: ' + functions }}\n" + chat(" functools[" + ROW.replace("@", JSON_CALL) + "]"),
        'functools[{"name": "f", "arguments": {"s": "a b", "n": 7}}]',
    ),
    "lfm2": (
        chat("<|tool_call_start|>[" + ROW.replace("@", LFM2) + "]<|tool_call_end|>"),
        '<|tool_call_start|>[f(s="a b", n=7)]<|tool_call_end|>',
    ),
}
by_family = pytest.mark.parametrize("family", FAMILIES)
SCHEMA = {
    "type": "object", "properties": {"s": {"type": "string"}, "n": {"type": "integer"}}, "required": ["s"],
}  # fmt: skip
CALLS = [("f", {"s": "a b", "n": 7}), ("g", {"s": "x"})]


def known(family):
    return profile(ChatTemplate(FAMILIES[family][0], ours=True), FORMATS)


def shown(family, calls):
    """What the template writes of an answer with these calls."""
    template = ChatTemplate(FAMILIES[family][0], ours=True)
    talk = [{"role": "user", "content": "Hi."}]
    said = {"role": "assistant", "content": "", "tool_calls": [
        {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": given}}
        for i, (name, given) in enumerate(calls)
    ]}  # fmt: skip
    messages, _ = fitted([*talk, said], [], known(family))
    whole = template.render(messages, add_generation_prompt=False)
    return whole.removeprefix(template.render(messages[:1])).removesuffix("<|end|>\n")


def read(format, pieces):
    reader = reader_of(format, {"f": SCHEMA, "g": SCHEMA})
    told = [reader.push(piece) for piece in pieces] + [reader.flush()]
    calls = joined(delta for _, deltas in told for delta in deltas)
    return "".join(text for text, _ in told), [(call.name, json.loads(call.arguments)) for call in calls]


@by_family
def test_calls_are_read_wherever_they_are_cut(family):
    format = known(family).format
    assert format.text(CALLS[:1]).strip().replace("'", '"') == FAMILIES[family][1].strip()
    for calls in (CALLS[:1], CALLS):
        text = shown(family, calls)
        for size in (1, 2, 3, 7, len(text)):
            pieces = [text[i : i + size] for i in range(0, len(text), size)]
            assert read(format, pieces) == ("", calls)
            assert read(format, ["Well. ", "Now:", *pieces])[1] == calls


@by_family
def test_the_grammar_lets_a_model_call_as_its_template_shows(family):
    format = known(family).format
    functions = [Function("f", SCHEMA), Function("g", SCHEMA)]
    for required in (False, True):
        answer = Structure(lambda text: False).answer(format, functions, required=required, several=True, content=None)
        grammar = study("structural_tag", {"format": answer})
        for calls in (CALLS[:1], CALLS):
            text = shown(family, calls)
            assert grammar.check(text).accepted, text
        assert not grammar.check(shown(family, [("h", {"s": "x"})])).accepted
        assert grammar.check("Some words.").accepted != required


@by_family
def test_text_that_is_no_call_is_text(family):
    format = known(family).format
    for text in ("Nothing to call.", shown(family, [("h", {"s": "x"})]), "A < b, and [1] of {2}."):
        assert read(format, list(text)) == (text, [])


@by_family
def test_calls_that_are_cut_leave_no_markup(family):
    format = known(family).format
    text = "Well." + shown(family, CALLS)
    for n in range(text.index(format.opening.strip()) + 2, len(text)):
        reader = reader_of(format, {"f": SCHEMA, "g": SCHEMA})
        content, deltas = reader.push(text[:n])
        more, last = reader.flush(cut=True)
        assert content + more == "Well.", text[:n]
        calls = joined([*deltas, *last])
        assert reader.cut or [(call.name, json.loads(call.arguments)) for call in calls] == CALLS[: len(calls)]
        assert all(call.cut or json.loads(call.arguments) for call in calls)


def test_thoughts_of_any_name_are_told():
    assert known("seed-oss").markers.begin == "<seed:think>"
    thought = "{% if m.reasoning %}<mull:open>{{ m.reasoning }}</mull:open>{% endif %}"
    found = profile(ChatTemplate(chat("", thought=thought), ours=True), FORMATS)
    assert (found.markers.begin, found.markers.end, found.thought) == ("<mull:open>", "</mull:open>", "reasoning")
    talk = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}]
    messages, _ = fitted(talk, [], found)
    assert messages[1] == {"role": "assistant", "content": "Yes.", "reasoning": "Hm."}


def test_templates_that_want_descriptions_get_them():
    wants = (
        "{% for t in tools or [] %}{{ t.function.name + t.function.description }}"
        "{% for k, v in t.function.parameters.properties.items() %}{{ k + v.description }}{% endfor %}{% endfor %}"
    )
    template = ChatTemplate(wants + chat(""), ours=True)
    tool = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
    messages, tools = fitted([{"role": "user", "content": "Hi."}], [tool], profile(template, FORMATS))
    assert "fsn" in template.render(messages, tools=tools)


def test_a_template_for_tools_alone_is_asked_with_tools():
    source = "{{ tools[0].function.name }}" + chat("<tool_call>\n" + JSON_CALL + "\n</tool_call>")
    found = profile(ChatTemplate(source, ours=True), FORMATS)
    assert (found.format.name, found.system, found.systems) == ("hermes", True, True)


def test_lists_of_a_template_can_grow():
    source = "{% set l = [] %}{% for m in messages %}{% set _ = l.append(m.content) %}{% endfor %}{{ l | join('-') }}"
    talk = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    assert ChatTemplate(source).render(talk) == "a-b"


def test_ids_have_names_where_templates_show_nothing_else():
    source = chat(
        "<|tool_calls_section_begin|>" + EACH.replace("@", "<|tool_call_begin|>{{ c.id }}<|tool_call_argument_begin|>"
        "{{ c.function.arguments | tojson }}<|tool_call_end|>") + "<|tool_calls_section_end|>"
    )  # fmt: skip
    source = source.replace("{{ m.content", "{{ m.tool_call_id }}{{ m.content")
    template = ChatTemplate(source, ours=True)
    found = profile(template, FORMATS)
    assert (found.format.name, found.named_ids, found.calls) == ("kimi", True, True)
    called = [
        {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": {}}}
        for n, name in enumerate("fg")
    ]
    talk = [
        {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "", "tool_calls": called},
        {"role": "tool", "tool_call_id": "call_1", "content": "ok"}, {"role": "user", "content": "Again."},
        {"role": "assistant", "content": "", "tool_calls": [{**called[0], "id": "call_9"}]},
    ]  # fmt: skip
    text = template.render(fitted(talk, [], found)[0])
    assert [text.count(each) for each in ("functions.f:0", "functions.g:1", "functions.f:2", "tool_call_id")] == [
        1,
        2,
        1,
        0,
    ]


def test_functions_are_a_list_and_a_text():
    tools = [{"type": "function", "function": {"name": "f"}}]
    source = "{{ 'a' + functions }}|{{ functions ~ 'b' }}|{% for f in functions %}{{ f.name }}{% endfor %}"
    assert ChatTemplate(source).render([], tools=None) == "a|b|"
    text, _, names = ChatTemplate(source).render([], tools=tools).split("|")
    assert (json.loads(text[1:]), names) == ([{"name": "f"}], "f")
