"""What must be true of all books of a ventilator, against each other and against what is known from the outside.

All of it is checked after each event (`Rig` calls `check_books`), and after each dispatch the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

from ztasks.core.lane import MAX_BYTES, Lane, LaneState, Send
from ztasks.core.slices import Slice, State, TaskBooks
from ztasks.core.taking import SPLIT_SECONDS
from ztasks.wire.messages import MAX_ITEMS
from ztasks.wire.payload import Items

if TYPE_CHECKING:
    from books import Rig


def check_send(send: Send) -> None:
    """A batch is within its lane's credit, in items and in bytes."""
    lane, batch = send.lane, send.batch
    assert 0 < batch.count <= MAX_ITEMS
    before = [other for other in lane.batches if other.position < batch.position]
    earlier = SimpleNamespace(batches=before, received=lane.received, target=lane.target)
    left = lane.target - Lane.expected(earlier)  # type: ignore[arg-type]
    seconds = batch.task.run_time.seconds
    alone = batch.task.options.at_most_once
    credit = 1 if seconds is None or alone else max(1, int(left / seconds))
    whole = isinstance(batch.slices[0].payload, Items)
    if whole and lane.budget is None and seconds is not None and not alone:
        credit += int(SPLIT_SECONDS / seconds)  # what is not worth a message of its own
    assert batch.count <= credit
    held = sum(other.nbytes for other in before)
    assert len(batch.slices) == 1 or held + batch.nbytes <= MAX_BYTES
    assert not before or held < MAX_BYTES // 2


class Takes(NamedTuple):
    """What of the room a lane takes with all that it holds."""

    cpus: int
    memory: int


def takes(rig: Rig, tasks: Iterable[TaskBooks]) -> Takes:
    """A worker takes what the largest of its jobs does; nobody takes more cpus than there are."""
    options = [task.options for task in tasks]
    cpus = max((each.cpus for each in options), default=0)
    return Takes(min(cpus, rig.room.cpus), max((each.memory or 0 for each in options), default=0))


def fit(rig: Rig, taken: list[Takes]) -> bool:
    room = rig.room
    memory = sum(each.memory for each in taken)
    return sum(each.cpus for each in taken) <= room.cpus and (room.memory is None or memory <= room.memory)


def held_by(lane: Lane) -> list[TaskBooks]:
    return [batch.task for batch in lane.batches]


def check_room(rig: Rig) -> None:
    """Once there was a job that wants room, what has just been sent fits beside all else."""
    lanes = [lane for lane in rig.ventilator.lanes.values() if lane.batches]
    if any(record.task.singular for record in rig.records.values()):
        assert fit(rig, [takes(rig, held_by(lane)) for lane in lanes]), "more was sent than there is room"


def check_line(rig: Rig) -> None:
    """After a dispatch nothing waits that could be sent, and what waits for room is the first in the line."""
    ventilator = rig.ventilator
    if not ventilator._round or not ventilator._open:
        return
    first = ventilator._round[0]
    assert ventilator._blocked, "work was not sent that could have been"
    for lane in ventilator._open.values():
        alone = first.options.at_most_once or any(task.options.at_most_once for task in held_by(lane))
        others = [takes(rig, held_by(other)) for other in ventilator.lanes.values() if other is not lane]
        with_it = takes(rig, [first, *held_by(lane)])
        assert (lane.batches and alone) or not fit(rig, [with_it, *others]), f"it could have gone to lane {lane.number}"


def check_books(rig: Rig) -> None:
    """Check all books of the ventilator, against each other and against what is known from the outside."""
    ventilator = rig.ventilator
    ended = {item for item, record in rig.records.items() if record.end}
    assert set(rig.places()) == rig.records.keys() - ended, "an item is lost, or is still somewhere after its end"
    assert ventilator.pending == len(rig.records) - len(ended)
    check_tasks(rig)
    check_delayed(rig)
    for lane in ventilator.lanes.values():
        check_lane(rig, lane)
    ready = {number: lane for number, lane in ventilator.lanes.items() if lane.state is LaneState.READY}
    assert ventilator._ready == len(ready)
    assert ventilator._open.items() <= ready.items()
    assert ventilator.timed.items() <= ventilator.lanes.items()
    for number, lane in ready.items():
        assert lane.outstanding or lane.budget == 0 or number in ventilator._open, f"lane {number} would idle for ever"


