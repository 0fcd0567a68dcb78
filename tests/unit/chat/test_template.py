"""Chat templates: what real ones need, and what hostile ones may not do."""

from __future__ import annotations

import contextlib
import time

import pytest

from llamakit.chat.template import FALLBACK, ChatTemplate
from llamakit.errors import ModelFileError

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for m in messages %}<|{{ m.role }}|>{{ m['content'] }}\n{% endfor %}", "<|user|>Hi\n<|assistant|>Hello\n"),
        ("{{ bos_token ~ messages|length ~ eos_token }}", "<s>2</s>"),
        ("{% if add_generation_prompt %}go{% endif %}", "go"),
        ("{% for m in messages %}{% if loop.last %}{% continue %}{% endif %}{{ m.content }}{% endfor %}", "Hi"),
        ("{% for m in messages %}{{ m.content }}{% break %}{% endfor %}", "Hi"),
        ("{% generation %}{{ messages[1].content }}{% endgeneration %}", "Hello"),
        ("{{ {'a': 'ü<'}|tojson }}", '{"a": "ü<"}'),
        ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(1) ~ f('b') }}", "[1][b]"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{{ '-' * 3 + '%05d' % 7 }}{{ 2 ** 5 }}", "---0000732"),
        (FALLBACK, "User: Hi\nAssistant: Hello\nAssistant:"),
    ],
)
def test_templates_render(source, expected):
    assert ChatTemplate(source, bos="<s>", eos="</s>").render(TALK) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{{ 'x' * 9999999999 }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ '%9999999999d' % 1 }}",
        "{% for a in range(9999) %}{% for b in range(9999) %}xxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}",
    ],
)
def test_hostile_templates_end_soon_and_small(source):
    start = time.monotonic()
    with pytest.raises(ModelFileError, match="template"):
        ChatTemplate(source).render(TALK)
    assert time.monotonic() - start < 60  # the limit is 2 seconds of the processor, 10 by the clock


@pytest.mark.parametrize("source", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ 1 / 0 }}"])
def test_templates_reach_nothing(source):
    with contextlib.suppress(ModelFileError):
        assert ChatTemplate(source).render(TALK) in ("", "None")
        ChatTemplate(source, ours=True).render(TALK)  # in this process
    assert len(TALK) == 2


def test_a_template_says_why_it_refuses():
    with pytest.raises(ModelFileError, match="roles must alternate"):
        ChatTemplate("{{ raise_exception('roles must alternate') }}").render(TALK)
    with pytest.raises(ModelFileError, match="line 2"):
        ChatTemplate("\n{% for %}")
