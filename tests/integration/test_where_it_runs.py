"""Scripts, the REPL, notebooks, threads that end, odd directories: wherever Python runs, an executor works."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pty
import shutil
import tempfile
import textwrap
import threading
from pathlib import Path

import jobs
import pytest
import support

import ztasks
from ztasks import Executor

# --- scripts ---

SCRIPT = """
    import ztasks

    OFFSET = 100

    class Point:
        def __init__(self, x):
            self.x = x

    @ztasks.task(retries=1)
    def shift(point: Point) -> Point:
        return Point(point.x + helper())

    def helper():
        return OFFSET

    with ztasks.Executor(max_workers=2) as executor:
        points = list(executor.map(shift, [Point(1), Point(2)]))
        assert all(type(point) is Point for point in points)
        print([point.x for point in points], shift.submit(Point(3)).result().x)
"""


def test_script_without_a_main_guard(tmp_path: Path) -> None:
    assert support.check_script(tmp_path, SCRIPT) == "[101, 102] 103\n"


def test_python_c() -> None:
    done = support.run_python("-c", textwrap.dedent(SCRIPT))
    assert (done.code, done.out, done.err) == (0, "[101, 102] 103\n", "")


def test_script_from_stdin() -> None:
    done = support.run_python("-", stdin=textwrap.dedent(SCRIPT))
    assert (done.code, done.out, done.err) == (0, "[101, 102] 103\n", "")


def test_python_m(tmp_path: Path) -> None:
    package = tmp_path / "mypackage"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("def double(number):\n    return 2 * number\n")
    (package / "__main__.py").write_text(
        textwrap.dedent("""
        import ztasks
        from . import parts

        def local(number):
            return parts.double(number) + 1

        with ztasks.Executor(max_workers=2) as executor:
            print(list(executor.map(parts.double, range(3))), list(executor.map(local, range(3))))
        """)
    )
    done = support.run_python("-m", "mypackage", cwd=tmp_path)
    assert (done.code, done.out, done.err) == (0, "[0, 2, 4] [1, 3, 5]\n", "")


def test_function_of_a_module_beside_the_script(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("def double(number):\n    return 2 * number\n")
    text = """
    import beside, ztasks
    with ztasks.Executor(max_workers=1) as executor:
        print(executor.submit(beside.double, 4).result())
    """
    assert support.check_script(tmp_path, text, cwd="/") == "8\n"


def test_sys_path_changed_by_the_script(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "secret_module.py").write_text("def double(number):\n    return 2 * number\n")
    text = f"""
    import sys
    sys.path.insert(0, {str(hidden)!r})
    import secret_module, ztasks
    with ztasks.Executor(max_workers=1) as executor:
        print(executor.submit(secret_module.double, 4).result())
    """
    assert support.check_script(tmp_path, text) == "8\n"


def test_names_of_the_standard_library_beside_the_script_and_in_the_cwd(tmp_path: Path) -> None:
    """A user's `token.py` or `worker.py` in the working directory must not break the workers' own start."""
    for name in ("worker", "cell", "zmq_helpers", "crew", "head"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported by mistake')\n")
    text = """
    import ztasks
    with ztasks.Executor(max_workers=1) as executor:
        print(executor.submit(pow, 2, 3).result())
    """
    assert support.check_script(tmp_path, text, cwd=tmp_path) == "8\n"


def test_workers_have_the_scripts_arguments_and_directory(tmp_path: Path) -> None:
    text = """
    import os, sys, ztasks
    os.chdir("/usr")
    os.environ["ZT_SET_BY_SCRIPT"] = "yes"
    with ztasks.Executor(max_workers=1) as executor:
        print(executor.submit(lambda: (sys.argv[1:], os.getcwd(), os.environ["ZT_SET_BY_SCRIPT"])).result())
    """
    assert support.check_script(tmp_path, text, "--one", "two") == "(['--one', 'two'], '/usr', 'yes')\n"


def test_interpreter_flags_reach_the_workers(tmp_path: Path) -> None:
    text = """
    import sys, ztasks
    with ztasks.Executor(max_workers=1) as executor:
        print(executor.submit(lambda: (sys.flags.optimize, sys.flags.utf8_mode)).result())
    """
    script = support.write_script(tmp_path, text)
    done = support.run_python("-O", "-X", "utf8", str(script))
    assert (done.code, done.out, done.err) == (0, "(1, 1)\n", "")


def test_what_jobs_print_reaches_the_scripts_streams(tmp_path: Path) -> None:
    text = """
    import sys, ztasks

    def speak(number):
        print("out", number)
        print("err", number, file=sys.stderr)

    with ztasks.Executor(max_workers=1) as executor:
        list(executor.map(speak, range(3)))
    """
    done = support.run_script(tmp_path, text)
    assert done.code == 0
    assert done.out.splitlines() == ["out 0", "out 1", "out 2"]
    assert done.err.splitlines() == ["err 0", "err 1", "err 2"]


# --- at a prompt ---

REPL = [
    "import ztasks",
    "executor = ztasks.Executor(max_workers=2)",
    "def double(number):",
    "    return 2 * number",
    "",
    "print('first', executor.submit(double, 4).result())",
    "def double(number):",
    "    return 3 * number",
    "",
    "print('second', list(executor.map(double, range(3))))",
    "executor.shutdown()",
    "",
]


def test_repl() -> None:
    done = support.run_python("-i", "-q", stdin="\n".join(REPL))
    assert done.code == 0, done.err
    assert done.out == "first 8\nsecond [0, 3, 6]\n"
    assert "Traceback" not in done.err


def test_repl_at_a_terminal_left_without_closing() -> None:
    """As a user does: type, get a result, press Ctrl-D. Nothing is left."""
    controller, terminal = pty.openpty()
    try:
        basic = support.environment(PYTHON_BASIC_REPL="1")  # the prompt of 3.13 draws, and would have to be parsed
        with support.running("-q", stdin=terminal, stdout=terminal, stderr=terminal, env=basic) as process:
            os.close(terminal)
            for line in REPL[:6]:
                os.write(controller, line.encode() + b"\n")
            text = read_until(controller, b"first 8\r\n>>> ")  # with the prompt: now it reads from the terminal
            workers = support.workers(process.pid)
            assert len(workers) == 2
            os.write(controller, b"\x04")
            text += read_until(controller, None)
            assert process.wait(10) == 0
            support.wait_gone(workers)
        assert b"Traceback" not in text
    finally:
        os.close(controller)


def read_until(descriptor: int, wanted: bytes | None) -> bytes:
    """Read from a terminal until the text has come (None: to its end)."""
    text = b""
    while wanted is None or wanted not in text:
        try:
            chunk = os.read(descriptor, 4096)
        except OSError:  # the other side is closed
            break
        if not chunk:
            break
        text += chunk
    assert wanted is None or wanted in text
    return text


def test_notebook_cells(tmp_path: Path) -> None:
    """What a kernel does: code is run, cell by cell, in a thread, as `__main__` without a file."""
    text = """
    import threading

    CELLS = [
        "import ztasks; executor = ztasks.Executor(max_workers=2)",
        "factor = 2\\ndef times(number):\\n    return factor * number",
        "print(list(executor.map(times, range(3))))",
        "factor = 5",
        "print(list(executor.map(times, range(3))))",
        "class Row:\\n    def __init__(self, x): self.x = x",
        "print(type(executor.submit(lambda: Row(1)).result()) is Row)",
        "executor.shutdown()",
    ]
    for number, cell in enumerate(CELLS):
        code = compile(cell, f"<ipython-input-{number}>", "exec")
        thread = threading.Thread(target=exec, args=(code, globals()))
        thread.start()
        thread.join()
    """
    source = textwrap.dedent(text)
    done = support.run_python("-c", source)
    assert (done.code, done.err) == (0, "")
    assert done.out == "[0, 2, 4]\n[0, 5, 10]\nTrue\n"


@pytest.mark.skipif(importlib.util.find_spec("IPython") is None, reason="IPython is not installed")
def test_ipython_shell() -> None:
    text = """
    from IPython.core.interactiveshell import InteractiveShell
    shell = InteractiveShell.instance()
    for cell in (
        "import ztasks; executor = ztasks.Executor(max_workers=2)",
        "def double(number):\\n    return 2 * number",
        "print(list(executor.map(double, range(3))))",
        "executor.shutdown()",
    ):
        assert shell.run_cell(cell).success
    """
    done = support.run_python("-c", textwrap.dedent(text))
    assert done.code == 0, done.err
    assert "[0, 2, 4]" in done.out


# --- threads ---


@pytest.mark.parametrize("daemon", [False, True])
def test_made_in_a_thread_that_ends_before_it(daemon: bool) -> None:
    made: list[Executor] = []

    def make() -> None:
        executor = Executor(max_workers=2)
        executor.submit(jobs.pid).result(10)
        made.append(executor)

    thread = threading.Thread(target=make, daemon=daemon)
    thread.start()
    thread.join(20)
    (executor,) = made
    workers = support.workers()
    assert list(executor.map(jobs.square, range(100))) == [number * number for number in range(100)]
    assert support.workers() == workers  # the end of the thread has killed none
    executor.shutdown()


def test_made_and_dropped_by_a_daemon_thread_at_exit(tmp_path: Path) -> None:
    text = """
    import threading, ztasks
    ready = threading.Event()

    def make():
        with ztasks.Executor(max_workers=1) as executor:
            print(executor.submit(pow, 2, 3).result(), flush=True)
            ready.set()
            threading.Event().wait()

    threading.Thread(target=make, daemon=True).start()
    ready.wait()
    """
    done = support.run_script(tmp_path, text)
    assert (done.code, done.out) == (0, "8\n")
    assert "Traceback" not in done.err


def test_inside_asyncio_to_thread() -> None:
    def work() -> list[int]:
        with Executor(max_workers=2) as executor:
            return list(executor.map(jobs.square, range(10)))

    async def main() -> list[list[int]]:
        return await asyncio.gather(asyncio.to_thread(work), asyncio.to_thread(work))

    expected = [number * number for number in range(10)]
    assert asyncio.run(main()) == [expected, expected]


def test_with_block_inside_a_coroutine() -> None:
    async def main() -> int:
        with Executor(max_workers=1):
            return await asyncio.wrap_future(jobs.measure.submit("abc"))

    assert asyncio.run(main()) == 3


# --- directories ---


def test_working_directory_deleted(tmp_path: Path) -> None:
    text = """
    import os, shutil, ztasks
    shutil.rmtree(os.getcwd())
    with ztasks.Executor(max_workers=1) as executor:
        print(executor.submit(pow, 2, 3).result())
    """
    gone = tmp_path / "gone"
    gone.mkdir()
    assert support.check_script(tmp_path, text, cwd=gone) == "8\n"


def test_working_directory_deleted_before_workers_start_again(tmp_path: Path) -> None:
    text = """
    import os, shutil, ztasks
    with ztasks.Executor(max_workers=1, max_tasks_per_child=1) as executor:
        print(executor.submit(pow, 2, 3).result())
        shutil.rmtree(os.getcwd())
        print(executor.submit(pow, 2, 4).result())
        print(executor.submit(pow, 2, 5).result())
    """
    gone = tmp_path / "gone"
    gone.mkdir()
    assert support.check_script(tmp_path, text, cwd=gone) == "8\n16\n32\n"


def test_very_long_tmpdir(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100) / ("y" * 100)
    long.mkdir(parents=True)
    text = """
    import tempfile, ztasks
    assert len(tempfile.gettempdir()) > 200
    with ztasks.Executor(max_workers=2) as executor:
        print(sum(executor.map(len, ["a", "bb"])))
    """
    assert support.check_script(tmp_path, text, env=support.environment(TMPDIR=str(long))) == "3\n"
    assert not list(long.iterdir())


@pytest.mark.parametrize("length", range(60, 75, 2))
def test_tmpdir_around_the_limit(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's path has 107 bytes: whatever the length, it works."""
    base = tempfile.gettempdir()
    folder = Path(base, "x" * (length - len(base) - 1))
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    try:
        with Executor(max_workers=1, max_tasks_per_child=1) as executor:
            assert [executor.submit(jobs.square, 2).result(10) for _ in range(2)] == [4, 4]
        assert not list(folder.iterdir())
    finally:
        shutil.rmtree(folder)


