"""The books on the warm spare: when one is wanted, and whom it replaces."""

from __future__ import annotations

import pytest

from ztasks.io.spare import Spare


@pytest.mark.parametrize(
    ("allowed", "expected", "wanted"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, False)],
)
def test_when_one_is_wanted_from_the_beginning(allowed: bool, expected: bool, wanted: bool) -> None:
    assert Spare(allowed=allowed, expected=expected).wanted() is wanted


def test_after_the_first_death_one_is_wanted() -> None:
    spare = Spare(allowed=True, expected=False)
    assert not spare.on_gone(0), "it was no spare: somebody must take its place"
    assert spare.wanted()
    spare.lane = 2
    assert not spare.wanted(), "one is enough"


def test_where_a_spare_cannot_take_any_place_a_death_changes_nothing() -> None:
    spare = Spare(allowed=False, expected=False)
    assert not spare.on_gone(0)
    assert not spare.wanted()


def test_its_lane_is_opened_when_it_takes_a_place_and_not_before() -> None:
    spare = Spare(allowed=True, expected=True)
    spare.lane = 2
    assert spare.on_ready(0), "an ordinary worker"
    assert not spare.on_ready(2)
    assert spare.adopt() == (2, True)
    assert spare.adopt() == (None, False)
    assert spare.wanted(), "the next one"


def test_it_may_take_a_place_before_it_has_come_up() -> None:
    spare = Spare(allowed=True, expected=True)
    spare.lane = 2
    assert spare.adopt() == (2, False)
    assert spare.on_ready(2), "it is an ordinary worker by now"
    assert not spare.on_gone(2), "and is missed"


def test_a_spare_that_is_gone_is_not_missed_but_wanted_again() -> None:
    spare = Spare(allowed=True, expected=True)
    spare.lane = 2
    spare.on_ready(2)
    assert spare.on_gone(2)
    assert spare.wanted()
    spare.lane = 3
    assert spare.adopt() == (3, False), "the next one is not ready because the last one was"
