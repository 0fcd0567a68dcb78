"""`llamakit perplexity`: how well a model predicts a text."""

from __future__ import annotations

from typing import Any

import click
from llamakit.plugins.frontends.cli.params import Context, common_options, json_option, read_text

from llamakit.start import INTERRUPTED
from llamakit.terminal import json_text


@click.command()
@common_options
@json_option
@click.option("-f", "--file", metavar="FILE", required=True, help="The text; - is standard input.")
@click.option("--lora", multiple=True, metavar="FILE", help="A LoRA adapter to use. Repeatable.")
@click.pass_context
def perplexity(ctx: click.Context, as_json: bool, file: str, lora: tuple[str, ...], **options: Any) -> None:
    """Measure how well a model predicts a text: lower is better.

    \b
    llamakit perplexity -m model.gguf -f book.txt -c 512
    """
    from llamakit.engine.perplexity import measure

    context = Context(ctx, options["quiet"], options["verbose"])
    context.apply(options)
    text = read_text(file)
    result = None
    interrupted = False
    with context.session(lora=[(each, 1.0) for each in lora]) as session:
        tokens = session.tokenize(text, add_bos=True)
        bos = session.tokenizer.bos_id if session.tokenizer.add_bos else None
        with context.console.progress("perplexity") as progress:
            try:
                for result in measure(session.evaluator("logits"), tokens, bos):
                    progress.update(result.window, result.n_window)
            except KeyboardInterrupt:
                interrupted = True
    if result is None:
        ctx.exit(INTERRUPTED)
    if as_json:
        record = {
            "perplexity": result.perplexity,
            "error": result.error,
            "tokens": result.tokens,
            "partial": interrupted,
        }
        click.echo(json_text(record))
    else:
        partial = ", partial" if interrupted else ""
        click.echo(f"perplexity {result.perplexity:.4f} ± {result.error:.4f} over {result.tokens} tokens{partial}")
    if interrupted:
        ctx.exit(INTERRUPTED)
