"""The `llamakit` command: finds the commands of the frontends, and turns errors into messages and exit codes.

`--help` imports no plugin: the built-in commands' table is text, and third-party frontends are known from metadata.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from llamakit import __version__
from llamakit.start import INTERRUPTED, leave

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# Each command and its line in the help. They are commands of the frontend `cli`, but for those in FRONTEND_OF.
SECTIONS: dict[str, dict[str, str]] = {
    "Use a model": {
        "chat": "Talk to a model in the terminal.",
        "generate": "Write text from a prompt; only the text goes to stdout.",
        "serve": "Answer many clients at once: a web page and REST APIs.",
        "embed": "Turn texts into embeddings.",
        "tokenize": "Show a text as tokens; detokenize goes back.",
        "detokenize": "Show tokens as text.",
    },
    "Make a model": {
        "train": "Make a model of your own from texts.",
        "finetune": "Train an adapter on your data, or the model itself.",
        "data": "Look at data to train on.",
        "quantize": "Make a GGUF smaller.",
        "lora": "Adapters: look at, convert and merge them.",
        "export-lora": "Merge adapters, with the options of 2023.",
        "convert-checkpoint": "Training checkpoints of before GGUF.",
        "train-text-from-scratch": "The tool of 2023, with its flags.",
    },
    "Look closer": {
        "inspect": "Metadata and tensors of a GGUF.",
        "grammar": "What a grammar or JSON Schema allows.",
        "json-schema-to-grammar": "A JSON Schema as GBNF.",
        "bench": "How fast a model runs here.",
        "perplexity": "How well a model predicts a text.",
        "plugins": "What is installed, and why something is not available.",
        "config": "Every setting and where it came from.",
        "doctor": "Check this machine: CPU, memory, backends.",
        "completion": "Completion for bash, zsh or fish.",
    },
}
FRONTEND_OF = {"serve": "rest"}
HELP = """Run LLaMA-family models in GGUF files.

