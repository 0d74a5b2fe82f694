"""Stopping a running job: the parent writes the job's position to the claim cell and sends a signal.

What it must hold: the exception is raised inside the job that is meant, or not at all. A signal may come late, when
that job is over and the next one runs, so the handler compares the position with the cursor, and acts only while a
job's own code is on the stack.

The parent keeps the time. Where it cannot (a thread of the user's process holds its interpreter), a watchdog in the
worker ends the process, also while the job holds the worker's interpreter.
"""

from __future__ import annotations

import faulthandler
import signal
from time import monotonic_ns
from types import FrameType
from typing import Final

from ztasks.errors import JobCancelled, JobTimeout
from ztasks.io.cell import CURSOR, STARTED, STOP, WHY, WHY_CANCELLED, Cell

STOP_SIGNAL: Final = getattr(signal, "SIGRTMIN", signal.SIGUSR2)
"""Reserved: a job must not use it."""

WATCHDOG_MARGIN: Final = 2.0
"""How many seconds later than the parent the watchdog strikes."""

_NEVER: Final = 2**63


class Interruptible:
    """Lets jobs be stopped. Belongs to the worker's main thread."""

    def __init__(self, cell: Cell, stacks: int) -> None:
        """`stacks`: the descriptor to which the watchdog writes the stack."""
        self._cell = cell
        self._stacks = stacks
        self._running = False
        self._armed = False
        self._arm_again = _NEVER
        self._timeout = self._grace = 0.0
        signal.signal(STOP_SIGNAL, self._on_signal)

    def prepare(self, timeout: float | None, grace: float) -> None:
        """Take in what holds for the jobs of the next batch."""
        self._timeout, self._grace = timeout or 0.0, grace
        self._arm_again = _NEVER if timeout is None else 0

    def begin(self) -> None:
        """A job begins: note when. From now on it can be stopped; call this where its exceptions are caught."""
        fields = self._cell.fields
        fields[STARTED] = now = monotonic_ns()
        if now >= self._arm_again:
            self._arm(now)
        self._running = True
        if fields[STOP] == fields[CURSOR]:  # it was told so before it could be stopped
            self._on_signal(STOP_SIGNAL, None)

    def end(self) -> None:
        """Nothing is raised any more; call this where the job's exceptions are caught."""
        self._running = False

    def _arm(self, now: int) -> None:
        """Set the watchdog for the job that begins. That costs as much as ten jobs, so it is set with some time to
        spare, and once for all that begin within that time."""
        spare = self._timeout / 4
        seconds = min(self._timeout + self._grace + spare + WATCHDOG_MARGIN, 1e6)
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._stacks)
        self._armed = True
        self._arm_again = now + int(min(spare, 1e6) * 1e9)

    def disarm(self) -> None:
        """Take the watchdog off: no job runs."""
        if self._armed:
            faulthandler.cancel_dump_traceback_later()
            self._armed = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        fields = self._cell.fields
        if self._running and fields[STOP] == fields[CURSOR]:
            self._running = False
            if fields[WHY] == WHY_CANCELLED:
                raise JobCancelled("the job was running when its caller cancelled it, and was stopped")
            raise JobTimeout(f"the job ran longer than its timeout of {self._timeout:g} s and was stopped")
