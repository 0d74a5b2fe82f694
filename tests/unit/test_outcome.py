"""Segments become values: also when a message has been damaged on its way, each item has its value or its error."""

from __future__ import annotations

import pickle
from concurrent.futures import CancelledError
from typing import Any

import pytest

from ztasks.errors import RemoteError, ResultNotLoadable
from ztasks.io.deliver import Segment
from ztasks.outcome import cut, entries, plain_values
from ztasks.wire.messages import Failure
from ztasks.wire.payload import Items, Pickled, dump, pack, pack_primitives


def segment(items: Items | None, count: int, failures: dict[int, Failure] | None = None, **how: Any) -> Segment:
    return Segment(10, count, items, failures or {}, frozenset(), 1, None, None, 0, None, **how)


def failure(offset: int) -> Failure:
    return Failure(offset, "raised", "ValueError", "no", "", b"", False)


VALUES = [1, "two", None]
LISTED = pack_primitives(VALUES)
EACH = pack([dump(value) for value in VALUES])
assert LISTED is not None


def told(of: Segment) -> list[Any]:
    return [value if error is None else type(error) for _, value, error in entries(of)]


@pytest.mark.parametrize("items", [LISTED, EACH], ids=["list", "each"])
def test_values_and_failures(items: Items) -> None:
    assert told(segment(items, 3)) == VALUES
    assert told(segment(items, 3, {1: failure(1)})) == [1, RemoteError, None]
    assert told(cut(segment(items, 3, {1: failure(1)}), 1, 3)) == [RemoteError, None]
    assert [place for place, _, _ in entries(segment(items, 3))] == [0, 1, 2]


def test_items_that_were_not_run() -> None:
    assert told(segment(None, 2, error=CancelledError())) == [CancelledError, CancelledError]


def test_plain_values_at_once() -> None:
    assert plain_values(segment(LISTED, 3)) == VALUES
    assert plain_values(segment(LISTED.part(1, 3), 2)) == ["two", None]
    assert plain_values(segment(EACH, 3)) is None
    assert plain_values(segment(None, 3)) is None
    assert plain_values(segment(LISTED, 3, {0: failure(0)})) is None


DAMAGED = {
    "no pickle": Items("list", 3, b"garbage"),
    "empty": Items("list", 3, b""),
    "cut": Items("list", 3, LISTED.data[:-3]),
    "too few": Items("list", 3, pickle.dumps([1, 2], 5)),
    "too few behind those skipped": Items("list", 3, pickle.dumps([1, 2, 3, 4], 5), skip=2),
    "no list": Items("list", 3, pickle.dumps("abc", 5)),
    "each of them": Items("each", 3, b"\xff\xff\xff", [1, 1, 1]),
    "one that is empty": Items("each", 3, b"\xff\xff", [1, 1, 0]),
    "buffers that are missing": pack([Pickled(dump(pickle.PickleBuffer(bytearray(100_000))).data, [])] * 3),
}


@pytest.mark.parametrize("which", DAMAGED)
def test_no_item_is_lost_when_a_payload_is_damaged(which: str) -> None:
    assert plain_values(segment(DAMAGED[which], 3)) is None
    found = told(segment(DAMAGED[which], 3, {1: failure(1)}))
    assert len(found) == 3
    assert found[1] is RemoteError
    assert {found[0], found[2]} == {ResultNotLoadable}
