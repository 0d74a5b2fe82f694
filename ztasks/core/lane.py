"""A lane's books: what its worker holds, and how much more it may be given.

The items given to a lane are numbered: positions 0, 1, 2, ... The worker runs and reports them in this order, so the
books are a queue of batches and two numbers, `dispatched` and `received`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from enum import Enum
from typing import Final, NamedTuple

from ztasks.core.slices import Slice, TaskBooks

TARGET: Final = 0.020
"""Seconds of expected work that a lane is kept supplied with: enough to hide a round trip many times over."""

MAX_TARGET: Final = 0.500
"""The target when workers idle nevertheless, because the user's own threads hold the interpreter."""

MAX_BYTES: Final = 16 * 1024 * 1024
"""The most payload bytes that a lane holds (a single item may be larger)."""

MAX_CALLABLES: Final = 256
"""How many callables a worker keeps; the one unused for longest goes first."""

RECALL_AFTER: Final = 0.010
"""Seconds without a sign of progress after which unstarted work is recalled from a lane, if another lane is idle."""

ARRIVING: Final = 200e6
"""Bytes a second that work is supposed to arrive with at least, so that it is not recalled on its way."""

MOST_DOUBLED: Final = 12
"""A lane's patience is doubled with each recall that no outcome has followed, so many times."""

IDLE_SHARE: Final = 0.05
"""The share of idle time above which the target doubles."""


class LaneState(Enum):
    """Where a lane is in its life."""

    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    LOST = "lost"


class Batch:
    """What one message gave to a lane: one slice of many items, or many slices of one item each."""

    __slots__ = ("count", "nbytes", "position", "slices", "task")

    def __init__(self, task: TaskBooks, slices: list[Slice], count: int, nbytes: int, position: int) -> None:
        self.task = task
        self.slices = slices
        self.count = count
        self.nbytes = nbytes
        self.position = position

    @property
    def end(self) -> int:
        """The position behind the last item."""
        return self.position + self.count

    def slice_at(self, offset: int) -> Slice:
        """Return the item at `offset` as a slice of one."""
        if len(self.slices) == self.count:
            return self.slices[offset]
        return self.slices[0].part(offset, offset + 1)

    def rest(self, start: int) -> list[Slice]:
        """Return the items from offset `start` on as slices."""
        if start >= self.count:
            return []
        if len(self.slices) == self.count:
            return self.slices[start:]
        return [self.slices[0].part(start, self.count)]

    def truncate(self, count: int) -> None:
        """Forget the items from offset `count` on: they have been recalled."""
        if len(self.slices) == self.count:
            del self.slices[count:]
        else:
            self.slices = [self.slices[0].part(0, count)]
        self.count = count


