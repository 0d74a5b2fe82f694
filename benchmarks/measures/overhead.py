"""What a command line adds to each of many short jobs."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.contestants.commands import Command
from benchmarks.launching import Launch
from benchmarks.launching import run as launch
from benchmarks.model import Goal, Measure, Row, Sample, Settings

SECONDS = 0.01


def run(command: Command, settings: Settings) -> Iterator[Sample]:
    """The program `sleep`, then a Python function that sleeps; who has only the first has its figure in both rows."""
    jobs = settings.scaled(2_000)
    with tempfile.TemporaryDirectory() as name:
        lines = Path(name, "lines")
        lines.write_text(f"{SECONDS}\n" * jobs)

        def overhead(how: Launch) -> float:
            return (launch(how) * settings.workers / jobs - SECONDS) * 1e3

        programs, tasks = (Path(name, kind) for kind in ("programs", "tasks"))
        programs.mkdir()
        tasks.mkdir()
        started, called = command.programs(lines, programs), command.tasks(lines, tasks)
        if started is not None:
            value = overhead(started)
            yield Sample("overhead", value, jobs)
            if called is None:
                yield Sample("overhead-task", value, jobs, "a program")
        if called is not None:
            yield Sample("overhead-task", overhead(called), jobs)


MEASURE = Measure(
    name="overhead",
    rows=(
        Row(
            "overhead",
            "time of a worker that each job of 10 ms takes besides, the job being the program `sleep 0.01`",
            "ms/job",
            higher_is_better=False,
            digits=3,
            goals=(Goal(0.2, "parallel"),),
        ),
        Row(
            "overhead-task",
            "the same, the job being time.sleep(0.01) where that is possible",
            "ms/job",
            higher_is_better=False,
            digits=3,
            goals=(Goal(0.2, "parallel"),),
        ),
    ),
    run=run,
    commands=True,
)
