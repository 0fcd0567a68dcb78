"""Reading the JSON body of a request: bounds first, then names, types and ranges, with errors that name the field."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
from llamakit.plugins.frontends.rest.errors import TooLargeError
from llamakit.plugins.frontends.rest.nested import unknown_names

from llamakit import bounded_json
from llamakit.bounded_json import json_of, kind_of, too_deep
from llamakit.errors import LONGEST_NAME, UsageError
from llamakit.options import OptionField, fields_of, near
from llamakit.serialized import serialized
from llamakit.typed import convert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    import falcon
    from llamakit.plugins.frontends.rest.state import ServerState

    from llamakit.options import Options
    from llamakit.registry import Registry

T = TypeVar("T", bound=msgspec.Struct)
MOST_IGNORED = 500  # names of fields that headers and answers tell of
LONGEST_HEADER = 1000  # characters of X-Ignored-Fields
PLACE = re.compile(r" - at `\$\.?([^`]*)`")
MISSING = re.compile(r"missing required field `([^`]+)`$")
INT64 = 1 << 63
DEFAULT_LIMITS = ("n_predict", "max_tokens", "max_output_tokens", "num_predict")  # that the server's own limit fills
LIMITS = ("n_predict", "max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict")


class Body(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """What a body says.

    `fields`: an instance of the asked class; `sampling`: sampler options by flat name, checked against their classes;
    `ignored`: names that mean nothing here; `given`: the names that were there with a value other than null; `filled`:
    those that the server's settings gave a value.
    """

    fields: T
    sampling: dict[str, object] = {}
    ignored: tuple[str, ...] = ()
    given: frozenset[str] = frozenset()
    filled: frozenset[str] = frozenset()


class SamplerOption(msgspec.Struct, frozen=True):
    """Where a sampler option belongs: the key for the engine, its class, its field."""

    key: str
    cls: Any
    field: OptionField


def read(
    req: falcon.Request,
    cls: type[T],
    state: ServerState,
    *,
    rewrite: Callable[[dict[str, Any]], Sequence[str] | None] | None = None,
    sampling: bool = True,
    may_be_empty: bool = False,
) -> Body[T]:
    """The body of a request as `cls` and sampler options; UsageError or TooLargeError if it is not right.

    `null` counts as absent. `rewrite` may change the decoded object before anything in it is checked, for spellings of
    one API, and gives the names of what it leaves out.
    With `sampling` off, sampler options are ignored like any unknown name; no body at all is `{}` where it
    `may_be_empty`. `"strict": true` in the body makes unknown names an error.
    """
    data = _read_all(req, state)
    with serialized(len(data)):
        values = {} if may_be_empty and not data.strip() else decode_object(data)
        skipped = rewrite(values) if rewrite is not None else None
        filled = fill(values, cls, state)
        body = check(values, cls, sampler_options(state) if sampling else {})
        del values  # what nobody needs is let go of in this turn too
    return msgspec.structs.replace(
        body, ignored=(*body.ignored, *(skipped or ())), given=body.given - filled, filled=filled
    )


def in_turn(req: falcon.Request) -> AbstractContextManager[None]:
    """A block that works on what a body asks for, one at a time: see `serialized`."""
    return serialized(req.content_length or 0)


def fill(values: dict[str, Any], cls: type[Any], state: ServerState) -> frozenset[str]:
    """Put the server's defaults into fields that a request leaves out and need not have; returns their names.

    The server's most tokens of an answer are also the most that a request gets.
    """
    known, filled = _field_table(cls), set()
    limits = [name for name in known if name in LIMITS]
    for name, value in state.defaults.items():
        given = any(values.get(each) is not None for each in limits) if name in LIMITS else values.get(name) is not None
        if name in known and not given and known[name].default is not msgspec.NODEFAULT:
            values[name] = value
            filled.add(name)
    most = state.defaults.get(DEFAULT_LIMITS[0])
    for name in limits if isinstance(most, int) else ():
        value = values.get(name)
        if type(value) is int and (value > most or value < 0):
            values[name] = most
    return frozenset(filled)


def check(values: dict[str, Any], cls: type[T], options: Mapping[str, SamplerOption]) -> Body[T]:
    """The same for an object that is decoded already."""
    known = _field_table(cls)
    strict = _is_strict(values.pop("strict", None))
    own: dict[str, Any] = {}
    sampling: dict[str, object] = {}
    ignored: list[str] = []
    for name, value in values.items():
        if value is None:
            continue
        if name in known:
            own[name] = _whole(value, known[name])
        elif name in options:
            option = options[name]
            sampling[option.key] = _checked(name, _whole(value, option.field), option)
        elif len(ignored) < MOST_IGNORED:
            ignored.append(name)
    within = unknown_names(own, cls, MOST_IGNORED - len(ignored))
    ignored += within
    if ignored and strict:
        name = ignored[0]
        there = within[name].within if name in within else [*known, *options]
        last = name.rpartition(".")[2] if name in within else name
        raise UsageError(f"unknown field {_short(name)}", found=near(last, there), param=name[:LONGEST_NAME])
    try:
        fields = convert(own, cls)
    except msgspec.ValidationError as error:
        raise _wrong_value(str(error), own, known) from None
    except RecursionError:
        raise too_deep() from None
    return Body(fields=fields, sampling=sampling, ignored=tuple(ignored), given=frozenset(own) | frozenset(sampling))


def tell_ignored(resp: falcon.Response, names: Iterable[str]) -> None:
    """Name the fields that were ignored in the header `X-Ignored-Fields`, ASCII and of bounded length."""
    text = ", ".join(re.sub(r"[^!-+\--~]", "?", name[:64]) for name in few(names))
    if len(text) > LONGEST_HEADER:  # no name is told in part: it may be another's
        text = text[: text.rindex(", ", 0, LONGEST_HEADER - 3)] + ", ..."
    if text:
        resp.set_header("X-Ignored-Fields", text)


def few(names: Iterable[str]) -> list[str]:
    """So many of the names that were ignored as are told, and of each its beginning: a body may have 180,000."""
    return [name[:LONGEST_NAME] for name in islice(names, MOST_IGNORED)]


def read_array(req: falcon.Request, cls: type[T], state: ServerState, *, most: int = 1000) -> list[T]:
    """The body of a request that is an array of at most `most` objects; errors as for `read`."""
    data = _read_all(req, state)
    with serialized(len(data)):
        value = decode(data)
    if not isinstance(value, list):
        raise UsageError("the body is not a JSON array", found=f"it is {kind_of(value)}")
    if len(value) > most:
        raise UsageError(f"the body is an array of {len(value):,}", hint=f"possible: at most {most:,}")
    for place, item in enumerate(value):
        if not isinstance(item, dict):
            raise UsageError(f"[{place}] is not a JSON object", found=f"it is {kind_of(item)}")
    return [check(item, cls, {}).fields for item in value]


def decode_object(data: bytes) -> dict[str, Any]:
    """A JSON object, with bounded nesting and nothing but finite numbers."""
    value = decode(data)
    if not isinstance(value, dict):
        raise UsageError("the body is not a JSON object", found=f"it is {kind_of(value)}")
    return value


def decode(data: bytes) -> Any:
    """A JSON value, with bounded nesting and nothing but finite numbers."""
    if not data.strip():
        raise UsageError("the body is empty", hint="a JSON object, such as {}")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in data[:4]:
        raise UsageError("the body is not JSON in UTF-8", hint="UTF-8")
    try:
        return bounded_json.decode(data)[0]
    except UnicodeDecodeError as error:
        raise UsageError("the body is not valid UTF-8", found=f"byte 0x{error.object[error.start]:02x}") from None
    except msgspec.DecodeError as error:
        raise UsageError("the body is not JSON", found=_lower(PLACE.sub("", str(error)))) from None


def sampler_options(state: ServerState) -> dict[str, SamplerOption]:
    """Every sampler option by the name it has in a body: `top_k`; `<sampler>.<option>` where it is not our own."""
    return _sampler_options(state.registry)


@lru_cache(maxsize=8)
def _sampler_options(registry: Registry) -> dict[str, SamplerOption]:
    found: dict[str, SamplerOption] = {}
    for name, sampler in registry.samplers().items():
        own = f"sampler.{name}" not in registry.third_party
        for field in fields_of(sampler.Options):
            key = field.name if own else f"{name}.{field.name}"
            found[key] = SamplerOption(key, sampler.Options, field)
    return found


def checked_sampling(registry: Registry, values: Mapping[str, object]) -> dict[str, object]:
    """Sampler options of the settings, checked: by them every request begins."""
    options = _sampler_options(registry)
    return {name: _checked(f"sampling.{name}", value, options[name]) for name, value in values.items()}


def wrong(name: str, value: object, possible: str) -> UsageError:
    """The error for a field whose value cannot be."""
    return UsageError(f"{name} is {_short(value)}", hint=f"possible: {possible}", param=name)


# -- how ---------------------------------------------------------------------------------------------------------------


def _read_all(req: falcon.Request, state: ServerState) -> bytes:
    """The bytes of the body; the server's limit counts also where no middleware looked at the length."""
    limit: int = getattr(state.options, "body_limit", 32 << 20)
    if (req.content_length or 0) > limit:
        raise TooLargeError(f"the body has {req.content_length:,} bytes; {limit:,} are possible")
    data: bytes = req.bounded_stream.read()
    return data


