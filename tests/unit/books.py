"""A ventilator among fakes: a checker of all its books, and workers whose every message goes through the real codec.

`Rig` plays the head: it feeds events to the ventilator and sends what `dispatch` returns. After each event it compares
what the owners were told with what it expected (`_settle`: nothing missing, nothing more), and checks all books.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec

from ztasks.core.lane import MAX_BYTES, Lane, LaneState, Send
from ztasks.core.options import Options
from ztasks.core.room import Room
from ztasks.core.slices import RunTime, Slice, State, TaskBooks
from ztasks.core.taking import SPLIT_SECONDS
from ztasks.core.timeouts import Action, judge
from ztasks.core.ventilator import Ventilator
from ztasks.errors import JobCancelled, JobTimeout, TooLarge
from ztasks.io.deliver import Segment, cancel, deliver, fail
from ztasks.io.lanes import LaneSocket
from ztasks.wire import failures
from ztasks.wire.callables import ship
from ztasks.wire.certificate import DeathCertificate
from ztasks.wire.loss import Loss
from ztasks.wire.messages import (
    MAX_ITEMS,
    Batch,
    Failure,
    Results,
    check_items,
    decode_from_worker,
    decode_to_worker,
    encode,
    inline,
)
from ztasks.wire.payload import Items, Pickled, dump, dump_call, load, pack, pack_primitives
from ztasks.wire.verdict import Retry

Item = tuple[int, int]
"""Names a job: its map's number (0: submitted) and its index or number."""


KILLED = DeathCertificate(pid=1, signal="SIGKILL")


def tell(number: int, index: int, *ballast: object) -> Item:
    """The task of submitted jobs and of maps of shape `star`."""
    return number, index


def triple(index: int) -> int:
    """The task of maps of shape `one`, whose items share a list pickle."""
    return 3 * index


class Gate:
    """A lock that notices when it is released without having been acquired."""

    def __init__(self) -> None:
        self.held = False

    def acquire(self, blocking: bool = True, /) -> bool:
        if self.held:
            assert not blocking, "this would block for ever"
            return False
        self.held = True
        return True

    def release(self) -> None:
        assert self.held, "a gate was released that nobody held"
        self.held = False


@dataclass
class Record:
    """What must be true of one job, told from the outside."""

    task: TaskBooks
    owner: Any
    gate: Gate | None
    failures: int = 0
    """How often it failed and was to be tried again."""
    crashes: int = 0
    """How often it was running when its worker died, and was to be tried again."""
    starts: int = 0
    lost: int = 0
    """Starts whose outcome died with the worker."""
    late: int = 0
    """Of those, how many were for the job's lateness: failures, too."""
    due: float | None = None
    """When its next attempt is due, if it waits for that."""
    stopping: bool = False
    """Whether it was asked to be stopped while a lane held it."""
    told_at: float | None = None
    """When the job was first told to stop."""
    heeded: int = 0
    """How often an attempt was reported as failed that was not wanted any more."""
    end: str | None = None


# --- owners ---


class JobOwner:
    """Stands for a future: notes how its job ended."""

    def __init__(self, item: Item, gate: Gate, ended: list[tuple[Item, str]]) -> None:
        self.item = item
        self.gate = gate
        self.ended = ended

    def succeed(self, data: bytes, buffers: list[Any]) -> None:
        assert load(data, buffers) == self.item, "it got another job's result"
        self.ended.append((self.item, "done"))
        self.gate.release()

    def fail(self, failure: Failure | BaseException) -> None:
        self.ended.append((self.item, how_it_failed(failure, self.item)))
        self.gate.release()

    def cancelled_by_head(self) -> None:
        self.ended.append((self.item, "cancelled"))


class MapOwner:
    """Stands for a map: notes how each of its items ended."""

    def __init__(self, number: int, shape: str, ended: list[tuple[Item, str]]) -> None:
        self.number = number
        self.shape = shape
        self.ended = ended

    def arrive(self, segment: Segment) -> None:
        values = list(segment.items.values()) if segment.items is not None else None
        for place in range(segment.count):
            item = self.number, segment.first + place
            if place in segment.missing:
                continue
            if place in segment.failures:
                self.ended.append((item, how_it_failed(segment.failures[place], item)))
                continue
            assert values is not None, "an item without failure came without a result"
            assert values[place] == (item if self.shape == "star" else triple(item[1])), "another item's result"
            self.ended.append((item, "done"))

    def abandon(self, first: int, count: int, error: BaseException | None) -> None:
        end = "cancelled" if error is None else how_it_failed(error, (self.number, first))
        self.ended += [((self.number, index), end) for index in range(first, first + count)]


