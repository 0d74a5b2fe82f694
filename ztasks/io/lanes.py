"""A lane's socket in the head: how a batch becomes frames."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ztasks.core.lane import Send
from ztasks.core.slices import Slice
from ztasks.wire.messages import Batch, encode, inline
from ztasks.wire.payload import Items, Pickled, pack

if TYPE_CHECKING:
    from ztasks.io.sockets import Socket, Sockets


class LaneSocket:
    """The bound PUSH socket that leads to one worker."""

    def __init__(self, sock: Socket) -> None:
        self._sock = sock
        self.watched: int | None = None
        """The descriptor that tells of the worker's end."""

    def connected(self) -> bool:
        """Tell whether the worker is connected: its word on the sink may be quicker than its connection here."""
        return self._sock.writable()

    def send(self, *frames: Any) -> bool:
        """Send frames as one message; False if the worker has gone."""
        return self._sock.send(*frames)

    def send_batch(self, send: Send) -> bool:
        """Send a batch; False if the worker has gone."""
        batch = send.batch
        slices = batch.slices
        first = slices[0]
        items = first.payload if isinstance(first.payload, Items) else _pack_jobs(slices)
        task = batch.task
        options = task.options
        header = Batch(
            send.lane.cut,
            batch.position,
            batch.count,
            task.callable.key,
            send.ships,
            send.forget,
            task.shape,
            items.form,
            items.skip,
            items.sizes,
            items.buffer_counts,
            task.map_number,
            task.prefix,
            first.first if task.map_number else [slice_.first for slice_ in slices],
            _of_each(slices, lambda slice_: slice_.attempt),
            _of_each(slices, lambda slice_: options.retries + 1 + slice_.crashes),
            options.timeout,
            options.grace,
            task.detail,
            payload := inline(items.data),
        )
        frames: list[Any] = [encode(header)]
        if send.ships:
            frames.append(task.callable.pickled)
        if payload is None:
            frames.append(items.data)
        return self._sock.send(*frames, *items.buffers)

    def close_watched(self) -> None:
        """Release the descriptor that told of the worker's end."""
        if self.watched is not None:
            os.close(self.watched)
            self.watched = None

    def close(self, sockets: Sockets) -> None:
        """Close the socket of a worker that has gone: what it still holds has no reader."""
        self.close_watched()
        sockets.close_one(self._sock, linger=0)


def _of_each(slices: list[Slice], number: Callable[[Slice], int]) -> list[int] | int:
    """Return a number of each slice, or the one number that all have."""
    numbers = [number(slice_) for slice_ in slices]
    return numbers[0] if numbers.count(numbers[0]) == len(numbers) else numbers


def _pack_jobs(slices: list[Slice]) -> Items:
    """Lay the pickles of submitted jobs end to end."""
    payloads: list[Any] = [slice_.payload for slice_ in slices]
    try:
        return Items("each", len(payloads), b"".join(payloads), list(map(len, payloads)))
    except TypeError:  # some have buffers
        return pack([payload if isinstance(payload, Pickled) else Pickled(payload, []) for payload in payloads])
