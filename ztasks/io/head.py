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
import sys
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

from ztasks.core.lane import LaneState
from ztasks.core.slices import Finished, Slice
from ztasks.core.ventilator import Send, Ventilator
from ztasks.errors import ExecutorClosed, HeadFailed, WireError, WorkerLost, WorkersCannotStart
from ztasks.io.cell import CURSOR, SENT
from ztasks.io.crew import Crew, WorkerProcess, watch_exit
from ztasks.io.deliver import cancel, deliver, fail
from ztasks.io.lanes import LaneSocket
from ztasks.io.rundir import RunDir
from ztasks.io.setup import FILE, Setup
from ztasks.io.wakeup import Wakeup
from ztasks.wire.failures import rebuild
from ztasks.wire.messages import (
    Bye,
    Control,
    Leave,
    Ready,
    Results,
    StartFailed,
    check_items,
    decode_from_worker,
    encode,
)
from ztasks.wire.payload import Items

if TYPE_CHECKING:
    from ztasks.io.sockets import Socket

DRAIN_SECONDS: Final = 0.100
"""How long the sink is drained after a worker's death for what it had sent."""

STOP_EVERY: Final = 0.025
"""How often control repeats itself while workers leave."""

STOP_SECONDS: Final = 3.0
"""How long workers may take to leave before they are killed."""

START_FAILURES: Final = 3
"""After so many workers in a row have died before they were ready, no more are started."""

MESSAGES_AT_ONCE: Final = 64
"""How many messages are read before the lanes are looked after again."""


