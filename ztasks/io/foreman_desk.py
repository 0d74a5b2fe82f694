"""What the head does with the contents of foremen, and what it sends them.

What it must hold: a content is acknowledged when what it says is durable; a job that must not run twice is sent when it
is durable that it begins; and whatever a foreman says is checked before the books are changed.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec

from ztasks.core.fleet import HostSend
from ztasks.core.fleet_endings import lost_with_host
from ztasks.core.ranges import Ranges
from ztasks.core.routing import Offer
from ztasks.core.slices import State
from ztasks.core.work import Ended, Settled, Work
from ztasks.errors import WireError
from ztasks.io.books import Books
from ztasks.io.peers import Peer
from ztasks.units import cut
from ztasks.wire.certificate import DeathCertificate
from ztasks.wire.link import (
    Alive,
    Batch,
    Cancel,
    Died,
    Forget,
    Held,
    Holding,
    Leaving,
    Outcome,
    Range,
    Recall,
    Returned,
)
from ztasks.wire.link_codec import decode_from_foreman, encode, items_in
from ztasks.wire.loss import Loss
from ztasks.wire.outcomes import items_of, number_at, packed, with_items
from ztasks.wire.payload import Items, Pickled, pack

MOST_UNRECORDED: Final = 100
"""So many attempts of a job that this head does not know of are believed: its journal may have been a little behind."""

MOST_LOOKED_AT: Final = 1000
"""At so many items of a holding it is looked for the first that has not ended."""

STOPPED: Final = "the job was stopped: an earlier run of the head had given it up"

SHOWN: Final = 16 * 1024
"""How many characters of each part of a death certificate are kept."""


class Beginning(NamedTuple):
    """A job that is sent when it is durable that it begins."""

    operation: int
    peer: Peer
    work: Work
    frames: list[Any]


class ForemanDesk:
    """Serves all foremen."""

    def __init__(self, books: Books, log: Callable[..., None], awaited: Iterable[str] = (), until: float = 0.0) -> None:
        """`awaited`: the names of those that may come back with what was queued when this head was started. They may
        be at it already, so until then nothing is given out before all of them are there."""
        self.awaited = set(awaited)
        self._books = books
        self._log = log
        self._until = until
        self._names_changed = False
        """Whether others have joined than is written down."""
        self._beginning: deque[Beginning] = deque()

    # --- joining and leaving ---

    def on_join(self, peer: Peer, now: float, earlier: int | None) -> None:
        """A foreman has joined; `earlier`: its lane until now, if that was not lost."""
        hello = peer.member.hello
        offer = Offer(
            hello.name,
            hello.host,
            hello.slots,
            frozenset(hello.queues or ("default",)),
            frozenset(hello.tags),
            dict(hello.resources),
            hello.python,
        )
        self._books.fleet.on_join(peer.lane, offer, now, earlier=earlier)
        self._names_changed = True

    def on_gone(self, peer: Peer, now: float, why: str) -> None:
        """A foreman is gone, or has not been heard of for its lease."""
        self._take_back(peer, now)
        self._books.end_by_head(self._books.fleet.on_lost(peer.lane, now, why))
        self.expire(now)
        self._names_changed = True

    def on_alive(self, peer: Peer, alive: Alive) -> None:
        """A foreman says how much it will hold, and what it does."""
        self._books.fleet.on_credit(peer.lane, alive.credit)
        if alive.wanted != "run":
            self._books.fleet.on_wanted(peer.lane, alive.wanted)

    def note_names(self) -> None:
        """Write down who has joined, if that has changed."""
        if self._names_changed:
            self._names_changed = False
            here = {peer.name for peer in self._books.peers.values() if peer.is_foreman}
            self._books.ledger.note_foremen(sorted(here | self.awaited))

    def await_no_more(self) -> None:
        """Whoever has not come back by now will not: jobs that must not run twice are lost with it."""
        if self.awaited:
            self._log("missing", f"these workers have not come back: {cut(', '.join(sorted(self.awaited)), 500)}")
            self.awaited.clear()
            self._names_changed = True
        ended = []
        for work in self._books.doubtful.values():
            why = "the head was started anew, and that worker has not come back"
            failure = lost_with_host(work, "some worker", "", why)
            ended.append(Ended(work, "cancelled") if work.stopping else Ended(work, "failed", failure))
        self._books.doubtful.clear()
        self._books.end_by_head(ended)

    # --- contents come in ---

    def on_content(self, peer: Peer, frames: list[Any], upto: int, now: float) -> None:
        """Take in a content; `peer.leaving` is set if it is its sender's last. Raises WireError."""
        message = decode_from_foreman(bytes(frames[0]))
        if isinstance(message, Outcome):
            self._outcome(peer, message, frames, now)
        elif isinstance(message, Died):
            died = msgspec.structs.replace(message, certificate=_short(message.certificate))
            self._settle(self._books.fleet.on_died(peer.lane, died, now))
        elif isinstance(message, Returned):
            self._returned(peer, message, now)
        elif isinstance(message, Held):
            self._held(peer, message, now)
        else:
            assert isinstance(message, Leaving)
            self._books.fleet.on_wanted(peer.lane, "stop")
            if not message.cancel:
                self._return_all(peer, now)
            peer.leaving = True
        self.expire(now)  # what was to be cancelled may have come back by this
        peer.dealt_with(upto, self._operation(message))

    def _operation(self, message: Outcome | Died | Returned | Held | Leaving) -> int | None:
        """Return the operation that must be durable before a content is acknowledged, if any: the last that there is.

        Also if this content has led to none: it may say again what has been written down and is not durable yet.
        """
        ledger = self._books.ledger
        session = self._books.sessions.get(message.session) if not isinstance(message, Held | Leaving) else None
        if ledger.durable >= ledger.appended or (session is not None and not session.journaled):
            return None
        return ledger.appended

    def _outcome(self, peer: Peer, outcome: Outcome, frames: list[Any], now: float) -> None:
        items = items_of(outcome, frames[1:])
        if any(type(failure) is Loss for failure in outcome.failures):
            raise WireError("a foreman tells of a loss, which only a head does")
        if outcome.cancelled:
            self._give_up_stopped(peer, outcome, now)
        settled = self._books.fleet.on_outcome(peer.lane, outcome, now)
        self._books.end_by_foreman(outcome, items, frames, settled.ended, settled.skip)
        self._settle(Settled([], [], settled.retried))
        self._cancel_copies()

    def _give_up_stopped(self, peer: Peer, outcome: Outcome, now: float) -> None:
        """Jobs were stopped, which nobody here has wanted: a head that was killed had, and it may not be known why.

        Others are run again. Those that must not run twice are lost.
        """
        for offset in outcome.cancelled:
            number = number_at(outcome, offset)
            work = self._books.fleet.find(outcome.session, number)
            if work is None or not work.spec.options.at_most_once or work.stopping:
                continue
            death = DeathCertificate(pid=outcome.pid, host=outcome.host, reason=STOPPED)
            died = Died(outcome.session, number, work.attempt, False, death)
            self._settle(self._books.fleet.on_died(peer.lane, died, now))

    def _settle(self, settled: Settled) -> None:
        """Write down who was charged, and tell of what the head has ended."""
        self._books.end_by_head(settled.ended)
        for work in settled.retried:
            if self._is_journaled(work):
                self._books.ledger.charge(work)

    def _is_journaled(self, work: Work) -> bool:
        session = self._books.sessions.get(work.session)
        return session is not None and session.journaled

    def _cancel_copies(self) -> None:
        """Have copies cancelled of jobs whose result came from elsewhere."""
        fleet = self._books.fleet
        if fleet.to_cancel:
            cancels, fleet.to_cancel = fleet.to_cancel, []
            self._books.tell_foremen(cancels)

    def _returned(self, peer: Peer, returned: Returned, now: float) -> None:
        items_in(returned.ranges)
        ranges = Ranges(returned.ranges)
        back = [work for work in self._once(peer) if work.session == returned.session and work.first in ranges]
        self._books.fleet.on_returned(peer.lane, returned.session, list(ranges), now)
        self._note_not_begun(back)

    def _return_all(self, peer: Peer, now: float) -> None:
        """A foreman leaves in order: what is still under way to it will not begin there."""
        back = self._once(peer)
        sessions: dict[int, list[Range]] = defaultdict(list)
        for work in self._books.fleet.lanes[peer.lane].held():
            sessions[work.session].append((work.first, work.count))
        for session, ranges in sessions.items():
            self._books.fleet.on_returned(peer.lane, session, ranges, now)
        self._note_not_begun(back)

    def _once(self, peer: Peer) -> list[Work]:
        """Return what a foreman holds of jobs that must not run twice."""
        lane = self._books.fleet.lanes[peer.lane]
        if not any(spec.options.at_most_once for spec in lane.counts):
            return []
        return [work for work in lane.held() if work.spec.options.at_most_once]

    def _note_not_begun(self, works: list[Work]) -> None:
        """Write down of jobs that must not run twice that they are back, and have not run."""
        for work in works:
            if work.state is State.QUEUED and self._is_journaled(work):
                self._books.ledger.not_begun(work)

    def _held(self, peer: Peer, held: Held, now: float) -> None:
        """A foreman says what it holds: what is not wanted from it is cancelled there."""
        books = self._books
        items_in([(holding.first, holding.count) for holding in held.holdings])
        holdings = [self._believed(holding) for holding in held.holdings]
        once = self._once(peer)
        adopted = self._find_doubtful(held)
        books.fleet.on_submit(adopted, now)
        drops: dict[int, list[Range]] = defaultdict(list)
        for session, range_ in books.fleet.on_held(peer.lane, holdings, now, defined=held.defined):
            drops[session].append(range_)
        self._note_not_begun(once)
        for work in adopted:
            if work.stopping:  # its client has given it up while nobody knew where it was
                drops[work.session].append((work.first, 1))
        for session, ranges in drops.items():
            peer.say(encode(Cancel(session, ranges, True)))
        self.awaited.discard(peer.name)
        if not self.awaited:
            self.await_no_more()

    def _believed(self, holding: Holding) -> Holding:
        """Return what a foreman holds, in an attempt that can be."""
        for number in range(holding.first, holding.first + min(holding.count, MOST_LOOKED_AT)):
            work = self._books.find(holding.session, number)
            if work is not None or holding.session not in self._books.sessions:
                break
        most = (work.attempt if work is not None else 1) + MOST_UNRECORDED
        if holding.attempt < 1:
            raise WireError(f"a foreman holds a job in attempt {holding.attempt}")
        return holding if holding.attempt <= most else msgspec.structs.replace(holding, attempt=most)

    def _find_doubtful(self, held: Held) -> list[Work]:
        """Return those jobs that must not run twice and that a foreman holds; they are not doubtful any more."""
        doubtful = self._books.doubtful
        if not doubtful:
            return []
        here: dict[int, Ranges] = defaultdict(Ranges)
        for holding in held.holdings:
            here[holding.session].add(holding.first, holding.count)
        names = [name for name in doubtful if name[0] in here and name[1] in here[name[0]]]
        return [doubtful.pop(name) for name in names]

    # --- work goes out ---

    def waits(self, now: float) -> bool:
        """Tell whether nothing is to be given out yet."""
        return bool(self.awaited) and now < self._until

    def expire(self, now: float) -> None:
        """End what has not begun in time, and what was to be cancelled and has come back."""
        self._books.end_by_head(self._books.fleet.expire(now))

    def dispatch(self, now: float) -> None:
        """Send what shall be sent."""
        books = self._books
        sends = books.fleet.dispatch(now)
        if sends:
            self.note_names()
        for send in sends:
            self._send(send)
        for lane in books.fleet.recallable(now):
            peer = books.peers.get(lane)
            if peer is not None:
                peer.say(encode(Recall()))

    def _send(self, send: HostSend) -> None:
        peer = self._books.peers[send.lane]
        if send.forget:
            peer.say(encode(Forget(list(send.forget))))
        if send.define is not None:
            peer.say(encode(send.define.define), send.define.callable)
        frames = batch_frames(send.works)
        work = send.works[0]
        operation = None
        if work.spec.options.at_most_once and self._is_journaled(work):
            operation = self._books.ledger.begin(work)
        if operation is None:
            peer.say(*frames)
        else:
            self._beginning.append(Beginning(operation, peer, work, frames))

    def on_durable(self, operation: int, now: float) -> None:
        """All operations up to this one are durable: send the jobs of which it is written down that they begin."""
        while self._beginning and self._beginning[0].operation <= operation:
            beginning = self._beginning.popleft()
            if not _is_still_there(beginning):
                continue
            if beginning.work.stopping:  # its client has given it up in the meantime
                self._give_back(beginning, now)
            else:
                beginning.peer.say(*beginning.frames)

    def _give_back(self, beginning: Beginning, now: float) -> None:
        """A job was not sent after all."""
        work = beginning.work
        self._books.fleet.on_returned(beginning.peer.lane, work.session, [(work.first, 1)], now)
        self._note_not_begun([work])
        self.expire(now)

    def _take_back(self, peer: Peer, now: float) -> None:
        """A foreman's lane is void: what was to be sent down it has not begun."""
        left: deque[Beginning] = deque()
        for beginning in self._beginning:
            if beginning.peer is not peer:
                left.append(beginning)
            elif _is_still_there(beginning):
                self._give_back(beginning, now)
        self._beginning = left


