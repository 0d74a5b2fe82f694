"""Processes that outlive the trial that started them: they come to this process, which ends them.

Killing the process group of a trial is not enough: some peers start their workers in sessions of their own.
"""

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
"""From linux/prctl.h."""


def adopt() -> None:
    """From now on, orphaned descendants become children of this process instead of init's."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def end_all(limit: float = 10.0) -> int:
    """Kill every child of this process, and whoever is orphaned by that, until none is left; return how many.

    Call it only while this process has no child that it still needs.
    """
    deadline = time.monotonic() + limit
    ended = 0
    while children := _children():
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {children} did not end")
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in children:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
                ended += 1
    return ended


def _children() -> list[int]:
    """Children of every thread of this process, those included that have ended but were not waited for."""
    tasks = Path("/proc/self/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
