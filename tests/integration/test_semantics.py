"""What speed must not break: values as they were at `submit`, results as they were returned, errors as raised."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import threading
import traceback
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jobs
import pytest
import support

import ztasks
from ztasks import Executor

np = pytest.importorskip("numpy")

# --- arguments ---


def test_mutation_after_submit_changes_nothing(tmp_path: Path) -> None:
    release, started = tmp_path / "release", tmp_path / "started"
    small, large = [1, 2], bytearray(b"a" * 200_000)
    array, view = np.ones(100_000), memoryview(bytearray(b"v" * 100_000)).toreadonly()
    holder = {"key": small}
    with Executor(max_workers=1) as executor:
        executor.submit(jobs.hold, str(started), str(release))
        support.wait_for(started.exists, "the first job")
        futures = [executor.submit(jobs.echo, value) for value in (small, holder, large, array)]
        as_bytes = executor.submit(lambda value: bytes(value[:3]), np.frombuffer(view, dtype=np.uint8))
        small.append(3)
        holder["other"] = [4]
        large[:] = b"b" * 200_000
        array[:] = 2
        release.touch()
        results = [future.result(10) for future in futures]
        assert results[0] == [1, 2]
        assert results[1] == {"key": [1, 2]}
        assert results[2] == b"a" * 200_000
        assert results[3].sum() == 100_000
        assert as_bytes.result(10) == b"vvv"


def test_a_generator_that_reuses_a_row(shared: Executor) -> None:
    def rows() -> Iterator[list[int]]:
        row = [0]
        for number in range(500):
            row[0] = number
            yield row

    assert list(shared.map(jobs.echo, rows())) == [[number] for number in range(500)]
    assert [outcome.value for outcome in shared.outcomes(jobs.echo, rows())] == [[number] for number in range(500)]


def test_a_generator_that_reuses_an_array(shared: Executor) -> None:
    def arrays() -> Iterator[Any]:
        array = np.zeros(20_000)
        for number in range(30):
            array[:] = number
            yield array

    assert list(shared.map(jobs.sum_array, arrays())) == [number * 20_000.0 for number in range(30)]


def test_arrays_arrive_writable(shared: Executor) -> None:
    for size in (10, 10_000, 1_000_000):
        assert shared.submit(jobs.writable, np.zeros(size)).result(10) is True
    assert list(shared.map(jobs.writable, [np.zeros(10), np.zeros(100_000)])) == [True, True]


def test_arrays_come_back_writable_and_whole(shared: Executor) -> None:
    for size in (10, 10_000, 1_000_000):
        array = shared.submit(jobs.make_array, size).result(10)
        assert (array == np.arange(size)).all()
        array[0] = 7.0
    for array in shared.map(jobs.make_array, [100_000] * 3):
        array[0] = 7.0


def test_a_read_only_array_arrives(shared: Executor) -> None:
    array = np.arange(100_000)
    array.flags.writeable = False
    assert shared.submit(jobs.sum_array, array).result(10) == array.sum()


def test_the_same_array_sent_twice_is_not_shared(shared: Executor) -> None:
    def change(array: Any) -> float:
        array += 1
        return float(array.sum())

    array = np.zeros(100_000)
    assert list(shared.map(change, [array] * 6)) == [100_000.0] * 6
    assert array.sum() == 0


def test_shared_references_within_one_call_stay_shared(shared: Executor) -> None:
    row = [1]
    assert shared.submit(lambda left, right: left is right, row, row).result(10) is True


def test_many_sizes_around_the_out_of_band_limit(shared: Executor) -> None:
    for size in (65_535, 65_536, 65_537, 131_072):
        assert shared.submit(jobs.echo, bytearray(size)).result(10) == bytearray(size)
        assert shared.submit(len, bytes(size)).result(10) == size
        assert shared.submit(jobs.sum_array, np.ones(size // 8)).result(10) == size // 8


def test_arguments_are_released(shared: Executor) -> None:
    class Marker:
        pass

    marker = Marker()
    reference = weakref.ref(marker)
    future = shared.submit(lambda value: None, marker)
    future.result(10)
    del marker
    gc.collect()
    assert reference() is None
    watched = weakref.ref(future)
    del future
    gc.collect()
    support.wait_for(lambda: watched() is None, "the end of the future")


# --- results ---


def test_a_reused_buffer_gives_distinct_results(shared: Executor) -> None:
    assert list(shared.map(jobs.reused_buffer, range(500))) == [[number] for number in range(500)]
    futures = [shared.submit(jobs.reused_buffer, number) for number in range(500)]
    assert [future.result(10) for future in futures] == [[number] for number in range(500)]


def test_a_reused_array_gives_distinct_results(shared: Executor) -> None:
    def fill(number: int) -> Any:
        array = jobs.STATE[0] if jobs.STATE else np.zeros(20_000)
        jobs.STATE[:] = [array]
        array[:] = number
        return array

    assert [array[5] for array in shared.map(fill, range(40))] == list(range(40))
    futures = [shared.submit(fill, number) for number in range(40)]
    assert [future.result(10)[5] for future in futures] == list(range(40))


@pytest.mark.parametrize("how", ["submit", "map"])
@pytest.mark.parametrize(
    ("fn", "items", "expected"),
    [
        (jobs.fail_if_odd, [0, 2, 3, 4], ValueError),
        (jobs.unpicklable_if_three, [0, 2, 3, 4], ztasks.ResultNotPicklable),
        (jobs.make_not_loadable, [0, 2, 3, 4], ztasks.ResultNotLoadable),
        (jobs.echo, [0, 2, jobs.NotLoadable("worker"), 4], ztasks.CallNotLoadable),
        (lambda n: exec("raise SystemExit(3)") if n == 3 else n, [0, 2, 3, 4], SystemExit),
        (lambda n: exec("raise KeyboardInterrupt") if n == 3 else n, [0, 2, 3, 4], KeyboardInterrupt),
        (lambda n: (yield) if n == 3 else n, [3, 3, 3, 3], ztasks.ResultNotPicklable),
    ],
    ids=["raises", "unpicklable", "unloadable result", "unloadable argument", "SystemExit", "Ctrl-C", "generator"],
)
def test_one_items_failure_touches_no_other(
    shared: Executor, how: str, fn: Any, items: list[Any], expected: type[BaseException]
) -> None:
    bad = 2
    for _ in range(3):  # one job at a time first, then many in one message
        items = items * 4
        if how == "submit":
            found = [future.exception(10) for future in [shared.submit(fn, item) for item in items]]
        else:
            found = [
                value if isinstance(value, BaseException) else None
                for value in shared.map(fn, items, return_exceptions=True)
            ]
        for index, error in enumerate(found):
            if index % 4 == bad or items[0] == 3:
                assert type(error) is expected
            else:
                assert error is None


def test_result_of_a_main_class(tmp_path: Path) -> None:
    """A returned instance keeps isinstance, and does not reset the class that the caller has changed meanwhile."""
    text = """
    import ztasks

    class Account:
        rate = 1

        def __init__(self, balance):
            self.balance = balance

        def worth(self):
            return self.balance * self.rate

    class Savings(Account):
        pass

    def grow(account):
        return type(account)(account.balance + 1)

    def make():
        return Account(5)

    with ztasks.Executor(max_workers=2) as executor:
        first = executor.submit(grow, Account(1)).result()
        assert type(first) is Account and first.balance == 2
        Account.rate = 10
        Account.extra = "added"
        second = executor.submit(make).result()
        assert type(second) is Account
        assert (Account.rate, Account.extra, second.worth()) == (10, "added", 50)
        third = list(executor.map(grow, [Savings(1), Savings(2)]))
        assert [type(account) for account in third] == [Savings, Savings]
        assert isinstance(third[0], Account)
        assert (Account.rate, Account.extra) == (10, "added")
        try:
            executor.submit(grow, None).result()
        except AttributeError as error:
            print(error)
    """
    assert support.check_script(tmp_path, text) == "'NoneType' object has no attribute 'balance'\n"


def test_exception_of_a_main_class(tmp_path: Path) -> None:
    text = """
    import ztasks

    class Mine(Exception):
        pass

    def fail():
        raise Mine("mine")

    with ztasks.Executor(max_workers=1) as executor:
        try:
            executor.submit(fail).result()
        except Mine as error:
            print(error, "in fail" in ztasks.remote_traceback(error))
    """
    assert support.check_script(tmp_path, text) == "mine True\n"


def test_enums_dataclasses_and_named_tuples_of_main(tmp_path: Path) -> None:
    text = """
    import dataclasses, enum, typing, ztasks

    class Color(enum.Enum):
        RED = 1

    @dataclasses.dataclass
    class Row:
        color: Color

    class Pair(typing.NamedTuple):
        left: int

    def swap(value):
        return value, Color.RED, Row(Color.RED), Pair(3)

    with ztasks.Executor(max_workers=2) as executor:
        for _ in range(3):
            value, color, row, pair = executor.submit(swap, Color.RED).result()
            assert value is Color.RED and color is Color.RED
            assert row == Row(Color.RED) and pair == Pair(3) and type(pair) is Pair
    print("fine")
    """
    assert support.check_script(tmp_path, text) == "fine\n"


# --- functions ---


def test_rebinding_a_global_is_seen_by_the_next_submit(tmp_path: Path) -> None:
    text = """
    import ztasks

    FACTOR = 1

    def helper(number):
        return number * FACTOR

    def one_deeper(number):
        return helper(number)

    def direct(number):
        return number * FACTOR

    @ztasks.task
    def as_task(number):
        return helper(number)

    class Holder:
        def method(self, number):
            return helper(number)

    everything = [direct, one_deeper, as_task, lambda n: one_deeper(n), lambda n: as_task(n), Holder().method]

    with ztasks.Executor(max_workers=2) as executor:
        for factor in (1, 2, 3, 2):
            FACTOR = factor
            assert [executor.submit(fn, 10).result() for fn in everything] == [10 * factor] * 6, factor
            assert [next(executor.map(fn, [10])) for fn in everything] == [10 * factor] * 6, factor

        def helper(number):
            return -number

        assert [executor.submit(fn, 10).result() for fn in everything[1:]] == [-10] * 5
        print("fine")
    """
    assert support.check_script(tmp_path, text) == "fine\n"


def test_closures_with_equal_code_are_told_apart(shared: Executor) -> None:
    def make(offset: Any) -> Any:
        return lambda number: number + offset

    assert [shared.submit(make(offset), 1).result(10) for offset in range(20)] == list(range(1, 21))
    assert shared.submit(make(1.5), 1).result(10) == 2.5


def test_rebinding_a_cell_is_seen_by_the_next_submit(shared: Executor) -> None:
    offset = 0

    def add(number: int) -> int:
        return number + offset

    for offset in (1, 2, 3):
        assert shared.submit(add, 1).result(10) == 1 + offset


def test_more_callables_than_a_worker_keeps(shared: Executor) -> None:
    def make(offset: int) -> Any:
        return lambda number: number + offset

    functions = [make(offset) for offset in range(600)]
    for _ in range(2):
        futures = [shared.submit(function, 1) for function in functions]
        assert [future.result(10) for future in futures] == list(range(1, 601))


# --- callbacks ---


def test_done_callbacks_may_submit_cancel_and_wait_for_results(shared: Executor) -> None:
    ended = threading.Event()
    found: list[Any] = []

    def first_done(future: Any) -> None:
        second = shared.submit(jobs.square, future.result())
        found.append(second.result(10))
        third = shared.submit(jobs.square, 5)
        found.append(third.cancel() or third.result(10))
        found.append(list(shared.map(jobs.square, range(3))))
        ended.set()

    future = shared.submit(jobs.slow, 3, 0.05)
    future.add_done_callback(first_done)
    assert ended.wait(10)
    assert found[0] == 9
    assert found[1] in (True, 25)
    assert found[2] == [0, 1, 4]


def test_a_chain_of_jobs_by_callbacks(shared: Executor) -> None:
    ended = threading.Event()

    def go_on(future: Any) -> None:
        if future.result() == 200:
            ended.set()
        else:
            shared.submit(jobs.add, future.result(), 1).add_done_callback(go_on)

    shared.submit(jobs.add, 0, 1).add_done_callback(go_on)
    assert ended.wait(20)


@pytest.mark.parametrize("wait", [True, False])
def test_done_callback_may_close(wait: bool) -> None:
    executor = Executor(max_workers=2)
    closed = threading.Event()
    others = [executor.submit(jobs.slow, index, 0.01) for index in range(20)]

    def close(future: Any) -> None:
        executor.shutdown(wait=wait)
        closed.set()

    executor.submit(jobs.slow, 1, 0.05).add_done_callback(close)
    assert closed.wait(10)
    assert [future.result(10) for future in others] == list(range(20))
    with pytest.raises(ztasks.ExecutorClosed):
        executor.submit(jobs.square, 2)
    executor.shutdown()


# --- exceptions ---


def test_original_type_with_remote_traceback(shared: Executor) -> None:
    with pytest.raises(RuntimeError, match="at the bottom") as caught:
        shared.submit(jobs.deep, 5).result(10)
    text = ztasks.remote_traceback(caught.value)
    assert text is not None
    assert text.count("in deep") >= 2  # repeated frames are folded
    assert "RuntimeError: at the bottom" in text
    assert "ztasks/io" not in text
    printed = "".join(traceback.format_exception(caught.value))
    assert "in deep" in printed


def test_custom_exception_keeps_its_state(shared: Executor) -> None:
    error = shared.submit(jobs.raise_custom).exception(10)
    assert type(error) is jobs.Custom
    assert error.code == 7


def test_two_argument_constructor_becomes_remote_error(shared: Executor) -> None:
    error = shared.submit(jobs.raise_two_arguments).exception(10)
    assert type(error) is ztasks.RemoteError
    assert error.type_name == "jobs.TwoArguments"
    assert error.message == "7: seven"
    assert "in raise_two_arguments" in error.traceback
    assert ztasks.remote_traceback(error) == error.traceback
    (from_map,) = shared.map(lambda _: jobs.raise_two_arguments(), [1], return_exceptions=True)
    assert type(from_map) is ztasks.RemoteError


def test_exception_holding_what_cannot_travel(shared: Executor) -> None:
    def fail() -> None:
        raise ValueError(threading.Lock())

    error = shared.submit(fail).exception(10)
    assert type(error) is ztasks.RemoteError
    assert error.type_name == "ValueError"


def test_exception_with_a_broken_str(shared: Executor) -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

        def __reduce__(self) -> Any:
            raise ZeroDivisionError

    def fail() -> None:
        raise Broken

    error = shared.submit(fail).exception(10)
    assert type(error) is ztasks.RemoteError
    assert "Broken" in error.type_name


def test_chain_in_the_remote_traceback(shared: Executor) -> None:
    error = shared.submit(jobs.raise_chain).exception(10)
    assert type(error) is ValueError
    text = ztasks.remote_traceback(error)
    assert text is not None
    assert "KeyError: 'inner'" in text
    assert "direct cause" in text


def test_exception_group(shared: Executor) -> None:
    error = shared.submit(jobs.raise_group).exception(10)
    assert isinstance(error, ExceptionGroup)
    assert [type(inner) for inner in error.exceptions] == [ValueError, TypeError]
    text = ztasks.remote_traceback(error)
    assert text is not None
    assert "TypeError: two" in text


def test_notes(shared: Executor) -> None:
    error = shared.submit(jobs.raise_with_note).exception(10)
    assert error is not None
    assert error.__notes__ == ["the note itself"]
    assert "the note itself" in str(ztasks.remote_traceback(error))


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, asyncio.CancelledError])
def test_exceptions_that_are_not_errors(shared: Executor, kind: Any) -> None:
    error = shared.submit(jobs.fail, kind("word")).exception(10)
    assert type(error) is kind
    assert error.args == ("word",)
    assert shared.submit(jobs.square, 2).result(10) == 4


def test_generator_result_names_the_cure(shared: Executor) -> None:
    with pytest.raises(ztasks.ResultNotPicklable, match=r"generator.*Return a list"):
        shared.submit(jobs.generator).result(10)


def test_result_that_does_not_load_here(shared: Executor) -> None:
    future = shared.submit(jobs.make_not_loadable, 3)
    with pytest.raises(ztasks.ResultNotLoadable, match="does not load in the caller"):
        future.result(10)
    assert type(future.exception()) is ztasks.ResultNotLoadable


def test_argument_that_cannot_be_pickled_is_named(shared: Executor) -> None:
    with pytest.raises(ztasks.CallNotPicklable, match=r"argument 1, of type \w*lock"):
        shared.submit(jobs.add, 1, threading.Lock())
    with pytest.raises(ztasks.CallNotPicklable, match="argument 'extra'"):
        shared.submit(jobs.add, 1, 2, extra=threading.Lock())


def test_a_raised_result_can_be_raised_again_and_again(shared: Executor) -> None:
    future = shared.submit(jobs.fail_if_odd, 1)
    lengths = []
    for _ in range(3):
        with pytest.raises(ValueError) as caught:
            future.result(10)
        lengths.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert max(lengths) < 20


# --- KeyboardInterrupt ---

STORM = """
    import concurrent.futures, random, signal, sys, ztasks
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    chance = random.Random({seed})
    executor = ztasks.Executor(max_workers=2)
    executor.submit(pow, 1, 2).add_done_callback(id)
    futures, interrupted = [], 0
    for number in range({count}):
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, {longest}))
            {body}
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            interrupted += 1
    assert executor.submit(pow, 2, 3).result(20) == 8
    for number, future in futures:
        if not future.cancelled():
            assert future.result(20) == number ** 2, number
    executor.shutdown()
    print(len(futures) > 100, interrupted > 100)
