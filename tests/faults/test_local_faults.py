"""The fault matrix, as far as it concerns the embedded executor: each test is named after its row.

One invariant: every job ends exactly once; whoever is innocent is not blamed; nothing is left.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import fault_jobs as jobs
import pytest
import support

import ztasks
from ztasks import Executor


def started(folder: Path, attempts: int = 1) -> list[int]:
    """Wait until the held job has begun so many times; return who ran it."""
    file = folder / "started"
    return support.wait_for(
        lambda: (
            pids
            if file.exists()
            and len(pids := [int(line.split()[0]) for line in file.read_text().splitlines() if line]) >= attempts
            else []
        ),
        f"attempt {attempts} of the job",
    )


# --- 1: SIGKILL of a worker ---


def test_row_01_sigkill_while_running(tmp_path: Path) -> None:
    """Noticed at once; the job runs again; the worker is replaced; nobody else is touched."""
    before = support.workers()
    with Executor(max_workers=2) as executor:
        held = executor.submit(jobs.hold, str(tmp_path))
        (victim,) = started(tmp_path)
        others = [executor.submit(jobs.square, number) for number in range(200)]
        begin = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        pids = started(tmp_path, 2)
        assert time.monotonic() - begin < 5
        assert pids[1] != victim
        (tmp_path / "release").touch()
        assert held.result(10) == pids[1]
        assert [future.result(10) for future in others] == [number * number for number in range(200)]
        support.wait_for(
            # from the first death on, a spare may have come up as well
            lambda: victim not in support.workers() and len(support.workers() - before) in (2, 3),
            "a new worker",
        )


@pytest.mark.parametrize(
    "phase", ["starting", "idle", "queued behind it", "in its lane", "result in flight", "draining"]
)
def test_row_01_sigkill_by_phase(tmp_path: Path, phase: str) -> None:
    ran = str(tmp_path / "ran")
    before = support.workers()
    executor = Executor(max_workers=1)
    with executor:
        futures: list[concurrent.futures.Future[int]] = []
        if phase != "starting":
            executor.submit(jobs.square, 1).result(10)
        if phase in ("queued behind it", "in its lane"):
            for _ in range(100 if phase == "in its lane" else 0):  # known to be quick: many travel together
                executor.submit(jobs.counted, -1, os.devnull).result(10)
            held = executor.submit(jobs.hold, str(tmp_path))
        if phase == "idle":
            pass
        elif phase == "result in flight":
            futures = [executor.submit(jobs.counted, number, ran) for number in range(500)]
            support.wait_for(lambda: any(future.done() for future in futures), "the first results")
        else:
            futures = [executor.submit(jobs.counted, number, ran) for number in range(20)]
        if phase in ("queued behind it", "in its lane"):
            started(tmp_path)
        if phase == "draining":
            executor.shutdown(wait=False)
        victims = support.wait_for(lambda: support.workers() - before, "a worker")
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        if phase in ("queued behind it", "in its lane"):
            started(tmp_path, 2)
            (tmp_path / "release").touch()
            held.result(10)
        assert [future.result(10) for future in futures] == list(range(len(futures)))
        if phase != "draining":
            assert executor.submit(jobs.square, 3).result(10) == 9
    executor.shutdown()
    lines = Path(ran).read_text().split() if Path(ran).exists() else []
    assert {int(line) for line in lines} == set(range(len(futures)))
    if phase in ("queued behind it", "in its lane"):
        assert len(lines) == len(futures)  # none had begun: none has run twice


def test_row_01_sigkill_in_a_map_costs_nobody_a_result(tmp_path: Path) -> None:
    """Workers are killed again and again while a map runs: all results come, in order."""
    ran = tmp_path / "ran"
    ended = threading.Event()

    def kill_now_and_then() -> None:
        killed: set[int] = set()
        while not ended.wait(0.05) and len(killed) < 6:
            pid = int(ran.read_text().split()[-1]) if ran.exists() else 0
            if pid in support.workers() - killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    with Executor(max_workers=2) as executor:
        task = ztasks.options(jobs.counted_with_pid, crash_retries=100)
        assert list(executor.map(task, range(2000), itertools.repeat(str(ran)), [0.0005] * 2000)) == list(range(2000))
        ended.set()
        killer.join()
    assert {int(line.split()[0]) for line in ran.read_text().splitlines()} == set(range(2000))


def test_row_01_only_the_culprit_of_a_slice_is_charged() -> None:
    with Executor(max_workers=2) as executor:
        task = ztasks.options(jobs.die_if, crash_retries=1)
        list(executor.map(task, range(500), itertools.repeat(-1)))  # known to be quick: slices of many
        outcomes = list(executor.outcomes(task, range(300), itertools.repeat(150)))
    assert [outcome.index for outcome in outcomes if not outcome.ok] == [150]
    assert type(outcomes[150].exception) is ztasks.PoisonJob
    assert [outcome.value for outcome in outcomes if outcome.ok] == [n for n in range(300) if n != 150]


def test_row_01_a_job_that_kills_once_survives(tmp_path: Path) -> None:
    with Executor(max_workers=1) as executor:
        assert executor.submit(jobs.die_once, str(tmp_path / "once")).result(10) == "survived"


# --- 2, 3: a job that takes its worker down ---


@pytest.mark.parametrize(
    ("fn", "args", "words"),
    [
        (jobs.segfault, (), "SIGSEGV"),
        (jobs.die_by_signal, (signal.SIGKILL,), "SIGKILL"),
        (jobs.die_by_signal, (signal.SIGABRT,), "SIGABRT"),
        (jobs.exit_now, (7,), "exited with code 7"),
        (jobs.exit_now, (0,), "exited with code 0"),
    ],
)
def test_row_02_03_poison_job_with_its_history(capfd: Any, fn: Any, args: tuple[Any, ...], words: str) -> None:
    """The third death is the last; the history tells of each; the others go on."""
    with Executor(max_workers=2) as executor:
        bad = executor.submit(fn, *args)
        good = [executor.submit(jobs.square, number) for number in range(100)]
        error = bad.exception(20)
        assert type(error) is ztasks.PoisonJob
        assert isinstance(error, ztasks.WorkerLost)
        assert words in str(error)
        assert len(error.history) == 3
        assert all(words in line for line in error.history)
        assert [future.result(10) for future in good] == [number * number for number in range(100)]
        assert executor.submit(jobs.square, 5).result(10) == 25


@pytest.mark.parametrize("retries", [0, 1, 4])
def test_row_03_crash_retries(tmp_path: Path, retries: int) -> None:
    path = tmp_path / "attempts"
    with Executor(max_workers=1) as executor:
        error = executor.submit(ztasks.options(jobs.exit_now, crash_retries=retries), 1, str(path)).exception(20)
    assert type(error) is ztasks.PoisonJob
    assert len(error.history) == retries + 1
    assert len(path.read_text().split()) == retries + 1


def test_row_03_poison_in_a_map_at_its_place() -> None:
    with Executor(max_workers=2) as executor:
        results = executor.map(jobs.die_if, range(10), itertools.repeat(5))
        assert list(itertools.islice(results, 5)) == [0, 1, 2, 3, 4]
        with pytest.raises(ztasks.PoisonJob):
            next(results)


# --- 6, 7: what jobs start ---


def test_row_06_all_that_a_job_has_started_dies_with_its_worker(tmp_path: Path) -> None:
    with Executor(max_workers=1) as executor:
        future = executor.submit(ztasks.options(jobs.start_processes, crash_retries=0), str(tmp_path))
        started(tmp_path)
        pids = {int(pid) for pid in (tmp_path / "started").read_text().split()}
        assert len(pids) == 3
        assert all(map(support.alive, pids))
        worker = int((tmp_path / "started").read_text().split()[0])
        os.kill(worker, signal.SIGKILL)
        support.wait_gone(pids, 3)
        with pytest.raises(ztasks.WorkerLost):
            future.result(10)


def test_row_06_all_that_jobs_have_left_is_gone_after_close() -> None:
    with Executor(max_workers=1) as executor:
        pid = executor.submit(jobs.leave_process, 600).result(10)
        assert support.alive(pid)
    support.wait_gone({pid}, 3)


def test_row_06_a_killed_executor_takes_along_what_its_jobs_started(tmp_path: Path) -> None:
    executor = Executor(max_workers=1)
    executor.submit(jobs.start_processes, str(tmp_path))
    started(tmp_path)
    executor.kill()
    support.wait_gone({int(pid) for pid in (tmp_path / "started").read_text().split()}, 3)


def test_row_07_a_forked_child_that_lives_on_does_not_hold_up_the_end(tmp_path: Path) -> None:
    begin = time.monotonic()
    with Executor(max_workers=1) as executor:
        child = executor.submit(jobs.fork_and_live, str(tmp_path)).result(10)
        assert executor.submit(jobs.square, 4).result(10) == 16
    assert time.monotonic() - begin < 8
    support.wait_gone({child}, 3)


@pytest.mark.parametrize("fn", [jobs.fork_and_return, jobs.fork_and_raise])
def test_row_07_a_forked_child_that_returns_from_the_job(fn: Any) -> None:
    with Executor(max_workers=1) as executor:
        for _ in range(3):
            assert executor.submit(fn).result(10).startswith("from the parent")
        assert executor.submit(jobs.square, 4).result(10) == 16


# --- 8 to 12: what does not pickle ---


@pytest.mark.parametrize("fn", [jobs.generator, threading.Lock, lambda: (yield)])
def test_row_08_result_that_cannot_be_pickled(shared: Executor, fn: Any) -> None:
    before = support.workers()
    with pytest.raises(ztasks.ResultNotPicklable, match="cannot be pickled"):
        shared.submit(fn).result(10)
    assert shared.submit(jobs.square, 4).result(10) == 16
    assert support.workers() == before


@pytest.mark.parametrize("how", ["raises", "name"])
def test_row_09_result_that_fails_to_unpickle(shared: Executor, how: str) -> None:
    futures = [shared.submit(jobs.square, 2), shared.submit(jobs.not_loadable, how), shared.submit(jobs.square, 3)]
    assert futures[0].result(10) == 4
    with pytest.raises(ztasks.ResultNotLoadable, match="does not unpickle"):
        futures[1].result(10)
    assert futures[2].result(10) == 9


def test_row_10_exception_whose_constructor_breaks_unpickling(shared: Executor) -> None:
    with pytest.raises(ztasks.RemoteError, match="7: seven") as caught:
        shared.submit(jobs.raise_two_arguments).result(10)
    assert caught.value.type_name.endswith("TwoArguments")
    assert "in raise_two_arguments" in caught.value.traceback


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt("a"), ExceptionGroup("g", [ValueError("one")]), ValueError("x"), GeneratorExit()],
    ids=lambda error: type(error).__name__,
)
def test_row_11_exceptions_of_all_kinds(shared: Executor, error: BaseException) -> None:
    before = support.workers()
    caught = shared.submit(jobs.raise_error, error).exception(10)
    assert type(caught) is type(error)
    assert "in raise_error" in str(ztasks.remote_traceback(caught))
    assert support.workers() == before


def test_row_11_chains(shared: Executor) -> None:
    caught = shared.submit(jobs.raise_chain).exception(10)
    assert type(caught) is ValueError
    assert "KeyError: 'inner'" in str(ztasks.remote_traceback(caught))


def test_row_12_argument_that_cannot_be_pickled(shared: Executor) -> None:
    lock = threading.Lock()
    with pytest.raises(ztasks.CallNotPicklable, match="lock"):
        shared.submit(jobs.square, lock)
    with pytest.raises(ztasks.CallNotPicklable, match="lock"):
        shared.submit(lambda: lock.locked())
    assert shared.submit(jobs.square, 2).result(10) == 4


# --- 13: a missing module ---


def test_row_13_module_missing_in_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names module, host, sys.path and the cure."""
    module = tmp_path / "zt_vanishing.py"
    module.write_text("def work():\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import zt_vanishing  # type: ignore[import-not-found]

    module.unlink()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    try:
        with Executor(max_workers=1) as executor:
            with pytest.raises(ztasks.CallNotLoadable) as caught:
                executor.submit(zt_vanishing.work).result(10)
            for words in ("zt_vanishing", os.uname().nodename, str(tmp_path), "install it"):
                assert words in str(caught.value)
            assert executor.submit(jobs.square, 2).result(10) == 4
    finally:
        del sys.modules["zt_vanishing"]


def test_row_13_name_missing_in_the_module(shared: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that only this process has put into a module travels by value or fails with a typed error."""

    def added() -> int:
        return 5

    added.__module__, added.__qualname__ = "fault_jobs", "added"
    monkeypatch.setattr(jobs, "added", added, raising=False)
    with pytest.raises(ztasks.CallNotLoadable, match="added"):
        shared.submit(added).result(10)


# --- 15: inputs of a map ---


def test_row_15_input_raises_midway(shared: Executor) -> None:
    def items() -> Iterator[int]:
        yield from range(100)
        raise OSError("the disk is gone")

    results = shared.map(jobs.square, items())
    assert list(itertools.islice(results, 100)) == [n * n for n in range(100)]
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)


def test_row_15_consumer_stops_early(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with Executor(max_workers=2) as executor:
        results = executor.map(jobs.counted, itertools.count(), itertools.repeat(str(ran)), itertools.repeat(0.001))
        assert list(itertools.islice(results, 10)) == list(range(10))
        results.close()  # type: ignore[attr-defined]
        assert executor.submit(jobs.square, 2).result(10) == 4
    assert len(ran.read_text().split()) < 5000


# --- 17: the user's process dies ---


@pytest.mark.parametrize("what", ["start_processes", "busy_holding_gil", "hold"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_row_17_workers_die_with_the_users_process(tmp_path: Path, what: str, how: signal.Signals) -> None:
    """Workers and what their jobs have started are gone within a second, whatever they are doing."""
    text = f"""
    import sys, ztasks
    sys.path.insert(0, {str(Path(jobs.__file__).parent)!r})
    import fault_jobs
    executor = ztasks.Executor(max_workers=2)
    future = executor.submit(fault_jobs.{what}, {str(tmp_path)!r})
    idle = executor.submit(fault_jobs.square, 2).result()
    future.result()
    """
    with support.running("-X", "faulthandler=0", str(support.write_script(tmp_path, text))) as process:
        started(tmp_path)
        support.wait_for(lambda: len(support.workers(process.pid)) == 2, "two workers")
        pids = support.workers(process.pid) | {int(pid) for pid in (tmp_path / "started").read_text().split()}
        begin = time.monotonic()
        process.send_signal(how)
        support.wait_gone(pids, 3)
        assert time.monotonic() - begin < 2
    with Executor(max_workers=1):  # sweeps its directory
        pass


# --- 18: closing ---


@pytest.mark.parametrize("cancel", [True, False])
def test_row_18_close_with_jobs_queued_and_running(tmp_path: Path, cancel: bool) -> None:
    executor = Executor(max_workers=1)
    running = executor.submit(jobs.hold, str(tmp_path))
    started(tmp_path)
    queued = [executor.submit(jobs.square, number) for number in range(10)]
    executor.shutdown(wait=False, cancel_futures=cancel)
    (tmp_path / "release").touch()
    executor.shutdown()
    assert running.done()
    assert [future.cancelled() for future in queued] == [cancel] * 10


def test_row_18_kill_with_a_job_that_hangs_holding_the_gil(tmp_path: Path) -> None:
    executor = Executor(max_workers=1)
    hung = executor.submit(jobs.busy_holding_gil, str(tmp_path))
    queued = executor.submit(jobs.square, 2)
    started(tmp_path)
    begin = time.monotonic()
    executor.kill()
    assert time.monotonic() - begin < 2
    with pytest.raises(ztasks.WorkerLost):
        hung.result(0)
    with pytest.raises((CancelledError, ztasks.WorkerLost)):
        queued.result(0)


def test_row_18_close_from_a_callback_and_twice() -> None:
    executor = Executor(max_workers=1)
    closed = threading.Event()

    def close(future: Any) -> None:
        executor.shutdown()
        executor.shutdown()
        closed.set()

    executor.submit(time.sleep, 0.05).add_done_callback(close)
    assert closed.wait(10)
    executor.shutdown()


# --- 19: after a fork ---


def test_row_19_used_after_fork(tmp_path: Path) -> None:
    """In the child: a typed error, no hang, no double close. The parent goes on."""
    text = """
    import os, warnings, ztasks
    warnings.filterwarnings("ignore", "This process", DeprecationWarning)  # of fork, from 3.12 on
    executor = ztasks.Executor(max_workers=1)
    future = executor.submit(pow, 2, 3)
    print(future.result(), flush=True)
    child = os.fork()
    if child == 0:
        for use, args in ((executor.submit, (abs, 1)), (executor.map, (abs, [1])), (executor.outcomes, (abs, [1]))):
            try:
                use(*args)
            except ztasks.ForkedExecutor:
                print("typed", flush=True)
        print(future.result(), flush=True)
        executor.shutdown()
        executor.kill()
        with ztasks.Executor(max_workers=1) as own:
            print(own.submit(pow, 2, 4).result(), flush=True)
        raise SystemExit(3)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), executor.submit(pow, 2, 5).result())
    executor.shutdown()
    """
    assert support.check_script(tmp_path, text) == "8\ntyped\ntyped\ntyped\n8\n16\n3 32\n"


def test_row_19_multiprocessing_fork_with_an_open_executor(tmp_path: Path) -> None:
    text = """
    import multiprocessing, warnings, ztasks
    warnings.filterwarnings("ignore", "This process", DeprecationWarning)  # of fork, from 3.12 on
    context = multiprocessing.get_context("fork")

    def child(queue):
        try:
            executor.submit(pow, 2, 3)
        except ztasks.ForkedExecutor as error:
            queue.put(type(error).__name__)

    with ztasks.Executor(max_workers=1) as executor:
        print(executor.submit(pow, 2, 3).result(), flush=True)
        queue = context.SimpleQueue()
        process = context.Process(target=child, args=(queue,))
        process.start()
        print(queue.get())
        process.join(10)
        print(process.exitcode, executor.submit(pow, 2, 5).result())
    """
    assert support.check_script(tmp_path, text) == "8\nForkedExecutor\n0 32\n"


# --- 21: workers that cannot start ---


def test_row_21_import_error_in_preload() -> None:
    with Executor(max_workers=2, preload=["zt_no_such_module"]) as executor:
        begin = time.monotonic()
        with pytest.raises(ztasks.WorkersCannotStart, match="zt_no_such_module"):
            executor.submit(jobs.square, 2).result(10)
        assert time.monotonic() - begin < 8
        with pytest.raises(ztasks.WorkersCannotStart):
            list(executor.map(jobs.square, range(100)))
        with pytest.raises(ztasks.WorkersCannotStart):
            executor.submit(jobs.square, 2).result(10)


def test_row_21_module_that_breaks_the_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zt_breaking.py").write_text(
        "import os, sys\nsys.stderr.write('licence server down\\n')\nos._exit(4)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with (
        Executor(max_workers=2, preload=["zt_breaking"], output=lambda lines: None) as executor,
        pytest.raises(ztasks.WorkersCannotStart, match=r"exited with code 4(.|\n)*licence server down"),
    ):
        executor.submit(jobs.square, 2).result(10)


def test_row_21_bad_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with Executor(max_workers=2) as executor, pytest.raises(ztasks.WorkersCannotStart, match="cannot be started"):
        executor.submit(jobs.square, 2).result(10)


def test_row_21_interpreter_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'cannot find libpython' >&2\nexit 127\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with (
        Executor(max_workers=2, output=lambda lines: None) as executor,
        pytest.raises(ztasks.WorkersCannotStart, match=r"code 127(.|\n)*cannot find libpython"),
    ):
        executor.submit(jobs.square, 2).result(10)


def test_row_21_workers_cannot_start_and_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened and closed all the same, in bounded time."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    begin = time.monotonic()
    with Executor(max_workers=2):
        pass
    assert time.monotonic() - begin < 5


# --- 22: a stopped worker ---


def test_row_22_stopped_and_continued(tmp_path: Path) -> None:
    """The job finishes once; the other worker goes on meanwhile, and takes over what was not begun."""
    ran = str(tmp_path / "ran")
    with Executor(max_workers=2) as executor:
        for _ in range(3):
            list(executor.map(jobs.square, range(1000)))
        held = executor.submit(jobs.hold, str(tmp_path))
        (worker,) = started(tmp_path)
        os.kill(worker, signal.SIGSTOP)
        try:
            others = [executor.submit(jobs.counted, number, ran) for number in range(300)]
            assert [future.result(10) for future in others] == list(range(300))
            (tmp_path / "release").touch()
            assert not held.done()
        finally:
            os.kill(worker, signal.SIGCONT)
        assert held.result(10) == worker
    assert len((tmp_path / "started").read_text().split()) == 1
    assert sorted(map(int, Path(ran).read_text().split())) == list(range(300))


def test_row_22_a_stopped_idle_worker_does_not_hold_up_the_end() -> None:
    before = support.workers()
    with Executor(max_workers=2) as executor:
        executor.submit(jobs.square, 2).result(10)
        victims = support.wait_for(lambda: len(found := support.workers() - before) == 2 and found, "two workers")
        os.kill(min(victims), signal.SIGSTOP)
        begin = time.monotonic()
    assert time.monotonic() - begin < 8


def test_row_22_a_stopped_worker_that_is_killed(tmp_path: Path) -> None:
    with Executor(max_workers=1) as executor:
        held = executor.submit(jobs.hold, str(tmp_path))
        (worker,) = started(tmp_path)
        os.kill(worker, signal.SIGSTOP)
        os.kill(worker, signal.SIGKILL)
        second = started(tmp_path, 2)[1]
        (tmp_path / "release").touch()
        assert held.result(10) == second != worker
