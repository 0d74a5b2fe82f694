"""When a job's time is up: told from the cursor, when it began, and the books of its lane."""

from __future__ import annotations

import pytest
from books import tell

from ztasks.core.lane import Batch, Lane
from ztasks.core.options import Options
from ztasks.core.slices import TaskBooks
from ztasks.core.timeouts import Action, Judgement, judge
from ztasks.wire.callables import ship


def lane_of(*timeouts: float | None, received: int = 0) -> Lane:
    """Make a lane that holds a batch of two items for each timeout."""
    lane = Lane(0)
    for timeout in timeouts:
        task = TaskBooks(ship(tell), Options(timeout=timeout, grace=2.0))
        lane.add(Batch(task, [], 2, 0, lane.dispatched), now=0.0)
    lane.received = received
    return lane


@pytest.mark.parametrize(
    ("timeouts", "received", "cursor", "started", "judgement"),
    [
        ((), 0, -1, None, Judgement(Action.NOTHING, None)),
        ((None,), 0, 0, 0.0, Judgement(Action.NOTHING, None)),
        ((10.0,), 0, -1, None, Judgement(Action.NOTHING, 10.0)),  # not begun: it has all its time before it
        ((10.0,), 0, 0, 96.0, Judgement(Action.NOTHING, 6.0)),
        ((10.0,), 0, 0, 90.0, Judgement(Action.STOP, 2.0)),
        ((10.0,), 0, 0, 89.0, Judgement(Action.STOP, 1.0)),
        ((10.0,), 0, 1, 88.0, Judgement(Action.KILL, 10.0)),
        ((10.0,), 1, 0, 0.0, Judgement(Action.NOTHING, 10.0)),  # its outcome has come
        ((10.0,), 0, 2, 0.0, Judgement(Action.NOTHING, 10.0)),  # of no batch that is here
        ((None, 10.0), 0, 1, 0.0, Judgement(Action.NOTHING, 10.0)),  # this one has no timeout, the next has
        ((None, 10.0), 0, 2, 89.0, Judgement(Action.STOP, 1.0)),
        ((10.0, 3.0), 0, 0, 99.0, Judgement(Action.NOTHING, 3.0)),
    ],
)
def test_judge(
    timeouts: tuple[float | None, ...], received: int, cursor: int, started: float | None, judgement: Judgement
) -> None:
    assert judge(lane_of(*timeouts, received=received), cursor, started, now=100.0) == judgement
