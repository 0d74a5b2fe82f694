"""What a run has come to: counted as records are made, shown at its end."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from ztasks.cli.records import Record

SLOWEST: Final = 3
"""How many of the slowest jobs the summary names."""

MAX_TYPES: Final = 10
"""How many types of failures the summary shows; and how many are told apart is ten times that."""

INPUT_LENGTH: Final = 80
MESSAGE_LENGTH: Final = 160


class Example(NamedTuple):
    """One failure of a type: of which input, and what it said."""

    input: Any
    message: str


class Tally:
    """The counts of a run. Knows nothing of clocks: whoever shows it gives the seconds."""

    def __init__(self) -> None:
        self.done = 0
        self.statuses: dict[str, int] = dict.fromkeys(("ok", "failed", "timeout", "lost", "cancelled"), 0)
        self.failures: dict[str, int] = {}
        """Failures by the type of their exception."""
        self.examples: dict[str, Example] = {}
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

    def slowest(self) -> list[tuple[float, int, Any]]:
        """Return (seconds, index, input) of the slowest jobs, the slowest first."""
        return sorted(self._slowest, key=lambda entry: entry[0], reverse=True)

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
        if kind not in self.examples:
            self.examples[kind] = Example(record.input, error.message)


def summarise(tally: Tally, seconds: float, workers: int, notes: list[str]) -> str:
    """Return the closing summary, some lines of text. `seconds`: wall time; `notes`: what else must be said."""
    return "\n".join(_lines(tally, seconds, workers, notes))


def _lines(tally: Tally, seconds: float, workers: int, notes: list[str]) -> Iterator[str]:
    counts = [f"{count:,} {status}" for status, count in tally.statuses.items() if count]
    yield f"{tally.done:,} job{'' if tally.done == 1 else 's'}: {', '.join(counts) or 'no input'}"
    if not tally.done:
        return
    rate = f", {rate_text(tally.ended / seconds)}" if seconds > 0 and tally.ended else ""
    useful = min(1.0, tally.busy_seconds / (seconds * workers)) if seconds > 0 else 0.0
    crew = f"{workers} worker{'' if workers == 1 else 's'}"
    yield f"  {duration_text(seconds)} wall time{rate}; {crew}, {useful:.0%} of their time in jobs"
    shown = sorted(tally.failures.items(), key=lambda item: -item[1])
    for kind, count in shown[:MAX_TYPES]:
        example = tally.examples[kind]
        yield f"  {count:,} x {kind}, such as {input_text(example.input)}: {one_line(example.message, MESSAGE_LENGTH)}"
    if len(shown) > MAX_TYPES:
        yield f"  and {len(shown) - MAX_TYPES} more types of failure"
    slowest = tally.slowest()
    if tally.done > 1 and slowest:
        listed = ", ".join(f"{input_text(input_, 60)} ({duration_text(took)})" for took, _, input_ in slowest)
        yield f"  slowest: {listed}"
    for note in notes:
        yield f"  {note}"


def duration_text(seconds: float) -> str:
    """Return a duration for reading: `480 us`, `35 ms`, `1.2 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def rate_text(rate: float) -> str:
    """Return a rate for reading: `51,200/s`, `4.1/s`, `12/min`."""
    if rate >= 10:
        return f"{rate:,.0f}/s"
    return f"{rate:.1f}/s" if rate >= 0.5 else f"{rate * 60:.1f}/min"


def input_text(value: Any, length: int = INPUT_LENGTH) -> str:
    """Return an input for reading: text as it is, everything else as Python shows it; cut in the middle."""
    text = value if isinstance(value, str) else repr(value)
    return one_line(text, length) or "''"


def one_line(text: str, length: int) -> str:
    """Return text for one line of a terminal: control characters escaped, cut in the middle."""
    if len(text) > 4 * length:
        text = text[: 2 * length] + text[-2 * length :]
    text = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text.strip())
    if len(text) <= length:
        return text
    half = (length - 3) // 2
    return f"{text[:half]}...{text[-half:]}"
