"""The head's books: what clients are told, what is written to the journal, and when each of them is acknowledged."""

from __future__ import annotations

from typing import Any

import pytest
from head_rig import FakeClient, FakeForeman, Rig, read_outcome

from ztasks.errors import WireError
from ztasks.io.answers import Answers
from ztasks.io.books import SESSION_SECONDS
from ztasks.io.journal_ops import Accepted, Begun, Charged, Defined, Ended, Fetched, Forgot, Noted, Revived, Unneeded
from ztasks.wire.link import Ask, Cancel, Held, Holding, Leaving, Outcome, Resume, Returned, Submit
from ztasks.wire.link_codec import encode
from ztasks.wire.payload import dump


def kinds(rig: Rig, *skip: type) -> list[str]:
    """Return the kinds of operations in the journal."""
    return [type(each).__name__ for each in rig.journal.operations if not isinstance(each, (Noted, *skip))]


def fleet(*, journal: bool = True) -> tuple[Rig, FakeClient, FakeForeman, Any]:
    rig = Rig(journal=journal)
    client, foreman = rig.client(), rig.foreman()
    return rig, client, foreman, rig.define()


def with_two_outcomes_in_the_journal_only() -> tuple[Rig, FakeClient]:
    """Return a head with the outcomes of two jobs, whose client has been gone for long."""
    rig, client, foreman, task = fleet()
    client.submit(task, 2)
    rig.settle_all()
    client.lose()
    foreman.work(["ok"] * 2)
    rig.settle_all()
    rig.now += SESSION_SECONDS + 1
    rig.turn()
    return rig, client


class Service:
    """What Answers need of a service."""

    def __init__(self, rig: Rig) -> None:
        self.books, self.journal, self.started = rig.head.books, rig.head.journal, 0.0
        self.roster = type("Roster", (), {"epoch": 1})
        self.end = type("End", (), {"wanted": None})
        self.gatekeeper = type("Gatekeeper", (), {"refused": {}})
        self.stopped: list[str] = []
        self.stop = self.stopped.append


def ask(rig: Rig, client: FakeClient, what: str, **arguments: Any) -> Any:
    """Ask, and return what was answered: value, error and frames; None if there is no answer yet."""
    answers = Answers(Service(rig))  # type: ignore[arg-type]
    number = client.questions = client.questions + 1
    assert client.peer is not None
    answers.answer(client.peer, Ask(number, what, arguments), rig.now)
    while answers.reviving.busy or answers.reviving._done:
        answers.reviving.go_on(rig.now)
        if rig.head.journal is not None:
            rig.head.journal.settle()
            rig.head.ledger.durable = rig.head.journal.durable
    rig.check()
    client.read()
    if number not in client.answers:
        return None
    answer, frames = client.answers[number]
    return answer.value, answer.error, frames


# --- the usual way ---


@pytest.mark.parametrize("journal", [True, False])
def test_a_job_is_run_and_told(journal: bool) -> None:
    rig, client, foreman, task = fleet(journal=journal)
    numbers = client.submit(task, 3) + client.submit(task, 4, whole=True)
    rig.settle_all()
    assert client.accepted == 7
    rig.finish()
    assert client.ends == dict.fromkeys(numbers, "done")
    assert (client.repeated, foreman.outbox) == (0, [])
    rig.check_empty()
    if journal:
        assert kinds(rig, Defined)[:3] == ["Accepted", "Accepted", "Ended"]
        assert rig.journal.load().kept == []


def test_nothing_runs_and_nothing_is_said_before_it_is_durable() -> None:
    rig, client, foreman, task = fleet()
    client.submit(task)
    rig.turn(settle=False)
    client.read()
    foreman.read()
    assert (client.accepted, foreman.copies) == (0, [])
    rig.turn()
    foreman.work(["ok"])
    client.read()
    assert (client.accepted, client.ends) == (1, {1: "done"})
    assert len(foreman.outbox) == 1  # its outcome is not durable
    rig.turn(settle=False)
    assert len(foreman.outbox) == 1
    rig.turn()
    assert foreman.outbox == []


def test_without_durability_nothing_waits_for_the_journal() -> None:
    rig, client, foreman, task = fleet()
    client.submit(task, durable=False)
    rig.turn(settle=False)
    foreman.work(["ok"])
    client.read()
    assert (client.accepted, client.ends, foreman.outbox) == (1, {1: "done"}, [])
    assert kinds(rig) == []
    rig.check_empty()


def test_what_is_accepted_behind_durable_work_is_told_when_that_is_durable() -> None:
    """One number stands for all up to it."""
    rig, client, _, task = fleet()
    client.submit(task)
    client.submit(task, durable=False)
    rig.turn(settle=False)
    client.read()
    assert client.accepted == 0
    rig.turn()
    client.read()
    assert client.accepted == 2


def test_jobs_that_ended_together_but_were_accepted_apart_are_written_down_apart() -> None:
    """The journal has an outcome for items of one accepted slice only."""
    rig, client, foreman, task = fleet()
    for count in (1, 2, 1):
        client.submit(task, count)
    rig.settle_all()
    foreman.work(["ok"] * 4)
    ended = [(each.first, each.count) for each in rig.journal.operations if isinstance(each, Ended)]
    assert ended == [(1, 1), (2, 2), (4, 1)]
    rig.journal.settle()
    rig.restart()
    assert rig.head.books.fleet.pending == 0
    client.join()
    rig.settle_all()
    assert client.ends == dict.fromkeys(range(1, 5), "done")
    rig.check_empty()


