"""Where records are written: each as it comes, or within 50 ms of it when they come in floods.

A write to a pipe costs more than all else that is done for the record of a short job. So a line that comes more than
50 ms after the last write is written at once; those that follow sooner are written together, by a thread that sleeps
unless there are any.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from time import monotonic
from typing import Final

FLUSH_SECONDS: Final = 0.05
FLUSH_BYTES: Final = 256 * 1024
MAX_EARLY: Final = 10_000
MAX_EARLY_BYTES: Final = 64 * 1024 * 1024
"""How many lines, and of how many bytes, wait for their turn before `wait` waits."""


class RecordWriter:
    """Gives lines to `write`, in order of `index` if `ordered`; any thread may call.

    After an error nothing more is written: `error` says which, and `on_error` is called once, in that thread.
    """

    def __init__(
        self, write: Callable[[bytes], None], *, ordered: bool, finish: Callable[[], None] = lambda: None
    ) -> None:
        """`finish` is called when all has been written; what it raises is an error of the output."""
        self.error: OSError | None = None
        self._write = write
        self.on_error: Callable[[], None] = lambda: None
        self._next = 0 if ordered else None
        """Ordered: the index whose turn it is."""
        self._finish = finish
        self._early: dict[int, bytes] = {}
        self._early_bytes = 0
        self._lines: list[bytes] = []
        self._size = 0
        self._flushed = 0.0
        self._closing = False
        self._lock = threading.Lock()
        """Held also while writing, for as long as the reader takes."""
        self._late = threading.Event()
        """There are lines that nobody else will write in time."""
        self._room = threading.Event()
        """The patient may look again."""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._flush_late, name="ztasks-output", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait while very many lines wait for their turn. Whoever makes more jobs calls it before."""
        while self._is_full():
            self._room.clear()
            if self._is_full():
                self._room.wait()

    def _is_full(self) -> bool:
        many = len(self._early) >= MAX_EARLY or self._early_bytes >= MAX_EARLY_BYTES
        return many and not self._ending.is_set()

    def write(self, index: int, line: bytes) -> None:
        """Write a line when it is its turn."""
        with self._lock:
            if self._next is None:
                self._append(line)
                return
            self._early[index] = line
            self._early_bytes += len(line)
            while (due := self._early.pop(self._next, None)) is not None:
                self._next += 1
                self._early_bytes -= len(due)
                self._append(due)
        self._room.set()

    def skip(self, index: int) -> None:
        """Nothing will be written for this index."""
        if self._next is not None:
            self.write(index, b"")

    def release(self) -> None:
        """Let no one wait for a turn any more: the run is ending. Never waits, even while a write does."""
        self._ending.set()
        self._room.set()

    def close(self) -> None:
        """Write all there is, also what still waits for its turn, and stop."""
        self._closing = True
        self.release()
        self._late.set()
        self._thread.join()
        with self._lock:
            for _, line in sorted(self._early.items()):
                self._append(line)
            self._early.clear()
            self._flush(self._finish)

    def _append(self, line: bytes) -> None:
        """Add a line; the caller holds the lock."""
        if not line:
            return
        self._lines.append(line)
        self._size += len(line)
        if self._size >= FLUSH_BYTES or monotonic() - self._flushed >= FLUSH_SECONDS:
            self._flush()
        elif len(self._lines) == 1:
            self._late.set()

    def _flush(self, behind: Callable[[], None] = lambda: None) -> None:
        """Write what has been collected, and do what comes `behind`; the caller holds the lock."""
        data, self._size = b"".join(self._lines), 0
        self._lines.clear()
        if self.error is None:
            try:
                if data:
                    self._write(data)
                behind()
            except OSError as error:
                self.error = error
                self.on_error()
        self._flushed = monotonic()

    def _flush_late(self) -> None:
        """The thread: write what was added too soon after a write, 50 ms later."""
        while True:
            self._late.wait()
            self._late.clear()
            self._ending.wait(max(0.0, self._flushed + FLUSH_SECONDS - monotonic()))
            with self._lock:
                self._flush()
            if self._closing:
                return


def write_all(file: int, data: bytes) -> None:
    """Write all of the data; waits if the file is a pipe that another process has made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(file, view) :]
        except BlockingIOError:
            select.select([], [file], [])
