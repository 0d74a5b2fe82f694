"""The journal of a head: what was appended is there again after it was closed, or is refused with the cure."""

from __future__ import annotations

import ast
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, cast

import journal_model
import pytest
import support
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ztasks.errors import JournalError
from ztasks.io import journal as journals
from ztasks.io import journal_place, journal_schema, journal_store
from ztasks.io.journal import SqliteJournal
from ztasks.io.journal_load import Reader, load
from ztasks.io.journal_ops import (
    Accepted,
    AnyOperation,
    Begun,
    Charged,
    Defined,
    Ended,
    Fetched,
    Forgot,
    Mark,
    Noted,
    Range,
    Recovered,
    Revived,
    Unneeded,
    Waiting,
    open_ranges,
)
from ztasks.io.journal_store import Store

MAX = 2**64 - 1
"""The largest session."""

TASK = Defined(b"key", b"spec", b"callable")


class Told:
    """What a journal has told its head."""

    def __init__(self) -> None:
        self.durable = 0
        self.failed: list[Exception] = []
        self.dropped: list[Range] = []
        self._changed = threading.Condition()

    def _note(self, change: Callable[[], object]) -> None:
        with self._changed:
            change()
            self._changed.notify_all()

    def on_durable(self, number: int) -> None:
        assert number > self.durable
        self._note(lambda: setattr(self, "durable", number))

    def on_failed(self, error: Exception) -> None:
        self._note(lambda: self.failed.append(error))

    def on_dropped(self, ranges: list[Range]) -> None:
        self._note(lambda: self.dropped.extend(ranges))

    def wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, support.DEADLINE), vars(self)


def opened(path: Path, told: Told | None = None, **options: Any) -> SqliteJournal:
    told = told or Told()
    calls: dict[str, Any] = {name: getattr(told, name) for name in ("on_durable", "on_failed", "on_dropped")}
    return SqliteJournal(path, **{"min_free": 0, "wall": lambda: 1234.5} | calls | options)


def write(path: Path, *operations: AnyOperation, **options: Any) -> None:
    """Append operations to a journal and close it."""
    journal = opened(path, **options)
    for operation in operations:
        journal.append(operation)
    assert journal.close(support.DEADLINE)


