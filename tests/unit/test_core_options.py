"""Options: what is accepted, what is refused and why, and how long the pause before a retry is."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztasks.core.options import (
    CRASH_RETRIES,
    DEFAULTS,
    LONGEST_NAME,
    MAX_NAMES,
    NAMES,
    Options,
    count,
    retry_delay,
)
from ztasks.errors import InvalidOption, JobTimeout
from ztasks.wire.link_codec import check_names
from ztasks.wire.verdict import EVERYTHING, Retry, Verdict


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("name", "resize", "resize"),
        ("name", None, None),
        ("retries", 0, 0),
        ("retries", 10**6, 10**6),
        ("crash_retries", 0, 0),
        ("crash_retries", None, None),
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
        ("retry_on", None, None),
        ("retry_on", OSError, (OSError,)),
        ("retry_on", (OSError, KeyError), (OSError, KeyError)),
        ("retry_on", [OSError], (OSError,)),
        ("retry_on", {OSError}, (OSError,)),
        ("retry_on", frozenset({OSError}), (OSError,)),
        ("retry_on", (), ()),
        ("no_retry_on", (), ()),
        ("no_retry_on", KeyboardInterrupt, (KeyboardInterrupt,)),
        ("no_retry_on", [JobTimeout, Retry], (JobTimeout, Retry)),
        ("at_most_once", True, True),
        ("at_most_once", False, False),
        ("cpus", 1, 1),
        ("cpus", 64, 64),
        ("memory", None, None),
        ("memory", 0, 0),
        ("memory", "8GiB", 8 * 2**30),
        ("memory", 1e9, 10**9),
        ("queue", "gpu", "gpu"),
        ("queue", "q" * 128, "q" * 128),
        ("tags", (), ()),
        ("tags", "big", ("big",)),
        ("tags", ["ssd", "big", "ssd"], ("big", "ssd")),
        ("tags", {"big"}, ("big",)),
        ("resources", {}, ()),
        ("resources", {"gpu": 1, "fpga": 0, "disk": 5}, (("disk", 5), ("gpu", 1))),
        ("resources", (("gpu", 1),), (("gpu", 1),)),
        ("priority", 0, 0),
        ("priority", -5, -5),
        ("priority", 2**31 - 1, 2**31 - 1),
        ("expires", None, None),
        ("expires", "2h", 7200.0),
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
        ("retry_on", "OSError"), ("retry_on", OSError()), ("retry_on", (OSError, "KeyError")), ("retry_on", int),
        ("retry_on", [[OSError]]), ("retry_on", True), ("retry_on", OSError | KeyError), ("retry_on", {OSError: 1}),
        ("no_retry_on", None), ("no_retry_on", 3), ("no_retry_on", (None,)), ("no_retry_on", object),
        ("at_most_once", 1), ("at_most_once", None), ("at_most_once", "yes"), ("at_most_once", 0),
        ("cpus", 0), ("cpus", -1), ("cpus", 1.5), ("cpus", True), ("cpus", None), ("cpus", "4"), ("cpus", 2**31),
        ("memory", -1), ("memory", "much"), ("memory", True), ("memory", 0.5), ("memory", math.inf),
        ("queue", ""), ("queue", None), ("queue", "a,b"), ("queue", "a b"), ("queue", "q" * 129), ("queue", "a\nb"),
        ("tags", None), ("tags", 3), ("tags", b"big"), ("tags", [1]), ("tags", [""]), ("tags", {"big": 1}),
        ("tags", ["a=b"]), ("tags", [str(number) for number in range(65)]), ("tags", [["big"]]),
        ("resources", None), ("resources", "gpu"), ("resources", ["gpu"]), ("resources", {"": 1}),
        ("resources", {"cpus": 2}), ("resources", {"memory": 1}), ("resources", {"a b": 1}), ("resources", {3: 1}),
        ("resources", {str(number): 1 for number in range(65)}),
        ("priority", None), ("priority", True), ("priority", 1.0), ("priority", "high"), ("priority", 2**31),
        ("expires", 0), ("expires", -1), ("expires", "0s"), ("expires", True),
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


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"retries": 1}, "retries=1"),
        ({"crash_retries": 1}, "crash_retries=1"),
        ({"crash_retries": CRASH_RETRIES}, f"crash_retries={CRASH_RETRIES}"),
        ({"retries": 3, "crash_retries": 0}, "retries=3"),
    ],
)
def test_at_most_once_rules_out_retries(options: dict[str, Any], told: str) -> None:
    """However the two come together: given at once, or one of them later."""
    together = {"at_most_once": True, **options}
    for attempt in (
        lambda: Options(**together),
        lambda: DEFAULTS.replaced(together),
        lambda: DEFAULTS.replaced(options).replaced({"at_most_once": True}),
        lambda: Options(at_most_once=True).replaced(options),
    ):
        with pytest.raises(ValueError, match=f"^at_most_once rules out {told}: .* Leave .* out") as caught:
            attempt()
        assert isinstance(caught.value, InvalidOption)


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({}, CRASH_RETRIES),
        ({"crash_retries": 0}, 0),
        ({"crash_retries": 7}, 7),
        ({"at_most_once": True}, 0),
        ({"at_most_once": True, "crash_retries": 0, "retries": 0}, 0),
    ],
)
def test_how_often_a_worker_may_die(options: dict[str, Any], allowed: int) -> None:
    assert Options(**options).crashes_allowed == allowed
    if "crash_retries" not in options:
        assert Options(**options).replaced({"at_most_once": False}).crashes_allowed == CRASH_RETRIES


def test_options_made_by_hand_are_checked_and_converted_too() -> None:
    options = Options(timeout="1m", memory="1k", retry_on=OSError)  # type: ignore[arg-type]
    assert (options.timeout, options.memory, options.retry_on) == (60.0, 1000, (OSError,))
    with pytest.raises(InvalidOption, match=r"^retries must be"):
        Options(retries=-1)


def test_what_may_be_retried_is_told_by_a_verdict() -> None:
    assert DEFAULTS.verdict == EVERYTHING
    assert Options(retry_on=OSError, no_retry_on=TimeoutError).verdict == Verdict((OSError,), (TimeoutError,))


@pytest.mark.parametrize("amount", [-1, 0.5, True, "1", None])
def test_a_resource_s_amount_is_a_whole_number(amount: Any) -> None:
    with pytest.raises(InvalidOption, match=r"^resources\['gpu'\] must be a whole number"):
        DEFAULTS.replaced({"resources": {"gpu": amount}})


def test_what_options_allow_the_wire_allows() -> None:
    names = tuple(str(number).rjust(LONGEST_NAME, "x") for number in range(MAX_NAMES))
    assert DEFAULTS.replaced({"tags": names, "resources": dict.fromkeys(names, 1)}).tags == tuple(sorted(names))
    check_names(names, "tags")


def test_options_with_resources_can_be_compared_and_copied() -> None:
    one, other = Options(resources={"gpu": 1, "disk": 2}), Options(resources={"disk": 2, "gpu": 1})  # type: ignore[arg-type]
    assert one == other
    assert len({one, other}) == 1
    assert one.replaced({"resources": one.resources, "tags": one.tags}) == one


class Unreadable(list[type[BaseException]]):
    def __iter__(self) -> Any:
        raise RuntimeError("not now")


def test_a_collection_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"^retry_on must be .*; reading it raised RuntimeError: not now"):
        DEFAULTS.replaced({"retry_on": Unreadable()})


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
    assert 0 <= retry_delay(options, failures, chance) <= limit


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_the_limit_holds_with_the_jitter(chance: float) -> None:
    options = Options(backoff=8.0, max_backoff=10.0, jitter=0.5)
    assert retry_delay(options, 1, chance) == pytest.approx({0.0: 4.0, 0.5: 8.0, 1.0: 10.0}[chance])
    assert retry_delay(options, 9, chance) == pytest.approx({0.0: 5.0, 0.5: 10.0, 1.0: 10.0}[chance])
