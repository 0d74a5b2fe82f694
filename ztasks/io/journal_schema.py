"""The tables of a journal, their versions, and how its file is opened.

    slices     a row for each accepted slice, until nothing of it is needed any more
    outcomes   a row for each Ended, until it is fetched; then a row without content (`gone`) until the slice goes.
               Those that stay are marked: `fetched` is then their seal, made odd, and else 0
    frames     what is too large for a row: payloads and buffers, in parts
    marks      items that have begun or were charged
    tasks, sessions, notes, sums

What it must hold, by triggers, so that a row and the counts on it are always written together:

    slices.open   items without an outcome
    slices.kept   items of which something is needed: open, or with an outcome that is not gone
    sums          bytes of all outcomes

A slice whose `kept` is 0 is removed with all that belongs to it. The content of a slice is dropped when no item is open
and none of it may be revived. `seal` is a checksum of what never changes: SQLite itself has none.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Sequence
from typing import Final, Literal
from zlib import crc32

from ztasks.errors import JournalError
from ztasks.io.journal_ops import Buffer, Ending
from ztasks.io.journal_place import Log, keep_copy, look_at_log
from ztasks.units import reason

Sync = Literal["full", "normal"]

APPLICATION_ID: Final = 0x7A74736B
"""Marks a SQLite file as a journal of ztasks ("ztsk")."""

VERSION: Final = 1
"""The version of the tables. Whoever changes them adds to MIGRATIONS what makes the new of the old."""

MIGRATIONS: Final[dict[int, Sequence[str]]] = {}
"""By version: the statements that lead to the next one."""

OLDEST_SQLITE: Final = (3, 32, 0)

PAGE_BYTES: Final = 4096
CHECKPOINT_PAGES: Final = 4000
CACHE_KIB: Final = 16 * 1024

CODES: Final[dict[Ending, int]] = {"done": 1, "failed": 2, "cancelled": 3, "expired": 4}
"""Outcomes in the file; 0 is one that is gone. Even ones stay when they are fetched, and may be revived."""

MAY_REVIVE: Final = frozenset((CODES["failed"], CODES["expired"]))

ENDINGS: Final[dict[int, Ending]] = {code: state for state, code in CODES.items()}

_MISREAD: Final = (TypeError, ValueError, LookupError, OverflowError, AttributeError)
"""What comes of values whose types are not those that were written."""

UNUSABLE: Final = (OSError, sqlite3.Error, *_MISREAD)
"""What reading a file that is damaged may raise."""

_SLICE: Final = """(SELECT id FROM slices WHERE session = NEW.session AND first <= NEW.first
    ORDER BY first DESC LIMIT 1)"""
"""The slice of an outcome's first item."""

TABLES: Final = (
    "CREATE TABLE tasks (key BLOB PRIMARY KEY, spec BLOB NOT NULL, callable BLOB NOT NULL, seal INTEGER NOT NULL)",
    """CREATE TABLE slices (id INTEGER PRIMARY KEY, session INTEGER NOT NULL, first INTEGER NOT NULL,
    count INTEGER NOT NULL, open INTEGER NOT NULL, kept INTEGER NOT NULL, failed INTEGER NOT NULL,
    sent INTEGER NOT NULL, at REAL NOT NULL, size INTEGER NOT NULL, frames INTEGER NOT NULL, seal INTEGER NOT NULL,
    key BLOB NOT NULL, header BLOB, payload BLOB)""",
    "CREATE INDEX slices_by_number ON slices (session, first, count)",
    "CREATE INDEX slices_to_revive ON slices (size) WHERE open = 0 AND failed > 0",
    """CREATE TABLE outcomes (id INTEGER PRIMARY KEY, session INTEGER NOT NULL, first INTEGER NOT NULL,
    count INTEGER NOT NULL, state INTEGER NOT NULL, fetched INTEGER NOT NULL, whole_first INTEGER NOT NULL,
    whole_count INTEGER NOT NULL, age REAL NOT NULL, at REAL NOT NULL, size INTEGER NOT NULL, frames INTEGER NOT NULL,
    seal INTEGER NOT NULL, header BLOB, payload BLOB)""",
    "CREATE INDEX outcomes_by_number ON outcomes (session, first, count)",
    "CREATE INDEX outcomes_by_state ON outcomes (state) WHERE state >= 2",
    """CREATE TABLE frames (owner INTEGER NOT NULL, frame INTEGER NOT NULL, part INTEGER NOT NULL,
    data BLOB NOT NULL)""",
    "CREATE INDEX frames_by_owner ON frames (owner, frame, part)",
    """CREATE TABLE marks (session INTEGER, number INTEGER, begun INTEGER NOT NULL, failures INTEGER NOT NULL,
    crashes INTEGER NOT NULL, history BLOB NOT NULL, seal INTEGER NOT NULL, PRIMARY KEY (session, number))
    WITHOUT ROWID""",
    """CREATE TABLE sessions (session INTEGER PRIMARY KEY, highest INTEGER NOT NULL, age REAL NOT NULL,
    seal INTEGER NOT NULL)""",
    "CREATE TABLE notes (name TEXT PRIMARY KEY, value BLOB NOT NULL, seal INTEGER NOT NULL)",
    "CREATE TABLE sums (outcomes INTEGER NOT NULL, age REAL NOT NULL, seal INTEGER NOT NULL, tables INTEGER NOT NULL)",
    "INSERT INTO sums VALUES (0, 0.0, 0, 0)",
)

