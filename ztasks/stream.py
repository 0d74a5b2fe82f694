"""Streams: maps that are fed in one thread and consumed in another, for inputs that may block, such as a pipe."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import Empty
from typing import Any

from ztasks.core.slices import TaskBooks
from ztasks.io.deliver import Segment
from ztasks.io.head import Head
from ztasks.mapping import PULL_SECONDS, Map
from ztasks.outcome import Outcome
from ztasks.wire.payload import dump


class Stream(Map):
    """A map that is fed in one thread and consumed in another: for inputs that may block, such as a pipe."""

    def __init__(self, head: Head, task: TaskBooks, **how: Any) -> None:
        super().__init__(head, task, iter(()), **how)
        self._room = threading.Event()
        self._filling: list[Any] = []
        self._filling_lock = threading.Lock()

    def feed(self, calls: Iterable[tuple[tuple[Any, ...], dict[str, Any]]]) -> None:
        """Advance the calls to their end, in the thread that calls this; blocks while the window is full.

        Raises what the iterable raises, after the outcomes of what came before have been seen to.
        """
        try:
            for call in calls:
                if self.exhausted or not self._feed_one(call):
                    return
        finally:
            with self._filling_lock:
                self._flush_filling()
                self._end_input(None)
            self._arrived.put(None)

    def _feed_one(self, call: Any) -> bool:
        while self.outstanding + len(self._filling) >= self.window() and not self.exhausted:
            self._room.clear()
            with self._filling_lock:
                self._flush_filling()
            if self.outstanding >= self.window():
                self._room.wait(0.1)  # the window may also grow because an estimate changes
        if self.exhausted:
            return False
        pickled = dump(call)
        with self._filling_lock:
            assert self._kept is not None
            self._kept[self._pulled + len(self._filling)] = call
            self._filling.append(pickled)
            if len(self._filling) >= self._slice_limit():
                self._flush_filling()
        return True

    def _flush_filling(self) -> None:
        """Send what has been collected; the caller holds the lock."""
        if self._filling:
            values, self._filling = self._filling, []
            self._send(values)

    def _may_pull(self) -> bool:
        return False

    def _next(self) -> Segment | None:
        """Return the next segment; sends what the feeding thread has collected when there is nothing else to do."""
        self._room.set()
        while True:
            self._sort_arrived()
            segment = self._take_ready()
            if segment is not None:
                break
            if not self.outstanding and self.exhausted and self._arrived.empty():
                return None
            try:
                self._sort(self._arrived.get(timeout=PULL_SECONDS if self._filling else 0.05))
            except Empty:
                with self._filling_lock:
                    self._flush_filling()
        self._handed += segment.count
        self._learn_size(segment)
        self._room.set()
        return segment

    def cancel(self) -> None:
        """Take no more input and cancel what waits for a lane; what runs is finished."""
        with self._filling_lock:
            self._flush_filling()
            self._end_input(None)
        self._room.set()
        self._head.post(lambda: self._head.cancel_owner(self))
        self._arrived.put(None)

    def __iter__(self) -> Iterator[Outcome[Any]]:
        return self.outcomes(call_shape=True)
