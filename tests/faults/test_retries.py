"""What is tried again, when, and how often; and what never is: `at_most_once`."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import fault_jobs
import hard_jobs as jobs
import pytest
import support
from tracks import lines, make_quick, started

import ztasks
from ztasks import Executor, JobTimeout, PoisonJob, Retry, WorkerLost


def pauses(path: Path) -> list[float]:
    """The seconds between the attempts that have noted their times in a file."""
    times = [float(line) for line in lines(path)]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


# --- which failures ---


@pytest.mark.parametrize(
    ("kind", "options", "again"),
    [
        ("ValueError", {}, True),
        ("ValueError", {"retry_on": ValueError}, True),
        ("ValueError", {"retry_on": (KeyError, ValueError)}, True),
        ("ValueError", {"retry_on": [Exception]}, True),
        ("ValueError", {"retry_on": KeyError}, False),
        ("ValueError", {"retry_on": ()}, False),
        ("ValueError", {"no_retry_on": ValueError}, False),
        ("ValueError", {"no_retry_on": (KeyError, TypeError)}, True),
        ("Flaky", {"retry_on": ConnectionError}, True),
        ("Flaky", {"retry_on": jobs.Flaky}, True),
        ("ConnectionError", {"retry_on": jobs.Flaky}, False),
        ("Flaky", {"retry_on": ConnectionError, "no_retry_on": jobs.Flaky}, False),
        ("ConnectionError", {"retry_on": ConnectionError, "no_retry_on": jobs.Flaky}, True),
        ("SystemExit", {"retry_on": Exception}, False),
        ("SystemExit", {"retry_on": BaseException}, True),
        ("KeyboardInterrupt", {}, True),
        ("MemoryError", {"no_retry_on": MemoryError}, False),
        ("Retry", {}, True),
        ("Retry", {"retry_on": KeyError}, True),
    ],
)
def test_which_exceptions(shared: Executor, tmp_path: Path, kind: str, options: dict[str, Any], again: bool) -> None:
    task = ztasks.options(jobs.fail_until, retries=5, backoff=0, **options)
    future = shared.submit(task, str(tmp_path / "attempts"), 3, kind)
    error = future.exception(10)
    assert (error is None) == again
    if error is not None:
        assert type(error).__name__ == kind
    assert len(lines(tmp_path / "attempts")) == (3 if again else 1)


def test_classes_and_lambdas_of_main(tmp_path: Path) -> None:
    """Exceptions that only the script knows are told apart in the worker; so is what a lambda raises."""
    text = """
    import ztasks

    class Refused(Exception):
        pass

    class Busy(Refused):
        pass

    attempts = 0

    @ztasks.task(retries=2, backoff=0, retry_on=Refused, no_retry_on=(KeyError,))
    def connect(kind):
        job = ztasks.current_job()
        if job.attempt == job.max_attempts:
            return job.attempt
        raise kind("no")

    def attempt(fn, *args):
        future = executor.submit(fn, *args)
        error = future.exception()
        return future.result() if error is None else type(error)

    with ztasks.Executor(max_workers=2) as executor:
        print(attempt(connect, Refused), attempt(connect, Busy), attempt(connect, OSError), attempt(connect, KeyError))
        again = ztasks.options(connect, retry_on=(Busy,))
        print(attempt(again, Refused) is Refused, attempt(again, Busy))
        division = ztasks.options(
            lambda: 1 / (ztasks.current_job().attempt - 2), retries=3, backoff=0, retry_on=ZeroDivisionError
        )
        print(attempt(division), attempt(division.options(no_retry_on=ArithmeticError)))
        flags = list(executor.outcomes(connect, [Refused, OSError, Busy]))
        print([(outcome.ok, outcome.attempts) for outcome in flags])
    """
    assert support.check_script(tmp_path, text).splitlines() == [
        "3 3 <class 'OSError'> <class 'KeyError'>",
        "True 3",
        "-1.0 -1.0",
        "[(True, 3), (False, 1), (True, 3)]",
    ]


def test_what_never_ran_is_not_tried_again(shared: Executor, tmp_path: Path) -> None:
    """Arguments that do not load and results that do not pickle would not do so the next time either."""
    task = ztasks.options(fault_jobs.generator, retries=5, backoff=0, retry_on=BaseException)
    assert type(shared.submit(task).exception(10)) is ztasks.ResultNotPicklable
    noted = ztasks.options(jobs.take, retries=5, backoff=0)
    assert (
        type(shared.submit(noted, jobs.FailsLoading(str(tmp_path / "loads"))).exception(10)) is ztasks.CallNotLoadable
    )
    assert len(lines(tmp_path / "loads")) == 1


# --- when ---


def test_pauses_double_and_are_capped(shared: Executor, tmp_path: Path) -> None:
    path = tmp_path / "attempts"
    task = ztasks.options(jobs.fail_until, retries=4, backoff="40ms", max_backoff=0.1, jitter=0)
    assert shared.submit(task, str(path), 5, "ValueError").result(20) == 5
    assert all(least <= pause < least + 5 for least, pause in zip([0.04, 0.08, 0.1, 0.1], pauses(path), strict=True))


@pytest.mark.parametrize("after", [0.15, "150ms"])
def test_retry_after(shared: Executor, tmp_path: Path, after: Any) -> None:
    """At least this pause, by a monotonic clock, whatever the usual one and its cap are; other jobs go on meanwhile."""
    path = tmp_path / "attempts"
    task = ztasks.options(jobs.ask_again, retries=2, backoff=60, max_backoff=0.001 if after == 0.15 else 60)
    future = shared.submit(task, str(path), 3, after)
    support.wait_for(lambda: lines(path), "the first attempt")
    assert shared.submit(fault_jobs.square, 3).result(10) == 9
    assert future.result(20) == 3
    assert all(0.15 <= pause < 10 for pause in pauses(path))
    assert len(lines(path)) == 3


def test_retry_without_a_pause_of_its_own(shared: Executor, tmp_path: Path) -> None:
    for after, least in ((None, 0.1), (0, 0.0)):
        path = tmp_path / str(after)
        task = ztasks.options(jobs.ask_again, retries=1, backoff=0.1, jitter=0)
        assert shared.submit(task, str(path), 2, after).result(20) == 2
        (pause,) = pauses(path)
        assert least <= pause < 10


def test_retry_when_retries_are_used_up(shared: Executor, tmp_path: Path) -> None:
    """The job fails with it, the last one, with what caused it in its remote traceback."""
    for retries in (0, 2):
        path = tmp_path / str(retries)
        task = ztasks.options(jobs.ask_again, retries=retries, backoff=0)
        error = shared.submit(task, str(path), 9, 0.001).exception(10)
        assert type(error) is Retry
        assert isinstance(error, ztasks.ZtasksError)
        assert (str(error), error.after) == (f"attempt {retries + 1} found it taken", 0.001)
        assert "KeyError: 'the lease'" in str(ztasks.remote_traceback(error))
        assert len(lines(path)) == retries + 1


@pytest.mark.parametrize("after", [-1, "soon", float("nan"), []])
def test_retry_with_a_pause_that_is_none(shared: Executor, tmp_path: Path, after: Any) -> None:
    """The job's own mistake: it fails with that."""
    error = shared.submit(jobs.ask_again, str(tmp_path / "attempts"), 2, after).exception(10)
    assert type(error) is ztasks.InvalidOption
    assert "after" in str(error)