class Head:
    """The head's thread. `start()` it, `post()` to it; it ends after `post_close()`, when all is done."""

    def __init__(
        self,
        workers: int,
        setup: Setup,
        *,
        budget: int | None = None,
        output: Callable[[bytes], None] | None = None,
    ) -> None:
        self._thread = threading.Thread(target=self._run, name="ztasks-head", daemon=False)
        self.inbox: deque[Slice | Callable[[], None]] = deque()
        self.ended = threading.Event()
        """Set when everything has been closed."""
        self._asleep = False
        self._size = workers
        self._setup = setup
        self._budget = budget
        self._output = output
        self._ventilator = Ventilator(_chance)
        self._lanes: dict[int, LaneSocket] = {}
        self._dying: dict[int, float] = {}
        """Workers that have ended, by lane, and until when the sink is drained for what they had sent."""
        self._next_lane = 0
        self._start_failures = 0
        self._broken: BaseException | None = None
        self._closing = False
        self._stop_since: float | None = None
        self._stop_next = 0.0
        self._wakeup = Wakeup()
        self._rundir = RunDir()

    # --- any thread ---

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self) -> None:
        """Wait until everything has been closed."""
        self._thread.join()

    def post(self, item: Slice | Callable[[], None]) -> None:
        """Hand over a slice to run, or something to call in the head's thread."""
        self.inbox.append(item)
        if self._asleep:  # only the thread resets it: a KeyboardInterrupt here would leave it asleep for ever
            self._wakeup.set()

    def post_close(self, *, cancel_waiting: bool = False) -> None:
        """Take no more work, finish what there is (or cancel what waits), then end."""
        self.post(lambda: self._close_intake(cancel_waiting))

    def post_kill(self) -> None:
        """Kill all workers at once, fail what is not done, and end."""
        self.post(self._kill_all)

    # --- the thread ---

    def _run(self) -> None:
        """The head's thread, from its start to its end."""
        try:
            self._open()
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

    def _open(self) -> None:
        self._setup.write(self._rundir.file(FILE))
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakeup.fileno(), selectors.EVENT_READ, self._wakeup.clear)
        self._crew = Crew(self._rundir.path, self._size, own_stdout=self._output is None)
        first = [self._spawn() for _ in range(self._size)]
        # Late: importing ZeroMQ takes as long as a worker takes to come up, and they can do so meanwhile.
        from ztasks.io.sockets import Sockets

        self._sockets = Sockets()
        self._sink = self._sockets.pull(self._rundir.file("sink"))
        self._control = self._sockets.publish(self._rundir.file("control"))
        self._selector.register(self._sink.descriptor(), selectors.EVENT_READ, _nothing)
        for worker in first:
            self._attach(worker)

    def _loop(self) -> None:
        ventilator, inbox = self._ventilator, self.inbox
        while True:
            now = monotonic()
            busy = self._read_sink(now)
            busy = self._read_inbox() or busy
            self._bury(now)
            for send in ventilator.dispatch(now):
                self._send(send)
            if not busy:
                for lane in ventilator.recallable(now):
                    busy = self._recall(lane.number, now) or busy  # what came back shall be dispatched at once
            if self._closing and ventilator.pending == 0 and not self._stop(now):
                return
            if busy:
                continue
            self._asleep = True
            if inbox or self._sink.readable():
                self._asleep = False
                continue
            for key, _ in self._selector.select(self._timeout(now)):
                key.data()
            self._asleep = False

    def _timeout(self, now: float) -> float | None:
        due = [self._ventilator.next_event(now)]
        if self._dying:
            due.append(0.001)
        if self._stop_since is not None:
            due.append(max(0.0, self._stop_next - now))
        return min((seconds for seconds in due if seconds is not None), default=None)

    # --- the inbox ---

    def _read_inbox(self) -> bool:
        inbox = self.inbox
        slices: list[Slice] = []
        commands = 0
        while inbox:
            item = inbox.popleft()
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
        self._ventilator.on_submit(slices)
        if self._broken is not None:
            self._fail_waiting(self._broken)

    def cancel_slice(self, slice_: Slice) -> None:
        """Head's thread: a caller has acquired the slice's gate to cancel it."""
        self._ventilator.on_cancel(slice_)

    def cancel_owner(self, owner: object) -> None:
        """Head's thread: cancel what waits of one map."""
        cancel(self._ventilator.cancel_waiting(lambda slice_: slice_.owner is owner))

    def _close_intake(self, cancel_waiting: bool) -> None:
        self._closing = True
        if cancel_waiting:
            cancel(self._ventilator.cancel_waiting())

    def _kill_all(self) -> None:
        self._closing = True
        cancel(self._ventilator.cancel_waiting())
        self._budget = None
        self._broken = self._broken or WorkerLost("the executor was killed before this job had ended; its result is lost")
        for worker in self._crew.workers.values():
            worker.kill()

    # --- lanes and workers ---

    def _spawn(self) -> WorkerProcess | None:
        """Start a worker process and open the books on it."""
        number = self._next_lane
        self._next_lane += 1
        try:
            worker = self._crew.start(number)
        except OSError as error:
            self._start_failed(f"a worker process cannot be started: {error}")
            return None
        self._ventilator.on_starting(number, self._budget)
        return worker

    def _attach(self, worker: WorkerProcess | None) -> None:
        """Open the lane to a new worker, and watch it."""
        if worker is None:
            return
        number = worker.lane
        lane = self._lanes[number] = LaneSocket(self._sockets.lane(self._rundir.file(f"lane-{number}")))
        lane.watched = watch_exit(worker, lambda: self.post(lambda: self._on_exit(worker)))
        if lane.watched is not None:
            self._selector.register(lane.watched, selectors.EVENT_READ, lambda: self._on_exit(worker))
        assert worker.output is not None
        self._selector.register(worker.output, selectors.EVENT_READ, lambda: self._on_output(worker))

    def _on_output(self, worker: WorkerProcess) -> None:
        """Pass on what a worker has written to stderr."""
        descriptor = worker.output
        lines = worker.read_output()
        if worker.output is None and descriptor is not None:
            self._selector.unregister(descriptor)
        if not lines:
            return
        if self._output is not None:
            self._output(lines)
        else:
            write_stderr(lines)

    def _on_exit(self, worker: WorkerProcess) -> None:
        """A worker process has ended: reap it, then drain the sink for what it had sent."""
        lane = self._lanes[worker.lane]
        if lane.watched is not None:
            self._selector.unregister(lane.watched)
            lane.close_watched()
        worker.reap()
        self._dying[worker.lane] = monotonic() + DRAIN_SECONDS

    def _bury(self, now: float) -> None:
        """Close the books on workers that have ended, once all they sent has come, or could have."""
        for number, deadline in list(self._dying.items()):
            worker = self._crew.workers[number]
            lane = self._ventilator.lanes[number]
            fields = worker.cell.fields
            if now < deadline and lane.received < fields[SENT] and worker.ready:
                continue
            del self._dying[number]
            if worker.output is not None:
                self._selector.unregister(worker.output)
                descriptor = worker.output
                self._on_last_output(worker, descriptor)
            how = worker.how_it_ended()
            cursor = fields[CURSOR]
            leaving = lane.state is LaneState.LEAVING
            finished = self._ventilator.on_lost(number, cursor if cursor >= 0 else None, how, now)
            for outcome in finished:
                deliver(outcome, None, None, worker.pid)
            tail = worker.tail
            self._lanes.pop(number).close(self._sockets)
            self._crew.forget(worker)
            if self._stop_since is not None or self._broken is not None:
                if self._broken is not None:
                    self._fail_waiting(self._broken)
                continue
            if not worker.ready and not leaving:
                self._start_failed(f"{how} before it was ready. It wrote:\n{tail or '(nothing)'}")
            if self._broken is None and not (self._closing and self._ventilator.pending == 0):
                self._attach(self._spawn())

    def _on_last_output(self, worker: WorkerProcess, descriptor: int) -> None:
        lines = worker.read_output()
        if lines:
            (self._output or write_stderr)(lines)

    def _start_failed(self, why: str, *, final: bool = False) -> None:
        """Count a worker that did not come up; after some in a row, give up and say why."""
        self._start_failures += 1
        if final or self._start_failures >= START_FAILURES:
            if self._broken is None:
                self._broken = WorkersCannotStart(
                    f"the workers cannot start: {why}\nJobs that were queued have not run. Mend the cause and make a "
                    "new executor."
                )
            self._fail_waiting(self._broken)

    def _fail_waiting(self, error: BaseException) -> None:
        fail(self._ventilator.cancel_waiting(), error)

    def _send(self, send: Send) -> None:
        """Send a batch down its lane; if its worker has just gone, the news of its death brings the batch back."""
        number = send.lane.number
        self._lanes[number].send_batch(send)
        if send.lane.budget == 0:
            self._lanes[number].send(encode(Leave()))
            self._ventilator.on_leaving(number)

    def _recall(self, number: int, now: float) -> bool:
        """Take back what a worker has not claimed; tell whether there was anything."""
        lane = self._ventilator.lanes[number]
        worker = self._crew.workers[number]
        if worker.exit_code is not None:
            return False
        claimed = worker.cell.recall()
        if claimed is None:
            lane.moved = now  # it is claiming right now, so it is alive and kicking
            return False
        return self._ventilator.on_recalled(lane, claimed, now) > 0

    # --- the sink ---

    def _read_sink(self, now: float) -> bool:
        """Take in what workers have sent; tell whether there was anything."""
        sink = self._sink
        for count in range(MESSAGES_AT_ONCE):
            if not sink.readable():
                return count > 0
            try:
                self._read_message(sink, now)
            except WireError as error:
                sink.discard_rest()
                write_stderr(f"ztasks: {error}\n".encode())
        return True

    def _read_message(self, sink: Socket, now: float) -> None:
        message = decode_from_worker(sink.receive_header())
        if type(message) is Results:
            items = _receive_items(sink, message)
            finished = self._ventilator.on_results(message, now)
            if finished is not None:
                deliver(finished, message, items, self._crew.workers[message.lane].pid)
        elif isinstance(message, Ready):
            worker = self._crew.workers.get(message.lane)
            if worker is not None:
                worker.ready = True
                self._start_failures = 0
                self._ventilator.on_ready(message.lane)
        elif isinstance(message, StartFailed):
            worker = self._crew.workers.get(message.lane)
            if worker is not None:
                worker.ready = True  # it came up; what it was told to run failed, and would fail again
                error = rebuild(message.failure)
                self._broken = WorkersCannotStart(
                    f"the workers cannot start: {error}\nJobs that were queued have not run. Mend the cause and make a "
                    "new executor."
                )
                self._broken.__cause__ = error.__cause__
                self._fail_waiting(self._broken)
        elif isinstance(message, Bye) and message.lane in self._ventilator.lanes:
            self._ventilator.on_leaving(message.lane)

    # --- the end ---

    def _stop(self, now: float) -> bool:
        """Let the workers leave; tell whether there is still something to wait for."""
        workers = self._crew.workers
        if not workers:
            return False
        if self._stop_since is None:
            self._stop_since = self._stop_next = now
        if now >= self._stop_next:
            self._control.send(encode(Control("stop")))
            self._stop_next = now + STOP_EVERY
        starting = [worker for worker in workers.values() if not worker.ready]
        for worker in list(workers.values()) if now - self._stop_since > STOP_SECONDS else starting:
            worker.kill()
        return True

    def _shut(self) -> None:
        """Close everything in order; whatever is still open is failed first."""
        try:
            if self._broken is not None:
                self._fail_everything(self._broken)
            crew = getattr(self, "_crew", None)
            for worker in list(crew.workers.values()) if crew is not None else ():
                if worker.exit_code is None:
                    worker.reap()
                crew.forget(worker)
            for lane in self._lanes.values():
                lane.close_watched()
            if hasattr(self, "_sockets"):
                self._sockets.close()
            if hasattr(self, "_selector"):
                self._selector.close()
        finally:
            self._rundir.close()
            self.ended.set()
            self.refuse_late()

    def close_wakeup(self) -> None:
        """Release the descriptor that wakes the thread; the owner calls this after the thread has ended."""
        self._wakeup.close()

    def _fail_everything(self, error: BaseException) -> None:
        """Fail what waits and what is assigned: the head itself has failed."""
        self._fail_waiting(error)
        assigned = [
            slice_ for lane in self._ventilator.lanes.values() for batch in lane.batches for slice_ in batch.slices
        ]
        fail(assigned, error)

    def refuse_late(self) -> None:
        """Fail what was posted too late; called at the end, and by whoever posts after it."""
        error = self._broken or ExecutorClosed("the executor was closed while this job was being submitted")
        while self.inbox:
            try:
                item = self.inbox.popleft()
            except IndexError:  # another thread was quicker
                return
            if isinstance(item, Slice):
                fail([item], error)


def _receive_items(sink: Socket, results: Results) -> Items:
    """Receive the frames that a report's header announces; raises WireError."""
    frames = sink.receive_frames(int(results.payload is None), sum(results.buffers or ()))
    data = frames.pop(0) if results.payload is None else results.payload
    check_items(results, len(data))
    return Items(results.form, results.count, data, results.sizes, results.buffers, frames)


def write_stderr(lines: bytes) -> None:
    """Write workers' output to this process's stderr."""
    try:
        os.write(2, lines)
    except OSError:  # stderr is closed or full: there is nobody to tell
        return


def _chance() -> float:
    """Return a random number from 0 to 1, for the jitter of retries."""
    import random  # late: few programs retry, and importing it takes 3 ms

    return random.random()


def _nothing() -> None:
    """The sink's descriptor is edge-triggered: it only wakes the loop, which then looks at the sink itself."""


__all__ = ["Finished", "Head"]
