"""Records per second: no-ops from a file of lines to a file of records, and going on with such a file."""

import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from benchmarks.contestants.commands import Command
from benchmarks.launching import run as launch
from benchmarks.model import Goal, Measure, Row, Sample, Settings


def run(command: Command, settings: Settings) -> Iterator[Sample]:
    """A whole run; one that goes on with half of what it left; one that finds all done."""
    wanted = settings.scaled(settings.records)
    jobs = min(wanted, command.most_jobs or wanted)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines, journal = folder / "lines", folder / command.journal
        _write(lines, _lines(jobs))
        fresh = command.records(lines, folder)
        if fresh is None:
            return
        yield Sample("records", jobs / launch(fresh), jobs)
        _check(command, journal, jobs)

        going_on = command.records(lines, folder, resume=True)
        if going_on is None:
            return
        with journal.open() as whole:
            _write(folder / "half", islice(whole, command.journal_header + jobs // 2))
        (folder / "half").replace(journal)
        yield Sample("records-half", jobs / launch(going_on), jobs)
        _check(command, journal, jobs)

        if (complete := command.journal_of(wanted)) is not None:
            jobs = wanted
            _write(lines, _lines(jobs))
            _write(journal, complete)
        yield Sample("records-resume", jobs / launch(going_on), jobs)
        _check(command, journal, jobs)


def _lines(jobs: int) -> Iterator[str]:
    return (f"item-{number:07}\n" for number in range(1, jobs + 1))


def _write(path: Path, lines: Iterable[str]) -> None:
    with path.open("w") as file:
        file.writelines(lines)


def _check(command: Command, journal: Path, jobs: int) -> None:
    """See that every job has one line."""
    with journal.open("rb") as file:
        found = sum(1 for _ in file) - command.journal_header
    if found != jobs:
        raise AssertionError(f"{found} records of {jobs} jobs")


MEASURE = Measure(
    name="records",
    rows=(
        Row(
            "records",
            "no-ops of `ztasks run --lines FILE -o OUT`, over the whole command",
            "records/s",
            goals=(Goal(50_000),),
        ),
        Row("records-half", "the same with --resume, half of it done", "inputs/s", goals=(Goal(50_000),)),
        Row("records-resume", "the same with --resume, all of it done", "inputs/s", goals=(Goal(50_000),)),
    ),
    run=run,
    commands=True,
)
