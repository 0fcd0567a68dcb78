"""The whole way to a small model: python -m curriculum.recipe OUT (`make model`)

Writes the data, the vocabulary and the first weights, trains a stage after the other with `llamakit finetune --full`,
packs the result as Q8_0 into OUT/model.gguf, and counts right answers on the held-out tasks. `--recipe light` is a
model of half the size, `short` the same steps in about a minute. What is done is not done again: a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from curriculum import evaluate, write
from curriculum.first_weights import Shape
from curriculum.first_weights import write as write_first
from curriculum.mix import STAGES

DONE = "done"  # file in the folder of a phase: a run that was stopped leaves a model too

# What all stages are trained with: fields of llamakit.train.options.TrainOptions.
COMMON: dict[str, Any] = {
    "full": True, "ctx": 512, "batch": 4, "epochs": 1.0, "optimizer": "adamw", "optimizer_options": {"beta2": 0.98},
    "schedule": "cosine", "clip": 1.0, "seed": 1, "save_every": 200,
}  # fmt: skip


@dataclass(frozen=True)
class Phase:
    """A stage of the data and how it is trained.

    `options` are those that differ from COMMON; `tasks` is the end of the name of the files that judge it.
    """

    stage: str
    examples: int
    options: dict[str, Any]
    tasks: str = ""


@dataclass(frozen=True)
class Recipe:
    """Everything that a run depends on, but for the tales."""

    seed: int
    shape: Shape
    vocabulary: int
    shown: int  # examples of each stage that the vocabulary is made from
    tests: int  # of each kind
    phases: tuple[Phase, ...]


RECIPE = Recipe(
    seed=1, shape=Shape(), vocabulary=4096, shown=write.SHOWN, tests=100,
    phases=(
        Phase("easy", 6_000, {"lr": 1e-3, "warmup": 20.0, "min_lr": 0.8}),
        Phase("middle", 10_000, {"lr": 1e-3, "warmup": 20.0, "min_lr": 0.8}),
        Phase("hard", 60_000, {"lr": 1e-3, "warmup": 20.0, "min_lr": 0.02}),
        Phase("long", 10_000, {"ctx": 1024, "batch": 2, "lr": 4e-4, "warmup": 20.0, "min_lr": 0.02}),
        Phase("wide", 24_000, {"ctx": 1024, "batch": 2, "lr": 6e-4, "warmup": 30.0, "min_lr": 0.02}, "-wide"),
        Phase("both", 32_000, {"ctx": 1024, "batch": 2, "lr": 8e-4, "warmup": 30.0, "min_lr": 0.02}, "-wide"),
        Phase("brief", 30_000, {"ctx": 1024, "batch": 2, "lr": 8e-4, "warmup": 30.0, "min_lr": 0.02}, "-brief"),
    ),
)  # fmt: skip
LIGHT = replace(RECIPE, shape=Shape(n_embd=192, n_layer=5, n_head=6, n_ff=512))
IN_A_MINUTE = (400, 200, 200, 20, 20, 20, 20)
SHORT = replace(
    RECIPE, shape=Shape(n_embd=128, n_layer=3, n_head=4, n_ff=256), vocabulary=3000, shown=300, tests=5,
    phases=tuple(replace(phase, examples=count) for phase, count in zip(RECIPE.phases, IN_A_MINUTE, strict=True)),
)  # fmt: skip
RECIPES = {"full": RECIPE, "light": LIGHT, "short": SHORT}


def flags(options: dict[str, Any]) -> list[str]:
    """Options as the command line takes them."""
    found: list[str] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, dict):
            found += [part for key, each in value.items() for part in (flag, f"{key}={each}")]
        elif isinstance(value, bool):
            found.append(flag if value else f"--no-{flag[2:]}")
        else:
            found += [flag, str(value)]
    return found


def finetune(recipe: Recipe, out: Path, number: int, threads: int) -> list[str]:
    """The command that trains one phase."""
    phase = recipe.phases[number]
    base = out / recipe.phases[number - 1].stage / "model.gguf" if number else out / "first.gguf"
    options = COMMON | phase.options | {"threads": threads}
    data = out / "data"
    return [
        sys.executable, "-m", "llamakit", "finetune", "-m", str(base), "--data", str(data / f"{phase.stage}.jsonl"),
        "--val-data", str(data / f"validation{phase.tasks}.jsonl"), "--out", str(out / phase.stage), *flags(options),
    ]  # fmt: skip


def prepare(recipe: Recipe, out: Path, tales: Path | None) -> None:
    """Data, vocabulary, first weights."""
    if (out / "first.gguf").exists():
        return
    counts = {phase.stage: phase.examples for phase in recipe.phases}
    write.write(
        out / "data", seed=recipe.seed, counts=counts, each=recipe.tests, size=recipe.vocabulary, tales_file=tales,
        shown=recipe.shown,
    )  # fmt: skip
    n = write_first(out / "first.gguf", out / "data" / "vocabulary.gguf", recipe.shape, seed=recipe.seed)
    print(f"{out / 'first.gguf'}: {n:,} parameters", file=sys.stderr)


def train(recipe: Recipe, out: Path, threads: int) -> Path:
    """All phases; returns the last model. A phase that was stopped is resumed."""
    for number, phase in enumerate(recipe.phases):
        folder = out / phase.stage
        if (folder / DONE).exists():
            continue
        begun = any((folder / "checkpoints").glob("*.gguf"))
        again = [sys.executable, "-m", "llamakit", "finetune", "resume", str(folder)]
        subprocess.run(again if begun else finetune(recipe, out, number, threads), check=True)
        (folder / DONE).touch()
    return out / recipe.phases[-1].stage / "model.gguf"


def run(recipe: Recipe, out: Path, tales: Path | None, threads: int) -> dict[str, float]:
    """All of it; returns the share of right answers by kind."""
    prepare(recipe, out, tales)
    trained, packed = train(recipe, out, threads), out / "model.gguf"
    subprocess.run([sys.executable, "-m", "llamakit", "quantize", str(trained), str(packed), "q8_0"], check=True)
    from llamakit import Session

    with Session(packed, threads=threads or None) as session:
        scores: dict[str, float] = {}
        for name in ("", "wide", "brief"):
            records = evaluate.read(out / "data" / f"tests{'-' if name else ''}{name}.jsonl")
            for kind, (n_right, n) in evaluate.score(session, records).items():
                scores[f"{kind}, {name}" if name else kind] = n_right / n
    (out / "scores.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    return scores


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tales", type=Path, help="a file of tales to mix in, two blank lines between them")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are cores")
    parser.add_argument("--recipe", choices=RECIPES, default="full")
    options = parser.parse_args()
    assert {phase.stage for phase in RECIPE.phases} == {stage.name for stage in STAGES}
    scores = run(RECIPES[options.recipe], options.out, options.tales, options.threads)
    for kind, share in scores.items():
        print(f"{kind:12} {share:5.0%}")


if __name__ == "__main__":
    main()
