"""Stopping a running job: the parent writes the job's position to the claim cell and sends a signal.

What it must hold: JobTimeout is raised inside the job that is meant, or not at all. A signal may come late, when that
job is over and the next one runs, so the handler compares the position with the cursor, and acts only while a job's own
code is on the stack.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from time import monotonic_ns
from types import FrameType
from typing import Any, Final

from ztasks.errors import JobTimeout
from ztasks.io.cell import CURSOR, STARTED, STOP, Cell

STOP_SIGNAL: Final = getattr(signal, "SIGRTMIN", signal.SIGUSR2)
"""Reserved: a job must not use it."""


class Interruptible:
    """Lets jobs be stopped. Belongs to the worker's main thread."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._running = False
        signal.signal(STOP_SIGNAL, self._on_signal)

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function so that its calls say when they began, and can be stopped."""
        fields = self._cell.fields

        def interruptible(*args: Any, **kwargs: Any) -> Any:
            fields[STARTED] = monotonic_ns()
            try:
                self._running = True
                return function(*args, **kwargs)
            finally:
                self._running = False
                fields[STARTED] = 0

        return interruptible

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        fields = self._cell.fields
        if self._running and fields[STOP] == fields[CURSOR]:
            self._running = False
            raise JobTimeout("the job ran longer than its timeout and was stopped")
