"""`llamakit export-lora`: the command of 2023 that merges adapters, with its options."""

from __future__ import annotations

import click
from llamakit.plugins.frontends.cli.console import Console
from llamakit.plugins.frontends.cli.lora import AdaptersCommand, adapter_options, run_merge
from llamakit.plugins.frontends.cli.params import OutputPath, json_option, output_options


@click.command(cls=AdaptersCommand)
@json_option
@output_options
@click.option("-t", "--threads", type=int, default=4, metavar="N", help="Threads; 0: as many as cores. [4]")
@adapter_options
@click.option("-o", "--model-out", type=OutputPath(), required=True, metavar="FILE", help="The merged model.")
@click.option("-m", "--model-base", required=True, metavar="FILE", help="The model that the adapters are for.")
def export_lora(
    as_json: bool, quiet: bool, verbose: bool, threads: int, model_out: str, model_base: str,
    adapters: list[tuple[str, float]],
) -> None:  # fmt: skip
    """Merge adapters into a model, as export-lora of 2023: every tensor keeps its type.

    -l and -s may be mixed and repeated; adapters are applied in the order given. A missing one is an error.

    \b
    llamakit export-lora -m base.gguf -o merged.gguf -l lora.bin -s other.gguf 0.5
    """
    run_merge(Console(quiet, verbose), as_json, model_base, model_out, adapters, None, threads if threads > 0 else None)