# --- failures and crashes, counted apart ---


@pytest.mark.parametrize("through", ["submit", "outcomes"])
@pytest.mark.parametrize(
    ("ends", "retries", "crash_retries", "end"),
    [
        ("fdr", 1, 1, "attempt 3"),
        ("dfdfr", 2, 2, "attempt 5"),
        ("dff", 1, 1, ConnectionError),
        ("fdfd", 2, 1, PoisonJob),
        ("ff", 1, 9, ConnectionError),
        ("dd", 9, 1, PoisonJob),
    ],
)
def test_failures_and_crashes(
    tmp_path: Path, through: str, ends: str, retries: int, crash_retries: int, end: Any
) -> None:
    path = tmp_path / "attempts"
    task = ztasks.options(jobs.fail_or_die, retries=retries, crash_retries=crash_retries, backoff=0)
    with Executor(max_workers=1) as executor:
        if through == "submit":
            future = executor.submit(task, str(path), ends)
            value: Any = future.exception(20) or future.result()
        else:
            (outcome,) = executor.outcomes(task, [str(path)], [ends])
            value = outcome.exception or outcome.value
            assert outcome.attempts == len(ends)
    assert value == end or type(value) is end
    assert path.stat().st_size == len(ends)
    if end is PoisonJob:
        deaths = [at for at, kind in enumerate(ends, 1) if kind == "d"]
        told = {"f": "ConnectionError: attempt {0}", "d": "exited with code {0}"}
        for at, (kind, line) in enumerate(zip(ends, value.history, strict=True), 1):
            assert line.startswith(f"attempt {at}: ")
            assert told[kind].format(at) in line
        assert [(death.attempt, death.exit_code) for death in value.certificates] == [(at, at) for at in deaths]


# --- at most once ---


def never_twice(fn: Any, **changes: Any) -> Any:
    return ztasks.options(fn, at_most_once=True, **changes)


def test_at_most_once_rules_out_retries() -> None:
    for changes in ({"retries": 1}, {"crash_retries": 1}, {"retries": 2, "crash_retries": 2}):
        with pytest.raises(ValueError, match="at_most_once"):
            never_twice(fault_jobs.square, **changes)
    with pytest.raises(ValueError, match="at_most_once"):
        never_twice(fault_jobs.square).options(retries=1)


