"""The ventilator, driven by Hypothesis through any order of events; `books` checks everything after each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from books import FakeWorker, Record, Rig
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ztasks.core.room import Room
from ztasks.core.slices import State
from ztasks.errors import JobTimeout

PICK = st.integers(0, 5)
"""Picks one of those that are there."""

BUDGET = st.sampled_from([None, None, None, 1, 2, 7])
COUNT = st.sampled_from([1, 2, 3, 5, 12, 40])
FATES = st.lists(st.sampled_from(["ok", "ok", "retry", "fatal", "after", "heed"]), min_size=1, max_size=8)
LATE = st.sampled_from([False, False, True])
SECONDS = st.sampled_from([1e-6, 1e-4, 1e-3, 0.03, 5.0])
PAUSE = st.sampled_from([0.0, 0.001, 0.6, 3.0, 7.0])

UNSENDABLE = st.sampled_from([None] * 12 + [0, 1, 2])
"""There is no memory for the batch of this number."""

ROOMS = st.sampled_from([None, None, Room(1), Room(2, 10), Room(3, 6), Room(3)])
"""None: there are no jobs that need room; a ventilator goes other ways then."""

WORK: dict[str, Any] = {
    "pick": PICK,
    "claim": COUNT,
    "fates": FATES,
    "count": st.integers(0, 5),
    "seconds": SECONDS,
    "then": st.sampled_from(
        ["nothing", "recall", "begin", "begin and stop", "stop", "die", "begin and die", "begin, stop and die"]
    ),
    "late": LATE,
    "pause": PAUSE,
}


class VentilatorMachine(RuleBasedStateMachine):
    """Submit, work, fail, die, recall, cancel, stop, leave: in any order each job ends exactly once."""

    @initialize(known=st.sampled_from([None, 1e-6, 2e-3]), first=BUDGET, second=BUDGET, room=ROOMS)
    def open(self, known: float | None, first: int | None, second: int | None, room: Room | None) -> None:
        self.rig = rig = Rig(room=room or Room(1000))
        broad: dict[str, Any] = {"cpus": 2} if room else {}
        large: dict[str, Any] = {"memory": 4} if room else {}
        once: dict[str, Any] = {"at_most_once": True} if room else {}
        self.jobs = [
            rig.task(),
            rig.task(retries=2, backoff=0.5, crash_retries=0, timeout=5.0, grace=1.0, no_retry_on=JobTimeout),
            rig.task(retries=1, retry_on=OSError, max_backoff=2.0, timeout=2.0, **broad),
            rig.task(timeout=5.0, grace=0.0, **once),
        ]
        self.maps = [
            rig.task("one", map_number=1, crash_retries=1),
            rig.task("star", map_number=2, retries=1, retry_on=LookupError, detail=True, **large),
            rig.task("one", map_number=3, retries=3, backoff=0.0),
            rig.task("one", map_number=4, **once),
        ]
        for task in rig.tasks:
            task.run_time.seconds = known
        rig.start(first)
        rig.start(second)

    # --- the caller ---

    @rule(pick=st.integers(0, 3), count=st.integers(1, 9), ballast=st.sampled_from([0, 0, 0, 70_000]))
    def submit(self, pick: int, count: int, ballast: int) -> None:
        self.rig.submit(self.jobs[pick], count, ballast)

    @rule(pick=st.integers(0, 3), count=COUNT)
    def submit_slice(self, pick: int, count: int) -> None:
        self.rig.submit_slice(self.maps[pick], count)

    @precondition(lambda self: self.rig.jobs)
    @rule(pick=PICK, how=st.sampled_from(["begin", "begin", "end", "end", "owner", "all"]))
    def cancel(self, pick: int, how: str) -> None:
        rig = self.rig
        jobs = [job for job in rig.jobs if not rig.records[0, job.first].end]
        if how == "all":
            rig.cancel_waiting()
        elif how == "end" and rig.cancelling:
            rig.end_cancel(rig.cancelling[pick % len(rig.cancelling)])
        elif how == "begin" and jobs:
            rig.begin_cancel(jobs[-1 - pick % len(jobs)])
        elif how == "owner":
            owners = [record.owner for record in rig.records.values() if not record.end]
            rig.cancel_waiting(owners[pick % len(owners)] if owners else None)

    @precondition(lambda self: self.rig.jobs)
    @rule(pick=PICK, busy=st.booleans())
    def stop(self, pick: int, busy: bool) -> None:
        held = [job for job in self.rig.jobs if job.state is State.ASSIGNED]
        jobs = held or self.rig.jobs  # wherever they are, and also when they have ended
        self.rig.stop(jobs[-1 - pick % len(jobs)], busy=busy)

    # --- the crew ---

    @rule(pick=PICK, how=st.sampled_from(["start", "start unready", "ready", "leave"]), budget=BUDGET)
    def change_crew(self, pick: int, how: str, budget: int | None) -> None:
        if how == "ready":
            self.rig.ready(self.worker(pick))
        elif how == "leave" and len(self.rig.workers) > 2:
            self.rig.leave(self.worker(pick))
        elif how.startswith("start") and len(self.rig.workers) < 4:
            self.rig.start(budget, ready=how == "start")

    @rule(pick=PICK, running=st.booleans(), late=LATE, budget=BUDGET)
    def die(self, pick: int, running: bool, late: bool, budget: int | None) -> None:
        worker = self.worker(pick, FakeWorker.is_busy) or self.worker(pick)
        self.rig.die(worker, running=running, late=late)
        self.rig.start(budget)

    # --- the head's thread ---

    @rule(unsendable=UNSENDABLE)
    def dispatch(self, unsendable: int | None) -> None:
        self.rig.dispatch(unsendable)

    @rule(seconds=PAUSE)
    def time_passes(self, seconds: float) -> None:
        self.rig.now += seconds
        for _ in self.rig.keep_time():
            self.rig.start()

    @rule(pick=PICK, sensibly=st.booleans())
    def recall(self, pick: int, sensibly: bool) -> None:
        if not sensibly:
            self.rig.recall(self.worker(pick))
            return
        for lane in self.rig.ventilator.recallable(self.rig.now):
            assert lane.outstanding
            self.rig.recall(self.rig.workers[lane.number])

    # --- the workers ---

    @rule(pick=PICK, count=COUNT, fates=FATES, how=st.sampled_from(["claim", "begin", "run", "report"]))
    def step(self, pick: int, count: int, fates: list[str], how: str) -> None:
        """One worker goes one step further, if it can."""
        worker = self.worker(pick, FakeWorker.is_busy) or self.worker(pick)
        if how == "claim" and not (worker.to_run or worker.running):
            self.rig.claim(worker, count)
        elif how == "begin" and worker.to_run and not worker.running:
            self.rig.begin(worker)
        elif how == "run":
            self.rig.run(worker, fates)
        elif how == "report" and worker.unsent:
            self.rig.report(worker, count, idle=float(pick))

    @rule(**WORK)
    def work(self, **how: Any) -> None:
        self.go_far(**how)

    @rule(**WORK)
    def work_on(self, **how: Any) -> None:  # so that this is chosen more often
        self.go_far(**how)

    @rule(**WORK)
    def work_harder(self, **how: Any) -> None:
        self.go_far(**how)

    def go_far(
        self, pick: int, claim: int, fates: list[str], count: int, seconds: float, then: str, late: bool, pause: float
    ) -> None:
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
        if "begin" in then and worker.to_run and not worker.running:
            self.rig.begin(worker)
        if "stop" in then:
            self.stop_one(worker, pick, busy=late)
        if "die" in then:
            self.rig.die(worker, late=late)
            self.rig.start()
        self.time_passes(pause)

    def stop_one(self, worker: FakeWorker, pick: int, *, busy: bool) -> None:
        """One of the jobs that a worker holds is stopped; the running one, if there is one, as likely as all others."""
        held = [given.item for given in worker.holds() if not given.batch.map_number]
        if worker.running and pick < 3:
            held = [worker.running.item]
        for job in self.rig.jobs:
            if held and (0, job.first) == held[pick % len(held)]:
                self.rig.stop(job, busy=busy)

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
