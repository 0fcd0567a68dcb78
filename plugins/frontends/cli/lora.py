"""`llamakit lora`: adapters looked at, converted between formats, and merged into models."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from llamakit.plugins.frontends.cli.console import Console
from llamakit.plugins.frontends.cli.params import Context, OutputPath, json_option, output_options

from llamakit.terminal import json_text, safe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llamakit.gguf.reader import GGUFFile

FORMATS = ("peft", "gguf", "ggla")


class AdaptersCommand(click.Command):
    """A command that takes `-l FILE` and `-s FILE SCALE`, mixed: `adapters` has all of them in the order given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember the order, which click keeps only among uses of one option."""
        values, _, order = self.make_parser(ctx).parse_args(args=list(args))
        taken = {"lora": iter(values.get("lora") or ()), "lora_scaled": iter(values.get("lora_scaled") or ())}
        found = [next(taken[name]) for param in order if (name := param.name) in taken]
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            for name in taken:
                ctx.params.pop(name, None)
            ctx.params["adapters"] = [_scaled(ctx, each) for each in found]
        return rest


def _scaled(ctx: click.Context, value: Any) -> tuple[str, float]:
    """(file, scale) of one use of an option."""
    if isinstance(value, str):
        return value, 1.0
    path, text = value
    try:
        return path, float(text)
    except ValueError:
        from llamakit.errors import UsageError

        raise UsageError(f"-s {path} {text}: the scale is not a number", param="lora_scaled") from None


def adapter_options(command: Any) -> Any:
    """-l and -s."""
    for option in (
        click.option("-s", "--lora-scaled", nargs=2, multiple=True, metavar="FILE SCALE", help="An adapter, scaled."),
        click.option("-l", "--lora", multiple=True, metavar="FILE", help="An adapter: GGUF, ggla or a PEFT folder."),
    ):
        command = option(command)
    return command


@click.group()
def lora() -> None:
    """Adapters: look at them, convert them, merge them.

    An adapter is a GGUF adapter, a PEFT folder, or a ggla file or checkpoint of the 2023 finetune.

    \b
    llamakit lora info adapter.gguf
    llamakit lora import peft-folder -m base.gguf -o adapter.gguf
    llamakit lora export adapter.gguf -o peft-folder
    llamakit lora merge -m base.gguf -l adapter.gguf -o merged.gguf
    """


@lora.command(cls=AdaptersCommand)
@json_option
@output_options
@adapter_options
@click.option("-t", "--threads", type=click.IntRange(min=1), metavar="N", help="Threads. [as many as cores]")
@click.option("--type", "type_name", metavar="TYPE", help="Type of the merged model's matrices. [as in the base]")
@click.option("-o", "--output", type=OutputPath(), required=True, metavar="FILE", help="The merged model.")
@click.option("-m", "--model", "base", metavar="FILE", help="The model that the adapters are for.")
@click.pass_context
def merge(
    ctx: click.Context, as_json: bool, quiet: bool, verbose: bool, threads: int | None, type_name: str | None,
    output: str, base: str | None, adapters: list[tuple[str, float]],
) -> None:  # fmt: skip
    """Write a model with adapters merged into it.

    Tensors keep their types unless --type is given; what rounding to a type costs is shown per kind of tensor.

    \b
    llamakit lora merge -m base.gguf -l adapter.gguf -o merged.gguf
    llamakit lora merge -m base-f16.gguf -s one.gguf 0.5 -s two 0.5 -o merged.gguf --type Q4_K_M
    """
    path = base or Context(ctx, quiet, verbose).model_path()
    run_merge(Console(quiet, verbose), as_json, path, output, adapters, type_name, threads, chosen=base is not None)


def run_merge(
    console: Console, as_json: bool, base: str | Path, output: str, adapters: list[tuple[str, float]],
    type_name: str | None, threads: int | None, chosen: bool = True,
) -> None:  # fmt: skip
    """Merge, and say what came of it."""
    from llamakit.lora.merge import merge_adapters

    with console.progress("merge") as progress:
        report = merge_adapters(
            base, output, adapters, type_name=type_name, threads=threads, progress=progress.update, chosen=chosen
        )
    if as_json:
        click.echo(json_text(report))
        return
    for line in report.lines():
        console.note(safe(line))


@lora.command("import")
@output_options
@click.option(
    "--type",
    "type_name",
    type=click.Choice(["F32", "F16"], case_sensitive=False),
    help="Type of its matrices. [as in the source]",
)
@click.option("-m", "--model", "base", metavar="FILE", help="The model that the adapter is for.")
@click.option("-o", "--output", type=OutputPath(), required=True, metavar="FILE", help="The GGUF adapter.")
@click.argument("source", metavar="ADAPTER")
def import_(quiet: bool, verbose: bool, type_name: str | None, base: str | None, output: str, source: str) -> None:
    """Make a GGUF adapter of a PEFT folder, or of a ggla file or a checkpoint of the 2023 finetune.

    \b
    llamakit lora import peft-folder -m base.gguf -o adapter.gguf
    llamakit lora import ggml-lora-LATEST-f32.gguf -m base.gguf -o adapter.gguf
    """
    from llamakit.gguf.constants import GGMLType
    from llamakit.lora.convert import to_gguf
    from llamakit.lora.files import read_adapter_file

    with _opened(base) as model:
        file = read_adapter_file(source, model)
        to_gguf(file, output, model, GGMLType[type_name.upper()] if type_name else None)
    Console(quiet, verbose).note(f"{output}: {len(file.tensors) + len(file.norms)} tensors, rank {file.rank}")


@lora.command()
@output_options
@click.option("--without-norms", is_flag=True, help="Leave norms out, which PEFT's LoRA cannot hold.")
@click.option("--base-name", default="", metavar="NAME", help="What PEFT is to load the base by.")
@click.option("--to", "kind", type=click.Choice(FORMATS), help="Format. [.gguf: gguf, .bin: ggla, a folder: peft]")
@click.option("-m", "--model", "base", metavar="FILE", help="The model that the adapter is for.")
@click.option(
    "-o", "--output", type=OutputPath(), required=True, metavar="PATH", help="A folder for PEFT, else a file."
)
@click.argument("source", metavar="ADAPTER")
def export(
    quiet: bool, verbose: bool, without_norms: bool, base_name: str, kind: str | None, base: str | None, output: str,
    source: str,
) -> None:  # fmt: skip
    """Write an adapter for other programs: a PEFT folder, a GGUF adapter, or the ggla format of 2023.

    \b
    llamakit lora export adapter.gguf -o peft-folder --base-name org/model
    llamakit lora export adapter.gguf -m base.gguf -o adapter.bin
    """
    from llamakit.lora import convert
    from llamakit.lora.files import read_adapter_file

    kind = kind or {".gguf": "gguf", ".bin": "ggla"}.get(Path(output).suffix, "peft")
    with _opened(base) as model:
        file = read_adapter_file(source, model)
        if kind == "peft":
            convert.to_peft(file, output, model, base_name=base_name, without_norms=without_norms)
        else:
            (convert.to_gguf if kind == "gguf" else convert.to_ggla)(file, output, model)
    Console(quiet, verbose).note(f"{output}: {kind}, {len(file.tensors)} tensors, rank {file.rank}")


@lora.command()
@json_option
@click.option("-m", "--model", "base", metavar="FILE", help="The model that the adapter is for.")
@click.argument("source", metavar="ADAPTER")
def info(as_json: bool, base: str | None, source: str) -> None:
    """Say what an adapter holds: format, ranks, scales, tensors, norms."""
    from llamakit.lora.info import describe

    with _opened(base) as model:
        found = describe(source, model)
    if as_json:
        click.echo(json_text(found))
        return
    for line in found.lines():
        click.echo(safe(line))


@contextlib.contextmanager
def _opened(path: str | None) -> Iterator[GGUFFile | None]:
    """A GGUF file, if one is named."""
    if path is None:
        yield None
        return
    from llamakit.gguf import open_gguf

    with open_gguf(path) as file:
        yield file
