"""The lifeline: a pipe from the parent whose end kills the worker and all that its jobs have started.

What it must hold: when the parent dies, however it dies, its workers' process groups are gone at once, also while a job
holds the interpreter. So the kernel does it: the worker leads a process group, and its end of the pipe is set up to
send SIGKILL to that group when the pipe's other end closes.

PR_SET_PDEATHSIG is left alone on purpose: it would kill the worker before the pipe closes, its end of the pipe would go
with it, and nobody would be left to be told to kill the rest of the group (docs/decisions/0008).
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys


def hold(descriptor: int) -> None:
    """Worker: tie this process group's life to the pipe."""
    if sys.platform == "linux":
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, -os.getpgrp())
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
    else:
        _watch(descriptor)
    readable, _, _ = select.select([descriptor], [], [], 0)
    if readable:  # the parent was gone before the pipe was set up
        os._exit(1)


def _watch(descriptor: int) -> None:
    """Where the kernel cannot do it (macOS): a thread waits for the pipe's end. A job that holds the GIL delays it."""
    import threading

    def wait() -> None:
        select.select([descriptor], [], [])
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=wait, name="ztasks-lifeline", daemon=True).start()