TRIGGERS: Final = (
    """CREATE TRIGGER slices_overlap BEFORE INSERT ON slices
    WHEN (SELECT first + count FROM slices WHERE session = NEW.session AND first < NEW.first + NEW.count
        ORDER BY first DESC LIMIT 1) > NEW.first
    BEGIN SELECT RAISE(IGNORE); END""",
    """CREATE TRIGGER slices_settled AFTER UPDATE OF kept ON slices WHEN NEW.kept <= 0
    BEGIN DELETE FROM slices WHERE id = NEW.id; END""",
    """CREATE TRIGGER slices_ended AFTER UPDATE OF open ON slices WHEN NEW.frames > 0 AND NEW.header IS NULL
    BEGIN DELETE FROM frames WHERE owner = NEW.id; END""",
    """CREATE TRIGGER slices_removed AFTER DELETE ON slices
    BEGIN
        DELETE FROM outcomes WHERE session = OLD.session AND first >= OLD.first AND first < OLD.first + OLD.count;
        DELETE FROM marks WHERE session = OLD.session AND number >= OLD.first AND number < OLD.first + OLD.count;
        DELETE FROM frames WHERE OLD.frames > 0 AND owner = OLD.id;
    END""",
    """CREATE TRIGGER outcomes_overlap BEFORE INSERT ON outcomes
    WHEN COALESCE((SELECT first + count FROM slices WHERE session = NEW.session AND first <= NEW.first
            ORDER BY first DESC LIMIT 1), 0) < NEW.first + NEW.count
        OR (SELECT first + count FROM outcomes WHERE session = NEW.session AND first < NEW.first + NEW.count
            ORDER BY first DESC LIMIT 1) > NEW.first
    BEGIN SELECT RAISE(IGNORE); END""",
    """CREATE TRIGGER marks_of_nothing BEFORE INSERT ON marks
    WHEN COALESCE((SELECT first + count FROM slices WHERE session = NEW.session AND first <= NEW.number
        ORDER BY first DESC LIMIT 1), 0) <= NEW.number
    BEGIN SELECT RAISE(IGNORE); END""",
    """CREATE TRIGGER frames_of_nothing BEFORE INSERT ON frames
    WHEN NOT EXISTS (SELECT 1 FROM slices WHERE id = NEW.owner)
        AND NOT EXISTS (SELECT 1 FROM outcomes WHERE id = NEW.owner)
    BEGIN SELECT RAISE(IGNORE); END""",
    f"""CREATE TRIGGER outcomes_added AFTER INSERT ON outcomes
    BEGIN
        UPDATE slices SET open = open - NEW.count, kept = kept - NEW.count * (NEW.state = 0),
            failed = failed + NEW.count * (NEW.state IN (2, 4)),
            header = CASE WHEN open > NEW.count OR failed > 0 OR NEW.state IN (2, 4) THEN header END,
            payload = CASE WHEN open > NEW.count OR failed > 0 OR NEW.state IN (2, 4) THEN payload END
        WHERE id = {_SLICE};
        UPDATE sums SET outcomes = outcomes + NEW.size;
    END""",
    f"""CREATE TRIGGER outcomes_gone AFTER UPDATE OF state ON outcomes WHEN NEW.state = 0 AND OLD.state > 0
    BEGIN
        UPDATE sums SET outcomes = outcomes - OLD.size;
        DELETE FROM frames WHERE OLD.frames > 0 AND owner = OLD.id;
        UPDATE slices SET kept = kept - NEW.count WHERE id = {_SLICE};
    END""",
    """CREATE TRIGGER outcomes_removed AFTER DELETE ON outcomes
    BEGIN
        UPDATE sums SET outcomes = outcomes - OLD.size WHERE OLD.size > 0;
        DELETE FROM frames WHERE OLD.frames > 0 AND owner = OLD.id;
    END""",
)


