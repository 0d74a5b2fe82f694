"""Budgets in bytes (row 14 of the fault matrix): what is too large is refused, what fits later waits."""

from __future__ import annotations

import importlib
import itertools
import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import fault_jobs
import hard_jobs as jobs
import pytest
import support
from tracks import make_quick, started

import ztasks
from ztasks import Executor, ExecutorClosed, TooLarge
from ztasks.io.sockets import Socket

FOLDER = str(Path(jobs.__file__).parent)
MIB = 1 << 20


def held_bytes(executor: Executor) -> int:
    return executor._inbox.taken - executor._inbox.freed


def wait_until_somebody_waits(executor: Executor) -> None:
    support.wait_for(lambda: executor._inbox._waiting, "a thread that waits for room")


class Submitting(threading.Thread):
    """A thread that submits; `future` or `error` says what came of it."""

    def __init__(self, executor: Executor, *call: Any) -> None:
        super().__init__()
        self.executor, self.call = executor, call
        self.future: ztasks.Future[Any] | None = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.future = self.executor.submit(*self.call)
        except BaseException as error:
            self.error = error

    def outcome(self) -> Any:
        """What `submit` raised, or the job's exception or result."""
        self.join(20)
        assert not self.is_alive()
        if self.error is not None:
            return self.error
        assert self.future is not None
        return self.future.exception(10) or self.future.result()


# --- arguments ---


def test_row_14_arguments_beyond_the_budget(tmp_path: Path) -> None:
    """Refused at the call; nothing was sent, nothing is held, and what fits is run."""
    with Executor(max_workers=1, max_bytes="1MiB") as executor:
        for _ in range(3):
            with pytest.raises(TooLarge, match="Nothing was sent"):
                executor.submit(len, bytes(MIB + 1))
            with pytest.raises(ValueError, match="1048576"):
                executor.submit(jobs.take, value=["x" * MIB])
        assert held_bytes(executor) == 0
        assert executor.submit(len, bytes(MIB - 100)).result(10) == MIB - 100
        assert list(executor.map(len, [bytes(2 * MIB)] * 2)) == [2 * MIB] * 2  # a map has a budget of its own
        assert held_bytes(executor) == 0


def test_row_14_large_arguments_in_a_small_address_space(tmp_path: Path) -> None:
    """RLIMIT_AS on the user's process: what fits into the budget works, the rest is TooLarge at `submit`."""
    text = f"""
    import resource, sys
    sys.path.insert(0, {FOLDER!r})
    import ztasks, fault_jobs
    mib = 1 << 20
    limit = 1400 * mib
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with ztasks.Executor(max_workers=1) as executor:
        print(executor.submit(len, bytes(150 * mib)).result())
        data = bytes(400 * mib)
        for arguments in ([data], [data, data]):
            try:
                executor.submit(len, *arguments)
            except ztasks.TooLarge as error:
                print("TooLarge", "Nothing was sent" in str(error))
        del data, arguments
        print(executor.submit(len, bytes(150 * mib)).result(), executor._inbox.taken - executor._inbox.freed)
    """
    out = support.check_script(tmp_path, text, seconds=50)
    assert out.splitlines() == ["157286400", "TooLarge True", "TooLarge True", "157286400 0"]


def test_row_14_no_memory_to_send(tmp_path: Path) -> None:
    """Taken in while there was memory, sent when there is none: TooLarge for that job, the others go on."""
    text = f"""
    import os, resource, sys
    from pathlib import Path
    sys.path[:0] = {[FOLDER, str(Path(support.__file__).parent)]!r}
    import ztasks, fault_jobs
    from tracks import started
    folder, mib = Path({str(tmp_path)!r}), 1 << 20
    with ztasks.Executor(max_workers=2) as executor:
        held = [executor.submit(fault_jobs.hold, str(folder)) for _ in range(2)]
        started(folder, 2)
        large = [executor.submit(len, bytes(64 * mib)) for _ in range(3)]
        small = [executor.submit(pow, 2, number) for number in range(10)]
        before = resource.getrlimit(resource.RLIMIT_AS)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 16 * mib, before[1]))
        (folder / "release").touch()
        errors = [future.exception(20) for future in large]
        print([future.result(20) for future in small] == [2**number for number in range(10)])
        resource.setrlimit(resource.RLIMIT_AS, before)
        print([type(error).__name__ for error in errors].count("TooLarge") > 0, len({{type(e) for e in errors}}) <= 2)
        print([future.result(20) in started(folder) for future in held])
        print(executor.submit(len, bytes(64 * mib)).result(20), executor._inbox.taken - executor._inbox.freed)
    """
    assert support.check_script(tmp_path, text).splitlines() == ["True", "True True", "[True, True]", "67108864 0"]


