"""The timekeeper: stops or kills what runs too long, is not wanted any more or takes too much memory, and takes back
what waits behind a job that takes long. It reads it all from the claim cells, in the head's thread.

What it must hold: the job that is meant is stopped, never the next one; a worker is killed only when its job has not
ended within its grace; and a stopped worker cannot stop the head, which never waits for a cell's lock.
"""

from __future__ import annotations

from typing import Final

from ztasks.core.lane import Lane
from ztasks.core.timeouts import Action, judge
from ztasks.core.ventilator import Ventilator
from ztasks.io.cell import CLAIMED, CURSOR, RECEIVED, SENT, STARTED, STOP, WHY, WHY_CANCELLED, WHY_LATE
from ztasks.io.crew import Crew, Doom, WorkerProcess
from ztasks.io.hostinfo import is_stopped, resident
from ztasks.io.interrupt import STOP_SIGNAL
from ztasks.io.stacks import DUMP_SIGNAL

DUMP_SECONDS: Final = 0.010
"""How often it is looked whether a worker that is about to be killed has written down its stack."""

MOST_DUMP_SECONDS: Final = 0.250
"""How long it has for that; one that blocks the signal, or is stopped, never does it."""

ARRIVALS_EVERY: Final = 1.0
"""How often it is looked whether what was sent has come."""

LOST_LOOKS: Final = 10
"""After so many looks, what was sent and has not come is lost: a gigabyte takes one second. Looks, not seconds: while
the head itself does not run (Ctrl-Z, a thread that holds the interpreter), nothing is lost."""

ARRIVING: Final = 50_000_000
"""For each so many bytes there is one look more."""

MEMORY_EVERY: Final = 0.050
"""How often the memory of workers is looked at, where it is limited."""


class Timekeeper:
    """Keeps time for the jobs of one head, and watches over the memory of their workers."""

    def __init__(self, crew: Crew, ventilator: Ventilator, max_memory: int | None) -> None:
        """`max_memory`: a worker with more resident bytes than this is killed, whatever it runs."""
        self._crew = crew
        self._ventilator = ventilator
        self._max_memory = max_memory
        self._memory_at = 0.0
        self._arrivals_at = 0.0

    def keep(self, now: float) -> float | None:
        """Do what is due; return in how many seconds to look again, or None."""
        soonest = self._keep_memory(now)
        if self._ventilator.pending:
            again = self._keep_arrivals(now)
            soonest = again if soonest is None else min(soonest, again)
        for lane in list(self._ventilator.timed.values()):
            worker = self._crew.workers.get(lane.number)
            if worker is None or worker.exit_code is not None:
                continue
            next_look = self._keep_lane(lane, worker, now)
            if next_look is None:
                del self._ventilator.timed[lane.number]
            else:
                soonest = next_look if soonest is None else min(soonest, next_look)
        return soonest

    def _keep_lane(self, lane: Lane, worker: WorkerProcess, now: float) -> float | None:
        """Stop or kill what has run out of time on one lane."""
        fields = worker.cell.fields
        cursor, started = fields[CURSOR], fields[STARTED]
        action, again = judge(lane, cursor, started / 1e9 if started else None, now)
        if action is Action.STOP and fields[STOP] != cursor:
            fields[WHY] = WHY_CANCELLED if cursor in lane.stopping else WHY_LATE
            fields[STOP] = cursor
            worker.signal(STOP_SIGNAL)
        elif action is Action.KILL:
            late = cursor not in lane.stopping
            what = "its job ran longer than its timeout" if late else "its job was cancelled"
            why = f"ztasks did this because {what} and did not stop within its grace"
            return _kill(worker, why, now, cursor, late=late) or again
        return again

    def _keep_memory(self, now: float) -> float | None:
        """Kill workers that have grown beyond the hard limit."""
        if self._max_memory is None:
            return None
        if now >= self._memory_at:
            self._memory_at = now + MEMORY_EVERY
            for worker in self._crew.workers.values():
                if worker.exit_code is None and (size := resident(worker.pid)) > self._max_memory:
                    taken, limit = size >> 20, self._max_memory >> 20
                    why = f"ztasks did this because it took {taken} MiB of memory, more than the limit of {limit} MiB"
                    if _kill(worker, why, now, None, late=False):
                        self._memory_at = now + DUMP_SECONDS
        return self._memory_at - now

    def _keep_arrivals(self, now: float) -> float:
        """Kill workers whose outcomes were sent and never came, or to whom work was sent and never came.

        ZeroMQ drops a message for which there is no memory, closes the connection and says nothing.
        """
        if now < self._arrivals_at:
            return self._arrivals_at - now
        self._arrivals_at = now + ARRIVALS_EVERY
        for lane in [lane for lane in self._ventilator.lanes.values() if lane.batches]:
            worker = self._crew.workers[lane.number]
            missing = _missing(lane, worker)
            if not missing or worker.exit_code is not None:
                worker.waited = None
            elif worker.waited is None or worker.waited[0] != lane.received:
                worker.waited = lane.received, 1
            elif worker.waited[1] < LOST_LOOKS + lane.nbytes // ARRIVING:
                worker.waited = lane.received, worker.waited[1] + 1
            elif not is_stopped(worker.pid):
                worker.killed_for = lane.received, False
                worker.kill(f"ztasks did this because {missing}")
        return ARRIVALS_EVERY

    def recall(self, lane: Lane, now: float) -> None:
        """Take back what a worker has not claimed; if it is claiming right now, try again later."""
        worker = self._crew.workers[lane.number]
        if worker.exit_code is not None:
            return
        all_claimed = worker.cell.fields[CLAIMED] >= lane.dispatched
        claimed = None if all_claimed else worker.cell.recall()
        if claimed is None:
            lane.moved = now
        else:
            self._ventilator.on_recalled(lane, claimed, now)


