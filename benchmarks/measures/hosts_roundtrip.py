"""Across hosts: the time from `submit` of one no-op to its result, one at a time."""

import dataclasses
from collections.abc import Iterator

from benchmarks.contestants.base import Contestant
from benchmarks.measures import roundtrip
from benchmarks.measures.hosts_submit import PEERS
from benchmarks.model import Goal, Measure, Row, Sample, Settings


def run(contestant: Contestant, settings: Settings) -> Iterator[Sample]:
    """As in `roundtrip`."""
    for sample in roundtrip.run(contestant, settings):
        yield dataclasses.replace(sample, row="hosts_roundtrip")


MEASURE = Measure(
    name="hosts_roundtrip",
    rows=(
        Row(
            "hosts_roundtrip",
            "median round trip of one no-op, over loopback TCP",
            "us",
            higher_is_better=False,
            goals=tuple(Goal(1.0, peer) for peer in PEERS),
        ),
    ),
    run=run,
    hosts=True,
)
