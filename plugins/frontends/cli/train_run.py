"""What `finetune` and `train` have in common: a run that is shown, logged, stopped and gone on with."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from llamakit.plugins.frontends.cli.params import Context, json_option, output_options
from llamakit.plugins.frontends.cli.train_flags import train_flags, train_options

from llamakit.errors import LlamaKitError
from llamakit.start import INTERRUPTED
from llamakit.terminal import json_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llamakit.plugins.frontends.cli.train_view import TrainView

    from llamakit import Session
    from llamakit.train.run import RunResult
    from llamakit.training import Trainer

RESUMED = ("epochs", "steps", "save_every", "keep", "val_every", "patience", "max_minutes", "threads", "nice")


def backend_option(command: Any) -> Any:
    """--backend."""
    text = "Backends in order of preference, or auto. [auto]"
    return click.option("--backend", metavar="NAMES", help=text)(command)


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False))
@click.option("-m", "--model", metavar="FILE", help="The base, if it has moved.")
@train_flags(RESUMED, resumed=True)
@backend_option
@json_option
@output_options
@click.pass_context
def resume(ctx: click.Context, folder: str, **options: Any) -> None:
    """Go on with the run in DIR from its last checkpoint, as if it had never stopped."""
    from llamakit.train import checkpoint
    from llamakit.training import Trainer, base_of

    context = Context(ctx, options["quiet"], options["verbose"])
    changed = train_options(options)
    changes = {name: getattr(changed, name) for name in RESUMED if options[f"train_{name}"] is not None}
    _, head = checkpoint.latest(Path(folder) / "checkpoints")
    options["model"] = options["model"] or base_of(Path(folder), head)
    with open_session(context, options, changed if changed.threads else head.options) as session:
        train(context, Trainer.resume(folder, session=session, **changes), options["as_json"])


@contextmanager
def open_session(context: Context, options: dict[str, Any], chosen: Any) -> Iterator[Session]:
    """The session of the base; its weights are loaded when they are needed."""
    from llamakit.training import one_device

    context.apply({"model": options["model"], "backend": options["backend"]})
    config = context.config
    path = context.model_path()
    threads = chosen.threads or config["threads"] or None
    session, told = one_device(
        path,
        registry=context.registry,
        backend=config["backend"],
        backend_options=config.backend_options(),
        threads=threads,
        gpu_layers=min(config["gpu_layers"], 0),  # that none is wanted counts here too; a number of them does not
        main_gpu=config["main_gpu"],
    )
    if told:
        context.console.note(f"device     {told}")
    with session:
        yield session


def train(context: Context, trainer: Trainer, as_json: bool) -> None:
    """Run, show how it goes, draw the curves."""
    from llamakit.plugins.frontends.cli.train_view import TrainView

    trainer.check_folder()
    with trainer.held():
        describe(context, trainer)
        view = TrainView(context.console)
        with view, stopping(trainer, view):
            result = trainer.on_step(view).run()
        finish(context, trainer, result, as_json)


def describe(context: Context, trainer: Trainer) -> None:
    """What will be done, in a few lines."""
    data, (windows, validation) = trainer.dataset, trainer.windows
    o, state = trainer.settled, trainer.run_state
    steps = f"{state.total:,} {'step' if state.total == 1 else 'steps'}"
    kinds = ", ".join(f"{count:,} of {kind}" for kind, count in data.kinds.items())
    lines = [
        f"data       {len(data.train):,} samples ({kinds}), {len(windows):,} windows of {trainer.n_ctx} tokens, "
        f"{len(validation):,} to validate on",
        f"trained    {trained_text(trainer)}",
        f"run        {steps} of {o.batch * o.grad_accumulation} windows, {o.optimizer}, lr {o.lr:g}, "
        f"seed {o.seed}" + (f", from step {state.progress.step}" if state.progress.step else ""),
    ]
    lines += [f"note       {text}" for text in notes(trainer)]
    for line in lines:
        context.console.note(line)


def notes(trainer: Trainer) -> list[str]:
    """What a person may not expect: samples that are cut or left out, smaller ranks, long windows."""
    from llamakit.train.targets import cut_ranks, left_out

    found = []
    if trainer.settled.epochs > 1 and not trainer.options.epochs and not trainer.options.steps:
        epochs = f"{trainer.settled.epochs:g}"
        found.append(f"few data: they are gone through {epochs} times; --epochs or --steps for more or less")
    for what, windows in zip(("samples", "samples to validate on"), trainer.windows, strict=True):
        if windows.truncated:
            found.append(f"{windows.truncated:,} {what} are longer than a window and were cut; see data check")
        if windows.dropped:
            found.append(f"{windows.dropped:,} {what} have no answer within a window and are left out")
    if cut := cut_ranks(trainer.adapters, trainer.options):
        ranks = ", ".join(f"{name} {rank}" for name, rank in cut.items())
        found.append(f"the rank is cut to the size of smaller weights: {ranks}")
    if (names := left_out(trainer.adapters, trainer.options)) and not trainer.options.full:
        found.append(f"no adapter can change this model's {', '.join(names)}; all others have one")
    known = trainer.session.model.hparams.n_ctx_train
    if known and trainer.n_ctx > known:
        found.append(f"windows of {trainer.n_ctx:,} tokens; the base was trained for {known:,}")
    return found


def trained_text(trainer: Trainer) -> str:
    """How many numbers are trained."""
    total = 0
    for tensor in trainer.graphs.trained.values():
        count = 1
        for size in tensor.shape:
            count *= size
        total += count
    share = total / trainer.session.model.n_parameter
    what = "all weights" if trainer.options.full else f"adapters of {len(trainer.adapters)} tensors"
    return f"{what}, {total / 1e6:,.3g} M parameters ({share:.2%} of the base)"


@contextmanager
def stopping(trainer: Trainer, view: TrainView) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a terminal that is closed end the run after its step; a second Ctrl-C ends it at once."""

    def stop(signum: int, frame: Any) -> None:
        trainer.stop()
        view.stopping()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    numbers = [signal.SIGINT, signal.SIGTERM]
    closed = getattr(signal, "SIGHUP", None)  # nohup has it ignored
    if closed is not None and signal.getsignal(closed) != signal.SIG_IGN:
        numbers.append(closed)
    old = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def finish(context: Context, trainer: Trainer, result: RunResult, as_json: bool) -> None:
    """The end, the curves, and what to do with the result."""
    import msgspec

    from llamakit.run_folder import ADAPTER, MODEL

    made = trainer.folder / (MODEL if trainer.options.full else ADAPTER)
    curves(context, trainer)
    if as_json:
        record = {**msgspec.to_builtins(result), "file": str(made), "folder": str(trainer.folder)}
        click.echo(json_text(record))
    best = f", best validation {result.best_loss:.4f} at step {result.best_step}" if result.best_step else ""
    why = {"done": "done", "time": "time is up", "no improvement": "no improvement"}.get(result.reason, "stopped")
    context.console.note(f"{why} at step {result.step} of {result.total}{best}")
    if result.reason != "done":
        command = click.get_current_context().find_root().invoked_subcommand
        more = " --patience 0" if result.reason == "no improvement" else ""
        context.console.note(f"go on:     llamakit {command} resume {trainer.folder}{more}")
    if made.exists():
        serve = f"-m {made}" if trainer.options.full else f"-m {trainer.session.path} --lora {made}"
        only_texts = set(trainer.dataset.kinds) <= {"text"}
        use = f'generate {serve} -p "..."' if only_texts else f"chat {serve}"
        context.console.note(f"use it:    llamakit {use}")
    if result.reason == "interrupted":
        click.get_current_context().exit(INTERRUPTED)


def curves(context: Context, trainer: Trainer) -> None:
    """A picture of the run, where matplotlib is installed. The run is done, so it fails for no picture."""
    from llamakit.train.report import LOG_NAME, read_log
    from llamakit.training import CURVES

    try:
        from llamakit.train.curves import draw_curves

        path = trainer.folder / CURVES
        draw_curves(read_log(trainer.folder / LOG_NAME), path, trainer.session.path.stem)
        context.console.detail(f"curves     {path}")
    except (ImportError, LlamaKitError, OSError, ValueError) as error:
        context.console.detail(f"curves     {error}")
