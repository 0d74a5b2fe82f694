"""What the scripts of `test_surroundings` share: they run in processes of their own, whose limits, disks and clocks the
tests have changed."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import threading
import time

import ztasks
import ztasks.io.sockets  # what is imported late, is imported now
import ztasks.wire.by_value
from ztasks import Executor

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import fault_jobs as jobs
import surrounding_jobs  # noqa: F401

DIE = ztasks.options(jobs.exit_now, crash_retries=0)


def warm() -> None:
    """Make an executor work once: then all is imported, and made, that stays."""
    with Executor(max_workers=2) as executor:
        works(executor)
        executor.submit(DIE, 3).exception(20)


def works(executor: Executor) -> None:
    """See that it does."""
    futures = [executor.submit(jobs.square, number) for number in range(20)]
    assert [future.result(20) for future in futures] == [number * number for number in range(20)]
    assert list(executor.map(jobs.square, range(20))) == [number * number for number in range(20)]


def belongings() -> tuple[int, list[str], list[str]]:
    """Return the number of descriptors, the threads, and what is in the directory for temporary files."""
    folder = os.environ.get("TMPDIR") or "/tmp"
    names = sorted(thread.name for thread in threading.enumerate())
    try:
        files = sorted(os.listdir(folder))
    except OSError:
        files = []
    return len(os.listdir("/proc/self/fd")), names, files


def allow(descriptors: int) -> None:
    """Set the limit of descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))


def take_descriptors(spare: int) -> list[int]:
    """Open all descriptors that may be opened but so many."""
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        for _ in range(min(spare, len(taken))):
            os.close(taken.pop())
    return taken


def fill(folder: str, leave: int = 0) -> str:
    """Fill a disk, but for so many bytes; return the file that does it."""
    path = os.path.join(folder, "filling")
    with open(path, "wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
        if leave:
            file.truncate(max(0, file.tell() - leave))
    return path


def obey_permissions() -> None:
    """Give up root's right to ignore them."""
    if os.geteuid() == 0:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
        nothing = (ctypes.c_uint32 * 6)()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.capset(header, nothing):
            raise OSError(ctypes.get_errno(), "capset")


def within(seconds: float, begin: float) -> None:
    """Fail if it has taken longer."""
    took = time.monotonic() - begin
    assert took < seconds, f"it took {took} s"