def test_tmpdir_with_odd_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(tempfile.gettempdir(), "with space, ümlaut; *")
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    try:
        with Executor(max_workers=1) as executor:
            assert executor.submit(jobs.square, 2).result(10) == 4
    finally:
        shutil.rmtree(folder)


def test_tmpdir_that_cannot_be_written_to(tmp_path: Path) -> None:
    """Another one is used."""
    text = """
    import ztasks
    with ztasks.Executor(max_workers=1) as executor:
        print(executor.submit(abs, -1).result(), executor._head._rundir.path.startswith("/proc"))
    """
    assert support.check_script(tmp_path, text, env=support.environment(TMPDIR="/proc")) == "1 False\n"


# --- inside a job ---


def test_nested_executor_has_one_worker(shared: Executor) -> None:
    assert shared.submit(jobs.nested, 10).result(20) == (1, sum(number * number for number in range(10)))


def test_nested_executors_are_no_fork_bomb(shared: Executor) -> None:
    assert shared.submit(jobs.deeply_nested, 3).result(30) == 4


def test_nested_executor_left_open_by_a_job() -> None:
    """Its workers are gone when the outer one is closed."""

    def leave_open() -> tuple[int, int]:
        import jobs

        executor = jobs.STATE_EXECUTOR = ztasks.Executor()  # type: ignore[attr-defined]
        return os.getpid(), executor.submit(os.getpid).result()

    with Executor(max_workers=1) as executor:
        outer, inner = executor.submit(leave_open).result(20)
        assert support.alive(inner)
    support.wait_gone({outer, inner})


