"""What a foreman holds for its head: the work that it has been given, and outcomes that are not acknowledged.

What it must hold: of every item that came in a Batch, the head hears what became of it, or that it comes back; what it
has been told and has not acknowledged is told again after a re-join. It is used in the foreman's own thread, but for
the owners of slices, which the thread of its crew calls: they only append to `reports`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, cast

from ztasks.core.options import Options
from ztasks.core.ranges import Ranges
from ztasks.core.slices import RunTime, Slice, TaskBooks
from ztasks.errors import InvalidOption, WireError
from ztasks.io.deliver import Segment
from ztasks.io.reports import Content, job_contents, segment_contents, untold
from ztasks.wire.callables import ShippedCallable
from ztasks.wire.link import Batch, Cancel, Define, Held, Holding, Range
from ztasks.wire.link_codec import items_in
from ztasks.wire.messages import Failure
from ztasks.wire.outcomes import items_of
from ztasks.wire.payload import Buffer, Items, Pickled

TASKS: Final = 1024
"""How many sessions' books on tasks are kept: those used last."""


class Gate:
    """The gate of a job that only one thread ever takes or cancels."""

    __slots__ = ("_taken",)

    def __init__(self) -> None:
        self._taken = False

    def acquire(self, blocking: bool = True, /) -> bool:
        """Take it, unless it is taken."""
        taken, self._taken = self._taken, True
        return not taken

    def release(self) -> None:
        """Give it back."""
        self._taken = False


class Relay:
    """The owner of a job, or of a slice, in the foreman's head: it reports what becomes of it."""

    __slots__ = ("attempt", "cancelled", "count", "first", "open", "report", "session", "slice", "task")

    def __init__(
        self, session: int, first: int, count: int, attempt: int, task: TaskBooks, report: Callable[[Report], None]
    ) -> None:
        self.session = session
        self.first = first
        self.count = count
        self.attempt = attempt
        self.task = task
        self.report = report
        self.slice: Slice | None = None
        self.open: list[Range] = [(first, count)]
        """Of what it has not been reported what became of it."""
        self.cancelled = False
        """Whether the head wants it cancelled; else what is cancelled comes back to it."""

    def succeed(self, data: bytes, buffers: list[Buffer]) -> None:
        """The crew's head: the job's result has come."""
        self.report(Report(self, data, buffers))

    def fail(self, error: Failure | BaseException) -> None:
        """The crew's head: the job has failed, or cannot be run here."""
        self.report(Report(self, None, error))

    def cancelled_by_head(self) -> None:
        """The crew's head: the job was cancelled."""
        self.report(Report(self, None, None))

    def arrive(self, segment: Segment) -> None:
        """The crew's head: some items of the slice have ended."""
        self.report(Report(self, None, segment))

    def abandon(self, first: int, count: int, error: BaseException | None) -> None:
        """The crew's head: items of the slice were cancelled, or cannot be run here."""
        self.report(
            Report(self, None, Segment(first, count, None, {}, frozenset(), 0, None, None, 0, None, error or _BACK))
        )


class Report(NamedTuple):
    """What became of a job: its result (data, buffers), a failure, or None if cancelled; of a slice: a segment."""

    relay: Relay
    data: bytes | None
    rest: Any


class _Back(Exception):
    """Stands for: cancelled."""


_BACK = _Back()


