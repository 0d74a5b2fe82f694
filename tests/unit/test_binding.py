"""Binding: what text and other values become for a task's annotations, and the constants of a run."""

import dataclasses
import datetime
import decimal
import enum
import functools
import math
import typing
import uuid
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, NewType, Optional, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztasks import task
from ztasks.errors import InvalidOption
from ztasks.runs.binding import BadValue, Binder


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Size:
    width: int
    height: int = 1


class Shape(msgspec.Struct):
    name: str
    at: Path


UserId = NewType("UserId", int)
Value = TypeVar("Value")


def taking(annotation: Any, default: Any = dataclasses.MISSING) -> Any:
    """A task with one argument, annotated with this."""

    def task(x):  # type: ignore[no-untyped-def]
        return x

    task.__annotations__["x"] = annotation
    if default is not dataclasses.MISSING:
        task.__defaults__ = (default,)
    return task


def bound(annotation: Any, value: Any, *, text: bool) -> Any:
    """What the argument becomes; the same whether it comes by position or by name."""
    binder = Binder(taking(annotation))
    (by_position,), nothing = binder.bind((value,), {}, text=text)
    none, by_name = binder.bind((), {"x": value}, text=text)
    assert (nothing, none) == ({}, ())
    assert type(by_position) is type(by_name["x"])
    assert repr(by_position) == repr(by_name["x"])
    return by_position


# --- text ---


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (int, "3", 3),
        (int, "-3", -3),
        (int, " 3\t", 3),
        (int, "123456789012345678901234567890", 123456789012345678901234567890),
        (float, "2.5", 2.5),
        (float, "1e3", 1000.0),
        (float, "7", 7.0),
        (float, "-inf", -math.inf),
        (bool, "true", True),
        (bool, "True", True),
        (bool, "1", True),
        (bool, "yes", True),
        (bool, " ON ", True),
        (bool, "false", False),
        (bool, "0", False),
        (bool, "No", False),
        (bool, "off", False),
        (Optional[bool], "yes", True),  # noqa: UP045 - both spellings are used
        (str, " a ", " a "),
        (str, "3", "3"),
        (str | None, " a ", " a "),
        (str | None, "null", "null"),
        (str | None, "caf\udce9", "caf\udce9"),
        (str | int, "caf\udce9", "caf\udce9"),
        (Any, "3", "3"),
        (object, "3", "3"),
        (datetime.date, "2024-01-02", datetime.date(2024, 1, 2)),
        (datetime.date, " 2024-01-02", datetime.date(2024, 1, 2)),
        (datetime.datetime, "2024-01-02T03:04:05", datetime.datetime(2024, 1, 2, 3, 4, 5)),
        (datetime.datetime, "2024-01-02T03:04:05Z", datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)),
        (datetime.time, "03:04:05", datetime.time(3, 4, 5)),
        (decimal.Decimal, "1.50", decimal.Decimal("1.50")),
        (uuid.UUID, "12345678-1234-5678-1234-567812345678", uuid.UUID("12345678-1234-5678-1234-567812345678")),
        (Path, "a/b", Path("a/b")),
        (PurePath, "a/b", PurePath("a/b")),
        (Path, " a b ", Path(" a b ")),
        (Path, "{a}", Path("{a}")),
        (Path, "[a]", Path("[a]")),
        (Path, "caf\udce9", Path("caf\udce9")),
        (Path | None, " a ", Path(" a ")),
        (Colour, "red", Colour.RED),
        (Colour, " blue ", Colour.BLUE),
        (Level, "2", Level.HIGH),
        (Literal["fast", "slow"], "slow", "slow"),
        (Literal[1, 2], "2", 2),
        (int | None, "5", 5),
        (Optional[int], "null", None),  # noqa: UP045
        (int | None, "", None),
        (datetime.date | None, " ", None),
        (str | None, "", ""),
        (int | str, "5", "5"),
        (list[int], "[1, 2]", [1, 2]),
        (list[Path], '["a", " b"]', [Path("a"), Path(" b")]),
        (list, "[1]", [1]),
        (tuple[int, str], '[1, "x"]', (1, "x")),
        (set[int], "[1, 1]", {1}),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (dict, '{"a": 1}', {"a": 1}),
        (Size, '{"width": 3}', Size(3, 1)),
        (Size | None, '{"width": 3, "height": 2}', Size(3, 2)),
        (list[Size], ' [{"width": 3}]', [Size(3, 1)]),
        (Shape, '{"name": "s", "at": "x/y"}', Shape("s", Path("x/y"))),
        (UserId, "3", 3),
        (Annotated[int, "metres"], "3", 3),
    ],
)
def test_text_becomes_what_is_annotated(annotation: Any, text: str, value: Any) -> None:
    became = bound(annotation, text, text=True)
    assert became == value
    assert type(became) is type(value)


