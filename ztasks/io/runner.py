"""Runs the items of batches, in the worker's main thread: claim, load, call, pickle, next.

About once a millisecond it claims the next items in the claim cell; before each item it stores the item's position
there. Whatever a job raises, SystemExit and KeyboardInterrupt included, fails that job only.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from time import perf_counter, time
from typing import Any, Final, NamedTuple

import msgspec

from ztasks.errors import JobCancelled, JobTimeout, WireError
from ztasks.io import stacks
from ztasks.io.cell import CURSOR, STARTED, Cell
from ztasks.io.current import CurrentJob, provide
from ztasks.io.interrupt import Interruptible
from ztasks.io.outbox import Outbox
from ztasks.wire import failures
from ztasks.wire.messages import Batch, Failure
from ztasks.wire.payload import PRIMITIVES, Items, Pickled, dump, load
from ztasks.wire.verdict import EVERYTHING, Judged, Verdict

CLAIM_SECONDS: Final = 0.001
"""How much expected work is claimed at once: what is claimed cannot be recalled, and a claim costs 2 us."""


class Unloaded(NamedTuple):
    """A callable that has not been loaded yet."""

    pickled: bytes


class Runner:
    """Runs batches. `before_claim` is called before each claim and says whether to go on."""

    def __init__(self, cell: Cell, outbox: Outbox, before_claim: Callable[[], bool], *, stack_file: int) -> None:
        """`stack_file`: the descriptor to which stacks are written."""
        self._cell = cell
        self._outbox = outbox
        self._before_claim = before_claim
        self._callables: dict[bytes, Any] = {}
        self._verdicts: dict[bytes, Verdict] = {}
        """What may be retried, of callables that say so."""
        self._verdict = EVERYTHING
        self._seconds: dict[bytes, float] = {}
        """How long an item of each callable takes, as seen here."""
        self._batch: Batch | None = None
        self._forked = False
        self._interruptible = Interruptible(cell, stack_file)
        os.register_at_fork(after_in_child=self._after_fork)
        provide(self._current_job)

    def keep_callable(self, key: bytes, pickled: bytes) -> None:
        """Keep a callable that came with a batch. It is loaded for the first job that needs it: that may take long, or
        end this process, and then it must be known whose fault it is."""
        self._callables[key] = Unloaded(pickled)

    def _load_callable(self, key: bytes, pickled: bytes) -> None:
        """Load a callable. If that fails, its jobs will fail."""
        try:
            loaded = load(pickled)
            if type(loaded) is Judged:
                self._verdicts[key] = loaded.verdict
                loaded = loaded.function
            self._callables[key] = getattr(loaded, "ztasks_function", loaded)
        except BaseException as error:  # noqa: BLE001 - importing runs any code
            self._callables[key] = failures.not_loadable(0, "the callable of this job", error)

    def forget(self, keys: tuple[bytes, ...]) -> None:
        """Drop callables that the head will ship again if it needs them."""
        for key in keys:
            for known in (self._callables, self._verdicts, self._seconds):
                known.pop(key, None)

    def run(self, batch: Batch, items: Items, idle: float) -> None:
        """Run a batch, or as much of it as is not recalled, and send its outcomes."""
        self._batch = batch
        self._outbox.begin(batch, idle)
        try:
            self._run_claims(batch, items)
        except BaseException:
            if self._forked:
                os._exit(1)
            raise
        finally:
            self._batch = None
            self._interruptible.disarm()
        self._outbox.flush()

    def _run_claims(self, batch: Batch, items: Items) -> None:
        position, end = batch.position, batch.position + batch.count
        run_some: Callable[[int, int], None] | None = None
        while position < end:
            seconds = self._seconds.get(batch.key)
            wanted = 1 if not seconds else max(1, int(CLAIM_SECONDS / seconds))
            upto = min(position + wanted, end)
            if not self._before_claim() or not self._cell.claim(batch.cut, upto):
                return
            if run_some is None:  # not before a claim, so that what it takes is the first job's
                run_some = self._prepare(batch, items)
            begin = self._outbox.claimed_at = perf_counter()
            if upto - position > 1 or position > batch.position:
                self._outbox.arm()
            run_some(position, upto - position)
            each = (perf_counter() - begin) / (upto - position)
            self._seconds[batch.key] = each if seconds is None else seconds + 0.5 * (each - seconds)
            if self._forked:
                self._leave_child()
            position = upto
            if position < end:
                self._outbox.flush_if_late()

    def _prepare(self, batch: Batch, items: Items) -> Callable[[int, int], None]:
        """Return what runs the next so many items."""
        found = self._callables.get(batch.key)
        if type(found) is Unloaded:
            self._cell.fields[CURSOR] = batch.position
            self._load_callable(batch.key, found.pickled)
            self._outbox.count_anew()
            found = self._callables[batch.key]
        if found is None:
            return lambda position, count: self._refuse(batch, position)
        if isinstance(found, Failure):
            failure = found
            return lambda position, count: self._fail_all(failure, position, count)
        function: Callable[..., Any] = found
        self._verdict = self._verdicts.get(batch.key, EVERYTHING)
        if batch.timeout is not None or not batch.map_number or (batch.prefix and batch.count == 1):
            self._interruptible.prepare(batch.timeout, batch.grace)
            calls = items.values() if items.form == "list" else items.pickles()
            return lambda position, count: self._run_interruptible(function, batch, islice(calls, count), position)
        if batch.detail:
            function = self._timed(function)
        if items.form == "list":
            values = items.values()
            return lambda position, count: self._run_values(function, islice(values, count), position)
        pickles = items.pickles()
        shape = batch.shape
        return lambda position, count: self._run_pickles(function, shape, islice(pickles, count), position)

    # --- the hot loops ---

    def _run_values(self, function: Callable[..., Any], values: Iterator[Any], position: int) -> None:
        """Call the function with each value."""
        cursor, append = self._cell.fields, self._outbox.outcomes.append
        for cursor[CURSOR], value in enumerate(values, position):
            try:
                result = function(value)
            except BaseException as error:  # noqa: BLE001 - whatever a job raises is its outcome
                self._fail(self._raised, error)
                continue
            if type(result) in PRIMITIVES:
                append(result)
            else:
                self._pickle_result(result)

    def _run_pickles(self, function: Callable[..., Any], shape: str, pickles: Iterator[Any], position: int) -> None:
        """Load each item and call the function with it."""
        cursor, append = self._cell.fields, self._outbox.outcomes.append
        for cursor[CURSOR], (data, buffers) in enumerate(pickles, position):
            try:
                call = load(data, buffers)
            except BaseException as error:  # noqa: BLE001 - loading runs any code
                self._fail(_arguments_not_loadable, error)
                continue
            try:
                if shape == "star":
                    result = function(*call)
                elif shape == "call":
                    result = function(*call[0], **call[1])
                else:
                    result = function(call)
            except BaseException as error:  # noqa: BLE001 - whatever a job raises is its outcome
                self._fail(self._raised, error)
                continue
            if type(result) in PRIMITIVES:
                append(result)
            else:
                self._pickle_result(result)

    def _run_interruptible(
        self, function: Callable[..., Any], batch: Batch, calls: Iterator[Any], position: int
    ) -> None:
        """Run jobs that can be stopped at any time: while loading, running, and pickling the result."""
        cursor, outbox, interruptible = self._cell.fields, self._outbox, self._interruptible
        shape, detail = batch.shape, batch.detail
        for cursor[CURSOR], call in enumerate(calls, position):
            stage: Callable[[int, BaseException], Failure] = _arguments_not_loadable
            result: Any = None
            began, begin = (time(), perf_counter()) if detail else (0.0, 0.0)
            try:
                try:
                    interruptible.begin()
                    if type(call) is Pickled:
                        call = load(*call)
                    stage = self._raised
                    if shape == "call":
                        result = function(*call[0], **call[1])
                    elif shape == "star":
                        result = function(*call)
                    else:
                        result = function(call)
                    if type(result) not in PRIMITIVES:
                        stage = partial(_not_picklable, result)
                        result = dump(result, answering=True)
                finally:
                    interruptible.end()  # if this is interrupted, it is still within the outer `try`
            except BaseException as error:  # noqa: BLE001 - whatever a job raises is its outcome
                if detail:
                    self._note_times(began, begin)
                self._fail(self._raised if isinstance(error, JobTimeout | JobCancelled) else stage, error)
            else:
                if detail:
                    self._note_times(began, begin)
                outbox.outcomes.append(result)
            cursor[STARTED] = 0

    # --- the rare ways ---

    def _note_times(self, began: float, begin: float) -> None:
        self._outbox.started.append(began)
        self._outbox.seconds.append(perf_counter() - begin)

    def _raised(self, offset: int, error: BaseException) -> Failure:
        return failures.raised(offset, error, self._verdict)

    def _pickle_result(self, result: object) -> None:
        """Pickle a result now: the next job may change what it refers to."""
        try:
            pickled = dump(result, answering=True)
        except BaseException as error:  # noqa: BLE001 - pickling runs any code
            self._fail(partial(_not_picklable, result), error)
            return
        self._outbox.outcomes.append(pickled)

    def _fail(self, describe: Callable[[int, BaseException], Failure], error: BaseException) -> None:
        if self._forked:
            self._leave_child()
        self._outbox.fail(lambda position: describe(position, error))
        BaseException.with_traceback(error, None)  # it holds the frames of the job, and all that they hold

    def _fail_all(self, failure: Failure, position: int, count: int) -> None:
        """Let all jobs fail whose callable could not be loaded."""
        for self._cell.fields[CURSOR] in range(position, position + count):
            self._outbox.fail(lambda position: msgspec.structs.replace(failure, offset=position))

    def _refuse(self, batch: Batch, position: int) -> None:
        """End the worker: its lane and the head's books on it have come apart."""
        self._cell.fields[CURSOR] = position
        raise WireError(f"a batch of callable {batch.key.hex()} has come, but never the callable itself")

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function so that the start and run time of each call are noted."""
        started, seconds, clock = self._outbox.started, self._outbox.seconds, time

        def timed(*args: Any, **kwargs: Any) -> Any:
            began, begin = clock(), perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                took = perf_counter() - begin
                started.append(began)
                seconds.append(took)

        return timed

    # --- what a job may do ---

    def _current_job(self) -> CurrentJob | None:
        batch = self._batch
        if batch is None or self._forked:
            return None
        offset = self._cell.fields[CURSOR] - batch.position
        indices, attempts, limits = batch.indices, batch.attempts, batch.max_attempts
        number = indices + offset if isinstance(indices, int) else indices[offset]
        attempt = attempts if isinstance(attempts, int) else attempts[offset]
        name = f"{batch.map_number}.{number}" if batch.map_number else str(number)
        if batch.prefix:
            name = f"{batch.prefix}-{number}"
        deadline = None if batch.timeout is None else self._cell.fields[STARTED] / 1e9 + batch.timeout
        max_attempts = limits if isinstance(limits, int) else limits[offset]
        return CurrentJob(name, attempt, max_attempts, deadline)

    def _after_fork(self) -> None:
        """In a child forked by a job: it must not write to the cell, nor go on with the worker's jobs."""
        self._forked = True
        self._cell.close()
        stacks.write_to_stderr()

    def _leave_child(self) -> None:
        """A forked child has returned from the job that forked it: it ends here."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(0)


def _arguments_not_loadable(offset: int, error: BaseException) -> Failure:
    return failures.not_loadable(offset, "the arguments of this job", error)


def _not_picklable(result: object, offset: int, error: BaseException) -> Failure:
    return failures.not_picklable(offset, result, error)
