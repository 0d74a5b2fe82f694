"""Maps: many calls of one task, streamed. Inputs are pulled lazily, results come in order or as they finish.

What it must hold: the input is only advanced in the caller's own threads; ready results are handed out before more is
pulled; what is pulled and not yet handed out is bounded in items and bytes; every item that was pulled is handed out
once, unless the map is closed.

    input --pull--> slices --head--> lanes --> workers --> head --arrive--> results, handed out
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from itertools import count, islice
from queue import Empty, SimpleQueue
from time import monotonic, perf_counter
from typing import Any, Final

from ztasks.core.lane import TARGET
from ztasks.core.slices import Slice, TaskBooks
from ztasks.errors import CallNotPicklable
from ztasks.io.deliver import Segment
from ztasks.io.head import Head
from ztasks.outcome import Outcome, cut, entries
from ztasks.wire.messages import MAX_ITEMS
from ztasks.wire.payload import PRIMITIVES, Pickled, dump, load, pack, pack_primitives

SLICE_SECONDS: Final = 0.010
"""How much expected work a slice holds: half of what a lane is kept supplied with."""

SLICE_BYTES: Final = 1024 * 1024
"""About how many bytes a slice holds."""

PULL_SECONDS: Final = 0.002
"""For how long the input is advanced before what it gave is sent: a slow input must not hold back what is there."""

MAX_OUTSTANDING: Final = 1_048_576
"""The most items that are pulled and not yet handed out."""

_numbers = count(1)


class Map:
    """One map: its input, its window of outstanding items, and what has arrived.

    One thread at a time advances it: the consumer's, or that of a `shutdown` in the same thread.
    """

    def __init__(
        self,
        head: Head,
        task: TaskBooks,
        source: Iterator[Any],
        *,
        workers: int,
        ordered: bool = True,
        length: int | None = None,
        plain: bool = False,
        hint: int = 1,
        window: int | None = None,
        max_bytes: int,
        deadline: float | None = None,
        on_end: Callable[[Map], None],
    ) -> None:
        self.length = length
        """How many items the input has, if it says so."""
        self.advanced = False
        """Whether the consumer has asked for a result."""
        self.exhausted = False
        """Whether there is nothing more to pull."""
        self.thread = threading.get_ident()
        self.task = task
        self._head = head
        self._source = source
        self._plain = plain
        """Whether advancing the input runs no code of the user's, so that nothing can change between two items."""
        self._workers = workers
        self._ordered = ordered
        self._hint = hint
        self._fixed_window = window
        self._max_bytes = max_bytes
        self._deadline = deadline
        self._on_end = on_end
        self._arrived: SimpleQueue[Segment | None] = SimpleQueue()
        self._ready: dict[int, Segment] = {}
        self._pulled = 0
        self._handed = 0
        self._error: BaseException | None = None
        """What the input raised, at index `_pulled`."""
        self._last_slice = 1
        self._bytes_each = 0.0
        """A moving average of the bytes of an item, input and result together."""
        self._pause = 0.0
        self._left = 0.0
        self._closed = False
        self._kept: dict[int, Any] | None = {} if task.detail else None
        """The inputs of outstanding items, for their outcomes."""

    # --- the input ---

    @property
    def outstanding(self) -> int:
        """How many items are pulled and not handed out."""
        return self._pulled - self._handed

    def window(self) -> int:
        """Return how many items may be outstanding now."""
        seconds = self.task.run_time.seconds
        if self._fixed_window is not None:
            items = self._fixed_window
        elif seconds is None:
            items = max(4 * self._workers, self._hint)
        else:
            ahead = self._workers * (6 * TARGET + 2 * min(self._pause, 60.0))
            items = max(4 * self._workers, int(ahead / seconds), self._hint)
        if self._bytes_each:
            items = min(items, max(2, int(self._max_bytes / self._bytes_each)))
        return min(items, MAX_OUTSTANDING)

    def fill(self) -> None:
        """Pull as much as the window allows, so that the workers start before the consumer asks."""
        while self._may_pull() and self._arrived.empty():
            self._pull()

    def finish(self) -> None:
        """Pull the whole rest of the input: nobody may ask for it any more, yet it shall run."""
        while not self.exhausted:
            self._pull()

    def _may_pull(self) -> bool:
        return not self.exhausted and self.outstanding < self.window()

    def _pull(self) -> None:
        """Advance the input by one slice, and send it."""
        items: list[Any] = []
        limit = self._slice_limit()
        begin, step = perf_counter(), 1
        try:
            while len(items) < limit:
                before = len(items)
                self._advance(items, min(step, limit - before))
                if len(items) - before < min(step, limit - before):
                    self._end_input(None)
                    break
                if perf_counter() - begin > PULL_SECONDS:
                    break
                step *= 2
        except Exception as error:  # noqa: BLE001 - whatever the input raises is raised at its place
            self._end_input(error)
        finally:  # a KeyboardInterrupt loses nothing of what was pulled
            if items:
                self._send(items)

    def _advance(self, items: list[Any], wanted: int) -> None:
        """Pull `wanted` items. What can change is pickled at once: a generator may reuse it for the next."""
        append = items.append
        source: Iterator[Any] = islice(self._source, wanted)
        if self._plain and self._kept is None:
            pulled = list(source)
            if PRIMITIVES.issuperset(map(type, pulled)):
                items += pulled
                return
            source = iter(pulled)
        if self._kept is not None:
            index = self._pulled + len(items)
            for index, item in enumerate(source, index):  # noqa: B020
                value = item if type(item) in PRIMITIVES else self._pickle(item, index)
                append(value)
                self._kept[index] = item if self._plain else value  # what a generator gives it may change later
            return
        for item in source:
            if type(item) in PRIMITIVES:
                append(item)
            else:
                append(self._pickle(item, self._pulled + len(items)))

    def _pickle(self, item: Any, index: int) -> Pickled:
        try:
            return dump(item)
        except Exception as error:
            raise CallNotPicklable(
                f"input {index} of this map, of type {type(item).__qualname__}, cannot be pickled: "
                f"{type(error).__name__}: {error}. The inputs before it are run; this and the following are not."
            ) from error

    def _slice_limit(self) -> int:
        seconds = self.task.run_time.seconds
        limit = self._hint if seconds is None else max(1, int(SLICE_SECONDS / seconds))
        limit = min(limit, 4 * self._last_slice, MAX_ITEMS)
        if self.length is not None:  # smaller ones towards the end, so that all workers finish at once
            limit = min(limit, (self.length - self._pulled) // (2 * self._workers))
        if self._fixed_window is not None:
            limit = min(limit, -(-self._fixed_window // (2 * self._workers)), self._fixed_window - self.outstanding)
        if self._bytes_each:
            limit = min(limit, int(SLICE_BYTES / self._bytes_each))
        return max(1, limit)

    def _send(self, values: list[Any]) -> None:
        items = pack_primitives(values)
        if items is None:
            items = pack([value if type(value) is Pickled else dump(value) for value in values])
        size = len(values)
        each = items.nbytes / size
        self._bytes_each = max(each, self._bytes_each + 0.3 * (each - self._bytes_each))
        first, self._pulled = self._pulled, self._pulled + size
        self._last_slice = max(size, self._last_slice)
        self._head.post(Slice(self.task, self, first, size, items))
        if self._head.ended.is_set():
            self._head.refuse_late()  # closed by another thread just now, or failed

    def _end_input(self, error: BaseException | None) -> None:
        if not self.exhausted:
            self.exhausted = True
            self._error = error
            self._on_end(self)

    # --- the head's side ---

    def arrive(self, segment: Segment) -> None:
        """The head: some items have ended."""
        if not self._closed:
            self._arrived.put(segment)

    def abandon(self, first: int, count: int, error: BaseException | None) -> None:
        """The head: items that waited are cancelled, or cannot be run."""
        self.arrive(Segment(first, count, None, {}, frozenset(), 0, None, None, 0, None, error or CancelledError()))

    # --- the end ---

    def cancel_input(self) -> None:
        """Pull no more; the consumer is told so with a CancelledError where the input was left."""
        self._end_input(CancelledError("the executor was shut down before this map's input was read to its end"))

    def cancel(self) -> None:
        """Pull no more and cancel what waits for a lane; what runs is finished."""
        self.cancel_input()
        self._head.post(lambda: self._head.cancel_owner(self))

    def close(self) -> None:
        """The consumer wants no more: cancel, and forget what arrives."""
        if not self._closed:
            self._closed = True
            self._end_input(None)
            if self.outstanding:
                self._head.post(lambda: self._head.cancel_owner(self))
            self._ready.clear()
            if self._kept is not None:
                self._kept.clear()

    # --- the consumer ---

    def values(self, *, return_exceptions: bool = False) -> Iterator[Any]:
        """Hand out the results; an item's exception is raised (or handed out) at its place."""
        self.advanced = True
        try:
            while (segment := self._next()) is not None:
                items = segment.items
                if items is not None and items.form == "list" and not segment.failures:
                    yield from items.values()
                    continue
                for _, value, error in entries(segment):
                    if error is None:
                        yield value
                    elif return_exceptions:
                        yield error
                    else:
                        raise error
            if self._error is not None:
                raise self._error
        finally:
            self.close()

    def outcomes(self, *, call_shape: bool = False) -> Iterator[Outcome[Any]]:
        """Hand out an Outcome for each item; only what the input itself raises is raised."""
        self.advanced = True
        kept = self._kept
        assert kept is not None, "outcomes need a task with detail"
        one = self.task.shape == "one"
        try:
            while (segment := self._next()) is not None:
                first, started, seconds = segment.first, segment.started, segment.seconds
                ran = segment.worker is not None
                for place, value, error in entries(segment):
                    item = kept.pop(first + place)
                    if type(item) is Pickled:
                        item = load(*item)
                    args, kwargs = item if call_shape else ((item,) if one else item, None)
                    yield Outcome(
                        first + place,
                        args,
                        value,
                        error,
                        started[place] if started else None,
                        seconds[place] if seconds else 0.0,
                        segment.attempt if ran else 0,
                        segment.worker,
                        segment.max_rss or None,
                        kwargs,
                    )
            if self._error is not None:
                raise self._error
        finally:
            self.close()

    def _next(self) -> Segment | None:
        """Return the segment that is next to be handed out, or None at the end; pulls while it waits."""
        now = monotonic()
        if self._left:
            self._pause = max(now - self._left, 0.7 * self._pause)
        while True:
            self._sort_arrived()
            segment = self._take_ready()
            if segment is not None:
                break
            if self._may_pull():
                self._pull()
            elif not self.outstanding:
                return None
            else:
                self._wait()
        self._handed += segment.count
        self._learn_size(segment)
        self._left = monotonic()
        return segment

    def _take_ready(self) -> Segment | None:
        ready = self._ready
        if not ready:
            return None
        return ready.pop(self._handed if self._ordered else next(iter(ready)), None)

    def _wait(self) -> None:
        """Wait for the next arrival; raises TimeoutError when the map's time is up."""
        timeout = None if self._deadline is None else self._deadline - monotonic()
        if timeout is not None and timeout <= 0:
            raise TimeoutError
        try:
            segment = self._arrived.get(timeout=timeout)
        except Empty:
            raise TimeoutError from None
        self._sort(segment)

    def _sort_arrived(self) -> None:
        arrived = self._arrived
        while not arrived.empty():
            self._sort(arrived.get())

    def _sort(self, segment: Segment | None) -> None:
        """File a segment under its index; where items are missing, it is cut into what is there."""
        if segment is None:
            return
        if not segment.missing:
            self._ready[segment.first] = segment
            return
        start = 0
        for end in (*sorted(segment.missing), segment.count):
            if end > start:
                self._ready[segment.first + start] = cut(segment, start, end)
            start = end + 1

    def _learn_size(self, segment: Segment) -> None:
        if segment.items is not None:
            each = segment.items.nbytes / segment.count
            self._bytes_each = max(each, self._bytes_each + 0.1 * (each - self._bytes_each))


def new_number() -> int:
    """Return a number for a map; the jobs of a map are named after it."""
    return next(_numbers)
