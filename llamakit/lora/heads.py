"""What PEFT has no place for, kept in the metadata of its safetensors file: a way there and back changes nothing.

That is the metadata of the GGUF adapter with its types, and the order and the types of its tensors. It is used again
only while it still says the truth about the scales.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llamakit.gguf.constants import GGMLType, ValueType
from llamakit.lora.files import MOST_ALPHA, AdapterFile, Head

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY = "llamakit.gguf"


def keep_head(file: AdapterFile) -> dict[str, str]:
    """The metadata of a safetensors file for an adapter, whose norms are left out."""
    found = {"format": "pt"}
    if file.head is not None:
        records = [[key, int(type_), None if element is None else int(element), value]
                   for key, type_, element, value in file.head.metadata]  # fmt: skip
        tensors = [[name, int(type_)] for name, type_ in file.head.tensors if name not in file.norms]
        found[KEY] = json.dumps({"metadata": records, "tensors": tensors}, separators=(",", ":"))
    return found


def kept_head(metadata: Mapping[str, str]) -> Head | None:
    """The head that the metadata of a safetensors file keeps; None if it has none that can be read."""
    try:
        kept = json.loads(metadata.get(KEY, ""))
        head = Head(
            [(str(key), ValueType(type_), None if element is None else ValueType(element), value)
             for key, type_, element, value in kept["metadata"]],
            [(str(name), GGMLType(type_)) for name, type_ in kept["tensors"]],
        )  # fmt: skip
        plain = all(_is_plain(value) for _, _, _, value in head.metadata)
        json.dumps(head.metadata, ensure_ascii=False).encode("utf-8", "surrogateescape")  # what GGUF can hold as text
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return head if plain else None


def _is_plain(value: object) -> bool:
    """Whether a value is what metadata can be: a text, a number, or a list of such."""
    return not isinstance(value, dict) and not (
        isinstance(value, list) and any(isinstance(each, (list, dict)) for each in value)
    )


def fits(file: AdapterFile, head: Head) -> bool:
    """Whether the head names just these tensors and gives them these scales."""
    names = {f"{name}.{part}" for name in file.tensors for part in ("lora_a", "lora_b")}
    keys = head.keys
    alpha: Any = keys.get("adapter.lora.alpha", 0.0)
    if {name for name, _ in head.tensors} != names or not isinstance(alpha, (int, float)) or file.magnitudes:
        return False
    if not abs(alpha) <= MOST_ALPHA:
        return False
    if keys.get("general.architecture") != file.layout.architecture:
        return False
    scales = {name: alpha / each.A.shape[0] if alpha else 1.0 for name, each in file.tensors.items()}
    return all(abs(scales[name] - each.scale) <= 1e-6 * abs(each.scale) for name, each in file.tensors.items())