def how_it_failed(failure: Failure | BaseException, item: Item) -> str:
    if isinstance(failure, TooLarge):
        return "unsendable"
    assert isinstance(failure, Failure)
    if isinstance(failure, Loss):
        return failure.what
    assert failure.message == str(item), "it got another job's failure"
    return "failed"


# --- the worker ---


class Given(NamedTuple):
    """One item, as the worker got it."""

    position: int
    item: Item
    attempt: int
    call: Callable[[], Any]
    batch: Batch


class FakeWorker:
    """A worker and its claim cell. It is the socket of its lane, too: what is sent down is decoded at once."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.cut = 0
        self.claimed = 0
        self.cursor: int | None = None
        self.waiting: deque[Given] = deque()
        """Received and not claimed; what was recalled is dropped when it comes up, as it is of an older cut."""
        self.to_run: deque[Given] = deque()
        """Claimed and not begun."""
        self.running: Given | None = None
        self.started = 0.0
        """When that was begun."""
        self.unsent: list[tuple[Given, object]] = []
        """Run and not reported: a value, or a Failure."""
        self.lane = LaneSocket(self)  # type: ignore[arg-type]
        self._functions: dict[bytes, Any] = {}
        self._expected = 0

    def send(self, *frames: Any) -> bool:
        """Take in a message as the worker does, and insist that it is well-formed."""
        header, *rest = [bytearray(frame) for frame in frames]
        batch = decode_to_worker(bytes(header))
        assert isinstance(batch, Batch)
        assert (batch.cut, batch.position) == (self.cut, self._expected), "not what comes next on this lane"
        self._expected += batch.count
        for key in batch.forget:
            del self._functions[key]
        if batch.ships:
            assert batch.key not in self._functions, "the callable was there already"
            self._functions[batch.key] = load(bytes(rest.pop(0)))
        data = bytes(rest.pop(0)) if batch.payload is None else batch.payload
        assert len(rest) == sum(batch.buffers or ())
        check_items(batch, len(data))
        items = Items(batch.form, batch.count, data, batch.sizes, batch.buffers, rest, batch.skip)
        values = list(items.values())
        assert len(values) == batch.count
        self.waiting += [self._given(batch, offset, value) for offset, value in enumerate(values)]
        return True

    def _given(self, batch: Batch, offset: int, value: Any) -> Given:
        function = self._functions[batch.key]
        args = value[0] if batch.shape == "call" else value if batch.shape == "star" else (value,)
        index = batch.indices + offset if isinstance(batch.indices, int) else batch.indices[offset]
        attempt = batch.attempts if isinstance(batch.attempts, int) else batch.attempts[offset]
        item = batch.map_number, index
        assert (args[:2] if batch.shape != "one" else (batch.map_number, *args)) == item, "another item's arguments"
        return Given(batch.position + offset, item, attempt, lambda: function(*args), batch)

    def unclaimed(self) -> list[Given]:
        """What a recall would take back."""
        return [given for given in self.waiting if given.batch.cut == self.cut]

    def holds(self) -> list[Given]:
        """All that it has been given and has not reported."""
        running = [self.running] if self.running else []
        return [given for given, _ in self.unsent] + running + [*self.to_run] + self.unclaimed()

    def is_busy(self) -> bool:
        """Whether it has begun something that it has not reported, or is about to."""
        return bool(self.running or self.to_run or self.unsent)

    def recalled(self) -> int:
        """The cell, when its parent recalls: return what has been claimed."""
        self.cut += 1
        self._expected = self.claimed
        return self.claimed

    def claim(self, count: int) -> None:
        """Claim up to so many items of the next batch."""
        assert not self.to_run
        assert not self.running
        while self.waiting and self.waiting[0].batch.cut != self.cut:
            self.waiting.popleft()
        while self.waiting and len(self.to_run) < count:
            if self.to_run and self.waiting[0].batch is not self.to_run[0].batch:
                break
            self.to_run.append(self.waiting.popleft())
            self.claimed = self.to_run[-1].position + 1

    def begin(self, now: float) -> Given:
        """Begin the next claimed item."""
        assert self.running is None
        given = self.running = self.to_run.popleft()
        self.cursor, self.started = given.position, now
        return given

    def end(self, outcome: object) -> None:
        """The running item ends."""
        assert self.running is not None
        self.unsent.append((self.running, outcome))
        self.running = None

    def take_report(self, count: int, seconds: float, idle: float) -> tuple[list[bytes], list[tuple[Given, object]]]:
        """Make the message that reports the first so many outcomes."""
        sent, self.unsent = self.unsent[:count], self.unsent[count:]
        first, batch = sent[0][0], sent[0][0].batch
        values = [None if isinstance(outcome, Failure) else outcome for _, outcome in sent]
        items = (pack_primitives(values) if batch.map_number else None) or pack([dump(value) for value in values])
        failed = [
            msgspec.structs.replace(outcome, offset=offset)
            for offset, (_, outcome) in enumerate(sent)
            if isinstance(outcome, Failure)
        ]
        measured = [seconds] * len(sent) if batch.detail else None
        header = Results(
            self.number, first.position, len(sent), items.form, items.sizes, items.buffer_counts, failed,
            seconds * len(sent), idle, measured, measured, 0, payload := inline(items.data),
        )  # fmt: skip
        return [encode(header), *([items.data] if payload is None else []), *map(bytes, items.buffers)], sent


# --- the rig ---


@dataclass
class Rig:
    """The head's part: events in, sends out, and after each event everything is checked."""

    tasks: list[TaskBooks] = field(default_factory=list)
    workers: dict[int, FakeWorker] = field(default_factory=dict)
    records: dict[Item, Record] = field(default_factory=dict)
    jobs: list[Slice] = field(default_factory=list)
    cancelling: list[Slice] = field(default_factory=list)
    """Their owners have acquired the gate and told nobody yet."""
    ended: list[tuple[Item, str]] = field(default_factory=list)
    """What the owners were told, and nobody has asserted yet."""
    budgets: dict[int, int | None] = field(default_factory=dict)
    room: Room = Room(1000)  # noqa: RUF009 - immutable
    now: float = 0.0
    failed: bool = False
    """Whether a check has failed: what comes after that says nothing new."""

    def __post_init__(self) -> None:
        self.ventilator = Ventilator(lambda: 0.5, self.room)
        self._lanes = 0

    # --- tasks and work ---

    def task(self, shape: str = "call", *, map_number: int = 0, detail: bool = False, **options: Any) -> TaskBooks:
        function = triple if shape == "one" else tell
        run_time = self.tasks[0].run_time if self.tasks and not detail else RunTime()
        task = TaskBooks(
            ship(function), Options(**options), shape,  # type: ignore[arg-type]
            map_number=map_number, detail=detail, run_time=run_time,
        )  # fmt: skip
        self.tasks.append(task)
        return task

    def submit(self, task: TaskBooks, count: int = 1, ballast: int = 0) -> list[Slice]:
        """Submit jobs; each carries `ballast` bytes out of band."""
        slices = []
        for _ in range(count):
            item = 0, len(self.records)
            filler = (pickle.PickleBuffer(bytearray(ballast)),) if ballast else ()
            gate = Gate()
            owner = JobOwner(item, gate, self.ended)
            slices.append(Slice(task, owner, item[1], 1, dump_call((*item, *filler), {}), gate))
            self.records[item] = Record(task, owner, gate)
        self.jobs += slices
        self.ventilator.on_submit(slices)
        self._settle()
        return slices

    def submit_slice(self, task: TaskBooks, count: int) -> Slice:
        """Submit the next so many items of a map, in the form that its shape allows."""
        number = task.map_number
        taken = [item for item, record in self.records.items() if record.task is task]
        first = len(taken)
        owner = self.records[taken[0]].owner if taken else MapOwner(number, task.shape, self.ended)
        indices = range(first, first + count)
        if task.shape == "one":
            items = pack_primitives(list(indices))
        else:
            items = pack([dump((number, index)) for index in indices])
        assert items is not None
        for index in indices:
            self.records[number, index] = Record(task, owner, None)
        slice_ = Slice(task, owner, first, count, items)
        self.ventilator.on_submit([slice_])
        self._settle()
        return slice_

    # --- workers ---

    def start(self, budget: int | None = None, *, ready: bool = True) -> FakeWorker:
        number, self._lanes = self._lanes, self._lanes + 1
        worker = self.workers[number] = FakeWorker(number)
        self.budgets[number] = budget
        self.ventilator.on_starting(number, budget)
        if ready:
            self.ventilator.on_ready(number)
        self._settle()
        return worker

    def ready(self, worker: FakeWorker) -> None:
        self.ventilator.on_ready(worker.number)
        self._settle()

    def leave(self, worker: FakeWorker) -> None:
        self.ventilator.on_leaving(worker.number)
        self._settle()

    def books(self, worker: FakeWorker) -> Lane:
        return self.ventilator.lanes[worker.number]

    def dispatch(self, unsendable: int | None = None) -> list[Send]:
        """Send what shall be sent; there is no memory for the `unsendable`th of the batches."""
        self.failed = True
        sends = self.ventilator.dispatch(self.now)
        if sends:
            check_room(self)
        check_line(self)
        given_up: list[tuple[Item, str]] = []
        left_out: Lane | None = None
        for place, send in enumerate(sends):
            if send.lane is left_out:
                continue
            check_send(send)
            if place == unsendable:
                left_out = send.lane
                given_up = self._give_up([other for other in sends[place:] if other.lane is left_out])
            else:
                assert self.workers[send.lane.number].lane.send_batch(send)
        for lane in {send.lane.number: send.lane for send in sends}.values():
            if lane.budget == 0:
                self.ventilator.on_leaving(lane.number)
        self._settle(given_up)
        return sends

    def _give_up(self, sends: list[Send]) -> list[tuple[Item, str]]:
        """The first of these could not be sent, so the others are not: return how its jobs end."""
        items = [
            (slice_.task.map_number, index)
            for slice_ in sends[0].batch.slices
            for index in range(slice_.first, slice_.first + slice_.count)
        ]
        fail(self.ventilator.on_unsendable(sends), TooLarge("there was not enough memory"))
        return [(item, "unsendable") for item in items]

    def claim(self, worker: FakeWorker, count: int) -> None:
        """The worker claims; what it has run of an earlier batch it has reported before."""
        if worker.unsent:
            self.report(worker)
        worker.claim(count)

    def begin(self, worker: FakeWorker) -> None:
        """The worker begins the next claimed item, and does not end it."""
        given = worker.begin(self.now)
        record = self.records[given.item]
        record.starts += 1
        assert given.attempt == record.failures + record.crashes + 1
        assert record.end is None, "it was run after it had ended"
        assert record.starts == 1 or not record.task.options.at_most_once, "it was run a second time"
        assert worker.unsent == [] or not record.task.options.at_most_once, "it is not alone on its lane"

    def run(self, worker: FakeWorker, fates: Iterable[str | BaseException]) -> None:
        """The worker ends what it runs, and runs claimed items. Fates: what is raised, with the item as its message, or

        `ok`; `retry` (fails; may be tried again unless the task's options say otherwise); `fatal` (fails for good);
        `after` (asks to be run again in 7 s); `heed` (stops if it was told to).
        """
        for fate in fates:
            if not worker.running:
                if not worker.to_run:
                    return
                self.begin(worker)
            given = worker.running
            assert given is not None
            worker.end(self._outcome(given, fate))

    def _outcome(self, given: Given, fate: str | BaseException) -> object:
        record, message = self.records[given.item], str(given.item)
        verdict = record.task.options.verdict
        if isinstance(fate, BaseException):
            return failures.raised(0, fate, verdict)
        if fate == "fatal":
            return Failure(0, "result", "Failed", message, "", b"", retry=False)
        if fate == "retry":
            return failures.raised(0, OSError(message), verdict)
        if fate == "after":
            return failures.raised(0, Retry(7.0, message), verdict)
        if fate == "heed" and record.stopping:
            return failures.raised(0, JobCancelled(message), verdict)
        return given.call()

    def report(self, worker: FakeWorker, count: int = MAX_ITEMS, *, seconds: float = 0.001, idle: float = 0.0) -> None:
        """The worker's report of its first so many outcomes arrives."""
        frames, sent = worker.take_report(count, seconds, idle)
        results = decode_from_worker(frames.pop(0))
        assert isinstance(results, Results)
        data = frames.pop(0) if results.payload is None else results.payload
        check_items(results, len(data))
        items = Items(results.form, results.count, data, results.sizes, results.buffers, frames)
        finished = self.ventilator.on_results(results, self.now)
        assert finished is not None
        deliver(finished, results, items, pid=worker.number)
        self._settle(end for given, outcome in sent if (end := self._end_of(given, outcome)) is not None)

    def _end_of(self, given: Given, outcome: object) -> tuple[Item, str] | None:
        if not isinstance(outcome, Failure):
            return given.item, "done"
        record = self.records[given.item]
        if record.stopping:
            record.heeded += 1
            return given.item, "cancelled"
        if outcome.retry and record.failures < record.task.options.retries:
            self._pause(record, outcome.after)
            return None
        return given.item, "failed"

    def _pause(self, record: Record, after: float | None) -> None:
        """A job has failed, and waits for its next attempt."""
        record.failures += 1
        options = record.task.options
        pause = min(options.backoff * 2 ** (record.failures - 1), options.max_backoff)  # there is no jitter here
        record.due = self.now + (pause if after is None else after)

    def work(self, worker: FakeWorker, fate: str = "ok", count: int = MAX_ITEMS, **measured: float) -> None:
        """The worker claims, runs and reports up to so many items of its next batch, all with one fate."""
        self.claim(worker, count)
        self.run(worker, [fate] * len(worker.to_run))
        if worker.unsent:
            self.report(worker, **measured)

    def die(self, worker: FakeWorker, *, running: bool = False, late: bool = False) -> None:
        """The worker dies: `running` the next item it has claimed, or between two items; `late`: killed for its job."""
        if running and not worker.running and worker.to_run:
            self.begin(worker)
        held = worker.holds()
        begun = {given.position: given.item for given, _ in worker.unsent}
        if worker.running:
            begun[worker.running.position] = worker.running.item
        for item in begun.values():
            self.records[item].lost += 1
        expected = self._unwanted(held)
        culprit = begun.get(-1 if worker.cursor is None else worker.cursor)
        if culprit is not None and not self.records[culprit].stopping:
            end = self._charge(self.records[culprit], late=late)
            expected += [(culprit, end)] if end else []
        del self.workers[worker.number]
        for finished in self.ventilator.on_lost(worker.number, worker.cursor, KILLED, self.now, late=late):
            deliver(finished, None, None, pid=worker.number)
        self._settle(expected)

    def _charge(self, record: Record, *, late: bool) -> str | None:
        """The worker of a job has died while running it: return how it ends, or None."""
        options = record.task.options
        if late:
            wanted = options.retry_on is None or JobTimeout in options.retry_on
            if record.failures < options.retries and wanted and JobTimeout not in options.no_retry_on:
                self._pause(record, None)
                record.late += 1
                return None
            return "timeout"
        if options.at_most_once:
            return "lost"
        if record.crashes < options.crashes_allowed:
            record.crashes += 1
            return None
        return "poison"

    def _unwanted(self, given: Iterable[Given]) -> list[tuple[Item, str]]:
        """How those of some jobs end that come back to the head and are not wanted any more."""
        return [(each.item, "cancelled") for each in given if self.records[each.item].stopping]

    def recall(self, worker: FakeWorker) -> int:
        """Take back what the worker has not claimed."""
        back = worker.unclaimed()
        claimed = worker.recalled()
        taken = self.ventilator.on_recalled(self.books(worker), claimed, self.now)
        assert taken == len(back)
        assert self.books(worker).cut == worker.cut
        self._settle(self._unwanted(back))
        return taken

    # --- stopping and timing ---

    def stop(self, job: Slice, *, busy: bool = False) -> None:
        """The head is asked to stop a job wherever it is. `busy`: its worker is claiming, so there is no recall."""
        item, record = (0, job.first), self.records[0, job.first]
        assert job.gate is not None
        if job.gate.acquire(False):
            if self.ventilator.on_cancel(job):
                cancel([job])
                self._settle([(item, "cancelled")])
                return
            assert record.end, "its gate was free, and it could not be cancelled"
            job.gate.release()
            return
        lane = self.ventilator.on_stop(job)
        assert (lane is None) == (job in self.cancelling or record.end is not None)
        if lane is None:
            return
        record.stopping = True
        self._settle()
        if not busy:
            self.recall(self.workers[lane.number])

    def keep_time(self) -> list[int]:
        """Stop and kill what shall be, as the timekeeper does; return the numbers of the lanes whose workers died."""
        killed = []
        for lane in list(self.ventilator.timed.values()):
            worker = self.workers[lane.number]
            cursor = -1 if worker.cursor is None else worker.cursor
            action, again = judge(lane, cursor, worker.started if worker.running else None, self.now)
            self._check_sentence(worker, action)
            if again is None:
                del self.ventilator.timed[lane.number]
            if action is Action.KILL:
                killed.append(lane.number)
                self.die(worker, late=cursor not in lane.stopping)
        self._settle()
        return killed

    def _check_sentence(self, worker: FakeWorker, action: Action) -> None:
        """That job is stopped which shall be, and no other; its worker is killed once its grace is over."""
        current = [given.item for given in worker.holds() if given.position == worker.cursor]
        record = self.records[current[0]] if current else None
        if record is None or not (record.stopping or worker.running):
            assert action is Action.NOTHING, "nothing is running"
            return
        options, elapsed = record.task.options, self.now - worker.started
        if record.stopping:
            if record.told_at is None:
                record.told_at = self.now
            killed = self.now >= record.told_at + options.grace
            assert action is (Action.KILL if killed else Action.STOP)
        elif options.timeout is None or elapsed < options.timeout:
            assert action is Action.NOTHING
        else:
            assert action is (Action.KILL if elapsed >= options.timeout + options.grace else Action.STOP)

    # --- cancelling ---

    def begin_cancel(self, job: Slice) -> bool:
        """A future's `cancel`, in its caller's thread: it has the job if it gets the gate."""
        assert job.gate is not None
        acquired = job.gate.acquire(False)
        if acquired:
            self.cancelling.append(job)
        return acquired

    def end_cancel(self, job: Slice) -> None:
        """The news of it reaches the head."""
        self.cancelling.remove(job)
        assert self.ventilator.on_cancel(job), "it could not be cancelled although its gate was free"
        job.owner.cancelled_by_head()
        self._settle([((0, job.first), "cancelled")])

    def cancel_waiting(self, owner: object = None) -> None:
        """Cancel all that waits, or all of one owner that waits."""
        on_the_way = {(0, job.first) for job in self.cancelling}
        waiting = [
            (item, "cancelled")
            for item, place in self.places().items()
            if place in ("queued", "delayed") and owner in (None, self.records[item].owner) and item not in on_the_way
        ]
        wanted = None if owner is None else lambda slice_: slice_.owner is owner
        cancel(self.ventilator.cancel_waiting(wanted))
        self._settle(waiting)

    # --- checks ---

    def _settle(self, expected: Iterable[tuple[Item, str]] = ()) -> None:
        """The owners have been told exactly what was expected; then all books are right."""
        self.failed = True
        stopped, self.ventilator.stopped = self.ventilator.stopped, []
        cancel(stopped)
        expected = sorted(expected)
        assert sorted(self.ended) == expected
        for item, end in expected:
            assert self.records[item].end is None, f"{item} ended twice"
            self.records[item].end = end
        self.ended.clear()
        check_books(self)
        self.failed = False

    def places(self) -> dict[Item, str]:
        """Where the books have each item that has not ended; fails if one is in two places."""
        found: dict[Item, str] = {}

        def enter(slices: Iterable[Slice], place: str) -> None:
            for slice_ in slices:
                for index in range(slice_.first, slice_.first + slice_.count):
                    item = slice_.task.map_number, index
                    assert item not in found, f"{item} is in two places: {found[item]}, {place}"
                    found[item] = place

        ventilator = self.ventilator
        for task in self.tasks:
            enter((slice_ for slice_ in task.queue if slice_.state is State.QUEUED), "queued")
        enter((job for _, _, job in ventilator._delayed if job.state is State.DELAYED), "delayed")
        for lane in ventilator.lanes.values():
            for batch in lane.batches:
                enter(batch.rest(max(0, lane.received - batch.position)), f"lane {lane.number}")
        for job in self.cancelling:
            found.setdefault((0, job.first), "being cancelled")  # the ventilator may have passed it over already
        return found

    def finish(self) -> None:
        """Drive everything to its end: all that waits is run, by new workers where there are none."""
        for job in list(self.cancelling):
            self.end_cancel(job)
        idle = 0
        while self.ventilator.pending:
            before = self.ventilator.pending
            self.now += 100.0
            states = {lane.state for lane in self.ventilator.lanes.values()}
            if not states & {LaneState.READY}:
                self.start()
            self.dispatch()
            for worker in list(self.workers.values()):
                self._finish_worker(worker)
            idle = 0 if self.ventilator.pending < before else idle + 1
            assert idle < 10, "it never comes to an end"
        assert all(record.end for record in self.records.values())
        for worker in list(self.workers.values()):
            assert not self.books(worker).outstanding
            self.die(worker)

    def _finish_worker(self, worker: FakeWorker) -> None:
        self.run(worker, ["ok"] * (len(worker.to_run) + bool(worker.running)))
        while self.books(worker).outstanding:
            before = self.books(worker).outstanding
            self.work(worker)
            assert self.books(worker).outstanding < before, f"worker {worker.number} holds items it does not know of"
        if self.books(worker).state is LaneState.LEAVING:
            self.die(worker)


