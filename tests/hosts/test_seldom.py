"""What happens seldom between hosts, and was once answered with hanging, looping or repeating."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import Any

import jobs_across as jobs
import pytest
import support
from fleet import Fleet
from support import DEADLINE

import ztasks
from ztasks import InvalidOption, TooLarge


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A head without a journal."""
    with Fleet(tmp_path, lease="1s", lanes=6) as fleet:
        fleet.start_head()
        yield fleet


def there(client: ztasks.Client) -> int:
    """Return how many jobs and items of maps have not ended."""
    status = client.ask("status")
    return int(status["queued"]) + int(status["running"])


# --- a lane that does not get through, while all else does ---


def test_row_29_no_work_goes_where_the_lane_is_closed_and_that_is_said(fleet: Fleet) -> None:
    through = fleet.proxy()
    through.lanes.refuse()
    foreman = fleet.start_foreman("cut-off", through=through)
    with jobs.using(fleet.client()) as client:
        future = client.submit(jobs.nothing, 1)
        sleep(0.5)  # it would have been given out by now
        fleet.start_foreman("b")
        assert future.result(DEADLINE) == 1
        foreman.wait_for("joined, but no work can come: nobody answers at")
        through.lanes.heal()
        assert list(client.map(jobs.nothing, range(100))) == list(range(100))


@pytest.mark.parametrize("fault", ["cut", "swallow"])
def test_row_29_work_comes_back_from_a_lane_that_does_not_get_through_any_more(fleet: Fleet, fault: str) -> None:
    through = fleet.proxy()
    fleet.start_foreman("a", through=through)
    with jobs.using(fleet.client()) as client:
        assert client.submit(jobs.nothing, 0).result(DEADLINE) == 0
        if fault == "cut":
            through.lanes.refuse()
            through.lanes.cut()
        else:
            through.lanes.swallow()
        future = client.submit(jobs.nothing, 1)
        support.wait_for(lambda: client.running(), "it to be given out")
        fleet.start_foreman("b")
        assert future.result(DEADLINE) == 1
        fleet.head.wait_for("nothing gets through to it")
        through.lanes.resume()
        through.lanes.heal()


def test_a_foreman_that_finds_no_head_says_so(fleet: Fleet) -> None:
    fleet.head.kill()
    foreman = fleet.start_foreman("a", ready=False)
    foreman.wait_for("not joined: nobody answers at")
    fleet.start_head()
    foreman.wait_for("joined 127")


# --- what a head would cut a client off for ---


@pytest.mark.parametrize("name", ["x" * 513, "a\udc80"])
def test_names_that_cannot_travel_are_refused(name: str) -> None:
    with pytest.raises(InvalidOption, match="name must be a string of 1 to 512 characters"):
        ztasks.options("a.b", name=name)


@pytest.mark.parametrize("name", ["x" * 5000, "a\udc80"])
def test_functions_with_odd_names_run(fleet: Fleet, name: str) -> None:
    def odd() -> int:
        return 7

    odd.__qualname__ = name
    fleet.start_foreman("a")
    with jobs.using(fleet.client()) as client:
        assert client.submit(odd).result(DEADLINE) == 7


def test_what_is_larger_than_the_head_holds_is_refused_and_all_else_goes_on(tmp_path: Path) -> None:
    with Fleet(tmp_path, options=["--max-bytes", "1M"]) as fleet:
        fleet.start_head()
        fleet.start_foreman("a")
        with jobs.using(fleet.client()) as client:
            assert client.submit(len, b"x").result(DEADLINE) == 1
            held = client.submit(len, bytes(900_000))
            with pytest.raises(TooLarge, match="no more than 1,000,000 bytes at once"):
                client.submit(len, bytes(300_000_000)).result(DEADLINE)
            large = bytes(2_000_000)
            with pytest.raises(TooLarge):
                client.submit(lambda: len(large)).result(DEADLINE)
            assert held.result(DEADLINE) == 900_000
            assert client.submit(len, b"xyz").result(DEADLINE) == 3


# --- large arguments ---


def test_all_workers_are_used_however_large_arguments_are(fleet: Fleet, tmp_path: Path) -> None:
    notes, go = tmp_path / "notes", tmp_path / "go"

    def hold(data: bytes, number: int) -> Any:
        return jobs.hold.__wrapped__(str(notes), number, str(go))[0]

    fleet.start_foreman("a", workers=4)
    with jobs.using(fleet.client()) as client:
        futures = [client.submit(hold, bytes(5_000_000), number) for number in range(4)]
        jobs.wait_for_note(notes, "begun", 4)
        go.touch()
        assert [future.result(DEADLINE) for future in futures] == [0, 1, 2, 3]


# --- what is not wanted any more ---


def test_a_cancel_that_was_lost_with_a_foremans_link_is_said_again(tmp_path: Path) -> None:
    notes, go = tmp_path / "notes", tmp_path / "go"
    with Fleet(tmp_path, lease="4s", lanes=6) as fleet:
        fleet.start_head()
        through = fleet.proxy()
        foreman = fleet.start_foreman("a", through=through)
        with jobs.using(fleet.client()) as client:
            future = client.submit(jobs.hold, str(notes), 1, str(go))
            jobs.wait_for_note(notes, "begun 1")
            for line in (through.lanes, through.control):
                line.swallow()
            assert future.cancel(running=True)
            foreman.wait_for(jobs.UNHEARD)  # while the head hears it still
            for line in (through.lanes, through.control):
                line.resume()
            support.wait_for(future.done, "its end")
            assert client.submit(jobs.nothing, 1).result(DEADLINE) == 1, "the worker is free again"
        assert "ended" not in " ".join(jobs.notes(notes))