def test_a_failure_that_is_retried_is_charged_before_it_is_acknowledged() -> None:
    rig, client, foreman, _ = fleet()
    client.submit(rig.define("again", retries=1, backoff=0.0))
    rig.settle_all()
    foreman.work(["retry"])
    assert kinds(rig, Defined) == ["Accepted", "Charged"]
    assert len(foreman.outbox) == 1
    rig.settle_all()
    assert foreman.outbox == []
    foreman.work(["retry"])
    rig.settle_all()
    assert client.ends == {1: "failed"}
    assert rig.begun[1, 1] == 2
    rig.check_empty()


def test_a_death_is_charged_and_told_at_the_end() -> None:
    rig, client, foreman, _ = fleet()
    client.submit(rig.define("deadly", crash_retries=1))
    for _ in range(2):
        rig.settle_all()
        foreman.die(foreman.copies[0])
    rig.settle_all()
    assert client.ends == {1: "failed"}
    assert kinds(rig, Defined) == ["Accepted", "Charged", "Ended", "Fetched"]


def test_the_history_that_is_written_with_each_charge_is_bounded() -> None:
    rig, client, foreman, _ = fleet()
    client.submit(rig.define("again", retries=100, backoff=0.0))
    for _ in range(60):
        rig.settle_all()
        foreman.work(["retry"])
    sizes = [len(each.history) for each in rig.journal.operations if isinstance(each, Charged)]
    assert len(sizes) == 60
    assert sizes[-1] == sizes[40]


# --- clients that come back ---


def test_an_outcome_that_was_not_acknowledged_is_told_again_and_counts_once() -> None:
    rig, client, foreman, task = fleet()
    client.submit(task, 2)
    rig.settle_all()
    foreman.work(["ok", "ok"])
    rig.turn()  # told, but the client is gone before it reads
    client.join()
    rig.settle_all()
    assert client.ends == {1: "done", 2: "done"}
    client.join()
    rig.settle_all()
    assert client.repeated == 0
    assert isinstance(rig.journal.operations[-1], Fetched)
    rig.check_empty()


def test_what_the_client_has_had_is_not_told_again() -> None:
    """Its acknowledgement was lost; that it does not wait any more says as much."""
    rig, client, foreman, task = fleet()
    client.submit(task)
    rig.settle_all()
    foreman.work(["ok"])
    rig.turn()
    client.ends[1] = "done"
    client.join()
    client.read()
    assert client.repeated == 0
    assert rig.head.books._weight.nbytes == 0


def test_work_that_is_submitted_again_is_accepted_once() -> None:
    rig, client, _, task = fleet()
    client.submit(task, 2)
    client.submit(task, 3, whole=True)
    client.join()  # it has not heard of anything
    rig.settle_all()
    assert client.accepted == 5
    rig.finish()
    assert set(rig.begun.values()) == {1}
    assert len([each for each in rig.journal.operations if isinstance(each, Accepted)]) == 2


def test_a_refusal_that_was_not_heard_is_said_again_before_anything_is_said_to_be_accepted() -> None:
    rig, client, _, task = fleet()
    rig.journal.refusing = "its disk is full"
    client.submit(task)
    rig.journal.refusing = None
    client.submit(task)
    rig.turn()
    client.join()
    assert client.peer is not None
    rig.settle_all()
    assert client.ends == {1: "full"}
    assert client.accepted == 2
    assert client.open() == [2]


def test_what_was_refused_is_known_to_be_lost_when_the_head_has_restarted() -> None:
    """The refusal stands in no journal; what came behind it does."""
    rig, client, foreman, task = fleet()
    rig.journal.refusing = "its disk is full"
    client.submit(task, sent=True)
    rig.journal.refusing = None
    client.submit(task, sent=True)
    rig.journal.settle()
    rig.restart()
    client.join()
    foreman.join()
    rig.settle_all()
    assert client.ends == {1: "unknown"}
    assert client.accepted == 2


def test_a_client_that_was_away_learns_of_all_kinds_of_ends() -> None:
    rig, client, foreman, task = fleet()
    client.submit(task, 4)
    client.submit(task, 3, whole=True)
    rig.settle_all()
    client.lose()
    foreman.work(["ok", "fatal"])
    rig.settle_all()
    foreman.work(["cancelled"])  # by mistake: it goes on
    rig.finish()
    client.join()
    rig.settle_all()
    assert client.ends == {1: "done", 2: "failed", **dict.fromkeys(range(3, 8), "done")}
    assert client.repeated == 0
    rig.check_empty()


@pytest.mark.parametrize("journal", [True, False])
def test_the_jobs_of_a_client_that_does_not_come_back(journal: bool) -> None:
    """With a journal they go on, and only the journal keeps what becomes of them; else they are cancelled."""
    rig, client, foreman, task = fleet(journal=journal)
    client.submit(task, 3)
    rig.settle_all()
    client.lose()
    rig.now += SESSION_SECONDS + 1
    rig.turn()
    foreman.read()
    assert len(foreman.copies) == (3 if journal else 0)
    if journal:
        rig.finish()
        assert rig.head.books._weight.nbytes > 0
        rig.now += SESSION_SECONDS + 1
        rig.turn()
        assert rig.head.books._weight.nbytes == 0
        client.join()
        rig.settle_all()
        assert client.ends == {1: "done", 2: "done", 3: "done"}
        client.leave(cancel=False)
    assert rig.head.books.sessions == {}
    assert rig.head.forgotten == [1]
    rig.check_empty()


