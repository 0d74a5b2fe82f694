"""Futures: a job's result as its caller sees it.

What it must hold: it behaves as `concurrent.futures.Future`, `wait` and `as_completed` included, and costs a fraction:
one million queued jobs fit into a gigabyte. So its Condition and lists are made when somebody needs them, and the
result stays pickled until somebody asks.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError
from concurrent.futures import Future as BaseFuture
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, LOGGER, PENDING
from typing import Any, TypeVar

from ztasks.core.slices import Slice
from ztasks.errors import InvalidOption, ResultNotLoadable, ZtasksError
from ztasks.io.delivery import Delivery
from ztasks.io.head import Head
from ztasks.units import parse_flag, parse_wait, shown
from ztasks.wire.failures import rebuild
from ztasks.wire.messages import Failure
from ztasks.wire.payload import Buffer, load

T = TypeVar("T")

_completion = threading.RLock()
"""Guards the step from "nobody watches" to "somebody watches" of every future: whoever finishes one either sees that
it is watched, or has set its state before the watcher looks. Reentrant, since a finaliser may run inside."""


def _after_fork() -> None:
    """In a forked child: another thread of the parent's may have held it."""
    global _completion
    _completion = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)

_DONE = frozenset({CANCELLED_AND_NOTIFIED, FINISHED})


class _Condition(threading.Condition):
    """Entered and left in C, as a lock: a KeyboardInterrupt in between must not leave it locked: the head needs it."""

    __enter__ = property(lambda self: self._lock.__enter__)
    __exit__ = property(lambda self: self._lock.__exit__)