def _is_still_there(beginning: Beginning) -> bool:
    """Tell whether a job is still meant for the foreman's lane."""
    batch = beginning.work.batch
    return not beginning.peer.lost and batch is not None and batch.lane.number == beginning.peer.lane


def _short(certificate: DeathCertificate) -> DeathCertificate:
    """Return a death certificate of bounded length."""
    texts = {
        name: cut(value, SHOWN)
        for name in certificate.__struct_fields__
        if isinstance(value := getattr(certificate, name), str) and len(value) > SHOWN
    }
    return msgspec.structs.replace(certificate, **texts) if texts else certificate


def batch_frames(works: list[Work]) -> list[Any]:
    """Return the content that gives works, all of one task and session, to a foreman."""
    first = works[0]
    payloads: list[Any] = [work.payload for work in works]
    if isinstance(first.payload, Items):
        items, count = first.payload, first.count
    else:
        count = len(works)
        if all(type(payload) is bytes for payload in payloads):
            items = Items("each", count, b"".join(payloads), [len(payload) for payload in payloads])
        else:
            items = pack([payload if isinstance(payload, Pickled) else Pickled(payload, []) for payload in payloads])
    numbers = [work.first for work in works]
    batch = Batch(
        first.session,
        first.spec.key,
        packed(numbers),
        count,
        first.whole,
        first.index,
        first.map_number,
        _of_each([work.failures for work in works]),
        _of_each([work.crashes for work in works]),
        first.shape,
        items.form,
        items.skip,
        items.sizes,
        items.buffer_counts,
        first.detail,
        None,
    )
    return with_items(batch, items)


def _of_each(numbers: list[int]) -> int | list[int]:
    return numbers[0] if numbers.count(numbers[0]) == len(numbers) else numbers
