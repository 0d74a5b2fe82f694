"""What a ventilator works with, as fakes: gates, owners, and workers, whose messages go through the real codec."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from ztasks.errors import TooLarge
from ztasks.io.deliver import Segment
from ztasks.io.lanes import LaneSocket
from ztasks.wire.loss import Loss
from ztasks.wire.messages import Batch, Failure, Results, check_items, decode_to_worker, encode, inline
from ztasks.wire.payload import Items, dump, load, pack, pack_primitives

Item = tuple[int, int]
"""Names a job: its map's number (0: submitted) and its index or number."""


def tell(number: int, index: int, *ballast: object) -> Item:
    """The task of submitted jobs and of maps of shape `star`."""
    return number, index


def triple(index: int) -> int:
    """The task of maps of shape `one`, whose items share a list pickle."""
    return 3 * index


class Gate:
    """A lock that notices when it is released without having been acquired."""

    def __init__(self) -> None:
        self.held = False

    def acquire(self, blocking: bool = True, /) -> bool:
        if self.held:
            assert not blocking, "this would block for ever"
            return False
        self.held = True
        return True

    def release(self) -> None:
        assert self.held, "a gate was released that nobody held"
        self.held = False


# --- owners ---


class JobOwner:
    """Stands for a future: notes how its job ended."""

    def __init__(self, item: Item, gate: Gate, ended: list[tuple[Item, str]]) -> None:
        self.item = item
        self.gate = gate
        self.ended = ended

    def succeed(self, data: bytes, buffers: list[Any]) -> None:
        assert load(data, buffers) == self.item, "it got another job's result"
        self.ended.append((self.item, "done"))
        self.gate.release()

    def fail(self, failure: Failure | BaseException) -> None:
        self.ended.append((self.item, how_it_failed(failure, self.item)))
        self.gate.release()

    def cancelled_by_head(self) -> None:
        self.ended.append((self.item, "cancelled"))


class MapOwner:
    """Stands for a map: notes how each of its items ended."""

    def __init__(self, number: int, shape: str, ended: list[tuple[Item, str]]) -> None:
        self.number = number
        self.shape = shape
        self.ended = ended

    def arrive(self, segment: Segment) -> None:
        values = list(segment.items.values()) if segment.items is not None else None
        for place in range(segment.count):
            item = self.number, segment.first + place
            if place in segment.missing:
                continue
            if place in segment.failures:
                self.ended.append((item, how_it_failed(segment.failures[place], item)))
                continue
            assert values is not None, "an item without failure came without a result"
            assert values[place] == (item if self.shape == "star" else triple(item[1])), "another item's result"
            self.ended.append((item, "done"))

    def abandon(self, first: int, count: int, error: BaseException | None) -> None:
        end = "cancelled" if error is None else how_it_failed(error, (self.number, first))
        self.ended += [((self.number, index), end) for index in range(first, first + count)]


def how_it_failed(failure: Failure | BaseException, item: Item) -> str:
    if isinstance(failure, TooLarge):
        return "unsendable"
    assert isinstance(failure, Failure)
    if isinstance(failure, Loss):
        return failure.what
    assert failure.message == str(item), "it got another job's failure"
    return "failed"


# --- the worker ---


class Given(NamedTuple):
    """One item, as the worker got it."""

    position: int
    item: Item
    attempt: int
    call: Callable[[], Any]
    batch: Batch


