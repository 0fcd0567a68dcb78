"""Answers of a base and of what was trained on it, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from llamakit.plugins.frontends.cli.console import safe

from llamakit.run_folder import ADAPTER, MODEL

if TYPE_CHECKING:
    from pathlib import Path

    from llamakit import Session
    from llamakit.training import Trainer


def show_samples(trainer: Trainer, folder: Path, n: int, n_token: int) -> None:
    """Write the first `n` prompts of the data, what should follow, and what each of the two writes, greedily."""
    from llamakit import Session

    prompts = prompts_of(trainer, n, trainer.session.model.hparams.n_ctx_train - n_token)
    if not prompts:
        return
    path, full = trainer.session.path, trainer.options.full
    settings = trainer.session.settings
    how = {"backend": settings.backend, "backend_options": settings.backend_options}
    with Session(path, **how) as base:
        before = [_answer(base, prompt, n_token) for prompt, _ in prompts]
    lora = [] if full else [(str(folder / ADAPTER), 1.0)]
    with Session(folder / MODEL if full else path, lora=lora, **how) as trained:
        after = [_answer(trained, prompt, n_token) for prompt, _ in prompts]
    for (prompt, wanted), old, new in zip(prompts, before, after, strict=True):
        text = trainer.session.detokenize(prompt)
        click.echo("\n" + click.style(safe(text[-300:]), dim=True))
        for label, answer in (("wanted", trainer.session.detokenize(wanted)[:400]), ("base", old), ("trained", new)):
            click.echo(f"{click.style(f'{label:9}', bold=True)}{safe(answer.strip())}")


def prompts_of(trainer: Trainer, n: int, longest: int) -> list[tuple[list[int], list[int]]]:
    """Tokens before the first that counts, and those that should follow, of the first samples that have both.

    `longest`: of a prompt that an answer still fits behind.
    """
    found = []
    for sample in trainer.dataset.train:
        start = int((sample.weights[1:] > 0).argmax()) + 1
        if len(found) == n:
            break
        if 1 < start <= longest:
            found.append((sample.tokens[:start].tolist(), sample.tokens[start:].tolist()))
    return found


def _answer(session: Session, prompt: list[int], n_token: int) -> str:
    return session.generate(prompt, max_tokens=n_token, samplers=("greedy",)).text
