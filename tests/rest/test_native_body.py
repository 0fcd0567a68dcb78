"""Bodies: what is read from them, and what each error says. No server, no model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Any

import msgspec
import pytest
from llamakit.plugins.frontends.rest import body as bodies
from llamakit.plugins.frontends.rest.apis.llamacpp.fields import CompletionBody, spellings_of_2023
from llamakit.plugins.frontends.rest.fields import stop_texts
from msgspec import Meta

from llamakit.errors import UsageError
from llamakit.registry import Registry


class Inner(msgspec.Struct):
    x: int = 0


class Example(msgspec.Struct, frozen=True, kw_only=True, rename={"dotted": "a.b"}):
    count: Annotated[int, Meta(ge=-1, le=100)] = 0
    maybe: Annotated[int, Meta(ge=0, le=9)] | None = None
    flag: bool = False
    dotted: Annotated[int, Meta(ge=0, le=5)] = 0
    inner: Annotated[list[Inner], Meta(max_length=2)] = []
    needed: str


@pytest.fixture(scope="module")
def state() -> Any:
    return SimpleNamespace(registry=Registry.discover(), options=SimpleNamespace(body_limit=1000))


def check(state: Any, values: dict[str, Any] | bytes) -> bodies.Body[Example]:
    decoded = bodies.decode_object(values) if isinstance(values, bytes) else values
    return bodies.check(decoded, Example, bodies.sampler_options(state))


def test_fields_options_and_the_rest_are_told_apart(state):
    body = check(state, {"needed": "a", "maybe": 3, "top_k": 7, "other": 1, "flag": None, "a.b": 2})
    assert (body.fields.needed, body.fields.maybe, body.fields.dotted) == ("a", 3, 2)
    assert body.sampling == {"top_k": 7}
    assert body.ignored == ("other",)
    assert body.given == {"needed", "maybe", "a.b", "top_k"}


def test_whole_numbers_may_be_written_with_a_point(state):
    assert check(state, {"needed": "", "count": 5.0, "top_k": 3.0}).fields.count == 5
    with pytest.raises(UsageError, match="count is 5.5"):
        check(state, {"needed": "", "count": 5.5})


@pytest.mark.parametrize(
    ("values", "param", "said"),
    [
        ({}, "needed", "needed is missing"),
        ({"needed": "", "count": "x"}, "count", "a whole number -1..100"),
        ({"needed": "", "count": 101}, "count", "count is 101"),
        ({"needed": "", "count": True}, "count", "count is true"),
        ({"needed": "", "count": 10**30}, "count", "more than 64 bits"),
        ({"needed": "", "maybe": 10}, "maybe", "a whole number 0..9"),
        ({"needed": "", "flag": 1}, "flag", "expected bool"),
        ({"needed": "", "a.b": 6}, "a.b", "a whole number 0..5"),
        ({"needed": "", "inner": [{"x": "y"}]}, "inner", "inner[0].x does not fit: expected int"),
        ({"needed": "", "inner": [{}, {}, {}]}, "inner", "length <= 2"),
        ({"needed": "", "top_k": -1}, "top_k", "0..1048576"),
        ({"needed": "", "temperature": "hot"}, "temperature", "a number 0..100"),
        ({"needed": "", "mirostat": 7}, "mirostat", "0, 1, 2"),
        ({"needed": "", "temprature": 1, "strict": True}, "temprature", "temperature is nearest"),
        ({"needed": "", "strict": 1}, "strict", "true or false"),
    ],
)
def test_errors_name_field_and_what_is_possible(state, values, param, said):
    with pytest.raises(UsageError) as caught:
        check(state, values)
    assert caught.value.param == param
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"[]", "not a JSON object"),
        (b"nul", "not JSON"),
        (b'{"needed": "a"', "not JSON"),
        (b'{"needed": "a"} x', "not JSON"),
        (b'{"count": NaN}', "not JSON"),
        (b'{"count": Infinity}', "not JSON"),
        (b'{"count": 1e999}', "out of range"),
        (b'{"count": -1e999}', "out of range"),
        (b'{"count": ' + b"9" * 5000 + b"}", "out of range"),
        (b'{"needed": "\xff"}', "UTF-8"),
        (b'{"needed": "\xed\xa0\x80"}', "UTF-8"),
        (b'{"needed": "\\udc00"}', "not JSON"),
        ('{"needed": "a"}'.encode("utf-16"), "UTF-8"),
        (b'{"x": ' + b"[" * 70 + b"]" * 70 + b"}", "64 levels"),
        (b'{"x": ' + b'{"y":' * 70 + b"0" + b"}" * 70 + b"}", "64 levels"),
        (b"[" * 100_000, "64 levels"),
        (b'{"x":' * 100_000, "64 levels"),
    ],
)
def test_what_is_no_body_is_told_so(state, data, said):
    with pytest.raises(UsageError) as caught:
        check(state, data)
    assert said in str(caught.value)


def test_nesting_within_the_limit_is_read(state):
    data = b'{"needed": "", "x": ' + b"[" * 63 + b"]" * 63 + b", " + b'"y": [' + b"[]," * 200 + b"[]]}"
    assert check(state, data).ignored == ("x", "y")


def test_the_header_of_ignored_names_is_plain_and_short():
    headers: dict[str, str] = {}
    resp: Any = SimpleNamespace(set_header=headers.__setitem__)
    bodies.tell_ignored(resp, ["a", "b\r\nX: y", "ü" * 99] + ["n" * 64] * 50)
    value = headers["X-Ignored-Fields"]
    assert value.startswith("a, b??X:?y, ??")
    assert value.isascii()
    assert len(value) <= 1000
    assert value.endswith(f"{'n' * 64}, ...")  # no part of a name
    headers.clear()
    bodies.tell_ignored(resp, [])
    assert not headers


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"top_k": -1}, {"top_k": 0}),
        ({"temperature": -0.5}, {"temperature": 0}),
        ({"repeat_last_n": -7}, {"repeat_last_n": -1}),
        ({"grammar": "", "json_schema": None}, {}),
        ({"top_k": True}, {"top_k": True}),
    ],
)
def test_spellings_of_2023(state, given, meant):
    spellings_of_2023(state)(given)
    assert given == meant


@pytest.mark.parametrize("name", ["grammar", "json_schema"])
def test_a_grammar_without_its_sampler_is_an_error(state, name, monkeypatch):
    others = {key: cls for key, cls in state.registry.samplers().items() if key != "grammar"}
    monkeypatch.setattr(state.registry, "samplers", lambda: others)
    bodies._sampler_options.cache_clear()
    with pytest.raises(UsageError) as caught:
        spellings_of_2023(state)({name: "root ::= x"})
    assert caught.value.param == name
    bodies._sampler_options.cache_clear()


def test_stop_strings():
    assert stop_texts("end") == ("end",)
    assert stop_texts("") == ()
    assert stop_texts(["a", None, "", "b"]) == ("a", "b")
    with pytest.raises(UsageError, match="stop"):
        stop_texts(["x"] * 129)


def test_every_field_has_a_description_and_a_default():
    from llamakit.options import fields_of

    for field in fields_of(CompletionBody):
        assert field.default is not msgspec.NODEFAULT, field.name
        assert field.description, field.name
