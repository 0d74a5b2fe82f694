"""Rows 30 and 33: foremen that are killed or told to go, two of one name, and foremen that do not fit."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import jobs_across as jobs
import pytest
import support
from fleet import Fleet, Part
from support import DEADLINE

from ztasks import Client


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A head; tests stop the foremen that they start."""
    with Fleet(tmp_path_factory.mktemp("fleet"), lease="1s", lanes=6) as fleet:
        fleet.start_head()
        yield fleet


@pytest.fixture(autouse=True)
def _no_foreman_left(fleet: Fleet) -> Iterator[None]:
    """What a test that fails has started does not take the next one's work."""
    yield
    for part in fleet.parts[1:]:
        part.end()


# --- 30: preemption ---


def children_of_jobs(notes: Path) -> set[int]:
    """Return the processes that jobs have started."""
    return {int(line.split()[2]) for line in jobs.notes(notes) if line.startswith("child")}


@pytest.mark.parametrize("names", ["aaaa", "abcd"], ids=["one name", "different names"])
def test_row_30_a_foreman_is_killed_three_times_over_and_nobody_is_charged(
    fleet: Fleet, tmp_path: Path, names: str
) -> None:
    """Jobs with crash_retries=0, items of a map and jobs that wait: all are given to the next one, free of charge."""
    notes, go = tmp_path / "notes", tmp_path / "go"
    with jobs.using(fleet.client()) as client:
        foreman = fleet.start_foreman(names[0], workers=2)
        held = client.submit(jobs.hold_with_child, str(notes), 1, str(go))
        mapped = client.map(jobs.hold, [str(notes)] * 3, [2, 3, 4], [str(go)] * 3)
        waits = [client.submit(jobs.run, str(notes), number) for number in range(5, 25)]
        for time, name in enumerate(names[1:], start=1):
            jobs.wait_for_note(notes, "begun", 2 * time)
            assert len(foreman.workers()) >= 2
            foreman.kill()  # and wait until its workers are gone
            support.wait_gone(children_of_jobs(notes), 2.0)
            foreman = fleet.start_foreman(name, workers=2)
        jobs.wait_for_note(notes, "begun", 2 * len(names))
        go.touch()
        last = names[-1]
        assert held.result(DEADLINE) == (1, 1, last)
        assert list(mapped) == [(number, 1, last) for number in (2, 3, 4)]
        assert [future.result(DEADLINE) for future in waits] == [(number, 1) for number in range(5, 25)]
    assert foreman.stop() == 0


def holds(client: Client, name: str) -> int:
    """Return how many items the head believes a foreman to hold."""
    return sum(line["holds"] for line in client.ask("workers") if line["name"] == name)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_row_30_a_foreman_that_is_told_to_go_hands_back_what_has_not_begun(
    fleet: Fleet, tmp_path: Path, number: signal.Signals
) -> None:
    notes, go = tmp_path / "notes", tmp_path / "go"
    (tmp_path / "now").touch()
    hold = jobs.hold.options(name=f"hold {number}")  # of which nobody knows yet how long it takes
    with jobs.using(fleet.client()) as client:
        going = fleet.start_foreman("going")
        for each in range(3):  # from this the head believes that they take no time, and gives many at once
            assert client.submit(hold, str(notes), each, str(tmp_path / "now")).result(DEADLINE)[1] == 1
        futures = [client.submit(hold, str(notes), each, str(go)) for each in range(10, 40)]
        mapped = client.map(hold, [str(notes)] * 30, range(40, 70), [str(go)] * 30)
        support.wait_for(lambda: holds(client, "going") > 5, "work that waits at the foreman")
        jobs.wait_for_note(notes, "begun", 4)
        going.send(number)
        support.wait_for(lambda: holds(client, "going") == 1, "its coming back")
        coming = fleet.start_foreman("coming")
        Path(f"{go}-coming").touch()
        rest = [(each, 1, "coming") for each in range(11, 40)]
        assert [future.result(DEADLINE) for future in futures[1:]] == rest
        assert list(mapped) == [(each, 1, "coming") for each in range(40, 70)]
        assert (futures[0].done(), going.process.poll()) == (False, None)  # what has begun there is finished there
        go.touch()
        assert futures[0].result(DEADLINE) == (10, 1, "going")
        assert going.wait() == 0
        assert coming.stop() == 0
    assert len(jobs.notes(notes)) == 2 * 63


# --- 33: who does not fit ---


def test_row_33_the_newer_of_two_foremen_of_one_name_stays_and_has_the_work(fleet: Fleet, tmp_path: Path) -> None:
    notes, go = tmp_path / "notes", tmp_path / "go"
    with jobs.using(fleet.client()) as client:
        older = fleet.start_foreman("twin")
        future = client.submit(jobs.hold, str(notes), 1, str(go))
        jobs.wait_for_note(notes, "begun 1 twin")
        newer = fleet.start_foreman("twin")
        assert older.wait() == 1
        assert "a newer worker named 'twin' has joined from" in older.text
        fleet.head.wait_for("twin was refused: a newer worker")
        jobs.wait_for_note(notes, "begun 1 twin", 2)
        go.touch()
        assert future.result(DEADLINE) == (1, 1, "twin")
    assert newer.stop() == 0


FORGED = """
import platform
import sys

import ztasks.wire.link
from ztasks.cli.main import main

{forge}
sys.exit(main())
"""


def start_forged(fleet: Fleet, name: str, forge: str) -> Part:
    """Start a foreman that says of itself what is not so."""
    arguments = ("worker", "--head", fleet.join("worker"), "-j", "1", "--name", name)
    return fleet.start_script(name, FORGED.format(forge=forge), *arguments)


def test_row_33_a_foreman_of_another_protocol_is_refused_and_both_say_why(fleet: Fleet) -> None:
    foreman = start_forged(fleet, "strange", "ztasks.wire.link.PROTOCOL = 99")
    assert foreman.wait() == 1
    for part in (foreman, fleet.head):
        assert "protocol 99" in part.text
        assert "install the same version of ztasks on both" in part.text


def test_row_33_what_is_pickled_by_value_only_goes_to_the_same_python(fleet: Fleet, tmp_path: Path) -> None:
    """A foreman of another Python does all else; who sends such a job can ask why it waits."""
    with jobs.using(fleet.client()) as client:
        other = start_forged(fleet, "other", 'platform.python_version_tuple = lambda: ("3", "99", "0")')
        other.wait_for("joined")
        by_value = client.submit(lambda number: number + 1, 1)
        assert client.submit(jobs.nothing, 2).result(DEADLINE) == 2  # it goes by
        why = client.job(by_value.job_id).why()
        assert "3.99" in why
        same = fleet.start_foreman("same")
        assert by_value.result(DEADLINE) == 2
    assert (other.stop(), same.stop()) == (0, 0)
