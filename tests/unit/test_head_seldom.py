"""The head's books where something was lost, dropped, forgotten or never fetched."""

from __future__ import annotations

from fleet_rig import define
from head_rig import FakeLink, Rig
from test_head_books import ask, fleet, with_two_outcomes_in_the_journal_only

from ztasks.io.books import SESSION_SECONDS
from ztasks.wire.link import Answer, Cancel, Leaving, Submit
from ztasks.wire.link_codec import decode_to_client, decode_to_foreman
from ztasks.wire.outcomes import with_items
from ztasks.wire.payload import dump, pack


def cancels(link: FakeLink) -> list[Cancel]:
    said = (decode_to_foreman(frames[0]) for frames in link.said)
    return [message for message in said if isinstance(message, Cancel)]


# --- what is under way when a link ends ---


def test_a_cancel_that_was_lost_with_a_foremans_link_is_said_again_behind_what_it_holds() -> None:
    rig, client, foreman, task = fleet(journal=False)
    client.submit(task, 1)
    rig.settle_all()
    foreman.begin(foreman.copies[0])
    client.say(Cancel(1, [(1, 1)], True))
    assert cancels(foreman.link), "it is under way"
    foreman.join(follows=True)  # before it has come
    rig.settle_all()
    assert foreman.copies[0].unwanted


def test_what_is_under_way_to_a_foreman_that_leaves_has_not_begun() -> None:
    rig, client, foreman, task = fleet()
    client.submit(rig.define("once", at_most_once=True))
    client.submit(task)
    rig.turn()
    assert rig.head.books.fleet.running == 2
    foreman.tell(Leaving(False), [])
    assert (rig.head.books.fleet.running, rig.head.books.fleet.queued) == (0, 2)
    assert client.ends == {}


def test_what_a_foreman_gives_up_may_have_begun() -> None:
    rig, client, foreman, _ = fleet()
    client.submit(rig.define("once", at_most_once=True))
    rig.settle_all()
    foreman.tell(Leaving(True), [])
    foreman.lose()
    rig.turn()
    client.read()
    assert client.ends == {1: "failed"}


# --- questions and results ---


def test_a_question_that_is_withdrawn_is_not_answered() -> None:
    rig, client, foreman, task = fleet()
    client.submit(task, 1, sent=True)
    rig.settle_all()
    name = f"{1:016x}-1"
    for _ in range(50):
        assert ask(rig, client, "result", id=name, wait=True) is None
        assert ask(rig, client, "withdraw", id=name, question=client.questions)[1] == ""
    assert rig.head.books.telling.asked(1) == {}
    assert ask(rig, client, "result", id=name, wait=True) is None
    assert client.peer is not None
    before = len(client.link.said)
    foreman.work(["ok"])
    rig.settle_all()
    said = [decode_to_client(frames[0]) for frames in client.link.said[before:]]
    assert sum(isinstance(message, Answer) for message in said) == 1


def test_a_result_that_is_forgotten_does_not_keep_its_session() -> None:
    rig, client, _, task = fleet()
    client.submit(task, 1)
    rig.settle_all()
    client.lose()
    rig.finish()
    rig.now += SESSION_SECONDS + 1
    rig.turn()
    other = rig.client(2)
    assert list(rig.head.books.sessions[1].stored) == [(1, 1)]
    assert ask(rig, other, "forget", id=f"{1:016x}-1")[:2] == (None, "")
    rig.now += SESSION_SECONDS + 1
    rig.turn()
    assert 1 not in rig.head.books.sessions


def test_a_failure_that_is_forgotten_is_not_run_again() -> None:
    rig, client, foreman, task = fleet()
    client.submit(task, 1, sent=True)
    rig.settle_all()
    foreman.work(["fatal"])
    rig.settle_all()
    assert ask(rig, client, "forget", id=f"{1:016x}-1")[:2] == (None, "")
    rig.settle_all()
    assert ask(rig, client, "result", id=f"{1:016x}-1")[0] == {"code": "fetched"}
    assert ask(rig, client, "retry", failed=True)[0] == 0


def test_what_is_forgotten_is_not_told_though_the_journal_has_it_still() -> None:
    rig, client, foreman, task = fleet()
    client.submit(task, 1, sent=True)
    rig.settle_all()
    foreman.work(["ok"])
    rig.settle_all()
    books = rig.head.books
    books.results.drop(1, 1)  # it is in the journal only
    assert rig.journal.outcome(1, 1) is not None
    ask(rig, client, "forget", id=f"{1:016x}-1")
    assert ask(rig, client, "result", id=f"{1:016x}-1")[0] == {"code": "fetched"}


def test_outcomes_that_the_journal_has_dropped_are_not_said_to_be_unknown() -> None:
    rig, client = with_two_outcomes_in_the_journal_only()
    rig.journal.outcome = lambda session, number: None  # type: ignore[method-assign, assignment]
    rig.head.books.forget_outcomes([(1, 1, 2)])
    client.join()
    rig.settle_all()
    assert client.ends == {1: "dropped", 2: "dropped"}


# --- sessions of clients that do not come back ---


def test_a_refusal_does_not_keep_a_session_for_ever() -> None:
    rig, client, _, task = fleet()
    client.submit(task, 1)
    rig.finish()
    rig.journal.refusing = "full"
    client.submit(task, 1)
    client.lose()
    rig.journal.refusing = None
    for _ in range(3):
        rig.now += SESSION_SECONDS + 1
        rig.turn()
    assert not rig.head.books.sessions


def test_outcomes_that_are_in_no_journal_do_not_keep_a_session_for_ever() -> None:
    rig, client, _, task = fleet()
    client.submit(task, 1)
    client.submit(task, 50, durable=False)
    rig.settle_all()
    client.lose()
    rig.finish()
    for _ in range(3):
        rig.now += SESSION_SECONDS + 1
        rig.turn()
    rig.head.books.forget_outcomes([(1, 1, 1)])
    rig.now += SESSION_SECONDS + 1
    rig.turn()
    assert not rig.head.books.sessions
    assert rig.head.books.full is None


# --- tasks ---


def test_a_task_that_was_forgotten_is_asked_for_again() -> None:
    rig = Rig(journal=False, most_bytes=400)
    client, _ = rig.client(), rig.foreman()
    small = rig.define("small")
    client.submit(small)
    rig.finish()
    for number in range(3):
        rig.head.books.specs.define(define(f"big{number}"), b"x" * 90)
    assert rig.head.books.specs.get(small.key) is None
    submit = Submit(small.key, 2, 1, False, 0, 0, "one", "each", 0, None, None, False, True, False, None)
    header, *frames = with_items(submit, pack([dump((1, 2))]))
    assert client.peer is not None
    rig.head.clients.on_content(client.peer, [header, *frames], rig.now)
    rig.settle_all()
    assert client.ends[2] == "undefined"


def test_tasks_of_which_nothing_is_queued_are_not_kept_for_one_job_that_takes_long() -> None:
    rig = Rig(journal=False)
    client, foreman = rig.client(), rig.foreman()
    client.submit(rig.define("long"))
    rig.settle_all()
    foreman.copies.pop()  # it takes its time
    for number in range(100):
        client.submit(rig.define(f"task{number}"))
        rig.settle_all()
        foreman.work(["ok"])
    rig.settle_all()
    assert len(rig.head.books.fleet._sessions[1]._books) <= 16
