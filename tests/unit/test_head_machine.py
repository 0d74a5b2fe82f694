"""The head's books, driven through any order of events; `Rig` and its peers check after each.

Twice: by Hypothesis, which finds the shortest way into a fault, and by plain chance, which gets further from the start.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from head_rig import Copy, FakeClient, FakeForeman, Rig
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from ztasks.io.answers import Answers
from ztasks.wire.link import Ask, Cancel

HOWS = ("", "", "", "sent", "volatile")
COUNTS = (1, 1, 2, 5, 20)
FATES = ("ok", "ok", "retry", "fatal", "cancelled")
CHANGES = ("lose", "join", "follow", "give back", "read", "die")
QUESTIONS = ("result", "result", "why", "jobs")
PAUSES = (0.0, 0.0, 0.0, 1.0, 6.0)
MOST = (0, 1, 3, 100)


class Play:
    """Two clients, two foremen, one head. `pick` picks one of them, of the tasks, or of the jobs."""

    def __init__(self, *, journal: bool) -> None:
        self.rig = rig = Rig(journal=journal)
        self.tasks = [
            rig.define("plain"),
            rig.define("again", retries=2, backoff=0.5, crash_retries=1),
            rig.define("once", at_most_once=True),
            rig.define("urgent", expires=4.0),
        ]
        self.clients = [rig.client(1), rig.client(2)]
        self.foremen = [rig.foreman("a"), rig.foreman("b")]
        self.cancelled: set[tuple[int, int]] = set()
        self.volatile: set[tuple[int, int]] = set()
        self.once: set[tuple[int, int]] = set()

    # --- clients ---

    def client(self, pick: int) -> FakeClient:
        client = self.clients[pick % 2]
        if client.peer is None:
            client.join()
        return client

    def submit(self, pick: int, task: int, count: int, whole: bool, how: str) -> None:
        client = self.client(pick)
        numbers = client.submit(
            self.tasks[task], count, whole=whole and how != "sent", durable=how != "volatile", sent=how == "sent"
        )
        items = {(client.session, number) for number in numbers}
        if how == "volatile" or self.rig.head.journal is None:
            self.volatile |= items
        if task == 2:
            self.once |= items

    def read(self, pick: int, most: int) -> None:
        self.client(pick).read(most)

    def change_client(self, pick: int, loses: bool) -> None:
        client = self.clients[pick % 2]
        if loses:
            client.lose()
        else:
            client.join()

    def cancel(self, pick: int, first: int, count: int, running: bool) -> None:
        client = self.client(pick)
        client.say(Cancel(client.session, [(first, count)], running))
        self.cancelled |= {(client.session, number) for number in range(first, first + count)}

    def ask(self, pick: int, session: int, number: int, what: str) -> None:
        self._ask(pick, what, id=f"{session:016x}-{number}", wait=True)

    def retry(self, pick: int, most: int) -> None:
        """Failed jobs are run again; others are asked for that have not failed."""
        client = self.clients[pick % 2]
        failed = [number for number, how in client.ends.items() if how in ("failed", "expired")]
        before = self._not_ended()
        self._ask(pick, "retry", ids=[f"{client.session:016x}-{each}" for each in [*failed[-most:], most, 100]])
        self.once -= self._not_ended() - before  # who wants it may have it twice

    def _ask(self, pick: int, what: str, **arguments: Any) -> None:
        client = self.client(pick)
        client.questions += 1
        service: Any = type("Service", (), {"books": self.rig.head.books, "journal": self.rig.head.journal})
        answers = Answers(service)
        assert client.peer is not None
        answers.answer(client.peer, Ask(client.questions, what, arguments), self.rig.now)
        answers.reviving.go_on(self.rig.now)
        assert not answers.reviving.busy
        self.rig.check()

    def _not_ended(self) -> set[tuple[int, int]]:
        books = self.rig.head.books
        pending = [work for session in books.sessions.values() for each in session.pending for work in each.works]
        return {(work.session, work.first) for work in [*books.fleet.works(), *pending]}

    # --- foremen ---

    def work(self, pick: int, fates: list[str], reads: bool) -> None:
        """Jobs end, also while their foreman has not joined."""
        foreman = self.foremen[pick % 2]
        if reads:
            foreman.read()
        groups: dict[Any, list[tuple[Copy, str]]] = {}
        for copy, fate in zip(list(foreman.copies), fates, strict=False):
            how = "ok" if fate == "cancelled" and not copy.unwanted else fate
            groups.setdefault((copy.item[0], copy.whole), []).append((copy, how))
        for group in groups.values():
            foreman.end(group)

    def run_one(self, pick: int, dies: bool) -> None:
        foreman = self.foremen[pick % 2]
        if foreman.copies:
            (foreman.die if dies else foreman.begin)(foreman.copies[pick % len(foreman.copies)])

    def change_foreman(self, pick: int, how: str) -> None:
        foreman: FakeForeman = self.foremen[pick % 2]
        if how == "lose":
            foreman.lose()
        elif how in ("join", "follow"):
            foreman.join(follows=how == "follow" and foreman.peer is not None)
        elif how == "give back":
            foreman.give_back()
        elif how == "read":
            foreman.read()
        else:
            foreman.die_itself()

    # --- the head ---

    def turn(self, settle: bool, pause: float) -> None:
        self.rig.now += pause
        self.rig.turn(settle=settle)

    def become_durable(self, share: float) -> None:
        journal = self.rig.head.journal
        if journal is not None:
            journal.settle(journal.durable + int(share * (len(journal.operations) - journal.durable)))

    def restart(self) -> None:
        self.rig.restart()

    # --- the end ---

    def finish(self) -> None:
        """Everybody comes back, and everything is done: then each item has ended, and nothing is left."""
        rig = self.rig
        for peer in [*self.clients, *self.foremen]:
            if peer.peer is None:
                peer.join()
        rig.now += 20
        rig.head.foremen.await_no_more()
        rig.finish()
        rig.settle_all()
        for client in self.clients:
            assert client.open() == []
            for number, how in client.ends.items():
                item = client.session, number
                assert how != "cancelled" or item in self.cancelled, f"{item} was cancelled by nobody"
                assert how != "unknown" or item in self.volatile, f"{item} is lost"
            for number in client.detached:
                self._check_result(client.session, number)
        for item in self.once:
            assert rig.begun[item] <= 1, f"{item} was run twice"
        for foreman in self.foremen:
            assert foreman.outbox == []
            assert all(copy.unwanted for copy in foreman.copies)  # they run, and nobody waits
        for client in self.clients:
            client.leave(cancel=False)
        rig.check_empty()

    def _check_result(self, session: int, number: int) -> None:
        """Of a detached job that was not lost there is a result."""
        if (session, number) not in self.volatile:
            journal = self.rig.head.journal
            found = self.rig.head.books.results.get(session, number)
            assert found is not None or (journal is not None and journal.outcome(session, number) is not None)


PICK = st.integers(0, 3)


class HeadMachine(RuleBasedStateMachine):
    """In any order each item ends once for its client, what is durable is never repeated, and nothing is left."""

    @initialize(journal=st.sampled_from([True, True, False]))
    def open(self, journal: bool) -> None:
        self.play = Play(journal=journal)

    @rule(pick=PICK, task=PICK, count=st.sampled_from(COUNTS), whole=st.booleans(), how=st.sampled_from(HOWS))
    def submit(self, pick: int, task: int, count: int, whole: bool, how: str) -> None:
        self.play.submit(pick, task, count, whole, how)

    @rule(pick=PICK, most=st.sampled_from(MOST))
    def read(self, pick: int, most: int) -> None:
        self.play.read(pick, most)

    @rule(pick=PICK, loses=st.booleans())
    def change_client(self, pick: int, loses: bool) -> None:
        self.play.change_client(pick, loses)

    @rule(pick=PICK, first=st.integers(1, 40), count=st.sampled_from(COUNTS), running=st.booleans())
    def cancel(self, pick: int, first: int, count: int, running: bool) -> None:
        self.play.cancel(pick, first, count, running)

    @rule(pick=PICK, session=st.integers(1, 2), number=st.integers(1, 40), what=st.sampled_from(QUESTIONS))
    def ask(self, pick: int, session: int, number: int, what: str) -> None:
        self.play.ask(pick, session, number, what)

    @rule(pick=PICK, most=st.integers(1, 5))
    def retry(self, pick: int, most: int) -> None:
        self.play.retry(pick, most)

    @rule(pick=PICK, fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=6), reads=st.booleans())
    def work(self, pick: int, fates: list[str], reads: bool) -> None:
        self.play.work(pick, fates, reads)

    @rule(pick=PICK, dies=st.booleans())
    def run_one(self, pick: int, dies: bool) -> None:
        self.play.run_one(pick, dies)

    @rule(pick=PICK, how=st.sampled_from(CHANGES))
    def change_foreman(self, pick: int, how: str) -> None:
        self.play.change_foreman(pick, how)

    @rule(settle=st.booleans(), pause=st.sampled_from(PAUSES))
    def turn(self, settle: bool, pause: float) -> None:
        self.play.turn(settle, pause)

    @rule(share=st.floats(0, 1))
    def become_durable(self, share: float) -> None:
        self.play.become_durable(share)

    @rule(pick=st.integers(0, 5))
    def restart(self, pick: int) -> None:
        if pick == 0:  # not too often
            self.play.restart()

    def teardown(self) -> None:
        if hasattr(self, "play"):
            self.play.finish()


TestHead = HeadMachine.TestCase
TestHead.settings = settings(
    max_examples=min(settings.default.max_examples, 60) if settings.default.derandomize else 500,  # type: ignore[union-attr]
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.mark.parametrize("seed", range(100))
def test_a_walk(seed: int) -> None:
    chance = random.Random(seed)
    play = Play(journal=chance.random() < 0.75)
    some, of = chance.randrange, chance.choice
    moves: list[tuple[int, Any]] = [
        (15, lambda: play.submit(some(4), some(4), of(COUNTS), chance.random() < 0.4, of(HOWS))),
        (10, lambda: play.read(some(4), of(MOST))),
        (7, lambda: play.change_client(some(4), chance.random() < 0.5)),
        (5, lambda: play.cancel(some(4), some(1, 31), of(COUNTS), chance.random() < 0.5)),
        (5, lambda: play.ask(some(4), some(1, 3), some(1, 41), of(QUESTIONS))),
        (6, lambda: play.retry(some(4), some(1, 6))),
        (17, lambda: play.work(some(4), chance.choices(FATES, k=some(1, 7)), chance.random() < 0.7)),
        (5, lambda: play.run_one(some(4), chance.random() < 0.3)),
        (8, lambda: play.change_foreman(some(4), of(CHANGES))),
        (14, lambda: play.turn(chance.random() < 0.5, of(PAUSES))),
        (5, lambda: play.become_durable(chance.random())),
        (3, play.restart),
    ]
    weights, calls = zip(*moves, strict=True)
    for call in chance.choices(calls, weights, k=some(10, 80)):
        call()
    play.finish()
