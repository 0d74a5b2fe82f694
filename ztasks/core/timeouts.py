"""When a job's time is up, or its caller wants it stopped: what is to be done, and when to look again."""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from ztasks.core.lane import Batch, Lane

LOOK_FOR_STOPPING: Final = 0.005
"""How soon to look again for a job that shall be stopped and has not begun, in seconds."""


class Action(Enum):
    """What shall be done with the worker."""

    NOTHING = "nothing"
    STOP = "stop"
    """Raise JobTimeout, or JobCancelled, inside the job."""
    KILL = "kill"
    """It has not ended within its grace: kill the worker and all that its jobs have started."""


class Judgement(NamedTuple):
    """What to do now, and in how many seconds to look again (None: nothing on this lane needs it)."""

    action: Action
    again: float | None


def judge(lane: Lane, cursor: int, started: float | None, now: float) -> Judgement:
    """Judge what a lane's worker runs: the job at position `cursor`, which began at `started` (None: none is running).

    Times are in seconds on one monotonic clock. A job that has not begun cannot be late before its whole timeout.
    """
    running = lane.batch_at(cursor)
    if running is not None and cursor in lane.stopping:
        return _judge_stopping(lane, cursor, running.task.options.grace, now)
    action, again = _judge_time(lane, running, started, now)
    if lane.stopping:  # they have not begun
        again = LOOK_FOR_STOPPING if again is None else min(again, LOOK_FOR_STOPPING)
    return Judgement(action, again)


def _judge_time(lane: Lane, running: Batch | None, started: float | None, now: float) -> Judgement:
    """Judge by the clock."""
    limits = [batch.task.options for batch in lane.batches if batch.task.options.timeout is not None]
    if not limits:
        return Judgement(Action.NOTHING, None)
    soonest = min(options.timeout for options in limits if options.timeout is not None)
    if started is None or running is None:
        return Judgement(Action.NOTHING, soonest)
    timeout, grace = running.task.options.timeout, running.task.options.grace
    if timeout is None:
        return Judgement(Action.NOTHING, soonest)
    elapsed = now - started
    if elapsed < timeout:
        return Judgement(Action.NOTHING, min(timeout - elapsed, soonest))
    if elapsed < timeout + grace:
        return Judgement(Action.STOP, timeout + grace - elapsed)
    return Judgement(Action.KILL, soonest)


def _judge_stopping(lane: Lane, cursor: int, grace: float, now: float) -> Judgement:
    """Judge a job whose caller wants it stopped; the grace counts from when it was first told."""
    since = lane.stopping[cursor]
    if since is None:
        since = lane.stopping[cursor] = now
    left = since + grace - now
    return (
        Judgement(Action.STOP, max(left, LOOK_FOR_STOPPING)) if left > 0 else Judgement(Action.KILL, LOOK_FOR_STOPPING)
    )
