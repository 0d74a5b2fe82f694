"""Sets of numbers as ranges: they mean what sets mean."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ztasks.core.ranges import Ranges

RANGES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), max_size=12)
RANGE = st.tuples(st.integers(1, 45), st.integers(1, 15))


def numbers(ranges: list[tuple[int, int]]) -> set[int]:
    return {number for first, count in ranges for number in range(first, first + count)}


def check(ranges: Ranges, wanted: set[int]) -> None:
    found = list(ranges)
    assert numbers(found) == wanted
    assert all(count > 0 for _, count in found)
    assert all(one[0] + one[1] < other[0] for one, other in pairwise(found)), "they touch"
    assert (bool(ranges), len(ranges)) == (bool(wanted), len(found))


@given(RANGES, RANGES, RANGE)
def test_they_mean_what_sets_mean(
    added: list[tuple[int, int]], taken: list[tuple[int, int]], some: tuple[int, int]
) -> None:
    ranges = Ranges(added)
    wanted = numbers(added)
    check(ranges, wanted)
    for range_ in taken:
        ranges.discard(*range_)
        wanted -= numbers([range_])
        check(ranges, wanted)
    ranges.add(*some)
    wanted |= numbers([some])
    check(ranges, wanted)
    for first, count in [*added, *taken, some]:
        within, without = ranges.within(first, count), ranges.without(first, count)
        assert numbers(within) == wanted & numbers([(first, count)])
        assert numbers(without) == numbers([(first, count)]) - wanted
        assert ranges.meets(first, count) == bool(within)
        assert (first in ranges) == (first in wanted)


def test_numbers_may_be_huge() -> None:
    ranges = Ranges([(1, 1 << 62)])
    ranges.discard(5, 1)
    assert list(ranges) == [(1, 4), (6, (1 << 62) - 5)]
    assert ranges.without(1, 1 << 62) == [(5, 1)]
