"""After `close()` nothing is left; and whatever else ends a program, it leaves nothing behind either."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import jobs
import pytest
import support

import ztasks
from ztasks import Executor


def use_and_close(number: int) -> None:
    with Executor(max_workers=1 + number % 2) as executor:
        future = executor.submit(jobs.square, number)
        future.add_done_callback(lambda done: None)
        assert list(executor.map(jobs.echo, [bytearray(100_000), 1])) == [bytearray(100_000), 1]
        assert future.result(10) == number * number


def test_fifty_open_close_cycles() -> None:
    """Descriptors, threads, children, directories and shared memory are what they were."""
    use_and_close(0)  # what is imported late, is imported now
    gc.collect()
    before = support.belongings()
    for number in range(50):
        use_and_close(number)
    after = support.belongings()
    assert after.threads == before.threads
    assert after.children == before.children
    assert after.directories == before.directories
    assert after.descriptors == before.descriptors
    assert {name for name in after.shared - before.shared if "zt" in name or "mp-" not in name} == set()
    assert threading.active_count() == len(threading.enumerate())


def test_after_shutdown_nothing_is_left_at_once() -> None:
    """Not a little later: when `shutdown()` returns."""
    for _ in range(5):
        before = support.belongings()
        executor = Executor(max_workers=2)
        executor.submit(jobs.square, 2).add_done_callback(lambda done: None)
        executor.shutdown()
        after = support.belongings()
        assert after.threads == before.threads
        assert after.children == before.children
        assert after.directories == before.directories


def test_closed_before_any_worker_is_up() -> None:
    for workers in (1, 4):
        begin = time.monotonic()
        Executor(max_workers=workers).shutdown()
        assert time.monotonic() - begin < 5
        with Executor(max_workers=workers):
            pass


def test_closed_before_any_worker_is_up_with_a_job() -> None:
    executor = Executor(max_workers=2)
    future = executor.submit(jobs.square, 3)
    executor.shutdown()
    assert future.result(0) == 9


def test_close_twice_and_from_another_thread() -> None:
    executor = Executor(max_workers=1)
    future = executor.submit(jobs.slow, 1, 0.05)
    threads = [threading.Thread(target=executor.shutdown) for _ in range(4)]
    for thread in threads:
        thread.start()
    executor.shutdown()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    executor.shutdown()
    executor.shutdown(wait=False, cancel_futures=True)
    assert future.result(0) == 1


def test_shutdown_finishes_what_is_queued() -> None:
    with Executor(max_workers=2) as executor:
        futures = [executor.submit(jobs.slow, index, 0.005) for index in range(100)]
    assert [future.result(0) for future in futures] == list(range(100))


def test_shutdown_without_waiting_finishes_in_the_background() -> None:
    executor = Executor(max_workers=2)
    futures = [executor.submit(jobs.slow, index, 0.005) for index in range(50)]
    executor.shutdown(wait=False)
    with pytest.raises(ztasks.ExecutorClosed):
        executor.submit(jobs.square, 2)
    assert [future.result(10) for future in futures] == list(range(50))
    executor.shutdown()


def test_shutdown_cancelling_what_is_queued(tmp_path: Path) -> None:
    started, release = tmp_path / "started", tmp_path / "release"
    executor = Executor(max_workers=1)
    running = executor.submit(jobs.hold, str(started), str(release))
    support.wait_for(started.exists, "the first job")
    waiting = [executor.submit(jobs.square, 2) for _ in range(50)]
    executor.shutdown(wait=False, cancel_futures=True)
    support.wait_for(lambda: all(future.cancelled() for future in waiting), "all to be cancelled")
    assert not running.done()
    release.touch()
    executor.shutdown()
    assert running.result(0) == "released"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_with_left_by_an_interrupt_cancels_what_is_queued(tmp_path: Path, kind: type[BaseException]) -> None:
    started, release = tmp_path / "started", tmp_path / "release"
    with pytest.raises(kind), Executor(max_workers=1) as executor:  # noqa: PT012
        running = executor.submit(jobs.hold, str(started), str(release))
        support.wait_for(started.exists, "the first job")
        futures = [executor.submit(time.sleep, 60) for _ in range(5)]
        futures[-1].add_done_callback(lambda done: release.touch())  # cancelled while the first still runs
        raise kind
    assert running.result(0) == "released"
    assert sum(future.cancelled() for future in futures) == 5


def test_with_left_by_an_error_finishes_what_is_queued() -> None:
    with pytest.raises(ValueError), Executor(max_workers=1) as executor:  # noqa: PT012
        futures = [executor.submit(jobs.slow, index, 0.005) for index in range(20)]
        raise ValueError
    assert [future.result(0) for future in futures] == list(range(20))


def test_kill(tmp_path: Path) -> None:
    started = tmp_path / "started"
    executor = Executor(max_workers=1)
    running = executor.submit(jobs.hold, str(started), str(tmp_path / "never"))
    waiting = executor.submit(jobs.square, 2)
    support.wait_for(started.exists, "the first job")
    begin = time.monotonic()
    executor.kill()
    assert time.monotonic() - begin < 2
    with pytest.raises(ztasks.WorkerLost):
        running.result(0)
    assert waiting.cancelled()


def test_forgetting_to_close_warns_and_cleans_up() -> None:
    before = support.belongings()
    executor = Executor(max_workers=1)
    future = executor.submit(jobs.square, 3)
    with pytest.warns(ResourceWarning, match="was not closed"):  # noqa: PT031
        del executor
        gc.collect()
    assert future.result(10) == 9
    support.check_nothing_left(before)


@pytest.mark.parametrize("how", ["forgotten", "not waited for"])
def test_a_fork_after_the_end_closes_nobody_elses_descriptors(how: str) -> None:
    """The numbers that an executor had may be somebody else's by then."""
    before = support.belongings()
    executor = Executor(max_workers=1)
    executor.submit(jobs.square, 3).result(10)
    if how == "forgotten":
        with pytest.warns(ResourceWarning):  # noqa: PT031
            del executor
            gc.collect()
    else:
        executor.shutdown(wait=False)
    support.check_nothing_left(before)
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(40)]
    try:
        child = os.fork()
        if child == 0:
            try:
                for file in files:
                    os.fstat(file)
            except OSError:
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        for file in files:
            os.close(file)


