"""Taking: how much of a task's queue a lane gets, and how slices are cut for that."""

from __future__ import annotations

from typing import Final

from ztasks.core.lane import Batch, Lane
from ztasks.core.slices import Slice, State, TaskBooks
from ztasks.wire.messages import MAX_ITEMS
from ztasks.wire.payload import Items

SPLIT_SECONDS: Final = 0.001
"""Expected work that is worth a message of its own."""


def take(task: TaskBooks, lane: Lane, share: int) -> Batch | None:
    """Take from a task's queue what the lane's credit allows, at least one item; None if all was cancelled."""
    room = lane.room()
    credit = 1 if task.options.at_most_once else min(lane.credit(task), max(1, share), MAX_ITEMS)
    exact = lane.budget is not None or task.options.at_most_once
    queue = task.queue
    slices: list[Slice] = []
    total = nbytes = 0
    while queue and total < credit:
        slice_ = queue[0]
        if slice_.state is not State.QUEUED or (slice_.gate is not None and not slice_.gate.acquire(False)):
            queue.popleft()  # cancelled
            task.queued -= slice_.count
            continue
        size = slice_.nbytes
        whole = isinstance(slice_.payload, Items)
        if slices and (whole or nbytes + size > room):
            if slice_.gate is not None:
                slice_.gate.release()
            break
        queue.popleft()
        if slice_.count > credit and (exact or _worth_splitting(slice_, credit)):
            rest = slice_.part(credit, slice_.count)
            slice_ = slice_.part(0, credit)
            queue.appendleft(rest)
            size = slice_.nbytes
        task.queued -= slice_.count
        slice_.state = State.ASSIGNED  # from QUEUED; hot path
        slices.append(slice_)
        total += slice_.count
        nbytes += size
        if whole:
            break
    return Batch(task, slices, total, nbytes, lane.dispatched) if slices else None


def _worth_splitting(slice_: Slice, credit: int) -> bool:
    """Tell whether what a slice holds beyond a lane's credit is better given to another lane, or later."""
    seconds = slice_.task.run_time.seconds
    return seconds is None or (slice_.count - credit) * seconds > SPLIT_SECONDS


def split_at(slices: list[Slice], offset: int) -> tuple[list[Slice], Slice, list[Slice]]:
    """Split consecutive slices into those before an item, the item itself, and those behind it."""
    for index, slice_ in enumerate(slices):
        if offset < slice_.count:
            before = slices[:index] + ([slice_.part(0, offset)] if offset else [])
            after = [slice_.part(offset + 1, slice_.count)] if offset + 1 < slice_.count else []
            item = slice_ if slice_.count == 1 else slice_.part(offset, offset + 1)
            return before, item, after + slices[index + 1 :]
        offset -= slice_.count
    raise AssertionError("the item is not in these slices")
