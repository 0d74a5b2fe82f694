"""Jobs that wait for their next attempt: the pauses before retries."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import count

from ztasks.core.slices import Slice, State


class Delayed:
    """A heap of jobs by the time at which they are due. Jobs that were cancelled stay in it until they come up."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Slice]] = []
        self._ties = count()

    def __iter__(self) -> Iterator[tuple[float, int, Slice]]:
        """Yield when, a tie-breaker, and what, the soonest first."""
        return iter(sorted(self._heap, key=lambda entry: entry[:2]))

    def add(self, job: Slice, due: float) -> None:
        """Let a job wait until `due`."""
        heapq.heappush(self._heap, (due, next(self._ties), job))

    def soonest(self) -> float | None:
        """Return when the next one is due, or None."""
        return self._heap[0][0] if self._heap else None

    def take_due(self, now: float) -> list[Slice]:
        """Take out the jobs that are due, and return those that still wait."""
        jobs = []
        while self._heap and self._heap[0][0] <= now:
            job = heapq.heappop(self._heap)[2]
            if job.state is State.DELAYED:
                jobs.append(job)
        return jobs
