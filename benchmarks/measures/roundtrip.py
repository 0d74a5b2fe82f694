"""The time from `submit` of one no-op to its result, one at a time."""

import statistics
import time
from collections.abc import Iterator

from benchmarks import work
from benchmarks.contestants.base import Contestant
from benchmarks.model import Goal, Measure, Row, Sample, Settings


def run(contestant: Contestant, settings: Settings) -> Iterator[Sample]:
    """The median of many single round trips, after some that do not count."""
    jobs = settings.scaled(500)
    times = []
    for index in range(50 + jobs):
        started = time.perf_counter()
        contestant.collect([contestant.submit(work.noop, index)])
        times.append(time.perf_counter() - started)
    yield Sample("roundtrip", statistics.median(times[50:]) * 1e6, jobs)


MEASURE = Measure(
    name="roundtrip",
    rows=(
        Row(
            "roundtrip",
            "median round trip of one no-op",
            "us",
            higher_is_better=False,
            goals=(Goal(1.0, "process-pool"),),
        ),
    ),
    run=run,
)
