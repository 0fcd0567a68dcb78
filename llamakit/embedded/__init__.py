"""The small model that ships with LlamaKit, beside this file; docs/model.md says what it is made of."""

from __future__ import annotations

from pathlib import Path

from llamakit.errors import UsageError

FILE = Path(__file__).with_name("model.gguf")
NOTICE = "no model named: this is LlamaKit's own small one; another: -m FILE.gguf"


def named_or_embedded(name: str) -> tuple[Path, str]:
    """The file of a model that settings name, or of the embedded one where they name none, and then a line to say so.

    Raises UsageError where none is named and this build has no embedded model.
    """
    if name:
        return Path(name), ""
    if not FILE.exists():
        raise UsageError("no model: name a GGUF file with -m FILE", param="model")
    return FILE, NOTICE
