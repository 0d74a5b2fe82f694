"""`future.cancel(running=True)`, by phase: the future ends once, the innocent go on, and nothing is left."""

from __future__ import annotations

import concurrent.futures
import os
import random
import signal
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import fault_jobs
import hard_jobs as jobs
import pytest
import support
from tracks import lines, make_quick, started

import ztasks
from ztasks import Executor
from ztasks.io.cell import CLAIMED, CURSOR


def stoppable(fn: Any, grace: float = 30, **changes: Any) -> Any:
    return ztasks.options(fn, grace=grace, **changes)


def check_cancelled(future: ztasks.Future[Any], seconds: float = 15) -> None:
    """Wait until it has ended, as cancelled, and see that everybody is told the same."""
    with pytest.raises(CancelledError):
        future.result(seconds)
    with pytest.raises(CancelledError):
        future.exception(0)
    assert future.done()
    assert future.cancelled()
    assert not future.running()
    assert future.cancel(running=True)  # it is cancelled, and stays so
    assert future.cancel()


# --- before it runs ---


def test_queued() -> None:
    """No worker has it: final at once, as with cancel()."""
    with Executor(max_workers=1) as executor:
        hung = executor.submit(stoppable(time.sleep), 600)
        support.wait_for(hung.running, "the job to be given to a worker")
        queued = [executor.submit(fault_jobs.square, number) for number in range(20)]
        for future in queued[::2]:
            assert future.cancel(running=True)
        for future in queued[::2]:
            check_cancelled(future)
        assert hung.cancel(running=True)
        check_cancelled(hung)
        assert [future.result(10) for future in queued[1::2]] == [number * number for number in range(1, 20, 2)]


def test_given_to_a_worker_behind_a_long_job(tmp_path: Path) -> None:
    """It is taken back at once; the long job and those beside it go on, charged with nothing."""
    ran, before = tmp_path / "ran", tmp_path / "before"
    with Executor(max_workers=1) as executor:
        hold, task = stoppable(fault_jobs.hold, crash_retries=0), stoppable(jobs.once, crash_retries=0)
        before.mkdir()
        (before / "release").touch()
        executor.submit(hold, str(before)).result(10)
        executor.submit(task, 0, os.devnull).result(10)
        make_quick(executor, hold, task)
        held = executor.submit(hold, str(tmp_path))
        behind = [executor.submit(task, number, str(ran)) for number in range(20)]
        (pid,) = started(tmp_path)
        support.wait_for(lambda: all(future.running() for future in behind), "all to be given to the worker")
        for future in behind[5:15]:
            assert not future.cancel()
            assert future.cancel(running=True)
        for future in behind[5:15]:
            check_cancelled(future)
        assert not held.done()
        (tmp_path / "release").touch()
        assert held.result(10) == pid
        kept = [number for number in range(20) if not 5 <= number < 15]
        assert [behind[number].result(10) for number in kept] == kept
        assert executor.submit(os.getpid).result(10) == pid
    assert len(lines(tmp_path / "started")) == 1
    assert sorted(lines(ran)) == sorted(f"{step} {number}" for number in kept for step in ("begun", "ended"))


def claim_together(executor: Executor, task: Any, folder: Path) -> list[ztasks.Future[int]]:
    """Bring five jobs into one claim: the first runs for 0.5 s, the fourth would for ten minutes."""
    for attempt in range(50):
        for _ in range(20):  # how many are claimed together, the worker decides by how long they took
            assert executor.submit(task, 0, 0).result(10) == 0
        make_quick(executor, task)
        held = executor.submit(ztasks.options(fault_jobs.hold, name=str(attempt)), str(folder))  # of unknown length
        started(folder, attempt + 1)
        futures = [executor.submit(task, number, [0.5, 0, 0, 600, 0][number]) for number in range(5)]
        assert not any(future.running() for future in futures)
        (folder / "release").touch()
        held.result(10)
        support.wait_for(lambda: any(job.task == "sleep_after" for job in executor.running()), "the first to run")
        (worker,) = executor._head._watch.crew.workers.values()
        if worker.cell.fields[CLAIMED] == worker.cell.fields[CURSOR] + 5:
            return futures
        for future in futures:
            future.cancel(running=True)
        (folder / "release").unlink()
    pytest.skip("this host is too busy: jobs that do nothing take a millisecond")


