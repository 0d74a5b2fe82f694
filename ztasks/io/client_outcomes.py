"""Brings outcomes that come from a head to those who wait for them, as `deliver.py` does within one process.

Runs in the client's thread and unpickles nothing. What has ended before is passed over: after a link was lost an
outcome may come again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ztasks.core.slices import Slice
from ztasks.errors import JobExpired, ResultNotLoadable, WireError, ZtasksError
from ztasks.io.client_books import ClientBooks
from ztasks.io.client_lots import SentSlice
from ztasks.io.deliver import Segment, WorkerName
from ztasks.wire.link import Outcome
from ztasks.wire.loss import Loss
from ztasks.wire.messages import Failure, Shape
from ztasks.wire.outcomes import number_at
from ztasks.wire.payload import Items

OF_THE_HEAD: Final[dict[str, type[ZtasksError]]] = {"JobExpired": JobExpired}
"""Failures that the head makes itself, and what they are here."""


def bring(books: ClientBooks, outcome: Outcome, items: Items | None) -> None:
    """Take an outcome in: its items have ended, and their owners learn how. Raises WireError."""
    if outcome.session != books.session:
        raise WireError("an outcome is of another client's session")
    _check_all_told(outcome, items)
    first = number_at(outcome, 0)
    sent = books.find_slice(first)
    if sent is None:
        _bring_jobs(books, outcome, items)
    else:
        _bring_items(books, outcome, items)


def _check_all_told(outcome: Outcome, items: Items | None) -> None:
    """Check that without results every item is told of."""
    if items is None:
        told = {failure.offset for failure in outcome.failures}
        told.update(outcome.withheld, outcome.cancelled)
        if len(told) < outcome.count:
            raise WireError(f"an outcome of {outcome.count} items tells of {len(told)}")


# --- jobs ---


def _bring_jobs(books: ClientBooks, outcome: Outcome, items: Items | None) -> None:
    numbers = outcome.numbers
    every = range(numbers, numbers + outcome.count) if isinstance(numbers, int) else numbers
    if outcome.busy:
        job = books.jobs.get(every[0])
        if job is not None:
            job.task.run_time.learn(outcome.busy, outcome.count)
    unusual = outcome.failures or outcome.withheld or outcome.cancelled
    if items is None or unusual or items.form != "each" or items.buffer_counts is not None:
        _bring_each(books, outcome, items, every)
        return
    data, end = items.data, 0
    for number, size in zip(every, items.sizes or (len(data),), strict=True):
        start, end = end, end + size
        job = books.pop_job(number)
        if job is not None:
            job.owner.succeed(data[start:end], ())
            if job.owner.unsure:
                job.owner.accept()


def _bring_each(books: ClientBooks, outcome: Outcome, items: Items | None, numbers: Sequence[int]) -> None:
    """The same where jobs have failed, were cancelled, or have buffers."""
    failures = {failure.offset: failure for failure in outcome.failures}
    withheld, cancelled = set(outcome.withheld), set(outcome.cancelled)
    pickles: Any = list(items.pickles()) if items is not None and items.form == "each" else None
    for offset, number in enumerate(numbers):
        job = None if offset in withheld else books.pop_job(number)
        if job is None:
            continue
        owner = job.owner
        if offset in cancelled:
            owner.cancelled_by_head()
        elif offset in failures:
            owner.fail(told(failures[offset], job.payload, job.task.shape))
        elif pickles is not None:
            owner.succeed(*pickles[offset])
        else:
            owner.fail(ResultNotLoadable("the job ran, but its result came in a form that only those of maps have"))
        if owner.unsure:
            owner.accept()


def told(failure: Failure, payload: Any, shape: Shape) -> Failure | ZtasksError:
    """Return a failure as its owner shall have it: with the call that was lost, which is here and need not travel."""
    if isinstance(failure, Loss):
        return msgspec.structs.replace(failure, payload=payload, shape=shape)
    own = OF_THE_HEAD.get(failure.type_name) if failure.kind != "raised" else None
    return failure if own is None else own(failure.message)


# --- slices ---


def _bring_items(books: ClientBooks, outcome: Outcome, items: Items | None) -> None:
    """Bring items of maps: stretches whose numbers and attempts are consecutive and equal, and of one slice."""
    begin, count, attempt = 0, outcome.count, outcome.attempt
    while begin < count:
        first = number_at(outcome, begin)
        sent = books.find_slice(first)
        most = begin + 1 if sent is None else min(count, begin + sent.first + sent.slice.count - first)
        if isinstance(outcome.numbers, int) and isinstance(attempt, int):
            end = most
        else:
            end = begin + 1
            while end < most and number_at(outcome, end) == first + end - begin and _alike(attempt, begin, end):
                end += 1
        if sent is not None:
            _bring_stretch(books, sent, first - sent.first, outcome, items, begin, end)
        begin = end


def _alike(attempt: int | list[int], one: int, other: int) -> bool:
    return isinstance(attempt, int) or attempt[one] == attempt[other]


def _bring_stretch(
    books: ClientBooks, sent: SentSlice, offset: int, outcome: Outcome, items: Items | None, begin: int, end: int
) -> None:
    """Bring the outcome's items `begin` to `end`, which are those of a slice from `offset` on."""
    slice_, size = sent.slice, end - begin
    if outcome.busy:
        slice_.task.run_time.learn(outcome.busy, outcome.count)
    passed = {at - begin for at in outcome.withheld if begin <= at < end}
    if sent.ended is not None:
        passed.update(place for place in range(size) if sent.has_ended(offset + place))
    cancelled = [at - begin for at in outcome.cancelled if begin <= at < end and at - begin not in passed]
    failures: dict[int, Failure] = {}
    lost: list[tuple[int, ZtasksError]] = []
    for failure in outcome.failures:
        place = failure.offset - begin
        if 0 <= place < size and place not in passed:
            payload = _part(slice_, offset + place) if isinstance(failure, Loss) else None
            what = told(failure, payload, slice_.task.shape)
            if isinstance(what, Failure):
                failures[place] = what
            else:
                lost.append((place, what))
    missing = passed | set(cancelled) | {place for place, _ in lost}
    for place in cancelled:
        slice_.owner.abandon(slice_.first + offset + place, 1, None)
    for place, error in lost:
        slice_.owner.abandon(slice_.first + offset + place, 1, error)
    if len(missing) < size:
        part = items.part(begin, end) if items is not None else None
        slice_.owner.arrive(_segment(slice_.first + offset, size, outcome, begin, part, failures, missing))
    _end(books, sent, offset, offset + size, {offset + place for place in passed})


def _part(slice_: Slice, offset: int) -> Any:
    return slice_.payload.part(offset, offset + 1) if isinstance(slice_.payload, Items) else slice_.payload


def _segment(
    first: int,
    count: int,
    outcome: Outcome,
    begin: int,
    items: Items | None,
    failures: dict[int, Failure],
    missing: set[int],
) -> Segment:
    attempt = outcome.attempt
    return Segment(
        first,
        count,
        items,
        failures,
        frozenset(missing),
        attempt if isinstance(attempt, int) else attempt[begin],
        outcome.started[begin : begin + count] if outcome.started else None,
        outcome.seconds[begin : begin + count] if outcome.seconds else None,
        outcome.max_rss,
        WorkerName(outcome.host, outcome.pid),
    )


def _end(books: ClientBooks, sent: SentSlice, start: int, stop: int, passed: set[int]) -> None:
    """Enter that the items from `start` to `stop` have ended, but for those passed over."""
    for at in sorted(passed):
        if at > start:
            books.end_items(sent, start, at)
        start = at + 1
    if stop > start:
        books.end_items(sent, start, stop)
