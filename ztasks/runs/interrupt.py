"""The signals that end a run: the first Ctrl-C or SIGTERM drains, the second kills; SIGHUP kills.

A signal handler runs between any two steps of the main thread, which may hold any lock. So it does nothing, and a
thread of its own, to which a pipe brings the number of each signal, does what is asked. The interpreter fills that pipe
at once (`signal.set_wakeup_fd`), whereas it may not call a handler as long as the main thread is stuck in a write.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

KILL_SECONDS: Final = 0.7
"""How long an orderly end after the second Ctrl-C may take; then the process ends at once, and its workers with it."""

ABANDON_SECONDS: Final = 5.0
"""The same when it is not the user who waits."""

DRAINING: Final = (signal.SIGINT, signal.SIGTERM)
"""Signals of which the first lets what runs finish."""

ENDED_BY: Final = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "the terminal is gone"}
"""The signals that end a run, with the word for it."""

SIGNALLED: Final = 128
"""Plus the number of a signal: the exit code of what it has ended, as shells have it."""

_END: Final = 0
_ABANDON: Final = 255
"""What comes through the pipe beside the numbers of signals."""


class Ended(KeyboardInterrupt):
    """SIGTERM or SIGHUP came before the run had begun, or when it was over: nothing needs to be drained."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = signal.Signals(number)


class Ending:
    """How a block was ended that a signal may end."""

    exit_code: int = 0


@contextmanager
def ended_by_signal() -> Iterator[Ending]:
    """Where no `Stopper` sees to them, SIGTERM and SIGHUP end this block in order, as an exception would."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Ended(number)

    ending, handlers = Ending(), _handle((signal.SIGTERM, signal.SIGHUP), end)
    try:
        yield ending
    except Ended as ended:
        ending.exit_code = SIGNALLED + ended.number
        with suppress(OSError):
            os.write(2, f"ztasks: {ENDED_BY[ended.number]}\n".encode())
    finally:
        _give_back(handlers)


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
        *,
        numbers: tuple[signal.Signals, ...] | None = None,
        force: bool = True,
    ) -> None:
        """`numbers`: the signals that are heeded; `force`: end the process if a kill does not end the run in time."""
        self._numbers = numbers or tuple(ENDED_BY)
        self._force = force
        self.signal: signal.Signals | None = None
        """The first one that came."""
        self.killed = threading.Event()
        self._drain = drain
        self._kill = kill
        self._last_words = last_words
        self._exit_code = exit_code
        self._reading = self._writing = self._woken = -1
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ztasks-stopper", daemon=True)
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stopper:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._thread.start()
        self._woken = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._handlers = _handle(self._numbers, _noted)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        os.write(self._writing, bytes([_END]))
        self._thread.join()
        signal.set_wakeup_fd(self._woken)
        _give_back(self._handlers)
        os.close(self._reading)
        os.close(self._writing)

    @property
    def interrupted(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None

    def abandon(self) -> None:
        """Kill at once: nobody wants the results any more. Any thread, with any lock."""
        with suppress(OSError):  # it is full of signals: one of them does it
            os.write(self._writing, bytes([_ABANDON]))

    def _run(self) -> None:
        while (word := os.read(self._reading, 1)[0]) != _END:
            if word != _ABANDON and word not in self._numbers:
                continue  # somebody else's signal
            first = self.signal is None
            if word != _ABANDON and first:
                self.signal = signal.Signals(word)
            if word in DRAINING and first and not self.killed.is_set():
                self._drain()
            elif not self.killed.is_set():
                self.killed.set()
                killer = threading.Thread(target=self._kill, name="ztasks-kill", daemon=True)
                killer.start()
                waits = word not in (_ABANDON, signal.SIGHUP)  # whether somebody is there who does
                if self._force and not self._ended.wait(KILL_SECONDS if waits else ABANDON_SECONDS):
                    killer.join(KILL_SECONDS / 7)  # it is the main thread that is stuck: let the executor be closed
                    self._last_words()
                    os._exit(self._exit_code())


def _noted(number: int, frame: FrameType | None) -> None:
    """Nothing is to be done here: the pipe has the signal."""


def _handle(numbers: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], None]) -> dict[Any, Any]:
    """Set the handler of signals; return those they had. What is ignored stays so: nohup, or a shell's background."""
    found = {number: signal.getsignal(number) for number in numbers}
    return {number: signal.signal(number, handler) for number, had in found.items() if had is not signal.SIG_IGN}


def _give_back(handlers: dict[Any, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
