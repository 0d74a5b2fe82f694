"""One passage of the batch through an executor, without faults as the base, or with them; and what came of each job."""

from __future__ import annotations

import os
import sys
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial
from itertools import islice
from time import monotonic
from typing import Any, Final, Literal, NamedTuple

from ztasks.chaos import job
from ztasks.chaos.ledger import Ledger, Looker
from ztasks.chaos.left import belongings, left_behind
from ztasks.chaos.outcomes import Outcomes
from ztasks.chaos.plan import Plan
from ztasks.chaos.strikes import Hit, Striker
from ztasks.executor import Executor
from ztasks.future import Future
from ztasks.tasks import options, options_of
from ztasks.wire.callables import ship

Api = Literal["submit", "map", "both"]

CALLED_BACK: Final = 16
"""Every so many submitted jobs one gets a done-callback, which must be called once."""

RETRIES_BESIDE: Final = 20
"""Retries for jobs that run out of time because they are frozen or the host is busy, beside those that hang."""

GRACE_SECONDS: Final = 0.5
"""The longest grace of jobs that hang."""

OUTPUT_BYTES: Final = 64 * 1024
"""How much of what workers have written is kept for the case that something goes wrong."""


class Batch(NamedTuple):
    """What is run, and how."""

    name: str
    function: Callable[..., Any]
    items: list[Any]
    """What `job.run` gets, by job number."""
    shown: Callable[[int], Any]
    """Gives the input of a job, for messages."""
    find: tuple[Callable[..., object], tuple[Any, ...]] | None
    """What each worker must call to find the function."""
    workers: int
    api: Api
    recycle: int | None
    """`max_tasks_per_child`."""
    timeout: float | None
    """The timeout of each job, if some are to hang."""

    @property
    def built_in(self) -> bool:
        """Whether the task is our own, whose results can be verified."""
        return isinstance(self.function, job.Work)

    @property
    def at_most_once(self) -> bool:
        """Whether the task forbids to run a job again."""
        return options_of(self.function).at_most_once


