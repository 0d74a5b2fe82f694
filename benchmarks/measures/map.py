"""Items per second through `map`, and what the caller's process needs in memory for it."""

import time
from collections.abc import Iterable, Iterator

from benchmarks import memory, work
from benchmarks.contestants.base import Chunks, Contestant
from benchmarks.model import Goal, Measure, Row, Sample, Settings

CHUNKS = (1_000, 5_000, 20_000)


def run(contestant: Contestant, settings: Settings) -> Iterator[Sample]:
    """Consume the results one by one as they come; the best chunk size counts, with the memory it took."""
    items = settings.scaled(contestant.jobs(fast=1_000_000, middle=200_000, slow=5_000))
    chunks = (None,) if contestant.chunks is Chunks.OPTIONAL else contestant.chunk_choices(*CHUNKS)
    yield from best_of(contestant, items, chunks, "map")


def best_of(contestant: Contestant, items: int, chunks: Iterable[int | None], row: str) -> Iterator[Sample]:
    """Samples of the quickest map, with chunks of one of these sizes."""
    best: tuple[float, float, str] | None = None
    for chunk in chunks:
        memory.reset_peak()
        before = memory.resident()
        started = time.perf_counter()
        count = 0
        for result in contestant.map(work.noop, range(items), chunk):
            if result != count:
                raise AssertionError("wrong result")
            count += 1
        rate = items / (time.perf_counter() - started)
        if count != items:
            raise AssertionError("results are missing")
        grown = (memory.peak() - before) / memory.MIB
        if best is None or rate > best[0]:
            best = (rate, grown, f"chunks of {chunk:,}" if chunk else "")
    assert best is not None
    yield Sample(row, best[0], items, best[2])
    yield Sample(f"{row}-memory", best[1], items, best[2])


MEASURE = Measure(
    name="map",
    rows=(
        Row(
            "map",
            "no-ops through map, results consumed as they come",
            "items/s",
            goals=(Goal(1, "pool"), Goal(3, "process-pool")),
        ),
        Row(
            "map-memory",
            "growth of the caller's resident memory during that map, at its peak",
            "MiB",
            higher_is_better=False,
            digits=1,
        ),
    ),
    run=run,
)
