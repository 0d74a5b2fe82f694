"""A ventilator among fakes, and the checker of all its books.

`Rig` plays the head: it feeds events to the ventilator and sends what `dispatch` returns. After each event it compares
what the owners were told with what it expected (`_settle`: nothing missing, nothing more), and checks all books
(`invariants.py`). The workers and owners are in `fakes.py`.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fakes import FakeWorker, Gate, Given, Item, JobOwner, MapOwner, tell, triple
from invariants import check_books, check_line, check_room, check_send

from ztasks.core.lane import Lane, LaneState, Send
from ztasks.core.options import Options
from ztasks.core.room import Room
from ztasks.core.slices import RunTime, Slice, State, TaskBooks
from ztasks.core.timeouts import Action, judge
from ztasks.core.ventilator import Ventilator
from ztasks.errors import JobCancelled, JobTimeout, TooLarge
from ztasks.io.deliver import cancel, deliver, fail
from ztasks.wire import failures
from ztasks.wire.callables import ship
from ztasks.wire.certificate import DeathCertificate
from ztasks.wire.messages import MAX_ITEMS, Failure, Results, check_items, decode_from_worker
from ztasks.wire.payload import Items, dump, dump_call, pack, pack_primitives
from ztasks.wire.verdict import Retry

KILLED = DeathCertificate(pid=1, signal="SIGKILL")


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


__all__ = ["KILLED", "FakeWorker", "Gate", "Record", "Rig", "tell", "triple"]
