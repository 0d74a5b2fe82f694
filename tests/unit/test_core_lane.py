"""A lane's books: how much it may be given, what its worker knows, when its target grows."""

from __future__ import annotations

from collections import deque

import pytest
from books import tell
from hypothesis import given
from hypothesis import strategies as st

from ztasks.core.lane import MAX_BYTES, MAX_CALLABLES, MAX_TARGET, TARGET, Batch, Lane, LaneState
from ztasks.core.options import DEFAULTS
from ztasks.core.slices import Slice, TaskBooks
from ztasks.wire.callables import ship


def task_of(seconds: float | None) -> TaskBooks:
    task = TaskBooks(ship(tell), DEFAULTS)
    task.run_time.seconds = seconds
    return task


def lane_with(*counts: int, seconds: float | None = 0.001, nbytes: int = 0, budget: int | None = None) -> Lane:
    """Make a ready lane that holds batches of so many items."""
    lane = Lane(0, budget)
    lane.state = LaneState.READY
    for count in counts:
        lane.add(Batch(task_of(seconds), [], count, nbytes, lane.dispatched), now=1.0)
    return lane


@pytest.mark.parametrize(
    ("counts", "held", "seconds", "budget", "credit"),
    [
        ((), None, None, None, 1),  # unknown: one, and see
        ((), None, 0.001, None, 20),
        ((), None, 0.005, None, 4),
        ((), None, 60.0, None, 1),  # never less than one
        ((), None, 1e-8, None, 2_000_000),
        ((), None, 0.001, 3, 3),
        ((), None, 60.0, 3, 1),
        ((5,), 0.001, 0.001, None, 15),
        ((5, 5), 0.001, 0.002, None, 5),
        ((5,), 60.0, 0.001, None, 1),
        ((1,), None, 0.001, None, 1),  # an item of unknown length counts as a full target
    ],
)
def test_credit(
    counts: tuple[int, ...], held: float | None, seconds: float | None, budget: int | None, credit: int
) -> None:
    lane = lane_with(*counts, seconds=held)
    lane.budget = budget
    assert lane.credit(task_of(seconds)) == pytest.approx(credit, abs=1 if credit > 1000 else 0)


@pytest.mark.parametrize(
    ("counts", "seconds", "nbytes", "budget", "wants"),
    [
        ((), 0.001, 0, None, True),
        ((9,), 0.001, 0, None, True),
        ((11,), 0.001, 0, None, False),  # more than half of the target
        ((4, 4), 0.001, 0, None, True),
        ((1,), None, 0, None, False),
        ((1,), 0.001, MAX_BYTES // 2 - 1, None, True),
        ((1,), 0.001, MAX_BYTES // 2, None, False),
        ((), 0.001, 0, 1, True),
        ((1,), 0.001, 0, 1, False),  # the budget is used up
    ],
)
def test_a_lane_wants_more(
    counts: tuple[int, ...], seconds: float | None, nbytes: int, budget: int | None, wants: bool
) -> None:
    assert lane_with(*counts, seconds=seconds, nbytes=nbytes, budget=budget).wants_more() is wants


@pytest.mark.parametrize("state", [state for state in LaneState if state is not LaneState.READY])
def test_only_a_ready_lane_wants_more(state: LaneState) -> None:
    lane = lane_with()
    lane.state = state
    assert not lane.wants_more()


def test_what_has_come_back_is_no_longer_expected() -> None:
    lane = lane_with(4, 6)
    assert lane.expected() == pytest.approx(0.010)
    lane.received = 3
    assert lane.expected() == pytest.approx(0.007)
    assert lane.outstanding == 7


def test_adding_a_batch_enters_it_everywhere() -> None:
    lane = lane_with(4, nbytes=100, budget=9)
    assert (lane.dispatched, lane.outstanding, lane.nbytes, lane.budget, lane.moved) == (4, 4, 100, 5, 1.0)
    assert lane.room() == MAX_BYTES - 100


def test_a_worker_is_sent_what_it_lacks_and_forgets_what_it_used_longest_ago() -> None:
    lane = Lane(0)
    keys = [b"%d" % number for number in range(MAX_CALLABLES)]
    assert {lane.need(key) for key in keys} == {(True, ())}
    assert lane.need(keys[0]) == (False, ())
    assert lane.need(b"new") == (True, (keys[1],))
    assert lane.need(keys[1]) == (True, (keys[2],))
    assert len(lane.callables) == MAX_CALLABLES


@given(st.lists(st.integers(0, 300), max_size=600))
def test_the_lane_and_its_worker_agree_on_what_the_worker_has(uses: list[int]) -> None:
    lane, worker = Lane(0), set[bytes]()
    for use in uses:
        key = b"%d" % use
        ships, forget = lane.need(key)
        worker -= {*forget}
        assert ships == (key not in worker)
        worker.add(key)
        assert len(worker) <= MAX_CALLABLES


def test_the_target_doubles_while_the_worker_idles_and_comes_down_slowly() -> None:
    lane = Lane(0)
    lane.starved = False
    targets = deque[float]()
    for _ in range(6):
        lane.judge_idling(busy=0.9, idle=0.1)
        targets.append(lane.target)
    assert list(targets) == [0.04, 0.08, 0.16, 0.32, MAX_TARGET, MAX_TARGET]
    lane.judge_idling(busy=0.96, idle=0.04)
    assert lane.target == 0.95 * MAX_TARGET
    for _ in range(100):
        lane.judge_idling(busy=1.0, idle=0.0)
    assert lane.target == TARGET


def test_idling_without_work_is_nobodys_fault_once() -> None:
    lane = Lane(0)
    lane.judge_idling(busy=0.0, idle=9.0)
    assert lane.target == TARGET
    lane.judge_idling(busy=0.0, idle=9.0)
    assert lane.target == 2 * TARGET


def test_a_batch_of_jobs_shrinks_with_its_slices() -> None:
    task = task_of(None)
    slices = [Slice(task, None, number, 1, b"") for number in range(4)]
    batch = Batch(task, list(slices), 4, 0, position=10)
    assert batch.slice_at(2) is slices[2]
    assert batch.rest(1) == slices[1:]
    assert batch.rest(4) == []
    batch.truncate(3)
    assert (batch.slices, batch.count, batch.end) == (slices[:3], 3, 13)
