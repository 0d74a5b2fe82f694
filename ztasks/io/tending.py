"""Tending a connection to a head: noticing that it is down, saying why, and making it again.

What it must hold: a peer comes back by itself after whatever has cut it off, once that is over, and does not flood the
head until then. ZeroMQ's own reconnecting is not enough (libzmq 4.3.5, tried): a socket that is refused, or that meets
bytes which are not its protocol, never connects again; and one whose keys do not fit tries ten times a second.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, Protocol

from ztasks.errors import HeadLost
from ztasks.io.join import JoinFile

Event = Literal["accepted", "admitted", "connected", "retried", "lost", "refused", "unable", "strange", "failed"]
"""What happens to connections: one came in; it was let in, or we were; we have reached the other end, or will try it
again; it is lost; we were refused, or the head was unable to tell; it spoke another protocol; the handshake failed."""

REVIVE_SECONDS: Final = 1.0
"""A connection that ZeroMQ does not make again in this time is made again by us."""

PAUSE_SECONDS: Final = (1.0, 2.0, 5.0)
"""How long we wait after the first, second and each further handshake that fails."""


LASTING_SECONDS: Final = 5.0
"""Trouble that lasts so long is told."""


class Lasting:
    """Trouble that lasts is told: once, and again when it is another."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._told = ""

    def note(self, trouble: str, now: float) -> bool:
        """Take in what trouble there is, if any; tell whether it is to be told now."""
        if not trouble:
            self._since, self._told = None, ""
            return False
        if self._since is None:
            self._since = now
        if now - self._since < LASTING_SECONDS or trouble == self._told:
            return False
        self._told = trouble
        return True


class Connecting(Protocol):
    """The socket that is tended."""

    def events(self) -> Iterable[Event]:
        """Return what has happened since the last time."""

    def connect(self) -> None:
        """Connect to the head."""

    def disconnect(self) -> None:
        """Let go of that connection, whatever state it is in."""


class Connection:
    """One socket's connection to its head. `where`: the head's address, for people."""

    def __init__(self, sock: Connecting, where: str, *, curve: bool) -> None:
        self.connected = False
        self.trouble = ""
        """Why it is not connected, and what to do about that; empty if it is, or nothing is known yet."""
        self._sock = sock
        self._where = where
        self._curve = curve
        self._failures = 0
        self._down: float | None = None
        """Since when it is lost, and ZeroMQ has not been seen to try again."""
        self._resume: float | None = None
        """When a connection that we have let go is made again."""

    def tend(self, now: float) -> None:
        """Take notice of what has happened, and connect again if nobody else does."""
        for event in self._sock.events():
            self._on_event(event, now)
        if self._resume is not None:
            if now >= self._resume:
                self._connect()
        elif self._down is not None and now - self._down >= REVIVE_SECONDS:
            self._sock.disconnect()
            self._connect()

    def _connect(self) -> None:
        self._down = self._resume = None
        self._sock.connect()

    def _on_event(self, event: Event, now: float) -> None:
        if event == "admitted":
            self.connected, self.trouble, self._failures = True, "", 0
            self._down = None
        elif event == "connected":
            self._down = None
        elif event == "retried":
            self._down = None
            self.trouble = self.trouble or (
                f"nobody answers at {self._where}. Does `ztasks head` run there? Do firewalls let its ports through?"
            )
        elif event == "lost":
            self.trouble = self.trouble or (
                f"the connection to {self._where} is lost" if self.connected else self._why("strange")
            )
            self.connected = False
            self._down = now
        elif event in ("refused", "unable", "strange", "failed"):
            self.connected = False
            self.trouble = self._why(event)
            if self._resume is None:
                self._sock.disconnect()
                self._resume = now + PAUSE_SECONDS[min(self._failures, len(PAUSE_SECONDS) - 1)]
                self._failures += 1

    def _why(self, event: Event) -> str:
        if event == "refused":
            return (
                f"the head at {self._where} refuses this key: it was revoked, or is for another role. On the head's "
                "host, `ztasks keys list` shows those that are allowed"
            )
        if event == "unable":
            return f"the head at {self._where} cannot read its allow-list; what it logs says why"
        if not self._curve:
            return f"what answers at {self._where} is no head, or one that wants keys: give its join file, @FILE"
        if event == "strange":
            return f"what answers at {self._where} is no head of ztasks, or one without CURVE"
        return (
            f"the head at {self._where} ends the handshake: it has other keys now, so that this join file is out of "
            "date, or it is too busy"
        )


def no_head(join: JoinFile, seconds: float, trouble: str) -> HeadLost:
    """Say that no head has answered."""
    return HeadLost(
        f"no head answered at {join.address}:{join.ports.clients} within {seconds:g} s"
        + (f" ({trouble})" if trouble else "")
        + ". Nothing was run. Does `ztasks head` run there, can this host reach its ports, and is the join file one "
        "that it has written?"
    )
