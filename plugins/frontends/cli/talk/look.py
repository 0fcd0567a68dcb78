"""Commands that show what is behind the answers: context, probabilities, the exact prompt, counts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llamakit.plugins.frontends.cli.console import rate_of, tokens
from llamakit.plugins.frontends.cli.talk.command import Command, number

from llamakit.errors import UsageError
from llamakit.terminal import safe

if TYPE_CHECKING:
    from llamakit.plugins.frontends.cli.talk.talk import Talk

MOST_PROBS = 20


def context(talk: Talk, text: str) -> None:
    """Tokens by turn, and what is left out next."""
    say, source = talk.terminal.say, talk.source
    total = source.count(talk.conversation.turns()) if talk.conversation.turns() else 0
    if total is None:
        raise UsageError("this server does not count tokens", hint="llamakit serve does")
    counted, turn = 0, 0
    for said in talk.conversation.turns():
        turn += said["role"] == "user"
        n = source.count_text(said["content"]) or 0
        counted += n
        who = {"user": "you", "assistant": "answer"}.get(said["role"], said["role"])
        say(f"{turn or '':>4}  {who:<10}{n:>9,}")
    say(f"      {'template':<10}{max(0, total - counted):>9,}")
    if source.n_ctx is None:
        say(f"      {'used':<10}{total:>9,}")
        return
    say(f"      {'used':<10}{total:>9,} of {source.n_ctx:,} ({min(100, 100 * total // source.n_ctx)}%)")
    left = source.n_ctx - talk.reserve() - total
    say(talk.terminal.dim((f"      {left:,} left before " if left > 0 else "      full: with the next message ")
        + (f"turn {talk.n_left_out + 1} is left out" if turn > 1 else "the oldest turn is left out")))  # fmt: skip
    if talk.n_left_out:
        say(talk.terminal.dim(f"      left out already: turns 1 to {talk.n_left_out}"))


def probs(talk: Talk, text: str) -> None:
    """The last answer's tokens with what else was likely."""
    n = number(text, "number of alternatives", talk.n_probs or 5, MOST_PROBS)
    if n > talk.n_probs:
        talk.terminal.say(talk.terminal.dim(f"{talk.n_probs} were recorded; from the next answer on it is {n}"))
        talk.n_probs = n
    if not talk.chosen:
        raise UsageError("no probabilities are known for the last answer")
    width = min(20, max(len(repr(chosen.text)) for chosen in talk.chosen))
    for chosen in talk.chosen:
        others = [f"{quoted(t)} {percent(p)}" for t, p in chosen.top if t != chosen.text][:n]
        talk.terminal.say(
            f"{quoted(chosen.text):<{width}} {percent(chosen.logprob):>6}   " + talk.terminal.dim("  ".join(others))
        )


def quoted(text: str) -> str:
    """A token, with its spaces and newlines visible."""
    return repr(safe(text))


def percent(logprob: float) -> str:
    """A probability."""
    return f"{100 * math.exp(min(0.0, logprob)):.1f}%"


def prompt(talk: Talk, text: str) -> None:
    """The exact text and tokens that were sent last."""
    turns, begun = talk.sent or (talk.conversation.turns(), "")
    if not turns:
        raise UsageError("nothing was sent yet")
    rendered = talk.source.render(turns, begun)
    if rendered is None:
        raise UsageError("this server does not tell its prompts", hint="llamakit serve does")
    talk.terminal.say(safe(rendered[0]))
    talk.terminal.say(talk.terminal.dim(f"{len(rendered[1]):,} tokens: {' '.join(map(str, rendered[1]))}"))


def stats(talk: Talk, text: str) -> None:
    """Counts of the last answer and of all."""
    if talk.last is None:
        raise UsageError("nothing was answered yet")
    total = talk.totals
    talk.terminal.say(f"last   {talk.timing_line()}")
    rate = f", {rate_of(total.generated, total.seconds)}" if total.seconds else ""
    talk.terminal.say(
        f"all    {total.answers} answer{'s' if total.answers > 1 else ''}, {tokens(total.generated)} written{rate};"
        f" {tokens(total.prompt)} read, {total.cached:,} of them known already"
    )


COMMANDS = (
    Command(name="context", summary="tokens by turn, and what is left out next", run=context),
    Command(name="probs", usage="[N]", summary="the last answer with the N likeliest alternatives", run=probs),
    Command(name="prompt", summary="the exact text and tokens sent last", run=prompt),
    Command(name="stats", summary="counts and rates", run=stats),
)
