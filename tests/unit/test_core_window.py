"""The window of a map: how far it opens, and that its account of what is held comes out even."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztasks.core.options import Options
from ztasks.core.slices import TaskBooks
from ztasks.core.window import LEAST, MAX_OUTSTANDING, SLICE_BYTES, Window
from ztasks.wire.callables import ship
from ztasks.wire.messages import MAX_ITEMS, Failure
from ztasks.wire.payload import Items, dump, pack, pack_primitives

MIB = 2**20


def window(seconds: float | None = None, *, detail: bool = False, **how: Any) -> Window:
    task = TaskBooks(ship(len), Options(), "one", map_number=1, detail=detail)
    task.run_time.seconds = seconds
    return Window(task, **{"workers": 2, "max_bytes": 64 * MIB, **how})


def items(count: int, size: int = 5) -> Items:
    return Items("each", count, bytes(count * size), [size] * count)


def pull(window: Window, count: int, size: int = 5) -> int:
    first = window.pulled
    window.on_pulled(items(count, size))
    return first


def pass_through(window: Window, count: int, size: int = 5, result: int = 5) -> None:
    """Pull, finish and consume some items."""
    cost = window.on_arrived(pull(window, count, size), count, items(count, result))
    window.on_consumed(count, cost)


# --- by time ---


def test_before_anything_is_known_a_few_items_for_each_worker() -> None:
    assert window().items() == 8
    assert window(workers=5).items() == 20
    assert window(hint=100).items() == 100
    assert window().slice_items() == 1


def test_it_opens_step_by_step() -> None:
    opening = window(seconds=1e-6)
    sizes = []
    while opening.items() < 50_000:
        sizes.append(opening.items())
        pass_through(opening, opening.items())
        assert len(sizes) < 20
    assert sizes[0] == 8
    assert sizes == sorted(sizes)


def test_it_covers_what_the_workers_do_while_the_consumer_is_away() -> None:
    slow = window(seconds=0.01)
    pass_through(slow, 1000)
    assert slow.items() == 24  # 0.24 s of two workers' work
    slow.pause = 2.0
    assert slow.items() == pytest.approx(824, abs=1)
    slow.pause = 1e9
    assert slow.items() < 13_000


def test_it_has_an_end() -> None:
    fast = window(seconds=1e-9, max_bytes=10**100)
    for _ in range(30):
        pass_through(fast, 1_000_000)
    assert fast.items() == MAX_OUTSTANDING
    assert 1 <= fast.slice_items() <= MAX_ITEMS


def test_the_callers_own_limit() -> None:
    fixed = window(seconds=1e-6, fixed=10)
    assert fixed.items() <= 10
    pull(fixed, 4)
    assert fixed.slice_items() <= 3
    pass_through(fixed, 1000)
    assert fixed.items() == 10


def test_slices_get_smaller_towards_the_end() -> None:
    ending = window(seconds=1e-6, length=10_000)
    pass_through(ending, 9_000)
    assert ending.slice_items() == 250
    pass_through(ending, 990)
    assert ending.slice_items() == 2


def test_a_length_that_was_a_lie_costs_nothing() -> None:
    lying = window(seconds=1e-6, length=10)
    for _ in range(5):
        pass_through(lying, 1000)
    assert lying.slice_items() > 100


def test_lifted_nothing_holds_it_back_but_the_size_of_a_slice() -> None:
    lifted = window(seconds=1e-6, fixed=2)
    lifted.lift()
    pull(lifted, 1000)
    assert lifted.slice_items() == 4000


# --- by bytes ---


def test_large_inputs_close_it() -> None:
    large = window(seconds=1e-6, max_bytes=10 * MIB)
    pass_through(large, 100)
    for _ in range(9):
        assert large.outstanding < large.items()
        pull(large, 1, MIB)
    assert large.items() == large.outstanding


def test_large_results_close_it_before_they_are_consumed() -> None:
    large = window(seconds=1e-6, max_bytes=10 * MIB)
    first = pull(large, 100)
    for index in range(9):
        large.on_arrived(first + index, 1, items(1, MIB))
    assert large.outstanding >= large.items()  # what is on its way counts like what has come
    assert large.held > 90 * MIB


def test_it_opens_again_when_they_are_consumed() -> None:
    large = window(seconds=1e-6, max_bytes=10 * MIB)
    pass_through(large, 100, result=MIB)
    assert large.held == 0
    assert large.items() == 9


def test_a_few_items_are_let_in_however_large_they_are() -> None:
    large = window(seconds=1e-6, max_bytes=0)
    pass_through(large, 1, size=MIB)
    assert large.items() == LEAST
    pull(large, 1, MIB)
    assert large.slice_items() == 1


def test_slices_hold_about_so_many_bytes() -> None:
    large = window(seconds=1e-6)
    pass_through(large, 1000, result=SLICE_BYTES // 4)
    assert large.slice_items() == 3


def test_one_large_item_among_many_is_forgotten_in_time() -> None:
    mixed = window(seconds=1e-6, max_bytes=64 * MIB)
    pass_through(mixed, 1000)
    before = mixed.items()
    pass_through(mixed, 1, result=16 * MIB)
    assert mixed.items() <= 4
    for _ in range(200):
        pass_through(mixed, 100)
    assert mixed.items() >= before


def test_failures_count_with_all_that_they_say() -> None:
    failing = window()
    failure = Failure(0, "raised", "ValueError", "x" * MIB, "y" * MIB, bytes(MIB), True)
    failing.on_arrived(pull(failing, 1), 1, None, [failure])
    assert failing.held > 3 * MIB


def test_what_is_kept_for_outcomes_counts_until_they_are_consumed() -> None:
    kept, passed_on = window(detail=True), window()
    for each in (kept, passed_on):
        cost = each.on_arrived(pull(each, 10, MIB), 10, items(10, 1))
        assert (each.held > 10 * MIB) == (each is kept)
        each.on_consumed(10, cost)
        assert each.held == 0


@pytest.mark.parametrize(
    ("values", "plain"),
    [(list(range(1000)), True), ([(n, str(n)) for n in range(1000)], False), (list("ab" * 500), False)],
)
def test_the_cost_of_small_items_is_no_less_than_what_python_takes_for_them(values: list[Any], plain: bool) -> None:
    """The objects around an item cost more than the item: this is what let a map of outcomes grow."""
    packed = pack_primitives(values)
    pickles = [dump(value) for value in values]
    packed = packed or pack(pickles)
    kept = dict(enumerate(values if packed.form == "list" else pickles))
    holds = sys.getsizeof(kept) + sum(map(sys.getsizeof, kept)) + sys.getsizeof(packed.data)
    for value in kept.values():
        holds += sys.getsizeof(value) + (0 if packed.form == "list" else sum(map(sys.getsizeof, value)))
    counting = window(detail=True, plain=plain)
    counting.on_pulled(packed)
    assert holds / 2 < counting.held < 4 * holds


# --- the account ---


@given(st.data())
def test_whatever_happens_the_account_comes_out_even(data: st.DataObject) -> None:
    """Slices arrive in parts and out of order, some items later than their neighbours; all is consumed at last."""
    detail = data.draw(st.booleans())
    counting = window(seconds=1e-3, detail=detail)
    on_their_way: list[int] = []
    arrived: list[tuple[int, int]] = []
    for _ in range(data.draw(st.integers(1, 30))):
        step = data.draw(st.sampled_from(["pull", "arrive", "consume"]))
        if step == "pull":
            count = data.draw(st.integers(1, 20))
            first = pull(counting, count, data.draw(st.sampled_from([0, 3, 1000, MIB])))
            on_their_way += range(first, first + count)
        elif step == "arrive" and on_their_way:
            index = on_their_way.pop(data.draw(st.integers(0, len(on_their_way) - 1)))
            cost = counting.on_arrived(index, 1, items(1, data.draw(st.sampled_from([0, 3, MIB]))))
            arrived.append((1, cost))
        elif arrived:
            counting.on_consumed(*arrived.pop(data.draw(st.integers(0, len(arrived) - 1))))
        assert counting.held >= 0
        assert counting.items() >= LEAST
        assert counting.slice_items() >= 1
    for index in on_their_way:
        arrived.append((1, counting.on_arrived(index, 1, None)))
    for count, cost in arrived:
        counting.on_consumed(count, cost)
    assert (counting.held, counting.outstanding) == (0, 0)
    assert not counting._starts
    assert not counting._slices


def test_what_belongs_to_no_slice_does_no_harm() -> None:
    """The head has ended, and refuses in several threads what was posted late."""
    counting = window()
    assert counting.on_arrived(0, 5, None) > 0
    counting.on_arrived(0, 0, None)
