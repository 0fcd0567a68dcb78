"""The README's Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

from llamakit import Session

README = Path(__file__).parents[1] / "README.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_the_session_example(small_model, capsys):
    exec(blocks()[0].replace("model.gguf", str(small_model)), {})
    out = capsys.readouterr().out
    with Session(small_model) as session:
        assert f"({session.model.hparams.n_embd},)" in out


def test_the_sampler_example():
    names: dict[str, object] = {"__name__": "readme_example"}
    exec(blocks()[1], names)
    (cls,) = names["llamakit_samplers"]()
    assert cls.name == "cold"
