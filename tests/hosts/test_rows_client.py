"""Row 35: a client that is stopped while its results are coming stalls alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jobs_across as jobs
import pytest
import support
from fleet import Fleet, Part
from support import DEADLINE

from ztasks import Client

ITEMS = 500
SIZE = 256 * 1024
"""Of each result: the map's are 125 MiB together."""

MOST = 70 * 2**20
"""By how much the head may grow for it: there is a window for what a map has not consumed."""

SLOW = 3.0
"""How many times as long as usual is too long, on a busy machine too: who waits for the other would wait for ever."""

CLIENT = f"""
import sys

import jobs_across

import ztasks

with ztasks.Client(name="stopped") as client:
    count = 0
    for number, attempt, data in client.map(jobs_across.blob, range({ITEMS}), [{SIZE}] * {ITEMS}, buffer_bytes="16MiB"):
        assert (number, attempt, len(data)) == (count, 1, {SIZE})
        count += 1
        if count == 20:
            print("going on", file=sys.stderr, flush=True)
print(count)
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path, lease="1s") as fleet:
        fleet.start_head()
        fleet.start_foreman("a", workers=2)
        yield fleet


def resident(part: Part) -> int:
    """Return the resident memory of a process in bytes."""
    return int(Path(f"/proc/{part.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long something takes, the better of two times."""
    times = []
    for _ in range(2):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def work_of(client: Client) -> Callable[[], object]:
    """Return round trips, large results and a large map, as work."""

    def work() -> None:
        for number in range(30):
            assert client.submit(jobs.nothing, number).result(DEADLINE) == number
        assert sum(len(data) for _, _, data in client.map(jobs.blob, range(20), [SIZE] * 20)) == 20 * SIZE
        assert sum(client.map(jobs.nothing, range(10_000))) == 49_995_000

    return work


def test_row_35_a_client_that_is_stopped_stalls_alone_and_gets_everything_later(fleet: Fleet) -> None:
    with jobs.using(fleet.client(name="other")) as client:
        work = work_of(client)
        work()
        usual, small = seconds_of(work), resident(fleet.head)
        slow = max(SLOW * usual, 1.0)
        stopped = fleet.start_script("stopped", CLIENT)
        stopped.wait_for("going on")
        with stopped.frozen():
            support.wait_for(lambda: client.ask("status")["running"] == 0, "the end of what runs for it")
            grown = resident(fleet.head) - small
            assert seconds_of(work) < slow
            support.wait_for(lambda: client.ask("status")["clients"] == 1, "the end of its lease")
            assert seconds_of(work) < slow
            grown = max(grown, resident(fleet.head) - small)
        assert stopped.wait(60.0) == 0
        assert stopped.out.read_text() == f"{ITEMS}\n"
    assert grown < MOST