"""
SUBMIT = "futures.append((number, executor.submit(pow, number, 2)))"
BODIES = {
    "submit": (f"for _ in range(20): {SUBMIT}", 1500, 3e-4),
    "submit and result": (f"{SUBMIT}; futures[-1][1].result()", 3000, 6e-4),
    "exception and callbacks": (f"{SUBMIT}; f = futures[-1][1]; f.add_done_callback(id); f.exception(5)", 2000, 6e-4),
    "cancel": (f"{SUBMIT}; futures[-1][1].cancel()", 4000, 6e-5),
    "map": (f"{SUBMIT}; list(executor.map(abs, range(50)))", 1500, 6e-4),
}


@pytest.mark.parametrize("where", BODIES)
def test_keyboard_interrupt_anywhere_loses_nothing(tmp_path: Path, where: str) -> None:
    """A storm of interrupts at random moments: all futures that were got complete, and the executor closes."""
    body, count, longest = BODIES[where]
    text = STORM.format(seed=7, count=count, longest=longest, body=body)
    assert support.check_script(tmp_path, text) == "True True\n"


def test_keyboard_interrupt_raised_by_a_signal_while_waiting(shared: Executor) -> None:
    future = shared.submit(jobs.slow, 1, 0.3)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        future.result(10)
    timer.join()
    assert future.result(10) == 1


def test_ctrl_c_does_not_reach_the_workers(tmp_path: Path) -> None:
    """They lead groups of their own: Ctrl-C at the terminal is for the user's process."""
    text = """
    import os, signal, time, ztasks
    with ztasks.Executor(max_workers=1) as executor:
        future = executor.submit(time.sleep, 0.3)
        first = executor.submit(os.getpid)
        try:
            os.killpg(os.getpgrp(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            pass
        print(future.result(10), first.result(10) == executor.submit(os.getpid).result(10))
    """
    assert support.check_script(tmp_path, text) == "None True\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP])
def test_signals_of_the_terminal_that_were_waiting_when_a_worker_came_up_are_discarded(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """They came while it was still in its parent's group, in which they are the parent's."""

    def start(*arguments: Any, **how: Any) -> subprocess.Popen[bytes]:
        with warnings.catch_warnings():  # 3.12: forking beside threads
            warnings.simplefilter("ignore", DeprecationWarning)
            return subprocess.Popen(*arguments, **how, preexec_fn=lambda: os.kill(os.getpid(), number))

    lines: list[bytes] = []
    monkeypatch.setattr("ztasks.io.crew.subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": start}))
    with Executor(max_workers=1, output=lines.append) as executor:
        pid = executor.submit(os.getpid).result(support.DEADLINE)
        assert executor._head._watch.crew.workers.keys() == {0}, "it was replaced"
        assert executor._head._watch.crew.workers[0].pid == pid
    assert lines == []
