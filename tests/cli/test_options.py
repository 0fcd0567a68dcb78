"""What the options of commands take, and what shells complete of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from llamakit.cli import llamakit
from llamakit.cli import run as run_line

BIN = Path(sys.executable).parent


def run(*args, env=None):
    return CliRunner().invoke(llamakit, list(args), env=env)


def completions(shell, line, tmp_path):
    """What a real shell offers for the last word of a line, in a folder with `model.gguf`."""
    (tmp_path / "model.gguf").touch()
    path = f"export PATH={BIN}:$PATH; cd {tmp_path}\n"
    if shell == "bash":
        script = (
            path
            + f"""eval "$(llamakit completion bash)"
compopt() {{ [ "$2" = default ] && compgen -f -- "${{COMP_WORDS[$COMP_CWORD]}}"; }}
COMP_WORDS=({line}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); _llamakit_completion llamakit 2>/dev/null
printf '%s\\n' "${{COMPREPLY[@]}}\""""
        )
    elif shell == "zsh":
        script = (
            path
            + f"""compdef() {{ }}
compadd() {{ shift; while [ "$1" != -a ]; do shift; done; print -rl -- "${{(@P)2}}"; }}
_describe() {{ print -rl -- ${{(P)4}}; }}
_path_files() {{ print -rl -- ${{words[$CURRENT]}}*(N); }}
words=({line}); CURRENT=${{#words[@]}}
eval "$(llamakit completion zsh)"; _llamakit_completion"""
        )
    else:
        script = path + f"llamakit completion fish | source; complete -C '{line}'"
    found = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    return [text.split("\t")[0].rsplit(",", 1)[-1].strip() for text in found.stdout.split("\n") if text.strip()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "word"),
    [("llamakit generate -m mo", "model.gguf"), ("llamakit generate --kv-type q", "q8_0"),
     ("llamakit generate --backend re", "reference"), ("llamakit generate --samplers top_", "top_k"),
     ("llamakit serve --lora mo", "model.gguf"), ("llamakit serve --kv-type q", "q8_0"),
     ("llamakit finetune eval run --data mo", "model.gguf"), ("llamakit quantize a b q4_k_m", "Q4_K_M")],
)  # fmt: skip
def test_shells_complete_files_and_values(tmp_path, shell, line, word):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert any(each.endswith(word) for each in completions(shell, line, tmp_path))


def test_the_model_of_the_settings_holds_for_every_command(small_model):
    env = {"LLAMAKIT_MODEL": str(small_model)}
    assert run("tokenize", "Once", env=env).exit_code == 0
    assert run("detokenize", "403", env=env).exit_code == 0
    assert run("inspect", "--no-tensors", env=env).exit_code == 0


def test_two_prompts_are_an_error(small_model, tmp_path):
    (tmp_path / "p.txt").write_text("x")
    found = run("generate", "-m", str(small_model), "-p", "x", "-f", str(tmp_path / "p.txt"))
    assert found.exit_code != 0
    assert "both give a prompt" in str(found.exception)


def test_grammars_are_looked_at_before_a_model_is_opened(tmp_path):
    bad, good = tmp_path / "bad.gbnf", tmp_path / "good.gbnf"
    bad.write_text('root ::= ("a"')
    good.write_text('root ::= "a"')
    found = run("generate", "-m", "no-such.gguf", "-p", "x", "--grammar-file", str(bad))
    assert "no-such" not in str(found.exception)
    assert "grammar" in str(found.exception)
    found = run("generate", "-m", "no-such.gguf", "-p", "x", "--grammar-file", str(good))
    assert "no-such" in str(found.exception)


def test_files_give_grammars_and_schemas(small_model, tmp_path):
    (tmp_path / "s.json").write_text('\ufeff{"const": 7}', encoding="utf-8")
    (tmp_path / "p.txt").write_text("\ufeffOnce", encoding="utf-8")
    how = ["generate", "-m", str(small_model), "--no-timings"]
    found = run(*how, "-f", str(tmp_path / "p.txt"), "--echo", "--json-schema-file", str(tmp_path / "s.json"))
    assert found.stdout.strip().endswith("7"), found.exception
    assert found.stdout.startswith("Once")


def test_spellings_of_2023(small_model):
    how = ["generate", "-m", str(small_model), "-p", "Once upon a time", "-n", "3", "--seed", "1", "--no-timings"]
    greedy = run(*how, "--temp", "0").stdout
    assert run(*how, "--temp", "-1").stdout == greedy
    assert run(*how, "--temp", "0", "--logit-bias", "432-inf").exit_code == 0
    always = run(*how, "--temp", "0", "--logit-bias", "400+100")
    assert always.exit_code == 0
    assert always.stdout != greedy


