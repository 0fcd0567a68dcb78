"""`llamakit embed`: texts to embeddings."""

from __future__ import annotations

from typing import Any

import click
from llamakit.plugins.frontends.cli.params import Context, common_options, json_option, read_text

from llamakit.terminal import json_text


@click.command()
@common_options
@json_option
@click.option("-f", "--file", metavar="FILE", help="Read texts from a file, one a line; - is standard input.")
@click.option(
    "--pooling",
    type=click.Choice(["mean", "last", "cls"]),
    help="How tokens become one vector. [as the file says, or mean]",
)
@click.option("--normalize/--no-normalize", default=True, help="Give vectors length 1. [on]")
@click.argument("texts", nargs=-1)
@click.pass_context
def embed(
    ctx: click.Context,
    as_json: bool,
    file: str | None,
    pooling: str | None,
    normalize: bool,
    texts: tuple[str, ...],
    **options: Any,
) -> None:
    """Turn TEXTS into embeddings, one line each.

    \b
    llamakit embed -m model.gguf "a cat" "a dog"
    """
    from llamakit.errors import UsageError

    lines = [*texts, *(read_text(file).splitlines() if file else ())]
    if not lines:
        raise UsageError("nothing to embed: give texts, or -f FILE")
    if not all(lines):
        raise UsageError(f"text {lines.index('') + 1} is empty", hint="at least one character")
    context = Context(ctx, options["quiet"], options["verbose"])
    context.apply(options)
    with context.session() as session:
        vectors = [session.embed(line, pooling=pooling or "", normalize=normalize) for line in lines]
    if as_json:
        click.echo(json_text([{"text": t, "embedding": v.tolist()} for t, v in zip(lines, vectors, strict=True)]))
        return
    for vector in vectors:
        click.echo(" ".join(f"{x:.6g}" for x in vector))
