"""The head: ventilator, sink, control and crew, in one thread of the user's process.

Only this thread touches the sockets and the books. Everybody else calls `post`, which appends to a deque and, when the
thread sleeps, wakes it; that is safe from any thread, finaliser and signal handler.

    post() --> inbox --> [ ventilator ] --> lanes (PUSH) --> workers
                              ^  |                              |
                              |  +--> control (PUB) ----------->|
    owners <-- deliver <-- sink (PULL) <------------------------+
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
import threading
from collections.abc import Callable
from time import monotonic
from typing import Final

from ztasks.core.endings import no_memory
from ztasks.core.lane import Send
from ztasks.core.room import Room
from ztasks.core.slices import Slice
from ztasks.core.ventilator import Ventilator
from ztasks.errors import HeadFailed, WorkerLost, WorkersCannotStart
from ztasks.io.budgets import Limits
from ztasks.io.crew import Crew, guarded, write_stderr
from ztasks.io.deliver import cancel, fail
from ztasks.io.devices import Devices
from ztasks.io.inbox import Inbox
from ztasks.io.looking import RunningJob, look
from ztasks.io.refusals import cannot_open, closed_meanwhile
from ztasks.io.rundir import RunDir
from ztasks.io.setup import FILE, Setup
from ztasks.io.sink import Sink
from ztasks.io.spare import Spare
from ztasks.io.timekeeper import Timekeeper
from ztasks.io.watch import Watch
from ztasks.wire.messages import Control, Leave, encode

STOP_EVERY: Final = 0.025
"""How often control repeats itself while workers leave."""

STOP_SECONDS: Final = 3.0
"""How long workers may take to leave before they are killed."""

MAX_SLEEP: Final = 3600.0
"""The longest sleep in seconds: the operating system's clocks do not count for ever."""

LOOK_EVERY: Final = 0.005
"""How often the thread looks after its workers while messages keep coming."""


