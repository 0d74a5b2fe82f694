"""Outcomes cut into parts, and put together again, without unpickling anything."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztasks.errors import WireError
from ztasks.wire.link import Outcome
from ztasks.wire.link_codec import encode
from ztasks.wire.messages import Failure
from ztasks.wire.outcomes import Parts, items_of, number_at, packed, part, runs, with_items
from ztasks.wire.payload import Items, Pickled, pack, pack_primitives

FATES = st.lists(st.sampled_from(["ok", "ok", "buffers", "failed", "cancelled", "withheld"]), min_size=1, max_size=12)


def outcome(fates: list[str], numbers: int | list[int] = 5) -> tuple[Outcome, Items | None]:
    """Return an outcome whose items have these fates; results and failures name their offsets."""
    pickles = []
    for offset, fate in enumerate(fates):
        data = pickle.dumps(offset) if fate in ("ok", "buffers") else b""
        pickles.append(Pickled(data, [b"%d" % offset, b"more"] if fate == "buffers" else []))
    count = len(fates)
    made = Outcome(
        7, numbers, count, [offset + 1 for offset in range(count)], None, None, None,
        [Failure(at, "raised", "E", str(at), "", b"", False) for at in range(count) if fates[at] == "failed"],
        [offset for offset in range(count) if fates[offset] == "withheld"],
        [offset for offset in range(count) if fates[offset] == "cancelled"],
        [float(offset) for offset in range(count)], [1.0] * count, 0.5, 9, "h", 3, None,
    )  # fmt: skip
    return made, pack(pickles) if "ok" in fates or "buffers" in fates else None


def told(found: Outcome, items: Items | None, start: int = 0) -> list[Any]:
    """Return what an outcome says of each item, in words of the whole that begins `start` before it."""
    failures = {failure.offset: failure.message for failure in found.failures}
    pickles = list(items.pickles()) if items is not None else [Pickled(b"", [])] * found.count
    said: list[Any] = []
    for offset in range(found.count):
        attempt = found.attempt if isinstance(found.attempt, int) else found.attempt[offset]
        started = found.started[offset] if found.started is not None else None
        how: Any = (pickles[offset].data, [bytes(each) for each in pickles[offset].buffers])  # type: ignore[call-overload]
        if offset in failures:
            how = failures[offset]
        elif offset in found.withheld or offset in found.cancelled:
            how = "withheld" if offset in found.withheld else "cancelled"
        said.append((number_at(found, offset), attempt, started, how))
    return said


@given(FATES, st.booleans(), st.data())
def test_a_part_says_of_its_items_what_the_whole_does(fates: list[str], listed: bool, data: st.DataObject) -> None:
    numbers: int | list[int] = [3 * offset + 2 for offset in range(len(fates))] if listed else 5
    whole, items = outcome(fates, numbers)
    start = data.draw(st.integers(0, len(fates) - 1))
    stop = data.draw(st.integers(start + 1, len(fates)))
    some, its = part(whole, items, start, stop)
    assert told(some, its) == told(whole, items)[start:stop]
    frames = with_items(some, its)
    again = msgspec.msgpack.decode(frames[0], type=Outcome)
    found = items_of(again, frames[1:])
    assert (found is None) == (its is None)
    assert told(again, found) == told(whole, items)[start:stop]


@given(FATES)
def test_one_item_alone_has_what_it_needs_and_no_more(fates: list[str]) -> None:
    whole, items = outcome(fates)
    parts = Parts(whole, items)
    for offset, fate in enumerate(fates):
        frames = parts.alone(offset)
        found = msgspec.msgpack.decode(frames[0], type=Outcome)
        result = items_of(found, frames[1:])
        assert (found.count, found.numbers, found.withheld) == (1, 5 + offset, [])
        if fate in ("ok", "buffers"):
            assert result is not None
            ((data, buffers),) = result.pickles()
            assert pickle.loads(data) == offset
            assert [bytes(buffer) for buffer in buffers] == ([b"%d" % offset, b"more"] if fate == "buffers" else [])  # type: ignore[call-overload]
        elif fate != "withheld":
            assert result is None
            assert len(found.failures) + len(found.cancelled) == 1


def test_a_part_of_a_list_pickle_keeps_it_whole() -> None:
    items = pack_primitives([10, 11, 12, 13])
    whole = msgspec.structs.replace(outcome(["ok"] * 4)[0], attempt=1)
    some, its = part(whole, items, 1, 3)
    assert (some.numbers, some.count, some.attempt) == (6, 2, 1)
    assert its is not None
    assert (its.skip, list(its.values())) == (1, [11, 12])


@pytest.mark.parametrize(
    ("numbers", "found"),
    [([4], 4), ([4, 5, 6], 4), ([4, 6], [4, 6]), ([3, 9, 5], [3, 9, 5]), ([3, 3, 5], [3, 3, 5]), ([5, 4], [5, 4])],
)
def test_numbers_are_packed_only_if_each_follows_the_one_before(numbers: list[int], found: int | list[int]) -> None:
    assert packed(numbers) == found


@pytest.mark.parametrize(
    ("numbers", "offsets", "found"),
    [
        (5, range(4), [(0, 4)]),
        (5, [0, 1, 3], [(0, 2), (3, 4)]),
        ([5, 6, 9, 10], range(4), [(0, 2), (2, 4)]),
        ([5, 6, 9, 10], [1, 2], [(1, 2), (2, 3)]),
        (5, [], []),
        (5, range(0), []),
    ],
)
def test_stretches_of_what_follows_each_other(numbers: Any, offsets: Any, found: list[tuple[int, int]]) -> None:
    assert list(runs(outcome(["ok"] * 4, numbers)[0], offsets)) == found


@pytest.mark.parametrize("skip", [(1 << 31) + 1, (1 << 64) - 1])
def test_what_skips_more_than_any_list_holds_is_refused(skip: int) -> None:
    message = msgspec.structs.replace(outcome(["ok"])[0], form="list", skip=skip, payload=b"x")
    with pytest.raises(WireError, match=f"skips {skip} items"):
        items_of(message, [])


def test_many_parts_cost_as_much_as_the_whole() -> None:
    """Each by itself: with a look through all of the outcome for each part, this took minutes."""
    count = 65_536
    whole, items = outcome(["failed", "ok"] * (count // 2))
    parts = Parts(whole, items)
    found = [parts.part(offset, offset + 1) for offset in range(count)]
    assert sum(len(some.failures) for some, _ in found) == count // 2
    assert len(encode(found[-1][0])) < 200