class Passage:
    """The batch on its way through one executor. `run()` it once."""

    def __init__(self, batch: Batch, plan: Plan | None, place: str, name: str, calm_after: float, early: bool) -> None:
        """`place`: an empty directory for temporary files; `early`: close the executor while submitted jobs wait."""
        self.batch = batch
        self.plan = plan
        self.place = place
        self.name = name
        self.path = os.path.join(place, f"{name}.executions")
        self.markers = os.path.join(place, f"{name}.faults")
        self.outcomes = Outcomes(len(batch.items), verify=batch.built_in)
        self.futures: list[Future[Any]] = []
        self.executor: Executor | None = None
        self.striker = None if plan is None else Striker(plan, self.path, calm_after)
        self.seconds = 0.0
        """From the start of the workers to the last outcome."""
        self.closing_seconds = 0.0
        """How long the closing took, from the end of the last job on."""
        self.left: list[str] = []
        """What was left behind."""
        self.ledger = Ledger(self.path, 0)
        """Of the executions; made at the end."""
        self.broken = ""
        """What an interface of the executor has raised that should not have."""
        self.output: deque[bytes] = deque()
        self._output_size = 0
        self._early = early
        self._calm_after = calm_after
        self._submitted = {"submit": len(batch.items), "map": 0, "both": len(batch.items) // 2}[batch.api]
        os.mkdir(self.markers, 0o700)

    def run(self) -> None:
        """Run all jobs and close the executor; what goes wrong is noted, only interrupts are raised."""
        before = belongings(self.place)
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 - it is part of the account
            self.broken = f"{type(error).__name__}: {error}"
            traceback.print_exc(file=sys.stderr)
        finally:
            if self.striker is not None:
                self.striker.stop()
            self.executor = None
            self.ledger = Ledger(self.path, len(self.batch.items))
            self.left = left_behind(before, self.place, {*self.ledger.last_of, *(hit.pid for hit in self.hits)})

    @property
    def hits(self) -> list[Hit]:
        """The strikes that were carried out."""
        return [] if self.striker is None else self.striker.hits

    def _run(self) -> None:
        began, striker, outcomes = monotonic(), self.striker, self.outcomes
        task = self._task()
        with self._executor() as self.executor:
            if striker is not None:
                striker.start()
            try:
                self._submit(self.executor, task)
                self._map(self.executor, task)
                if not self._early:
                    self._collect()
            except BaseException:
                if striker is not None:
                    striker.stop()
                raise
            self.seconds = monotonic() - began
            closing = monotonic()
            if striker is not None and not self._early:
                striker.close()
        closed = monotonic()
        if self._early:
            self._collect()
            self.seconds = monotonic() - began
        self.closing_seconds = closed - max(closing, self._last_end())
        for number in range(0, self._submitted, CALLED_BACK):
            if outcomes.called[number] != 1:
                outcomes.wrong[number] = f"its done-callback was called {outcomes.called[number]} times"

    def _last_end(self) -> float:
        """Return when the last job ended (clock of `monotonic`), as the file of executions says; 0 if none did."""
        looker = Looker(self.path)
        looker.look()
        return max((record.at / 1e9 for record in looker.last.values()), default=0.0)

    def _executor(self) -> Executor:
        batch = self.batch
        faults = {} if self.plan is None else self.plan.job_faults
        set_up = (self.path, self.markers, batch.find, ship(batch.function).pickled, faults)
        return Executor(
            batch.workers,
            initializer=job.set_up,
            initargs=set_up,
            output=self._keep_output,
            max_tasks_per_child=batch.recycle,
        )

    def _task(self) -> Any:
        """Return `job.run` with the task's own options, and as many retries more as the plan may need."""
        batch, plan = self.batch, self.plan
        own = options_of(batch.function)
        changes: dict[str, Any] = {
            "name": own.name or batch.name,
            "timeout": batch.timeout,
            "grace": min(own.grace, 0.5),
        }
        changes |= {"cpus": own.cpus, "memory": own.memory}
        if own.at_most_once:
            return options(job.run, at_most_once=True, **changes)
        failures = crashes = 0
        if plan is not None:
            failures = plan.most("fail", "hang") + (RETRIES_BESIDE if batch.timeout is not None else 0)
            crashes = plan.most("exit", "segfault") + plan.most_strikes("kill", self._calm_after)
        retry_on = own.retry_on if own.retry_on is None else (*own.retry_on, job.InjectedFailure)
        return options(
            job.run,
            retries=own.retries + failures,
            crash_retries=own.crashes_allowed + crashes,
            retry_on=retry_on,
            no_retry_on=tuple(kind for kind in own.no_retry_on if not issubclass(job.InjectedFailure, kind)),
            backoff=min(own.backoff, 0.01),
            max_backoff=min(own.max_backoff, 0.1),
            **changes,
        )

    def _submit(self, executor: Executor, task: Any) -> None:
        for number, item in enumerate(islice(self.batch.items, self._submitted)):
            future = executor.submit(task, item)
            if number % CALLED_BACK == 0:
                future.add_done_callback(partial(self.outcomes.call_back, number))
            self.futures.append(future)

    def _map(self, executor: Executor, task: Any) -> None:
        items = self.batch.items[self._submitted :]
        number = self._submitted
        for number, value in enumerate(executor.map(task, items, return_exceptions=True), number):  # noqa: B020
            if number >= len(self.batch.items):
                raise AssertionError("map has given more results than it had inputs")
            self.outcomes.take(number, value)

    def _collect(self) -> None:
        for number, future in enumerate(self.futures):
            self._take(number, future)

    def _take(self, number: int, future: Future[Any]) -> None:
        try:
            value: Any = future.exception()  # handed out, not raised: a job may have raised a KeyboardInterrupt
        except CancelledError as error:
            value = error
        self.outcomes.take(number, future.result() if value is None else value)

    def collect_what_is_there(self) -> None:
        """At the deadline, in another thread: take in the outcomes of submitted jobs that have ended."""
        for number, future in enumerate(self.futures):
            if future.done() and not self.outcomes.arrived[number]:
                self._take(number, future)

    def _keep_output(self, lines: bytes) -> None:
        """Keep the last that the workers have written; called in the head's thread."""
        self.output.append(lines)
        self._output_size += len(lines)
        while self._output_size > OUTPUT_BYTES and len(self.output) > 1:
            self._output_size -= len(self.output.popleft())
