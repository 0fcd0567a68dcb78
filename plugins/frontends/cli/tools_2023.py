"""The training tools of 2023 on the command line: their flags as they were, in any command that knows them."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import click
from llamakit.plugins.frontends.cli.console import Console

from llamakit.start import INTERRUPTED

if TYPE_CHECKING:
    from llamakit.train.tools_2023.flags import Tool

KEY = "llamakit.args_2023"


class FinetuneGroup(click.Group):
    """`llamakit finetune`: a command line with flags of 2023 is that of the tool of 2023."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leave the flags of 2023 to their own parser."""
        from llamakit.train.tools_2023.flags import is_2023

        if ctx.resilient_parsing or not is_2023("finetune", args):
            return super().parse_args(ctx, args)
        ctx.meta[KEY] = list(args)
        return []

    def invoke(self, ctx: click.Context) -> Any:
        """Run the one or the other."""
        if KEY in ctx.meta:
            return run_tool("finetune", ctx.meta[KEY])
        return super().invoke(ctx)


class Command2023(click.Command):
    """A command whose options are those of a tool of 2023: `args` has them as they were given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Nothing is parsed here, but for the wish for help."""
        if not ctx.resilient_parsing and any(arg in ("-h", "--help") for arg in args):
            click.echo(self.get_help(ctx), color=ctx.color)
            ctx.exit()
        ctx.params["args"] = list(args)
        return []

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of the flags."""
        formatter.write(usage_2023(self.name or "", formatter))


def usage_2023(tool: Any, formatter: click.HelpFormatter | None = None) -> str:
    """All flags of a tool with their defaults."""
    from llamakit.train.tools_2023.flags import FLAGS

    found = click.HelpFormatter(max_width=formatter.width if formatter else 100)
    rows = []
    for flag in FLAGS[tool]:
        value = "" if flag.value is not None else f" {flag.kind.upper()}"
        default = "" if flag.default in (None, "") or flag.value is not None else f" [{flag.default}]"
        rows.append((", ".join(flag.names) + value, f"{flag.meaning[:1].upper()}{flag.meaning[1:]}.{default}"))
    with found.section("Options"):
        found.write_dl(rows, col_max=34)
    return found.getvalue()


def run_tool(tool: Tool, args: list[str]) -> None:
    """Run a tool of 2023. Ctrl-C ends it after the iteration that runs, and saves; a second one at once."""
    from llamakit.plugins.frontends.cli.train_view import TrainView

    from llamakit.train.tools_2023.plan import plan_2023
    from llamakit.training_2023 import Tool2023

    console, (backend, rest) = Console(), _backend(args)
    with Tool2023(plan_2023(tool, rest), backend=backend, say=console.note) as made:
        if made.plan.only_write:
            made.write_only()
            console.note(f"written from {made.plan.files.checkpoint_in}")
            return
        run = made.run_state

        def interrupted(*_: object) -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            run.stop()

        before = {number: signal.signal(number, interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with TrainView(console, tool) as view:
                run.callbacks.append(view)
                reason = run.run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        console.note(f"{reason}: {run.iteration} iterations")
    if reason == "interrupted":
        click.get_current_context().exit(INTERRUPTED)


def _backend(args: list[str]) -> tuple[str, list[str]]:
    """--backend NAME, which 2023 did not have, and the rest."""
    if "--backend" not in args[:-1]:
        return "auto", args
    at = args.index("--backend")
    return args[at + 1], args[:at] + args[at + 2 :]


@click.command(cls=Command2023)
def train_text_from_scratch(args: list[str]) -> None:
    """Train a small model from a text, as the tool of 2023 did, with its flags, checkpoints and samples.

    \b
    llamakit train-text-from-scratch --vocab-model words.gguf --train-data a.txt
    """
    run_tool("train-text-from-scratch", args)