def check_send(send: Send) -> None:
    """A batch is within its lane's credit, in items and in bytes."""
    lane, batch = send.lane, send.batch
    assert 0 < batch.count <= MAX_ITEMS
    before = [other for other in lane.batches if other.position < batch.position]
    earlier = SimpleNamespace(batches=before, received=lane.received, target=lane.target)
    left = lane.target - Lane.expected(earlier)  # type: ignore[arg-type]
    seconds = batch.task.run_time.seconds
    alone = batch.task.options.at_most_once
    credit = 1 if seconds is None or alone else max(1, int(left / seconds))
    whole = isinstance(batch.slices[0].payload, Items)
    if whole and lane.budget is None and seconds is not None and not alone:
        credit += int(SPLIT_SECONDS / seconds)  # what is not worth a message of its own
    assert batch.count <= credit
    held = sum(other.nbytes for other in before)
    assert len(batch.slices) == 1 or held + batch.nbytes <= MAX_BYTES
    assert not before or held < MAX_BYTES // 2


class Takes(NamedTuple):
    """What of the room a lane takes with all that it holds."""

    cpus: int
    memory: int


def takes(rig: Rig, tasks: Iterable[TaskBooks]) -> Takes:
    """A worker takes what the largest of its jobs does; nobody takes more cpus than there are."""
    options = [task.options for task in tasks]
    cpus = max((each.cpus for each in options), default=0)
    return Takes(min(cpus, rig.room.cpus), max((each.memory or 0 for each in options), default=0))


