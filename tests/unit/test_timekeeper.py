"""The timekeeper among fakes: who is told to stop, who is killed and for which job, and who is left alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from books import FakeWorker, Rig

from ztasks.io import timekeeper
from ztasks.io.cell import CLAIMED, CURSOR, FIELDS, RECEIVED, SENT, STARTED, STOP, WHY, WHY_CANCELLED, WHY_LATE
from ztasks.io.interrupt import STOP_SIGNAL
from ztasks.io.stacks import DUMP_SIGNAL
from ztasks.io.timekeeper import (
    ARRIVALS_EVERY,
    DUMP_SECONDS,
    LOST_LOOKS,
    MEMORY_EVERY,
    MOST_DUMP_SECONDS,
    Timekeeper,
    culprit_of,
)


class FakeProcess:
    """A worker's process and its cell, as its parent sees them."""

    def __init__(self, number: int) -> None:
        self.lane = number
        self.pid = 1000 + number
        self.exit_code: int | None = None
        self.ended_at = 0
        self.ready = True
        self.doomed: tuple[int, float, int] | None = None
        self.waited: tuple[int, int] | None = None
        self.killed_for: tuple[int, bool] | None = None
        self.cell = self
        self.fields = [0] * FIELDS
        self.fields[CURSOR] = self.fields[STOP] = -1
        self.busy = False
        """Whether it holds the lock of its cell."""
        self.signals: list[int] = []
        self.stack = 0
        """How much of its stack it has written down."""
        self.writes = True
        self.killed = ""

    def signal(self, number: int) -> None:
        self.signals.append(number)
        if number == DUMP_SIGNAL and self.writes:
            self.stack += 500

    def stack_size(self) -> int:
        return self.stack

    def kill(self, reason: str = "") -> None:
        self.killed = self.killed or reason

    def recall(self) -> int | None:
        return None if self.busy else self.fields[CLAIMED]


class Desk:
    """A timekeeper, a rig whose one worker holds some jobs, and that worker's process."""

    def __init__(self, count: int = 3, *, max_memory: int | None = None, **options: Any) -> None:
        self.rig = Rig()
        self.rig.task(**{"grace": 2.0, **options})
        self.rig.tasks[0].run_time.seconds = 1e-6
        self.worker: FakeWorker = self.rig.start()
        self.rig.submit(self.rig.tasks[0], count)
        self.rig.dispatch()
        self.process = FakeProcess(0)
        self.process.fields[RECEIVED] = count
        crew: Any = SimpleNamespace(workers={0: self.process})
        self.keeper = Timekeeper(crew, self.rig.ventilator, max_memory)
        self.now = 100.0

    @property
    def lane(self) -> Any:
        return self.rig.books(self.worker)

    def begins(self, position: int) -> None:
        fields = self.process.fields
        fields[CLAIMED] = max(fields[CLAIMED], position + 1)
        fields[CURSOR], fields[STARTED] = position, int(self.now * 1e9)

    def ends(self) -> None:
        self.process.fields[STARTED] = 0

    def keep(self, seconds: float = 0.0) -> float | None:
        """Let time pass, and have it kept."""
        self.now += seconds
        return self.keeper.keep(self.now)

    def keep_until_killed(self) -> float:
        """Have time kept as often as is asked for, until the worker is killed; return how long that took."""
        begin = self.now
        while not self.process.killed:
            assert self.now < begin + 2 * MOST_DUMP_SECONDS, "it was not killed"
            self.keep(DUMP_SECONDS)
        return self.now - begin


# --- timeouts and stops ---


def test_a_late_job_is_told_once_and_killed_after_its_grace() -> None:
    desk = Desk(timeout=5.0)
    desk.begins(1)
    assert desk.keep(4.0) == pytest.approx(1.0)
    assert desk.process.signals == []
    for _ in range(3):
        desk.keep(0.5)
    assert desk.process.signals == [STOP_SIGNAL]
    assert (desk.process.fields[STOP], desk.process.fields[WHY]) == (1, WHY_LATE)
    assert desk.keep(2.0) == DUMP_SECONDS, "first it writes down its stack"
    assert desk.process.signals == [STOP_SIGNAL, DUMP_SIGNAL]
    assert not desk.process.killed
    assert desk.keep_until_killed() <= 4 * DUMP_SECONDS
    assert desk.process.killed == (
        "ztasks did this because its job ran longer than its timeout and did not stop within its grace"
    )
    assert desk.process.killed_for == (1, True)