def read(path: Path) -> Recovered:
    journal = opened(path)
    try:
        return journal.load()
    finally:
        assert journal.close(support.DEADLINE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def one(session: int, number: int, **changes: Any) -> Accepted:
    given: dict[str, Any] = {"key": b"key", "header": b"header", "payload": b"payload"} | changes
    return Accepted(session, number, changes.pop("count", 1), **{k: v for k, v in given.items() if k != "count"})


# --- what was appended is there again ---


def test_an_empty_journal(path: Path) -> None:
    assert read(path)[:-1] == ([], [], [], {}, {}, [])
    assert "0 jobs" in read(path).told


def test_slices_and_what_is_known_of_them(path: Path) -> None:
    accepted = [one(MAX, 1, count=10, header=b"", payload=b""), one(7, 1, sent=True), one(MAX, 11)]
    write(
        path,
        *(TASK, *accepted, Noted("epoch", b"1"), Noted("epoch", b"2")),
        *(Ended(MAX, 3, 2, "done", b""), Ended(MAX, 8, 1, "failed", b"why")),
        *(Begun(MAX, 1), Begun(MAX, 2), Begun(MAX, 2, begun=False), Charged(MAX, 2, 1, 2, b"history")),
        *(Begun(MAX, 8), Begun(99, 1), Charged(99, 1, 1, 0, b"")),
    )
    recovered = read(path)
    assert recovered.definitions == [TASK]
    assert recovered.waiting == [
        Waiting(
            accepted[0],
            [Range(MAX, 1, 2), Range(MAX, 5, 3), Range(MAX, 9, 2)],
            {1: Mark(begun=True), 2: Mark(failures=1, crashes=2, history=b"history")},
        ),
        Waiting(accepted[1], [Range(7, 1, 1)], {}),
        Waiting(accepted[2], [Range(MAX, 11, 1)], {}),
    ]
    assert [(kept.first, kept.count, kept.state, kept.key) for kept in recovered.kept] == [
        (3, 2, "done", b"key"),
        (8, 1, "failed", b"key"),
    ]
    assert recovered.highest == {MAX: 11, 7: 1}
    assert recovered.notes == {"epoch": b"2"}
    assert recovered.damaged == []
    assert recovered.told == (
        "the journal holds 9 jobs that have not ended (1 may have begun); 3 outcomes that were not fetched"
    )


def test_numbers_are_told_when_they_are_written(path: Path) -> None:
    """Whoever is told looks, with a connection of its own."""
    seen: list[tuple[int, int]] = []

    def look(number: int) -> None:
        with sqlite3.connect(path) as connection:
            seen.append((number, connection.execute("SELECT count(*) FROM slices").fetchone()[0]))
        connection.close()
        told.on_durable(number)

    told = Told()
    journal = opened(path, told, on_durable=look)
    journal.load()
    journal.start()
    for number in range(1, 301):
        assert journal.append(one(1, number)) == number
    told.wait(lambda: told.durable == 300)
    assert seen
    assert all(number == rows for number, rows in seen)
    assert journal.close(support.DEADLINE)


def test_appending_from_many_threads(path: Path) -> None:
    told = Told()
    journal = opened(path, told)
    journal.start()
    numbers: list[list[int]] = [[] for _ in range(4)]

    def append(session: int) -> None:
        numbers[session].extend(journal.append(one(session, number)) for number in range(1, 201))

    threads = [threading.Thread(target=append, args=(session,)) for session in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(mine == sorted(mine) for mine in numbers)
    assert sorted(chain.from_iterable(numbers)) == list(range(1, 801))
    assert journal.close(support.DEADLINE)
    assert told.durable == 800
    assert read(path).highest == dict.fromkeys(range(4), 200)


@pytest.mark.parametrize("size", [0, 100, 64 * 1024, 64 * 1024 + 1, 300_000])
@pytest.mark.parametrize("buffers", [0, 3])
def test_payloads_of_all_sizes(path: Path, monkeypatch: pytest.MonkeyPatch, size: int, buffers: int) -> None:
    monkeypatch.setattr(journal_store, "PART_BYTES", 100_000)
    payload = os.urandom(size)
    content = tuple(bytearray(os.urandom(size + number)) for number in range(buffers))
    views = [memoryview(buffer) for buffer in content]
    write(
        path,
        *(TASK, one(1, 1, payload=memoryview(payload), buffers=views), one(1, 2, payload=payload, buffers=content)),
        Ended(1, 2, 1, "done", b"header", memoryview(payload), views),
    )
    journal = opened(path)
    (waiting,) = journal.load().waiting
    assert (waiting.accepted.payload, waiting.accepted.buffers) == (payload, content)
    assert journal.work(1, 1) == waiting.accepted
    assert journal.work(1, 2) is None
    outcome = journal.outcome(1, 2)
    assert outcome is not None
    assert (outcome.header, outcome.payload, outcome.buffers) == (b"header", payload, content)
    for operation in (Fetched(1, 2, 1), Ended(1, 1, 1, "cancelled", b""), Fetched(1, 1, 1)):
        journal.append(operation)
    assert journal.close(support.DEADLINE)
    with sqlite3.connect(path) as connection:
        assert all(
            connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
            for table in ("slices", "outcomes", "frames", "marks")
        )
    connection.close()


def test_outcomes(path: Path) -> None:
    write(
        path,
        *(TASK, one(1, 1, count=10), one(1, 11)),
        *(Ended(1, 1, 6, "done", b"done", b"results"), Ended(1, 7, 1, "failed", b"why", b"x")),
        *(Fetched(1, 3, 2), Fetched(1, 7, 1)),
    )
    journal = opened(path)
    assert [(kept.first, kept.count, kept.state) for kept in journal.load().kept] == [(1, 2, "done"), (5, 2, "done")]
    for number in (1, 2, 5, 6):
        outcome = journal.outcome(1, number)
        assert outcome is not None
        assert (outcome.first, outcome.count) == ((1, 2) if number < 3 else (5, 2))
        assert (outcome.whole_first, outcome.whole_count, outcome.header, outcome.payload) == (
            1,
            6,
            b"done",
            b"results",
        )
        assert (outcome.fetched, outcome.ended_at) == (False, 1234.5)
    failed = journal.outcome(1, 7)
    assert failed is not None
    assert (failed.state, failed.fetched, failed.header) == ("failed", True, b"why")
    assert [journal.outcome(1, number) for number in (0, 3, 4, 8, 10, 11, 12)] == [None] * 7
    assert journal.outcome(2, 1) is None
    assert journal.close(support.DEADLINE)


def test_the_list_of_jobs(path: Path) -> None:
    write(
        path,
        *(TASK, one(1, 1, count=4), one(1, 5), one(2, 1, key=b"unknown", sent=True)),
        *(Ended(1, 2, 1, "failed", b""), Ended(1, 3, 1, "expired", b""), Ended(1, 5, 1, "done", b"")),
    )
    journal = opened(path)
    shown = [(line.session, line.first, line.count, line.state, line.spec, line.sent) for line in journal.jobs(None, 9)]
    assert shown == [
        (2, 1, 1, "waiting", b"", True),
        (1, 5, 1, "done", b"spec", False),
        (1, 1, 1, "waiting", b"spec", False),
        (1, 2, 1, "failed", b"spec", False),
        (1, 3, 1, "expired", b"spec", False),
        (1, 4, 1, "waiting", b"spec", False),
    ]
    assert [line.first for line in journal.jobs(None, 2)] == [1, 5]
    assert [(line.session, line.first) for line in journal.jobs("waiting", 9)] == [(2, 1), (1, 1), (1, 4)]
    (failed,) = journal.jobs("failed", 9)
    assert (failed.first, failed.accepted_at, failed.ended_at) == (2, 1234.5, 1234.5)
    assert journal.jobs("cancelled", 9) == []
    assert journal.jobs("waiting", 1)[0].ended_at is None
    assert journal.close(support.DEADLINE)


def test_what_has_failed_can_be_revived(path: Path) -> None:
    write(
        path,
        *(TASK, one(1, 1, count=4, payload=b"arguments"), Charged(1, 3, 2, 0, b"")),
        *(Ended(1, 1, 1, "done", b""), Ended(1, 2, 2, "failed", b""), Ended(1, 4, 1, "done", b""), Fetched(1, 1, 4)),
    )
    journal = opened(path)
    assert journal.load().waiting == []
    accepted = journal.work(1, 3)
    assert accepted is not None
    assert accepted.payload == b"arguments"
    journal.append(Revived(1, 3, 2))
    assert journal.close(support.DEADLINE)
    recovered = read(path)
    assert recovered.waiting == [Waiting(accepted, [Range(1, 3, 1)], {})]
    write(path, Ended(1, 3, 1, "done", b"at last"))
    assert [(kept.first, kept.state) for kept in read(path).kept] == [(3, "done")]


def test_a_session_that_ends(path: Path) -> None:
    """What was sent stays, and what has failed; nothing of another session is touched."""
    write(
        path,
        *(TASK, one(1, 1), one(1, 2), one(1, 3, sent=True), one(1, 4, count=3), one(1, 7), one(2, 1)),
        *(Ended(1, 2, 1, "done", b""), Ended(1, 5, 1, "failed", b"why"), Ended(1, 7, 1, "done", b""), Forgot(1)),
    )
    journal = opened(path)
    recovered = journal.load()
    assert [waiting.ranges for waiting in recovered.waiting] == [[Range(1, 3, 1)], [Range(2, 1, 1)]]
    assert recovered.kept == []
    assert recovered.highest == {2: 1}
    assert [(line.session, line.first) for line in journal.jobs("failed", 9)] == [(1, 5)]
    assert [journal.outcome(1, number) for number in (1, 2, 4, 6, 7)] == [None] * 5
    assert journal.close(support.DEADLINE)


def test_tasks_that_nothing_needs_are_dropped(path: Path) -> None:
    definitions = [Defined(b"%d" % number, b"", b"") for number in range(3)]
    write(path, *definitions, one(1, 1, key=b"1"))
    assert read(path).definitions == [definitions[1]]

    journal = opened(path)
    journal.start()
    for operation in (*definitions, *map(Unneeded, (b"0", b"1", b"2")), definitions[2]):
        journal.append(operation)
    support.wait_for(lambda: not journal._queue, "an empty queue")
    journal._next_sweep = 0.0
    journal.append(Noted("wakes", b""))
    with sqlite3.connect(path) as connection:
        query = "SELECT key FROM tasks ORDER BY key"
        support.wait_for(lambda: connection.execute(query).fetchall() == [(b"1",), (b"2",)], "the sweep")
    connection.close()
    assert journal.close(support.DEADLINE)


# --- operations in any order, in any groups, are as if carried out one by one ---

SESSIONS = st.sampled_from([1, MAX])
NUMBERS = st.integers(1, 12)
COUNTS = st.integers(1, 5)
SMALL = st.binary(max_size=2)
OPERATIONS = st.one_of(
    *[st.builds(Accepted, SESSIONS, NUMBERS, COUNTS, st.just(b"key"), SMALL, SMALL, sent=st.booleans())] * 3,
    *[st.builds(Ended, SESSIONS, NUMBERS, st.integers(1, 3), st.sampled_from(list(journal_schema.CODES)), SMALL)] * 3,
    *[st.builds(Fetched, SESSIONS, NUMBERS, COUNTS, st.booleans())] * 2,
    st.builds(Begun, SESSIONS, NUMBERS, st.booleans()),
    st.builds(Charged, SESSIONS, NUMBERS, st.integers(0, 3), st.integers(0, 3), SMALL),
    st.builds(Revived, SESSIONS, NUMBERS, COUNTS),
    st.builds(Forgot, SESSIONS),
)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, where there is one: many journals are made in it."""
    folder = Path("/dev/shm") / f"ztasks-test-{os.getpid()}" if os.access("/dev/shm", os.W_OK) else tmp_path / "memory"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(operations=st.lists(OPERATIONS, max_size=30), cuts=st.lists(st.integers(0, 30), max_size=4))
def test_any_operations(memory: Path, operations: list[AnyOperation], cuts: list[int]) -> None:
    file = str(memory / "any.db")
    for left in memory.glob("any.db*"):
        left.unlink()
    model = journal_model.Model()
    connection, _ = journal_schema.open_database(file, "normal")
    store = Store(connection)
    operations = [operation for operation in operations if model.is_in_order(operation)]
    bounds = [0, *sorted(cuts), len(operations)]
    batches = [operations[begin:end] for begin, end in pairwise(bounds)]
    for batch in ([TASK], *batches):
        with store.transaction():
            store.write(batch, 0.0, 0.0)
    journal_schema._check(connection, file)
    recovered = load(connection, file, "")
    assert recovered.waiting == model.waiting()
    assert recovered.highest == model.highest
    reader = Reader(file)
    found = {key: journal_model.seen(outcome) for key in model.numbers() if (outcome := reader.outcome(*key))}
    assert found == model.outcomes()
    assert {key: reader.work(*key) for key in model.numbers()} == {key: model.work(*key) for key in model.numbers()}
    reader.close()
    connection.close()


def test_open_ranges() -> None:
    assert open_ranges(5, 3, []) == [(5, 3)]
    assert open_ranges(5, 3, [(5, 3)]) == []
    assert open_ranges(5, 6, [(5, 1), (7, 2)]) == [(6, 1), (9, 2)]


class Calls:
    """Counts what is executed."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.count = 0
        self.in_transaction = False

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        self.count += 1
        return self.connection.execute(*arguments)


def test_few_calls_for_many_operations(path: Path) -> None:
    """Each gives the interpreter's lock away, and a busy thread gives it back 5 ms later."""
    connection, _ = journal_schema.open_database(str(path), "normal")
    store = Store(connection)
    calls = Calls(connection)
    store.connection = cast(sqlite3.Connection, calls)
    operations: list[AnyOperation] = [TASK]
    for number in range(1, 3001):
        operations += [one(1, number), Charged(1, number, 1, 0, b""), Ended(1, number, 1, "done", b"")]
        operations.append(Fetched(1, number, 1))
    with store.transaction():
        store.write(operations, 0.0, 0.0)
    assert calls.count < 100
    assert connection.execute("SELECT count(*) FROM slices").fetchone() == (0,)
    connection.close()


# --- limits ---


def ended(number: int, state: Any, size: int) -> Sequence[AnyOperation]:
    return [one(1, number), Ended(1, number, 1, state, b"", bytes(size))]


def test_the_oldest_outcomes_are_dropped_beyond_a_size(path: Path) -> None:
    write(path, TASK, *ended(1, "failed", 5000), *ended(2, "done", 5000), *ended(3, "done", 5000), one(1, 4))
    told = Told()
    journal = opened(path, told, keep_bytes=8000)
    journal.start()
    told.wait(lambda: len(told.dropped) == 2)
    assert told.dropped == [Range(1, 1, 1), Range(1, 2, 1)]
    assert [journal.outcome(1, number) is None for number in (1, 2, 3)] == [True, True, False]
    assert journal.close(support.DEADLINE)
    recovered = read(path)
    assert ([kept.first for kept in recovered.kept], len(recovered.waiting)) == ([3], 1)


def test_old_outcomes_are_dropped(path: Path) -> None:
    """Many of them in several steps; slices that wait have no age."""
    write(path, TASK, *(operation for number in range(1, 1301) for operation in ended(number, "failed", 0)))
    write(path, one(2, 1))
    told = Told()
    journal = opened(path, told, keep_seconds=0.0)
    journal.start()
    told.wait(lambda: len(told.dropped) == 1300)
    support.wait_for(lambda: journal._next_sweep > journal._opened, "the end of the sweep")
    assert journal.close(support.DEADLINE)
    recovered = read(path)
    assert (recovered.kept, [waiting.ranges for waiting in recovered.waiting]) == ([], [[Range(2, 1, 1)]])
    assert recovered.highest == {2: 1}


def test_ages_are_told_by_the_time_that_it_is_open(path: Path) -> None:
    """A head that was down for a year, or a clock that jumps by one, drops nothing."""
    write(path, TASK, *ended(1, "done", 0), wall=lambda: 0.0)
    told = Told()
    journal = opened(path, told, wall=lambda: 4e9)
    first = journal._now()
    assert first < 60
    journal.start()
    journal.append(Noted("x", b""))
    assert journal.close(support.DEADLINE)
    assert told.dropped == []
    journal = opened(path)
    assert first < journal._now() < 60
    assert journal.close(support.DEADLINE)


def test_the_file_shrinks_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "SPARE_PAGES", 16)
    monkeypatch.setattr(journals, "VACUUM_PAGES", 100)
    write(path, TASK, *(one(1, number, payload=bytes(60_000)) for number in range(1, 31)))
    assert path.stat().st_size > 1_500_000
    write(path, Forgot(1))
    journal = opened(path)
    journal.start()
    support.wait_for(lambda: journal._next_sweep > journal._opened, "the sweep")
    assert journal.close(support.DEADLINE)
    assert path.stat().st_size < 600_000  # the spare pages, and less than a step of others


def test_a_disk_that_is_nearly_full_refuses_new_work(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "LOOK_SECONDS", 0.01)
    free = [100]
    monkeypatch.setattr(SqliteJournal, "free_bytes", lambda self: free[0])
    told = Told()
    journal = opened(path, told, min_free=101)
    assert journal.refusing is not None
    assert "has 100 bytes left" in journal.refusing
    assert str(path) in journal.refusing
    journal.start()
    free[0] = 101
    support.wait_for(lambda: journal.refusing is None, "space")
    free[0] = 5
    journal.append(TASK)  # it is looked at with each writing
    support.wait_for(lambda: journal.refusing is not None, "a refusal")
    assert journal.close(support.DEADLINE)
    assert (told.durable, told.failed) == (1, [])


def test_a_disk_that_does_not_keep_up_refuses_new_work(path: Path) -> None:
    journal = opened(path, max_queued_bytes=10_000)
    assert journal.refusing is None
    journal.append(one(1, 1, payload=bytes(10_000)))
    assert journal.refusing is not None
    assert "wait to be written" in journal.refusing
    journal.start()
    support.wait_for(lambda: journal.refusing is None, "an empty queue")
    assert journal.close(support.DEADLINE)


# --- closing ---


def test_closing_writes_what_waits_and_leaves_one_file(path: Path) -> None:
    told = Told()
    journal = opened(path, told)
    journal.append(TASK)
    assert journal.close(support.DEADLINE)
    assert journal.close(support.DEADLINE)
    assert told.durable == 1
    assert sorted(os.listdir(path.parent)) == ["state.db", "state.db.lock"]
    with pytest.raises(JournalError, match="is closed"):
        journal.append(TASK)
    with pytest.raises(JournalError, match="is closed"):
        journal.outcome(1, 1)


def test_closing_gives_up_in_time(path: Path) -> None:
    """Another program holds the file: nothing is written, and that is told."""
    told = Told()
    journal = opened(path, told)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    journal.append(TASK)
    begin = support.monotonic()
    assert not journal.close(0.3)
    assert support.monotonic() - begin < 3
    support.wait_for(lambda: "ztasks-journal" not in [thread.name for thread in threading.enumerate()], "its end")
    other.execute("ROLLBACK")
    other.close()
    assert told.durable == 0
    assert "locked" in str(told.failed[0])
    assert read(path).definitions == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_of_the_head_stops_it(path: Path) -> None:
    """What was durable stays, new work is refused, and no thread hangs."""

    def fail(number: int) -> None:
        raise ZeroDivisionError(number)

    told = Told()
    journal = opened(path, told, on_durable=fail)
    journal.start()
    journal.append(TASK)
    told.wait(lambda: bool(told.failed))
    assert journal.refusing is not None
    assert "ZeroDivisionError: 1. Please report it" in journal.refusing
    journal.append(one(1, 1))
    assert not journal.close(support.DEADLINE)
    assert read(path).waiting == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_cannot_be_written_holds_up_the_rest(path: Path) -> None:
    """Nothing is passed over: what comes behind does not count as durable."""
    told = Told()
    journal = opened(path, told)
    journal.start()
    journal.append(one(1, 2**70))
    journal.append(TASK)
    told.wait(lambda: bool(told.failed))
    assert journal.refusing is not None
    assert not journal.close(0.0)
    support.wait_for(lambda: "ztasks-journal" not in [thread.name for thread in threading.enumerate()], "its end")
    assert told.durable == 0
    assert len(told.failed) == 1


# --- what is refused ---


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "cannot be used: Is a directory"),
        (lambda path: path.symlink_to(path.parent / "no" / "where"), "there is no directory"),
        (lambda path: os.mkfifo(path, 0o600), "no regular file"),
        (lambda path: private(path, b"some text, longer than what SQLite looks at first" * 9), "damaged"),
        (lambda path: foreign(path), "is a database, but no journal of ztasks"),
        (lambda path: private(path, b"").chmod(0o640), "can be used by others"),
        (lambda path: private(Path(f"{path}-wal"), b"x" * 99), "is missing or empty"),
    ],
)
def test_places_that_are_no_journal(path: Path, make: Callable[[Path], object], message: str) -> None:
    make(path)
    before = content(path.parent)
    with pytest.raises(JournalError, match=message) as caught:
        opened(path)
    assert str(path) in str(caught.value)
    assert {name: data for name, data in content(path.parent).items() if name in before} == before
    assert not [line for line in support.descriptors() if str(path.parent) in line]


