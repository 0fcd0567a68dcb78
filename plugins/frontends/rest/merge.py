"""The events of several jobs as one stream, each as soon as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.plugins.frontends.rest.generation import LOOK_SECONDS, batches

from llamakit.engine.job import Finished, raise_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llamakit.engine.job import Event, Job

TURN_SECONDS = 0.02  # how long to wait for one job before looking at the others


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
    left = list(range(len(jobs)))
    waited = 0.0
    while left:
        moved = False
        for number in list(left):
            events = jobs[number].drain()
            if not events and not moved and number == left[0]:
                events = jobs[number].read(TURN_SECONDS)
            if events:
                moved = True
                yield number, events
                for event in events:
                    if type(event) is Finished:
                        raise_error(event.result)
            if jobs[number].read_all:
                left.remove(number)
        waited = 0.0 if moved else waited + TURN_SECONDS
        if waited >= LOOK_SECONDS:
            waited = 0.0
            for number in left:
                if jobs[number].unwanted:
                    jobs[number].cancel()
