"""The chaos test's account: each cause of a duplicate is told apart, and no way of losing a job goes unnoticed."""

from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from ztasks.chaos import job
from ztasks.chaos.job import BEGUN, FAULT, HEADER, RAISED, RECORD, RETURNED, name_checksum, type_name
from ztasks.chaos.ledger import Fate, Ledger, Looker, read
from ztasks.chaos.outcomes import Outcomes
from ztasks.chaos.plan import JOB_FAULTS
from ztasks.chaos.strikes import Hit
from ztasks.chaos.tally import ALONE, INJECTED_CHECKSUM, LATE_NS, SLACK_NS, UNEXPLAINED, Accountant, Tally
from ztasks.errors import JobTimeout, PoisonJob, RemoteError, WorkerLost, ZtasksError
from ztasks.wire.payload import dump

PID, OTHER = 4001, 4002
MS = 1_000_000


class Book:
    """A file of executions that is written step by step, and the outcomes that the caller saw."""

    def __init__(self, path: Path, jobs: int = 1, *, verify: bool = False) -> None:
        self.path = path
        self.jobs = jobs
        self.outcomes = Outcomes(jobs, verify=verify)
        self.hits: list[Hit] = []
        self.now = 1000 * MS
        self._serial = 0

    def begin(self, number: int = 0, pid: int = PID) -> int:
        self._serial += 1
        self._write(BEGUN, number, pid, 0, self._serial)
        return self._serial

    def run(self, number: int = 0, pid: int = PID, body: bytes = b"body") -> bytes:
        """Run a job to its end; return what would arrive as its result."""
        serial = self.begin(number, pid)
        self._write(RETURNED, number, pid, crc32(body), serial)
        return HEADER.pack(number, crc32(body), serial) + body

    def fail(self, error: BaseException, number: int = 0, pid: int = PID) -> BaseException:
        serial = self.begin(number, pid)
        self._write(RAISED, number, pid, name_checksum(type_name(error)), serial)
        return error

    def fault(self, kind: str, serial: int, number: int = 0, pid: int = PID) -> None:
        self._write(FAULT, number, pid, JOB_FAULTS.index(kind), serial)  # type: ignore[arg-type]

    def kill(self, pid: int = PID, after: int = MS, *, closing: bool = False) -> None:
        self.now += after
        self.hits.append(Hit("kill", pid, self.now, "running", 0.0, closing))

    def tally(self, **how: Any) -> Tally:
        return Accountant(Ledger(str(self.path), self.jobs), self.outcomes, self.hits, **how).tally()

    def _write(self, kind: int, number: int, pid: int, checksum: int, serial: int) -> None:
        self.now += MS
        with self.path.open("ab") as file:
            file.write(RECORD.pack(kind, number, pid, checksum, serial, self.now))


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path / "executions")


def duplicates(tally: Tally) -> dict[str, int]:
    return {cause: number for cause, number in tally.duplicates.items() if number}


def lost(tally: Tally) -> str:
    (loss,) = tally.losses
    return loss.why


# --- all is well ---


def test_every_job_once(tmp_path: Path) -> None:
    book = Book(tmp_path / "executions", jobs=3)
    for number in (2, 0, 1):
        book.outcomes.take(number, book.run(number, body=b"%d" % number))
    tally = book.tally()
    assert (tally.jobs, tally.succeeded, tally.failed, tally.executions) == (3, 3, 0, 3)
    assert (duplicates(tally), tally.losses, tally.repeated, tally.kills) == ({}, [], [], {})


def test_a_job_s_own_exception_is_no_loss(book: Book) -> None:
    book.outcomes.take(0, book.fail(ValueError("no")))
    tally = book.tally()
    assert (tally.succeeded, tally.failed, tally.losses) == (0, 1, [])


def test_nor_is_one_that_could_not_travel(book: Book) -> None:
    class Odd(Exception):
        __module__ = "shop"
        __qualname__ = "Odd"

    book.fail(Odd())
    book.outcomes.take(0, RemoteError("shop.Odd", "", ""))
    assert book.tally().losses == []


def test_a_large_result(book: Book) -> None:
    padding = bytearray(b"12345678" * 1000)
    checksum = crc32(padding, crc32(b"body"))
    serial = book.begin()
    book._write(RETURNED, 0, PID, checksum, serial)
    book.outcomes.take(0, (HEADER.pack(0, checksum, serial) + b"body", padding))
    assert book.tally().losses == []


# --- duplicates ---


def killed(book: Book) -> None:
    book.begin()
    book.kill()


