"""`llamakit finetune`: train an adapter, or the model itself, on one's own data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from llamakit.plugins.frontends.cli.params import Context, json_option, model_option, output_options
from llamakit.plugins.frontends.cli.tools_2023 import FinetuneGroup
from llamakit.plugins.frontends.cli.train_flags import train_flags, train_options
from llamakit.plugins.frontends.cli.train_run import backend_option, open_session, resume, train, trained_text

from llamakit.errors import UsageError
from llamakit.options import size_in_bytes
from llamakit.terminal import json_text
from llamakit.units import size_text

if TYPE_CHECKING:
    from llamakit.train.plan import Advice, RunPlan
    from llamakit.training import Trainer


@click.group(cls=FinetuneGroup, invoke_without_command=True, subcommand_metavar="[resume|eval|plan ...]")
@model_option
@train_flags()
@backend_option
@json_option
@output_options
@click.pass_context
def finetune(ctx: click.Context, **options: Any) -> None:
    """Train an adapter (LoRA) for a model on your data, or with --full the model itself.

    Data are JSON lines of messages, of a prompt and its completion, of instructions, or texts. The adapter is
    DIR/adapter.gguf; checkpoints and the log are beside it. Ctrl-C saves, and resume goes on.

    \b
    llamakit finetune -m model.gguf --data train.jsonl --out run
    llamakit finetune resume run
    llamakit serve -m model.gguf --lora run/adapter.gguf

    Command lines of the 2023 finetune (--model-base, --train-data, ...) are taken too: docs/training-2023.md.
    """
    if ctx.invoked_subcommand is not None:
        return
    context = Context(ctx, options["quiet"], options["verbose"])
    chosen = train_options(options)
    for name, what in (("data", "a file to learn from"), ("out", "a folder for what is made")):
        if not getattr(chosen, name):
            raise UsageError(f"--{name} is missing: name {what}", hint="llamakit finetune --help", param=name)
    with open_session(context, options, chosen) as session:
        train(context, session.trainer(chosen), options["as_json"])


@finetune.command()
@model_option
@train_flags()
@click.option("--memory", metavar="SIZE", help="Memory that the run may take, such as 8G. [what is free]")
@backend_option
@json_option
@output_options
@click.pass_context
def plan(ctx: click.Context, **options: Any) -> None:
    """Say what a run would take: memory, seconds a step, and with which options it fits. Nothing is written.

    \b
    llamakit finetune plan -m model.gguf --data train.jsonl
    llamakit finetune plan -m model.gguf --data train.jsonl --memory 8G
    """
    import msgspec

    context = Context(ctx, options["quiet"], options["verbose"])
    chosen = train_options(options)
    chosen = msgspec.structs.replace(chosen, out=chosen.out or "plan")
    limit = size_in_bytes(options["memory"], "--memory") if options["memory"] is not None else None
    if not chosen.data:
        raise UsageError("--data is missing: name a file to learn from", param="data")
    with open_session(context, options, chosen) as session:
        trainer = session.trainer(chosen)
        found = trainer.plan()
        free = trainer.session.device.memory().free if limit is None else limit
        advice = trainer.advice(free) if found.memory > free else None
        if options["as_json"]:
            record = {**msgspec.to_builtins(found), "memory": found.memory, "seconds": found.seconds}
            if advice is not None:
                record["advice"] = {"flags": advice.flags, **msgspec.to_builtins(advice)}
            click.echo(json_text(record))
            return
        write_plan(trainer, found, f"{size_text(free)} {'free' if limit is None else 'allowed'}")
        if advice is not None:
            write_advice(trainer, advice)


def write_plan(trainer: Trainer, found: RunPlan, room: str) -> None:
    """For people."""
    from llamakit.train.report import duration

    values, again = (found.values_again, "computed again") if found.recomputes else (found.values, "kept")
    rows = [
        ("trained", trained_text(trainer)),
        ("memory", f"{size_text(found.memory)} of {room}"),
        ("", f"{size_text(found.weights)} weights, {size_text(found.states)} states of training"),
        ("", f"{size_text(values)} values of {found.rows:,} rows, {again}"),
        ("time", f"{found.step_seconds:.3g} s a step, {found.steps:,} steps: {duration(found.seconds)}"),
        ("speed", f"{found.rows / found.micro_step:,.0f} tokens/s"),
    ]
    for label, text in rows:
        click.echo(f"{label:<9}{text}")
    if not found.recomputes:
        click.echo(
            f"note: --checkpointing on would need {size_text(found.values_again)} for values instead, about 15 % slower"
        )


def write_advice(trainer: Trainer, advice: Advice) -> None:
    """What would fit, or what takes least."""
    if advice.fits:
        click.echo(f"it does not fit; this does: {advice.flags} ({size_text(advice.memory)})")
        return
    base = "an adapter (without --full)" if trainer.options.full else "a smaller base, or one in a smaller type"
    least = "no option makes it smaller"
    if advice.flags:
        least = f"with {advice.flags} it still takes {size_text(advice.memory)}"
    click.echo(f"it does not fit: {least}; try {base}")


@finetune.command("eval")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False))
@click.option("--data", "files", metavar="FILE", multiple=True, required=True, help="Data to measure on. Repeatable.")
@click.option("-m", "--model", metavar="FILE", help="The base, if it has moved.")
@click.option("--samples", type=click.IntRange(0, 100), default=2, metavar="N", help="Answers to show. [2]")
@click.option("--tokens", type=click.IntRange(1, 4096), default=60, metavar="N", help="Length of each. [60]")
@backend_option
@json_option
@output_options
@click.pass_context
def evaluate(ctx: click.Context, folder: str, files: tuple[str, ...], **options: Any) -> None:
    """Compare the base with what was trained in DIR: loss, perplexity, bits per byte, answers side by side."""
    import msgspec
    from llamakit.plugins.frontends.cli.finetune_samples import show_samples

    from llamakit.train import checkpoint
    from llamakit.training import Trainer, base_of

    context = Context(ctx, options["quiet"], options["verbose"])
    path, head = checkpoint.best(Path(folder) / "checkpoints")
    options["model"] = options["model"] or base_of(Path(folder), head)
    chosen = msgspec.structs.replace(head.options, data=list(files), val_data=[], val_split=0.0)
    with open_session(context, options, chosen) as session:
        trainer = Trainer(session, chosen)
        scores = dict(zip(("base", "trained"), trainer.scores(path), strict=True))
        if options["as_json"]:
            click.echo(json_text({"step": head.progress.step, **scores}))
            return
        click.echo(f"{'':9}{'loss':>10}{'perplexity':>12}{'bits/byte':>11}{'tokens':>10}")
        for name, score in scores.items():
            numbers = f"{score.loss:10.4f}{score.perplexity:12.4f}{score.bits_per_byte:11.4f}{score.tokens:10,}"
            click.echo(f"{name:9}{numbers}")
        show_samples(trainer, Path(folder), options["samples"], options["tokens"])


finetune.add_command(resume)
