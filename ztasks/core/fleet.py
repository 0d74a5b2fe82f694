"""The fleet: which foreman takes which work, and what their news means. It is the books of a head that is a service.

What it must hold: every item given to `on_submit` ends exactly once, in an `Ended`; what a lost lane held, or gave
back, is queued again free of charge; and only the job is charged that ran when its worker died. A job that has ended is
never run again, and what a foreman still holds when it comes back is its own again, unless another has it meanwhile.

It does no I/O. Methods `on_*` take in what has happened; `dispatch` returns what shall be sent.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from ztasks.core.fleet_books import note_range
from ztasks.core.fleet_endings import expired, lost_with_host
from ztasks.core.fleet_outcomes import FleetOutcomes
from ztasks.core.fleet_words import counts, queues, stuck_items, why
from ztasks.core.host_lane import HostBatch, HostLane, HostSend
from ztasks.core.routing import Demand, Offer
from ztasks.core.session_books import Book
from ztasks.core.slices import State
from ztasks.core.work import Ended, Settled, TaskSpec, Work
from ztasks.errors import WireError
from ztasks.wire.link import Holding, Range, Wanted
from ztasks.wire.link_codec import items_in

__all__ = ["Demand", "Ended", "Fleet", "HostLane", "HostSend", "Offer", "Settled", "TaskSpec", "Work"]


class Fleet(FleetOutcomes):
    """The books on all work and all foremen."""

    # --- work comes in, and is given up ---

    def on_submit(self, works: Iterable[Work], now: float) -> None:
        """Queue new works, whose numbers have not been there before."""
        self._enter(works)

    def on_cancel(
        self, session: int, ranges: Sequence[Range], running: bool, now: float
    ) -> tuple[list[Ended], list[tuple[int, int, Range]]]:
        """Cancel what waits of some items; `running`: have what lanes hold cancelled there, too.

        Returns what has ended, and (lane, session, items) to tell the foremen: their answers end these. Raises
        WireError.
        """
        items_in(list(ranges))
        books = self._sessions.get(session)
        ended: list[Ended] = []
        tell: list[tuple[int, int, Range]] = []
        for first, count in ranges if books is not None else ():
            assert books is not None, "there are no ranges else"
            for work in books.within(first, count):
                start = max(first, work.first)
                self._cancel(work, start, min(first + count, work.end) - start, running, ended, tell)
        return ended, tell

    def _cancel(
        self,
        work: Work,
        first: int,
        count: int,
        running: bool,
        ended: list[Ended],
        tell: list[tuple[int, int, Range]],
    ) -> None:
        """Cancel so many items of a work."""
        if work.batch is None:
            mine = self._isolate(work, first, count)
            self._detach(mine)
            ended.append(self._end(mine, State.CANCELLED))
        elif running and not work.stopping:
            self._isolate(work, first, count).stopping = True
            note_range(tell, work.batch.lane.number, work.session, first, count)

    def expire(self, now: float) -> list[Ended]:
        """End what has not begun in time; return also what was to be cancelled and has come back since last time."""
        ended, self._stopped = self._stopped, []
        while self._expiring and (self._expiring[0][0] <= now or self._expiring[0][2].state is not State.QUEUED):
            work = heapq.heappop(self._expiring)[2]
            if work.state is State.QUEUED and not work.begun:
                self._detach(work)
                ended.append(self._end(work, State.FAILED, expired(work), "expired"))
        return ended

    # --- lanes come and go ---

    def on_join(self, number: int, offer: Offer, now: float, *, earlier: int | None = None) -> None:
        """Open the books on a lane; it gets nothing until it has said what it holds.

        `earlier`: the lane of the same process that this one follows, if it has not been lost: what that held stays
        assigned until `on_held` says what of it is really there.
        """
        lane = self.lanes.pop(earlier, None) if earlier is not None else None
        if lane is None:
            lane = HostLane(number, offer, now)
        else:
            self._lines.leave(lane)
            self._recalling.leave(lane)
            lane.renumber(number, offer, now)
        self.lanes[number] = lane
        self._lines.join(lane)

    def on_held(
        self, number: int, holdings: Sequence[Holding], now: float, *, defined: Iterable[bytes] = ()
    ) -> list[tuple[int, Range]]:
        """Take in what a foreman that has joined holds from before, and which tasks it knows.

        What waits here is its own again. Returns (session, items) that it shall drop: they have ended, are with another
        lane, or have been charged with a further attempt since. Raises WireError.
        """
        lane = self.lanes.get(number)
        if lane is None or lane.told:
            raise WireError(f"lane {number} says what it holds, but it has said so before, or has not joined")
        items_in([(holding.first, holding.count) for holding in holdings])
        lane.knows(defined)
        drop: list[tuple[int, int, Range]] = []
        kept: set[Work] = set()
        batches: dict[TaskSpec, HostBatch] = {}
        for holding in holdings:
            self._reconcile(lane, holding, batches, kept, drop, now)
        missing = [work for work in lane.held() if work not in kept]
        for batch in batches.values():
            lane.hold(batch, now)
        lane.told = True
        for work in missing:  # they never arrived there, so they have not begun
            self._detach(work)
        self._stopped += self._requeue(missing)
        self._review(lane)
        return [(session, items) for _, session, items in drop]

    def _reconcile(
        self,
        lane: HostLane,
        holding: Holding,
        batches: dict[TaskSpec, HostBatch],
        kept: set[Work],
        drop: list[tuple[int, int, Range]],
        now: float,
    ) -> None:
        """Decide of each item of a holding whether it is this lane's."""
        session, at, end = holding.session, holding.first, holding.first + holding.count
        books = self._sessions.get(session)
        for work in books.within(at, holding.count) if books is not None else ():
            first = max(at, work.first)
            count = min(end, work.end) - first
            if at < first:
                note_range(drop, 0, session, at, first - at)
            at = first + count
            if work.batch is None and holding.attempt >= work.attempt:
                batch = batches.get(work.spec)
                if batch is None:
                    batch = batches[work.spec] = HostBatch(lane, work.spec, now)
                self._adopt(self._isolate(work, first, count), holding.attempt, batch)
            elif work.batch is not None and work.batch.lane is lane and holding.attempt >= work.attempt:
                mine = self._isolate(work, first, count)
                kept.add(mine)
                if mine.stopping:  # which may have been told on a link that was lost
                    note_range(drop, 0, session, first, count)
            else:
                note_range(drop, 0, session, first, count)
        if at < end:
            note_range(drop, 0, session, at, end - at)

    def on_lost(self, number: int, now: float, why: str) -> list[Ended]:
        """Take in that a lane is no more: its foreman has left, or has not been heard of, or its join is void.

        What it held is queued again, free of charge; but a job that must not run twice has failed.
        """
        lane = self.lanes.pop(number, None)
        if lane is None:
            return []
        self._lines.leave(lane)
        self._recalling.leave(lane)
        ended: list[Ended] = []
        back: list[Work] = []
        for work in lane.held():
            work.batch = None
            work.begun = True
            if work.spec.options.at_most_once and not work.stopping:
                failure = lost_with_host(work, lane.offer.name, lane.offer.host, why)
                ended.append(self._end(work, State.FAILED, failure))
            else:
                back.append(work)
        return ended + self._requeue(back)

    def on_credit(self, number: int, credit: int) -> None:
        """Take in how many items a foreman will hold at most."""
        lane = self.lanes.get(number)
        if lane is not None:
            lane.credit = credit
            self._review(lane)

    def on_wanted(self, number: int, wanted: Wanted) -> None:
        """Take in what a foreman does, or shall do: it is only given more while that is `run`."""
        lane = self.lanes.get(number)
        if lane is not None:
            lane.wanted = wanted
            self._review(lane)

    # --- work goes out ---

    def dispatch(self, now: float) -> list[HostSend]:
        """Return what shall be sent now, and enter it in the books."""
        self._wake(now)
        sends: list[HostSend] = []
        shares: dict[Book, tuple[int, int]] = {}
        while (found := self._lines.next()) is not None:
            line, lane, room = found
            book = line.first
            if book not in shares:  # all that want work shall get some of what is there
                shares[book] = book.queued, line.slots
            queued, slots = shares[book]
            batch = self._take(book, lane, min(room, -(-queued * lane.slots // slots)), now)
            ships, forget = lane.need(book.spec)
            sends.append(HostSend(lane.number, batch.works, book.spec if ships else None, forget))
            self._lines.served(line, book, lane)
            self._recalling.review(lane)
        self._lines.reserve()
        return sends

    def recallable(self, now: float) -> list[int]:
        """Return the lanes from which unstarted work should be recalled; they are taken as having been asked."""
        return self._recalling.due(now)

    def next_event(self, now: float) -> float | None:
        """Return in how many seconds something falls due by itself, or None."""
        if self._stopped:
            return 0.0
        due = [soonest - now] if (soonest := self._delayed.soonest()) is not None else []
        due += [self._expiring[0][0] - now] if self._expiring else []
        if (recall := self._recalling.next_event(now)) is not None:
            due.append(recall)
        return max(0.0, min(due)) if due else None

    # --- for people ---

    @property
    def running(self) -> int:
        """Items that foremen hold."""
        return self.counts()["assigned"]

    def works(self, *, assigned: bool = False) -> Iterator[Work]:
        """Yield all works that have not ended, or (`assigned`) only those that foremen hold, which come first."""
        for lane in self.lanes.values():
            yield from lane.held()
        for books in self._sessions.values() if not assigned else ():
            for work in chain(books.jobs.values(), books.slices.values()):
                if work.batch is None:
                    yield work

    def has_session(self, session: int) -> bool:
        """Tell whether any work of a session has not ended."""
        return session in self._sessions

    def why(self, session: int, number: int, now: float) -> str:
        """Say what a job waits for, or where it is."""
        return why(self, session, number, now)

    def counts(self) -> dict[str, int]:
        """Return how many items there are in each state."""
        return counts(self)

    def stuck_items(self) -> int:
        """Return how many of the queued items no worker that has joined can ever take."""
        return stuck_items(self)

    def queues(self) -> dict[str, dict[str, int]]:
        """Return the same for each queue."""
        return queues(self)