def test_row_14_no_memory_to_send_behind_a_running_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job that its worker is running meanwhile is innocent."""
    send = Socket.send

    def fail_if_large(sock: Socket, *frames: Any) -> bool:
        if any(len(memoryview(frame)) > MIB for frame in frames):
            raise MemoryError
        return send(sock, *frames)

    before = tmp_path / "before"
    before.mkdir()
    (before / "release").touch()
    hold = ztasks.options(fault_jobs.hold, crash_retries=0)
    with Executor(max_workers=1) as executor:
        executor.submit(hold, str(before)).result(10)
        executor.submit(len, b"").result(10)
        make_quick(executor, hold, len)  # so the large one is sent while the first runs
        held = executor.submit(hold, str(tmp_path))
        started(tmp_path)
        monkeypatch.setattr(Socket, "send", fail_if_large)
        assert type(executor.submit(len, bytes(2 * MIB)).exception(10)) is TooLarge
        monkeypatch.undo()
        small = executor.submit(fault_jobs.square, 3)
        (tmp_path / "release").touch()
        assert held.result(10) in started(tmp_path)
        assert small.result(10) == 9
        assert executor.submit(len, bytes(2 * MIB)).result(10) == 2 * MIB
        assert held_bytes(executor) == 0


# --- results ---


def test_row_14_what_takes_long_to_arrive_is_left_on_its_way(tmp_path: Path) -> None:
    """Another worker idles meanwhile, and would have to wait as long."""
    with Executor(max_workers=2) as executor:
        sizes = [executor.submit(len, bytes(size)) for size in (150_000_000, 100_000_000)]
        assert [future.result(30) for future in sizes] == [150_000_000, 100_000_000]
        assert [outcome.attempts for outcome in executor.outcomes(len, [bytes(100_000_000)] * 2)] == [1, 1]


def test_row_14_a_module_that_takes_long_to_import_is_imported_by_one_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zt_slow.py").write_text(
        "import os, time\n"
        "if 'ZTASKS_WORKER' in os.environ:\n"
        f"    with open({str(tmp_path / 'imported')!r}, 'a') as file:\n"
        "        file.write('once ')\n"
        "    time.sleep(1.0)\n"
        "def job():\n"
        "    return 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("ZTASKS_WORKER", raising=False)
    with Executor(max_workers=2) as executor:
        assert executor.submit(importlib.import_module("zt_slow").job).result(20) == 7
    assert (tmp_path / "imported").read_text() == "once "


@pytest.mark.parametrize("kind", ["bytes", "str", "bytearray", "list", "array"])
def test_row_14_results_beyond_the_budget(kind: str) -> None:
    """That job fails with TooLarge; its worker lives; those beside it have their results."""
    with Executor(max_workers=1, max_bytes="1MiB") as executor:
        futures = [executor.submit(jobs.result_of, kind, size) for size in (100, 2 * MIB, 400_000, 3 * MIB)]
        pid = executor.submit(os.getpid).result(10)
        for future in futures[1::2]:
            error = future.exception(10)
            assert type(error) is TooLarge
            assert "max_bytes" in str(error)
        assert [len(future.result(10)) for future in futures[::2]] == [100, 400_000]
        sizes = [100] * 30 + [2 * MIB] + [400_000] * 20 + [100]  # together more than the budget: that is no matter
        outcomes = list(executor.outcomes(jobs.result_of, itertools.repeat(kind), sizes))
        assert [outcome.index for outcome in outcomes if not outcome.ok] == [30]
        assert type(outcomes[30].exception) is TooLarge
        assert [len(outcome.value) for outcome in outcomes if outcome.ok] == [size for size in sizes if size < MIB]
        assert executor.submit(os.getpid).result(10) == pid


def test_row_14_no_memory_to_receive(tmp_path: Path) -> None:
    """A result for which the user's process has no memory fails its job, in bounded time; the others go on."""
    text = f"""
    import resource, sys
    from pathlib import Path
    sys.path[:0] = {[FOLDER, str(Path(support.__file__).parent)]!r}
    import ztasks, hard_jobs
    from tracks import started
    from ztasks.io import timekeeper
    timekeeper.ARRIVALS_EVERY, timekeeper.LOST_LOOKS = 0.1, 5
    folder, mib = Path({str(tmp_path)!r}), 1 << 20
    with ztasks.Executor(max_workers=2, output=lambda text: None) as executor:
        task = ztasks.options(hard_jobs.hold_and_give, crash_retries=0)
        large = [executor.submit(task, str(folder), 64 * mib) for _ in range(2)]
        started(folder, 2)
        small = [executor.submit(pow, 2, number) for number in range(10)]
        before = resource.getrlimit(resource.RLIMIT_AS)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 16 * mib, before[1]))
        (folder / "release").touch()
        errors = [future.exception(20) for future in large]
        print([future.result(20) for future in small] == [2**number for number in range(10)])
        resource.setrlimit(resource.RLIMIT_AS, before)
        print([isinstance(error, (ztasks.TooLarge, ztasks.WorkerLost)) for error in errors])
        print(len(executor.submit(bytes, mib).result(20)), executor._inbox.taken - executor._inbox.freed)
    """
    done = support.run_script(tmp_path, text, seconds=55)
    assert (done.code, done.out.splitlines()) == (0, ["True", "[True, True]", "1048576 0"]), done.err


