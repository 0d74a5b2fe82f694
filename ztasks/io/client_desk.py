"""What the head does with the contents of clients: it accepts work, cancels, and answers.

What it must hold: a number is accepted once, however often it is submitted; a client that comes back learns what has
become of all that it waits for; and nothing is kept for one that will not come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Literal

from ztasks.core.ranges import Ranges
from ztasks.core.work import Ended, TaskSpec, Work
from ztasks.errors import WireError
from ztasks.io.books import Books, strike
from ztasks.io.peers import Peer
from ztasks.io.sessions import Pending, Session
from ztasks.io.stored import make_works
from ztasks.io.telling import GONE, MAX_NUMBER
from ztasks.wire.link import Accepted, Ask, Cancel, Define, Leaving, Range, Refused, Resume, Submit
from ztasks.wire.link_codec import decode_from_client, encode, items_in
from ztasks.wire.outcomes import items_of
from ztasks.wire.payload import Items

MOST_OUTSTANDING: Final = 1 << 22
"""So many of the items that a client waits for are looked for one by one, and no more."""

MOST_LOOKED_UP: Final = 1000
"""So many items are looked for in the journal when a client comes back."""

LOST: Final = "the head does not know these jobs (any more): it has been started anew, and they were in no journal"

Refusal = tuple[Literal["full", "invalid", "stopping", "undefined"], str]


class ClientDesk:
    """Serves all clients."""

    def __init__(
        self, books: Books, answer: Callable[[Peer, Ask, float], None], on_forgotten: Callable[[int], object]
    ) -> None:
        """`answer` answers questions; `on_forgotten` is told of sessions that are not needed any more."""
        self.closing: str | None = None
        """Why no new work is accepted any more."""
        self._books = books
        self._answer = answer
        self._on_forgotten = on_forgotten
        self._to_tell: dict[int, Session] = {}

    def on_content(self, peer: Peer, frames: list[Any], now: float) -> bool:
        """Take in a content; return whether its sender goes on. Raises WireError."""
        message = decode_from_client(bytes(frames[0]))
        session = self._books.session(peer.member.hello.incarnation, now)
        if isinstance(message, Submit):
            self._submit(peer, session, message, frames[1:], now)
        elif isinstance(message, Define):
            if len(frames) != 2:
                raise WireError("a task came without its callable")
            self._books.specs.define(message, bytes(frames[1]))
        elif isinstance(message, Resume):
            self._resume(peer, session, message)
        elif isinstance(message, Cancel):
            items_in(message.ranges)
            self._books.cancel(session.number, message.ranges, running=message.running, now=now)
        elif isinstance(message, Ask):
            self._answer(peer, message, now)
        else:
            assert isinstance(message, Leaving)
            self._leave(session, message, now)
            return False
        return True

    # --- joining and leaving ---

    def on_join(self, peer: Peer, now: float) -> None:
        """A client has joined."""
        session = self._books.session(peer.member.hello.incarnation, now)
        session.lane = peer.lane
        session.left = session.forgotten = False
        session.untold.clear()
        self._books.gone.pop(session.number, None)
        peer.on_room = partial(self._books.telling.feed, session)

    def on_gone(self, peer: Peer, now: float) -> None:
        """A client is gone, or has not been heard of for its lease, or joins anew."""
        books = self._books
        books.telling.forget_questions(peer)
        session = books.sessions.get(peer.member.hello.incarnation)
        if session is None or session.lane != peer.lane:
            return
        session.lane = None
        session.untold.clear()
        books.look_later(session, now)
        if session.left:
            self._end_if_idle(session)

    def _leave(self, session: Session, leaving: Leaving, now: float) -> None:
        """A client will not come back."""
        if leaving.cancel or not session.journaled:
            self.forget(session, now)
        session.left = True

    def forget(self, session: Session, now: float) -> None:
        """A session's jobs are not wanted any more, but for detached ones."""
        books, number = self._books, session.number
        unwanted = Ranges([(1, MAX_NUMBER)])
        for each in session.sent:
            unwanted.discard(each, 1)
        ended, elsewhere = books.fleet.on_cancel(number, unwanted.within(1, session.accepted), True, now)
        books.tell_foremen(elsewhere)
        ended += strike(session, unwanted)
        for name in [name for name in books.doubtful if name[0] == number and name[1] in unwanted]:
            ended.append(Ended(books.doubtful.pop(name), "cancelled"))
        books.end_unheard(ended)
        if session.journaled:
            books.ledger.forget(number)
        session.keep_nothing()
        session.left = session.forgotten = True
        self._end_if_idle(session)

    def _end_if_idle(self, session: Session) -> bool:
        """Forget a session altogether if nothing of it is left; tell whether that is so."""
        books, number = self._books, session.number
        if session.lane is not None or not session.idle:
            return False
        doubtful = any(name[0] == number for name in books.doubtful)
        if not session.forgotten and (books.fleet.has_session(number) or doubtful):
            return False
        if books.sessions.get(number) is session:
            del books.sessions[number]
            books.gone.pop(number, None)
            self._on_forgotten(number)
        return True

    def look_after_gone(self, now: float) -> None:
        """Give up sessions whose clients have been gone for long, or keep in the journal only what is kept for them."""
        books = self._books
        while books.gone and (first := next(iter(books.gone.items())))[1] <= now:
            number, _ = first
            del books.gone[number]
            session = books.sessions[number]
            if (session.cancel_on_exit or not session.journaled) and not session.left:
                self.forget(session, now)
            session.spill(books.ledger.durable)
            session.keep_no_volatile()
            if session.left:
                session.keep_nothing()
            if not self._end_if_idle(session):
                books.look_later(session, now)

    def _resume(self, peer: Peer, session: Session, resume: Resume) -> None:
        """A client says what it waits for: tell it what has ended, and what is lost."""
        items_in(resume.outstanding)
        if not 0 <= resume.accepted < MAX_NUMBER or any(sum(range_) > MAX_NUMBER for range_ in resume.outstanding):
            raise WireError("a client waits for numbers that cannot be")
        session.cancel_on_exit = resume.cancel_on_exit
        session.accepted = max(session.accepted, resume.accepted)
        session.told = resume.accepted  # it may not have heard of what came later
        if session.sent:  # somebody has had them run again, and they are waited for after all
            wanted = Ranges(resume.outstanding)
            session.sent = {number for number in session.sent if number not in wanted}
        lost = Ranges()
        for number, frames in self._look_for(session, resume.outstanding):
            if frames is None:
                lost.add(number, 1)
            else:
                session.keep(frames, [(number, 1)], 0 if session.journaled else None)
        self._books.telling.resume(session, resume)
        _say_lost(peer, session, lost)
        self._to_tell[session.number] = session

    def _look_for(self, session: Session, wanted: list[Range]) -> Iterator[tuple[int, list[Any] | None]]:
        """Yield those items that have ended and of which nothing is kept for their client, with what is found."""
        books, looked_up = self._books, 0
        for number in self._strange(session, wanted):
            result = books.results.get(session.number, number)
            frames = result.frames if result is not None else None
            if frames is None and session.journaled and looked_up < MOST_LOOKED_UP:
                looked_up += 1
                _, frames = books.telling.load(session.number, number, number + 1)
            yield number, frames

    def _strange(self, session: Session, wanted: list[Range]) -> Iterator[int]:
        """Yield those items that neither wait nor run, and of which nothing is kept for their client."""
        books, number = self._books, session.number
        left = MOST_OUTSTANDING
        for known in (session.held, session.stored, session.undurable):
            wanted = [part for first, count in wanted for part in known.without(first, count)]
        for first, count in wanted:
            at, end = first, first + count
            while at < end and left:
                left -= 1
                work = books.fleet.find(number, at)
                if work is None and (number, at) not in books.doubtful:
                    yield at
                at = work.end if work is not None else at + 1

    # --- work comes in ---

    def _submit(self, peer: Peer, session: Session, submit: Submit, frames: list[Any], now: float) -> None:
        items = items_of(submit, frames)
        first, count = submit.first, submit.count
        last = first + count - 1
        if items is None or max(last, submit.index + count, submit.map_number) >= MAX_NUMBER:
            raise WireError("work came without a form, or with numbers that cannot be")
        if first <= session.accepted < last:
            raise WireError("work came with some numbers that had been there before")
        self._to_tell[session.number] = session
        if last <= session.accepted:
            self._submit_again(peer, session, submit)
            return
        session.accepted = last
        spec = self._books.specs.get(submit.key)
        refusal = self._refusal(spec, items)
        if refusal is not None or spec is None:
            code, why = refusal or ("undefined", "")
            frame = encode(Refused([(first, count)], code, why))
            self._books.telling.tell(session, session.keep([frame], [(first, count)], refusal=True))
            return
        self._accept(session, make_works(session.number, spec, submit, items, now), submit, items, now)

    def _refusal(self, spec: TaskSpec | None, items: Items) -> Refusal | None:
        """Return why work cannot be accepted, if so."""
        if spec is None:
            return "undefined", "the head does not know its task (any more)"
        if self.closing is not None:
            return "stopping", self.closing
        if items.nbytes > self._books.most_bytes:
            return "invalid", (
                f"its arguments take {items.nbytes} bytes, and the head may hold {self._books.most_bytes} in all "
                "(--max-bytes)"
            )
        full = self._books.full
        return ("full", full) if full is not None else None

    def _accept(self, session: Session, works: list[Work], submit: Submit, items: Items, now: float) -> None:
        """Take work in: at once, or when it is in the journal."""
        books, first, count = self._books, submit.first, submit.count
        books.take_in(works)
        if submit.sent:
            session.sent.update(range(first, first + count))
        if submit.durable and books.ledger.is_kept:
            spec = works[0].spec
            books.ledger.define(spec.key, spec.define, spec.callable)
            operation = books.ledger.accept(session.number, submit, items)
            assert operation is not None, "there is a journal"
            session.journaled = True
            session.firsts.add(first)
            session.wait(Pending(operation, first, count, works))
            books.undurable.append((operation, session))
        else:
            session.volatile.add(first, count)
            books.fleet.on_submit(works, now)

    def _submit_again(self, peer: Peer, session: Session, submit: Submit) -> None:
        """Work has come before, and its client has not heard of it: say so if it was not taken in, or is lost."""
        lost = Ranges()
        if not submit.sent:  # somebody may have had some run again, and they are waited for after all
            session.sent.difference_update(range(submit.first, submit.first + submit.count))
        for number, frames in self._look_for(session, [(submit.first, submit.count)]):
            if frames is None:
                lost.add(number, 1)
            elif not submit.sent:
                name = session.keep(frames, [(number, 1)], 0 if session.journaled else None)
                self._books.telling.tell(session, name)
        _say_lost(peer, session, lost)

    # --- once a turn ---

    def on_durable(self, operation: int, now: float) -> None:
        """All operations up to this one are durable: what was accepted by them may run."""
        for session in self._books.on_durable(operation, now):
            self._to_tell[session.number] = session

    def tell_accepted(self) -> None:
        """Tell clients what has been accepted."""
        for session in self._to_tell.values():
            peer = self._books.peers.get(session.lane) if session.lane is not None else None
            upto = session.take_acceptable()
            if peer is not None and upto is not None:
                peer.say(encode(Accepted(upto)))
        self._to_tell.clear()


def _say_lost(peer: Peer, session: Session, lost: Ranges) -> None:
    """Tell a client of what it waits for in vain: unknown here, or over, and its outcome dropped."""
    dropped = Ranges()
    for first, count in list(lost):
        for part, size in session.dropped.within(first, count):
            dropped.add(part, size)
            lost.discard(part, size)
    for ranges, code, why in ((lost, "unknown", LOST), (dropped, "dropped", GONE)):
        if ranges:
            peer.say(encode(Refused(list(ranges), code, why)))  # type: ignore[arg-type]
