"""Logits of random small models of each variant, against `transformers` on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from llamakit import Session
from llamakit.gguf import GGUFWriter

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch", reason="needs torch as an oracle")
transformers = pytest.importorskip("transformers", reason="needs transformers as an oracle")

SIZES = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
VARIANTS: dict[str, tuple[str, str, dict[str, object]]] = {
    "llama-1": ("Llama", "llama", {"num_key_value_heads": 4}),
    "llama-2-gqa": ("Llama", "llama", {}),
    "tied": ("Llama", "llama", {"tie_word_embeddings": True}),
    "codellama-base": ("Llama", "llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "linear": ("Llama", "llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "yarn": (
        "Llama", "llama",
        {"rope_parameters": YARN},
    ),
    "llama-3.1": ("Llama", "llama", {"rope_parameters": LLAMA3}),
    "biases": ("Llama", "llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral-window": ("Mistral", "llama", {"sliding_window": 8}),
    "qwen2": ("Qwen2", "qwen2", {}),
    "qwen3": ("Qwen3", "qwen3", {"head_dim": 24}),
    "mixtral": ("Mixtral", "llama", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3-moe": (
        "Qwen3Moe", "qwen3moe",
        {
            "head_dim": 24, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 48,
            "norm_topk_prob": True,
        },
    ),
}  # fmt: skip
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def make(variant: str):
    kind, arch, changes = VARIANTS[variant]
    config = getattr(transformers, f"{kind}Config")(**(SIZES | changes), attn_implementation="eager")
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval().float()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
        else:
            torch.nn.init.normal_(parameter, std=0.12)
    return model, config, arch


def gguf_name(name: str) -> str:
    name = name.removeprefix("model.")
    fixed = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
    stem, _, kind = name.rpartition(".")
    if stem in fixed:
        return f"{fixed[stem]}.{kind}"
    _, layer, rest = stem.split(".", 2)
    return f"blk.{layer}.{NAMES[rest]}.{kind}"


def to_adjacent(x: np.ndarray, n_head: int) -> np.ndarray:
    """Rows of each head from halves to adjacent pairs, as llama GGUFs have them."""
    return x.reshape(n_head, 2, x.shape[0] // n_head // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def export(model, config, arch: str, path: Path) -> None:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters
    with GGUFWriter(path) as w:
        w.add("general.architecture", arch)
        for key, value in {
            "context_length": 128, "embedding_length": config.hidden_size, "block_count": config.num_hidden_layers,
            "feed_forward_length": config.intermediate_size, "attention.head_count": config.num_attention_heads,
            "attention.head_count_kv": config.num_key_value_heads, "attention.key_length": head_dim,
            "attention.value_length": head_dim, "rope.freq_base": float(rope["rope_theta"]),
            "attention.layer_norm_rms_epsilon": config.rms_norm_eps, **experts_of(config),
        }.items():  # fmt: skip
            w.add(f"{arch}.{key}", value)
        if rope["rope_type"] in ("linear", "yarn"):
            w.add(f"{arch}.rope.scaling.type", rope["rope_type"])
            w.add(f"{arch}.rope.scaling.factor", float(rope["factor"]))
            w.add(f"{arch}.rope.scaling.original_context_length", 32)
        if rope["rope_type"] == "llama3":
            w.add_tensor("rope_freqs.weight", llama3_factors(rope, head_dim))
        if getattr(config, "sliding_window", None) and arch == "llama":
            w.add(f"{arch}.attention.sliding_window", config.sliding_window)
        w.add("tokenizer.ggml.model", "llama")
        w.add("tokenizer.ggml.tokens", [f"t{i}" for i in range(config.vocab_size)])
        for name, tensor in model.state_dict().items():
            if name == "lm_head.weight" and config.tie_word_embeddings:
                continue
            if ".experts." in name:
                write_experts(w, name, tensor.numpy())
                continue
            data, target = tensor.numpy(), gguf_name(name)
            if arch == "llama" and (".attn_q." in target or ".attn_k." in target):
                heads = config.num_attention_heads if ".attn_q." in target else config.num_key_value_heads
                data = to_adjacent(data, heads)
            w.add_tensor(target, data)


def experts_of(config) -> dict[str, int]:
    n_expert = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    if n_expert is None:
        return {}
    n_ff = getattr(config, "moe_intermediate_size", config.intermediate_size)
    return {
        "expert_count": n_expert, "expert_used_count": config.num_experts_per_tok, "expert_feed_forward_length": n_ff
    }  # fmt: skip


def write_experts(w: GGUFWriter, name: str, data: np.ndarray) -> None:
    """Gates and ups, (n_expert, 2 n_ff, n_embd) there, are tensors of their own in GGUF."""
    layer = name.split(".")[2]
    parts = [("ffn_down", data)]
    if not name.endswith("down_proj"):
        parts = list(zip(("ffn_gate", "ffn_up"), np.split(data, 2, axis=1), strict=True))
    for part, values in parts:
        w.add_tensor(f"blk.{layer}.{part}_exps.weight", np.ascontiguousarray(values))


def llama3_factors(rope, head_dim: int) -> np.ndarray:
    """What LLaMA 3.1 divides each frequency by, as converters store it."""
    frequency = rope["rope_theta"] ** (-np.arange(0, head_dim, 2) / head_dim)
    wavelength = 2 * np.pi / frequency
    low, high, n = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    smooth = (n / wavelength - low) / (high - low)
    mixed = 1 / ((1 - smooth) / rope["factor"] + smooth)
    factors = np.where(wavelength < n / high, 1.0, np.where(wavelength > n / low, rope["factor"], mixed))
    return factors.astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.filterwarnings("ignore")
def test_logits_agree(variant, backend, tmp_path):
    model, config, arch = make(variant)
    export(model, config, arch, tmp_path / "m.gguf")
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, 50).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].double().numpy()
    with Session(tmp_path / "m.gguf", backend=backend, kv_type="f32", batch_size=16) as session:
        found = session.logits(tokens).astype(np.float64)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    print(f"{variant} {backend}: relative error {error:.2e}")
    assert error < 1e-4
