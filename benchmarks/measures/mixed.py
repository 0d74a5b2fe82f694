"""Mixed jobs: 1% of them take 1,000 times the median, and these come in bursts."""

import time
from collections.abc import Iterator

from benchmarks import work
from benchmarks.contestants.base import Contestant
from benchmarks.model import Goal, Measure, Row, Sample, Settings

SHORT = 0.0002
LONG = 1_000 * SHORT
BURST = 10
CHUNKS = (1, 10, 100)


def durations(jobs: int) -> list[float]:
    """Seconds per job: short ones, with bursts of long ones at even distances, none of them at the end."""
    seconds = [SHORT] * jobs
    bursts = max(1, jobs // (100 * BURST))
    for number in range(bursts):
        start = int((number + 0.5) * jobs / bursts)
        seconds[start : start + BURST] = [LONG] * BURST
    return seconds


def run(contestant: Contestant, settings: Settings) -> Iterator[Sample]:
    """The makespan of one map over the ideal, all work spread evenly; the best chunk size counts."""
    jobs = 1_000 if settings.quick else 5_000
    seconds = durations(jobs)
    ideal = sum(seconds) / settings.workers
    best = (float("inf"), "")
    for chunk in contestant.chunk_choices(*CHUNKS):
        started = time.perf_counter()
        for _ in contestant.map(work.busy, seconds, chunk):
            pass
        ratio = (time.perf_counter() - started) / ideal
        best = min(best, (ratio, f"chunks of {chunk:,}" if chunk else ""))
        if chunk:
            yield Sample(f"mixed-{chunk}", ratio, jobs)
    yield Sample("mixed", best[0], jobs, best[1])


MEASURE = Measure(
    name="mixed",
    rows=(
        Row(
            "mixed",
            "makespan over the ideal, 1% of the jobs take 1,000x the median of 0.2 ms, through map",
            "x ideal",
            higher_is_better=False,
            digits=3,
            goals=(Goal(1.1),),
        ),
        *(
            Row(f"mixed-{chunk}", f"the same, chunks of {chunk}", "x ideal", higher_is_better=False, digits=3)
            for chunk in CHUNKS
        ),
    ),
    run=run,
)
