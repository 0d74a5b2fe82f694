"""A client's connection to its head: the socket, the greetings, and the link while there is one.

What it must hold: a head that can be reached is joined, and joined anew after whatever has cut it off; a connection
that is dead without knowing is replaced; and it is told once when there has been no head for too long, and why.
"""

from __future__ import annotations

import selectors
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec

from ztasks import __version__
from ztasks.core.joining import Joining
from ztasks.core.link import Link
from ztasks.errors import WireError, ZtasksError
from ztasks.io import client_errors as errors
from ztasks.io.client_tasks import PYTHON
from ztasks.io.hostinfo import host_name
from ztasks.io.join import JoinFile
from ztasks.wire.link import LEASE, PROTOCOL, Alive, Chunk, Hello, Received, Reject, Void, Welcome
from ztasks.wire.link_codec import decode_at_peer, encode

if TYPE_CHECKING:
    from ztasks.io.net import NetSocket, PeerSockets

MESSAGES_AT_ONCE: Final = 64

TEND_EVERY: Final = 1.0
"""How often the connection is looked after, in seconds."""

PAUSE_SECONDS: Final = 2.0
"""How long to wait before greeting a head again that has said it is stopping, or full."""


class Patience(NamedTuple):
    """How long a client waits for a head, in seconds; None: for ever."""

    join: float | None
    """At first."""
    reconnect: float | None
    """When it had one."""


class Wishes(NamedTuple):
    """What a client wants."""

    name: str
    max_bytes: int
    durable: bool
    cancel_on_exit: bool
    patience: Patience


class Follower(Protocol):
    """Who is told what happens."""

    def on_join(self, link: Link, welcome: Welcome) -> None:
        """There is a new link."""

    def on_content(self, frames: list[Any]) -> None:
        """A content has come; raises WireError."""

    def on_lost(self, error: ZtasksError) -> None:
        """There is no head, or it does not take this client in."""


