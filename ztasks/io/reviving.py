"""Running failed jobs again: `ztasks retry`, `client.job(...).retry()`.

What it must hold: only what has failed or expired is run again, once for each time that somebody wants it, and when
that is durable; and however many jobs that are, the head goes on with all else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from ztasks.core.work import Work
from ztasks.errors import ZtasksError
from ztasks.io.books import Books
from ztasks.io.history import Name, State
from ztasks.io.sessions import Pending
from ztasks.io.stored import anew, works_of

if TYPE_CHECKING:
    from ztasks.io.journal import Journal

MOST_LISTED: Final = 100_000
"""How many jobs one question may be about."""

AT_ONCE: Final = 50
"""How many jobs are looked at in one turn of the head's loop."""


class Order(NamedTuple):
    """Jobs that somebody wants to be run again."""

    names: Iterator[Name]
    revived: list[Name]
    done: Callable[[int], object]
    """Called with how many are run again, when all of them have been looked at."""


class Reviving:
    """Runs jobs again, some in each turn."""

    def __init__(self, books: Books, journal: Journal | None) -> None:
        self._books = books
        self._journal = journal
        self._orders: deque[Order] = deque()
        self._done: deque[tuple[int, Callable[[int], object], int]] = deque()
        """Whom to tell how many jobs are run again, when an operation is durable."""

    @property
    def busy(self) -> bool:
        """Whether there is something to be done."""
        return bool(self._orders)

    def failed(self) -> Iterable[Name]:
        """Return the jobs that have failed or expired, and can be run again; raises JournalError."""
        names = dict.fromkeys(self._books.history.revivable)
        states: tuple[State, ...] = ("failed", "expired") if self._journal is not None else ()
        for state in states:
            assert self._journal is not None, "there are no states else"
            for line in self._journal.jobs(state, MOST_LISTED):
                names.update(dict.fromkeys((line.session, line.first + place) for place in range(line.count)))
        return names

    def begin(self, names: Iterable[Name], done: Callable[[int], object]) -> None:
        """Have these jobs run again, by and by."""
        self._orders.append(Order(iter(dict.fromkeys(names)), [], done))

    def go_on(self, now: float) -> None:
        """Look at some jobs; tell what is durable."""
        ledger = self._books.ledger
        for _ in range(AT_ONCE):
            if not self._orders:
                break
            order = self._orders[0]
            name = next(order.names, None)
            if name is None:
                self._orders.popleft()
                self._done.append((ledger.appended, order.done, len(order.revived)))
            elif self._revive(*name, now):
                order.revived.append(name)
        while self._done and self._done[0][0] <= ledger.durable:
            _, done, number = self._done.popleft()
            done(number)

    def _revive(self, session: int, number: int, now: float) -> bool:
        """Queue a failed job again; its outcome is kept for whoever asks, unless its client comes back for it."""
        books = self._books
        opened = books.sessions.get(session)
        if books.find(session, number) is not None:
            return False  # it is run already
        if opened is not None and (opened.untold or any(each.has(number) for each in opened.pending)):
            return False  # its client is just being told much, this perhaps among it; or it was cancelled just now
        last = books.history.find(session, number)
        if last is not None and last.state not in ("failed", "expired"):
            return False  # the journal may not know yet
        stored = self._has_failed(session, number)
        work = books.history.take(session, number)
        if work is None and stored:
            work = self._from_journal(session, number, now)
        if work is None:
            return False
        opened = books.session(session, now)
        opened.keep_not(number)  # it has not failed after all; a client that is there has been told that it has
        opened.sent.add(number)
        opened.firsts.add(number)
        opened.accepted = max(opened.accepted, number)
        opened.journaled = opened.journaled or stored
        books.results.drop(session, number)
        again = anew(work, now)
        books.take_in([again])
        operation = books.ledger.revive(session, number, 1) if opened.journaled else None
        if operation is not None:
            opened.wait(Pending(operation, number, 1, [again]))
            books.undurable.append((operation, opened))
        else:
            books.fleet.on_submit([again], now)
        return True

    def _has_failed(self, session: int, number: int) -> bool:
        """Tell whether the journal knows that a job has failed."""
        try:
            outcome = self._journal.outcome(session, number) if self._journal is not None else None
        except ZtasksError:  # it is damaged; `ztasks result` says so
            return False
        return outcome is not None and outcome.state in ("failed", "expired")

    def _from_journal(self, session: int, number: int, now: float) -> Work | None:
        """Return a job as it was accepted, if the journal still has it."""
        assert self._journal is not None, "it knows that the job has failed"
        try:
            accepted = self._journal.work(session, number)
            spec = self._books.specs.get(accepted.key) if accepted is not None else None
            if accepted is None or spec is None:
                return None
            works = works_of(accepted, spec, now)
        except (ZtasksError, ValueError):
            return None
        work = next(each for each in works if each.first <= number < each.end)
        return work.part(number - work.first, number - work.first + 1)