\b
Talk to a model:      llamakit chat -m model.gguf
Write from a prompt:  llamakit generate -m model.gguf -p "Once upon a"
"""
INTERNAL_ERROR, BROKEN_PIPE = 70, 141


COMPLETING = "_LLAMAKIT_COMPLETE"  # set in the environment where a shell asks what could follow


def _complete_values(command: click.Command) -> None:
    """Let shells complete files and folders wherever a value is one, and names that are known."""
    for param in command.params:
        metavar = (param.metavar or param.name or "").upper()
        names = _names_of(param.name or "")
        if getattr(param, "_custom_shell_complete", None) is not None or isinstance(param.type, click.Choice):
            continue
        if names:
            param.shell_complete = partial(_known, names)  # type: ignore[method-assign]
        elif any(word in metavar for word in ("FILE", "PATH", "DIR")) and not getattr(param, "is_flag", False):
            kind = "dir" if "DIR" in metavar else "file"
            param.shell_complete = partial(_some_file, kind)  # type: ignore[method-assign]
    if isinstance(command, click.Group):
        for each in command.commands.values():
            _complete_values(each)


def _names_of(param: str) -> tuple[str, ...]:
    """The values that a parameter of this name can have, where they are few."""
    if param in ("kv_type", "activations"):
        from llamakit.config import CoreOptions
        from llamakit.options import fields_of

        return next(tuple(map(str, field.choices)) for field in fields_of(CoreOptions) if field.name == param)
    if param == "type_name":
        from llamakit.gguf.quantize import RECIPES

        return tuple(RECIPES)
    if param == "backend":
        from llamakit.registry import Registry

        return ("auto", *sorted(Registry.discover().entry_names("backend")))
    return ()


def _known(names: tuple[str, ...], ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in names if name.lower().startswith(incomplete.lower())]


def _some_file(kind: str, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type=kind)]


class LazyGroup(click.Group):
    """Commands by name, imported when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return [name for section in SECTIONS.values() for name in section] + sorted(_other_commands())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's frontend."""
        if any(cmd_name in section for section in SECTIONS.values()):
            from llamakit.registry import Registry

            frontend: Any = Registry.discover().frontend(FRONTEND_OF.get(cmd_name, "cli"))
            command: click.Command = frontend().command(cmd_name)
            if COMPLETING in os.environ:
                _complete_values(command)
            return command
        return _other_commands().get(cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Say how to use a model file that is given in place of a command."""
        if args and args[0].endswith(".gguf"):
            from llamakit.errors import UsageError

            raise UsageError(f"{args[0]} is a model, not a command", hint=f"llamakit chat -m {args[0]}")
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from llamakit.errors import UsageError
            from llamakit.options import near

            found = near(args[0], self.list_commands(ctx))
            raise UsageError(f"no command {args[0]!r}", found=found, hint="llamakit -h") from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table by section, from text alone."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(commands.items()), col_max=24)
        others = _other_frontends()
        if others:
            with formatter.section("From other packages"):
                formatter.write_dl([(name, f"commands of {package}") for name, package in others.items()])


def _other_frontends() -> dict[str, str]:
    """Frontends of other packages, from metadata alone: name -> package."""
    from importlib.metadata import entry_points

    return {
        entry.name.partition(".")[2]: entry.dist.name
        for entry in entry_points(group="llamakit")
        if entry.name.startswith("frontend.") and entry.dist and entry.dist.name != "llamakit"
    }


def _other_commands() -> dict[str, click.Command]:
    """Commands of third-party frontends that load."""
    if not _other_frontends():
        return {}
    from llamakit.registry import Registry

    registry = Registry.discover()
    commands: dict[str, click.Command] = {}
    for name, frontend in registry.frontends().items():
        if f"frontend.{name}" in registry.third_party:
            commands |= {str(command.name): command for command in frontend().commands()}
    return commands


def _normalize(name: str) -> str:
    """Options take - and _ alike; click hands their names over without the dashes before them."""
    return name.replace("_", "-")


@click.group(
    cls=LazyGroup,
    help=HELP,
    invoke_without_command=True,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": _normalize,
        "max_content_width": 100,
    },
)
@click.option("--config", "config_file", type=click.Path(), help="Settings file (default: llamakit.toml here).")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", help="Colour (default: auto).")
@click.option("--no-color", is_flag=True, help="The same as --color never.")
@click.version_option(__version__, message="llamakit %(version)s")
@click.pass_context
def llamakit(ctx: click.Context, config_file: str | None, color: str, no_color: bool) -> None:
    """Entry point; the text above is shown."""
    mode = "never" if no_color else color
    ctx.obj = {"config_file": config_file, "color": mode}
    ctx.color = _asked["color"] = colour(mode)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def colour(mode: str) -> bool | None:
    """Whether output is coloured: `mode` is auto, always or never; None leaves it to the terminal."""
    if mode != "auto":
        return mode == "always"
    return False if os.environ.get("NO_COLOR") else True if os.environ.get("FORCE_COLOR") else None


_asked: dict[str, bool | None] = {}  # what the command line says, for errors that end it


def main(args: list[str] | None = None) -> None:
    """Run, and turn whatever happens into a message and an exit code."""
    end = partial(_end, _terminal())
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # nohup has SIGHUP ignored
            signal.signal(number, end)
    sys.exit(run(args))


PASTE_OFF = b"\x1b[?2004l"  # what is pasted is not marked as such any more


def _terminal() -> list[Any] | None:
    """What the terminal does with keys; None where there is none, or no such thing."""
    try:
        import termios

        return termios.tcgetattr(0)
    except Exception:
        return None


def _end(terminal: list[Any] | None, signum: int, frame: object) -> None:
    """Asked to end, or the terminal was closed: end at once as ever, but leave nothing half-written, and the terminal
    as it was: a chat has it tell keys, and not show them.

    An exception might be caught by whoever holds off what plugins raise, or wait for threads.
    """
    atomic = sys.modules.get("llamakit.gguf.atomic")
    if atomic is not None:
        atomic.forget_unfinished()
    if terminal is not None and terminal != _terminal():
        import termios

        with suppress(Exception):  # it is gone
            if os.tcgetpgrp(0) == os.getpgrp():  # in the background it is another's, and who touches it is stopped
                termios.tcsetattr(0, termios.TCSANOW, terminal)
                os.write(0, PASTE_OFF)
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


def run(args: list[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    from llamakit.errors import NO_ROOM, LlamaKitError, OutOfMemoryError, ReaderGone

    _asked["color"] = colour("auto")
    try:
        if signal.getsignal(signal.SIGINT) is leave:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = llamakit.main(args, prog_name="llamakit", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as exit_:
        return int(exit_.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:  # a group without a command
        click.echo(error.ctx.get_help() if error.ctx else "")
        return 0
    except click.ClickException as error:
        return _show(_from_click(error), args)
    except LlamaKitError as error:
        return _show(error, args)
    except (click.Abort, KeyboardInterrupt):
        click.echo(err=True)
        return INTERRUPTED
    except (BrokenPipeError, ReaderGone):
        _silence_stdout()
        return BROKEN_PIPE
    except OSError as error:
        if error.errno not in NO_ROOM:
            if error.filename is None:
                return _internal_error()
            return _show(LlamaKitError(f"{error.filename} cannot be used: {error.strerror}"), args)
        _silence_stdout()
        return _show(LlamaKitError(f"{error.filename or 'the output'} cannot be written: {error.strerror}"), args)
    except MemoryError as error:
        return _show(OutOfMemoryError("there is not enough free memory for this", found=str(error)), args)
    except Exception:
        return _internal_error()


def _show(error: Any, args: list[str] | None) -> int:
    """Write an error to standard error: for people, or for programs if the command line says --json."""
    from llamakit.terminal import safe

    given = sys.argv[1:] if args is None else args
    if "--json" in given:
        import json

        click.echo(json.dumps({"error": error.record()}), err=True)
    else:
        text = f"{click.style('error:', fg='red', bold=True)} {safe(str(error))}"
        click.echo(text, err=True, color=_asked.get("color"))
        if "-v" in given or "--verbose" in given:
            import traceback

            click.echo(safe("".join(traceback.format_exception(error))), err=True)
    return int(error.exit_code)


def _from_click(error: click.ClickException) -> Any:
    """Click's own errors in our shape."""
    from llamakit.errors import UsageError

    message = error.format_message()
    context = getattr(error, "ctx", None)
    param = getattr(getattr(error, "param", None), "name", None) or getattr(error, "option_name", None) or ""
    help_ = f"{context.command_path} -h" if context is not None else "llamakit -h"
    shown = UsageError(message[:1].lower() + message[1:].rstrip("."), hint=help_, param=param)
    return shown.with_traceback(error.__traceback__)


def _silence_stdout() -> None:
    """The reader has gone: nothing more can be written, not even when Python flushes at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _internal_error() -> int:
    """A defect of ours: the traceback goes to a file, its name to the user."""
    import traceback

    from llamakit.terminal import one_line

    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", errors="backslashreplace", prefix="llamakit-error-", suffix=".txt", delete=False
    ) as file:
        file.write(f"llamakit {__version__}, Python {sys.version}\n{traceback.format_exc()}")
    last = traceback.format_exc(limit=0).strip().splitlines()[-1]
    click.echo(f"internal error: {one_line(last)}\n  report  {file.name} says more; it is worth reporting", err=True)
    return INTERNAL_ERROR
