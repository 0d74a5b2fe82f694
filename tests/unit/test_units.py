"""Durations and sizes: what is understood, what is refused, and what the refusal says."""

import contextlib
import math
import pickle
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztasks.errors import InvalidOption, ZtasksError
from ztasks.units import MAX_WAIT, parse_duration, parse_flag, parse_size, parse_wait, reason, shown


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (3, 3.0),
        (0.25, 0.25),
        ("0", 0.0),
        ("30", 30.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("30s", 30.0),
        ("2h", 7200.0),
        ("500ms", 0.5),
        ("250us", 0.00025),
        ("1d", 86400.0),
        ("5m", 300.0),
        ("5min", 300.0),
        ("1m30s", 90.0),
        ("1h 30m", 5400.0),
        (" 1D2h ", 93600.0),
        ("1.5h", 5400.0),
        ("2 S", 2.0),
    ],
)
def test_durations(value: float | str, seconds: float) -> None:
    parsed = parse_duration(value, "timeout")
    assert parsed == pytest.approx(seconds)
    assert type(parsed) is float


@pytest.mark.parametrize(
    "value",
    [-1, -0.5, math.nan, math.inf, -math.inf, True, False, None, b"3s", [], 1 + 0j, "", " ", "s", "3x", "-1s",
     "nan", "inf", "1_000", "1,5s", "30s1h", "1s1s", "1m1min", "3 4", 10**400, "9" * 5000, "1s" * 100],
)  # fmt: skip
def test_what_is_no_duration_is_refused_with_the_cure(value: object) -> None:
    with pytest.raises(InvalidOption, match=r"timeout must be a .*: give seconds as a number") as caught:
        parse_duration(value, "timeout")  # type: ignore[arg-type]
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (0, 0),
        (4096, 4096),
        (1e6, 1_000_000),
        ("0", 0),
        ("4096", 4096),
        ("17b", 17),
        ("64k", 64_000),
        ("64kB", 64_000),
        ("64KB", 64_000),
        ("64Ki", 65_536),
        ("64KiB", 65_536),
        ("512MiB", 536_870_912),
        ("512mib", 536_870_912),
        ("1GB", 10**9),
        ("1 GiB", 2**30),
        ("1.5GiB", 3 * 2**29),
        ("0.1kB", 100),
        ("2T", 2 * 10**12),
        ("1PiB", 2**50),
    ],
)
def test_sizes(value: float | str, size: int) -> None:
    parsed = parse_size(value, "buffer_bytes")
    assert parsed == size
    assert type(parsed) is int


@pytest.mark.parametrize(
    "value",
    [-1, -1.0, 1.5, math.nan, math.inf, True, None, b"1k", object(), "", "k", "1X", "-1k", "1.5", "1.5b",
     "nan", "1kk", "1 k B", "1e3", "9" * 5000, "9" * 60, "9000000P", 2**63, 10**100, 1e308],
)  # fmt: skip
def test_what_is_no_size_is_refused_with_the_cure(value: object) -> None:
    with pytest.raises(InvalidOption, match=r"buffer_bytes must be a size .*: give bytes as a number") as caught:
        parse_size(value, "buffer_bytes")  # type: ignore[arg-type]
    assert len(str(caught.value)) < 300


def test_the_refusal_names_option_and_value() -> None:
    with pytest.raises(InvalidOption, match=r"grace must be a duration, not '3 parsecs'"):
        parse_duration("3 parsecs", "grace")
    with pytest.raises(ValueError):
        parse_size("big", "x")
    with pytest.raises(ZtasksError):
        parse_size("big", "x")


class BrokenRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_a_value_that_cannot_be_shown_is_refused_all_the_same() -> None:
    with pytest.raises(InvalidOption, match="not a BrokenRepr"):
        parse_duration(BrokenRepr(), "timeout")  # type: ignore[arg-type]


class BrokenStr(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class BrokenNumber:
    def __float__(self) -> float:
        raise RuntimeError("no")


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


ENORMOUS: dict[str, Any] = {
    "a number": 10**5000,
    "a negative number": -(10**5000),
    "a string": "x" * 10**7,
    "bytes": b"x" * 10**7,
    "a list": list(range(10**6)),
    "a set": set(range(10**5)),
    "a deep list": nested(100_000),
    "a broken repr": BrokenRepr(),
    "a broken repr in a list": [[[[BrokenRepr()]]]],
    "a broken repr in a dict": {BrokenRepr(): 1},
    "no text": "\udcff",
}


@pytest.mark.parametrize("which", ENORMOUS)
def test_whatever_is_shown_is_short_and_can_be_written(which: str) -> None:
    text = shown(ENORMOUS[which])
    assert 0 < len(text) <= 80
    text.encode()


def test_a_reason_is_short_and_names_the_type() -> None:
    assert reason(ValueError("no")) == "ValueError: no"
    assert reason(ValueError()) == "ValueError"
    assert reason(BrokenStr()) == "BrokenStr: <its __str__ raised>"
    assert len(reason(ValueError("x" * 10**6))) == 500


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), (0, 0.0), (1.5, 1.5), (-1, 0.0), (-math.inf, 0.0), ("30s", 30.0), (Fraction(1, 2), 0.5),
     (math.inf, None), (1e308, None), (MAX_WAIT, MAX_WAIT)],
)  # fmt: skip
def test_waits(value: Any, seconds: float | None) -> None:
    assert parse_wait(value, "timeout") == seconds


def test_a_wait_beyond_all_clocks_is_one_for_ever() -> None:
    assert parse_wait(10**5000, "timeout") is None
    assert parse_wait(-(10**5000), "timeout") == 0


def refuse(self: Any, *args: Any) -> Any:
    raise RuntimeError("no")


@pytest.mark.parametrize("value", [3, 3.0])
def test_a_subclass_of_a_number_becomes_the_number(value: Any) -> None:
    """Whatever it has made of its methods: the result is used where nothing may raise."""
    names = ("__bool__", "__float__", "__int__", "__index__", "__lt__", "__eq__", "__hash__", "__repr__", "is_integer")
    odd = type("Odd", (type(value),), dict.fromkeys(names, refuse))(value)
    assert [type(parsed) for parsed in (parse_size(odd, "x"), parse_duration(odd, "x"), parse_wait(odd, "x"))] == [
        int,
        float,
        float,
    ]
    assert (parse_size(odd, "x"), parse_duration(odd, "x"), parse_wait(odd, "x")) == (3, 3.0, 3.0)


@pytest.mark.parametrize("value", [math.nan, True, False, "soon", b"1", [], 1j, object(), BrokenNumber(), BrokenRepr()])
def test_what_is_no_wait_is_refused(value: Any) -> None:
    with pytest.raises(InvalidOption, match=r"^timeout must be "):
        parse_wait(value, "timeout")


@pytest.mark.parametrize("value", [0, 1, None, "yes", [], BrokenRepr()])
def test_what_is_no_flag_is_refused(value: object) -> None:
    assert parse_flag(True, "wait") is True
    with pytest.raises(InvalidOption, match=r"^wait must be True or False, not "):
        parse_flag(value, "wait")


def test_the_error_survives_pickling() -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_size("big", "x")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@given(st.integers(0, 2**60))
def test_any_whole_number_is_itself(number: int) -> None:
    assert parse_size(number, "x") == parse_size(str(number), "x") == number
    assert parse_duration(number, "x") == parse_duration(str(number), "x") == float(number)


@given(st.text(alphabet="0123456789.smhdkMGiBe+- ", max_size=12))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for parse in (parse_duration, parse_size):
        with contextlib.suppress(InvalidOption):
            assert parse(text, "x") >= 0