def test_outcomes_that_the_journal_has_dropped_are_lost() -> None:
    rig, client = with_two_outcomes_in_the_journal_only()
    rig.head.books.forget_outcomes([(1, 1, 1)])
    client.join()
    rig.settle_all()
    rig.now += 1
    assert client.ends == {1: "done", 2: "done"}  # it was asked for in the journal, which has it here


def test_a_client_that_wants_it_so_is_given_up_when_it_is_gone_but_not_when_it_comes_anew() -> None:
    rig, client, foreman, task = fleet()
    client.submit(task, 3)
    rig.settle_all()
    client.say(Resume([(1, 3)], 3, cancel_on_exit=True))
    client.join()
    client.say(Resume([(1, 3)], 3, cancel_on_exit=True))
    rig.settle_all()
    assert not any(copy.unwanted for copy in foreman.copies)
    foreman.begin(foreman.copies[0])
    client.lose()
    rig.settle_all()
    assert not any(copy.unwanted for copy in foreman.copies)  # it may have been stopped, or cut off, and come back
    rig.now += SESSION_SECONDS + 1
    rig.turn()
    foreman.read()
    assert [copy.unwanted for copy in foreman.copies] == [True]
    assert isinstance(rig.journal.operations[-1], Forgot)
    foreman.end([(foreman.copies[0], "cancelled")])
    rig.settle_all()
    rig.check_empty()
    assert rig.head.books.sessions == {}


def test_nothing_is_kept_for_a_client_that_has_left() -> None:
    rig, client, foreman, task = fleet(journal=False)
    client.submit(task, 3)
    rig.settle_all()
    foreman.begin(foreman.copies[0])
    client.leave(cancel=True)
    foreman.end([(foreman.copies[0], "ok")])  # too late to be stopped
    foreman.read()
    rig.settle_all()
    assert rig.head.books.sessions == {}
    assert rig.head.books.history.totals == {"done": 1, "failed": 0, "cancelled": 2, "expired": 0}
    rig.check_empty()


def test_a_client_may_leave_its_jobs_to_the_journal() -> None:
    rig, client, foreman, task = fleet()
    client.submit(task, 2)
    rig.settle_all()
    client.leave(cancel=False)
    foreman.work(["ok", "fatal"])
    rig.settle_all()
    rig.check_empty()
    assert rig.head.books.sessions == {}
    other = rig.client(2)
    value, error, frames = ask(rig, other, "result", id=f"{1:016x}-1")
    assert (value, error) == ({"state": "done"}, "")
    assert frames


def test_work_that_is_not_durable_yet_is_cancelled_with_its_client() -> None:
    rig, client, foreman, task = fleet()
    client.submit(task, 3)
    kept = client.submit(task, 1, sent=True)
    client.leave(cancel=True)
    rig.settle_all()
    foreman.read()
    assert [copy.item for copy in foreman.copies] == [(1, kept[0])]
    foreman.work(["ok"])
    rig.settle_all()
    rig.check_empty()


def test_a_slow_client_costs_no_more_than_what_is_kept_for_it() -> None:
    """It is told when there is room: the link is not filled with what it does not read."""
    rig, client, foreman, task = fleet()
    numbers = client.submit(task, 2000)
    rig.settle_all()
    client.link.said.append([b"x" * (9 << 20)])  # the link is full
    while foreman.copies or rig.head.books.fleet.queued:
        foreman.work(["ok"] * 2000)
        rig.turn()
        foreman.read()
    assert client.link.said[-1][0].startswith(b"x")
    client._read = client.link.acknowledged_there = len(client.link.said)
    rig.settle_all()
    assert client.ends == dict.fromkeys(numbers, "done")
    rig.check_empty()


# --- cancelling ---


def test_cancelling_reaches_work_wherever_it_is() -> None:
    rig, client, foreman, task = fleet()
    client.submit(task, 40, whole=True)
    rig.settle_all()
    foreman.begin(foreman.copies[0])
    client.submit(task, 3)  # not durable yet
    client.say(Cancel(1, [(1, 41), (43, 1)], running=True))
    rig.check()
    foreman.read()
    foreman.work(["cancelled"])
    rig.settle_all()
    assert client.ends == {**dict.fromkeys(range(1, 42), "cancelled"), 43: "cancelled"}
    foreman.work(["ok"])
    rig.settle_all()
    assert client.ends[42] == "done"
    rig.check_empty()


def test_many_ends_are_told_together() -> None:
    rig, client, _, task = fleet(journal=False)
    rig.foremen[0].lose()
    client.submit(task, 5000)
    client.submit(task, 5000, whole=True)
    client.read()
    before = len(client.link.said)
    client.say(Cancel(1, [(1, 10_000)], running=False))
    assert len(client.link.said) == before + 2
    client.read()
    assert set(client.ends.values()) == {"cancelled"}
    rig.check_empty()


def test_ranges_that_overlap_or_are_endless_are_no_matter() -> None:
    rig, client, _, task = fleet(journal=False)
    rig.foremen[0].lose()
    client.submit(task, 10)
    client.say(Cancel(1, [(3, 1 << 61), (1, 5), (2, 1 << 40)] * 100, running=True))
    client.read()
    assert set(client.ends.values()) == {"cancelled"}
    rig.check_empty()


def test_what_expires_is_told() -> None:
    rig, client, foreman, _ = fleet()
    foreman.lose()
    client.submit(rig.define("urgent", expires=2.0), 2)
    rig.settle_all()
    rig.now += 3
    rig.settle_all()
    assert client.ends == {1: "expired", 2: "expired"}
    assert [each.state for each in rig.journal.operations if isinstance(each, Ended)] == ["expired"]
    assert rig.head.books.history.totals["expired"] == 2


