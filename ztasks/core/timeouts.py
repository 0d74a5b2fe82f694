"""When a job's time is up: what is to be done with its worker, and when to look again."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from ztasks.core.lane import Lane


class Action(Enum):
    """What shall be done with the worker."""

    NOTHING = "nothing"
    STOP = "stop"
    """Raise JobTimeout inside the job."""
    KILL = "kill"
    """It has not ended within its grace: kill the worker and all that its jobs have started."""


class Verdict(NamedTuple):
    """What to do now, and in how many seconds to look again (None: no job with a timeout is on this lane)."""

    action: Action
    again: float | None


def judge(lane: Lane, cursor: int, started: float | None, now: float) -> Verdict:
    """Judge what a lane's worker runs: the job at position `cursor`, which began at `started` (None: none is running).

    Times are in seconds on one monotonic clock. A job that has not begun cannot be late before its whole timeout.
    """
    limits = [batch.task.options for batch in lane.batches if batch.task.options.timeout is not None]
    if not limits:
        return Verdict(Action.NOTHING, None)
    soonest = min(options.timeout for options in limits if options.timeout is not None)
    running = next((batch for batch in lane.batches if batch.position <= cursor < batch.end), None)
    if started is None or running is None or cursor < lane.received:
        return Verdict(Action.NOTHING, soonest)
    timeout, grace = running.task.options.timeout, running.task.options.grace
    if timeout is None:
        return Verdict(Action.NOTHING, soonest)
    elapsed = now - started
    if elapsed < timeout:
        return Verdict(Action.NOTHING, min(timeout - elapsed, soonest))
    if elapsed < timeout + grace:
        return Verdict(Action.STOP, timeout + grace - elapsed)
    return Verdict(Action.KILL, soonest)
