"""`map` and its kin: the results of concurrent.futures, lazily; and the rules on who advances the input, and when."""

from __future__ import annotations

import gc
import itertools
import os
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jobs
import pytest
import support

import ztasks
from ztasks import Executor


class Source:
    """An input that notes how far, and in which thread, it was advanced. It has no length."""

    def __init__(self, items: Any, *, endless_after: int | None = None) -> None:
        self.items = iter(items)
        self.count = 0
        self.ended = False
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self.threads.add(threading.get_ident())
        try:
            value = next(self.items)
        except StopIteration:
            self.ended = True
            raise
        self.count += 1
        return value


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


# --- as concurrent.futures ---

INPUTS: list[tuple[str, Any, list[Any]]] = [
    ("range", jobs.square, [range(1000)]),
    ("list", jobs.square, [[3, 1, 2]]),
    ("empty", jobs.square, [[]]),
    ("one", jobs.square, [[5]]),
    ("two of the same length", jobs.add, [range(500), range(500, 1000)]),
    ("two of different lengths", jobs.add, [range(500), [1, 2, 3]]),
    ("one of two is empty", jobs.add, [range(500), []]),
    ("three", lambda a, b, c: (a, b, c), ["abc", range(3), [None, True, 1.5]]),
    ("strings", len, [["a", "bb", ""]]),
    ("one string", str.upper, ["text"]),
    ("a dictionary", jobs.echo, [{"a": 1, "b": 2}]),
    ("mixed types", jobs.echo, [[1, "a", None, [1], {2: 3}, 1.5, b"x", True, (1, 2)]]),
    ("results of mixed types", lambda n: [n, n] if n % 3 else n, [range(100)]),
    ("large items", len, [[b"x" * size for size in (0, 10, 70_000, 1_000_000, 3)]]),
]


@pytest.mark.parametrize(("fn", "iterables"), [entry[1:] for entry in INPUTS], ids=[entry[0] for entry in INPUTS])
@pytest.mark.parametrize("how", [{}, {"chunksize": 7}, {"buffersize": 1}, {"buffersize": 10, "chunksize": 100}])
def test_equals_concurrent_futures(shared: Executor, fn: Any, iterables: list[Any], how: dict[str, int]) -> None:
    with ThreadPoolExecutor(2) as threads:
        expected = list(threads.map(fn, *iterables))
    assert list(shared.map(fn, *iterables, **how)) == expected
    assert sorted(map(repr, shared.map_unordered(fn, *iterables, **how))) == sorted(map(repr, expected))
    assert [outcome.value for outcome in shared.outcomes(fn, *iterables, **how)] == expected


def test_without_an_iterable(shared: Executor) -> None:
    assert list(shared.map(jobs.square)) == []


def test_order_is_kept_when_times_differ(shared: Executor) -> None:
    seconds = [random.Random(index).choice([0, 0, 0, 0.001, 0.01]) for index in range(300)]
    assert list(shared.map(jobs.slow, range(300), seconds)) == list(range(300))


def test_unordered_hands_out_what_is_ready(tmp_path: Path) -> None:
    release = tmp_path / "release"
    with Executor(max_workers=2) as executor:
        results = executor.map_unordered(
            lambda item: jobs.wait_for_file(str(release)) if item == 0 else item, range(50)
        )
        assert sorted(itertools.islice(results, 49)) == list(range(1, 50))
        release.touch()
        assert list(results) == [True]


