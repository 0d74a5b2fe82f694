"""Arrays: large buffers travel beside the pickle, as they were at the dump, and arrive writable."""

from __future__ import annotations

import pytest

from ztasks.wire.payload import OUT_OF_BAND, dump, load, pack

np = pytest.importorskip("numpy")


@pytest.mark.parametrize(("nbytes", "out_of_band"), [(OUT_OF_BAND - 1, 0), (OUT_OF_BAND, 1)])
def test_large_buffers_travel_out_of_band(nbytes: int, out_of_band: int) -> None:
    array = np.arange(nbytes, dtype=np.uint8)
    pickled = dump(array)
    assert len(pickled.buffers) == out_of_band
    assert nbytes <= pickled.nbytes < nbytes + 500
    np.testing.assert_array_equal(load(pickled.data, pickled.buffers), array)


def test_an_array_arrives_writable() -> None:
    pickled = dump(np.zeros(100_000))
    back = load(pickled.data, pickled.buffers)
    back[0] = 1.0
    assert back.flags.writeable


def test_a_read_only_array_can_be_sent() -> None:
    array = np.arange(100_000)
    array.flags.writeable = False
    pickled = dump(array)
    np.testing.assert_array_equal(load(pickled.data, pickled.buffers), array)


@pytest.mark.parametrize("layout", ["rows", "columns", "transposed"])
def test_an_array_of_any_layout_can_be_sent(layout: str) -> None:
    array = np.arange(400_000).reshape(400, 1000)
    view = {"rows": array[::2], "columns": array[:, ::2], "transposed": array.T}[layout]
    pickled = dump(view)
    np.testing.assert_array_equal(load(pickled.data, pickled.buffers), view)


@pytest.mark.parametrize("read_only", [False, True])
def test_what_is_changed_after_the_dump_is_not_sent(read_only: bool) -> None:
    array = np.zeros(100_000)
    view = array.view()
    view.flags.writeable = not read_only
    small = [1, 2]
    pickled = dump((view, small))
    array[:] = 7.0  # also shows through a read-only view
    small.append(3)
    back, short = load(pickled.data, pickled.buffers)
    assert not back.any()
    assert short == [1, 2]


def test_each_item_has_its_own_buffers() -> None:
    arrays = [np.full(20_000, number, dtype=np.float64) for number in range(4)]
    items = pack([dump([array] * (number % 3)) for number, array in enumerate(arrays)])
    assert items.buffer_counts == [0, 1, 1, 0]  # the second time it is the same object, and pickled once
    for number, value in enumerate(items.values()):
        assert all((array == number).all() for array in value)
        assert len(value) == number % 3
    assert items.nbytes > 2 * 160_000
    assert items.part(0, 1).nbytes < 100
