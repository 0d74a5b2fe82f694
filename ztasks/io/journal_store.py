"""Writes operations into the tables of a journal: a batch of them in one transaction.

What it must hold: the tables are as if the operations had been carried out one by one, in their order; and few calls of
SQLite are made for many operations. Each call lets go of the interpreter's lock and gets it back some 5 ms later while
the head's thread is busy (measured: 400 rows a second with a call for each, 27,000 with 256 rows in a call).
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import Any, Final

from ztasks.io.journal_ops import (
    Accepted,
    AnyOperation,
    Begun,
    Charged,
    Defined,
    Ended,
    Fetched,
    Forgot,
    Noted,
    Range,
    Revived,
    Unneeded,
    content_size,
    open_ranges,
)
from ztasks.io.journal_schema import CODES, MAY_REVIVE, begun_code, note_age, seal, signed, unsigned

INLINE_BYTES: Final = 64 * 1024
"""A payload up to this size is in its row, a larger one in the table of frames."""

PART_BYTES: Final = 64 * 2**20
"""SQLite takes at most 1 GB in a row."""

MOST_ROWS: Final = 512
"""In one call: more of them gain nothing."""

GONE: Final = """state = CASE WHEN {0} THEN 0 ELSE state END, fetched = seal | 1,
    size = CASE WHEN {0} THEN 0 ELSE size END, frames = CASE WHEN {0} THEN 0 ELSE frames END,
    header = CASE WHEN {0} THEN NULL ELSE header END, payload = CASE WHEN {0} THEN NULL ELSE payload END"""

_FETCH: Final = """UPDATE outcomes SET {} WHERE state > 0 AND id IN
    (SELECT o.id FROM temp.ranges r CROSS JOIN outcomes o
        WHERE o.session = r.session AND o.first >= r.first AND o.first < r.first + r.count)"""

_CUTS: Final = """SELECT session, first FROM temp.ranges r WHERE
    (SELECT first + count FROM outcomes o WHERE o.session = r.session AND o.first < r.first
        ORDER BY o.first DESC LIMIT 1) > r.first
    UNION SELECT session, first + count FROM temp.ranges r WHERE
    (SELECT first + count FROM outcomes o WHERE o.session = r.session AND o.first < r.first + r.count
        ORDER BY o.first DESC LIMIT 1) > r.first + r.count"""
"""Where a range begins or ends within an outcome."""

_FORGET: Final = f"""UPDATE outcomes SET {GONE.format("state IN (1, 3)")} WHERE state > 0 AND id IN
    (SELECT o.id FROM slices s CROSS JOIN outcomes o
        WHERE s.session = ? AND NOT s.sent
        AND o.session = s.session AND o.first >= s.first AND o.first < s.first + s.count)"""

_NEXT: Final = "SELECT max((SELECT COALESCE(max(id), 0) FROM slices), (SELECT COALESCE(max(id), 0) FROM outcomes)) + 1"

Row = tuple[Any, ...]


class Inserting:
    """A statement that inserts rows, many with one call."""

    def __init__(self, into: str, columns: int, key: str = "", change: str = "") -> None:
        """`change`: what becomes of a row of the same key."""
        self._into = into
        self._row = f"({','.join('?' * columns)})"
        self._conflict = f"ON CONFLICT ({key}) DO UPDATE SET {change}" if key else ""
        self._statements: dict[int, str] = {}
        """By number of rows: powers of two only, so that they stay prepared."""

    def run(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        """Insert these rows, in their order."""
        at = 0
        while left := len(rows) - at:
            number = min(MOST_ROWS, 1 << (left.bit_length() - 1))
            statement = self._statements.get(number)
            if statement is None:
                values = ",".join([self._row] * number)
                self._statements[number] = statement = f"INSERT INTO {self._into} VALUES {values} {self._conflict}"
            connection.execute(statement, list(chain.from_iterable(rows[at : at + number])))
            at += number


class Store:
    """The tables of one journal, for the thread that writes them."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._next: int = connection.execute(_NEXT).fetchone()[0]
        """The number of the next row; slices and outcomes share one row of numbers."""
        self._slices = Inserting("slices", 15)
        self._outcomes = Inserting("outcomes", 15)
        self._ranges = Inserting("temp.ranges", 3)
        self._tasks = Inserting("tasks", 4, "key", _replace("spec", "callable", "seal"))
        self._sessions = Inserting(
            *("sessions", 4, "session"),
            "highest = max(highest, excluded.highest), age = excluded.age, "
            "seal = CASE WHEN excluded.highest > highest THEN excluded.seal ELSE seal END",
        )
        self._begun = Inserting("marks", 7, "session, number", _replace("begun"))
        self._charged = Inserting("marks", 7, "session, number", _replace("failures", "crashes", "history", "seal"))
        self._notes = Inserting("notes", 3, "name", _replace("value", "seal"))
        connection.execute("CREATE TEMP TABLE ranges (session INTEGER, first INTEGER, count INTEGER)")
        connection.execute("CREATE TEMP TABLE unneeded (key BLOB PRIMARY KEY)")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def write(self, operations: Iterable[AnyOperation], age: float, at: float) -> None:
        """Carry out operations, in a transaction of the caller's.

        Between two that are carried out alone, the kinds do not disturb each other's order: nothing is ended before it
        is accepted, nor fetched before it has ended.
        """
        for alone, group in groupby(operations, key=_is_alone):
            if not alone:
                self._write_group(group, age, at)
                continue
            for operation in group:
                if isinstance(operation, Revived):
                    self._revive(operation)
                elif isinstance(operation, Forgot):
                    self._forget(signed(operation.session), age, at)

    def _write_group(self, operations: Iterable[AnyOperation], age: float, at: float) -> None:
        by_kind: dict[type[AnyOperation], list[Any]] = defaultdict(list)
        tasks: dict[bytes, bool] = {}
        for operation in operations:
            by_kind[type(operation)].append(operation)
            if isinstance(operation, Defined | Unneeded):
                tasks[operation.key] = isinstance(operation, Unneeded)
        if tasks:
            self._define(by_kind[Defined], tasks)
        self._accept(by_kind[Accepted], age, at)
        connection = self.connection
        self._begun.run(connection, [_begun_row(one) for one in by_kind[Begun]])
        self._charged.run(connection, [_charged_row(one) for one in by_kind[Charged]])
        self._end(by_kind[Ended], age, at)
        for failed in (False, True):
            fetched = [one for one in by_kind[Fetched] if one.failed is failed]
            if rows := [(signed(one.session), one.first, one.count) for one in fetched]:
                self._fetch(rows, failed=failed)
        self._notes.run(connection, [(one.name, one.value, seal((one.name,), one.value)) for one in by_kind[Noted]])

    def _define(self, defined: list[Defined], unneeded: dict[bytes, bool]) -> None:
        """Note tasks; and whether, as things stand, they are needed."""
        connection = self.connection
        rows = [(one.key, one.spec, one.callable, seal((one.key,), one.spec, one.callable)) for one in defined]
        self._tasks.run(connection, rows)
        for key, not_needed in unneeded.items():
            change = (
                "INSERT OR IGNORE INTO temp.unneeded VALUES (?)"
                if not_needed
                else "DELETE FROM temp.unneeded WHERE key = ?"
            )
            connection.execute(change, (key,))

    # --- slices come in ---

    def _accept(self, accepted: list[Accepted], age: float, at: float) -> None:
        rows: list[Row] = []
        large: list[tuple[int, Accepted]] = []
        highest: dict[int, int] = {}
        number = self._next
        for one in accepted:
            session, count, payload = signed(one.session), one.count, one.payload
            frames = _frames(one)
            if frames:
                large.append((number, one))
            rows.append(
                (
                    *(number, session, one.first, count, count, count, 0, one.sent, at, one.held(), frames),
                    seal((session, one.first, count, one.sent, one.key), one.header, payload, one.buffers),
                    *(one.key, one.header, None if frames else payload),
                )
            )
            highest[session] = max(highest.get(session, 0), one.first + count - 1)
            number += 1
        self._next = number
        self._slices.run(self.connection, rows)
        self._put_frames(large)
        self._sessions.run(
            self.connection, [(session, last, age, seal((session, last))) for session, last in highest.items()]
        )

    # --- outcomes come in ---

    def _end(self, ended: list[Ended], age: float, at: float) -> None:
        rows: list[Row] = []
        large: list[tuple[int, Ended]] = []
        number = self._next
        for one in ended:
            session, first, count, state = signed(one.session), one.first, one.count, CODES[one.state]
            frames = _frames(one)
            if frames:
                large.append((number, one))
            rows.append(
                (
                    *(number, session, first, count, state, 0, first, count, age, at, one.held(), frames),
                    seal((session, first, count, state), one.header, one.payload, one.buffers),
                    *(one.header, None if frames else one.payload),
                )
            )
            number += 1
        self._next = number
        self._outcomes.run(self.connection, rows)
        self._put_frames(large)

    def _put_frames(self, large: Sequence[tuple[int, Accepted | Ended]]) -> None:
        for owner, one in large:
            for frame, content in enumerate((one.payload, *one.buffers)):
                view = memoryview(content).cast("B")
                for part, at in enumerate(range(0, max(1, view.nbytes), PART_BYTES)):
                    row = (owner, frame, part, view[at : at + PART_BYTES])
                    self.connection.execute("INSERT INTO frames VALUES (?, ?, ?, ?)", row)

    # --- outcomes go ---

    def _fetch(self, ranges: list[Row], *, failed: bool) -> None:
        connection = self.connection
        self._ranges.run(connection, ranges)
        for session, number in connection.execute(_CUTS).fetchall():
            self._cut(session, number)
        connection.execute(_FETCH.format(GONE.format("1" if failed else "state IN (1, 3)")))
        connection.execute("DELETE FROM temp.ranges")

    def _cut(self, session: int, number: int) -> None:
        """Make two of the outcome that holds this item and the one before it; both keep the whole content."""
        connection = self.connection
        row = connection.execute(
            "SELECT id, first + count - ?, state FROM outcomes WHERE session = ? AND first < ? "
            "ORDER BY first DESC LIMIT 1",
            (number, session, number),
        ).fetchone()
        if row is None or row[1] <= 0 or not row[2]:
            return
        old, count, state = row
        new, self._next = self._next, self._next + 1
        connection.execute("UPDATE outcomes SET count = count - ? WHERE id = ?", (count, old))
        self._reopen(session, number, count, state)  # the new row counts as ended again
        connection.execute(
            "INSERT INTO outcomes SELECT ?, session, ?, ?, state, fetched, whole_first, whole_count, age, at, size, "
            "frames, seal, header, payload FROM outcomes WHERE id = ?",
            (new, number, count, old),
        )
        connection.execute("INSERT INTO frames SELECT ?, frame, part, data FROM frames WHERE owner = ?", (new, old))

    def _reopen(self, session: int, first: int, count: int, state: int) -> None:
        """These items have no outcome any more, or will get it again."""
        self.connection.execute(
            "UPDATE slices SET open = open + ?, failed = failed - ? WHERE id = (SELECT id FROM slices "
            "WHERE session = ? AND first <= ? ORDER BY first DESC LIMIT 1)",
            (count, count if state in MAY_REVIVE else 0, session, first),
        )

    def _revive(self, revived: Revived) -> None:
        session, first, end = signed(revived.session), revived.first, revived.first + revived.count
        self._cut(session, first)
        self._cut(session, end)
        found = self.connection.execute(
            "SELECT id, first, count, state FROM outcomes WHERE session = ? AND first >= ? AND first < ?",
            (session, first, end),
        ).fetchall()
        for number, at, count, state in found:
            if state in MAY_REVIVE:
                self.connection.execute("DELETE FROM outcomes WHERE id = ?", (number,))
                self._reopen(session, at, count, state)
                self.connection.execute(
                    "DELETE FROM marks WHERE session = ? AND number >= ? AND number < ?", (session, at, at + count)
                )

    def _forget(self, session: int, age: float, at: float) -> None:
        connection = self.connection
        connection.execute("DELETE FROM slices WHERE session = ? AND NOT sent AND open = count", (session,))
        connection.execute(_FORGET, (session,))
        left = connection.execute(
            "SELECT first, count FROM slices WHERE session = ? AND NOT sent AND open > 0", (session,)
        ).fetchall()
        for first, count in left:
            ended = connection.execute(
                "SELECT first, count FROM outcomes WHERE session = ? AND first >= ? AND first < ? ORDER BY first",
                (session, first, first + count),
            )
            gone = open_ranges(first, count, ended.fetchall())
            number, self._next = self._next, self._next + len(gone)
            self._outcomes.run(
                connection,
                [
                    (number + n, session, first, count, 0, 1, first, count, age, at, 0, 0, 0, None, None)
                    for n, (first, count) in enumerate(gone)
                ],
            )
        connection.execute("DELETE FROM sessions WHERE session = ?", (session,))

    # --- limits ---

    def drop_oldest(self, before: float, keep_bytes: int) -> list[Range]:
        """Drop the oldest outcomes, at most MOST_ROWS of them, that are older than `before` or exceed `keep_bytes`."""
        connection = self.connection
        (total,) = connection.execute(
            "SELECT outcomes + (SELECT COALESCE(sum(size), 0) FROM slices WHERE open = 0 AND failed > 0) FROM sums"
        ).fetchone()
        found = connection.execute(
            f"SELECT id, session, first, count, age, size FROM outcomes WHERE state > 0 ORDER BY id LIMIT {MOST_ROWS}"
        ).fetchall()
        dropped, last = [], 0
        for number, session, first, count, age, size in found:
            if age >= before and total <= keep_bytes:
                break
            total -= size
            last = number
            dropped.append(Range(unsigned(session), first, count))
        if dropped:
            connection.execute(f"UPDATE outcomes SET {GONE.format('1')} WHERE state > 0 AND id <= ?", (last,))
        return dropped

    def drop_unneeded(self, before: float, age: float) -> None:
        """Drop tasks and sessions that nothing refers to any more; note how old the journal is."""
        for statement, values in (
            ("DELETE FROM tasks WHERE key IN temp.unneeded AND key NOT IN (SELECT key FROM slices)", ()),
            ("DELETE FROM temp.unneeded WHERE key NOT IN (SELECT key FROM tasks)", ()),
            (
                "DELETE FROM sessions WHERE age < ? AND NOT EXISTS "
                "(SELECT 1 FROM slices WHERE slices.session = sessions.session)",
                (before,),
            ),
        ):
            self.connection.execute(statement, values)
        note_age(self.connection, age)

    def shrink(self, spare: int, pages: int) -> bool:
        """Give unused pages beyond the spare ones back to the file system; tell whether there are more."""
        unused: int = self.connection.execute("PRAGMA freelist_count").fetchone()[0]
        if unused > spare:
            self.connection.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
        return unused > spare + pages


def _replace(*columns: str) -> str:
    return ", ".join(f"{column} = excluded.{column}" for column in columns)


def _is_alone(operation: AnyOperation) -> bool:
    return type(operation) in (Revived, Forgot)


def _begun_row(one: Begun) -> Row:
    session = signed(one.session)
    return (session, one.first, begun_code(session, one.first) * one.begun, 0, 0, b"", seal((session, one.first, 0, 0)))


def _charged_row(one: Charged) -> Row:
    numbers = (signed(one.session), one.first, one.failures, one.crashes)
    return (*numbers[:2], 0, *numbers[2:], one.history, seal(numbers, one.history))


def _frames(one: Accepted | Ended) -> int:
    """Return how many frames it has in the table of frames: none if its payload fits into the row."""
    if one.buffers or content_size(one.payload, ()) > INLINE_BYTES:
        return 1 + len(one.buffers)
    return 0