def fit(rig: Rig, taken: list[Takes]) -> bool:
    room = rig.room
    memory = sum(each.memory for each in taken)
    return sum(each.cpus for each in taken) <= room.cpus and (room.memory is None or memory <= room.memory)


def held_by(lane: Lane) -> list[TaskBooks]:
    return [batch.task for batch in lane.batches]


def check_room(rig: Rig) -> None:
    """Once there was a job that wants room, what has just been sent fits beside all else."""
    lanes = [lane for lane in rig.ventilator.lanes.values() if lane.batches]
    if any(record.task.singular for record in rig.records.values()):
        assert fit(rig, [takes(rig, held_by(lane)) for lane in lanes]), "more was sent than there is room"


def check_line(rig: Rig) -> None:
    """After a dispatch nothing waits that could be sent, and what waits for room is the first in the line."""
    ventilator = rig.ventilator
    if not ventilator._round or not ventilator._open:
        return
    first = ventilator._round[0]
    assert ventilator._blocked, "work was not sent that could have been"
    for lane in ventilator._open.values():
        alone = first.options.at_most_once or any(task.options.at_most_once for task in held_by(lane))
        others = [takes(rig, held_by(other)) for other in ventilator.lanes.values() if other is not lane]
        with_it = takes(rig, [first, *held_by(lane)])
        assert (lane.batches and alone) or not fit(rig, [with_it, *others]), f"it could have gone to lane {lane.number}"


