"""The head's books: the fleet's, with what its clients are owed. Used in the head's thread only.

What it must hold: an item that has ended is written to the journal, if there is one, and told to its client, once; the
outcome of a detached job is kept until it is asked for; and what is counted of work is counted back at its end.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from random import random
from typing import Any, Final

import msgspec

from ztasks.core.fleet import Fleet
from ztasks.core.ranges import Ranges
from ztasks.core.work import Ended, Work
from ztasks.io.history import History, Name, Result, Results, State
from ztasks.io.ledger import Ledger
from ztasks.io.peers import Peer
from ztasks.io.sessions import Session, Weight
from ztasks.io.specs import Specs
from ztasks.io.stored import damaged_outcome, outcome_without
from ztasks.io.telling import Telling
from ztasks.wire.link import Cancel, Outcome, Range
from ztasks.wire.link_codec import encode
from ztasks.wire.messages import MAX_ITEMS, Failure
from ztasks.wire.outcomes import Parts, number_at, packed, runs, with_items
from ztasks.wire.payload import Items

SESSION_SECONDS: Final = 60.0
"""How long a client that is gone may come back to jobs that are in no journal; after so long, and again after as long,
it is looked whether its session is still needed."""


class Books:
    """All that the head knows of work, clients and foremen."""

    def __init__(self, ledger: Ledger, most_bytes: int) -> None:
        """`most_bytes`: how much work and outcomes may take in memory."""
        self.ledger = ledger
        self.most_bytes = most_bytes
        self.fleet = Fleet(random)
        self.peers: dict[int, Peer] = {}
        self.specs = Specs(ledger, most_bytes // 4)
        self.sessions: dict[int, Session] = {}
        self.gone: OrderedDict[int, float] = OrderedDict()
        """Sessions whose clients are not there, and when to look after them."""
        self.telling = Telling(ledger, self.peers)
        self.results = Results(most_bytes // 4)
        self.history = History()
        self.forgotten: OrderedDict[Name, int] = OrderedDict()
        """Jobs whose outcomes the journal holds until an operation is durable, though nobody shall be told any more."""
        self.undurable: deque[tuple[int, Session]] = deque()
        """Whose pending work enters the queue when an operation is durable."""
        self.doubtful: dict[Name, Work] = {}
        """Jobs that must not run twice, and had begun before this head was started: some foreman may hold them."""
        self.damaged: list[tuple[int, int, int]] = []
        """(session, first, count) of what the journal has lost: it is told as failed."""
        self.work_bytes = 0
        """Of arguments of items that have not ended."""
        self._weight = Weight()

    def session(self, number: int, now: float) -> Session:
        """Return the books on a session, opened if there are none."""
        found = self.sessions.get(number)
        if found is None:
            found = self.sessions[number] = Session(number, self._weight)
            self.look_later(found, now)
        return found

    def look_later(self, session: Session, now: float) -> None:
        """A session's client is not there: look after it by and by."""
        self.gone.pop(session.number, None)
        self.gone[session.number] = now + SESSION_SECONDS

    # --- work comes in ---

    def take_in(self, works: Iterable[Work]) -> None:
        """Count work that has not ended."""
        for work in works:
            self.work_bytes += work.nbytes
            self.specs.use(work)

    def find(self, session: int, number: int) -> Work | None:
        """Return the work that an item belongs to, wherever it waits; None if it has ended, or never was."""
        work = self.fleet.find(session, number) or self.doubtful.get((session, number))
        books = self.sessions.get(session)
        if work is not None or books is None or number not in books.undurable:
            return work
        return next((each for one in books.pending for each in one.works if each.first <= number < each.end), None)

    def on_durable(self, operation: int, now: float) -> list[Session]:
        """All operations up to this one are durable: what waited for that may run. Return the sessions of that work."""
        sessions: dict[int, Session] = {}
        while self.undurable and self.undurable[0][0] <= operation:
            _, session = self.undurable.popleft()
            self.fleet.on_submit(session.accept_next(), now)
            sessions[session.number] = session
        return list(sessions.values())

    # --- work has ended ---

    def end_by_foreman(
        self, outcome: Outcome, items: Items | None, frames: Sequence[Any], ended: list[Ended], skip: Sequence[int]
    ) -> None:
        """Items have ended as an outcome says, but for those to skip."""
        gone = {*outcome.withheld, *skip}
        offsets = [offset for offset in range(outcome.count) if offset not in gone] if gone else range(outcome.count)
        if not offsets:
            return
        states: dict[int, State] = {failure.offset: "failed" for failure in outcome.failures}
        states.update(dict.fromkeys(outcome.cancelled, "cancelled"))
        errors = {number_at(outcome, failure.offset): told_error(failure) for failure in outcome.failures}
        for end in ended:
            self._let_go(end, outcome.host, errors.get(end.work.first, "") if end.state == "failed" else "")
        self._tell_end(Parts(outcome, items), offsets, states, frames if not gone else None)

    def end_by_head(self, ended: list[Ended]) -> None:
        """Items have ended by the head's own decision."""
        for group in _groups(ended):
            outcome, states = _outcome_of(group)
            for end in group:
                self._let_go(end, "", told_error(end.failure))
            self._tell_end(Parts(outcome, None), range(outcome.count), states, None)

    def end_unheard(self, ended: list[Ended]) -> None:
        """Items have ended that their client does not want to hear of."""
        for end in ended:
            self._let_go(end, "", told_error(end.failure))
        for group in _groups([end for end in ended if self.telling.asked(end.work.session)]):
            outcome, states = _outcome_of(group)
            self._answer(Parts(outcome, None), range(outcome.count), states)

    def end_damaged(self) -> None:
        """Let jobs fail of which the journal has lost what they are, or what became of them."""
        for session, first, count in self.damaged:
            parts = Parts(damaged_outcome(session, first, count), None)
            self._tell_end(parts, range(count), dict.fromkeys(range(count), "failed"), None)
        self.damaged.clear()

    def _let_go(self, end: Ended, host: str, error: str) -> None:
        """Count back what was counted of work that has ended."""
        self.work_bytes -= end.work.nbytes
        self.specs.release(end.work)
        self.history.note(end, host, error)

    # --- what became of it is written down and told ---

    def _tell_end(
        self, parts: Parts, offsets: Sequence[int], states: dict[int, State], frames: Sequence[Any] | None
    ) -> None:
        """Items have ended; `frames`: the whole outcome as it came, if it is all of it."""
        session = self.sessions.get(parts.outcome.session)
        operation = self._write_end(session, parts, offsets, states)
        self._answer(parts, offsets, states)
        if session is None:
            return  # its client has left, and did not want it
        told, kept = self._divide(session, parts.outcome, offsets, states)
        for offset in kept:
            result = Result(states.get(offset, "done"), parts.alone(offset))
            self.results.put(session.number, number_at(parts.outcome, offset), result)
        if told:
            frames = frames if frames is not None and len(told) == len(offsets) else _without(parts, told)
            ranges = [(number_at(parts.outcome, start), stop - start) for start, stop in runs(parts.outcome, told)]
            in_journal = None if any(session.volatile.meets(*range_) for range_ in ranges) else operation
            self.telling.tell(session, session.keep(list(frames), ranges, in_journal))

    def _write_end(
        self, session: Session | None, parts: Parts, offsets: Sequence[int], states: dict[int, State]
    ) -> int | None:
        """Write to the journal how items have ended: what has one state and was accepted together by itself."""
        if session is None or not session.journaled:
            return None
        operation = None
        if session.volatile:
            offsets = [offset for offset in offsets if number_at(parts.outcome, offset) not in session.volatile]
        firsts = {offset for offset in offsets if number_at(parts.outcome, offset) in session.firsts}
        session.firsts.difference_update([number_at(parts.outcome, offset) for offset in firsts])
        for start, stop in _stretches(parts.outcome, offsets, states, firsts):
            state = states.get(start, "done")
            some, items = parts.part(start, stop)
            operation = self.ledger.end(state, some, items if state == "done" else None)
        return operation

    def _divide(
        self, session: Session, outcome: Outcome, offsets: Sequence[int], states: dict[int, State]
    ) -> tuple[Sequence[int], list[int]]:
        """Return what the session's client is told, and what is kept for whoever asks. What has failed is both."""
        sent = session.sent
        detached = {offset for offset in offsets if number_at(outcome, offset) in sent} if sent else set()
        sent.difference_update([number_at(outcome, offset) for offset in detached])
        if session.left:
            return [], list(offsets)
        kept = {offset for offset, state in states.items() if state in ("failed", "expired")}
        if len(offsets) < outcome.count:
            kept.intersection_update(offsets)
        told = [offset for offset in offsets if offset not in detached] if detached else offsets
        return told, sorted(kept | detached)

    def _answer(self, parts: Parts, offsets: Sequence[int], states: dict[int, State]) -> None:
        """Tell those who wait for the result of another's job."""
        outcome = parts.outcome
        asked = self.telling.asked(outcome.session)
        for offset in offsets if asked else ():
            number = number_at(outcome, offset)
            if number in asked:
                result = Result(states.get(offset, "done"), parts.alone(offset))
                self.telling.answer(outcome.session, number, result)

    def forget_outcomes(self, ranges: Sequence[tuple[int, int, int]]) -> None:
        """The journal has dropped outcomes that nobody fetched in time."""
        for number, first, count in ranges:
            self.results.drop_range(number, first, count)
            for each in range(first, first + count) if count <= len(self.history.revivable) else ():
                self.history.take(number, each)  # what the journal has forgotten cannot be run again durably
            session = self.sessions.get(number)
            if session is not None:
                session.drop_stored(first, count)

    # --- cancelling ---

    def cancel(self, session: int, ranges: list[Range], *, running: bool, now: float) -> int:
        """Cancel items; return how many have ended by that."""
        books = self.sessions.get(session)
        wanted = Ranges(ranges)
        within = wanted.within(1, books.accepted) if books is not None else list(wanted)
        ended, elsewhere = self.fleet.on_cancel(session, within, running, now)
        if books is not None and books.pending:
            ended += strike(books, wanted)
        self.end_by_head(ended)
        self.tell_foremen(elsewhere)
        for (other, number), work in self.doubtful.items() if running else ():
            if other == session and number in wanted:
                work.stopping = True
        return sum(end.work.count for end in ended)

    def tell_foremen(self, cancels: list[tuple[int, int, Range]]) -> None:
        """Have foremen cancel what they hold: (lane, session, range)."""
        grouped: dict[tuple[int, int], list[Range]] = {}
        for lane, session, range_ in cancels:
            grouped.setdefault((lane, session), []).append(range_)
        for (lane, session), ranges in grouped.items():
            peer = self.peers.get(lane)
            if peer is not None:
                peer.say(encode(Cancel(session, ranges, True)))

    # --- limits ---

    @property
    def full(self) -> str | None:
        """Why no new work can be accepted, or None."""
        if self.ledger.refusing is not None:
            return self.ledger.refusing
        taken = self.work_bytes + self.results.nbytes + self._weight.nbytes + self.specs.nbytes
        if taken > self.most_bytes:
            return (
                f"the head holds {taken >> 20} MiB of arguments and results, and may hold {self.most_bytes >> 20} MiB "
                "(--max-bytes)"
            )
        return None


