"""Options: what is accepted, what is refused and why, and how long the pause before a retry is."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztasks.core.options import DEFAULTS, NAMES, Options, count, retry_delay
from ztasks.errors import InvalidOption


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("name", "resize", "resize"),
        ("name", None, None),
        ("retries", 0, 0),
        ("retries", 10**6, 10**6),
        ("crash_retries", 0, 0),
        ("backoff", 0, 0.0),
        ("backoff", "500ms", 0.5),
        ("max_backoff", "2m", 120.0),
        ("jitter", 0, 0.0),
        ("jitter", 1, 1.0),
        ("timeout", None, None),
        ("timeout", "30s", 30.0),
        ("timeout", 0.5, 0.5),
        ("grace", 0, 0.0),
        ("grace", "1s", 1.0),
    ],
)
def test_accepted(name: str, value: Any, kept: Any) -> None:
    options = DEFAULTS.replaced({name: value})
    assert getattr(options, name) == kept
    assert type(getattr(options, name)) is type(kept)
    assert all(getattr(options, other) == getattr(DEFAULTS, other) for other in NAMES - {name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", ""), ("name", 3), ("name", b"resize"),
        ("retries", -1), ("retries", 1.0), ("retries", True), ("retries", "3"), ("retries", None),
        ("crash_retries", -1), ("crash_retries", "many"),
        ("backoff", -1), ("backoff", None), ("backoff", "soon"), ("backoff", math.inf), ("backoff", True),
        ("max_backoff", -0.1), ("max_backoff", math.nan),
        ("jitter", -0.1), ("jitter", 1.1), ("jitter", math.nan), ("jitter", True), ("jitter", "20%"),
        ("timeout", 0), ("timeout", -1), ("timeout", True), ("timeout", "0s"),
        ("grace", -1), ("grace", None),
    ],
)  # fmt: skip
def test_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidOption, match=f"^{name} must be "):
        DEFAULTS.replaced({name: value})


def test_an_unknown_option_is_refused_with_those_that_exist() -> None:
    with pytest.raises(InvalidOption, match=r"unknown option colour, retrys; .* are .*, retries,"):
        DEFAULTS.replaced({"retrys": 3, "colour": "red", "retries": 1})


def test_options_do_not_change_and_can_be_compared() -> None:
    with pytest.raises(AttributeError):
        DEFAULTS.retries = 3  # type: ignore[misc]
    assert DEFAULTS.replaced({}) == Options() != DEFAULTS.replaced({"retries": 1})
    assert len({DEFAULTS, Options(), DEFAULTS.replaced({"retries": 1})}) == 2


@pytest.mark.parametrize(("value", "least"), [(0, 1), (-1, 0), (True, 0), (1.0, 0), ("1", 0), (None, 0)])
def test_a_count_is_a_whole_number(value: object, least: int) -> None:
    with pytest.raises(InvalidOption, match=f"workers must be a whole number of at least {least}, not {value!r}"):
        count(value, "workers", least)


@pytest.mark.parametrize(
    ("failures", "chance", "delay"),
    [(1, 0.5, 1.0), (2, 0.5, 2.0), (3, 0.5, 4.0), (6, 0.5, 10.0), (10**9, 0.5, 10.0), (1, 0.0, 0.8), (1, 1.0, 1.2)],
)
def test_the_pause_doubles_up_to_its_limit(failures: int, chance: float, delay: float) -> None:
    options = Options(backoff=1.0, max_backoff=10.0, jitter=0.2)
    assert retry_delay(options, failures, chance) == pytest.approx(delay)


def test_without_backoff_there_is_no_pause() -> None:
    assert retry_delay(Options(backoff=0.0), 5, 1.0) == 0.0


@given(st.integers(1, 10**6), st.floats(0, 1), st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1))
def test_the_pause_stays_within_its_limits(
    failures: int, chance: float, backoff: float, limit: float, jitter: float
) -> None:
    options = Options(backoff=backoff, max_backoff=limit, jitter=jitter)
    assert 0 <= retry_delay(options, failures, chance) <= limit * (1 + jitter) + 1e-9
