"""One side of train.py: makes a model, then does a step for every line on standard input."""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

import numpy as np

RANK, WINDOWS, CTX = 4, 4, 128
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def resident() -> float:
    """Peak of resident memory, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class LlamaKit:
    """Our trainer's stepper."""

    def __init__(self, name: str, model: str, threads: int) -> None:
        from llamakit.plugins.optimizers.adam.adamw import AdamW

        from llamakit import Session
        from llamakit.train.options import TrainOptions

        self.empty = resident()
        full = name.endswith("full")
        options = TrainOptions(
            data=["-"], out="-", rank=RANK, batch=WINDOWS, lr=1e-4, full=full,
            forward="f32" if "exact" in name else "native",
            checkpointing="on" if "checkpointing" in name else "off",
        )  # fmt: skip
        session = Session(model, backend="cpu", threads=threads, backend_options={"train_bf16": "bf16" in name})
        self.ceiling = session.device.ceilings().multiply_adds["f32"] / 1e9
        self.batch = batch()
        self.stepper = stepper(session, options, AdamW())
        self.n = 0

    def step(self) -> None:
        self.n += 1
        self.stepper.accumulate(self.batch, self.batch.loss_weight)
        self.stepper.update(self.n, 1e-4, 1.0)


def stepper(session: Any, options: Any, optimizer: Any) -> Any:
    """What `Trainer` makes, for fixed rows instead of data."""
    from llamakit.training import Trainer

    class Fixed(Trainer):
        _rows = WINDOWS * CTX

    trainer = Fixed(session, options)
    trainer.__dict__ |= {"optimizer": optimizer, "settled": options}  # no data to settle anything by
    return trainer.stepper


def batch() -> Any:
    from llamakit.train.pack import Batch

    rows = WINDOWS * CTX
    tokens = np.random.default_rng(1).integers(3, 32000, rows + 1).astype(np.int32)
    return Batch(
        tokens=tokens[:-1], targets=tokens[1:], weights=np.ones(rows, np.float32),
        positions=np.tile(np.arange(CTX, dtype=np.int32), WINDOWS),
        sequences=np.repeat(np.arange(WINDOWS, dtype=np.int32), CTX), n_sequence=WINDOWS,
    )  # fmt: skip


class Torch:
    """transformers' llama, with PEFT or whole."""

    def __init__(self, name: str, model: str, threads: int) -> None:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.set_num_threads(threads)
        self.torch, self.ceiling = torch, None
        config = LlamaConfig(
            vocab_size=32000, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
            max_position_embeddings=512, use_cache=False, tie_word_embeddings=False,
        )  # fmt: skip
        if name != "torch-full":
            import peft
        self.empty = resident()
        net: Any = LlamaForCausalLM(config)
        if "nf4" in name:
            quantise(net, torch.bfloat16 if "bf16" in name else torch.float32)
        if "bf16" in name:
            net = net.to(torch.bfloat16)
        if name != "torch-full":
            net = peft.get_peft_model(net, peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(PROJECTIONS)))
        if "checkpointing" in name:
            net.gradient_checkpointing_enable()
            net.enable_input_require_grads()
        self.net = net.train()
        parameters = [p for p in net.parameters() if p.requires_grad]
        self.adam = torch.optim.AdamW(parameters, lr=1e-4)
        self.ids = torch.tensor(np.random.default_rng(1).integers(3, 32000, (WINDOWS, CTX)))

    def step(self) -> None:
        self.adam.zero_grad()
        self.net(input_ids=self.ids, labels=self.ids).loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.adam.step()


def quantise(net: Any, compute: Any) -> None:
    """The projections of all layers in nf4, as bitsandbytes does it."""
    import bitsandbytes as bnb

    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if name in PROJECTIONS:
                made = bnb.nn.Linear4bit(
                    child.in_features, child.out_features, bias=False, compute_dtype=compute, quant_type="nf4"
                )
                made.weight = bnb.nn.Params4bit(child.weight.data, requires_grad=False, quant_type="nf4")
                setattr(module, name, made.to("cpu"))


def main() -> None:
    name, model, threads = sys.argv[1:]
    try:
        held: Any = (LlamaKit if name.startswith("llamakit") else Torch)(name, model, int(threads))
        held.step()  # warms up
    except Exception as error:  # a library that is not there, or cannot do it
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        raise
    print(json.dumps({"ceiling": held.ceiling}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        held.step()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "peak_mib": resident() - held.empty}), flush=True)


if __name__ == "__main__":
    main()
