"""Who has joined a head: how peers come in, come anew, and go.

What it must hold: a lane leads to one peer, until that is lost; what a lost peer had goes to others at once; and nobody
can have another's lane given up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ztasks.core.link import MAX_CONTENT_BYTES, Link
from ztasks.core.roster import Member, Roster
from ztasks.errors import CannotListen, WireError
from ztasks.io.books import Books
from ztasks.io.client_desk import ClientDesk
from ztasks.io.foreman_desk import ForemanDesk
from ztasks.io.peers import Peer
from ztasks.io.terms import EVERYBODY, Log, Place, Seldom, Terms
from ztasks.wire.link import Hello, Reject, Void, Welcome
from ztasks.wire.link_codec import encode

if TYPE_CHECKING:
    from ztasks.io.net import HeadSockets, NetSocket
    from ztasks.io.net import Received as NetMessage

VOID_EVERY: Final = 0.2
"""How often a stranger to a lane is told so."""

MOST_VOIDED: Final = 1000

LOST_NAMES: Final = 1000
"""The names of so many foremen that are lost belong to their keys for the time being."""

LEAST_CONTENT: Final = 256 * 1024 * 1024
"""A client may send at least so much in one content, and twice what the head may hold: what is too much for that is
refused, and with what is far too much the client is cut off before it fills the memory."""

LEFT: Final = "it has left"


class Joins:
    """All peers that have joined."""

    def __init__(
        self,
        sockets: HeadSockets,
        place: Place,
        terms: Terms,
        roster: Roster,
        books: Books,
        desks: tuple[ClientDesk, ForemanDesk],
        touch: Callable[[Peer], object],
        log: Log,
    ) -> None:
        """`touch`: to be called with a peer to whom something may have to be sent."""
        self._sockets = sockets
        self._place = place
        self._terms = terms
        self._roster = roster
        self._books = books
        self._clients, self._foremen = desks
        self._touch = touch
        self._log = log
        self._seldom = Seldom(log)
        self._voided: dict[int, float] = {}
        self._lost_names: OrderedDict[str, None] = OrderedDict()

    def open(self, router: NetSocket, control: NetSocket) -> None:
        """Take the sockets to answer on."""
        self._router, self._control = router, control

    # --- greetings ---

    def greet(self, hello: Hello, message: NetMessage, sock: NetSocket, now: float) -> None:
        """Answer a greeting; raises WireError."""
        if (hello.kind == "client") != (sock is self._router):
            raise WireError(f"a {hello.kind} has greeted on the wrong port")
        answer = self._roster.on_hello(hello, message.user_id)
        if isinstance(answer, Reject):
            what = f"{hello.kind} {hello.name} was refused: {answer.why}"
            self._seldom("refused", what, now)
            self._reply(hello, message, answer)
            return
        if answer.new and not self._admit(answer.member, answer.replaced, message, now):
            return
        peer = self._books.peers[answer.member.lane]
        if message.route:
            peer.route = message.route
        port = peer.lane_socket.port + self._place.shift if peer.lane_socket is not None else 0
        terms, is_kept = self._terms, self._books.ledger.is_kept
        welcome = Welcome(
            hello.incarnation,
            self._roster.epoch,
            peer.lane,
            port,
            terms.heartbeat,
            terms.lease,
            is_kept,
            terms.max_bytes,
        )
        self._reply(hello, message, welcome)

    def _reply(self, hello: Hello, message: NetMessage, answer: Welcome | Reject) -> None:
        if hello.kind == "client":
            self._router.send(message.route, encode(answer))
        else:
            self._control.send(b"%016x" % hello.incarnation, encode(answer))

    def _admit(self, member: Member, replaced: Member | None, message: NetMessage, now: float) -> bool:
        """Let a peer in that has not been, or comes anew; tell whether there was room for it."""
        earlier = self._replace(replaced, member.hello, now) if replaced is not None else None
        terms, epoch = self._terms, self._roster.epoch
        is_client = member.hello.kind == "client"
        most = max(LEAST_CONTENT, 2 * terms.max_bytes) if is_client else MAX_CONTENT_BYTES
        link = Link(member.lane, epoch, now, heartbeat=terms.heartbeat, lease=terms.lease, max_content=most)
        if is_client:
            self._admit_client(Peer(member, link, self._send_to_client, touch=self._touch), message, now)
            return True
        try:
            lane = self._sockets.lane(self._place.host, self._place.lane_ports, member.lane, message.user_id)
        except (CannotListen, OSError) as error:
            self._roster.remove(member.lane)
            if earlier is not None:
                self._foremen.on_gone(earlier, now, "there is no room for it to join anew")
            self._note_lost_name(member.hello.name)
            self._seldom("full", f"{member.hello.name} cannot join: {error}", now)
            self._reply(member.hello, message, Reject(member.hello.incarnation, "full", str(error)))
            return False
        peer = Peer(member, link, lambda _, *frames: lane.send(*frames), touch=self._touch, lane_socket=lane)
        self._admit_foreman(peer, earlier, now)
        return True

    def _admit_client(self, peer: Peer, message: NetMessage, now: float) -> None:
        peer.route = message.route
        self._books.peers[peer.lane] = peer
        self._clients.on_join(peer, now)

    def _admit_foreman(self, peer: Peer, earlier: Peer | None, now: float) -> None:
        hello = peer.member.hello
        self._lost_names.pop(hello.name, None)
        self._books.peers[peer.lane] = peer
        self._foremen.on_join(peer, now, earlier.lane if earlier is not None else None)
        workers = f"{hello.slots} worker{'s' if hello.slots != 1 else ''}"
        what = f"{workers}, queues {', '.join(hello.queues or ('default',))}"
        self._log("joined", f"worker {hello.name} has joined from {hello.host} ({what})", name=hello.name)

    def _send_to_client(self, peer: Peer, *frames: Any) -> bool:
        return self._router.send(peer.route, *frames)

    def _replace(self, member: Member, hello: Hello, now: float) -> Peer | None:
        """Close an earlier join; return it if it is the same foreman's, who will say what it still holds."""
        peer = self._books.peers.get(member.lane)
        if peer is None:
            return None
        if not peer.is_foreman:
            self._close(peer)
            self._clients.on_gone(peer, now)
            return None
        if member.hello.incarnation != hello.incarnation:
            self.lose(peer, now, "a newer one has its name")
            return None
        self._close(peer)
        return peer

    # --- the end of a join ---

    def lose(self, peer: Peer, now: float, why: str = LEFT) -> None:
        """A peer's lane is void from now on."""
        if peer.lost:
            return
        self._roster.remove(peer.lane)
        if peer.is_foreman:
            self._foremen.on_gone(peer, now, why)
            if why == LEFT:
                self._roster.free(peer.name)
            else:
                self._note_lost_name(peer.name)
            self._log("left", f"worker {peer.name} is gone: {why}", name=peer.name)
            self._close(peer, linger=1000 if why == LEFT else 0)
        else:
            self._close(peer)
            self._clients.on_gone(peer, now)

    def _close(self, peer: Peer, linger: int = 0) -> None:
        peer.lost = True
        self._books.peers.pop(peer.lane, None)
        if peer.lane_socket is not None:
            self._sockets.close_one(peer.lane_socket, linger)

    def _note_lost_name(self, name: str) -> None:
        """A foreman's name belongs to its key until it is back, or many others have been lost."""
        self._lost_names.pop(name, None)
        self._lost_names[name] = None
        if len(self._lost_names) > LOST_NAMES:
            oldest, _ = self._lost_names.popitem(last=False)
            self._roster.free(oldest)

    # --- strangers ---

    def answer_stranger(self, lane: int, message: NetMessage, sock: NetSocket, now: float) -> None:
        """A message on a lane that is not (any more) its sender's: let it join anew."""
        if lane in self._roster.members:
            self._seldom("stranger", f"a message names lane {lane}, which is another's; it is dropped", now)
            return
        if now - self._voided.get(lane, 0.0) < VOID_EVERY:
            return
        if len(self._voided) > MOST_VOIDED:
            self._voided.clear()
        self._voided[lane] = now
        if sock is self._router:
            sock.send(message.route, encode(Void(lane)))
        else:
            self._control.send(EVERYBODY, encode(Void(lane)))