# --- waiting for room ---


def fill(executor: Executor, folder: Path) -> list[ztasks.Future[int]]:
    """Hold the one worker, and take all but a little of 1 MiB with three jobs behind that; return these."""
    executor.submit(fault_jobs.hold, str(folder))
    started(folder)
    return [executor.submit(len, bytes(330_000)) for _ in range(3)]


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Executor]:
    """An executor whose one worker is held and whose budget of 1 MiB is taken."""
    with Executor(max_workers=1, max_bytes="1MiB") as executor:
        fill(executor, tmp_path)
        yield executor
        (tmp_path / "release").touch()


def test_row_14_submit_waits_for_room_and_goes_on(tmp_path: Path, full: Executor) -> None:
    waiting = Submitting(full, len, bytes(400_000))
    wait_until_somebody_waits(full)
    assert waiting.is_alive()
    small = full.submit(len, b"123")  # there is room for this one
    assert held_bytes(full) <= MIB
    (tmp_path / "release").touch()
    assert waiting.outcome() == 400_000
    assert small.result(10) == 3
    support.wait_for(lambda: held_bytes(full) == 0, "all to be given back")


def test_row_14_several_threads_wait_for_room(tmp_path: Path, full: Executor) -> None:
    threads = [Submitting(full, len, bytes(100_000 * number)) for number in range(2, 10)]
    support.wait_for(lambda: len(full._inbox._waiting) >= 8, "eight threads to wait")
    assert held_bytes(full) <= MIB
    (tmp_path / "release").touch()
    assert [thread.outcome() for thread in threads] == [100_000 * number for number in range(2, 10)]
    assert held_bytes(full) == 0