def test_claimed_behind_a_job_that_runs(tmp_path: Path) -> None:
    """Claimed together with jobs before it, it cannot be taken back: it is stopped as soon as it begins."""
    with Executor(max_workers=1) as executor:
        pid = executor.submit(os.getpid).result(10)
        futures = claim_together(executor, stoppable(jobs.sleep_after, crash_retries=0), tmp_path)
        assert futures[3].cancel(running=True)
        check_cancelled(futures[3])
        assert [futures[number].result(10) for number in (0, 1, 2, 4)] == [0, 1, 2, 4]
        assert executor.submit(os.getpid).result(10) == pid


# --- while it runs ---

HEED = [jobs.hang_in_python, jobs.hang_ignoring_sigterm, jobs.hang_in_a_lock, jobs.hang_in_a_subprocess, jobs.clean_up]
RESIST = [jobs.hang_in_c, jobs.hang_ignoring_all_signals, jobs.hang_swallowing_everything, jobs.hang_in_finally]


@pytest.mark.parametrize("fn", HEED, ids=lambda fn: fn.__name__)
def test_running_jobs_that_heed(tmp_path: Path, fn: Any) -> None:
    """JobCancelled is raised inside it; its worker lives, and goes on with what waited behind it."""
    with Executor(max_workers=1) as executor:
        hung = executor.submit(stoppable(fn, retries=3, retry_on=BaseException), str(tmp_path))
        pid = started(tmp_path)[0]
        behind = executor.submit(os.getpid)
        assert hung.running()
        assert not hung.cancel()  # too late for that
        assert hung.cancel(running=True)
        check_cancelled(hung)
        assert behind.result(10) == pid
    support.wait_gone({int(line) for line in lines(tmp_path / "started")}, 3)
    assert sum(int(line) == pid for line in lines(tmp_path / "started")) == 1  # a cancelled job is not tried again
    if fn is jobs.clean_up:
        assert lines(tmp_path / "cleaned") == ["JobCancelled"]


@pytest.mark.parametrize("fn", RESIST, ids=lambda fn: fn.__name__)
def test_running_jobs_that_resist(tmp_path: Path, fn: Any) -> None:
    """After the grace its worker is killed. The slot is free only after that death; nothing is run again."""
    with Executor(max_workers=1) as executor:
        hung = executor.submit(stoppable(fn, grace=0.2, crash_retries=5), str(tmp_path))
        (pid,) = started(tmp_path)
        behind = [executor.submit(stoppable(jobs.attempt_of, crash_retries=0), number) for number in range(5)]
        begin = time.monotonic()
        assert hung.cancel(running=True)
        assert time.monotonic() - begin < 5  # it does not wait
        assert not hung.done()
        check_cancelled(hung)
        assert time.monotonic() - begin >= 0.2
        assert not support.alive(pid)
        assert [future.result(10) for future in behind] == [(number, 1) for number in range(5)]
    assert len(lines(tmp_path / "started")) == 1


def test_running_sleep_itself() -> None:
    with Executor(max_workers=1) as executor:
        pid = executor.submit(os.getpid).result(10)
        for _ in range(5):
            hung = executor.submit(stoppable(time.sleep), 600)
            support.wait_for(lambda: executor.running(), "the job")
            assert hung.cancel(running=True)
            check_cancelled(hung)
        assert executor.submit(os.getpid).result(10) == pid


def test_running_job_that_returns_nevertheless_has_its_result(tmp_path: Path) -> None:
    with Executor(max_workers=1) as executor:
        future = executor.submit(stoppable(jobs.clean_up_and_return), str(tmp_path))
        started(tmp_path)
        assert future.cancel(running=True)
        assert future.result(10) == "stopped by JobCancelled"
        assert not future.cancelled()
        assert not future.cancel(running=True)


@pytest.mark.parametrize("how", ["in_python", "in_c"])
def test_while_it_is_unpickled(tmp_path: Path, how: str) -> None:
    with Executor(max_workers=1) as executor:
        future = executor.submit(
            stoppable(jobs.take, grace=0.2 if how == "in_c" else 30), jobs.HangsLoading(str(tmp_path), how)
        )
        started(tmp_path)
        assert future.cancel(running=True)
        check_cancelled(future)
        assert executor.submit(fault_jobs.square, 3).result(10) == 9
    assert len(lines(tmp_path / "started")) == 1


@pytest.mark.parametrize("how", ["in_python", "in_c"])
def test_while_its_result_is_pickled(tmp_path: Path, how: str) -> None:
    with Executor(max_workers=1) as executor:
        future = executor.submit(stoppable(jobs.give_hanging, grace=0.2 if how == "in_c" else 30), (str(tmp_path), how))
        started(tmp_path)
        assert future.cancel(running=True)
        check_cancelled(future)
        assert executor.submit(fault_jobs.square, 3).result(10) == 9
    assert len(lines(tmp_path / "started")) == 1


