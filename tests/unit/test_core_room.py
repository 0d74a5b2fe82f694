"""Room: which lanes may take a job that takes more than others; the line is held, and everybody gets a turn."""

from __future__ import annotations

from typing import Any

import pytest
from books import FakeWorker, Rig, tell

from ztasks.core.lane import RECALL_AFTER, Batch, Lane
from ztasks.core.options import Options
from ztasks.core.room import Room, find_lane
from ztasks.core.slices import TaskBooks
from ztasks.wire.callables import ship


def task_of(**options: Any) -> TaskBooks:
    return TaskBooks(ship(tell), Options(**options))


def lanes_with(*held: list[TaskBooks]) -> list[Lane]:
    """Make lanes that hold a batch of each of these tasks."""
    lanes = []
    for number, tasks in enumerate(held):
        lane = Lane(number)
        for task in tasks:
            lane.add(Batch(task, [], 1, 0, lane.dispatched), now=0.0)
        lanes.append(lane)
    return lanes


PLAIN = task_of()
BROAD = task_of(cpus=3)
HUGE = task_of(cpus=99)
LARGE = task_of(memory=60)
MIDDLING = task_of(memory=40)
SMALL = task_of(memory=30)
BOTH = task_of(cpus=2, memory=50)
ONCE = task_of(at_most_once=True)


@pytest.mark.parametrize(
    ("task", "held", "place"),
    [
        (PLAIN, [[]], 0),
        (PLAIN, [[PLAIN], []], 0),  # whoever asks says which lanes want more
        (BROAD, [[], []], 0),
        (BROAD, [[PLAIN], []], 0),
        (BROAD, [[PLAIN], [PLAIN], []], 0),  # behind the plain one: they run one after the other
        (BROAD, [[PLAIN], [PLAIN], [PLAIN]], None),
        (BROAD, [[BROAD], []], 0),
        (PLAIN, [[BROAD], []], 0),
        (PLAIN, [[BROAD], [PLAIN], []], 0),
        (PLAIN, [[BROAD, PLAIN], [], []], 0),
        (PLAIN, [[BROAD], [PLAIN], [PLAIN]], None),  # there is more than fits already, from before
        (HUGE, [[], []], 0),  # it takes all there is
        (HUGE, [[PLAIN], []], 0),
        (HUGE, [[], [PLAIN]], 1),
        (HUGE, [[PLAIN], [PLAIN]], None),
        (PLAIN, [[], [HUGE]], 1),
        (LARGE, [[], [MIDDLING]], 0),
        (LARGE, [[], [LARGE]], 1),
        (LARGE, [[], [LARGE], [MIDDLING]], 1),
        (LARGE, [[], [SMALL], [SMALL], [SMALL]], None),
        (PLAIN, [[], [LARGE], [MIDDLING]], 0),
        (BOTH, [[], [BROAD]], 1),  # no cpus beside it
        (BOTH, [[], [LARGE]], 1),  # no memory beside it
        (BOTH, [[], [BOTH]], 0),
        (BOTH, [[], [BOTH], [PLAIN]], 1),
        (ONCE, [[]], 0),
        (ONCE, [[PLAIN], []], 1),  # alone on its lane
        (ONCE, [[PLAIN], [ONCE]], None),
        (PLAIN, [[ONCE], []], 1),
        (PLAIN, [[ONCE]], None),
    ],
)
def test_where_there_is_room(task: TaskBooks, held: list[list[TaskBooks]], place: int | None) -> None:
    """Of four cpus and 100 bytes."""
    lanes = lanes_with(*held)
    found = find_lane(task, lanes, lanes, Room(4, 100))
    assert (found and found.number) == place


def test_without_a_limit_any_amount_of_memory_fits() -> None:
    lanes = lanes_with([], [LARGE], [LARGE])
    assert find_lane(LARGE, lanes, lanes, Room(4)) is lanes[0]


def test_only_candidates_are_chosen_but_all_lanes_count() -> None:
    lanes = lanes_with([], [PLAIN], [])
    assert find_lane(PLAIN, [lanes[2], lanes[0]], lanes, Room(4)) is lanes[2]
    assert find_lane(BROAD, [lanes[0]], lanes, Room(3)) is None
    assert find_lane(BROAD, [], lanes, Room(9)) is None


@pytest.mark.parametrize("options", [{"cpus": 2}, {"memory": 0}, {"memory": 5}, {"at_most_once": True}])
def test_who_must_be_looked_at(options: dict[str, Any]) -> None:
    assert task_of(**options).singular
    assert not task_of(cpus=1, retries=3).singular


# --- in the ventilator ---


def rig_with(room: Room, workers: int, **options: Any) -> tuple[Rig, list[FakeWorker]]:
    """Make a rig whose first task is plain and whose second has these options; all jobs take long."""
    rig = Rig(room=room)
    rig.task()
    rig.task(**options)
    rig.task("one", map_number=1, **options)
    rig.tasks[0].run_time.seconds = 60.0
    return rig, [rig.start() for _ in range(workers)]


def test_no_more_run_beside_each_other_than_there_is_room() -> None:
    rig, workers = rig_with(Room(4), 4, cpus=2)
    rig.submit(rig.tasks[1], 6)
    assert len(rig.dispatch()) == 2
    assert rig.dispatch() == []
    busy = [worker for worker in workers if worker.waiting]
    rig.work(busy[0], seconds=60.0)
    assert len(rig.dispatch()) == 1
    rig.finish()


