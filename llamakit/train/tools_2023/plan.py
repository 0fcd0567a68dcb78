"""What a command line of 2023 asks for, in the terms of this trainer."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import msgspec

from llamakit.errors import UsageError
from llamakit.gguf.atomic import refuse_stdout
from llamakit.options import build_options
from llamakit.train.options import TrainOptions
from llamakit.train.tools_2023.flags import KINDS, Tool, parse_2023
from llamakit.train.tools_2023.samples import SampleOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "'": "'", '"': '"', "\\": "\\"}


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """Names of files; '' for none. `output`: of the adapter or the model."""

    train_data: str
    checkpoint_in: str
    checkpoint_out: str
    output: str
    pattern: str
    latest: str

    def outputs(self, name: str, iteration: int) -> list[str]:
        """The two names that an output is written under; one if the name has no place for the number."""
        if not name:
            return []
        return list(dict.fromkeys(name.replace(self.pattern, each, 1) for each in (str(iteration), self.latest)))


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """A new model of train-text-from-scratch."""

    n_embd: int
    n_ff: int
    n_head: int
    n_layer: int
    n_ctx: int
    norm_rms_eps: float
    rope_freq_base: float
    rope_freq_scale: float


class StopRules(msgspec.Struct, frozen=True, kw_only=True):
    """When the loss ends a run: see `Stops`."""

    past: int = 0
    delta: float = 1e-5
    max_no_improvement: int = 0
    eps_f: float = 0.0
    epochs: int = -1


class Stops:
    """Watches the loss as 2023's Adam did: relative to the one before, to the one `past` iterations back, to the best.

    `first`: the loss before the first update of the run. `losses`: those of a checkpoint, as many as `past`.
    """

    def __init__(self, rules: StopRules, iteration: int, first: float, losses: Sequence[float] = ()) -> None:
        self.rules, self.previous, self.best, self.worse = rules, first, first, 0
        self.losses = list(losses) if len(losses) == rules.past else [0.0] * rules.past
        if rules.past > 0:
            self.losses[iteration % rules.past] = first

    def after(self, iteration: int, loss: float) -> str:
        """Why to stop after update number `iteration`, from 1, or ''; `loss` is that of the updated weights."""
        rules, at = self.rules, iteration - 1
        if loss and abs(loss - self.previous) / loss < rules.eps_f:
            return "the loss changes less than --adam-epsf"
        if rules.past > 0:
            old, self.losses[at % rules.past] = self.losses[at % rules.past], loss
            if at >= rules.past and loss and abs((old - loss) / loss) < rules.delta:
                return "the loss changes less than --opt-delta"
        if rules.max_no_improvement > 0:
            self.worse = 0 if loss < self.best else self.worse + 1
            self.best = min(self.best, loss)
            if self.worse >= rules.max_no_improvement:
                return "no new best within --opt-max-no-improvement"
        self.previous = loss
        return ""


class Plan2023(msgspec.Struct, frozen=True, kw_only=True):
    """A run of 2023. `ranks`: by kind of tensor, 0 for none; `overrides`: of the base's metadata, None: its own."""

    tool: Tool
    model: str  # the base, or the vocabulary
    files: Files
    options: TrainOptions
    samples: SampleOptions
    stops: StopRules
    only_write: bool
    force_reshuffle: bool
    n_ctx_given: bool
    ranks: dict[str, int] = {}
    lora_r: int = 0
    lora_alpha: int = 0
    alpha_given: bool = False
    shape: ModelShape | None = None
    overrides: dict[str, float | None] = {}


def plan_2023(tool: Tool, args: Sequence[str]) -> Plan2023:
    """Parse and translate a command line. Raises UsageError for what it cannot mean."""
    v = parse_2023(tool, args)
    for name, least in (
        ("ctx", 1),
        ("batch", 1),
        ("adam_iter", 0),
        ("threads", 0),
        ("warmup", 0),
        ("cos_decay_steps", 1),
    ):
        if v[name] < least:
            raise UsageError(f"--{name.replace('_', '-')} {v[name]}: at least {least} is needed", param=name)
    lora = tool == "finetune"
    if lora and not v["model_base"]:
        raise UsageError("finetune needs a model", hint="--model-base FILE.gguf", param="model_base")
    start = unescape(v["sample_start"]) if v["escape"] else v["sample_start"]
    samples = SampleOptions(
        start=start.encode("utf-8", "surrogateescape"), include_start=v["include_sample_start"],
        overlapping=v["overlapping_samples"], fill_with_next=v["fill_with_next_samples"],
        separate_with_eos=v["separate_with_eos"], separate_with_bos=v["separate_with_bos"],
        random_offsets=v["sample_random_offsets"],
    )  # fmt: skip
    more: dict[str, Any] = _adapters(v) if lora else {"shape": _shape(v)}
    return Plan2023(
        tool=tool, model=v["model_base" if lora else "vocab_model"], files=_files(v, lora),
        options=_options(v, more), samples=samples,
        stops=StopRules(
            past=max(0, v["opt_past"]), delta=v["opt_delta"], max_no_improvement=max(0, v["opt_max_no_improvement"]),
            eps_f=v["adam_epsf"], epochs=v["epochs"],
        ),
        only_write=v["only_write_lora" if lora else "only_write_model"], force_reshuffle=v["force_reshuffle"],
        n_ctx_given=any(re.split("=", arg)[0] in ("-c", "--ctx") for arg in args), **more,
    )  # fmt: skip