@lru_cache(maxsize=256)
def _field_table(cls: type[Any]) -> dict[str, OptionField]:
    """The fields of a Struct by their names in JSON."""
    names = {field.name: field.encode_name for field in msgspec.structs.fields(cls)}
    return {names[field.name]: field for field in fields_of(cls)}


def _checked(name: str, value: object, option: SamplerOption) -> object:
    """A sampler option's value, in range."""
    field = option.field
    try:
        made: Options = convert({field.name: value}, option.cls)
    except msgspec.ValidationError as error:
        raise _wrong_value(str(error), {field.name: value}, {field.name: field}, name) from None
    return getattr(made, field.name)


def _wrong_value(text: str, values: Mapping[str, Any], known: Mapping[str, OptionField], shown: str = "") -> UsageError:
    """msgspec's error as ours: the field, its value, what is possible."""
    missing = MISSING.search(text)
    if missing:
        return UsageError(f"{missing[1]} is missing", param=missing[1])
    place = PLACE.search(text)
    what = _lower(PLACE.sub("", text)).replace("`", "")
    path = place[1] if place else ""
    name = max((name for name in values if _leads_to(path, name)), key=len, default="")
    if not name:
        return UsageError(f"the body does not fit: {what}")
    inner = path[len(name) :]
    field, param = known[name], shown or name
    if inner or not field.interval:
        return UsageError(
            f"{param}{inner} does not fit: {what}", found=f"{param} is {_short(values[name])}", param=param
        )
    word = {"int": "a whole number ", "float": "a number "}.get(field.kind, "")
    return wrong(param, values[name], f"{word}{field.interval}")


def _leads_to(path: str, name: str) -> bool:
    """Whether a path in the body begins with this field; names may have dots in them."""
    return path.startswith(name) and path[len(name) : len(name) + 1] in ("", ".", "[")


def _whole(value: Any, field: OptionField) -> Any:
    """A number without a fraction where a whole one is wanted: some JSON writers put `1.0` for 1."""
    return int(value) if type(value) is float and field.kind == "int" and value.is_integer() else value


def _is_strict(value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise wrong("strict", value, "true or false")


def _short(value: object) -> str:
    """A value for a message, at most a line long."""
    if isinstance(value, (list, dict)) and len(value) > 8:
        return f"{'an array' if isinstance(value, list) else 'an object'} of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and not -INT64 <= value < 2 * INT64:
        return "a number of more than 64 bits"
    text = json_of(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _lower(text: str) -> str:
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