def test_exception_at_its_place(shared: Executor) -> None:
    results = shared.map(jobs.fail_if_odd, [0, 2, 4, 5, 6])
    assert [next(results) for _ in range(3)] == [0, 2, 4]
    with pytest.raises(ValueError, match="5 is odd"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_exception_of_the_input_at_its_place(shared: Executor) -> None:
    def items() -> Iterator[int]:
        yield from range(50)
        raise OSError("the disk is gone")

    for results in (shared.map(jobs.square, items()), shared.map_unordered(jobs.square, items())):
        assert sorted(itertools.islice(results, 50)) == [number * number for number in range(50)]
        with pytest.raises(OSError, match="the disk is gone"):
            next(results)
    outcomes = shared.outcomes(jobs.square, items())
    assert len(list(itertools.islice(outcomes, 50))) == 50
    with pytest.raises(OSError, match="the disk is gone"):
        next(outcomes)


def test_input_that_cannot_be_pickled_at_its_place(shared: Executor) -> None:
    results = shared.map(jobs.echo, [1, 2, threading.Lock(), 4])
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(ztasks.CallNotPicklable, match="input 2"):
        next(results)


def test_what_is_not_iterable_is_refused_at_the_call(shared: Executor) -> None:
    with pytest.raises(TypeError):
        shared.map(jobs.square, 3)  # type: ignore[arg-type]
    with pytest.raises(ztasks.CallNotPicklable):
        shared.map(threading.Lock().acquire, [1])


@pytest.mark.parametrize("how", [{"chunksize": 0}, {"buffersize": 0}, {"buffersize": -1}, {"chunksize": "3"}])
def test_bad_numbers_are_refused(shared: Executor, how: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        shared.map(jobs.square, [1], **how)


def test_timeout(tmp_path: Path) -> None:
    release = tmp_path / "release"
    with Executor(max_workers=1) as executor:
        results = executor.map(lambda item: item or jobs.wait_for_file(str(release)), [1, 2, 0, 3], timeout=0.3)
        assert [next(results), next(results)] == [1, 2]
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            next(results)
        assert time.monotonic() - begin < 5
        release.touch()


def test_timeout_counts_from_the_call(shared: Executor) -> None:
    results = shared.map(jobs.slow, range(3), timeout=30)
    assert list(results) == [0, 1, 2]


def test_two_maps_at_once_interleaved(shared: Executor) -> None:
    one, two = shared.map(jobs.square, range(500)), shared.map(jobs.add, range(500), range(500))
    assert list(zip(one, two, strict=True)) == [(n * n, 2 * n) for n in range(500)]


def test_map_of_a_map(shared: Executor) -> None:
    assert list(shared.map(jobs.square, shared.map(jobs.square, range(500)))) == [n**4 for n in range(500)]


# --- lazy and bounded ---


def test_an_endless_input(shared: Executor) -> None:
    results = shared.map(jobs.square, itertools.count())
    assert list(itertools.islice(results, 20_000)) == [n * n for n in range(20_000)]
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["map", "map_unordered", "outcomes"])
def test_an_endless_input_takes_constant_memory(tmp_path: Path, how: str) -> None:
    text = f"""
    import itertools, os, pathlib, ztasks

    def resident():
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def work(number):
        return number

    with ztasks.Executor(max_workers=2) as executor:
        results = executor.{how}(work, itertools.count(), buffer_bytes="16MiB")
        for _ in itertools.islice(results, 100_000):
            pass
        before = resident()
        for _ in itertools.islice(results, 300_000):
            pass
        print((resident() - before) // 2**20)
        results.close()
    """
    assert int(support.check_script(tmp_path, text)) < 24


def test_large_items_take_bounded_memory(tmp_path: Path) -> None:
    """A gigabyte passes through; a buffer of 16 MiB is allowed."""
    text = """
    import os, pathlib, ztasks

    def resident():
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def items():
        for number in range(500):
            yield bytes([number % 256]) * 2**20

    with ztasks.Executor(max_workers=2) as executor:
        before, peak, total = resident(), 0, 0
        for result in executor.map(lambda item: item, items(), buffer_bytes="16MiB"):
            total += len(result)
            peak = max(peak, resident() - before)
        print(total // 2**20, peak // 2**20)
    """
    total, peak = map(int, support.check_script(tmp_path, text).split())
    assert total == 500
    assert peak < 150


def test_buffersize_bounds_how_far_the_input_is_read(shared: Executor) -> None:
    source = Source(range(1000))
    results = shared.map(jobs.square, source, buffersize=10)
    assert source.count <= 10
    for taken, _ in enumerate(results, 1):
        assert source.count <= taken + 10
    assert source.count == 1000


def test_buffersize_of_one(shared: Executor) -> None:
    source = Source(range(20))
    for taken, value in enumerate(shared.map(jobs.square, source, buffersize=1)):
        assert value == taken * taken
        assert source.count <= taken + 2


def test_buffer_bytes_bounds_how_far_the_input_is_read(shared: Executor) -> None:
    source = Source(bytes(100_000) for _ in range(200))
    results = shared.map(len, source, buffer_bytes=1_000_000)
    next(results)
    assert source.count <= 20
    assert sum(results) == 199 * 100_000


def test_input_is_read_before_the_first_result_is_asked_for(shared: Executor) -> None:
    source = Source(itertools.count())
    results = shared.map(jobs.square, source)
    assert 1 <= source.count < 100_000
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]


