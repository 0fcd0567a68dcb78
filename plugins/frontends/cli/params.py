"""Options that several commands share, and the session that they describe.

The options of samplers are made from their `Options` classes, so that an installed sampler brings its own flags.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from llamakit.plugins.frontends.cli.console import Console

from llamakit.config import COMMAND_LINE, Config, check_sampling, load_config
from llamakit.embedded import named_or_embedded
from llamakit.errors import UsageError
from llamakit.options import OptionField, Options, build_options, fields_of, near
from llamakit.terminal import one_line
from llamakit.text_file import read_whole
from llamakit.units import size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from click.shell_completion import CompletionItem

    from llamakit import Session

Command = Any
BIAS = re.compile(r"(\d{1,11})([+-](?:\d+(?:\.\d*)?|\.\d+)|-inf)")
LEAST = {"top_k": 0, "temperature": 0, "repeat_last_n": -1}  # what is below means the same
MOST_TEXT = 1 << 30  # bytes of a text that is read whole
ALIASES = {"temperature": "--temp", "tfs_z": "--tfs", "typical_p": "--typical"}


class Context:
    """What a command works with: the registry, the composed settings, the console."""

    def __init__(self, ctx: click.Context, quiet: bool = False, verbose: bool = False) -> None:
        from llamakit.registry import Registry

        self.console = Console(quiet, verbose)
        self.registry = Registry.discover()
        root = ctx.find_root().obj or {}
        file = root.get("config_file")
        self.config: Config = load_config(self.registry, file=Path(file) if file else None, environ=os.environ)

    def apply(self, values: dict[str, Any]) -> None:
        """Put what the command line gave over the settings; what is not a setting is left to the command."""
        for key, value in values.items():
            if value is not None and key in self.config.schema:
                self.config.set(key, value, COMMAND_LINE)

    def sampling(self, values: dict[str, Any]) -> dict[str, object]:
        """Sampler options that are not defaults, the command line over the settings."""
        check_sampling(self.config, self.registry)
        merged = self.config.changed("sampling")
        merged |= {key: value for key, value in values.items() if value is not None}
        return merged

    def model_path(self, show: bool = True) -> Path:
        """The file of the model that the settings name, or the embedded one; with `show` that is told."""
        path, notice = named_or_embedded(self.config["model"])
        if notice and show:
            self.console.note(notice)
        return path

    def session(self, *, n_seq: int = 1, show: bool = True, **more: Any) -> Session:
        """The session that the settings describe (and `more` of `Session`'s own), with its weights loaded."""
        from llamakit import Session

        path = self.model_path(show)
        label = f"loaded {path.name} in " + "{seconds:.1f} s"
        with self.console.progress("loading", label if show else "") as progress:
            session = Session(
                path, registry=self.registry, n_seq=n_seq, progress=progress.update, **self.config.of_session(), **more
            )
            session.n_ctx  # noqa: B018 - loads the weights
        if session.offload.told:
            self.console.note(session.offload.told)
        if show:
            self._describe(session)
        return session

    def _describe(self, session: Session) -> None:
        h, (backend, reason) = session.model.hparams, session.backend
        kernels = ", ".join(f"{k} {v}" for k, v in session.device.kernels().items())
        name = session.file.metadata.get("general.name", session.path.stem)
        size = sum(weight.n_bytes for weight in session.weights.values())
        millions = f"{session.model.n_parameter / 1e6:,.3g} M"
        self.console.detail(f"model     {one_line(str(name))}, {h.architecture}, {millions}, context {session.n_ctx}")
        self.console.detail(f"backend   {backend.name} ({reason}){', ' + kernels if kernels else ''}")
        self.console.detail(f"memory    {size_text(size)} weights")


def model_option(command: Command) -> Command:
    """-m FILE."""
    kind = click.Path()  # so that shells complete files
    return click.option("-m", "--model", type=kind, metavar="FILE", help="The model: a GGUF file.")(command)


def settings_model(ctx: click.Context) -> str:
    """The model that the settings name, for commands that need nothing else of them."""
    model: str = Context(ctx).config["model"]
    return model


class OutputPath(click.Path):
    """A file or folder to write. `-` is none: there it would mean standard output."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path as it was given."""
        from llamakit.gguf.atomic import refuse_stdout

        if param is not None and isinstance(value, str):
            option = max(param.opts, key=len) if isinstance(param, click.Option) else param.human_readable_name
            refuse_stdout(value, option)
        return super().convert(value, param, ctx)


def json_option(command: Command) -> Command:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Machine-readable output on stdout.")(command)


def output_options(command: Command) -> Command:
    """-q and -v."""
    command = click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")(command)
    return click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors on stderr.")(command)


KV_TYPES = ("f32", "f16", "bf16", "q8_0")


def _completes(values: Callable[[], Iterable[str]]) -> Callable[..., list[str]]:
    """What a shell completes an option's value with."""
    return lambda ctx, param, incomplete: [value for value in values() if value.startswith(incomplete)]


def _backends() -> list[str]:
    from llamakit.registry import Registry

    return ["auto", *sorted(Registry.discover().entry_names("backend"))]


def complete_samplers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The last name of a list "a;b"."""
    from llamakit.registry import Registry

    before, semicolon, last = incomplete.rpartition(";")
    names = sorted(Registry.discover().entry_names("sampler"))
    return [before + semicolon + name for name in names if name.startswith(last)]


DEVICE_OPTIONS = (
    click.option(
        "--tensor-split", "-ts", metavar="N,N", help="In what proportions several GPUs share layers. [one has them]"
    ),
    click.option("--main-gpu", "-mg", type=int, metavar="N", help="The number of the GPU that has them. [0]"),
    click.option(
        "--gpu-layers",
        "--n-gpu-layers",
        "-ngl",
        type=int,
        metavar="N",
        help="Layers on the GPU, the last ones; -1 = all that fit. [-1]",
    ),
    click.option("--split", metavar="SHARES", help="In what proportions they do, such as 3,1. [by free memory]"),
    click.option(
        "--device",
        metavar="LIST",
        shell_complete=lambda ctx, param, incomplete: complete_devices(incomplete),
        help="Devices that share the layers, such as cpu,cuda:1. [one of the backend]",
    ),
)


def complete_devices(incomplete: str) -> list[str]:
    """The last name of a list "a,b"."""
    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in _backends()[1:] if name.startswith(last)]


def device_options(command: Command) -> Command:
    """--device and --split, for commands that have not all of `run_options`."""
    for decorate in DEVICE_OPTIONS:
        command = decorate(command)
    return command


def run_options(command: Command) -> Command:
    """Where and how a model runs."""
    for decorate in (
        click.option(
            "--kv-type",
            metavar="TYPE",
            shell_complete=_completes(lambda: KV_TYPES),
            help="Type of keys and values: f32, f16, bf16, q8_0. [f16]",
        ),
        click.option(
            "--activations",
            metavar="KIND",
            shell_complete=_completes(lambda: ("native", "f32")),
            help="What meets quantised weights: native (rounded to eight bits) or f32, which is slower. [native]",
        ),
        click.option("-b", "--batch-size", type=int, metavar="N", help="Tokens of a prompt evaluated at once. [512]"),
        click.option(
            "-c", "--ctx-size", type=int, metavar="N", help="Context in tokens. [as the model and memory allow]"
        ),
        click.option("-t", "--threads", type=int, metavar="N", help="Threads. [as many as cores]"),
        click.option(
            "--backend",
            metavar="NAMES",
            shell_complete=_completes(_backends),
            help="Backends in order of preference, or auto. [auto]",
        ),
        *DEVICE_OPTIONS,
    ):
        command = decorate(command)
    return command


# How the help of these commands is told: what everybody needs first, then by what it is about.
FIRST = ("model", "prompt", "file", "n_predict", "system", "seed", "stop")
RUNNING = ("backend", "device", "split", "threads", "ctx_size", "batch_size", "kv_type", "lora", "prompt_cache")
OUTPUT = ("quiet", "verbose", "echo", "raw", "timings", "logdir", "markdown", "history", "help")


class SamplingCommand(click.Command):
    """A command with an option for every option of every sampler that is installed."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own parameters and the samplers'."""
        return [*super().get_params(ctx)[:-1], *self.sampling_params(), super().get_params(ctx)[-1]]

    def sampling_params(self) -> list[click.Option]:
        """Made once."""
        if not hasattr(self, "_sampling"):
            from llamakit.registry import Registry

            registry = Registry.discover()
            self._sampling = [
                _option(field, None if f"sampler.{name}" not in registry.third_party else name, sampler.Options)
                for name, sampler in registry.samplers().items()
                for field in fields_of(sampler.Options)
            ]
        return self._sampling

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options, then the samplers', then those of other packages."""
        sampling = self.sampling_params()
        own = [p for p in super().get_params(ctx) if p not in sampling]
        own.sort(key=lambda p: FIRST.index(p.name) if p.name in FIRST else len(FIRST))
        for title, params in (
            ("Options", [p for p in own if p.name not in RUNNING and p.name not in OUTPUT]),
            ("Output", [p for p in own if p.name in OUTPUT]),
            ("How the model runs", [p for p in own if p.name in RUNNING]),
            ("Sampling", [p for p in sampling if "." not in (p.name or "")]),
            ("Sampling, from other packages", [p for p in sampling if "." in (p.name or "")]),
        ):
            records = [record for p in params if (record := p.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Gather the samplers' values into one dict."""
        rest = super().parse_args(ctx, args)
        names = {p.name for p in self.sampling_params()}
        ctx.params["sampling"] = {key: ctx.params.pop(key) for key in list(ctx.params) if key in names}
        return rest


class FieldType(click.ParamType):
    """A click type that parses as the option declares; with the class that has it, its range is looked at too."""

    def __init__(self, field: OptionField, options: type[Options] | None = None) -> None:
        self.field, self.name, self._options = field, field.kind, options

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The choices, where there are some."""
        from click.shell_completion import CompletionItem

        values = (str(choice) for choice in self.field.choices)
        return [CompletionItem(value) for value in values if value.startswith(incomplete)]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse text."""
        if not isinstance(value, str):
            return value
        name = self.field.name
        try:
            parsed = self.field.parse(value if name != "logit_bias" else _biases(value))
            if name in LEAST and isinstance(parsed, (int, float)) and parsed < LEAST[name]:
                parsed = LEAST[name]  # as in requests
            if self._options is not None:
                build_options(self._options, {name: parsed})
        except UsageError as error:
            flag = param.opts[-1] if param is not None else name
            text = error.message.removeprefix(name)
            if name == "logit_bias":
                text = f" cannot be {value!r}; possible: ID+N, ID-N, ID-inf, or JSON such as [[15043, 1.5]]"
            raise UsageError(flag + text, param=name) from None
        return parsed


def _biases(text: str) -> str:
    """The spellings of 2023, `15043+1`, `15043-1` and `15043-inf`, as JSON; all else as it is."""
    found = BIAS.fullmatch(text)
    if found is None:
        return text
    return f"[[{found[1]}, {'false' if found[2] == '-inf' else float(found[2])}]]"


def _option(field: OptionField, owner: str | None, options: type[Options]) -> click.Option:
    flag = "--" + (f"{owner}." if owner else "") + field.name.replace("_", "-")
    name = f"{owner}.{field.name}" if owner else field.name
    shown = "; ".join(part for part in (field.interval, field.shown_default) if part)
    text = f"{field.description} [{shown}]" if shown else field.description
    identifier = name.replace(".", "__")  # click wants a Python name; the real one is set below
    if field.kind == "bool":
        option = click.Option([identifier, f"{flag}/--no-{flag[2:]}"], default=None, help=text)
    else:
        names = [identifier, flag] + ([ALIASES[field.name]] if field.name in ALIASES and not owner else [])
        several = field.name == "logit_bias"
        option = click.Option(
            names, type=FieldType(field, options), default=None,
            metavar="ID+N" if several else field.kind.upper(), help=text,
        )  # fmt: skip
    option.name = name
    return option


def sampler_names(text: str | None, known: list[str]) -> tuple[str, ...] | None:
    """The order that --samplers gives, checked."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(";") if name.strip()]
    for i, name in enumerate(names):
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 1, 0.6)
            order = ";".join([*names[:i], *nearest, *names[i + 1 :]])
            hint = f'--samplers "{order}"   (all names: llamakit plugins --kind sampler)'
            raise UsageError(
                f"no sampler named {name} (number {i + 1} of --samplers)", found=near(name, known), hint=hint,
                param="samplers",
            )  # fmt: skip
    return tuple(names)


def read_text(file: str) -> str:
    """A file's text; - is standard input."""
    import sys

    try:
        data = sys.stdin.buffer.read() if file == "-" else read_whole(Path(file), MOST_TEXT)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    return data.decode("utf-8", "replace").removeprefix("\ufeff")


def compose(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several decorators as one, the first one's options first in the help."""

    def decorate(command: Command) -> Command:
        for each in reversed(decorators):
            command = each(command)
        return command

    return decorate


common_options = compose(model_option, run_options, output_options)
