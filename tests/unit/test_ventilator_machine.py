"""The ventilator, driven by Hypothesis through any order of events; `books` checks everything after each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from books import FakeWorker, Record, Rig
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ztasks.core.room import Room
from ztasks.core.slices import Slice, State
from ztasks.errors import JobTimeout

PICK = st.integers(0, 5)
"""Picks one of those that are there."""

BUDGET = st.sampled_from([None, None, None, 1, 2, 7])
COUNT = st.sampled_from([1, 2, 3, 5, 12, 40])
FATES = st.lists(st.sampled_from(["ok", "ok", "retry", "fatal", "after", "heed"]), min_size=1, max_size=8)
SECONDS = st.sampled_from([1e-6, 1e-4, 1e-3, 0.03, 5.0])


ROOMS = st.sampled_from([None, None, Room(1), Room(2, 10), Room(3, 6), Room(3)])
"""None: there are no jobs that need room; a ventilator goes other ways then."""


class VentilatorMachine(RuleBasedStateMachine):
    """Submit, work, fail, die, recall, cancel, stop, leave, close: in any order each job ends exactly once."""

    @initialize(known=st.sampled_from([None, 1e-6, 2e-3]), first=BUDGET, second=BUDGET, room=ROOMS)
    def open(self, known: float | None, first: int | None, second: int | None, room: Room | None) -> None:
        self.closed = False
        self.rig = rig = Rig(room=room or Room(1000))
        wants: dict[str, Any] = {"cpus": 2, "memory": 4} if room else {}
        once: dict[str, Any] = {"at_most_once": True} if room else {}
        self.jobs = [
            rig.task(),
            rig.task(retries=2, backoff=0.5, crash_retries=0, timeout=5.0, grace=1.0, no_retry_on=JobTimeout),
            rig.task(retries=1, retry_on=OSError, max_backoff=2.0, timeout=2.0, **wants),
            rig.task(timeout=5.0, grace=0.0, **once),
        ]
        self.maps = [
            rig.task("one", map_number=1, crash_retries=1),
            rig.task("star", map_number=2, retries=1, retry_on=LookupError, detail=True, **wants),
            rig.task("one", map_number=3, retries=3, backoff=0.0),
            rig.task("one", map_number=4, **once),
        ]
        for task in rig.tasks:
            task.run_time.seconds = known
        rig.start(first)
        rig.start(second)

    # --- the caller ---

    @precondition(lambda self: not self.closed)
    @rule(pick=st.integers(0, 3), count=st.integers(1, 9), ballast=st.sampled_from([0, 0, 0, 70_000]))
    def submit(self, pick: int, count: int, ballast: int) -> None:
        self.rig.submit(self.jobs[pick], count, ballast)

    @precondition(lambda self: not self.closed)
    @rule(pick=st.integers(0, 3), count=COUNT)
    def submit_slice(self, pick: int, count: int) -> None:
        self.rig.submit_slice(self.maps[pick], count)

    @precondition(lambda self: self.open_jobs())
    @rule(pick=PICK)
    def begin_cancel(self, pick: int) -> None:
        jobs = self.open_jobs()
        self.rig.begin_cancel(jobs[-1 - pick % len(jobs)])

    @precondition(lambda self: self.rig.cancelling)
    @rule(pick=PICK)
    def end_cancel(self, pick: int) -> None:
        self.rig.end_cancel(self.rig.cancelling[pick % len(self.rig.cancelling)])

    @precondition(lambda self: self.rig.jobs)
    @rule(pick=PICK, busy=st.booleans())
    def stop(self, pick: int, busy: bool) -> None:
        held = [job for job in self.rig.jobs if job.state is State.ASSIGNED]
        jobs = held or self.rig.jobs  # wherever they are, and also when they have ended
        self.rig.stop(jobs[-1 - pick % len(jobs)], busy=busy)

    @precondition(lambda self: self.rig.records)
    @rule(pick=PICK)
    def cancel_owner(self, pick: int) -> None:
        owners = [record.owner for record in self.rig.records.values() if not record.end]
        if owners:
            self.rig.cancel_waiting(owners[pick % len(owners)])

    @precondition(lambda self: len(self.rig.records) > 20)
    @rule(cancel=st.booleans())
    def close(self, cancel: bool) -> None:
        self.closed = True
        if cancel:
            self.rig.cancel_waiting()

    # --- the crew ---

    @precondition(lambda self: len(self.rig.workers) < 4)
    @rule(budget=BUDGET, ready=st.booleans())
    def start(self, budget: int | None, ready: bool) -> None:
        self.rig.start(budget, ready=ready)

    @rule(pick=PICK)
    def ready(self, pick: int) -> None:
        self.rig.ready(self.worker(pick))

    @precondition(lambda self: len(self.rig.workers) > 2)
    @rule(pick=PICK)
    def leave(self, pick: int) -> None:
        self.rig.leave(self.worker(pick))

    @rule(pick=PICK, running=st.booleans(), late=st.booleans(), budget=BUDGET)
    def die(self, pick: int, running: bool, late: bool, budget: int | None) -> None:
        worker = self.worker(pick, FakeWorker.is_busy) or self.worker(pick)
        self.rig.die(worker, running=running, late=late)
        self.rig.start(budget)

    # --- the head's thread ---

    @rule()
    def dispatch(self) -> None:
        self.rig.dispatch()

    @rule(unsendable=st.integers(0, 2))
    def dispatch_without_memory(self, unsendable: int) -> None:
        self.rig.dispatch(unsendable)

    @rule()
    def keep_time(self) -> None:
        for _ in self.rig.keep_time():
            self.rig.start()

    @rule(seconds=st.sampled_from([0.001, 0.6, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.rig.now += seconds

    @rule(pick=PICK)
    def recall(self, pick: int) -> None:
        self.rig.recall(self.worker(pick))

    @rule()
    def recall_as_the_head_does(self) -> None:
        for lane in self.rig.ventilator.recallable(self.rig.now):
            assert lane.outstanding
            self.rig.recall(self.rig.workers[lane.number])

    # --- the workers: each does what it can, a step at a time ---

    @rule(pick=PICK, count=COUNT)
    def claim(self, pick: int, count: int) -> None:
        worker = self.worker(pick)
        if not (worker.to_run or worker.running):
            self.rig.claim(worker, count)

    @precondition(lambda self: self.worker(0, lambda worker: worker.to_run and not worker.running))
    @rule(pick=PICK)
    def begin(self, pick: int) -> None:
        self.rig.begin(self.worker(pick, lambda worker: worker.to_run and not worker.running))

    @precondition(lambda self: self.worker(0, lambda worker: worker.to_run or worker.running))
    @rule(pick=PICK, fates=FATES)
    def run(self, pick: int, fates: list[str]) -> None:
        self.rig.run(self.worker(pick, lambda worker: worker.to_run or worker.running), fates)

    @precondition(lambda self: any(worker.unsent for worker in self.rig.workers.values()))
    @rule(pick=PICK, count=COUNT, seconds=SECONDS, idle=st.sampled_from([0.0, 1.0]))
    def report(self, pick: int, count: int, seconds: float, idle: float) -> None:
        self.rig.report(self.worker(pick, lambda worker: worker.unsent), count, seconds=seconds, idle=idle)

    @rule(
        pick=PICK, claim=COUNT, fates=FATES, count=st.integers(0, 5), seconds=SECONDS,
        then=st.sampled_from(["nothing", "recall", "begin", "die", "die running"]), late=st.booleans(),
    )  # fmt: skip
    def work(self, pick: int, claim: int, fates: list[str], count: int, seconds: float, then: str, late: bool) -> None:
        """Much of all this at once, to get deeper in as many steps."""
        self.rig.dispatch()
        worker = self.worker(pick, lambda worker: worker.waiting) or self.worker(pick)
        if not (worker.to_run or worker.running):
            self.rig.claim(worker, claim)
        self.rig.run(worker, fates)
        if worker.unsent and count:
            self.rig.report(worker, count, seconds=seconds)
        if then == "recall":
            self.rig.recall(worker)
        elif then == "begin":
            if worker.to_run and not worker.running:
                self.rig.begin(worker)
        elif then != "nothing":
            self.rig.die(worker, running=then == "die running", late=late)
            self.rig.start()

    # --- always ---

    @invariant()
    def it_wakes_up_for_what_falls_due(self) -> None:
        ventilator, now = self.rig.ventilator, self.rig.now
        due = ventilator.next_event(now)
        waits = [when - now for when, _, _ in ventilator._delayed]
        assert due is None or due >= 0
        assert not waits or (due is not None and due <= max(0.0, min(waits)))
        assert due == 0 or not ventilator.recallable(now)

    def teardown(self) -> None:
        if not self.rig.failed:
            self.rig.finish()
            for record in self.rig.records.values():
                check_record(record)

    # --- who there is ---

    def open_jobs(self) -> list[Slice]:
        return [job for job in self.rig.jobs if not self.rig.records[0, job.first].end]

    def worker(self, pick: int, wanted: Callable[[FakeWorker], object] = bool) -> Any:
        workers = [worker for worker in self.rig.workers.values() if wanted(worker)]
        return workers[pick % len(workers)] if workers else None


def check_record(record: Record) -> None:
    """Each start was followed by one of: the end, a failure that is tried again, the loss of its outcome."""
    options = record.task.options
    reported = record.end in ("done", "failed")
    assert record.starts == reported + record.heeded + record.failures - record.late + record.lost
    assert record.crashes + (record.end in ("poison", "timeout", "lost")) <= record.lost
    assert record.failures <= options.retries
    assert record.crashes <= options.crashes_allowed
    assert record.starts >= 1 or record.end in ("cancelled", "unsendable")
    assert record.starts <= 1 or not options.at_most_once
    assert record.end != "lost" or options.at_most_once
    assert record.end != "poison" or not options.at_most_once


VentilatorMachine.TestCase.settings = settings(
    max_examples=max(400, settings.default.max_examples),
    stateful_step_count=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
TestVentilator = VentilatorMachine.TestCase