def test_row_14_many_submits_through_a_small_budget() -> None:
    """Four threads push ten times the budget through: it is exceeded by what comes in at one moment at most."""
    most = 0

    def push() -> None:
        nonlocal most
        for number in range(100):
            size = 30_000 + 10 * number
            futures.append((size, executor.submit(len, bytes(size))))
            most = max(most, held_bytes(executor))

    futures: list[tuple[int, ztasks.Future[int]]] = []
    with Executor(max_workers=2, max_bytes="1MiB") as executor:
        threads = [threading.Thread(target=push) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert [future.result(10) for _, future in futures] == [size for size, _ in futures]
        assert held_bytes(executor) == 0
    assert len(futures) == 400
    assert most <= MIB + 4 * 32_000


def test_row_14_a_cancel_makes_room(tmp_path: Path) -> None:
    with Executor(max_workers=1, max_bytes="1MiB") as executor:
        first, *others = fill(executor, tmp_path)
        waiting = Submitting(executor, len, bytes(300_000))
        wait_until_somebody_waits(executor)
        assert waiting.is_alive()
        assert first.cancel()
        waiting.join(20)
        assert not waiting.is_alive()
        (tmp_path / "release").touch()
        assert waiting.outcome() == 300_000
        assert [future.result(10) for future in others] == [330_000] * 2


def test_row_14_a_callback_does_not_wait(tmp_path: Path, full: Executor) -> None:
    """Nobody else would end the jobs whose callbacks wait behind it."""
    submitted: list[Any] = []
    called = threading.Event()

    def submit_more(done: Any) -> None:
        submitted.extend(full.submit(len, bytes(500_000)) for _ in range(4))
        called.set()

    cancelled = full.submit(len, b"")
    cancelled.add_done_callback(submit_more)
    cancelled.cancel()
    assert called.wait(10)
    assert held_bytes(full) > 2 * MIB
    (tmp_path / "release").touch()
    assert [future.result(10) for future in submitted] == [500_000] * 4
    assert held_bytes(full) == 0


@pytest.mark.parametrize("how", ["shutdown", "kill"])
def test_row_14_closed_while_somebody_waits(tmp_path: Path, full: Executor, how: str) -> None:
    waiting = [Submitting(full, len, bytes(400_000)) for _ in range(3)]
    support.wait_for(lambda: len(full._inbox._waiting) == 3, "three threads to wait")
    if how == "kill":
        full.kill()
    else:
        full.shutdown(wait=False)
        (tmp_path / "release").touch()
        full.shutdown()
    assert [type(thread.outcome()) for thread in waiting] == [ExecutorClosed] * 3
    assert held_bytes(full) == 0


def test_row_14_interrupted_while_it_waits(tmp_path: Path) -> None:
    """Ctrl-C in the main thread: nothing of that job is left in the books."""
    text = f"""
    import os, signal, sys, threading, time
    from pathlib import Path
    sys.path[:0] = {[FOLDER, str(Path(support.__file__).parent)]!r}
    import support, ztasks, fault_jobs
    from tracks import started
    folder = Path({str(tmp_path)!r})

    def interrupt():
        support.wait_for(lambda: executor._inbox._waiting, "the main thread")
        os.kill(os.getpid(), signal.SIGINT)

    with ztasks.Executor(max_workers=1, max_bytes="1MiB") as executor:
        executor.submit(fault_jobs.hold, str(folder))
        started(folder)
        large = executor.submit(len, bytes(1_000_000))
        threading.Thread(target=interrupt).start()
        try:
            executor.submit(len, bytes(500_000))
        except KeyboardInterrupt:
            print("interrupted")
        (folder / "release").touch()
        print(large.result(), executor.submit(len, bytes(1_000_000)).result())
        print(executor._inbox.taken - executor._inbox.freed)
    """
    assert support.check_script(tmp_path, text) == "interrupted\n1000000 1000000\n0\n"


# --- the books ---


@pytest.mark.parametrize("end", ["shutdown", "cancel_futures", "kill"])
def test_row_14_the_budget_is_given_back(tmp_path: Path, end: str) -> None:
    """After successes, failures, retries, crashes, timeouts and cancels of all kinds, nothing is held any more."""
    chance = random.Random(14)
    executor = Executor(max_workers=2, max_bytes="2MiB", output=lambda text: None)
    kinds: list[Any] = [
        lambda: (len, bytes(chance.randrange(100_000))),
        lambda: (jobs.take, bytearray(chance.randrange(200_000))),
        lambda: (fault_jobs.raise_chain,),
        lambda: (ztasks.options(fault_jobs.raise_chain, retries=1, backoff=0.001),),
        lambda: (ztasks.options(jobs.die_with, crash_retries=0), bytes(10_000)),
        lambda: (ztasks.options(jobs.sleep_after, timeout=0.02, grace=10), 1, 60),
        lambda: (ztasks.options(jobs.take, at_most_once=True), bytes(1000)),
        lambda: (lambda value: value, bytes(1000)),
        lambda: (jobs.take, jobs.FailsLoading(os.devnull)),
        lambda: (fault_jobs.generator,),
    ]
    weights = [30, 30, 10, 5, 1, 2, 10, 10, 5, 5]
    futures = []
    for _ in range(400):
        fn, *args = chance.choices(kinds, weights)[0]()
        futures.append(executor.submit(fn, *args))
        if chance.random() < 0.3:
            chance.choice(futures).cancel(running=chance.random() < 0.5)
    if end == "kill":
        executor.kill()
    else:
        executor.shutdown(cancel_futures=end == "cancel_futures")
    for future in futures:
        try:
            future.exception(0)
        except CancelledError:
            assert future.cancelled()
    assert held_bytes(executor) == 0
    assert executor._inbox.taken > MIB


def test_row_14_many_queued_jobs_take_little(tmp_path: Path) -> None:
    """Flat bytes per queued job, its future included: 1 KiB at most."""
    text = f"""
    import os, sys, time
    from pathlib import Path
    sys.path[:0] = {[FOLDER, str(Path(support.__file__).parent)]!r}
    import support, ztasks, fault_jobs
    from tracks import started
    folder = Path({str(tmp_path)!r})
    with ztasks.Executor(max_workers=1) as executor:
        held = executor.submit(fault_jobs.hold, str(folder))
        started(folder)
        futures, sizes = [], []
        for count in (20_000, 40_000, 40_000):
            before = support.resident()
            futures += [executor.submit(fault_jobs.square, number) for number in range(count)]
            sizes.append((support.resident() - before) / count)
        print(*map(int, sizes))
        (folder / "release").touch()
        print([future.result() for future in futures[::1000]] == [fault_jobs.square(n) for n in range(0, 20_000, 1000)]
            + [fault_jobs.square(n) for n in range(0, 40_000, 1000)] * 2)
        executor.shutdown(cancel_futures=True)
        print(executor._inbox.taken - executor._inbox.freed)
    """
    sizes, right, left = support.check_script(tmp_path, text, seconds=50).splitlines()
    assert max(map(int, sizes.split())) <= 1024
    assert (right, left) == ("True", "0")


def test_row_14_bytes_of_a_lane_are_bounded(tmp_path: Path) -> None:
    """A worker is given 16 MiB at most beyond its first job; what waits can still be cancelled."""
    before = tmp_path / "before"
    before.mkdir()
    (before / "release").touch()
    with Executor(max_workers=1) as executor:
        executor.submit(fault_jobs.hold, str(before)).result(10)
        executor.submit(len, b"").result(10)
        make_quick(executor, fault_jobs.hold, len)  # so only bytes bound what is given
        held = executor.submit(fault_jobs.hold, str(tmp_path))
        started(tmp_path)
        futures = [executor.submit(len, bytes(3 * MIB)) for _ in range(12)]
        executor.running()  # the head has read and sent what there was
        given = [future.running() for future in futures]
        assert given == sorted(given, reverse=True)
        assert 1 <= sum(given) <= 5
        assert not futures[0].cancel()
        assert futures[11].cancel()
        (tmp_path / "release").touch()
        held.result(10)
        assert [future.result(10) for future in futures[:11]] == [3 * MIB] * 11
        assert held_bytes(executor) == 0
