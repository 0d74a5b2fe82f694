"""When a job's time is up, or it shall be stopped: told from the cursor, when it began, and the books of its lane."""

from __future__ import annotations

import pytest
from books import tell

from ztasks.core.lane import Batch, Lane
from ztasks.core.options import Options
from ztasks.core.slices import TaskBooks
from ztasks.core.timeouts import LOOK_FOR_STOPPING, Action, Judgement, judge
from ztasks.wire.callables import ship

SOON = LOOK_FOR_STOPPING


def lane_of(*timeouts: float | None, received: int = 0, grace: float = 2.0, stopping: tuple[int, ...] = ()) -> Lane:
    """Make a lane that holds a batch of two items for each timeout; those at `stopping` are not wanted any more."""
    lane = Lane(0)
    for timeout in timeouts:
        task = TaskBooks(ship(tell), Options(timeout=timeout, grace=grace))
        lane.add(Batch(task, [], 2, 0, lane.dispatched), now=0.0)
    lane.received = received
    lane.stopping = dict.fromkeys(stopping)
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
        ((10.0,), 0, 0, None, Judgement(Action.NOTHING, 10.0)),  # it has ended, and its outcome is on the way
        ((None, 10.0), 0, 1, 0.0, Judgement(Action.NOTHING, 10.0)),  # this one has no timeout, the next has
        ((None, 10.0), 0, 2, 89.0, Judgement(Action.STOP, 1.0)),
        ((10.0, 3.0), 0, 0, 99.0, Judgement(Action.NOTHING, 3.0)),
    ],
)
def test_late_or_not(
    timeouts: tuple[float | None, ...], received: int, cursor: int, started: float | None, judgement: Judgement
) -> None:
    assert judge(lane_of(*timeouts, received=received), cursor, started, now=100.0) == judgement


@pytest.mark.parametrize(
    ("timeouts", "received", "stopping", "cursor", "started", "judgement"),
    [
        ((None,), 0, (0,), 0, 99.0, Judgement(Action.STOP, 2.0)),
        ((None,), 0, (0,), 0, None, Judgement(Action.STOP, 2.0)),  # nobody knows since when it runs
        ((None,), 0, (1,), 0, 99.0, Judgement(Action.NOTHING, SOON)),  # its neighbour runs
        ((None,), 0, (0,), -1, None, Judgement(Action.NOTHING, SOON)),  # none has begun
        ((None,), 1, (1,), 0, None, Judgement(Action.NOTHING, SOON)),  # the one before it has been reported
        ((None, None), 0, (0, 3), 3, 99.0, Judgement(Action.STOP, 2.0)),
        ((10.0,), 0, (1,), 0, 96.0, Judgement(Action.NOTHING, SOON)),
        ((10.0,), 0, (1,), 0, 90.0, Judgement(Action.STOP, SOON)),  # this one is late
        ((10.0,), 0, (1,), 0, 0.0, Judgement(Action.KILL, SOON)),
        ((10.0,), 0, (0,), 0, 0.0, Judgement(Action.STOP, 2.0)),  # late, too: its grace counts from its first word
        ((10.0,), 0, (0,), 0, 99.0, Judgement(Action.STOP, 2.0)),
    ],
)
def test_wanted_or_not(
    timeouts: tuple[float | None, ...],
    received: int,
    stopping: tuple[int, ...],
    cursor: int,
    started: float | None,
    judgement: Judgement,
) -> None:
    lane = lane_of(*timeouts, received=received, stopping=stopping)
    assert judge(lane, cursor, started, now=100.0) == judgement
    others = {position: None for position in stopping if position != cursor}
    assert others.items() <= lane.stopping.items(), "the grace of a job that has not begun has not begun"


@pytest.mark.parametrize("grace", [0.0, 0.001, 2.0])
def test_the_grace_counts_from_the_first_word(grace: float) -> None:
    lane = lane_of(None, grace=grace, stopping=(1,))
    assert judge(lane, 0, 10.0, now=50.0) == Judgement(Action.NOTHING, SOON)
    if grace:
        assert judge(lane, 1, 60.0, now=100.0) == Judgement(Action.STOP, max(grace, SOON))
        assert judge(lane, 1, 60.0, now=100.0 + grace / 2) == Judgement(Action.STOP, max(grace / 2, SOON))
    else:
        assert judge(lane, 1, 60.0, now=100.0) == Judgement(Action.KILL, SOON)
    assert judge(lane, 1, 60.0, now=100.0 + grace) == Judgement(Action.KILL, SOON)
    assert judge(lane, 1, 60.0, now=500.0) == Judgement(Action.KILL, SOON), "it is still there"


def test_it_looks_again_as_long_as_a_job_is_to_be_stopped() -> None:
    lane = lane_of(None, stopping=(1,))
    for cursor in (-1, 0, 1):
        _, again = judge(lane, cursor, None, now=0.0)
        assert again is not None
    lane.stopping.clear()
    assert judge(lane, 1, 0.0, now=9.0) == Judgement(Action.NOTHING, None)
