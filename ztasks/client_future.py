"""The futures of a client, and who waits until a sent job is accepted."""

from __future__ import annotations

import contextlib
import sys
import threading
from concurrent.futures._base import CANCELLED_AND_NOTIFIED
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from ztasks.future import Future
from ztasks.io.delivery import Delivery
from ztasks.wire.messages import Failure

if TYPE_CHECKING:
    from ztasks.io.client_thread import RemoteHead
    from ztasks.io.head import Head

T = TypeVar("T")

CANCEL_SECONDS: Final = 1.0
"""How long `cancel` waits for the head to say whether it has cancelled a job."""


class ClientFuture(Future[T]):
    """The result of one job that a head elsewhere has. Made by `Client.submit`."""

    __slots__ = ("alarm", "number")

    detached = False

    def __init__(self, remote: RemoteHead, delivery: Delivery, *, waits: bool) -> None:
        super().__init__(cast("Head", remote), delivery)
        self.number = 0
        """The job's in its client's session; 0 until it has been sent."""
        self.alarm = _set_alarm() if waits else None
        """Released when the job is accepted, or has ended; None if no thread waits for that."""

    @property
    def job_id(self) -> str | None:
        """The job's id, for `client.job` and `ztasks result`; None until it has been sent."""
        number = self.number
        return f"{self._remote.session:016x}-{number}" if number else None

    @property
    def _remote(self) -> RemoteHead:
        return cast("RemoteHead", self._head)

    @property
    def refusal(self) -> BaseException | None:
        """Why the job was not accepted, as far as this client knows it."""
        return self._exception if self._payload is None else None

    def cancel(self, *, running: bool = False) -> bool:
        """Cancel the job if it has not begun; return whether it is cancelled.

        A job that has been sent is cancelled by the head, which is asked and has a second to answer: False says that
        the job has begun or ended, or that nothing is known yet; then it may still be cancelled a little later. Where
        an event loop runs, this does not wait, and is True for a job that has not been sent.

        running: stop it if it has begun, as a timeout does: JobCancelled is raised inside the job, and after the task's
        `grace` its worker is killed. This does not wait for that: True says that it was asked for.
        """
        if super().cancel(running=running):
            return True
        if not self.done():
            seconds = 0.0 if in_event_loop() else CANCEL_SECONDS
            self._remote.ask_to_cancel(self, seconds)
        return self._state == CANCELLED_AND_NOTIFIED

    @property
    def unsure(self) -> bool:
        """Whether a thread waits for the job to be accepted."""
        return self.alarm is not None

    def accept(self) -> None:
        """The client's thread: the job is accepted, or has ended."""
        alarm, self.alarm = self.alarm, None
        if alarm is not None:
            alarm.release()

    def after_fork(self) -> None:
        """In a forked child: whoever waits or is called back belongs to the parent."""
        self._lazy_condition = None

    def abandon(self) -> None:
        """Nobody has a hold on this future: its caller was interrupted. Stop the job if that can be done."""
        slice_ = self._slice
        if slice_ is not None:
            self._remote.post(lambda: self._remote.stop_job(slice_))


class Sending:
    """The owner of a detached job, until the head has accepted it."""

    __slots__ = ("alarm", "cancelled", "error", "number", "remote", "size")

    detached = True

    def __init__(self, remote: RemoteHead, size: int) -> None:
        self.remote = remote
        self.size = size
        self.number = 0
        self.error: BaseException | None = None
        """Why it was not accepted."""
        self.cancelled = False
        self.alarm: threading.Lock | None = _set_alarm()

    @property
    def unsure(self) -> bool:
        """Whether a thread waits for the job to be accepted."""
        return self.alarm is not None

    def accept(self) -> None:
        """The client's thread: the job is accepted, or will never be."""
        alarm, self.alarm = self.alarm, None
        if alarm is not None:
            self.remote.inbox.free(self.size)
            alarm.release()

    def after_fork(self) -> None:
        """In a forked child: nothing waits here."""

    def fail(self, error: Failure | BaseException) -> None:
        """The client's thread: it was not accepted."""
        if isinstance(error, BaseException):
            self.error = error

    def succeed(self, data: bytes, buffers: Any) -> None:
        """The client's thread: it has ended already; whoever wants the result asks for it."""

    def cancelled_by_head(self) -> None:
        """The client's thread: it was cancelled before it was accepted."""
        self.cancelled = True


def _set_alarm() -> threading.Lock:
    alarm = threading.Lock()
    alarm.acquire()
    return alarm


def wait_for(owner: ClientFuture[Any] | Sending) -> None:
    """Wait until a job is accepted or has ended."""
    alarm = owner.alarm
    if alarm is not None:
        alarm.acquire()


def in_event_loop() -> bool:
    """Tell whether an event loop runs in this thread, which must not be held up."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    with contextlib.suppress(RuntimeError):
        return asyncio.get_running_loop() is not None
    return False
