"""The record of a run that `--logdir` asks for: what was asked, with what, and what came out, as YAML."""

from __future__ import annotations

import platform
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import llamakit
from llamakit.terminal import json_text

if TYPE_CHECKING:
    from llamakit import Session
    from llamakit.engine.request import Result


def write_record(
    folder: str, session: Session, prompt: str, request: dict[str, Any], result: Result, seed: int
) -> Path:
    """Write `<time>.yml` and return its path. Every value is JSON, which is YAML too."""
    now = datetime.now().astimezone()
    record: dict[str, Any] = {
        "time": now.isoformat(timespec="seconds"),
        "version": llamakit.__version__,
        "python": platform.python_version(),
        "model": str(session.path),
        "architecture": session.model.hparams.architecture,
        "backend": session.backend[0].name,
        "kernels": dict(session.device.kernels()),
        "n_ctx": session.n_ctx,
        "seed": seed,
        "request": {key: value for key, value in request.items() if key != "seed"},
        "prompt": prompt,
        "prompt_tokens": session.tokenize(prompt, add_bos=True, parse_special=True),
        "output": result.text,
        "output_tokens": result.tokens,
        "reason": str(result.reason),
        "timings": msgspec.to_builtins(result.timings),
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    path = Path(folder) / f"{now.strftime('%Y-%m-%dT%H-%M-%S.%f')}.yml"
    lines = [f"{key}: {json_text(value)}\n" for key, value in record.items()]
    path.write_text("".join(lines), encoding="utf-8")
    return path
