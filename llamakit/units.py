"""Numbers of bytes for people."""

from __future__ import annotations


def size_text(n_bytes: float) -> str:
    """Bytes in the largest unit that fits, such as "3.80 GiB"."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= size:
            return f"{n_bytes / size:.2f} {unit}"
    return f"{n_bytes:.0f} B"