class Lane:
    """The books on one worker, from its start to its end. A worker's successor has a lane of its own."""

    __slots__ = (
        "batches",
        "budget",
        "callables",
        "cut",
        "dispatched",
        "moved",
        "nbytes",
        "number",
        "recalls",
        "received",
        "starved",
        "state",
        "stopping",
        "target",
    )

    def __init__(self, number: int, budget: int | None = None) -> None:
        self.number = number
        self.state = LaneState.STARTING
        self.batches: deque[Batch] = deque()
        self.dispatched = 0
        self.received = 0
        self.cut = 0
        """How often unclaimed work has been recalled; the worker drops batches of an older cut."""
        self.nbytes = 0
        self.target = TARGET
        self.budget = budget
        """How many more items this worker may be given (`max_tasks_per_child`); None: any number."""
        self.callables: OrderedDict[bytes, None] = OrderedDict()
        self.starved = True
        """Whether the queue was empty when this lane wanted more: then its idle time is nobody's fault."""
        self.stopping: dict[int, float | None] = {}
        """The positions of jobs that shall be stopped for their callers, and when they were first told."""
        self.moved = 0.0
        self.recalls = 0
        """How often work was taken back since an outcome came."""
        """When work was last given to it or outcomes last came from it."""

    @property
    def outstanding(self) -> int:
        """How many items it holds."""
        return self.dispatched - self.received

    def expected(self) -> float:
        """Return the seconds of work it is expected to hold; an item of unknown length counts as a full target."""
        total = 0.0
        for batch in self.batches:
            seconds = batch.task.run_time.seconds
            left = batch.end - max(batch.position, self.received)
            total += left * (self.target if seconds is None else seconds)
        return total

    def held(self) -> list[Slice]:
        """Return what was dispatched on it and has not been received, as slices."""
        rests = (batch.rest(max(self.received - batch.position, 0)) for batch in self.batches)
        return [slice_ for rest in rests for slice_ in rest]

    def patience(self) -> float:
        """Return after how many seconds without progress it is looked at: one job alone has mostly begun, large
        payloads are still under way, and what was taken back from lane after lane needs more time than others."""
        patience = RECALL_AFTER if self.outstanding > 1 else 10 * RECALL_AFTER
        return (patience + self.nbytes / ARRIVING) * (1 << min(self.recalls, MOST_DOUBLED))

    def on_moved(self, now: float) -> None:
        """Take in that outcomes have come from it."""
        self.moved = now
        self.recalls = 0

    def give_back(self, count: int) -> None:
        """Its last items have been taken back."""
        self.dispatched -= count
        self.recalls += 1
        if self.budget is not None:
            self.budget += count

    def batch_at(self, position: int) -> Batch | None:
        """Return the batch of the item at a position, unless its outcome has come."""
        if position < self.received:
            return None
        return next((batch for batch in self.batches if batch.position <= position < batch.end), None)

    def wants_more(self) -> bool:
        """Tell whether it may be given work now: less than half of the target is left, and there is room."""
        if self.state is not LaneState.READY or self.budget == 0:
            return False
        if not self.batches:
            return True
        return self.nbytes < MAX_BYTES // 2 and self.expected() < self.target / 2

    def credit(self, task: TaskBooks) -> int:
        """Return how many items of a task it may be given now, at least one."""
        seconds = task.run_time.seconds
        items = 1 if seconds is None else int((self.target - self.expected()) / seconds)
        if self.budget is not None:
            items = min(items, self.budget)
        return max(1, items)

    def room(self) -> int:
        """Return how many more payload bytes it may be given."""
        return MAX_BYTES - self.nbytes

    def add(self, batch: Batch, now: float) -> None:
        """Enter a batch that is being sent."""
        self.batches.append(batch)
        self.dispatched += batch.count
        self.nbytes += batch.nbytes
        self.moved = now
        if self.budget is not None:
            self.budget -= batch.count

    def take_back(self) -> Batch:
        """Take out the batch that was entered last: it has not been sent."""
        batch = self.batches.pop()
        self.dispatched -= batch.count
        self.nbytes -= batch.nbytes
        if self.budget is not None:
            self.budget += batch.count
        return batch

    def need(self, key: bytes) -> tuple[bool, tuple[bytes, ...]]:
        """Enter the use of a callable; tell whether it must be shipped, and which ones the worker shall forget."""
        if key in self.callables:
            self.callables.move_to_end(key)
            return False, ()
        self.callables[key] = None
        if len(self.callables) <= MAX_CALLABLES:
            return True, ()
        oldest, _ = self.callables.popitem(last=False)
        return True, (oldest,)

    def judge_idling(self, busy: float, idle: float) -> None:
        """Adapt the target to how long the worker waited for work although there was some."""
        if self.starved:
            self.starved = False
        elif idle > IDLE_SHARE * (busy + idle):
            self.target = min(2 * self.target, MAX_TARGET)
        elif self.target > TARGET:
            self.target = max(TARGET, 0.95 * self.target)


class Send(NamedTuple):
    """Send this batch down this lane; `ships`: with its callable; `forget`: the callables that the worker may drop."""

    lane: Lane
    batch: Batch
    ships: bool
    forget: tuple[bytes, ...]