class Holdings:
    """The foreman's books."""

    def __init__(self, on_report: Callable[[], None]) -> None:
        """`on_report` is called after a report was added, in the thread of the crew's head."""
        self.reports: deque[Report] = deque()
        self.relays: dict[tuple[int, int], Relay] = {}
        """By session and first number; the latest, if the head has given one anew."""
        self.items = 0
        """How many items wait or run here."""
        self._older: set[Relay] = set()
        self._unacknowledged: deque[tuple[float, Content]] = deque()
        """What the head is told, and the chunk with which it is acknowledged; infinity if there is no link."""
        self._defined: dict[bytes, tuple[ShippedCallable, Options, RunTime]] = {}
        self._tasks: OrderedDict[tuple[bytes, int, str, bool, bool], TaskBooks] = OrderedDict()
        self._on_report = on_report
        self._untold: list[Holding] = []
        """Items of which the head is not told that they had begun, since this foreman is leaving: still its own."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing: no work, no report, and no outcome that is not acknowledged."""
        return not (self.relays or self._older or self.reports or self._unacknowledged)

    @property
    def gives_up(self) -> bool:
        """Whether something had begun here that the head is not told of: it was given up."""
        return bool(self._untold)

    # --- from the head ---

    def on_define(self, define: Define, callable_: bytes) -> None:
        """Learn a task; raises WireError."""
        try:
            options = Options(
                name=define.name,
                retries=define.retries,
                timeout=define.timeout,
                grace=define.grace,
                crash_retries=define.crash_retries if not define.at_most_once else None,
                at_most_once=define.at_most_once,
                cpus=define.cpus,
                memory=define.memory,
            )
        except InvalidOption as error:
            raise WireError(f"a task is defined with options that cannot be: {error}") from error
        shipped = ShippedCallable(define.key, callable_, define.name, not define.by_value)
        self._defined[define.key] = shipped, options, RunTime()

    def forget(self, keys: Iterable[bytes]) -> None:
        """Forget tasks: the head will define them again."""
        for key in keys:
            self._defined.pop(key, None)
        for task in [task for task in self._tasks if task[0] not in self._defined]:
            del self._tasks[task]

    def on_batch(self, batch: Batch, frames: Sequence[Any]) -> list[Slice]:
        """Take work in; return it for the crew's head. Raises WireError."""
        items = items_of(batch, frames)
        if items is None or batch.key not in self._defined or (batch.whole and not isinstance(batch.numbers, int)):
            raise WireError("a batch has no form, no numbers, or a task that was not defined")
        task = self._task(batch)
        if batch.whole:
            return [self._slice(batch, task, cast("int", batch.numbers), batch.count, items, 0)]
        slices = []
        for offset, pickled in enumerate(items.pickles()):
            number = batch.numbers + offset if isinstance(batch.numbers, int) else batch.numbers[offset]
            payload = pickled if pickled.buffers else pickled.data
            slices.append(self._slice(batch, task, number, 1, payload, offset))
        return slices

    def _slice(
        self, batch: Batch, task: TaskBooks, first: int, count: int, payload: bytes | Pickled | Items, offset: int
    ) -> Slice:
        failures = batch.failures if isinstance(batch.failures, int) else batch.failures[offset]
        crashes = batch.crashes if isinstance(batch.crashes, int) else batch.crashes[offset]
        relay = Relay(batch.session, first, count, failures + crashes + 1, task, self._report)
        slice_ = Slice(task, relay, first, count, payload, None if batch.whole else Gate())
        slice_.failures, slice_.crashes = failures, crashes
        relay.slice = slice_
        earlier = self.relays.get((batch.session, first))
        if earlier is not None:
            self._older.add(earlier)
        self.relays[batch.session, first] = relay
        self.items += count
        return slice_

    def _task(self, batch: Batch) -> TaskBooks:
        name = batch.key, batch.session, batch.shape, batch.detail, batch.whole
        task = self._tasks.get(name)
        if task is not None:
            self._tasks.move_to_end(name)
        else:
            shipped, options, run_time = self._defined[batch.key]
            task = self._tasks[name] = TaskBooks(
                shipped,
                options,
                batch.shape,
                map_number=int(batch.whole),
                detail=batch.detail,
                run_time=RunTime() if batch.detail else run_time,
                prefix=f"{batch.session:016x}",
            )
            if len(self._tasks) > TASKS:
                self._tasks.popitem(last=False)
        return task

    def on_cancel(self, cancel: Cancel) -> Callable[[Slice], bool] | None:
        """Take in that items are not wanted any more; return what tells those that are here, or None if there are none.

        Where only a part of a slice is meant, its items come back, and the head knows that they are not wanted.
        """
        items_in(cancel.ranges)
        wanted = Ranges(cancel.ranges)
        found: set[Relay] = set()
        for relay in [*self.relays.values(), *self._older]:
            if relay.session != cancel.session:
                continue
            left = sum(count for range_ in relay.open for _, count in wanted.without(*range_))
            if left < sum(count for _, count in relay.open):
                relay.cancelled = relay.cancelled or not left
                found.add(relay)
        if not found:
            return None
        return lambda slice_: slice_.owner in found and not wanted.without(slice_.first, slice_.count)

    # --- from the crew ---

    def _report(self, report: Report) -> None:
        """The crew's thread: note what became of something."""
        self.reports.append(report)
        if len(self.reports) <= 1:  # else whoever has added the first has woken the other thread
            self._on_report()

    def take_reports(self, *, leaving: bool) -> list[Content]:
        """Return what the head is to be told. `leaving`: this foreman hands back what it has."""
        jobs: list[Report] = []
        contents: list[Content] = []
        while self.reports:
            report = self.reports.popleft()
            relay = report.relay
            self._untold += untold(relay, report.rest, leaving=leaving)
            if isinstance(report.rest, Segment):
                contents += segment_contents(relay, report.rest, back=_Back, leaving=leaving)
                self._close(relay, report.rest)
            elif relay.open:
                jobs.append(report)
                self._close_range(relay, relay.first, 1)
        return contents + job_contents(jobs, leaving=leaving)

    def _close(self, relay: Relay, segment: Segment) -> None:
        """What became of items of a slice has been told, but of those that are missing."""
        at = segment.first
        for place in sorted(segment.missing):
            self._close_range(relay, at, segment.first + place - at)
            at = segment.first + place + 1
        self._close_range(relay, at, segment.first + segment.count - at)

    def _close_range(self, relay: Relay, first: int, count: int) -> None:
        if count <= 0:
            return
        before = sum(size for _, size in relay.open)
        relay.open = _without(relay.open, first, count)
        self.items -= before - sum(size for _, size in relay.open)
        if relay.open:
            return
        relay.slice = None  # else both would wait for the collection of garbage
        if self.relays.get((relay.session, relay.first)) is relay:
            del self.relays[relay.session, relay.first]
        else:
            self._older.discard(relay)

    # --- the link ---

    def told(self, upto: float, content: Content) -> None:
        """A content is on its way, and is acknowledged with chunk `upto`; infinity: it waits for a link."""
        self._unacknowledged.append((upto, content))

    @property
    def untold(self) -> int:
        """How many items the head has not acknowledged that it was told of."""
        return sum(holding.count for _, content in self._unacknowledged for holding in content.holdings)

    def on_acknowledged(self, upto: int) -> None:
        """The head has dealt with all up to this chunk."""
        while self._unacknowledged and self._unacknowledged[0][0] <= upto:
            self._unacknowledged.popleft()

    def take_unacknowledged(self) -> list[Content]:
        """Return what must be told again after a re-join."""
        contents = [content for _, content in self._unacknowledged]
        self._unacknowledged.clear()
        return contents

    def held(self, contents: list[Content]) -> Held:
        """Return what is here, `contents` of outcomes included."""
        holdings = [holding for content in contents for holding in content.holdings] + self._untold
        for relay in [*self.relays.values(), *self._older]:
            holdings += [Holding(relay.session, first, count, relay.attempt) for first, count in relay.open]
        latest: dict[tuple[int, int, int], Holding] = {}
        for holding in sorted(holdings, key=lambda each: each.attempt):
            latest[holding.session, holding.first, holding.count] = holding  # not what is told of an earlier attempt
        return Held(_merged(list(latest.values())), list(self._defined))


def _without(ranges: list[Range], first: int, count: int) -> list[Range]:
    """Return ranges without the items of another."""
    left = []
    for start, size in ranges:
        if start < first:
            left.append((start, min(size, first - start)))
        if start + size > first + count:
            begin = max(start, first + count)
            left.append((begin, start + size - begin))
    return left


def _merged(holdings: list[Holding]) -> list[Holding]:
    """Put consecutive holdings together."""
    merged: list[Holding] = []
    for holding in sorted(holdings, key=lambda each: (each.session, each.first)):
        last = merged[-1] if merged else None
        if last is not None and (last.session, last.first + last.count, last.attempt) == (
            holding.session,
            holding.first,
            holding.attempt,
        ):
            merged[-1] = Holding(last.session, last.first, last.count + holding.count, last.attempt)
        else:
            merged.append(holding)
    return merged
