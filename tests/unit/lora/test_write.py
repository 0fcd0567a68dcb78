"""GGUF adapters that we write: every reader of the format applies the scale that was trained with."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llamakit.adapter import Adapter
from llamakit.errors import UsageError
from llamakit.gguf import GGMLType, open_gguf
from llamakit.lora.write import lora_scale, write_adapter
from llamakit.models import load_model
from llamakit.models.lora import load_adapter
from llamakit.testing.lora import N_EMBD, tiny_shapes, write_tiny_model

MATRICES = [name for name, shape in tiny_shapes().items() if len(shape) == 2]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("write") / "base.gguf")


def pair(name: str, rank: int, scale: float, seed: int = 0) -> Adapter:
    rng = np.random.default_rng(seed)
    n_out, n_in = tiny_shapes()[name]
    A, B = rng.normal(size=(rank, n_in)), rng.normal(size=(n_out, rank))
    return Adapter(A.astype(np.float32), B.astype(np.float32), scale)


def delta(adapter: Adapter) -> np.ndarray:
    return adapter.scale * adapter.B.astype(np.float64) @ adapter.A.astype(np.float64)


def read_by_the_format(path) -> tuple[float, dict[str, np.ndarray]]:
    """alpha, and each tensor's change as the format defines it: alpha / (rank of the tensor) * B A."""
    with open_gguf(path) as file:
        alpha = float(file.metadata["adapter.lora.alpha"])
        found = {}
        for key in file.tensors:
            name, _, part = key.rpartition(".")
            if part == "lora_a":
                a, b = (file.tensor(f"{name}.{each}").astype(np.float64) for each in ("lora_a", "lora_b"))
                rank = a.shape[1] if name == "token_embd.weight" else a.shape[0]
                found[name] = alpha / rank * (a @ b.T if name == "token_embd.weight" else b @ a)
        return alpha, found


CASES = {
    "alpha is the rank": ({name: (4, lora_scale(4, 4)) for name in MATRICES}, 4.0, 0),
    "alpha is not the rank": ({name: (4, lora_scale(4, 16)) for name in MATRICES}, 16.0, 0),
    "rsLoRA": ({name: (8, lora_scale(8, 16, rslora=True)) for name in MATRICES}, 16 * math.sqrt(8), 0),
    "mixed ranks, one alpha": (
        {name: (1 + i % 5, lora_scale(1 + i % 5, 12)) for i, name in enumerate(MATRICES)}, 12.0, 0,
    ),
    "an alpha for two modules": (
        {name: (4, lora_scale(4, 5.5 if i in (3, 5) else 8)) for i, name in enumerate(MATRICES)}, 8.0, 2,
    ),
    "rsLoRA, mixed ranks": (
        {name: (8, lora_scale(8, 16, True)) for name in MATRICES} | {MATRICES[4]: (2, lora_scale(2, 16, True))},
        16 * math.sqrt(8), 1,
    ),
    "a scale of 0": (dict.fromkeys(MATRICES, (4, 0.0)), 1.0, len(MATRICES)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_scale_is_what_was_trained_with(tmp_path, base, case):
    plan, alpha, n_folded = CASES[case]
    tensors = {name: pair(name, rank, scale, i) for i, (name, (rank, scale)) in enumerate(plan.items())}
    path = tmp_path / "a.gguf"
    with open_gguf(base) as file:
        assert write_adapter(path, file.metadata, tensors) == np.float32(alpha)
        loaded = load_adapter(path, load_model(file)).tensors
    found_alpha, by_format = read_by_the_format(path)
    assert found_alpha == np.float32(alpha)
    assert by_format.keys() == loaded.keys() == tensors.keys()
    for name, adapter in tensors.items():
        wanted = delta(adapter)
        tolerance = 2e-7 * np.abs(adapter.scale * np.abs(adapter.B) @ np.abs(adapter.A)).max()
        np.testing.assert_allclose(by_format[name], wanted, rtol=0, atol=tolerance)
        np.testing.assert_allclose(delta(loaded[name]), wanted, rtol=0, atol=tolerance)
        assert np.array_equal(loaded[name].A, adapter.A)
    assert sum(not np.array_equal(loaded[name].B, tensors[name].B) for name in tensors) == n_folded


def test_norms_are_written_whole_and_the_head_says_enough(tmp_path, base):
    norm = np.linspace(0.5, 1.5, N_EMBD, dtype=np.float32)
    path = tmp_path / "a.gguf"
    with open_gguf(base) as file:
        head = dict(file.metadata) | {"general.name": "Tiny"}
        write_adapter(
            path, head, {MATRICES[1]: pair(MATRICES[1], 2, 1.0)}, norms={"output_norm.weight": norm},
            metadata={"general.name": "poems", "general.file_type": None}, type=GGMLType.F16,
        )  # fmt: skip
        model = load_model(file)
        loaded = load_adapter(path, model)
        change = norm - model.tensor("output_norm.weight")
    assert np.array_equal(loaded.tensors["output_norm.weight"].B, change)
    with open_gguf(path) as file:
        assert file.tensors[f"{MATRICES[1]}.lora_a"].type == GGMLType.F16
        assert dict(file.metadata) == {
            "general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora",
            "adapter.lora.alpha": 2.0, "general.base_model.count": 1, "general.base_model.0.name": "Tiny",
            "general.name": "poems", "llama.block_count": 2, "llama.embedding_length": 32,
            "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
        }  # fmt: skip


LLAMA = {"general.architecture": "llama"}
ZEROS = np.zeros((3, 3), np.float32)
BAD = {
    "architecture": ({}, {"x": Adapter(ZEROS, ZEROS)}, {}),
    "no adapters": (LLAMA, {}, {}),
    "common rank": (LLAMA, {"x": Adapter(ZEROS[:2], ZEROS)}, {}),
    "is written whole": (LLAMA, {"x": Adapter(None, ZEROS[0])}, {}),
    "scale of the adapter": (LLAMA, {"x": Adapter(ZEROS, ZEROS, math.inf)}, {}),
    "not finite": (LLAMA, {"x": Adapter(ZEROS + np.nan, ZEROS)}, {}),
    "not Q8_0": (LLAMA, {"x": Adapter(ZEROS, ZEROS)}, {"type": GGMLType.Q8_0}),
}


@pytest.mark.parametrize("fault", BAD)
def test_what_cannot_be_written_is_refused_and_leaves_the_old_file(tmp_path, fault):
    base, tensors, more = BAD[fault]
    path = tmp_path / "a.gguf"
    path.write_bytes(b"before")
    with pytest.raises(UsageError, match=fault):
        write_adapter(path, base, tensors, **more)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
