"""How fast NumPy arrays reach the workers as arguments."""

import time
from collections.abc import Iterator

from benchmarks import work
from benchmarks.contestants.base import Contestant
from benchmarks.memory import MIB
from benchmarks.model import Goal, Measure, Row, Sample, Settings


def run(contestant: Contestant, settings: Settings) -> Iterator[Sample]:
    """Submit distinct arrays of 1 MiB each, one per job; the job only asks for the size."""
    import numpy as np

    # Not fewer with --quick: the fixed costs would be all that is seen.
    jobs = contestant.jobs(fast=256, middle=256, slow=64)
    arrays = [np.full(MIB // 8, index, dtype=np.float64) for index in range(jobs)]
    contestant.collect([contestant.submit(work.length, array) for array in arrays[:8]])
    started = time.perf_counter()
    lengths = contestant.collect([contestant.submit(work.length, array) for array in arrays])
    seconds = time.perf_counter() - started
    if lengths != [MIB // 8] * jobs:
        raise AssertionError("wrong lengths")
    yield Sample("arrays", jobs / seconds, jobs)


MEASURE = Measure(
    name="arrays",
    rows=(
        Row(
            "arrays",
            "NumPy arrays of 1 MiB as arguments, through submit",
            "MiB/s",
            goals=(Goal(10, "process-pool"),),
        ),
    ),
    run=run,
)
