"""Edges that a review found: closing races, a failed head, exceptions that resist, huge numbers, odd surroundings."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jobs
import pytest
import support

import ztasks
from ztasks import Executor, ExecutorClosed, HeadFailed, InvalidOption


class Slow:
    """Takes as long to pickle as the test wants."""

    def __init__(self, started: threading.Event, go_on: threading.Event) -> None:
        self.events = started, go_on

    def __reduce__(self) -> tuple[Any, ...]:
        started, go_on = self.events
        started.set()
        assert go_on.wait(10)
        return int, ()


def test_a_submit_that_is_overtaken_by_shutdown_ends() -> None:
    started, go_on = threading.Event(), threading.Event()
    executor = Executor(max_workers=1)
    assert executor.submit(pow, 2, 3).result(10) == 8
    caught: list[BaseException | None] = []

    def submit() -> None:
        try:
            caught.append(executor.submit(jobs.echo, Slow(started, go_on)).exception(10))
        except ExecutorClosed as error:
            caught.append(error)

    thread = threading.Thread(target=submit)
    thread.start()
    assert started.wait(10)
    closer = threading.Thread(target=executor.shutdown)
    closer.start()
    support.wait_for(lambda: executor._refuse is not None, "the shutdown")
    go_on.set()
    for waiting in (thread, closer):
        waiting.join(10)
        assert not waiting.is_alive()
    assert caught == [None] or isinstance(caught[0], ExecutorClosed)


def test_a_map_whose_input_is_overtaken_by_shutdown_ends() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def numbers() -> Any:
        yield 1
        inside.set()
        assert go_on.wait(10)
        yield 2

    executor = Executor(max_workers=1)
    seen: list[Any] = []

    def consume() -> None:
        try:
            seen.extend(executor.map(jobs.echo, numbers(), buffersize=1, return_exceptions=True))
        except BaseException as error:
            seen.append(error)

    thread = threading.Thread(target=consume)
    thread.start()
    assert inside.wait(10)
    executor.shutdown()
    go_on.set()
    thread.join(10)
    assert not thread.is_alive()
    assert seen[0] == 1
    assert all(isinstance(item, BaseException) for item in seen[1:])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_after_the_head_has_failed_everything_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", lambda *error: None)
    executor = Executor(max_workers=1)
    done = executor.submit(pow, 2, 3)
    assert done.result(10) == 8

    def defect() -> None:
        raise RuntimeError("a defect")

    executor._head.post(defect)
    executor._head.join()
    assert isinstance(executor.submit(pow, 2, 3).exception(10), HeadFailed)
    with pytest.raises(HeadFailed):
        list(executor.map(jobs.echo, [1]))
    assert done.result() == 8
    executor.shutdown()


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    number: int


def raise_frozen() -> None:
    raise Frozen(5)


def test_an_exception_that_forbids_assignment() -> None:
    with Executor(max_workers=1) as executor:
        error = executor.submit(raise_frozen).exception(10)
        assert isinstance(error, ztasks.RemoteError)  # it forbids its own unpickling, too
        assert error.type_name.endswith("Frozen")
        assert "raise_frozen" in error.traceback


def test_ctrl_c_while_the_end_of_a_with_waits(tmp_path: Path) -> None:
    """Once: what waits is cancelled, what runs is finished."""
    text = """
    import time, pathlib, ztasks
    with ztasks.Executor(max_workers=1) as executor:
        futures = [executor.submit(time.sleep, 1.5)] + [executor.submit(time.sleep, 600) for _ in range(5)]
        while not futures[0].running():
            time.sleep(0.01)
        print("leaving", flush=True)
    """
    script = support.write_script(tmp_path, text)
    with support.running(str(script)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "leaving\n"
        pids = support.wait_for(lambda: support.workers(process.pid), "a worker")
        time.sleep(0.2)  # it has begun to wait for what runs
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT
        support.wait_gone(pids)


def test_a_timeout_of_a_year() -> None:
    with Executor(max_workers=1) as executor:
        assert executor.submit(ztasks.options(jobs.echo, timeout="365d"), 1).result(10) == 1


def test_paths_in_sys_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, Path("/nowhere"), "/not-\udcff-text"])
    monkeypatch.setattr(sys, "argv", ["x", "\udcff"])
    with Executor(max_workers=1) as executor:
        assert executor.submit(pow, 2, 3).result(10) == 8


def test_a_worker_that_does_not_exit_is_replaced() -> None:
    def leave_a_thread() -> None:
        threading.Thread(target=time.sleep, args=(600,)).start()

    with Executor(max_workers=1, max_tasks_per_child=1) as executor:
        executor.submit(leave_a_thread).result(10)
        assert executor.submit(pow, 2, 3).result(20) == 8


def test_bytes_bound_a_map_with_a_buffersize() -> None:
    pulled = 0

    def blocks() -> Any:
        nonlocal pulled
        for _ in range(50):
            pulled += 1
            yield bytes(1_000_000)

    with Executor(max_workers=1) as executor:
        results = executor.map(len, blocks(), buffersize=50, buffer_bytes="5MB")
        assert next(results) == 1_000_000
        assert pulled < 20
        results.close()  # type: ignore[attr-defined]


class Kept:
    """Has a task as a method."""

    @ztasks.task(retries=4)
    def limit(self) -> int:
        job = ztasks.current_job()
        assert job is not None
        return job.max_attempts


def test_options_of_methods_and_partials() -> None:
    with Executor(max_workers=1) as executor:
        assert executor.submit(Kept().limit).result(10) == 5
        assert (
            executor.submit(functools.partial(ztasks.options(Kept.limit.ztasks_function, retries=2), Kept())).result(10)
            == 3
        )


def test_outcomes_keep_the_inputs_of_a_generator_that_reuses_its_row() -> None:
    def rows() -> Any:
        row = [0]
        for number in range(4):
            row[0] = number
            yield row

    with Executor(max_workers=1) as executor:
        assert [outcome.args for outcome in executor.outcomes(jobs.echo, rows())] == [([n],) for n in range(4)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"preload": None}, "preload"),
        ({"preload": 5}, "preload"),
        ({"initializer": print, "initargs": 5}, "initargs"),
        ({"output": 5}, "output"),
        ({"max_workers": 10**30}, "max_workers"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        Executor(**arguments)


def test_coroutine_functions_are_refused() -> None:
    with Executor(max_workers=1) as executor, pytest.raises(InvalidOption, match="coroutine"):
        executor.submit(asyncio.sleep, 1)


def test_polling_leaves_nothing_behind() -> None:
    with Executor(max_workers=1) as executor:
        future = executor.submit(time.sleep, 0.5)
        for _ in range(20):
            with pytest.raises(TimeoutError):
                future.result(timeout=0.001)
        assert not future._sleepers


def test_what_a_job_prints_comes_when_it_prints_it(tmp_path: Path) -> None:
    """Also when stdout is a pipe and nobody has set PYTHONUNBUFFERED."""
    text = """
    import os, ztasks
    def speak():
        print("a word")
        os._exit(7)
    with ztasks.Executor(max_workers=1) as executor:
        print(type(executor.submit(ztasks.options(speak, crash_retries=0)).exception(10)).__name__, flush=True)
    """
    done = support.run_script(tmp_path, text)
    assert sorted(done.out.split("\n")) == ["", "PoisonJob", "a word"]
