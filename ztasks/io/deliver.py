"""Brings outcomes to those who wait for them. Runs in the head's thread and never calls users' code.

A submitted job's owner is a future, a slice's owner is a map; they look alike to the core and are told apart here.
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ztasks.core.slices import Finished, Slice
from ztasks.io.hostinfo import host_name
from ztasks.wire.certificate import DeathCertificate
from ztasks.wire.loss import Loss
from ztasks.wire.messages import Failure, Results, check_buffers, check_items
from ztasks.wire.payload import Items

if TYPE_CHECKING:
    from ztasks.io.sockets import Socket


class WorkerName(NamedTuple):
    """Which worker ran a job."""

    host: str
    pid: int

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class Segment(msgspec.Struct, frozen=True):
    """What became of consecutive items of a map: `first` is the index of the first, `count` how many.

    `items` holds the results, pickled (None if all failed); `failures` the final failures by their place in the
    segment; `missing` the places of those that are tried again and come later.
    """

    first: int
    count: int
    items: Items | None
    failures: dict[int, Failure]
    missing: frozenset[int]
    attempt: int
    started: list[float] | None
    seconds: list[float] | None
    max_rss: int
    worker: WorkerName | None
    """None if the items were not run."""
    error: BaseException | None = None
    """Why all of them have ended without being run."""


def deliver(finished: Finished, results: Results | None, items: Items | None, pid: int) -> None:
    """Hand the outcomes of a batch, or of a part of it, to their owners."""
    first = finished.slices[0]
    if first.task.map_number:
        _deliver_segment(finished, first, results, items, pid)
    else:
        _deliver_jobs(finished, items)


def _deliver_jobs(finished: Finished, items: Items | None) -> None:
    slices = finished.slices[finished.offset : finished.offset + finished.count]
    if items is None:  # lost with its worker
        for offset, failure in finished.failures.items():
            finished.slices[offset].owner.fail(failure)
        return
    unusual = finished.failures or finished.withheld
    if items.buffer_counts is None and not unusual:
        data, end = items.data, 0
        for slice_, size in zip(slices, items.sizes or (len(data),), strict=True):
            start, end = end, end + size
            slice_.owner.succeed(data[start:end], ())
        return
    for offset, (slice_, pickled) in enumerate(zip(slices, items.pickles(), strict=True), finished.offset):
        if offset in finished.failures:
            slice_.owner.fail(finished.failures[offset])
        elif offset not in finished.withheld:
            slice_.owner.succeed(*pickled)


def _deliver_segment(finished: Finished, slice_: Slice, results: Results | None, items: Items | None, pid: int) -> None:
    offset = finished.offset
    started = results.started if results is not None else None
    seconds = results.seconds if results is not None else None
    max_rss = results.max_rss if results is not None else 0
    if results is None and (death := _death(finished)) is not None and death.seconds is not None:
        started, seconds, max_rss = [time() - death.seconds], [death.seconds], death.peak_memory or 0
    segment = Segment(
        slice_.first + offset,
        finished.count,
        items,
        {at - offset: failure for at, failure in finished.failures.items()},
        frozenset(at - offset for at in finished.withheld),
        slice_.attempt,
        started,
        seconds,
        max_rss,
        WorkerName(host_name(), pid),
    )
    slice_.owner.arrive(segment)


def _death(finished: Finished) -> DeathCertificate | None:
    """Return the death certificate of the worker that took down the one job that has ended."""
    (failure,) = finished.failures.values()
    return failure.certificates[-1] if isinstance(failure, Loss) and failure.certificates else None


def cancel(slices: list[Slice]) -> None:
    """Tell the owners of slices that they were cancelled while they waited."""
    for slice_ in slices:
        if slice_.task.map_number:
            slice_.owner.abandon(slice_.first, slice_.count, None)
        else:
            slice_.owner.cancelled_by_head()


def fail(slices: list[Slice], error: BaseException) -> None:
    """Tell the owners of slices that these have failed, all for one reason."""
    for slice_ in slices:
        owner: Any = slice_.owner
        if slice_.task.map_number:
            owner.abandon(slice_.first, slice_.count, error)
        else:
            owner.fail(error)


def receive_items(sink: Socket, results: Results) -> Items:
    """Receive the frames that a report's header announces; raises WireError."""
    check_buffers(results)
    frames = sink.receive_frames(int(results.payload is None), sum(results.buffers or ()))
    data = frames.pop(0) if results.payload is None else results.payload
    check_items(results, len(data))
    return Items(results.form, results.count, data, results.sizes, results.buffers, frames)
