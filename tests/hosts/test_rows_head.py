"""Row 31: a head that is killed with SIGKILL at any moment, and started again, with a journal and without one."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import sleep

import jobs_across as jobs
import pytest
import support
from fleet import Fleet, Part
from support import DEADLINE

from ztasks import JobNotFound

LEASE = "1s"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A head with a journal."""
    with Fleet(tmp_path, journal=True, lease=LEASE) as fleet:
        fleet.start_head()
        yield fleet


@pytest.fixture
def foreman(fleet: Fleet) -> Part:
    return fleet.start_foreman("a", workers=2)


def restart(fleet: Fleet) -> int:
    """Kill the head, and start it again; return how many jobs it says have not ended."""
    fleet.head.kill()
    return recovered(fleet.start_head())


def recovered(head: Part) -> int:
    """Return how many jobs a head says it has found that have not ended."""
    found = re.search(r"(\d+) jobs? that ha(?:s|ve) not ended", head.text)
    assert found is not None, head.told()
    return int(found[1])


# --- at any moment ---

MOMENTS = [0, 2, 5, 9, 14, 20, 27, 35, 44, 54, 65, 77]
"""Milliseconds after a head is ready, or after the first result that came through it, in turn."""


def test_row_31_a_head_that_is_killed_at_many_moments_loses_nothing_and_repeats_nothing(
    fleet: Fleet, foreman: Part, tmp_path: Path
) -> None:
    """Whoever waits need not do anything; and since the foreman lives on, each job runs once."""
    notes = tmp_path / "notes"
    with jobs.using(fleet.client()) as client, jobs.Pressure(client, notes) as pressure:
        for turn, moment in enumerate(MOMENTS):
            if turn % 2 == 0:
                pressure.wait_for_more()
            sleep(moment / 1000)
            fleet.head.kill()
            fleet.start_head()
    assert Counter(jobs.notes(notes)) == Counter(map(str, range(pressure.count)))


def not_ended(fleet: Fleet) -> int:
    """Return how many jobs have not ended, as it is written down now."""
    with contextlib.closing(sqlite3.connect(f"file:{fleet.journal}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT COALESCE(sum(open), 0) FROM slices").fetchone()[0])


@pytest.mark.parametrize("moment", [None, 0.0, 0.03, 0.1])
def test_row_31_what_was_written_down_as_ended_is_not_run_again(
    fleet: Fleet, foreman: Part, tmp_path: Path, moment: float | None
) -> None:
    """Head and foreman are killed: all that the journal does not know as ended runs again, and nothing else.

    `moment`: so long after the first end is written down, or (None) perhaps before.
    """
    notes = tmp_path / "notes"
    with jobs.using(fleet.client()) as client:
        futures = [client.submit(jobs.run, str(notes), number, 0.01) for number in range(40)]
        support.wait_for(futures[0].done, "the first result")
        if moment is not None:
            support.wait_for(lambda: not_ended(fleet) < 40, "the journal to know of it")
            sleep(moment)
        fleet.head.kill()
        foreman.kill()
        before = len(jobs.notes(notes))
        left = recovered(fleet.start_head())
        fleet.start_foreman("a", workers=2)
        assert [future.result(DEADLINE) for future in futures] == [(number, 1) for number in range(40)]
    assert len(jobs.notes(notes)) == before + left
    assert left < 40 or moment is None


# --- what runs ---


@pytest.mark.parametrize("when", ["after the restart", "while there is no head"])
def test_row_31_jobs_that_run_are_taken_up(fleet: Fleet, foreman: Part, tmp_path: Path, when: str) -> None:
    notes, go = tmp_path / "notes", tmp_path / "go"
    once = jobs.hold.options(at_most_once=True)
    with jobs.using(fleet.client()) as client:
        futures = [client.submit(jobs.hold, str(notes), 1, str(go)), client.submit(once, str(notes), 2, str(go))]
        waits = [client.submit(jobs.hold, str(notes), 3, str(go)), client.submit(once, str(notes), 4, str(go))]
        mapped = client.map(jobs.hold, [str(notes)] * 2, [5, 6], [str(go)] * 2)
        jobs.wait_for_note(notes, "begun", 2)
        fleet.head.kill()
        if when == "while there is no head":
            go.touch()
            jobs.wait_for_note(notes, "ended", 2)
        fleet.start_head()
        foreman.wait_for("joined anew")
        go.touch()
        assert [future.result(DEADLINE) for future in futures + waits] == [(number, 1, "a") for number in (1, 2, 3, 4)]
        assert list(mapped) == [(5, 1, "a"), (6, 1, "a")]
    assert Counter(jobs.notes(notes)) == {
        f"{what} {number} a": 1 for what in ("begun", "ended") for number in range(1, 7)
    }