def test_no_warning_after_closing() -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with Executor(max_workers=1) as executor:
            executor.submit(jobs.square, 3)
        del executor
        gc.collect()
    assert heard == []


# --- the end of the program ---

ENDINGS = {
    "forgotten": "executor.submit(pow, 2, 2)",
    "pending jobs": "futures = [executor.submit(time.sleep, 0.05) for _ in range(20)]",
    "unstarted": "",
    "shutdown without waiting": "executor.submit(time.sleep, 0.2); executor.shutdown(wait=False)",
    "a map nobody consumed": "results = executor.map(abs, range(10**5))",
    "a map half consumed": "results = executor.map(abs, itertools.count()); next(results)",
    "an endless map not begun": "results = executor.map(abs, itertools.count())",
    "a callback pending": "executor.submit(time.sleep, 0.1).add_done_callback(lambda done: print('called'))",
}
"""What a program may leave undone; for how else it may end, see tests/faults/test_exit_paths.py."""


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_program_ends(tmp_path: Path, ending: str) -> None:
    """It ends without error, and neither a worker nor a directory is left."""
    text = f"""
import itertools, os, sys, time, ztasks
executor = ztasks.Executor(max_workers=2)
print(executor.submit(os.getpid).result(), *os.listdir(os.environ["TMPDIR"]), flush=True)
{ENDINGS[ending]}
"""
    folder = tempfile.mkdtemp(prefix="e")  # short enough for sockets: else they would be elsewhere
    done = support.run_script(tmp_path, text, env=support.environment(TMPDIR=folder))
    assert done.code == 0, done.err
    pid, directory, *rest = done.out.split()
    support.wait_gone({int(pid)}, 3)
    assert directory.startswith("ztasks-")
    assert os.listdir(folder) == []
    os.rmdir(folder)
    assert rest == (["called"] if ending == "a callback pending" else [])
    assert ("was not closed" in done.err) == (ending != "shutdown without waiting")
    assert "Traceback" not in done.err


