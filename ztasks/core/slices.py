"""Slices: the unit that the ventilator moves about, and the states that a job can be in.

A slice is a run of consecutive items of one map that have the same history. A submitted job is a slice of one item.
When the items' histories part (one fails and is tried again, one took its worker down), the slice is split.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import Any, Final, Protocol

from ztasks.core.options import Options
from ztasks.wire.callables import ShippedCallable
from ztasks.wire.certificate import DeathCertificate
from ztasks.wire.messages import Failure, Shape
from ztasks.wire.payload import Items, Pickled


class State(IntEnum):
    """Where a slice is."""

    QUEUED = 0
    ASSIGNED = 1
    DELAYED = 2
    DONE = 3
    FAILED = 4
    CANCELLED = 5


TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    # queued: given to a lane, or cancelled (also when no worker can be had: then its owner is told why)
    State.QUEUED: frozenset({State.ASSIGNED, State.CANCELLED}),
    # assigned: outcomes came; recalled, or its lane lost; a failure that is retried later; stopped for its caller
    State.ASSIGNED: frozenset({State.DONE, State.FAILED, State.QUEUED, State.DELAYED, State.CANCELLED}),
    # delayed: the pause before the retry is over; cancelled during the pause
    State.DELAYED: frozenset({State.QUEUED, State.CANCELLED}),
    State.DONE: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}


class Gate(Protocol):
    """The one atomic decision between a caller's cancel and the dispatch: whoever acquires it first has the job."""

    def acquire(self, blocking: bool = True, /) -> bool: ...  # noqa: D102
    def release(self) -> None: ...  # noqa: D102


class RunTime:
    """How long an item of a task takes: a moving average of what workers report, shared by all books on that task."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds: float | None = None
        """None until the first report."""

    def learn(self, seconds: float, count: int) -> None:
        """Take in that `count` items took `seconds` in all."""
        each = max(seconds / count, 1e-8)
        self.seconds = each if self.seconds is None else self.seconds + 0.3 * (each - self.seconds)


class TaskBooks:
    """The ventilator's books on one task: what it is, how long its jobs take, and what of it is queued."""

    __slots__ = (
        "callable",
        "detail",
        "map_number",
        "options",
        "prefix",
        "queue",
        "queued",
        "run_time",
        "shape",
        "singular",
        "waiting",
    )

    def __init__(
        self,
        shipped: ShippedCallable,
        options: Options,
        shape: Shape = "call",
        *,
        map_number: int = 0,
        detail: bool = False,
        run_time: RunTime | None = None,
        prefix: str = "",
    ) -> None:
        self.callable = shipped
        self.options = options
        self.singular = options.singular
        self.shape: Shape = shape
        self.map_number = map_number
        """0 for submitted jobs; each map has books of its own under its number."""
        self.detail = detail
        self.run_time = run_time if run_time is not None else RunTime()
        self.prefix = prefix
        """On a foreman: the session, which the ids of its jobs begin with."""
        self.queue: deque[Slice] = deque()
        self.queued = 0
        """Items in the queue (cancelled ones may be among them until they come up)."""
        self.waiting = False
        """Whether the ventilator has this task in its round of tasks that have work."""


class Slice:
    """`count` items from index `first` on, with one history. Index: the item's in its map, or the job's number."""

    __slots__ = (
        "count",
        "crashes",
        "failures",
        "first",
        "gate",
        "history",
        "owner",
        "payload",
        "state",
        "stopping",
        "task",
    )

    def __init__(
        self,
        task: TaskBooks,
        owner: Any,
        first: int,
        count: int,
        payload: bytes | Pickled | Items,
        gate: Gate | None = None,
    ) -> None:
        self.task = task
        self.owner = owner
        self.first = first
        self.count = count
        self.payload = payload
        """A submitted job's pickle, or the items of a map's slice."""
        self.gate = gate
        self.state = State.QUEUED
        self.failures = 0
        self.crashes = 0
        self.stopping = False
        """Whether its caller wants it stopped, although it may be running."""
        self.history: tuple[str | DeathCertificate, ...] = ()
        """How each earlier attempt ended."""

    @property
    def attempt(self) -> int:
        """The number of the attempt that is running or will be next: starts that were charged, and one."""
        return self.failures + self.crashes + 1

    @property
    def nbytes(self) -> int:
        """Bytes that it takes to send it."""
        payload = self.payload
        return len(payload) if type(payload) is bytes else payload.nbytes  # type: ignore[union-attr]

    @property
    def id(self) -> str:
        """The name of its first job within the executor, as `current_job().id` has it."""
        if self.task.prefix:
            return f"{self.task.prefix}-{self.first}"
        return f"{self.task.map_number}.{self.first}" if self.task.map_number else str(self.first)

    def may_retry(self, failure: Failure) -> bool:
        """Tell whether another attempt follows this failure."""
        return failure.retry and self.failures < self.task.options.retries

    def move(self, state: State) -> None:
        """Change the state; a change that the table does not allow is a defect in ztasks."""
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"a slice cannot go from {self.state.name} to {state.name}")
        self.state = state

    def part(self, start: int, stop: int) -> Slice:
        """Return a new slice, in the same state, of items `start` to `stop`; the old one must not be used for them."""
        payload = self.payload.part(start, stop) if isinstance(self.payload, Items) else self.payload
        new = Slice(self.task, self.owner, self.first + start, stop - start, payload, self.gate)
        new.state = self.state
        new.failures, new.crashes, new.history = self.failures, self.crashes, self.history
        return new


class Finished:
    """What a Results message, or a loss, meant for one batch: which of its items are done, and how.

    Items `offset` to `offset + count` of the batch have ended, but for those `withheld`: they are tried again, or were
    stopped for their caller. `failures` gives the final failure of those that failed, by their offset in the batch; all
    others succeeded.
    """

    __slots__ = ("count", "failures", "offset", "slices", "withheld")

    def __init__(self, slices: list[Slice], offset: int, count: int) -> None:
        self.slices = slices
        """The batch's slices: one of many items, or many of one item each."""
        self.offset = offset
        self.count = count
        self.failures: dict[int, Failure] = {}
        self.withheld: set[int] = set()
