"""benchmarks/gpu.py, in its short form on whatever OpenCL device there is; ceilings; measured steps are waited for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from llamakit.engine.bench import Bench
from llamakit.gpu.device import GPUDevice
from llamakit.registry import Registry
from llamakit.testing.recording import RecordingDriver

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu.py"


def run(tmp_path, *arguments: str) -> tuple[int, list[dict]]:
    out = tmp_path / "gpu.jsonl"
    made = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(out), *arguments], capture_output=True, text=True, check=False
    )
    assert out.exists(), made.stderr
    return made.returncode, [json.loads(line) for line in out.read_text().splitlines()]


def test_the_short_form_finds_out_all(tmp_path):
    pytest.importorskip("pyopencl", reason="needs pyopencl")
    probe = Registry.discover().backend("opencl").probe()
    if not probe.available:
        pytest.skip(probe.reason)
    code, found = run(tmp_path, "--backend", "opencl", "--short", "--minutes", "5")
    stages = {line["stage"]: line for line in found}
    assert code == 0
    assert [line["at"] for line in found] == sorted(line["at"] for line in found)
    assert stages["ceilings"]["read_bandwidth"] > 0
    assert len(stages["shapes"]["microseconds"]) == 3
    assert min(stages["shapes"]["microseconds"].values()) > 0
    assert "recorded steps" in stages["shapes"]["tried"]
    assert stages["kit"]["passed"] > 10
    assert stages["kit"]["failed"] == {}
    assert stages["text"]["equal"]
    rates = [line for line in found if line["stage"] == "rate"]
    assert {line["test"] for line in rates} == {"pp32", "tg8", "tg8x2"}
    assert all(line["tokens_per_second"] > 0 and line["limit"] in ("read", "f32") for line in rates)
    assert stages["end"]["wrong"] == 0


def test_without_a_device_it_says_so_and_ends(tmp_path):
    if Registry.discover().backend("cuda").probe().available:
        pytest.skip("there is a GPU")
    code, found = run(tmp_path)
    assert code == 5
    assert [line["stage"] for line in found] == ["error"]


def test_ceilings_come_from_what_is_launched(monkeypatch):
    device = GPUDevice(RecordingDriver())
    monkeypatch.setattr("llamakit.gpu.ceilings.LEAST_SECONDS", 0.0)
    found = device.ceilings()
    assert found.read_bandwidth > 0
    assert found.multiply_adds["f32"] > 0
    assert {launch.kernel for launch in device.driver.launches} == {"scale", "read_all", "multiply_adds"}
    assert not any(block.alive for block in device.driver.blocks)


def test_a_measurement_waits_for_the_last_step():
    """Devices go on while the host does: a rate without the last step would be one of launching."""
    events = []

    class Made:
        shape = (1, 8)

        def rows(self, rows):
            events.append("read")

    def step(batch):
        events.append("step")
        return {"logits": Made()}

    engine = SimpleNamespace(
        runner=SimpleNamespace(n_row=8, run=step), tokenizer=SimpleNamespace(n_vocab=10),
        space=SimpleNamespace(kv=SimpleNamespace(spec=SimpleNamespace(n_block=4, block_size=32))),
    )  # fmt: skip
    Bench(engine).measure("pp16", 16, 0, 0, 1, 1)
    assert events == ["step", "step", "read"] * 2
    events.clear()
    Bench(engine).measure("tg2", 0, 2, 0, 1, 1)
    assert events == ["step", "step", "read"] * 2
