"""`llamakit bench`: how fast a model runs here."""

from __future__ import annotations

from typing import Any

import click
from llamakit.plugins.frontends.cli.params import Context, json_option, model_option, output_options

from llamakit.errors import UsageError


def _numbers(text: str, least: int) -> list[int]:
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{text!r} is no list of numbers such as 0,4096") from None
    if any(value < least for value in values):
        raise UsageError(f"{text!r}: numbers of {least} or more are needed")
    return values


@click.command()
@model_option
@click.option("-p", "--n-prompt", default="512", metavar="LIST", help="Lengths of prompts; 0 = none. [512]")
@click.option("-n", "--n-gen", default="128", metavar="LIST", help="Tokens to generate; 0 = none. [128]")
@click.option("-d", "--depth", default="0", metavar="LIST", help="Tokens in the context before. [0]")
@click.option("-b", "--batch", default="1", metavar="LIST", help="Sequences that generate at once. [1]")
@click.option(
    "-r", "--repeat", type=click.IntRange(1, 1000), default=5, metavar="N", help="Runs after one to warm up. [5]"
)
@click.option("-t", "--threads", type=int, metavar="N", help="Threads. [as many as cores]")
@click.option("--backend", metavar="NAMES", help="Backends in order of preference, or auto. [auto]")
@click.option("--kv-type", metavar="TYPE", help="Type of keys and values: f32, f16, bf16, q8_0. [f16]")
@json_option
@output_options
@click.pass_context
def bench(ctx: click.Context, as_json: bool, **options: Any) -> None:
    """Measure tokens per second of prompts (pp) and of generation (tg).

    \b
    llamakit bench -m model.gguf -p 512 -n 128 -d 0,4096 -b 1,8
    """
    import msgspec

    from llamakit.engine.bench import Bench

    prompts, gens = _numbers(options["n_prompt"], 0), _numbers(options["n_gen"], 0)
    depths, batches = _numbers(options["depth"], 0), _numbers(options["batch"], 1)
    context = Context(ctx, options["quiet"], options["verbose"])
    context.apply(options)
    context.apply({"ctx_size": max(depths) + max(*prompts, *gens) + 1, "batch_size": 512})
    found = []
    with context.session(n_seq=max(batches)) as session:
        if not as_json:
            click.echo(f"{'test':<16}{'depth':>8}{'batch':>7}   tok/s")
        for m in Bench(session.engine).run(prompts, gens, depths, batches, options["repeat"]):
            found.append(m)
            if not as_json:
                click.echo(f"{m.test:<16}{m.depth:>8,}{m.batch:>7}   {m.tokens_per_second:,.1f} ± {m.deviation:.1f}")
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