def private(path: Path, data: bytes) -> Path:
    path.touch(0o600)
    path.write_bytes(data)
    return path


def foreign(path: Path) -> None:
    private(path, b"")
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()


def content(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_journal_of_another_user(path: Path) -> None:
    os.chown(private(path, b""), 12345, -1)
    with pytest.raises(JournalError, match="belongs to another user"):
        opened(path)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"there is no directory .*/missing. Make it first"):
        opened(tmp_path / "missing" / "state.db")


def test_a_second_head_is_refused(path: Path, tmp_path: Path) -> None:
    """By whatever name it opens it; and not any more when the first was killed."""
    link = tmp_path / "link.db"
    link.symlink_to(path)
    script = f"""
import sys, time
from ztasks.io.journal import SqliteJournal
journal = SqliteJournal({str(path)!r}, on_durable=print, on_failed=print, on_dropped=print, wall=time.time)
print("open", flush=True)
sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=support.environment(),
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"open\n"
    for name in (path, link):
        with pytest.raises(JournalError, match=rf"held by another head \(process {holder.pid}\)"):
            opened(name)
    holder.kill()
    holder.communicate()
    journal = opened(link)
    with pytest.raises(JournalError, match="held by another head"):
        opened(path)
    assert journal.path == str(path)
    assert journal.close(support.DEADLINE)


def test_all_its_files_are_private(path: Path) -> None:
    before = os.umask(0)
    try:
        journal = opened(path)
        journal.append(TASK)
        journal.start()
        names = ["state.db", "state.db-shm", "state.db-wal", "state.db.lock"]
        support.wait_for(lambda: sorted(os.listdir(path.parent)) == names, "its files")
        modes = {name: stat.S_IMODE((path.parent / name).stat().st_mode) for name in names}
        assert modes == dict.fromkeys(names, 0o600)
        assert journal.close(support.DEADLINE)
    finally:
        os.umask(before)


@pytest.mark.parametrize("sync", ["full", "normal"])
def test_what_is_asked_of_the_disk(path: Path, sync: Any) -> None:
    connection, _ = journal_schema.open_database(str(path), sync)
    assert connection.execute("PRAGMA synchronous").fetchone() == ({"full": 2, "normal": 1}[sync],)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


# --- versions ---


def forge(path: Path, version: int) -> None:
    write(path, TASK, one(1, 1))
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (journal_schema.VERSION + 1, "Start the head with the ztasks that wrote it, or a newer one"),
        (-1, "cannot read"),
        (0, "cannot read"),
    ],
)
def test_other_versions_are_refused(path: Path, version: int, message: str) -> None:
    forge(path, version)
    before = path.read_bytes()
    with pytest.raises(JournalError, match=message):
        opened(path)
    assert path.read_bytes() == before


def test_an_older_version_is_brought_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wholly, or not at all."""
    now = journal_schema.VERSION
    forge(path, now)
    monkeypatch.setattr(journal_schema, "VERSION", now + 2)
    with pytest.raises(JournalError, match=f"has version {now}, which this ztasks cannot read"):
        opened(path)
    steps = {now: ["ALTER TABLE notes ADD COLUMN author TEXT", "no SQL"], now + 1: ["CREATE TABLE colours (name)"]}
    monkeypatch.setattr(journal_schema, "MIGRATIONS", steps)
    with pytest.raises(JournalError, match="syntax error"):
        opened(path)
    steps[now].pop()
    assert len(read(path).waiting) == 1
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT author FROM notes").fetchall() == []
        assert connection.execute("SELECT name FROM colours").fetchall() == []
        assert connection.execute("PRAGMA user_version").fetchone() == (now + 2,)
    connection.close()


