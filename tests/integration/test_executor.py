"""The executor as `concurrent.futures` knows it, and what it has beyond that."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import math
import os
import pickle
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import jobs
import pytest
import support

import ztasks
from ztasks import Executor

# --- what can be submitted ---


def local_function(number: int) -> int:
    return number + 1


CALLS: list[tuple[str, Any, tuple[Any, ...], dict[str, Any], Any]] = [
    ("a function", jobs.square, (7,), {}, 49),
    ("a function with keywords", jobs.add, (1,), {"right": 2, "extra": 3}, 6),
    ("only keywords", jobs.keyword_only, (), {"value": [1, {"a": 2}]}, [1, {"a": 2}]),
    ("keywords with names of our own", jobs.echo, (), {"value": None}, None),
    ("a task", jobs.measure, ("abc",), {}, 3),
    ("a task with keywords", jobs.measure, ("abc",), {"times": 2}, 6),
    ("a lambda", lambda number: number - 1, (5,), {}, 4),
    ("a lambda over a module", lambda number: math.sqrt(number), (16,), {}, 4.0),
    ("a function of the test module", local_function, (1,), {}, 2),
    ("a builtin", len, ([1, 2, 3],), {}, 3),
    ("a builtin of a module", math.factorial, (5,), {}, 120),
    ("a class", complex, (1, 2), {}, 1 + 2j),
    ("a class of a module", jobs.Adder, (3,), {}, None),
    ("a method", jobs.Adder(10).add, (5,), {}, 15),
    ("a method of a builtin", "-".join, (["a", "b"],), {}, "a-b"),
    ("an unbound method", str.upper, ("abc",), {}, "ABC"),
    ("a class method", jobs.Adder.made, (4,), {}, 4),
    ("a static method", jobs.Adder.double, (4,), {}, 8),
    ("a callable instance", jobs.Adder(10), (5,), {}, 15),
    ("a method that is a task", jobs.Adder(10).decorated, (5,), {}, 50),
    ("a partial", functools.partial(jobs.add, 1, extra=5), (2,), {}, 8),
    ("a partial of a module", jobs.add_ten, (2,), {}, 12),
    ("a partial of a lambda", functools.partial(lambda a, b: a * b, 3), (4,), {}, 12),
    ("a partial of a task", functools.partial(jobs.measure, times=3), ("ab",), {}, 6),
    ("ztasks.options of a function", ztasks.options(jobs.square, retries=1), (3,), {}, 9),
    ("ztasks.options of a lambda", ztasks.options(lambda number: number, name="identity"), (3,), {}, 3),
    ("ztasks.options of a builtin", ztasks.options(len), ("abc",), {}, 3),
]


@pytest.mark.parametrize(
    ("fn", "args", "kwargs", "expected"), [call[1:] for call in CALLS], ids=[call[0] for call in CALLS]
)
def test_any_callable_can_be_submitted(
    shared: Executor, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], expected: Any
) -> None:
    result = shared.submit(fn, *args, **kwargs).result(10)
    if fn is jobs.Adder:
        assert type(result) is jobs.Adder
        assert result.start == 3
    else:
        assert result == expected


@pytest.mark.parametrize(
    ("fn", "args", "expected"),
    [(call[1], call[2], call[4]) for call in CALLS if len(call[2]) == 1 and not call[3] and call[4] is not None],
    ids=[call[0] for call in CALLS if len(call[2]) == 1 and not call[3] and call[4] is not None],
)
def test_any_callable_can_be_mapped(shared: Executor, fn: Any, args: tuple[Any, ...], expected: Any) -> None:
    assert list(shared.map(fn, [args[0]] * 3)) == [expected] * 3


def test_closure_and_recursive_lambda(shared: Executor) -> None:
    offset = 5

    def fibonacci(number: int) -> int:
        return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)

    assert shared.submit(lambda number: number + offset, 1).result(10) == 6
    assert shared.submit(fibonacci, 10).result(10) == 55


def test_keywords_called_fn_self_and_args(shared: Executor) -> None:
    future = shared.submit(lambda **kwargs: kwargs, fn=1, self=2, args=3, task=4)
    assert future.result(10) == {"fn": 1, "self": 2, "args": 3, "task": 4}


@pytest.mark.parametrize("value", [3, "text", None, [1]])
def test_what_cannot_be_called_is_refused(shared: Executor, value: Any) -> None:
    with pytest.raises(ztasks.InvalidOption, match="callable"):
        shared.submit(value)


# --- tasks ---


def test_task_is_still_a_plain_function() -> None:
    assert jobs.measure("abc", times=2) == 6
    assert jobs.measure.__name__ == "measure"
    assert jobs.measure.__doc__ == "How long a text is."
    assert jobs.Adder(2).decorated(3) == 6
    assert pickle.loads(pickle.dumps(jobs.measure)) is jobs.measure


def test_task_uses_the_executor_of_the_enclosing_with() -> None:
    with Executor(max_workers=1) as outer:
        assert jobs.measure.submit("ab").result(10) == 2
        assert list(jobs.measure.map(["a", "bb"])) == [1, 2]
        assert sorted(jobs.measure.map_unordered(["a", "bb"])) == [1, 2]
        assert [outcome.value for outcome in jobs.measure.outcomes(["a", "bb"])] == [1, 2]
        with Executor(max_workers=1):
            inner_pid = ztasks.options(jobs.pid).submit().result(10)
        assert ztasks.options(jobs.pid).submit().result(10) == outer.submit(jobs.pid).result(10) != inner_pid
    with pytest.raises(ztasks.NoExecutor):
        jobs.measure.submit("ab")


@pytest.mark.parametrize("how", ["submit", "map", "map_unordered", "outcomes"])
def test_task_outside_of_a_with(how: str) -> None:
    with pytest.raises(ztasks.NoExecutor, match="with Executor"):
        getattr(jobs.measure, how)("ab")


def test_with_of_another_thread_is_not_ours(shared: Executor) -> None:
    errors: list[BaseException] = []

    def use() -> None:
        try:
            jobs.measure.submit("ab")
        except ztasks.NoExecutor as error:
            errors.append(error)

    with Executor(max_workers=1):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
    assert len(errors) == 1


def test_options_give_a_copy(shared: Executor, tmp_path: Path) -> None:
    once = jobs.flaky.options(retries=0)
    assert once is not jobs.flaky
    assert jobs.flaky.ztasks_options.retries == 3
    with pytest.raises(ConnectionError, match="attempt 1"):
        shared.submit(once, str(tmp_path / "once"), 2).result(10)
    assert shared.submit(jobs.flaky, str(tmp_path / "three"), 2).result(10) == 3


def test_unknown_option_is_refused() -> None:
    with pytest.raises(ztasks.InvalidOption, match="retires"):
        jobs.measure.options(retires=3)
    with pytest.raises(ztasks.InvalidOption, match="colour"):
        ztasks.task(colour="red")


def test_retries_are_used_up(shared: Executor, tmp_path: Path) -> None:
    file = tmp_path / "attempts"
    with pytest.raises(ConnectionError, match="attempt 4"):
        shared.submit(jobs.flaky, str(file), 100).result(10)
    assert file.stat().st_size == 4


def test_retries_in_a_map(shared: Executor, tmp_path: Path) -> None:
    files = [str(tmp_path / str(index)) for index in range(5)]
    assert list(shared.map(jobs.flaky, files, [0, 1, 2, 0, 1])) == [1, 2, 3, 1, 2]


# --- outcomes ---


def test_outcomes(shared: Executor) -> None:
    before = time.time()
    outcomes = list(shared.outcomes(jobs.fail_if_odd, range(5)))
    after = time.time()
    assert [outcome.index for outcome in outcomes] == [0, 1, 2, 3, 4]
    assert [outcome.args for outcome in outcomes] == [(0,), (1,), (2,), (3,), (4,)]
    assert [outcome.value for outcome in outcomes] == [0, None, 2, None, 4]
    assert [outcome.ok for outcome in outcomes] == [True, False, True, False, True]
    assert [type(outcome.exception) for outcome in outcomes[1::2]] == [ValueError, ValueError]
    for outcome in outcomes:
        assert outcome.started is not None
        assert before - 0.1 <= outcome.started <= after + 0.1
        assert 0 <= outcome.seconds < 5
        assert outcome.attempts == 1
        assert outcome.worker is not None
        assert outcome.worker.host == os.uname().nodename
        assert outcome.worker.pid in support.workers()


def test_outcomes_of_several_iterables_unordered(shared: Executor) -> None:
    outcomes = list(shared.outcomes(jobs.add, range(50), range(50), ordered=False))
    assert sorted(outcome.index for outcome in outcomes) == list(range(50))
    for outcome in outcomes:
        assert outcome.args == (outcome.index, outcome.index)
        assert outcome.value == 2 * outcome.index


def test_outcomes_count_attempts(shared: Executor, tmp_path: Path) -> None:
    files = [str(tmp_path / str(index)) for index in range(3)]
    outcomes = list(shared.outcomes(jobs.flaky, files, [0, 2, 100]))
    assert [outcome.attempts for outcome in outcomes] == [1, 3, 4]
    assert [outcome.ok for outcome in outcomes] == [True, True, False]


def test_outcome_of_an_unloadable_result_and_argument(shared: Executor) -> None:
    good, bad = shared.outcomes(jobs.echo, [1, jobs.NotLoadable("worker")])
    assert good.value == 1
    assert isinstance(bad.exception, ztasks.CallNotLoadable)
    values = list(shared.outcomes(jobs.make_not_loadable, range(5)))
    assert [outcome.ok for outcome in values] == [True, True, True, False, True]
    assert isinstance(values[3].exception, ztasks.ResultNotLoadable)


def test_return_exceptions(shared: Executor) -> None:
    results = list(shared.map(jobs.fail_if_odd, range(4), return_exceptions=True))
    assert results[::2] == [0, 2]
    assert [str(error) for error in results[1::2]] == ["1 is odd", "3 is odd"]
    assert all(type(error) is ValueError for error in results[1::2])
    unordered = list(shared.map_unordered(jobs.fail_if_odd, range(4), return_exceptions=True))
    assert len(unordered) == 4


# --- the current job ---


def test_current_job(shared: Executor) -> None:
    assert ztasks.current_job() is None
    facts = shared.submit(jobs.job_facts).result(10)
    assert facts is not None
    number, attempt, most, deadline = facts
    assert isinstance(number, str)
    assert (attempt, most, deadline) == (1, 1, None)
    other = shared.submit(ztasks.options(jobs.job_facts, retries=4)).result(10)
    assert other is not None
    assert other[0] != number
    assert other[2] == 5


def test_current_job_in_a_map_and_in_its_threads(shared: Executor) -> None:
    facts = [job for job in shared.map(lambda _: ztasks.current_job(), range(100)) if job is not None]
    assert len({job.id for job in facts}) == 100

    def in_thread() -> Any:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(ztasks.current_job()))
        thread.start()
        thread.join()
        return found[0]

    assert shared.submit(in_thread).result(10) is not None


# --- how workers are set up ---


def test_initializer_runs_once_in_every_worker() -> None:
    with Executor(max_workers=2, initializer=jobs.initialize, initargs=(1, "two")) as executor:
        assert list(executor.map(lambda _: jobs.STATE, range(50))) == [[(1, "two")]] * 50


def test_initializer_by_value() -> None:
    word = "captured"

    def initialize() -> None:
        os.environ["ZT_TEST_WORD"] = word

    with Executor(max_workers=1, initializer=initialize) as executor:
        assert executor.submit(os.getenv, "ZT_TEST_WORD").result(10) == word


def test_initializer_that_cannot_be_pickled() -> None:
    with pytest.raises(ztasks.CallNotPicklable, match="initargs"):
        Executor(max_workers=1, initializer=jobs.initialize, initargs=(threading.Lock(),))


def test_initializer_that_fails() -> None:
    with Executor(max_workers=2, initializer=jobs.broken_initializer, initargs=("today",)) as executor:
        futures = [executor.submit(jobs.square, 2) for _ in range(20)]
        for future in futures:
            with pytest.raises(ztasks.WorkersCannotStart, match="no licence: today"):
                future.result(10)
        with pytest.raises(ztasks.WorkersCannotStart, match="initializer"):
            list(executor.map(jobs.square, range(3)))


def test_initializer_that_exits_the_process() -> None:
    with Executor(max_workers=2, initializer=os._exit, initargs=(3,)) as executor:
        future = executor.submit(jobs.square, 2)
        with pytest.raises(ztasks.WorkersCannotStart, match="exited with code 3"):
            future.result(10)


def test_preload() -> None:
    with Executor(max_workers=1, preload=["wave", "xml.dom"]) as executor:
        loaded = executor.submit(lambda: [name in sys.modules for name in ("wave", "xml.dom", "chunk2")])
        assert loaded.result(10) == [True, True, False]
    with Executor(max_workers=1) as executor:
        assert executor.submit(lambda: "wave" in sys.modules).result(10) is False


def test_preload_must_be_a_list() -> None:
    with pytest.raises(ztasks.InvalidOption, match="preload"):
        Executor(max_workers=1, preload="numpy")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("most", [1, 3])
def test_max_tasks_per_child(workers: int, most: int) -> None:
    count = 12
    with Executor(max_workers=workers, max_tasks_per_child=most) as executor:
        pids = [future.result(20) for future in [executor.submit(jobs.pid) for _ in range(count)]]
    assert max(pids.count(pid) for pid in pids) <= most
    assert len(set(pids)) >= count // most


def test_max_tasks_per_child_in_a_map() -> None:
    with Executor(max_workers=2, max_tasks_per_child=10) as executor:
        pids = list(executor.map(jobs.pid, range(60)))
    assert max(pids.count(pid) for pid in pids) <= 10
    assert len(pids) == 60


@pytest.mark.parametrize("value", [0, -1, "2", 1.5, True])
def test_bad_numbers_are_refused(value: Any) -> None:
    with pytest.raises(ztasks.InvalidOption):
        Executor(max_workers=value)
    with pytest.raises(ztasks.InvalidOption):
        Executor(max_workers=1, max_tasks_per_child=value)


def test_default_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    with Executor() as executor:
        assert executor.max_workers == 1
    monkeypatch.delenv("SLURM_CPUS_PER_TASK")
    with Executor() as executor:
        assert 1 <= executor.max_workers <= len(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        with Executor() as executor:
            assert executor.max_workers == 1
    finally:
        os.sched_setaffinity(0, before)


def test_output_is_given_whole_lines() -> None:
    lines: list[bytes] = []
    with Executor(max_workers=1, output=lines.append) as executor:
        executor.submit(print, "to stdout").result(10)
        executor.submit(lambda: print("to stderr", file=sys.stderr)).result(10)
    text = b"".join(lines)
    assert b"to stdout\n" in text
    assert b"to stderr\n" in text


# --- futures ---


def test_wait_and_as_completed(shared: Executor) -> None:
    futures = [shared.submit(jobs.slow, index) for index in range(10)]
    done, pending = concurrent.futures.wait(futures, 10)
    assert done == set(futures)
    assert not pending
    futures = [shared.submit(jobs.square, index) for index in range(100)]
    assert {future.result() for future in concurrent.futures.as_completed(futures, 10)} == {
        index * index for index in range(100)
    }


def test_wait_first_completed_and_first_exception(shared: Executor, tmp_path: Path) -> None:
    release = tmp_path / "release"
    held = shared.submit(jobs.wait_for_file, str(release))
    quick = shared.submit(jobs.square, 2)
    done, pending = concurrent.futures.wait([held, quick], 10, concurrent.futures.FIRST_COMPLETED)
    assert (done, pending) == ({quick}, {held})
    failing = shared.submit(jobs.fail_if_odd, 1)
    done, pending = concurrent.futures.wait([held, failing], 10, concurrent.futures.FIRST_EXCEPTION)
    assert (done, pending) == ({failing}, {held})
    release.touch()
    assert held.result(10) is True


def test_wait_with_futures_of_other_executors(shared: Executor) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        mixed = [shared.submit(jobs.square, 3), threads.submit(jobs.square, 4)]
        assert {future.result() for future in concurrent.futures.as_completed(mixed, 10)} == {9, 16}


def test_asyncio(shared: Executor) -> None:
    async def use() -> list[Any]:
        loop = asyncio.get_running_loop()
        wrapped = [asyncio.wrap_future(shared.submit(jobs.square, index)) for index in range(20)]
        results = await asyncio.wait_for(asyncio.gather(*wrapped), 10)
        results.append(await loop.run_in_executor(shared, jobs.add, 1, 2))
        with pytest.raises(ValueError, match="3 is odd"):
            await loop.run_in_executor(shared, jobs.fail_if_odd, 3)
        return results

    assert asyncio.run(use()) == [*(index * index for index in range(20)), 3]


def test_asyncio_cancel(tmp_path: Path) -> None:
    async def use(executor: Executor) -> None:
        release = tmp_path / "release"
        loop = asyncio.get_running_loop()
        held = loop.run_in_executor(executor, jobs.hold, str(tmp_path / "started"), str(release))
        await asyncio.to_thread(jobs.wait_for_file, str(tmp_path / "started"))
        waiting = executor.submit(jobs.square, 2)
        wrapped = asyncio.wrap_future(waiting)
        wrapped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wrapped
        release.touch()
        assert await held == "released"
        assert waiting.cancelled()

    with Executor(max_workers=1) as executor:
        asyncio.run(use(executor))


def test_done_callbacks_run_in_order_once_and_outside_of_the_callers_thread(shared: Executor) -> None:
    calls: list[tuple[int, str]] = []
    ended = threading.Event()
    future = shared.submit(jobs.slow, 1, 0.05)
    for index in range(5):
        future.add_done_callback(lambda done, index=index: calls.append((index, threading.current_thread().name)))
    future.add_done_callback(lambda done: ended.set())
    assert future.result(10) == 1
    assert ended.wait(10)
    assert [index for index, _ in calls] == [0, 1, 2, 3, 4]
    assert threading.current_thread().name not in {name for _, name in calls}
    late: list[Any] = []
    future.add_done_callback(late.append)
    assert late == [future]  # it has ended: called at once


def test_done_callback_that_raises_harms_nobody(shared: Executor, caplog: pytest.LogCaptureFixture) -> None:
    ended = threading.Event()
    future = shared.submit(jobs.slow, 1, 0.05)
    future.add_done_callback(lambda done: 1 / 0)
    future.add_done_callback(lambda done: ended.set())
    assert ended.wait(10)
    assert "exception calling callback" in caplog.text
    assert shared.submit(jobs.square, 2).result(10) == 4


def test_exception(shared: Executor) -> None:
    assert shared.submit(jobs.square, 2).exception(10) is None
    future = shared.submit(jobs.fail_if_odd, 1)
    error = future.exception(10)
    assert type(error) is ValueError
    assert future.exception() is error
    with pytest.raises(ValueError) as caught:
        future.result()
    assert caught.value is error
    assert future.done()
    assert not future.running()
    assert not future.cancelled()


def test_timeout_of_result(tmp_path: Path) -> None:
    release = tmp_path / "release"
    with Executor(max_workers=1) as executor:
        future = executor.submit(jobs.wait_for_file, str(release))
        for call in (future.result, future.exception):
            begin = time.monotonic()
            with pytest.raises(TimeoutError):
                call(0.05)
            assert time.monotonic() - begin >= 0.05
        with pytest.raises(TimeoutError):
            future.result(0)
        release.touch()
        assert future.result(10) is True
        assert future.result(0) is True


def test_cancel(tmp_path: Path) -> None:
    started, release = tmp_path / "started", tmp_path / "release"
    with Executor(max_workers=1) as executor:
        running = executor.submit(jobs.hold, str(started), str(release))
        support.wait_for(started.exists, "the first job")
        assert running.running()
        assert not running.cancel()
        waiting = [executor.submit(jobs.count_in_file, index, str(tmp_path / "ran")) for index in range(3)]
        called: list[Any] = []
        waiting[1].add_done_callback(called.append)
        assert not waiting[1].running()
        assert waiting[1].cancel()
        assert waiting[1].cancel()
        assert waiting[1].cancelled()
        assert waiting[1].done()
        for call in (waiting[1].result, waiting[1].exception):
            with pytest.raises(CancelledError):
                call(10)
        done, _ = concurrent.futures.wait([waiting[1]], 10)
        assert done == {waiting[1]}
        release.touch()
        assert running.result(10) == "released"
        assert not running.cancel()
        assert [waiting[0].result(10), waiting[2].result(10)] == [0, 2]
        support.wait_for(lambda: called == [waiting[1]], "the callback of the cancelled future")
    assert (tmp_path / "ran").read_text() == "0\n2\n"


def test_cancel_wakes_a_thread_that_waits(tmp_path: Path) -> None:
    started, release = tmp_path / "started", tmp_path / "release"
    with Executor(max_workers=1) as executor:
        executor.submit(jobs.hold, str(started), str(release))
        support.wait_for(started.exists, "the first job")
        waiting = executor.submit(jobs.square, 2)
        errors: list[BaseException] = []

        def wait() -> None:
            try:
                waiting.result(10)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.cancel()
        thread.join(10)
        assert [type(error) for error in errors] == [CancelledError]
        release.touch()


def test_cancel_of_many_while_they_are_dispatched(shared: Executor, tmp_path: Path) -> None:
    """Each ends as one or the other, and what was cancelled has not run."""
    file, go = tmp_path / "ran", tmp_path / "go"
    holding = [shared.submit(jobs.wait_for_file, str(go)) for _ in range(2)]
    futures = [shared.submit(jobs.count_in_file, index, str(file)) for index in range(2000)]
    cancelled = set()
    # From the end: those that were submitted last are given to a worker last.
    for index, future in reversed([*enumerate(futures)]):
        if index % 2 and future.cancel():
            cancelled.add(index)
            go.touch()  # from here on they are dispatched
    assert not concurrent.futures.wait(holding, 20).not_done
    assert not concurrent.futures.wait(futures, 20).not_done
    ran = {int(line) for line in file.read_text().split()}
    assert ran == set(range(2000)) - cancelled
    for index, future in enumerate(futures):
        assert future.cancelled() == (index in cancelled)
        if index not in cancelled:
            assert future.result() == index
    assert cancelled


def test_result_can_be_asked_for_by_several_threads(shared: Executor) -> None:
    future = shared.submit(jobs.slow, [1], 0.05)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(future.result(10))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(value is found[0] for value in found)


# --- many ---


def test_several_threads_submit_at_once(shared: Executor) -> None:
    results: dict[int, list[int]] = {}

    def work(number: int) -> None:
        futures = [shared.submit(jobs.add, number, index) for index in range(1000)]
        results[number] = [future.result(20) for future in futures]

    threads = [threading.Thread(target=work, args=(1000 * number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == {1000 * n: list(range(1000 * n, 1000 * n + 1000)) for n in range(6)}


def test_several_threads_map_at_once(shared: Executor) -> None:
    results: dict[int, list[int]] = {}

    def work(number: int) -> None:
        results[number] = list(shared.map(jobs.square, range(number, number + 5000)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == {n: [i * i for i in range(n, n + 5000)] for n in range(4)}


def test_a_hundred_thousand_jobs(shared: Executor) -> None:
    futures = [shared.submit(jobs.square, index) for index in range(100_000)]
    assert [future.result(60) for future in futures] == [index * index for index in range(100_000)]


def test_recall_of_a_lane_that_has_claimed_all_it_holds() -> None:
    """Nothing comes back, and what the lane is given later is run all the same."""
    with Executor(max_workers=2) as executor:
        for _ in range(5):
            assert [future.result(10) for future in [executor.submit(jobs.slow, i, 0.0) for i in range(200)]]
            uneven = [executor.submit(jobs.slow, index, seconds) for index, seconds in enumerate((0.1, 0.1, 0, 0))]
            assert [future.result(10) for future in uneven] == [0, 1, 2, 3]


def test_recalled_work_is_dispatched_at_once() -> None:
    with Executor(max_workers=2) as executor:
        list(executor.map(jobs.slow, range(2000), [0.0] * 2000))
        for _ in range(5):
            assert list(executor.map(jobs.slow, range(8), [0.05] + [0.0] * 7, chunksize=4)) == list(range(8))


def test_executor_can_be_used_in_every_way_of_its_base_class() -> None:
    executor = Executor(max_workers=1)
    assert isinstance(executor, concurrent.futures.Executor)
    assert isinstance(executor.submit(jobs.square, 2), concurrent.futures.Future)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new"):
        executor.submit(jobs.square, 2)
    with pytest.raises(ztasks.ExecutorClosed):
        executor.map(jobs.square, [2])
    with pytest.raises(ztasks.ExecutorClosed):
        executor.outcomes(jobs.square, [2])
