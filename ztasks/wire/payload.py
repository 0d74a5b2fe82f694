"""Payloads: how arguments and results become bytes and buffers, and how they become values again.

A value is pickled once, in the thread that has it. Standard pickle (protocol 5) comes first; if it fails, or if what
it wrote refers to `__main__`, the value is pickled by value. Buffers of 64 KiB and more are copied once and travel as
frames of their own. Items that travel together are pickled one by one, each at its time, because one pickle for all of
them would alias a buffer that the task reuses and would lose all when one fails to load. Only runs of items that are
wholly of immutable built-in types share one list pickle, which costs a tenth.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

from ztasks.errors import JobCancelled, JobTimeout
from ztasks.wire.messages import Form

OUT_OF_BAND: Final = 64 * 1024
"""Buffers of at least this many bytes travel as frames of their own (pyzmq's own threshold for large frames)."""

PRIMITIVES: Final = frozenset({int, float, str, bytes, bool, type(None)})
"""The exact types whose values may share one list pickle: immutable, and holding no reference to anything else."""


class Buffer(Protocol):
    """Memory of a known size: bytes, a bytearray, a memoryview, or a message of the transport's."""

    def __len__(self) -> int: ...


_hold: Callable[[memoryview], Buffer] = bytearray
"""Copies a buffer to where it stays until it has been sent, and can be sent again."""


def hold_with(copy: Callable[[memoryview], Buffer]) -> None:
    """Let the transport provide the memory for out-of-band buffers, which saves copying them once more."""
    global _hold
    _hold = copy


class Pickled(NamedTuple):
    """One pickled value: the pickle and its out-of-band buffers."""

    data: bytes
    buffers: list[Buffer]

    @property
    def nbytes(self) -> int:
        """Bytes of pickle and buffers together."""
        return len(self.data) + sum(map(len, self.buffers))


def dump(value: object, *, answering: bool = False) -> Pickled:
    """Pickle one value; raises whatever its pickling raises. `answering`: the value goes back to the caller."""
    buffers: list[Buffer] = []

    def take(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND:
            return True  # in-band
        buffers.append(_hold(raw))  # a copy: a view would show later writes of the caller
        return False

    try:
        data = pickle.dumps(value, 5, buffer_callback=take)
        if b"__main__" not in data:
            return Pickled(data, buffers)
    except (JobTimeout, JobCancelled):
        raise
    except Exception:  # noqa: BLE001, S110 - whatever failed, pickling by value is tried next and tells the reason
        pass
    from ztasks.wire import (
        by_value,
    )  # late: many programs never need cloudpickle, and importing it takes 15 ms

    buffers.clear()
    data = by_value.dumps(value, take, answering=answering)
    return Pickled(data, buffers)


def dump_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | Pickled:
    """Pickle the arguments of one call, of shape `call`; plain bytes unless there are buffers."""
    if not kwargs and PRIMITIVES.issuperset(map(type, args)):
        return pickle.dumps((args, kwargs), 5)
    pickled = dump((args, kwargs))
    return pickled if pickled.buffers else pickled.data


def load(data: bytes | memoryview, buffers: Sequence[Buffer] = ()) -> Any:
    """Unpickle one value; raises whatever its unpickling raises."""
    return pickle.loads(data, buffers=buffers)


class Items:
    """A run of pickled items, as they lie in one payload: what a slice carries, and what its results are.

    Form `list`: `data` is one pickle of a list, of which `count` items from `skip` on are meant. Form `each`: `data`
    holds the items' pickles end to end, `sizes` bytes each; `buffer_counts` says how many of `buffers` belong to each.
    """

    __slots__ = ("buffer_counts", "buffers", "count", "data", "form", "sizes", "skip")

    def __init__(
        self,
        form: Form,
        count: int,
        data: bytes,
        sizes: list[int] | None = None,
        buffer_counts: list[int] | None = None,
        buffers: Sequence[Buffer] = (),
        skip: int = 0,
    ) -> None:
        self.form: Form = form
        self.count = count
        self.data = data
        self.sizes = sizes
        self.buffer_counts = buffer_counts
        self.buffers = buffers
        self.skip = skip

    @property
    def nbytes(self) -> int:
        """Bytes that it takes to send these items."""
        return len(self.data) + sum(map(len, self.buffers))

    def part(self, start: int, stop: int) -> Items:
        """Return items `start` to `stop`, without unpickling anything. A part of a list keeps the whole pickle."""
        if start == 0 and stop == self.count:
            return self
        if self.form == "list":
            return Items("list", stop - start, self.data, skip=self.skip + start)
        sizes = self.sizes if self.sizes is not None else [len(self.data)]
        first = sum(sizes[:start])
        wanted = sizes[start:stop]
        data = self.data[first : first + sum(wanted)]
        if self.buffer_counts is None:
            return Items("each", stop - start, data, wanted)
        before = sum(self.buffer_counts[:start])
        counts = self.buffer_counts[start:stop]
        return Items("each", stop - start, data, wanted, counts, self.buffers[before : before + sum(counts)])

    def values(self) -> Iterator[Any]:
        """Unpickle the items one by one (form `list`: all at once, at the first)."""
        if self.form == "list":
            yield from self.listed()
            return
        for pickled in self.pickles():
            yield pickle.loads(pickled.data, buffers=pickled.buffers)

    def listed(self) -> list[Any]:
        """Unpickle all items of form `list`; raises what that raises, and UnpicklingError if they are not so many."""
        values: list[Any] = pickle.loads(self.data)
        if type(values) is not list or not 0 <= self.skip <= len(values) - self.count:
            raise pickle.UnpicklingError(f"a payload that should hold {self.count} values does not")
        if self.skip or self.count < len(values):
            return values[self.skip : self.skip + self.count]
        return values

    def pickles(self) -> Iterator[Pickled]:
        """Cut the payload of form `each` into its items' pickles."""
        sizes = self.sizes if self.sizes is not None else [len(self.data)]
        data, end = self.data, 0
        if self.buffer_counts is None:
            for size in sizes:
                start, end = end, end + size
                yield Pickled(data[start:end], [])
            return
        buffers = iter(self.buffers)
        for size, count in zip(sizes, self.buffer_counts, strict=True):
            start, end = end, end + size
            yield Pickled(data[start:end], [next(buffers) for _ in range(count)])


def pack(pickles: Sequence[Pickled]) -> Items:
    """Lay pickled items end to end."""
    data = b"".join([pickled.data for pickled in pickles])
    sizes = [len(pickled.data) for pickled in pickles]
    buffers = [buffer for pickled in pickles for buffer in pickled.buffers]
    counts = [len(pickled.buffers) for pickled in pickles] if buffers else None
    return Items("each", len(pickles), data, sizes, counts, buffers)


def pack_primitives(values: list[Any]) -> Items | None:
    """Return one list pickle if all values are of exact primitive types, else None."""
    if PRIMITIVES.issuperset(map(type, values)):
        return Items("list", len(values), pickle.dumps(values, 5))
    return None
