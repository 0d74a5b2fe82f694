"""When a run stops because too much fails."""

from typing import Any

import pytest

from ztasks.errors import InvalidOption
from ztasks.runs.halting import LEAST_FAILURES, FailureLimit, parse_limit


@pytest.mark.parametrize(
    ("value", "number", "percent"),
    [
        (1, 1, None),
        (5000, 5000, None),
        ("10", 10, None),
        (" 10 ", 10, None),
        ("5%", None, 5.0),
        ("0.5%", None, 0.5),
        ("100 %", None, 100.0),
    ],
)
def test_limits_are_numbers_or_shares(value: int | str, number: int | None, percent: float | None) -> None:
    limit = parse_limit(value, "--max-failures")
    assert limit == FailureLimit(number, percent)


def test_no_limit() -> None:
    assert parse_limit(None, "--max-failures") is None


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        True,
        False,
        2.5,
        "",
        "0",
        "-1",
        "0%",
        "101%",
        "1e3",
        "1.5",
        "5 %%",
        "%",
        "ten",
        "nan%",
        "inf",
        "9" * 99,
        [3],
    ],
)
def test_what_is_no_limit_is_refused(value: Any) -> None:
    with pytest.raises(InvalidOption, match=r"^--max-failures must be a number of failures, such as 10, or a share"):
        parse_limit(value, "--max-failures")


@pytest.mark.parametrize(
    ("limit", "failed", "ended", "reached"),
    [
        (FailureLimit(number=1), 0, 100, False),
        (FailureLimit(number=1), 1, 1, True),
        (FailureLimit(number=10), 9, 9, False),
        (FailureLimit(number=10), 10, 1_000_000, True),
        (FailureLimit(number=10), 11, 11, True),
        (FailureLimit(percent=10), 0, 0, False),
        (FailureLimit(percent=10), LEAST_FAILURES - 1, LEAST_FAILURES - 1, False),
        (FailureLimit(percent=10), LEAST_FAILURES, LEAST_FAILURES, True),
        (FailureLimit(percent=10), 10, 101, False),
        (FailureLimit(percent=10), 10, 100, True),
        (FailureLimit(percent=0.5), 5, 1001, False),
        (FailureLimit(percent=0.5), 5, 1000, True),
        (FailureLimit(percent=100), 50, 51, False),
        (FailureLimit(percent=100), 50, 50, True),
        (FailureLimit(), 1000, 1000, False),
    ],
)
def test_a_limit_is_reached(limit: FailureLimit, failed: int, ended: int, reached: bool) -> None:
    assert limit.reached(failed, ended) == reached


def test_the_first_failures_are_no_share_yet() -> None:
    """The first job that fails is 100% of those that have ended."""
    limit = FailureLimit(percent=50)
    assert [limit.reached(failed, failed) for failed in range(6)] == [False, False, False, True, True, True]
