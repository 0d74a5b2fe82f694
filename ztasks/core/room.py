"""Room: which lanes may take a batch of a task that must not run just anywhere, or beside just anything.

A worker counts as one cpu while it holds work. A task with `cpus=4` takes the room of four, so three workers stand idle
meanwhile; one that wants more than there is takes all. `memory` adds up in the same way. Whoever finds no room holds
the line: what comes later waits until there is room, since otherwise there might never be any.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ztasks.core.lane import Lane
from ztasks.core.slices import TaskBooks


class Room(NamedTuple):
    """What there is for all jobs together."""

    cpus: int
    memory: int | None = None
    """Bytes; None: any number."""


def find_lane(task: TaskBooks, candidates: Iterable[Lane], lanes: Iterable[Lane], room: Room) -> Lane | None:
    """Return the first lane of the candidates that may take a batch of `task` now, beside what all `lanes` hold."""
    return next((lane for lane in candidates if _has_room(task, lane, lanes, room)), None)


def _has_room(task: TaskBooks, lane: Lane, lanes: Iterable[Lane], room: Room) -> bool:
    options = task.options
    if lane.batches and (options.at_most_once or lane.batches[-1].task.options.at_most_once):
        return False
    cpus, memory = options.cpus, options.memory or 0
    for batch in lane.batches:  # they run one after the other
        cpus, memory = max(cpus, batch.task.options.cpus), max(memory, batch.task.options.memory or 0)
    cpus = min(cpus, room.cpus)
    for other in lanes:
        if other is not lane and other.batches:
            cpus += min(room.cpus, max(batch.task.options.cpus for batch in other.batches))
            memory += max(batch.task.options.memory or 0 for batch in other.batches)
    return cpus <= room.cpus and (room.memory is None or memory <= room.memory)
