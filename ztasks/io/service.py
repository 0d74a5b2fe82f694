"""The head as a service: clients and foremen on other hosts, in one thread.

    clients (ROUTER) <-> clients: greetings, chunks of work, questions, outcomes
    sink (PULL)      <-  foremen: greetings, chunks of outcomes, receipts, signs of life
    control (PUB)     -> foremen: Welcome, Reject, Void, signs of life
    lanes (PUSH)      -> one for each foreman: chunks of work, receipts

What it must hold: it answers whoever has joined, and nobody else; a message names its lane, and must come with the key
that the lane belongs to; no peer can end it, or hold it up for long; and it never unpickles anything.
"""

from __future__ import annotations

import selectors
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from random import randrange
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

from ztasks import __version__
from ztasks.core.roster import LANES_PER_EPOCH, Roster
from ztasks.errors import WireError
from ztasks.io.answers import Answers
from ztasks.io.books import Books
from ztasks.io.client_desk import ClientDesk
from ztasks.io.foreman_desk import ForemanDesk
from ztasks.io.head_end import HeadEnd
from ztasks.io.joins import Joins
from ztasks.io.ledger import EPOCH, FOREMEN, Ledger, load_foremen
from ztasks.io.lifesigns import LifeSigns
from ztasks.io.peers import Peer
from ztasks.io.recovery import recover
from ztasks.io.terms import Log, Place, Seldom, Terms
from ztasks.io.wakeup import Wakeup
from ztasks.wire.link import Alive, Chunk, Hello, Received, Wanted
from ztasks.wire.link_codec import decode_at_head

if TYPE_CHECKING:
    from ztasks.io.gatekeeper import Gatekeeper
    from ztasks.io.journal import Journal
    from ztasks.io.journal_ops import Recovered
    from ztasks.io.net import HeadSockets, NetSocket
    from ztasks.io.net import Received as NetMessage

MESSAGES_AT_ONCE: Final = 128

LEAST_WAIT: Final = 5.0
"""So long, at least, it is waited for foremen to come back that were there before this head was started: a connection
that is down is tried again every few seconds."""

EPOCH_SECONDS: Final = 2.0
"""How long it is waited, at the start, until it is written down which run of the head this is."""

LOOK_SECONDS: Final = 0.25
"""How often it is looked for what is to be done while nothing is given out."""