# --- foremen that come back, and heads ---


def test_an_outcome_that_a_foreman_tells_again_counts_once() -> None:
    rig, client, foreman, task = fleet()
    client.submit(task, 2)
    rig.settle_all()
    foreman.work(["ok", "ok"])
    foreman.join(follows=True)
    assert len(foreman.outbox) == 1
    rig.settle_all()
    assert (client.ends, client.repeated, foreman.outbox) == ({1: "done", 2: "done"}, 0, [])
    assert len([each for each in rig.journal.operations if isinstance(each, Ended)]) == 1


def test_a_head_that_is_killed_loses_nothing_and_repeats_nothing() -> None:
    rig, client, foreman, task = fleet()
    done, running, queued, lost = client.submit(task, 4)
    rig.settle_all()
    foreman.read()
    mine = {copy.item[1]: copy for copy in foreman.copies}
    foreman.end([(mine[done], "ok")])
    rig.settle_all()
    foreman.begin(mine[running])
    foreman.end([(mine[queued], "ok")])  # told, and not durable
    client.submit(task)
    rig.restart()
    client.join()
    foreman.join()
    rig.settle_all()
    assert client.ends == {1: "done", 3: "done"}
    foreman.work(["ok"] * 3)
    rig.settle_all()
    assert client.ends == dict.fromkeys(range(1, 6), "done")
    assert set(rig.begun.values()) == {1}
    assert lost in client.ends
    rig.check_empty()


def test_a_head_that_starts_anew_waits_for_the_foremen_that_were_there() -> None:
    """They may run what it has queued."""
    rig, client, foreman, task = fleet()
    other = rig.foreman("b")
    client.submit(task, 1)
    rig.settle_all()
    at_work, idle = (foreman, other) if foreman.copies else (other, foreman)
    at_work.begin(at_work.copies[0])
    rig.restart()
    assert rig.head.foremen.awaited == {"a", "b"}
    idle.join()
    rig.settle_all()
    assert idle.copies == []
    at_work.join()
    rig.settle_all()
    at_work.work(["ok"])
    client.join()
    rig.settle_all()
    assert (client.ends, rig.begun[1, 1]) == ({1: "done"}, 1)


def test_it_does_not_wait_for_ever() -> None:
    rig, client, foreman, task = fleet()
    client.submit(task, 1)
    rig.settle_all()
    foreman.die_itself()
    rig.foremen.clear()
    rig.restart()
    other = rig.foreman("b")
    rig.settle_all()
    assert other.copies == []
    rig.now += 6
    rig.settle_all()
    other.work(["ok"])
    client.join()
    rig.settle_all()
    assert client.ends == {1: "done"}
    rig.head.foremen.await_no_more()
    assert rig.head.logged == ["these workers have not come back: a"]


def test_with_nothing_queued_it_waits_for_nobody() -> None:
    rig = fleet()[0]
    rig.settle_all()
    rig.restart()
    assert rig.head.foremen.awaited == set()


# --- at most once ---


def once(rig: Rig) -> Any:
    return rig.define("once", at_most_once=True)


def test_it_is_durable_that_a_job_begins_before_it_is_sent() -> None:
    rig, client, foreman, _ = fleet()
    client.submit(once(rig))
    rig.turn()
    foreman.read()
    assert kinds(rig, Defined) == ["Accepted", "Begun"]
    assert foreman.copies == []
    rig.turn()
    foreman.work(["ok"])
    rig.settle_all()
    assert client.ends == {1: "done"}
    rig.check_empty()


def test_a_job_that_comes_back_has_not_begun() -> None:
    rig, client, foreman, _ = fleet()
    client.submit(once(rig))
    rig.settle_all()
    foreman.read()
    foreman.give_back()
    assert rig.journal.operations[-1] == Begun(1, 1, begun=False)
    foreman.die_itself()
    rig.journal.settle()
    rig.restart()
    client.join()
    assert rig.head.books.doubtful == {}
    foreman.join()
    rig.settle_all()
    foreman.work(["ok"])
    rig.settle_all()
    assert client.ends == {1: "done"}


def test_a_job_that_never_arrived_has_not_begun() -> None:
    rig, client, foreman, _ = fleet()
    client.submit(once(rig))
    rig.turn()
    rig.turn()  # it is sent, and the connection breaks
    foreman.join(follows=True)
    begun = [each.begun for each in rig.journal.operations if isinstance(each, Begun)]
    assert begun == [True, False]
    rig.settle_all()
    foreman.work(["ok"])
    rig.settle_all()
    assert client.ends == {1: "done"}
    rig.check_empty()


@pytest.mark.parametrize("how", ["lost", "cancelled"])
def test_a_job_that_was_not_sent_yet_has_not_begun(how: str) -> None:
    rig, client, foreman, _ = fleet()
    client.submit(once(rig))
    rig.turn()
    if how == "lost":
        foreman.lose()
        foreman.join()
        assert [each.begun for each in rig.journal.operations if isinstance(each, Begun)] == [True, False]
        rig.settle_all()
        foreman.work(["ok"])
    else:
        client.say(Cancel(1, [(1, 1)], running=True))
    rig.settle_all()
    foreman.work(["ok"])
    rig.settle_all()
    assert client.ends == {1: "done" if how == "lost" else "cancelled"}
    assert rig.begun[1, 1] == (how == "lost")
    rig.check_empty()


