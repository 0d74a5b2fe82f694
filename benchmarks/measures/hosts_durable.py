"""Across hosts, with a journal: jobs per second that are on the disk before they count as accepted.

A thread that submits waits for the disk each time; what many threads and clients submit meanwhile goes there together.
"""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import work
from benchmarks.contestants.hosts_ours import ZtasksHosts, ZtasksJournal
from benchmarks.model import Goal, Measure, Row, Sample, Settings

THREADS = 64
CLIENTS = 4
"""Processes, which have so many threads together."""

ROOT = Path(__file__).resolve().parent.parent.parent


def run(_: ZtasksHosts, settings: Settings) -> Iterator[Sample]:
    """Submit and get all results: one thread, many threads of one client, many of several, an event loop; a map."""
    contestant = ZtasksJournal(settings.workers)
    contestant.open()
    contestant.warm_up()
    alone, many, items = settings.scaled(1_000), settings.scaled(50_000), settings.scaled(500_000)
    yield Sample("hosts_durable-alone", alone / submit(contestant, 1, alone), alone)
    yield Sample("hosts_durable-threads", many / submit(contestant, THREADS, many), many, f"{THREADS} threads")
    seconds = _clients(contestant, many)
    yield Sample("hosts_durable-clients", many / seconds, many, f"{CLIENTS} processes, {THREADS} threads")
    yield Sample("hosts_durable-loop", many / _in_a_loop(contestant, many), many)
    started = time.perf_counter()
    found = sum(1 for _ in contestant.map(work.noop, range(items), None))
    seconds = time.perf_counter() - started
    if found != items:
        raise AssertionError("results are missing")
    yield Sample("hosts_durable-map", items / seconds, items)
    contestant.close()


def submit(contestant: ZtasksHosts, threads: int, jobs: int) -> float:
    """Seconds in which so many threads together submit so many jobs and get their results."""
    share = jobs // threads
    results: list[list[int]] = []

    def one() -> None:
        results.append(contestant.collect([contestant.submit(work.noop, index) for index in range(share)]))

    workers = [threading.Thread(target=one) for _ in range(threads)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - started
    if results != [list(range(share))] * threads:
        raise AssertionError("wrong results")
    return seconds


def _in_a_loop(contestant: ZtasksHosts, jobs: int) -> float:
    """Seconds in which coroutines do the same: there `submit` does not wait, but no job runs before it is durable."""

    async def submit_all() -> list[Any]:
        return [contestant.submit(work.noop, index) for index in range(jobs)]

    started = time.perf_counter()
    results = contestant.collect(asyncio.run(submit_all()))
    seconds = time.perf_counter() - started
    if results != list(range(jobs)):
        raise AssertionError("wrong results")
    return seconds


def _clients(contestant: ZtasksHosts, jobs: int) -> float:
    """Seconds in which several client processes do the same, from a moment when all are connected."""
    command = [sys.executable, "-m", "benchmarks.submitter", contestant.join("client")]
    command += [str(THREADS // CLIENTS), str(jobs // CLIENTS)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(CLIENTS)
    ]
    pipes = [(process.stdin, process.stdout) for process in processes]
    for _, output in pipes:
        assert output is not None
        output.readline()
    started = time.perf_counter()
    for given, _ in pipes:
        assert given is not None
        given.write(b"go\n")
        given.flush()
    for _, output in pipes:
        assert output is not None
        if output.readline() != b"done\n":
            raise RuntimeError("a client has failed")
    seconds = time.perf_counter() - started
    for process in processes:
        process.communicate()
    return seconds


MEASURE = Measure(
    name="hosts_durable",
    rows=(
        Row("hosts_durable-alone", "durable no-ops, submit + result, one thread", "jobs/s"),
        Row("hosts_durable-threads", "the same, many threads of one client", "jobs/s", goals=(Goal(20_000),)),
        Row("hosts_durable-clients", "the same, several clients", "jobs/s", goals=(Goal(20_000),)),
        Row("hosts_durable-loop", "the same, in an event loop", "jobs/s", goals=(Goal(20_000),)),
        Row("hosts_durable-map", "durable no-ops through map", "items/s", goals=(Goal(20_000),)),
    ),
    run=run,
    opens_itself=True,
    hosts=True,
    only=frozenset({"ztasks"}),
)