def check_books(rig: Rig) -> None:
    """Check all books of the ventilator, against each other and against what is known from the outside."""
    ventilator = rig.ventilator
    ended = {item for item, record in rig.records.items() if record.end}
    assert set(rig.places()) == rig.records.keys() - ended, "an item is lost, or is still somewhere after its end"
    assert ventilator.pending == len(rig.records) - len(ended)
    check_tasks(rig)
    check_delayed(rig)
    for lane in ventilator.lanes.values():
        check_lane(rig, lane)
    ready = {number: lane for number, lane in ventilator.lanes.items() if lane.state is LaneState.READY}
    assert ventilator._ready == len(ready)
    assert ventilator._open.items() <= ready.items()
    assert ventilator.timed.items() <= ventilator.lanes.items()
    for number, lane in ready.items():
        assert lane.outstanding or lane.budget == 0 or number in ventilator._open, f"lane {number} would idle for ever"


def check_tasks(rig: Rig) -> None:
    round_ = list(rig.ventilator._round)
    assert len(round_) == len(set(map(id, round_)))
    for task in rig.tasks:
        assert task.queued == sum(slice_.count for slice_ in task.queue)
        assert task.waiting == (task in round_) == bool(task.queue)
        for slice_ in task.queue:
            assert slice_.state in (State.QUEUED, State.CANCELLED)
            check_history(rig, slice_)


