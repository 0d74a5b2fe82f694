"""The ventilator, event by event: what the machine in `test_ventilator_machine` reaches by chance is told here."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from books import KILLED, Rig, tell
from hypothesis import given
from hypothesis import strategies as st

from ztasks.core.lane import RECALL_AFTER, LaneState
from ztasks.core.slices import State
from ztasks.errors import JobTimeout, WireError
from ztasks.wire.certificate import DeathCertificate
from ztasks.wire.loss import Loss
from ztasks.wire.messages import Failure, Results
from ztasks.wire.verdict import Retry


def rig_with(known: float | None = None, **options: object) -> Rig:
    """Make a rig with one task for submitted jobs and two maps; how long they take is `known`."""
    rig = Rig()
    rig.task(**options)
    rig.task("one", map_number=1, **options)
    rig.task("star", map_number=2, **options)
    rig.tasks[0].run_time.seconds = known
    return rig


# --- how work goes out ---


def test_a_task_of_unknown_length_starts_with_one_job() -> None:
    rig = rig_with()
    rig.start()
    rig.submit(rig.tasks[0], 10)
    assert [send.batch.count for send in rig.dispatch()] == [1]


def test_short_jobs_are_shared_among_the_lanes() -> None:
    rig = rig_with(known=1e-6)
    rig.start()
    rig.start()
    rig.submit(rig.tasks[0], 9)
    assert [send.batch.count for send in rig.dispatch()] == [5, 4]


def test_long_jobs_go_out_one_at_a_time_and_the_rest_waits() -> None:
    rig = rig_with(known=60.0)
    rig.start()
    rig.submit(rig.tasks[0], 3)
    assert [send.batch.count for send in rig.dispatch()] == [1]
    assert rig.dispatch() == []
    assert rig.tasks[0].queued == 2


def test_tasks_take_turns() -> None:
    rig = rig_with(known=60.0)
    worker = rig.start()
    rig.submit(rig.tasks[0], 2)
    rig.submit_slice(rig.tasks[1], 2)
    turns = []
    for _ in range(4):
        turns += [send.batch.task.map_number for send in rig.dispatch()]
        rig.work(worker, seconds=60.0)
    assert turns == [0, 1, 0, 1]


def test_the_lane_that_worked_last_comes_first() -> None:
    rig = rig_with(known=60.0)
    first, _second = rig.start(), rig.start()
    rig.submit(rig.tasks[0], 2)
    rig.dispatch()
    rig.work(first, seconds=60.0)
    rig.submit(rig.tasks[0], 1)
    assert [send.lane.number for send in rig.dispatch()] == [first.number]


def test_a_lane_holds_no_more_than_its_bytes() -> None:
    rig = rig_with(known=1e-6)
    worker = rig.start()
    rig.submit(rig.tasks[0], 8, ballast=3 * 1024 * 1024)
    assert [send.batch.count for send in rig.dispatch()] == [5]  # of 16 MiB; `check_send` knows the rule
    rig.work(worker, count=2)
    assert rig.dispatch() == []
    rig.work(worker)
    assert [send.batch.count for send in rig.dispatch()] == [3]


def test_a_slice_is_split_for_a_budget_even_by_one_item() -> None:
    rig = rig_with(known=1e-6)
    worker = rig.start(budget=3)
    rig.submit_slice(rig.tasks[1], 4)
    assert [send.batch.count for send in rig.dispatch()] == [3]
    assert rig.books(worker).state is LaneState.LEAVING
    rig.finish()


def test_a_callable_travels_once_per_lane() -> None:
    rig = rig_with(known=60.0)
    first, second = rig.start(), rig.start()
    ships = []
    for _ in range(2):
        rig.submit(rig.tasks[0], 2)
        ships += [send.ships for send in rig.dispatch()]
        rig.work(first, seconds=60.0)
        rig.work(second, seconds=60.0)
    assert ships == [True, True, False, False]


# --- retries ---


def test_a_retry_waits_for_its_pause_and_no_longer() -> None:
    rig = rig_with(retries=2, backoff=10.0, jitter=0.0)
    worker = rig.start()
    rig.submit(rig.tasks[0])
    for pause in (10.0, 20.0):
        rig.dispatch()
        rig.work(worker, "retry")
        assert rig.ventilator.next_event(rig.now) == pause
        rig.now += pause - 0.001
        assert rig.dispatch() == []
        rig.now += 0.002
    rig.dispatch()
    rig.work(worker, "retry")  # the third failure is the last
    assert rig.records[0, 0].end == "failed"


def test_a_failure_touches_no_other_item_of_its_slice() -> None:
    rig = rig_with(known=1e-6, retries=1)
    worker = rig.start()
    rig.submit_slice(rig.tasks[1], 5)
    rig.dispatch()
    rig.claim(worker, 5)
    rig.run(worker, ["ok", "retry", "fatal", "ok", "ok"])
    rig.report(worker, 2)
    rig.report(worker)
    ends = [rig.records[1, index].end for index in range(5)]
    assert ends == ["done", None, "failed", "done", "done"]
    rig.finish()


@pytest.mark.parametrize(("after", "pause"), [(None, 1.0), (0.0, 0.0), (7.0, 7.0), (500.0, 500.0)])
def test_a_job_that_asks_to_be_run_again_may_say_when(after: float | None, pause: float) -> None:
    """Whatever `backoff` and `max_backoff` say."""
    rig = rig_with(retries=1, backoff=1.0, max_backoff=2.0, retry_on=())
    worker = rig.start()
    rig.submit(rig.tasks[0])
    for end in (None, "failed"):
        rig.dispatch()
        rig.claim(worker, 1)
        rig.run(worker, [Retry(after, "(0, 0)")])
        rig.report(worker)
        assert rig.records[0, 0].end == end, "it counts against `retries`"
        assert end or rig.ventilator.next_event(rig.now) == pause
        rig.now += pause


@pytest.mark.parametrize(
    ("options", "error", "end"),
    [
        ({}, KeyError("(0, 0)"), None),
        ({"retry_on": OSError}, ConnectionError("(0, 0)"), None),
        ({"retry_on": OSError}, ValueError("(0, 0)"), "failed"),
        ({"no_retry_on": OSError}, ConnectionError("(0, 0)"), "failed"),
        ({"retry_on": OSError, "no_retry_on": ConnectionError}, ConnectionError("(0, 0)"), "failed"),
        ({"no_retry_on": JobTimeout}, JobTimeout("(0, 0)"), "failed"),
        ({"retry_on": OSError}, JobTimeout("(0, 0)"), "failed"),
        ({}, JobTimeout("(0, 0)"), None),
        ({}, SystemExit("(0, 0)"), None),
    ],
)
def test_which_failures_are_tried_again(options: dict[str, Any], error: BaseException, end: str | None) -> None:
    rig = rig_with(retries=1, **options)
    worker = rig.start()
    rig.submit(rig.tasks[0])
    rig.dispatch()
    rig.claim(worker, 1)
    rig.run(worker, [error])
    rig.report(worker)
    assert rig.records[0, 0].end == end
    rig.finish()


# --- losses ---


def test_only_the_culprit_is_charged_and_poison_tells_its_history() -> None:
    rig = rig_with(known=1e-6, crash_retries=1)
    culprit, innocent = rig.submit(rig.tasks[0], 2)
    for _ in range(2):
        worker = rig.start()
        rig.dispatch()
        rig.claim(worker, 2)
        rig.die(worker, running=True)
    assert rig.records[0, 0].end == "poison"
    deaths = [death for death in culprit.history if isinstance(death, DeathCertificate)]
    assert [(death.job, death.attempt, death.signal) for death in deaths] == [("0", 1, "SIGKILL"), ("0", 2, "SIGKILL")]
    assert (innocent.state, innocent.attempt) == (State.QUEUED, 1)
    rig.finish()


def test_poison_says_what_was_lost_and_how_often() -> None:
    rig = rig_with(crash_retries=0, name="resize")
    worker = rig.start()
    rig.submit(rig.tasks[0])
    rig.dispatch()
    death = DeathCertificate(pid=7, signal="SIGSEGV", seconds=0.25, peak_memory=2**25)
    (finished,) = rig.ventilator.on_lost(worker.number, 0, death, 0.0)
    failure = finished.failures[0]
    told = "worker 7 was killed by SIGSEGV after running job 0 for 0.25 s with a peak memory of 32 MiB"
    assert failure.message == (
        f"a job of resize was given up after 1 of its workers died while running it (crash_retries=0); the last: {told}"
    )
    assert isinstance(failure, Loss)
    assert failure.history == (f"attempt 1: {told}",)
    assert failure.certificates == (msgspec.structs.replace(death, job="0", attempt=1),)


@pytest.mark.parametrize(
    ("cursor", "charged"), [(None, []), (0, []), (1, []), (2, [2]), (4, [4]), (5, [5]), (6, []), (99, [])]
)
def test_the_cursor_names_the_culprit_unless_its_outcome_has_come(cursor: int | None, charged: list[int]) -> None:
    rig = rig_with(known=1e-6)
    worker = rig.start()
    rig.submit_slice(rig.tasks[2], 6)
    rig.dispatch()
    rig.work(worker, count=2)
    assert rig.ventilator.on_lost(worker.number, cursor, KILLED, rig.now) == []
    crashes = {index: slice_.crashes for slice_ in rig.tasks[2].queue for index in indices(slice_)}
    assert crashes == {index: index in charged for index in range(2, 6)}
    assert list(crashes) == [2, 3, 4, 5], "the order was changed"


def indices(slice_: object) -> range:
    return range(slice_.first, slice_.first + slice_.count)  # type: ignore[attr-defined]


def test_a_job_that_did_not_heed_its_timeout_has_failed_not_crashed() -> None:
    rig = rig_with(retries=1, crash_retries=0, timeout=1.0)
    (job,) = rig.submit(rig.tasks[0])
    for end in (None, "timeout"):
        worker = rig.start()
        rig.now += 100.0
        rig.dispatch()
        rig.claim(worker, 1)
        rig.die(worker, running=True, late=True)
        assert rig.records[0, 0].end == end
    assert (job.failures, job.crashes) == (1, 0)


@pytest.mark.parametrize(
    ("options", "end"),
    [
        ({"retries": 1}, None),
        ({"retries": 1, "no_retry_on": JobTimeout}, "timeout"),
        ({"retries": 1, "retry_on": OSError}, "timeout"),
        ({"retries": 1, "retry_on": JobTimeout}, None),
        ({"crash_retries": 9}, "timeout"),
    ],
)
def test_whether_a_job_that_was_late_is_tried_again_is_for_the_options_to_say(
    options: dict[str, Any], end: str | None
) -> None:
    rig = rig_with(timeout=1.0, **options)
    worker = rig.start()
    rig.submit(rig.tasks[0])
    rig.dispatch()
    rig.claim(worker, 1)
    rig.die(worker, running=True, late=True)
    assert rig.records[0, 0].end == end
    rig.finish()


def test_failures_and_crashes_are_counted_apart() -> None:
    rig = rig_with(retries=1, crash_retries=1, backoff=0.0)
    (job,) = rig.submit(rig.tasks[0])
    for fate in ("die", "retry", "ok"):
        worker = rig.start()
        rig.dispatch()
        rig.claim(worker, 1)
        if fate == "die":
            rig.die(worker, running=True)
        else:
            rig.run(worker, [fate])
            rig.report(worker)
            rig.die(worker)
    assert (rig.records[0, 0].end, job.failures, job.crashes, job.attempt) == ("done", 1, 1, 3)
    crash, failure = job.history
    assert isinstance(crash, DeathCertificate)
    assert failure == "OSError: (0, 0)"


def test_what_a_lost_worker_reported_last_comes_too_late() -> None:
    rig = rig_with()
    worker = rig.start()
    rig.submit(rig.tasks[0])
    rig.dispatch()
    rig.claim(worker, 1)
    rig.run(worker, ["ok"])
    number = worker.number
    rig.die(worker)
    assert rig.ventilator.on_results(report(number, 0, 1), rig.now) is None
    rig.finish()


# --- recalls ---


def recalled_from(rig: Rig, claimed: int, reported: int) -> list[tuple[int, ...]]:
    """Give six items to a worker, which claims and reports some; recall the rest; return how it is queued."""
    worker = rig.start()
    rig.dispatch()
    rig.claim(worker, claimed)
    rig.run(worker, ["ok"] * claimed)
    if reported:
        rig.report(worker, reported)
    rig.recall(worker)
    return [tuple(indices(slice_)) for task in rig.tasks for slice_ in task.queue]


@pytest.mark.parametrize("shape", ["call", "one", "star"])
@pytest.mark.parametrize(("claimed", "reported"), [(c, r) for c in (0, 1, 3, 6) for r in (0, 1, 3, 6) if r <= c])
def test_what_is_recalled_is_what_was_not_claimed_in_its_order(shape: str, claimed: int, reported: int) -> None:
    rig = rig_with(known=1e-6)
    if shape == "call":
        rig.submit(rig.tasks[0], 6)
    else:
        rig.submit_slice(rig.tasks[["call", "one", "star"].index(shape)], 6)
    queued = recalled_from(rig, claimed, reported)
    assert [index for group in queued for index in group] == list(range(claimed, 6))
    assert [rig.books(worker).outstanding for worker in rig.workers.values()] == [claimed - reported]
    rig.finish()  # the same lane goes on, with batches of its new cut


def test_what_is_recalled_comes_before_what_is_queued() -> None:
    rig = rig_with(known=1e-6)
    rig.submit(rig.tasks[0], 4)
    worker = rig.start()
    rig.dispatch()
    rig.submit(rig.tasks[0], 2)
    rig.recall(worker)
    assert [slice_.first for slice_ in rig.tasks[0].queue] == [0, 1, 2, 3, 4, 5]


def test_a_recall_that_finds_nothing_is_a_recall_all_the_same() -> None:
    rig = rig_with(known=1e-6)
    rig.submit(rig.tasks[0], 2)
    worker = rig.start()
    rig.dispatch()
    rig.claim(worker, 2)
    assert rig.recall(worker) == 0
    assert rig.books(worker).cut == 1, "the cell counts each recall, so the next batch would be dropped"
    rig.finish()


def test_what_is_recalled_goes_back_to_the_budget() -> None:
    rig = rig_with(known=1e-6)
    worker = rig.start(budget=5)
    rig.submit(rig.tasks[0], 4)
    rig.dispatch()
    rig.claim(worker, 1)
    rig.recall(worker)
    assert rig.books(worker).budget == 4
    rig.finish()


def test_work_is_recalled_when_it_stands_still_while_another_lane_idles() -> None:
    rig = rig_with(known=1e-6)
    busy = rig.start()
    rig.submit(rig.tasks[0], 4)
    rig.dispatch()
    rig.now = 2 * RECALL_AFTER
    assert rig.ventilator.recallable(rig.now) == [], "nobody idles"
    rig.start()
    assert rig.ventilator.next_event(0.0) == pytest.approx(RECALL_AFTER, rel=1e-3)
    assert rig.ventilator.recallable(0.5 * RECALL_AFTER) == [], "it may still be moving"
    assert rig.ventilator.recallable(rig.now) == [rig.books(busy)]
    rig.submit(rig.tasks[0])
    assert rig.ventilator.recallable(rig.now) == [], "something is queued"


def test_one_job_alone_is_taken_back_too_but_later() -> None:
    """It has mostly begun; but a worker may have been stopped before it claimed it."""
    rig = rig_with()
    stuck, _ = rig.start(), rig.start()
    rig.submit(rig.tasks[0])
    (send,) = rig.dispatch()
    stuck = rig.workers[send.lane.number]
    rig.now = 2 * RECALL_AFTER
    assert rig.ventilator.recallable(rig.now) == []
    rig.now = rig.ventilator.next_event(0.0) or 0.0
    assert rig.now > 2 * RECALL_AFTER
    assert rig.ventilator.recallable(rig.now) == [rig.books(stuck)]
    rig.recall(stuck)
    (send,) = rig.dispatch()
    assert send.lane.number != stuck.number
    rig.finish()


def test_what_is_large_is_given_time_to_arrive() -> None:
    rig = rig_with()
    rig.start()
    rig.start()
    rig.submit(rig.tasks[0])
    (send,) = rig.dispatch()
    lane = rig.ventilator.lanes[send.lane.number]
    before = lane.patience()
    lane.nbytes += 10**9
    assert lane.patience() > before + 1.0


def test_what_is_taken_back_from_lane_after_lane_is_given_more_and_more_time() -> None:
    """It may be under way each time; an outcome shows that work arrives."""
    rig = rig_with()
    rig.start()
    rig.start()
    rig.submit(rig.tasks[0])
    (send,) = rig.dispatch()
    waits = []
    for _ in range(6):
        worker = rig.workers[send.lane.number]
        waits.append(rig.books(worker).patience())
        rig.now += waits[-1] + 1e-6
        assert rig.ventilator.recallable(rig.now) == [rig.books(worker)]
        rig.recall(worker)
        (send,) = rig.dispatch()
    assert waits[4] > 2 * waits[2] - 1e-9 > 4 * waits[0] - 1e-8
    rig.finish()
    assert all(not lane.recalls for lane in rig.ventilator.lanes.values() if lane.received)


# --- what cannot be sent ---


def test_what_cannot_be_sent_has_failed_and_its_lane_goes_on() -> None:
    rig = rig_with()
    worker = rig.start(budget=5)
    rig.submit(rig.tasks[0], 2)
    rig.dispatch(unsendable=0)
    assert [record.end for record in rig.records.values()] == ["unsendable", None]
    lane = rig.books(worker)
    assert (lane.outstanding, lane.nbytes, lane.budget, lane.state) == (0, 0, 5, LaneState.READY)
    (send,) = rig.dispatch()
    assert send.ships, "the callable has not been sent either"
    rig.finish()
    assert rig.records[0, 1].end == "done"


@pytest.mark.parametrize(("unsendable", "lost"), [(0, 0), (1, 1), (2, 2)])
def test_of_several_batches_for_one_lane_only_the_one_that_cannot_be_sent_has_failed(
    unsendable: int, lost: int
) -> None:
    rig = rig_with(known=1e-6)
    worker = rig.start()
    for task in rig.tasks[1:]:
        rig.submit_slice(task, 2)
    rig.submit(rig.tasks[0], 2)
    sends = rig.dispatch(unsendable)
    assert [send.lane.number for send in sends] == [worker.number] * 3
    failed = [item for item, record in rig.records.items() if record.end == "unsendable"]
    assert {number for number, _ in failed} == {sends[lost].batch.task.map_number}
    assert len(failed) == 2
    assert rig.books(worker).outstanding == 2 * unsendable
    rig.finish()
    assert all(record.starts == (item not in failed) for item, record in rig.records.items())


def test_what_could_not_be_sent_behind_it_comes_first_afterwards() -> None:
    rig = rig_with(known=1e-6)
    rig.start()
    for task in rig.tasks[1:]:
        rig.submit_slice(task, 2)
    sends = rig.dispatch(unsendable=0)
    rig.submit(rig.tasks[0])
    again = rig.dispatch()
    assert again[0].batch.task is sends[1].batch.task
    rig.finish()


# --- cancelling ---


def test_whoever_has_the_gate_has_the_job() -> None:
    rig = rig_with()
    rig.start()
    first, second, third = rig.submit(rig.tasks[0], 3)
    assert rig.begin_cancel(first)
    (send,) = rig.dispatch()
    assert send.batch.slices == [second], "the first is its caller's already"
    assert not rig.begin_cancel(second)
    assert not rig.ventilator.on_cancel(second)
    rig.end_cancel(first)
    rig.cancel_waiting()
    assert third.state is State.CANCELLED
    rig.finish()


def test_a_job_can_be_cancelled_between_two_attempts() -> None:
    rig = rig_with(retries=1)
    worker = rig.start()
    (job,) = rig.submit(rig.tasks[0])
    rig.dispatch()
    rig.work(worker, "retry")
    assert rig.begin_cancel(job)
    rig.end_cancel(job)
    rig.now += 1000.0
    assert rig.dispatch() == []


def test_of_several_owners_only_one_is_cancelled() -> None:
    rig = rig_with()
    slice_ = rig.submit_slice(rig.tasks[1], 3)
    rig.submit(rig.tasks[0])
    rig.cancel_waiting(slice_.owner)
    assert [record.end for record in rig.records.values()] == ["cancelled"] * 3 + [None]
    rig.finish()


# --- what does not fit ---


def report(lane: int, position: int, count: int, failures: list[Failure] | None = None) -> Results:
    return Results(lane, position, count, "each", [0] * count, None, failures or [], 0.0, 0.0, None, None, 0, b"")


@pytest.mark.parametrize(("position", "count"), [(0, 1), (2, 1), (1, 5), (2, 4), (6, 1), (-1, 1), (1, 2**40)])
def test_a_report_that_does_not_fit_changes_nothing(position: int, count: int) -> None:
    rig = rig_with(known=1e-6)
    worker = rig.start()
    rig.submit(rig.tasks[0], 5)
    rig.dispatch()
    rig.work(worker, count=1)
    count_ = min(count, 10)
    message = report(worker.number, position, count_)
    message = Results(*(count if name == "count" else getattr(message, name) for name in message.__struct_fields__))
    with pytest.raises(WireError, match="item 1 of 5 is due"):
        rig.ventilator.on_results(message, rig.now)
    rig.finish()


def test_a_report_to_an_empty_lane_does_not_fit() -> None:
    rig = rig_with()
    worker = rig.start()
    with pytest.raises(WireError):
        rig.ventilator.on_results(report(worker.number, 0, 1), 0.0)


def test_a_worker_that_was_told_to_leave_gets_no_more_even_if_it_becomes_ready_now() -> None:
    rig = rig_with()
    worker = rig.start(ready=False)
    rig.leave(worker)
    rig.ready(worker)
    assert rig.books(worker).state is LaneState.LEAVING
    rig.submit(rig.tasks[0])
    assert rig.dispatch() == []
    assert not rig.ventilator.wants_work()
    rig.finish()


@given(st.lists(st.integers(1, 200), min_size=1, max_size=8), st.sampled_from([None, 1e-6, 1e-3]), st.integers(1, 5))
def test_maps_run_to_their_end(counts: list[int], known: float | None, lanes: int) -> None:
    rig = rig_with(known)
    for _ in range(lanes):
        rig.start()
    for place, count in enumerate(counts):
        rig.submit_slice(rig.tasks[1 + place % 2], count)
    rig.finish()
    assert all(record.starts == 1 for record in rig.records.values())


def test_the_fakes_notice_what_is_wrong() -> None:
    rig = rig_with()
    rig.submit(rig.tasks[0])
    rig.ended.append(((0, 0), "done"))
    with pytest.raises(AssertionError):
        rig.start()
    assert tell(0, 1) == (0, 1)
