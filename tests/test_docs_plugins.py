"""The examples of docs/plugins.md do what the page says."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

from llamakit import Session, hookspecs
from llamakit.models import LlamaFamily
from llamakit.registry import Registry

PAGE = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
ROOT = Path(__file__).parents[1]


def example(hook: str, monkeypatch) -> list:
    """What the hook of the example gives."""
    (text,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if f"def {hook}" in block]
    module = ModuleType("my_package")
    monkeypatch.setitem(sys.modules, "my_package", module)  # types of options are looked up there
    exec(text, module.__dict__)
    return getattr(module, hook)()


def test_the_optimizer_trains(small_model, tmp_path, monkeypatch):
    (cls,) = example("llamakit_optimizers", monkeypatch)
    found = Registry.optimizer
    monkeypatch.setattr(Registry, "optimizer", lambda self, name: cls if name == cls.name else found(self, name))
    (tmp_path / "data.txt").write_text("the cat sat on the mat. " * 60)
    options = {"ctx": 32, "steps": 8, "packing": "wrapped", "lr": 3e-3}
    options |= {"optimizer": "signs", "optimizer_options": {"momentum": 0.5}}
    losses = []
    with Session(small_model, backend="cpu") as session:
        run = session.trainer(data=[str(tmp_path / "data.txt")], out=str(tmp_path / "run"), **options)
        run.on_step(lambda info: losses.append(info.loss)).run()
    assert losses[-1] < 0.8 * losses[0]


def test_the_architecture_is_one(monkeypatch):
    """That a package's own is read from files and runs is tested in tests/third_party."""
    (cls,) = example("llamakit_architectures", monkeypatch)
    assert issubclass(cls, LlamaFamily)
    assert cls.name == "my-llama"


def test_hooks_and_files_are_there():
    rows = re.findall(r"^\| `(llamakit_\w+)` \| .* \| `([\w/.]+)` \| `([\w/.]+)` \|$", PAGE, re.MULTILINE)
    hooks = {name for name in dir(hookspecs) if name.startswith("llamakit_")}
    assert {hook for hook, _, _ in rows} == hooks
    for _, contract, ours in rows:
        assert (ROOT / contract).exists(), contract
        assert (ROOT / ours).exists(), ours