class Head:
    """The head's thread. `start()` it, `post()` to it; it ends after `post_close()`, when all is done."""

    def __init__(
        self,
        limits: Limits,
        setup: Setup,
        *,
        output: Callable[[bytes], None] | None = None,
        on_end: Callable[[], object] = lambda: None,
        counts: bool = True,  # whether it tries again what fails; a foreman's does not
    ) -> None:
        self.thread = threading.Thread(target=self._run, name="ztasks-head", daemon=False)
        self._rundir = RunDir()
        try:
            self.inbox = Inbox(limits.max_bytes)
        except BaseException as error:
            self._rundir.close()
            if isinstance(error, OSError):
                raise cannot_open(error) from error
            raise
        self.post = self.inbox.post
        self._limits = limits
        self._setup = setup
        self._output = output
        self._environment = dict(os.environ)
        self._on_end = on_end
        self._ventilator = Ventilator(_chance, Room(limits.workers, limits.memory), counts=counts)
        self._broken: BaseException | None = None
        self._closing = False
        self._stop_since: float | None = None
        self._stop_next = 0.0

    # --- any thread ---

    def start(self) -> None:
        """Start the thread."""
        try:
            self.thread.start()
        except RuntimeError as error:
            self._rundir.close()
            self.inbox.wakeup.close()
            self.inbox.end()
            raise WorkersCannotStart(f"the head's thread cannot be started: {error}. Nothing was started.") from error

    def join(self) -> None:
        """Wait until everything has been closed."""
        self.inbox.ended.wait()  # first: a KeyboardInterrupt inside Thread.join makes the thread look ended (3.11)
        self.thread.join()

    def post_close(self, *, cancel_waiting: bool = False) -> None:
        """Take no more work, finish what there is (or cancel what waits), then end."""
        self.post(lambda: self._close_intake(cancel_waiting))

    def post_kill(self) -> None:
        """Kill all workers at once, fail what is not done, and end."""
        self.post(self._kill_all)

    def after_fork(self) -> None:
        """In a forked child: let go of what must end with the parent, whether or not the child lives on."""
        self._rundir.let_go()
        if hasattr(self, "_watch"):
            for worker in list(self._watch.crew.workers.values()):
                worker.let_go()

    # --- the thread ---

    def _run(self) -> None:
        """The head's thread, from its start to its end."""
        # Signals are for the user's threads: one that is taken here would not wake the main thread from its sleep, and
        # Ctrl-C would seem lost. Workers inherit this and undo it.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            if self._opened():
                self._loop()
        except BaseException as error:  # noqa: BLE001 - every waiting thread must learn of it
            failure = HeadFailed(
                f"the head's thread stopped because of a defect in ztasks ({type(error).__name__}: {error}); all jobs "
                "that were not done are lost. Please report this with the traceback above."
            )
            failure.__cause__ = error
            self._broken = failure
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            self._shut()

    def _opened(self) -> bool:
        """Open everything; if the system refuses something, all jobs fail with what it says."""
        try:
            self._open()
        except OSError as error:
            self._broken = cannot_open(error)
        return self._broken is None

    def _open(self) -> None:
        self._setup.write(self._rundir.file(FILE))
        self._selector = selectors.DefaultSelector()
        wakeup, limits = self.inbox.wakeup, self._limits
        self._selector.register(wakeup.fileno(), selectors.EVENT_READ, wakeup.clear)
        crew = Crew(
            self._rundir.path,
            limits.workers,
            own_stdout=self._output is None,
            environment=self._environment,
            devices=Devices(limits.devices) if limits.devices else None,
        )
        recycled = limits.max_tasks is not None or self._setup.max_memory is not None
        self._timekeeper = Timekeeper(crew, self._ventilator, limits.kill_memory)
        self._watch = Watch(
            crew,
            self._ventilator,
            self._selector,
            self._rundir,
            budget=limits.max_tasks,
            output=write_stderr if self._output is None else guarded(self._output),
            post=self.post,
            give_up=self._break,
            replace=self._wants_replacement,
            spare=Spare(allowed=not limits.devices, expected=recycled),
        )
        first = [self._watch.spawn() for _ in range(limits.workers)]
        # Late: importing ZeroMQ takes as long as a worker takes to come up, and they can do so meanwhile.
        from ztasks.io.sockets import Sockets

        self._sockets = Sockets(most=2 * limits.workers + 16)  # the dying have theirs beside their successors
        self._sink = Sink(self._sockets.pull(self._rundir.file("sink")), self._ventilator, self._watch)
        self._control = self._sockets.publish(self._rundir.file("control"))
        self._selector.register(self._sink.descriptor(), selectors.EVENT_READ, _nothing)
        for worker in first:
            self._watch.attach(worker, self._sockets)

    def _loop(self) -> None:
        ventilator, inbox, looked = self._ventilator, self.inbox, 0.0
        while True:
            now = monotonic()
            busy = self._sink.read(now) | self._read_inbox()
            self._dispatch(now)
            inbox.give_room()
            if busy and now - looked < LOOK_EVERY:
                continue
            looked = now
            due = self._look_after_workers(now)
            if self._closing and ventilator.pending == 0:
                if not self._stop(now):
                    return
                due = min(STOP_EVERY, STOP_EVERY if due is None else due)
            inbox.hungry = ventilator.wants_work() or self._broken is not None
            inbox.asleep = True
            if busy or inbox or self._sink.waiting():
                due = 0.0
            for key, _ in self._selector.select(None if due is None else min(due, MAX_SLEEP)):
                key.data()
            inbox.asleep = False

    def _look_after_workers(self, now: float) -> float | None:
        """Bury the dead, keep time, take back stuck work; return in how many seconds to look again, or None."""
        ventilator, watch = self._ventilator, self._watch
        due = [watch.bury(self._sockets, now), watch.open_connected(self._sockets)]
        if self._broken is not None:
            self._fail_waiting(self._broken)
        for lane in ventilator.recallable(now):
            self._timekeeper.recall(lane, now)
        self._end_stopped()
        self._dispatch(now)
        due += [self._timekeeper.keep(now), ventilator.next_event(now)]  # of what has just been sent as well
        return min((seconds for seconds in due if seconds is not None), default=None)

    def _wants_replacement(self) -> bool:
        """Tell whether a worker that has gone shall have a successor."""
        leaving = self._stop_since is not None or (self._closing and not self._ventilator.pending)
        return not leaving and self._broken is None

    # --- the inbox ---

    def _read_inbox(self) -> bool:
        slices: list[Slice] = []
        commands = 0
        for item in self.inbox.take():
            if type(item) is Slice:
                slices.append(item)
            else:
                if slices:
                    self._accept(slices)
                    slices = []
                item()  # type: ignore[operator]
                commands += 1
        if slices:
            self._accept(slices)
        return bool(slices) or commands > 0

    def _accept(self, slices: list[Slice]) -> None:
        if self._stop_since is not None:  # posted before the executor was closed, and read too late
            fail(slices, closed_meanwhile())
            return
        self._ventilator.on_submit(slices)

    def cancel_slice(self, slice_: Slice) -> None:
        """Head's thread: a caller has acquired the slice's gate to cancel it."""
        self._ventilator.on_cancel(slice_)

    def stop_job(self, job: Slice) -> None:
        """Head's thread: a caller wants a job stopped, wherever it is."""
        if job.gate is not None and job.gate.acquire(False):
            if self._ventilator.on_cancel(job):
                cancel([job])
            else:  # it has ended just now
                job.gate.release()
            return
        lane = self._ventilator.on_stop(job)
        if lane is not None:
            self._timekeeper.recall(lane, monotonic())
            self._end_stopped()

    def stop_begun(self, wanted: Callable[[Slice], bool]) -> None:
        """Head's thread: stop what workers run, where it is a batch of its own; short items of a map go on."""
        for batch in [batch for lane in self._ventilator.lanes.values() for batch in lane.batches]:
            for job in [job for job in batch.slices if job.count == 1 and wanted(job)]:
                self.stop_job(job)

    def _end_stopped(self) -> None:
        """Tell the owners of jobs that were stopped."""
        if self._ventilator.stopped:
            stopped, self._ventilator.stopped = self._ventilator.stopped, []
            cancel(stopped)

    def look(self) -> list[RunningJob]:
        """Return what the workers run just now. From another thread: waits for the head's."""
        if threading.current_thread() is self.thread:
            return look(self._ventilator, self._watch.crew, monotonic())
        return self.inbox.ask(lambda: look(self._ventilator, self._watch.crew, monotonic())) or []

    def cancel_owner(self, owner: object) -> None:
        """Head's thread: cancel what waits of one map."""
        self.cancel_unbegun(lambda slice_: slice_.owner is owner)

    def cancel_unbegun(self, wanted: Callable[[Slice], bool]) -> None:
        """Head's thread: cancel what has not begun, also what workers have been given and have not claimed."""
        for lane in self._ventilator.lanes.values():
            if any(wanted(slice_) for batch in lane.batches for slice_ in batch.slices):
                self._timekeeper.recall(lane, monotonic())
        cancel(self._ventilator.cancel_waiting(wanted))

    def _close_intake(self, cancel_waiting: bool) -> None:
        self._closing = True
        if cancel_waiting:
            self.cancel_unbegun(lambda slice_: True)

    def _kill_all(self) -> None:
        self._closing = True
        cancel(self._ventilator.cancel_waiting())
        self._break(WorkerLost("the executor was killed before this job had ended; its result is lost"))
        self._watch.kill_all()

    # --- lanes ---

    def _dispatch(self, now: float) -> None:
        """Send what shall be sent. A frame of its own: the loop's would hold the last batch while it sleeps."""
        sends = self._ventilator.dispatch(now)
        for index, send in enumerate(sends):
            if send.batch.position < send.lane.dispatched:  # else one before it could not be sent: it is queued again
                try:
                    self._send(send)
                except MemoryError:
                    self._give_up([other for other in sends[index:] if other.lane is send.lane])

    def _send(self, send: Send) -> None:
        """Send a batch down its lane; if its worker has just gone, the news of its death brings the batch back."""
        lane = self._watch.lanes[send.lane.number]
        lane.send_batch(send)
        if send.lane.budget == 0 and send.batch.end == send.lane.dispatched:
            lane.send(encode(Leave()))
            self._ventilator.on_leaving(send.lane.number)

    def _give_up(self, sends: list[Send]) -> None:
        """There is no memory to send the first of these; the others were to follow it."""
        fail(self._ventilator.on_unsendable(sends), no_memory(sends[0].batch.nbytes))

    def _break(self, error: BaseException) -> None:
        """No worker can be had: fail what waits, now and from now on."""
        if self._broken is None:
            self._broken = error
        self._fail_waiting(self._broken)

    def _fail_waiting(self, error: BaseException) -> None:
        fail(self._ventilator.cancel_waiting(), error)

    # --- the end ---

    def _stop(self, now: float) -> bool:
        """Let the workers leave; tell whether there is still something to wait for."""
        if not self._watch.crew.workers:
            return False
        if self._stop_since is None:
            self._stop_since = self._stop_next = now
        if now >= self._stop_next:
            self._control.send(encode(Control("stop")))
            self._stop_next = now + STOP_EVERY
        self._watch.kill_starting()
        if now - self._stop_since > STOP_SECONDS:
            self._watch.kill_all()
        return True

    def _shut(self) -> None:
        """Close everything in order; whatever is still open is failed first."""
        try:
            if self._broken is not None:
                self._fail_everything(self._broken)
            if hasattr(self, "_watch"):
                self._watch.close()
            if hasattr(self, "_sockets"):
                self._sockets.close()
            if hasattr(self, "_selector"):
                self._selector.close()
        finally:
            self._rundir.close()
            self.inbox.wakeup.close()
            self.inbox.end()
            self.refuse_late()
            self._on_end()

    def _fail_everything(self, error: BaseException) -> None:
        """Fail what waits and what is assigned: the head itself has failed."""
        self._fail_waiting(error)
        fail([slice_ for lane in self._ventilator.lanes.values() for slice_ in lane.held()], error)

    def why_ended(self) -> BaseException | None:
        """Return why the thread has ended by itself, or None."""
        return self._broken

    def refuse_late(self) -> None:
        """Fail what was posted too late; called at the end, and by whoever posts after it."""
        error = self._broken or closed_meanwhile()
        fail([item for item in self.inbox.take() if isinstance(item, Slice)], error)


def _chance() -> float:
    """Return a random number from 0 to 1, for the jitter of retries."""
    import random  # late: few programs retry, and importing it takes 3 ms

    return random.random()


def _nothing() -> None:
    """The sink's descriptor is edge-triggered: it only wakes the loop, which then looks at the sink itself."""
