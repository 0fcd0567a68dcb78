"""`llamakit chat`: talk to a model in the terminal, here or on a server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click
from llamakit.plugins.frontends.cli.params import Context, SamplingCommand, common_options, sampler_names

from llamakit.errors import UsageError
from llamakit.start import INTERRUPTED

if TYPE_CHECKING:
    from llamakit.plugins.frontends.cli.talk.source import Source
    from llamakit.plugins.frontends.cli.talk.talk import Talk


@click.command(cls=SamplingCommand)
@common_options
@click.option("--url", metavar="URL", help="Talk to a server; -m then names one of its models.")
@click.option("--api-key", metavar="KEY", help="The server's API key. [OPENAI_API_KEY]")
@click.option("-p", "--prompt", metavar="TEXT", help="Answer this one message and leave.")
@click.option("-s", "--system", metavar="TEXT", help="System prompt.")
@click.option(
    "-n", "--n-predict", type=int, default=-1, metavar="N", help="Tokens of an answer at most; -1 until its end. [-1]"
)
@click.option("--seed", type=int, metavar="N", help="Seed of random numbers; -1 = a new one. [-1]")
@click.option("--samplers", metavar="A;B;C", help="Samplers in order, such as top_k;top_p;temperature.")
@click.option("--lora", multiple=True, metavar="FILE", help="A LoRA adapter to use. Repeatable.")
@click.option("--markdown/--no-markdown", default=True, help="Show Markdown as what it means, on a terminal. [on]")
@click.option("--history/--no-history", default=True, help="Keep what is typed for the next chat. [on]")
@click.option("--timings", is_flag=True, help="A timing line after each answer.")
@click.pass_context
def chat(ctx: click.Context, sampling: dict[str, Any], **options: Any) -> None:
    """Talk to a model. Ctrl-C stops an answer, Ctrl-D leaves, /help lists commands.

    \b
    llamakit chat -m model.gguf
    llamakit chat -m model.gguf -p "Why is the sky blue?"
    llamakit chat --url http://127.0.0.1:8080
    """
    from llamakit.plugins.frontends.cli.talk.settings import Settings
    from llamakit.plugins.frontends.cli.talk.talk import Talk
    from llamakit.plugins.frontends.cli.talk.terminal import Terminal

    context = Context(ctx, options["quiet"], options["verbose"])
    asked_model = options["model"]
    context.apply(options)
    settings = Settings(_values(context, sampling, options))
    terminal = Terminal((ctx.find_root().obj or {}).get("color", "auto"))
    source = _source(context, options, asked_model)
    try:
        talk = Talk(
            source, settings, terminal, markdown=options["markdown"], timings=options["timings"], quiet=options["quiet"]
        )
        talk.conversation.system = options["system"] or ""
        if options["prompt"] is not None:
            code = 0 if talk.once(options["prompt"]) else INTERRUPTED
        else:
            code = _loop(talk, options)
    finally:
        source.close()
    ctx.exit(code)


def _values(context: Context, sampling: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The options that the command line and the settings change."""
    values: dict[str, Any] = dict(context.sampling(sampling))
    if options["n_predict"] != -1:
        values["max_tokens"] = options["n_predict"]
    if context.config["seed"] != -1:
        values["seed"] = context.config["seed"]
    if options["samplers"] is not None:
        known = None if options["url"] else list(context.registry.samplers())
        names = sampler_names(options["samplers"], known) if known else options["samplers"].split(";")
        values["samplers"] = ";".join(names or ())
    return values


def _source(context: Context, options: dict[str, Any], model: str | None) -> Source:
    if options["url"]:
        from llamakit.plugins.frontends.cli.talk.client import Client
        from llamakit.plugins.frontends.cli.talk.remote import Remote

        if options["lora"]:
            raise UsageError("--lora needs a local model", hint="llamakit serve --lora FILE", param="lora")
        key = options["api_key"] or os.environ.get("OPENAI_API_KEY")
        return Remote(Client(options["url"], key), model)
    from llamakit.plugins.frontends.cli.talk.local import Local

    return Local(context, options["lora"])


def _loop(talk: Talk, options: dict[str, Any]) -> int:
    """Read entries: with an editor on a terminal, one a line elsewhere."""
    from llamakit.plugins.frontends.cli.talk.reader import PlainReader, QuitAtOnce, Reader

    terminal = talk.terminal
    if terminal.reads and not options["quiet"]:
        terminal.say(f"{terminal.bold(talk.source.title)}. /help for commands, Ctrl-D to leave.")
    reader: Reader = PlainReader(terminal)
    if terminal.edits:
        from llamakit.plugins.frontends.cli.talk.commands import completions
        from llamakit.plugins.frontends.cli.talk.history import Entries, history_file
        from llamakit.plugins.frontends.cli.talk.prompt import PromptReader

        entries = Entries(history_file() if options["history"] else None)
        reader = PromptReader(terminal, entries, completions(talk))
    try:
        return talk.loop(reader)
    except QuitAtOnce:
        return 131
