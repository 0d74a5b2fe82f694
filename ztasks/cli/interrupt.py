"""Ctrl-C in a run: the first drains, the second kills.

A signal handler runs between any two steps of the main thread, which may hold any lock. So it only leaves a word in a
queue, and a thread of its own does what is asked: that also works while the main thread is stuck in a write.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import FrameType
from typing import Any, Final, Literal

KILL_SECONDS: Final = 0.7
"""How long an orderly end after the second Ctrl-C may take; then the process ends at once, and its workers with it."""

ABANDON_SECONDS: Final = 5.0
"""The same when it is not the user who waits."""

Word = Literal["interrupt", "kill", "end"]


class Stopper:
    """Carries out interrupts. Use it in a `with`, in the main thread.

    drain: called at the first; kill: at the second, or when `abandon()` is called; `last_words`: called if the end must
    be forced after a kill.
    """

    def __init__(
        self,
        drain: Callable[[], None],
        kill: Callable[[], None],
        last_words: Callable[[], None],
        exit_code: Callable[[], int],
    ) -> None:
        self.interrupted = False
        self.killed = threading.Event()
        self._drain = drain
        self._kill = kill
        self._last_words = last_words
        self._exit_code = exit_code
        self._words: SimpleQueue[Word] = SimpleQueue()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ztasks-stopper", daemon=True)
        self._handler: Any = None

    def __enter__(self) -> Stopper:
        self._thread.start()
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # ignored: the shell runs us in the background
            self._handler = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._words.put("end")
        self._thread.join()
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)

    def abandon(self) -> None:
        """Kill at once: nobody wants the results any more. Any thread, with any lock."""
        self._words.put("kill")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._words.put("interrupt")  # SimpleQueue.put may be called in a signal handler

    def _run(self) -> None:
        while (word := self._words.get()) != "end":
            if word == "interrupt" and not self.interrupted:
                self.interrupted = True
                self._drain()
            elif not self.killed.is_set():
                self.interrupted = self.interrupted or word == "interrupt"
                self.killed.set()
                killer = threading.Thread(target=self._kill, name="ztasks-kill", daemon=True)
                killer.start()
                if not self._ended.wait(KILL_SECONDS if word == "interrupt" else ABANDON_SECONDS):
                    killer.join(KILL_SECONDS / 7)  # it is the main thread that is stuck: let the executor be closed
                    self._last_words()
                    os._exit(self._exit_code())