def test_a_job_that_is_not_wanted_is_told_why() -> None:
    desk = Desk()
    desk.begins(1)
    desk.rig.ventilator.on_stop(desk.rig.jobs[1])
    desk.keep()
    assert (desk.process.fields[STOP], desk.process.fields[WHY]) == (1, WHY_CANCELLED)
    desk.keep(2.0)
    desk.keep_until_killed()
    assert "its job was cancelled" in desk.process.killed
    assert desk.process.killed_for == (1, False)


def test_the_next_job_is_left_alone() -> None:
    desk = Desk(timeout=5.0)
    desk.begins(0)
    desk.keep(6.0)
    desk.ends()
    desk.begins(1)
    desk.keep(1.0)
    assert desk.process.fields[STOP] == 0, "the word was for the one before; the worker compares"
    desk.keep(4.5)
    assert desk.process.fields[STOP] == 1
    assert desk.process.signals == [STOP_SIGNAL] * 2


def test_a_job_that_ends_while_its_worker_writes_down_its_stack_saves_its_successor() -> None:
    desk = Desk(timeout=5.0)
    desk.begins(0)
    desk.keep(8.0)
    assert desk.process.signals[-1] == DUMP_SIGNAL
    desk.ends()
    desk.begins(1)
    desk.keep(DUMP_SECONDS)
    assert not desk.process.killed
    desk.keep(8.0)
    assert not desk.process.killed, "this one's stack is asked for anew"
    desk.keep_until_killed()
    assert desk.process.killed_for == (1, True)


class MovingOn(list[int]):
    """A cell whose job ends, and the next begins, just after its cursor has been read."""

    def __getitem__(self, field: Any) -> Any:
        value = super().__getitem__(field)
        if field == STARTED:
            self[CURSOR] += 1
        return value


def test_a_job_that_ends_at_the_last_moment_leaves_no_blame_to_its_successor() -> None:
    desk = Desk(timeout=5.0)
    desk.begins(0)
    desk.keep(8.0)
    desk.keep(DUMP_SECONDS)
    desk.process.fields = MovingOn(desk.process.fields)
    desk.keep(DUMP_SECONDS)
    assert desk.process.killed_for in (None, (0, True)), "another job would be charged"


@pytest.mark.parametrize("why", ["it blocks the signal", "it does not know the signal yet"])
def test_a_worker_that_does_not_write_down_its_stack_is_killed_all_the_same(why: str) -> None:
    desk = Desk(timeout=5.0)
    desk.process.writes = False
    desk.process.ready = why == "it blocks the signal"
    desk.begins(0)
    desk.keep(8.0)
    if desk.process.ready:
        assert desk.keep_until_killed() >= MOST_DUMP_SECONDS - 2 * DUMP_SECONDS
    assert desk.process.killed
    assert desk.process.signals == [DUMP_SIGNAL] * desk.process.ready


def test_a_long_stack_is_waited_for() -> None:
    desk = Desk(timeout=5.0)
    desk.begins(0)
    desk.keep(8.0)
    for _ in range(8):
        desk.process.stack += 500
        desk.keep(DUMP_SECONDS)
        assert not desk.process.killed
    desk.keep_until_killed()


@pytest.mark.parametrize("gone", ["ended", "buried"])
def test_nobody_is_left_to_stop(gone: str) -> None:
    desk = Desk(timeout=5.0)
    desk.begins(0)
    if gone == "ended":
        desk.process.exit_code = -9
    else:
        desk.keeper._crew.workers.clear()
        desk.rig.ventilator.pending = 0
    desk.keep(100.0)
    assert (desk.process.signals, desk.process.killed) == ([], "")


def test_lanes_without_timeouts_are_looked_at_no_more() -> None:
    desk = Desk(1, timeout=5.0)
    assert desk.rig.ventilator.timed
    desk.rig.work(desk.worker)
    assert desk.keep() is None
    assert not desk.rig.ventilator.timed


# --- recalls ---


def test_what_is_not_claimed_is_taken_back() -> None:
    desk = Desk()
    desk.begins(0)
    desk.keeper.recall(desk.lane, desk.now)
    assert desk.lane.outstanding == 1


@pytest.mark.parametrize("why", ["it is claiming", "all is claimed", "it has ended"])
def test_nothing_is_taken_back_while(why: str) -> None:
    desk = Desk()
    desk.begins(2 if why == "all is claimed" else 0)
    desk.process.busy = why == "it is claiming"
    desk.process.exit_code = -9 if why == "it has ended" else None
    desk.keeper.recall(desk.lane, desk.now)
    assert desk.lane.outstanding == 3
    assert (desk.lane.moved == desk.now) == (why != "it has ended"), "or it would be tried again at once"


# --- memory ---