def test_a_doubtful_job_is_its_foremans_again() -> None:
    rig, client, foreman, _ = fleet()
    client.submit(once(rig))
    rig.settle_all()
    foreman.begin(foreman.copies[0])
    rig.restart()
    client.join()
    rig.settle_all()
    assert list(rig.head.books.doubtful) == [(1, 1)]
    assert ask(rig, client, "job", id=f"{1:016x}-1")[0]["state"] == "running"
    assert "worker has not come back yet" in ask(rig, client, "why", id=f"{1:016x}-1")[0]
    foreman.join()
    rig.settle_all()
    assert rig.head.books.doubtful == {}
    foreman.work(["ok"])
    rig.settle_all()
    assert (client.ends, rig.begun[1, 1]) == ({1: "done"}, 1)
    rig.check_empty()


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_doubtful_job_whose_foreman_does_not_come_back_is_lost(cancelled: bool) -> None:
    rig, client, foreman, _ = fleet()
    client.submit(once(rig))
    rig.settle_all()
    foreman.begin(foreman.copies[0])
    foreman.die_itself()
    rig.restart()
    client.join()
    if cancelled:
        client.say(Cancel(1, [(1, 1)], running=True))
    rig.settle_all()
    assert client.ends == {}
    foreman.join()  # another process of that name: nobody else is awaited
    rig.settle_all()
    assert client.ends == {1: "cancelled" if cancelled else "failed"}
    assert rig.begun[1, 1] == 1
    rig.check_empty()


def test_a_doubtful_job_that_was_cancelled_is_stopped_when_it_is_found() -> None:
    rig, client, foreman, _ = fleet()
    client.submit(once(rig))
    rig.settle_all()
    foreman.begin(foreman.copies[0])
    rig.restart()
    client.join()
    client.say(Cancel(1, [(1, 1)], running=True))
    foreman.join()
    foreman.read()
    assert foreman.copies[0].unwanted
    foreman.work(["cancelled"])
    rig.settle_all()
    assert client.ends == {1: "cancelled"}
    rig.check_empty()


def test_a_job_that_was_stopped_for_an_earlier_head_is_not_run_twice() -> None:
    """That had given it up, and was killed before this was durable."""
    rig, client, foreman, _ = fleet()
    client.submit(once(rig))
    rig.settle_all()
    foreman.begin(foreman.copies[0])
    foreman.join()  # its lane was lost: the job has failed, and is stopped there
    foreman.read()
    assert foreman.copies[0].unwanted
    foreman.end([(foreman.copies[0], "cancelled")])
    rig.restart()
    client.join()
    foreman.join()
    rig.settle_all()
    rig.finish()
    assert (client.ends, rig.begun[1, 1]) == ({1: "failed"}, 1)
    rig.check_empty()


# --- detached jobs, and those that others ask for ---


def test_a_detached_job_is_told_to_who_asks() -> None:
    rig, client, foreman, task = fleet()
    first, second = client.submit(task, 2, sent=True)
    others = [rig.client(2), rig.client(3)]
    rig.settle_all()
    for other in others:
        assert ask(rig, other, "result", id=f"{1:016x}-{first}", wait=True) is None
    for what in ("result", "forget"):
        assert ask(rig, others[0], what, id=f"{1:016x}-{second}")[1] == "job 0000000000000001-2 has not ended"
    foreman.work(["ok", "fatal"])
    rig.settle_all()
    for other in others:
        answer, frames = other.answers[1]
        assert answer.value == {"state": "done"}
        assert frames
    assert ask(rig, client, "result", id=f"{1:016x}-{second}")[0] == {"state": "failed"}
    assert client.ends == {}
    rig.restart()
    client.join()
    assert ask(rig, client, "result", id=f"{1:016x}-{first}")[0] == {"state": "done"}
    assert ask(rig, client, "result", id=f"{1:016x}-{second}")[0] == {"state": "failed"}
    assert ask(rig, client, "forget", id=f"{1:016x}-{first}")[:2] == (None, "")
    assert ask(rig, client, "forget", id=f"{9:016x}-{first}")[0] == {"code": "not-found"}
    rig.settle_all()
    assert ask(rig, client, "result", id=f"{1:016x}-{first}")[0] == {"code": "not-found"}
    rig.check_empty()


def test_whoever_waits_for_anothers_job_does_not_take_it_away() -> None:
    rig, client, foreman, task = fleet()
    client.submit(task, 3)
    other = rig.client(2)
    rig.settle_all()
    assert ask(rig, other, "result", id=f"{1:016x}-2", wait=True) is None
    assert ask(rig, other, "result", id=f"{1:016x}-3", wait=True) is None
    foreman.work(["ok", "ok"])
    client.say(Cancel(1, [(3, 1)], running=True))
    rig.settle_all()
    foreman.work(["cancelled"])
    rig.settle_all()
    assert client.ends == {1: "done", 2: "done", 3: "cancelled"}
    assert [answer.value["state"] for answer, _ in other.answers.values()] == ["done", "cancelled"]
    rig.check_empty()


@pytest.mark.parametrize("end", ["cancelled", "failed", "expired", "forgotten"])
def test_who_waits_learns_of_every_end(end: str) -> None:
    rig, client, foreman, task = fleet()
    if end == "expired":
        foreman.lose()
    client.submit(rig.define("urgent", expires=2.0) if end == "expired" else task, sent=end != "forgotten")
    other = rig.client(2)
    rig.settle_all()
    assert ask(rig, other, "result", id=f"{1:016x}-1", wait=True) is None
    if end == "expired":
        rig.now += 3
    elif end == "forgotten":
        foreman.give_back()
        client.leave(cancel=True)
    elif end == "failed":
        foreman.work(["fatal"])
    else:
        assert ask(rig, other, "cancel", ids=[f"{1:016x}-1"], running=True)[0] == 1
    rig.settle_all()
    foreman.work(["cancelled"])
    rig.settle_all()
    ((answer, frames),) = [each for each in other.answers.values() if isinstance(each[0].value, dict)]
    assert answer.value == {"state": "cancelled" if end == "forgotten" else end}
    ((_, how, _),) = read_outcome(encode_outcome(frames[0]), None)
    assert how == answer.value["state"]
    rig.check_empty()


