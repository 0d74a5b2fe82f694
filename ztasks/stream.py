"""Streams: maps that are fed in one thread and consumed in another, for inputs that may block, such as a pipe."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import Empty
from typing import Any

from ztasks.core.slices import TaskBooks
from ztasks.core.window import SLICE_BYTES
from ztasks.errors import CallNotPicklable, InvalidOption
from ztasks.io.deliver import Segment
from ztasks.io.head import Head
from ztasks.mapping import PULL_SECONDS, Map
from ztasks.outcome import Outcome
from ztasks.units import reason, shown
from ztasks.wire.payload import Pickled, dump


class Stream(Map):
    """A map that is fed in one thread and consumed in another: for inputs that may block, such as a pipe."""

    def __init__(self, head: Head, task: TaskBooks, **how: Any) -> None:
        super().__init__(head, task, iter(()), **how)
        self._room = threading.Event()
        self._fed = False
        self._filling: list[Pickled] = []
        self._filling_bytes = 0
        self._filling_lock = threading.Lock()

    def feed(self, calls: Iterable[tuple[tuple[Any, ...], dict[str, Any]]]) -> None:
        """Advance the calls to their end, in the thread that calls this; blocks while the window is full. Once only.

        A call is `(args, kwargs)`. Raises what the iterable raises, and InvalidOption or CallNotPicklable for what is
        no call or cannot be pickled, after the outcomes of what came before have been seen to.
        """
        if self._fed:
            raise InvalidOption("a stream is fed once: feed it itertools.chain(...) of all calls. Nothing was lost.")
        self._fed = True
        try:
            if not isinstance(calls, Iterable):
                raise InvalidOption(f"calls must be an iterable of (args, kwargs), not {shown(calls)}")
            for call in calls:
                if self.exhausted or not self._feed_one(call):
                    return
        finally:
            with self._filling_lock:
                self._flush_filling()
                self._end_input(None)
            self._arrived.put(None)

    def _feed_one(self, call: Any) -> bool:
        while self._is_full(len(self._filling)) and not self.exhausted:
            self._room.clear()
            with self._filling_lock:
                self._flush_filling()
            if self._is_full():
                self._room.wait(0.1)  # the window may also grow because an estimate changes
        if self.exhausted:
            return False
        pickled = self._pickle_call(call)
        with self._filling_lock:
            assert self._kept is not None
            self._kept[self._window.pulled + len(self._filling)] = call
            self._filling.append(pickled)
            self._filling_bytes += pickled.nbytes
            if len(self._filling) >= self._window.slice_items() or self._filling_bytes >= SLICE_BYTES:
                self._flush_filling()
        return True

    def _is_full(self, more: int = 0) -> bool:
        return self._window.outstanding + more >= self._window.items()

    def _pickle_call(self, call: Any) -> Pickled:
        """Check and pickle one call; raises InvalidOption and CallNotPicklable."""
        place = f"call {self._window.pulled + len(self._filling)} of this stream"
        if not _is_call(call):
            raise InvalidOption(
                f"{place} must be a tuple of arguments and a dict of keyword arguments, not {shown(call)}. The calls "
                "before it are run; this and the following are not."
            )
        try:
            return dump(call)
        except Exception as error:
            raise CallNotPicklable(
                f"{place} cannot be pickled: {reason(error)}. The calls before it are run; this and the following are "
                "not."
            ) from error

    def _flush_filling(self) -> None:
        """Send what has been collected; the caller holds the lock."""
        if self._filling:
            values, self._filling, self._filling_bytes = self._filling, [], 0
            self._send(values)

    def _may_pull(self) -> bool:
        return False

    def _next(self) -> Segment | None:
        """Return the next segment; sends what the feeding thread has collected when there is nothing else to do."""
        self._come_back()
        self._room.set()
        while True:
            self._sort_arrived()
            arrival = self._take_ready()
            if arrival is not None:
                self._room.set()
                return self._leave_with(arrival)
            if not self._window.outstanding and self.exhausted and self._arrived.empty():
                return None
            try:
                self._sort(self._arrived.get(timeout=PULL_SECONDS if self._filling else 0.05))
            except Empty:
                with self._filling_lock:
                    self._flush_filling()

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


def _is_call(call: Any) -> bool:
    return (
        type(call) is tuple
        and len(call) == 2
        and isinstance(call[0], tuple | list)
        and isinstance(call[1], dict)
        and all(isinstance(name, str) for name in call[1])
    )
