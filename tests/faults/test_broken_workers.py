"""Jobs that leave their worker broken in some way: it may fail or die, but nothing hangs and nothing is left."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import fault_jobs
import hard_jobs as jobs
import pytest
import support
from tracks import lines

import ztasks
from ztasks import Executor, PoisonJob, WorkerLost, WorkersCannotStart
from ztasks.io import head, timekeeper, watch

MIB = 1 << 20


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sent and does not arrive is missed sooner, and workers that do not leave are killed sooner."""
    monkeypatch.setattr(timekeeper, "ARRIVALS_EVERY", 0.1)
    monkeypatch.setattr(timekeeper, "LOST_LOOKS", 5)
    monkeypatch.setattr(head, "STOP_SECONDS", 0.5)
    monkeypatch.setattr(watch, "EXIT_SECONDS", 0.5)


def close_in_worker(low: int, high: int) -> list[BaseException | None]:
    """Let a job close these descriptors of its worker; return how it and three jobs behind it have ended."""
    task = ztasks.options(fault_jobs.square, retries=2, backoff=0)
    with Executor(max_workers=1, output=lambda text: None) as executor:
        executor.submit(fault_jobs.square, 2).result(10)
        futures = [executor.submit(jobs.close_descriptors, low, high)]
        futures += [executor.submit(task, 3) for _ in range(3)]
        ends = [future.exception(20) for future in futures]
        begin = time.monotonic()
    assert time.monotonic() - begin < 5
    return ends


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "descriptors", [[(3, 256)], *([(n, n + 1) for n in range(low, low + 4)] for low in (3, 7, 11, 15))]
)
def test_row_02_a_job_closes_what_is_not_its_own(descriptors: list[tuple[int, int]]) -> None:
    """Every descriptor of a worker, one at a time, and all at once: its sockets, cell, lifeline and files."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for first, *others in pool.map(close_in_worker, *zip(*descriptors, strict=True)):
            assert isinstance(first, WorkerLost | OSError | type(None))
            assert others == [None] * 3


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("pause", [0, 0.05])
def test_row_18_closing_while_the_only_worker_is_stopped(pause: float) -> None:
    with Executor(max_workers=1) as executor:
        pid = executor.submit(os.getpid).result(10)
        time.sleep(pause)  # the head goes to sleep meanwhile, or not
        os.kill(pid, signal.SIGSTOP)
        begin = time.monotonic()
    assert 0.4 < time.monotonic() - begin < 5
    assert not support.alive(pid)


def test_row_07_a_process_that_leaves_the_group_does_not_hold_up_the_end() -> None:
    """It is nobody's any more, and holds its worker's stderr open: the end does not wait for that."""
    begin = time.monotonic()
    with Executor(max_workers=1) as executor:
        pid = executor.submit(jobs.leave_the_group, 60).result(10)
    try:
        assert time.monotonic() - begin < 8
        assert support.alive(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
    support.wait_gone({pid})


@pytest.mark.usefixtures("impatient")
def test_row_18_a_job_leaves_a_thread_that_does_not_end() -> None:
    with Executor(max_workers=1) as executor:
        assert executor.submit(jobs.leave_a_thread, 600).result(10) == 1
        begin = time.monotonic()
    assert time.monotonic() - begin < 8


def test_row_04_workers_that_are_too_large_from_the_beginning() -> None:
    """Said within seconds, with the limit."""
    begin = time.monotonic()
    with (
        Executor(max_workers=2, kill_memory_per_child="2MiB", initializer=time.sleep, initargs=(60,)) as executor,
        pytest.raises(WorkersCannotStart, match="limit of 2 MiB"),
    ):
        executor.submit(fault_jobs.square, 2).result(20)
    assert time.monotonic() - begin < 15


@pytest.mark.usefixtures("impatient")
def test_row_14_no_memory_in_the_worker_to_receive() -> None:
    """RLIMIT_AS in the worker: what cannot arrive there is missed; its job ends in bounded time, others go on."""
    limit = jobs.limit_address_space
    with Executor(max_workers=1, initializer=limit, initargs=(64 * MIB,), output=lambda text: None) as executor:
        large = executor.submit(ztasks.options(len, crash_retries=1), bytes(200 * MIB))
        small = [executor.submit(fault_jobs.square, number) for number in range(10)]
        error = large.exception(20)
        assert type(error) is PoisonJob
        assert "enough memory in the worker" in str(error)
        assert [future.result(10) for future in small] == [number * number for number in range(10)]


def test_row_02_last_words_are_cut() -> None:
    """The last 4 KiB of stderr; also of a line that does not end."""
    with Executor(max_workers=1, output=lambda text: None) as executor:
        error = executor.submit(ztasks.options(jobs.shout_and_die, crash_retries=0), 100_000).exception(10)
    assert isinstance(error, PoisonJob)
    assert error.certificate is not None
    assert 1000 < len(error.certificate.stderr) <= 4096
    assert error.certificate.stderr.endswith("x the end")
    assert len(str(error)) < 10_000


def test_row_02_a_thread_of_the_job_crashes() -> None:
    """The stack is that of the thread that did it."""
    with Executor(max_workers=1, output=lambda text: None) as executor:
        error = executor.submit(ztasks.options(jobs.crash_in_a_thread, crash_retries=0)).exception(10)
    assert isinstance(error, PoisonJob)
    assert error.certificate is not None
    assert error.certificate.signal == "SIGSEGV"
    assert "in read_address" in error.certificate.stack


def test_row_05_timeouts_failures_and_crashes_in_one_history(tmp_path: Path) -> None:
    """What had to be killed for its timeout is a failure with a certificate, and no crash."""
    path = tmp_path / "attempts"
    task = ztasks.options(jobs.fail_or_die, retries=2, crash_retries=1, backoff=0, timeout=0.2, grace=0.05)
    with Executor(max_workers=1, output=lambda text: None) as executor:
        error = executor.submit(task, str(path), "tdfdr").exception(20)
    assert type(error) is PoisonJob
    assert path.stat().st_size == 4
    assert [death.attempt for death in error.certificates] == [1, 2, 4]
    assert "timeout" in error.certificates[0].reason
    for words, line in zip(["timeout", "code 2", "attempt 3", "code 4"], error.history, strict=True):
        assert words in line


@pytest.mark.parametrize("end", ["shutdown", "cancel_futures", "kill"])
def test_row_18_closing_during_the_pause_before_a_retry(tmp_path: Path, end: str) -> None:
    path = tmp_path / "attempts"
    executor = Executor(max_workers=1)
    task = ztasks.options(jobs.fail_until, retries=3, backoff=0.3 if end == "shutdown" else 60, jitter=0)
    future = executor.submit(task, str(path), 2, "ValueError")
    support.wait_for(lambda: lines(path) and not future.running(), "the pause")
    begin = time.monotonic()
    if end == "kill":
        executor.kill()
    else:
        executor.shutdown(cancel_futures=end == "cancel_futures")
    assert time.monotonic() - begin < 5
    assert future.cancelled() == (end != "shutdown")
    assert len(lines(path)) == (2 if end == "shutdown" else 1)


def test_row_15_an_endless_input_takes_constant_memory(tmp_path: Path) -> None:
    """Neither inputs nor results pile up, however long it goes on; dropping the iterator ends it."""
    text = f"""
    import itertools, sys
    sys.path[:0] = {[str(Path(jobs.__file__).parent), str(Path(support.__file__).parent)]!r}
    import fault_jobs, support, ztasks
    with ztasks.Executor(max_workers=2) as executor:
        results = executor.map(fault_jobs.square, itertools.count())
        sizes = []
        for _ in range(4):
            for _ in range(100_000):
                last = next(results)
            sizes.append(support.resident())
        del results
        print(last == 399_999**2, max(sizes[1:]) - sizes[0] < 16 << 20)
    """
    assert support.check_script(tmp_path, text, seconds=50) == "True True\n"


def test_row_15_an_input_that_raises_while_its_jobs_fail(shared: Executor) -> None:
    """Each at its place: the job's error first, the input's at the end."""

    def items() -> Any:
        yield from range(50)
        raise OSError("the disk is gone")

    outcomes: list[ztasks.Outcome[int]] = []
    with pytest.raises(OSError, match="the disk is gone"):
        outcomes.extend(shared.outcomes(jobs.fail_if_odd, items()))
    assert [outcome.ok for outcome in outcomes] == [True, False] * 25


def test_row_18_closed_by_several_threads_at_once(tmp_path: Path) -> None:
    """All return, when all is closed."""
    executor = Executor(max_workers=1)
    held = executor.submit(fault_jobs.hold, str(tmp_path))
    threads = [threading.Thread(target=executor.shutdown) for _ in range(6)]
    for thread in threads:
        thread.start()
    (tmp_path / "release").touch()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert held.done()
    assert not executor._head.thread.is_alive()
