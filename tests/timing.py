"""Times of the processor, on machines that others use too."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TRIES = 5


def is_quick(seconds: float, work: Callable[[], object], clock: Callable[[], float] = time.thread_time) -> bool:
    """Whether work takes less than so many seconds, in one of a few tries: in others the machine may have been slow.

    `clock`: of this thread, or of the whole process where others work for it.
    """

    def spent() -> float:
        began = clock()
        work()
        return clock() - began

    return any(spent() < seconds for _ in range(TRIES))
