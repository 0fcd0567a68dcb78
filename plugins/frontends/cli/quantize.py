"""`llamakit quantize`: a GGUF in, a smaller GGUF out."""

from __future__ import annotations

import click
from llamakit.plugins.frontends.cli.console import Console
from llamakit.plugins.frontends.cli.params import OutputPath, json_option, output_options

from llamakit.terminal import json_text, safe


@click.command()
@json_option
@output_options
@click.argument("source", metavar="IN", type=click.Path())
@click.argument("destination", metavar="OUT", type=OutputPath())
@click.argument("type_name", metavar="TYPE")
def quantize(as_json: bool, quiet: bool, verbose: bool, source: str, destination: str, type_name: str) -> None:
    """Write IN as OUT with its matrices in TYPE, such as Q8_0, Q4_K_M or F16.

    Rows that TYPE cannot divide into whole blocks get a type that fits; they are listed.

    \b
    llamakit quantize model-f16.gguf model-q4_k_m.gguf Q4_K_M
    """
    from llamakit.gguf.quantize import quantize_file

    console = Console(quiet, verbose)
    with console.progress("quantize") as progress:
        report = quantize_file(source, destination, type_name, progress=progress.update)
    if as_json:
        click.echo(json_text(report))
        return
    for line in report.lines():
        console.note(safe(line))
