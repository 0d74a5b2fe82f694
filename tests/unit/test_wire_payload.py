"""Payloads: values become bytes and buffers when they are dumped, and are what they were when they are loaded."""

from __future__ import annotations

import pickle
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztasks.wire.payload import OUT_OF_BAND, Items, Pickled, dump, dump_call, load, pack, pack_primitives

PRIMITIVE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
VALUE = st.recursive(
    PRIMITIVE, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@given(VALUE)
def test_any_value_comes_back(value: Any) -> None:
    pickled = dump(value)
    assert load(pickled.data, pickled.buffers) == value
    assert pickled.nbytes == len(pickled.data)


@given(st.lists(VALUE, min_size=1, max_size=8), st.data())
def test_packed_items_come_back_one_by_one(values: list[Any], data: st.DataObject) -> None:
    items = pack([dump(value) for value in values])
    assert (items.form, items.count, sum(items.sizes or ())) == ("each", len(values), len(items.data))
    assert list(items.values()) == values
    start = data.draw(st.integers(0, len(values) - 1))
    stop = data.draw(st.integers(start + 1, len(values)))
    assert list(items.part(start, stop).values()) == values[start:stop]


@given(st.lists(PRIMITIVE, max_size=8))
def test_primitives_share_a_list(values: list[Any]) -> None:
    items = pack_primitives(values)
    assert items is not None
    assert list(items.values()) == values
    assert [type(value) for value in items.values()] == [type(value) for value in values]


class Int(int):
    pass


@pytest.mark.parametrize("value", [Int(3), (1,), [1], 1j, bytearray(b"x"), frozenset()])
def test_only_exact_primitives_do(value: object) -> None:
    assert pack_primitives([1, value, 2]) is None


def test_a_part_of_a_list_is_of_the_same_pickle() -> None:
    items = pack_primitives([10, 11, 12, 13, 14])
    assert items is not None
    part = items.part(1, 5).part(1, 3)
    assert part.data is items.data
    assert (part.skip, part.count, list(part.values())) == (2, 2, [12, 13])


def test_an_item_that_does_not_load_loses_no_other() -> None:
    items = pack([dump(1), Pickled(b"garbage", []), dump(3)])
    first, second, third = items.pickles()
    assert (load(first.data), load(third.data)) == (1, 3)
    with pytest.raises(pickle.UnpicklingError):
        load(second.data)


def test_a_single_item_needs_no_size_table() -> None:
    items = Items("each", 1, pickle.dumps("x", 5))
    assert list(items.values()) == ["x"]
    assert items.part(0, 1) is items


# --- calls ---


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, "a", None), {}), (([1], {2}), {}), ((), {"a": 1}), ((1,), {"b": [2]})],
)
def test_a_call_is_plain_bytes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    pickled = dump_call(args, kwargs)
    assert type(pickled) is bytes
    assert load(pickled) == (args, kwargs)


def test_a_call_with_large_buffers_has_them_beside_it() -> None:
    pickled = dump_call((buffer(1),), {"other": buffer(2)})
    assert isinstance(pickled, Pickled)
    assert len(pickled.buffers) == 2
    args, kwargs = load(pickled.data, pickled.buffers)
    assert (args[0][0], kwargs["other"][0]) == (1, 2)


def buffer(byte: int) -> pickle.PickleBuffer:
    return pickle.PickleBuffer(bytearray([byte]) * OUT_OF_BAND)


# --- by value ---


def of_main(source: str) -> dict[str, Any]:
    """Run source as if it were the user's script."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(source, namespace)
    return namespace


def test_what_is_of_main_goes_by_value_and_brings_its_buffers_once() -> None:
    function = of_main("def double(x): return 2 * x")["double"]
    pickled = dump((buffer(3), function))  # standard pickle has taken the buffer before it fails
    assert len(pickled.buffers) == 1
    held, back = load(pickled.data, pickled.buffers)
    assert back is not function
    assert back(21) == 42
    assert held[-1] == 3


def test_what_standard_pickle_refuses_is_tried_by_value() -> None:
    back = load(dump(lambda x: x + 1).data)
    assert back(1) == 2


def test_what_cannot_be_pickled_at_all_says_so() -> None:
    with pytest.raises(TypeError, match="lock"):
        dump([threading.Lock()])


def test_plain_values_need_no_cloudpickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ztasks.wire.by_value", None)
    assert load(dump({"a": [1, 2]}).data) == {"a": [1, 2]}