def test_a_slow_consumer_finds_results_ready(shared: Executor) -> None:
    """Read-ahead covers the consumer's pauses: after a few, the workers have worked ahead."""
    source = Source(range(200))
    results = shared.map(jobs.slow, source, [0.005] * 200)
    ahead = 0
    for taken in range(40):
        next(results)
        ahead = max(ahead, source.count - taken)
        time.sleep(0.02)  # the consumer's work
    assert ahead >= 8
    assert len(list(results)) == 160


def test_a_slow_input_does_not_hold_back_results(shared: Executor) -> None:
    """Ready results are handed out before more is pulled: an input that blocks blocks only itself."""
    gate = threading.Semaphore(3)

    def items() -> Iterator[int]:
        for number in range(6):
            gate.acquire()
            yield number

    results = shared.map(jobs.square, items(), buffersize=3)
    got = []
    for _ in range(6):
        got.append(next(results))
        gate.release()
    assert got == [0, 1, 4, 9, 16, 25]


def test_an_input_that_feeds_on_results(shared: Executor) -> None:
    """The input waits for earlier results: it works as long as it lets the consumer go on."""
    todo = [1]

    def items() -> Iterator[int]:
        while todo:
            yield todo.pop()

    results = []
    for value in shared.map(jobs.add, items(), itertools.repeat(1), buffersize=1):
        results.append(value)
        if value < 10:
            todo.append(value)
    assert results[0] == 2


# --- who advances the input ---


def test_a_generator_is_advanced_in_the_callers_thread_only(shared: Executor) -> None:
    source = Source(range(20_000))
    assert sum(shared.map(jobs.square, source)) == sum(n * n for n in range(20_000))
    assert source.threads == {threading.get_ident()}


