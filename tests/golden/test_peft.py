"""Adapters beside PEFT itself: it loads ours, we load its, and DoRA is folded as it folds it. Same logits."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest

from llamakit.errors import ModelFileError
from llamakit.gguf import GGMLType, GGUFWriter, open_gguf
from llamakit.lora.convert import to_gguf, to_peft
from llamakit.lora.files import read_adapter_file
from llamakit.lora.merge import merge_adapters
from llamakit.models import load_model
from llamakit.models.lora import load_adapter
from llamakit.testing.lora import adapted_logits

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch", reason="needs torch as an oracle")
transformers = pytest.importorskip("transformers", reason="needs transformers as an oracle")
peft = pytest.importorskip("peft", reason="needs peft as an oracle")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SIZES = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TOKENS = np.random.default_rng(1).integers(0, 96, 24).tolist()
STEMS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def make(kind: str):
    """A random model of transformers."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SIZES, attn_implementation="eager")
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval().float()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.12)
    return model


def write_base(model, kind: str, path):
    """The same model as GGUF, by the format's description alone."""
    arch = {"Llama": "llama", "Qwen2": "qwen2"}[kind]
    with GGUFWriter(path) as w:
        w.add("general.architecture", arch)
        for key, value in {
            "context_length": 128, "embedding_length": 64, "block_count": 2, "feed_forward_length": 112,
            "attention.head_count": 4, "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-5,
        }.items():  # fmt: skip
            w.add(f"{arch}.{key}", value)
        w.add("tokenizer.ggml.model", "llama")
        w.add("tokenizer.ggml.tokens", [f"t{i}" for i in range(96)])
        for name, tensor in model.state_dict().items():
            data = tensor.numpy()
            match = re.fullmatch(r"model\.layers\.(\d+)\.(.*)\.(weight|bias)", name)
            top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
            target = f"blk.{match[1]}.{STEMS[match[2]]}.{match[3]}" if match else f"{top[name[:-7]]}.weight"
            if arch == "llama" and re.search(r"attn_[qk]\.", target):
                n = 4 if "attn_q" in target else 2
                data = data.reshape(n, 2, data.shape[0] // n // 2, -1).swapaxes(1, 2).reshape(data.shape)
            w.add_tensor(target, data)
    return path


def adapt(model, seed=3, **options):
    """PEFT around the model, with random adapters."""
    config = peft.LoraConfig(**({"r": 4, "lora_alpha": 8, "target_modules": ALL} | options))
    wrapped = peft.get_peft_model(model, config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_magnitude" in name:
                parameter.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=generator))
            elif "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return wrapped


def logits_of(model) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0].double().numpy()


def served(path, adapter=None) -> np.ndarray:
    if adapter is None:
        return adapted_logits(path, TOKENS).astype(np.float64)
    with open_gguf(path) as file:
        loaded = load_adapter(adapter, load_model(file))
    return adapted_logits(path, TOKENS, adapters=loaded.tensors).astype(np.float64)


def close(found, expected) -> None:
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < 1e-4, error


CASES = {
    "alpha is not the rank": ("Llama", {}),
    "rsLoRA": ("Llama", {"use_rslora": True}),
    "patterns": (
        "Llama",
        {
            "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 7},
            "alpha_pattern": {"model.layers.0.self_attn.o_proj": 3, "(k|v)_proj": 20},
        },
    ),
    "embeddings and output": ("Llama", {"target_modules": [*ALL, "embed_tokens", "lm_head"]}),
    "a few modules": ("Llama", {"target_modules": ["model.layers.1.self_attn.k_proj", "model.layers.0.mlp.down_proj"]}),
    "another order of rope": ("Qwen2", {"rank_pattern": {"q_proj": 3}}),
}


@pytest.mark.parametrize("case", CASES)
def test_we_load_what_peft_writes_and_it_loads_what_we_write(tmp_path, case):
    kind, options = CASES[case]
    base = write_base(make(kind), kind, tmp_path / "base.gguf")
    theirs = adapt(make(kind), **options)
    expected, plain = logits_of(theirs), logits_of(make(kind))
    assert np.linalg.norm(expected - plain) > 0.05 * np.linalg.norm(plain)
    theirs.save_pretrained(tmp_path / "theirs")
    with open_gguf(base) as file:
        to_gguf(read_adapter_file(tmp_path / "theirs", file), tmp_path / "a.gguf", file)
    close(served(base, tmp_path / "a.gguf"), expected)
    to_peft(read_adapter_file(tmp_path / "a.gguf"), tmp_path / "ours")  # heads are known from the adapter
    again = peft.PeftModel.from_pretrained(make(kind), tmp_path / "ours").eval()
    close(logits_of(again), expected)
    assert sum("lora_" in name for name, _ in again.named_parameters()) == sum(
        "lora_" in name for name, _ in theirs.named_parameters()
    )
    merge_adapters(base, tmp_path / "m.gguf", [(tmp_path / "theirs", 1.0)])
    close(served(tmp_path / "m.gguf"), expected)


@pytest.mark.parametrize("kind", ["Llama", "Qwen2"])
def test_dora_is_folded_when_it_is_merged(tmp_path, kind):
    base = write_base(make(kind), kind, tmp_path / "base.gguf")
    theirs = adapt(make(kind), use_dora=True, use_rslora=True)
    theirs.save_pretrained(tmp_path / "dora")
    report = merge_adapters(base, tmp_path / "m.gguf", [(tmp_path / "dora", 1.0)])
    close(served(tmp_path / "m.gguf"), logits_of(theirs))
    assert report.changed == 14
    with open_gguf(base) as file, pytest.raises(Exception, match="DoRA.*cannot hold.*ffn_down"):
        to_gguf(read_adapter_file(tmp_path / "dora", file), tmp_path / "a.gguf", file)
    assert not (tmp_path / "a.gguf").exists()


def test_types_of_torch_are_kept(tmp_path):
    base = write_base(make("Llama"), "Llama", tmp_path / "base.gguf")
    theirs = adapt(make("Llama")).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "half")
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "half" / "adapter_model.safetensors")
    with open_gguf(base) as file:
        read = read_adapter_file(tmp_path / "half", file)
    key = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
    assert np.array_equal(read.tensors["blk.1.ffn_up.weight"].A, stored[key].float().numpy())
    to_gguf(read, tmp_path / "a.gguf", type=GGMLType.F16)
    with open_gguf(tmp_path / "a.gguf") as file:
        assert {info.type for info in file.tensors.values()} == {GGMLType.F16}


def test_modules_to_save_are_refused_by_name(tmp_path):
    base = write_base(make("Llama"), "Llama", tmp_path / "base.gguf")
    adapt(make("Llama"), modules_to_save=["lm_head"]).save_pretrained(tmp_path / "a")
    with open_gguf(base) as file, pytest.raises(ModelFileError, match=r"modules_to_save is \[\"lm_head\"\]"):
        read_adapter_file(tmp_path / "a", file)
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["modules_to_save"] == ["lm_head"]
