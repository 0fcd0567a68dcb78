"""The command line of `llamakit serve`: flags for `ServeOptions`, for settings of the core, and those of 2023.

Long flags take - and _ alike (`llamakit.cli` sees to that), so `--ctx_size` and `--memory_f32` need no line here.
"""

from __future__ import annotations

from typing import Any

import click
from llamakit.plugins.frontends.rest.options import ServeOptions

from llamakit.config import OF_SESSIONS
from llamakit.errors import UsageError
from llamakit.options import OptionField, fields_of

# Spellings of options beside "--" and the name.
ALIASES = {
    "alias": ("-a",), "timeout": ("-to",), "verbose": ("-v",), "parallel": ("-np",), "model_draft": ("-md",),
}  # fmt: skip
METAVARS = {
    "host": "HOST", "path": "DIR", "alias": "NAME", "models": "NAME=FILE", "kv_memory": "SIZE", "max_body": "SIZE",
    "request_memory": "SIZE",
    "models_dir": "DIR", "slot_save_path": "DIR", "api_prefix": "PATH", "model_draft": "FILE",
    "chat_template": "FILE|NAME", "chat_template_kwargs": "JSON",
    "lora": "FILE", "lora_scaled": "FILE SCALE", "lora_base": "FILE", "lora_dir": "DIR",
    "lora_watch": "DIR",
    "api_key": "KEY", "api_key_file": "FILE", "cors": "ORIGIN", "allowed_host": "NAME", "ssl_cert_file": "FILE",
    "ssl_key_file": "FILE", "timeout": "SECONDS", "stall": "SECONDS", "idle_unload": "SECONDS", "grace": "SECONDS",
}  # fmt: skip
# The options of 2023 that only some backends know: names, metavar (none: a switch), help.
DEVICE: dict[str, tuple[tuple[str, ...], str, str]] = {
    "low_vram": (("-lv", "--low-vram"), "", "Keep more in main memory."),
    "no_mul_mat_q": (("-nommq", "--no-mul-mat-q"), "", "Multiply with dequantized weights."),
    "threads_batch": (("-tb", "--threads-batch"), "N", "Threads for prompts. [as --threads]"),
    "affinity": (("--affinity",), "CORES", "Cores that threads stay on, such as 0-7,16."),
    "no_repack": (("-nr", "--no-repack"), "", "Use weights as they lie in the file."),
    "no_mmap": (("--no-mmap",), "", "Read the file at once."),
    "numa": (("--numa",), "", "Spread threads over memory nodes."),
}
CORE: tuple[tuple[tuple[str, ...], str, Any, str], ...] = (
    (("-m", "--model"), "FILE", str, "The model: a GGUF file."),
    (("-t", "--threads"), "N", int, "Threads that compute. [as many as cores]"),
    (("-c", "--ctx-size"), "N", int, "Context of each sequence. [the model's, as memory allows]"),
    (("-b", "--batch-size"), "N", int, "Tokens evaluated in a step. [512]"),
    (("--kv-type",), "TYPE", str, "Type of keys and values: f32, f16, bf16, q8_0. [f16]"),
    (("--activations",), "KIND", str, "What meets quantised weights: native (rounded), f32. [native]"),
    (("--backend",), "NAMES", str, "Backends in order of preference, or auto. [auto]"),
    (("--device",), "LIST", str, "Devices that share the layers, such as cpu,cuda:1. [one of the backend]"),
    (("--split",), "SHARES", str, "In what proportions they do, such as 3,1. [by free memory]"),
    (("-ngl", "--gpu-layers", "--n-gpu-layers"), "N", int, "Layers on the GPU, the last ones; -1 = all that fit. [-1]"),
    (("-mg", "--main-gpu"), "N", int, "The number of the GPU that has them. [0]"),
    (("-ts", "--tensor-split"), "N,N", str, "In what proportions several GPUs share layers. [one has them]"),
)

SETTINGS = ("model", "threads", *OF_SESSIONS)


def add_flags(command: Any) -> Any:
    """Give a click command all options."""
    options = [click.Option([*names], metavar=metavar, type=kind, help=text) for names, metavar, kind, text in CORE]
    options += [_option(field) for field in fields_of(ServeOptions)]
    options.append(click.Option(["--memory-f32"], is_flag=True, help="The same as --kv-type f32."))
    options.append(click.Option(["--embedding"], is_flag=True, help="Accepted: embeddings are always on."))
    options += [_device_option(*parts) for parts in DEVICE.values()]
    command.params = [*options, *command.params]
    return command


def _option(field: OptionField) -> click.Option:
    name = field.name
    names = [name, *ALIASES.get(name, ()), "--" + name.replace("_", "-")]
    shown: dict[str, Any] = {"default": None, "help": _help(field), "metavar": METAVARS.get(name)}
    if field.kind == "bool":
        return click.Option(names, is_flag=True, default=None, help=field.description)
    if name == "lora_scaled":
        return click.Option(names, multiple=True, nargs=2, type=(str, float), **shown)
    if field.kind == "json":
        return click.Option(names, multiple=True, type=str, **shown)
    if field.kind == "choice":
        choices = [str(choice) for choice in field.choices]
        shown["metavar"] = f"[{'|'.join(filter(None, choices))}]"  # "" is for what is not said
        return click.Option(names, type=click.Choice(choices), **shown)
    kinds: dict[str, Any] = {"int": int, "float": float, "str": str}
    shown["metavar"] = shown["metavar"] or {"int": "N", "float": "X", "str": "TEXT"}[field.kind]
    return click.Option(names, type=kinds[field.kind], **shown)


def _help(field: OptionField) -> str:
    if field.kind == "json":
        return f"{field.description} Repeatable."
    default = field.default if not isinstance(field.default, str) else repr(field.default)[1:-1]
    return (
        f"{field.description} [{default:g}]"
        if isinstance(default, float)
        else (f"{field.description} [{default}]" if default != "" else field.description)
    )


def _device_option(names: tuple[str, ...], metavar: str, text: str) -> click.Option:
    text += " Only some backends know it."
    if not metavar:
        return click.Option([*names], is_flag=True, help=text)
    return click.Option([*names], metavar=metavar, type=int if metavar == "N" else str, help=text)


def settings_from(values: dict[str, Any]) -> dict[str, Any]:
    """Config keys and values that a command line gives, by what click made of it."""
    found: dict[str, Any] = {}
    for name in SETTINGS:
        if values.get(name) is not None:
            found[name] = values[name]
    if values.get("memory_f32"):
        found["kv_type"] = "f32"
    for name in ServeOptions.__struct_fields__:
        value = values.get(name)
        if value is None or value == ():
            continue
        if name == "models":
            value = dict(_named_model(each) for each in value)
        elif isinstance(value, tuple):
            value = list(value)
        found[f"frontend.rest.{name}"] = value
    return found


def _named_model(text: str) -> tuple[str, str]:
    """NAME=FILE, or a file that is named after itself."""
    name, equals, path = text.partition("=")
    if not equals:
        return text.replace("\\", "/").rpartition("/")[2].removesuffix(".gguf"), text
    if not name or not path:
        raise UsageError(f"--models {text}: both a name and a file are needed", hint="--models NAME=FILE")
    return name, path


def device_options(values: dict[str, Any], known: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
    """Those of 2023's device options that the backend knows, and the flags of the others that were given."""
    given = {name: values[name] for name in DEVICE if values.get(name) is not None and values[name] is not False}
    used = {name: value for name, value in given.items() if name in known}
    return used, [DEVICE[name][0][-1] for name in given if name not in known]
