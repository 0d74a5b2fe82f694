"""What integration and fault tests share: waiting with a deadline, looking at processes, running scripts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple, TypeVar

import ztasks

T = TypeVar("T")

ROOT = Path(ztasks.__file__).parents[1]
"""Where the package under test is: scripts find it there."""

DEADLINE = 20.0
"""Seconds after which something that should have happened long ago is taken not to happen."""


def wait_for(condition: Callable[[], T], what: str, seconds: float = DEADLINE) -> T:
    """Return the condition's first true value; fail, saying `what` was awaited, when the time is up."""
    end = monotonic() + seconds
    while not (value := condition()):
        if monotonic() > end:
            raise AssertionError(f"waited {seconds} s in vain for {what}")
        sleep(0.002)
    return value


# --- processes ---


class Process(NamedTuple):
    pid: int
    parent: int
    group: int
    state: str


def processes() -> list[Process]:
    """Return all processes of this host."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{entry}/stat").read_text()
                state, parent, group = text.rpartition(")")[2].split()[:3]
                found.append(Process(int(entry), int(parent), int(group), state))
    return found


def children(pid: int | None = None) -> set[int]:
    """Return the direct children of a process (default: this one), zombies included."""
    return {process.pid for process in processes() if process.parent == (pid or os.getpid())}


def is_worker(pid: int) -> bool:
    """Tell whether this is one of our worker processes."""
    try:
        return b"worker_main.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def workers(pid: int | None = None) -> set[int]:
    """Return the worker processes that a process (default: this one) has started."""
    return {child for child in children(pid) if is_worker(child)}


def alive(pid: int) -> bool:
    """Tell whether a process runs (a zombie does not)."""
    return any(process.pid == pid and process.state not in "ZX" for process in processes())


def wait_gone(pids: set[int], seconds: float = DEADLINE) -> None:
    """Wait until none of these processes runs."""
    wait_for(lambda: not any(map(alive, pids)), f"the end of processes {pids}", seconds)


def cpu_seconds(pid: int) -> float:
    """Return how much processor time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def busy(pids: Iterable[int], seconds: float) -> float:
    """Return which part of a processor some processes use together, over so many seconds."""
    before = sum(map(cpu_seconds, pids))
    sleep(seconds)
    return (sum(map(cpu_seconds, pids)) - before) / seconds


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- what must not be left behind ---


class Belongings(NamedTuple):
    """What this process holds: names of threads, pids of children, directories, descriptors, shared memory."""

    threads: frozenset[threading.Thread]
    children: frozenset[int]
    directories: frozenset[str]
    descriptors: frozenset[str]
    shared: frozenset[str]


def belongings() -> Belongings:
    return Belongings(
        frozenset(thread for thread in threading.enumerate() if thread.name.startswith("ztasks")),
        frozenset(children()),
        frozenset(run_directories()),
        frozenset(descriptors()),
        frozenset(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else frozenset(),
    )


def run_directories() -> list[str]:
    """Return the private directories of executors in the directory for temporary files."""
    return sorted(map(str, Path(tempfile.gettempdir()).glob("ztasks-*")))


def descriptors() -> list[str]:
    """Return the open descriptors of this process, each with what it leads to."""
    found = []
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(f"{entry} {os.readlink(f'/proc/self/fd/{entry}')}")
    return [line for line in found if "/proc/" not in line]


def check_nothing_left(before: Belongings) -> None:
    """Fail if there is a thread, child process or directory that was not there before."""

    def left() -> str:
        now = belongings()
        return "; ".join(
            f"{name}: {sorted(map(str, extra))}"
            for name in ("threads", "children", "directories")
            if (extra := getattr(now, name) - getattr(before, name))
        )

    end = monotonic() + 5
    while text := left():
        assert monotonic() < end, f"the test has left behind {text}"
        sleep(0.005)


@contextlib.contextmanager
def short_tmpdir() -> Iterator[str]:
    """Make a directory of our own the one for temporary files, here and in subprocesses; short enough for sockets."""
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="zt-", dir="/tmp", ignore_cleanup_errors=True) as path:
        os.environ["TMPDIR"], tempfile.tempdir = path, path
        try:
            yield path
        finally:
            tempfile.tempdir = before[1]
            if before[0] is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before[0]


# --- scripts ---


class Finished(NamedTuple):
    code: int
    out: str
    err: str


def environment(**extra: str) -> dict[str, str]:
    """Return the environment of a script: it finds the package, and warnings are shown."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**inherited, "PYTHONPATH": path, "PYTHONWARNINGS": "default", **extra}


def start_python(*arguments: str, env: dict[str, str] | None = None, **how: Any) -> subprocess.Popen[str]:
    """Start a Python process in a group of its own, its output in pipes."""
    how = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    return subprocess.Popen(
        [sys.executable, *arguments], env=env or environment(), text=True, start_new_session=True, **how
    )


@contextlib.contextmanager
def running(*arguments: str, **how: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a Python process; kill it at the end, with its workers, and close the pipes."""
    process = start_python(*arguments, **how)
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process and its workers if they still run, and close its pipes."""
    left = {process.pid, *children(process.pid)} if process.poll() is None else set()
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(DEADLINE)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def run_python(*arguments: str, stdin: str = "", seconds: float = 30.0, **how: Any) -> Finished:
    """Run a Python process to its end and return its exit code and output."""
    process = start_python(*arguments, **how)
    try:
        out, err = process.communicate(stdin, timeout=seconds)
    except subprocess.TimeoutExpired:
        for pid in children(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)  # faulthandler tells what it was doing
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGABRT)
        out, err = process.communicate(timeout=DEADLINE)
        raise AssertionError(f"it did not end within {seconds} s. It wrote:\n{out}\n{err}") from None
    finally:
        end(process)
    return Finished(process.returncode, out, err)


def run_script(folder: Path, text: str, *arguments: str, **how: Any) -> Finished:
    """Write a script and run it."""
    return run_python("-X", "faulthandler", str(write_script(folder, text)), *arguments, **how)


def check_script(folder: Path, text: str, *arguments: str, **how: Any) -> str:
    """Run a script that must succeed and write nothing to stderr; return what it wrote to stdout."""
    done = run_script(folder, text, *arguments, **how)
    assert (done.code, done.err) == (0, ""), f"exit code {done.code}; it wrote:\n{done.out}\n{done.err}"
    return done.out


def write_script(folder: Path, text: str, name: str = "script.py") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path
