"""`llamakit train`: a model of one's own, from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from llamakit.plugins.frontends.cli import train_run
from llamakit.plugins.frontends.cli.params import Context, json_option, output_options
from llamakit.plugins.frontends.cli.train_flags import train_flags, train_options

from llamakit.errors import LlamaKitError, UsageError
from llamakit.train.new_model import PRETRAINING, USUAL_CTX, NewModelOptions

if TYPE_CHECKING:
    from llamakit.train.options import TrainOptions
    from llamakit.train.scratch import Shape

ADAPTERS = (
    "full", "rank", "alpha", "rslora", "targets", "rank_pattern", "alpha_pattern", "forward", "schedule_2023",
)  # fmt: skip
SHOWN = {
    "lr": PRETRAINING["lr"], "train_on": PRETRAINING["train_on"], "packing": "wrapped for texts, else segments",
    "ctx": USUAL_CTX,
}  # fmt: skip
SHARE_OF_TIME = 0.9  # that is planned, of --max-minutes


@click.group(invoke_without_command=True, subcommand_metavar="[resume ...]")
@train_flags(of=NewModelOptions)
@train_flags(without=ADAPTERS, defaults=SHOWN)
@train_run.backend_option
@json_option
@output_options
@click.pass_context
def train(ctx: click.Context, **options: Any) -> None:
    """Train a model from scratch on your texts. It is DIR/model.gguf, and any GGUF program can run it.

    Data are what finetune takes; plain texts are usual. The vocabulary is made from them (needs sentencepiece), or is
    that of --vocab. With --max-minutes and neither --steps nor --epochs, as many steps are done as fit. AdamW has
    beta2=0.95 and weight_decay=0.1 unless --optimizer-options says something else.

    \b
    llamakit train --data tales.txt --out run --params 5M --max-minutes 30
    llamakit train resume run
    llamakit generate -m run/model.gguf -p "Once upon a time"
    """
    if ctx.invoked_subcommand is not None:
        return
    from llamakit.gguf.atomic import refuse_to_replace
    from llamakit.gguf.reader import paths_of
    from llamakit.train.data.files import find_files
    from llamakit.train.folder import held
    from llamakit.training import FIRST, MODEL, check_new

    context = Context(ctx, options["quiet"], options["verbose"])
    model = train_options(options, NewModelOptions)
    chosen = pretraining(options)
    folder = Path(chosen.out)
    sources = [*find_files([*chosen.data, *chosen.val_data]), *paths_of(model.vocab)]
    check_new(folder, MODEL, sources, "train")
    refuse_to_replace(folder / FIRST, sources, "what the run learns from")
    with held(folder):
        shape = first_model(context, folder / FIRST, model, chosen)
        context.console.note(described(shape))
        options["model"] = str(folder / FIRST)
        with train_run.open_session(context, options, chosen) as session:
            fitted = session.trainer(chosen)
            if chosen.max_minutes and not options["train_steps"] and not options["train_epochs"]:
                fitted = session.trainer(in_time(fitted))
            train_run.train(context, fitted, options["as_json"])


train.add_command(train_run.resume)


def pretraining(options: dict[str, Any]) -> TrainOptions:
    """The options of training, with the defaults of training from scratch."""
    from llamakit.train.new_model import is_text

    defaults = dict(PRETRAINING)
    if not (options["train_optimizer"] or "adamw").startswith("adamw"):
        del defaults["optimizer_options"]
    chosen = train_options(options, **defaults)
    for name, what in (("data", "a file to learn from"), ("out", "a folder for what is made")):
        if not getattr(chosen, name):
            raise UsageError(f"--{name} is missing: name {what}", hint="llamakit train --help", param=name)
    if not options["train_packing"] and is_text(chosen.data, chosen.kind):
        defaults["packing"] = "wrapped"
    return train_options(options, **defaults | {"ctx": chosen.ctx or USUAL_CTX})


def first_model(context: Context, path: Path, model: NewModelOptions, chosen: TrainOptions) -> Shape:
    """Write what training begins with."""
    from llamakit.train.new_model import make_model

    try:
        with context.console.progress("making the vocabulary and first weights"):
            return make_model(
                path, data=chosen.data, kind=chosen.kind, n_ctx=chosen.ctx, seed=chosen.seed, options=model
            )
    except OSError as error:
        raise LlamaKitError(f"{path} cannot be written: {error.strerror or error}") from None


def described(shape: Shape) -> str:
    """The model in a line."""
    heads = f"{shape.n_head} heads" + ("" if shape.n_head_kv == shape.n_head else f" ({shape.n_head_kv} for keys)")
    return (
        f"model      {shape.n_parameter / 1e6:,.3g} M parameters: {shape.n_layer} layers of {shape.n_embd}, {heads}, "
        f"{shape.n_ff} inside, {shape.n_vocab:,} tokens"
    )


def in_time(trainer: Any) -> TrainOptions:
    """The options with as many steps as fit into --max-minutes, so that the learning rate comes to its end."""
    import msgspec

    from llamakit.train.run import VALIDATIONS

    plan, o = trainer.plan(), trainer.options
    rows = len(trainer.windows[1]) * trainer.n_ctx * (1 if not o.val_every else 0)
    validating = VALIDATIONS * rows / plan.rows * plan.micro_step / 3  # a third: no gradients
    seconds = max(0.0, o.max_minutes * 60 * SHARE_OF_TIME - validating)
    return msgspec.structs.replace(o, steps=max(1, int(seconds / plan.step_seconds)))
