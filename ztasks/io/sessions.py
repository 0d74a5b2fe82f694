"""The head's books on its clients: what each session has been told, and what is kept for it.

What it must hold: a number is accepted once; what a client must be told is kept until it has acknowledged it, in memory
or in the journal; and what stands in the journal need not be in memory while nobody is there to be told.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, NamedTuple

from ztasks.core.ranges import Ranges
from ztasks.wire.link import Range
from ztasks.wire.payload import Buffer

if TYPE_CHECKING:
    from ztasks.core.work import Work


class Kept(NamedTuple):
    """Something that a client must be told, and has not acknowledged: a content, and which items it is about."""

    frames: list[Buffer]
    ranges: list[Range]
    nbytes: int
    operation: int | None
    """As soon as this operation is durable, it is in the journal. None: it is in memory only."""
    refusal: bool
    """Whether it is a refusal: that is told before anything is said to be accepted."""


class Pending(NamedTuple):
    """Work that is accepted when an operation is durable."""

    operation: int
    first: int
    size: int
    works: list[Work]
    """Fewer than there were at first if some were cancelled."""

    def has(self, number: int) -> bool:
        """Tell whether an item is part of it, or was before it was cancelled."""
        return self.first <= number < self.first + self.size


class Weight:
    """How many bytes all sessions keep in memory."""

    __slots__ = ("nbytes",)

    def __init__(self) -> None:
        self.nbytes = 0


class Session:
    """One client's session."""

    def __init__(self, number: int, weight: Weight) -> None:
        self.number = number
        self.lane: int | None = None
        """Its client's lane, while it is joined."""
        self.left = False
        """Whether its client has left, and will not come back."""
        self.forgotten = False
        """Whether it is not told of what has not ended either, detached jobs apart."""
        self.accepted = 0
        """The highest number that has been accepted or refused."""
        self.told = 0
        """The highest number that the client has been told of so."""
        self.pending: deque[Pending] = deque()
        self.undurable = Ranges()
        """The numbers of what is pending, and has not been cancelled."""
        self.sent: set[int] = set()
        """Numbers of jobs that have not ended and whose outcomes are not for its client."""
        self.cancel_on_exit = False
        self.journaled = False
        """Whether anything of it stands in the journal."""
        self.firsts: set[int] = set()
        """First numbers of what was accepted durably, while these items have not ended: there outcomes are cut for the
        journal, which has each by itself."""
        self.volatile = Ranges()
        """Numbers that have been accepted, and are not in the journal."""
        self.held = Ranges()
        """Numbers that something is kept of in memory."""
        self.stored = Ranges()
        """Numbers whose outcomes are kept in the journal only."""
        self.dropped = Ranges()
        """Numbers whose outcomes were kept in the journal, and are not any more."""
        self.untold: deque[int | Range] = deque()
        """What its client shall be told when there is room: names, and numbers that are stored."""
        self._kept: OrderedDict[int, Kept] = OrderedDict()
        self._next = 0
        self._weight = weight

    # --- what is kept ---

    def keep(
        self, frames: list[Buffer], ranges: list[Range], operation: int | None = None, *, refusal: bool = False
    ) -> int:
        """Keep a content until it is fetched; return its name."""
        kept = Kept(frames, ranges, sum(map(len, frames)), operation, refusal)
        self._next += 1
        self._kept[self._next] = kept
        self._weight.nbytes += kept.nbytes
        for first, count in ranges:
            self.held.add(first, count)
        return self._next

    def get(self, name: int) -> Kept | None:
        """Return what is kept under a name, if it is."""
        return self._kept.get(name)

    def drop(self, name: int) -> Kept | None:
        """Keep it no longer; return what it was."""
        kept = self._kept.pop(name, None)
        if kept is not None:
            self._weight.nbytes -= kept.nbytes
            for first, count in kept.ranges:
                self.held.discard(first, count)
        return kept

    def kept(self) -> list[tuple[int, Kept]]:
        """Return what is kept in memory."""
        return list(self._kept.items())

    def spill(self, durable: int) -> None:
        """Keep in the journal only what is durable: nobody is there to be told."""
        for name, kept in self.kept():
            if kept.operation is not None and kept.operation <= durable:
                self.drop(name)
                for first, count in kept.ranges:
                    self.stored.add(first, count)

    def keep_not(self, number: int) -> None:
        """The outcome of an item is void, and nobody needs to be told of it."""
        self.stored.discard(number, 1)
        if number not in self.held:
            return
        for name, kept in self.kept():
            if any(first <= number < first + count for first, count in kept.ranges):
                ranges = Ranges(kept.ranges)
                ranges.discard(number, 1)
                self.held.discard(number, 1)
                if ranges:
                    self._kept[name] = kept._replace(ranges=list(ranges))
                else:
                    self.drop(name)

    def keep_no_volatile(self) -> None:
        """Its client was gone for long: what is in memory only, and not to be written down, is not kept for it."""
        for name, kept in self.kept():
            if kept.operation is None:
                self.drop(name)

    def drop_stored(self, first: int, count: int) -> None:
        """The journal has dropped the outcomes of these items."""
        for part, size in self.stored.within(first, count):
            self.dropped.add(part, size)
        self.stored.discard(first, count)

    def keep_nothing(self) -> None:
        """Its client will not come back: it is told nothing any more."""
        for name, _ in self.kept():
            self.drop(name)
        self.stored, self.dropped = Ranges(), Ranges()
        self.untold.clear()

    @property
    def idle(self) -> bool:
        """Whether nothing is kept for it, but for work that has not ended."""
        return not (self._kept or self.sent or self.pending or (self.stored and not self.left))

    # --- what is accepted ---

    def wait(self, pending: Pending) -> None:
        """Some work is accepted when an operation is durable."""
        self.pending.append(pending)
        self.undurable.add(pending.first, pending.size)

    def accept_next(self) -> list[Work]:
        """The first of what is pending is durable: return its work."""
        pending = self.pending.popleft()
        self.undurable.discard(pending.first, pending.size)
        return pending.works

    def take_acceptable(self) -> int | None:
        """Return up to which number it is to be told that all is accepted or refused; None if it knows."""
        upto = self.pending[0].first - 1 if self.pending else self.accepted
        if upto <= self.told:
            return None
        self.told = upto
        return upto
