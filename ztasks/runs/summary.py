"""What a run has come to: counted as records are made, shown at its end."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from ztasks.runs.records import STATUSES, Record, plain_input
from ztasks.runs.text import duration_text, input_text, one_line, rate_text

SLOWEST: Final = 3
"""How many of the slowest jobs the summary names."""

MAX_TYPES: Final = 10
"""How many types of failures the summary shows; and how many are told apart is ten times that."""

MESSAGE_LENGTH: Final = 160


class Example(NamedTuple):
    """One failure of a type: of which input, and what it said."""

    input: Any
    message: str


class SlowJob(NamedTuple):
    """One of the slowest jobs."""

    seconds: float
    place: int
    """The input's index."""
    input: Any


class RunSummary(msgspec.Struct, frozen=True):
    """How a run ended. What `ztasks run` shows at its end is `str()` of it."""

    statuses: dict[str, int]
    """How many jobs ended ok, failed, timeout, lost or cancelled."""
    skipped: int
    """Inputs that were not run, since the output had their record already."""
    attempts: int
    """How often jobs were run, failures and crashes included."""
    seconds: float
    """Wall time from the start of the workers to the last outcome."""
    busy_seconds: float
    """How long jobs ran, all together."""
    workers: int
    failures: dict[str, int]
    """Failures by the type of their exception."""
    examples: dict[str, Example]
    slowest: list[SlowJob]
    stopped: str | None
    """Why the run stopped before its input had been done; None if it did not."""
    problems: list[str]
    """What went wrong beside jobs that failed; each is a sentence."""
    notes: list[str]
    """What else is to be known, such as results that were written otherwise than they were."""

    @property
    def jobs(self) -> int:
        """How many jobs there were."""
        return sum(self.statuses.values())

    @property
    def failed(self) -> int:
        """How many jobs failed, ran out of time or were lost."""
        return self.jobs - self.statuses["ok"] - self.statuses["cancelled"]

    @property
    def ok(self) -> bool:
        """Whether all inputs are done, and none has failed."""
        return not self.failed and self.stopped is None and not self.problems

    def __str__(self) -> str:
        return "\n".join(_lines(self))


class Tally:
    """The counts of a run. Knows nothing of clocks: whoever shows it gives the seconds."""

    def __init__(self) -> None:
        self.done = 0
        self.skipped = 0
        self.statuses: dict[str, int] = dict.fromkeys(STATUSES, 0)
        self.failures: dict[str, int] = {}
        """Failures by the type of their exception."""
        self.examples: dict[str, Example] = {}
        self._first: dict[str, int] = {}
        """The index of each example's input."""
        self.busy_seconds = 0.0
        self.attempts = 0
        self._slowest: list[tuple[float, int, Any]] = []
        self._threshold = -1.0

    @property
    def ended(self) -> int:
        """How many jobs have been run to their end, the cancelled ones not counted."""
        return self.done - self.statuses["cancelled"]

    @property
    def failed(self) -> int:
        """How many jobs ended otherwise than well, the cancelled ones not counted."""
        statuses = self.statuses
        return statuses["failed"] + statuses["timeout"] + statuses["lost"]

    def add(self, record: Record) -> None:
        """Count a job that has ended."""
        self.done += 1
        self.statuses[record.status] += 1
        self.attempts += record.attempts
        seconds = record.seconds
        self.busy_seconds += seconds
        if seconds > self._threshold and record.started is not None:
            self._note_slow(record)
        if record.error is not None and record.status != "cancelled":
            self._note_failure(record)

    def slowest(self) -> list[SlowJob]:
        """Return the slowest jobs, the slowest first."""
        found = sorted(self._slowest, key=lambda entry: entry[0], reverse=True)
        return [SlowJob(seconds, -index, plain_input(input_)) for seconds, index, input_ in found]

    def summary(
        self, seconds: float, workers: int, stopped: str | None, problems: Sequence[str], notes: Sequence[str]
    ) -> RunSummary:
        """Return the summary. `seconds`: wall time."""
        return RunSummary(
            dict(self.statuses),
            self.skipped,
            self.attempts,
            seconds,
            self.busy_seconds,
            workers,
            dict(self.failures),
            dict(self.examples),
            self.slowest(),
            stopped,
            list(problems),
            list(notes),
        )

    def _note_slow(self, record: Record) -> None:
        # the negative index breaks ties: inputs cannot be compared
        entry = (record.seconds, -record.index, record.input)
        if len(self._slowest) < SLOWEST:
            heapq.heappush(self._slowest, entry)
        else:
            heapq.heapreplace(self._slowest, entry)
        if len(self._slowest) == SLOWEST:
            self._threshold = self._slowest[0][0]

    def _note_failure(self, record: Record) -> None:
        error = record.error
        assert error is not None
        kind = error.type
        if kind not in self.failures and len(self.failures) >= 10 * MAX_TYPES:
            kind = "other types"  # a task may make a type for each failure
        self.failures[kind] = self.failures.get(kind, 0) + 1
        if record.index < self._first.get(kind, record.index + 1):  # of the first input, whichever ended first
            self._first[kind] = record.index
            self.examples[kind] = Example(plain_input(record.input), error.message)


def _lines(summary: RunSummary) -> Iterator[str]:
    jobs, seconds, workers = summary.jobs, summary.seconds, summary.workers
    counts = [f"{count:,} {status}" for status, count in summary.statuses.items() if count]
    if summary.skipped:
        counts.append(f"{summary.skipped:,} skipped")
    yield f"{jobs:,} job{'' if jobs == 1 else 's'}: {', '.join(counts) or 'no input'}"
    if jobs:
        yield from _figures(summary, seconds, workers)
    for note in summary.notes:
        yield f"  {note}"


def _figures(summary: RunSummary, seconds: float, workers: int) -> Iterator[str]:
    ended = summary.jobs - summary.statuses["cancelled"]
    rate = f", {rate_text(ended / seconds)}" if seconds > 0 and ended else ""
    useful = min(1.0, summary.busy_seconds / (seconds * workers)) if seconds > 0 and workers else 0.0
    crew = f"{workers} worker{'' if workers == 1 else 's'}"
    yield f"  {duration_text(seconds)} wall time{rate}; {crew}, {useful:.0%} of their time in jobs"
    shown = sorted(summary.failures.items(), key=lambda item: -item[1])
    for kind, count in shown[:MAX_TYPES]:
        example = summary.examples[kind]
        yield f"  {count:,} x {kind}, such as {input_text(example.input)}: {one_line(example.message, MESSAGE_LENGTH)}"
    if len(shown) > MAX_TYPES:
        yield f"  and {len(shown) - MAX_TYPES} more types of failure"
    if summary.jobs > 1 and summary.slowest:
        listed = ", ".join(f"{input_text(job.input, 60)} ({duration_text(job.seconds)})" for job in summary.slowest)
        yield f"  slowest: {listed}"
