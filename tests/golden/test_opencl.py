"""Models on the opencl backend: the published text, splits with the cpu at every layer, and all that an engine does."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from llamakit import Session, embedded
from llamakit.cli import llamakit
from llamakit.registry import Registry
from llamakit.testing.lora import gguf_pair, write_gguf_adapter

pytest.importorskip("pyopencl", reason="needs pyopencl")
PROBE = Registry.discover().backend("opencl").probe()
pytestmark = pytest.mark.skipif(not PROBE.available, reason=PROBE.reason)
PROMPT = "Once upon a time there was a little girl who"
SETTINGS = {"ctx_size": 64, "batch_size": 16, "kv_type": "f32", "n_seq": 2, "activations": "f32"}


@pytest.fixture(scope="module")
def expected(test_data) -> str:
    return (test_data / "models" / "stories260K.expected.txt").read_text().strip()


@pytest.fixture(scope="module")
def adapter(small_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("lora") / "adapter.gguf"
    with Session(small_model) as session:
        shapes = {name: info.shape for name, info in session.file.tensors.items()}
    tensors = {}
    for seed, name in enumerate(("token_embd.weight", "blk.0.attn_q.weight", "blk.4.ffn_down.weight")):
        tensors |= gguf_pair(name, 2, seed, shapes)
    write_gguf_adapter(path, tensors)
    return path


@pytest.fixture(scope="module")
def on_gpu(small_model, adapter):
    with Session(small_model, backend="opencl", lora=[(str(adapter), 0.0)], **SETTINGS) as session:
        yield session


def answers(session: Session) -> list[list[int]]:
    """Greedy, sampled, searched, past the end of the context, held to a grammar, with an adapter."""
    requests = [
        {"temperature": 0.0, "max_tokens": 24}, {"n": 2, "seed": 3}, {"beams": 2, "max_tokens": 8},
        {"temperature": 0.0, "max_tokens": 60, "shift": True}, {"temperature": 0.0, "adapters": (("adapter", 1.0),)},
        {"seed": 5, "repeat_penalty": 1.3, "top_k": 20, "logit_bias": [[260, 2.0]]},
        {"temperature": 0.0, "grammar": 'root ::= [a-m ]+'},
    ]  # fmt: skip
    return [each.tokens for request in requests for each in session.answers(PROMPT, **({"max_tokens": 12} | request))]


def test_the_published_text(stories260k, expected):
    with Session(stories260k, backend="opencl") as session:
        assert session.generate("", max_tokens=200, temperature=0).text.strip() == expected


def test_answers_are_those_of_the_cpu(on_gpu, small_model, adapter):
    with Session(small_model, backend="cpu", lora=[(str(adapter), 0.0)], **SETTINGS) as session:
        assert answers(on_gpu) == answers(session)
        tokens = session.tokenize(PROMPT)
        assert np.allclose(on_gpu.logits(tokens), session.logits(tokens), atol=2e-3)
        assert np.allclose(on_gpu.embed(PROMPT), session.embed(PROMPT), atol=1e-4)


@pytest.mark.parametrize("n", [1, 4])
def test_cpu_and_opencl_share_a_model(stories260k, expected, n):
    with Session(stories260k, device="cpu,opencl", split=f"{n},{5 - n}") as session:
        text = session.generate("", max_tokens=60, temperature=0).text.strip()
    assert len(text) > 40
    assert expected.startswith(text)


@pytest.mark.soak
@pytest.mark.parametrize("order", ["cpu,opencl", "opencl,cpu"])
@pytest.mark.parametrize("n", range(1, 5))
def test_cpu_and_opencl_share_a_model_at_every_layer(stories260k, expected, order, n):
    with Session(stories260k, device=order, split=f"{n},{5 - n}") as session:
        assert session.generate("", max_tokens=200, temperature=0).text.strip() == expected


def test_low_vram_says_the_same(on_gpu, small_model):
    with Session(small_model, backend="opencl", backend_options={"low_vram": True}, **SETTINGS) as session:
        wanted = {"temperature": 0.0, "max_tokens": 12}
        assert session.generate(PROMPT, **wanted).tokens == on_gpu.generate(PROMPT, **wanted).tokens


@pytest.mark.parametrize("lanes", [1, 64])
def test_weights_in_panels_say_the_same(monkeypatch, lanes):
    """As GPUs have them, with groups and without, of a model in Q8_0 whose embedding is the head too."""
    from llamakit.plugins.backends.opencl import driver

    made, found = driver._traits, []
    for packed in (False, True):
        monkeypatch.setattr(driver, "_traits", lambda *given, packed=packed: replace(made(*given), packed=packed))
        with Session(embedded.FILE, backend="opencl", backend_options={"lanes": lanes}, **SETTINGS) as session:
            assert session.weights["token_embd.weight"].packed == packed
            found.append(session.generate(PROMPT, temperature=0.0, max_tokens=16).tokens)
    assert found[0] == found[1]


def test_what_it_saved_the_cpu_reads(on_gpu, small_model, tmp_path):
    tokens = on_gpu.tokenize(PROMPT)
    first = on_gpu.generate(tokens, temperature=0.0, max_tokens=20)
    n = on_gpu.save_prefix(tmp_path / "saved", tokens + first.tokens)
    with Session(small_model, backend="cpu", **SETTINGS) as session:
        assert len(session.load_prefix(tmp_path / "saved")) == n
        again = session.generate(tokens, temperature=0.0, max_tokens=20)
        assert again.tokens == first.tokens
        assert again.timings.n_cached == len(tokens) - 1
        session.save_prefix(tmp_path / "again", tokens + first.tokens)
    assert len(on_gpu.load_prefix(tmp_path / "again")) == n


def test_many_at_once_give_what_each_gives_alone(on_gpu):
    jobs = [on_gpu.service.submit(on_gpu.request(PROMPT[:n], temperature=0.0, max_tokens=8)) for n in (4, 20, 44)]
    found = [next(event.result.tokens for event in job if hasattr(event, "result")) for job in jobs]
    alone = [on_gpu.generate(PROMPT[:n], temperature=0.0, max_tokens=8).tokens for n in (4, 20, 44)]
    assert found == alone


def test_commands_know_it(small_model):
    run = CliRunner()
    made = run.invoke(
        llamakit, ["generate", "-m", str(small_model), "--backend", "opencl", "-p", "Once", "-n", "5", "--temp", "0"]
    )
    assert made.exit_code == 0, made.output
    shown = run.invoke(llamakit, ["doctor"])
    assert "opencl" in shown.output
    measured = run.invoke(
        llamakit, ["bench", "-m", str(small_model), "--backend", "opencl", "-p", "8", "-n", "2", "-r", "1"]
    )
    assert measured.exit_code == 0, measured.output
    assert "tg2" in measured.output


TWO_DEVICES = """
import sys
from llamakit import Session
with Session(sys.argv[1], device="opencl:0,opencl:1", kv_type="f32", n_seq=2, ctx_size=64) as session:
    first, second = (member.device.driver for member in session.device.members)
    read, fetch, fetched = first.read, second.fetch, []
    first.read = lambda *given: sys.exit("what one device hands over passed through the host")
    second.fetch = lambda *given: (fetched.append(given), fetch(*given))
    print(session.generate("Once upon a time", max_tokens=20, temperature=0).tokens)
    assert len(fetched) >= 20, fetched
    first.read = read
    session.reopen()  # one after the other, so that each has a context of its own
    assert second.reaches(first) is False
    print(session.generate("Once upon a time", max_tokens=20, temperature=0).tokens)
    print([each.tokens for each in session.answers("Once upon a time", max_tokens=8, n=2, seed=3)])  # blocks are copied
    print(session.generate("Once upon a time", max_tokens=70, temperature=0, shift=True).tokens)
    tokens = session.tokenize("Once upon a time there was")
    session.generate(tokens, max_tokens=2)
    session.save_prefix(sys.argv[2], tokens)
"""


def test_two_devices_of_a_driver(small_model, tmp_path):
    """PoCL makes of a processor as many as it is asked for."""
    environment = os.environ | {"POCL_DEVICES": "pthread pthread"}
    command = [sys.executable, "-c", TWO_DEVICES, str(small_model), str(tmp_path / "saved")]
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    if "no device 1" in made.stderr:
        pytest.skip("the driver has one device")
    assert made.returncode == 0, made.stderr
    with Session(small_model, backend="cpu", activations="f32", kv_type="f32", n_seq=2, ctx_size=64) as session:
        plain = session.generate("Once upon a time", max_tokens=20, temperature=0).tokens
        both = [each.tokens for each in session.answers("Once upon a time", max_tokens=8, n=2, seed=3)]
        shifted = session.generate("Once upon a time", max_tokens=70, temperature=0, shift=True).tokens
        tokens = session.tokenize("Once upon a time there was")
        assert len(session.load_prefix(tmp_path / "saved")) >= len(tokens) - 1
        assert session.generate(tokens, max_tokens=2).timings.n_cached >= len(tokens) - 1
    assert made.stdout.splitlines() == [str(each) for each in (plain, plain, both, shifted)]
