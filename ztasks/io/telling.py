"""How clients learn what they are to be told: outcomes of their own jobs, and answers to who waits for another's.

What it must hold: what is kept for a session is told as soon as its client is there and its link has room, and is kept
until that has acknowledged it; a slow client costs the head no more than what it keeps for it anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec

from ztasks.core.ranges import Ranges
from ztasks.errors import JournalError
from ztasks.io.history import Result
from ztasks.io.ledger import Ledger
from ztasks.io.peers import Peer
from ztasks.io.sessions import Session
from ztasks.io.stored import content_of, damaged_outcome
from ztasks.wire.link import Answer, Range, Refused, Resume
from ztasks.wire.link_codec import encode
from ztasks.wire.outcomes import with_items

MAX_NUMBER: Final = 1 << 62
"""No item has a greater number: all that is counted here fits into 64 bits."""

MOST_QUESTIONS: Final = 10_000
"""How many results a client may wait for at a time."""

GONE: Final = "the journal has dropped their outcomes: nobody has fetched them in time"


class Telling:
    """Tells clients."""

    def __init__(self, ledger: Ledger, peers: dict[int, Peer]) -> None:
        self._ledger = ledger
        self._peers = peers
        self._asked: dict[int, dict[int, dict[tuple[int, int], None]]] = {}
        """Who waits for the result of a job: by session and number, (lane, question)."""

    # --- what is kept for a session ---

    def tell(self, session: Session, name: int) -> None:
        """Tell a client what is kept under a name, as soon as there is room; nobody is told who is not there."""
        peer, kept = self._peer(session), session.get(name)
        if peer is None or kept is None:
            return
        if (session.untold or not peer.has_room) and not kept.refusal:
            session.untold.append(name)
        else:
            self._say(session, peer, name)

    def resume(self, session: Session, resume: Resume) -> None:
        """A client says what it waits for: tell it what has ended of that; what it has had is kept no longer."""
        wanted = Ranges(resume.outstanding)
        wanted.add(resume.accepted + 1, MAX_NUMBER)  # of these it has not heard that they are accepted
        session.untold.clear()
        for name, kept in session.kept():
            if not any(wanted.meets(first, count) for first, count in kept.ranges):
                self._fetched(session, name)
            elif kept.refusal:
                self.tell(session, name)
            else:
                session.untold.append(name)
        for first, count in list(session.stored):
            session.untold += wanted.within(first, count)
            for start, size in wanted.without(first, count):
                session.stored.discard(start, size)
                self._ledger.fetched(session.number, [(start, size)])
        self.feed(session)

    def feed(self, session: Session) -> None:
        """Tell a client more, as far as its link has room."""
        peer = self._peer(session)
        while peer is not None and session.untold and peer.has_room:
            what = session.untold.popleft()
            if isinstance(what, int):
                self._say(session, peer, what)
            else:
                self._load(session, peer, what)

    def _peer(self, session: Session) -> Peer | None:
        return self._peers.get(session.lane) if session.lane is not None else None

    def _say(self, session: Session, peer: Peer, name: int) -> None:
        kept = session.get(name)
        if kept is not None:
            upto = peer.say(*kept.frames)
            peer.on_acknowledged.append((upto, partial(self._fetched, session, name)))

    def _fetched(self, session: Session, name: int) -> None:
        """A client has it."""
        kept = session.drop(name)
        if kept is not None and kept.operation is not None:
            self._ledger.fetched(session.number, kept.ranges)

    def _load(self, session: Session, peer: Peer, numbers: Range) -> None:
        """Tell what the journal has of consecutive items, as far as there is room."""
        first, count = numbers
        end, gone = first + count, Ranges()
        while first < end and peer.has_room:
            if first not in session.stored:  # dropped, or void, in the meantime
                stop = min([start for start, _ in session.stored.within(first, end - first)], default=end)
                gone.add(first, stop - first)
                first = stop
                continue
            stop, frames = self.load(session.number, first, end)
            session.stored.discard(first, stop - first)
            if frames is None:
                gone.add(first, stop - first)
            else:
                self._say(session, peer, session.keep(frames, [(first, stop - first)], 0))
            first = stop
        if gone:
            peer.say(encode(Refused(list(gone), "dropped", GONE)))
        if first < end:
            session.untold.appendleft((first, end - first))

    def load(self, session: int, first: int, end: int) -> tuple[int, list[Any] | None]:
        """Return what the journal has of the outcome of an item, and of those behind it: up to which, and a content.

        None instead of a content: it has none.
        """
        try:
            found = self._ledger.outcome(session, first)
            if found is None:
                return first + 1, None
            stop = min(end, found.first + found.count)
            return stop, content_of(found, first, stop - first)
        except (JournalError, msgspec.MsgspecError):
            return first + 1, with_items(damaged_outcome(session, first, 1), None)

    # --- questions for results ---

    def ask(self, peer: Peer, question: int, session: int, number: int) -> bool:
        """Somebody waits for the result of a job; False if it waits for too many."""
        if len(peer.asked) >= MOST_QUESTIONS:
            return False
        peer.asked.add((session, number))
        self._asked.setdefault(session, {}).setdefault(number, {})[peer.lane, question] = None
        return True

    def withdraw(self, peer: Peer, question: int, session: int, number: int) -> None:
        """Somebody does not wait for the result of a job any more."""
        waiting = self._asked.get(session, {}).get(number)
        if waiting is None:
            return
        waiting.pop((peer.lane, question), None)
        if not any(lane == peer.lane for lane, _ in waiting):
            peer.asked.discard((session, number))
        if not waiting:
            self._forget(session, number)

    def asked(self, session: int) -> dict[int, dict[tuple[int, int], None]]:
        """Return the numbers of a session that somebody waits for the results of."""
        return self._asked.get(session, {})

    def answer(self, session: int, number: int, result: Result) -> None:
        """A job has ended: tell those who wait for it."""
        for lane, question in self._forget(session, number):
            peer = self._peers.get(lane)
            if peer is not None:
                peer.asked.discard((session, number))
                peer.say(encode(Answer(question, "", {"state": result.state})), *result.frames)

    def forget_questions(self, peer: Peer) -> None:
        """Whoever has asked is gone."""
        for session, number in peer.asked:
            waiting = self._asked.get(session, {}).get(number, {})
            for name in [name for name in waiting if name[0] == peer.lane]:
                del waiting[name]
            if not waiting:
                self._forget(session, number)
        peer.asked.clear()

    def _forget(self, session: int, number: int) -> Sequence[tuple[int, int]]:
        numbers = self._asked.get(session, {})
        found = list(numbers.pop(number, ()))
        if not numbers:
            self._asked.pop(session, None)
        return found
