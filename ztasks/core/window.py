"""The window of a map: how many items may be pulled from its input and not yet handed out.

By time: as many as keep the workers busy while the consumer is away. By bytes: what the items cost to hold in this
process stays near `buffer_bytes`. That cost is counted: an input from the moment when it is pulled, a result from the
moment when it arrives until it has been consumed, both with the objects around them, which for small items cost more
than the items. What is on its way is counted as the larger of the input and of what results have taken lately. More
cannot be known of it, so the window opens step by step: a few items at first, then a multiple of what has arrived. Only
results that turn out to be large after many small ones exceed the budget, by what was on its way then.

Several threads look at a window, but each counter has one that writes it: whoever pulls, the head, whoever consumes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

from ztasks.core.lane import TARGET
from ztasks.core.slices import TaskBooks
from ztasks.wire.messages import MAX_ITEMS, Failure
from ztasks.wire.payload import Items

SLICE_SECONDS: Final = 0.010
"""How much expected work a slice holds: half of what a lane is kept supplied with."""

SLICE_BYTES: Final = 1024 * 1024
"""About how many bytes a slice holds."""

MAX_OUTSTANDING: Final = 1_048_576
"""The most items that are pulled and not yet handed out."""

LEAST: Final = 2
"""So many items are let in whatever they cost: else a map of large ones would never get anywhere."""

GROWTH: Final = 8
"""How many times as many items may be on their way as have arrived."""

MAX_PAUSE: Final = 60.0
"""The longest pause of the consumer, in seconds, that is read ahead for."""

# What objects cost in CPython on a 64-bit machine, in bytes: rounded, and rather too much than too little.

RUN_COST: Final = 700
"""A slice or a segment, with its batch and its payload's header."""

ENTRY_COST: Final = 48
"""An entry in a table of sizes, and one in a table of buffers."""

MEASURED_COST: Final = 80
"""Start and run time of an item, with `detail`."""

KEPT_COST: Final = 160
"""An item that is kept for its outcome: the entry in the dictionary, and a small object."""

KEPT_PICKLE_COST: Final = 160
"""What is kept in addition if it is a pickle of its own, beside its bytes."""

FAILURE_COST: Final = 500
"""A failure, beside its texts."""


