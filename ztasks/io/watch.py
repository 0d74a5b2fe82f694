"""The head's watch over its crew: opens and closes lanes, notices deaths, calls in replacements, keeps time.

All of it runs in the head's own thread. What it must hold: a worker's death is noticed at once, its lane's books are
closed only when all that it had sent has come in (or cannot come any more), and a worker takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from selectors import EVENT_READ, BaseSelector
from time import monotonic
from typing import TYPE_CHECKING, Final

import msgspec

from ztasks.core.lane import LaneState
from ztasks.core.ventilator import Ventilator
from ztasks.errors import WorkersCannotStart
from ztasks.io.cell import SENT
from ztasks.io.crew import Crew, WorkerProcess, watch_exit
from ztasks.io.deliver import deliver
from ztasks.io.lanes import LaneSocket
from ztasks.io.oom import OomCounters
from ztasks.io.rundir import RunDir
from ztasks.io.spare import Spare
from ztasks.io.timekeeper import culprit_of
from ztasks.wire.certificate import DeathCertificate
from ztasks.wire.failures import rebuild
from ztasks.wire.messages import Failure

if TYPE_CHECKING:
    from ztasks.io.sockets import Sockets

DRAIN_SECONDS: Final = 0.100
"""How long the sink is drained after a worker's death for what it had sent."""

LOOK_STEP: Final = 0.001
"""How soon to look again for what is about to happen."""

START_FAILURES: Final = 3
"""After so many workers in a row have died before they were ready, with no other at work, no more are started."""

RESTART_AFTER: Final = 0.200
"""How long to wait after a worker did not come up before another one is started."""

EXIT_SECONDS: Final = 3.0
"""How long a worker may take to exit after its last word."""


