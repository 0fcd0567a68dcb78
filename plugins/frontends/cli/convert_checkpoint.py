"""`llamakit convert-checkpoint`: training checkpoints of before GGUF, as checkpoints in GGUF."""

from __future__ import annotations

import click
from llamakit.plugins.frontends.cli.console import Console
from llamakit.plugins.frontends.cli.params import OutputPath, output_options

ORDERS = ("auto", "ltr", "rtl", "ltr-no-flash", "rtl-no-flash")


@click.command()
@output_options
@click.option("--order", type=click.Choice(ORDERS), default="auto", help="How the moments lie; auto: seen from them.")
@click.option("--vocab-model", metavar="FILE", help="A GGUF whose vocabulary the checkpoint gets.")
@click.option("--ff", type=int, metavar="N", help="Size of the feed-forward layer; the tensors say it too.")
@click.option("-o", "--output", type=OutputPath(), required=True, metavar="FILE", help="The checkpoint in GGUF.")
@click.option(
    "-i", "--input", "source", required=True, metavar="FILE", help="A ggcl or ggcp checkpoint, or one in GGUF."
)
def convert_checkpoint(
    quiet: bool, verbose: bool, order: str, vocab_model: str | None, ff: int | None, output: str, source: str
) -> None:
    """Convert checkpoints of finetune (ggcl) and train-text-from-scratch (ggcp) of before GGUF.

    The options are those of the two scripts of 2023, convert-finetune-checkpoint-to-gguf.py and
    convert-train-checkpoint-to-gguf.py.

    \b
    llamakit convert-checkpoint -i checkpoint.bin -o checkpoint.gguf
    """
    from llamakit.errors import UsageError, shown
    from llamakit.gguf.atomic import refuse_to_replace
    from llamakit.gguf.reader import paths_of
    from llamakit.train.tools_2023.checkpoint import read_checkpoint, with_vocabulary, write_checkpoint
    from llamakit.train.tools_2023.moments import named_order

    refuse_to_replace(output, [source], "the checkpoint")
    refuse_to_replace(output, paths_of(vocab_model or ""), "the vocabulary's model")
    checkpoint = read_checkpoint(source, named_order(order))
    found = checkpoint.model.get("llama.feed_forward_length", (None, None, None))[2]
    if ff is not None and ff != found:
        raise UsageError(f"--ff {ff}: the tensors of {source} say {shown(found)}", param="ff")
    if vocab_model is not None:
        checkpoint = with_vocabulary(checkpoint, vocab_model)
    write_checkpoint(output, checkpoint)
    console = Console(quiet, verbose)
    console.note(f"{output}: {checkpoint.kind}, {len(checkpoint.tensors)} tensors, {checkpoint.iterations} iterations")
    if checkpoint.first:
        console.note(f"  moments of {checkpoint.optimizer.type} by {checkpoint.order}")
