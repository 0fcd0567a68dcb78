"""The chat in a real terminal: a pty drives the program and reads what it shows."""

from __future__ import annotations

import os
import re
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.waiting import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pty")
PASTE = "\x1b[200~{}\x1b[201~"
CTRL_C, CTRL_D, CTRL_BACKSLASH = "\x03", "\x04", "\x1c"
PROMPT = r"\n>"


class Pty:
    """A program in a pty of 24 x 80."""

    def __init__(self, command: list[str], environ: dict[str, str]) -> None:
        import pty

        self.master, slave = pty.openpty()
        import fcntl
        import struct
        import termios

        def take_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            for number in (signal.SIGHUP, signal.SIGINT):  # tests that are run in the background have both ignored
                signal.signal(number, signal.SIG_DFL)

        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = self.modes()
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True, env=environ, preexec_fn=take_terminal,  # noqa: PLW1509
        )  # fmt: skip
        os.close(slave)
        self.output, self.position = "", 0

    def modes(self) -> list[object]:
        """What the terminal does with keys."""
        import termios

        return termios.tcgetattr(self.master)

    def send(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, pattern: str, seconds: float = PATIENCE) -> str:
        """Read until the pattern was shown after what it waited for before; returns what came up to its end."""
        end = time.monotonic() + seconds
        while (found := re.search(pattern, plain(self.output)[self.position :])) is None:
            left = end - time.monotonic()
            came = plain(self.output)[self.position :]
            assert left > 0, f"{pattern!r} did not come in {came!r}"
            if select.select([self.master], [], [], left)[0]:
                try:
                    self.output += os.read(self.master, 65536).decode("utf-8", "replace")
                except OSError:
                    pytest.fail(f"{pattern!r} did not come before the end in {came!r}")
        text = plain(self.output)[self.position : self.position + found.end()]
        self.position += found.end()
        return text

    def end(self) -> int:
        """Wait for the program's end; returns its exit code."""
        while select.select([self.master], [], [], PATIENCE)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                break
            if not data:
                break
            self.output += data.decode("utf-8", "replace")
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)


def plain(text: str) -> str:
    """Without codes, as far as a reader of the text minds them."""
    return re.sub(r"\x1b(\[[\d;?]*([a-zA-Z]|$)|$|[78=>]|\][^\x07]*(\x07|$))", "", text)


@pytest.fixture
def chat(chat_server, tmp_path: Path) -> Iterator[Callable[..., Pty]]:
    """Starts a chat with the small server; `environ` is added to the environment."""
    started: list[Pty] = []

    def start(*args: str, **environ: str) -> Pty:
        base = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith("LLAMAKIT_") and k not in ("NO_COLOR", "FORCE_COLOR")
        }
        base |= {"TERM": "xterm-256color", "XDG_STATE_HOME": str(tmp_path), "COLUMNS": "", "LINES": ""}
        where = [] if "-m" in args else ["--url", chat_server.url]
        started.append(Pty([sys.executable, "-m", "llamakit", "chat", *where, *args], base | environ))
        return started[-1]

    yield start
    for pty in started:
        pty.close()


def said(chat_server) -> list[str]:
    """The last message of each request."""
    return [body["messages"][-1]["content"] for body in chat_server.bodies]


def test_many_pasted_lines_are_one_message_and_history_lasts(chat, chat_server, tmp_path):
    pty = chat()
    pty.until(PROMPT)
    pasted = "\n".join(f"line {i}" for i in range(50))
    pty.send(PASTE.format(pasted.replace("\n", "\r")))
    pty.until("line 49")
    assert said(chat_server) == []  # nothing is sent until Enter
    pty.send("\r")
    pty.until("tokens")
    pty.until(PROMPT)
    pty.send("one\x1b\rtwo\x0athree\\\rfour\r")
    pty.until("tokens")
    pty.until(PROMPT)
    pty.send('"""\rfive\r\rsix\r"""\r')
    pty.until("tokens")
    pty.until(PROMPT)
    pty.send(" secret\r")
    pty.until("tokens")
    pty.until(PROMPT)
    pty.send(CTRL_D)
    assert pty.end() == 0
    assert said(chat_server) == [pasted, "one\ntwo\nthree\nfour", "five\n\nsix", " secret"]
    history = tmp_path / "llamakit" / "chat_history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert b"secret" not in history.read_bytes()

    again = chat()
    again.until(PROMPT)
    again.send("\x12line 4")  # Ctrl-R
    again.until("line 49")
    again.send("\r\r")
    again.until("tokens")
    assert said(chat_server)[-1] == pasted


def test_ctrl_c_stops_at_once_and_continue_goes_on(chat, chat_server):
    chat_server.words, chat_server.pause = ["word "] * 20_000, 0.01
    pty = chat("--no-history")
    pty.until(PROMPT)
    pty.send("go\r")
    pty.until("word word")
    pty.send(CTRL_C)
    assert pty.until("stopped").count("word") < 500  # 20 on an idle machine
    pty.until(PROMPT)
    assert chat_server.gone.wait(PATIENCE)
    chat_server.words, chat_server.pause = ["and ", "so ", "on"], 0.0
    pty.send("/continue\r")
    shown = pty.until("tokens")
    assert "and so on" in shown
    begun = chat_server.bodies[-1]["messages"][-1]
    assert begun["role"] == "assistant"
    assert begun["content"].startswith("word word")
    pty.until(PROMPT)
    pty.send("half a line" + CTRL_C)
    time.sleep(0.2)
    pty.send("/exit\r")
    assert pty.end() == 0
    assert len(chat_server.bodies) == 2