def test_jobs_that_wait_at_the_programs_end_are_finished(tmp_path: Path) -> None:
    """As with concurrent.futures."""
    text = f"""
    import sys, ztasks
    sys.path.insert(0, {str(Path(jobs.__file__).parent)!r})
    import jobs
    executor = ztasks.Executor(max_workers=1)
    for number in range(200):
        executor.submit(jobs.count_in_file, number, {str(tmp_path / "ran")!r})
    """
    done = support.run_script(tmp_path, text)
    assert done.code == 0
    assert len((tmp_path / "ran").read_text().split()) == 200


def test_ctrl_c_while_a_with_waits(tmp_path: Path) -> None:
    text = """
    import time, ztasks
    with ztasks.Executor(max_workers=1) as executor:
        executor.submit(time.sleep, 600)
        try:
            print("waiting", flush=True)
            time.sleep(60)
        finally:
            print("interrupted", flush=True)
    """
    script = support.write_script(tmp_path, text)
    with support.running(str(script)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        pids = support.wait_for(lambda: support.workers(process.pid), "a worker")
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        time.sleep(0.2)  # it has begun to wait for what runs
        process.send_signal(signal.SIGINT)  # twice: it waits no longer
        assert process.wait(10) == -signal.SIGINT
        support.wait_gone(pids)


def test_directories_of_killed_processes_are_swept(tmp_path: Path) -> None:
    before = set(support.run_directories())
    with support.running(
        "-c", "import ztasks; e = ztasks.Executor(1); e.submit(pow, 2, 2).result(); print(1, flush=True); input()"
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        (directory,) = set(support.run_directories()) - before
        with Executor(max_workers=1):
            assert os.path.isdir(directory)  # its owner lives
        process.kill()
        process.wait(10)
    assert os.path.isdir(directory)
    with Executor(max_workers=1):
        assert not os.path.exists(directory)


def test_foreign_directories_are_not_swept() -> None:
    """Only what is ours by name, owner and lock goes; a young one without a lock may just be being made."""
    base = Path(tempfile.gettempdir())
    young, file = base / "ztasks-young", base / "ztasks-file"
    young.mkdir()
    file.touch()
    link = base / "ztasks-link"
    link.symlink_to("/usr")
    old = base / "ztasks-old"
    old.mkdir()
    os.utime(old, (0, 0))
    try:
        with Executor(max_workers=1):
            assert young.exists()
            assert file.exists()
            assert link.is_symlink()
            assert not old.exists()
    finally:
        young.rmdir()
        file.unlink()
        link.unlink()


def test_directory_is_private() -> None:
    before = set(support.run_directories())
    with Executor(max_workers=1) as executor:
        executor.submit(pow, 2, 2).result(10)
        (directory,) = set(support.run_directories()) - before
        assert os.stat(directory).st_mode & 0o777 == 0o700


def test_descriptors_are_not_inherited_by_other_children() -> None:
    code = "import os; print(len(os.listdir('/proc/self/fd')))"

    def count() -> bytes:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, close_fds=False, check=True).stdout

    before = count()
    with Executor(max_workers=1) as executor:
        executor.submit(pow, 2, 2).result(10)
        assert count() == before


def test_worker_has_no_descriptors_of_ours(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, Executor(max_workers=1) as executor:
        os.set_inheritable(file.fileno(), False)
        links = executor.submit(lambda: [os.readlink(f"/proc/self/fd/{n}") for n in range(3, 40) if _exists(n)])
        assert str(tmp_path / "file") not in links.result(10)


def _exists(number: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{number}")


def test_memory_does_not_grow_with_finished_jobs(tmp_path: Path) -> None:
    text = """
    import os, pathlib, ztasks

    def resident():
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    with ztasks.Executor(max_workers=2) as executor:
        sizes = []
        for _ in range(4):
            for _ in range(10):
                futures = [executor.submit(pow, number, 2) for number in range(2000)]
                for future in futures:
                    future.result()
                lambdas = [executor.submit(lambda n=n: n) for n in range(20)]
                assert [future.result() for future in lambdas] == list(range(20))
            sizes.append(resident())
        print((sizes[-1] - sizes[1]) // 2**20)
    """
    assert int(support.check_script(tmp_path, text)) < 4