def encode_outcome(frame: bytes) -> Outcome:
    import msgspec

    return msgspec.msgpack.decode(frame, type=Outcome)


def test_whoever_waits_and_goes_leaves_nothing() -> None:
    rig, client, foreman, task = fleet()
    client.submit(task, 1, sent=True)
    other = rig.client(2)
    rig.settle_all()
    ask(rig, other, "result", id=f"{1:016x}-1", wait=True)
    other.lose()
    assert rig.head.books.telling._asked == {}
    foreman.work(["ok"])
    rig.settle_all()
    rig.check_empty()


# --- running jobs again ---


def test_a_failed_job_is_run_again_once() -> None:
    rig, client, foreman, task = fleet()
    client.submit(task, 2)
    rig.settle_all()
    foreman.work(["fatal", "ok"])
    rig.settle_all()
    ids = [f"{1:016x}-1", f"{1:016x}-2"]
    assert ask(rig, client, "retry", ids=ids)[0] == 1  # the other was done
    assert ask(rig, client, "retry", ids=ids)[0] == 0  # it is at it
    rig.settle_all()
    assert isinstance(rig.journal.operations[-1], Noted | Revived)
    foreman.work(["ok"])
    rig.settle_all()
    assert client.ends == {1: "failed", 2: "done"}
    assert client.repeated == 0
    assert ask(rig, client, "result", id=ids[0])[0] == {"state": "done"}
    assert ask(rig, client, "retry", ids=ids)[0] == 0
    rig.check_empty()


def test_all_failed_jobs_are_run_again_also_those_of_before_a_restart() -> None:
    rig, client, foreman, task = fleet()
    client.submit(task, 3)
    client.submit(task, 3, whole=True)
    rig.finish("fatal")
    rig.restart()
    client.join()
    foreman.join()
    assert ask(rig, client, "retry", failed=True)[0] == 6
    assert ask(rig, client, "retry", failed=True)[0] == 0
    rig.finish()
    assert [rig.head.books.results.get(1, number).state for number in range(1, 7)] == ["done"] * 6  # type: ignore[union-attr]
    rig.check_empty()
    rig.restart()
    client.join()
    assert ask(rig, client, "result", id=f"{1:016x}-5")[0] == {"state": "done"}


def test_a_job_that_is_run_again_while_its_client_is_away_is_told_to_it() -> None:
    rig, client, foreman, task = fleet()
    client.submit(task)
    rig.settle_all()
    client.lose()
    foreman.work(["fatal"])
    rig.settle_all()
    other = rig.client(2)
    assert ask(rig, other, "retry", ids=[f"{1:016x}-1"])[0] == 1
    rig.settle_all()
    client.join()
    rig.settle_all()
    assert client.ends == {}
    foreman.work(["ok"])
    rig.settle_all()
    assert client.ends == {1: "done"}
    rig.check_empty()


def test_a_job_that_was_run_again_and_has_ended_is_told_to_a_client_that_comes_back() -> None:
    rig, client, foreman, task = fleet(journal=False)
    client.submit(task)
    rig.settle_all()
    client.lose()
    foreman.work(["fatal"])
    rig.settle_all()
    other = rig.client(2)
    assert ask(rig, other, "retry", ids=[f"{1:016x}-1"])[0] == 1
    rig.settle_all()
    foreman.work(["ok"])
    rig.settle_all()
    client.join()
    rig.settle_all()
    assert client.ends == {1: "done"}
    rig.check_empty()


def test_a_job_that_was_cancelled_before_it_was_durable_that_it_runs_again_stays_cancelled() -> None:
    """The journal believes that it has failed."""
    rig, client, foreman, task = fleet()
    client.submit(task)
    rig.settle_all()
    foreman.work(["fatal"])
    rig.settle_all()
    ids = [f"{1:016x}-1"]
    answers = Answers(Service(rig))  # type: ignore[arg-type]
    assert client.peer is not None
    for what in ("retry", "cancel", "retry", "retry"):
        client.questions += 1
        answers.answer(client.peer, Ask(client.questions, what, {"ids": ids}), rig.now)
        answers.reviving.go_on(rig.now)
        rig.check()
    rig.settle_all()
    answers.reviving.go_on(rig.now)
    client.read()
    assert [answer.value for answer, _ in client.answers.values()] == [1, 1, 0, 0]
    assert ask(rig, client, "job", id=ids[0])[0]["state"] == "cancelled"
    rig.check_empty()


# --- tasks ---


def test_a_task_that_nobody_needs_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ztasks.io.specs.IDLE", 2)
    rig, client, foreman, _ = fleet()
    tasks = [rig.define(f"task{number}") for number in range(5)]
    for task in tasks:
        client.submit(task)
    rig.settle_all()
    assert len(rig.head.books.specs) == 5
    rig.finish()
    assert len(rig.head.books.specs) == 2
    assert [each.key for each in rig.journal.operations if isinstance(each, Unneeded)] == [b"task0", b"task1", b"task2"]
    client.submit(tasks[0])  # defined again, also in the journal
    rig.settle_all()
    rig.restart()
    client.join()
    foreman.join()
    rig.settle_all()
    foreman.work(["ok"])
    rig.settle_all()
    assert client.ends == dict.fromkeys(range(1, 7), "done")