def test_not_a_number_is_a_float() -> None:
    assert math.isnan(bound(float, "nan", text=True))


@pytest.mark.parametrize(
    ("annotation", "text", "said"),
    [
        (int, "x", "int: write a whole number"),
        (int, "", "int: write a whole number"),
        (int, "3.5", "int: write a whole number"),
        (int, "yes", "int: write a whole number"),
        (int, "\udce9", "int: "),
        (float, "1,5", "float: write a number"),
        (bool, "maybe", "bool: write true or false, yes or no, 1 or 0"),
        (datetime.date, "2024-13-01", "date: write it as 2026-03-01"),
        (datetime.datetime, "yesterday", "datetime: write it as 2026-03-01T10:00:00"),
        (Colour, "green", "Colour: Invalid enum value 'green'"),
        (Level, "3", "Level: Invalid enum value 3"),
        (Literal["fast", "slow"], "medium", "Literal['fast', 'slow']: Invalid enum value 'medium'"),
        (list[int], "1,2", "list[int]: Expected `array`"),
        (list[int], '[1, "x"]', "list[int]: Expected `int`, got `str` - at `$[1]`"),
        (list[int], "[1,", "list[int]: Input data was truncated"),
        (Size, '{"height": 1}', "Size: Object missing required field `width`"),
        (Size, "3", "Size: Expected `object`"),
        (int | None, "x", "int | None: Expected `int | null`"),
    ],
)
def test_text_that_does_not_become_it_is_told(annotation: Any, text: str, said: str) -> None:
    with pytest.raises(BadValue) as caught:
        bound(annotation, text, text=True)
    assert str(caught.value).startswith(f"x={text!r} does not become {said}")


def test_a_long_value_does_not_fill_the_message() -> None:
    with pytest.raises(BadValue) as caught:
        bound(int, "x" * 100_000, text=True)
    assert len(str(caught.value)) < 500


@given(st.integers())
def test_any_integer(number: int) -> None:
    assert bound(int, str(number), text=True) == number


@given(st.text())
def test_any_path_is_that_path(text: str) -> None:
    assert bound(Path, text, text=True) == Path(text)


# --- values that are no text ---


@pytest.mark.parametrize(
    ("annotation", "value", "became"),
    [
        (int, "3", "3"),
        (int, 3.5, 3.5),
        (float, 3, 3),
        (bool, 1, 1),
        (str, 3, 3),
        (list, (1,), (1,)),
        (dict, [1], [1]),
        (Any, {1}, {1}),
        (str | None, 5, 5),
        (int | float | None, "x", "x"),
        (datetime.date, "2024-01-02", datetime.date(2024, 1, 2)),
        (datetime.date, datetime.date(2024, 1, 2), datetime.date(2024, 1, 2)),
        (Path, " a", Path(" a")),
        (Path, Path("a"), Path("a")),
        (Path | None, None, None),
        (Path | None, "a", Path("a")),
        (Colour, "red", Colour.RED),
        (Colour, Colour.RED, Colour.RED),
        (Size, {"width": 3}, Size(3)),
        (Size, Size(3), Size(3)),
        (tuple[int, int], [1, 2], (1, 2)),
        (list[datetime.date], ["2024-01-02"], [datetime.date(2024, 1, 2)]),
        (bytes, "YWI=", b"ab"),
        (bytes, b"ab", b"ab"),
    ],
)
def test_values_are_converted_only_where_json_has_no_such_type(annotation: Any, value: Any, became: Any) -> None:
    found = bound(annotation, value, text=False)
    assert found == became
    assert type(found) is type(became)


