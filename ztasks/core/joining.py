"""How a peer joins a head, and joins anew: the peer's side of the greetings.

What it must hold: a peer that can reach its head comes to have a lane, the same that the head believes it to have; and
one that has been refused knows why.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ztasks.core.link import Link
from ztasks.wire.link import Alive, Hello, Reject, Void, Welcome

FIRST_PAUSE: Final = 0.25
MOST_PAUSE: Final = 1.0
"""Seconds between two greetings: they double."""

SHORT_JOIN: Final = 0.5
"""Who loses a lane that it has had for less than these seconds pauses before it greets again."""

FINAL: Final = ("fenced", "forbidden")
"""The refusals that end a join; the others answer a greeting, and count for nothing once another was welcomed."""


class Joining:
    """A peer's way to a link."""

    def __init__(self, hello: Hello, now: float, join_timeout: float | None = None) -> None:
        """`join_timeout`: how long the first join may take."""
        self.link: Link | None = None
        self.welcome: Welcome | None = None
        self.refused: Reject | None = None
        self.lost_since: float | None = now
        """Since when there is no link."""
        self._hello = hello
        self._hello_at = now
        self._pause = FIRST_PAUSE
        self._joined_at = now
        self._is_missed = False
        self._deadline = None if join_timeout is None else now + join_timeout

    def hello(self, now: float) -> Hello | None:
        """Return the greeting that is due, if one is."""
        if self.link is not None or self.refused is not None or now < self._hello_at:
            return None
        self._hello_at = now + self._pause
        self._pause = min(2 * self._pause, MOST_PAUSE)
        return self._hello

    def on_welcome(self, welcome: Welcome, now: float) -> Link | None:
        """Take in a welcome; return the new link, or None if it is not new."""
        if welcome.incarnation != self._hello.incarnation or welcome.lane <= self._hello.after:
            return None
        if self.refused is not None:
            return None
        if self.link is not None and welcome.lane <= self.link.lane:
            return None
        self.welcome = welcome
        self.link = Link(welcome.lane, welcome.epoch, now, heartbeat=welcome.heartbeat, lease=welcome.lease)
        self.lost_since = None
        self._joined_at = now
        self._joined_at = now
        self._is_missed = False
        self._deadline = None
        return self.link

    def on_reject(self, reject: Reject) -> bool:
        """Take in a refusal; tell whether it is meant for this peer, and is no late answer to an earlier greeting."""
        if reject.incarnation != self._hello.incarnation or self.refused is not None:
            return False
        if self.link is not None and reject.code not in FINAL:
            return False
        self.refused = reject
        if self.link is not None:
            self.lost_since, self.link = self.link.heard, None
        return True

    def on_void(self, void: Void, now: float) -> bool:
        """Take in that the head does not know a lane; tell whether it was this peer's."""
        if self.link is None or void.lane != self.link.lane:
            return False
        self.lose(now)
        return True

    def on_alive(self, alive: Alive, now: float) -> bool:
        """Tell whether a sign of life is for this lane; one of another run of the head means that it has restarted."""
        if self.link is None:
            return False
        if alive.lane == self.link.lane and alive.epoch == self.link.epoch:
            return True
        if alive.epoch > self.link.epoch:
            self.lose(now)
        return False

    def lose(self, now: float) -> None:
        """Give the lane up, and greet anew."""
        if self.link is not None:
            self._hello = msgspec.structs.replace(self._hello, after=self.link.lane)
            self.link = None
            self.lost_since = now
            if now - self._joined_at > SHORT_JOIN:
                self._pause = FIRST_PAUSE
                self._hello_at = now
            else:  # whatever has ended it so soon may do so again
                self._hello_at = now + self._pause
                self._pause = min(2 * self._pause, MOST_PAUSE)

    def keep(self, now: float) -> bool:
        """Give the lane up if its lease is over; tell whether that was so."""
        if self.link is not None and self.link.expired(now):
            heard = self.link.heard
            self.lose(now)
            self.lost_since = heard
            return True
        return False

    def missed(self, now: float) -> bool:
        """Tell, once for each lane that is lost, that for a lease there has been no other."""
        if self.welcome is None or self.link is not None or self.refused is not None or self._is_missed:
            return False
        assert self.lost_since is not None, "there is no link"
        self._is_missed = now - self.lost_since >= self.welcome.lease
        return self._is_missed

    def too_late(self, now: float) -> bool:
        """Tell whether the first join has taken too long."""
        return self._deadline is not None and now >= self._deadline

    def next_event(self, now: float) -> float | None:
        """Return in how many seconds something falls due by itself; None if it is refused."""
        if self.refused is not None:
            return None
        if self.link is not None:
            return self.link.next_event(now)
        due = self._hello_at if self._deadline is None else min(self._hello_at, self._deadline)
        return max(0.0, due - now)