def test_all_tasks_are_found_again_that_a_journal_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ztasks.io.specs.IDLE", 2)
    rig, client, foreman, _ = fleet()
    foreman.lose()
    for number in range(6):
        client.submit(rig.define(f"task{number}"))
    rig.settle_all()
    rig.restart()
    assert len(rig.head.books.specs) == 6
    rig.check()


def test_a_task_cannot_be_defined_in_anothers_place() -> None:
    _, client, _, task = fleet()
    client.submit(task)
    with pytest.raises(WireError, match="under the key of another one"):
        client.say(task, b"another callable")


# --- limits ---


def test_what_there_is_no_room_for_is_refused() -> None:
    rig = Rig(most_bytes=1500)
    client, task = rig.client(), rig.define()
    numbers = client.submit(task, 60) + client.submit(task, 60)
    client.submit(task)
    client.read()
    assert client.ends == {121: "full"}
    client.submit(task, 1000)
    client.read()
    assert client.ends[122] == "invalid"
    assert client.accepted == 0
    client.say(Cancel(1, [(1, 2000)], running=False))
    client.read()
    client.submit(task)
    rig.settle_all()
    assert client.open() == [1122]
    assert all(client.ends[number] == "cancelled" for number in numbers)


# --- what cannot be ---


HUGE = (1 << 64) - 1


def submit(first: int = 1, count: int = 1, **changes: Any) -> Submit:
    values: dict[str, Any] = {
        "key": b"task", "first": first, "count": count, "whole": False, "index": 0, "map_number": 0, "shape": "one",
        "form": "each", "skip": 0, "sizes": [1] * count, "buffers": None, "detail": False, "durable": True,
        "sent": False, "payload": b"x" * count,
    }  # fmt: skip
    return Submit(**(values | changes))


@pytest.mark.parametrize(
    "message",
    [
        submit(first=HUGE - 2, count=2),
        submit(first=1 << 62),
        submit(whole=True, map_number=HUGE),
        submit(whole=True, map_number=1, index=HUGE),
        submit(whole=True, map_number=1, form="list", skip=HUGE, sizes=None),
        submit(first=0),
        submit(first=-5),
        Resume([(1, HUGE)], 5),
        Resume([(HUGE, 1)], 5),
        Resume([], HUGE),
        Resume([], -1),
        Resume([(0, 1)], 5),
        Cancel(1, [(-1, 4)], running=True),
        Cancel(1, [(1, 0)], running=True),
    ],
)
def test_odd_words_of_a_client_change_nothing(message: Any) -> None:
    rig, client, foreman, task = fleet()
    client.submit(task)
    with pytest.raises(WireError):
        client.say(message)
    rig.settle_all()
    foreman.work(["ok"])
    rig.settle_all()
    assert client.ends == {1: "done"}
    rig.check_empty()


def test_a_submit_that_is_half_known_is_refused() -> None:
    _, client, _, task = fleet()
    client.submit(task, 2)
    with pytest.raises(WireError, match="had been there before"):
        client.say(submit(first=2, count=2))


RESULT = dump(("result", (1, 1))).data


def outcome(**changes: Any) -> Outcome:
    values: dict[str, Any] = {
        "session": 1, "numbers": 1, "count": 1, "attempt": 1, "form": "each", "sizes": [len(RESULT)], "buffers": None,
        "failures": [], "withheld": [], "cancelled": [], "started": None, "seconds": None, "busy": 0.0, "max_rss": 0,
        "host": "a", "pid": 1, "payload": RESULT,
    }  # fmt: skip
    return Outcome(**(values | changes))


@pytest.mark.parametrize(
    "message",
    [
        outcome(busy=float("nan")),
        outcome(busy=float("inf")),
        outcome(form="list", sizes=None, skip=HUGE),
        outcome(withheld=[0], cancelled=[0]),
        outcome(withheld=[7]),
        Returned(1, [(0, 5)]),
        Returned(1, [(5, -5)]),
        Held([], []),
        Submit,
        b"\x91\xa4" + b"what",
        b"\x91" * 100_000,
        b"",
    ],
)
def test_odd_words_of_a_foreman_change_nothing(message: Any) -> None:
    rig, client, foreman, task = fleet()
    client.submit(task)
    rig.settle_all()
    frames = [message if isinstance(message, bytes) else encode(submit() if message is Submit else message)]
    assert foreman.peer is not None
    with pytest.raises(WireError):
        rig.head.foremen.on_content(foreman.peer, frames, 99, rig.now)
    rig.settle_all()
    foreman.work(["ok"])
    rig.settle_all()
    assert client.ends == {1: "done"}
    rig.check_empty()


@pytest.mark.parametrize(
    "message",
    [
        outcome(session=7),
        outcome(session=HUGE, numbers=HUGE),
        outcome(numbers=[-3], attempt=[HUGE]),
        outcome(numbers=[1, 1], count=2, sizes=[len(RESULT), 0], attempt=99, cancelled=[1]),
        outcome(form=None, sizes=None, payload=None, cancelled=[0]),
        Returned(1, [(1, HUGE), (HUGE, HUGE)]),
        Returned(HUGE, [(1, 1)]),
    ],
)
def test_what_a_foreman_says_of_jobs_that_it_does_not_hold_is_of_no_harm(message: Any) -> None:
    rig, client, foreman, task = fleet()
    other = rig.foreman("b")
    client.submit(task)
    rig.settle_all()
    holder, stranger = (foreman, other) if foreman.copies else (other, foreman)
    assert stranger.peer is not None
    rig.head.foremen.on_content(stranger.peer, [encode(message)], 99, rig.now)
    rig.settle_all()
    holder.work(["ok"])
    rig.settle_all()
    assert list(client.ends) == [1]
    rig.check_empty()


