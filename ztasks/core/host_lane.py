"""A host lane's books: what a foreman holds, and how much more it may be given.

What is given to a foreman ends in any order, since its workers run side by side, so every work says which batch it is
part of; a batch only counts what is left of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from ztasks.core.lane import MAX_BYTES, MAX_CALLABLES
from ztasks.core.routing import Offer
from ztasks.core.work import TaskSpec, Work
from ztasks.wire.link import Wanted
from ztasks.wire.messages import MAX_ITEMS

if TYPE_CHECKING:
    from ztasks.core.lines import Group, Line

TARGET: Final = 0.100
"""Seconds of expected work that wait with a foreman for each of its workers: enough for several round trips."""

RECALL_AFTER: Final = 0.25
"""Seconds without progress after which unstarted work is recalled, if another host is idle; doubled if in vain."""

MAX_PATIENCE: Final = 16.0


class HostBatch:
    """What one message gave to a foreman, or what it was found to hold when it joined."""

    __slots__ = ("lane", "left", "nbytes", "since", "spec", "works")

    def __init__(self, lane: HostLane, spec: TaskSpec, now: float) -> None:
        self.lane = lane
        self.spec = spec
        self.works: list[Work] = []
        """Works that have ended, or have been taken out, are still here; they name another batch, or none."""
        self.left = 0
        """Items that are still assigned."""
        self.nbytes = 0
        """Of all its items, until the last has ended: its payload is one."""
        self.since = now

    def held(self) -> list[Work]:
        """Return the works that are still assigned, in the order of their numbers."""
        works = [work for work in self.works if work.batch is self]
        return sorted(works, key=lambda work: work.first) if works and works[0].whole else works


class HostLane:
    """The books on one join of a foreman."""

    __slots__ = (
        "batches",
        "counts",
        "credit",
        "defined",
        "free",
        "freed",
        "group",
        "moved",
        "nbytes",
        "number",
        "offer",
        "open",
        "outstanding",
        "patience",
        "reserved",
        "slots",
        "told",
        "wanted",
    )

    def __init__(self, number: int, offer: Offer, now: float) -> None:
        self.number = number
        self.offer = offer
        self.slots = offer.slots
        self.credit = 2 * self.slots
        """The most items that it will hold; a guess until it says so."""
        self.wanted: Wanted = "run"
        self.told = False
        """Whether it has said what it holds: before, it gets nothing."""
        self.open = False
        """Whether it is known to want work."""
        self.group: Group | None = None
        self.batches: dict[HostBatch, None] = {}
        self.outstanding = 0
        """Items that it holds."""
        self.nbytes = 0
        self.counts: dict[TaskSpec, int] = {}
        """Items that it holds of each task."""
        self.free = offer.amounts()
        """How much of each resource is not taken; less than nothing if it came with more than it should hold."""
        self.freed = False
        """Whether something has become free that jobs may wait for."""
        self.reserved: Line | None = None
        """What becomes free is kept for this line."""
        self.defined: OrderedDict[bytes, None] = OrderedDict()
        """The keys of the tasks that the foreman knows, the one unused for longest first."""
        self.moved = now
        """When work was last given to it or outcomes last came from it."""
        self.patience = RECALL_AFTER

    # --- how much it may be given ---

    def wants_more(self) -> bool:
        """Tell whether it may be given work now."""
        if not self.told or self.wanted != "run":
            return False
        if self.outstanding >= self.credit:
            return False
        return self.outstanding < self.slots or (self.nbytes < MAX_BYTES // 2 and self._hungry())

    def _hungry(self) -> bool:
        """Tell whether less than half of what may wait here does, and there is room for one more job of that length."""
        load = self._load()
        if not load:
            return False
        may_wait = self.slots * TARGET * self.outstanding / load
        waiting = self.outstanding - self.slots
        return waiting <= may_wait / 2 and waiting + 1 <= may_wait

    def _load(self) -> float | None:
        """Return the seconds of work that it holds; None if that is not known of all."""
        total = 0.0
        for spec, count in self.counts.items():
            seconds = spec.run_time.seconds
            if seconds is None:
                return None
            total += seconds * count
        return total

    def allowance(self, spec: TaskSpec) -> int:
        """Return how many items of a task it may be given now, at least one: what can run at once, and may wait."""
        items = max(0, self.slots - self.outstanding)
        seconds = spec.run_time.seconds
        if seconds is not None:
            waiting = 0.0
            if not items and (load := self._load()):
                waiting = load * (self.outstanding - self.slots) / self.outstanding
            items += int(max(0.0, self.slots * TARGET - waiting) / seconds)
        return max(1, min(items, self.left, MAX_ITEMS))

    @property
    def left(self) -> int:
        """How many more items the foreman will hold."""
        return self.credit - self.outstanding

    def bytes_left(self) -> int:
        """Return how many more payload bytes it may be given."""
        return MAX_BYTES - self.nbytes

    def room_for(self, line: Line) -> int:
        """Return for how many jobs of a line there is room."""
        if not line.takes:
            return MAX_ITEMS
        return min(self.free.get(name, 0) // amount for name, amount in line.takes)

    def room_beside(self, line: Line) -> int:
        """Return for how many jobs of a line there is room beside what is reserved for another."""
        claim = self.reserved
        if not line.takes or claim is None or claim is line or claim.priority < line.priority:
            return self.room_for(line)
        free, kept = self.free, dict(claim.takes)
        return min((free.get(name, 0) - kept.get(name, 0)) // amount for name, amount in line.takes)

    def share_for(self, line: Line) -> float:
        """Return how much there is of the room that one job of a line needs; 1: enough."""
        return min(self.free.get(name, 0) / amount for name, amount in line.takes)

    # --- what it holds ---

    def hold(self, batch: HostBatch, now: float) -> None:
        """Enter a batch, whose works and counts are all there."""
        self.batches[batch] = None
        self.outstanding += batch.left
        self.nbytes += batch.nbytes
        self.counts[batch.spec] = self.counts.get(batch.spec, 0) + batch.left
        for name, amount in batch.spec.takes:
            self.free[name] = self.free.get(name, 0) - amount * batch.left
        self.moved = now

    def release(self, batch: HostBatch, count: int) -> None:
        """Take in that so many items of a batch are not assigned any more."""
        batch.left -= count
        self.outstanding -= count
        left = self.counts[batch.spec] - count
        if left:
            self.counts[batch.spec] = left
        else:
            del self.counts[batch.spec]
        for name, amount in batch.spec.takes:
            self.free[name] += amount * count
            self.freed = True
        if not batch.left:
            del self.batches[batch]
            self.nbytes -= batch.nbytes

    def held(self) -> list[Work]:
        """Return all works that are assigned to it, in the order in which it got them."""
        return [work for batch in self.batches for work in batch.held()]

    def on_moved(self, now: float) -> None:
        """Take in a sign of progress."""
        self.moved = now
        self.patience = RECALL_AFTER

    def renumber(self, number: int, offer: Offer, now: float) -> None:
        """The same foreman has joined anew, and holds what it held."""
        fresh = HostLane(number, offer, now)
        for spec, count in self.counts.items():
            for name, amount in spec.takes:
                fresh.free[name] = fresh.free.get(name, 0) - amount * count
        self.number, self.offer, self.slots, self.free = number, offer, fresh.slots, fresh.free
        self.credit, self.wanted, self.told, self.defined = fresh.credit, fresh.wanted, False, fresh.defined
        self.moved, self.patience = now, RECALL_AFTER

    # --- the tasks that it knows ---

    def knows(self, keys: Iterable[bytes]) -> None:
        """Take in which tasks it knows already."""
        self.defined.update(dict.fromkeys(keys))

    def need(self, spec: TaskSpec) -> tuple[bool, list[bytes]]:
        """Enter the use of a task; tell whether it must be defined, and which ones the foreman shall forget."""
        if spec.key in self.defined:
            self.defined.move_to_end(spec.key)
            return False, []
        self.defined[spec.key] = None
        forget: list[bytes] = []
        if len(self.defined) > MAX_CALLABLES:
            used = {other.key for other in self.counts}
            spare = (key for key in self.defined if key not in used and key != spec.key)
            forget = [key for key, _ in zip(spare, range(len(self.defined) - MAX_CALLABLES), strict=False)]
            for key in forget:
                del self.defined[key]
        return True, forget


class HostSend(NamedTuple):
    """Send these to a foreman: one slice, or jobs of one task and session; first what it must learn and forget."""

    lane: int
    works: list[Work]
    define: TaskSpec | None
    forget: list[bytes]
