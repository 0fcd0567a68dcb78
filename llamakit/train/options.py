"""All options of a training run, declared once: flags of `llamakit finetune`, Python, and what checkpoints remember."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from llamakit.options import Options

PROJECTIONS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
LEAST_TO_SPLIT = 20  # samples; of fewer, none is held back for validation

Rank = Annotated[int, Meta(ge=0, le=4096)]
Alpha = Annotated[float, Meta(gt=0, le=65536)]


class Schedule2023(Options, frozen=True):
    """The learning rate of the 2023 `finetune`, for `schedule: "2023"`; see `train.schedule.schedule_2023`."""

    warmup: Annotated[int, Meta(ge=0, le=1 << 31, description="Steps of linear warm-up.")] = 100
    decay_steps: Annotated[int, Meta(ge=1, le=1 << 31, description="Steps of the first cosine period.")] = 1000
    restart: Annotated[bool, Meta(description="Start again after each period.")] = False
    restart_growth: Annotated[float, Meta(ge=1, le=1000, description="Each period is so many times the last.")] = 1.1
    minimum: Annotated[float, Meta(ge=0, le=1, description="Floor of the cosine, as a share.")] = 0.1
    floor: Annotated[float, Meta(ge=0, le=1, description="Floor of the whole, warm-up too, as a share.")] = 0.0


class TrainOptions(Options, frozen=True):
    """What a training run does. Steps are updates of the weights; a micro-step is one pass over `batch` windows."""

    # Data
    data: Annotated[list[str], Meta(description="Files to learn from; patterns such as data/*.jsonl.")] = []
    val_data: Annotated[list[str], Meta(description="Files to validate on, in place of a share of the data.")] = []
    out: Annotated[str, Meta(description="Folder for what the run makes: results, checkpoints, the log.")] = ""
    kind: Annotated[
        Literal["auto", "messages", "prompt", "instruct", "text"],
        Meta(description="What the records are; auto = seen from their fields."),
    ] = "auto"
    template: Annotated[
        Literal["auto", "chat", "plain"],
        Meta(description="How prompts are written: chat = by the chat template, plain = as they are; auto = chat if "
             "the model has a template."),
    ] = "auto"  # fmt: skip
    train_on: Annotated[
        Literal["answers", "all"], Meta(description="Tokens that the loss counts: of answers, or of everything.")
    ] = "answers"
    packing: Annotated[
        Literal["segments", "none", "wrapped"],
        Meta(description="segments = several samples share a window without seeing one another; none = one sample a "
             "window; wrapped = all samples as one text, cut into windows."),
    ] = "segments"  # fmt: skip
    ctx: Annotated[
        int, Meta(ge=0, le=1 << 24, description="Tokens of a window; 0 = 512, or the model's context if that is less.")
    ] = 0
    truncate: Annotated[
        Literal["end", "start"],
        Meta(description="Where a sample that is too long is cut; start keeps answers behind a long prompt."),
    ] = "end"
    shuffle: Annotated[bool, Meta(description="A new order of the windows in every epoch.")] = True
    val_split: Annotated[
        float, Meta(ge=0, lt=1, description="Share of the samples to validate on, if there are 20 or more.")
    ] = 0.05

    # What is trained
    full: Annotated[bool, Meta(description="Train the weights themselves instead of an adapter; float bases.")] = False
    rank: Annotated[int, Meta(ge=1, le=4096, description="Rank of the adapter.")] = 16
    alpha: Annotated[float, Meta(gt=0, le=65536, description="The adapter counts alpha / rank times.")] = 16.0
    rslora: Annotated[bool, Meta(description="Scale by alpha / sqrt(rank) instead, as for high ranks.")] = False
    targets: Annotated[
        list[str], Meta(description="Weights that get an adapter: names without .weight, or their last part, by glob.")
    ] = msgspec.field(default_factory=lambda: list(PROJECTIONS))
    rank_pattern: Annotated[
        dict[str, Rank], Meta(description="Other ranks by glob, such as ffn_*=8; the last that fits wins, 0 = none.")
    ] = {}
    alpha_pattern: Annotated[dict[str, Alpha], Meta(description="Other alphas by glob, in the same way.")] = {}

    # How
    epochs: Annotated[
        float, Meta(ge=0, le=1e6, description="Times that the data is gone through; 0 = once, or so often as makes 100 "
                                              "steps.")
    ] = 0.0  # fmt: skip
    steps: Annotated[int, Meta(ge=0, le=1 << 31, description="Steps to do; 0 = as many as `epochs` are.")] = 0
    batch: Annotated[int, Meta(ge=0, le=1 << 16, description="Windows of a micro-step; 0 = 4, of few data fewer.")] = 0
    grad_accumulation: Annotated[int, Meta(ge=1, le=1 << 16, description="Micro-steps of a step.")] = 1
    lr: Annotated[
        float, Meta(ge=0, le=100, description="Learning rate at its highest; 0 = 2e-4, for adapters of models narrower "
                                              "than 4096 up to 1e-3.")
    ] = 0.0  # fmt: skip
    schedule: Annotated[
        Literal["cosine", "linear", "constant", "2023"],
        Meta(description="How the learning rate goes down; 2023 = as in the 2023 finetune (`schedule_2023`)."),
    ] = "cosine"
    warmup: Annotated[
        float, Meta(ge=0, le=1 << 31, description="Warm-up: a share of the steps if below 1, else steps.")
    ] = 0.05
    min_lr: Annotated[float, Meta(ge=0, le=1, description="Where the learning rate ends, as a share of `lr`.")] = 0.1
    cycles: Annotated[int, Meta(ge=1, le=10_000, description="Periods of the cosine; each starts at `lr`.")] = 1
    cycle_growth: Annotated[float, Meta(ge=1, le=1000, description="Each period is so many times the last.")] = 1.0
    schedule_2023: Annotated[Schedule2023, Meta(description="Options of the schedule 2023.")] = Schedule2023()
    optimizer: Annotated[str, Meta(min_length=1, description="Name of an optimizer plugin.")] = "adamw"
    optimizer_options: Annotated[dict[str, Any], Meta(description="Its options, such as weight_decay=0.1.")] = {}
    clip: Annotated[float, Meta(ge=0, le=1e9, description="Largest norm of the gradient; 0 = any.")] = 1.0
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1, description="Seed of first weights and of the order.")] = 42
    forward: Annotated[
        Literal["native", "f32"],
        Meta(description="Products with quantised weights: native = as they are served, f32 = in float32."),
    ] = "native"
    checkpointing: Annotated[
        Literal["auto", "on", "off"],
        Meta(description="Compute values again instead of keeping them; auto = where memory needs it."),
    ] = "auto"

    # On the way
    val_every: Annotated[int, Meta(ge=0, le=1 << 31, description="Steps between validations; 0 = ten in the run.")] = 0
    patience: Annotated[
        int, Meta(ge=0, le=1 << 31, description="Stop after so many validations without improvement; 0 = never.")
    ] = 0
    save_every: Annotated[
        int, Meta(ge=0, le=1 << 31, description="Steps between checkpoints; 0 = only at the end.")
    ] = 50
    keep: Annotated[int, Meta(ge=1, le=10_000, description="Checkpoints kept, beside the best.")] = 2
    max_minutes: Annotated[float, Meta(ge=0, le=1e7, description="Stop and save after so long; 0 = never.")] = 0.0
    tensorboard: Annotated[bool, Meta(description="Write event files for TensorBoard too.")] = False
    threads: Annotated[int, Meta(ge=0, le=1024, description="Threads; 0 = as many as there are cores.")] = 0
    nice: Annotated[int, Meta(ge=0, le=19, description="How much to give way to other programs, such as a server.")] = 0