class Window:
    """The window of one map."""

    __slots__ = (
        "_arrived",
        "_arrived_bytes",
        "_detail",
        "_fixed",
        "_handed_bytes",
        "_hint",
        "_input_each",
        "_largest",
        "_length",
        "_lifted",
        "_max_bytes",
        "_plain",
        "_pulled_bytes",
        "_result_each",
        "_run_time",
        "_settled_bytes",
        "_slices",
        "_starts",
        "_workers",
        "handed",
        "pause",
        "pulled",
    )

    def __init__(
        self,
        task: TaskBooks,
        *,
        workers: int,
        max_bytes: int,
        hint: int = 1,
        fixed: int | None = None,
        length: int | None = None,
        plain: bool = False,
    ) -> None:
        """`fixed`: the caller's own limit; `plain`: inputs that are kept for their outcomes are kept as they are."""
        self.pulled = 0
        """How many items have been pulled."""
        self.handed = 0
        """How many of them have been handed out and consumed."""
        self.pause = 0.0
        """How many seconds the consumer has been away between two results, lately."""
        self._run_time = task.run_time
        self._workers = workers
        self._max_bytes = min(max_bytes, 2**60)
        self._hint = hint
        self._fixed = fixed
        self._length = length
        self._lifted = False
        self._detail = task.detail
        self._plain = plain
        self._largest = 1
        """The items of the largest slice so far."""
        self._starts: list[int] = []
        """Where the slices begin of which items have not arrived; the head removes, whoever pulls appends."""
        self._slices: dict[int, list[int]] = {}
        """By where they begin: items that have not arrived, and what each costs: in all, and once it has arrived."""
        self._pulled_bytes = 0
        self._settled_bytes = 0
        """Of `_pulled_bytes`, those of inputs whose results have arrived."""
        self._arrived = 0
        self._arrived_bytes = 0
        self._handed_bytes = 0
        self._input_each = 0.0
        """A moving average of what an input costs; it goes up at once and down slowly."""
        self._result_each = 0.0
        """The same of results."""

    # --- how much ---

    @property
    def outstanding(self) -> int:
        """How many items are pulled and not consumed."""
        return self.pulled - self.handed

    @property
    def held(self) -> int:
        """About how many bytes the outstanding items take, those that are on their way included."""
        on_their_way = self.pulled - self._arrived
        inputs = self._pulled_bytes - self._settled_bytes
        return max(inputs, int(on_their_way * self._result_each)) + self._arrived_bytes - self._handed_bytes

    def items(self) -> int:
        """Return how many items may be outstanding now."""
        seconds, least = self._run_time.seconds, max(4 * self._workers, self._hint)
        if self._fixed is not None:
            items = self._fixed
        elif seconds is None:
            items = least
        else:
            ahead = self._workers * (6 * TARGET + 2 * min(self.pause, MAX_PAUSE))
            items = max(least, int(ahead / seconds))
        items = min(items, self._arrived - self.handed + max(least, GROWTH * self._arrived))
        each = max(self._input_each, self._result_each)
        if each:
            room = (self._max_bytes - self.held) // each
            items = min(items, max(LEAST, self.outstanding + int(room)))
        return min(items, MAX_OUTSTANDING)

    def slice_items(self) -> int:
        """Return how many items the next slice may have, at least one."""
        seconds = self._run_time.seconds
        limit = self._hint if seconds is None else max(1, int(SLICE_SECONDS / seconds))
        limit = min(limit, 4 * self._largest, MAX_ITEMS)
        if (
            self._length is not None and self.pulled < self._length
        ):  # smaller ones towards the end, so that all workers finish at once
            limit = min(limit, (self._length - self.pulled) // (2 * self._workers))
        if not self._lifted:
            if self._fixed is not None:
                limit = min(limit, -(-self._fixed // (2 * self._workers)))
            limit = min(limit, self.items() - self.outstanding)
        each = max(self._input_each, self._result_each)
        if each:
            limit = min(limit, int(SLICE_BYTES / each))
        return max(1, limit)

    def lift(self) -> None:
        """Let everything in: nobody consumes any more, and yet the whole input shall be run."""
        self._lifted = True

    # --- the thread that pulls ---

    def on_pulled(self, items: Items) -> None:
        """Take in that a slice has been pulled; before it is handed to the head."""
        count, pickles = items.count, items.form == "each"
        kept = 0
        if self._detail:
            kept = KEPT_COST
            if not self._plain:  # what a generator gives is held once to be sent and once for its outcome
                kept += items.nbytes // count + (KEPT_PICKLE_COST if pickles else 0)
        cost = (items.nbytes + RUN_COST) // count + (ENTRY_COST if pickles else 0) + kept
        self._slices[self.pulled] = [count, cost, kept]
        self._starts.append(self.pulled)
        self._pulled_bytes += count * cost
        self._input_each = max(cost, self._input_each + 0.3 * (cost - self._input_each))
        self.pulled += count
        self._largest = max(count, self._largest)

    # --- the head's thread ---

    def on_arrived(self, first: int, count: int, items: Items | None, failures: Iterable[Failure] = ()) -> int:
        """Take in that `count` items have ended that belong to one slice; return what each costs from now on."""
        place = bisect_right(self._starts, first) - 1
        slice_ = self._slices.get(self._starts[place]) if place >= 0 else None
        input_cost = kept = 0
        if slice_ is not None:
            slice_[0] -= count
            _, input_cost, kept = slice_
            if slice_[0] <= 0:
                del self._slices[self._starts.pop(place)]
        size = RUN_COST + sum(_size(failure) for failure in failures)
        if items is not None:
            size += items.nbytes + (count * ENTRY_COST if items.form == "each" else 0)
        cost = size // max(1, count) + kept + (MEASURED_COST if self._detail else 0)
        self._settled_bytes += count * input_cost
        self._arrived_bytes += count * cost
        self._arrived += count
        if count:
            self._result_each = max(cost, self._result_each + 0.1 * (cost - self._result_each))
        return cost

    # --- the consumer's thread ---

    def on_consumed(self, count: int, cost: int) -> None:
        """Take in that items have been consumed of which each has cost so much."""
        self.handed += count
        self._handed_bytes += count * cost


def _size(failure: Failure) -> int:
    return FAILURE_COST + len(failure.message) + len(failure.traceback) + len(failure.pickled)
