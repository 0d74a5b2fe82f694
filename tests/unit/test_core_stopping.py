"""Stopping a job for its caller, by phase: where it is, what becomes of it, and that nobody else is touched."""

from __future__ import annotations

from typing import Any

import pytest
from books import FakeWorker, Rig

from ztasks.core.slices import State
from ztasks.core.timeouts import LOOK_FOR_STOPPING


def rig_with(count: int = 3, **options: Any) -> tuple[Rig, FakeWorker]:
    """Make a rig of one worker, which holds so many jobs and has claimed none."""
    rig = Rig()
    rig.task(**{"grace": 2.0, **options})
    rig.tasks[0].run_time.seconds = 1e-6
    worker = rig.start()
    rig.submit(rig.tasks[0], count)
    rig.dispatch()
    return rig, worker


def ends(rig: Rig) -> list[str | None]:
    return [record.end for record in rig.records.values()]


# --- it is not running ---


def test_queued_it_is_cancelled_at_once() -> None:
    rig = Rig()
    (job,) = rig.submit(rig.task())
    rig.stop(job)
    assert (ends(rig), rig.ventilator.pending) == (["cancelled"], 0)
    rig.start()
    assert rig.dispatch() == []


def test_waiting_for_its_next_attempt_it_is_cancelled_at_once() -> None:
    rig, worker = rig_with(1, retries=1)
    rig.work(worker, "retry")
    (job,) = rig.jobs
    assert job.state is State.DELAYED
    rig.stop(job)
    assert ends(rig) == ["cancelled"]
    rig.now += 1000.0
    assert rig.dispatch() == []


def test_running_again_beside_the_batch_of_its_first_attempt_it_is_the_second_that_is_stopped() -> None:
    """Its neighbours of the first attempt have not ended, so the lane has it in two batches."""
    rig, worker = rig_with(3, retries=1, backoff=0.0)
    rig.claim(worker, 3)
    rig.run(worker, ["retry"])
    rig.report(worker)
    rig.dispatch()
    assert [batch.position for batch in rig.books(worker).batches] == [0, 3]
    rig.stop(rig.jobs[0])
    assert ends(rig) == ["cancelled", None, None]
    rig.finish()
    assert ends(rig) == ["cancelled", "done", "done"]


def test_when_its_caller_has_it_already_nothing_happens() -> None:
    rig = Rig()
    (job,) = rig.submit(rig.task())
    rig.begin_cancel(job)
    rig.stop(job)
    assert ends(rig) == [None], "it was told twice"
    rig.end_cancel(job)
    assert ends(rig) == ["cancelled"]


@pytest.mark.parametrize("fate", ["ok", "fatal"])
def test_when_it_has_ended_nothing_happens(fate: str) -> None:
    rig, worker = rig_with(1)
    rig.work(worker, fate)
    before = ends(rig)
    rig.stop(rig.jobs[0])
    assert ends(rig) == before
    assert not rig.jobs[0].gate.held  # type: ignore[union-attr]


def test_not_claimed_it_is_taken_back_and_cancelled() -> None:
    rig, _ = rig_with(3)
    rig.stop(rig.jobs[1])
    assert ends(rig) == [None, "cancelled", None]
    rig.finish()
    assert ends(rig) == ["done", "cancelled", "done"]
    assert rig.records[0, 1].starts == 0


def test_after_that_its_position_is_another_job_s() -> None:
    """Positions are given anew after a recall: whoever gets this one is wanted."""
    rig, worker = rig_with(2)
    rig.claim(worker, 1)
    rig.begin(worker)
    rig.stop(rig.jobs[1])
    rig.submit(rig.tasks[0], 2)
    rig.dispatch()
    rig.run(worker, ["ok"])
    rig.claim(worker, 1)
    rig.begin(worker)
    rig.keep_time()  # which checks that nobody is told to stop
    rig.run(worker, ["ok"])
    rig.finish()
    assert ends(rig) == ["done", "cancelled", "done", "done"]


@pytest.mark.parametrize("busy", [False, True])
def test_claimed_and_not_begun_it_is_stopped_when_it_begins(busy: bool) -> None:
    rig, worker = rig_with(3)
    rig.claim(worker, 3)
    rig.stop(rig.jobs[1], busy=busy)
    assert ends(rig) == [None] * 3
    rig.run(worker, ["ok"])
    assert rig.keep_time() == []
    rig.begin(worker)
    rig.keep_time()
    rig.run(worker, ["heed", "ok"])
    rig.report(worker)
    assert ends(rig) == ["done", "cancelled", "done"]


def test_while_its_worker_is_claiming_it_is_looked_after_later() -> None:
    rig, worker = rig_with(2)
    rig.stop(rig.jobs[1], busy=True)
    assert ends(rig) == [None, None]
    assert rig.ventilator.timed == {0: rig.books(worker)}
    rig.recall(worker)
    assert ends(rig) == [None, "cancelled"]


# --- it is running ---


def running(**options: Any) -> tuple[Rig, FakeWorker]:
    """Make a rig whose worker holds three jobs, and runs the second, which is to be stopped."""
    rig, worker = rig_with(3, **options)
    rig.claim(worker, 2)
    rig.run(worker, ["ok"])
    rig.begin(worker)
    rig.stop(rig.jobs[1])
    assert ends(rig) == [None] * 3
    return rig, worker