def test_what_waits_for_room_holds_the_line() -> None:
    """However much comes after it: else there might never be room."""
    rig, workers = rig_with(Room(3), 3, cpus=3)
    rig.submit(rig.tasks[0], 3)
    rig.dispatch()
    rig.submit(rig.tasks[1])
    for worker in workers[:2]:
        rig.work(worker, seconds=60.0)
        rig.submit(rig.tasks[0], 5)
        assert rig.dispatch() == [], "somebody passed"
        assert rig.ventilator.next_event(rig.now) is not None or rig.ventilator._blocked
    rig.work(workers[2], seconds=60.0)
    (send,) = rig.dispatch()
    assert send.batch.task is rig.tasks[1]
    rig.finish()


def test_tasks_that_need_room_take_turns_with_others() -> None:
    rig, _ = rig_with(Room(2), 2, cpus=2)
    rig.submit(rig.tasks[0], 6)
    rig.submit(rig.tasks[1], 3)
    order = []
    while rig.ventilator.pending:
        order += [send.batch.task.options.cpus for send in rig.dispatch()]
        for worker in list(rig.workers.values()):
            rig.work(worker, seconds=60.0)
    assert order.index(2) < 4
    assert order.count(2) == 3


def test_unstarted_work_is_taken_back_for_an_idle_lane_while_another_job_waits_for_room() -> None:
    rig, (first, _) = rig_with(Room(2), 2, cpus=2)
    rig.tasks[0].run_time.seconds = 0.003
    rig.ventilator.on_leaving(1)
    rig.submit(rig.tasks[0], 4)
    rig.dispatch()
    rig.start()
    rig.submit(rig.tasks[1])
    rig.claim(first, 1)
    rig.begin(first)
    assert rig.dispatch() == []
    rig.now += 2 * RECALL_AFTER
    assert rig.ventilator.next_event(rig.now) == 0.0
    assert rig.ventilator.recallable(rig.now) == [rig.books(first)]
    rig.recall(first)
    (send,) = rig.dispatch()
    assert (send.lane.number, send.batch.task) == (2, rig.tasks[0]), "what was taken back comes first"
    rig.finish()


def test_a_death_gives_the_room_back() -> None:
    rig, _ = rig_with(Room(2), 2, memory=1, cpus=2)
    rig.submit(rig.tasks[1], 2)
    (send,) = rig.dispatch()
    rig.die(rig.workers[send.lane.number])
    assert len(rig.dispatch()) == 1
    rig.finish()


# --- at most once ---


def test_such_a_job_travels_alone() -> None:
    rig, workers = rig_with(Room(2), 2, at_most_once=True)
    for task in rig.tasks:
        task.run_time.seconds = 1e-6
    rig.submit_slice(rig.tasks[2], 3)
    rig.submit(rig.tasks[1], 3)
    assert [send.batch.count for send in rig.dispatch()] == [1, 1]
    rig.submit(rig.tasks[0], 5)
    assert rig.dispatch() == [], "its lane gets nothing until its outcome is in"
    rig.work(workers[0])
    assert [send.lane.number for send in rig.dispatch()] == [0]
    rig.finish()
    assert {record.starts for record in rig.records.values()} == {1}


@pytest.mark.parametrize("what", ["a job", "an item of a map"])
@pytest.mark.parametrize(
    ("phase", "end"),
    [("sent", None), ("claimed", None), ("running", "lost"), ("its outcome on the way", "lost"), ("reported", "done")],
)
def test_it_is_lost_if_it_may_have_begun(what: str, phase: str, end: str | None) -> None:
    rig, (worker,) = rig_with(Room(2), 1, at_most_once=True)
    if what == "a job":
        rig.submit(rig.tasks[1])
    else:
        rig.submit_slice(rig.tasks[2], 1)
    rig.dispatch()
    if phase != "sent":
        rig.claim(worker, 1)
    if phase == "running":
        rig.begin(worker)
    elif phase != "claimed":
        rig.run(worker, ["ok"])
    if phase == "reported":
        rig.report(worker)
    rig.die(worker)
    (record,) = rig.records.values()
    assert (record.end, record.crashes) == (end, 0)
    rig.finish()  # which runs it if it has not begun: free of charge
    assert record.end == (end or "done")
    assert record.starts == 1


@pytest.mark.parametrize("fate", ["retry", "after", "fatal"])
def test_its_failure_is_final(fate: str) -> None:
    rig, (worker,) = rig_with(Room(2), 1, at_most_once=True)
    rig.submit(rig.tasks[1])
    rig.dispatch()
    rig.work(worker, fate)
    assert rig.records[0, 0].end == "failed"


def test_killed_for_its_lateness_it_has_run_out_of_time() -> None:
    rig, (worker,) = rig_with(Room(2), 1, at_most_once=True, timeout=1.0)
    rig.submit(rig.tasks[1])
    rig.dispatch()
    rig.claim(worker, 1)
    rig.die(worker, running=True, late=True)
    assert rig.records[0, 0].end == "timeout"


def test_not_begun_it_can_be_taken_back() -> None:
    rig, (worker,) = rig_with(Room(2), 1, at_most_once=True)
    rig.submit(rig.tasks[1])
    rig.dispatch()
    assert rig.recall(worker) == 1
    rig.finish()
    assert rig.records[0, 0].starts == 1