def check_delayed(rig: Rig) -> None:
    for due, _, job in rig.ventilator._delayed:
        assert job.count == 1
        assert job.state in (State.DELAYED, State.CANCELLED)
        assert job.failures > 0
        record = rig.records[job.task.map_number, job.first]
        assert record.end == "cancelled" or due == record.due, "it does not wait as long as it should"
        check_history(rig, job)


def check_lane(rig: Rig, lane: Lane) -> None:
    batches = list(lane.batches)
    assert lane.state is not LaneState.LOST
    assert lane.outstanding == lane.dispatched - lane.received >= 0
    assert lane.nbytes == sum(batch.nbytes for batch in batches)
    position = batches[0].position if batches else lane.dispatched
    assert position <= lane.received or not batches
    assert not batches or lane.received < batches[0].end, "a batch is still there whose items have all come"
    for batch in batches:
        assert batch.position == position
        assert batch.count == sum(slice_.count for slice_ in batch.slices) > 0
        assert batch.nbytes >= sum(slice_.nbytes for slice_ in batch.slices)
        assert len(batch.slices) in (1, batch.count)
        position = batch.end
        assert batch.task.options.timeout is None or lane.number in rig.ventilator.timed
        assert not batch.task.options.at_most_once or lane.outstanding == 1, "it is not alone on its lane"
        for slice_ in batch.rest(max(0, lane.received - batch.position)):
            assert slice_.state is State.ASSIGNED
            check_history(rig, slice_)
    assert position == lane.dispatched
    check_stopping(rig, lane)
    budget = rig.budgets[lane.number]
    assert lane.budget == (None if budget is None else budget - lane.dispatched)
    assert lane.budget is None or lane.budget >= 0