@pytest.mark.parametrize(
    ("annotation", "value"), [(datetime.date, 5), (Path, 5), (Size, {"height": 1}), (Size, None), (Colour, None)]
)
def test_a_value_that_does_not_become_it_is_told(annotation: Any, value: Any) -> None:
    with pytest.raises(BadValue, match=r"^x=.* does not become (date|.*Path|Size|Colour): "):
        bound(annotation, value, text=False)


def test_none_goes_where_none_is_the_default() -> None:
    binder = Binder(taking(Path, default=None))
    assert binder.bind((None,), {}, text=False) == ((None,), {})
    with pytest.raises(BadValue):
        bound(Path, None, text=False)


# --- where the annotations are ---


@pytest.mark.parametrize(
    "annotation",
    [
        complex,
        type,
        typing.Callable,
        list[complex],
        dict[str, complex],
        object(),
        "not a type",
        7,
        Value,
        [int],
        {"unhashable": 1},
        typing.Iterable[int],
    ],
)
def test_what_text_cannot_become_stays_as_it_is(annotation: Any) -> None:
    for value in ("3", "[1]", 3):
        assert bound(annotation, value, text=True) is value
        assert bound(annotation, value, text=False) is value


def test_annotations_that_compare_in_their_own_way_do_no_harm() -> None:
    np = pytest.importorskip("numpy")
    assert bound(np.ndarray, "3", text=True) == "3"
    assert bound(np.array([1, 2]), "3", text=True) == "3"


def test_without_annotations_text_stays_text() -> None:
    def plain(a, b=2, *rest, **others):  # type: ignore[no-untyped-def]
        return a, b, rest, others

    assert Binder(plain).bind(("1", "2", "3"), {"x": "4"}, text=True) == (("1", "2", "3"), {"x": "4"})


def test_further_arguments_are_converted_as_theirs_say() -> None:
    def many(a: str, *rest: int, key: float = 0.0, **others: datetime.date) -> None:
        """Takes all kinds."""

    args, kwargs = Binder(many).bind(("1", "2", "3"), {"key": "1.5", "day": "2024-01-02"}, text=True)
    assert args == ("1", 2, 3)
    assert kwargs == {"key": 1.5, "day": datetime.date(2024, 1, 2)}
    with pytest.raises(BadValue, match="rest='x' does not become int"):
        Binder(many).bind(("1", "x"), {}, text=True)
    with pytest.raises(BadValue, match="day='x' does not become date"):
        Binder(many).bind((), {"day": "x"}, text=True)


def test_too_many_and_unknown_arguments_are_left_to_the_call() -> None:
    def one(n: int) -> int:
        return n

    assert Binder(one).bind(("1", "2"), {"other": "3"}, text=True) == ((1, "2"), {"other": "3"})
    assert Binder(one).bind((), {}, text=True) == ((), {})


def test_arguments_that_are_positional_only() -> None:
    def one(n: int, /, m: int) -> int:
        return n + m

    assert Binder(one).bind(("1",), {"m": "2"}, text=True) == ((1,), {"m": 2})