def told_error(failure: Failure | None) -> str:
    """Return how a job has failed, for people."""
    return f"{failure.type_name}: {failure.message}" if failure is not None else ""


def strike(session: Session, wanted: Ranges) -> list[Ended]:
    """Take out of a session's pending work what is not wanted any more; return it as cancelled."""
    ended = []
    for pending in session.pending:
        if not wanted.meets(pending.first, pending.size):
            continue
        left: list[Work] = []
        for work in pending.works:
            for first, count in wanted.within(work.first, work.count):
                ended.append(Ended(work.part(first - work.first, first - work.first + count), "cancelled"))
                session.undurable.discard(first, count)
            for first, count in wanted.without(work.first, work.count):
                left.append(work.part(first - work.first, first - work.first + count))
        pending.works[:] = left
    return ended


def _groups(ended: list[Ended]) -> Iterator[list[Ended]]:
    """Yield what can be told together: of one session, jobs or items of maps, and not too many."""
    group: list[Ended] = []
    count = 0
    for end in ended:
        work = end.work
        if group and (
            work.session != group[0].work.session
            or work.whole is not group[0].work.whole
            or count + work.count > MAX_ITEMS
        ):
            yield group
            group, count = [], 0
        group.append(end)
        count += work.count
    if group:
        yield group


