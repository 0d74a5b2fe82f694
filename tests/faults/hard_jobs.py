"""Jobs that die, hang, resist being stopped, or ask for another attempt; workers import them."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from fault_jobs import note, wait_for_file

import ztasks

IN_WORKER = "ZTASKS_WORKER" in os.environ


def in_c(seconds: float) -> None:
    """Sleep in C, holding the interpreter; no signal ends it earlier."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


# --- what dies ---


def die(number: int, *, megabytes: int = 0, said: str = "") -> None:
    """Take memory, say something, and die by a signal."""
    taken = bytearray(megabytes << 20)
    print(said, file=sys.stderr, flush=True)
    time.sleep(0.05)
    os.kill(os.getpid(), number)
    time.sleep(60)
    del taken


class Ends:
    """A callable and an argument that ends whichever process unpickles it."""

    def __reduce__(self) -> Any:
        return os._exit, (3,)

    def __call__(self) -> None:
        """Nobody comes to this."""


class Shy:
    """Has no repr."""

    def __repr__(self) -> str:
        raise RuntimeError("not me")


def die_with(value: object, key: object = None) -> None:
    os._exit(3)


def read_address(address: int) -> bytes:
    return ctypes.string_at(address)


def exit_in_thread(code: int) -> None:
    """Let another thread end the process, while this one sleeps."""
    threading.Timer(0.02, os._exit, (code,)).start()
    time.sleep(60)