def killed_after_its_end(book: Book) -> None:
    book.run()
    book.kill(after=LATE_NS // 2)


def killed_a_moment_before_its_last_record(book: Book) -> None:
    book.run()
    book.kill(after=-SLACK_NS // 2)
    book.now += SLACK_NS


def crashed(book: Book) -> None:
    book.fault("segfault", book.begin())


def lost_with_another_that_crashed(book: Book) -> None:
    book.run()
    book.fault("exit", 99)


def failed_as_planned(book: Book) -> None:
    serial = book.begin()
    book.fault("fail", serial)
    book._write(RAISED, 0, PID, INJECTED_CHECKSUM, serial)


def hung(book: Book) -> None:
    book.fail(JobTimeout("late"))


def failed_by_itself(book: Book) -> None:
    book.fail(ValueError("no"))


def died_by_itself(book: Book) -> None:
    book.begin()


def ran_for_no_reason(book: Book) -> None:
    book.run()


def killed_long_after_its_end(book: Book) -> None:
    book.run()
    book.kill(after=2 * LATE_NS)


def another_was_killed(book: Book) -> None:
    book.run()
    book.kill(OTHER)


@pytest.mark.parametrize(
    ("happens", "cause"),
    [
        (killed, "killed while it ran"),
        (killed_after_its_end, "ended, but its result was lost with its worker"),
        (killed_a_moment_before_its_last_record, "ended, but its result was lost with its worker"),
        (crashed, "crashed as planned"),
        (lost_with_another_that_crashed, "ended, but its result was lost with its worker"),
        (failed_as_planned, "failed as planned"),
        (hung, "ran out of time"),
        (failed_by_itself, "failed by itself"),
        (died_by_itself, ALONE),
        (ran_for_no_reason, UNEXPLAINED),
        (killed_long_after_its_end, UNEXPLAINED),
        (another_was_killed, UNEXPLAINED),
    ],
)
def test_why_a_job_was_executed_again(book: Book, happens: Callable[[Book], None], cause: str) -> None:
    happens(book)
    book.outcomes.take(0, book.run(pid=OTHER + 1))
    tally = book.tally()
    assert duplicates(tally) == {cause: 1}
    assert (tally.executions, tally.succeeded, tally.losses) == (2, 1, [])
    assert len(tally.repeated) == (cause == UNEXPLAINED)


@pytest.mark.parametrize("happens", [died_by_itself, ran_for_no_reason])
@pytest.mark.parametrize(("timeout", "late"), [(1.0, True), (4.0, False), (None, False)])
def test_what_a_timeout_explains(
    book: Book, happens: Callable[[Book], None], timeout: float | None, late: bool
) -> None:
    """A job may be stopped while its result is pickled, and be killed with its worker while that is frozen."""
    happens(book)
    book.now += 2_000 * MS
    book.outcomes.take(0, book.run(pid=OTHER))
    tally = book.tally(timeout=timeout, harmless=True)
    assert (duplicates(tally) == {"ran out of time": 1}) == late
    assert len(tally.repeated) == (not late)


def test_the_result_that_counts_need_not_be_the_last(book: Book) -> None:
    result = book.run()
    book.begin(pid=OTHER)
    book.kill(OTHER)
    book.outcomes.take(0, result)
    assert duplicates(book.tally()) == {"killed while it ran": 1}


def test_a_harmless_task_s_worker_must_not_die_by_itself(book: Book) -> None:
    died_by_itself(book)
    book.outcomes.take(0, book.run(pid=OTHER))
    assert len(book.tally(harmless=True).repeated) == 1
    assert book.tally().repeated == []


# --- losses ---


def test_a_job_without_an_outcome(book: Book) -> None:
    book.run()
    assert lost(book.tally()) == "it has not ended"


def test_a_job_that_never_ran(tmp_path: Path) -> None:
    book = Book(tmp_path / "none", jobs=2)
    assert [loss.why for loss in book.tally().losses] == ["it has not ended"] * 2


def test_a_job_with_two_outcomes(book: Book) -> None:
    result = book.run()
    book.outcomes.take(0, result)
    book.outcomes.take(0, result)
    assert lost(book.tally()) == "it has ended 2 times"


def test_the_result_of_another_job(tmp_path: Path) -> None:
    book = Book(tmp_path / "executions", jobs=2)
    first, second = book.run(0), book.run(1)
    book.outcomes.take(0, second)
    book.outcomes.take(1, first)
    assert [loss.why for loss in book.tally().losses] == ["it got the result of job 1", "it got the result of job 0"]


def test_a_damaged_result(book: Book) -> None:
    result = bytearray(book.run())
    result[-1] ^= 1
    book.outcomes.take(0, bytes(result))
    assert lost(book.tally()) == "its result is damaged: its checksum does not fit"


@pytest.mark.parametrize("value", [None, b"", 7, ("x", b""), (b"short", b"")])
def test_what_is_no_result_at_all(book: Book, value: object) -> None:
    book.run()
    book.outcomes.take(0, value)
    assert lost(book.tally()).startswith("its result is damaged: ")


def test_a_result_that_no_execution_has_returned(book: Book) -> None:
    book.run(body=b"this")
    book.outcomes.take(0, HEADER.pack(0, crc32(b"that"), 1) + b"that")
    assert lost(book.tally()) == "none of its executions has returned what arrived"


def test_a_result_without_an_execution(book: Book) -> None:
    book.outcomes.take(0, HEADER.pack(0, crc32(b"that"), 1) + b"that")
    assert lost(book.tally()) == "none of its executions has returned what arrived"


def test_a_wrong_answer_of_the_built_in_task(tmp_path: Path) -> None:
    book = Book(tmp_path / "executions", jobs=2, verify=True)
    for number, answer in ((0, job.answer(0)), (1, job.answer(0))):
        book.outcomes.take(number, book.run(number, body=dump(answer).data))
    assert lost(book.tally()) == "its result is wrong"


@pytest.mark.parametrize(
    "error",
    [PoisonJob("too often"), WorkerLost("gone"), CancelledError(), ZtasksError("odd"), ValueError("not its own")],
)
def test_an_error_that_the_job_has_not_raised(book: Book, error: BaseException) -> None:
    died_by_itself(book)
    book.outcomes.take(0, error)
    assert lost(book.tally()).startswith(f"it failed with {type_name(error)}")


def test_an_error_of_an_execution_that_was_not_the_last(book: Book) -> None:
    error = book.fail(ValueError("first"))
    book.run()
    book.outcomes.take(0, error)
    assert lost(book.tally()) == "it failed with ValueError: first"


def test_a_planned_failure_must_be_run_again(book: Book) -> None:
    book.outcomes.take(0, book.fail(job.InjectedFailure("as planned")))
    assert lost(book.tally()).startswith("it was not run again after a planned failure")


def test_a_job_that_hung_must_be_run_again(book: Book) -> None:
    book.outcomes.take(0, book.fail(JobTimeout("late")))
    assert lost(book.tally()).startswith("it was not run again after it ran out of time")


# --- at most once ---


def test_at_most_once_may_lose_a_job_with_its_worker(book: Book) -> None:
    killed(book)
    book.outcomes.take(0, WorkerLost("gone"))
    tally = book.tally(at_most_once=True)
    assert (tally.failed, tally.losses) == (1, [])


def test_at_most_once_may_fail_as_planned(book: Book) -> None:
    book.outcomes.take(0, book.fail(job.InjectedFailure("as planned")))
    assert book.tally(at_most_once=True).losses == []


def test_at_most_once_means_it(book: Book) -> None:
    killed(book)
    book.outcomes.take(0, book.run(pid=OTHER))
    assert "at_most_once forbids" in lost(book.tally(at_most_once=True))


def test_at_most_once_loses_nothing_while_its_worker_lives(book: Book) -> None:
    book.run()
    book.outcomes.take(0, WorkerLost("gone"))
    assert "its worker did not die" in lost(book.tally(at_most_once=True))


# --- kills, and the file ---


def test_what_the_kills_have_hit(tmp_path: Path) -> None:
    book = Book(tmp_path / "executions", jobs=2)
    book.begin(0)
    book.kill()
    book.run(1, OTHER)
    book.kill(OTHER)
    book.kill(PID + 10)
    book.kill(PID + 11, closing=True)
    assert book.tally().kills == {"in a job": 1, "between jobs": 1, "before a first job": 1, "at the closing": 1}


def test_records_of_jobs_that_are_not_in_the_batch(book: Book) -> None:
    book.outcomes.take(0, book.run())
    book.run(7)
    assert Ledger(str(book.path), 1).foreign == 2
    assert book.tally().losses == []


def test_half_a_record_waits_for_its_other_half(book: Book) -> None:
    book.run()
    whole = book.path.read_bytes()
    book.path.write_bytes(whole[:-5])
    looker = Looker(str(book.path))
    looker.look()
    assert looker.last[PID].kind == BEGUN
    assert [record.pid for record in looker.running()] == [PID]
    book.path.write_bytes(whole)
    looker.look()
    assert looker.last[PID].kind == RETURNED
    assert looker.running() == []


def test_a_history(book: Book) -> None:
    serial = book.begin()
    book.fault("slow", serial)
    book.run(pid=OTHER)
    first, second = Ledger(str(book.path), 1).histories([0])[0]
    assert (first.fate, first.faults, first.ended, first.pid) == (Fate.CUT, ["slow"], None, PID)
    assert (second.fate, second.faults, second.pid) == (Fate.RETURNED, [], OTHER)
    assert second.ended is not None
    assert second.ended - second.began == MS


def test_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    assert list(read(str(tmp_path / "none"))) == []