@pytest.mark.parametrize(
    ("fate", "end"),
    [("heed", "cancelled"), ("ok", "done"), ("fatal", "cancelled"), ("retry", "cancelled"), ("after", "cancelled")],
)
def test_running_it_ends_as_cancelled_unless_it_returns(fate: str, end: str) -> None:
    rig, worker = running(retries=5)
    rig.keep_time()
    rig.run(worker, [fate])
    rig.report(worker)
    assert ends(rig) == ["done", end, None]
    assert rig.books(worker).stopping == {}
    rig.finish()
    assert ends(rig) == ["done", end, "done"]
    assert rig.records[0, 1].failures == 0, "it was charged"


def test_its_worker_is_killed_after_its_grace_and_it_alone_has_an_end() -> None:
    rig, worker = running(crash_retries=0)
    assert rig.keep_time() == []
    rig.now += 1.9
    assert rig.keep_time() == []
    rig.now += 0.2
    assert rig.keep_time() == [worker.number]
    assert ends(rig) == [None, "cancelled", None], "the first was run, and its outcome is lost with the worker"
    rig.finish()
    assert ends(rig) == ["done", "cancelled", "done"]
    assert [rig.records[0, index].crashes for index in range(3)] == [0, 0, 0]


def test_asked_again_and_again_it_has_one_grace() -> None:
    rig, worker = running()
    for _ in range(4):
        assert rig.keep_time() == []
        rig.now += 0.6
        rig.stop(rig.jobs[1])
    assert rig.keep_time() == [worker.number]


def test_its_timeout_does_not_give_it_another_end() -> None:
    rig, worker = running(timeout=1.0, retries=3)
    rig.keep_time()
    rig.now += 30.0
    assert rig.keep_time() == [worker.number]
    assert ends(rig)[1] == "cancelled"


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("options", [{}, {"crash_retries": 0}, {"retries": 1, "timeout": 5.0}])
def test_if_its_worker_dies_meanwhile_it_is_cancelled_and_nobody_is_charged(
    late: bool, options: dict[str, Any]
) -> None:
    rig, worker = running(**options)
    rig.die(worker, late=late)
    assert ends(rig) == [None, "cancelled", None]
    rig.finish()
    assert [(record.failures, record.crashes) for record in rig.records.values()] == [(0, 0)] * 3


def test_a_job_with_at_most_once_that_is_stopped_is_not_lost_but_cancelled() -> None:
    rig, worker = rig_with(1, at_most_once=True)
    rig.claim(worker, 1)
    rig.begin(worker)
    rig.stop(rig.jobs[0])
    rig.die(worker)
    assert ends(rig) == ["cancelled"]


# --- its outcome is on the way ---


@pytest.mark.parametrize(("fate", "end"), [("ok", "done"), ("fatal", "cancelled"), ("retry", "cancelled")])
def test_when_its_outcome_is_on_the_way_a_result_counts(fate: str, end: str) -> None:
    rig, worker = rig_with(2, retries=1)
    rig.claim(worker, 2)
    rig.run(worker, [fate])
    rig.stop(rig.jobs[0])
    rig.report(worker)
    assert ends(rig) == [end, None]
    rig.finish()


def test_when_its_outcome_dies_with_the_worker_it_is_not_run_again() -> None:
    rig, worker = rig_with(2)
    rig.claim(worker, 2)
    rig.run(worker, ["ok"])
    rig.begin(worker)
    rig.stop(rig.jobs[0])
    rig.die(worker)
    assert ends(rig) == ["cancelled", None]
    assert rig.jobs[1].crashes == 1, "the one that was running is charged"
    rig.finish()


# --- another one runs ---


def test_a_death_that_is_another_job_s_fault_cancels_it_too() -> None:
    rig, worker = rig_with(3)
    rig.claim(worker, 3)
    rig.begin(worker)
    rig.stop(rig.jobs[2])
    rig.die(worker)
    assert ends(rig) == [None, None, "cancelled"]
    assert [job.crashes for job in rig.jobs] == [1, 0, 0]
    rig.finish()


def test_the_lane_is_looked_at_until_all_have_ended() -> None:
    rig, worker = rig_with(2)
    rig.claim(worker, 2)
    rig.stop(rig.jobs[0])
    rig.stop(rig.jobs[1])
    for _ in range(2):
        rig.begin(worker)
        rig.keep_time()
        assert rig.ventilator.timed, f"nobody looks again in {LOOK_FOR_STOPPING} s"
        rig.run(worker, ["heed"])
    rig.report(worker)
    rig.keep_time()
    assert rig.ventilator.timed == {}
    assert ends(rig) == ["cancelled"] * 2


def test_a_job_that_is_nowhere_cannot_be_stopped() -> None:
    rig, worker = rig_with(1)
    assert rig.ventilator.on_stop(rig.jobs[0]) is rig.books(worker)
    for state in (State.QUEUED, State.DELAYED, State.DONE, State.FAILED, State.CANCELLED):
        rig.jobs[0].state = state
        assert rig.ventilator.on_stop(rig.jobs[0]) is None
