"""What a head is told at its start, and what its parts share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ztasks.wire.link import HEARTBEAT, LEASE

EVERYBODY: Final = b"*"
"""The topic of control that all foremen hear."""

Log = Callable[..., None]
"""Called with an event's name, a line for people, and fields."""

SELDOM: Final = 20
SELDOM_SECONDS: Final = 10.0
"""So many lines in so many seconds, of what others can cause as often as they like."""


class Place(NamedTuple):
    """Where a head listens."""

    host: str
    port: int
    lane_ports: Sequence[int]
    shift: int = 0
    """By how much the ports that peers connect to are greater: those of a proxy, or of a mapping, in front of it."""


class Terms(NamedTuple):
    """How a head keeps its links, and how much it holds."""

    lease: float = LEASE
    heartbeat: float = HEARTBEAT
    max_bytes: int = 1 << 30
    drain_seconds: float = 60.0
    """How long it waits at its end for what runs."""


class Seldom:
    """Logs warnings, but not more than a few."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._since = float("-inf")
        self._lines = 0
        self._untold = 0

    def __call__(self, event: str, what: str, now: float, level: str = "warning") -> None:
        """Log a line, unless there were many just now."""
        if now - self._since >= SELDOM_SECONDS:
            self._since, self._lines = now, 0
        self._lines += 1
        if self._lines > SELDOM:
            self._untold += 1
            return
        more = f" ({self._untold} lines like this were left out)" if self._untold else ""
        self._untold = 0
        self._log(event, what + more, level=level)
