"""Commands about turns: answer again, go on, take back, edit, branches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.plugins.frontends.cli.talk.command import Command, number

from llamakit.errors import UsageError

if TYPE_CHECKING:
    from llamakit.plugins.frontends.cli.talk.conversation import Message
    from llamakit.plugins.frontends.cli.talk.talk import Talk

LINE = 60  # characters of a message in a list


def regenerate(talk: Talk, text: str) -> None:
    """Answer the last message again; the answer before stays as a branch."""
    seed = None
    if text:
        seed = int(str(talk.settings.own["seed"].parse(text)))
    conversation = talk.conversation
    if not conversation.questions:
        raise UsageError("there is no message to answer yet")
    conversation.leaf = conversation.questions[-1].id
    talk.answer(seed=seed)


def go_on(talk: Talk, text: str) -> None:
    """Go on with the last answer."""
    last = talk.conversation.last
    if last is None:
        raise UsageError("there is no answer to go on with yet")
    talk.answer(going_on=last if last.role == "assistant" else None)


def undo(talk: Talk, text: str) -> None:
    """Take back turns for good."""
    conversation = talk.conversation
    n = number(text, "number of turns", 1, len(conversation.questions))
    message = conversation.step_back(n)
    if message is None:
        raise UsageError("there is no turn to take back")
    conversation.remove(message)
    talk.terminal.say(talk.terminal.dim(f"took back {n} turn{'s' if n > 1 else ''}: {short(message.text)}"))


def edit(talk: Talk, text: str) -> None:
    """Write a message in an editor: a new one, or an old one again."""
    import click

    if not talk.terminal.reads:
        raise UsageError("/edit needs a terminal")
    questions = talk.conversation.questions
    n = number(text, "turn", 0, len(questions))
    old = questions[n - 1] if n else None
    try:
        written = click.edit(old.text if old else "", extension=".md", require_save=False)
    except click.ClickException as error:
        raise UsageError(f"the editor did not run: {error.message}", hint="set EDITOR") from None
    written = (written or "").strip("\n")
    if not written.strip() or (old and written == old.text.strip("\n")):
        talk.terminal.say(talk.terminal.dim("nothing to send"))
        return
    if old:
        talk.conversation.leaf = old.parent or ""
    talk.terminal.say(talk.terminal.dim("> " + written.replace("\n", "\n  ")))
    talk.say(written)


def branch(talk: Talk, text: str) -> None:
    """Step back before the last message and keep it, or go to another branch."""
    conversation = talk.conversation
    if text:
        leaves = conversation.leaves()
        conversation.leaf = leaves[number(text, "branch", 1, len(leaves)) - 1].id
        show_last(talk)
        return
    message = conversation.step_back()
    if message is None:
        raise UsageError("there is no turn to branch from yet")
    talk.draft = message.text
    talk.terminal.say(talk.terminal.dim("kept that turn; write another one (/branches lists all)"))


def show_last(talk: Talk) -> None:
    """Say where the conversation stands."""
    last = talk.conversation.last
    n = len(talk.conversation.path())
    talk.terminal.say(talk.terminal.dim(f"{n} messages" + (f", the last: {line_of(last)}" if last else "")))


def branches(talk: Talk, text: str) -> None:
    """List all branches."""
    conversation = talk.conversation
    leaves = conversation.leaves()
    if not leaves:
        raise UsageError("there are no branches yet")
    for i, leaf in enumerate(leaves, 1):
        mark = "*" if leaf.id == conversation.leaf else " "
        talk.terminal.say(f"{mark} {i}  {len(conversation.path(leaf.id))} messages, the last: {line_of(leaf)}")


def line_of(message: Message) -> str:
    """Who said it, and its first words."""
    return f"{'you' if message.role == 'user' else message.role}: {short(message.text)}"


def short(text: str) -> str:
    """The first words of a text, on one line."""
    from llamakit.plugins.frontends.cli.console import safe

    line = safe(" ".join(text.split()))
    return line if len(line) <= LINE else line[: LINE - 1] + "…"


def clear(talk: Talk, text: str) -> None:
    """Forget the conversation."""
    if not talk.may_forget():
        return
    n = len(talk.conversation.path())
    talk.forget()
    talk.terminal.say(talk.terminal.dim(f"forgot {n} messages"))


COMMANDS = (
    Command(name="regenerate", usage="[SEED]", summary="answer the last message again", run=regenerate,
            detail="The answer before stays as a branch: /branches lists them, /branch N goes back to it."),
    Command(name="continue", summary="go on with the last answer", run=go_on,
            detail="After Ctrl-C, a limit of tokens or a lost connection; the new text is put at its end."),
    Command(name="undo", usage="[N]", summary="take back the last turn, or N turns", run=undo),
    Command(name="edit", usage="[TURN]", summary="write in $EDITOR: a message, or that turn again", run=edit,
            detail="Turns are counted as /context shows them; the conversation goes on from the edited one."),
    Command(name="branch", usage="[N]", summary="keep this turn and try another; N: go to branch N", run=branch,
            detail="Steps back before your last message, which stands at the prompt to be changed."),
    Command(name="branches", summary="list all branches", run=branches),
    Command(name="clear", summary="forget the conversation", run=clear,
            detail="The system prompt and the options stay. Asks first if there is something unsaved."),
)  # fmt: skip
