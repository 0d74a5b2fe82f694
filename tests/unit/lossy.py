"""Connections that lose, repeat, delay and reorder, and ends of links that talk over them through the real codec."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any, NamedTuple

import pytest

from ztasks.core import link as link_module
from ztasks.core.link import Content, Link
from ztasks.wire.link import Alive, Chunk, Received
from ztasks.wire.link_codec import decode_at_head, decode_at_peer, encode

CHUNK = 8
WINDOW = 4 * CHUNK
FRAMES = 3
"""Small sizes, so that a few bytes are a large content."""


@contextmanager
def small() -> Iterator[None]:
    """Let links cut contents into chunks of a few bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(link_module, "CHUNK_BYTES", CHUNK)
        patch.setattr(link_module, "WINDOW_BYTES", WINDOW)
        patch.setattr(link_module, "CHUNK_FRAMES", FRAMES)
        yield


class Message(NamedTuple):
    """What is under way: the header as bytes, the frames behind it, and when they arrive."""

    due: float
    header: bytes
    frames: list[bytes]


Fate = Callable[[Any], Sequence[float]]
"""Says with which delays a message arrives: nothing if it is lost, two if it is repeated."""


class Path:
    """One direction of a connection. What arrives at the same time arrives in the order of sending."""

    def __init__(self, fate: Fate = lambda _: (0.0,)) -> None:
        self.fate = fate
        self.under_way: list[Message] = []
        self.put_bytes = 0
        """Bytes of chunks that were ever put in."""
        self.put_kinds: list[str] = []

    def put(self, header: Any, frames: Sequence[Any], now: float) -> None:
        """Send a message."""
        plain = [bytes(frame) for frame in frames]
        self.put_kinds.append(type(header).__name__)
        self.put_bytes += sum(map(len, plain))
        for delay in self.fate(header):
            self.under_way.append(Message(now + delay, encode(header), plain))

    def take(self, now: float) -> list[Message]:
        """Return what has arrived."""
        arrived = sorted((message for message in self.under_way if message.due <= now), key=lambda each: each.due)
        self.under_way = [message for message in self.under_way if message.due > now]
        return arrived

    def cut(self) -> None:
        """Lose all that is under way: the connection breaks."""
        self.under_way.clear()


class Slow(Path):
    """A connection that takes so many bytes of frames a second, and queues the rest."""

    def __init__(self, fate: Fate, rate: float) -> None:
        super().__init__(fate)
        self._rate = rate
        self._free = 0.0

    def put(self, header: Any, frames: Sequence[Any], now: float) -> None:
        """Send a message behind all others."""
        self._free = max(self._free, now) + sum(map(len, frames)) / self._rate
        super().put(header, frames, self._free)


def bad(chance: Random, share: float = 0.3, delay: float = 0.8) -> Fate:
    """A fate that loses, repeats and delays, each with the same probability; what is delayed is overtaken."""

    def fate(_: Any) -> Sequence[float]:
        copies = 0 if chance.random() < share else 2 if chance.random() < share else 1
        return [chance.uniform(0, delay) if chance.random() < share else 0.0 for _ in range(copies)]

    return fate


class End:
    """One end of a link, with what its owner does: it sends, takes in, and acknowledges when it has dealt with it."""

    def __init__(self, lane: int, out: Path, *, at_head: bool, now: float = 0.0, prompt: bool = True) -> None:
        """`prompt`: contents are acknowledged when they come in; else `deal` must be called, as with a journal."""
        self.link = Link(lane, 1, now)
        self.out = out
        self.said: list[list[bytes]] = []
        self.got: list[list[bytes]] = []
        self.waiting: deque[int] = deque()
        self.full = False
        """Whether the socket takes nothing."""
        self._prompt = prompt
        self._decode = decode_at_head if at_head else decode_at_peer

    def say(self, frames: Sequence[bytes]) -> int:
        """Send a content."""
        self.said.append(list(frames))
        return self.link.send([bytes(frame) for frame in frames])

    def deal(self, count: int | None = None) -> None:
        """Acknowledge the oldest contents, or all."""
        for _ in range(len(self.waiting) if count is None else min(count, len(self.waiting))):
            self.link.acknowledge(self.waiting.popleft())

    def pump(self, now: float) -> None:
        """Put on the connection what is to be said now."""
        for chunk, frames in self.link.outgoing():
            if self.full:
                self.link.unsent(chunk.number)
                return
            self.out.put(chunk, frames, now)
        if self.full:
            return
        if (receipt := self.link.receipt()) is not None:
            self.out.put(receipt, [], now)
        if (alive := self.link.alive(now)) is not None:
            self.out.put(alive, [], now)

    def hear(self, message: Message, now: float) -> Content | None:
        """Take in a message."""
        header = self._decode(message.header)
        if isinstance(header, Received):
            self.link.on_received(header, now)
        elif isinstance(header, Alive):
            self.link.on_alive(header, now)
        else:
            assert isinstance(header, Chunk)
            content = self.link.on_chunk(header, list(message.frames), now)
            if content is not None:
                self.got.append([bytes(frame) for frame in content.frames])
                self.waiting.append(content.upto)
                if self._prompt:
                    self.deal()
            return content
        return None


class Pair:
    """Two ends back to back; `check` is called after each event."""

    def __init__(self, there: Fate | None = None, back: Fate | None = None, *, prompt: bool = True) -> None:
        """`there` is the fate of what goes from `left` to `right`, `back` of what comes from there."""
        paths = Path(*([there] if there else [])), Path(*([back] if back else []))
        self.left = End(7, paths[0], at_head=True, prompt=prompt)
        self.right = End(7, paths[1], at_head=False, prompt=prompt)
        self.now = 0.0

    @property
    def ends(self) -> tuple[tuple[End, End], tuple[End, End]]:
        """Each end, and its other."""
        return (self.left, self.right), (self.right, self.left)

    @property
    def done(self) -> bool:
        """Whether all has arrived and been acknowledged, and both ends know."""
        return all(end.link.idle and end.said == other.got for end, other in self.ends)

    def step(self, seconds: float = 0.0) -> None:
        """Let time pass; both ends say what they have to, and hear what has arrived."""
        self.now += seconds
        for end, _ in self.ends:
            end.pump(self.now)
            self.check()
        for end, other in self.ends:
            for message in end.out.take(self.now):
                other.hear(message, self.now)
                self.check()

    def run(self, until: float, tick: float = 0.05) -> float:
        """Let time pass until all is done; return how many seconds it took. Fails if it takes longer."""
        start = self.now
        while not self.done:
            assert self.now - start <= until, f"not done after {until} s"
            self.step(tick)
            for end, _ in self.ends:
                end.deal()
        return self.now - start

    def check(self) -> None:
        """What must hold after each event."""
        for end, other in self.ends:
            assert other.got == end.said[: len(other.got)], "each content once, in order"
            check_books(end.link)
            received = end.link._received_there
            assert received <= other.link._received, "nobody believes more than what is"
            assert end.link.acknowledged_there <= other.link._acknowledged


def check_books(link: Link) -> None:
    """What must hold of the books of any link."""
    kept, first, sent = link._kept, link._first_kept, link._sent
    assert list(kept) == list(range(first, sent)), "all chunks from the first that is not acknowledged are kept"
    assert first <= link._received_there <= link._next <= sent
    under_way = sum(kept[number].nbytes for number in range(link._received_there, link._next))
    assert link._under_way == under_way < link_module.WINDOW_BYTES + link_module.CHUNK_BYTES
    assert link.queued_bytes == sum(piece.nbytes for piece in [*kept.values(), *link._queue])
    assert link._acknowledged <= link._received
