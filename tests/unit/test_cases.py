"""Inputs from Python: lists, generators, and what goes wrong in them."""

import threading
from collections.abc import Iterator, Sized
from typing import Any, NamedTuple

import pytest

from ztasks.errors import InvalidOption
from ztasks.runs.inputs import BadInput, Call, Cases, Total


def test_what_is_unpacked_and_what_is_not() -> None:
    cases = [{"a": 1}, (1, 2), [3], "text", 5, None, {1: 2}]
    assert list(Cases(cases)) == [
        Call((), {"a": 1}, {"a": 1}),
        Call((1, 2), {}, (1, 2)),
        Call((3,), {}, [3]),
        Call(("text",), {}, "text"),
        Call((5,), {}, 5),
        Call((None,), {}, None),
        Call(({1: 2},), {}, {1: 2}),
    ]
    assert list(Cases(cases, unpack=False)) == [Call((case,), {}, case) for case in cases]


def test_a_named_tuple_is_positional_arguments() -> None:
    class Size(NamedTuple):
        width: int
        height: int

    assert list(Cases([Size(3, 4)])) == [Call((3, 4), {}, Size(3, 4))]


def test_they_are_no_text() -> None:
    assert not Cases([]).is_text


@pytest.mark.parametrize("cases", [5, None, "text", b"bytes", object()])
def test_what_is_no_iterable_of_inputs_is_refused(cases: Any) -> None:
    with pytest.raises(InvalidOption, match=r"--from x\.py:cases must be an iterable of inputs, not "):
        Cases(cases, name="--from x.py:cases")


def test_a_generator_is_read_lazily() -> None:
    asked = []

    def cases() -> Iterator[int]:
        for number in range(1_000_000):
            asked.append(number)
            yield number

    source = Cases(cases())
    assert source.total() is None
    entries = iter(source)
    assert [next(entries).input for _ in range(3)] == [0, 1, 2]
    assert asked == [0, 1, 2]


def test_a_generator_that_raises_is_told_with_its_traceback_and_what_came_before() -> None:
    def cases() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("row 3 is missing")

    source = Cases(cases(), name="--from x.py:cases")
    entries = iter(source)
    assert [next(entries).input, next(entries).input] == [1, 2]
    with pytest.raises(BadInput) as caught:
        next(entries)
    message = str(caught.value)
    assert message.startswith("--from x.py:cases stopped after 2 inputs: ")
    assert "row 3 is missing" in message.partition("\n")[0]
    assert "Traceback" in message
    assert 'raise ValueError("row 3 is missing")' in message
    assert source.total() is None


def test_an_iterable_that_cannot_be_started_is_told() -> None:
    class Broken:
        def __iter__(self) -> Iterator[int]:
            raise OSError("no data base")

    with pytest.raises(BadInput, match=r"the inputs stopped after 0 inputs: .*no data base"):
        list(Cases(Broken()))


def test_keyboard_interrupt_is_not_turned_into_an_error_of_the_input() -> None:
    def cases() -> Iterator[int]:
        raise KeyboardInterrupt
        yield 1

    with pytest.raises(KeyboardInterrupt):
        list(Cases(cases()))


def test_the_total_of_what_has_a_length_is_known_and_of_others_at_the_end() -> None:
    assert Cases([1, 2, 3]).total() == Total(3, exact=True)
    assert Cases({"a": 1, "b": 2}).total() == Total(2, exact=True)
    source = Cases(iter([1, 2]))
    assert source.total() is None
    assert len(list(source)) == 2
    assert source.total() == Total(2, exact=True)


def test_a_length_that_is_broken_is_nobodys_business() -> None:
    class Odd:
        def __iter__(self) -> Iterator[int]:
            return iter([1])

        def __len__(self) -> int:
            raise RuntimeError("no length")

    assert isinstance(Odd(), Sized)
    source = Cases(Odd())
    assert source.total() is None
    assert len(list(source)) == 1
    assert source.total() == Total(1, exact=True)


def test_a_length_that_is_wrong_is_put_right_at_the_end() -> None:
    class Boastful:
        def __iter__(self) -> Iterator[int]:
            return iter([1, 2])

        def __len__(self) -> int:
            return 100

    source = Cases(Boastful())
    assert source.total() == Total(100, exact=True)
    list(source)
    assert source.total() == Total(2, exact=True)


def test_stop_takes_no_more_of_them() -> None:
    gate, waiting, seen = threading.Event(), threading.Event(), []

    def cases() -> Iterator[int]:
        yield 1
        waiting.set()
        assert gate.wait(10)
        yield 2
        raise AssertionError("it was asked for more")

    source = Cases(cases())
    reader = threading.Thread(target=lambda: seen.extend(source))
    reader.start()
    assert waiting.wait(10)
    source.stop()
    gate.set()
    reader.join(10)
    assert not reader.is_alive()
    assert [entry.input for entry in seen] == [1]
    assert source.total() is None, "how many there would have been is not known"
    source.close()
