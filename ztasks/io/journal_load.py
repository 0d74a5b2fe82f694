"""Reads a journal: all of it when a head starts, and single jobs afterwards.

What it must hold: what is returned is what was written, byte by byte, or is said to be damaged.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

from ztasks.errors import JournalError
from ztasks.io.journal_ops import (
    Accepted,
    Defined,
    JobLine,
    Kept,
    Mark,
    Outcome,
    Range,
    Recovered,
    State,
    Waiting,
    open_ranges,
)
from ztasks.io.journal_schema import (
    CODES,
    ENDINGS,
    UNUSABLE,
    begun_code,
    connect,
    damaged,
    seal,
    signed,
    unsigned,
    unusable,
)

_NO_MARKS: Final[dict[int, Mark]] = {}
"""Shared by all slices that have none."""

_COLUMNS: Final = "session, first, count, sent, key, frames, seal, header, payload"

_OF_OUTCOME: Final = (
    "(SELECT id FROM slices WHERE session = o.session AND first <= o.first ORDER BY first DESC LIMIT 1)"
)


def load(connection: sqlite3.Connection, path: str, dropped: str) -> Recovered:
    """Read all that a head needs to go on; `dropped` says what of the log could not be read. Raises JournalError."""
    with contextlib.suppress(sqlite3.OperationalError):  # a full disk: another time
        connection.execute("DELETE FROM tasks WHERE key NOT IN (SELECT key FROM slices)")
    definitions = [
        Defined(key, spec, callable_)
        for key, spec, callable_, sealed in connection.execute("SELECT key, spec, callable, seal FROM tasks")
        if seal((key,), spec, callable_) == sealed
    ]
    waiting, bad = _load_waiting(connection, path, {one.key for one in definitions})
    kept = [
        Kept(unsigned(session), first, count, ENDINGS[state], key, bool(sent), size)
        for session, first, count, state, size, key, sent in connection.execute(
            f"SELECT o.session, o.first, o.count, o.state, o.size, s.key, s.sent FROM outcomes o "
            f"JOIN slices s ON s.id = {_OF_OUTCOME} WHERE o.state > 0 AND NOT o.fetched ORDER BY o.id"
        )
    ]
    notes = {}
    for name, value, sealed in connection.execute("SELECT name, value, seal FROM notes"):
        if seal((name,), value) != sealed:
            raise damaged(path, f"the note {name!r} is not what was written")
        notes[name] = value
    highest = {}
    for session, number, sealed in connection.execute("SELECT session, highest, seal FROM sessions"):
        if seal((session, number)) != sealed:
            raise damaged(path, "what it says of a session is not what was written")
        highest[unsigned(session)] = number
    told = _told(waiting, kept, bad, dropped)
    return Recovered(definitions, waiting, kept, highest, notes, bad, told)


def _load_waiting(connection: sqlite3.Connection, path: str, known: set[bytes]) -> tuple[list[Waiting], list[Range]]:
    """Return the slices that have open items, and the open items of slices that are damaged."""
    ended: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for owner, first, count in connection.execute(
        "SELECT s.id, o.first, o.count FROM slices s CROSS JOIN outcomes o WHERE s.open > 0 AND s.open < s.count "
        "AND o.session = s.session AND o.first >= s.first AND o.first < s.first + s.count ORDER BY o.session, o.first"
    ):
        ended[owner].append((first, count))
    marks = _load_marks(connection, path)
    waiting, bad = [], []
    for owner, still_open, *columns in connection.execute(
        f"SELECT id, open, {_COLUMNS} FROM slices WHERE open > 0 ORDER BY id"
    ):
        accepted, whole = _accepted(connection, owner, columns)
        session, first, count = accepted.session, accepted.first, accepted.count
        ranges = [(first, count)] if still_open == count else open_ranges(first, count, ended[owner])
        found = [Range(session, first, count) for first, count in ranges]
        if whole and accepted.key in known:
            waiting.append(Waiting(accepted, found, _within(marks[owner], ranges) if owner in marks else _NO_MARKS))
        else:
            bad.extend(found)
    return waiting, bad


def _load_marks(connection: sqlite3.Connection, path: str) -> dict[int, dict[int, Mark]]:
    """Return the marks of items by the row of their slice."""
    marks: dict[int, dict[int, Mark]] = defaultdict(dict)
    for owner, session, number, begun, failures, crashes, history, sealed in connection.execute(
        "SELECT s.id, m.session, m.number, begun, failures, crashes, history, m.seal FROM marks m JOIN slices s "
        "ON s.id = (SELECT id FROM slices WHERE session = m.session AND first <= m.number ORDER BY first DESC LIMIT 1)"
    ):
        if (
            begun not in (0, begun_code(session, number))
            or seal((session, number, failures, crashes), history) != sealed
        ):
            raise damaged(path, f"what it says of job {unsigned(session):016x}-{number} is not what was written")
        marks[owner][number] = Mark(bool(begun), failures, crashes, history)
    return marks


def _within(marks: dict[int, Mark], ranges: list[tuple[int, int]]) -> dict[int, Mark]:
    """Return the marks of items that have not ended."""
    return {
        number: mark
        for number, mark in marks.items()
        if any(first <= number < first + count for first, count in ranges)
    }


def _accepted(connection: sqlite3.Connection, owner: int, columns: list[Any]) -> tuple[Accepted, bool]:
    """Make a slice of its row; and tell whether it is what was written."""
    session, first, count, sent, key, frames, sealed, header, payload = columns
    buffers: tuple[bytes, ...] = ()
    if frames:
        payload, buffers = _frames(connection, owner, frames)
    whole = header is not None and payload is not None
    whole = whole and seal((session, first, count, bool(sent), key), header, payload, buffers) == sealed
    return Accepted(unsigned(session), first, count, key, header or b"", payload or b"", buffers, bool(sent)), whole


def _frames(connection: sqlite3.Connection, owner: int, number: int) -> tuple[bytes, tuple[bytes, ...]]:
    """Return the payload and the buffers of a row whose content is elsewhere; what is missing is empty."""
    parts: list[list[bytes]] = [[] for _ in range(number)]
    for frame, data in connection.execute(
        "SELECT frame, data FROM frames WHERE owner = ? ORDER BY frame, part", (owner,)
    ):
        if 0 <= frame < number:
            parts[frame].append(data)
    payload, *buffers = (found[0] if len(found) == 1 else b"".join(found) for found in parts)
    return payload, tuple(buffers)


def _told(waiting: list[Waiting], kept: list[Kept], bad: list[Range], dropped: str) -> str:
    jobs = sum(one.count for slice_ in waiting for one in slice_.ranges)
    begun = sum(mark.begun for slice_ in waiting for mark in slice_.marks.values())
    parts = [f"{jobs} jobs that have not ended" + (f" ({begun} may have begun)" if begun else "")]
    parts.append(f"{sum(one.count for one in kept)} outcomes that were not fetched")
    if bad:
        parts.append(f"{sum(one.count for one in bad)} jobs are damaged and cannot be run")
    if dropped:
        parts.append(dropped)
    return "the journal holds " + "; ".join(parts)


class Reader:
    """Reads single jobs through a connection of its own, from any thread; it sees what is durable."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection for statements that see the same."""
        with self._lock:
            try:
                if self._closed:
                    raise JournalError(f"the journal {self._path} is closed: nothing can be read from it.")
                if self._connection is None:
                    self._connection = connect(self._path)
                    self._connection.execute("PRAGMA query_only = ON")
                self._connection.execute("BEGIN")
                try:
                    yield self._connection
                finally:
                    self._connection.execute("ROLLBACK")
            except UNUSABLE as error:
                raise unusable(self._path, error) from error

    def outcome(self, session: int, number: int) -> Outcome | None:
        """Return the outcome of an item; None if it has none, or that is gone. Raises JournalError."""
        with self._snapshot() as connection:
            row = connection.execute(
                "SELECT id, first, count, state, whole_first, whole_count, fetched, at, frames, seal, header, payload "
                "FROM outcomes WHERE session = ? AND first <= ? ORDER BY first DESC LIMIT 1",
                (signed(session), number),
            ).fetchone()
            if row is None or not row[3] or row[1] + row[2] <= number:
                return None
            owner, first, count, state, whole_first, whole_count, fetched, at, frames, sealed, header, payload = row
            buffers: tuple[bytes, ...] = ()
            if frames:
                payload, buffers = _frames(connection, owner, frames)
            if seal((signed(session), whole_first, whole_count, state), header, payload, buffers) != sealed:
                raise JournalError(
                    f"the journal {self._path} is damaged: the outcome of job {session:016x}-{number} is not what was "
                    "written to it, and is lost. The others are not affected. Check the disk."
                )
            return Outcome(
                *(session, first, count, ENDINGS[state], header, payload, buffers),
                *(whole_first, whole_count, bool(fetched), at),
            )

    def work(self, session: int, number: int) -> Accepted | None:
        """Return the slice of an item as it was accepted; None if the journal has no need of it any more.

        Raises JournalError.
        """
        with self._snapshot() as connection:
            row = connection.execute(
                f"SELECT id, {_COLUMNS} FROM slices WHERE session = ? AND first <= ? ORDER BY first DESC LIMIT 1",
                (signed(session), number),
            ).fetchone()
            if row is None or row[2] + row[3] <= number or row[8] is None:
                return None
            accepted, whole = _accepted(connection, row[0], list(row[1:]))
            if not whole:
                raise JournalError(
                    f"the journal {self._path} is damaged: job {session:016x}-{number} is not what was written to it, "
                    "and cannot be run. The others are not affected. Check the disk."
                )
            return accepted

    def jobs(self, state: State | None, limit: int) -> list[JobLine]:
        """Return the latest jobs in this state, or in any; those accepted last come first. Raises JournalError."""
        with self._snapshot() as connection:
            lines = []
            if state in (None, "waiting"):
                lines += _waiting_lines(connection, limit)
            if state != "waiting":
                lines += _ended_lines(connection, state, limit)
        lines.sort(key=lambda line: (-line[0], line[1].first))
        return [line for _, line in lines[:limit]]

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def _waiting_lines(connection: sqlite3.Connection, limit: int) -> list[tuple[int, JobLine]]:
    """Return the latest slices that have open items, each with its place in the order."""
    lines = []
    for owner, session, first, count, still_open, key, spec, sent, at in connection.execute(
        "SELECT s.id, session, first, count, open, s.key, COALESCE(spec, x''), sent, at "
        "FROM slices s LEFT JOIN tasks t ON t.key = s.key WHERE open > 0 ORDER BY s.id DESC LIMIT ?",
        (limit,),
    ).fetchall():
        ended = connection.execute(
            "SELECT first, count FROM outcomes WHERE session = ? AND first >= ? AND first < ? ORDER BY first",
            (session, first, first + count if still_open < count else first),
        )
        lines += [
            (owner, JobLine(unsigned(session), at_first, number, "waiting", key, spec, bool(sent), at, None))
            for at_first, number in open_ranges(first, count, ended.fetchall())
        ]
    return lines


def _ended_lines(connection: sqlite3.Connection, state: State | None, limit: int) -> list[tuple[int, JobLine]]:
    """Return the latest outcomes, each with the place of its slice in the order."""
    if state is None or state == "waiting":
        which = "o.state > 0"
    else:
        code = CODES[state]
        which = f"o.state = {code}" if code < 2 else f"o.state >= 2 AND o.state = {code}"  # for its index
    return [
        (owner, JobLine(unsigned(session), first, count, ENDINGS[code], key, spec, bool(sent), accepted, ended))
        for owner, session, first, count, code, key, spec, sent, accepted, ended in connection.execute(
            "SELECT s.id, o.session, o.first, o.count, o.state, s.key, COALESCE(spec, x''), s.sent, s.at, o.at "
            f"FROM outcomes o JOIN slices s ON s.id = {_OF_OUTCOME} LEFT JOIN tasks t ON t.key = s.key "
            f"WHERE {which} ORDER BY o.id DESC LIMIT ?",
            (limit,),
        )
    ]
