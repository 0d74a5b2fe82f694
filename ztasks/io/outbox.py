"""A worker's outbox: outcomes that have not been sent yet.

What it must hold: outcomes leave in the order of their positions, each once, and none stays unsent for much longer than
10 ms, even when the next job takes an hour. The main thread appends; it sends at the end of a batch and, between two
claims, what is 10 ms old. A helper thread sends what the main thread cannot, having been in one claim for 5 ms.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from time import perf_counter, sleep, time
from typing import Any, Final

import msgspec

from ztasks.io.cell import SENT, Cell
from ztasks.io.hostinfo import peak_memory
from ztasks.io.sockets import Socket
from ztasks.wire.failures import too_large
from ztasks.wire.messages import Batch, Failure, Results, encode, inline
from ztasks.wire.payload import Items, Pickled, pack, pack_primitives

FLUSH_SECONDS: Final = 0.010
"""How long an outcome may stay unsent while the main thread goes on from claim to claim. Each message costs the parent
about 100 us; at 5 ms, two workers with jobs of 1 ms would take 3% of two cores from their jobs."""

STUCK_SECONDS: Final = 0.005
"""How long the main thread may be in one claim before the helper sends what is there."""


class Outbox:
    """Outcomes of one batch at a time, and the socket that leads to the sink."""

    def __init__(self, lane: int, sink: Socket, cell: Cell) -> None:
        self.outcomes: list[Any] = []
        """Values of primitive type, or Pickled; in the order of positions. A failed job leaves a None here."""
        self.failures: list[Failure] = []
        """Entered before its place in `outcomes`; the offset is the absolute position until it is sent."""
        self.started: list[float] = []
        self.seconds: list[float] = []
        self.max_bytes: int | None = None
        """The most bytes that one result may take."""
        self._lane = lane
        self._sink = sink
        self._cell = cell
        self._lock = threading.Lock()
        self._batch: Batch | None = None
        self._position = 0
        self.claimed_at = 0.0
        """When the main thread made its last claim."""
        self._mark = 0.0
        self._idle = 0.0
        self._armed = threading.Event()
        self._closing = False
        self._flusher = threading.Thread(target=self._flush_late, name="ztasks-flush", daemon=True)
        self._flusher.start()

    def close(self) -> None:
        """End the helper thread (when all has been sent)."""
        self._closing = True
        self._armed.set()
        self._flusher.join()

    def begin(self, batch: Batch, idle: float) -> None:
        """Start collecting the outcomes of a batch, before which the worker had waited `idle` seconds."""
        with self._lock:
            self._batch = batch
            self._position = batch.position
            self._mark = perf_counter()
            self._idle = idle

    def count_anew(self) -> None:
        """What has been loaded just now took its time, and not the jobs'."""
        with self._lock:
            self._mark = perf_counter()

    def flush(self) -> None:
        """Send all outcomes that are there."""
        with self._lock:
            self._send()

    def flush_if_late(self) -> None:
        """Between two claims: send if the first outcome has waited long enough."""
        if perf_counter() - self._mark >= FLUSH_SECONDS:
            self.flush()

    def arm(self) -> None:
        """Wake the helper: outcomes may soon wait behind a job that takes long."""
        if not self._armed.is_set():
            self._armed.set()

    def fail(self, describe: Callable[[int], Failure]) -> None:
        """Enter the failure of the next job; `describe` makes it for the job's position."""
        with self._lock:
            position = self._position + len(self.outcomes)
        failure = describe(position)  # without the lock: it calls methods of the exception
        with self._lock:
            self.failures.append(failure)
            if len(self.seconds) == len(self.outcomes):  # it failed before it began, or nobody measures
                self.started.append(time())
                self.seconds.append(0.0)
            self.outcomes.append(None)

    def send(self, header: bytes) -> None:
        """Send a message without payload, after all that is unsent."""
        with self._lock:
            self._send()
            self._sink.send(header)

    def _flush_late(self) -> None:
        """The helper thread: sleeps until it is armed, then looks every 5 ms, as long as there is something."""
        while not self._closing:  # looked at after each `clear`: it may have come after the `set` of `close`
            self._armed.wait()
            if self._closing:
                return
            sleep(STUCK_SECONDS)
            with self._lock:
                if not self.outcomes:
                    self._armed.clear()
                elif perf_counter() - self.claimed_at >= STUCK_SECONDS:
                    self._send()

    def _send(self) -> None:
        """Send what is there; the caller holds the lock. The main thread may append meanwhile."""
        batch, count = self._batch, len(self.outcomes)
        if not count or batch is None:
            return
        outcomes = self.outcomes[:count]
        del self.outcomes[:count]
        position, self._position = self._position, self._position + count
        failures = [failure for failure in self.failures if failure.offset < self._position]
        del self.failures[: len(failures)]
        items = _pack(outcomes, batch)
        if self.max_bytes is not None and items.nbytes > self.max_bytes:
            failures += self._refuse_large(outcomes, position)
            failures.sort(key=lambda failure: failure.offset)
            items = _pack(outcomes, batch)
        now = perf_counter()
        busy, self._mark = now - self._mark, now
        idle, self._idle = self._idle, 0.0
        detail = batch.detail
        results = Results(
            self._lane,
            position,
            count,
            items.form,
            items.sizes,
            items.buffer_counts,
            [msgspec.structs.replace(failure, offset=failure.offset - position) for failure in failures],
            busy,
            idle,
            self.started[:count] if detail else None,
            self.seconds[:count] if detail else None,
            peak_memory() if detail else 0,
            payload := inline(items.data),
        )
        del self.started[:count]
        del self.seconds[:count]
        self._sink.send(encode(results), *(() if payload is not None else (items.data,)), *items.buffers)
        self._cell.fields[SENT] = self._position

    def _refuse_large(self, outcomes: list[Any], position: int) -> list[Failure]:
        """Take out the results that exceed the byte budget; return their failures, at absolute positions."""
        assert self.max_bytes is not None
        refused = []
        for at, outcome in enumerate(outcomes):
            size = outcome.nbytes if type(outcome) is Pickled else len(outcome) if type(outcome) in (str, bytes) else 0
            if size > self.max_bytes:
                outcomes[at] = None
                refused.append(too_large(position + at, size, self.max_bytes))
        return refused


def _pack(outcomes: list[Any], batch: Batch) -> Items:
    """Pickle what is still raw; only the results of a map may share one list pickle."""
    if batch.map_number:
        items = pack_primitives(outcomes)
        if items is not None:
            return items
    return pack(
        [outcome if type(outcome) is Pickled else Pickled(pickle.dumps(outcome, 5), []) for outcome in outcomes]
    )