def test_numbers_for_people():
    from llamakit.plugins.frontends.cli.console import rate_of, tokens

    assert [rate_of(n, 1) for n in (1760, 17, 1)] == ["1,760 tok/s", "17 tok/s", "1 tok/s"]
    assert [tokens(n) for n in (0, 1, 1760)] == ["0 tokens", "1 token", "1,760 tokens"]


def test_options_of_samplers_outside_the_chain_are_told(small_model):
    how = ["generate", "-m", str(small_model), "-p", "Once", "-n", "2", "--seed", "1"]
    told = run(*how, "--samplers", "top_p;temperature", "--top-k", "3", "--top-p", "0.5").stderr
    assert "note: --top-k has no effect: top_k is not in the chain (--samplers 'top_p;top_k;temperature')" in told
    assert "--top-p has" not in told
    assert "has no effect" not in run(*how, "--top-k", "3", "--mirostat", "2").stderr


def test_a_lenient_schema_is_looked_at_as_such(small_model):
    how = ["generate", "-m", str(small_model), "-p", "Once", "-n", "2", "--json-schema", '{"uniqueItems": true}']
    assert "uniqueItems" in str(run(*how).exception)
    assert run(*how, "--lenient").exit_code == 0


@pytest.mark.parametrize(
    ("options", "env", "coloured"),
    [([], {}, False), (["--color", "always"], {}, True), (["--color", "always"], {"NO_COLOR": "1"}, True),
     (["--no-color"], {"FORCE_COLOR": "1"}, False), ([], {"FORCE_COLOR": "1"}, True),
     ([], {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)  # fmt: skip
@pytest.mark.parametrize("line", ["grammar --regex a --check a", "generate -m nothing.gguf -p x"])
def test_colour_is_as_asked_for_on_every_command(monkeypatch, capfd, options, env, coloured, line):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    run_line([*options, *line.split()])
    found = capfd.readouterr()
    assert ("\x1b[" in found.out + found.err) is coloured


def test_doctor_knows_drivers_and_recommends_what_there_is(tmp_path):
    from llamakit.plugins.frontends.cli.doctor import HINTS, drivers

    assert drivers(tmp_path) == []
    for name, text in (("proc/driver/nvidia/version", "NVRM version: Kernel Module  550.54.14  Thu\n"), ("dev/kfd", ""),
                       ("etc/OpenCL/vendors/pocl.icd", "libpocl.so")):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert drivers(tmp_path) == ["NVIDIA 550.54.14", "AMD (ROCm)", "OpenCL pocl"]
    extras = metadata("llamakit").get_all("Provides-Extra")
    assert all(extra in extras for hint in HINTS.values() for extra in re.findall(r"llamakit\[(\w+)\]", hint))


def test_help_fits_80_columns_and_shows_no_internals():
    for name in sorted(llamakit.list_commands(None)):
        found = run(name, "-h")
        if found.exit_code:
            continue  # a group without help of its own
        for line in found.output.splitlines():
            assert len(line) <= 80, (name, line)
        for internal in ("[None]", "None]", "[False]", "[True]", "[[]]", "[]", "[{}]", "['", "=<"):
            assert internal not in found.output, (name, internal)


def test_help_begins_with_what_everybody_needs():
    text = run("generate", "-h").output
    places = [
        text.index(flag) for flag in ("--model FILE", "--prompt TEXT", "--file FILE", "--n-predict N", "--seed N")
    ]
    titles = [text.index(f"\n{title}:\n") for title in ("Options", "Output", "How the model runs", "Sampling")]
    assert places == sorted(places)
    assert titles == sorted(titles)
    assert titles[0] < places[0] < places[-1] < titles[1]


def test_options_of_a_backend_are_a_table_of_the_settings(tmp_path):
    file = tmp_path / "llamakit.toml"
    for text, found in (
        ("[backend.cpu]\nno_repack = true\n", "backend.cpu.no_repack true"),
        ('backend = "cpu"\n"backend.cpu.no_repack" = true\n', "backend.cpu.no_repack true"),
        ("[frontend.rest]\nport = 9\n", "frontend.rest.port 9"),
    ):
        file.write_text(text)
        shown = run("--config", str(file), "config", "--changed").output
        assert found in " ".join(shown.split())
    for text, message in (
        ("[backend.cpu]\nnope = 1\n", "unknown setting 'backend.cpu.nope'"),
        ("backend = 3\n", "backend is 3; possible: a text"),
        ('threads = ["a"]\n', 'threads is ["a"]; possible: 0..1024'),
    ):
        file.write_text(text)
        found = run("--config", str(file), "config")
        assert message in str(found.exception or found.output)


def test_values_in_messages_are_as_people_write_them():
    from llamakit.errors import shown

    assert [shown(value) for value in (None, True, {"a": [1, "b"]}, "x", 0.5)] == [
        "nothing", "true", '{"a":[1,"b"]}', '"x"', "0.5"
    ]  # fmt: skip
    assert len(shown("x" * 1000)) == 80


class Screen:
    """Standard output that is a terminal, or not."""

    def __init__(self, is_terminal):
        self.text, self.is_terminal = "", is_terminal
        self.buffer = self

    def isatty(self):
        return self.is_terminal

    def write(self, data):
        self.text += data.decode() if isinstance(data, bytes) else data

    def flush(self):
        pass


@pytest.mark.parametrize(
    ("is_terminal", "options", "shown"),
    [
        (True, {}, "\x1b[2mOnce\x1b[0m"),
        (True, {"quiet": True}, ""),
        (True, {"quiet": True, "echo": True}, "\x1b[2mOnce\x1b[0m"),
        (False, {}, ""),
        (False, {"echo": True}, "Once"),
    ],
)
def test_the_prompt_is_dim_on_a_terminal_and_only_there(monkeypatch, is_terminal, options, shown):
    from llamakit.plugins.frontends.cli.generate import _show_prompt

    screen = Screen(is_terminal)
    monkeypatch.setattr(sys, "stdout", screen)
    _show_prompt("Once", {"echo": False, "quiet": False, "raw": False} | options)
    assert screen.text == shown


def test_a_long_prompt_is_shown_by_its_end(monkeypatch):
    from llamakit.plugins.frontends.cli.generate import _show_prompt

    screen = Screen(True)
    monkeypatch.setattr(sys, "stdout", screen)
    _show_prompt("a" * 5000 + "end", {"echo": False, "quiet": False, "raw": False})
    assert len(screen.text) < 450
    assert "end" in screen.text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--top-p", "5"), "--top-p is 5.0; possible: 0..1"), (("--min-p", "-1"), "--min-p is -1.0; possible: 0..1"),
        (("--repeat-penalty", "0"), "--repeat-penalty is 0.0; possible: above 0, up to 100"),
        (("-t", "-3"), "--threads is -3; possible: 0..1024"), (("--seed", "-9"), "--seed is -9;"),
        (("--logit-bias", "abc"), "--logit-bias cannot be 'abc'; possible: ID+N"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["generate", "chat"])
def test_ranges_are_told_before_a_model_is_loaded(command, args, message):
    found = run(command, "-m", "no such file", "-p", "x", *args)
    assert message in str(found.exception)


@pytest.mark.parametrize("command", ["generate", "chat", "serve"])
def test_settings_of_samplers_are_told_before_a_model_is_loaded(command, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text("[sampling]\ntop_p = 7\n")
    found = run("--config", str(file), command, "-m", "no such file")
    assert f"{file}: sampling.top_p is 7; possible: 0..1" in str(found.exception)
    file.write_text("[frontend.rest]\nparallel = 0\n")
    found = run("--config", str(file), "serve", "-m", "no such file")
    assert f"{file}: frontend.rest.parallel is 0; possible: 1..4096" in str(found.exception)
    assert "--parallel is 0;" in str(run("serve", "-m", "no such file", "-np", "0").exception)


@pytest.mark.parametrize(("option", "least"), [("--top-k", 0), ("--temp", 0), ("--repeat-last-n", -1)])
def test_values_below_the_least_mean_the_least_as_in_requests(option, least):
    command = llamakit.get_command(None, "generate")
    params = command.make_context("generate", [option, "-7"], resilient_parsing=False).params
    assert list(params["sampling"].values()).count(least) == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--json-schema-file", "EMPTY"), "is empty"), (("--grammar-file", "EMPTY"), "is empty"),
        (("--regex", "a", "--choices", '["a"]'), "regex and choices cannot both be asked for"),
        (("--choices", "[]x"), "--choices cannot be '[]x'"), (("--structural-tag", '{"format": {"type": "x"}}'), "x"),
    ],
)  # fmt: skip
def test_constraints_are_looked_at_before_a_model_is_loaded(tmp_path, args, message):
    (tmp_path / "empty").write_text(" \n")
    args = [str(tmp_path / "empty") if arg == "EMPTY" else arg for arg in args]
    found = run("generate", "-m", "no such file", "-p", "x", *args)
    assert message in str(found.exception)
    assert "no such file" not in str(found.exception)


def test_no_less_than_all_of_a_prompt_can_be_kept(capsys):
    assert run_line(["generate", "-p", "hi", "-n", "1", "--keep", "-5"]) == 2
    assert "invalid value for '--keep': -5" in capsys.readouterr().err
