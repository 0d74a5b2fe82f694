"""Memory of the caller's process per job that waits in the queue, its future included."""

import gc
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import memory, work
from benchmarks.contestants.base import Contestant
from benchmarks.model import Goal, Measure, Row, Sample, Settings


def run(contestant: Contestant, settings: Settings) -> Iterator[Sample]:
    """Occupy the workers, queue no-ops, look at the memory, cancel, then let the workers go."""
    if not contestant.can_queue:
        return
    wanted = 200_000 if contestant.key == "process-pool" else contestant.jobs(1_000_000, 200_000, 10_000)
    jobs = settings.scaled(wanted)
    with tempfile.TemporaryDirectory() as folder:
        gate = Path(folder, "open")
        occupied = [contestant.submit(work.wait_for_file, str(gate)) for _ in range(settings.workers)]
        try:
            time.sleep(0.5)
            gc.collect()
            before = memory.settled()
            started = time.perf_counter()
            queued = [contestant.submit(work.noop, index) for index in range(jobs)]
            seconds = time.perf_counter() - started
            yield Sample("queued", (memory.settled() - before) / jobs, jobs)
            yield Sample("queued-rate", jobs / seconds, jobs)
            contestant.discard(queued)
        finally:
            gate.touch()
        contestant.collect(occupied)


MEASURE = Measure(
    name="queued",
    rows=(
        Row(
            "queued",
            "memory of the caller's process per queued job with its future",
            "bytes",
            higher_is_better=False,
            goals=(Goal(1024),),
        ),
        Row("queued-rate", "no-ops taken by submit while the workers are occupied", "jobs/s"),
    ),
    run=run,
)
