"""Claim cells: a few bytes of shared memory in which a worker says what it runs, and its parent how far it may go.

What it must hold: an item is either claimed by the worker or recalled by the parent, never both; and whatever happens
to the worker, the cell says which item it was running.

Each side opens the file by its path, because the lock belongs to the open file: a lock through an inherited descriptor
would be shared. `flock` is such a lock; a POSIX record lock would vanish when any descriptor of the file is closed.
The worker waits for the lock; the parent only tries it, so that a stopped worker cannot stop its parent.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from time import monotonic_ns
from typing import Final

CUT: Final = 0
"""How often the parent has recalled; only items of batches of this cut may be claimed."""
CLAIMED: Final = 1
"""Positions below this are the worker's. Written with the lock."""
CURSOR: Final = 2
"""The position that is running, or ran last; -1 before the first. Stored without the lock, before each item."""
STARTED: Final = 3
"""CLOCK_MONOTONIC nanoseconds when the cursor's job began; 0 when none is running, and for items of maps that have no
timeout: theirs is known to within a claim."""
SENT: Final = 4
"""Positions below this have been handed to the socket."""
STOP: Final = 5
"""The parent asks that the job at this position be stopped; -1: none."""
WHY: Final = 6
"""Why it shall be stopped; written before STOP."""
CLAIMED_AT: Final = 7
"""CLOCK_MONOTONIC nanoseconds of the last claim."""
RECEIVED: Final = 8
"""Positions below this have been received by the worker; after a recall, those that it had claimed."""

WHY_LATE: Final = 0
WHY_CANCELLED: Final = 1

FIELDS: Final = 9
SIZE: Final = FIELDS * 8


class Cell:
    """One worker's cell, as seen from one side."""

    def __init__(self, path: str, *, create: bool = False) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
        self._file = os.open(path, flags, 0o600)
        try:
            if create:
                os.write(self._file, bytes(SIZE))
            self._map = mmap.mmap(self._file, SIZE)
        except BaseException:
            os.close(self._file)
            raise
        self.fields = memoryview(self._map).cast("q")
        if create:
            self.fields[CURSOR] = self.fields[STOP] = -1

    def claim(self, cut: int, upto: int) -> bool:
        """Worker: claim the items below position `upto`, unless the batch's cut is past."""
        fields = self.fields
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            if fields[CUT] != cut:
                return False
            fields[CLAIMED_AT] = monotonic_ns()
            fields[CLAIMED] = upto
            return True
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def recall(self) -> int | None:
        """Parent: bar the worker from all it has not claimed; return the first position taken, or None."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        try:
            fields = self.fields
            fields[CUT] += 1
            fields[RECEIVED] = min(fields[RECEIVED], fields[CLAIMED])
            return fields[CLAIMED]
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Unmap and close; storing to `fields` raises ValueError from now on."""
        self.fields.release()
        self._map.close()
        os.close(self._file)
