"""Across hosts: jobs per second when every no-op is submitted by itself and every result asked for."""

import dataclasses
from collections.abc import Iterator

from benchmarks.contestants.base import Contestant
from benchmarks.measures import submit
from benchmarks.model import Goal, Measure, Row, Sample, Settings

PEERS = ("dask", "ray", "parsl", "ipyparallel", "celery")


def run(contestant: Contestant, settings: Settings) -> Iterator[Sample]:
    """As in `submit`."""
    for sample in submit.run(contestant, settings):
        yield dataclasses.replace(sample, row="hosts_submit")


MEASURE = Measure(
    name="hosts_submit",
    rows=(
        Row(
            "hosts_submit",
            "no-ops through submit + result, over loopback TCP",
            "jobs/s",
            goals=tuple(Goal(10, peer) for peer in PEERS),
        ),
    ),
    run=run,
    hosts=True,
)
