"""Messages for templates that know no developers, tools or calls."""

from __future__ import annotations

import pytest

from llamakit.chat.fit import fit_messages
from llamakit.chat.tools import GENERIC, HERMES, LLAMA3, MISTRAL, MISTRAL_ARGS, ToolCallReader, joined

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"x": "é"}}}
ASKED = {"role": "user", "content": "1 + 2?"}
CALLED = {"role": "assistant", "content": "So: ", "tool_calls": [CALL, CALL]}
KNOWS_ALL = (
    "{{ tools | tojson }}{% for m in messages %}{{ '# developer: ' if m.role == 'developer' }}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}{% endfor %}"
)
PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"


def test_a_template_that_knows_all_gets_all():
    messages = [{"role": "developer", "content": "x"}, ASKED, CALLED]
    made, tools = fit_messages(messages, [TOOL], KNOWS_ALL)
    assert [{name: message[name] for name in ("role", "content")} for message in made] == [
        {name: message[name] for name in ("role", "content")} for message in messages
    ]
    assert [call["function"] for call in made[2]["tool_calls"]] == [CALL["function"]] * 2
    assert len({call["id"] for call in made[2]["tool_calls"]}) == 2
    assert tools == [TOOL]
    assert fit_messages(messages, [], KNOWS_ALL)[1] is None


def test_developers_become_the_system():
    made, _ = fit_messages([{"role": "developer", "content": "x"}], [], PLAIN)
    assert made == [{"role": "system", "content": "x"}]


@pytest.mark.parametrize("head", [[], [{"role": "system", "content": "Be brief."}], [{"role": "system"}]])
def test_tools_are_told_to_the_system(head):
    made, tools = fit_messages([*head, ASKED], [TOOL], PLAIN)
    assert tools is None
    assert [message["role"] for message in made] == ["system", "user"]
    assert '{"name":"add","parameters":{"type":"object"}}' in made[0]["content"]
    assert made[0]["content"].startswith("Be brief.") == (head[:1] == [{"role": "system", "content": "Be brief."}])


def test_calls_are_written_as_the_model_would_write_them():
    made, _ = fit_messages([ASKED, CALLED], [], PLAIN + "{# <tool_call> #}")
    one = '<tool_call>\n{"name": "add", "arguments": {"x": "é"}}\n</tool_call>'
    assert made == [ASKED, {"role": "assistant", "content": f"So: \n{one}\n{one}"}]
    assert "tool_calls" in CALLED  # what was given stays as it is


@pytest.mark.parametrize("format", [GENERIC, HERMES, MISTRAL, MISTRAL_ARGS, LLAMA3])
@pytest.mark.parametrize("count", [1, 2])
def test_what_is_written_is_read_again(format, count):
    if count > 1 and not format.several:
        count = 1
    text = format.text([("add", {"x": i}) for i in range(count)])
    reader = ToolCallReader(format, frozenset({"add"}))
    (before, first), (behind, last) = reader.push(text), reader.flush()
    calls = joined([*first, *last])
    assert [(call.name, call.arguments) for call in calls] == [("add", f'{{"x": {i}}}') for i in range(count)]
    assert (before + behind).strip() == ""
