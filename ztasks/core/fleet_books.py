"""A fleet's books: where each work is, and how it gets from one place to another.

A work is in exactly one place: queued in its book, delayed until its next attempt is due, or assigned to a lane as part
of a batch. Whoever changes that does it with one of the methods here, each of which keeps all counts.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from itertools import count
from typing import Final

from ztasks.core.delayed import Delayed
from ztasks.core.fleet_words import offers
from ztasks.core.host_lane import HostBatch, HostLane
from ztasks.core.lines import Line, Lines
from ztasks.core.options import retry_delay
from ztasks.core.recalling import Recalling
from ztasks.core.routing import why_never
from ztasks.core.session_books import Book, SessionBooks
from ztasks.core.slices import State
from ztasks.core.work import Ended, TaskSpec, Work
from ztasks.wire.link import Range
from ztasks.wire.loss import Loss
from ztasks.wire.messages import Failure

CUT_SECONDS: Final = 0.005
"""Expected work that is worth a message of its own."""

SPARE_EXPIRIES: Final = 10_000
"""So many works beyond what is queued may be among those that expire."""

UNRECORDED: Final = "the head was restarted, and does not know how this attempt ended"


class FleetBooks:
    """All works that have not ended, and all lanes."""

    def __init__(self, chance: Callable[[], float]) -> None:
        """`chance` gives numbers from 0 to 1, for the jitter of retries."""
        self.lanes: dict[int, HostLane] = {}
        self.pending = 0
        """Items that have not ended."""
        self.to_cancel: list[tuple[int, int, Range]] = []
        """(lane, session, items) that are not wanted any more, since their results came from elsewhere; whoever tells
        the foremen takes them out."""
        self._sessions: dict[int, SessionBooks] = {}
        self._lines = Lines()
        self._recalling = Recalling(self._lines)
        self._delayed = Delayed()
        self._expiring: list[tuple[float, int, Work]] = []
        """A heap by the time; works that are not queued any more are among these until they come up."""
        self._stopped: list[Ended] = []
        """What was to be stopped, and came back before it had begun."""
        self._ties = count()
        self._chance = chance

    @property
    def queued(self) -> int:
        """Items that wait for a lane."""
        return self._lines.queued

    def find(self, session: int, number: int) -> Work | None:
        """Return the work that an item belongs to, or None: it has ended, or never was."""
        books = self._sessions.get(session)
        return books.find(number) if books is not None else None

    def stuck(self, spec: TaskSpec) -> str | None:
        """Say why no worker that has joined can ever take a task's jobs; None if one can."""
        return why_never(spec.demand, offers(self))

    def book(self, work: Work) -> Book:
        """Return the book that a work is queued in, or would be."""
        return self._sessions[work.session].book(work)

    def waiting_lines(self) -> list[Line]:
        """Return the lines in which something stands."""
        return self._lines.waiting()

    def delayed_works(self) -> list[Work]:
        """Return the works that wait for their next attempt."""
        return [work for _, _, work in self._delayed if isinstance(work, Work) and work.state is State.DELAYED]

    # --- into the queue ---

    def _enter(self, works: Iterable[Work]) -> None:
        """Enter new works at the back of their queues."""
        books: SessionBooks | None = None
        book: Book | None = None
        fresh = 0
        for work in works:
            if (
                book is None
                or work.spec is not book.spec
                or work.session != book.session
                or work.shape != book.shape
                or work.detail is not book.detail
            ):
                if book is not None:
                    self._stand(book, fresh)
                books = self._open_session(work.session)
                book, fresh = books.book(work), 0
            assert books is not None, "it comes with the book"
            books.add(work)
            book.queue.append(work)
            fresh += work.count
            if work.spec.expires is not None:
                self._watch_expiry(work)
        if book is not None:
            self._stand(book, fresh)

    def _stand(self, book: Book, fresh: int) -> None:
        self.pending += fresh
        self._lines.stand(book, fresh)

    def _open_session(self, number: int) -> SessionBooks:
        books = self._sessions.get(number)
        if books is None:
            books = self._sessions[number] = SessionBooks(number)
        return books

    def _watch_expiry(self, work: Work) -> None:
        """Note when a queued work expires, if it can."""
        if work.spec.expires is None or work.begun:
            return
        heapq.heappush(self._expiring, (work.accepted_at + work.spec.expires, next(self._ties), work))
        if len(self._expiring) > 2 * self._lines.queued + SPARE_EXPIRIES:  # most have gone, and shall not be kept alive
            left = {id(entry[2]): entry for entry in self._expiring if entry[2].state is State.QUEUED}
            self._expiring = sorted(left.values())

    def _requeue(self, works: list[Work]) -> list[Ended]:
        """Queue again, before all else, works that have been detached; those that were to be stopped end instead."""
        ended = []
        for work in reversed(works):
            if work.stopping:
                ended.append(self._end(work, State.CANCELLED))
                continue
            work.move(State.QUEUED)
            book = self.book(work)
            book.queue.appendleft(work)
            self._lines.stand(book, work.count, front=True)
            self._watch_expiry(work)
        return ended

    def _wake(self, now: float) -> None:
        """Queue the retries that are due."""
        for work in self._delayed.take_due(now):
            assert isinstance(work, Work), "only works are delayed here"
            work.move(State.QUEUED)
            book = self.book(work)
            book.queue.append(work)
            self._lines.stand(book, work.count)

    # --- out of a place ---

    def _detach(self, work: Work) -> None:
        """Take a work out of its place; where it goes is the caller's care."""
        batch = work.batch
        if batch is not None:
            work.batch = None
            batch.lane.release(batch, work.count)
            self._review(batch.lane)
        elif work.state is State.QUEUED:
            self._lines.withdraw(self.book(work), work.count)

    def _isolate(self, work: Work, first: int, count: int) -> Work:
        """Return so many items of a work from number `first` on as one, cut off from the others where it must be."""
        start, stop = first - work.first, first - work.first + count
        if stop < work.count:
            self._cut(work, stop)
        return self._cut(work, start) if start else work

    def _cut(self, work: Work, at: int) -> Work:
        """Cut a work in two: it keeps its first `at` items; return the others, which are in the same place."""
        books = self._sessions[work.session]
        rest = books.cut(work, at)
        if work.batch is not None:
            work.batch.works.append(rest)
        elif work.state is State.QUEUED:
            queue = books.book(work).queue
            queue.insert(queue.index(work) + 1, rest)
            self._watch_expiry(rest)
        return rest

    def _end(self, work: Work, state: State, failure: Failure | Loss | None = None, how: str = "") -> Ended:
        """End a work that has been detached; `how`: the word for it, if it is not the state's."""
        work.move(state)
        self._forget(work)
        return Ended(work, how or state.name.lower(), failure)  # type: ignore[arg-type]

    def _forget(self, work: Work) -> None:
        self.pending -= work.count
        books = self._sessions[work.session]
        books.remove(work)
        if books.empty:
            del self._sessions[work.session]

    def _delay(self, work: Work, pause: float | None, now: float) -> None:
        """Keep a failed job that has been detached, and whose history tells of it, until its next attempt is due."""
        work.failures += 1
        work.begun = True
        work.move(State.DELAYED)
        if pause is None:
            pause = retry_delay(work.spec.options, work.failures, self._chance())
        work.since = now + pause
        self._delayed.add(work, work.since)

    # --- to a lane ---

    def _adopt(self, work: Work, attempt: int, batch: HostBatch) -> None:
        """Take a queued or delayed work as being part of a batch, which the caller enters: a foreman has it already."""
        self._detach(work)
        new = self._sessions[work.session].renew(work)
        work.move(State.CANCELLED)  # it may still be in its queue, or among the delayed: there it is passed over
        new.move(State.ASSIGNED)
        new.begun = True
        unrecorded = max(0, attempt - new.attempt)
        new.failures += unrecorded
        new.history += (UNRECORDED,) * unrecorded
        new.batch = batch
        batch.works.append(new)
        batch.left += new.count
        batch.nbytes += new.size

    def _take(self, book: Book, lane: HostLane, most: int, now: float) -> HostBatch:
        """Take from a book's queue, which is not empty, what a lane may be given, up to `most` items, at least one."""
        spec, queue = book.spec, book.queue
        batch = HostBatch(lane, spec, now)
        works = batch.works
        limit = 1 if spec.demand.alone else min(most, lane.allowance(spec))
        exact = bool(spec.takes)
        total, nbytes, room = 0, 0, lane.bytes_left()
        while queue and total < limit:
            work = queue[0]
            if work.state is not State.QUEUED:
                queue.popleft()
                continue
            size = work.size
            if works and (work.whole or nbytes + size > room):
                break
            if work.count > limit and (exact or work.count > lane.left or _worth_cutting(spec, work.count - limit)):
                self._cut(work, limit)
                size = work.size
            queue.popleft()
            work.state = State.ASSIGNED  # from QUEUED; this is the hot path, so the table is not asked
            work.batch = batch
            works.append(work)
            total += work.count
            nbytes += size
            if work.whole:
                break
        batch.left, batch.nbytes = total, nbytes
        self._lines.withdraw(book, total)
        lane.hold(batch, now)
        return batch

    def _review(self, lane: HostLane) -> None:
        """Take in that something about a lane has changed."""
        self._lines.review(lane)
        self._recalling.review(lane)

    def _not_wanted(self, work: Work) -> None:
        """A result has come for a work that another lane holds: have it cancelled there."""
        batch = work.batch
        assert batch is not None, "it is assigned"
        note_range(self.to_cancel, batch.lane.number, work.session, work.first, work.count)


def _worth_cutting(spec: TaskSpec, items: int) -> bool:
    """Tell whether so many items beyond what a lane may be given are better given to another, or later."""
    seconds = spec.run_time.seconds
    return seconds is None or items * seconds > CUT_SECONDS


def note_range(found: list[tuple[int, int, Range]], lane: int, session: int, first: int, count: int) -> None:
    """Note items of a lane; those that follow each other go together."""
    if found:
        last_lane, last_session, (start, so_many) = found[-1]
        if (last_lane, last_session, start + so_many) == (lane, session, first):
            found[-1] = lane, session, (start, so_many + count)
            return
    found.append((lane, session, (first, count)))