def test_a_loss_that_a_foreman_makes_up_is_refused() -> None:
    from ztasks.wire.loss import Loss

    rig, client, foreman, task = fleet()
    client.submit(task)
    rig.settle_all()
    deep: Any = None
    for _ in range(200):
        deep = [deep]
    loss = Loss(0, "lost", "WorkerLost", "", "", b"", False, what="lost", name="x", shape="one", payload=deep,
                history=(), certificates=())  # fmt: skip
    message = outcome(form=None, sizes=None, payload=None, failures=[loss])
    assert foreman.peer is not None
    with pytest.raises(WireError, match="only a head does"):
        rig.head.foremen.on_content(foreman.peer, [encode(message)], 99, rig.now)
    rig.check()


@pytest.mark.parametrize(("attempt", "believed"), [(HUGE, 101), (1 << 40, 101), (5, 5), (1, 1)])
def test_attempts_beyond_belief_are_not_believed(attempt: int, believed: int) -> None:
    rig, client, foreman, task = fleet()
    foreman.lose()
    client.submit(task)
    rig.settle_all()
    foreman.peer = rig.head.peer(foreman.hello)
    rig.head.books.peers[foreman.peer.lane] = foreman.peer
    rig.head.foremen.on_join(foreman.peer, rig.now, None)
    held = Held([Holding(1, 1, 1, attempt)], [])
    rig.head.foremen.on_content(foreman.peer, [encode(held)], 1, rig.now)
    work = rig.head.books.find(1, 1)
    assert work is not None
    assert work.attempt == believed


@pytest.mark.parametrize(
    ("what", "arguments"),
    [
        ("nonsense", {}),
        ("x" * 10_000, {}),
        ("job", {}),
        ("job", {"id": 5}),
        ("job", {"id": ["0" * 16 + "-1"]}),
        ("job", {"id": "0" * 16 + "-9999999999999999999"}),
        ("job", {"id": "0" * 16 + "-0"}),
        ("job", {"id": "0" * 16 + "-1\n"}),
        ("result", {"id": "g" * 16 + "-1"}),
        ("forget", {"id": "0" * 16 + "-9223372036854775808"}),
        ("jobs", {"limit": 0}),
        ("jobs", {"limit": HUGE}),
        ("jobs", {"limit": "many"}),
        ("cancel", {}),
        ("cancel", {"ids": "0" * 16 + "-1"}),
        ("cancel", {"ids": [[]]}),
        ("retry", {}),
        ("retry", {"ids": 5}),
        ("retry", {"ids": [None]}),
    ],
)
def test_odd_questions_are_answered_with_why_not(what: str, arguments: dict[str, Any]) -> None:
    rig, client, _, task = fleet()
    client.submit(task)
    value, error, _ = ask(rig, client, what, **arguments)
    assert value["code"] in ("invalid", "not-found")
    assert 0 < len(error) < 300


@pytest.mark.parametrize("state", [[], {}, 5, "queued", "done", "nonsense"])
def test_states_may_be_anything(state: Any) -> None:
    rig, client, foreman, task = fleet()
    client.submit(task, 2)
    rig.settle_all()
    foreman.work(["ok"])
    rig.settle_all()
    lines = ask(rig, client, "jobs", state=state)[0]
    assert [line["state"] for line in lines] == (["done"] if state == "done" else [])


def test_a_journal_that_cannot_be_read_is_no_reason_to_end() -> None:
    rig, client, _, task = fleet()
    client.submit(task)
    rig.journal.broken = True
    for what in ("job", "result", "why"):
        assert ask(rig, client, what, id=f"{5:016x}-1")[0] == {"code": "failed"}
    assert ask(rig, client, "jobs")[0] == {"code": "failed"}
    assert ask(rig, client, "retry", failed=True)[0] == {"code": "failed"}
    rig.check()


def test_the_last_word_of_a_foreman_does_not_acknowledge_what_is_not_durable() -> None:
    rig, client, foreman, task = fleet()
    client.submit(task)
    rig.settle_all()
    foreman.work(["ok"])
    foreman.tell(Leaving(cancel=False), [])
    assert len(foreman.outbox) == 1
    assert foreman.peer is not None
    assert foreman.peer.leaving
    rig.turn()
    assert foreman.outbox == []


def test_jobs_and_states_are_listed() -> None:
    rig, client, foreman, task = fleet()
    client.submit(task, 3)
    client.submit(rig.define("other"), 20, whole=True)
    rig.settle_all()
    foreman.work(["ok", "fatal"])
    rig.settle_all()
    lines = ask(rig, client, "jobs")[0]
    assert {line["state"] for line in lines} >= {"done", "failed"}
    (failed,) = [line for line in lines if line["state"] == "failed"]
    assert (failed["error"], failed["host"]) == ("OSError: oh", "a")
    assert ask(rig, client, "why", id=failed["id"])[0] == "it has ended: failed (OSError: oh)"
    status = ask(rig, client, "status")[0]
    assert (status["done"], status["failed"], status["workers"], status["clients"]) == (1, 1, 8, 1)
    assert [line["name"] for line in ask(rig, client, "workers")[0]] == ["a"]
    assert len(ask(rig, client, "jobs", limit=1)[0]) == 1