def test_row_31_no_other_foreman_is_given_what_runs_on_one_that_comes_back_later(
    fleet: Fleet, foreman: Part, tmp_path: Path
) -> None:
    notes, go = tmp_path / "notes", tmp_path / "go"
    with jobs.using(fleet.client()) as client:
        futures = [client.submit(jobs.hold, str(notes), number, str(go)) for number in (1, 2)]
        jobs.wait_for_note(notes, "begun", 2)
        idle = fleet.start_foreman("idle", workers=2)
        with foreman.frozen():
            restart(fleet)
            idle.wait_for("joined anew")
        go.touch()
        assert [future.result(DEADLINE) for future in futures] == [(1, 1, "a"), (2, 1, "a")]
    assert len(jobs.notes(notes)) == 4


# --- what nobody waits for ---


def test_row_31_sent_jobs_and_their_results_are_there_after_a_restart(
    fleet: Fleet, foreman: Part, tmp_path: Path
) -> None:
    notes, go = tmp_path / "notes", tmp_path / "go"
    with jobs.using(fleet.client()) as client:
        ended = client.send("jobs_across.nothing", 7)
        support.wait_for(lambda: ended.state == "done", "its end")
        running = [client.send("jobs_across.hold", str(notes), number, str(go)) for number in (1, 2)]
        waiting = client.send("jobs_across.run", str(notes), 3)
        jobs.wait_for_note(notes, "begun", 2)
    restart(fleet)
    with jobs.using(fleet.client()) as client:
        assert client.job(ended.id).result(DEADLINE) == 7
        go.touch()
        assert [client.job(job.id).result(DEADLINE)[:2] for job in running] == [(1, 1), (2, 1)]
        assert client.job(waiting.id).result(DEADLINE) == (3, 1)
        with pytest.raises(JobNotFound):
            client.job(f"{1:016x}-1").result(DEADLINE)
    restart(fleet)
    with jobs.using(fleet.client()) as client:
        assert client.job(waiting.id).result(DEADLINE) == (3, 1)
    assert Counter(jobs.notes(notes)) == Counter(
        ["begun 1 a", "begun 2 a", "ended 1 a", "ended 2 a", "3"],
    )


# --- without a journal ---


def test_row_31_without_a_journal_a_client_that_lives_submits_again(tmp_path: Path) -> None:
    notes, go = tmp_path / "notes", tmp_path / "go"
    with Fleet(tmp_path, lease=LEASE) as fleet:
        fleet.start_head()
        foreman = fleet.start_foreman("a", workers=2)
        with jobs.using(fleet.client()) as client:
            sent = client.send("jobs_across.nothing", 7)
            held = [client.submit(jobs.hold, str(notes), number, str(go)) for number in (1, 2)]
            mapped = client.map(jobs.hold, [str(notes)] * 3, [3, 4, 5], [str(go)] * 3)
            waits = [client.submit(jobs.run, str(notes), number) for number in range(10, 60)]
            jobs.wait_for_note(notes, "begun", 2)
            fleet.head.kill()
            fleet.start_head()
            foreman.wait_for("joined anew")
            go.touch()
            assert [future.result(DEADLINE) for future in held] == [(1, 1, "a"), (2, 1, "a")]
            assert list(mapped) == [(number, 1, "a") for number in (3, 4, 5)]
            assert [future.result(DEADLINE) for future in waits] == [(number, 1) for number in range(10, 60)]
            with pytest.raises(JobNotFound):
                client.job(sent.id).result(DEADLINE)
    assert {int(line.split()[-2]) for line in jobs.notes(notes) if line.startswith("ended")} == {1, 2, 3, 4, 5}
