"""From the start of a fresh interpreter to the first result, and to the end of the process."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.contestants.base import Contestant
from benchmarks.model import Goal, Measure, Row, Sample, Settings


def run(contestant: Contestant, settings: Settings) -> Iterator[Sample]:
    """Medians over several processes, after one that does not count (it writes the bytecode caches)."""
    repeats = 1 if settings.quick else contestant.jobs(fast=7, middle=5, slow=2)
    script = contestant.first_result.format(workers=settings.workers)
    times = [_once(script) for _ in range(1 + repeats)][1:]
    yield Sample("startup", statistics.median(first for first, _ in times) * 1e3, repeats)
    yield Sample("startup-exit", statistics.median(end for _, end in times) * 1e3, repeats)


def _once(script: str) -> tuple[float, float]:
    """Seconds until the script has printed its result, and until its process has ended."""
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = next((line for line in process.stdout if line.strip() == "1"), None)
        first = time.perf_counter() - started
        process.stdout.read()
        code = process.wait()
    end = time.perf_counter() - started
    if line is None or code != 0:
        raise RuntimeError(f"the script printed no result (exit code {code})")
    return first, end


MEASURE = Measure(
    name="startup",
    rows=(
        Row(
            "startup",
            "start of a fresh interpreter to the first result (pools: spawn)",
            "ms",
            higher_is_better=False,
            goals=(Goal(1.5, "process-pool"),),
        ),
        Row(
            "startup-exit",
            "start of a fresh interpreter to its exit, workers stopped (pools: spawn)",
            "ms",
            higher_is_better=False,
        ),
    ),
    run=run,
    opens_itself=True,
)