def test_whoever_takes_too_much_memory_is_killed_for_the_job_that_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {1000: 90 << 20}
    monkeypatch.setattr(timekeeper, "resident", sizes.__getitem__)
    desk = Desk(max_memory=100 << 20)
    desk.begins(1)
    assert desk.keep() == pytest.approx(MEMORY_EVERY)
    sizes[1000] = 110 << 20
    assert desk.keep(MEMORY_EVERY / 2) == pytest.approx(MEMORY_EVERY / 2), "it is not looked at all the time"
    assert desk.keep(MEMORY_EVERY / 2) == pytest.approx(DUMP_SECONDS)
    assert desk.process.signals == [DUMP_SIGNAL]
    desk.keep_until_killed()
    assert desk.process.killed == ("ztasks did this because it took 110 MiB of memory, more than the limit of 100 MiB")
    assert desk.process.killed_for == (1, False)


def test_whoever_takes_too_much_memory_is_killed_however_short_its_jobs_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timekeeper, "resident", lambda pid: 110 << 20)
    desk = Desk(1, max_memory=100 << 20)
    for position in range(50):
        desk.begins(position)
        desk.keep(DUMP_SECONDS)
    assert desk.process.killed, "while it writes down the stack of one job, the next one begins"
    assert desk.process.signals == [DUMP_SIGNAL]


# --- what never arrives ---


@pytest.mark.parametrize(
    ("sent", "received", "missing"),
    [
        (0, 3, ""),  # it works
        (1, 3, "a result that it had sent did not arrive"),
        (0, 0, "the arguments that were sent to it did not arrive"),
        (1, 1, "a result that it had sent did not arrive"),
        (0, 1, ""),  # it works, and the second batch is under way
    ],
)
@pytest.mark.parametrize("stopped", [False, True])
def test_what_was_sent_and_does_not_come_is_lost_at_last(
    monkeypatch: pytest.MonkeyPatch, sent: int, received: int, missing: str, stopped: bool
) -> None:
    monkeypatch.setattr(timekeeper, "is_stopped", lambda pid: stopped)
    desk = Desk()
    desk.process.fields[SENT], desk.process.fields[RECEIVED] = sent, received
    for _ in range(LOST_LOOKS):
        assert desk.keep(ARRIVALS_EVERY) == pytest.approx(ARRIVALS_EVERY)
        assert not desk.process.killed
    desk.keep(1000 * ARRIVALS_EVERY)
    if missing and not stopped:
        assert missing in desk.process.killed
        assert desk.process.killed_for == (0, False)
    else:
        assert not desk.process.killed


def test_as_long_as_something_arrives_nothing_is_lost() -> None:
    desk = Desk(3)
    desk.process.fields[SENT] = 3
    for count in range(3):
        for _ in range(LOST_LOOKS):
            desk.keep(ARRIVALS_EVERY)
        desk.rig.work(desk.worker, count=1)
        assert desk.lane.received == count + 1
    desk.keep(ARRIVALS_EVERY)
    assert not desk.process.killed


def test_where_nothing_is_to_be_done_nobody_looks() -> None:
    desk = Desk(1)
    desk.rig.work(desk.worker)
    assert desk.keep() is None


# --- who is to blame ---


@pytest.mark.parametrize(
    ("killed_for", "cursor", "ran", "blamed"),
    [
        (None, -1, None, (None, False)),
        (None, 0, 1.0, (0, False)),
        (None, 0, None, (0, False)),  # its result died with it
        (None, 1, 8.0, (1, True)),  # its own watchdog has ended it
        (None, 1, 6.0, (1, False)),  # within its grace: it died by itself
        ((1, True), 2, 0.1, (1, True)),  # it was killed for the one before, whose successor is innocent
        ((1, False), 2, 9.0, (1, False)),
        ((-1, False), -1, None, (None, False)),
    ],
)
def test_the_culprit(
    killed_for: tuple[int, bool] | None, cursor: int, ran: float | None, blamed: tuple[int | None, bool]
) -> None:
    desk = Desk(timeout=5.0)
    if cursor >= 0:
        desk.begins(cursor)
    if ran is None:
        desk.ends()
    desk.process.killed_for = killed_for
    desk.process.ended_at = int((desk.now + (ran or 0.0)) * 1e9)
    assert culprit_of(desk.lane, desk.process) == blamed  # type: ignore[arg-type]


def test_a_job_that_was_to_be_stopped_has_not_run_out_of_time() -> None:
    desk = Desk(timeout=5.0)
    desk.begins(1)
    desk.rig.ventilator.on_stop(desk.rig.jobs[1])
    desk.process.ended_at = int((desk.now + 100.0) * 1e9)
    assert culprit_of(desk.lane, desk.process) == (1, False)  # type: ignore[arg-type]
