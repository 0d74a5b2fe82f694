"""The head's end of each link: what leads to one foreman or one client."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ztasks.core.link import Link
from ztasks.core.roster import Member
from ztasks.wire.link import WINDOW_BYTES
from ztasks.wire.link_codec import encode

if TYPE_CHECKING:
    from ztasks.io.net import NetSocket

ROOM_BYTES: Final = 2 * WINDOW_BYTES
"""With more than this unacknowledged, a client is told no further outcomes: they are kept where they are."""


class Peer:
    """A foreman or a client that has joined."""

    def __init__(
        self,
        member: Member,
        link: Link,
        send: Callable[..., bool],
        *,
        touch: Callable[[Peer], object],
        lane_socket: NetSocket | None = None,
    ) -> None:
        """`send` is called with this peer and frames, and `touch` when it may have something to be sent."""
        self.member = member
        self.link = link
        self.lane_socket = lane_socket
        """A foreman's lane."""
        self.name = member.hello.name
        self.lost = False
        """Whether its lane is void: nothing is sent to it any more."""
        self.leaving = False
        """Whether it has said its last."""
        self.undurable: deque[tuple[int, int]] = deque()
        """Contents that are acknowledged when an operation of the journal is durable: (operation, upto)."""
        self.on_acknowledged: deque[tuple[int, Callable[[], object]]] = deque()
        """What to do when the peer has acknowledged so many chunks."""
        self.on_room: Callable[[], object] | None = None
        """What to do when there is room for more."""
        self.asked: set[tuple[int, int]] = set()
        """The jobs whose results it waits for: (session, number)."""
        self._send = send
        self._touch = touch
        self.route = b""
        """A client's connection, by which it was heard of last."""

    @property
    def lane(self) -> int:
        """The number of its lane."""
        return self.member.lane

    @property
    def is_foreman(self) -> bool:
        """Whether it is a foreman, and no client."""
        return self.member.hello.kind == "foreman"

    @property
    def has_room(self) -> bool:
        """Whether it shall be told more now."""
        return self.link.queued_bytes < ROOM_BYTES

    def say(self, *frames: Any) -> int:
        """Send a content; return how many chunks there are with its last."""
        self._touch(self)
        return self.link.send(frames)

    def send_raw(self, *frames: Any) -> bool:
        """Send a message beside the link; False if the peer is not connected."""
        return not self.lost and self._send(self, *frames)

    def dealt_with(self, upto: int, operation: int | None) -> None:
        """A content has been dealt with: at once, or as soon as an operation is durable."""
        if operation is not None:
            self.undurable.append((operation, upto))
        elif self.undurable:
            self.undurable.append((self.undurable[-1][0], upto))
        else:
            self.link.acknowledge(upto)
        self._touch(self)

    def on_durable(self, operation: int) -> None:
        """All operations up to this one are durable."""
        upto = 0
        while self.undurable and self.undurable[0][0] <= operation:
            _, upto = self.undurable.popleft()
        if upto:
            self.link.acknowledge(upto)
            self._touch(self)

    def flush(self) -> None:
        """Do what waits for acknowledgements, and put on the socket what the link wants sent."""
        if self.lost:
            return
        link = self.link
        while self.on_acknowledged and self.on_acknowledged[0][0] <= link.acknowledged_there:
            self.on_acknowledged.popleft()[1]()
        if self.on_room is not None and self.has_room:
            self.on_room()
        for chunk, frames in link.outgoing():
            if not self._send(self, encode(chunk), *frames):
                link.unsent(chunk.number)
                return

    def say_received(self) -> None:
        """Say how far the other direction has come, unless a chunk has said so."""
        if not self.lost and (receipt := self.link.receipt()) is not None:
            self._send(self, encode(receipt))