class Future(BaseFuture[T]):
    """The result of one job. Made by `Executor.submit`."""

    __slots__ = (
        "_callback_list",
        "_delivery",
        "_exception",
        "_gate",
        "_head",
        "_lazy_condition",
        "_payload",
        "_result",
        "_sleepers",
        "_slice",
        "_state",
        "_waiter_list",
    )

    _state: str

    def __init__(self, head: Head, delivery: Delivery) -> None:
        # The base class's __init__ is not called: it makes a Condition and two lists.
        self._state = PENDING
        self._head = head
        self._delivery = delivery
        self._gate = threading.Lock()
        """Held while the job is assigned; see `core.slices.Gate`. Once it is done: held while the result is loaded."""
        self._slice: Slice | None = None
        self._payload: tuple[bytes, Any] | Failure | None = None
        self._result: Any = None
        self._exception: BaseException | None = None
        self._lazy_condition: threading.Condition | None = None
        self._sleepers: list[threading.Lock] | None = None
        """One lock for each thread that waits in `result` or `exception`; released when the job has ended."""
        self._waiter_list: list[Any] | None = None
        self._callback_list: list[Callable[[Any], object]] | None = None

    # --- what the base class and `wait` and `as_completed` use ---

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        condition = self._lazy_condition
        if condition is None:
            with _completion:
                condition = self._lazy_condition
                if condition is None:
                    condition = self._lazy_condition = _Condition()
        return condition

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        if self._waiter_list is None:
            self._waiter_list = []
        return self._waiter_list

    @property
    def _done_callbacks(self) -> list[Callable[[Any], object]]:
        if self._callback_list is None:
            self._callback_list = []
        return self._callback_list

    # --- the caller's side ---

    def done(self) -> bool:
        """Return whether the job has ended: with a result, an error, or by being cancelled."""
        return self._state in _DONE

    def cancelled(self) -> bool:
        """Return whether the job was cancelled."""
        return self._state == CANCELLED_AND_NOTIFIED

    def running(self) -> bool:
        """Return whether the job has been given to a worker and has not ended."""
        return self._state == PENDING and self._gate.locked()

    def cancel(self, *, running: bool = False) -> bool:
        """Cancel the job if it has not been given to a worker; return whether it is cancelled.

        running: if it has, take it back or stop it, as a timeout does: JobCancelled is raised inside the job, and after
        the task's `grace` its worker is killed. This does not wait for that: True says that it was asked for. The
        future is cancelled when the job has ended, unless it comes to its result first.
        """
        parse_flag(running, "running")
        if self._state in _DONE:
            return self._state == CANCELLED_AND_NOTIFIED
        if running:
            slice_ = self._slice
            if slice_ is not None:
                self._head.post(lambda: self._head.stop_job(slice_))
                return True
        got: list[bool] = []
        try:
            got.extend(map(self._gate.acquire, (False,)))  # in C: a KeyboardInterrupt finds it noted, or not done
            if not got[0]:
                return self._state == CANCELLED_AND_NOTIFIED
            return self._cancel()
        except BaseException:
            if got and got[0] and self._state not in _DONE:
                try:
                    self._cancel()
                except RecursionError:  # no stack is left for it here; the head has some, and looks at what is queued
                    self._head.inbox.items.append(self._cancel)
            raise

    def _cancel(self) -> bool:
        """Cancel the job, whose gate has been acquired. May be begun anew when it was interrupted."""
        slice_ = self._slice
        if self._state in _DONE or slice_ is None:  # it ended just now
            self._gate.release()
            return False
        self._head.post(lambda: self._head.cancel_slice(slice_))
        self._finish(CANCELLED_AND_NOTIFIED)
        return True

    def result(self, timeout: float | None = None) -> T:
        """Return the job's result, waiting for it up to `timeout` seconds.

        Raises what the job raised, CancelledError, TimeoutError if it is not there in time, or an error of ztasks
        that says why there is no result.
        """
        seconds = None if timeout is None else parse_wait(timeout, "timeout")
        if self._state not in _DONE:
            self._wait(seconds)
        if self._payload is not None:
            self._load()
        if self._exception is not None:
            try:
                raise self._exception
            finally:
                self = None  # type: ignore[assignment]  # the traceback must not keep the future alive
        if self._state == CANCELLED_AND_NOTIFIED:
            raise CancelledError
        return self._result  # type: ignore[no-any-return]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what `result` would raise because of the job, or None; raises CancelledError and TimeoutError."""
        seconds = None if timeout is None else parse_wait(timeout, "timeout")
        if self._state not in _DONE:
            self._wait(seconds)
        if self._payload is not None:
            self._load()
        if self._state == CANCELLED_AND_NOTIFIED:
            raise CancelledError
        return self._exception

    def __await__(self) -> Generator[Any, None, T]:
        """Wait in a coroutine: `await executor.submit(...)`."""
        import asyncio  # late: it takes 40 ms, and who awaits has it

        return asyncio.wrap_future(self).__await__()

    def add_done_callback(self, fn: Callable[[BaseFuture[T]], object]) -> None:
        """Call `fn(future)` when the job has ended, in the delivery thread; at once if it has ended already."""
        if not callable(fn):
            raise InvalidOption(f"a done-callback must be callable, not {shown(fn)}")
        self._delivery.prepare()
        super().add_done_callback(fn)

    def set_running_or_notify_cancel(self) -> bool:
        """Not for callers: raises ZtasksError."""
        raise _not_yours()

    def set_result(self, result: T) -> None:
        """Not for callers: raises ZtasksError."""
        raise _not_yours()

    def set_exception(self, exception: BaseException | None) -> None:
        """Not for callers: raises ZtasksError."""
        raise _not_yours()

    def _wait(self, timeout: float | None) -> None:
        """Wait until the job has ended; raises TimeoutError. A bare lock: a Condition would cost 10 us more."""
        alarm = threading.Lock()
        alarm.acquire()
        with _completion:
            if self._state in _DONE:
                return
            if self._sleepers is None:
                self._sleepers = []
            self._sleepers.append(alarm)
        try:
            if not alarm.acquire(timeout=-1 if timeout is None else timeout) and self._state not in _DONE:
                raise TimeoutError
        finally:
            with contextlib.suppress(ValueError):
                self._sleepers.remove(alarm)

    def _load(self) -> None:
        """Unpickle what has come, once."""
        with self._gate:
            payload = self._payload
            if payload is None:
                return
            if isinstance(payload, Failure):
                self._exception = rebuild(payload)
            else:
                try:
                    self._result = load(*payload)
                except Exception as error:  # noqa: BLE001 - unpickling runs any code
                    self._exception = not_loadable(error)
            self._payload = None

    # --- the head's side ---

    def succeed(self, data: bytes, buffers: list[Buffer]) -> None:
        """The head: the job's result has come."""
        self._payload = (data, buffers)
        self._finish(FINISHED)
        self._gate.release()

    def fail(self, error: Failure | BaseException) -> None:
        """The head: the job has failed."""
        if isinstance(error, Failure):
            self._payload = error
        else:
            self._exception = error
        self._finish(FINISHED)
        if self._gate.locked():
            self._gate.release()

    def cancelled_by_head(self) -> None:
        """The head: the job was cancelled while it waited."""
        self._finish(CANCELLED_AND_NOTIFIED)

    def _finish(self, state: str) -> None:
        """Set the final state, and wake and call whoever waits."""
        with _completion:
            watched = self._lazy_condition is not None
            if not watched:
                self._state = state
        if watched:
            self._finish_watched(state)
        # Whoever comes to wait from now on sees the state; who stops waiting takes its alarm out of the list meanwhile.
        for alarm in tuple(self._sleepers or ()):
            alarm.release()
        slice_, self._slice = self._slice, None
        if slice_ is not None:
            payload = slice_.payload
            self._head.inbox.free(len(payload) if type(payload) is bytes else slice_.nbytes)

    def _finish_watched(self, state: str) -> None:
        """Somebody has a hold on the condition: `wait`, `as_completed`, or a callback."""
        with self._condition:
            self._state = state
            for waiter in self._waiter_list or ():
                if state == FINISHED:
                    (waiter.add_result if self._succeeded() else waiter.add_exception)(self)
                else:
                    waiter.add_cancelled(self)
            self._condition.notify_all()
        if self._callback_list:
            self._delivery.post(self._call_back)

    def __repr__(self) -> str:
        state = "cancelled" if self.cancelled() else "finished" if self.done() else "pending"
        return f"<ztasks.Future {state} at {id(self):#x}>"

    def _succeeded(self) -> bool:
        """Whether a result has come; if it turns out not to load, a waiter has taken it for a success."""
        return self._exception is None and not isinstance(self._payload, Failure)

    def _call_back(self) -> None:
        for callback in self._callback_list or ():
            try:
                callback(self)
            except Exception:  # noqa: BLE001 - as concurrent.futures does: logged, and the others are called
                LOGGER.exception("exception calling callback for %r", self)


def _not_yours() -> ZtasksError:
    return ZtasksError(
        "a future of ztasks is completed by its executor. Nothing was changed; use concurrent.futures.Future for a "
        "future of your own."
    )


def not_loadable(error: Exception) -> ResultNotLoadable:
    """Return the error for a result that does not unpickle in this process."""
    failure = ResultNotLoadable(
        f"the job ran, but its result does not unpickle in this process: {type(error).__name__}: {error}. "
        "That result is lost; mend the class's __reduce__ or __setstate__, or import what it needs here."
    )
    failure.__cause__ = error
    return failure
