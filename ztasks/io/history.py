"""What the head remembers of jobs that have ended: for people, for who asks for a result, and to run them again.

What it must hold: all of it is bounded; the oldest goes first.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from time import time
from typing import Any, Final, Literal, NamedTuple

from ztasks.core.work import Ended, Work
from ztasks.units import cut
from ztasks.wire.payload import Items, Pickled

LINES: Final = 10_000
"""How many ends of jobs are remembered for `ztasks jobs`."""

REVIVABLE: Final = 10_000
REVIVABLE_BYTES: Final = 64 * 1024 * 1024
"""How many failed jobs are kept in memory so that they can be run again."""

RESULTS: Final = 100_000
"""How many outcomes are kept in memory at most for who may ask."""

SHOWN: Final = 300
"""How many characters of an error are remembered, and of a host's name."""

State = Literal["done", "failed", "cancelled", "expired"]

Name = tuple[int, int]
"""A job's session and number."""

Payload = bytes | Pickled | Items


class EndedLine(NamedTuple):
    """An end, for people."""

    session: int
    first: int
    items: int
    task: str
    state: State
    host: str
    attempt: int
    at: float
    error: str


class History:
    """The ends of jobs."""

    def __init__(self) -> None:
        self.lines: deque[EndedLine] = deque(maxlen=LINES)
        self.totals: dict[str, int] = {"done": 0, "failed": 0, "cancelled": 0, "expired": 0}
        self.revivable: OrderedDict[Name, tuple[Work, Payload]] = OrderedDict()
        """Failed jobs, that can be run again; and the payloads that they are parts of."""
        self._revivable_bytes = 0
        self._sources: dict[int, int] = {}
        """How many of them have a part of a payload, by its identity: to cut them off would take long if they are many,
        so it is kept and counted whole."""

    def note(self, end: Ended, host: str, error: str) -> None:
        """Work has ended."""
        work = end.work
        self.totals[end.state] += work.count
        self.lines.append(
            EndedLine(
                work.session,
                work.first,
                work.count,
                work.spec.name,
                end.state,
                cut(host, SHOWN),
                work.attempt,
                time(),
                cut(error, SHOWN),
            )
        )
        if end.state in ("failed", "expired") and work.count == 1:
            self._keep(work)

    def _keep(self, work: Work) -> None:
        self.take(work.session, work.first)
        source: Payload = work._source
        parts = self._sources.get(id(source), 0)
        if not parts:
            size = _size(source)
            if size > REVIVABLE_BYTES:
                return
            self._revivable_bytes += size
        self.revivable[work.session, work.first] = work, source
        self._sources[id(source)] = parts + 1
        while len(self.revivable) > REVIVABLE or self._revivable_bytes > REVIVABLE_BYTES:
            self.take(*next(iter(self.revivable)))

    def take(self, session: int, number: int) -> Work | None:
        """Return a failed job that can be run again, if it is still here; it is not any more."""
        found = self.revivable.pop((session, number), None)
        if found is None:
            return None
        work, source = found
        parts = self._sources.pop(id(source)) - 1
        if parts:
            self._sources[id(source)] = parts
        else:
            self._revivable_bytes -= _size(source)
        return work

    def find(self, session: int, number: int) -> EndedLine | None:
        """Return the latest end of a job, if it is remembered."""
        for line in reversed(self.lines):
            if line.session == session and line.first <= number < line.first + line.items:
                return line
        return None


def _size(payload: Payload) -> int:
    """Return the bytes that a payload holds, with its table of sizes."""
    if isinstance(payload, bytes):
        return len(payload)
    return payload.nbytes + (8 * len(payload.sizes or ()) if isinstance(payload, Items) else 0)


class Result(NamedTuple):
    """How a job has ended: a state, and an outcome as a content."""

    state: State
    frames: list[Any]


class Results:
    """Outcomes of detached jobs, and of jobs that have failed, by session and number."""

    def __init__(self, most_bytes: int) -> None:
        self.nbytes = 0
        self._most_bytes = most_bytes
        self._found: OrderedDict[Name, Result] = OrderedDict()

    def put(self, session: int, number: int, result: Result) -> None:
        """Keep the outcome of one item."""
        self.drop(session, number)
        self._found[session, number] = result
        self.nbytes += sum(map(len, result.frames))
        while self._found and (self.nbytes > self._most_bytes or len(self._found) > RESULTS):
            self.drop(*next(iter(self._found)))

    def get(self, session: int, number: int) -> Result | None:
        """Return the outcome of one item, if it is kept."""
        return self._found.get((session, number))

    def drop(self, session: int, number: int) -> None:
        """Forget it."""
        result = self._found.pop((session, number), None)
        if result is not None:
            self.nbytes -= sum(map(len, result.frames))

    def drop_range(self, session: int, first: int, count: int) -> None:
        """Forget those of consecutive items; there may be very many."""
        if count <= len(self._found):
            numbers = [number for number in range(first, first + count) if (session, number) in self._found]
        else:
            numbers = [number for other, number in self._found if other == session and first <= number < first + count]
        for number in numbers:
            self.drop(session, number)
