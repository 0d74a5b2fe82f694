"""Across hosts: a head with a journal is killed while 100,000 jobs wait, and started anew."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import work
from benchmarks.contestants.hosts_ours import ZtasksHosts, ZtasksJournal
from benchmarks.model import Goal, Measure, Row, Sample, Settings

OUTAGE = 3.0
"""Seconds without a head: the client and the worker look for it meanwhile, at growing distances."""


def run(_: ZtasksHosts, settings: Settings) -> Iterator[Sample]:
    """Queue jobs where no worker is, kill the head, have a worker look for it, start it; then all jobs end."""
    jobs = settings.scaled(100_000)
    contestant = ZtasksJournal(settings.workers)
    contestant.start(worker=False)
    client = contestant.executor = contestant.client()
    started = time.perf_counter()
    futures = asyncio.run(_submit(client, jobs))
    _wait_for(lambda: client.ask("status")["queued"] == jobs)
    yield Sample("hosts_restart-queue", jobs / (time.perf_counter() - started), jobs)
    contestant.head.kill()
    contestant.foreman = contestant.start_foreman(ready=False)
    time.sleep(OUTAGE)

    dispatched: list[float] = []
    for future in futures[:100]:
        future.add_done_callback(lambda _: dispatched.append(time.perf_counter()))
    started = time.perf_counter()
    contestant.head = contestant.start_head()
    yield Sample("hosts_restart-ready", time.perf_counter() - started, jobs)
    _wait_for(lambda: bool(dispatched))
    yield Sample("hosts_restart", dispatched[0] - started, jobs)
    if [future.result() for future in futures] != list(range(jobs)):
        raise AssertionError("results are missing")
    yield Sample("hosts_restart-all", time.perf_counter() - started, jobs)
    contestant.close()


async def _submit(client: Any, jobs: int) -> list[Any]:
    """Where an event loop runs, `submit` does not wait for the disk; the jobs go there all the same."""
    return [client.submit(work.noop, index) for index in range(jobs)]


def _wait_for(condition: Callable[[], bool], patience: float = 60.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {patience:g} s")
        time.sleep(0.001)


MEASURE = Measure(
    name="hosts_restart",
    rows=(
        Row("hosts_restart-queue", "durable no-ops, no worker being there, until the journal has all", "jobs/s"),
        Row(
            "hosts_restart-ready",
            "head started with 100,000 queued jobs in its journal: until it is ready",
            "s",
            higher_is_better=False,
            digits=2,
        ),
        Row(
            "hosts_restart",
            "the same, until one has run and the client has its result",
            "s",
            higher_is_better=False,
            digits=2,
            goals=(Goal(5),),
        ),
        Row("hosts_restart-all", "the same, until all have", "s", higher_is_better=False, digits=2),
    ),
    run=run,
    opens_itself=True,
    hosts=True,
    only=frozenset({"ztasks"}),
)