def _kill(worker: WorkerProcess, why: str, now: float, meant: int | None, *, late: bool) -> float | None:
    """Kill a worker, once it has written down its stack; return in how many seconds to come again, or None if it is
    done. `meant`: the position of the job that it is killed for; None: whatever it runs. One that is not ready does not
    know the request, and would die of it."""
    size, doom = worker.stack_size(), worker.doomed
    culprit = worker.cell.fields[CURSOR] if meant is None else meant, late
    if worker.ready:
        if doom is None or doom.meant != meant:
            worker.doomed = Doom(meant, culprit, why, now, size, size)
            worker.signal(DUMP_SIGNAL)
            return DUMP_SECONDS
        took = now - doom.since
        if took < DUMP_SECONDS or (took < MOST_DUMP_SECONDS and (size == doom.start or size != doom.size)):
            worker.doomed = doom._replace(size=size)
            return DUMP_SECONDS
    worker.killed_for = culprit
    worker.kill(why)
    return None


def _missing(lane: Lane, worker: WorkerProcess) -> str:
    """Say what is under way between a worker and its head; empty if nothing is."""
    fields, due = worker.cell.fields, lane.received
    if fields[SENT] > due:
        return "a result that it had sent did not arrive; was there enough memory in the user's process?"
    if fields[RECEIVED] <= due and lane.dispatched > due:
        return "the arguments that were sent to it did not arrive; was there enough memory in the worker?"
    return ""


def culprit_of(lane: Lane, worker: WorkerProcess) -> tuple[int | None, bool]:
    """Return the position of the job that a worker was running when it ended (None: it had begun none), and whether
    that job had run out of time.

    A worker that was killed for a job may have begun the next one just then, which is innocent. And where the head
    could not keep the time, the worker's own watchdog has ended it.
    """
    if worker.killed_for is not None:
        cursor, late = worker.killed_for
        return (cursor, late) if cursor >= 0 else (None, False)
    fields = worker.cell.fields
    cursor = fields[CURSOR]
    if cursor < 0:
        return None, False
    if not fields[STARTED] or cursor in lane.stopping:
        return cursor, False
    action, _ = judge(lane, cursor, fields[STARTED] / 1e9, worker.ended_at / 1e9)
    return cursor, action is Action.KILL
