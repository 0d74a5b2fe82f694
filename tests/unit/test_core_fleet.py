"""The fleet, event by event: what the machine in `test_fleet_machine` reaches by chance is told here."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import pytest
from fleet_rig import KILLED, Copy, FakeForeman, FleetRig, define, offer, spec
from hypothesis import given
from hypothesis import strategies as st

from ztasks.core.fleet import Fleet, TaskSpec, Work
from ztasks.core.fleet_books import SPARE_EXPIRIES, UNRECORDED
from ztasks.core.session_books import SessionBooks
from ztasks.core.slices import State
from ztasks.errors import JobTimeout, PoisonJob, WireError, WorkerLost
from ztasks.wire.link import Died, Holding, Outcome
from ztasks.wire.loss import SHOWN_BYTES, Loss, rebuild_loss
from ztasks.wire.messages import Failure
from ztasks.wire.payload import Items, Pickled, dump, pack, pack_primitives


def started(task: TaskSpec | None = None, jobs: int = 1, **offered: Any) -> tuple[FleetRig, FakeForeman]:
    """A rig with jobs of a task, numbered from 1, that are with a foreman of as many slots."""
    rig = FleetRig()
    foreman = rig.start(offer(slots=max(2, jobs), **offered))
    rig.submit(task or spec(), jobs)
    rig.dispatch()
    foreman.receive()
    return rig, foreman


def states(rig: FleetRig) -> list[str | None]:
    return [record.end for record in rig.records.values()]


def outcome(numbers: int | list[int] = 1, count: int = 1, **changes: Any) -> Outcome:
    values: dict[str, Any] = {
        "session": 1, "numbers": numbers, "count": count, "attempt": 1, "form": "each", "sizes": [1] * count,
        "buffers": None, "failures": [], "withheld": [], "cancelled": [], "started": None, "seconds": None,
        "busy": 0.0, "max_rss": 0, "host": "a", "pid": 1, "payload": b"r" * count,
    }  # fmt: skip
    return Outcome(**(values | changes))


def failure(offset: int = 0, *, retry: bool = True) -> Failure:
    return Failure(offset, "raised", "OSError", "no", "", b"", retry)


# --- results ---


def test_a_job_is_done_when_its_result_comes() -> None:
    rig, foreman = started()
    rig.work(foreman)
    assert states(rig) == ["done"]
    assert rig.fleet.find(1, 1) is None
    assert not rig.fleet.has_session(1)
    assert list(rig.fleet.works()) == []


def test_an_outcome_says_exactly_which_items_have_ended() -> None:
    rig = FleetRig()
    foreman = rig.start(offer(slots=10))
    task = spec(retries=1)
    task.run_time.seconds = 1e-6
    rig.submit_slice(task, 6)
    rig.dispatch()
    settled = rig.fleet.on_outcome(
        foreman.lane,  # type: ignore[arg-type]
        outcome(1, 6, failures=[failure(1), failure(2, retry=False)], withheld=[4], cancelled=[]),
        0.0,
    )
    ended = [(each.work.first, each.work.count, each.state) for each in settled.ended]
    assert ended == [(1, 1, "done"), (3, 1, "failed"), (4, 1, "done"), (6, 1, "done")]
    assert settled.skip == [1, 4]
    assert [(work.first, work.failures, work.history) for work in settled.retried] == [(2, 1, ("OSError: no",))]
    assert rig.fleet.pending == 2


def test_the_items_of_a_slice_end_in_any_order() -> None:
    rig = FleetRig()
    foreman = rig.start(offer(slots=10))
    task = spec()
    task.run_time.seconds = 1e-6
    rig.submit_slice(task, 30)
    rig.dispatch()
    foreman.receive()
    foreman.copies = foreman.copies[20:] + foreman.copies[5:20] + foreman.copies[:5]
    for _ in range(3):
        rig.work(foreman, most=10)
    assert states(rig) == ["done"] * 30


def test_run_times_are_learnt_of_what_has_run() -> None:
    rig, foreman = started(jobs=3)
    task = rig.records[1, 1].spec
    lane = foreman.lane
    assert lane is not None
    rig.fleet.on_outcome(lane, outcome(1, 2, busy=0.5, withheld=[1]), 0.0)
    assert task.run_time.seconds == 0.5
    rig.fleet.on_outcome(lane, outcome(2, busy=0.0), 0.0)
    assert task.run_time.seconds == 0.5, "a foreman that says nothing of it teaches nothing"


def test_a_result_wins_although_the_job_is_queued_again() -> None:
    rig, foreman = started(jobs=2)
    rig.run(foreman, ["ok", "ok"])
    rig.lose(foreman)
    assert rig.fleet.queued == 2
    foreman.copies.clear()
    rig.join(foreman)  # it says that it has the results, so they are its own
    assert rig.fleet.queued == 0
    rig.deliver(foreman)
    assert states(rig) == ["done", "done"]


def test_a_result_wins_although_another_has_the_job_which_is_cancelled_there() -> None:
    rig, foreman = started(jobs=3)
    rig.run(foreman, ["ok"] * 3)
    rig.lose(foreman)
    other = rig.start(offer("b", 5))
    assert [send.lane for send in rig.dispatch()] == [other.lane]
    rig.join(foreman)
    lane = foreman.lane
    assert lane is not None
    foreman.outbox.clear()
    rig.fleet.on_outcome(lane, outcome(1, 3), rig.now)
    assert rig.fleet.to_cancel == [(other.lane, 1, (1, 3))]
    assert rig.fleet.lanes[other.lane].outstanding == 0  # type: ignore[index]


def test_a_result_wins_although_the_job_waits_for_its_retry() -> None:
    rig, foreman = started(spec(retries=1))
    rig.run(foreman, ["ok"])
    rig.lose(foreman)
    other = rig.start(offer("b"))
    rig.dispatch()
    rig.work(other, "retry")
    assert rig.records[1, 1].place == "delayed"
    rig.join(foreman)
    rig.deliver(foreman)
    assert states(rig) == ["done"]
    rig.pass_time(100.0)
    assert rig.dispatch() == []


def test_a_late_failure_does_not_count() -> None:
    rig, foreman = started(spec(retries=5))
    rig.run(foreman, ["fatal"])
    rig.lose(foreman)
    other = rig.start(offer("b"))
    rig.dispatch()
    rig.join(foreman)
    rig.deliver(foreman)
    assert states(rig) == [None]
    rig.work(other)
    assert states(rig) == ["done"]


def test_a_failure_of_an_earlier_attempt_does_not_count() -> None:
    rig, foreman = started(spec(retries=5))
    rig.work(foreman, "retry")
    rig.pass_time(10.0)
    rig.dispatch()
    settled = rig.fleet.on_outcome(foreman.lane, outcome(failures=[failure()], form=None, sizes=None), rig.now)  # type: ignore[arg-type]
    assert settled.ended == []
    assert settled.skip == [0]


@pytest.mark.parametrize(
    "changes",
    [
        {"form": None, "sizes": None},
        {"form": None, "sizes": None, "count": 2, "failures": [failure()]},
        {"failures": [failure()], "withheld": [0]},
        {"failures": [failure()], "cancelled": [0]},
        {"withheld": [0], "cancelled": [0]},
    ],
)
def test_an_outcome_that_cannot_be_is_refused_and_changes_nothing(changes: dict[str, Any]) -> None:
    rig, foreman = started()
    with pytest.raises(WireError):
        rig.fleet.on_outcome(foreman.lane, outcome(**changes), 0.0)  # type: ignore[arg-type]
    rig.pass_time(0.0)  # and all books are right
    assert states(rig) == [None]


def test_a_number_that_is_said_twice_ends_once() -> None:
    rig, foreman = started(jobs=2)
    settled = rig.fleet.on_outcome(foreman.lane, outcome([1, 1, 99, -5], 4), 0.0)  # type: ignore[arg-type]
    assert [each.work.first for each in settled.ended] == [1]
    assert settled.skip == [1, 2, 3]


def test_an_unknown_session_is_skipped() -> None:
    rig, foreman = started()
    settled = rig.fleet.on_outcome(foreman.lane, outcome(1, 3, session=9), 0.0)  # type: ignore[arg-type]
    assert settled.skip == [0, 1, 2]


def test_nothing_is_taken_from_a_lane_before_it_has_said_what_it_holds() -> None:
    rig, foreman = started()
    rig.lose(foreman)
    rig.join(foreman, tell=False)
    lane = foreman.lane
    assert lane is not None
    for report in (
        lambda: rig.fleet.on_outcome(lane, outcome(), 0.0),
        lambda: rig.fleet.on_died(lane, Died(1, 1, 1, False, KILLED), 0.0),
        lambda: rig.fleet.on_returned(lane, 1, [(1, 1)], 0.0),
        lambda: rig.fleet.on_outcome(77, outcome(), 0.0),
    ):
        with pytest.raises(WireError, match="has not said what it holds"):
            report()
    assert rig.dispatch() == []


# --- failures ---


def test_retries_wait_longer_each_time_and_then_it_fails() -> None:
    rig, foreman = started(spec(retries=2, backoff=3.0))
    for pause in (3.0, 6.0):
        rig.work(foreman, "retry")
        assert rig.fleet.next_event(rig.now) == pause
        assert rig.fleet.why(1, 1, rig.now).startswith(f"waits {pause:.3g} s for its retry (attempt ")
        rig.pass_time(pause - 0.01)
        assert rig.dispatch() == []
        rig.pass_time(0.02)
        assert len(rig.dispatch()) == 1
    rig.work(foreman, "retry")
    assert states(rig) == ["failed"]


def test_a_job_may_say_itself_when_it_wants_to_be_run_again() -> None:
    rig, foreman = started(spec(retries=1))
    rig.work(foreman, "after")
    assert rig.fleet.next_event(rig.now) == 7.0


def test_one_item_of_a_slice_is_tried_again_alone() -> None:
    rig = FleetRig()
    foreman = rig.start(offer(slots=9))
    rig.submit_slice(spec(retries=1), 9)
    rig.dispatch()
    rig.run(foreman, ["ok", "ok", "retry", "ok"])
    rig.deliver(foreman)
    rig.pass_time(2.0)
    (send,) = rig.dispatch()
    assert [(work.first, work.count, work.attempt, work.whole) for work in send.works] == [(3, 1, 2, True)]


def test_a_job_that_is_to_be_stopped_is_not_tried_again() -> None:
    rig, foreman = started(spec(retries=3))
    rig.begin(foreman, foreman.copies[0])
    rig.cancel(1, [(1, 1)], running=True)
    rig.run(foreman, ["retry"])
    rig.deliver(foreman)
    assert states(rig) == ["failed"]


# --- deaths ---


def die(rig: FleetRig, foreman: FakeForeman, *, late: bool = False) -> None:
    """The worker of the first job dies."""
    foreman.receive()
    rig.begin(foreman, foreman.copies[0])
    foreman.tell_death(foreman.copies[0], late=late)
    rig.deliver(foreman)


def test_a_job_is_given_up_after_it_has_taken_down_too_many_workers() -> None:
    rig = FleetRig()
    foreman = rig.start()
    task = spec("resize", crash_retries=1, retries=1)
    payload = pickle.dumps(((7,), {}))
    rig.fleet.on_submit([Work(5, 1, 1, task, payload)], 0.0)
    ended = []
    for _ in range(3):
        rig.fleet.dispatch(100.0)
        work = rig.fleet.find(5, 1)
        assert work is not None
        if not work.failures:
            failed = outcome(session=5, failures=[failure()], form=None, sizes=None)
            rig.fleet.on_outcome(foreman.lane, failed, 0.0)  # type: ignore[arg-type]
            continue
        settled = rig.fleet.on_died(foreman.lane, Died(5, 1, work.attempt, False, KILLED), 100.0)  # type: ignore[arg-type]
        ended += settled.ended
    ((work, state, loss),) = ended
    assert (work.session, work.first, state) == (5, 1, "failed")
    assert isinstance(loss, Loss)
    assert (loss.what, loss.name, loss.payload) == ("poison", "resize", payload)
    assert [certificate.job for certificate in loss.certificates] == ["0000000000000005-1"] * 2
    assert [certificate.attempt for certificate in loss.certificates] == [2, 3]
    assert loss.history[0] == "attempt 1: OSError: no"
    error = rebuild_loss(msgspec.msgpack.decode(msgspec.msgpack.encode(loss), type=Loss))
    assert isinstance(error, PoisonJob)
    assert "resize(7)" in str(error)


def test_innocent_jobs_of_the_same_batch_are_not_charged() -> None:
    rig, foreman = started(spec(crash_retries=0), jobs=3)
    die(rig, foreman)
    assert states(rig) == ["poison", None, None]
    rig.work(foreman)
    assert states(rig) == ["poison", "done", "done"]


def test_a_job_that_must_not_run_twice_is_lost_with_its_worker() -> None:
    rig, foreman = started(spec(at_most_once=True))
    die(rig, foreman)
    assert states(rig) == ["lost"]


@pytest.mark.parametrize(("retried", "end"), [(True, None), (False, "timeout")])
def test_a_job_that_had_to_be_killed_has_failed(retried: bool, end: str | None) -> None:
    rig, foreman = started(spec(retries=1, crash_retries=0, timeout=2.0, retries_timeouts=retried))
    die(rig, foreman, late=True)
    assert states(rig) == [end]
    if retried:
        rig.pass_time(2.0)
        rig.dispatch()
        die(rig, foreman, late=True)
        assert states(rig) == ["timeout"]


def test_what_is_said_of_a_late_job_becomes_a_timeout() -> None:
    rig, foreman = started(spec(timeout=2.0))
    settled = rig.fleet.on_died(foreman.lane, Died(1, 1, 1, True, KILLED), 0.0)  # type: ignore[arg-type]
    loss = settled.ended[0].failure
    assert isinstance(loss, Loss)
    assert isinstance(rebuild_loss(loss), JobTimeout)


def test_a_death_that_is_not_of_the_current_attempt_charges_nobody() -> None:
    rig, foreman = started()
    for died in (Died(1, 1, 2, False, KILLED), Died(1, 9, 1, False, KILLED), Died(9, 1, 1, False, KILLED)):
        assert rig.fleet.on_died(foreman.lane, died, 0.0) == ([], [], [])  # type: ignore[arg-type]
    assert rig.fleet.find(1, 1).crashes == 0  # type: ignore[union-attr]


# --- losing hosts ---


def test_losing_a_host_charges_nobody_and_keeps_the_order() -> None:
    rig, foreman = started(spec(crash_retries=0), jobs=4)
    rig.submit(spec(), 2)
    rig.lose(foreman)
    other = rig.start(offer("b", 4))
    sends = rig.dispatch()
    assert {send.lane for send in sends} == {other.lane}
    mine = [work.first for send in sends for work in send.works if work.first <= 4]
    assert mine == [1, 2, 3, 4]
    assert sends[0].works[0].first == 1, "what was lost does not go to the end of the queue"
    rig.work(other)
    assert states(rig)[:4] == ["done"] * 4


def test_parts_of_a_slice_come_back_in_order() -> None:
    rig = FleetRig()
    foreman = rig.start(offer(slots=9))
    task = spec()
    task.run_time.seconds = 1e-3
    rig.submit_slice(task, 9)
    rig.dispatch()
    foreman.receive()
    foreman.copies = foreman.copies[3:5] + foreman.copies[7:8] + foreman.copies[:3] + foreman.copies[5:7]
    rig.work(foreman, most=3)
    rig.lose(foreman)
    rig.start(offer("b", 9))
    assert [(work.first, work.count) for send in rig.dispatch() for work in send.works] == [(1, 3), (6, 2), (9, 1)]


def test_a_job_that_must_not_run_twice_is_lost_with_its_host() -> None:
    rig = FleetRig()
    foreman = rig.start(offer("w1"))
    rig.fleet.on_submit([Work(1, 1, 1, spec("pay", at_most_once=True), pickle.dumps(((), {})))], 0.0)
    rig.fleet.dispatch(0.0)
    ((work, state, loss),) = rig.fleet.on_lost(foreman.lane, 0.0, "no sign of life for 10 s")  # type: ignore[arg-type]
    assert (work.first, state) == (1, "failed")
    assert isinstance(loss, Loss)
    error = rebuild_loss(loss)
    assert isinstance(error, WorkerLost)
    for word in ("pay", "w1", "w1.example", "no sign of life for 10 s", "at_most_once"):
        assert word in str(error)
    assert rig.fleet.pending == 0


def test_losing_a_lane_that_is_not_there_is_nothing() -> None:
    assert Fleet(lambda: 0.5).on_lost(3, 0.0, "gone") == []


# --- coming back ---


def test_a_foreman_that_is_back_keeps_what_nobody_else_has() -> None:
    rig, foreman = started(jobs=5)
    for copy in foreman.copies[:2]:
        rig.begin(foreman, copy)
    rig.lose(foreman)
    foreman.copies = foreman.copies[:3]
    rig.join(foreman)
    assert rig.fleet.queued == 2
    lane = rig.fleet.lanes[foreman.lane]  # type: ignore[index]
    assert lane.outstanding == 3
    rig.start(offer("b"))
    assert sum(len(send.works) for send in rig.dispatch()) == 2
    assert [record.starts for record in rig.records.values()][:2] == [1, 1]


def test_a_part_of_a_queued_slice_can_be_with_a_foreman() -> None:
    rig = FleetRig()
    rig.submit_slice(spec(), 10)
    foreman = FakeForeman(offer())
    rig.foremen.append(foreman)
    foreman.copies = [Copy((1, number), 1) for number in (3, 4, 5, 8)]
    rig.join(foreman)
    parts = [(work.first, work.count, work.state) for work in rig.fleet._sessions[1].works()]
    queued, mine = State.QUEUED, State.ASSIGNED
    singles = [(3, 1, mine), (4, 1, mine), (5, 1, mine)]
    assert parts == [(1, 2, queued), *singles, (6, 2, queued), (8, 1, mine), (9, 2, queued)]
    assert [work.first for work in rig.fleet._sessions[1].book(rig.fleet.find(1, 1)).queue if work.state is queued] == [  # type: ignore[arg-type]
        1, 6, 9,
    ]  # fmt: skip


def test_a_range_of_a_holding_may_have_gaps() -> None:
    rig = FleetRig()
    foreman = rig.start()
    rig.submit(spec(), 3)
    rig.cancel(1, [(2, 1)], running=False)
    rig.lose(foreman)
    rig.join(foreman, tell=False)
    lane = foreman.lane
    assert lane is not None
    drop = rig.fleet.on_held(lane, [Holding(1, 1, 6, 1), Holding(7, 4, 2, 1)], 0.0)
    assert drop == [(1, (2, 1)), (1, (4, 3)), (7, (4, 2))]
    assert rig.fleet.lanes[lane].outstanding == 2


def test_what_a_later_attempt_has_overtaken_is_dropped() -> None:
    rig, foreman = started(spec(crash_retries=5))
    rig.lose(foreman)
    other = rig.start(offer("b"))
    rig.dispatch()
    die(rig, other)
    rig.kill(other)
    rig.join(foreman)
    assert foreman.inbox
    assert rig.fleet.queued == 1


def test_an_outdated_copy_does_not_stand_for_one_that_never_arrived() -> None:
    rig, foreman = started(spec(crash_retries=5))
    rig.begin(foreman, foreman.copies[0])
    rig.lose(foreman)
    other = rig.start(offer("b"))
    rig.dispatch()
    die(rig, other)
    rig.kill(other)
    rig.join(foreman)
    assert [send.lane for send in rig.dispatch()] == [foreman.lane]  # a second copy, of attempt 2
    rig.join(foreman, follows=True)  # which did not arrive
    assert rig.fleet.queued == 1


def test_a_job_that_waits_for_its_retry_is_adopted_if_that_is_what_the_foreman_holds() -> None:
    rig, foreman = started(spec(retries=2))
    rig.work(foreman, "retry")
    rig.lose(foreman)
    rig.join(foreman, tell=False)
    assert rig.fleet.on_held(foreman.lane, [Holding(1, 1, 1, 2)], 0.0) == []  # type: ignore[arg-type]
    assert rig.fleet.counts() == {"queued": 0, "assigned": 1, "delayed": 0}
    rig.now += 100.0
    assert rig.fleet.dispatch(rig.now) == []


def test_attempts_that_a_restarted_head_does_not_know_of_are_counted() -> None:
    rig = FleetRig()
    rig.submit(spec(retries=3))
    foreman = FakeForeman(offer())
    rig.foremen.append(foreman)
    rig.join(foreman, tell=False)
    assert rig.fleet.on_held(foreman.lane, [Holding(1, 1, 1, 3)], 0.0) == []  # type: ignore[arg-type]
    work = rig.fleet.find(1, 1)
    assert work is not None
    assert (work.attempt, work.failures, work.history) == (3, 2, (UNRECORDED,) * 2)


def test_holdings_are_said_once() -> None:
    rig = FleetRig()
    foreman = rig.start()
    with pytest.raises(WireError, match="said so before"):
        rig.fleet.on_held(foreman.lane, [], 0.0)  # type: ignore[arg-type]
    with pytest.raises(WireError):
        rig.fleet.on_held(99, [], 0.0)


@pytest.mark.parametrize("holding", [Holding(1, 0, 1, 1), Holding(1, 1, 0, 1)])
def test_a_holding_that_cannot_be_is_refused(holding: Holding) -> None:
    rig = FleetRig()
    foreman = rig.start()
    rig.lose(foreman)
    rig.join(foreman, tell=False)
    with pytest.raises(WireError):
        rig.fleet.on_held(foreman.lane, [holding], 0.0)  # type: ignore[arg-type]
    assert not rig.fleet.lanes[foreman.lane].told  # type: ignore[index]


def test_a_lane_that_follows_another_keeps_its_work_meanwhile() -> None:
    """A job that must not run twice survives that, too."""
    rig, foreman = started(spec(at_most_once=True))
    rig.start(offer("b"))
    rig.join(foreman, follows=True, tell=False)
    assert rig.dispatch() == []
    assert "joining anew" in rig.fleet.why(1, 1, 0.0)
    rig.tell_held(foreman)
    rig.work(foreman)
    assert states(rig) == ["done"]


def test_what_never_arrived_before_a_lane_was_followed_is_queued_again() -> None:
    rig = FleetRig()
    foreman = rig.start()
    rig.submit(spec(at_most_once=True), 2)
    rig.dispatch()
    rig.join(foreman, follows=True)
    assert rig.fleet.queued == 2
    rig.finish()
    assert states(rig) == ["done", "done"]


def test_what_was_to_be_cancelled_and_never_arrived_ends_as_cancelled() -> None:
    rig = FleetRig()
    foreman = rig.start()
    rig.submit(spec())
    rig.dispatch()
    rig.cancel(1, [(1, 1)], running=True)
    rig.join(foreman, follows=True)
    assert states(rig) == ["cancelled"]


# --- coming back unbegun ---


def test_what_has_not_begun_comes_back_free_of_charge_and_first() -> None:
    task = spec()
    rig, foreman = started(task, jobs=4)
    rig.submit(task, 1)
    foreman.give_back(foreman.copies[2:])
    rig.deliver(foreman)
    assert [work.attempt for number in (3, 4) if (work := rig.fleet.find(1, number))] == [1, 1]
    rig.start(offer("b"))
    assert [work.first for send in rig.dispatch() for work in send.works][:2] == [3, 4]


def test_what_comes_back_and_was_to_be_cancelled_has_ended() -> None:
    rig, foreman = started(jobs=2)
    rig.cancel(1, [(1, 2)], running=True)
    rig.fleet.on_returned(foreman.lane, 1, [(1, 2)], 0.0)  # type: ignore[arg-type]
    assert rig.fleet.next_event(0.0) == 0.0
    assert {(each.work.first, each.state) for each in rig.fleet.expire(0.0)} == {(1, "cancelled"), (2, "cancelled")}
    assert rig.fleet.expire(0.0) == []


def test_only_the_lane_that_holds_it_can_give_it_back() -> None:
    rig, _ = started(jobs=2)
    other = rig.start(offer("b"))
    rig.fleet.on_returned(other.lane, 1, [(1, 5)], 0.0)  # type: ignore[arg-type]
    assert rig.fleet.queued == 0
    with pytest.raises(WireError):
        rig.fleet.on_returned(other.lane, 1, [(0, 5)], 0.0)  # type: ignore[arg-type]


def test_a_copy_that_was_dropped_takes_nothing_from_the_job() -> None:
    """The head has cancelled an earlier copy; then the same lane got the job again, and says that it is cancelled."""
    rig, foreman = started()
    rig.fleet.on_outcome(foreman.lane, outcome(form=None, sizes=None, cancelled=[0]), 0.0)  # type: ignore[arg-type]
    assert rig.fleet.queued == rig.fleet.pending == 1


# --- cancelling ---


def test_what_waits_is_cancelled_at_once_and_what_is_assigned_only_if_that_is_wanted() -> None:
    rig, foreman = started(spec(), jobs=2)
    rig.submit(spec(), 2)
    rig.cancel(1, [(1, 4)], running=False)
    assert states(rig) == [None, None, "cancelled", "cancelled"]
    rig.cancel(1, [(1, 4)], running=True)
    foreman.receive()
    rig.deliver(foreman)
    assert states(rig) == ["cancelled"] * 4


def test_a_running_job_that_does_not_heed_it_gives_its_result() -> None:
    rig, foreman = started()
    rig.begin(foreman, foreman.copies[0])
    rig.cancel(1, [(1, 1)], running=True)
    rig.work(foreman)
    assert states(rig) == ["done"]


@pytest.mark.parametrize("how", ["lose", "die"])
def test_a_job_that_is_to_be_stopped_and_comes_back_ends_as_cancelled(how: str) -> None:
    rig, foreman = started(spec(at_most_once=True))
    rig.cancel(1, [(1, 1)], running=True)
    foreman.inbox.clear()
    if how == "lose":
        rig.lose(foreman)
    else:
        die(rig, foreman)
    assert states(rig) == ["cancelled"]


def test_a_part_of_a_queued_slice_is_cancelled_and_the_others_keep_their_place() -> None:
    rig = FleetRig()
    task = spec()
    rig.submit_slice(task, 10)
    rig.submit_slice(task, 4)
    rig.cancel(1, [(4, 3)], running=False)
    rig.start(offer(slots=20))
    parts = [(send.works[0].first, send.works[0].count) for send in rig.dispatch()]
    assert parts == [(1, 3), (7, 4), (11, 4)]


def test_a_slice_travels_by_itself() -> None:
    rig = FleetRig()
    task = spec()
    works = [Work(1, 1, 1, task, b"a"), Work(1, 2, 2, task, items("each", 2), whole=True), Work(1, 4, 1, task, b"b")]
    rig.start(offer(slots=20))
    rig.fleet.on_submit(works, 0.0)
    assert [[work.first for work in send.works] for send in rig.fleet.dispatch(0.0)] == [[1], [2], [4]]


def test_ranges_may_be_huge_or_wrong() -> None:
    rig, _ = started(jobs=3)
    assert rig.fleet.on_cancel(1, [(2**62, 2**62)], True, 0.0) == ([], [])
    assert rig.fleet.on_cancel(99, [(1, 5)], True, 0.0) == ([], [])
    for wrong in ((0, 1), (1, 0), (-3, 9)):
        with pytest.raises(WireError):
            rig.fleet.on_cancel(1, [wrong], True, 0.0)
    assert rig.fleet.on_cancel(1, [(1, 2**70)], True, 0.0) == ([], [(0, 1, (1, 3))])


def test_a_session_is_forgotten_but_for_what_is_to_be_kept() -> None:
    rig, _ = started(jobs=2)
    rig.submit_slice(spec(), 4)
    rig.forget(1, keep=[1, 4])
    assert states(rig) == [None, None, "cancelled", None, "cancelled", "cancelled"]
    assert [record.stopping for record in rig.records.values()][:2] == [False, True]
    rig.forget(1)
    rig.forget(77)


# --- expiring ---


def test_what_has_not_begun_in_time_is_given_up() -> None:
    rig = FleetRig()
    task = spec("late", expires=5.0)
    rig.submit(task, 2)
    rig.submit_slice(task, 3)
    rig.pass_time(4.9)
    assert rig.fleet.next_event(rig.now) == pytest.approx(0.1)
    rig.submit(task)
    rig.pass_time(0.2)
    assert states(rig) == ["expired"] * 5 + [None]


def test_an_expiry_says_so() -> None:
    fleet = Fleet(lambda: 0.5)
    fleet.on_submit([Work(1, 1, 1, spec("late", expires=5.0), b"")], 0.0)
    ((_, state, told),) = fleet.expire(5.0)
    assert state == "expired"
    assert told is not None
    assert told.type_name == "JobExpired"
    assert "late had not begun 5.0 s after it was accepted" in told.message


def test_what_has_begun_does_not_expire() -> None:
    rig, foreman = started(spec(expires=5.0, retries=1, backoff=1.0), jobs=3)
    rig.pass_time(6.0)
    rig.run(foreman, ["retry"])
    rig.deliver(foreman)
    rig.lose(foreman)
    rig.pass_time(6.0)
    rig.dispatch()
    assert states(rig) == [None] * 3


def test_what_may_have_begun_on_a_host_that_was_lost_does_not_expire() -> None:
    rig = FleetRig()
    rig.submit(spec("stuck", expires=4.0, queue="gpu"))
    foreman = rig.start()
    rig.submit(spec(expires=5.0))
    rig.dispatch()
    rig.lose(foreman)
    rig.pass_time(6.0)
    assert states(rig) == ["expired", None]


def test_what_comes_back_unbegun_and_too_late_has_expired() -> None:
    rig, foreman = started(spec(expires=5.0))
    rig.pass_time(6.0)
    foreman.give_back(foreman.waiting())
    rig.deliver(foreman)
    assert states(rig) == ["expired"]


def test_jobs_that_have_ended_are_not_kept_until_they_would_have_expired() -> None:
    fleet, task = Fleet(lambda: 0.5), spec(expires=1e6)
    fleet.on_join(0, offer(slots=100), 0.0)
    fleet.on_held(0, [], 0.0)
    for start in range(1, 3 * SPARE_EXPIRIES, 100):
        fleet.on_submit([Work(1, number, 1, task, b"") for number in range(start, start + 100)], 0.0)
        fleet.dispatch(0.0)
        fleet.on_outcome(0, outcome(start, 100), 0.0)
    assert fleet.pending == 0
    assert len(fleet._expiring) <= SPARE_EXPIRIES + 100


# --- works and their parts ---

PAYLOADS = st.sampled_from(["list", "each", "buffers"])


def items(kind: str, count: int) -> Items:
    if kind == "list":
        packed = pack_primitives(list(range(count)))
        assert packed is not None
        return packed
    if kind == "each":
        return pack([dump(number) for number in range(count)])
    return pack([Pickled(pickle.dumps(number), [bytearray(number)]) for number in range(count)])


@given(kind=PAYLOADS, count=st.integers(1, 40), cuts=st.lists(st.integers(1, 39), max_size=6), look=st.booleans())
def test_parts_have_their_own_items_and_their_share_of_the_bytes(
    kind: str, count: int, cuts: list[int], look: bool
) -> None:
    whole = Work(1, 11, count, spec(), items(kind, count), whole=True, index=50, map_number=2, shape="one")
    nbytes = whole.nbytes
    parts = [whole]
    for cut in cuts:
        at = next((part for part in parts if part.first - 11 < cut < part.end - 11), None)
        if at is not None:
            parts.append(at.cut(cut - at.first + 11))
            assert not look or at.payload
    parts.sort(key=lambda part: part.first)
    assert sum(part.nbytes for part in parts) == nbytes
    assert [number for part in parts for number in range(part.first, part.end)] == list(range(11, 11 + count))
    for part in parts:
        assert part.index - 50 == part.first - 11
        payload = part.payload
        assert isinstance(payload, Items)
        if kind != "buffers":
            assert list(payload.values()) == list(range(part.first - 11, part.end - 11))
        else:
            assert [len(buffer) for buffer in payload.buffers] == list(range(part.first - 11, part.end - 11))


@given(
    jobs=st.sets(st.integers(1, 40)),
    slices=st.lists(st.integers(1, 9), max_size=5),
    cuts=st.lists(st.integers(41, 90), max_size=6),
    gone=st.sets(st.integers(1, 90)),
    first=st.integers(1, 95),
    count=st.integers(1, 100) | st.just(2**70),
)
def test_items_are_found_by_their_numbers(
    jobs: set[int], slices: list[int], cuts: list[int], gone: set[int], first: int, count: int
) -> None:
    books, task, start = SessionBooks(1), spec(), 41
    for number in jobs:
        books.add(Work(1, number, 1, task, b""))
    for size in slices:
        books.add(Work(1, start, size, task, items("list", size), whole=True))
        start += size
    for at in cuts:
        work = books.find(at)
        if work is not None and work.first < at:
            books.cut(work, at - work.first)
    for number in gone:
        work = books.find(number)
        if work is not None and work.first == number:
            books.remove(work)
    left = {number: work for work in books.works() for number in range(work.first, work.end)}
    for number in range(100):
        assert books.find(number) is left.get(number)
    wanted = sorted(
        {id(work): work for number, work in left.items() if first <= number < first + count}.values(), key=id
    )
    found = books.within(first, count)
    assert sorted(found, key=id) == wanted
    assert [work.first for work in found] == sorted(work.first for work in found)
    assert books.empty == (not left)


@pytest.mark.parametrize("whole", [True, False])
def test_a_number_that_is_there_already_is_a_defect(whole: bool) -> None:
    fleet = Fleet(lambda: 0.5)
    work = Work(1, 1, 1, spec(), items("list", 1) if whole else b"", whole=whole)
    fleet.on_submit([work], 0.0)
    with pytest.raises(AssertionError, match="there already"):
        fleet.on_submit([work], 0.0)


def test_work_cannot_come_back_from_its_end() -> None:
    work = Work(1, 1, 1, spec(), b"")
    work.move(State.DONE)
    with pytest.raises(AssertionError, match="from DONE to QUEUED"):
        work.move(State.QUEUED)


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b"abc", b"abc"),
        (Pickled(b"abc", []), b"abc"),
        (Pickled(b"abc", [bytearray(9)]), b""),
        (b"x" * (SHOWN_BYTES + 1), b""),
        (pack([Pickled(b"abc", []), Pickled(b"de", [])]), b"abc"),
        (pack([Pickled(b"abc", [bytearray(9)]), Pickled(b"de", [])]), b""),
        (pack_primitives([1, 2]), b""),
    ],
)
def test_a_loss_carries_no_more_than_can_be_sent(payload: Any, shown: bytes) -> None:
    rig = FleetRig()
    foreman = rig.start()
    whole = isinstance(payload, Items)
    task = spec(crash_retries=0)
    rig.fleet.on_submit([Work(1, 1, 2 if whole else 1, task, payload, whole=whole, shape="one")], 0.0)
    rig.fleet.dispatch(0.0)
    settled = rig.fleet.on_died(foreman.lane, Died(1, 1, 1, False, KILLED), 0.0)  # type: ignore[arg-type]
    loss = settled.ended[0].failure
    assert isinstance(loss, Loss)
    assert (loss.payload, loss.shape) == (shown, "one")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(loss), type=Loss) == loss


def test_restored_work_goes_on_with_its_history() -> None:
    rig = FleetRig()
    rig.start()
    work = Work(1, 4, 1, spec(retries=5), b"", failures=2, crashes=1, history=("a", "b", KILLED), accepted_at=-5.0)
    rig.fleet.on_submit([work], 0.0)
    (send,) = rig.fleet.dispatch(0.0)
    assert [(each.first, each.attempt) for each in send.works] == [(4, 4)]


# --- for people ---


def test_why_a_job_waits_or_where_it_is() -> None:
    rig = FleetRig()
    task = spec()
    task.run_time.seconds = 60.0
    rig.submit(task, 5)
    assert rig.fleet.why(1, 1, 3.0) == "queued for 3 s: no worker has joined"
    assert "it has ended, or was never accepted" in rig.fleet.why(1, 6, 3.0)
    rig.start(offer("a", 2))
    assert "about to be sent" in rig.fleet.why(1, 1, 0.0)
    rig.now = 10.0
    rig.dispatch()
    assert rig.fleet.why(1, 1, 13.0) == "running on a on host a.example since 3 s (attempt 1)"
    rig.submit(spec("other"), 4, session=2)
    rig.submit(spec("urgent", priority=1), 1)
    assert rig.fleet.why(1, 5, 13.0) == (
        "queued for 13 s: behind 2 jobs of its own task, in turn with 4 others, 1 of higher priority; "
        "all workers that may take it are busy (a)"
    )
    rig.cancel(1, [(2, 1)], running=True)
    assert rig.fleet.why(1, 2, 13.0).endswith("; it is being cancelled")


def test_why_says_if_a_job_may_not_have_begun() -> None:
    rig = FleetRig()
    foreman = rig.start(offer("a", 1))
    task = spec(retries=1)
    task.run_time.seconds = 1e-3
    rig.submit(task, 3)
    rig.dispatch()
    told = rig.fleet.why(1, 3, 0.0)
    assert told.startswith(
        "waiting or running on a on host a.example since 0 s (attempt 1); a on host a.example holds 3 "
    )
    rig.work(foreman, "retry", most=1)
    rig.pass_time(5.0)
    assert rig.fleet.why(1, 1, 5.0) == "waits 0 s for its retry (attempt 2)"


def test_counts_by_state_and_queue() -> None:
    rig, foreman = started(spec(retries=1), jobs=3)
    rig.submit(spec("other", queue="video"), 4)
    rig.work(foreman, "retry", most=1)
    assert rig.fleet.counts() == {"queued": 4, "assigned": 2, "delayed": 1}
    assert rig.fleet.queues() == {
        "default": {"queued": 0, "assigned": 2, "delayed": 1},
        "video": {"queued": 4, "assigned": 0, "delayed": 0},
    }


def test_items_are_stuck_that_no_worker_can_ever_take() -> None:
    rig = FleetRig()
    rig.submit(spec(), 3)
    rig.submit(spec("other", queue="video"), 4)
    assert rig.fleet.stuck_items() == 7, "there is nobody"
    rig.start(offer("a", 1))
    assert rig.fleet.stuck_items() == 4
    rig.start(offer("b", 1, queues=frozenset({"video"})))
    assert rig.fleet.stuck_items() == 0


def test_credit_and_wishes_of_unknown_lanes_are_nothing() -> None:
    fleet = Fleet(lambda: 0.5)
    fleet.on_credit(3, 5)
    fleet.on_wanted(3, "drain")
    assert fleet.lanes == {}


def test_a_callable_and_its_definition_are_kept_as_they_came() -> None:
    made = TaskSpec(define("resize", priority=4, expires=9.0), b"pickled")
    assert (made.key, made.name, made.callable) == (b"resize", "resize", b"pickled")
    assert (made.priority, made.expires, made.define) == (4, 9.0, define("resize", priority=4, expires=9.0))