def test_an_open_file(shared: Executor, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("".join(f"line {number}\n" for number in range(5000)))
    with path.open() as file:
        assert list(shared.map(str.strip, file)) == [f"line {number}" for number in range(5000)]


def test_a_sqlite3_cursor(shared: Executor) -> None:
    """sqlite3 raises in any thread but the one that made the connection."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("create table numbers (n integer, word text)")
        connection.executemany("insert into numbers values (?, ?)", [(n, f"word {n}") for n in range(5000)])
        rows = shared.map(lambda row: row[0] + len(row[1]), connection.execute("select * from numbers order by n"))
        assert list(rows) == [n + len(f"word {n}") for n in range(5000)]
    finally:
        connection.close()


def test_a_sqlite3_cursor_that_nobody_consumes(tmp_path: Path) -> None:
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("create table numbers (n integer)")
        connection.executemany("insert into numbers values (?)", [(n,) for n in range(1000)])
        with Executor(max_workers=2) as executor:
            path = str(tmp_path / "ran")
            executor.map(lambda row: jobs.count_in_file(row[0], path), connection.execute("select * from numbers"))
        assert sorted(map(int, lines(tmp_path / "ran"))) == list(range(1000))
    finally:
        connection.close()


def test_consumed_in_another_thread_than_made(shared: Executor) -> None:
    """Then that thread is the one that advances it: it is the caller's too."""
    source = Source(range(5000))
    results = shared.map(jobs.square, source)
    total: list[int] = []
    thread = threading.Thread(target=lambda: total.append(sum(results)))
    thread.start()
    thread.join(20)
    assert total == [sum(n * n for n in range(5000))]
    assert source.threads <= {threading.get_ident(), thread.ident}


# --- the end: not advanced ---


@pytest.mark.parametrize("how", ["map", "map_unordered", "outcomes"])
def test_never_advanced_is_finished_at_shutdown(tmp_path: Path, how: str) -> None:
    ran = tmp_path / "ran"
    source = Source(range(1000))
    with Executor(max_workers=2) as executor:
        results = getattr(executor, how)(jobs.count_in_file, source, itertools.repeat(str(ran)))
        assert source.count < 1000
    assert sorted(map(int, lines(ran))) == list(range(1000))
    assert source.threads == {threading.get_ident()}
    values = [result.value if how == "outcomes" else result for result in results]
    assert sorted(values) == list(range(1000))
    if how == "map":
        assert values == list(range(1000))


def test_never_advanced_and_dropped_is_finished_at_shutdown(tmp_path: Path) -> None:
    """As `executor.map(f, inputs)` for its effects alone."""
    ran = tmp_path / "ran"
    with Executor(max_workers=2) as executor:
        executor.map(jobs.count_in_file, (n for n in range(1000)), itertools.repeat(str(ran)))
        gc.collect()
    assert sorted(map(int, lines(ran))) == list(range(1000))


def test_never_advanced_with_a_small_buffer_is_finished_at_shutdown(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with Executor(max_workers=2) as executor:
        results = executor.map(jobs.count_in_file, Source(range(300)), itertools.repeat(str(ran)), buffersize=2)
    assert list(results) == list(range(300))
    assert len(lines(ran)) == 300


def test_never_advanced_with_errors_is_finished_at_shutdown() -> None:
    with Executor(max_workers=2) as executor:
        results = executor.map(jobs.fail_if_odd, range(1000), return_exceptions=True)
        broken = executor.map(jobs.fail_if_odd, range(1000))
    assert sum(isinstance(result, ValueError) for result in results) == 500
    assert next(broken) == 0
    with pytest.raises(ValueError, match="1 is odd"):
        next(broken)


def test_never_advanced_whose_input_raises_at_shutdown(tmp_path: Path) -> None:
    def items() -> Iterator[int]:
        yield from range(500)
        raise OSError("the disk is gone")

    with Executor(max_workers=2) as executor:
        results = executor.map(jobs.square, items(), buffersize=4)
    assert list(itertools.islice(results, 500)) == [n * n for n in range(500)]
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)


def test_never_advanced_and_closed_is_as_never_advanced(tmp_path: Path) -> None:
    """`close()` of an iterator that was not begun does nothing, as with concurrent.futures."""
    ran = tmp_path / "ran"
    with Executor(max_workers=2) as executor:
        executor.map(jobs.count_in_file, Source(range(500)), itertools.repeat(str(ran))).close()  # type: ignore[attr-defined]
    assert len(lines(ran)) == 500


# --- the end: advanced ---


def test_advanced_then_closed(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    source = Source(range(100_000))
    with Executor(max_workers=2) as executor:
        results = executor.map(jobs.count_in_file, source, itertools.repeat(str(ran)))
        assert next(results) == 0
        results.close()  # type: ignore[attr-defined]
        read = source.count
        assert list(results) == []
    assert source.count == read < 100_000
    assert len(lines(ran)) <= read


def test_advanced_then_dropped() -> None:
    source = Source(range(100_000))
    with Executor(max_workers=2) as executor:
        results = executor.map(jobs.slow, source, itertools.repeat(0.001))
        assert next(results) == 0
        del results
        gc.collect()
        read = source.count
    assert source.count == read < 100_000


def test_left_by_break(tmp_path: Path) -> None:
    """What waits is cancelled: a long queue does not hold up the end of the `with`."""
    source = Source(range(100_000))
    begin = time.monotonic()
    with Executor(max_workers=2) as executor:
        for result in executor.map(jobs.slow, source, itertools.repeat(0.05), buffersize=1000):
            assert result == 0
            break
        gc.collect()
    assert time.monotonic() - begin < 8  # 1,000 items of 50 ms would take 25 s
    assert source.count < 100_000


def test_left_by_an_exception_of_a_job(tmp_path: Path) -> None:
    source = Source(itertools.count())
    with Executor(max_workers=2) as executor, pytest.raises(ValueError, match="1 is odd"):
        for _ in executor.map(jobs.fail_if_odd, source):
            pass
    read = source.count
    assert source.count == read


@pytest.mark.parametrize("length", [True, False])
def test_advanced_and_open_at_shutdown(length: bool) -> None:
    """Finished if the input has a length, else cancelled where it was left."""
    count = 30_000
    source = Source(range(count))
    with Executor(max_workers=2) as executor:
        results = executor.map(jobs.square, range(count) if length else source)
        got = [next(results)]
    if length:
        got += list(results)
        assert got == [n * n for n in range(count)]
    else:
        assert source.count < count
        with pytest.raises(CancelledError):  # noqa: PT012
            for result in results:
                got.append(result)
        assert got == [n * n for n in range(len(got))]


def test_an_endless_one_advanced_and_open_at_shutdown() -> None:
    """The `with` ends, whatever the input."""
    with Executor(max_workers=2) as executor:
        results = executor.map(jobs.square, itertools.count())
        assert next(results) == 0
    with pytest.raises(CancelledError):
        list(results)


@pytest.mark.parametrize("advanced", [True, False])
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_with(advanced: bool, kind: type[BaseException]) -> None:
    """What was not pulled is cancelled."""
    source = Source(itertools.count())
    with pytest.raises(kind), Executor(max_workers=2) as executor:  # noqa: PT012
        results = executor.map(jobs.square, source)
        if advanced:
            assert next(results) == 0
        raise kind("left")
    read = source.count
    got = []
    with pytest.raises(CancelledError):  # noqa: PT012
        for result in results:
            got.append(result)
    assert source.count == read
    assert got == [n * n for n in range(advanced, advanced + len(got))]


@pytest.mark.parametrize("advanced", [True, False])
def test_shutdown_without_waiting(advanced: bool) -> None:
    source = Source(itertools.count())
    executor = Executor(max_workers=2)
    results = executor.map(jobs.square, source)
    if advanced:
        assert next(results) == 0
    executor.shutdown(wait=False)
    read = source.count
    with pytest.raises(CancelledError):
        for _ in results:
            pass
    assert source.count == read
    executor.shutdown()


@pytest.mark.parametrize("advanced", [True, False])
def test_shutdown_in_another_thread(advanced: bool) -> None:
    source = Source(itertools.count())
    executor = Executor(max_workers=2)
    results = executor.map(jobs.square, source)
    if advanced:
        assert next(results) == 0
    thread = threading.Thread(target=executor.shutdown)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert source.threads == {threading.get_ident()}
    with pytest.raises(CancelledError):
        for _ in results:
            pass
    assert source.threads == {threading.get_ident()}


def test_shutdown_in_another_thread_wakes_a_consumer_that_waits(tmp_path: Path) -> None:
    """The consumer waits in `next`; another thread shuts down with cancel_futures: it gets what ran, then the news."""
    started, release = tmp_path / "started", tmp_path / "release"
    executor = Executor(max_workers=1)
    results = executor.map(lambda item: jobs.hold(str(started), str(release)), itertools.count(), buffersize=5)

    def shut() -> None:
        support.wait_for(started.exists, "the first job")
        closer = threading.Thread(target=lambda: executor.shutdown(cancel_futures=True))
        closer.start()
        support.wait_for(lambda: executor._refuse is not None, "the shutdown")
        release.touch()
        closer.join(20)

    thread = threading.Thread(target=shut)
    thread.start()
    got = []
    with pytest.raises(CancelledError):  # noqa: PT012
        for result in results:
            got.append(result)
    thread.join(20)
    assert got == ["released"]


def test_cancel_futures_cancels_what_waits_of_a_map(tmp_path: Path) -> None:
    started, release, ran = tmp_path / "started", tmp_path / "release", tmp_path / "ran"
    executor = Executor(max_workers=1)
    executor.submit(jobs.hold, str(started), str(release))
    support.wait_for(started.exists, "the first job")
    results = executor.map(jobs.count_in_file, range(100), itertools.repeat(str(ran)))
    executor.shutdown(wait=False, cancel_futures=True)
    release.touch()
    with pytest.raises(CancelledError):
        list(results)
    executor.shutdown()
    assert lines(ran) == []


def test_results_can_be_read_after_shutdown() -> None:
    with Executor(max_workers=2) as executor:
        results = executor.map(jobs.make_array, [10, 100_000, 10])
        texts = executor.map(jobs.measure, ["a", "bb"])
    assert [len(array) for array in results] == [10, 100_000, 10]
    assert list(texts) == [1, 2]


def test_keyboard_interrupt_in_next_loses_no_result(shared: Executor) -> None:
    """A map that was interrupted is closed, like any generator; others go on."""
    other = shared.map(jobs.square, range(1000))
    results = shared.map(jobs.slow, range(1000), itertools.repeat(0.01))
    timer = threading.Timer(0.1, lambda: os.kill(os.getpid(), 2))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in results:
            pass
    timer.join()
    assert list(other) == [n * n for n in range(1000)]


def test_a_million_items(shared: Executor) -> None:
    assert sum(shared.map(abs, range(1_000_000))) == sum(range(1_000_000))
