"""Flags made from `TrainOptions`, for the commands that read data or train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec
from llamakit.plugins.frontends.cli.params import FieldType, OutputPath
from msgspec.structs import replace

from llamakit.errors import UsageError
from llamakit.options import OptionField, Options, build_options, fields_of
from llamakit.train.options import TrainOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping

T = TypeVar("T", bound=Options)
AS_BEGUN = "as the run began"
PREFIX = "train_"  # of the names that commands get the values by: `ctx` is a name of click's own
DATA = ("kind", "template", "train_on", "packing", "ctx", "truncate", "val_split", "seed")
SHORT = {"ctx": ("-c", "--ctx-size"), "threads": ("-t",), "batch": ("-b",), "out": ("-o",)}
METAVARS = {
    "data": "FILE", "val_data": "FILE", "out": "DIR", "targets": "GLOB", "rank_pattern": "GLOB=N",
    "alpha_pattern": "GLOB=X", "vocab": "FILE", "params": "SIZE", "name": "NAME",
    "optimizer_options": "NAME=VALUE", "schedule_2023": "JSON", "optimizer": "NAME",
}  # fmt: skip


def train_flags(
    names: Iterable[str] | None = None,
    of: type[Options] = TrainOptions,
    without: Container[str] = (),
    defaults: Mapping[str, Any] = {},
    resumed: bool = False,
) -> Callable[[Any], Any]:
    """A decorator that gives a command flags for options, all but `without` if none are named; see `train_options`.

    `defaults` are what the help says in place of the class's own. `resumed`: what is not given stays as the run began.
    """
    wanted = [field for field in fields_of(of) if field.name not in without]
    if names is not None:
        wanted = [field for field in wanted if field.name in set(names)]

    def decorate(command: Any) -> Any:
        for field in reversed(wanted):
            shown = replace(field, default=defaults.get(field.name, field.default))
            default = AS_BEGUN if resumed else shown.shown_default
            command = click.option(*_names(field), **_shape(shown, default))(command)
        return command

    return decorate


def train_options(values: Mapping[str, Any], of: type[T] = TrainOptions, **more: Any) -> T:
    """The options that the flags in a command's `values` give, over `more`; whatever else is in `values` is ignored."""
    given = dict(more)
    for field in fields_of(of):
        value = values.get(PREFIX + field.name)
        if value is not None and value != ():
            made = _value(field, value)
            given[field.name] = {**given.get(field.name, {}), **made} if isinstance(made, dict) else made
    options: T = build_options(of, given)
    return options


def _names(field: OptionField) -> list[str]:
    flag = "--" + field.name.replace("_", "-")
    if field.kind == "bool":
        return [PREFIX + field.name, f"{flag}/--no-{flag[2:]}"]
    return [PREFIX + field.name, *SHORT.get(field.name, ()), flag]


def _shape(field: OptionField, default: str) -> dict[str, Any]:
    """What click wants to know of an option; `default` is what its help says of it."""
    if field.kind == "bool":
        return {"default": None, "help": f"{field.description} [{default}]"}
    metavar = METAVARS.get(field.name, field.kind.upper())
    if field.kind == "json":
        if not isinstance(field.default, (list, dict)):
            return {"default": None, "type": FieldType(field), "metavar": metavar, "help": field.description}
        return {"multiple": True, "metavar": metavar, "help": f"{field.description} Repeatable."}
    shown = "; ".join(part for part in (field.interval, default) if part)
    help_ = f"{field.description} [{shown}]" if shown else field.description
    kind = OutputPath() if field.name == "out" else FieldType(field)
    return {"default": None, "type": kind, "metavar": metavar, "help": help_}


def _value(field: OptionField, value: Any) -> Any:
    """Repeated texts as the list or the names and values that they are."""
    if field.kind != "json":
        return value
    if isinstance(field.default, list):
        return list(value)
    if isinstance(field.default, dict):
        return dict(_pair(field, each) for each in value)
    return value


def _pair(field: OptionField, text: str) -> tuple[str, Any]:
    name, equals, value = text.rpartition("=")
    if not equals or not name:
        flag = "--" + field.name.replace("_", "-")
        raise UsageError(f"{flag} {text!r}: a name and a value are needed", hint=METAVARS[field.name], param=field.name)
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return name, value