class Watch:
    """Watches over the worker processes of one head, and holds the lanes that lead to them."""

    def __init__(
        self,
        crew: Crew,
        ventilator: Ventilator,
        selector: BaseSelector,
        rundir: RunDir,
        *,
        budget: int | None,
        output: Callable[[bytes], None],
        post: Callable[[Callable[[], None]], None],
        give_up: Callable[[BaseException], None],
        replace: Callable[[], bool],
        spare: Spare,
    ) -> None:
        """`output` takes what workers write; `give_up` is called when it is clear that none can be had; `replace` tells
        whether a worker that is gone shall have a successor."""
        self.lanes: dict[int, LaneSocket] = {}
        self.crew = crew
        self._ventilator = ventilator
        self._selector = selector
        self._rundir = rundir
        self._budget = budget
        self._output = output
        self._post = post
        self._give_up = give_up
        self._replace = replace
        self._spare = spare
        self._succeeded: set[int] = set()
        """Workers that have said Bye and have a successor already, by lane."""
        self._dying: dict[int, float] = {}
        """Workers that have ended, by lane, and until when the sink is drained for what they had sent."""
        self._oom = OomCounters()
        self._connecting: set[int] = set()
        """Lanes whose worker is ready, but not yet connected: what is sent to it now would get nowhere."""
        self._missing = 0
        """How many workers could not be started; it is tried again from time to time."""
        self._restart_at = 0.0
        self._leaving: dict[int, float] = {}
        """Workers that have said Bye, by lane, and when they are killed if they have not exited by then."""
        self._next_lane = 0
        self._start_failures = 0

    # --- life ---

    def spawn(self) -> WorkerProcess | None:
        """Start a worker process and open the books on it."""
        number = self._next_lane
        self._next_lane += 1
        try:
            worker = self.crew.start(number)
        except OSError as error:
            self._missing += 1
            self._start_failed(f"a worker process cannot be started: {error}")
            return None
        self._ventilator.on_starting(number, self._budget)
        return worker

    def attach(self, worker: WorkerProcess | None, sockets: Sockets) -> None:
        """Open the lane to a new worker, and watch it."""
        if worker is None:
            return
        try:
            self._open_lane(worker, sockets)
        except OSError as error:
            worker.kill("it could not be watched")
            worker.reap()
            lane = self.lanes.pop(worker.lane, None)
            if lane is not None:
                lane.close(sockets)
            self._ventilator.on_lost(worker.lane, None, worker.certificate(), monotonic())
            self.crew.forget(worker)
            if not self._spare.on_gone(worker.lane):
                self._missing += 1
            self._start_failed(
                f"a worker cannot be connected: {error}. See `ulimit -n`: each takes some 10 descriptors"
            )

    def _open_lane(self, worker: WorkerProcess, sockets: Sockets) -> None:
        lane = LaneSocket(sockets.lane(self._rundir.file(f"lane-{worker.lane}")))
        self.lanes[worker.lane] = lane
        lane.watched = watch_exit(worker, lambda: self._post(lambda: self._on_exit(worker)))
        if lane.watched is not None:
            self._selector.register(lane.watched, EVENT_READ, lambda: self._on_exit(worker))
        if worker.output is not None:
            self._selector.register(worker.output, EVENT_READ, lambda: self._on_output(worker))

    def on_ready(self, number: int) -> None:
        """A worker has come up."""
        worker = self.crew.workers.get(number)
        if worker is not None:
            worker.ready = True
            self._start_failures = 0
            self._connecting.add(number)

    def open_connected(self, sockets: Sockets) -> float | None:
        """Open the lanes whose workers are ready and connected; return in how many seconds to look again, or None."""
        if not self._connecting:
            return None
        for number in list(self._connecting):
            if self.lanes[number].connected():
                self._connecting.discard(number)
                if self._spare.on_ready(number):
                    self._ventilator.on_ready(number)
        if self._connecting:
            return LOOK_STEP
        self._start_spare(sockets)
        return None

    def _start_spare(self, sockets: Sockets) -> None:
        """Start a spare worker if one is wanted, and all others have come up."""
        if not self._spare.wanted() or not self._replace() or self._start_failures:
            return
        if all(worker.ready for worker in self.crew.workers.values()):
            worker = self.spawn()
            if worker is None:
                self._missing -= 1  # nobody misses it
            else:
                self._spare.lane = worker.lane
                self.attach(worker, sockets)

    def on_start_failed(self, number: int, failure: Failure) -> None:
        """A worker has come up, but its preload or initializer raised, and would raise in the next one too."""
        worker = self.crew.workers.get(number)
        if worker is not None:
            worker.ready = True
            error = rebuild(failure)
            self._start_failures = START_FAILURES
            worker.ready = False  # it will not work
            self._start_failed(str(error), error.__cause__)

    def _start_failed(self, why: str, cause: BaseException | None = None) -> None:
        """Count a worker that did not come up; after some in a row, with no other at work, give up and say why."""
        self._start_failures += 1
        self._restart_at = monotonic() + RESTART_AFTER
        at_work = any(worker.ready and worker.exit_code is None for worker in self.crew.workers.values())
        if self._start_failures >= START_FAILURES and not at_work:
            error = WorkersCannotStart(
                f"the workers cannot start: {why}\nJobs that were queued have not run. Mend the cause, and make a new "
                "executor; or start the `ztasks worker` again: its head keeps the jobs."
            )
            error.__cause__ = cause
            self._give_up(error)

    # --- death ---

    def _on_output(self, worker: WorkerProcess) -> None:
        """Pass on what a worker has written."""
        descriptor = worker.output
        lines = worker.read_output()
        if worker.output is None and descriptor is not None:
            self._selector.unregister(descriptor)
        if lines:
            self._output(lines)

    def _on_exit(self, worker: WorkerProcess) -> None:
        """A worker process has ended: reap it; from now on the sink is drained for what it had sent."""
        lane = self.lanes[worker.lane]
        if lane.watched is not None:
            self._selector.unregister(lane.watched)
            lane.close_watched()
        worker.reap()
        self._dying[worker.lane] = monotonic() + DRAIN_SECONDS

    def bury(self, sockets: Sockets, now: float) -> float | None:
        """Close the books on workers that have ended, once all they sent has come, or could have; replace them.

        Returns in how many seconds to look again, or None.
        """
        for number, deadline in list(self._dying.items()):
            worker = self.crew.workers[number]
            missing = worker.ready and self._ventilator.lanes[number].received < worker.cell.fields[SENT]
            if missing and now < deadline:
                continue
            del self._dying[number]
            self._bury_one(worker, sockets, now)
        for number, deadline in list(self._leaving.items()):
            if now >= deadline:  # a thread that a job has left behind keeps it from exiting
                self.kill(number, "it did not exit after its last word")
        return self._replace_missing(sockets, now) if self._missing and self._replace() else self._look_again(now)

    def _replace_missing(self, sockets: Sockets, now: float) -> float | None:
        """Start workers for those that are gone; after a failure, not before a while has passed."""
        if self._start_failures and now < self._restart_at:
            return min(self._restart_at - now, self._look_again(now) or RESTART_AFTER)
        wanted, self._missing = self._missing, 0
        for started in range(wanted):
            if self._missing:  # one could not be started: just now the others would fare no better
                self._missing += wanted - started
                break
            adopted, ready = self._spare.adopt()
            if adopted is None:
                self.attach(self.spawn(), sockets)
            elif ready:
                self._ventilator.on_ready(adopted)
        self._start_spare(sockets)
        return self._look_again(now) if not self._missing else RESTART_AFTER

    def _look_again(self, now: float) -> float | None:
        if self._dying:
            return LOOK_STEP
        return max(0.0, min(self._leaving.values()) - now) if self._leaving else None

    def on_bye(self, number: int, now: float) -> None:
        """A worker has sent all it had, and is about to exit."""
        if number not in self._leaving:
            self._leaving[number] = now + EXIT_SECONDS
            if self._replace():  # it has nothing to do but to exit: its successor need not wait for that
                self._succeeded.add(number)
                self._missing += 1

    def _bury_one(self, worker: WorkerProcess, sockets: Sockets, now: float) -> None:
        number = worker.lane
        if worker.output is not None:
            self._selector.unregister(worker.output)
            lines = worker.read_output(last=True)
            if lines:
                self._output(lines)
        death, lane = self._certify(worker), self._ventilator.lanes[number]
        leaving = lane.state is LaneState.LEAVING
        cursor, late = culprit_of(lane, worker)
        for outcome in self._ventilator.on_lost(number, cursor, death, now, late=late):
            deliver(outcome, None, None, worker.pid)
        ready = worker.ready
        self._connecting.discard(number)
        self._leaving.pop(number, None)
        if number not in self._succeeded and not self._spare.on_gone(number):
            self._missing += 1
        self._succeeded.discard(number)
        self.lanes.pop(number).close(sockets)
        self.crew.forget(worker)
        if not ready and not leaving:
            wrote = "\n".join(filter(None, (death.stack, death.stderr)))
            self._start_failed(f"{death.summary} before it was ready. It wrote:\n{wrote or '(nothing)'}")

    def _certify(self, worker: WorkerProcess) -> DeathCertificate:
        """Make a worker's death certificate; the stack that it left goes to the user as well."""
        death = worker.certificate()
        if death.signal == "SIGKILL" and not worker.reason:
            death = msgspec.structs.replace(death, oom=self._oom.evidence())
        if death.stack:
            self._output(f"ztasks: {death.summary}\n{death.stack}\n".encode())
        return death

    def kill(self, number: int, reason: str) -> None:
        """Kill one worker."""
        worker = self.crew.workers.get(number)
        if worker is not None:
            worker.kill(reason)

    def kill_all(self) -> None:
        """Kill all workers, and all that their jobs have started."""
        for worker in self.crew.workers.values():
            worker.kill()

    def kill_starting(self) -> None:
        """Kill the workers that are not ready: they have no work, and nobody will give them any."""
        for worker in self.crew.workers.values():
            if not worker.ready:
                worker.kill()

    def close(self) -> None:
        """Reap and release all that is left (the head has failed, or all has gone well and nothing is left)."""
        for worker in list(self.crew.workers.values()):
            worker.reap()
            self.crew.forget(worker)
        for lane in self.lanes.values():
            lane.close_watched()
