"""Work: what the head of a fleet moves about, and what it knows of the tasks it is of.

A work is consecutive items of one session that have one history: a submitted job, a slice of a map, or a part of one.
It is a slice in the sense of `slices.py`; since its parts end on several hosts and in any order, it is cut often, so
its payload is only cut when it is looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from ztasks.core.options import Options
from ztasks.core.routing import demand_of
from ztasks.core.slices import TRANSITIONS, RunTime, Slice, State, TaskBooks
from ztasks.errors import InvalidOption, JobTimeout, WireError
from ztasks.wire.callables import ShippedCallable
from ztasks.wire.certificate import DeathCertificate
from ztasks.wire.link import Define
from ztasks.wire.loss import Loss
from ztasks.wire.messages import Failure, Shape
from ztasks.wire.payload import Items, Pickled

if TYPE_CHECKING:
    from ztasks.core.host_lane import HostBatch

WORK_TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    **TRANSITIONS,
    # queued, besides: a result came from a lane that had been lost; it has expired
    State.QUEUED: TRANSITIONS[State.QUEUED] | {State.DONE, State.FAILED},
    # delayed, besides: a result came from a lane that had been lost; a foreman that is back runs it already
    State.DELAYED: TRANSITIONS[State.DELAYED] | {State.DONE, State.ASSIGNED},
}
"""What can become of work; `slices.py` says when, but for what is added here."""


class TaskSpec:
    """A task as the head knows it: its definition and callable as they came, and how long its jobs take."""

    __slots__ = (
        "callable",
        "define",
        "demand",
        "expires",
        "key",
        "name",
        "options",
        "priority",
        "route",
        "run_time",
        "takes",
        "task",
    )

    def __init__(self, define: Define, callable: bytes) -> None:
        """Raises WireError for a definition that cannot be."""
        self.define = define
        self.callable = callable
        self.key = define.key
        self.name = define.name
        self.options = _options(define)
        self.demand = demand_of(define)
        self.priority = define.priority
        self.expires = define.expires
        self.route = self.demand.route()
        """Where its jobs may go: tasks with equal ones stand in one line."""
        self.takes = self.demand.takes()
        """What is counted of each job; empty for most tasks."""
        self.run_time = RunTime()
        """Shared by all sessions."""
        shipped = ShippedCallable(define.key, callable, define.name, not define.by_value)
        self.task = TaskBooks(shipped, self.options, run_time=self.run_time)
        """The same for what works on slices; its queue is not used."""


def _options(define: Define) -> Options:
    """Return those options of a task that the head looks at; raises WireError."""
    try:
        return Options(
            name=define.name,
            retries=define.retries,
            no_retry_on=() if define.retries_timeouts else (JobTimeout,),
            backoff=define.backoff,
            max_backoff=define.max_backoff,
            jitter=define.jitter,
            timeout=define.timeout,
            grace=define.grace,
            crash_retries=define.crash_retries,
            at_most_once=define.at_most_once,
            cpus=define.cpus,
            memory=define.memory,
        )
    except InvalidOption as error:
        raise WireError(f"a task is defined with options that cannot be: {error}") from error


class Work(Slice):
    """`count` items of a session from number `first` on, with one history."""

    __slots__ = (
        "_source",
        "_start",
        "accepted_at",
        "batch",
        "begun",
        "detail",
        "index",
        "map_number",
        "session",
        "shape",
        "since",
        "size",
        "spec",
        "whole",
    )

    def __init__(
        self,
        session: int,
        first: int,
        count: int,
        spec: TaskSpec,
        payload: bytes | Pickled | Items,
        *,
        whole: bool = False,
        index: int = 0,
        map_number: int = 0,
        shape: Shape = "call",
        detail: bool = False,
        failures: int = 0,
        crashes: int = 0,
        history: tuple[str | DeathCertificate, ...] = (),
        accepted_at: float = 0.0,
    ) -> None:
        """`whole`: of a map, where `index` is its first item's; else one job. `accepted_at`: on the clock of `now`."""
        self.session = session
        self.first = first
        self.count = count
        self.spec = spec
        self.task = spec.task
        self.owner = self.gate = None
        self.whole = whole
        self.index = index
        self.map_number = map_number
        self.shape: Shape = shape
        self.detail = detail
        self.failures = failures
        self.crashes = crashes
        self.history = history
        self.accepted_at = accepted_at
        self.state = State.QUEUED
        self.stopping = False
        self.begun = bool(failures or crashes)
        """Whether it may have begun to run, in this attempt or an earlier one."""
        self.batch: HostBatch | None = None
        """The batch that it is part of, while it is assigned."""
        self.since = 0.0
        """While it is delayed: when it is due."""
        self._source = payload
        self._start = 0
        """Where its items begin in the payload that it was cut from."""
        self.size = len(payload) if type(payload) is bytes else payload.nbytes  # type: ignore[union-attr]
        """Its share of the bytes of that payload: those of all parts add up."""

    @property
    def payload(self) -> bytes | Pickled | Items:
        """A submitted job's pickle, or the items of a slice."""
        source = self._source
        if isinstance(source, Items) and source.count != self.count:
            self._source = source = source.part(self._start, self._start + self.count)
            self._start = 0
        return source

    @payload.setter
    def payload(self, payload: bytes | Pickled | Items) -> None:
        self._source, self._start = payload, 0

    @property
    def nbytes(self) -> int:
        """Its bytes, as its share of what it was cut from."""
        return self.size

    @property
    def end(self) -> int:
        """The number behind its last item."""
        return self.first + self.count

    @property
    def id(self) -> str:
        """The name of its first item, for people."""
        return f"{self.session:016x}-{self.first}"

    def move(self, state: State) -> None:
        """Change the state; a change that the table does not allow is a defect in ztasks."""
        if state not in WORK_TRANSITIONS[self.state]:
            raise AssertionError(f"work cannot go from {self.state.name} to {state.name}")
        self.state = state

    def part(self, start: int, stop: int) -> Work:
        """Return a new work, in the same state and batch, of items `start` to `stop`; this one stays as it is."""
        source: Any = self._source
        new = Work(
            self.session,
            self.first + start,
            stop - start,
            self.spec,
            source,
            whole=self.whole,
            index=self.index + start,
            map_number=self.map_number,
            shape=self.shape,
            detail=self.detail,
            failures=self.failures,
            crashes=self.crashes,
            history=self.history,
            accepted_at=self.accepted_at,
        )
        new._start = self._start + start
        new.size = self.size * stop // self.count - self.size * start // self.count
        new.state, new.batch, new.since = self.state, self.batch, self.since
        new.begun, new.stopping = self.begun, self.stopping
        return new

    def cut(self, at: int) -> Work:
        """Keep the first `at` items; return the others as a new work in the same state and batch."""
        rest = self.part(at, self.count)
        self.size -= rest.size
        self.count = at
        return rest


class Ended(NamedTuple):
    """Items that have ended."""

    work: Work
    """Exactly these."""
    state: Literal["done", "failed", "cancelled", "expired"]
    failure: Failure | Loss | None = None
    """How they failed if it is the head that says so; None: the foreman's outcome tells."""


class Settled(NamedTuple):
    """What a foreman's news meant."""

    ended: list[Ended]
    skip: list[int]
    """Offsets in the outcome that are not to be passed on, the withheld ones among them; ascending."""
    retried: list[Work]
    """Works that were charged with an attempt and will be run again."""
