"""A descriptor that any thread, finaliser or signal handler can make readable, to wake a thread that polls."""

from __future__ import annotations

import contextlib
import os
import threading


class Wakeup:
    """An eventfd, or a pipe where there is none (macOS)."""

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self._read = self._write = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._read, self._write = os.pipe()
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)
        # Reentrant: a finaliser may call `set` while this very thread is in it.
        self._lock = threading.RLock()
        self._closed = False

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
            os.close(self._read)
            if self._write != self._read:
                os.close(self._write)
