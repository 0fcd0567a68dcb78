"""`llamakit bench`: how fast a model runs here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from llamakit.plugins.frontends.cli.params import (
    Context,
    OutputPath,
    device_options,
    json_option,
    model_option,
    output_options,
)

from llamakit.errors import UsageError
from llamakit.terminal import json_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamakit.backend import Ceilings
    from llamakit.engine.bench import Measurement


def _numbers(text: str, least: int) -> list[int]:
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{text!r} is not a list of numbers such as 0,4096") from None
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
@device_options
@click.option("--kv-type", metavar="TYPE", help="Type of keys and values: f32, f16, bf16, q8_0. [f16]")
@click.option("--plot", type=OutputPath(dir_okay=False, path_type=Path), help="Draw it: a .png or .svg file.")
@json_option
@output_options
@click.pass_context
def bench(ctx: click.Context, as_json: bool, plot: Path | None, **options: Any) -> None:
    """Measure tokens per second of prompts (pp) and of generation (tg).

    Beside them: how much that is of what this machine could do at best, if it did nothing but read the weights from
    memory and multiply. Weights that stay in caches may come to more than 100%.

    \b
    llamakit bench -m model.gguf -p 512 -n 128 -d 0,4096 -b 1,8
    """
    from llamakit.engine.bench import Bench
    from llamakit.work import Work

    draw = None if plot is None else _drawing(plot)
    prompts, gens = _numbers(options["n_prompt"], 0), _numbers(options["n_gen"], 0)
    depths, batches = _numbers(options["depth"], 0), _numbers(options["batch"], 1)
    context = Context(ctx, options["quiet"], options["verbose"])
    context.apply(options)
    context.apply({"ctx_size": max(depths) + max(*prompts, *gens) + 1, "batch_size": 512})
    found = []
    with context.session(n_seq=max(batches)) as session:
        ceilings = session.device.ceilings() if session.weights else None
        work = None
        if ceilings is not None:
            spec = session.engine.space.kv.spec
            work = Work(session.model, session.file, session.device, session.weights, spec, ceilings)
        if not as_json:
            _show_ceilings(ceilings)
            click.echo(f"{'test':<16}{'depth':>8}{'batch':>7}{'tok/s':>18}" + ("   of the most" if ceilings else ""))
        for m in Bench(session.engine, work).run(prompts, gens, depths, batches, options["repeat"]):
            found.append(m)
            if not as_json:
                rate = f"{m.tokens_per_second:,.1f} ± {m.deviation:.1f}"
                share = f"   {m.share:.0%} ({m.limit})" if m.limit else ""
                click.echo(f"{m.test:<16}{m.depth:>8,}{m.batch:>7}{rate:>18}{share}")
    if as_json:
        click.echo(json_text({"ceilings": ceilings, "measurements": found}))
    if draw is not None:
        draw(found, session.path.name)


def _show_ceilings(ceilings: Ceilings | None) -> None:
    """What the device does at best, in a line or two."""
    if ceilings is None:
        return
    rates = ", ".join(f"{type_} {rate / 1e9:,.0f}" for type_, rate in ceilings.multiply_adds.items())
    click.echo(f"at best: reads {ceilings.read_bandwidth / 1e9:.1f} GB/s, 10^9 multiply-adds/s: {rates}")
    for what, text in ceilings.notes.items():
        click.echo(f"{what}: {text}")


def _drawing(path: Path) -> Callable[[list[Measurement], str], None]:
    """The function that draws; errors about the file or a missing library come before anything is measured."""
    if path.suffix not in (".png", ".svg"):
        raise UsageError(f"--plot {path}: the name must end in .png or .svg")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--plot {path}: there is no folder {path.absolute().parent}")
    try:
        from llamakit.plugins.frontends.cli.bench_plot import draw
    except ImportError as error:
        raise UsageError(f"--plot draws with matplotlib: {error}", hint="pip install 'llamakit[plot]'") from None
    return lambda found, title: draw(found, title, path)
