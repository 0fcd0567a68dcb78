"""Which samples are held back for validation: seen from their content, so that it is the same in every run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.train.options import LEAST_TO_SPLIT

if TYPE_CHECKING:
    from collections.abc import Sequence


def held_back(digests: Sequence[bytes], share: float) -> set[int]:
    """Numbers of those to hold back: about `share` of them; none of fewer than 20.

    Those with the lowest hashes are chosen, whatever the order, and of equal ones all or none: what is validated on
    was never learned from.
    """
    if not share or len(digests) < LEAST_TO_SPLIT:
        return set()
    places: dict[bytes, list[int]] = {}
    for number, digest in enumerate(digests):
        places.setdefault(digest, []).append(number)
    chosen: set[int] = set()
    wanted = max(1, round(share * len(digests)))
    for digest in sorted(places):
        if len(chosen) + len(places[digest]) <= wanted:
            chosen.update(places[digest])
    if not chosen and len(places) > 1:  # all are there several times
        _, smallest = min((len(numbers), numbers) for numbers in places.values())
        chosen.update(smallest)
    return chosen
