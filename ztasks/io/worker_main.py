"""The file that a worker process executes: `python -P .../ztasks/io/worker_main.py DIRECTORY LANE LIFELINE`.

It is run by its path, so that it starts even when the package is found only through the parent's `sys.path`, and shows
in a process list for what it is.
"""

import contextlib
import os
import signal
import sys
from typing import Final

OOM_SCORE: Final = 200
"""By how many thousandths of all memory this process seems larger to the kernel's out-of-memory killer."""


def main() -> None:
    """Find the package beside this file, unless it can be imported anyway, and become a worker."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if root not in sys.path:
        sys.path.append(root)
    from ztasks.io import lifeline

    # Before the imports, which may take long or hang: from here on the parent's end is this process's end.
    lifeline.hold(int(sys.argv[3]))
    _volunteer()
    _unblock_signals()
    from ztasks.io.worker import Worker

    Worker(directory=sys.argv[1], lane=int(sys.argv[2])).run()


def _volunteer() -> None:
    """Where memory runs out, let the kernel take a worker rather than the process that would replace it."""
    with contextlib.suppress(OSError, ValueError), open("/proc/self/oom_score_adj", "r+") as file:
        score = min(1000, int(file.read()) + OOM_SCORE)
        file.seek(0)
        file.write(str(score))


def _unblock_signals() -> None:
    """Take signals again, all of which the parent's thread blocks.

    What a terminal sends its processes (Ctrl-C, Ctrl-Z, Ctrl-\\) may have come before this one had a group of its own,
    and would still be waiting: to ignore such a signal for a moment discards it.
    """
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP):
        handler = signal.getsignal(number)
        signal.signal(number, signal.SIG_IGN)
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


if __name__ == "__main__":
    main()
