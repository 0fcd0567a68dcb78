"""The events of several jobs as one stream, each as soon as it comes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from llamakit.plugins.frontends.rest.generation import LOOK_SECONDS, batches

from llamakit.engine.job import Finished, raise_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llamakit.engine.job import Event, Job


def merged(jobs: Sequence[Job]) -> Iterator[tuple[int, list[Event]]]:
    """(number of the job, events of it); raises what ended an answer. Leaving early cancels all jobs."""
    if len(jobs) == 1:
        for events in batches(jobs[0]):
            yield 0, events
        return
    try:
        yield from _turns(jobs)
    finally:
        for job in jobs:
            if not job.read_all:
                job.cancel()


def _turns(jobs: Sequence[Job]) -> Iterator[tuple[int, list[Event]]]:
    """What there is of each job in turn; `news` tells when there is more of any."""
    left, news = list(range(len(jobs))), threading.Event()
    for job in jobs:
        job.listener = news.set
    while left:
        news.clear()
        moved = False
        for number in list(left):
            events = jobs[number].drain()
            if events:
                moved = True
                yield number, events
                for event in events:
                    if type(event) is Finished:
                        raise_error(event.result)
            if jobs[number].read_all:
                left.remove(number)
        if left and not moved and not news.wait(LOOK_SECONDS):
            for number in left:
                if jobs[number].unwanted:
                    jobs[number].cancel()
