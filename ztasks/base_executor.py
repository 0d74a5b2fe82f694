"""What an executor and a client have in common: maps, and how they are closed."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from ztasks import lifetime
from ztasks import tasks as task_module
from ztasks.core.options import count
from ztasks.core.slices import RunTime, TaskBooks
from ztasks.errors import ZtasksError
from ztasks.intake import (
    bad_arguments,
    closed,
    forked,
    known_length,
    make_source,
    never_started,
    no_memory_to_pickle,
)
from ztasks.io.delivery import Delivery
from ztasks.io.head import Head
from ztasks.io.inbox import Inbox
from ztasks.known import KnownTasks
from ztasks.mapping import Map, new_number
from ztasks.outcome import Outcome
from ztasks.stream import Stream
from ztasks.units import parse_flag, parse_size, parse_wait
from ztasks.wire.messages import Shape
from ztasks.wire.payload import dump_call

R = TypeVar("R")

BUFFER_BYTES: Final = 64 * 1024 * 1024
"""The default of `buffer_bytes=`: about how many bytes of inputs and results a map holds."""


class BaseExecutor(concurrent.futures.Executor):
    """What gives work to a head: one in this process, or one elsewhere. `submit` is each one's own."""

    max_workers: int
    _head: Head
    _inbox: Inbox
    _delivery: Delivery
    _known: KnownTasks

    _refuse: Callable[[], ZtasksError] | None = staticmethod(never_started)
    """Why no work is taken in; None while the executor is open."""

    def _open(self) -> None:
        """Begin the books; it is open when the constructor has come to its end."""
        self._maps: dict[int, Map] = {}
        self._closing = threading.Lock()
        self._closed = False
        self._tokens: list[Any] = []

    def _after_fork(self) -> None:
        """In a forked child: it is the parent's."""
        self._refuse = forked

    def _serves(self) -> bool:
        """Tell whether this is a thread that others wait for: the delivery thread, or the head's."""
        return threading.current_thread() in (self._delivery._thread, self._head.thread)

    def _take_in(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the books on a callable and the pickled arguments, for which there is room in the budget now."""
        if self._refuse is not None:
            raise self._refuse()
        task = self._known.find(fn)
        try:
            payload = dump_call(args, kwargs)
        except MemoryError:
            raise no_memory_to_pickle(fn) from None
        except Exception as error:
            raise bad_arguments(fn, args, kwargs, error) from error
        inbox = self._inbox
        size = len(payload) if type(payload) is bytes else payload.nbytes  # type: ignore[union-attr]
        inbox.taken += size
        if inbox.taken - inbox.freed > inbox.max_bytes:
            inbox.wait_for_room(size, may_wait=not self._serves())
            if self._refuse is not None:  # closed meanwhile
                inbox.taken -= size
                raise self._refuse()
        return task, payload

    # --- mapping ---

    def map(
        self,
        fn: Callable[..., R],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        buffer_bytes: int | str = BUFFER_BYTES,
        return_exceptions: bool = False,
    ) -> Iterator[R]:
        """Return an iterator over the results of `fn` for each input, in the order of the inputs.

        As `concurrent.futures.Executor.map`, but lazy: the iterables are advanced as results are taken, in this
        thread. timeout: seconds from now until the last result must be there, else TimeoutError. chunksize: a hint for
        the first slices; they size themselves. buffersize: the most items that are read and not yet taken.
        buffer_bytes: about the most bytes of inputs and results that are held. return_exceptions: hand out
        exceptions instead of raising the first.
        """
        parse_flag(return_exceptions, "return_exceptions")
        map_ = self._map(fn, iterables, timeout, chunksize, buffersize, buffer_bytes, ordered=True)
        return map_.values(return_exceptions=return_exceptions)

    def map_unordered(
        self,
        fn: Callable[..., R],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        buffer_bytes: int | str = BUFFER_BYTES,
        return_exceptions: bool = False,
    ) -> Iterator[R]:
        """Like `map`, with the results as they come."""
        parse_flag(return_exceptions, "return_exceptions")
        map_ = self._map(fn, iterables, timeout, chunksize, buffersize, buffer_bytes, ordered=False)
        return map_.values(return_exceptions=return_exceptions)

    def outcomes(
        self,
        fn: Callable[..., R],
        /,
        *iterables: Iterable[Any],
        ordered: bool = True,
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        buffer_bytes: int | str = BUFFER_BYTES,
    ) -> Iterator[Outcome[R]]:
        """Like `map`, but hand out an `Outcome` for each input and never raise because a job failed."""
        map_ = self._map(fn, iterables, timeout, chunksize, buffersize, buffer_bytes, ordered=ordered, detail=True)
        return map_.outcomes()

    def stream(self, fn: Callable[..., Any], /, *, ordered: bool = False) -> Stream:
        """Return a map that is fed in one thread, with `feed(calls)`, and iterated over in another."""
        if self._refuse is not None:
            raise self._refuse()
        task = self._map_task(fn, "call", detail=True)
        stream = Stream(
            self._head,
            task,
            workers=self.max_workers,
            ordered=parse_flag(ordered, "ordered"),
            max_bytes=BUFFER_BYTES,
            on_end=self._forget_map,
        )
        self._maps[task.map_number] = stream
        return stream

    def _map(
        self,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        timeout: float | None,
        chunksize: int,
        buffersize: int | None,
        buffer_bytes: int | str,
        *,
        ordered: bool,
        detail: bool = False,
    ) -> Map:
        if self._refuse is not None:
            raise self._refuse()
        count(chunksize, "chunksize", 1)
        if buffersize is not None:
            count(buffersize, "buffersize", 1)
        max_bytes = parse_size(buffer_bytes, "buffer_bytes")
        seconds = parse_wait(timeout, "timeout")
        deadline = None if seconds is None else monotonic() + seconds
        length = known_length(iterables)
        shape, source = make_source(iterables)
        task = self._map_task(fn, shape, detail=detail)
        map_ = Map(
            self._head,
            task,
            source,
            workers=self.max_workers,
            ordered=parse_flag(ordered, "ordered"),
            length=length,
            plain=shape == "one" and type(iterables[0]) in (list, tuple, range),
            hint=chunksize,
            window=buffersize,
            max_bytes=max_bytes,
            deadline=deadline,
            on_end=self._forget_map,
        )
        self._maps[task.map_number] = map_
        map_.fill()
        return map_

    def _map_task(self, fn: Callable[..., Any], shape: Shape, *, detail: bool) -> TaskBooks:
        """Make the books on a map; what is known of the callable's run time is shared."""
        base = self._known.find(fn)
        # Measuring each job costs time itself, so it has an average of its own.
        run_time = RunTime() if detail else base.run_time
        return TaskBooks(base.callable, base.options, shape, map_number=new_number(), detail=detail, run_time=run_time)

    def _forget_map(self, map_: Map) -> None:
        """A map's input has ended."""
        self._maps.pop(map_.task.map_number, None)

    # --- closing ---

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs, finish what there is, and close everything.

        wait: return when all is closed; else close in the background. cancel_futures: cancel what has not been given
        to a worker. Maps that nobody has begun to take results from are read to their end first; see the docs.
        """
        parse_flag(wait, "wait")
        parse_flag(cancel_futures, "cancel_futures")
        if self._refuse is not None and self._refuse is not closed:
            return  # never started, or another process's
        self._settle_maps(finish=wait and not cancel_futures)
        self._close(cancel_waiting=cancel_futures)
        if wait:
            self._join()

    def kill(self) -> None:
        """Kill the workers at once and close everything. Jobs that run are lost, jobs that wait are cancelled."""
        if self._refuse is None or self._refuse is closed:
            self._settle_maps(finish=False)
            self._refuse = closed
            self._head.post_kill()
            self._join()

    def _settle_maps(self, *, finish: bool) -> None:
        """Decide what becomes of inputs that have not been read to their end."""
        for map_ in list(self._maps.values()):
            if not finish or map_.thread != threading.get_ident() or isinstance(map_, Stream):
                map_.cancel_input()
            elif map_.advanced and map_.length is None:
                map_.cancel()
            else:
                map_.finish()

    def _close_intake(self) -> None:
        """The interpreter is about to end: take in no more, also from threads that go on."""
        if self._refuse is None:
            self._warn_of_forgetting()
            self._refuse = closed
            self._settle_maps(finish=False)

    def _close(self, *, cancel_waiting: bool) -> None:
        with self._closing:
            first, self._closed = not self._closed, True
            self._refuse = closed
        if first or cancel_waiting:
            self._head.post_close(cancel_waiting=cancel_waiting)

    def _join(self) -> None:
        """Wait for the head and the delivery thread; from a callback, only for the head to be told."""
        if threading.current_thread() is self._delivery._thread:
            return
        self._head.join()
        self._delivery.close()
        lifetime.heads.discard(self._head)

    def __enter__(self) -> Self:
        self._tokens.append(task_module.current_executor.set(self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Left in another context than it was entered in; or in a forked child, where nothing was entered.
        with contextlib.suppress(ValueError, IndexError):
            task_module.current_executor.reset(self._tokens.pop())
        if kind is None:
            try:
                self.shutdown()
            except KeyboardInterrupt:
                self._shutdown_interrupted()
                raise
        else:
            self._settle_maps(finish=False)
            if issubclass(kind, Exception):
                self.shutdown()
            else:
                self._shutdown_interrupted()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """As at the end of a `with`, but other coroutines go on while it is closed."""
        import asyncio  # late: it takes 40 ms

        with contextlib.suppress(ValueError, IndexError):
            task_module.current_executor.reset(self._tokens.pop())
        self._settle_maps(finish=kind is None)  # in this thread, which their inputs belong to
        interrupted = kind is not None and not issubclass(kind, Exception)
        await asyncio.shield(asyncio.to_thread(self._shutdown_interrupted if interrupted else self.shutdown))

    def _shutdown_interrupted(self) -> None:
        """Cancel what waits and finish what runs; if interrupted again, kill."""
        try:
            self.shutdown(cancel_futures=True)
        except KeyboardInterrupt:
            self.kill()
            raise

    def __del__(self) -> None:
        if self._refuse is None:
            self._warn_of_forgetting()
            self._close(cancel_waiting=False)

    def _warn_of_forgetting(self) -> None:
        what = f"{self!r} was not closed: use it in a `with`, or call shutdown()"
        warnings.warn(what, ResourceWarning, stacklevel=2, source=self)
