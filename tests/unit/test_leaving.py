"""When a foreman leaves, and with which exit code."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from ztasks.errors import HeadLost
from ztasks.io.leaving import FAREWELL_SECONDS, HEADLESS_SECONDS, KILLED_SECONDS, Leaver, Stay


def leaver(*, joined: bool = True, **stay: float) -> Leaver:
    one = Leaver(Stay(**stay), 100.0)
    one.joined = joined
    return one


def may_go(one: Leaver, now: float, **changes: bool) -> int | None:
    state: dict[str, Any] = {"done": True, "idle": True, "linked": True, "heard": True}
    return one.may_go(now, **(state | changes))


def test_one_that_is_wanted_stays() -> None:
    one = leaver()
    assert one.keep(1e9, idle=True) is None
    assert may_go(one, 1e9, done=False) is None
    assert one.next_event(200.0, idle=True) == inf
    assert not one.begins_to_hand_back()


def test_its_farewell_is_said_once_and_is_its_last_word() -> None:
    one = leaver()
    assert not one.has_said_farewell
    assert one.says_farewell(101.0)
    assert not one.says_farewell(102.0)
    assert one.has_said_farewell


def test_the_walltime_ends_a_foreman_that_is_busy() -> None:
    one = leaver(walltime=60.0)
    assert one.next_event(110.0, idle=False) == 50.0
    assert one.keep(159.9, idle=False) is None
    assert "walltime" in (one.keep(160.0, idle=False) or "")
    assert (one.wanted, one.hands_back, one.begins_to_hand_back(), one.begins_to_hand_back()) == (
        "stop",
        True,
        True,
        False,
    )
    assert one.keep(161.0, idle=False) is None  # it is said once
    assert may_go(one, 161.0, done=False, idle=False) is None


def test_the_idle_timeout_counts_from_the_last_work() -> None:
    one = leaver(idle_timeout=5.0)
    assert one.keep(104.9, idle=True) is None
    assert one.keep(106.0, idle=False) is None
    assert one.next_event(107.0, idle=True) == 4.0
    one.busy(110.0)
    assert one.keep(114.9, idle=True) is None
    assert "idle-timeout" in (one.keep(115.0, idle=True) or "")
    assert one.next_event(116.0, idle=True) == inf  # it does not fall due again and again


def test_drain_may_become_stop_and_not_the_other_way_round() -> None:
    one = leaver(walltime=60.0)
    assert [one.stop("drain"), one.stop("drain"), one.hands_back] == [True, False, False]
    assert one.keep(160.0, idle=False)
    assert (one.wanted, one.stop("drain"), one.stop("stop")) == ("stop", False, False)


def test_it_says_farewell_once_and_waits_for_a_moment() -> None:
    one = leaver()
    one.stop("stop")
    assert [one.says_farewell(200.0), one.says_farewell(200.0)] == [True, False]
    assert may_go(one, 200.0, heard=False) is None
    assert one.next_event(200.0, idle=True) == FAREWELL_SECONDS
    assert may_go(one, 200.1) == 0
    assert may_go(one, 200.0 + FAREWELL_SECONDS, heard=False) == 0
    assert not one.gave_up


def test_when_the_link_ends_with_the_farewell_it_goes() -> None:
    one = leaver()
    one.stop("stop")
    one.says_farewell(200.0)
    assert may_go(one, 200.1, done=False, linked=False, heard=True) == 0
    assert not one.gave_up


def test_it_waits_for_a_head_that_is_not_there_to_tell_it_what_became_of_jobs() -> None:
    one = leaver()
    one.stop("stop")
    assert may_go(one, 200.0, done=False, linked=False, idle=False) is None  # jobs run
    assert may_go(one, 300.0, done=False, linked=False) is None
    assert may_go(one, 305.0, done=False) is None  # it is back
    assert may_go(one, 310.0, done=False, linked=False) is None
    assert one.next_event(310.0, idle=True) == HEADLESS_SECONDS
    assert may_go(one, 310.0 + HEADLESS_SECONDS, done=False, linked=False) == 0
    assert one.gave_up


def test_without_a_head_and_with_nothing_to_tell_it_goes_at_once() -> None:
    one = leaver()
    one.stop("stop")
    assert may_go(one, 200.0, linked=False) == 0
    assert not one.gave_up


def test_one_that_is_killed_does_not_wait() -> None:
    one = leaver()
    one.stop("stop")
    one.kill()
    assert one.says_farewell(200.0)
    assert may_go(one, 200.0, heard=False) is None
    assert may_go(one, 200.0 + KILLED_SECONDS, heard=False) == 130
    assert may_go(one, 200.0, linked=False) == 130


def test_one_that_cannot_go_on_says_why() -> None:
    one = leaver()
    one.fail(error := HeadLost("refused"))
    one.fail(HeadLost("later"))
    assert one.killed
    with pytest.raises(HeadLost) as caught:
        may_go(one, 200.0, linked=False)
    assert caught.value is error


def test_what_goes_wrong_while_it_is_killed_is_no_news() -> None:
    one = leaver()
    one.kill()
    one.fail(HeadLost("the crew is gone"))
    assert may_go(one, 200.0, linked=False) == 130


def test_the_time_for_the_first_join_goes_on() -> None:
    one = leaver(join_timeout=10.0, joined=False)
    assert one.join_seconds(104.0) == 6.0
    assert one.join_seconds(200.0) == 0.0
    one.joined = True
    assert one.join_seconds(104.0) is None
    assert leaver(joined=False).join_seconds(104.0) is None


def test_one_that_has_had_no_head_does_not_idle() -> None:
    one = leaver(idle_timeout=5.0, joined=False)
    assert one.keep(200.0, idle=True) is None
    assert one.next_event(200.0, idle=True) == inf
    one.joined = True
    assert one.keep(204.9, idle=True) is None
    assert one.keep(205.0, idle=True)