def test_a_stopped_worker(tmp_path: Path) -> None:
    """SIGSTOP: it cannot heed, so it is killed after the grace."""
    with Executor(max_workers=1) as executor:
        future = executor.submit(stoppable(fault_jobs.hold, grace=0.2), str(tmp_path))
        (pid,) = started(tmp_path)
        os.kill(pid, signal.SIGSTOP)
        assert future.cancel(running=True)
        check_cancelled(future)
        support.wait_gone({pid})


def test_while_its_worker_dies(tmp_path: Path) -> None:
    """Its worker is killed by somebody else at the same time: cancelled or lost, but not run again."""
    with Executor(max_workers=2) as executor:
        for attempt in range(6):
            folder = tmp_path / str(attempt)
            folder.mkdir()
            future = executor.submit(stoppable(fault_jobs.hold), str(folder))
            (pid,) = started(folder)
            steps = [lambda pid=pid: os.kill(pid, signal.SIGKILL), lambda future=future: future.cancel(running=True)]
            for step in steps if attempt % 2 else steps[::-1]:
                step()
            check_cancelled(future)
            assert len(lines(folder / "started")) == 1


# --- between attempts, and after the end ---


def test_between_two_attempts(tmp_path: Path) -> None:
    """During the pause before a retry: final at once."""
    path = tmp_path / "attempts"
    with Executor(max_workers=1) as executor:
        task = stoppable(jobs.fail_until, retries=5, backoff=60)
        future = executor.submit(task, str(path), 9, "ValueError")
        support.wait_for(lambda: lines(path) and not future.running(), "the pause")
        assert future.cancel(running=True)
        check_cancelled(future)
        assert executor.submit(fault_jobs.square, 3).result(10) == 9
    assert len(lines(path)) == 1


def test_done() -> None:
    with Executor(max_workers=1) as executor:
        good, bad = executor.submit(fault_jobs.square, 3), executor.submit(fault_jobs.raise_chain)
        assert good.result(10) == 9
        assert type(bad.exception(10)) is ValueError
        assert not good.cancel(running=True)
        assert not bad.cancel(running=True)
        assert good.result(0) == 9
        assert type(bad.exception(0)) is ValueError


def test_finishing_just_now() -> None:
    """Cancelled at about the time of their end: each has its result or is cancelled, and says the same ever after."""
    chance = random.Random(3)
    ended: list[int] = []
    with Executor(max_workers=2) as executor:
        for number in range(300):
            future = executor.submit(stoppable(jobs.sleep_after), number, 0.002)
            future.add_done_callback(lambda done, number=number: ended.append(number))
            time.sleep(chance.random() * 0.004)
            future.cancel(running=True)
            try:
                assert future.result(10) == number
                assert not future.cancelled()
                assert not future.cancel(running=True)
            except CancelledError:
                check_cancelled(future)
    assert sorted(ended) == list(range(300))  # each once


# --- from where, and who is told ---


def test_twice_and_from_many_threads(tmp_path: Path) -> None:
    ended: list[Any] = []
    with Executor(max_workers=1) as executor:
        hung = executor.submit(stoppable(jobs.clean_up), str(tmp_path), 0.1)
        hung.add_done_callback(ended.append)
        started(tmp_path)
        said: list[bool] = []
        threads = [threading.Thread(target=lambda: said.append(hung.cancel(running=True))) for _ in range(8)]
        for thread in threads:
            thread.start()
        assert hung.cancel(running=True)
        for thread in threads:
            thread.join()
        check_cancelled(hung)
        assert said == [True] * 8
    assert ended == [hung]
    assert lines(tmp_path / "cleaned") == ["JobCancelled"]  # once, not while it cleans up


def test_from_a_callback(tmp_path: Path) -> None:
    with Executor(max_workers=2) as executor:
        hung = executor.submit(stoppable(fault_jobs.hold), str(tmp_path))
        started(tmp_path)
        executor.submit(fault_jobs.square, 3).add_done_callback(lambda done: hung.cancel(running=True))
        check_cancelled(hung)


def test_wait_as_completed_and_callbacks_see_it(tmp_path: Path) -> None:
    with Executor(max_workers=2) as executor:
        hung = executor.submit(stoppable(fault_jobs.hold), str(tmp_path))
        started(tmp_path)
        good = executor.submit(fault_jobs.square, 3)
        called = threading.Event()
        hung.add_done_callback(lambda done: called.set() if done.cancelled() else None)
        waiting = concurrent.futures.as_completed([hung, good], timeout=10)
        assert next(waiting) is good
        hung.cancel(running=True)
        assert next(waiting) is hung
        assert called.wait(10)
        done, left = concurrent.futures.wait([hung, good], timeout=10)
        assert (done, left) == ({hung, good}, set())


