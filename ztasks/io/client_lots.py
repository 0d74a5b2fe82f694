"""What a client submits with one message: a lot of jobs, or a slice of a map; and what is known of such a slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from ztasks.core.slices import Slice, TaskBooks
from ztasks.wire.payload import Items, Pickled, pack

LOT_BYTES: Final = 256 * 1024
"""About how many bytes of single jobs travel in one message."""


class Lot(NamedTuple):
    """What is submitted with one message: jobs of one task, or a slice of a map."""

    task: TaskBooks
    first: int
    items: Items
    place: int
    """Of a slice: its first item's in its map."""
    whole: bool
    detached: bool

    @property
    def last(self) -> int:
        """The number of its last item."""
        return self.first + self.items.count - 1


class SentSlice:
    """A slice of a map whose items have numbers, from `first` on."""

    __slots__ = ("ended", "first", "left", "slice")

    def __init__(self, first: int, slice_: Slice) -> None:
        self.first = first
        self.slice = slice_
        self.left = slice_.count
        """How many of its items have not ended."""
        self.ended: bytearray | None = None
        """Which of them have; None: none."""

    def end(self, start: int, stop: int) -> None:
        """Items from offset `start` to `stop` have ended."""
        if self.ended is None and stop - start == self.slice.count:
            self.left = 0
            return
        if self.ended is None:
            self.ended = bytearray(self.slice.count)
        self.ended[start:stop] = b"\1" * (stop - start)
        self.left = self.ended.count(0)

    def has_ended(self, offset: int) -> bool:
        """Tell whether an item has ended."""
        return self.ended is not None and self.ended[offset] != 0

    def open(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield the stretches of offsets, as (start, stop), whose items have not ended."""
        if not self.left:
            return
        stop = self.slice.count if stop is None else stop
        if self.ended is None:
            yield start, stop
            return
        while (begin := self.ended.find(0, start, stop)) >= 0:
            end = self.ended.find(1, begin, stop)
            start = stop if end < 0 else end
            yield begin, start


def lot_of(jobs: Sequence[Slice]) -> Lot:
    """Make a lot of jobs with consecutive numbers."""
    like = jobs[0]
    payloads: list[Any] = [job.payload for job in jobs]
    try:
        items = Items("each", len(jobs), b"".join(payloads), list(map(len, payloads)))
    except TypeError:  # some have buffers
        items = pack([payload if isinstance(payload, Pickled) else Pickled(payload, []) for payload in payloads])
    return Lot(like.task, like.first, items, 0, whole=False, detached=like.owner.detached)