def test_task_in_a_worker_outside_of_a_with_has_no_executor() -> None:
    with Executor(max_workers=1) as executor, pytest.raises(ztasks.NoExecutor):
        executor.submit(lambda: jobs.measure.submit("abc").result()).result(10)


def test_from_within_other_pools_children(tmp_path: Path) -> None:
    """multiprocessing's own children may use an executor too."""
    text = """
    import multiprocessing, sys, ztasks

    def work(number):
        with ztasks.Executor(max_workers=1) as executor:
            return executor.submit(pow, number, 2).result()

    if __name__ == "__main__":
        for method in ("fork", "spawn"):
            with multiprocessing.get_context(method).Pool(2) as pool:
                print(pool.map(work, [2, 3]))
                pool.close()
                pool.join()
    """
    assert support.check_script(tmp_path, text) == "[4, 9]\n[4, 9]\n"


def test_package_found_only_through_sys_path(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    text = f"""
    import sys
    sys.path.append({str(support.ROOT)!r})
    import ztasks
    with ztasks.Executor(max_workers=1) as executor:
        print(executor.submit(pow, 2, 3).result())
    """
    assert support.check_script(tmp_path, text, env=environment, cwd=tmp_path) == "8\n"


def test_stdout_closed(tmp_path: Path) -> None:
    text = """
    import os, sys, ztasks
    for descriptor in (0, 1):
        os.close(descriptor)
    with ztasks.Executor(max_workers=2) as executor:
        assert list(executor.map(abs, [-1, -2])) == [1, 2]
    os.write(2, b"fine")
    os._exit(0)
    """
    done = support.run_script(tmp_path, text)
    assert (done.code, done.err) == (0, "fine")