def crash_forked_child() -> int:
    """Fork a child that segfaults; return how it ended."""
    child = os.fork()
    if child == 0:
        ctypes.string_at(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def crash_forked_child_and_die() -> None:
    crash_forked_child()
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def fail_or_die(path: str, ends: str) -> str:
    """At each attempt the next of `ends`: f fails, d dies, t hangs, anything else returns."""
    with open(path, "ab") as file:
        file.write(b".")
    attempt = os.path.getsize(path)
    end = ends[attempt - 1] if attempt <= len(ends) else "r"
    if end == "f":
        raise ConnectionError(f"attempt {attempt}")
    if end == "d":
        os._exit(attempt)
    if end == "t":
        in_c(60)
    return f"attempt {attempt}"


def crash_in_a_thread() -> None:
    threading.Thread(target=read_address, args=(0,)).start()
    time.sleep(60)


def shout_and_die(size: int) -> None:
    sys.stderr.write("x" * size + " the end")
    sys.stderr.flush()
    os._exit(1)


def close_descriptors(low: int, high: int) -> None:
    """Close what is not one's own."""
    if high - low == 1:
        os.close(low)
    else:
        os.closerange(low, high)


def leave_the_group(seconds: float) -> int:
    """Start a process in a session of its own, which holds this one's stderr."""
    return subprocess.Popen(["sleep", str(seconds)], start_new_session=True).pid


def leave_a_thread(seconds: float) -> int:
    threading.Thread(target=time.sleep, args=(seconds,)).start()
    return 1


# --- what takes memory ---


def limit_address_space(extra: int) -> None:
    """As an initializer: this worker may take `extra` bytes of address space beyond what it has."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + extra, size + extra))


def allocate(size: int) -> int:
    return len(bytearray(size))


def allocate_too_much(size: int) -> int:
    """Take memory that there is not; if somebody must be killed for that, then this process."""
    Path("/proc/self/oom_score_adj").write_text("1000")
    return allocate(size)


def grow(started: str, size: int) -> None:
    """Take so much memory, in steps, then stay."""
    held = []
    for _ in range(size >> 24):
        held.append(b"x" * (1 << 24))
        time.sleep(0.001)
    note(started, os.getpid())
    time.sleep(60)
    del held


_kept: list[bytearray] = []


def keep(size: int, path: str) -> int:
    """Take memory and keep it after the job's end; say which process it was."""
    _kept.append(bytearray(b"x") * size)
    note(path, os.getpid())
    return os.getpid()


def result_of(kind: str, size: int) -> Any:
    """Return something that has so many items, and takes at least so many bytes."""
    if kind == "array":
        import numpy as np

        return np.zeros(size, np.uint8)
    kinds = {"bytes": bytes, "str": lambda size: "x" * size, "bytearray": bytearray, "list": lambda size: [1] * size}
    return kinds[kind](size)  # type: ignore[operator]


def hold_and_give(folder: str, size: int) -> bytes:
    note(f"{folder}/started", os.getpid())
    wait_for_file(f"{folder}/release")
    return bytes(size)


# --- what hangs ---


def hang_in_python(folder: str) -> None:
    note(f"{folder}/started", os.getpid())
    while True:
        pass


def hang_in_c(folder: str) -> None:
    note(f"{folder}/started", os.getpid())
    sum(itertools.repeat(0))


def hang_in_c_with_signals_blocked(folder: str) -> None:
    note(f"{folder}/started", os.getpid())
    in_c(600)


def hang_ignoring_sigterm(folder: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(f"{folder}/started", os.getpid())
    time.sleep(600)


def hang_ignoring_all_signals(folder: str) -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    note(f"{folder}/started", os.getpid())
    while True:
        time.sleep(0.01)


def hang_swallowing_everything(folder: str) -> None:
    note(f"{folder}/started", os.getpid())
    while True:
        try:
            while True:
                time.sleep(0.01)
        except BaseException:
            note(f"{folder}/swallowed")


def hang_in_a_join(folder: str) -> None:
    note(f"{folder}/started", os.getpid())
    thread = threading.Thread(target=time.sleep, args=(600,), daemon=True)
    thread.start()
    thread.join()


def hang_in_a_lock(folder: str) -> None:
    note(f"{folder}/started", os.getpid())
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def hang_in_a_subprocess(folder: str) -> None:
    """Wait for a process; `subprocess.run` kills it when an exception passes through."""
    note(f"{folder}/started", os.getpid())
    subprocess.run(["sh", "-c", f"echo $$ >> {folder}/started; exec sleep 600"], check=True)


def hang_having_started_processes(folder: str) -> None:
    """Start a process, then hang so that nothing but a kill helps."""
    process = subprocess.Popen(["sleep", "600"])
    note(f"{folder}/started", f"{os.getpid()} {process.pid}")
    in_c(600)


def hang_in_finally(folder: str) -> None:
    note(f"{folder}/started", os.getpid())
    try:
        time.sleep(600)
    finally:
        note(f"{folder}/cleaning")
        time.sleep(600)


def clean_up(folder: str, seconds: float = 0.0) -> str:
    """Hang; being stopped, clean up and let the exception pass."""
    note(f"{folder}/started", os.getpid())
    try:
        time.sleep(600)
    finally:
        time.sleep(seconds)
        note(f"{folder}/cleaned", type(sys.exc_info()[1]).__name__)
    return "not reached"


def clean_up_and_return(folder: str) -> str:
    note(f"{folder}/started", os.getpid())
    try:
        time.sleep(600)
    except (ztasks.JobTimeout, ztasks.JobCancelled) as error:
        return f"stopped by {type(error).__name__}"
    return "not reached"


class HangsLoading:
    """An argument that hangs when a worker unpickles it."""

    def __init__(self, folder: str, how: str) -> None:
        self.folder, self.how = folder, how

    def __reduce__(self) -> Any:
        return _hang_in_worker, (self.folder, self.how)


def _hang_in_worker(folder: str, how: str) -> HangsLoading:
    if IN_WORKER:
        globals()[f"hang_{how}"](folder)
    return HangsLoading(folder, how)


class FailsLoading:
    """An argument that raises when a worker unpickles it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return _fail_in_worker, (self.path,)


def _fail_in_worker(path: str) -> FailsLoading:
    if IN_WORKER:
        note(path, os.getpid())
        raise ConnectionError("cannot be fetched")
    return FailsLoading(path)


class HangsDumping:
    """A result that hangs when a worker pickles it."""

    def __init__(self, folder: str, how: str) -> None:
        self.folder, self.how = folder, how

    def __reduce__(self) -> Any:
        if IN_WORKER:
            globals()[f"hang_{self.how}"](self.folder)
        return str, ("nothing",)


def take(value: object) -> str:
    return type(value).__name__


def give_hanging(folder_and_how: tuple[str, str]) -> HangsDumping:
    return HangsDumping(*folder_and_how)


def sleep_if(number: int, bad: int) -> int:
    time.sleep(60 if number == bad else 0)
    return number


def sleep_in_c_if(number: int, bad: int) -> int:
    if number == bad:
        in_c(60)
    return number


# --- what runs for a known time ---


def last(number: int, seconds: float, path: str) -> int:
    """Run for so long, in many steps; being stopped, note by how much its deadline had passed."""
    job = ztasks.current_job()
    assert job is not None
    assert job.deadline is not None
    deadline, begin = job.deadline, time.monotonic()
    try:
        while time.monotonic() - begin < seconds:
            time.sleep(0.0002)
    except ztasks.JobTimeout:
        now = time.monotonic()
        note(path, f"{number} {now - deadline} {deadline - begin}")
        raise
    return number


def last_in_c(number: int, seconds: float) -> int:
    """Run for so long: only a kill stops it earlier."""
    in_c(seconds)
    return number


def once(number: int, path: str, seconds: float = 0.0) -> int:
    """Note that it has begun, and later that it has ended."""
    note(path, f"begun {number}")
    time.sleep(seconds)
    note(path, f"ended {number}")
    return number


def sleep_after(number: int, seconds: Any) -> int:
    time.sleep(seconds if isinstance(seconds, int | float) else 0)
    return number


def attempt_of(number: int) -> tuple[int, int]:
    job = ztasks.current_job()
    assert job is not None
    return number, job.attempt


def hold_file(started: str, release: str) -> int:
    """Note that it has begun, and wait to be let go."""
    note(started, os.getpid())
    wait_for_file(release)
    return os.getpid()


def fail_if_odd(number: int) -> int:
    if number % 2:
        raise ValueError(number)
    return number


# --- what is tried again ---


class Flaky(ConnectionError):
    """A subclass of a builtin exception."""


def fail_until(path: str, attempts: int, kind: str) -> int:
    """Raise an exception of this kind at all attempts but the last."""
    note(path, time.monotonic())
    attempt = len(Path(path).read_bytes().splitlines())
    if attempt < attempts:
        if kind == "JobTimeout":
            time.sleep(60)
        kinds: dict[str, Any] = {"Flaky": Flaky, "Retry": ztasks.Retry, **vars(__import__("builtins"))}
        raise kinds[kind](f"attempt {attempt}") if kind != "Retry" else ztasks.Retry()
    return attempt


def ask_again(path: str, attempts: int, after: Any) -> int:
    """Ask for another attempt until there have been so many."""
    note(path, time.monotonic())
    attempt = len(Path(path).read_bytes().splitlines())
    if attempt < attempts:
        try:
            raise KeyError("the lease")
        except KeyError as error:
            raise ztasks.Retry(after, f"attempt {attempt} found it taken") from error
    return attempt


def note_and_die_if(number: int, path: str, bad: int) -> int:
    note(path, number)
    if number == bad:
        os._exit(1)
    return number