class Service:
    """One head, from its start to its end; `run` it in the main thread."""

    def __init__(
        self, sockets: HeadSockets, place: Place, terms: Terms, journal: Callable[[Service], Journal | None], log: Log
    ) -> None:
        """`journal` opens the journal, which calls `on_durable` and `on_dropped`. Raises JournalError."""
        self._sockets, self._place, self._terms, self._log = sockets, place, terms, log
        self._seldom = Seldom(log)
        self._touched: set[Peer] = set()
        """Peers to whom something may have to be sent."""
        self._undurable: dict[Peer, None] = {}
        """Foremen to whom something is acknowledged when it is durable."""
        self._settled_durable = 0
        self._dropped: deque[list[tuple[int, int, int]]] = deque()
        self._selector: selectors.BaseSelector | None = None
        self.journal: Journal | None = None
        self.killed = False
        self.started = time()
        self._opened = monotonic()
        self._wakeup = Wakeup()
        try:
            self.journal = journal(self)
            self._ledger = Ledger(self.journal)
            self.books = Books(self._ledger, terms.max_bytes)
            recovered = recover(self.journal, self.books) if self.journal is not None else None
            self._make_parts(recovered)
        except BaseException:
            self._close_journal(5.0)
            self._wakeup.close()
            raise

    def _make_parts(self, recovered: Recovered | None) -> None:
        notes = recovered.notes if recovered is not None else {}
        self.recovered = recovered.told if recovered is not None else ""
        epoch = max(int(notes.get(EPOCH, b"0")) + 1, int(time()))
        self.roster = Roster(epoch, __version__, randrange(LANES_PER_EPOCH // 2))
        books, terms, log = self.books, self._terms, self._log
        awaited = load_foremen(notes.get(FOREMEN, b"")) if books.fleet.pending or books.doubtful else []
        self._foremen = ForemanDesk(books, log, awaited, self._opened + max(terms.lease, LEAST_WAIT))
        self._answers = Answers(self)
        self._clients = ClientDesk(books, self._answers.answer, self.roster.free)
        desks = self._clients, self._foremen
        self._joins = Joins(self._sockets, self._place, terms, self.roster, books, desks, self._touch, log)
        self._signs = LifeSigns(self._sockets, terms, books, self._joins, log)
        self.end = HeadEnd(books, self.roster, self._clients, terms.drain_seconds, log)

    def _touch(self, peer: Peer) -> None:
        self._touched.add(peer)

    @property
    def gatekeeper(self) -> Gatekeeper:
        """Who lets peers in."""
        return self._sockets.gatekeeper

    # --- other threads, signal handlers ---

    def on_durable(self, operation: int) -> None:
        """The journal's thread: all operations up to this one are durable."""
        self._ledger.durable = operation
        self._wakeup.set()

    def on_dropped(self, ranges: Sequence[tuple[int, int, int]]) -> None:
        """The journal's thread: outcomes (session, first, count) that nobody fetched in time are dropped."""
        self._dropped.append(list(ranges))
        self._wakeup.set()

    def stop(self, wanted: Wanted = "run") -> None:
        """Accept no more, and end. `run`: workers wait for the next head; `stop`: they finish what runs, and leave;
        `drain`: all that is queued is finished first, then they leave."""
        self.end.wanted = wanted
        self._wakeup.set()

    def kill(self) -> None:
        """End at once."""
        self.killed = True
        self._wakeup.set()

    # --- the loop ---

    def open(self) -> None:
        """Listen; raises CannotListen and OSError."""
        host, port = self._place.host, self._place.port
        self._router = self._sockets.clients(host, port)
        self._sink = self._sockets.sink(host, port + 1)
        self._control = self._sockets.control(host, port + 2)
        self._joins.open(self._router, self._control)
        self._signs.open(self._control)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._wakeup.clear)
        if self.journal is not None:
            self.journal.start()
            self._note_epoch()
            self.books.end_damaged()
        gate: Any = self._sockets.gatekeeper.socket
        for sock in (self._router, self._sink, gate):
            self._selector.register(sock.descriptor(), selectors.EVENT_READ, _nothing)
        # Nothing is read from this one, and without foremen nothing is sent: it takes in who has gone when it is asked.
        self._selector.register(self._control.descriptor(), selectors.EVENT_READ, self._control.writable)

    def _note_epoch(self) -> None:
        """Write down which run of the head this is, before anybody is told: the next one must have a greater number."""
        assert self._selector is not None, "it is made before"
        operation = self._ledger.note_epoch(self.roster.epoch) or 0
        end = monotonic() + EPOCH_SECONDS
        while self._ledger.durable < operation and (left := end - monotonic()) > 0:
            for key, _ in self._selector.select(left):
                key.data()

    def run(self) -> int:
        """Serve until told to stop; return the exit code."""
        try:
            while not self.killed:
                if self._turn():
                    return 0
            return 1
        finally:
            self.close()

    def close(self) -> None:
        """Close everything, in order."""
        self._close_journal(5.0)
        self._sockets.close()
        if self._selector is not None:
            self._selector.close()
        self._wakeup.close()

    def _close_journal(self, seconds: float) -> None:
        if self.journal is not None and not self.journal.close(seconds):
            self._log("journal", "the journal could not be brought up to date before the end", level="error")

    def _turn(self) -> bool:
        """Do what there is to do, and sleep; tell whether it is time to end."""
        now = monotonic()
        self._sockets.gatekeeper.answer(now)
        self._read(self._router, now)
        self._read(self._sink, now)
        self._settle_journal(now)
        self._foremen.expire(now)
        gives_out = self.end.wanted in (None, "drain") and not self._foremen.waits(now)
        if gives_out:
            self._foremen.dispatch(now)
        self._answers.reviving.go_on(now)
        self._clients.tell_accepted()
        if self._signs.go_on(now):
            self._look_around(now)
        self._flush()
        if self.end.wanted is not None and self.end.reached(now, self._signs.say):
            return True
        due = self._signs.due(now)
        if self._answers.reviving.busy or self._waiting():
            due = 0.0
        elif not gives_out:
            due = min(due, LOOK_SECONDS)
        elif (soonest := self.books.fleet.next_event(now)) is not None:
            due = min(due, soonest)
        assert self._selector is not None, "it is open"
        for key, _ in self._selector.select(due):
            key.data()
        return False

    def _look_around(self, now: float) -> None:
        """Twice in each heartbeat: what nothing else gives occasion to."""
        self._clients.look_after_gone(now)
        self._foremen.note_names()
        if now - self._opened > 2 * max(self._terms.lease, LEAST_WAIT):
            self._foremen.await_no_more()

    def _flush(self) -> None:
        """Send what is to be sent to those peers with whom something has happened."""
        while self._touched:
            touched, self._touched = self._touched, set()
            for peer in touched:
                peer.flush()
            for peer in touched:  # behind what somebody waits for
                peer.say_received()

    def _waiting(self) -> bool:
        gate: Any = self._sockets.gatekeeper.socket
        return self._router.readable() or self._sink.readable() or gate.readable()

    def _settle_journal(self, now: float) -> None:
        while self._dropped:
            self.books.forget_outcomes(self._dropped.popleft())
        durable = self._ledger.durable
        if durable == self._settled_durable:
            return
        self._settled_durable = durable
        self._clients.on_durable(durable, now)
        self._foremen.on_durable(durable, now)
        for peer in list(self._undurable):
            peer.on_durable(durable)
            if not peer.undurable or peer.lost:
                del self._undurable[peer]
                self._let_go(peer, now)

    # --- in ---

    def _read(self, sock: NetSocket, now: float) -> None:
        for _ in range(MESSAGES_AT_ONCE):
            if not sock.readable():
                return
            message = sock.receive()
            if message is None:
                continue
            try:
                self._take(message, sock, now)
            except WireError as error:
                self._seldom("bad-message", f"a message was dropped: {error}", now)

    def _take(self, message: NetMessage, sock: NetSocket, now: float) -> None:
        header = decode_at_head(bytes(message.frames[0]))
        if isinstance(header, Hello):
            self._joins.greet(header, message, sock, now)
            return
        member = self.roster.of_sender(header.lane, message.user_id)
        peer = self.books.peers.get(header.lane)
        if member is None or peer is None or peer.is_foreman is (sock is self._router):
            self._joins.answer_stranger(header.lane, message, sock, now)
            return
        if message.route:
            peer.route = message.route
        self._touch(peer)
        try:
            self._keep_link(peer, header, message.frames[1:], now)
        except WireError as error:
            what = f"{peer.name} does not follow the protocol, and is cut off: {error}"
            self._seldom("bad-peer", what, now, level="error")
            self._joins.lose(peer, now, "it did not follow the protocol")
        except Exception:  # noqa: BLE001 - one peer's message must not end the head for all others
            what = f"a defect in ztasks: what {peer.name} sent cannot be dealt with. Please report this.\n"
            self._seldom("defect", what + traceback.format_exc(), now, level="error")
            self._joins.lose(peer, now, "its messages cannot be dealt with")

    def _keep_link(self, peer: Peer, header: Chunk | Received | Alive, frames: list[Any], now: float) -> None:
        link = peer.link
        if isinstance(header, Chunk):
            content = link.on_chunk(header, frames, now)
            if content is not None and not peer.leaving:
                self._on_content(peer, content.frames, content.upto, now)
        elif isinstance(header, Received):
            link.on_received(header, now)
        else:
            link.on_alive(header, now)
            if peer.is_foreman:
                self._foremen.on_alive(peer, header)

    def _on_content(self, peer: Peer, frames: list[Any], upto: int, now: float) -> None:
        if peer.is_foreman:
            self._foremen.on_content(peer, frames, upto, now)
        else:
            peer.leaving = not self._clients.on_content(peer, frames, now)
            peer.dealt_with(upto, None)
        if peer.undurable:
            self._undurable[peer] = None
        else:
            self._let_go(peer, now)

    def _let_go(self, peer: Peer, now: float) -> None:
        """Whoever has said its last is let go when all of it has been dealt with."""
        if peer.leaving and not peer.lost:
            peer.flush()
            peer.say_received()
            self._joins.lose(peer, now)


def _nothing() -> None:
    """A ZeroMQ descriptor only wakes the loop, which then looks at the socket itself."""
