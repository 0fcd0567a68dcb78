"""The gradients and updates that the 2023 finetune made of a tiny model, from its own files."""

from __future__ import annotations

import numpy as np
import pytest
from llamakit.plugins.backends.reference import ReferenceBackend, ReferenceOptions
from llamakit.plugins.optimizers.adam.adamw import AdamW, AdamWOptions

from llamakit import Session
from llamakit.passes.lora import ONES, AdapterShape, add_adapters
from llamakit.train.graphs import build_graphs
from llamakit.train.options import Schedule2023
from llamakit.train.pack import Batch
from llamakit.train.schedule import schedule_2023
from llamakit.train.stepper import Stepper
from llamakit.train.tools_2023.checkpoint import read_checkpoint
from llamakit.weights import load_weights, tensor_sources

CTX, BATCH = 16, 2
ALPHA, DECAY, WARMUP = 1e-3, 0.1, 0


@pytest.fixture(scope="module")
def folder(test_data):
    return test_data / "fixtures" / "training"


@pytest.fixture(params=["reference", "cpu"])
def device(request):
    if request.param == "reference":
        return ReferenceBackend(ReferenceOptions(float64=True)).open()
    from llamakit.plugins.backends.cpu import CPUBackend

    return CPUBackend().open()


def stepper_of(folder, device) -> Stepper:
    """Adapters for every tensor, as 2023 had them, with a scale of 1."""
    optimizer = AdamW(AdamWOptions(weight_decay=DECAY))
    with Session(folder / "tiny-base-f32.gguf") as session:
        loss = session.model.build_loss(CTX * BATCH)
        ranks = {name: t.shape[1] for name, t in read_checkpoint(folder / "parity" / "P-1.gguf").tensors.items()}
        shapes = {name.removesuffix(".lora_a"): AdapterShape(r, 1.0) for name, r in ranks.items() if name.endswith("a")}
        loss = add_adapters(loss, shapes)
        trained = {name: tensor for name, tensor in loss.states.items() if not name.endswith(ONES)}
        graphs = build_graphs(loss, trained, optimizer)
        weights = load_weights(device, tensor_sources(graphs.uses(), session.file), graphs.uses())
        stepper = Stepper(device, graphs, weights, optimizer)
        for name, tensor in loss.states.items():
            if name.endswith(ONES):
                stepper.states[name].write(np.ones(tensor.shape))
        return stepper


def load(stepper: Stepper, checkpoint) -> None:
    """Weights and moments of a checkpoint of 2023."""
    for suffix, values in (("", None), (".m", checkpoint.first), (".v", checkpoint.second)):
        for name, adapter in checkpoint.adapters(values).items():
            stepper.states[f"{name}.lora_a{suffix}"].write(adapter.A)
            stepper.states[f"{name}.lora_b{suffix}"].write(adapter.B)


def batch(folder, number: int) -> Batch:
    rows = np.loadtxt(folder / "parity" / f"batch-{number}.txt", dtype=np.int32)
    return Batch(
        tokens=rows[:, 0].copy(), targets=rows[:, 1].copy(), weights=np.ones(len(rows), np.float32),
        positions=np.tile(np.arange(CTX, dtype=np.int32), BATCH), n_sequence=BATCH,
        sequences=np.repeat(np.arange(BATCH, dtype=np.int32), CTX),
    )  # fmt: skip


def gradients_2023(path) -> dict[str, np.ndarray]:
    """name (64 bytes), int64 n, n float32, again and again."""
    data, found, at = path.read_bytes(), {}, 0
    while at < len(data):
        name = data[at : at + 64].split(b"\0")[0].decode()
        n = int(np.frombuffer(data, "<i8", 1, at + 64)[0])
        found[name] = np.frombuffer(data, "<f4", n, at + 72)
        at += 72 + 4 * n
    return found


def test_the_gradients_and_the_next_update_are_those_of_2023(folder, device):
    stepper, first = stepper_of(folder, device), read_checkpoint(folder / "parity" / "P-1.gguf")
    load(stepper, first)
    data = batch(folder, 1)
    stepper.accumulate(data, data.loss_weight)
    expected = gradients_2023(folder / "parity" / "grad-1.bin")
    found, wanted = [], []
    for name, flat in expected.items():
        values = np.asarray(stepper.states[f"{name}.grad"].read(), np.float64)
        found.append((values.T if name.endswith("a") else values).reshape(-1))
        wanted.append(flat.astype(np.float64))
    error = np.linalg.norm(np.concatenate(found) - np.concatenate(wanted)) / np.linalg.norm(np.concatenate(wanted))
    print(f"gradients of {len(expected)} tensors are off by {error:.1e}")
    assert len(expected) == len(stepper.graphs.trained)
    assert error < 1e-4  # 2023 added 1e-9 inside of its logarithm
    lr = ALPHA * schedule_2023(1, Schedule2023(warmup=WARMUP))
    stepper.update(2, lr, 1.0)
    second = read_checkpoint(folder / "parity" / "P-2.gguf").adapters()
    moved = first.adapters()
    for name, adapter in second.items():
        for part in "AB":
            old, new = getattr(moved[name], part), getattr(adapter, part)
            mine = stepper.states[f"{name}.lora_{part.lower()}"].read()
            assert np.abs(mine - new).max() <= 0.02 * np.abs(new - old).max() + 1e-7, name
