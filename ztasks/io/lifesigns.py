"""Signs of life, and leases: saying that this head is alive, and noticing who is not any more.

What it must hold: each peer is told so once in each heartbeat; whoever was silent for its lease, or whose key was
revoked, is given up; but not because of this process's own silence. Many peers are looked at in several turns.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Final

from ztasks.errors import ZtasksError
from ztasks.io.books import Books
from ztasks.io.joins import Joins
from ztasks.io.peers import Peer
from ztasks.io.terms import Log, Seldom, Terms
from ztasks.wire.link import Alive
from ztasks.wire.link_codec import encode

if TYPE_CHECKING:
    from ztasks.io.net import HeadSockets, NetSocket

PEERS_AT_ONCE: Final = 200
"""How many peers are looked at in one turn."""


STALLED_LEASES: Final = 6
"""A peer that is heard, but has received nothing of what waits for it for so many leases, is given up: its connection
leads here only. A chunk takes less on any link that is worth the name."""


class LifeSigns:
    """Goes round all peers, twice in each heartbeat."""

    def __init__(self, sockets: HeadSockets, terms: Terms, books: Books, joins: Joins, log: Log) -> None:
        self._sockets = sockets
        self._terms = terms
        self._books = books
        self._joins = joins
        self._seldom = Seldom(log)
        self._round: deque[Peer] = deque()
        """Who has not been looked at in this round."""
        self._began = monotonic()
        self._next = 0.0
        self._own_fault = False
        """Whether this process has not run for long: what others have said meanwhile is waiting to be read."""

    def open(self, control: NetSocket) -> None:
        """Take the socket to speak on."""
        self._control = control

    def due(self, now: float) -> float:
        """Return in how many seconds there is something to be done."""
        return 0.0 if self._round else max(0.0, self._next - now)

    def go_on(self, now: float) -> bool:
        """Look at some peers, if it is time; tell whether a round has begun."""
        begins = not self._round and now >= self._next
        if begins:
            self._sockets.count()
            self._own_fault = now - self._began > self._terms.lease / 2
            self._began, self._next = now, now + self._terms.heartbeat / 2
            self._round.extend(self._books.peers.values())
        for _ in range(min(PEERS_AT_ONCE, len(self._round))):
            self._look_at(self._round.popleft(), now)
        return begins

    def _look_at(self, peer: Peer, now: float) -> None:
        if peer.lost:
            return
        if self._own_fault:
            peer.link.heard = max(peer.link.heard, now - self._terms.lease / 2)
        if not self._allowed(peer, now):
            self._joins.lose(peer, now, "its key was revoked")
        elif peer.link.expired(now):
            self._joins.lose(peer, now, f"nothing was heard of it for {peer.link.silent(now):.1f} s")
        elif peer.link.stalled(now, anew=self._own_fault) > STALLED_LEASES * self._terms.lease:
            self._joins.lose(peer, now, self._say_stalled(peer))
        else:
            peer.flush()
            alive = peer.link.alive(now)
            if alive is not None:
                peer.send_raw(encode(alive))
                self.say(peer, alive)

    def _say_stalled(self, peer: Peer) -> str:
        port = f" (port {peer.lane_socket.port}: is it open?)" if peer.lane_socket is not None else ""
        return f"nothing gets through to it for {STALLED_LEASES} leases, though it is heard{port}"

    def say(self, peer: Peer, alive: Alive) -> None:
        """Tell a foreman on control, too, that this head is alive, and what it wants."""
        if peer.is_foreman:
            self._control.send(b"%016x" % peer.member.hello.incarnation, encode(alive))

    def _allowed(self, peer: Peer, now: float) -> bool:
        try:
            return self._sockets.gatekeeper.who(peer.member.key) is not None
        except ZtasksError as error:
            self._seldom("keys", str(error), now, level="error")
            return True
