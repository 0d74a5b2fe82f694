"""Hard timeouts (row 5 of the fault matrix): whatever a job does, it ends in time, and never the next one instead."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import fault_jobs
import hard_jobs as jobs
import pytest
import support
from tracks import lines, make_quick, started

import ztasks
from ztasks import Executor, JobTimeout
from ztasks.io.cell import CURSOR
from ztasks.io.crew import WorkerProcess
from ztasks.io.interrupt import STOP_SIGNAL

FOLDER = str(Path(jobs.__file__).parent)

HEED = [
    jobs.hang_in_python,
    jobs.hang_ignoring_sigterm,
    jobs.hang_in_a_join,
    jobs.hang_in_a_lock,
    jobs.hang_in_a_subprocess,
    jobs.clean_up,
]
"""Jobs that end when JobTimeout is raised inside them: their worker lives."""

RESIST = [
    jobs.hang_in_c,
    jobs.hang_in_c_with_signals_blocked,
    jobs.hang_ignoring_all_signals,
    jobs.hang_swallowing_everything,
    jobs.hang_in_finally,
    jobs.hang_having_started_processes,
]
"""Jobs that only a kill ends."""


def timed(fn: Any, timeout: float = 0.15, grace: float = 0.15, **changes: Any) -> Any:
    return ztasks.options(fn, timeout=timeout, grace=grace, **changes)


def check_timeout(error: BaseException | None) -> JobTimeout:
    assert type(error) is JobTimeout
    assert not isinstance(error, TimeoutError)  # that one says that `result(timeout=)` has waited in vain
    return error


@pytest.mark.parametrize("fn", HEED, ids=lambda fn: fn.__name__)
def test_row_05_jobs_that_heed(tmp_path: Path, fn: Any) -> None:
    """JobTimeout is raised inside the job; its worker lives."""
    with Executor(max_workers=1) as executor:
        hung = executor.submit(timed(fn, grace=30), str(tmp_path))
        behind = executor.submit(os.getpid)
        error = check_timeout(hung.exception(15))
        assert error.certificate is None
        assert f"in {fn.__name__}" in str(ztasks.remote_traceback(error))
        pid, *others = started(tmp_path)
        assert behind.result(10) == executor.submit(os.getpid).result(10) == pid
    support.wait_gone({pid, *others}, 3)
    if fn is jobs.clean_up:
        assert lines(tmp_path / "cleaned") == ["JobTimeout"]


@pytest.mark.parametrize("fn", RESIST, ids=lambda fn: fn.__name__)
def test_row_05_jobs_that_resist(tmp_path: Path, fn: Any) -> None:
    """After the grace the worker is killed, with all that the job has started; the certificate says where it hung."""
    with Executor(max_workers=2) as executor:
        begin = time.monotonic()
        hung = executor.submit(timed(fn), str(tmp_path))
        others = [executor.submit(fault_jobs.square, number) for number in range(50)]
        error = check_timeout(hung.exception(15))
        assert time.monotonic() - begin < 8
        assert [future.result(10) for future in others] == [number * number for number in range(50)]
        pids = {int(pid) for line in lines(tmp_path / "started") for pid in line.split()}
        support.wait_gone(pids, 3)
        death = error.certificate
        assert death is not None
        assert death.pid in pids
        assert (death.signal, death.exit_code, death.attempt) == ("SIGKILL", None, 1)
        assert "timeout" in death.reason
        assert death.call.startswith(f"{fn.__name__}(")
        assert death.seconds is not None
        assert 0.3 <= death.seconds < 8
        if fn is not jobs.hang_ignoring_all_signals:  # it ignores the request for its stack as well
            assert f"in {fn.__name__}" in death.stack
        assert executor.submit(os.getpid).result(10) not in pids
    if fn is jobs.hang_swallowing_everything:
        assert lines(tmp_path / "swallowed") == [""] or len((tmp_path / "swallowed").read_text()) == 1  # raised once


def test_row_05_sleep_itself_as_the_task() -> None:
    with Executor(max_workers=1) as executor:
        pid = executor.submit(os.getpid).result(10)
        check_timeout(executor.submit(timed(time.sleep, grace=30), 600).exception(15))
        assert executor.submit(os.getpid).result(10) == pid


def test_row_05_a_job_that_cleans_up_within_its_grace_and_returns_has_succeeded(tmp_path: Path) -> None:
    with Executor(max_workers=1) as executor:
        future = executor.submit(timed(jobs.clean_up_and_return, grace=30), str(tmp_path))
        assert future.result(15) == "stopped by JobTimeout"


def test_row_05_cleaning_up_that_takes_longer_than_the_grace_is_killed(tmp_path: Path) -> None:
    with Executor(max_workers=1) as executor:
        error = check_timeout(executor.submit(timed(jobs.clean_up), str(tmp_path), 600).exception(15))
        assert error.certificate is not None
    assert lines(tmp_path / "cleaned") == []


@pytest.mark.parametrize("how", ["in_python", "in_c"])
@pytest.mark.parametrize("phase", ["loading the arguments", "dumping the result"])
def test_row_05_hang_in_pickling(tmp_path: Path, phase: str, how: str) -> None:
    """The timeout covers an attempt from the unpickling of its arguments to the pickling of its result."""
    argument = jobs.HangsLoading(str(tmp_path), how) if phase == "loading the arguments" else (str(tmp_path), how)
    with Executor(max_workers=1) as executor:
        task = timed(jobs.take if phase == "loading the arguments" else jobs.give_hanging, crash_retries=0)
        behind = [executor.submit(task, argument), executor.submit(fault_jobs.square, 3)]
        error = check_timeout(behind[0].exception(15))
        assert (error.certificate is not None) == (how == "in_c")
        assert behind[1].result(10) == 9
    assert len(lines(tmp_path / "started")) == 1


@pytest.mark.parametrize("what", ["map", "map_unordered", "outcomes"])
def test_row_05_in_a_map(tmp_path: Path, what: str) -> None:
    """Only the item that ran too long fails, at its place; those beside it are neither lost nor charged."""
    with Executor(max_workers=2) as executor:
        for fn in (jobs.sleep_if, jobs.sleep_in_c_if):
            task = timed(fn, timeout=0.3, crash_retries=0)
            how = {} if what == "outcomes" else {"return_exceptions": True}
            # with one argument, numbers travel in one pickle
            one = ztasks.options(functools.partial(fn, bad=17), timeout=0.3, grace=0.15, crash_retries=0)
            inputs = [range(40)] if fn is jobs.sleep_if else [range(40), itertools.repeat(17)]
            results = getattr(executor, what)(one if fn is jobs.sleep_if else task, *inputs, **how)
            got = [outcome.exception or outcome.value if what == "outcomes" else outcome for outcome in results]
            if what == "map_unordered":
                (late,) = [value for value in got if isinstance(value, Exception)]
                assert sorted(value for value in got if value is not late) == [n for n in range(40) if n != 17]
            else:
                late = got.pop(17)
                assert [value or 0 for value in got] == [number for number in range(40) if number != 17]
            assert (check_timeout(late).certificate is not None) == (fn is jobs.sleep_in_c_if)


def test_row_05_retries_after_a_timeout(tmp_path: Path) -> None:
    """A timeout is a failure like others: it is charged to `retries`, also where the worker had to be killed."""
    with Executor(max_workers=1) as executor:
        path = str(tmp_path / "attempts")
        again = timed(jobs.fail_until, grace=30, retries=2, backoff=0.01)
        assert executor.submit(again, path, 3, "JobTimeout").result(20) == 3
        killed = timed(jobs.hang_in_c, timeout=0.1, grace=0.05, retries=1, backoff=0.01, crash_retries=0)
        error = check_timeout(executor.submit(killed, str(tmp_path)).exception(20))
        assert len(started(tmp_path)) == 2
        assert error.certificate is not None
        assert error.certificate.attempt == 2
        unwanted = timed(jobs.fail_until, retries=5, grace=30, retry_on=ConnectionError)
        check_timeout(executor.submit(unwanted, str(tmp_path / "once"), 9, "JobTimeout").exception(20))
        assert len(lines(tmp_path / "once")) == 1


def test_row_05_the_head_s_interpreter_is_held(tmp_path: Path) -> None:
    """Where the head cannot keep time, a watchdog in the worker ends the job, whatever that is doing."""
    text = f"""
    import ctypes, sys
    from pathlib import Path
    sys.path[:0] = {[FOLDER, str(Path(support.__file__).parent)]!r}
    import hard_jobs as jobs, support, ztasks
    from tracks import started

    with ztasks.Executor(max_workers=2) as executor:
        executor.submit(pow, 2, 3).result()
        futures = [
            executor.submit(ztasks.options(fn, timeout=0.2, grace=0.2), {str(tmp_path)!r})
            for fn in (jobs.hang_in_c, jobs.hang_swallowing_everything)
        ]
        pids = started(Path({str(tmp_path)!r}), 2)
        ctypes.PyDLL(None).usleep(3_500_000)
        print(*map(support.alive, pids))
        for future in futures:
            error = future.exception(10)
            print(type(error).__name__, error.certificate.exit_code, "in hang_" in error.certificate.stack)
        print(executor.submit(pow, 2, 3).result(10))
    """
    done = support.run_script(tmp_path, text)
    assert (done.code, done.out) == (0, "False False\nJobTimeout 1 True\nJobTimeout 1 True\n8\n"), done.err


# --- never the next job by mistake ---


def test_row_05_only_jobs_that_really_ran_long_are_stopped(tmp_path: Path) -> None:
    """Thousands of jobs whose run time is about the timeout: who is stopped has run that long by its own clock."""
    chance, limit, path = random.Random(5), 0.004, tmp_path / "stopped"
    task = ztasks.options(jobs.last, timeout=limit, crash_retries=0)
    seconds = [chance.uniform(0.5, 1.5) * limit for _ in range(2000)]
    with Executor(max_workers=4) as executor:
        timed_ones = [executor.submit(task, *job, str(path)) for job in enumerate(seconds)]
        plain = list(executor.map(fault_jobs.square, range(2000)))  # they travel between the others
        ends = [future.exception(30) for future in timed_ones]
    assert plain == [number * number for number in range(2000)]
    assert all(type(error) in (JobTimeout, type(None)) for error in ends)
    stopped = {number for number, error in enumerate(ends) if error is not None}
    returned = [number for number in range(2000) if number not in stopped]
    assert [timed_ones[number].result() for number in returned] == returned
    noted = [line.split() for line in lines(path)]  # but for those that were stopped at their first or last step
    assert {int(number) for number, _, _ in noted} <= stopped
    assert all(float(late) >= 0 for _, late, _ in noted)
    ahead = sorted(float(ahead) for _, _, ahead in noted)  # how long before the deadline they began
    assert ahead[-1] <= limit
    assert ahead[len(ahead) // 2] > limit / 2
    assert 100 < len(noted) < 1900


def test_row_05_a_kill_never_charges_the_next_job() -> None:
    """Jobs that hold the interpreter until about the time of the kill: the job behind is never blamed for it."""
    chance, limit = random.Random(6), 0.020
    task = ztasks.options(jobs.last_in_c, timeout=limit / 2, grace=limit / 2, crash_retries=0)
    innocent = ztasks.options(jobs.attempt_of, crash_retries=0)
    with Executor(max_workers=2) as executor:
        pairs = [
            (executor.submit(task, number, chance.choice([0.5, 1, 1, 1.3]) * limit), executor.submit(innocent, number))
            for number in range(40)
        ]
        for number, (hard, other) in enumerate(pairs):
            assert other.result(30) == (number, 1)
            assert type(hard.exception(30)) in (JobTimeout, type(None))


def test_row_05_a_job_that_ends_between_the_decision_and_the_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next job has begun when the kill arrives: it is run again, free of charge."""
    kill = WorkerProcess.kill

    def kill_late(worker: WorkerProcess, reason: str = "") -> None:
        cursor = worker.cell.fields[CURSOR]
        if "timeout" in reason:
            support.wait_for(lambda: worker.cell.fields[CURSOR] != cursor, "the next job")
        kill(worker, reason)

    hard = ztasks.options(jobs.last_in_c, timeout=0.05, grace=0.05, crash_retries=0)
    innocent = ztasks.options(jobs.last_in_c, crash_retries=0)
    with Executor(max_workers=1) as executor:
        assert executor.submit(hard, 1, 0).result(10) == executor.submit(innocent, 1, 0).result(10)
        make_quick(executor, hard, innocent)
        monkeypatch.setattr(WorkerProcess, "kill", kill_late)
        futures = [executor.submit(hard, 1, 0.4), executor.submit(innocent, 2, 0.4), executor.submit(innocent, 3, 0)]
        assert type(futures[0].exception(10)) in (JobTimeout, type(None))
        assert [future.result(10) for future in futures[1:]] == [2, 3]