def open_database(path: str, sync: Sync) -> tuple[sqlite3.Connection, str]:
    """Open a journal's file, made if it is empty, and its write-ahead log; return what had to be dropped of that.

    Raises JournalError. What cannot be used is left as it was.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise JournalError(f"SQLite {sqlite3.sqlite_version} is too old for a journal: it needs 3.32 or newer.")
    try:
        log = look_at_log(path + "-wal")
        connection = connect(path)
    except UNUSABLE as error:
        raise unusable(path, error) from error
    try:
        version = _version(connection, path)
        _set_up(connection, sync, version)
        dropped = _see_log(path, log)
        _bring_up(connection, version)
        _check(connection, path)
    except BaseException as error:
        connection.close()
        if isinstance(error, UNUSABLE):
            raise unusable(path, error) from error
        raise
    return connection, dropped


def connect(path: str) -> sqlite3.Connection:
    """Open a connection that any thread may use, one at a time."""
    connection = sqlite3.connect(
        path, timeout=1.0, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def _version(connection: sqlite3.Connection, path: str) -> int:
    """Return the version of the tables, 0 if there are none yet; raises JournalError for what is no such journal."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not (application or version or tables):
        return 0
    if application != APPLICATION_ID:
        raise JournalError(f"{path} is a database, but no journal of ztasks. Nothing was changed. Give another path.")
    if version > VERSION:
        raise JournalError(
            f"the journal {path} has version {version}, and this ztasks knows versions up to {VERSION}. Nothing was "
            "changed. Start the head with the ztasks that wrote it, or a newer one."
        )
    missing = [old for old in range(version, VERSION) if old not in MIGRATIONS]
    if missing or version < 1:
        raise JournalError(
            f"the journal {path} has version {version}, which this ztasks cannot read. Nothing was changed. Let the "
            "ztasks that wrote it finish its jobs, and begin a new journal."
        )
    return int(version)


def _set_up(connection: sqlite3.Connection, sync: Sync, version: int) -> None:
    """Say how the file is to be written."""
    if not version:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    for name, value in (
        ("journal_mode", "WAL"),
        ("synchronous", sync.upper()),
        ("fullfsync", "ON"),  # macOS
        ("checkpoint_fullfsync", "ON"),
        ("secure_delete", "OFF"),
        ("recursive_triggers", "OFF"),
        ("wal_autocheckpoint", CHECKPOINT_PAGES),
        ("journal_size_limit", 64 * 2**20),
        ("cache_size", -CACHE_KIB),
    ):
        connection.execute(f"PRAGMA {name} = {value}")


def _bring_up(connection: sqlite3.Connection, version: int) -> None:
    """Make the tables, or make of those of an older version the present ones."""
    if not version:
        _change(connection, (*TABLES, *TRIGGERS), VERSION)
        note_age(connection, 0.0)
        connection.execute("PRAGMA wal_checkpoint").fetchall()  # a file without its log does not look like a new one
    for old in range(version, VERSION) if version else ():
        _change(connection, MIGRATIONS[old], old + 1)


