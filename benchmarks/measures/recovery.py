"""A worker dies, and work goes on: from the news of its death to the next result."""

import statistics
import time
from collections.abc import Iterator

from benchmarks.contestants.base import Contestant
from benchmarks.model import Measure, Row, Sample, Settings

PAUSE = 0.3
"""Seconds between two deaths, in which whoever prepares for the next one can do so."""


def run(contestant: Contestant, settings: Settings) -> Iterator[Sample]:
    """The medians over some deaths, after two that do not count."""
    if not contestant.can_recover:
        return
    deaths = settings.scaled(20)
    lost, back = [], []
    for _ in range(2 + deaths):
        started = time.perf_counter()
        contestant.lose_worker()
        noticed = time.perf_counter()
        contestant.recover()
        lost.append(noticed - started)
        back.append(time.perf_counter() - noticed)
        time.sleep(PAUSE)
    yield Sample("noticed", statistics.median(lost[2:]) * 1e3, deaths)
    yield Sample("recovery", statistics.median(back[2:]) * 1e3, deaths)


MEASURE = Measure(
    name="recovery",
    rows=(
        Row("noticed", "a job kills its worker: from its submit to its error", "ms", higher_is_better=False, digits=2),
        Row("recovery", "from that error to the result of a no-op", "ms", higher_is_better=False, digits=2),
    ),
    run=run,
)