def check_stopping(rig: Rig, lane: Lane) -> None:
    """The lane knows the positions of exactly those jobs that shall be stopped, and somebody looks at it."""
    unwanted = set()
    for batch in lane.batches:
        if not batch.task.map_number:
            for position, job in enumerate(batch.slices, batch.position):
                assert position < lane.received or job.stopping == rig.records[0, job.first].stopping
                if job.stopping and position >= lane.received:
                    unwanted.add(position)
    assert lane.stopping.keys() == unwanted, "another job would be stopped"
    assert not unwanted or lane.number in rig.ventilator.timed


def check_history(rig: Rig, slice_: Slice) -> None:
    """A slice that has not ended: each of its items has the slice's history, and the gate is as the state says."""
    for index in range(slice_.first, slice_.first + slice_.count):
        record = rig.records[slice_.task.map_number, index]
        assert (slice_.failures, slice_.crashes) == (record.failures, record.crashes), "another one was charged"
    assert slice_.attempt == slice_.failures + slice_.crashes + 1
    assert len(slice_.history) == slice_.failures + slice_.crashes
    if slice_.gate is not None:
        others = slice_ in rig.cancelling or slice_.state in (State.ASSIGNED, State.CANCELLED)
        assert slice_.gate.held == others  # type: ignore[attr-defined]


__all__ = ["FakeWorker", "Gate", "Pickled", "Rig", "check_books", "check_send", "tell", "triple"]
