"""The warm spare: a worker that is up and has no lane open, so that replacing one that is gone costs milliseconds.

It costs a process, so it is kept only where workers go: from the beginning if they are recycled, else from the first
death on.
"""

from __future__ import annotations


class Spare:
    """The books on the spare worker of one crew."""

    def __init__(self, *, allowed: bool, expected: bool) -> None:
        """`allowed`: False where a spare cannot take any worker's place; `expected`: whether workers are recycled."""
        self.lane: int | None = None
        """The number of the spare's lane; None: there is none."""
        self._ready = False
        self._allowed = allowed
        self._expected = expected

    def wanted(self) -> bool:
        """Tell whether one shall be started."""
        return self._allowed and self._expected and self.lane is None

    def on_ready(self, number: int) -> bool:
        """A worker has come up: tell whether its lane shall be opened."""
        if number != self.lane:
            return True
        self._ready = True
        return False

    def on_gone(self, number: int) -> bool:
        """A worker has gone: tell whether it was the spare, which nobody misses."""
        if number != self.lane:
            self._expected = True
            return False
        self.lane, self._ready = None, False
        return True

    def adopt(self) -> tuple[int | None, bool]:
        """Let the spare take a worker's place; return its lane (None: there is none), and whether it has come up."""
        number, ready = self.lane, self._ready
        self.lane, self._ready = None, False
        return number, ready
