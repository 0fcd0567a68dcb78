"""What those who look for markers in texts share."""

from __future__ import annotations


def common_start(one: str, two: str) -> str:
    """What both texts begin with."""
    n = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    return one[:n]


def tail_of(text: str, marker: str) -> int:
    """Length of the end of a text that may begin the marker, with the white space before it."""
    if not marker:
        return 0
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if marker.startswith(text[-length:]):
            return len(text) - len(text[:-length].rstrip())
    return len(text) - len(text.rstrip())
