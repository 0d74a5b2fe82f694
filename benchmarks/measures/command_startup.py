"""From the start of a command line to its first record, and to its end."""

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.contestants.commands import Command
from benchmarks.launching import until_output
from benchmarks.model import Measure, Row, Sample, Settings


def run(command: Command, settings: Settings) -> Iterator[Sample]:
    """Medians over several processes, after one that does not count (it writes the bytecode caches)."""
    repeats = 1 if settings.quick else 9
    with tempfile.TemporaryDirectory() as folder:
        line = Path(folder, "line")
        line.write_text("x\n")
        for launch, row in (
            (command.one(line), "command_startup"),
            (command.one_program(line), "command_startup-program"),
        ):
            if launch is None:
                continue
            times = [until_output(launch) for _ in range(1 + repeats)][1:]
            yield Sample(row, statistics.median(first for first, _ in times) * 1e3, repeats)
            if row == "command_startup":
                yield Sample("command_startup-exit", statistics.median(end for _, end in times) * 1e3, repeats)


MEASURE = Measure(
    name="command_startup",
    rows=(
        Row(
            "command_startup",
            "start of `ztasks run tasks.py:noop x` to its first record, peers: to their first byte",
            "ms",
            higher_is_better=False,
        ),
        Row("command_startup-exit", "the same, to the exit", "ms", higher_is_better=False),
        Row(
            "command_startup-program",
            "start of `ztasks run --command 'echo {}' x` to its first record",
            "ms",
            higher_is_better=False,
        ),
    ),
    run=run,
    commands=True,
)
