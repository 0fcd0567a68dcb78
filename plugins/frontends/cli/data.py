"""`llamakit data`: a look at data to train on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
from llamakit.plugins.frontends.cli.console import safe
from llamakit.plugins.frontends.cli.params import Context, json_option, model_option, output_options
from llamakit.plugins.frontends.cli.train_flags import DATA, train_flags, train_options

from llamakit.embedded import named_or_embedded
from llamakit.terminal import json_text

if TYPE_CHECKING:
    from llamakit.train.data.check import Bin, DataCheck, Run, Shown

BAR_WIDTH = 40
MOST_BAD = 10  # lines that are shown
RUN_HEAD, RUN_TAIL = 240, 160  # characters of a long text that are shown
OPEN, CLOSE = "⟦", "⟧"


@click.group()
def data() -> None:
    """Look at data to train on."""


@data.command()
@click.argument("files", nargs=-1, required=True)
@model_option
@train_flags(DATA)
@click.option("--show", type=click.IntRange(0, 1000), default=3, metavar="N", help="Samples to show. [3]")
@json_option
@output_options
@click.pass_context
def check(ctx: click.Context, files: tuple[str, ...], model: str | None, show: int, **options: Any) -> None:
    """Say what FILES are, how long, how much of them counts, what would be cut, and what is there twice.

    Samples are shown as the model would see them, with what it learns to write in green, or in brackets. The exit code
    is 1 if something cannot be read or there is nothing to learn from.

    \b
    llamakit data check train.jsonl -m model.gguf
    llamakit data check "data/*.jsonl" -m model.gguf -c 2048 --json
    """
    from llamakit.train.data.check import check_data
    from llamakit.train.data.dataset import window_size
    from llamakit.train.mask import Encoder

    context = Context(ctx, options["quiet"], options["verbose"])
    context.apply({"model": model})
    tokenizer, template, n_ctx_train = _model(context.config["model"])
    chosen = train_options(options, data=list(files))
    encoder = Encoder(tokenizer, template, how=chosen.template, train_on=chosen.train_on)
    with context.console.progress("reading") as progress:
        n_ctx = window_size(chosen.ctx, n_ctx_train)
        found = check_data(chosen, encoder, n_ctx, show=show, progress=progress.update)
    if options["as_json"]:
        click.echo(json_text(found))
    else:
        _write(found, encoder.plain)
    ctx.exit(0 if found.usable else 1)


def _model(path: str) -> tuple[Any, Any, int]:
    """Tokenizer, chat template and context of a model; the weights are not read."""
    from llamakit.chat.template import ChatTemplate
    from llamakit.gguf import open_gguf
    from llamakit.tokenizer import load_tokenizer

    metadata = open_gguf(named_or_embedded(path)[0]).metadata
    tokenizer = load_tokenizer(metadata)
    n_ctx = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    return tokenizer, ChatTemplate.from_metadata(metadata, tokenizer), n_ctx if isinstance(n_ctx, int) else 0


def _write(found: DataCheck, plain: bool) -> None:
    """For people."""
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in found.kinds.items()) or "nothing"
    rows = [
        ("files", ", ".join(map(safe, found.files))),
        ("records", f"{found.records:,} ({kinds})"),
        ("prompts", "as they are" if plain else "by the model's chat template"),
        ("samples", f"{found.samples:,}, of which {found.validation:,} to validate on"),
        ("tokens", f"{found.tokens:,}, {found.loss_tokens:,} of which count ({found.masked:.1%} masked)"),
        ("windows", f"{found.windows:,} of {found.ctx:,} tokens, {found.fill:.1%} full"),
        ("sha-256", found.digest),
    ]
    for label, text in rows:
        click.echo(f"{label:<11}{text}")
    _write_problems(found)
    if found.lengths:
        low, _, median, most, high = found.lengths.values()
        click.echo(f"\nlengths    {low:,} to {high:,} tokens, half up to {median:,}, 95 % up to {most:,}")
        _write_histogram(found.histogram, found.ctx, cut=bool(found.truncated))
    for shown in found.shown:
        _write_sample(shown)


def _write_problems(found: DataCheck) -> None:
    """What would be lost or cannot be read."""
    notes = []
    if found.empty:
        notes.append(f"nothing to learn from in {found.empty:,} records: they have no answer")
    if found.truncated:
        lost = f", {found.lost_tokens:,} tokens that count are lost" if found.lost_tokens else ""
        gone = f", of {found.dropped:,} nothing that counts is left" if found.dropped else ""
        longest = found.lengths["100"] - 1
        notes.append(f"{found.truncated:,} samples do not fit and are cut{lost}{gone}; -c {longest} would hold all")
        if found.dropped:
            notes.append("--truncate start cuts their prompts instead, so that the answers stay")
    if found.duplicates:
        places = ", ".join(f"{safe(place)} as {safe(earlier)}" for place, earlier in found.duplicate_places)
        more = ", ..." if found.duplicates > len(found.duplicate_places) else ""
        notes.append(f"{found.duplicates:,} records are there twice: {places}{more}")
    for note in notes:
        click.echo(f"{click.style('note:', fg='yellow')} {note}")
    for text in found.bad[:MOST_BAD]:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {safe(text)}")
    if len(found.bad) > MOST_BAD:
        click.echo(f"and {len(found.bad) - MOST_BAD:,} more that cannot be read")


def _write_histogram(bins: list[Bin], n_ctx: int, *, cut: bool) -> None:
    """A bar for each bin; those that are cut in red."""
    most = max(each.count for each in bins)
    width = len(f"{bins[-1].high:,}")
    for each in bins:
        bar = "█" * round(each.count / most * BAR_WIDTH) or ("▏" if each.count else "")
        over = cut and each.high > n_ctx + 1
        bar = click.style(bar, fg="red") if over else bar
        mark = "  cut" if over and each.low > n_ctx + 1 and each.count else ""
        click.echo(f"  {each.low:>{width},} - {each.high:>{width},}  {each.count:>9,}  {bar}{mark}")


def _write_sample(shown: Shown) -> None:
    """One sample, marked."""
    title = f"{safe(shown.place)}: {shown.tokens:,} tokens, {shown.loss_tokens:,} count"
    click.echo("\n" + click.style(title, bold=True))
    asked = click.get_current_context().color
    colour = sys.stdout.isatty() if asked is None else asked
    click.echo("".join(_marked(run, colour) for run in shown.runs))


def _marked(run: Run, colour: bool) -> str:
    text = safe(run.text)
    if len(text) > RUN_HEAD + RUN_TAIL:
        text = f"{text[:RUN_HEAD]} ... {text[-RUN_TAIL:]}"
    if not colour:
        return f"{OPEN}{text}{CLOSE}" if run.loss else text
    return click.style(text, fg="green", bold=True) if run.loss else click.style(text, dim=True)
