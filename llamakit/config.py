"""Settings, composed from: defaults, `llamakit.toml`, the environment, the command line; the later wins.

Keys are those of `CoreOptions`, `sampling.<option>` for every sampler option, and `<kind>.<name>.<option>` for the
options of backends and frontends (`backend.cpu.threads`). In the environment `LLAMAKIT_THREADS` sets `threads` and
`LLAMAKIT_SAMPLING__TOP_K` sets `sampling.top_k`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from llamakit import bounded_toml
from llamakit.errors import UsageError
from llamakit.options import OptionField, Options, build_options, fields_of, near
from llamakit.text_file import read_whole

if TYPE_CHECKING:
    from llamakit.registry import Registry

FILE_NAME = "llamakit.toml"
PREFIX = "LLAMAKIT_"
MOST_BYTES = 1 << 20  # of a settings file, which takes a second or two to parse
# Variables of the environment that are not settings.
NOT_SETTINGS = {"LLAMAKIT_TEST_DATA"}


class CoreOptions(Options, frozen=True):
    """Settings that belong to no plugin."""

    model: Annotated[str, Meta(description="The model: a GGUF file.")] = ""
    backend: Annotated[str, Meta(description="Backends in order of preference, such as cuda,cpu; or auto.")] = "auto"
    device: Annotated[
        str, Meta(description="Devices that share the model's layers, such as cuda:0,cuda:1; empty = one of `backend`.")
    ] = ""
    split: Annotated[
        str, Meta(description="In what proportions several devices share them, such as 3,1; empty = by free memory.")
    ] = ""
    gpu_layers: Annotated[
        int,
        Meta(
            ge=-1, le=100_000, description="Layers on the GPU, the last ones, the others on the CPU; -1 = all that fit."
        ),
    ] = -1
    main_gpu: Annotated[int, Meta(ge=0, le=63, description="The number of the GPU, where one has all of them.")] = 0
    tensor_split: Annotated[
        str, Meta(description="In what proportions several GPUs share them, such as 3,1; empty = one has them.")
    ] = ""
    threads: Annotated[int, Meta(ge=0, le=1024, description="Threads; 0 = as many as there are cores.")] = 0
    ctx_size: Annotated[
        int, Meta(ge=0, le=1 << 24, description="Context in tokens; 0 = the model's, as memory allows.")
    ] = 0
    batch_size: Annotated[int, Meta(ge=1, le=1 << 16, description="Tokens of a prompt evaluated at once.")] = 512
    kv_type: Annotated[
        Literal["f32", "f16", "bf16", "q8_0"], Meta(description="Type of keys and values in the cache.")
    ] = "f16"
    activations: Annotated[
        Literal["native", "f32"],
        Meta(description="What meets quantised weights: native = rounded to eight bits, f32 = float32, slower."),
    ] = "native"
    seed: Annotated[
        int, Meta(ge=-1, le=(1 << 63) - 1, description="Seed of random numbers; -1 = a new one each time.")
    ] = -1


OF_SESSIONS = (  # those that a `Session` has by the same name
    "backend", "device", "split", "gpu_layers", "main_gpu", "tensor_split", "ctx_size", "batch_size", "kv_type",
    "activations",
)  # fmt: skip
COMMAND_LINE = "command line"  # an origin


class Setting(msgspec.Struct, frozen=True):
    """A value and where it came from."""

    value: Any
    origin: str


class Config:
    """The composed settings."""

    def __init__(self, schema: Mapping[str, OptionField]) -> None:
        self.schema = dict(schema)
        self.settings = {key: Setting(field.default, "default") for key, field in schema.items()}

    def __getitem__(self, key: str) -> Any:
        return self.settings[key].value

    def origin(self, key: str) -> str:
        """Where a value came from."""
        return self.settings[key].origin

    def changed(self, prefix: str) -> dict[str, Any]:
        """The values under `prefix.` that are not defaults, by the rest of their keys."""
        start = f"{prefix}."
        return {
            key.removeprefix(start): setting.value
            for key, setting in self.settings.items()
            if key.startswith(start) and setting.origin != "default"
        }

    def backend_options(self) -> dict[str, dict[str, Any]]:
        """Options of backends that are not defaults, by backend."""
        found: dict[str, dict[str, Any]] = {}
        for key, value in self.changed("backend").items():
            backend, dot, name = key.partition(".")
            if dot:
                found.setdefault(backend, {})[name] = value
        return found

    def of_session(self) -> dict[str, Any]:
        """What a `Session` is made with, as far as settings of no frontend say it."""
        told = {"threads": self["threads"] or None, "backend_options": self.backend_options()}
        return told | {name: self[name] for name in OF_SESSIONS}

    def set(self, key: str, value: Any, origin: str) -> None:
        """Override one value; an unknown key or a wrong value is a `UsageError` that names `origin`.

        Values of plugins are checked when the plugins are made.
        """
        if key not in self.schema:
            raise _unknown(origin, key, key, self.schema)
        if key in CoreOptions.__struct_fields__:
            try:
                build_options(CoreOptions, {key: value})
            except UsageError as error:
                raise _told(error, key, key, origin) from None
        self.settings[key] = Setting(value, origin)

    def options(self, prefix: str, cls: type[Options]) -> Any:
        """The options of `cls` that the settings under `prefix.` make; UsageError tells where a wrong one stands."""
        given = {name: value for name, value in self.changed(prefix).items() if name in cls.__struct_fields__}
        try:
            return build_options(cls, given)
        except UsageError as error:
            key = f"{prefix}.{error.param}"
            origin = self.settings[key].origin if key in self.settings else ""
            raise _told(error, str(error.param), key, origin) from None


def check_sampling(config: Config, registry: Registry) -> None:
    """Look at the settings of all samplers before anything is loaded; UsageError for the first that is wrong."""
    for name, sampler in registry.samplers().items():
        config.options(_sampling_prefix(registry, name), sampler.Options)


def _sampling_prefix(registry: Registry, name: str) -> str:
    """Where the options of a sampler are: those of other packages by the sampler's name."""
    return f"sampling.{name}" if f"sampler.{name}" in registry.third_party else "sampling"