def _outcome_of(group: list[Ended]) -> tuple[Outcome, dict[int, State]]:
    """Return what became of works that have ended by the head's decision, and how each item has ended."""
    numbers: list[int] = []
    attempts: list[int] = []
    failures: list[Failure] = []
    cancelled: list[int] = []
    states: dict[int, State] = {}
    for end in group:
        offsets = range(len(numbers), len(numbers) + end.work.count)
        numbers += range(end.work.first, end.work.end)
        attempts += [end.work.attempt] * end.work.count
        states.update(dict.fromkeys(offsets, end.state))
        if end.failure is not None:
            failures += [msgspec.structs.replace(end.failure, offset=offset) for offset in offsets]
        else:
            cancelled += offsets
    same = attempts[0] if attempts.count(attempts[0]) == len(attempts) else attempts
    outcome = outcome_without(group[0].work.session, packed(numbers), same, len(numbers))
    return msgspec.structs.replace(outcome, failures=failures, cancelled=cancelled), states


def _without(parts: Parts, told: Sequence[int]) -> list[Any]:
    """Return an outcome as a content that tells of some of its items only."""
    outcome, wanted = parts.outcome, set(told)
    failures = [failure for failure in outcome.failures if failure.offset in wanted]
    cancelled = [offset for offset in outcome.cancelled if offset in wanted]
    withheld = [offset for offset in range(outcome.count) if offset not in wanted]
    items = parts.items if len(failures) + len(cancelled) < len(wanted) else None
    some = msgspec.structs.replace(outcome, failures=failures, cancelled=cancelled, withheld=withheld)
    return with_items(some, items)


def _stretches(
    outcome: Outcome, offsets: Sequence[int], states: dict[int, State], firsts: set[int]
) -> list[tuple[int, int]]:
    """Return stretches of consecutive items of one state, that do not go on where something begins."""
    found = []
    for start, stop in runs(outcome, offsets):
        if not states and not any(start < first < stop for first in firsts):
            found.append((start, stop))
            continue
        begin = start
        for offset in range(start + 1, stop + 1):
            if offset == stop or offset in firsts or states.get(offset, "done") != states.get(begin, "done"):
                found.append((begin, offset))
                begin = offset
    return found
