"""What is shown while a run goes on, all of it on stderr and all of it by one thread.

On a terminal: a bar at the bottom, and above it what the jobs write. Elsewhere: what the jobs write, and now and then a
plain line. The head's thread and the main thread only leave text here; if stderr takes it slower than the jobs write,
they wait once `MAX_WAITING` bytes have gathered, so that nothing is dropped and memory stays bounded.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from ztasks.runs.inputs import Total
from ztasks.runs.output import write_all
from ztasks.runs.summary import Tally
from ztasks.runs.text import duration_text, rate_text

if TYPE_CHECKING:
    from rich.progress import Progress

REFRESH_SECONDS: Final = 0.1
"""How often the bar is drawn anew."""

PLAIN_AFTER: Final = (2.0, 10.0, 30.0, 60.0)
"""Seconds before the first, second, ... plain line; the last one repeats."""

MAX_WAITING: Final = 16 * 1024 * 1024

Look = Callable[[float], tuple[str, int, Total | None]]
"""Returns the status in words, how many jobs are done, and of how many."""

WINDOW: Final = 15.0
"""The rate is that of the last so many seconds."""


class Activity(NamedTuple):
    """What the workers are doing."""

    running: int
    workers: int
    longest: float | None
    """For how many seconds the longest running job has been running, about; None: nobody knows, and no more than so
    many are running."""
    fleet: str = ""
    """How the workers of a head are; empty: they are this host's own."""


class Pace:
    """The rate at which jobs finish, over the last 15 seconds. `now`: when none were done."""

    def __init__(self, now: float) -> None:
        self._points = deque([(now, 0)])

    def note(self, now: float, done: int) -> None:
        """Enter how many are done now."""
        points = self._points
        if now - points[-1][0] >= WINDOW / 60:
            points.append((now, done))
        while len(points) > 2 and now - points[1][0] > WINDOW:
            points.popleft()

    def rate(self, now: float, done: int) -> float | None:
        """Return jobs per second; None while it cannot be told."""
        then, before = self._points[0]
        return (done - before) / (now - then) if now - then > 0.2 and done > before else None


def status_text(tally: Tally, total: Total | None, rate: float | None, activity: Activity) -> str:
    """Return how far the run is: `312/2,000 done (16%), 3 failed, 41/s, ETA 41 s, 2/2 workers busy`."""
    done = tally.ended
    about = "" if total is None or total.exact else "~"
    parts = [f"{done:,} done" if total is None else f"{done:,}/{about}{total.number:,} done"]
    if total is not None and total.number:
        parts[0] += f" ({about}{min(1.0, done / total.number):.0%})"
    if tally.statuses["cancelled"]:
        parts.append(f"{tally.statuses['cancelled']:,} cancelled")
    if tally.failed:
        parts.append(f"{tally.failed:,} failed")
    if tally.skipped:
        parts.append(f"{tally.skipped:,} skipped")
    if rate is not None:
        parts.append(rate_text(rate))
        if total is not None and total.number > done:
            parts.append(f"ETA {about}{duration_text((total.number - done) / rate)}")
    parts.append(activity.fleet or f"{activity.running}/{activity.workers} workers busy")
    return ", ".join(parts)


class Display(Protocol):
    """Shows text that stays, and a status that is replaced."""

    is_bar: bool
    """Whether the status has a place of its own on the terminal."""

    def print(self, data: bytes) -> None:
        """Write whole lines."""

    def status(self, text: str, done: int, total: Total | None) -> None:
        """Show the status."""

    def close(self) -> None:
        """Take away what does not stay."""


class Plain:
    """A display for files, pipes and dumb terminals."""

    is_bar = False

    def __init__(self, file: int = 2) -> None:
        self._file = file

    def print(self, data: bytes) -> None:
        """Write lines; if there is nobody to read them, that is no reason to stop."""
        with contextlib.suppress(OSError):
            write_all(self._file, data)

    def status(self, text: str, done: int, total: Total | None) -> None:
        """Write a line."""
        self.print(f"ztasks: {text}\n".encode(errors="replace"))

    def close(self) -> None:
        """Nothing goes away."""


