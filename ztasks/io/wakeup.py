"""A descriptor that any thread, finaliser or signal handler can make readable, to wake a thread that polls."""

from __future__ import annotations

import contextlib
import os
import threading
from itertools import chain, starmap


class Wakeup:
    """An eventfd, or a pipe where there is none (macOS)."""

    def __init__(self) -> None:
        # Reentrant: a finaliser may call `set` while this very thread is in it.
        self._lock = threading.RLock()
        self._closed = False
        self._opened: list[int] = []
        # In C: a KeyboardInterrupt finds what was opened noted, and so it is closed by `__del__`.
        if hasattr(os, "eventfd"):
            self._opened.extend(map(os.eventfd, (0,), (os.EFD_NONBLOCK | os.EFD_CLOEXEC,)))
        else:
            self._opened.extend(chain.from_iterable(starmap(os.pipe, ((),))))
            for descriptor in self._opened:
                os.set_blocking(descriptor, False)
        self._read, self._write = self._opened[0], self._opened[-1]

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._read

    def set(self) -> None:
        """Make it readable. After `close`, do nothing: the descriptor's number may be another file's."""
        with self._lock:
            if not self._closed:
                with contextlib.suppress(BlockingIOError):  # it is readable already
                    os.write(self._write, b"\1\0\0\0\0\0\0\0")

    def clear(self) -> None:
        """Make it unreadable."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)

    def close(self) -> None:
        """Close the descriptors."""
        with self._lock:
            self._closed = True
            while self._opened:
                os.close(self._opened.pop())

    def __del__(self) -> None:
        """Close what nobody else will, since whoever made this was interrupted before it had it."""
        if hasattr(self, "_opened"):
            self.close()
