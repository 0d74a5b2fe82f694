"""The executor: head, crew and books in the user's own process, behind the interface of `concurrent.futures`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count as counter
from typing import Any, ParamSpec, TypeVar

from ztasks import lifetime
from ztasks.base_executor import BaseExecutor
from ztasks.core.slices import Slice
from ztasks.errors import InvalidOption, ZtasksError
from ztasks.future import Future
from ztasks.intake import closed, exiting, make_setup
from ztasks.io.delivery import Delivery
from ztasks.io.head import Head
from ztasks.io.looking import RunningJob
from ztasks.known import KnownTasks
from ztasks.limits import make_limits, positive
from ztasks.units import shown

P = ParamSpec("P")
R = TypeVar("R")


class Executor(BaseExecutor):
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
        self._open()
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
        task, payload = self._take_in(fn, args, kwargs)
        future: Future[R] = Future(self._head, self._delivery)
        slice_ = Slice(task, future, next(self._numbers), 1, payload, future._gate)
        future._slice = slice_
        self._inbox.post(slice_)
        if self._inbox.ended.is_set():
            self._head.refuse_late()  # closed by another thread just now, or failed
        return future

    def running(self) -> list[RunningJob]:
        """Return what the workers run just now, the longest first; empty if the head is held up by `output`."""
        return self._head.look() if self._refuse is None or self._refuse is closed else []

    def __repr__(self) -> str:
        state = "open" if self._refuse is None else "closed"
        return f"<ztasks.Executor of {self.max_workers} workers, {state}>"
