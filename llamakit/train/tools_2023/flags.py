"""The command lines of the 2023 `finetune` and `train-text-from-scratch`: every flag with its default.

Options that begin with two dashes take - and _ alike. A command line is one of 2023 if it has a flag that only those
tools have (`is_2023`); it then gets their defaults. `here` says what a flag does in LlamaKit.
Source: common/train.cpp, finetune.cpp and train-text-from-scratch.cpp of llama.cpp at 0e76a8992c.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from llamakit.errors import UsageError
from llamakit.options import nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

Tool = Literal["finetune", "train-text-from-scratch"]
TOOLS: tuple[Tool, ...] = ("finetune", "train-text-from-scratch")
KINDS = {
    "token_embd": "tok-embd", "output": "out", "output_norm": "out-norm", "attn_norm": "att-norm",
    "attn_q": "wq", "attn_k": "wk", "attn_v": "wv", "attn_output": "wo", "ffn_norm": "ffn-norm",
    "ffn_gate": "w1", "ffn_down": "w2", "ffn_up": "w3",
}  # fmt: skip  # what --rank-* of 2023 calls a kind of tensor
RENAMED = {"w1": "ffn_gate", "w2": "ffn_down", "w3": "ffn_up"}  # what the flags were called from January 2024 on
NORMS = ("output_norm", "attn_norm", "ffn_norm")
LIMITS = {"int": (-(1 << 31), (1 << 32) - 1), "float": (-math.inf, math.inf)}


class Flag(msgspec.Struct, frozen=True, kw_only=True):
    """One option. `value`: what a flag without a value sets; None for one that takes a value of type `kind`."""

    names: tuple[str, ...]
    field: str
    kind: Literal["str", "int", "float", "flag"]
    default: Any = None
    value: bool | None = None
    meaning: str = ""
    here: str = "the same"
    common: bool = False  # current flags are called so too: it tells nothing about the command line


def _flag(names: str, field: str, kind: Any, default: Any, meaning: str, here: str = "the same", **more: Any) -> Flag:
    return Flag(names=tuple(names.split()), field=field, kind=kind, default=default, meaning=meaning, here=here, **more)


def _switch(on: str, off: str, field: str, default: bool, meaning: str, here: str = "the same") -> list[Flag]:
    """A flag and its opposite; `off` may be empty."""
    flags = [_flag(on, field, "flag", default, meaning, here, value=True)]
    return flags + ([_flag(off, field, "flag", default, f"the opposite of {on}", here, value=False)] if off else [])


FILES = [
    _flag("--train-data", "train_data", "str", "shakespeare.txt", "text to learn from"),
    _flag("--checkpoint-in", "checkpoint_in", "str", "checkpoint.gguf", "go on from here; if missing, a new run",
          "the same; also ggcl, ggcp, and F32 models, on which 2023 crashed"),
    _flag("--checkpoint-out", "checkpoint_out", "str", "checkpoint-ITERATION.gguf", "where to save; '' for nowhere",
          "the same, in the format of 2023; whole or not at all"),
    _flag("--pattern-fn-it", "pattern_fn_it", "str", "ITERATION", "what the number replaces in names"),
    _flag("--fn-latest", "fn_latest", "str", "LATEST", "what replaces it in the second copy"),
    _flag("--save-every", "save_every", "int", 10, "iterations between saves; 0 or less: only at the end", common=True),
]  # fmt: skip
RUN = [
    _flag("-s --seed", "seed", "int", -1, "seed of first weights and of the shuffle; -1: the time",
          "the same for the shuffle; first weights are drawn otherwise, with B = 0", common=True),
    _flag("-c --ctx", "ctx", "int", 128, "tokens of a window", common=True),
    _flag("-t --threads", "threads", "int", 6, "threads", common=True),
    _flag("-b --batch", "batch", "int", 8, "windows of a micro-step", common=True),
    _flag("--grad-acc", "grad_acc", "int", 1, "micro-steps of an update"),
    *_switch("--use-flash", "--no-flash", "use_flash", True, "flash attention",
             "accepted; attention is always computed so, and moments of both orders are read"),
    *_switch("--use-checkpointing", "--no-checkpointing", "use_checkpointing", True, "compute values again in backward",
             "the same, with the values to keep solved for"),
]  # fmt: skip
SAMPLES = [
    _flag("--sample-start", "sample_start", "str", "", "what samples begin with; '': at every token"),
    *_switch("--include-sample-start", "", "include_sample_start", False, "keep that in the sample"),
    *_switch("--escape", "", "escape", False, "read escapes such as \\n in --sample-start"),
    *_switch("--overlapping-samples", "", "overlapping_samples", False, "samples run on past the next start"),
    *_switch("--fill-with-next-samples", "", "fill_with_next_samples", False, "short samples are followed by others",
             "the same; without it the EOS that fills up a window counts in the loss, as in 2023"),
    *_switch("--separate-with-eos", "--no-separate-with-eos", "separate_with_eos", False, "EOS between them"),
    *_switch("--separate-with-bos", "--no-separate-with-bos", "separate_with_bos", True, "BOS between them"),
    *_switch("--sample-random-offsets", "", "sample_random_offsets", False, "windows begin inside their first sample"),
    *_switch("--force-reshuffle", "", "force_reshuffle", False, "begin the epoch again when going on"),
]  # fmt: skip
SCHEDULE = [
    _flag("--warmup", "warmup", "int", 100, "iterations of linear warm-up", common=True),
    _flag("--cos-decay-steps", "cos_decay_steps", "int", 1000, "iterations of the cosine"),
    _flag("--cos-decay-restart", "cos_decay_restart", "float", 1.1, "each period is so many times the last"),
    _flag("--cos-decay-min", "cos_decay_min", "float", 0.1, "floor of the cosine"),
    *_switch("--enable-restart", "--disable-restart", "enable_restart", False, "begin again after each period"),
]
STOPS = [
    _flag("--opt-past", "opt_past", "int", 0, "iterations back to compare the loss with; 0: never",
          "the same; another number than the checkpoint's begins again instead of stopping"),
    _flag("--opt-delta", "opt_delta", "float", 1e-5, "stop below this relative change"),
    _flag("--opt-max-no-improvement", "opt_max_no_improvement", "int", 0, "stop after so many without a new best"),
    _flag("--epochs", "epochs", "int", -1, "stop after so many; less than 0: never", common=True),
    _flag("--adam-iter", "adam_iter", "int", 256, "updates of this run"),
    _flag("--adam-epsf", "adam_epsf", "float", 0.0, "stop below this relative change of the loss; 0: never"),
]  # fmt: skip
ADAM = [
    _flag("--adam-alpha", "adam_alpha", "float", 1e-3, "learning rate at its highest"),
    _flag("--adam-min-alpha", "adam_min_alpha", "float", 0.0, "its floor, in warm-up too"),
    _flag("--adam-decay", "adam_decay", "float", 0.1, "weight decay of AdamW"),
    _flag("--adam-decay-min-ndim", "adam_decay_min_ndim", "int", 2, "none for tensors of fewer dimensions"),
    _flag("--adam-beta1", "adam_beta1", "float", 0.9, "of the first moments"),
    _flag("--adam-beta2", "adam_beta2", "float", 0.999, "of the second moments"),
    _flag("--adam-gclip", "adam_gclip", "float", 1.0, "largest norm of the gradient; 0: any"),
]
MODEL = [
    _flag("--norm-rms-eps", "norm_rms_eps", "float", None, "epsilon of the norms"),
    _flag("--rope-freq-base", "rope_freq_base", "float", None, "base of rope"),
    _flag("--rope-freq-scale", "rope_freq_scale", "float", None, "1 / how far positions are stretched",
          "the same; 2023 wrote it where its reader takes the inverse, and both are read rightly"),
]  # fmt: skip
FINETUNE = [
    _flag("--model-base", "model_base", "str", "", "the model", "the same; grouped queries and F16 too"),
    _flag("--lora-out", "lora_out", "str", "ggml-lora-ITERATION-f32.gguf", "where the adapter goes",
          "a GGUF adapter if the name ends in .gguf, else ggla; 2023 wrote ggla under either name"),
    *_switch("--only-write-lora", "", "only_write_lora", False, "write the checkpoint's adapter, and end"),
    _flag("--lora-alpha", "lora_alpha", "int", None, "counts alpha / --lora-r times; not given: as --lora-r",
          "applied in training too, so that what is served is what was trained"),
    _flag("--lora-r", "lora_r", "int", 4, "rank of the adapters"),
    *(_flag(
        f"--rank-{short}" + (f" --rank-{RENAMED[short]}" if short in RENAMED else ""), f"rank_{kind}", "int",
        1 if kind in NORMS else None, f"rank of {kind}" + ("" if kind in NORMS else "; not given: as --lora-r"),
        "the same; 0: no adapter",
    ) for kind, short in KINDS.items()),
]  # fmt: skip
SCRATCH = [
    _flag("--vocab-model", "vocab_model", "str", "ggml-vic7b-uncensored-q4_0.bin", "a GGUF with the vocabulary"),
    _flag("--model-out", "model_out", "str", "ggml-checkpoint-f32.bin", "where the model goes, in GGUF"),
    *_switch("--only-write-model", "", "only_write_model", False, "write the checkpoint's model, and end"),
    _flag("--embd", "embd", "int", 256, "width of a new model"),
    _flag("--ff", "ff", "int", 768, "width of its feed-forward layers"),
    _flag("--head", "head", "int", 8, "its heads"),
    _flag("--layer", "layer", "int", 16, "its layers"),
]
FLAGS: dict[Tool, list[Flag]] = {
    "finetune": [*FINETUNE, *FILES, *RUN, *SAMPLES, *SCHEDULE, *STOPS, *ADAM, *MODEL],
    "train-text-from-scratch": [*SCRATCH, *FILES, *RUN, *SAMPLES, *SCHEDULE, *STOPS, *ADAM, *MODEL],
}


def is_2023(tool: Tool, args: Sequence[str]) -> bool:
    """Whether a command line has a flag that only the tools of 2023 have."""
    known = {_normalized(name) for flag in FLAGS[tool] if not flag.common for name in flag.names}
    return any(_normalized(arg.partition("=")[0]) in known for arg in args)


def parse_2023(tool: Tool, args: Sequence[str]) -> dict[str, Any]:
    """All fields of a command line, with the defaults of 2023 for what it does not give. Raises UsageError."""
    flags = {_normalized(name): flag for flag in FLAGS[tool] for name in flag.names}
    values: dict[str, Any] = {flag.field: flag.default for flag in FLAGS[tool]}
    rest = list(args)
    while rest:
        text = rest.pop(0)
        name, given, value = text.partition("=") if text.startswith("--") else (text, "", "")
        flag = flags.get(_normalized(name))
        if flag is None:
            raise UsageError(
                f"{tool} has no option {name!r}",
                found=nearest(_normalized(name), flags),
                hint=f"llamakit {tool} --help",
            )
        if flag.value is not None:
            if given:
                raise UsageError(f"{name} takes no value", param=flag.field)
            values[flag.field] = flag.value
            continue
        if not given:
            if not rest:
                raise UsageError(f"{name} needs a value", param=flag.field)
            value = rest.pop(0)
        values[flag.field] = _value(name, flag, value)
    return values


def _normalized(name: str) -> str:
    return name.replace("_", "-") if name.startswith("--") else name


def _value(name: str, flag: Flag, text: str) -> Any:
    """A value as its flag wants it."""
    if flag.kind == "str":
        return text
    try:
        value = int(text) if flag.kind == "int" else float(text)
    except ValueError:
        kind = "a whole number" if flag.kind == "int" else "a number"
        raise UsageError(f"{name} {text!r}: {kind} is needed", param=flag.field) from None
    low, high = LIMITS[flag.kind]
    if not low <= value <= high or math.isinf(value):
        raise UsageError(f"{name} {text} is out of range", param=flag.field)
    return value