def test_what_is_typed_during_an_answer_is_the_next_message(chat, chat_server):
    chat_server.pause = 0.1
    pty = chat("--no-history")
    pty.until(PROMPT)
    pty.send("one\r")
    pty.until("Once upon")
    pty.send("two\r")
    shown = pty.until("tokens")
    assert "two" not in shown
    pty.until("Once upon a time[^>]*tokens")
    assert said(chat_server) == ["one", "two"]


def test_a_lost_connection_keeps_the_text(chat, chat_server):
    chat_server.break_after = 2
    pty = chat("--no-history")
    pty.until(PROMPT)
    pty.send("go\r")
    assert "Once upon" in pty.until("connection lost")
    chat_server.break_after, chat_server.words = None, ["a ", "time"]
    pty.until(PROMPT)
    pty.send("/continue\r")
    assert "a time" in pty.until("tokens")
    assert chat_server.bodies[-1]["messages"][-1] == {"role": "assistant", "content": "Once upon "}


def test_leaving(chat):
    pty = chat("--no-history")
    pty.until(PROMPT)
    pty.send(CTRL_C)
    pty.until("press Ctrl-D or type /exit")
    pty.until(PROMPT)
    pty.send(CTRL_C)
    assert pty.end() == 130
    pty = chat("--no-history")
    pty.until(PROMPT)
    pty.send("text" + CTRL_BACKSLASH)
    assert pty.end() == 131


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(chat, number):
    """It told keys one by one, and showed none, in the shell that came after."""
    pty = chat()
    pty.until(PROMPT)
    assert pty.modes() != pty.before
    pty.process.send_signal(number)
    assert pty.end() == -number
    assert pty.modes() == pty.before


SHELL = """
import os, signal, subprocess, sys, tty
command = "import sys, time, llamakit.cli as cli; cli.run = lambda args: print('runs') or time.sleep(600); cli.main()"
job = subprocess.Popen(
    [sys.executable, "-uc", command], stdout=subprocess.PIPE, preexec_fn=lambda: os.setpgid(0, 0)
)
assert job.stdout.readline() == b"runs\\n"
tty.setraw(0)  # as the editor of a shell has it
job.send_signal(signal.SIGTERM)
status = os.waitpid(job.pid, os.WUNTRACED)[1]
job.kill()
sys.exit(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 1)
"""


def test_a_signal_ends_a_command_in_the_background_of_a_shell():
    """It put the shell's terminal right, for which the system stopped it: it neither went on nor ended."""
    pty = Pty([sys.executable, "-c", SHELL], dict(os.environ))
    try:
        assert pty.end() == signal.SIGTERM
    finally:
        pty.close()


def test_tab_completes_and_markdown_is_shown(chat, chat_server):
    chat_server.words = ["some **bo", "ld** text\n\n", "```\nx = 1\n", "```\n"]
    pty = chat("--no-history")
    pty.until(PROMPT)
    pty.send("/cont\t")
    pty.until("context  continue[^>]*> /cont")
    pty.send("\x15hello\r")
    pty.until("tokens")
    assert "\x1b[1mbold\x1b[0m text" in pty.output


def test_markdown_can_be_turned_off(chat, chat_server):
    chat_server.words = ["some **bo", "ld** text\n\n"]
    pty = chat("--no-history", "--no-markdown", "-p", "hello")
    assert pty.end() == 0
    assert pty.output.replace("\r", "") == "some **bold** text\n\n"


@pytest.mark.parametrize("environ", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_no_codes_where_none_are_wanted(chat, chat_server, environ):
    chat_server.words = ["# **Bo", "ld**\n\n", "end \x1b[31m"]
    pty = chat("-p", "hello", **environ)
    assert pty.end() == 0
    assert pty.output.replace("\r", "") == "# **Bold**\n\nend \ufffd[31m\n"


def test_a_dumb_terminal_gets_no_codes_at_all(chat, chat_server):
    pty = chat(TERM="dumb")
    pty.until(PROMPT)
    pty.send("hello\n")
    pty.until("tokens")
    pty.until(PROMPT)
    pty.send("/nonsense\n")
    pty.until("no command /nonsense")
    pty.until(PROMPT)
    pty.send(CTRL_D)
    assert pty.end() == 0
    assert "\x1b" not in pty.output
    assert said(chat_server) == ["hello"]


def test_no_colour_where_none_is_wanted(chat, chat_server):
    pty = chat("--no-history", NO_COLOR="1")
    pty.until(PROMPT)
    pty.send("**hello**\r")
    pty.until("tokens")
    pty.until(PROMPT)
    pty.send("/nonsense\r")
    pty.until("no command")
    assert not re.search(
        r"\x1b\[[\d;]*[1-9][\d;]*m", pty.output
    )  # the editor moves the cursor, but nothing has a colour


def test_stopping_while_a_local_model_writes(chat, small_model):
    pty = chat(
        "-m", str(small_model), "--backend", "reference", "-c", "2000", "--seed", "3", "--ignore-eos", "--no-history"
    )
    pty.until(PROMPT)
    pty.send("Tell a story.\r")
    pty.until(r"[^>]{200}")
    pty.send(CTRL_C)
    assert len(pty.until("stopped")) < 2000  # characters, of 6,000 and more to the end
    pty.until(PROMPT)
    pty.send("/regenerate 5\r")
    pty.until(r"[^>]{200}")
    os.kill(pty.process.pid, signal.SIGINT)
    pty.until("stopped")
    pty.until(PROMPT)
    pty.send("/branches\r")
    pty.until(r"\* 2  2 messages")
    pty.until(PROMPT)
    pty.send(CTRL_D)
    assert pty.end() == 0