def _change(connection: sqlite3.Connection, statements: Sequence[str], version: int) -> None:
    """Change the tables, wholly or not at all."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in statements:
            connection.execute(statement)
        connection.execute("UPDATE sums SET tables = ?", (_seal_tables(connection),))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _see_log(path: str, log: Log) -> str:
    """Return for people what of the log SQLite has not taken; raises OSError.

    A kill leaves an unfinished transaction, of which nothing was acknowledged. If a finished one is not taken, the
    log is damaged: a copy of it is kept, since SQLite will write over it.
    """
    if not log.size:
        return ""
    with open(path + "-shm", "rb") as index:  # https://sqlite.org/walformat.html: the frames that are valid
        index.seek(16)
        valid = int.from_bytes(index.read(4), sys.byteorder)
    size, commits = log.lost(valid)
    if not size:
        return ""
    if log.frame and not commits:
        return f"an unfinished transaction ({size} bytes), of which nothing was acknowledged, was dropped"
    copy = keep_copy(path + "-wal")
    lost = f"{commits} transactions at its end are" if log.frame else "its beginning is"
    return f"the log is damaged: {lost} unreadable, {size} bytes were dropped, and may have held jobs; see {copy}"


_COUNTS: Final = """SELECT count(*) FROM (
    SELECT s.count, s.open, s.kept, s.failed, COALESCE(sum(o.count), 0) AS ended,
        COALESCE(sum(o.count * (o.state = 0)), 0) AS gone, COALESCE(sum(o.count * (o.state IN (2, 4))), 0) AS may_revive
    FROM slices s LEFT JOIN outcomes o
        ON o.session = s.session AND o.first >= s.first AND o.first < s.first + s.count
    GROUP BY s.id)
    WHERE open <> count - ended OR kept <> count - gone OR failed < may_revive OR open < 0"""


_FETCHED: Final = """SELECT count(*) FROM outcomes
    WHERE state > 0 AND fetched <> 0 AND (fetched <> (seal | 1) OR state NOT IN (2, 4))"""


def _check(connection: sqlite3.Connection, path: str) -> None:
    """Look for damage; raises JournalError."""
    found = [line for (line,) in connection.execute("PRAGMA integrity_check(3)")]
    if found != ["ok"]:
        raise damaged(path, "; ".join(map(str, found)))
    if connection.execute("SELECT tables FROM sums").fetchall() != [(_seal_tables(connection),)]:
        raise damaged(path, "its tables are not those that were made")
    age, sealed = connection.execute("SELECT age, seal FROM sums").fetchone()
    if seal((age,)) != sealed:
        raise damaged(path, "its age is not what was written")
    for query, what in (
        (_COUNTS, "slices have counts that contradict their outcomes"),
        (_FETCHED, "outcomes are marked as nothing marks them"),
    ):
        (wrong,) = connection.execute(query).fetchone()
        if wrong:
            raise damaged(path, f"{wrong} {what}")


def note_age(connection: sqlite3.Connection, age: float) -> None:
    """Note for how many seconds a journal has been open, in all its life."""
    connection.execute("UPDATE sums SET age = ?, seal = ?", (age, seal((age,))))


def _seal_tables(connection: sqlite3.Connection) -> int:
    """Return a checksum of the definitions of all tables, indexes and triggers."""
    return seal(tuple(connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall()))


def damaged(path: str, what: str) -> JournalError:
    """Return the error for a file that SQLite cannot read."""
    return JournalError(
        f"the journal {path} is damaged ({what}). Nothing was changed or started. Put a copy back if there is one, or "
        "see what `sqlite3 FILE .recover` saves; or move it away with its -wal: the head then starts with an empty "
        "journal, and jobs that had not ended are lost."
    )


def unusable(path: str, error: Exception) -> JournalError:
    """Return the error for a file that cannot be opened, read or written."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if isinstance(error, _MISREAD) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged(path, reason(error))
    return JournalError(
        f"the journal {path} cannot be used: {reason(error)}. Nothing was started. See that the disk has space and the "
        "directory can be written to."
    )


def seal(
    numbers: tuple[object, ...], header: bytes = b"", payload: Buffer = b"", buffers: Sequence[Buffer] = ()
) -> int:
    """Return a checksum of a row's numbers and content."""
    found = crc32(payload, crc32(header, crc32(repr((numbers, len(header))).encode())))
    for buffer in buffers:
        found = crc32(buffer, found)
    return found


def begun_code(session: int, number: int) -> int:
    """Return what stands in `marks.begun` for an item that has begun; 0 stands for one that has not."""
    return seal(("begun", session, number)) | 1


def signed(session: int) -> int:
    """Return a session as SQLite holds it: its integers have a sign."""
    return session - (1 << 64) if session >> 63 else session


def unsigned(session: int) -> int:
    """Return a session as it was."""
    return session & 0xFFFF_FFFF_FFFF_FFFF
