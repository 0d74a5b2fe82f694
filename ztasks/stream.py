"""Streams: maps that are fed in one thread and consumed in another, for inputs that may block, such as a pipe."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pickle import dumps
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
from ztasks.wire.payload import PRIMITIVES, Pickled, dump


class Stream(Map):
    """A map that is fed in one thread and consumed in another: for inputs that may block, such as a pipe."""

    def __init__(self, head: Head, task: TaskBooks, **how: Any) -> None:
        super().__init__(head, task, iter(()), **how)
        self._room = threading.Event()
        self._fed = False
        self._filling: list[Pickled] = []
        self._filling_bytes = 0
        self._allowed = 0
        """How many more calls may be fed before the window is looked at again; the feeding thread's own."""
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
        if not self._allowed and not self._wait_for_room():
            return False
        pickled = self._pickle_call(call)
        with self._filling_lock:
            assert self._kept is not None
            self._kept[self._window.pulled + len(self._filling)] = call
            self._filling.append(pickled)
            self._filling_bytes += len(pickled.data) if not pickled.buffers else pickled.nbytes
            self._allowed -= 1
            if not self._allowed or self._filling_bytes >= SLICE_BYTES:
                self._allowed = 0
                self._flush_filling()
        return True

    def _wait_for_room(self) -> bool:
        """Wait until the window is open, and note for how many; False if no more is wanted."""
        window = self._window
        while not self.exhausted:
            room = window.items() - window.outstanding - len(self._filling)
            if room > 0:
                self._allowed = min(room, window.slice_items())
                return True
            self._room.clear()
            with self._filling_lock:
                self._flush_filling()
            if window.outstanding >= window.items():
                self._room.wait(0.1)  # the window may also grow because an estimate changes
        return False

    def _pickle_call(self, call: Any) -> Pickled:
        """Check and pickle one call; raises InvalidOption and CallNotPicklable."""
        if type(call) is tuple and len(call) == 2 and not call[1] and type(call[0]) is tuple and type(call[1]) is dict:
            if PRIMITIVES.issuperset(map(type, call[0])):
                return Pickled(dumps(call, 5), [])
        elif not _is_call(call):
            raise InvalidOption(
                f"{self._place()} must be a tuple of arguments and a dict of keyword arguments, not {shown(call)}. The "
                "calls before it are run; this and the following are not."
            )
        try:
            return dump(call)
        except Exception as error:
            raise CallNotPicklable(
                f"{self._place()} cannot be pickled: {reason(error)}. The calls before it are run; this and the "
                "following are not."
            ) from error

    def _place(self) -> str:
        return f"call {self._window.pulled + len(self._filling)} of this stream"

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
