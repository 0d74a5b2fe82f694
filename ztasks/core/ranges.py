"""Sets of numbers, as few ranges: what a session's numbers are in, so that none need be looked at one by one."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from ztasks.wire.link import Range


class Ranges:
    """A set of numbers, kept as sorted ranges that neither overlap nor touch."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        """From ranges in any order, which may overlap."""
        self._starts: list[int] = []
        self._ends: list[int] = []
        """The number behind each range's last."""
        for first, count in sorted(ranges):
            self.add(first, count)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __len__(self) -> int:
        """Return how many ranges there are."""
        return len(self._starts)

    def __iter__(self) -> Iterator[Range]:
        for start, end in zip(self._starts, self._ends, strict=True):
            yield start, end - start

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._starts, number)
        return place > 0 and number < self._ends[place - 1]

    def add(self, first: int, count: int) -> None:
        """Put numbers in."""
        end = first + count
        start, stop = bisect_left(self._ends, first), bisect_right(self._starts, end)
        if start < stop:
            first, end = min(first, self._starts[start]), max(end, self._ends[stop - 1])
        self._starts[start:stop], self._ends[start:stop] = [first], [end]

    def discard(self, first: int, count: int) -> None:
        """Take numbers out, as far as they are in."""
        end = first + count
        start, stop = bisect_right(self._ends, first), bisect_left(self._starts, end)
        if start >= stop:
            return
        left = [(self._starts[start], first), (end, self._ends[stop - 1])]
        left = [(low, high) for low, high in left if low < high]
        self._starts[start:stop] = [low for low, _ in left]
        self._ends[start:stop] = [high for _, high in left]

    def within(self, first: int, count: int) -> list[Range]:
        """Return those of some consecutive numbers that are in."""
        end = first + count
        start, stop = bisect_right(self._ends, first), bisect_left(self._starts, end)
        found = []
        for low, high in zip(self._starts[start:stop], self._ends[start:stop], strict=True):
            low, high = max(low, first), min(high, end)
            found.append((low, high - low))
        return found

    def without(self, first: int, count: int) -> list[Range]:
        """Return those of some consecutive numbers that are not in."""
        found, at = [], first
        for start, size in self.within(first, count):
            if start > at:
                found.append((at, start - at))
            at = start + size
        if at < first + count:
            found.append((at, first + count - at))
        return found

    def meets(self, first: int, count: int) -> bool:
        """Tell whether any of some consecutive numbers is in."""
        place = bisect_right(self._ends, first)
        return place < len(self._starts) and self._starts[place] < first + count
