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
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

from ztasks.core.slices import Slice
from ztasks.core.ventilator import Send, Ventilator
from ztasks.errors import ExecutorClosed, HeadFailed, WireError, WorkerLost
from ztasks.io.crew import Crew, write_stderr
from ztasks.io.deliver import cancel, deliver, fail, receive_items
from ztasks.io.rundir import RunDir
from ztasks.io.setup import FILE, Setup
from ztasks.io.wakeup import Wakeup
from ztasks.io.watch import Watch
from ztasks.wire.messages import (
    Bye,
    Control,
    Leave,
    Ready,
    Results,
    StartFailed,
    decode_from_worker,
    encode,
)

if TYPE_CHECKING:
    from ztasks.io.sockets import Socket

STOP_EVERY: Final = 0.025
"""How often control repeats itself while workers leave."""

STOP_SECONDS: Final = 3.0
"""How long workers may take to leave before they are killed."""

MAX_SLEEP: Final = 3600.0
"""The longest sleep in seconds: the operating system's clocks do not count for ever."""

LOOK_EVERY: Final = 0.005
"""How often the thread looks after its workers while messages keep coming."""

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
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        self._thread = threading.Thread(target=self._run, name="ztasks-head", daemon=False)
        self.inbox: deque[Slice | Callable[[], None]] = deque()
        self.ended = threading.Event()
        """Set when everything has been closed."""
        self._asleep = False
        self._hungry = True
        """Whether new work could be sent at once. If not, it need not wake the thread: the next outcome will."""
        self._size = workers
        self._setup = setup
        self._budget = budget
        self._output = output
        self._environment = dict(os.environ)
        self._on_end = on_end
        self._ventilator = Ventilator(_chance)
        self._broken: BaseException | None = None
        self._closing = False
        self._stop_since: float | None = None
        self._stop_next = 0.0
        self._rundir = RunDir()
        self._wakeup = Wakeup()

    # --- any thread ---

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self) -> None:
        """Wait until everything has been closed."""
        self.ended.wait()  # first: a KeyboardInterrupt inside Thread.join makes the thread look ended (3.11)
        self._thread.join()

    def post(self, item: Slice | Callable[[], None]) -> None:
        """Hand over a slice to run, or something to call in the head's thread."""
        self.inbox.append(item)
        # A wake-up takes the interpreter away from the caller, for longer than the whole rest of a submit.
        # Only the thread itself resets `_asleep`: a KeyboardInterrupt between the two would leave it asleep for ever.
        if self._asleep and (self._hungry or type(item) is not Slice):
            self._wakeup.set()

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
        self._watch = Watch(
            Crew(self._rundir.path, self._size, own_stdout=self._output is None, environment=self._environment),
            self._ventilator,
            self._selector,
            self._rundir,
            budget=self._budget,
            output=self._pass_on if self._output is not None else write_stderr,
            post=self.post,
            give_up=self._break,
        )
        first = [self._watch.spawn() for _ in range(self._size)]
        # Late: importing ZeroMQ takes as long as a worker takes to come up, and they can do so meanwhile.
        from ztasks.io.sockets import Sockets

        self._sockets = Sockets()
        self._sink = self._sockets.pull(self._rundir.file("sink"))
        self._control = self._sockets.publish(self._rundir.file("control"))
        self._selector.register(self._sink.descriptor(), selectors.EVENT_READ, _nothing)
        for worker in first:
            self._watch.attach(worker, self._sockets)

    def _loop(self) -> None:
        ventilator, looked = self._ventilator, 0.0
        while True:
            now = monotonic()
            busy = self._read_sink(now)
            busy = self._read_inbox() or busy
            self._dispatch(now)
            if busy and now - looked < LOOK_EVERY:
                continue
            looked = now
            due = self._look_after_workers(now)
            if self._closing and ventilator.pending == 0 and not self._stop(now):
                return
            self._hungry = ventilator.wants_work() or self._broken is not None
            self._asleep = True
            if busy or self.inbox or self._sink.readable():
                due = 0.0
            for key, _ in self._selector.select(None if due is None else min(due, MAX_SLEEP)):
                key.data()
            self._asleep = False

    def _look_after_workers(self, now: float) -> float | None:
        """Bury the dead, keep time, take back stuck work; return in how many seconds to look again, or None."""
        ventilator, watch = self._ventilator, self._watch
        due = [watch.bury(self._sockets, now, replace=self._wants_replacement), watch.open_connected()]
        if self._broken is not None:
            self._fail_waiting(self._broken)
        if ventilator.timed:
            due.append(watch.keep_time(now))
        for lane in ventilator.recallable(now):
            watch.recall(lane.number, now)
        self._dispatch(now)
        due.append(ventilator.next_event(now))
        if self._stop_since is not None:
            due.append(max(0.0, self._stop_next - now))
        return min((seconds for seconds in due if seconds is not None), default=None)

    def _pass_on(self, lines: bytes) -> None:
        """Give what workers have written to the caller's function; whatever that does wrong must not stop the head."""
        assert self._output is not None
        try:
            self._output(lines)
        except Exception as error:  # noqa: BLE001
            write_stderr(f"ztasks: output= raised {type(error).__name__}: {error}\n".encode() + lines)

    def _wants_replacement(self) -> bool:
        """Tell whether a worker that has gone shall have a successor."""
        leaving = self._stop_since is not None or (self._closing and self._ventilator.pending == 0)
        return not leaving and self._broken is None

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
        if self._stop_since is not None:  # posted before the executor was closed, and read too late
            fail(slices, _closed_meanwhile())
            return
        self._ventilator.on_submit(slices)

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
        self._break(WorkerLost("the executor was killed before this job had ended; its result is lost"))
        self._watch.kill_all()

    # --- lanes ---

    def _dispatch(self, now: float) -> None:
        """Send what shall be sent. A frame of its own: the loop's would hold the last batch while it sleeps."""
        for send in self._ventilator.dispatch(now):
            self._send(send)

    def _send(self, send: Send) -> None:
        """Send a batch down its lane; if its worker has just gone, the news of its death brings the batch back."""
        lane = self._watch.lanes[send.lane.number]
        lane.send_batch(send)
        if send.lane.budget == 0:
            lane.send(encode(Leave()))
            self._ventilator.on_leaving(send.lane.number)

    def _break(self, error: BaseException) -> None:
        """No worker can be had: fail what waits, now and from now on."""
        if self._broken is None:
            self._broken = error
        self._fail_waiting(self._broken)

    def _fail_waiting(self, error: BaseException) -> None:
        fail(self._ventilator.cancel_waiting(), error)

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
            try:
                items = receive_items(sink, message)
                finished = self._ventilator.on_results(message, now)
            except WireError:
                self._watch.kill(message.lane)  # what it holds is given to its successor
                raise
            if finished is not None:
                deliver(finished, message, items, self._watch.crew.workers[message.lane].pid)
        elif isinstance(message, Ready):
            self._watch.on_ready(message.lane)
        elif isinstance(message, StartFailed):
            self._watch.on_start_failed(message.lane, message.failure)
        elif isinstance(message, Bye) and message.lane in self._ventilator.lanes:
            self._ventilator.on_leaving(message.lane)
            self._watch.on_bye(message.lane, now)

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
            self._wakeup.close()
            self.ended.set()
            self.refuse_late()
            self._on_end()

    def _fail_everything(self, error: BaseException) -> None:
        """Fail what waits and what is assigned: the head itself has failed."""
        self._fail_waiting(error)
        assigned = [
            slice_
            for lane in self._ventilator.lanes.values()
            for batch in lane.batches
            for slice_ in batch.rest(max(lane.received - batch.position, 0))
        ]
        fail(assigned, error)

    def refuse_late(self) -> None:
        """Fail what was posted too late; called at the end, and by whoever posts after it."""
        error = self._broken or _closed_meanwhile()
        while self.inbox:
            try:
                item = self.inbox.popleft()
            except IndexError:  # another thread was quicker
                return
            if isinstance(item, Slice):
                fail([item], error)


def _closed_meanwhile() -> ExecutorClosed:
    return ExecutorClosed("the executor was closed while this job was being submitted; it was not run")


def _chance() -> float:
    """Return a random number from 0 to 1, for the jitter of retries."""
    import random  # late: few programs retry, and importing it takes 3 ms

    return random.random()


def _nothing() -> None:
    """The sink's descriptor is edge-triggered: it only wakes the loop, which then looks at the sink itself."""
