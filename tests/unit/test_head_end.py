"""The end of a head: what is said while it waits."""

from __future__ import annotations

import pytest
from head_rig import Rig

from ztasks.core.roster import Roster
from ztasks.io.head_end import REMIND_SECONDS, HeadEnd


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        ("drain", "1 jobs that run, 2 that wait; 2 of these no worker here can take: cancel them (ztasks why JOB says"),
        ("run", "1 jobs that run"),
    ],
)
def test_it_is_said_now_and_then_what_is_waited_for(wanted: str, left: str) -> None:
    rig = Rig()
    client, foreman = rig.client(), rig.foreman()
    client.submit(rig.define())
    client.submit(rig.define("other", queue="video"), 2)
    rig.settle_all()
    foreman.read()
    said: list[str] = []
    head = rig.head
    end = HeadEnd(head.books, Roster(1, "1"), head.clients, 60.0, lambda event, what: said.append(what))
    end.wanted = wanted  # type: ignore[assignment]
    for later in (0.0, REMIND_SECONDS - 0.1, REMIND_SECONDS, 2 * REMIND_SECONDS - 0.1):
        assert not end.reached(rig.now + later, lambda peer, alive: None)
    assert len(said) == 2
    assert said[1].startswith(f"stopping: waits for {left}")


def test_a_foreman_that_joins_anew_at_the_very_end_is_told_to_leave() -> None:
    rig = Rig()
    told: list[str] = []
    head = rig.head
    end = HeadEnd(head.books, Roster(1, "1"), head.clients, 60.0, lambda event, what: None)
    end.wanted = "drain"
    for name in ("a", "b"):
        foreman = rig.foreman(name)
        foreman.link.wanted, foreman.link.sign = "run", lambda: None  # type: ignore[attr-defined]
        assert not end.reached(rig.now, lambda peer, alive: told.append(peer.name))
    assert told == ["a", "b"]
