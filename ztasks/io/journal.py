"""The journal of a head: what it has said to be durable is there after a kill, or a power failure.

    journal = SqliteJournal("state.db", on_durable=..., on_failed=..., on_dropped=..., wall=time.time)
    recovered = journal.load()
    journal.start()
    number = journal.append(Accepted(...))      # never waits; on_durable(n) with n >= number says that it is written
    journal.close(10.0)

What it must hold: operations are written in the order of `append`; `on_durable` is only told numbers whose transaction
has been committed (with sync="full": is on the disk); when writing fails, nothing of it is lost from the queue, and it
is tried again until it succeeds. Callbacks are called in the journal's thread.

Ages, for the limits, are seconds during which the journal was open, told by the monotonic clock: neither a clock that
jumps nor a head that was down for a month makes an outcome old. The wall clock is only shown.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final, NamedTuple, Protocol

from ztasks.errors import JournalError
from ztasks.io.journal_load import Reader, load
from ztasks.io.journal_ops import Accepted, AnyOperation, JobLine, Outcome, Range, Recovered, State
from ztasks.io.journal_place import Place
from ztasks.io.journal_schema import UNUSABLE, Sync, note_age, open_database, unusable
from ztasks.io.journal_store import Store
from ztasks.units import reason

MOST_OPERATIONS: Final = 8192
MOST_BYTES: Final = 32 * 2**20
"""So much, at most, is written in one transaction."""

RETRY_SECONDS: Final = 0.25
LOOK_SECONDS: Final = 1.0
"""How often the space on the disk is looked at while new work is refused."""

SWEEP_SECONDS: Final = 60.0
"""How often the limits are applied."""

SPARE_PAGES: Final = 4096
VACUUM_PAGES: Final = 512
"""Unused pages beyond the spare ones are given back to the file system, so many in a step."""

KEEP_SECONDS: Final = 7 * 86400.0
KEEP_BYTES: Final = 2**30
MIN_FREE: Final = 64 * 2**20
MAX_QUEUED_BYTES: Final = 256 * 2**20


class Journal(Protocol):
    """What a head needs of a journal, whatever keeps it."""

    @property
    def refusing(self) -> str | None:
        """Why new work should be refused, or None. What is under way goes on, and is appended."""

    def load(self) -> Recovered:
        """Return what it holds, once, before `start`; raises JournalError."""

    def start(self) -> None:
        """Begin to write."""

    def append(self, operation: AnyOperation) -> int:
        """Have an operation written, and return its number; never waits. Raises JournalError when it is closed."""

    def outcome(self, session: int, number: int) -> Outcome | None:
        """Return the durable outcome of an item; None if there is none. Raises JournalError."""

    def work(self, session: int, number: int) -> Accepted | None:
        """Return the durable slice of an item while it may still be run, or run again. Raises JournalError."""

    def jobs(self, state: State | None, limit: int) -> list[JobLine]:
        """Return the latest jobs in a state, or in any. Raises JournalError."""

    def close(self, seconds: float) -> bool:
        """Write what waits, and close; give up after so many seconds. Tell whether all is durable."""


class SqliteJournal(Journal):
    """A journal in one SQLite file on a local disk, written by one thread, many operations in a transaction."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        on_durable: Callable[[int], object],
        on_failed: Callable[[Exception], object],
        on_dropped: Callable[[list[Range]], object],
        wall: Callable[[], float],
        sync: Sync = "full",
        keep_seconds: float = KEEP_SECONDS,
        keep_bytes: int = KEEP_BYTES,
        min_free: int = MIN_FREE,
        max_queued_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        """Open it, made if it is not there; raises JournalError.

        `on_failed` is called once when writing begins to fail; `on_dropped` with outcomes that exceeded a limit; `wall`
        tells the time of day. Outcomes that nobody fetches, and what has failed, are kept for `keep_seconds` and up to
        `keep_bytes`. With fewer bytes than `min_free` on its disk, or more than `max_queued_bytes` that wait to be
        written, it says that new work should be refused.
        """
        self._on_durable, self._on_failed, self._on_dropped, self._wall = on_durable, on_failed, on_dropped, wall
        self._keep_seconds, self._keep_bytes = keep_seconds, keep_bytes
        self._min_free, self._max_queued_bytes = min_free, max_queued_bytes
        self._place = Place(path)
        self.path = self._place.path
        self._open(sync)
        self._reader = Reader(self.path)
        self._opened = self._next_sweep = monotonic()
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition(threading.Lock())
        self._queue: deque[tuple[AnyOperation, int]] = deque()
        self._taken: deque[tuple[AnyOperation, int]] = deque()
        """What the journal's thread has taken from the queue."""
        self._queued_bytes = self._appended = self._durable = 0
        self._asleep = False
        self._give_up: float | None = None
        """When closing gives up; None: it is not being closed."""
        self._failing: str | None = None
        """Why new work is refused: writing fails."""
        self._short: str | None = None
        """Why new work is refused: the disk is nearly full."""
        self._look_at_space()

    def _open(self, sync: Sync) -> None:
        try:
            self._connection, self._dropped = open_database(self.path, sync)
        except BaseException:
            self._place.close()
            raise
        try:
            self._store = Store(self._connection)
            self._age: float = self._connection.execute("SELECT age FROM sums").fetchone()[0]
        except UNUSABLE as error:
            self._connection.close()
            self._place.close()
            raise unusable(self.path, error) from error

    # --- any thread ---

    @property
    def refusing(self) -> str | None:
        """Why new work should be refused, or None. What is under way goes on, and is appended."""
        if self._failing or self._short:
            return self._failing or self._short
        if self._queued_bytes > self._max_queued_bytes:
            return (
                f"{self._queued_bytes} bytes wait to be written to the journal {self.path}, more than "
                f"{self._max_queued_bytes}: its disk does not keep up. Send less, or give it a faster disk."
            )
        return None

    def append(self, operation: AnyOperation) -> int:
        """Have an operation written, and return its number; never waits. Raises JournalError when it is closed."""
        held = operation.held()
        with self._changed:
            if self._give_up is not None:
                raise JournalError(f"the journal {self.path} is closed: nothing more can be written to it.")
            self._queue.append((operation, held))
            self._queued_bytes += held
            self._appended += 1
            if self._asleep:
                self._changed.notify()
            return self._appended

    def free_bytes(self) -> int:
        """Return how many bytes are free where it lies. Raises OSError."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def load(self) -> Recovered:
        """Return what it holds, once, before `start`; raises JournalError."""
        try:
            return load(self._connection, self.path, self._dropped)
        except UNUSABLE as error:
            raise unusable(self.path, error) from error

    def outcome(self, session: int, number: int) -> Outcome | None:
        """Return the durable outcome of an item; None if there is none. Raises JournalError."""
        return self._reader.outcome(session, number)

    def work(self, session: int, number: int) -> Accepted | None:
        """Return the durable slice of an item while it may still be run, or run again. Raises JournalError."""
        return self._reader.work(session, number)

    def jobs(self, state: State | None, limit: int) -> list[JobLine]:
        """Return the latest jobs in a state, or in any. Raises JournalError."""
        return self._reader.jobs(state, limit)

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._run, name="ztasks-journal", daemon=True)
        self._thread.start()

    def close(self, seconds: float) -> bool:
        """Write what waits, and close; give up after so many seconds. Tell whether all is durable."""
        with self._changed:
            if self._give_up is None:
                self._give_up = monotonic() + seconds
            self._changed.notify()
        if self._thread is None:
            self.start()
        assert self._thread is not None
        self._thread.join(seconds)
        return not self._thread.is_alive() and self._durable == self._appended

    # --- the journal's thread ---

    def _run(self) -> None:
        try:
            while True:
                batch = self._take()
                if batch.operations and not self._write(batch):
                    break
                if self._give_up is None:
                    self._sweep_if_due()
                elif batch.last or monotonic() >= self._give_up:
                    break
        except Exception as error:
            self._failing = (
                f"a defect in ztasks has stopped the journal {self.path}: {reason(error)}. Please report it."
            )
            with contextlib.suppress(Exception):
                self._on_failed(error)
            raise
        finally:
            self._finish()

    def _take(self) -> _Batch:
        """Wait until there is something to do; return what is to be written."""
        if not self._taken:
            with self._changed:
                if not self._queue and self._give_up is None:
                    self._asleep = True
                    due = self._next_sweep - monotonic()
                    self._changed.wait(max(0.0, min(due, LOOK_SECONDS) if self._short else due))
                    self._asleep = False
                self._taken, self._queue = self._queue, self._taken
        operations: list[AnyOperation] = []
        held = 0
        while self._taken and len(operations) < MOST_OPERATIONS and held < MOST_BYTES:
            operation, size = self._taken.popleft()
            operations.append(operation)
            held += size
        if not operations:
            self._look_at_space()
        return _Batch(operations, held, self._give_up is not None and not self._taken and not self._queue)

    def _write(self, batch: _Batch) -> bool:
        """Write a batch, however often it must be tried; False if closing has given up."""
        at = self._wall()
        while True:
            try:
                with self._store.transaction():
                    self._store.write(batch.operations, self._now(), at)
                break
            except Exception as error:  # noqa: BLE001 - whatever it is, nothing of it may count as durable
                if not self._goes_on(error):
                    return False
        self._failing = None
        self._durable += len(batch.operations)
        with self._changed:
            self._queued_bytes -= batch.held
        self._look_at_space()
        self._on_durable(self._durable)
        return True

    def _goes_on(self, error: Exception) -> bool:
        """Say that writing fails, and wait a little; False if there is no more time."""
        first = self._failing is None
        self._failing = (
            f"the journal {self.path} cannot be written: {reason(error)}. No job is lost; new ones are refused until "
            "it can be written again. See that its disk has space and is in order."
        )
        if first:
            self._on_failed(error)
        end = monotonic() + RETRY_SECONDS
        with self._changed:
            while True:
                now = monotonic()
                if self._give_up is not None and now >= self._give_up:
                    return False
                if now >= end:
                    return True
                self._changed.wait(min(end, self._give_up or end) - now)

    def _look_at_space(self) -> None:
        try:
            free = self.free_bytes()
        except OSError as error:
            self._short = f"the disk of the journal {self.path} cannot be looked at: {reason(error)}."
            return
        self._short = (
            f"the disk of the journal {self.path} has {free} bytes left, less than the {self._min_free} that are "
            "needed for the outcomes of jobs that were accepted. Free some space there."
            if free < self._min_free
            else None
        )

    def _now(self) -> float:
        """Return for how many seconds this journal has been open, in all its life."""
        return self._age + monotonic() - self._opened

    def _sweep_if_due(self) -> None:
        """Apply the limits, a small step at a time: what waits to be written comes in between."""
        if monotonic() < self._next_sweep:
            return
        now = self._now()
        before = now - self._keep_seconds
        dropped: list[Range] = []
        more = False
        with contextlib.suppress(sqlite3.Error):  # a full disk, say: the next writing tells
            with self._store.transaction():
                found = self._store.drop_oldest(before, self._keep_bytes)
                if not found:
                    self._store.drop_unneeded(before, now)
            dropped = found
            more = bool(dropped) or self._store.shrink(SPARE_PAGES, VACUUM_PAGES)
        self._next_sweep = 0.0 if more else monotonic() + SWEEP_SECONDS
        if dropped:
            self._on_dropped(dropped)

    def _finish(self) -> None:
        """Close everything; the last connection takes the log away."""
        self._reader.close()
        with contextlib.suppress(sqlite3.Error):
            with self._store.transaction():
                note_age(self._connection, self._now())
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        self._place.close()


class _Batch(NamedTuple):
    """What is written in one transaction."""

    operations: list[AnyOperation]
    held: int
    last: bool
    """Nothing comes after it."""
