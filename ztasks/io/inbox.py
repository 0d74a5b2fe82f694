"""The inbox: what other threads hand to the head's thread, and the byte budget of what submitted jobs hold.

What it must hold: `post` is safe from any thread, finaliser and signal handler; what is posted is read, or refused once
the head has ended; and whoever waits for room in the budget goes on as soon as there is some, or none will ever be.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from ztasks.core.slices import Slice
from ztasks.errors import TooLarge
from ztasks.io.wakeup import Wakeup

T = TypeVar("T")

ASK_SECONDS: Final = 0.1
"""How often whoever waits for an answer sees whether the head has ended."""

ASK_TIMES: Final = 5
"""After so many times nobody waits any longer."""


class Inbox:
    """A deque, the wake-up of the thread that reads it, and a budget of `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.taken = 0
        """Bytes of all jobs that were ever submitted. Added to without a lock: nothing can come between."""
        self.freed = 0
        """Bytes of all of them that have ended."""
        self.asleep = False
        self.hungry = True
        """Whether new work could be sent at once. If not, it need not wake the thread: the next outcome will."""
        self.ended = threading.Event()
        """Set when the head has closed everything."""
        self.wakeup = Wakeup()
        self.items: deque[Slice | Callable[[], object]] = deque()
        self._waiting: deque[threading.Lock] = deque()
        self._seen_freed = 0
        self._room = threading.Lock()

    def __len__(self) -> int:
        return len(self.items)

    # --- any thread ---

    def post(self, item: Slice | Callable[[], object]) -> None:
        """Hand over a slice to run, or something to call in the head's thread."""
        self.items.append(item)
        # A wake-up takes the interpreter away from the caller, for longer than the whole rest of a submit.
        # Only the thread itself resets `asleep`: a KeyboardInterrupt between the two would leave it asleep for ever.
        if self.asleep and (self.hungry or type(item) is not Slice):
            self.wakeup.set()

    def free(self, size: int) -> None:
        """A job that holds so many bytes has ended."""
        self.freed += size
        if self._waiting:
            self.post(_nothing)  # it looks for who waits

    def ask(self, call: Callable[[], T]) -> T | None:
        """Have something called in the head's thread, and return its value; None if it does not answer in time.

        Then it has ended, or what it was given to write to (`output=`) blocks it.
        """
        found: SimpleQueue[T] = SimpleQueue()
        self.post(lambda: found.put(call()))
        for _ in range(ASK_TIMES):
            if self.ended.is_set():
                break
            with contextlib.suppress(Empty):
                return found.get(timeout=ASK_SECONDS)
        return None

    def wait_for_room(self, size: int, *, may_wait: bool) -> None:
        """A job of `size` bytes, taken already, exceeds the budget: wait until others have ended.

        Raises TooLarge if it can never fit; then nothing of it is left in the books.
        """
        self.taken -= size
        self._wake_waiting()  # it stood in their way for a moment
        if size > self.max_bytes:
            raise TooLarge(
                f"the arguments of this job take {size} bytes, more than the byte budget of this executor, "
                f"{self.max_bytes}. Nothing was sent. Pass a path instead of the data, or give Executor a larger "
                "max_bytes."
            )
        while True:
            alarm = threading.Lock()
            alarm.acquire()
            self._waiting.append(alarm)  # first: whatever makes room after the look below releases it
            with self._room:
                if not may_wait or self.taken - self.freed + size <= self.max_bytes or self.ended.is_set():
                    self.taken += size
                    return
            alarm.acquire()

    # --- the head's thread ---

    def take(self) -> Iterator[Slice | Callable[[], object]]:
        """Yield what has been posted."""
        items = self.items
        while True:
            try:
                yield items.popleft()
            except IndexError:
                return

    def give_room(self) -> None:
        """Let those go on who wait for room, if there may be some now."""
        if self._waiting and self.freed != self._seen_freed:
            self._seen_freed = self.freed
            self._wake_waiting()

    def end(self) -> None:
        """The head has ended: nobody shall wait any more."""
        self.ended.set()
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        with contextlib.suppress(IndexError):  # several threads may be at it
            while True:
                self._waiting.popleft().release()


def _nothing() -> None:
    return
