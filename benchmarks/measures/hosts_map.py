"""Across hosts: items per second through `map`."""

from collections.abc import Iterator

from benchmarks.contestants.base import Chunks, Contestant
from benchmarks.measures.map import best_of
from benchmarks.model import Measure, Row, Sample, Settings

CHUNKS = (100, 1_000, 5_000)


def run(contestant: Contestant, settings: Settings) -> Iterator[Sample]:
    """As in `map`. Where chunks are taken there are more items, and the best of several sizes counts."""
    slow = 5_000 if contestant.chunks is Chunks.NONE else 200_000
    items = settings.scaled(contestant.jobs(fast=1_000_000, middle=200_000, slow=slow))
    yield from best_of(contestant, items, contestant.chunk_choices(*CHUNKS), "hosts_map")


MEASURE = Measure(
    name="hosts_map",
    rows=(
        Row("hosts_map", "no-ops through map, over loopback TCP, results consumed as they come", "items/s"),
        Row(
            "hosts_map-memory",
            "growth of the caller's resident memory during that map, at its peak",
            "MiB",
            higher_is_better=False,
            digits=1,
        ),
    ),
    run=run,
    hosts=True,
)
