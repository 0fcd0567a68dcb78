"""Losses, gradients and curves of whole models, against torch in float64."""

from __future__ import annotations

import os

import numpy as np
import pytest
from llamakit.plugins.backends.reference import ReferenceBackend, ReferenceOptions
from llamakit.plugins.optimizers.adam.adamw import AdamW, AdamWOptions

from llamakit import Session
from llamakit.train.graphs import build_graphs
from llamakit.train.pack import Batch
from llamakit.train.stepper import Stepper
from llamakit.weights import load_weights, tensor_sources
from tests.golden.test_transformers import SIZES, export, gguf_name, make, to_adjacent

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch", reason="needs torch as an oracle")
pytest.importorskip("transformers", reason="needs transformers as an oracle")

torch.set_num_threads(1)
VARIANTS = ("llama-2-gqa", "tied", "llama-3.1", "biases", "mistral-window", "qwen2", "qwen3", "mixtral", "qwen3-moe")
ROWS = 60
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


def batch(seed: int) -> Batch:
    """Two packed samples of other lengths, with weights, of which some are 0."""
    rng = np.random.default_rng(seed)
    lengths = (37, ROWS - 37)
    tokens = rng.integers(0, SIZES["vocab_size"], ROWS + 2).astype(np.int32)
    first, second = tokens[:38], tokens[38:]
    weights = rng.uniform(0.5, 1.5, ROWS).astype(np.float32) * (rng.uniform(size=ROWS) < 0.7)
    return Batch(
        tokens=np.concatenate([first[:-1], second[:-1]]), targets=np.concatenate([first[1:], second[1:]]),
        weights=weights.astype(np.float32), positions=np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
        sequences=np.repeat(np.arange(2, dtype=np.int32), lengths), n_sequence=2,
    )  # fmt: skip


def torch_loss(model, data: Batch):
    """The same loss, each sample by itself."""
    total = 0
    for sequence in range(data.n_sequence):
        rows = np.flatnonzero(data.sequences == sequence)
        logits = model(torch.tensor(data.tokens[rows][None].astype(np.int64))).logits[0]
        losses = torch.nn.functional.cross_entropy(
            logits, torch.tensor(data.targets[rows].astype(np.int64)), reduction="none"
        )
        total = total + (losses * torch.tensor(data.weights[rows].astype(np.float64))).sum()
    return total / data.loss_weight


def stepper_of(path, device, optimizer) -> Stepper:
    """All weights of a model trained but experts', with the file's values."""
    with Session(path) as session:
        names = session.model.build_loss(ROWS).parameters
        loss = session.model.build_loss(ROWS, states=frozenset(name for name in names if "_exps." not in name))
        graphs = build_graphs(loss, dict(loss.states), optimizer)
        sources = tensor_sources(graphs.uses(), session.file)
        stepper = Stepper(device, graphs, load_weights(device, sources, graphs.uses()), optimizer)
        for name in loss.states:
            stepper.states[name].write(session.model.tensor(name))
    return stepper


def as_gguf(model, config, arch, values) -> dict[str, np.ndarray]:
    """Values by torch's parameter names, by GGUF's names and in its order of rows."""
    found = {}
    for name, value in values.items():
        if ".experts." in name:
            continue
        target, array = gguf_name(name), value.detach().numpy()
        if arch == "llama" and (".attn_q." in target or ".attn_k." in target):
            heads = config.num_attention_heads if ".attn_q." in target else config.num_key_value_heads
            array = to_adjacent(array, heads)
        found[target] = array
    return found


def relative(found: dict, expected: dict) -> float:
    assert found.keys() == expected.keys()
    error = sum(np.sum((np.asarray(found[name], np.float64) - expected[name]) ** 2) for name in expected)
    return float(np.sqrt(error / sum(np.sum(value**2) for value in expected.values())))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_whole_models(variant, backend, tmp_path):
    model, config, arch = make(variant)
    export(model, config, arch, tmp_path / "m.gguf")
    if "mix" in variant or "moe" in variant:
        model.set_experts_implementation("eager")  # torch's grouped products know no float64
    model, data = model.double(), batch(3)
    expected_loss = torch_loss(model, data)
    expected_loss.backward()
    named = {name: p.grad for name, p in model.named_parameters()}
    expected = as_gguf(model, config, arch, named)
    device = open_device(backend)
    stepper = stepper_of(tmp_path / "m.gguf", device, AdamW())
    loss = stepper.accumulate(data, data.loss_weight)
    found = {name: stepper.states[f"{name}.grad"].read() for name in stepper.graphs.trained}
    error = relative(found, expected)
    print(f"{variant} {backend}: loss off by {abs(loss - float(expected_loss)):.1e}, gradients by {error:.1e}")
    assert abs(loss - float(expected_loss)) <= 1e-6
    assert error <= 1e-5


def open_device(backend: str):
    if backend == "reference":
        return ReferenceBackend(ReferenceOptions(float64=True)).open()
    from llamakit.plugins.backends.cpu import CPUBackend

    return CPUBackend().open()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_fifty_steps_follow_torch(backend, tmp_path):
    """AdamW with decay and clipping that is felt, a learning rate that moves."""
    model, config, arch = make("llama-2-gqa")
    export(model, config, arch, tmp_path / "m.gguf")
    model = model.double()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    adam = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=1e-3)
    stepper = stepper_of(tmp_path / "m.gguf", open_device(backend), AdamW(AdamWOptions(weight_decay=0.1)))
    batches = [batch(seed) for seed in range(4)]
    worst = 0.0
    for step in range(50):
        data, lr = batches[step % 4], 1e-3 * (1 - step / 60)
        adam.zero_grad()
        loss = torch_loss(model, data)
        loss.backward()
        expected_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in adam.param_groups:
            group["lr"] = lr
        adam.step()
        found = stepper.accumulate(data, data.loss_weight)
        norm = stepper.update(step + 1, lr, 1.0)
        worst = max(worst, abs(found - float(loss)))
        assert norm == pytest.approx(float(expected_norm), rel=1e-3)
    weights = as_gguf(model, config, arch, dict(model.named_parameters()))
    error = relative(stepper.trained(), weights)
    print(f"{backend}: losses off by at most {worst:.1e}, weights by {error:.1e}")
    assert worst <= 1e-4
    assert error <= 1e-3
