"""`llamakit generate`: text from a prompt, streamed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from llamakit.plugins.frontends.cli.console import Console, dim, rate_of, tokens, write
from llamakit.plugins.frontends.cli.params import (
    Context,
    OutputPath,
    SamplingCommand,
    common_options,
    complete_samplers,
    read_text,
    sampler_names,
)

from llamakit.errors import UsageError
from llamakit.options import fields_of
from llamakit.start import INTERRUPTED

if TYPE_CHECKING:
    from llamakit import Session
    from llamakit.engine.request import Result


LONGEST_SHOWN = 400  # characters of a prompt that a terminal shows without --echo


@click.command(cls=SamplingCommand)
@common_options
@click.option("-p", "--prompt", metavar="TEXT", help="The prompt.")
@click.option(
    "-f",
    "--file",
    type=click.Path(allow_dash=True),
    metavar="FILE",
    help="Read the prompt from a file; - is standard input.",
)
@click.option(
    "--chat/--no-chat",
    "as_message",
    default=None,
    help="Send the prompt as a message, by the model's chat template. [on without -m]",
)
@click.option(
    "-n",
    "--n-predict",
    type=int,
    default=-1,
    metavar="N",
    help="Tokens to write; -1 until the end, -2 until the context is full. [-1]",
)
@click.option("-s", "--seed", type=int, metavar="N", help="Seed of random numbers; -1 = a new one. [-1]")
@click.option(
    "-r", "--reverse-prompt", "--stop", "stop", multiple=True, metavar="TEXT", help="Stop before this text. Repeatable."
)
@click.option(
    "--samplers",
    metavar="A;B;C",
    shell_complete=complete_samplers,
    help="Samplers in order, such as top_k;top_p;temperature.",
)
@click.option("--grammar-file", type=click.Path(), metavar="FILE", help="Read the grammar from a file.")
@click.option("--json-schema-file", type=click.Path(), metavar="FILE", help="Read the JSON Schema from a file.")
@click.option(
    "--keep",
    type=click.IntRange(min=-1),
    default=0,
    metavar="N",
    help="Tokens of the prompt that a context shift keeps; -1 all. [0]",
)
@click.option("--context-shift", is_flag=True, help="When the context is full, drop its older half and go on.")
@click.option("--echo", is_flag=True, help="Write the prompt to stdout too.")
@click.option("--raw", is_flag=True, help="On a terminal, do not replace control characters.")
@click.option("--prompt-cache", type=OutputPath(), metavar="FILE", help="Save and reuse the evaluated prompt.")
@click.option("--lora", multiple=True, metavar="FILE", help="A LoRA adapter to use. Repeatable.")
@click.option("--logdir", type=OutputPath(), metavar="DIR", help="Write a YAML record of the run.")
@click.option("--timings/--no-timings", default=None, help="The timing line on stderr. [on]")
@click.pass_context
def generate(ctx: click.Context, sampling: dict[str, Any], **options: Any) -> None:
    """Write text from a prompt; only the text goes to stdout.

    \b
    llamakit generate -m model.gguf -p "Once upon a time" -n 100
    llamakit generate -m model.gguf -f prompt.txt --temp 0 --seed 1 > out.txt

    The text goes on from the prompt as it is. The embedded model (without -m) only answers, so it gets the prompt as a
    message; --chat does the same for a model of yours.
    """
    context = Context(ctx, options["quiet"], options["verbose"])
    context.apply(options)
    samplers = sampler_names(options["samplers"], list(context.registry.samplers()))
    _tell_unused(sampling, samplers, context)
    prompt = _prompt(options)
    values = context.sampling(_with_files(sampling, options))
    check_constraints(values)
    session = context.session(lora=[(file, 1.0) for file in options["lora"]])
    request: dict[str, Any] = {
        "max_tokens": options["n_predict"], "seed": context.config["seed"], "stop": options["stop"],
        "samplers": samplers, "keep": options["keep"], "shift": options["context_shift"], **values,
    }  # fmt: skip
    _show_prompt(prompt, options)
    with session:
        as_message = not context.config["model"] if options["as_message"] is None else options["as_message"]
        asked = _message(session, prompt) if as_message and prompt else prompt
        result, seed, interrupted = _run(session, asked, request, options, context.console)
        _finish(session, prompt, request, result, seed, options, context.console)
    if interrupted:
        ctx.exit(INTERRUPTED)


def _show_prompt(prompt: str, options: dict[str, Any]) -> None:
    """The prompt before its text: all of it with --echo; for people, dim, the end of a long one."""
    import sys

    if not sys.stdout.isatty():
        if options["echo"]:
            write(prompt)
        return
    shown = prompt if options["echo"] or len(prompt) <= LONGEST_SHOWN else f"…{prompt[-LONGEST_SHOWN:]}"
    if not options["quiet"] or options["echo"]:
        dim(shown, options["raw"])


def _tell_unused(sampling: dict[str, Any], samplers: tuple[str, ...] | None, context: Context) -> None:
    """Say which options belong to samplers that are not in the chain."""
    from llamakit.engine.sampling import CHOOSERS, FIRST, TRUNCATION

    chain = {*(TRUNCATION if samplers is None else samplers), *FIRST, *CHOOSERS}
    owners = {field.name: name for name, cls in context.registry.samplers().items() for field in fields_of(cls.Options)}
    for key, value in sampling.items():
        owner, dot, _ = key.partition(".")
        owner = owner if dot else owners.get(key, "")
        if value is not None and owner not in chain:
            order = ";".join([*(TRUNCATION if samplers is None else samplers)[:-1], owner, "temperature"])
            flag = "--" + key.replace("_", "-")
            context.console.note(f"note: {flag} has no effect: {owner} is not in the chain (--samplers {order!r})")


def _with_files(sampling: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The samplers' options with those that are read from files."""
    found = dict(sampling)
    for name in ("grammar", "json_schema"):
        file = options[f"{name}_file"]
        if file is None:
            continue
        if found.get(name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} and its file are both given", hint="one of them", param=name)
        found[name] = read_text(file)
        if not found[name].strip():
            raise UsageError(f"{file} is empty", hint="a grammar" if name == "grammar" else "a schema", param=name)
    return found


