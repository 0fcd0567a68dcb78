"""The command line as programs use it: what goes to stdout, exit codes, messages."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from llamakit import start
from llamakit.backend import Availability, Ceilings, DeviceInfo
from llamakit.cli import llamakit
from llamakit.cli import run as run_line
from llamakit.errors import BackendError
from llamakit.registry import Registry


def python(*args: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("LLAMAKIT_")} | environment
    command = [sys.executable, *map(str, args)]
    return subprocess.run(command, input=stdin, capture_output=True, env=env, check=False, timeout=100)


def run(*args: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    return python("-m", "llamakit", *args, **more)


def test_help_lists_the_commands_and_imports_nothing_heavy():
    help_ = run("--help")
    assert help_.returncode == 0
    for name in (b"generate", b"chat", b"tokenize", b"doctor"):
        assert name in help_.stdout
    trace = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "llamakit", "--help"], capture_output=True, check=True
    )
    imported = {line.rsplit(b"|", 1)[-1].strip() for line in trace.stderr.splitlines()}
    assert not imported & {b"numpy", b"jinja2", b"rich", b"msgspec", b"pluggy", b"asyncio"}


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_generate_writes_the_text_and_nothing_else(small_model, test_data, backend):
    expected = (test_data / "models" / "stories260K.expected.txt").read_bytes()
    out = run("generate", "-m", small_model, "-p", "", "--temp", "0", "-n", "200", "--backend", backend, "-t", "2")
    assert out.returncode == 0
    assert out.stdout.strip() == expected.strip()
    assert b"200 tokens" in out.stderr


def test_generate_options(small_model, tmp_path):
    base = ("generate", "-m", small_model, "-n", "12", "-p", "Once upon", "--seed", "3")
    first = run(*base)
    assert run(*base).stdout == first.stdout
    assert run(*base, "--echo").stdout == b"Once upon" + first.stdout
    assert b"Lily" not in run(*base, "-n", "40", "--stop", "Lily").stdout
    assert run(*base, "-q").stderr == b""
    record = run(*base, "--logdir", tmp_path / "log")
    assert record.returncode == 0
    assert len(list((tmp_path / "log").glob("*.yml"))) == 1
    cache = tmp_path / "prompt.cache"
    run(*base, "--prompt-cache", cache)
    again = run(*base, "--prompt-cache", cache)
    assert b"cached" in again.stderr
    assert again.stdout == first.stdout


@pytest.mark.parametrize(("name", "start"), [("speed.svg", b"<?xml"), ("speed.png", b"\x89PNG")])
def test_bench_draws(small_model, tmp_path, name, start):
    pytest.importorskip("matplotlib")
    short = ("bench", "-m", small_model, "-p", "8", "-n", "4", "-d", "0,16", "-r", "1", "-q")
    assert run(*short, "--plot", tmp_path / name).returncode == 0
    assert (tmp_path / name).read_bytes().startswith(start)
    nowhere = run(*short, "--plot", tmp_path / "no" / name)
    assert nowhere.returncode == 2
    assert b"there is no folder" in nowhere.stderr


def test_tokenize_and_detokenize(small_model):
    text = "Lily ate \u00fc\u4e2d \U0001f600 cake"
    tokens = json.loads(run("tokenize", "-m", small_model, "--json", "-", stdin=text.encode()).stdout)["tokens"]
    assert json.loads(run("tokenize", "-m", small_model, "--json", text).stdout)["tokens"] == tokens
    content = json.loads(run("detokenize", "-m", small_model, "--json", *map(str, tokens)).stdout)["content"]
    assert content == text
    assert json.loads(run("tokenize", "-m", small_model, "--json", "--add-bos", "a").stdout)["tokens"][0] == 1


def test_json_outputs(stories260k, tmp_path):
    found = json.loads(run("bench", "-m", stories260k, "-p", "8", "-n", "4", "-b", "1,2", "-r", "1", "--json").stdout)
    bench = found["measurements"]
    assert [(m["test"], m["batch"]) for m in bench] == [("pp8", 1), ("tg4", 1), ("tg4x2", 2)]
    assert {"test", "n_prompt", "n_gen", "depth", "batch", "tokens_per_second"} <= set(bench[0])
    assert found["ceilings"]["read_bandwidth"] > 1e8
    for m in bench:  # not how large it is: this model stays in caches, and the ceilings of a busy machine are low
        rows = m["n_prompt"] + m["n_gen"] * m["batch"]
        ceilings = {"read": found["ceilings"]["read_bandwidth"]} | found["ceilings"]["multiply_adds"]
        per_row = m["share"] * ceilings[m["limit"]] / m["tokens_per_second"]
        expected = {"read": 1.1e6 * (m["n_prompt"] // 8 + m["n_gen"]) / rows, "f32": 260_000}[m["limit"]]
        assert per_row == pytest.approx(expected, rel=0.15), m
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time, there was a little girl named Lily. " * 80)
    found = [
        json.loads(run("perplexity", "-m", stories260k, "-f", text, "--backend", b, "--json").stdout)
        for b in ("reference", "cpu")
    ]
    assert found[0]["perplexity"] == pytest.approx(found[1]["perplexity"], rel=5e-5)
    assert found[0]["tokens"] > 200
    plugins = json.loads(run("plugins", "--json").stdout)
    assert {"name", "kind", "package", "available", "reason"} <= set(plugins[0])
    vectors = json.loads(run("embed", "-m", stories260k, "--json", "a cat", "a dog").stdout)
    assert len(vectors) == 2
    assert sum(x * x for x in vectors[0]["embedding"]) == pytest.approx(1, abs=1e-4)
    assert len(json.loads(run("inspect", stories260k, "--json").stdout)["tensors"]) == 48


def test_quantize_and_use_the_result(stories260k, tmp_path):
    out = tmp_path / "q.gguf"
    done = run("quantize", stories260k, out, "q8_0")
    assert done.returncode == 0
    assert b"ffn_down" in done.stderr
    assert run("generate", "-m", out, "-p", "Once", "-n", "5").returncode == 0


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["generate", "-m", "nowhere.gguf", "-p", "x"], 3, b"no file nowhere.gguf"),
        (["generate", "-m", "MODEL", "-p", "x", "--top-p", "1.5"], 2, b"0..1"),
        (["generate", "-m", "MODEL", "-p", "x", "--samplers", "top_k;typcal_p"], 2, b"typical_p, top_p are nearest"),
        (["generate", "-m", "MODEL", "-p", "x", "--backend", "cud"], 2, b"no backend named 'cud'"),
        (["generate", "-m", "MODEL", "-p", "many words " * 600], 6, b"the context holds 512"),
        (["generate", "-m", "MODEL", "-p", "x", "--kv-type", "f8"], 2, b"--kv-type"),
        (["generat"], 2, b"generat"),
        (["model.gguf"], 2, b"llamakit chat -m model.gguf"),
        (["detokenize", "-m", "MODEL", "99999"], 2, b"99999"),
        (["quantize", "MODEL", "out.gguf", "Q4_KM"], 2, b"Q4_K"),
    ],
)
def test_errors_say_what_is_wrong(stories260k, args, code, message):
    result = run(*[str(stories260k) if a == "MODEL" else a for a in args])
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert b"Traceback" not in result.stderr
    assert result.stdout == b""


def test_errors_for_programs_are_json_on_stderr():
    result = run("inspect", "--json", "nowhere.gguf")
    assert (result.returncode, result.stdout) == (3, b"")
    error = json.loads(result.stderr)["error"]
    assert error["code"] == "model_file"
    assert error["message"] == "no file nowhere.gguf"
    assert set(error) == {"code", "message", "param", "found", "hint"}


def test_an_error_has_its_traceback_with_verbose_only():
    assert b"Traceback" not in run("generate", "-m", "nowhere.gguf", "-p", "x").stderr
    assert b"Traceback" in run("generate", "-m", "nowhere.gguf", "-p", "x", "-v").stderr


def test_inspect_check_finds_values_that_are_no_numbers(small_model, tmp_path):
    assert run("inspect", "--check", small_model).returncode == 0
    data = bytearray(small_model.read_bytes())
    data[-4:] = b"\x00\x00\xc0\x7f"  # a NaN in the last float32
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(data)
    result = run("inspect", "--check", "--json", damaged)
    assert result.returncode == 1
    assert len(json.loads(result.stdout)["faults"]) == 1


def test_config_keys_describe_the_settings():
    keys = json.loads(run("config", "--keys", "--json", "sampling").stdout)
    assert keys["sampling.top_k"]["description"]
    assert all(key.startswith("sampling.") for key in keys)
    assert run("config", "samplin").returncode == 2


def test_settings_come_from_file_environment_and_command_line(tmp_path, small_model):
    file = tmp_path / "llamakit.toml"
    file.write_text(f'model = "{small_model}"\nseed = 5\n[sampling]\ntop_k = 7\ntemperature = 0.5\n')
    shown = json.loads(run("--config", file, "config", "--json", LLAMAKIT_SAMPLING__TOP_K="9").stdout)
    assert shown["sampling.top_k"] == {"value": 9, "origin": "environment LLAMAKIT_SAMPLING__TOP_K"}
    assert shown["sampling.temperature"] == {"value": 0.5, "origin": str(file)}
    assert shown["threads"]["origin"] == "default"
    assert run("--config", file, "generate", "-p", "x", "-n", "3").returncode == 0
    file.write_text("[sampling]\ntemprature = 1\n")
    wrong = run("--config", file, "config")
    assert wrong.returncode == 2
    assert b"unknown setting 'sampling.temprature'" in wrong.stderr
    assert b"found   sampling.temperature" in wrong.stderr


def test_a_reader_that_leaves_ends_it_quietly(small_model):
    command = f'"{sys.executable}" -m llamakit generate -m "{small_model}" -p "" -n 400 --ignore-eos | head -c 5'
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, check=False, timeout=60)
    assert done.returncode == 141
    assert b"Traceback" not in done.stderr


def test_chat_answers_from_a_pipe(small_model):
    done = run("chat", "-m", small_model, "-n", "8", "--temp", "0", stdin=b"Hello\n/undo\n/nonsense\n/exit\n")
    assert done.returncode == 0
    assert done.stdout.strip()
    assert b"no command /nonsense" in done.stderr


def test_doctor_tells_the_kernels(small_model):
    report = json.loads(run("doctor", "--json").stdout)
    backends = {b["name"]: b for b in report["backends"]}
    assert backends["cpu"]["available"]
    (device,) = backends["cpu"]["devices"]
    assert device["device"] == "cpu:0"
    assert device["kernels"]["isa"]
    assert device["rates"] is None
    assert not any(b["devices"] for b in report["backends"] if not b["available"])


def test_doctor_measures_when_it_is_asked_to(monkeypatch):
    registry = Registry.discover()
    measured = Ceilings(read_bandwidth=2e9, multiply_adds={"f32": 3e9}, notes={"copies": "4.0 GB/s"})
    device = SimpleNamespace(kernels=lambda: {"isa": "x"}, ceilings=lambda: measured, close=lambda: None)
    for name in ("cpu", "opencl", "cuda"):
        devices = tuple(DeviceInfo(f"{name} {i}", "cpu") for i in range(2))
        probe = Availability(available=name == "cpu", reason="not here", devices=devices)
        monkeypatch.setattr(registry.backend(name), "probe", classmethod(lambda cls, probe=probe: probe))

    def open_(self, index=0):
        if index:
            raise BackendError("it is gone")
        return device

    monkeypatch.setattr(registry.backend("cpu"), "open", open_)
    monkeypatch.setenv("COLUMNS", "200")
    told = " ".join(CliRunner().invoke(llamakit, ["doctor", "--rates"]).output.split())
    assert "ok cpu:0 isa x; at best: reads 2.0 GB/s, 10^9 multiply-adds/s f32 3, copies 4.0 GB/s" in told
    assert "ok cpu:1 error it is gone" in told
    assert "-- opencl not here" in told
    assert "at best" not in CliRunner().invoke(llamakit, ["doctor"]).output


def test_start_up_is_quick(small_model):
    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    def seconds(*args: str) -> float:
        """Of the processor."""
        start = used()
        assert python(*args).returncode == 0
        return used() - start

    libraries = ["-c", "import click, msgspec, numpy"]
    command = ["-m", "llamakit", "tokenize", "-m", str(small_model), "x"]
    rounds = [(seconds(*libraries), seconds("-m", "llamakit", "--help"), seconds(*command)) for _ in range(4)]
    plain, help_, whole = map(min, zip(*rounds, strict=True))  # the least disturbed of those that were made in turn
    assert 0.01 < help_ < 1.2 * plain  # 0.6 times
    assert whole < 4 * plain  # 1.6 times


def test_generate_with_an_adapter(stories260k, tmp_path):
    from llamakit import Session

    data = tmp_path / "data.txt"
    data.write_text("the cat sat on the mat. " * 60)
    with Session(stories260k, backend="cpu") as session:
        options = {"ctx": 64, "rank": 4, "steps": 20, "lr": 2e-2, "val_split": 0.0}
        session.trainer(data=[str(data)], out=str(tmp_path / "run"), **options).run()
    arguments = ["generate", "-m", str(stories260k), "-p", "the cat", "-n", "8", "--temp", "0"]
    plain = run(*arguments)
    adapted = run(*arguments, "--lora", str(tmp_path / "run" / "adapter.gguf"))
    assert adapted.returncode == plain.returncode == 0
    assert adapted.stdout != plain.stdout
    assert b"sat on" in adapted.stdout


@pytest.mark.parametrize("group", ["lora", "data"])
def test_a_group_without_a_command_shows_its_help(group, capfd):
    assert run_line([group]) == 0
    out, err = capfd.readouterr()
    assert out.startswith(f"Usage: llamakit {group}")
    assert err == ""


def test_doctor_fits_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = CliRunner().invoke(llamakit, ["doctor"])
    assert [line for line in found.output.splitlines() if len(line) > 80] == []


SLOW = """
import sys, time
print("importing", flush=True)
time.sleep(30)
"""


@pytest.mark.parametrize("module", ["click", "tempfile", "numpy", "msgspec"])
def test_ctrl_c_during_an_import_ends_silently(small_model, tmp_path, module):
    """Whoever changed their mind at once got a traceback of the importing."""
    (tmp_path / f"{module}.py").write_text(SLOW)
    # Tests that run in the background have Ctrl-C ignored.
    begin = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    begin += "from llamakit.start import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", begin, "inspect", small_model],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    try:
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20)[1].strip() == b""
    finally:
        process.kill()
    assert process.returncode == 130


def test_the_command_and_the_module_begin_where_ctrl_c_is_silent():
    (entry,) = entry_points(group="console_scripts", name="llamakit")
    assert entry.value == "llamakit.start:main"
    assert "from llamakit.start import main" in (Path(start.__file__).parent / "__main__.py").read_text()


def test_a_background_job_keeps_ctrl_c_ignored(tmp_path):
    """A shell starts it so that Ctrl-C at the terminal is not its own."""
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); import llamakit.cli as cli; "
    code += "cli.run = lambda args: print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN); "
    code += "from llamakit.start import main; main()"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"True\n"
