"""Outcomes: how the jobs of a map ended, read from the segments in which they arrive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

from ztasks.future import not_loadable
from ztasks.io.deliver import Segment, WorkerName
from ztasks.wire.failures import rebuild
from ztasks.wire.payload import load

R = TypeVar("R")


class Outcome(msgspec.Struct, Generic[R]):
    """How one job of `Executor.outcomes` ended."""

    index: int
    """The place of its input, from 0."""
    args: tuple[Any, ...]
    value: R | None
    """The result, or None if there is an exception."""
    exception: BaseException | None
    """What the job raised, or an error of ztasks, or CancelledError; None if it succeeded."""
    started: float | None
    """When it began, in seconds since the epoch; None if it never ran."""
    seconds: float
    """How long it ran."""
    attempts: int
    """How often it was run, failures and crashes included; 0 if it never ran."""
    worker: WorkerName | None
    """Which worker ran it last: host and pid."""
    max_rss: int | None = None
    """Peak memory of that worker process so far, in bytes."""
    kwargs: dict[str, Any] | None = None

    @property
    def ok(self) -> bool:
        """Whether the job succeeded."""
        return self.exception is None


def cut(segment: Segment, start: int, end: int) -> Segment:
    """Return the places `start` to `end` of a segment."""
    return msgspec.structs.replace(
        segment,
        first=segment.first + start,
        count=end - start,
        items=segment.items.part(start, end) if segment.items is not None else None,
        failures={at - start: failure for at, failure in segment.failures.items() if start <= at < end},
        missing=frozenset(),
        started=segment.started[start:end] if segment.started else None,
        seconds=segment.seconds[start:end] if segment.seconds else None,
    )


def plain_values(segment: Segment) -> list[Any] | None:
    """Return all values of a segment at once, if they share a pickle and every item has one; else None."""
    items = segment.items
    if items is None or items.form != "list" or segment.failures:
        return None
    try:
        return items.listed()
    except Exception:  # noqa: BLE001 - `entries` gives each item its error
        return None


def entries(segment: Segment) -> Iterator[tuple[int, Any, BaseException | None]]:
    """Yield place, value and error of each item of a segment; a result that does not load is that item's error."""
    failures, items = segment.failures, segment.items
    if items is None:
        for place in range(segment.count):
            failure = failures.get(place)
            yield place, None, rebuild(failure) if failure is not None else segment.error
    elif items.form == "list":
        problem: Exception | None = None
        try:
            values = items.listed()
        except Exception as reason:  # noqa: BLE001 - a message has been damaged: such values always load
            values, problem = [None] * segment.count, reason
        for place, value in enumerate(values):
            failure = failures.get(place)
            if failure is not None:
                yield place, None, rebuild(failure)
            else:
                yield place, value, not_loadable(problem) if problem is not None else None
    else:
        for place, (data, buffers) in enumerate(items.pickles()):
            failure = failures.get(place)
            value, error = None, None
            if failure is not None:
                error = rebuild(failure)
            else:
                try:
                    value = load(data, buffers)
                except Exception as reason:  # noqa: BLE001 - unpickling runs any code
                    error = not_loadable(reason)
            yield place, value, error
