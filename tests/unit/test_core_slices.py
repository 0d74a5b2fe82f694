"""Slices: the transition table, and splitting without unpickling."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import pytest
from books import triple
from hypothesis import given
from hypothesis import strategies as st

from ztasks.core.lane import Batch
from ztasks.core.options import DEFAULTS
from ztasks.core.slices import TRANSITIONS, RunTime, Slice, State, TaskBooks
from ztasks.wire.callables import ship
from ztasks.wire.payload import Items, dump, pack, pack_primitives

LEGAL = {
    ("QUEUED", "ASSIGNED"), ("QUEUED", "CANCELLED"),
    ("ASSIGNED", "DONE"), ("ASSIGNED", "FAILED"), ("ASSIGNED", "QUEUED"),
    ("ASSIGNED", "DELAYED"), ("ASSIGNED", "CANCELLED"),
    ("DELAYED", "QUEUED"), ("DELAYED", "CANCELLED"),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)))
def test_moves(before: State, after: State) -> None:
    slice_ = slice_of(1)
    slice_.state = before
    if (before.name, after.name) in LEGAL:
        slice_.move(after)
        assert slice_.state is after
    else:
        with pytest.raises(AssertionError, match=f"cannot go from {before.name} to {after.name}"):
            slice_.move(after)
        assert slice_.state is before


def test_the_table_has_a_row_for_each_state() -> None:
    assert TRANSITIONS.keys() == set(State)


def buffered(size: int) -> Any:
    return pickle.PickleBuffer(bytearray([size % 256]) * 70_000)


def items_of(count: int, form: str) -> Items:
    """Pack items 0, 1, 2, ...; `mixed`: item n has n % 3 buffers."""
    if form == "list":
        items = pack_primitives(list(range(count)))
        assert items is not None
        return items
    if form == "each":
        return pack([dump((number,)) for number in range(count)])
    return pack([dump((number, *[buffered(number)] * (number % 3))) for number in range(count)])


def numbers(items: Items) -> list[int]:
    """Unpickle the items; return their numbers, with their buffers checked."""
    found = []
    for value in items.values():
        number, *buffers = value if isinstance(value, tuple) else (value,)
        assert all(bytes(buffer) == bytes([number % 256]) * 70_000 for buffer in buffers)
        assert not buffers or len(buffers) == number % 3
        found.append(number)
    return found


def slice_of(count: int, form: str = "list", first: int = 0) -> Slice:
    task = TaskBooks(ship(triple), DEFAULTS, "one", map_number=1)
    return Slice(task, "the owner", first, count, items_of(count, form))


@given(
    form=st.sampled_from(["list", "each", "mixed"]),
    count=st.integers(1, 8),
    cuts=st.lists(st.tuples(st.integers(0, 7), st.integers(1, 8)), max_size=3),
)
def test_a_part_of_a_part_holds_its_items(form: str, count: int, cuts: list[tuple[int, int]]) -> None:
    slice_ = slice_of(count, form, first=100)
    slice_.state = State.ASSIGNED
    for start, length in cuts:
        start %= slice_.count
        slice_ = slice_.part(start, min(start + length, slice_.count))
    payload = slice_.payload
    assert isinstance(payload, Items)
    assert numbers(payload) == [index - 100 for index in range(slice_.first, slice_.first + slice_.count)]
    assert payload.count == slice_.count
    assert (slice_.state, slice_.owner) == (State.ASSIGNED, "the owner")


def test_a_part_takes_only_its_own_bytes_along() -> None:
    whole = slice_of(7, "mixed")
    part = whole.part(3, 5)
    assert part.nbytes < whole.nbytes / 3
    assert isinstance(part.payload, Items)
    assert part.payload.buffer_counts == [0, 1]


def test_a_part_has_the_history_of_the_whole() -> None:
    whole = slice_of(1)
    whole.failures, whole.crashes, whole.history = 1, 2, ("a", "b", "c")
    part = whole.part(0, 1)
    assert (part.failures, part.crashes, part.history, part.attempt) == (1, 2, ("a", "b", "c"), 4)


@pytest.mark.parametrize("form", ["list", "each", "mixed"])
def test_a_batch_of_one_slice_is_cut_at_items(form: str) -> None:
    batch = Batch(slice_of(6).task, [slice_of(6, form)], 6, 0, position=10)
    assert contents([batch.slice_at(4)]) == [4]
    assert contents(batch.rest(2)) == [2, 3, 4, 5]
    assert batch.rest(6) == []
    batch.truncate(3)
    assert (contents(batch.slices), batch.count, batch.end) == ([0, 1, 2], 3, 13)
    assert contents(batch.rest(1)) == [1, 2]


def contents(slices: list[Slice]) -> list[int]:
    found = [number for slice_ in slices for number in numbers(slice_.payload)]  # type: ignore[arg-type]
    assert found == [index for slice_ in slices for index in range(slice_.first, slice_.first + slice_.count)]
    return found


def test_the_run_time_is_a_moving_average() -> None:
    run_time = RunTime()
    assert run_time.seconds is None
    run_time.learn(2.0, 4)
    assert run_time.seconds == 0.5
    run_time.learn(1.5, 1)
    assert run_time.seconds == pytest.approx(0.8)
    run_time.learn(0.0, 10)
    assert run_time.seconds > 0
