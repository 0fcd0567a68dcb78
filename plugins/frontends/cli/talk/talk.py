"""The chat itself: reads entries, sends messages, keeps what was said."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from llamakit.plugins.frontends.cli.console import rate_of, tokens
from llamakit.plugins.frontends.cli.talk import answering, commands
from llamakit.plugins.frontends.cli.talk.conversation import Conversation, Message
from llamakit.plugins.frontends.cli.talk.source import Answer, Chosen, Piece, Waiting
from llamakit.plugins.frontends.cli.talk.view import MarkdownView, View

from llamakit.errors import LlamaKitError, UsageError
from llamakit.start import INTERRUPTED

if TYPE_CHECKING:
    from pathlib import Path

    from llamakit.plugins.frontends.cli.talk.conversation import Turn
    from llamakit.plugins.frontends.cli.talk.reader import Reader
    from llamakit.plugins.frontends.cli.talk.settings import Knob, Settings
    from llamakit.plugins.frontends.cli.talk.source import Source
    from llamakit.plugins.frontends.cli.talk.terminal import Terminal

TWICE = 1.0  # seconds within which a second Ctrl-C at an empty prompt leaves
END = "end of text"
LOST = "connection lost"


class Totals:
    """Counts over all answers. Of those that were stopped, only what was written is known."""

    def __init__(self) -> None:
        self.answers = self.generated = self.prompt = self.cached = 0
        self.seconds = 0.0

    def add(self, answer: Answer) -> None:
        """One more answer."""
        self.answers += 1
        self.generated += answer.n_generated
        self.prompt += answer.n_prompt or 0
        self.cached += answer.n_cached or 0
        self.seconds += answer.n_generated / answer.rate if answer.rate else 0.0


class Talk:
    """One chat. Commands read and change it."""

    def __init__(
        self, source: Source, settings: Settings, terminal: Terminal, *, markdown: bool, timings: bool, quiet: bool
    ) -> None:
        self.source, self.settings, self.terminal = source, settings, terminal
        self.markdown = markdown and terminal.writes and terminal.colour_out and not terminal.dumb
        self.timings, self.quiet = timings, quiet
        self.conversation = Conversation()
        self.adapters: dict[str, float] | None = None  # None: those that answers get by default
        self.attached: list[str] = []  # texts of files that go before the next message
        self.draft = ""  # stands at the next prompt
        self.file: Path | None = None  # where the conversation was saved
        self.n_probs = 5 if terminal.reads else 0
        self.n_left_out = 0  # turns that no longer fit
        self.sent: tuple[list[Turn], str] | None = None
        self.chosen: list[Chosen] = []
        self.last: Answer | None = None
        self.totals = Totals()
        self.done = False
        self._leads: dict[str, str] = {}  # spaces before an answer, by its id: not shown, but needed to go on with it

    def knobs(self) -> dict[str, Knob]:
        """All options of `/set`."""
        return self.settings.knobs(self.source.knobs())

    def may_forget(self) -> bool:
        """Whether the conversation may be given up: it is saved or empty, nobody can be asked, or the answer is yes."""
        n = len(self.conversation.messages)
        if self.conversation.saved or not n or not self.terminal.reads:
            return True
        return self.terminal.ask(f"forget {n} messages that are not saved?")

    def forget(self) -> None:
        """Begin again, with the same system prompt."""
        self.conversation = Conversation(system=self.conversation.system)
        self.chosen, self.sent, self.file, self.n_left_out = [], None, None, 0

    # -- entries ------------------------------------------------------------------------------------------------

    def once(self, text: str) -> bool:
        """Answer one message; False if Ctrl-C stopped the answer."""
        self.quiet, self.n_probs = True, 0
        self.conversation.add("user", text)
        return self.answer()

    def loop(self, reader: Reader) -> int:
        """Read entries until the end; returns the exit code."""
        pressed = 0.0
        while not self.done:
            draft, self.draft = self.draft, ""
            try:
                entry = reader.read(draft)
            except EOFError:
                break
            except KeyboardInterrupt:
                now = time.monotonic()
                if now - pressed < TWICE:
                    return INTERRUPTED
                pressed = now
                self.terminal.say(self.terminal.dim("press Ctrl-D or type /exit to leave"))
                continue
            self._entry(entry)
        return 0

    def _entry(self, entry: str) -> None:
        try:
            if entry.startswith("/") and not entry.startswith("//"):
                commands.run(self, entry)
            elif entry.strip() or self.attached:
                self.say(entry[1:] if entry.startswith("//") else entry)
        except LlamaKitError as error:
            if not self.terminal.reads and not entry.startswith("/"):
                raise
            self.error(error)
        except OSError as error:  # of a file that a command names: the conversation goes on
            if error.filename is None:
                raise
            self.error(UsageError(f"{error.filename} cannot be used: {error.strerror}"))
        except KeyboardInterrupt:  # a command that took long
            self.terminal.say("")

    def error(self, error: LlamaKitError) -> None:
        """Show an error and go on."""
        word = "\x1b[1;31merror:\x1b[0m" if self.terminal.colour_err else "error:"
        self.terminal.say(f"{word} {error}")

    # -- answers ------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Send a message and write the answer. A message that cannot be sent becomes the next draft."""
        conversation, before = self.conversation, self.conversation.leaf
        last = conversation.last
        if last is not None and last.role == "user":  # it was never answered: this one takes its place
            conversation.leaf = last.parent or ""
        message = conversation.add("user", "".join(self.attached) + text)
        try:
            self.answer()
        except LlamaKitError:
            if conversation.leaf == message.id:
                conversation.remove(message)
                conversation.leaf = before
                self.draft = text
            raise
        self.attached = []

    def answer(self, *, going_on: Message | None = None, seed: int | None = None) -> bool:
        """Answer the last message, or go on with an answer; False if Ctrl-C stopped it."""
        conversation = self.conversation
        begun = self._leads.get(going_on.id, "") + going_on.text if going_on is not None else ""
        turns = conversation.turns()[: -1 if going_on is not None else None]
        turns = self._fitting(turns, begun)
        self.sent = (turns, begun)
        view = (MarkdownView if self.markdown else View)(self.terminal, begun)
        chosen: list[Chosen] = []

        def show(item: Piece | Waiting) -> None:
            if isinstance(item, Piece):
                chosen.extend(item.chosen)
            view.show(item)

        try:
            with self.terminal.hushed():
                answer = answering.ask(self.source, turns, begun, self._params(seed), show)
        except LlamaKitError:
            if view.text:
                view.end()
                self._keep(view, Answer(reason="error"), going_on)
            else:
                view.withdraw()
            raise
        view.end()
        self.chosen = chosen
        self._keep(view, answer, going_on)
        self._tell(answer, bool(view.text))
        return answer.reason != answering.STOPPED

    def _params(self, seed: int | None) -> dict[str, Any]:
        params = dict(self.settings.values)
        if seed is not None:
            params["seed"] = seed
        if self.n_probs:
            params["logprobs"] = self.n_probs
        params["adapters"] = None if self.adapters is None else tuple(self.adapters.items())
        return params

    def _keep(self, view: View, answer: Answer, going_on: Message | None) -> None:
        self.last = answer
        self.totals.add(answer)
        timings = {"predicted_n": answer.n_generated, "predicted_per_second": answer.rate, "prompt_n": answer.n_prompt}
        conversation = self.conversation
        if going_on is not None:
            going_on.text += view.text
            going_on.stop, going_on.seed, going_on.timings = answer.reason, answer.seed, timings
            conversation.saved = False
        elif view.text.strip() or answer.reason == END:
            adapters = [{"name": name, "scale": scale} for name, scale in (self.adapters or {}).items()]
            message = conversation.add(
                "assistant", view.text, model=self.source.model, seed=answer.seed, stop=answer.reason, timings=timings,
                params=dict(self.settings.values), adapters=adapters,
            )  # fmt: skip
            self._leads[message.id] = view.lead

    # -- what fits ----------------------------------------------------------------------------------------------

    def reserve(self) -> int:
        """Tokens that are kept free for an answer: what it may have, at most a quarter of the context."""
        quarter = (self.source.n_ctx or 0) // 4
        most = self.settings.values.get("max_tokens", -1)
        return min(most, quarter) if isinstance(most, int) and most > 0 else quarter

    def _fitting(self, turns: list[Turn], begun: str) -> list[Turn]:
        """The turns, without the oldest ones if they and an answer do not fit into the context."""
        n_ctx = self.source.n_ctx
        size = sum(len(turn["content"].encode("utf-8", "replace")) + 16 for turn in turns) + len(begun.encode())
        left_out = 0
        if n_ctx and size > n_ctx - self.reserve():  # a token has a byte at least: what is shorter fits
            limit = n_ctx - self.reserve()
            begun_size = (self.source.count_text(begun) or 0) if begun else 0
            while (n := self.source.count(turns)) is not None and n + begun_size > limit:
                shorter = without_oldest(turns)
                if shorter is None:
                    break
                turns, left_out = shorter, left_out + 1
        if left_out > self.n_left_out:
            which = f"turn {left_out}" if left_out == 1 else f"turns 1 to {left_out}"
            self.terminal.say(self.terminal.dim(f"the context is full: {which} left out (/save still has them)"))
        self.n_left_out = left_out
        return turns

    # -- what is said of an answer ------------------------------------------------------------------------------

    def _tell(self, answer: Answer, written: bool) -> None:
        if self.timings:
            self.terminal.say(self.terminal.dim(f"  {self.timing_line()}"))
        if self.timings or self.quiet or not (self.terminal.reads and self.terminal.notes):
            return
        parts = [] if answer.reason == END else [answer.reason]
        if not written and answer.reason == answering.STOPPED:
            parts += ["nothing was written; /continue answers it, another message takes its place"]
        elif not written:
            parts += ["the answer is empty"]
        else:
            parts += [tokens(answer.n_generated)] + ([rate_of(answer.rate)] if answer.rate else [])
            parts += self._share(answer)
            if answer.reason not in (END, "context full"):
                parts += ["/continue goes on"]
            elif answer.reason != END:
                parts += ["/undo or /clear makes room"]
        self.terminal.say(self.terminal.dim(f"  {', '.join(parts)}"))

    def _share(self, answer: Answer) -> list[str]:
        n_ctx, used = self.source.n_ctx, answer.n_context
        if used is None and n_ctx and answer.reason != LOST:
            try:
                used = self.source.count(self.conversation.turns())
            except LlamaKitError:
                used = None
        return [f"context {100 * used / n_ctx:.0f}%"] if n_ctx and used is not None else []

    def timing_line(self) -> str:
        """Counts and rates of the last answer."""
        a = self.last
        if a is None:
            return ""
        parts = [tokens(a.n_generated), rate_of(a.rate) if a.rate else "-"]
        if a.first_seconds is not None:
            parts.append(f"first after {a.first_seconds:.2f} s")
        line = ", ".join(parts)
        if a.n_prompt is not None:
            line += f"; prompt {a.n_prompt:,}" + (f" ({a.n_cached:,} cached)" if a.n_cached else "")
            line += f", {rate_of(a.prompt_rate)}" if a.prompt_rate else ""
        return line + (f"; seed {a.seed}" if a.seed is not None else "") + f"; stopped: {a.reason}"


def without_oldest(turns: list[Turn]) -> list[Turn] | None:
    """The turns without the first message of the user and its answer; None if there is no other message of the user."""
    asked = [i for i, turn in enumerate(turns) if turn["role"] == "user"]
    if len(asked) < 2:
        return None
    return turns[: asked[0]] + turns[asked[1] :]
