"""`llamakit chat`: talk to a model in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
from llamakit.plugins.frontends.cli.console import Console, write
from llamakit.plugins.frontends.cli.generate import timing_line
from llamakit.plugins.frontends.cli.params import Context, SamplingCommand, common_options, sampler_names

if TYPE_CHECKING:
    from llamakit import Session
    from llamakit.engine.sequence import Past

HELP = """/help          this list
/system TEXT   another system prompt, from here on
/regenerate    answer the last message again
/undo          take back the last message and its answer
/clear         forget the conversation
/stats         counts and rates of the last answer
/exit          leave (so does Ctrl-D)"""


@click.command(cls=SamplingCommand)
@common_options
@click.option("-p", "--prompt", metavar="TEXT", help="Answer this one message and leave.")
@click.option("-s", "--system", metavar="TEXT", help="System prompt.")
@click.option(
    "-n", "--n-predict", type=int, default=-1, metavar="N", help="Tokens of an answer at most; -1 until its end. [-1]"
)
@click.option("--seed", type=int, metavar="N", help="Seed of random numbers; -1 = a new one. [-1]")
@click.option("--samplers", metavar="A;B;C", help="Samplers in order, such as top_k;top_p;temperature.")
@click.option("--timings", is_flag=True, help="A timing line after each answer.")
@click.pass_context
def chat(ctx: click.Context, sampling: dict[str, Any], **options: Any) -> None:
    """Talk to a model. Ctrl-C stops an answer, Ctrl-D leaves, /help lists commands.

    \b
    llamakit chat -m model.gguf
    llamakit chat -m model.gguf -p "Why is the sky blue?"
    """
    context = Context(ctx, options["quiet"], options["verbose"])
    context.apply(options)
    params: dict[str, Any] = {
        "max_tokens": options["n_predict"], "seed": context.config["seed"], "shift": False,
        "samplers": sampler_names(options["samplers"], list(context.registry.samplers())), **context.sampling(sampling),
    }  # fmt: skip
    with context.session() as session:
        talk = Conversation(session, params, context.console, options["timings"])
        talk.set_system(options["system"])
        if options["prompt"] is not None:
            talk.say(options["prompt"])
        else:
            talk.loop()


class Conversation:
    """The messages so far, and what the cache still holds of them."""

    def __init__(self, session: Session, params: dict[str, Any], console: Console, timings: bool) -> None:
        self.session, self.params, self.console, self.timings = session, params, console, timings
        self.messages: list[dict[str, str]] = []
        self.last_line = ""
        self._past: Past | None = None

    def set_system(self, text: str | None) -> None:
        """Replace the system prompt; None or "" removes it."""
        self.messages = [m for m in self.messages if m["role"] != "system"]
        if text:
            self.messages.insert(0, {"role": "system", "content": text})

    def loop(self) -> None:
        """Read messages until the end of input."""
        terminal = sys.stdin.isatty()
        if terminal:
            name = self.session.file.metadata.get("general.name", self.session.path.stem)
            self.console.note(f"{name}, context {self.session.n_ctx}. /help for commands, Ctrl-D to leave.")
        while True:
            try:
                line = self._read(terminal)
            except EOFError:
                return
            except KeyboardInterrupt:
                self.console.note("\npress Ctrl-D or type /exit to leave")
                continue
            if line == "/exit":
                return
            if line.startswith("/") and not line.startswith("//"):
                self.command(line)
            elif line.strip():
                self.say(line.removeprefix("/") if line.startswith("//") else line)

    @staticmethod
    def _read(terminal: bool) -> str:
        """A message: one line, longer while lines end with a backslash."""
        lines = []
        while True:
            line = input("> " if terminal and not lines else "  " if terminal else "")
            if not line.endswith("\\"):
                return "\n".join([*lines, line])
            lines.append(line[:-1])

    def command(self, line: str) -> None:
        """A line that starts with a slash."""
        import difflib

        name, _, rest = line[1:].partition(" ")
        commands = {
            "help": lambda: self.console.note(HELP),
            "system": lambda: self.set_system(rest.strip()),
            "regenerate": self.regenerate,
            "undo": self.undo,
            "clear": lambda: self.set_messages([m for m in self.messages if m["role"] == "system"]),
            "stats": lambda: self.console.note(self.last_line or "nothing was said yet"),
        }
        if name in commands:
            commands[name]()
            return
        near = difflib.get_close_matches(name, commands, 1, 0.6)
        self.console.note(f"no command /{name}" + (f"; did you mean /{near[0]}?" if near else "; /help lists them"))

    def set_messages(self, messages: list[dict[str, str]]) -> None:
        """Replace the conversation."""
        self.messages = messages

    def undo(self) -> None:
        """Take back the last message and its answer."""
        while self.messages and self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        if self.messages and self.messages[-1]["role"] == "user":
            self.messages.pop()

    def regenerate(self) -> None:
        """Answer the last message again."""
        while self.messages and self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        if self.messages and self.messages[-1]["role"] == "user":
            self.say(self.messages.pop()["content"])

    def say(self, text: str) -> None:
        """Send a message and write the answer as it comes; Ctrl-C keeps what there is."""
        from llamakit.errors import LlamaKitError

        self.messages.append({"role": "user", "content": text})
        try:
            self._answer()
        except LlamaKitError as error:
            self.messages.pop()
            if not sys.stdin.isatty():
                raise
            self.console.note(f"error: {error}")

    def _answer(self) -> None:
        from llamakit.engine.engine import raise_error

        session, engine = self.session, self.session.engine
        prompt = session.chat_template.render(self.messages, add_generation_prompt=True)
        tokens = session.tokenize(prompt, add_bos=not session.chat_template.writes_bos, parse_special=True)
        request = session.request(tokens, **self.params)
        sequence = engine.submit(request, self._past)
        self._past = None
        try:
            while sequence.result is None:
                engine.step()
                for piece in sequence.take():
                    write(piece.text)
        except KeyboardInterrupt:
            engine.cancel(sequence)
        self._past = engine.retire(sequence)
        raise_error(sequence)
        result = sequence.result
        assert result is not None
        write(result.tail + "\n")
        self.messages.append({"role": "assistant", "content": result.text})
        self.last_line = timing_line(result, request.seed)
        if self.timings:
            self.console.note(self.last_line)