def _files(v: dict[str, Any], lora: bool) -> Files:
    output = "lora_out" if lora else "model_out"
    for name in ("checkpoint_out", output):
        refuse_stdout(v[name], f"--{name.replace('_', '-')}")
    return Files(
        train_data=v["train_data"], checkpoint_in=v["checkpoint_in"], checkpoint_out=v["checkpoint_out"],
        output=v[output], pattern=v["pattern_fn_it"], latest=v["fn_latest"],
    )  # fmt: skip


def _adapters(v: dict[str, Any]) -> dict[str, Any]:
    """Ranks by kind, alpha, and what overrides the base's metadata."""
    r = v["lora_r"]
    ranks = {kind: r if v[f"rank_{kind}"] is None else v[f"rank_{kind}"] for kind in KINDS}
    for kind, rank in ranks.items():
        if not 0 <= rank <= 4096:
            raise UsageError(f"rank {rank} of {kind}: 0 to 4096 are possible", param=f"rank_{kind}")
    if not 1 <= r <= 4096:
        raise UsageError(f"--lora-r {r}: 1 to 4096 are possible", param="lora_r")
    alpha = r if v["lora_alpha"] is None else v["lora_alpha"]
    if not 1 <= alpha <= 65536:
        raise UsageError(f"--lora-alpha {alpha}: 1 to 65536 are possible", param="lora_alpha")
    overrides = {key: v[key] for key in ("norm_rms_eps", "rope_freq_base", "rope_freq_scale")}
    given = v["lora_alpha"] is not None
    return {"ranks": ranks, "lora_r": r, "lora_alpha": alpha, "alpha_given": given, "overrides": overrides}


def _shape(v: dict[str, Any]) -> ModelShape:
    for name in ("embd", "ff", "head", "layer"):
        if not 1 <= v[name] <= 1 << 20:
            raise UsageError(f"--{name} {v[name]} is out of range", param=name)
    if v["embd"] % v["head"] or v["embd"] // v["head"] % 2:
        raise UsageError(f"--embd {v['embd']} does not divide into --head {v['head']} heads of even size", param="head")

    def given(key: str, default: float) -> float:
        return float(default if v[key] is None else v[key])

    return ModelShape(
        n_embd=v["embd"], n_ff=v["ff"], n_head=v["head"], n_layer=v["layer"], n_ctx=v["ctx"],
        norm_rms_eps=given("norm_rms_eps", 1e-5), rope_freq_base=given("rope_freq_base", 10000.0),
        rope_freq_scale=given("rope_freq_scale", 1.0),
    )  # fmt: skip


def _options(v: dict[str, Any], more: dict[str, Any]) -> TrainOptions:
    """The part that the trainer's own options can say. Alphas give every kind the one scale of ggla, alpha / lora_r."""
    ranks, r, alpha = more.get("ranks", {}), more.get("lora_r", 16), float(more.get("lora_alpha", 16))
    seed = int(time.time()) if v["seed"] == -1 else v["seed"] & 0xFFFFFFFF
    for name in ("adam_beta1", "adam_beta2"):
        if not 0 <= v[name] < 1:
            raise UsageError(f"--{name.replace('_', '-')} {v[name]:g}: 0 to below 1 are possible", param=name)
    if v["adam_alpha"] <= 0:
        raise UsageError(f"--adam-alpha {v['adam_alpha']:g}: more than 0 is needed", param="adam_alpha")
    values = {
        "data": [v["train_data"]], "kind": "text", "template": "plain", "train_on": "all", "ctx": v["ctx"],
        "val_split": 0.0, "full": not ranks, "rank": r, "alpha": alpha, "targets": list(ranks) or ["*"],
        "rank_pattern": {kind: rank for kind, rank in ranks.items() if rank != r},
        "alpha_pattern": {kind: alpha * rank / r for kind, rank in ranks.items() if rank not in (r, 0)},
        "steps": v["adam_iter"], "batch": v["batch"], "grad_accumulation": max(1, v["grad_acc"]), "lr": v["adam_alpha"],
        "schedule": "2023",
        "schedule_2023": {
            "warmup": v["warmup"], "decay_steps": v["cos_decay_steps"], "restart": v["enable_restart"],
            "restart_growth": v["cos_decay_restart"], "minimum": v["cos_decay_min"],
            "floor": v["adam_min_alpha"] / v["adam_alpha"],
        },
        "optimizer": "adamw",
        "optimizer_options": {
            "beta1": v["adam_beta1"], "beta2": v["adam_beta2"], "weight_decay": v["adam_decay"],
            "decay_min_ndim": v["adam_decay_min_ndim"],
        },
        "clip": v["adam_gclip"], "seed": seed, "forward": "f32", "save_every": max(0, v["save_every"]),
        "checkpointing": "on" if v["use_checkpointing"] else "off", "threads": v["threads"],
    }  # fmt: skip
    options: TrainOptions = build_options(TrainOptions, values, where="as options of this trainer")
    return options


def unescape(text: str) -> str:
    r"""--escape: \n \r \t \' \" \\; any other backslash stays, with what follows it."""
    return re.sub(r"\\(.)", lambda match: ESCAPES.get(match[1], match[0]), text, flags=re.DOTALL)
