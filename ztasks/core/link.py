"""One end of a link: contents go over a connection that may lose, repeat and delay, and arrive once each, in order.

What it must hold: whatever `send` takes is delivered by the other end exactly once, in the order of sending, as soon
as the connection works for a while; not more than WINDOW_BYTES are under way; and what has not been acknowledged is
kept. Both ends are alike. A new join begins with a new Link on both ends.

    send() -> queue -> [chunks under way] -> socket ~~~> on_chunk() -> contents, in order
                              ^                              |
                              +----- on_received() <~~~ receipt()

Losses show to whoever receives: a chunk, or an Alive, that comes on the same connection behind a lost chunk. It says
so, and the sender goes back to there, which begins another turn; what is said of an earlier turn is old. No timer
guesses at losses, so a slow connection raises no false alarm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from ztasks.errors import WireError
from ztasks.wire.link import CHUNK_BYTES, HEARTBEAT, LEASE, WINDOW_BYTES, Alive, Chunk, Received, Wanted
from ztasks.wire.payload import Buffer

Frames = Sequence[Buffer]

MAX_CONTENT_BYTES = 1 << 34
MAX_CONTENT_FRAMES = 1 << 20
"""The most bytes and frames of one content: a peer must not fill the memory with a message that never ends."""

CHUNK_FRAMES = 63
"""The most frames of one chunk, its header left out: sockets drop messages of more than 64 (io/netlimits.py)."""


class Piece(NamedTuple):
    """A chunk that has been cut, and may be sent again: its frames, and how they go on."""

    frames: list[Buffer]
    nbytes: int
    more: bool
    open: bool


class Content(NamedTuple):
    """A content that has arrived whole; `upto` is to be given to `acknowledge` when it has been dealt with."""

    frames: list[Buffer]
    upto: int


class Link:
    """One end of one join. `lane` is its number, `epoch` the head's."""

    def __init__(
        self,
        lane: int,
        epoch: int,
        now: float,
        *,
        heartbeat: float = HEARTBEAT,
        lease: float = LEASE,
        max_content: int = MAX_CONTENT_BYTES,
    ) -> None:
        self.lane = lane
        self.epoch = epoch
        self.wanted: Wanted = "run"
        """What this end says in its signs of life, as well as `credit`."""
        self.credit = 0
        self.heard = now
        """When the other end was last heard of."""
        self.queued_bytes = 0
        """What has been given to `send` and is not acknowledged, in bytes."""
        self._heartbeat = heartbeat
        self._lease = lease
        self._max_content = max_content
        # sending
        self._queue: deque[Piece] = deque()
        """Chunks that have never been sent."""
        self._kept: dict[int, Piece] = {}
        """Chunks that have been sent and are not acknowledged, by number; the first is `_first_kept`."""
        self._first_kept = 0
        self._sent = 0
        self._next = 0
        """The number of the chunk that is sent next: less than `_sent` after a loss."""
        self._turn = 0
        """How often it has gone back to a gap."""
        self._received_there = 0
        self._under_way = 0
        """Bytes of the chunks from `_received_there` to `_next`."""
        self._alive_at = now
        self._stalled: tuple[int, float] | None = None
        """How many chunks the other end has received while there were more, and since when no further ones."""
        # receiving
        self._received = 0
        self._acknowledged = 0
        self._complained = (0, -1)
        """The chunk that was last said to be missing, and the turn of what has shown it."""
        self._told = (0, 0, False)
        self._partial: list[Buffer] = []
        self._tail: list[Buffer] = []
        """The parts of a frame that goes on in the next chunk."""
        self._partial_bytes = self._partial_frames = 0

    # --- sending ---

    def send(self, frames: Frames) -> int:
        """Take a content in; it is kept until it is acknowledged. Return how many chunks there are with its last."""
        parts: list[Buffer] = []
        nbytes = 0
        for frame in frames:
            rest = frame
            while len(parts) == CHUNK_FRAMES or nbytes + len(rest) > CHUNK_BYTES:
                room = CHUNK_BYTES - nbytes if len(parts) < CHUNK_FRAMES else 0
                if room:  # the frame is cut in two
                    view = _view(rest)
                    parts.append(view[:room])
                    rest = view[room:]
                self._enqueue(Piece(parts, nbytes + room, more=True, open=room > 0))
                parts, nbytes = [], 0
            parts.append(rest)
            nbytes += len(rest)
        self._enqueue(Piece(parts, nbytes, more=False, open=False))
        return self._sent + len(self._queue)

    def _enqueue(self, piece: Piece) -> None:
        self._queue.append(piece)
        self.queued_bytes += piece.nbytes

    def outgoing(self) -> list[tuple[Chunk, list[Buffer]]]:
        """Return what shall be put on the socket now, as far as the window allows."""
        chunks = []
        while self._under_way < WINDOW_BYTES:
            if self._next < self._sent:
                piece = self._kept[self._next]
            elif self._queue:
                piece = self._kept[self._next] = self._queue.popleft()
                self._sent += 1
            else:
                break
            chunk = Chunk(self.lane, self._next, self._turn, self._received, self._acknowledged, piece.more, piece.open)
            chunks.append((chunk, piece.frames))
            self._next += 1
            self._under_way += piece.nbytes
        if chunks:
            self._told = (self._received, self._acknowledged, self._told[2])
        return chunks

    def unsent(self, number: int) -> None:
        """Take in that the socket has not taken the chunk of this number, nor those behind it."""
        self._go_back(number)

    def on_received(self, word: Received, now: float) -> None:
        """Take in how far the other end has come; raises WireError."""
        self._take_receipt(word.received, word.acknowledged, now)
        if word.gap and word.turn == self._turn and word.received == self._received_there < self._next:
            self._go_back(word.received)
            self._turn += 1

    def _take_receipt(self, received: int, acknowledged: int, now: float) -> None:
        if not 0 <= acknowledged <= received <= self._sent:
            raise WireError(f"lane {self.lane} has received {received} chunks of {self._sent}")
        self.heard = now
        if received > self._received_there:
            for number in range(self._received_there, min(received, self._next)):
                self._under_way -= self._kept[number].nbytes
            self._received_there = received
            self._next = max(self._next, received)
        while self._first_kept < acknowledged:
            self.queued_bytes -= self._kept.pop(self._first_kept).nbytes
            self._first_kept += 1

    def _go_back(self, number: int) -> None:
        number = max(number, self._received_there)
        for later in range(number, self._next):
            self._under_way -= self._kept[later].nbytes
        self._next = min(self._next, number)

    @property
    def acknowledged_there(self) -> int:
        """How many chunks the other end has acknowledged."""
        return self._first_kept

    @property
    def idle(self) -> bool:
        """Whether all that was sent has been acknowledged."""
        return not self._queue and not self._kept

    def stalled(self, now: float, *, anew: bool = False) -> float:
        """Return for how many seconds nothing of what waits for the other end has got through to it.

        That is known as exactly as this is called often; `anew`: count from now on.
        """
        if self._received_there == self._sent and not self._queue:
            self._stalled = None
        elif anew or self._stalled is None or self._stalled[0] != self._received_there:
            self._stalled = (self._received_there, now)
        return now - self._stalled[1] if self._stalled is not None else 0.0

    # --- receiving ---

    def on_chunk(self, chunk: Chunk, frames: list[Buffer], now: float) -> Content | None:
        """Take in a chunk; return the content that it completes, if it does. Raises WireError."""
        self._take_receipt(chunk.received, chunk.acknowledged, now)
        if chunk.number != self._received:
            if chunk.number > self._received:
                self._complain(chunk.turn)
            return None
        nbytes = self._partial_bytes + sum(map(len, frames))
        self._check(chunk, frames, nbytes)
        self._received += 1
        self._partial_bytes = nbytes
        self._partial_frames += len(frames)
        self._join(frames, goes_on=chunk.open)
        if chunk.more:
            return None
        whole, self._partial = self._partial, []
        self._partial_bytes = self._partial_frames = 0
        return Content(whole, self._received)

    def _check(self, chunk: Chunk, frames: list[Buffer], nbytes: int) -> None:
        """Check the next chunk, with which the content would have `nbytes`, before anything is made of it."""
        if not 0 < len(frames) <= CHUNK_FRAMES or nbytes - self._partial_bytes > CHUNK_BYTES:
            raise WireError(
                f"a chunk on lane {self.lane} of {len(frames)} frames, {nbytes - self._partial_bytes} bytes"
            )
        if chunk.open and not chunk.more:
            raise WireError(f"a chunk on lane {self.lane} ends in the middle of a frame, and nothing follows")
        if nbytes > self._max_content or self._partial_frames + len(frames) > MAX_CONTENT_FRAMES:
            raise WireError(
                f"a content on lane {self.lane} has more than {self._max_content} bytes or {MAX_CONTENT_FRAMES} frames"
            )

    def _join(self, frames: list[Buffer], *, goes_on: bool) -> None:
        """Add the frames of a chunk to the content that is coming in."""
        if self._tail:
            self._tail.append(frames[0])
            if goes_on and len(frames) == 1:
                return
            self._partial.append(bytearray().join(self._tail))  # type: ignore[arg-type]
            self._tail = []
            frames = frames[1:]
        if goes_on:
            self._tail = [frames[-1]]
            frames = frames[:-1]
        self._partial += frames

    def acknowledge(self, upto: int) -> None:
        """All contents up to this one have been dealt with: the other end need not keep them."""
        self._acknowledged = max(self._acknowledged, upto)

    def _complain(self, turn: int, *, again: bool = False) -> None:
        gap = max((self._received, turn), self._complained)
        if again or gap > self._complained:
            self._complained = gap
            self._told = (*self._told[:2], True)

    def receipt(self) -> Received | None:
        """Return what must be said of how far this end has come, if no chunk has carried it."""
        received, acknowledged, gap = self._told
        if (received, acknowledged) == (self._received, self._acknowledged) and not gap:
            return None
        self._told = (self._received, self._acknowledged, False)
        missing, turn = self._complained
        gap = gap and missing == self._received
        return Received(self.lane, self._received, self._acknowledged, gap, turn if gap else 0)

    # --- signs of life ---

    def alive(self, now: float) -> Alive | None:
        """Return the sign of life that is due, if it is."""
        if now < self._alive_at:
            return None
        self._alive_at = now + self._heartbeat
        return self.sign()

    def sign(self) -> Alive:
        """Return a sign of life."""
        so_far = self._received, self._acknowledged
        return Alive(self.lane, self.epoch, self._next, self._turn, *so_far, self.wanted, self.credit)

    def on_alive(self, alive: Alive, now: float, *, behind: bool = True) -> None:
        """Take in a sign of life; `behind`: it came on the connection of the chunks, behind them. Raises WireError."""
        self._take_receipt(alive.received, alive.acknowledged, now)
        if behind and alive.sent > self._received:
            self._complain(alive.turn, again=True)

    def silent(self, now: float) -> float:
        """Return for how many seconds nothing has been heard of the other end."""
        return now - self.heard

    def expired(self, now: float) -> bool:
        """Tell whether the lease is over."""
        return now - self.heard > self._lease

    def next_event(self, now: float) -> float:
        """Return in how many seconds something falls due by itself."""
        return max(0.0, min(self._alive_at - now, self.heard + self._lease - now + 0.001))


def _view(frame: Any) -> memoryview:
    """Return the memory of a frame; it may be a message of the transport's."""
    return memoryview(frame)