def test_a_cancel_counts_though_the_job_is_submitted_again(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with Fleet(tmp_path, lease="1s") as fleet:
        fleet.start_head()
        through = fleet.proxy()
        with jobs.using(fleet.client(through)) as client:
            client.submit(jobs.nothing, 0)
            support.wait_for(lambda: client.ask("status")["queued"] == 1, "it to be there")
            through.clients.swallow()
            future = client.submit(jobs.run, str(notes), 1)
            future.cancel(running=True)
            sleep(1.5)  # both ends have given the connection up
            through.clients.resume()
            support.wait_for(future.done, "its end")
            fleet.start_foreman("a")
            assert client.submit(jobs.run, str(notes), 2).result(DEADLINE) == (2, 1)
        assert jobs.notes(notes) == ["2"]


def test_what_was_cancelled_while_there_was_no_head_does_not_run(fleet: Fleet, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    foreman = fleet.start_foreman("a")
    with jobs.using(fleet.client()) as client:
        mapped = client.map(jobs.run, [str(notes)] * 4, [10, 11, 12, 13], [0.0, 60.0, 60.0, 60.0])
        assert next(mapped) == (10, 1)
        jobs.wait_for_note(notes, "11")
        future = client.submit(jobs.run, str(notes), 1)
        support.wait_for(lambda: there(client) == 4, "it to be there")
        fleet.head.kill()
        foreman.kill()
        future.cancel(running=True)
        mapped.close()
        fleet.start_head()
        fleet.start_foreman("b")
        assert client.submit(jobs.run, str(notes), 2).result(DEADLINE) == (2, 1)
        support.wait_for(future.done, "its end")
    assert jobs.notes(notes) == ["10", "11", "2"]


# --- ends ---


def test_what_is_submitted_behind_the_farewell_is_refused(tmp_path: Path) -> None:
    pickling, go = threading.Event(), threading.Event()

    class Slow:
        def __reduce__(self) -> Any:
            pickling.set()
            go.wait(DEADLINE)
            return int, ()

    found: list[BaseException | None] = []
    with Fleet(tmp_path, lease="30s") as fleet:
        head = fleet.start_head()
        fleet.start_foreman("a")
        client = fleet.client()
        assert client.submit(jobs.nothing, 1).result(DEADLINE) == 1

        def submit() -> None:
            try:
                found.append(client.submit(jobs.nothing, Slow()).exception(DEADLINE))
            except ztasks.ZtasksError as error:
                found.append(error)

        submitting = threading.Thread(target=submit)
        closing = threading.Thread(target=client.shutdown)
        with head.frozen():
            submitting.start()
            assert pickling.wait(DEADLINE)
            closing.start()
            sleep(0.2)  # it has said farewell
            go.set()
            submitting.join(DEADLINE)
        closing.join(DEADLINE)
        assert not closing.is_alive()
        assert isinstance(found[0], ztasks.ExecutorClosed | ztasks.HeadLost)


@pytest.mark.parametrize("once", [False, True])
def test_what_crosses_a_foremans_farewell_goes_to_another(tmp_path: Path, once: bool) -> None:
    """It has not begun: so it may go elsewhere though it must not run twice."""
    notes = tmp_path / "notes"
    run = jobs.run.options(at_most_once=once)
    with Fleet(tmp_path, lease="3s") as fleet:
        fleet.start_head()
        through = fleet.proxy()
        foreman = fleet.start_foreman("a", through=through)
        with jobs.using(fleet.client()) as client:
            assert client.submit(run, str(notes), 0).result(DEADLINE) == (0, 1)
            through.lanes.stall()
            future = client.submit(run, str(notes), 1)
            support.wait_for(lambda: client.running(), "it to be given out")
            foreman.send(signal.SIGTERM)
            fleet.start_foreman("b")
            assert future.result(DEADLINE) == (1, 1)
            through.lanes.resume()
            assert foreman.wait() == 0
        assert sorted(jobs.notes(notes)) == ["0", "1"]


# --- results ---


def test_polling_for_a_result_costs_little(fleet: Fleet, tmp_path: Path) -> None:
    go = tmp_path / "go"

    def large() -> bytes:
        jobs.hold.__wrapped__(str(tmp_path / "notes"), 1, str(go))
        return bytes(2_000_000)

    fleet.start_foreman("a")
    through = fleet.proxy()
    with jobs.using(fleet.client(through)) as client:
        job = client.send(large)
        jobs.wait_for_note(tmp_path / "notes", "begun 1")
        for _ in range(50):
            with pytest.raises(TimeoutError):
                job.result(0.01)
        go.touch()
        assert len(job.result(DEADLINE)) == 2_000_000
        assert client.submit(jobs.nothing, 1).result(DEADLINE) == 1
        assert through.clients.down < 8_000_000


def test_a_task_that_the_head_has_forgotten_is_defined_again(tmp_path: Path) -> None:
    with Fleet(tmp_path, options=["--max-bytes", "16M"]) as fleet:
        fleet.start_head()
        fleet.start_foreman("a")
        with jobs.using(fleet.client()) as one, jobs.using(fleet.client()) as other:
            assert one.submit(jobs.nothing, 1).result(DEADLINE) == 1
            for number in range(3):
                large = bytes([number]) * 3_000_000
                assert other.submit(lambda large=large: len(large)).result(DEADLINE) == 3_000_000
            assert one.submit(jobs.nothing, 2).result(DEADLINE) == 2
            once = jobs.run.options(at_most_once=True)
            assert one.submit(once, str(tmp_path / "notes"), 3).result(DEADLINE) == (3, 1)
