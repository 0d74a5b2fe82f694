"""Looking at what the workers of one executor run just now, in the head's thread."""

from __future__ import annotations

from typing import NamedTuple

from ztasks.core.ventilator import Ventilator
from ztasks.io.cell import CLAIMED_AT, CURSOR, STARTED
from ztasks.io.crew import Crew


class RunningJob(NamedTuple):
    """A job that a worker runs."""

    job: str
    """Its id, as `current_job().id` has it."""
    task: str
    """The task's name."""
    attempt: int
    pid: int
    """The worker's."""
    seconds: float
    """For how long it has been running (items of a map: up to 1 ms more)."""


def look(ventilator: Ventilator, crew: Crew, now: float) -> list[RunningJob]:
    """Return what the workers run, by their claim cells; the one that has run for longest first."""
    found = []
    for lane in ventilator.lanes.values():
        worker = crew.workers.get(lane.number)
        if worker is None or worker.exit_code is not None:
            continue
        fields = worker.cell.fields
        cursor, started = fields[CURSOR], fields[STARTED] or fields[CLAIMED_AT]
        batch = lane.batch_at(cursor)
        if batch is not None:
            job = batch.slice_at(cursor - batch.position)
            name = job.task.options.name or job.task.callable.name
            found.append(RunningJob(job.id, name, job.attempt, worker.pid, max(0.0, now - started / 1e9)))
    return sorted(found, key=lambda running: -running.seconds)