def _told(error: UsageError, name: str, key: str, origin: str) -> UsageError:
    """An error about an option that names the flag, or the setting and where it stands."""
    flag = "--" + name.replace("_", "-")
    where = flag if origin == COMMAND_LINE else f"{origin}: {key}" if origin else key
    return UsageError(where + error.message.removeprefix(name), found=error.found, hint=error.hint, param=error.param)


def _unknown(origin: str, name: str, key: str, schema: Mapping[str, OptionField]) -> UsageError:
    """The error for a key that no plugin has declared."""
    section = key.rpartition(".")[0]
    return UsageError(
        f"{origin}: unknown setting {name!r}",
        found=near(key, schema),
        hint=f"llamakit config --keys {section}".strip(),
        param=key,
    )


def make_schema(registry: Registry | None) -> dict[str, OptionField]:
    """All keys there are: of the core, and of every plugin that loads."""
    schema = {field.name: field for field in fields_of(CoreOptions)}
    if registry is None:
        return schema
    for name, sampler in registry.samplers().items():
        for field in fields_of(sampler.Options):
            schema[f"{_sampling_prefix(registry, name)}.{field.name}"] = field
    for kind in ("backend", "frontend"):
        for name in registry.entry_names(kind):
            for field in _component_fields(registry, kind, name):
                schema[f"{kind}.{name}.{field.name}"] = field
    return schema


def _component_fields(registry: Registry, kind: str, name: str) -> tuple[OptionField, ...]:
    from llamakit.errors import PluginError

    try:
        cls: Any = registry.backend(name) if kind == "backend" else registry.frontends()[name]
    except (PluginError, KeyError):
        return ()  # a plugin that does not load has no settings
    return fields_of(cls.Options)


def load_config(
    registry: Registry | None, *, file: Path | None = None, environ: Mapping[str, str] | None = None
) -> Config:
    """Compose the settings from defaults, the file (given, or `llamakit.toml` here), and the environment."""
    config = Config(make_schema(registry))
    path = file or Path(FILE_NAME)
    if file is not None or path.exists():
        for key, value in _flatten(_read(path), config.schema).items():
            config.set(key, value, str(path))
    for name, text in sorted((environ or {}).items()):
        if name.startswith(PREFIX) and name not in NOT_SETTINGS:
            key = name.removeprefix(PREFIX).lower().replace("__", ".")
            if key not in config.schema:
                raise _unknown("environment", name, key, config.schema)
            config.set(key, config.schema[key].parse(text), f"environment {name}")
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        return bounded_toml.decode(read_whole(path, MOST_BYTES).decode(), str(path))
    except FileNotFoundError:
        raise UsageError(f"no settings file {path}") from None
    except RecursionError:
        raise UsageError(f"{path} is not TOML: it nests too deeply") from None
    except ValueError as error:  # TOMLDecodeError, bytes that are no UTF-8, dates and numbers that cannot be
        raise UsageError(f"{path} is not TOML: {error}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _flatten(table: Mapping[str, Any], schema: Mapping[str, OptionField], prefix: str = "") -> dict[str, Any]:
    """Values by their whole keys; a table that is the value of one setting stays a table."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        field = schema.get(f"{prefix}{key}")
        if isinstance(value, Mapping) and (field is None or field.kind != "json"):
            flat |= _flatten(value, schema, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