class FakeWorker:
    """A worker and its claim cell. It is the socket of its lane, too: what is sent down is decoded at once."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.cut = 0
        self.claimed = 0
        self.cursor: int | None = None
        self.waiting: deque[Given] = deque()
        """Received and not claimed; what was recalled is dropped when it comes up, as it is of an older cut."""
        self.to_run: deque[Given] = deque()
        """Claimed and not begun."""
        self.running: Given | None = None
        self.started = 0.0
        """When that was begun."""
        self.unsent: list[tuple[Given, object]] = []
        """Run and not reported: a value, or a Failure."""
        self.lane = LaneSocket(self)  # type: ignore[arg-type]
        self._functions: dict[bytes, Any] = {}
        self._expected = 0

    def send(self, *frames: Any) -> bool:
        """Take in a message as the worker does, and insist that it is well-formed."""
        header, *rest = [bytearray(frame) for frame in frames]
        batch = decode_to_worker(bytes(header))
        assert isinstance(batch, Batch)
        assert (batch.cut, batch.position) == (self.cut, self._expected), "not what comes next on this lane"
        self._expected += batch.count
        for key in batch.forget:
            del self._functions[key]
        if batch.ships:
            assert batch.key not in self._functions, "the callable was there already"
            self._functions[batch.key] = load(bytes(rest.pop(0)))
        data = bytes(rest.pop(0)) if batch.payload is None else batch.payload
        assert len(rest) == sum(batch.buffers or ())
        check_items(batch, len(data))
        items = Items(batch.form, batch.count, data, batch.sizes, batch.buffers, rest, batch.skip)
        values = list(items.values())
        assert len(values) == batch.count
        self.waiting += [self._given(batch, offset, value) for offset, value in enumerate(values)]
        return True

    def _given(self, batch: Batch, offset: int, value: Any) -> Given:
        function = self._functions[batch.key]
        args = value[0] if batch.shape == "call" else value if batch.shape == "star" else (value,)
        index = batch.indices + offset if isinstance(batch.indices, int) else batch.indices[offset]
        attempt = batch.attempts if isinstance(batch.attempts, int) else batch.attempts[offset]
        item = batch.map_number, index
        assert (args[:2] if batch.shape != "one" else (batch.map_number, *args)) == item, "another item's arguments"
        return Given(batch.position + offset, item, attempt, lambda: function(*args), batch)

    def unclaimed(self) -> list[Given]:
        """What a recall would take back."""
        return [given for given in self.waiting if given.batch.cut == self.cut]

    def holds(self) -> list[Given]:
        """All that it has been given and has not reported."""
        running = [self.running] if self.running else []
        return [given for given, _ in self.unsent] + running + [*self.to_run] + self.unclaimed()

    def is_busy(self) -> bool:
        """Whether it has begun something that it has not reported, or is about to."""
        return bool(self.running or self.to_run or self.unsent)

    def recalled(self) -> int:
        """The cell, when its parent recalls: return what has been claimed."""
        self.cut += 1
        self._expected = self.claimed
        return self.claimed

    def claim(self, count: int) -> None:
        """Claim up to so many items of the next batch."""
        assert not self.to_run
        assert not self.running
        while self.waiting and self.waiting[0].batch.cut != self.cut:
            self.waiting.popleft()
        while self.waiting and len(self.to_run) < count:
            if self.to_run and self.waiting[0].batch is not self.to_run[0].batch:
                break
            self.to_run.append(self.waiting.popleft())
            self.claimed = self.to_run[-1].position + 1

    def begin(self, now: float) -> Given:
        """Begin the next claimed item."""
        assert self.running is None
        given = self.running = self.to_run.popleft()
        self.cursor, self.started = given.position, now
        return given

    def end(self, outcome: object) -> None:
        """The running item ends."""
        assert self.running is not None
        self.unsent.append((self.running, outcome))
        self.running = None

    def take_report(self, count: int, seconds: float, idle: float) -> tuple[list[bytes], list[tuple[Given, object]]]:
        """Make the message that reports the first so many outcomes."""
        sent, self.unsent = self.unsent[:count], self.unsent[count:]
        first, batch = sent[0][0], sent[0][0].batch
        values = [None if isinstance(outcome, Failure) else outcome for _, outcome in sent]
        items = (pack_primitives(values) if batch.map_number else None) or pack([dump(value) for value in values])
        failed = [
            msgspec.structs.replace(outcome, offset=offset)
            for offset, (_, outcome) in enumerate(sent)
            if isinstance(outcome, Failure)
        ]
        measured = [seconds] * len(sent) if batch.detail else None
        header = Results(
            self.number, first.position, len(sent), items.form, items.sizes, items.buffer_counts, failed,
            seconds * len(sent), idle, measured, measured, 0, payload := inline(items.data),
        )  # fmt: skip
        return [encode(header), *([items.data] if payload is None else []), *map(bytes, items.buffers)], sent