# The options of the sampler `grammar` that constrain, and what each is called where grammars are looked at.
KINDS = {
    "grammar": "gbnf", "lark": "lark", "json_schema": "json_schema", "regex": "regex", "choices": "choices",
    "structural_tag": "structural_tag",
}  # fmt: skip


def check_constraints(values: dict[str, Any]) -> None:
    """Look at a grammar or schema before a model is loaded for it."""
    from llamakit.grammar import study

    given = [name for name in KINDS if values.get(name)]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} cannot both be asked for", hint="one of them", param=given[1])
    for name in given:
        study(KINDS[name], values[name], lenient=bool(values.get("lenient")))


def _prompt(options: dict[str, Any]) -> str:
    import sys

    if options["file"] is not None and options["prompt"] is not None:
        raise UsageError("-p and -f both give a prompt", hint="one of them", param="prompt")
    if options["file"] is not None:
        return read_text(options["file"])
    if options["prompt"] is not None:
        text: str = options["prompt"]
        return text
    return "" if sys.stdin.isatty() else read_text("-")


def _message(session: Session, text: str) -> list[int]:
    """The tokens of a chat with one message of the user, to be answered."""
    from llamakit.chat.prompt import encode_messages

    return encode_messages(session.chat_template, session.tokenizer, [{"role": "user", "content": text}])


def _run(
    session: Session, prompt: str | list[int], params: dict[str, Any], options: dict[str, Any], console: Console
) -> tuple[Result, int, bool]:
    """Stream to stdout; Ctrl-C stops after the current token and keeps what there is."""
    from llamakit.engine.job import Finished, Job, Token, raise_error

    request = session.request(prompt, **params)
    _load_prefix(session, options["prompt_cache"], console)
    job = Job(request)
    interrupted, result = False, None
    events = session.engine.run(job)
    while result is None:
        try:
            for event in events:
                if isinstance(event, Token):
                    write(event.piece.text, options["raw"])
                elif isinstance(event, Finished):
                    result = event.result
        except KeyboardInterrupt:
            interrupted = True
            session.engine.cancel(job)
            events = job.drain()
    write(result.tail, options["raw"])
    if options["prompt_cache"] and result.error is None:
        session.save_prefix(options["prompt_cache"], [*request.prompt, *result.tokens])
    raise_error(result)
    return result, request.seed, interrupted


def _load_prefix(session: Session, file: str | None, console: Console) -> None:
    from pathlib import Path

    if file and Path(file).exists():
        console.detail(f"prompt cache {file}: {len(session.load_prefix(file))} tokens")


def _finish(
    session: Session,
    prompt: str,
    request: dict[str, Any],
    result: Result,
    seed: int,
    options: dict[str, Any],
    console: Console,
) -> None:
    import sys

    if sys.stdout.isatty() or (not result.text.endswith("\n") and _one_place()):
        write("\n")
    if options["timings"] is not False:
        console.note(timing_line(result, seed))
    if options["logdir"]:
        from llamakit.plugins.frontends.cli.run_record import write_record

        console.note(f"wrote {write_record(options['logdir'], session, prompt, request, result, seed)}")


def _one_place() -> bool:
    """Whether standard output and error go to the same place, so that the timing line would follow the text."""
    import os

    try:
        return os.path.samestat(os.fstat(1), os.fstat(2))
    except OSError:
        return False


def timing_line(result: Result, seed: int) -> str:
    """One line of counts and rates."""
    t = result.timings
    evaluated = t.n_prompt - t.n_cached
    rate = f"{rate_of(t.n_generated - 1, t.generate_seconds)}, " if t.n_generated > 1 and t.generate_seconds else ""
    speed = f", {rate_of(evaluated, t.prompt_seconds)}" if t.prompt_seconds else ""
    cached = f" ({t.n_cached} cached)" if t.n_cached else ""
    stopped = f"{result.reason}" + (f" {result.stopped_by!r}" if result.stopped_by else "")
    return (
        f"{tokens(t.n_generated)}, {rate}first after {t.first_seconds:.2f} s;"
        f" prompt {t.n_prompt}{cached}{speed}; seed {seed}; stopped: {stopped}"
    )