@pytest.mark.parametrize("phase", ["starting", "idle", "running", "queued behind it", "result in flight"])
def test_at_most_once_by_phase(tmp_path: Path, phase: str) -> None:
    """Its worker is killed: a job that may have begun is lost, one that cannot have begun is run."""
    path, before = tmp_path / "ran", support.workers()
    task = never_twice(jobs.once)
    with Executor(max_workers=1) as executor:
        if phase != "starting":
            executor.submit(fault_jobs.square, 1).result(10)
        if phase in ("running", "queued behind it"):
            held = executor.submit(never_twice(fault_jobs.hold), str(tmp_path))
        futures = [executor.submit(task, number, str(path)) for number in range(3 if phase != "running" else 0)]
        if phase in ("running", "queued behind it"):
            started(tmp_path)
            assert not any(future.running() for future in futures)  # it has its worker to itself
        elif phase == "result in flight":
            support.wait_for(lambda: "ended 0" in lines(path), "the first to have run")
        for pid in support.workers() - before:
            os.kill(pid, signal.SIGKILL)
        if phase in ("running", "queued behind it"):
            error = held.exception(10)
            assert type(error) is WorkerLost
            assert error.certificate is not None
            assert (error.certificate.signal, error.certificate.attempt) == ("SIGKILL", 1)
            assert "at_most_once" in str(error)
            assert len(lines(tmp_path / "started")) == 1
        ends = [future.exception(10) for future in futures]
    begun = [line for line in lines(path) if line.startswith("begun")]
    assert len(begun) == len(set(begun))
    assert all(type(error) in (WorkerLost, type(None)) for error in ends)
    assert all(f"ended {number}" in lines(path) for number, error in enumerate(ends) if error is None)
    if phase in ("starting", "queued behind it"):  # an idle one may have begun the first by now
        assert ends == [None] * 3
    assert sum(error is not None for error in ends) <= 1


def test_at_most_once_that_raises_runs_out_of_time_or_is_cancelled(tmp_path: Path) -> None:
    with Executor(max_workers=1) as executor:
        path = tmp_path / "raised"
        assert (
            type(executor.submit(never_twice(jobs.fail_until), str(path), 9, "ValueError").exception(10)) is ValueError
        )
        assert len(lines(path)) == 1
        path = tmp_path / "asked"
        assert type(executor.submit(never_twice(jobs.ask_again), str(path), 9, 0).exception(10)) is Retry
        assert len(lines(path)) == 1
        for number, fn in enumerate([fault_jobs.hold, jobs.hang_in_c]):
            late, cancelled = tmp_path / f"late{number}", tmp_path / f"cancelled{number}"
            late.mkdir()
            cancelled.mkdir()
            hung = executor.submit(never_twice(fn, timeout=0.1, grace=0.1), str(late))
            assert type(hung.exception(10)) is JobTimeout
            hung = executor.submit(never_twice(fn, grace=0.1), str(cancelled))
            started(cancelled)
            assert hung.cancel(running=True)
            with pytest.raises(CancelledError):
                hung.result(10)
            assert len(lines(late / "started")) == len(lines(cancelled / "started")) == 1
        assert executor.submit(never_twice(fault_jobs.square), 3).result(10) == 9


def test_at_most_once_in_a_map(tmp_path: Path) -> None:
    """Each item by itself: the one that dies is lost, at its place; all others have run once."""
    path = str(tmp_path / "ran")
    with Executor(max_workers=2) as executor:
        task = never_twice(jobs.note_and_die_if)
        outcomes = list(executor.outcomes(task, range(60), [path] * 60, [20] * 60))
    assert [outcome.index for outcome in outcomes if not outcome.ok] == [20]
    assert type(outcomes[20].exception) is WorkerLost
    assert sorted(map(int, lines(tmp_path / "ran"))) == list(range(60))
    assert {outcome.attempts for outcome in outcomes} == {1}


def test_at_most_once_under_many_kills(tmp_path: Path) -> None:
    """Workers are killed again and again: no job runs twice, and who has a result has run once."""
    path, ended = tmp_path / "ran", threading.Event()

    def kill_now_and_then() -> None:
        killed: set[int] = set()
        while not ended.wait(0.03) and len(killed) < 12:
            pids = {int(line.split()[1]) for line in lines(path)[-1:]}  # one that works; a new one shall come up first
            for pid in pids & support.workers() - killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)

    killer = threading.Thread(target=kill_now_and_then)
    with Executor(max_workers=2) as executor:
        task = never_twice(fault_jobs.counted_with_pid)
        futures = [executor.submit(task, number, str(path), 0.002) for number in range(300)]
        killer.start()
        ends = [future.exception(30) for future in futures]
        ended.set()
        killer.join()
    ran = [int(line.split()[0]) for line in lines(path)]
    assert len(ran) == len(set(ran))
    lost = {number for number, error in enumerate(ends) if error is not None}
    assert all(type(ends[number]) is WorkerLost for number in lost)
    assert set(range(300)) - lost <= set(ran)
    assert 1 <= len(lost) <= 12


def test_at_most_once_beside_others(tmp_path: Path) -> None:
    """It is given to a worker that holds nothing, and that worker is given nothing else meanwhile."""
    with Executor(max_workers=2) as executor:
        executor.submit(os.getpid).result(10)
        make_quick(executor, os.getpid)
        alone = executor.submit(never_twice(fault_jobs.hold), str(tmp_path))
        (pid,) = started(tmp_path)
        others = [executor.submit(os.getpid) for _ in range(200)]
        assert pid not in {future.result(10) for future in others}
        (tmp_path / "release").touch()
        assert alone.result(10) == pid
