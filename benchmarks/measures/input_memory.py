"""What a run takes in memory, with inputs of three sizes: it should be the same."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contestants.commands import Command
from benchmarks.jsonl_source import lines_in
from benchmarks.launching import Launch, running
from benchmarks.memory import MIB, kinds_of
from benchmarks.model import Goal, Measure, Row, Sample, Settings
from benchmarks.watching import descendants

SHARES = {"16th": 16, "4th": 4, "all": 1}
"""The names of the sizes, and what part of the largest one they are."""

EVERY = 0.02
"""Seconds from one look to the next."""

MOST_HELD = 256
"""MiB of input that are given to a contestant which holds all of it."""


@dataclass
class Seen:
    """What was seen of the memory of a program, in bytes: the most, where nothing else is said."""

    resident: int = 0
    own: list[int] = field(default_factory=list)
    """RssAnon, what is neither shared nor a file's: at each look."""
    shared: int = 0
    """RssShmem: with ztasks, above all the table of the keys that were seen."""
    workers: int = 0
    """VmHWM of the largest process below it."""

    @property
    def usual(self) -> float:
        """Its own memory in the second half of its time: bursts, which are bounded, do not count, growth does."""
        return statistics.median(self.own[len(self.own) // 2 :])


def run(command: Command, settings: Settings) -> Iterator[Sample]:
    """Each size in a process of its own, through a pipe."""
    largest = settings.scaled(settings.input_mib)
    first: Seen | None = None
    for name, part in SHARES.items():
        mib = max(1, largest // part)
        with tempfile.TemporaryDirectory() as folder:
            launch = command.jsonl(Path(folder))
            if launch is None or (command.key == "process-pool" and mib > MOST_HELD):
                return
            seen, seconds = _watch(launch, mib)
            with Path(folder, command.journal).open("rb") as records:
                found = sum(1 for _ in records)
        jobs, note = lines_in(mib), f"{mib:,} MiB"
        if found != jobs:
            raise AssertionError(f"{found} records of {jobs} lines")
        first = first or seen
        yield Sample(f"input_memory-{name}", seen.resident / MIB, jobs, note)
        yield Sample(f"input_memory-anon-{name}", max(seen.own) / MIB, jobs, note)
        yield Sample(f"input_memory-workers-{name}", seen.workers / MIB, jobs, note)
        if part == 1:
            yield Sample("input_memory-growth", (seen.usual - first.usual) / MIB, jobs, note)
            yield Sample("input_memory-keys", seen.shared / jobs, jobs, note)
            yield Sample("input_memory-rate", mib / seconds, jobs, note)


def _watch(launch: Launch, mib: int) -> tuple[Seen, float]:
    """Pour so much JSONL into a program, and look at its memory until it ends."""
    source = [sys.executable, "-m", "benchmarks.jsonl_source", str(mib)]
    seen, started = Seen(), time.perf_counter()
    with subprocess.Popen(source, stdout=subprocess.PIPE) as lines:
        assert lines.stdout is not None
        with running(launch, stdin=lines.stdout, stdout=subprocess.DEVNULL) as process:
            lines.stdout.close()
            while process.poll() is None:
                _look(process.pid, seen)
                time.sleep(EVERY)
    return seen, time.perf_counter() - started


def _look(pid: int, seen: Seen) -> None:
    kinds = kinds_of(pid)
    if not kinds.get("RssAnon"):  # it has just ended
        return
    seen.own.append(kinds["RssAnon"])
    seen.resident = max(seen.resident, kinds["VmHWM"])
    seen.shared = max(seen.shared, kinds["RssShmem"])
    for worker in descendants(pid):
        seen.workers = max(seen.workers, kinds_of(worker).get("VmHWM", 0))


def _rows() -> Iterator[Row]:
    sizes = {"16th": "a sixteenth of the input", "4th": "a quarter", "all": "all of it, 1 GiB by default"}
    kinds = {
        "input_memory": "peak resident memory of `ztasks run --jsonl -` (VmHWM)",
        "input_memory-anon": "the most of its own (RssAnon)",
        "input_memory-workers": "its largest worker (VmHWM)",
    }
    for key, title in kinds.items():
        for name, size in sizes.items():
            yield Row(f"{key}-{name}", f"{title}, {size}", "MiB", higher_is_better=False, digits=1)
    yield Row(
        "input_memory-growth",
        "growth of its own memory from the smallest input to the largest (medians over the second half of the time)",
        "MiB",
        higher_is_better=False,
        digits=1,
        goals=(Goal(8),),
    )
    yield Row(
        "input_memory-keys",
        "shared memory that each input takes until the end: the table of keys",
        "bytes",
        higher_is_better=False,
        digits=1,
        goals=(Goal(36),),
    )
    yield Row("input_memory-rate", "input per second, the largest one", "MiB/s", digits=1)


MEASURE = Measure(name="input_memory", rows=tuple(_rows()), run=run, commands=True)