class HeadLink:
    """The connection of one session. Belongs to the client's thread."""

    def __init__(self, join: JoinFile, session: int, name: str, patience: Patience, follower: Follower) -> None:
        self.welcome: Welcome | None = None
        """The last that came."""
        self._join = join
        self._patience = patience
        self._follower = follower
        self._hello = Hello(
            kind="client",
            name=name,
            incarnation=session,
            after=0,
            protocol=PROTOCOL,
            ztasks=__version__,
            python=PYTHON,
            host=host_name(),
            started=time(),
        )
        self._joining: Joining | None = None
        """None while there is no use in greeting."""
        self._greet_at: float | None = None
        """When to begin with that again."""
        self._down_since = 0.0
        """Since when there is no link."""
        self._told = False
        """Whether it was told that there is no head."""
        self._net: PeerSockets | None = None
        self._sock: NetSocket | None = None
        self._sock_since = 0.0
        self._tend_at = 0.0

    @property
    def link(self) -> Link | None:
        """The link, while there is one."""
        return self._joining.link if self._joining is not None else None

    @property
    def durable(self) -> bool | None:
        """Whether the head has a journal; None: it is not known yet."""
        return None if self.welcome is None else self.welcome.durable

    @property
    def refused(self) -> bool:
        """Whether there is no use in greeting the head, until somebody wants it all the same."""
        return self._joining is None and self._greet_at is None

    def open(self, selector: selectors.BaseSelector) -> None:
        """Connect, and begin to greet. Raises OSError."""
        from ztasks.io.net import PeerSockets  # late: importing ZeroMQ takes a while

        self._selector = selector
        self._net = PeerSockets(self._join)
        self._connect(monotonic())
        self.greet()

    def close(self) -> None:
        """Close the connection."""
        if self._net is not None:
            self._net.close()

    def greet(self) -> None:
        """Begin to greet the head, unless that goes on."""
        if self._joining is None:
            now = monotonic()
            self._greet_at = None
            self._told = False
            self._down_since = now
            self._joining = Joining(self._hello, now, self._patience.join)

    def _connect(self, now: float) -> None:
        """Make the socket; or make it anew, since a connection can be dead without showing it."""
        assert self._net is not None
        if self._sock is not None:
            self._selector.unregister(self._sock.descriptor())
            self._net.close_one(self._sock, linger=0)
        self._sock = self._net.clients()
        self._sock_since = now
        self._selector.register(self._sock.descriptor(), selectors.EVENT_READ, _nothing)

    # --- in ---

    def readable(self) -> bool:
        """Tell whether a message is there."""
        return self._sock is not None and self._sock.readable()

    def read(self, now: float) -> None:
        """Take in what has come."""
        for _ in range(MESSAGES_AT_ONCE):
            if self._sock is None or not self._sock.readable():
                return
            received = self._sock.receive()
            if received is None:
                continue
            self._sock_since = now
            try:
                message = decode_at_peer(bytes(received.frames[0]))
            except WireError:
                continue  # as if it had been lost
            try:
                self._on_message(message, received.frames[1:], now)
            except WireError as error:
                self._end(errors.strange(self._join, error), now)

    def _on_message(self, message: Any, frames: list[Any], now: float) -> None:
        joining = self._joining
        if joining is None:
            return
        link = joining.link
        if isinstance(message, Welcome):
            if (new := joining.on_welcome(message, now)) is not None:
                self.welcome, self._told = message, False
                self._hello = msgspec.structs.replace(self._hello, after=message.lane)
                self._follower.on_join(new, message)
        elif isinstance(message, Reject):
            if joining.on_reject(message):
                self._on_reject(message, now)
        elif isinstance(message, Void):
            joining.on_void(message, now)
        elif isinstance(message, Alive):
            if joining.on_alive(message, now) and link is not None:
                link.on_alive(message, now)
        elif link is not None and message.lane == link.lane:
            if isinstance(message, Chunk):
                content = link.on_chunk(message, frames, now)
                if content is not None:
                    self._follower.on_content(content.frames)
                    link.acknowledge(content.upto)
            else:
                assert isinstance(message, Received)
                link.on_received(message, now)
        if link is not None and joining.link is None:
            self._down_since = now

    def _on_reject(self, reject: Reject, now: float) -> None:
        if self.welcome is not None and reject.code in ("stopping", "full"):  # it may be there again soon
            self._joining = None
            self._greet_at = now + PAUSE_SECONDS
        else:
            self._end(errors.rejected(self._join, reject), now)

    # --- time ---

    def keep(self, now: float) -> None:
        """Do what is due."""
        assert self._net is not None
        if now >= self._tend_at:
            self._tend_at = now + TEND_EVERY
            self._net.tend(now)
        if self._greet_at is not None and now >= self._greet_at:
            self._greet_at = None
            self._joining = Joining(self._hello, now)
        joining = self._joining
        if joining is None:
            self._be_patient(now)
            return
        if joining.keep(now):
            self._down_since = now
            self._connect(now)
        if joining.link is None:
            if joining.too_late(now):
                trouble = self._net.trouble()
                self._tell(errors.no_answer(self._join, self._patience.join or 0.0, trouble))
                self._joining = Joining(self._hello, now)  # goes on in the background
            self._be_patient(now)
            if now - self._sock_since > LEASE and self._sock is not None and self._net.connected(self._sock):
                self._connect(now)

    def _be_patient(self, now: float) -> None:
        """There is no link: tell so if it has been so for too long."""
        patience = self._patience.reconnect
        if self.welcome is not None and patience is not None and now - self._down_since >= patience:
            trouble = self._net.trouble() if self._net is not None else ""
            self._tell(errors.gone(self._join, patience, trouble))

    def _tell(self, error: ZtasksError) -> None:
        if not self._told:
            self._told = True
            self._follower.on_lost(error)

    def _end(self, error: ZtasksError, now: float) -> None:
        """There is no use in this head: tell so, and greet it no more."""
        self._joining = self._greet_at = None
        self._down_since = now
        self._tell(error)

    def due(self, now: float) -> float:
        """Return in how many seconds something falls due by itself."""
        due = self._tend_at - now
        if self._greet_at is not None:
            due = min(due, self._greet_at - now)
        joining = self._joining
        if joining is not None and (joining.link is not None or (self._sock is not None and self._sock.writable())):
            due = min(due, joining.next_event(now) or 0.0)
        return max(0.0, due)

    # --- out ---

    def flush(self, now: float) -> None:
        """Put on the socket what shall be sent."""
        sock, joining = self._sock, self._joining
        if joining is None or sock is None:
            return
        link = joining.link
        if link is None:
            # A connection is there when its socket can be written to: what is said before goes nowhere.
            if sock.writable() and (hello := joining.hello(now)) is not None:
                sock.send(encode(hello))
            return
        for chunk, frames in link.outgoing():
            if not sock.send(encode(chunk), *frames):
                link.unsent(chunk.number)
                break
        for word in (link.receipt(), link.alive(now)):
            if word is not None:
                sock.send(encode(word))


def _nothing() -> None:
    """A ZeroMQ descriptor only wakes the loop, which then looks at the socket itself."""
