"""Outcomes between hosts: how items with their results become frames, and parts of them. Nothing is unpickled."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Final

import msgspec

from ztasks.errors import WireError
from ztasks.wire.link import Batch, Outcome, Submit
from ztasks.wire.link_codec import check_tables, encode
from ztasks.wire.messages import Failure, inline
from ztasks.wire.payload import Buffer, Items

MOST_SKIPPED: Final = 1 << 31
"""The most items at the beginning of a payload that are not meant: no list is longer."""


def items_of(message: Outcome | Submit | Batch, frames: Sequence[Any]) -> Items | None:
    """Check a message against the frames that came behind its header; return its items, or None if it has none.

    Raises WireError.
    """
    inlined = message.payload
    size = len(inlined) if inlined is not None else len(frames[0]) if frames else 0
    check_tables(message, len(frames), size)
    if message.skip > MOST_SKIPPED:
        raise WireError(f"a message skips {message.skip} items")
    form = message.form
    if form is None:
        return None
    data = inlined if inlined is not None else bytes(frames[0])
    buffers = frames if inlined is not None else frames[1:]
    return Items(form, message.count, data, message.sizes, message.buffers, list(buffers), message.skip)


def with_items(message: Any, items: Items | None) -> list[Buffer]:
    """Return the frames of a message that carries these items."""
    if items is None:
        return [encode(msgspec.structs.replace(message, form=None, sizes=None, buffers=None, payload=None))]
    payload = inline(items.data)
    header = msgspec.structs.replace(
        message,
        form=items.form,
        skip=items.skip,
        sizes=items.sizes,
        buffers=items.buffer_counts,
        payload=payload,
    )
    return [encode(header), *([items.data] if payload is None else []), *items.buffers]


def number_at(outcome: Outcome, offset: int) -> int:
    """Return the number of the item at an offset."""
    numbers = outcome.numbers
    return numbers + offset if isinstance(numbers, int) else numbers[offset]


class Parts:
    """Cuts an outcome into parts; what each costs depends on its own size, and not on that of the whole."""

    def __init__(self, outcome: Outcome, items: Items | None) -> None:
        self.outcome = outcome
        self.items = items
        self._failed = [failure.offset for failure in outcome.failures]
        self._withheld = sorted(outcome.withheld)
        self._cancelled = sorted(outcome.cancelled)
        self._bytes: list[int] | None = None
        self._buffers: list[int] | None = None
        if items is not None and items.form == "each":
            self._bytes = [0, *accumulate(items.sizes or (len(items.data),))]
            if items.buffer_counts is not None:
                self._buffers = [0, *accumulate(items.buffer_counts)]

    def part(self, start: int, stop: int) -> tuple[Outcome, Items | None]:
        """Return what is said of the items `start` to `stop`."""
        outcome, numbers = self.outcome, self.outcome.numbers
        if (start, stop) == (0, outcome.count):
            return outcome, self.items
        some = msgspec.structs.replace(
            outcome,
            numbers=numbers + start if isinstance(numbers, int) else packed(numbers[start:stop]),
            count=stop - start,
            attempt=_within(outcome.attempt, start, stop),
            failures=self._failures(start, stop),
            withheld=_offsets(self._withheld, start, stop),
            cancelled=_offsets(self._cancelled, start, stop),
            started=_within(outcome.started, start, stop),
            seconds=_within(outcome.seconds, start, stop),
        )
        return some, self._items(start, stop)

    def alone(self, offset: int) -> list[Buffer]:
        """Return what became of one item as a content."""
        some, items = self.part(offset, offset + 1)
        unsuccessful = some.failures or some.cancelled
        return with_items(msgspec.structs.replace(some, withheld=[]), None if unsuccessful else items)

    def _failures(self, start: int, stop: int) -> list[Failure]:
        low, high = bisect_left(self._failed, start), bisect_left(self._failed, stop)
        return [
            msgspec.structs.replace(failure, offset=failure.offset - start)
            for failure in self.outcome.failures[low:high]
        ]

    def _items(self, start: int, stop: int) -> Items | None:
        items = self.items
        if items is None or self._bytes is None:
            return items.part(start, stop) if items is not None else None
        sizes = items.sizes[start:stop] if items.sizes is not None else None
        data = items.data[self._bytes[start] : self._bytes[stop]]
        if self._buffers is None or items.buffer_counts is None:
            return Items("each", stop - start, data, sizes)
        buffers = items.buffers[self._buffers[start] : self._buffers[stop]]
        return Items("each", stop - start, data, sizes, items.buffer_counts[start:stop], buffers)


def part(outcome: Outcome, items: Items | None, start: int, stop: int) -> tuple[Outcome, Items | None]:
    """Return what an outcome says of its items `start` to `stop`."""
    return Parts(outcome, items).part(start, stop)


def _within(table: Any, start: int, stop: int) -> Any:
    return table[start:stop] if isinstance(table, list) else table


def _offsets(offsets: list[int], start: int, stop: int) -> list[int]:
    return [offset - start for offset in offsets[bisect_left(offsets, start) : bisect_left(offsets, stop)]]


def packed(numbers: list[int]) -> int | list[int]:
    """Return the first of these numbers, if each is followed by the next; else all."""
    first, count = numbers[0], len(numbers)
    if numbers[-1] - first == count - 1 and numbers == list(range(first, first + count)):
        return first
    return numbers


def runs(outcome: Outcome, offsets: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the stretches (start, stop) of offsets that follow each other, and whose numbers do, too."""
    if isinstance(offsets, range) and isinstance(outcome.numbers, int) and offsets:
        yield offsets.start, offsets.stop
        return
    start = 0
    for index in range(1, len(offsets) + 1):
        if index == len(offsets) or not _follows(outcome, offsets[index - 1], offsets[index]):
            yield offsets[start], offsets[index - 1] + 1
            start = index


def _follows(outcome: Outcome, one: int, other: int) -> bool:
    return other == one + 1 and number_at(outcome, other) == number_at(outcome, one) + 1
