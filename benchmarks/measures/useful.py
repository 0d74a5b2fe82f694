"""The share of the workers' time that goes into the jobs themselves, with jobs of about 1 ms."""

import time
from collections.abc import Callable, Iterator

from benchmarks import work
from benchmarks.contestants.base import Contestant
from benchmarks.model import Goal, Measure, Row, Sample, Settings

SECONDS = 0.001
CHUNKS = (50, 200)
KINDS: dict[str, Callable[[float], float]] = {"busy": work.busy, "cpu": work.busy_cpu, "sleep": work.sleepy}


def run(contestant: Contestant, settings: Settings) -> Iterator[Sample]:
    """Each kind of job through `submit`, then through `map` with the best of the chunk sizes."""
    jobs = settings.scaled(contestant.jobs(fast=4_000, middle=4_000, slow=1_000))
    for kind, fn in KINDS.items():
        started = time.perf_counter()
        times = contestant.collect([contestant.submit(fn, SECONDS) for _ in range(jobs)])
        yield Sample(f"useful-submit-{kind}", _share(times, started, settings), jobs)
        best = (0.0, "")
        for chunk in contestant.chunk_choices(*CHUNKS):
            started = time.perf_counter()
            times = list(contestant.map(fn, [SECONDS] * jobs, chunk))
            share = _share(times, started, settings)
            best = max(best, (share, f"chunks of {chunk:,}" if chunk else ""))
        yield Sample(f"useful-map-{kind}", best[0], jobs, best[1])


def _share(times: list[float], started: float, settings: Settings) -> float:
    """Total seconds that the jobs say they took, over workers x wall time since `started`."""
    return sum(times) / (settings.workers * (time.perf_counter() - started))


def _rows() -> Iterator[Row]:
    titles = {
        "busy": "jobs that spin for 1 ms on the clock",
        "cpu": "jobs that spin for 1 ms of CPU time",
        "sleep": "jobs that sleep 1 ms",
    }
    goals = {("busy", "submit"): (Goal(0.95),), ("busy", "map"): (Goal(0.97),)}
    for kind, title in titles.items():
        for way in ("submit", "map"):
            yield Row(
                f"useful-{way}-{kind}",
                f"useful share of worker time, {title}, through {way}",
                "share",
                digits=3,
                goals=goals.get((kind, way), ()),
            )


MEASURE = Measure(name="useful", rows=tuple(_rows()), run=run)