class Bar(Plain):
    """A bar at the bottom of a terminal, drawn by rich; text is written above it."""

    is_bar = True

    def __init__(self, file: int = 2) -> None:
        super().__init__(file)
        self._stream = os.fdopen(os.dup(file), "w", errors="replace")
        self._progress = _make_progress(self._stream)
        self._task = self._progress.add_task("", total=None, status="starting")
        self._progress.start()

    def print(self, data: bytes) -> None:
        """Take the bar away, write, and draw it again: what jobs write reaches the terminal as it is."""
        with contextlib.suppress(OSError):  # the terminal is gone, as everywhere here: that is no reason to stop
            self._progress.stop()
            super().print(data)
            self._progress.start()

    def status(self, text: str, done: int, total: Total | None) -> None:
        """Draw the bar anew."""
        count = total.number if total is not None else None
        with contextlib.suppress(OSError):
            self._progress.update(self._task, completed=done, total=count, status=text)
            self._progress.refresh()

    def close(self) -> None:
        """Take the bar away."""
        with contextlib.suppress(OSError):
            self._progress.stop()
        with contextlib.suppress(OSError):
            self._stream.close()


def _make_progress(stream: Any) -> Progress:
    """Make rich's progress; imported late, since it takes as long as starting Python."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
    from rich.table import Column

    console = Console(file=stream, force_terminal=True)
    status = TextColumn("{task.fields[status]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    return Progress(
        SpinnerColumn(),
        BarColumn(bar_width=20),
        status,
        console=console,
        auto_refresh=False,
        transient=True,  # stop() wipes it
        redirect_stdout=False,
        redirect_stderr=False,
    )


def make_display(*, bar: bool, file: int = 2) -> Display:
    """Return a bar for terminals (`bar`: if wanted), else what writes plain lines."""
    if bar and os.isatty(file) and os.environ.get("TERM", "dumb") != "dumb":
        return Bar(file)
    return Plain(file)


class Reporter:
    """The thread that shows: text when it comes, and after `watch()` the status now and then."""

    def __init__(self, display: Display, *, pauses: tuple[float, ...] | None = None) -> None:
        self._display = display
        self._look: Look | None = None
        self._pauses = pauses or ((REFRESH_SECONDS,) if display.is_bar else PLAIN_AFTER)
        self._waiting: list[bytes] = []
        self._size = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="ztasks-report", daemon=True)
        self._thread.start()

    def watch(self, look: Look) -> None:
        """Show the status that `look` returns from now on; it is called in the thread, with the time."""
        with self._changed:
            self._look = look
            self._changed.notify_all()

    def print(self, data: bytes, *, patient: bool = True) -> None:
        """Show whole lines of bytes, such as jobs write; any thread. `patient`: wait while very much is waiting."""
        if not data.endswith(b"\n"):
            data += b"\n"
        with self._changed:
            while patient and self._size > MAX_WAITING and not self._closing:
                self._changed.wait()
            self._waiting.append(data)
            self._size += len(data)
            self._changed.notify_all()

    def say(self, text: str) -> None:
        """Show a message of ztasks itself; any thread. Never waits."""
        self.print(f"ztasks: {text}\n".encode(errors="replace"), patient=False)

    def close(self) -> None:
        """Show all that waits, and stop."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def restore_terminal(self) -> None:
        """Undo what the bar did to the terminal; the process is about to be ended by force."""
        if self._display.is_bar:
            Plain().print(b"\r\x1b[K\x1b[?25h")

    def _run(self) -> None:
        shown, due = 0, monotonic() + self._pauses[0]
        try:
            while True:
                data, closing = self._take(due)
                if data:
                    self._display.print(data)
                if closing:
                    return
                if self._look is not None and monotonic() >= due:
                    self._display.status(*self._look(monotonic()))
                    shown += 1
                    due = monotonic() + self._pauses[min(shown, len(self._pauses) - 1)]
        finally:
            self._display.close()

    def _take(self, due: float) -> tuple[bytes, bool]:
        """Wait until there is text, the status is due, or it is over."""
        with self._changed:
            if not self._waiting and not self._closing:
                self._changed.wait(None if self._look is None else max(0.0, due - monotonic()))
            data, self._size = b"".join(self._waiting), 0
            self._waiting.clear()
            self._changed.notify_all()
            return data, self._closing
