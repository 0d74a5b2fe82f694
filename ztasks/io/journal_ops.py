"""What is written to a journal, operation by operation, and what is read back.

Bytes are opaque here: nothing in a journal is ever unpickled, or even decoded, by who keeps it. Numbers of items begin
at 1 in each session; a session is 64 random bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

Buffer: TypeAlias = bytes | bytearray | memoryview

Ending: TypeAlias = Literal["done", "failed", "cancelled", "expired"]
"""How an item has ended."""

State: TypeAlias = Literal["waiting", "done", "failed", "cancelled", "expired"]
"""What a journal knows of an item; one that is running is `waiting` too, until it has ended."""

BOOKS_BYTES: Final = 256
"""What an operation takes in memory and in the file beside the bytes that it carries, roughly."""


class Operation(msgspec.Struct, frozen=True, gc=False):
    """The base of all operations."""

    def held(self) -> int:
        """How many bytes it holds while it waits to be written."""
        return BOOKS_BYTES


class Defined(Operation, frozen=True):
    """A task; again with the same key, it replaces the first."""

    key: bytes
    spec: bytes
    callable: bytes

    def held(self) -> int:
        """How many bytes it holds while it waits to be written."""
        return BOOKS_BYTES + len(self.spec) + len(self.callable)


class Unneeded(Operation, frozen=True):
    """The head has forgotten a task, and will define it again before it accepts more of it.

    It leaves the journal as soon as nothing there refers to it.
    """

    key: bytes


class Accepted(Operation, frozen=True):
    """A slice of work has come in. One whose items overlap those of an earlier one is ignored."""

    session: int
    first: int
    count: int
    key: bytes
    header: bytes
    payload: Buffer
    buffers: Sequence[Buffer] = ()
    sent: bool = False
    """A detached job: it outlives its session."""

    def held(self) -> int:
        """How many bytes it holds while it waits to be written."""
        return BOOKS_BYTES + len(self.header) + content_size(self.payload, self.buffers)


class Begun(Operation, frozen=True):
    """An item of a task that is at_most_once is about to be given to a lane; or it is back, and has not begun."""

    session: int
    first: int
    begun: bool = True


class Charged(Operation, frozen=True):
    """How many attempts of an item have been charged by now, and how they ended."""

    session: int
    first: int
    failures: int
    crashes: int
    history: bytes

    def held(self) -> int:
        """How many bytes it holds while it waits to be written."""
        return BOOKS_BYTES + len(self.history)


class Ended(Operation, frozen=True):
    """The outcome of some items of one accepted slice.

    It is ignored if the journal has no such slice, or has an outcome of one of the items already.
    """

    session: int
    first: int
    count: int
    state: Ending
    header: bytes
    payload: Buffer = b""
    buffers: Sequence[Buffer] = ()

    def held(self) -> int:
        """How many bytes it holds while it waits to be written."""
        return BOOKS_BYTES + len(self.header) + content_size(self.payload, self.buffers)


class Fetched(Operation, frozen=True):
    """The client has the outcomes of these items: what was done or cancelled is removed, what has failed or expired
    stays until the limits, unless it is not needed either (`failed`)."""

    session: int
    first: int
    count: int
    failed: bool = False


class Revived(Operation, frozen=True):
    """Those of these items that have failed or expired are to be run again, as if they had just been accepted."""

    session: int
    first: int
    count: int


class Forgot(Operation, frozen=True):
    """A session has ended: its jobs that have not, and outcomes that nobody will fetch, are removed.

    Sent jobs stay, and so does what has failed or expired.
    """

    session: int


class Noted(Operation, frozen=True):
    """A small value under a name; it replaces an earlier one."""

    name: str
    value: bytes


AnyOperation: TypeAlias = Defined | Unneeded | Accepted | Begun | Charged | Ended | Fetched | Revived | Forgot | Noted


class Range(msgspec.Struct, frozen=True, gc=False):
    """Consecutive items of a session."""

    session: int
    first: int
    count: int


class Mark(NamedTuple):
    """What is known of an item beside that it was accepted."""

    begun: bool = False
    failures: int = 0
    crashes: int = 0
    history: bytes = b""


class Waiting(NamedTuple):
    """An accepted slice of which not all items have ended."""

    accepted: Accepted
    ranges: list[Range]
    """Its items that have not ended, in their order."""
    marks: dict[int, Mark]
    """By number, those of these items that have begun or were charged."""


class Kept(msgspec.Struct, frozen=True, gc=False):
    """Where there is an outcome that was not fetched; `Journal.outcome` reads it."""

    session: int
    first: int
    count: int
    state: Ending
    key: bytes
    sent: bool
    size: int


class Recovered(NamedTuple):
    """What a journal holds when a head starts."""

    definitions: list[Defined]
    waiting: list[Waiting]
    """In the order in which they were accepted."""
    kept: list[Kept]
    """In the order in which they ended."""
    highest: dict[int, int]
    """The highest number that was ever accepted, of each session."""
    notes: dict[str, bytes]
    damaged: list[Range]
    """Items that have not ended and whose bytes are not those that were written: they cannot be run, and stay in the
    journal until they have ended."""
    told: str
    """The same in a line for people."""


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """A stored outcome. `header`, `payload` and `buffers` are what was written for `whole_count` items from
    `whole_first` on; of these, `count` from `first` on are still kept."""

    session: int
    first: int
    count: int
    state: Ending
    header: bytes
    payload: bytes
    buffers: tuple[bytes, ...]
    whole_first: int
    whole_count: int
    fetched: bool
    ended_at: float


class JobLine(msgspec.Struct, frozen=True, gc=False):
    """Consecutive items of one slice and one state, as `ztasks jobs` shows them."""

    session: int
    first: int
    count: int
    state: State
    key: bytes
    spec: bytes
    sent: bool
    accepted_at: float
    ended_at: float | None


def content_size(payload: Buffer, buffers: Sequence[Buffer]) -> int:
    """Return the bytes of a payload with its buffers."""
    size = len(payload) if type(payload) is bytes else memoryview(payload).nbytes
    return size + sum(memoryview(buffer).nbytes for buffer in buffers) if buffers else size


def open_ranges(first: int, count: int, ended: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return what of `count` items from `first` on is in none of these ranges, which stand in their order."""
    found, at = [], first
    for start, number in ended:
        if start > at:
            found.append((at, start - at))
        at = start + number
    if at < first + count:
        found.append((at, first + count - at))
    return found
