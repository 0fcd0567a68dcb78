"""LlamaKit: run LLaMA-family models in GGUF files.

Importing this package imports nothing else; the public names are resolved on first use.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in `typing`, whose import takes longer than all that is here
if TYPE_CHECKING:
    from typing import Any

    from llamakit.errors import LlamaKitError
    from llamakit.grammar import json_schema_to_grammar
    from llamakit.session import Session

__version__ = "0.1.0"
__all__ = ["LlamaKitError", "Session", "__version__", "json_schema_to_grammar"]

_HOME = {
    "Session": "llamakit.session",
    "LlamaKitError": "llamakit.errors",
    "json_schema_to_grammar": "llamakit.grammar",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'llamakit' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
