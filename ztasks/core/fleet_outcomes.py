"""What the news of foremen means: results, failures, deaths, and what comes back.

The first result of a job wins, whichever lane and attempt it comes from. All other news count only from the lane that
holds the job, and only of its current attempt: what is late says nothing of the attempt that goes on elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ztasks.core.endings import named
from ztasks.core.fleet_books import FleetBooks
from ztasks.core.fleet_endings import lost, poison, timeout
from ztasks.core.host_lane import HostBatch, HostLane
from ztasks.core.session_books import SessionBooks
from ztasks.core.slices import State
from ztasks.core.work import Ended, Settled, Work
from ztasks.errors import WireError
from ztasks.wire.link import Died, Outcome, Range
from ztasks.wire.link_codec import items_in
from ztasks.wire.messages import Failure

WITHHELD: Final = "withheld"
CANCELLED: Final = "cancelled"


class FleetOutcomes(FleetBooks):
    """The books, with what foremen report."""

    def on_outcome(self, number: int, outcome: Outcome, now: float) -> Settled:
        """Take in an outcome, checked by `check_tables`, from a lane; raises WireError for what cannot be."""
        lane = self._told(number)
        marks = _marks(outcome)
        lane.on_moved(now)
        settled = Settled([], [], [])
        books = self._sessions.get(outcome.session)
        if books is None:
            settled.skip.extend(range(outcome.count))
            return settled
        _learn(books, outcome)
        start = 0
        for offset in sorted(marks):
            self._succeed(books, lane, outcome, start, offset, settled)
            self._settle(books, lane, outcome, offset, marks[offset], settled, now)
            start = offset + 1
        self._succeed(books, lane, outcome, start, outcome.count, settled)
        self._review(lane)
        return settled

    def _told(self, number: int) -> HostLane:
        """Return a lane that has said what it holds; raises WireError."""
        lane = self.lanes.get(number)
        if lane is None or not lane.told:
            raise WireError(f"lane {number} reports on work, but it has not said what it holds")
        return lane

    def _succeed(
        self, books: SessionBooks, lane: HostLane, outcome: Outcome, start: int, stop: int, settled: Settled
    ) -> None:
        """Take in the results of the items at offsets `start` to `stop`; skip those that nobody waits for."""
        numbers, jobs, ended = outcome.numbers, books.jobs, settled.ended
        listed = not isinstance(numbers, int)
        batch: HostBatch | None = None
        released = done = 0
        while start < stop:
            number = numbers[start] if listed else numbers + start  # type: ignore[index,operator]
            work = jobs.get(number)
            if work is None:
                work = self._slice_part(books, number, 1 if listed else stop - start)
                if work is None:
                    settled.skip.append(start)
                    start += 1
                    continue
            if work.batch is None or work.batch.lane is not lane:
                if work.batch is not None:
                    self._not_wanted(work)
                self._detach(work)
            else:
                if work.batch is not batch:
                    if batch is not None:
                        lane.release(batch, released)
                    batch, released = work.batch, 0
                released += work.count
                work.batch = None
            work.state = State.DONE  # from any that has not ended; this is the hot path, so the table is not asked
            books.remove(work)
            ended.append(Ended(work, "done"))
            done += work.count
            start += work.count
        if batch is not None:
            lane.release(batch, released)
        self._have_gone(books, done)

    def _slice_part(self, books: SessionBooks, number: int, most: int) -> Work | None:
        """Return up to so many items of a slice, from a number on, as a work of their own."""
        work = books.find(number)
        if work is None:
            return None
        return self._isolate(work, number, min(most, work.end - number))

    def _settle(
        self,
        books: SessionBooks,
        lane: HostLane,
        outcome: Outcome,
        offset: int,
        mark: Failure | str,
        settled: Settled,
        now: float,
    ) -> None:
        """Take in what became of the item at an offset, which has no result."""
        numbers, attempts = outcome.numbers, outcome.attempt
        number = numbers + offset if isinstance(numbers, int) else numbers[offset]
        attempt = attempts if isinstance(attempts, int) else attempts[offset]
        work = self._current(books, lane, number, attempt) if mark is not WITHHELD else None
        if work is None:
            settled.skip.append(offset)
            return
        self._detach(work)
        if mark is CANCELLED and work.stopping:
            settled.ended.append(self._end(work, State.CANCELLED))
        elif mark is CANCELLED:  # nobody wanted that: it was an earlier copy of the same attempt
            settled.skip.append(offset)
            self._requeue([work])
        else:
            assert isinstance(mark, Failure), "there is nothing else"
            if work.may_retry(mark) and not work.stopping:
                settled.skip.append(offset)
                work.history = (*work.history, f"{mark.type_name}: {mark.message}")
                self._delay(work, mark.after, now)
                settled.retried.append(work)
            else:
                settled.ended.append(self._end(work, State.FAILED))

    def _current(self, books: SessionBooks, lane: HostLane, number: int, attempt: int) -> Work | None:
        """Return an item as a work of its own, if this lane holds it and this is its current attempt."""
        work = books.find(number)
        if work is None or work.batch is None or work.batch.lane is not lane or work.attempt != attempt:
            return None
        return self._isolate(work, number, 1)

    def _have_gone(self, books: SessionBooks, count: int) -> None:
        """Take in that so many items of a session have ended and are not in its books any more."""
        self.pending -= count
        if count and books.empty:
            del self._sessions[books.number]

    def on_died(self, number: int, died: Died, now: float) -> Settled:
        """Take in that a worker took a job down: it is charged, and run again, or ends. Raises WireError."""
        lane = self._told(number)
        lane.on_moved(now)
        settled = Settled([], [], [])
        books = self._sessions.get(died.session)
        work = self._current(books, lane, died.number, died.attempt) if books is not None else None
        if work is None:
            return settled
        self._detach(work)
        options = work.spec.options
        work.begun = True
        if work.stopping:
            settled.ended.append(self._end(work, State.CANCELLED))
            return settled
        work.history = (*work.history, named(work, died.certificate))
        if died.late:  # it had to be killed, since it did not heed its timeout: that is a failure, not a crash
            failure = timeout(work)
            if work.may_retry(failure):
                self._delay(work, None, now)
                settled.retried.append(work)
                return settled
        elif options.at_most_once:
            failure = lost(work)
        elif work.crashes < options.crashes_allowed:
            work.crashes += 1
            self._requeue([work])
            settled.retried.append(work)
            return settled
        else:
            failure = poison(work)
        settled.ended.append(self._end(work, State.FAILED, failure))
        return settled

    def on_returned(self, number: int, session: int, ranges: list[Range], now: float) -> None:
        """Take in that items have not begun on a lane, and will not: they are queued again, free of charge.

        Those that were to be cancelled have ended by that: `expire` returns them. Raises WireError.
        """
        lane = self._told(number)
        items_in(ranges)
        lane.on_moved(now)
        books = self._sessions.get(session)
        back = []
        for first, count in ranges:
            for work in books.within(first, count) if books is not None else ():
                if work.batch is not None and work.batch.lane is lane:
                    start = max(first, work.first)
                    mine = self._isolate(work, start, min(first + count, work.end) - start)
                    self._detach(mine)
                    back.append(mine)
        self._stopped += self._requeue(back)


def _marks(outcome: Outcome) -> dict[int, Failure | str]:
    """Return what is said of items that have no result, by their offset; raises WireError if it cannot be."""
    marks: dict[int, Failure | str] = {}
    for offset, mark in _marked(outcome):
        if offset in marks:
            raise WireError(f"the item at offset {offset} of an outcome has ended in two ways")
        marks[offset] = mark
    if outcome.form is None and len(marks) < outcome.count:
        raise WireError(f"an outcome of {outcome.count} items has no results, and says of {len(marks)} why")
    return marks


def _marked(outcome: Outcome) -> Iterable[tuple[int, Failure | str]]:
    for failure in outcome.failures:
        yield failure.offset, failure
    for offset in set(outcome.withheld):
        yield offset, WITHHELD
    for offset in set(outcome.cancelled):
        yield offset, CANCELLED


def _learn(books: SessionBooks, outcome: Outcome) -> None:
    """Learn how long the jobs of a task take: of the first item's, since a foreman measures that one."""
    ran = outcome.count - len(outcome.withheld) - len(outcome.cancelled)
    numbers = outcome.numbers
    work = books.find(numbers if isinstance(numbers, int) else numbers[0])
    if work is not None and ran > 0 and outcome.busy > 0:
        work.spec.run_time.learn(outcome.busy, ran)
