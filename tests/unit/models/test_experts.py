"""Models with experts: what their files must say, and what stays precise when they are quantised."""

from __future__ import annotations

import numpy as np
import pytest

from llamakit import Session
from llamakit.errors import LlamaKitError, ModelFileError
from llamakit.gguf import GGMLType, GGUFWriter, open_gguf
from llamakit.gguf.quantize import quantize_file
from llamakit.models import load_model

N_EMBD, N_FF, N_EXPERT, N_VOCAB = 64, 96, 4, 40


def write(path, *, n_ff=N_FF, drop=(), extra=None, **metadata):
    """A random model of two layers with experts; `metadata` replaces keys of the architecture."""
    rng = np.random.default_rng(0)
    layer = {
        "attn_norm": (N_EMBD,), "ffn_norm": (N_EMBD,), "attn_q": (N_EMBD, N_EMBD), "attn_k": (N_EMBD, N_EMBD),
        "attn_v": (N_EMBD, N_EMBD), "attn_output": (N_EMBD, N_EMBD), "ffn_gate_inp": (N_EXPERT, N_EMBD),
        "ffn_gate_exps": (N_EXPERT, n_ff, N_EMBD), "ffn_up_exps": (N_EXPERT, n_ff, N_EMBD),
        "ffn_down_exps": (N_EXPERT, N_EMBD, n_ff),
    }  # fmt: skip
    shapes = {f"blk.{i}.{name}.weight": shape for i in range(2) for name, shape in layer.items()}
    shapes |= {"token_embd.weight": (N_VOCAB, N_EMBD), "output_norm.weight": (N_EMBD,), **(extra or {})}
    keys = {
        "context_length": 64, "embedding_length": N_EMBD, "block_count": 2, "feed_forward_length": n_ff,
        "attention.head_count": 4, "attention.layer_norm_rms_epsilon": 1e-5, "expert_count": N_EXPERT,
        "expert_used_count": 2,
    }  # fmt: skip
    with GGUFWriter(path) as w:
        w.add("general.architecture", "llama")
        for key, value in (keys | metadata).items():
            w.add(f"llama.{key}", value)
        w.add("tokenizer.ggml.model", "llama")
        w.add("tokenizer.ggml.tokens", [f"t{i}" for i in range(N_VOCAB)])
        for name, shape in shapes.items():
            if name not in drop:
                w.add_tensor(name, rng.normal(size=shape, scale=0.1).astype(np.float32))
    return path


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"expert_used_count": 5}, "expert_used_count is 5, of 4 experts"),
        ({"expert_used_count": 0}, "expert_used_count is 0"),
        ({"expert_feed_forward_length": 32}, "the metadata asks for"),
        ({"drop": ("blk.1.ffn_up_exps.weight",)}, "'blk.1.ffn_up_exps.weight'.*is missing"),
        ({"drop": ("blk.0.ffn_gate_inp.weight",)}, "'blk.0.ffn_gate_inp.weight'.*is missing"),
    ],
)
def test_files_that_do_not_fit(tmp_path, changes, told):
    with open_gguf(write(tmp_path / "m.gguf", **changes)) as file, pytest.raises(ModelFileError, match=told):
        load_model(file)


def test_a_tensor_for_each_expert_is_told_to_be_old(tmp_path):
    old = {"blk.0.ffn_gate.0.weight": (N_FF, N_EMBD)}
    path = write(tmp_path / "m.gguf", drop=("blk.0.ffn_gate_exps.weight",), extra=old)
    with open_gguf(path) as file, pytest.raises(ModelFileError) as caught:
        load_model(file)
    assert "convert it again" in caught.value.hint


def test_sizes_that_are_no_whole_panels(tmp_path):
    path = write(tmp_path / "m.gguf", n_ff=40)
    with Session(path, backend="reference") as session:
        assert session.logits([1, 2]).shape == (2, N_VOCAB)
    with Session(path, backend="cpu") as session, pytest.raises(LlamaKitError, match="not a multiple of 16"):
        session.logits([1, 2])


def test_quantised_experts(tmp_path):
    source, target = write(tmp_path / "m.gguf"), tmp_path / "q.gguf"
    quantize_file(source, target, "Q8_0")
    with open_gguf(target) as file:
        types = {name.split(".")[-2]: info.type for name, info in file.tensors.items()}
    assert types["ffn_gate_inp"] is GGMLType.F32
    assert types["ffn_down_exps"] is types["ffn_up_exps"] is GGMLType.Q8_0
    tokens = list(range(20))
    with Session(source, backend="reference", kv_type="f32") as session:
        exact = session.logits(tokens)
    with Session(target, backend="cpu", threads=2) as session:
        found = session.logits(tokens)
    assert np.linalg.norm(found - exact) < 0.05 * np.linalg.norm(exact)