def test_row_05_a_stop_signal_that_comes_late_does_nothing(tmp_path: Path) -> None:
    """Sent by the test itself: to an idle worker, to one that runs another job, and to one that runs a map."""
    with Executor(max_workers=1) as executor:
        pid = executor.submit(os.getpid).result(10)
        check_timeout(executor.submit(timed(time.sleep, timeout=0.05, grace=30), 600).exception(15))
        for _ in range(20):
            os.kill(pid, STOP_SIGNAL)
        assert executor.submit(os.getpid).result(10) == pid
        held = executor.submit(timed(fault_jobs.hold, timeout=60), str(tmp_path))
        started(tmp_path)
        for _ in range(20):
            os.kill(pid, STOP_SIGNAL)
        time.sleep(0.02)  # a stop would come now
        (tmp_path / "release").touch()
        assert held.result(10) == pid
        results = executor.map(fault_jobs.counted, range(300), itertools.repeat(os.devnull), itertools.repeat(0.0005))
        for _ in range(20):
            os.kill(pid, STOP_SIGNAL)
        assert list(results) == list(range(300))
        assert executor.submit(os.getpid).result(10) == pid


@pytest.mark.parametrize("thaw", [True, False])
def test_row_22_the_timeout_of_a_stopped_worker_holds(tmp_path: Path, thaw: bool) -> None:
    """SIGSTOP: killed at timeout and grace. Continued before that, the job is stopped like any other."""
    with Executor(max_workers=1) as executor:
        hung = executor.submit(timed(fault_jobs.hold, timeout=0.3, grace=30 if thaw else 0.3), str(tmp_path))
        (pid,) = started(tmp_path)
        os.kill(pid, signal.SIGSTOP)
        if thaw:
            with contextlib.suppress(TimeoutError):
                hung.exception(0.5)
            assert not hung.done()
            os.kill(pid, signal.SIGCONT)
        error = check_timeout(hung.exception(15))
        assert (error.certificate is None) == thaw
        assert (executor.submit(os.getpid).result(10) == pid) == thaw
