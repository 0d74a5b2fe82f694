"""The delivery thread: calls the done-callbacks of futures, never under a lock and never in the head's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue


class Delivery:
    """A thread that is started with the first callback. Callbacks may submit, cancel and close."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._started = False

    def prepare(self) -> None:
        """Start the thread if it does not run (any thread but the head's). An interrupted start is taken up again."""
        if not self._started:
            with self._starting:
                thread = self._thread
                if thread is None:
                    thread = self._thread = threading.Thread(target=self._run, name="ztasks-delivery", daemon=True)
                if thread.ident is None:
                    thread.start()
                self._started = True

    def post(self, call: Callable[[], None]) -> None:
        """Call this in the delivery thread; `prepare` has been called."""
        self._queue.put(call)

    def end(self) -> None:
        """Let the thread end when all has been called."""
        self._queue.put(None)

    def close(self) -> None:
        """Let the thread end when all has been called, and wait for that, unless it is this very thread."""
        self.end()
        thread = self._thread
        if thread is not None and thread.ident is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            call()
            del call