def test_an_old_sqlite_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_schema, "OLDEST_SQLITE", (99, 0))
    with pytest.raises(JournalError, match="too old for a journal"):
        opened(path)


# --- network file systems ---

MOUNTS = """\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
22 21 0:20 / /home rw - nfs4 server:/home rw,vers=4.2
23 22 0:21 / /home/me/local\\040disk rw - xfs /dev/vdb rw
24 21 0:22 / /data rw - ext4 /dev/vdc rw
25 24 0:23 / /data rw - fuse.sshfs me@host:/data rw
26 21 0:24 / /win rw - CIFS //server/share rw
27 21 0:25 / /big rw shared:3 master:1 - lustre a@tcp:/big rw
28 21 0:26 / /mine rw - fuse.encfs encfs rw
29 21 0:27 / /c rw - 9p drvfs rw
30 21 0:28 / /cephs rw - fuse.ceph-fuse ceph rw
a torn line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/state.db", None),
        ("/homes/state.db", None),
        ("/home/state.db", "nfs4"),
        ("/home/me/state.db", "nfs4"),
        ("/home/me/local disk/state.db", None),
        ("/data/state.db", "fuse.sshfs"),
        ("/win/state.db", "CIFS"),
        ("/big/a/b/state.db", "lustre"),
        ("/mine/state.db", None),
        ("/c/state.db", "9p"),
        ("/cephs/state.db", "fuse.ceph-fuse"),
    ],
)
def test_network_file_systems_are_recognised(path: str, kind: str | None) -> None:
    assert journal_place.network_file_system(path, MOUNTS) == kind


def test_network_file_systems_are_refused(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = path.parent.resolve()
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"{MOUNTS}31 21 0:29 / {folder} rw - nfs server:/x rw\n")
    monkeypatch.setattr(journal_place, "MOUNTINFO", str(mounts))
    with pytest.raises(JournalError, match=r"network file system \(nfs\).*Give --journal a path on a local disk"):
        opened(path)
    assert os.listdir(folder) == ["mountinfo"]
    monkeypatch.setattr(journal_place, "MOUNTINFO", str(tmp_path / "none"))
    assert read(path).definitions == []


# --- bytes are bytes ---


def test_no_module_of_the_journal_can_unpickle() -> None:
    """Nor decode what it is given."""
    modules = sorted(Path(journals.__file__).parent.glob("journal*.py"))
    assert len(modules) == 6
    for module in modules:
        names = imported(module)
        assert not names & {"pickle", "cloudpickle", "marshal", "shelve", "copyreg", "zmq"}, module
        assert not any(name.startswith(("ztasks.wire", "ztasks.core")) for name in names), module


def imported(module: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.fixture(autouse=True)
def _no_journal_thread_left() -> Iterator[None]:
    yield
    assert "ztasks-journal" not in [thread.name for thread in threading.enumerate()]
