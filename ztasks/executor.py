"""The executor: head, crew and books in the user's own process, behind the interface of `concurrent.futures`."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count as counter
from time import monotonic
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar

from ztasks import lifetime
from ztasks import tasks as task_module
from ztasks.core.options import count
from ztasks.core.slices import RunTime, Slice, TaskBooks
from ztasks.errors import InvalidOption, ZtasksError
from ztasks.future import Future
from ztasks.intake import (
    bad_arguments,
    closed,
    exiting,
    known_length,
    make_setup,
    make_source,
    never_started,
    no_memory_to_pickle,
)
from ztasks.io.delivery import Delivery
from ztasks.io.head import Head
from ztasks.io.looking import RunningJob
from ztasks.known import KnownTasks
from ztasks.limits import make_limits, positive
from ztasks.mapping import Map, new_number
from ztasks.outcome import Outcome
from ztasks.stream import Stream
from ztasks.units import parse_flag, parse_size, parse_wait, shown
from ztasks.wire.messages import Shape
from ztasks.wire.payload import dump_call

P = ParamSpec("P")
R = TypeVar("R")

BUFFER_BYTES: Final = 64 * 1024 * 1024
"""The default of `buffer_bytes=`: about how many bytes of inputs and results a map holds."""


class Executor(concurrent.futures.Executor):
    """Runs jobs in worker processes of this host. Use it in a `with`, which closes it.

    max_workers: how many workers; default: the least of CPU affinity, cgroup quota and SLURM_CPUS_PER_TASK.
    initializer, initargs: called once in every worker before its first job.
    preload: names of modules that every worker imports before its first job.
    max_tasks_per_child: a worker is replaced after so many jobs.
    max_memory_per_child: a worker that has more resident memory than this after a job is replaced. Sizes are bytes, or
        text such as "2GiB".
    kill_memory_per_child: a worker that has more than this while a job runs is killed, as if it had died of it;
        default: twice max_memory_per_child.
    max_bytes: the most bytes that the arguments of submitted jobs hold until the jobs have ended: beyond that, `submit`
        waits. Also the most that one result may take. Default: a quarter of the memory there is.
    memory: what all jobs together may take that say so with `memory=`; default: the memory there is.
    gpus: "auto", or how many: each worker sees one of them, its own, in CUDA_VISIBLE_DEVICES.
    output: called with whole lines of bytes that the workers write to stdout or stderr, in the head's thread; it must
        not block. Default: they write to this process's stdout and stderr.

    Raises InvalidOption for wrong arguments, CallNotPicklable for an initializer that cannot travel, and
    WorkersCannotStart if the private directory cannot be made. If workers cannot start, the jobs fail with that.
    """

    _refuse: Callable[[], ZtasksError] | None = staticmethod(never_started)
    """Why no work is taken in; None while the executor is open."""

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        preload: Sequence[str] = (),
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | str | None = None,
        kill_memory_per_child: int | str | None = None,
        max_bytes: int | str | None = None,
        memory: int | str | None = None,
        gpus: int | str | None = None,
        output: Callable[[bytes], None] | None = None,
    ) -> None:
        max_memory = None if max_memory_per_child is None else positive(max_memory_per_child, "max_memory_per_child")
        limits = make_limits(
            max_workers, max_bytes, memory, max_tasks_per_child, kill_memory_per_child, gpus, max_memory
        )
        self.max_workers = limits.workers
        if output is not None and not callable(output):
            raise InvalidOption(f"output must be callable, not {shown(output)}")
        setup = make_setup(initializer, initargs, preload)
        setup.max_bytes, setup.max_memory = limits.max_bytes, max_memory
        if lifetime.ending.is_set():
            raise exiting()
        self._delivery = Delivery()
        self._head = Head(limits, setup, output=output, on_end=self._delivery.end)
        self._inbox = self._head.inbox
        self._numbers = counter(1)
        self._known = KnownTasks(limits.memory)
        self._maps: dict[int, Map] = {}
        self._closing = threading.Lock()
        self._closed = False
        self._tokens: list[Any] = []
        self._refuse = None
        lifetime.executors.add(self)
        lifetime.heads.add(self._head)
        lifetime.deliveries.add(self._delivery)
        try:
            self._head.start()
        except ZtasksError:
            del self._refuse  # it was never started
            lifetime.heads.discard(self._head)
            raise

    # --- submitting ---

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run `fn(*args, **kwargs)` in a worker; return its future.

        The arguments are pickled here and now: later changes to them have no effect. Raises CallNotPicklable,
        ExecutorClosed.
        """
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
        future: Future[R] = Future(self._head, self._delivery)
        slice_ = Slice(task, future, next(self._numbers), 1, payload, future._gate)
        future._slice = slice_
        inbox.post(slice_)
        if inbox.ended.is_set():
            self._head.refuse_late()  # closed by another thread just now, or failed
        return future

    def _serves(self) -> bool:
        """Tell whether this is a thread that others wait for: the delivery thread, or the head's."""
        return threading.current_thread() in (self._delivery._thread, self._head.thread)

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

    def running(self) -> list[RunningJob]:
        """Return what the workers run just now, the longest first; empty if the head is held up by `output`."""
        return self._head.look() if self._refuse is None or self._refuse is closed else []

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
        with contextlib.suppress(ValueError):  # left in another context than it was entered in
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

    def __repr__(self) -> str:
        state = "open" if self._refuse is None else "closed"
        return f"<ztasks.Executor of {self.max_workers} workers, {state}>"
