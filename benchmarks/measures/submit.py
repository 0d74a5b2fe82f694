"""Jobs per second when every no-op is submitted by itself and every result asked for."""

import time
from collections.abc import Iterator

from benchmarks import work
from benchmarks.contestants.base import Contestant
from benchmarks.model import Goal, Measure, Row, Sample, Settings


def run(contestant: Contestant, settings: Settings) -> Iterator[Sample]:
    """Submit all, then collect all; the clock runs over both."""
    jobs = settings.scaled(contestant.jobs(fast=20_000, middle=5_000, slow=2_000))
    started = time.perf_counter()
    results = contestant.collect([contestant.submit(work.noop, index) for index in range(jobs)])
    seconds = time.perf_counter() - started
    if results != list(range(jobs)):
        raise AssertionError("wrong results")
    yield Sample("submit", jobs / seconds, jobs)


MEASURE = Measure(
    name="submit",
    rows=(
        Row(
            "submit",
            "no-ops through submit + result",
            "jobs/s",
            goals=(
                Goal(10, "process-pool"),
                Goal(2, "pool"),
                Goal(30, "dask"),
                Goal(30, "ray"),
                Goal(30, "parsl"),
            ),
        ),
    ),
    run=run,
)
