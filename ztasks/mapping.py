"""Maps: many calls of one task, streamed. Inputs are pulled lazily, results come in order or as they finish.

What it must hold: the input is only advanced in the caller's own threads; ready results are handed out before more is
pulled; what is pulled and not yet handed out is bounded in items and bytes (`core/window.py`); every item that was
pulled is handed out once, unless the map is closed.

    input --pull--> slices --head--> lanes --> workers --> head --arrive--> results, handed out
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from itertools import chain, count, islice
from queue import Empty, SimpleQueue
from sys import getsizeof
from time import monotonic, perf_counter
from typing import Any, Final, NamedTuple

from ztasks.core.slices import Slice, TaskBooks
from ztasks.core.window import SLICE_BYTES, Window
from ztasks.errors import CallNotPicklable
from ztasks.io.deliver import Segment
from ztasks.io.head import Head
from ztasks.outcome import Outcome, cut, entries, plain_values
from ztasks.units import reason
from ztasks.wire.payload import PRIMITIVES, Pickled, dump, load, pack, pack_primitives

PULL_SECONDS: Final = 0.002
"""For how long the input is advanced before what it gave is sent: a slow input must not hold back what is there."""

SAMPLED: Final = 16
"""Of items that are there already, the size of every 16th is looked at."""

SMALL: Final = frozenset({int, float, bool, type(None)})
"""The exact types whose values are small: what they take need not be looked at."""

_numbers = count(1)


class _Arrival(NamedTuple):
    """A segment that has come, and what each of its items costs to hold."""

    segment: Segment
    cost: int


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
        self._back: Iterator[Any] = iter(())
        """What has been taken from the input, and was more than fits into the slice."""
        self._ordered = ordered
        self._window = Window(
            task, workers=workers, max_bytes=max_bytes, hint=hint, fixed=window, length=length, plain=plain
        )
        self._deadline = deadline
        self._on_end = on_end
        self._arrived: SimpleQueue[_Arrival | None] = SimpleQueue()
        self._ready: dict[int, _Arrival] = {}
        self._consuming = (0, 0)
        """The segment that the consumer has: how many items, and what each costs."""
        self._error: BaseException | None = None
        """What the input raised, behind all that was pulled."""
        self._left = 0.0
        self._closed = False
        self._kept: dict[int, Any] | None = {} if task.detail else None
        """The inputs of outstanding items, for their outcomes."""

    # --- the input ---

    def fill(self) -> None:
        """Pull as much as the window allows, so that the workers start before the consumer asks."""
        while self._may_pull() and self._arrived.empty():
            self._pull()

    def finish(self) -> None:
        """Pull the whole rest of the input: nobody may ask for it any more, yet it shall run."""
        self._window.lift()
        while not self.exhausted:
            self._pull()

    def _may_pull(self) -> bool:
        return not self.exhausted and self._window.outstanding < self._window.items()

    def _pull(self) -> None:
        """Advance the input by one slice, and send it."""
        items: list[Any] = []
        limit, room = self._window.slice_items(), SLICE_BYTES
        begin, step = perf_counter(), 1
        try:
            while len(items) < limit and room > 0:
                before, wanted = len(items), min(step, limit - len(items))
                room -= self._advance(items, wanted, room)
                if room > 0 and len(items) - before < wanted:
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

    def _advance(self, items: list[Any], wanted: int, room: int) -> int:
        """Pull `wanted` items, or fewer if those take all the room; return about how many bytes they take.

        What can change is pickled at once: a generator may reuse it for the next.
        """
        before, size = len(items), 0
        pulled: list[Any] = []
        if self._plain:
            pulled = list(islice(chain(self._back, self._source), wanted))
            kinds = set(map(type, pulled))
            if kinds <= PRIMITIVES:
                size = 0 if kinds <= SMALL else SAMPLED * sum(map(getsizeof, pulled[::SAMPLED]))
                if size < room:
                    items += pulled
                    self._keep(pulled, before)
                    return size
        source = iter(pulled) if self._plain else islice(self._source, wanted)
        try:
            size = self._take(source, items, room)
        finally:
            taken = len(items) - before
            self._keep(pulled[:taken] if self._plain else items[before:], before)
            if taken < len(pulled):
                self._back = iter([*pulled[taken:], *self._back])
        return size

    def _take(self, source: Iterator[Any], items: list[Any], room: int) -> int:
        """Add what the source gives to the items, pickled if it can change; return how many bytes that takes."""
        append, size = items.append, 0
        for item in source:
            kind = type(item)
            if kind in SMALL:
                append(item)
                continue
            if kind in PRIMITIVES:
                size += len(item)
                append(item)
            else:
                pickled = data, buffers = self._pickle(item, self._window.pulled + len(items))
                size += len(data) + (sum(map(len, buffers)) if buffers else 0)
                append(pickled)
            if size >= room:
                break
        return size

    def _keep(self, values: list[Any], offset: int) -> None:
        """Keep inputs for their outcomes; those that may change as they were pickled."""
        if self._kept is not None:
            self._kept.update(enumerate(values, self._window.pulled + offset))

    def _pickle(self, item: Any, index: int) -> Pickled:
        try:
            return dump(item)
        except Exception as error:
            raise CallNotPicklable(
                f"input {index} of this map, of type {type(item).__qualname__}, cannot be pickled: "
                f"{reason(error)}. The inputs before it are run; this and the following are not."
            ) from error

    def _send(self, values: list[Any]) -> None:
        items = pack_primitives(values)
        if items is None:
            items = pack([value if type(value) is Pickled else dump(value) for value in values])
        first = self._window.pulled
        self._window.on_pulled(items)
        self._head.post(Slice(self.task, self, first, items.count, items))
        if self._head.inbox.ended.is_set():
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
            ended = segment.count - len(segment.missing)
            cost = self._window.on_arrived(segment.first, ended, segment.items, segment.failures.values())
            self._arrived.put(_Arrival(segment, cost))

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
            if self._window.outstanding:
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
                if (values := plain_values(segment)) is not None:
                    yield from values
                    del segment, values  # what has been consumed must not stay while the next is waited for
                    continue
                value = error = None
                for _, value, error in entries(segment):
                    if error is None:
                        yield value
                    elif return_exceptions:
                        yield error
                    else:
                        raise error
                del segment, value, error
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
                worker, max_rss = segment.worker, segment.max_rss or None
                attempts = segment.attempt if worker is not None else 0
                for place, value, error in entries(segment):
                    index = first + place
                    item = kept.pop(index)
                    if type(item) is Pickled:
                        item = load(*item)
                    args, kwargs = item if call_shape else ((item,) if one else item, None)
                    began = started[place] if started else None
                    took = seconds[place] if seconds else 0.0
                    yield Outcome(index, args, value, error, began, took, attempts, worker, max_rss, kwargs)
                del segment, value, error, item, args, kwargs  # what has been consumed must not stay in memory
            if self._error is not None:
                raise self._error
        finally:
            self.close()

    def _next(self) -> Segment | None:
        """Return the segment that is next to be handed out, or None at the end; pulls while it waits."""
        self._come_back()
        while True:
            self._sort_arrived()
            arrival = self._take_ready()
            if arrival is not None:
                return self._leave_with(arrival)
            if self._may_pull():
                self._pull()
            elif not self._window.outstanding:
                return None
            else:
                self._wait()

    def _come_back(self) -> None:
        """The consumer has consumed what it got, and was away for a while."""
        if self._left:
            self._window.pause = max(monotonic() - self._left, 0.7 * self._window.pause)
        (count, cost), self._consuming = self._consuming, (0, 0)
        self._window.on_consumed(count, cost)

    def _leave_with(self, arrival: _Arrival) -> Segment:
        """The consumer goes away with a segment."""
        self._consuming = arrival.segment.count, arrival.cost
        self._left = monotonic()
        return arrival.segment

    def _take_ready(self) -> _Arrival | None:
        ready = self._ready
        if not ready:
            return None
        return ready.pop(self._window.handed if self._ordered else next(iter(ready)), None)

    def _wait(self) -> None:
        """Wait for the next arrival; raises TimeoutError when the map's time is up."""
        timeout = None if self._deadline is None else self._deadline - monotonic()
        if timeout is not None and timeout <= 0:
            raise TimeoutError
        try:
            arrival = self._arrived.get(timeout=timeout)
        except Empty:
            raise TimeoutError from None
        self._sort(arrival)

    def _sort_arrived(self) -> None:
        arrived = self._arrived
        while not arrived.empty():
            self._sort(arrived.get())

    def _sort(self, arrival: _Arrival | None) -> None:
        """File a segment under its index; where items are missing, it is cut into what is there."""
        if arrival is None:
            return
        segment, cost = arrival
        if not segment.missing:
            self._ready[segment.first] = arrival
            return
        start = 0
        for end in (*sorted(segment.missing), segment.count):
            if end > start:
                self._ready[segment.first + start] = _Arrival(cut(segment, start, end), cost)
            start = end + 1


def new_number() -> int:
    """Return a number for a map; the jobs of a map are named after it."""
    return next(_numbers)