def check_tasks(rig: Rig) -> None:
    round_ = list(rig.ventilator._round)
    assert len(round_) == len(set(map(id, round_)))
    for task in rig.tasks:
        assert task.queued == sum(slice_.count for slice_ in task.queue)
        assert task.waiting == (task in round_) == bool(task.queue)
        for slice_ in task.queue:
            assert slice_.state in (State.QUEUED, State.CANCELLED)
            check_history(rig, slice_)


def check_delayed(rig: Rig) -> None:
    for due, _, job in rig.ventilator._delayed:
        assert job.count == 1
        assert job.state in (State.DELAYED, State.CANCELLED)
        assert job.failures > 0
        record = rig.records[job.task.map_number, job.first]
        assert record.end == "cancelled" or due == record.due, "it does not wait as long as it should"
        check_history(rig, job)


def check_lane(rig: Rig, lane: Lane) -> None:
    batches = list(lane.batches)
    assert lane.state is not LaneState.LOST
    assert lane.outstanding == lane.dispatched - lane.received >= 0
    assert lane.nbytes == sum(batch.nbytes for batch in batches)
    position = batches[0].position if batches else lane.dispatched
    assert position <= lane.received or not batches
    assert not batches or lane.received < batches[0].end, "a batch is still there whose items have all come"
    for batch in batches:
        assert batch.position == position
        assert batch.count == sum(slice_.count for slice_ in batch.slices) > 0
        assert batch.nbytes >= sum(slice_.nbytes for slice_ in batch.slices)
        assert len(batch.slices) in (1, batch.count)
        position = batch.end
        assert batch.task.options.timeout is None or lane.number in rig.ventilator.timed
        assert not batch.task.options.at_most_once or lane.outstanding == 1, "it is not alone on its lane"
        for slice_ in batch.rest(max(0, lane.received - batch.position)):
            assert slice_.state is State.ASSIGNED
            check_history(rig, slice_)
    assert position == lane.dispatched
    check_stopping(rig, lane)
    budget = rig.budgets[lane.number]
    assert lane.budget == (None if budget is None else budget - lane.dispatched)
    assert lane.budget is None or lane.budget >= 0


def check_stopping(rig: Rig, lane: Lane) -> None:
    """The lane knows the positions of exactly those jobs that shall be stopped, and somebody looks at it."""
    unwanted = set()
    for batch in lane.batches:
        if not batch.task.map_number:
            for position, job in enumerate(batch.slices, batch.position):
                assert position < lane.received or job.stopping == rig.records[0, job.first].stopping
                if job.stopping and position >= lane.received:
                    unwanted.add(position)
    assert lane.stopping.keys() == unwanted, "another job would be stopped"
    assert not unwanted or lane.number in rig.ventilator.timed


def check_history(rig: Rig, slice_: Slice) -> None:
    """A slice that has not ended: each of its items has the slice's history, and the gate is as the state says."""
    for index in range(slice_.first, slice_.first + slice_.count):
        record = rig.records[slice_.task.map_number, index]
        assert (slice_.failures, slice_.crashes) == (record.failures, record.crashes), "another one was charged"
    assert slice_.attempt == slice_.failures + slice_.crashes + 1
    assert len(slice_.history) == slice_.failures + slice_.crashes
    if slice_.gate is not None:
        others = slice_ in rig.cancelling or slice_.state in (State.ASSIGNED, State.CANCELLED)
        assert slice_.gate.held == others  # type: ignore[attr-defined]