def test_annotations_that_are_text_are_evaluated() -> None:
    def quoted(n: "int", where: "Path", size: "Size | None" = None) -> None:
        """Written as under `from __future__ import annotations`."""

    assert Binder(quoted).bind(("3", "a", '{"width": 1}'), {}, text=True) == ((3, Path("a"), Size(1)), {})


def test_annotations_that_cannot_be_evaluated_do_not_hide_the_others() -> None:
    def quoted(n: int, day: "datetime.date", frame: "pandas.DataFrame", wrong: "1 +", bad: "1 / 0") -> None:  # type: ignore[name-defined,syntax] # noqa: F722,F821
        """What is imported for type checkers only."""

    found, _ = Binder(quoted).bind(("3", "2024-01-02", "f", "w", "4"), {}, text=True)
    assert found == (3, datetime.date(2024, 1, 2), "f", "w", "4")


def test_a_decorated_task_a_method_and_a_partial_are_looked_into() -> None:
    @task(retries=1)
    def decorated(n: int) -> int:
        return n

    class Kind:
        def method(self, n: int) -> int:
            return n

        def __call__(self, n: int) -> int:
            return n

    for function in (decorated, Kind().method, Kind(), functools.partial(lambda m, n: n, 1)):
        expected = "3" if isinstance(function, functools.partial) else 3
        assert Binder(function).bind(("3",), {}, text=True) == ((expected,), {})


def test_a_builtin_without_a_signature_takes_anything() -> None:
    assert Binder(max, {"key": len}).bind(("a", "b"), {}, text=True) == (("a", "b"), {"key": len})


# --- constants ---


def three(a: int, b: int = 2, *, c: Path | None = None) -> None:
    """A task for constants."""


def test_constants_are_converted_like_inputs() -> None:
    binder = Binder(three, {"b": "5", "c": "x"})
    assert binder.constants == {"b": 5, "c": Path("x")}
    assert binder.bind(("1",), {}, text=True) == ((1,), {"b": 5, "c": Path("x")})
    assert binder.bind((1,), {}, text=False) == ((1,), {"b": 5, "c": Path("x")})


def test_constants_that_are_no_text_stay_what_they_are() -> None:
    assert Binder(three, {"b": 2.5, "c": Path("x")}).constants == {"b": 2.5, "c": Path("x")}


def test_an_input_wins_over_a_constant() -> None:
    binder = Binder(three, {"a": 10, "b": 20})
    assert binder.bind((1,), {}, text=False) == ((1,), {"b": 20})
    assert binder.bind((1, 2), {}, text=False) == ((1, 2), {})
    assert binder.bind((), {"b": 3}, text=False) == ((), {"a": 10, "b": 3})
    assert binder.bind((), {}, text=False) == ((), {"a": 10, "b": 20})


def test_the_arguments_of_one_call_are_not_those_of_the_next() -> None:
    binder, given_ = Binder(three, {"b": 20}), {"a": 1}
    binder.bind((), given_, text=False)[1]["b"] = 99
    assert given_ == {"a": 1}
    assert binder.bind((), {"a": 2}, text=False) == ((), {"b": 20, "a": 2})


def test_a_constant_that_the_task_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidOption, match="the task has no argument 'd' for a constant; it has a, b, c"):
        Binder(three, {"d": 1})
    with pytest.raises(InvalidOption, match="it has none"):
        Binder(lambda: None, {"a": 1})
    with pytest.raises(InvalidOption, match="no argument 'x'"):
        Binder(lambda x, /, y: None, {"x": 1})


def test_further_keyword_arguments_take_any_constant() -> None:
    def open_ended(a: int, **others: int) -> None:
        """Takes all."""

    assert Binder(open_ended, {"z": "3"}).bind(("1",), {}, text=True) == ((1,), {"z": 3})


def test_a_constant_that_does_not_become_what_it_must_be_is_refused() -> None:
    with pytest.raises(InvalidOption, match="a constant cannot be used: b='x' does not become int"):
        Binder(three, {"b": "x"})
