"""When a foreman leaves, and how: told to, at the end of its time, with nothing to do, or because it cannot go on.

What it must hold: it goes when all that it had is told of or handed back; it waits for a head that is not there for a
bounded time only; and a second signal ends all waiting.
"""

from __future__ import annotations

from math import inf
from typing import Final, NamedTuple

from ztasks.wire.link import Wanted

FAREWELL_SECONDS: Final = 5.0
"""How long the head may take to acknowledge the last outcomes and the farewell."""

KILLED_SECONDS: Final = 0.5
"""The same for a foreman that is to leave at once, or cannot go on."""

HEADLESS_SECONDS: Final = 15.0
"""How long a foreman that is leaving waits for a head that is not there, to tell it what became of jobs: less than
batch systems wait between SIGTERM and SIGKILL."""

KILLED: Final = 130


class Stay(NamedTuple):
    """How long a foreman stays. Seconds; None: for ever."""

    walltime: float | None = None
    idle_timeout: float | None = None
    join_timeout: float | None = None


class Leaver:
    """Decides when a foreman leaves. `stop` and `kill` are safe in signal handlers."""

    def __init__(self, stay: Stay, now: float) -> None:
        self.wanted: Wanted = "run"
        """`stop`: it hands back what has not begun, finishes what runs, and leaves. `drain`: it finishes all."""
        self.killed = False
        self.joined = False
        """Whether it has ever had a head: before, there is no idling."""
        self._stay = stay
        self._started = now
        self._busy_at = now
        """When it last had something to do."""
        self._handed_back = False
        self._error: BaseException | None = None
        self._farewell: float | None = None
        """When it stops waiting for the head to hear its farewell."""
        self._headless: float | None = None
        """When it stops waiting for a head."""
        self.gave_up = False
        """Whether it has stopped waiting for a head."""

    # --- occasions ---

    def stop(self, wanted: Wanted) -> bool:
        """Leave; `stop` may follow upon `drain`, but not the other way round. Tell whether that is news."""
        if self.wanted == wanted or self.wanted == "stop":
            return False
        self.wanted = wanted
        return True

    def kill(self) -> None:
        """Leave at once."""
        self.killed = True

    def fail(self, error: BaseException) -> None:
        """It cannot go on: leave at once, for this reason."""
        if self._error is None and not self.killed:
            self._error = error
            self.killed = True

    def busy(self, now: float) -> None:
        """Something has come, or has ended."""
        self._busy_at = now

    def keep(self, now: float, *, idle: bool) -> str | None:
        """Leave if the time has come; return a line that says why. `idle`: there is nothing to do."""
        stay = self._stay
        if not idle or not self.joined:
            self._busy_at = now
        if self.wanted == "stop":
            return None
        if stay.walltime is not None and now >= self._started + stay.walltime:
            self.wanted = "stop"
            return "its walltime is over: it hands back what has not begun, finishes what runs, and leaves"
        if self.wanted == "run" and stay.idle_timeout is not None and now >= self._busy_at + stay.idle_timeout:
            self.wanted = "stop"
            return "it has had nothing to do for its idle-timeout, and leaves"
        return None

    def join_seconds(self, now: float) -> float | None:
        """Return how long a further try to join for the first time may take."""
        timeout = self._stay.join_timeout
        return None if timeout is None or self.joined else max(0.0, self._started + timeout - now)

    # --- what follows ---

    @property
    def has_said_farewell(self) -> bool:
        """Whether it has: what comes from then on it does not take, and the head does not wait for."""
        return self._farewell is not None

    @property
    def hands_back(self) -> bool:
        """Whether what comes in from now on goes back at once."""
        return self.wanted == "stop"

    def begins_to_hand_back(self) -> bool:
        """Tell, once, that what has not begun is to be handed back."""
        if self.wanted != "stop" or self._handed_back:
            return False
        self._handed_back = True
        return True

    def says_farewell(self, now: float) -> bool:
        """Tell, once, that it is time to say farewell: all is done."""
        if self._farewell is not None:
            return False
        self._farewell = now + (KILLED_SECONDS if self.killed else FAREWELL_SECONDS)
        return True

    def may_go(self, now: float, *, done: bool, idle: bool, linked: bool, heard: bool) -> int | None:
        """Return the exit code if it is time to go; raises the error why it cannot go on.

        `done`: nothing is left here, and the head knows what became of all; `idle`: nothing waits or runs here;
        `linked`: there is a head; `heard`: it has acknowledged all that it was told.
        """
        if done and linked and not heard and self._farewell is not None and now < self._farewell:
            return None
        if self._error is not None:
            raise self._error
        if self.killed:
            return KILLED
        if done or (self._farewell is not None and not linked):
            return 0
        if self.wanted == "run" or not idle or linked:
            self._headless = None
            return None
        if self._headless is None:
            self._headless = now + HEADLESS_SECONDS
        self.gave_up = now >= self._headless
        return 0 if self.gave_up else None

    def next_event(self, now: float, *, idle: bool) -> float:
        """Return in how many seconds something falls due by itself."""
        stay, due = self._stay, inf
        if stay.walltime is not None and self.wanted != "stop":
            due = self._started + stay.walltime
        if stay.idle_timeout is not None and idle and self.joined and self.wanted == "run":
            due = min(due, self._busy_at + stay.idle_timeout)
        for at in (self._farewell, self._headless):
            if at is not None:
                due = min(due, at)
        return max(0.0, due - now)