def test_cancel_from_a_signal_handler(tmp_path: Path) -> None:
    """A handler may run anywhere in the main thread, also inside `submit`."""
    with Executor(max_workers=2) as executor:
        hung = executor.submit(stoppable(fault_jobs.hold), str(tmp_path))
        started(tmp_path)
        before = signal.signal(signal.SIGALRM, lambda number, frame: hung.cancel(running=True))
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            while not hung.done():
                assert executor.submit(fault_jobs.square, 3).result(10) == 9
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        check_cancelled(hung)


# --- closing ---


@pytest.mark.parametrize("fn", [fault_jobs.hold, jobs.hang_in_c], ids=lambda fn: fn.__name__)
def test_closing_at_once_afterwards(tmp_path: Path, fn: Any) -> None:
    with Executor(max_workers=2) as executor:
        hung = executor.submit(stoppable(fn, grace=0.2), str(tmp_path))
        started(tmp_path)
        hung.cancel(running=True)
        begin = time.monotonic()
    assert time.monotonic() - begin < 2.5  # nobody had to be waited for
    check_cancelled(hung, 0)


@pytest.mark.parametrize("fn", [fault_jobs.hold, jobs.hang_in_c], ids=lambda fn: fn.__name__)
def test_after_shutdown_has_begun(tmp_path: Path, fn: Any) -> None:
    executor = Executor(max_workers=1)
    hung = executor.submit(stoppable(fn, grace=0.2), str(tmp_path))
    queued = [executor.submit(jobs.attempt_of, number) for number in range(5)]
    started(tmp_path)
    executor.shutdown(wait=False)
    assert hung.cancel(running=True)
    assert queued[2].cancel(running=True)
    check_cancelled(hung)
    check_cancelled(queued[2])
    executor.shutdown()
    assert [queued[number].result(0) for number in (0, 1, 3, 4)] == [(number, 1) for number in (0, 1, 3, 4)]


def test_after_the_end(tmp_path: Path) -> None:
    with Executor(max_workers=1) as executor:
        future = executor.submit(fault_jobs.square, 3)
    assert not future.cancel(running=True)
    executor = Executor(max_workers=1)
    lost = executor.submit(fault_jobs.hold, str(tmp_path))
    started(tmp_path)
    lost.cancel(running=True)
    executor.kill()
    assert lost.done()
    assert lost.cancelled() or type(lost.exception()) is ztasks.WorkerLost


# --- all at once ---


def test_stress(tmp_path: Path) -> None:
    """Thousands of random cancels among random short jobs: each ends once, results are right, nobody is charged."""
    chance, ran = random.Random(11), tmp_path / "ran"
    ended: dict[int, int] = {}
    tasks = [
        stoppable(jobs.once, crash_retries=0),
        stoppable(jobs.sleep_after, crash_retries=0),
        ztasks.options(jobs.sleep_after, timeout=30, grace=30, crash_retries=0),
    ]
    with Executor(max_workers=3) as executor:
        futures: list[ztasks.Future[int]] = []
        for number in range(3000):
            kind = chance.randrange(3)
            seconds = chance.choice([0, 0, 0, 0.0005, 0.003])
            future = executor.submit(tasks[kind], number, *((str(ran), seconds) if kind == 0 else (seconds,)))
            future.add_done_callback(
                lambda done, number=number: ended.__setitem__(number, ended.get(number, 0) + 1)  # type: ignore[misc]
            )
            futures.append(future)
            while chance.random() < 0.6:
                futures[-min(len(futures), 1 + int(chance.expovariate(0.05)))].cancel(running=chance.random() < 0.8)
        _, left = concurrent.futures.wait(futures, 60)
        assert not left
        cancelled = {number for number, future in enumerate(futures) if future.cancelled()}
        assert all(futures[number].result(0) == number for number in range(3000) if number not in cancelled)
        assert 300 < len(cancelled) < 2700
    assert ended == dict.fromkeys(range(3000), 1)
    noted = lines(ran)
    assert len(noted) == len(set(noted))  # none has begun twice
    complete = {int(line.split()[1]) for line in noted if line.startswith("ended")}
    assert {n for n, future in enumerate(futures) if not future.cancelled()} & {
        int(line.split()[1]) for line in noted
    } <= complete
