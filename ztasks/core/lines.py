"""Lines: in which order queued work goes out, and which host lanes may take it.

Work that may go to the same hosts stands in one line, in a book for each session and task; lanes whose workers take the
same work are one group. A line knows the lanes that may be given its work now, so neither a dispatch nor an outcome
looks at all lanes or at all tasks. Of all books whose line has such lanes, those of the highest priority go first, and
among them the one whose turn it has been for longest.

A line whose jobs take room (memory, gpu, several cpus) knows the open lanes that may have it: one without is left out
when it comes up, and is entered again when something becomes free there. What waits for room and does not find it has
one lane reserved, if others want room too: else jobs that need less might come before it for ever.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from typing import Final

from ztasks.core.host_lane import HostLane
from ztasks.core.routing import Demand, Offer, admits
from ztasks.core.session_books import Book
from ztasks.wire.messages import MAX_ITEMS

MAX_LINES: Final = 64
"""How many lines are remembered in which nothing stands."""

Kind = tuple[frozenset[str], frozenset[str], str]
"""Queues, tags and Python of a host's workers."""


class Line:
    """All queued work that may go to the same hosts."""

    __slots__ = ("_priorities", "_rounds", "groups", "lanes", "queued", "reserved", "route", "slots", "takes")

    def __init__(self, route: Demand) -> None:
        self.route = route
        self.takes = route.takes()
        self._rounds: dict[int, deque[Book]] = {}
        """The books with queued work by their priority; the lowest turn comes first."""
        self._priorities: list[int] = []
        """Sorted, the highest last."""
        self.queued = 0
        """Items."""
        self.groups: list[Group] = []
        """Whose lanes take such work."""
        self.lanes: OrderedDict[int, HostLane] = OrderedDict()
        """The open ones among these that may have room; the one at the end comes first."""
        self.slots = 0
        """Of all these."""
        self.reserved: HostLane | None = None
        """The lane where room is kept for it."""

    @property
    def priority(self) -> int:
        """The highest of all that stands in it."""
        return self._priorities[-1]

    @property
    def first(self) -> Book:
        """The book whose turn it is; there must be one."""
        return self._rounds[self._priorities[-1]][0]

    def books(self) -> list[Book]:
        """Return all books that stand in it, in their order."""
        return [book for priority in reversed(self._priorities) for book in self._rounds[priority]]

    def enter(self, book: Book, turn: int, *, front: bool = False) -> None:
        """Let a book stand in it, behind all others of its priority or before them."""
        book.turn = turn
        round_ = self._rounds.get(book.spec.priority)
        if round_ is None:
            round_ = self._rounds[book.spec.priority] = deque()
            insort(self._priorities, book.spec.priority)
        if front:
            round_.appendleft(book)
        else:
            round_.append(book)

    def remove(self, book: Book) -> None:
        """Let a book stand in it no longer."""
        priority = book.spec.priority
        round_ = self._rounds[priority]
        round_.remove(book)
        if not round_:
            del self._rounds[priority]
            del self._priorities[bisect_left(self._priorities, priority)]


class Group:
    """The host lanes whose workers take the same work, but for what it needs of resources."""

    __slots__ = ("kind", "lanes", "lines")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.lanes: dict[int, HostLane] = {}
        self.lines: list[Line] = []

    def admits(self, demand: Demand) -> bool:
        """Tell whether its workers take such work."""
        return admits(*self.kind, demand)


class Lines:
    """All lines, and the lanes they lead to."""

    def __init__(self) -> None:
        self.queued = 0
        """Items."""
        self._lines: dict[Demand, Line] = {}
        self._groups: dict[Kind, Group] = {}
        self._waiting: dict[Line, None] = {}
        """Those in which something stands."""
        self._last = 0
        self._first = 0
        """The turns that were given last, at the back and at the front."""

    # --- lanes ---

    def join(self, lane: HostLane) -> None:
        """Enter a new lane."""
        kind = lane.offer.queues, lane.offer.tags, lane.offer.python
        group = self._groups.get(kind)
        if group is None:
            group = self._groups[kind] = Group(kind)
            for line in self._lines.values():
                if group.admits(line.route):
                    self._connect(line, group)
        group.lanes[lane.number] = lane
        lane.group = group

    def leave(self, lane: HostLane) -> None:
        """Forget a lane."""
        self._shut(lane)
        self._unreserve(lane)
        group = lane.group
        assert group is not None, "it has joined"
        del group.lanes[lane.number]
        lane.group = None
        if not group.lanes:
            del self._groups[group.kind]
            for line in group.lines:
                line.groups.remove(group)

    def review(self, lane: HostLane) -> None:
        """Take in that something about a lane has changed: it may want work now, or have room, or not any more."""
        group = lane.group
        if group is None:
            return
        if not lane.wants_more():
            if lane.open:
                self._shut(lane)
            if lane.wanted != "run":
                self._unreserve(lane)
            return
        if lane.open and not lane.freed:
            return
        lane.open, lane.freed = True, False
        for line in group.lines:
            if lane.number not in line.lanes and lane.room_for(line) > 0:
                line.lanes[lane.number] = lane
                line.slots += lane.slots

    def _shut(self, lane: HostLane) -> None:
        """Give a lane nothing more, for now."""
        lane.open = False
        assert lane.group is not None, "it has joined"
        for line in lane.group.lines:
            self._leave_out(line, lane)

    def _leave_out(self, line: Line, lane: HostLane) -> None:
        if line.lanes.pop(lane.number, None) is not None:
            line.slots -= lane.slots

    # --- lines ---

    def line(self, route: Demand) -> Line:
        """Return the line of a route."""
        line = self._lines.get(route)
        if line is not None:
            return line
        if len(self._lines) >= MAX_LINES + len(self._waiting):
            self._forget_lines()
        line = self._lines[route] = Line(route)
        for group in self._groups.values():
            if group.admits(route):
                self._connect(line, group)
        return line

    def _connect(self, line: Line, group: Group) -> None:
        line.groups.append(group)
        group.lines.append(line)
        for lane in group.lanes.values():
            if lane.open and lane.room_for(line) > 0:
                line.lanes[lane.number] = lane
                line.slots += lane.slots

    def _forget_lines(self) -> None:
        """Forget the lines in which nothing stands."""
        self._lines = {route: line for route, line in self._lines.items() if line.queued}
        for group in self._groups.values():
            group.lines = [line for line in group.lines if line.queued]

    def stand(self, book: Book, count: int, *, front: bool = False) -> None:
        """Take in that so many items were put into a book's queue; `front`: they go before all else in their line."""
        line = book.line
        if not book.queued:
            line = book.line = self.line(book.spec.route)
            line.enter(book, self._front() if front else self._back(), front=front)
            self._waiting[line] = None
        assert line is not None, "a book with queued work stands in a line"
        book.queued += count
        line.queued += count
        self.queued += count

    def _back(self) -> int:
        self._last += 1
        return self._last

    def _front(self) -> int:
        self._first -= 1
        return self._first

    def withdraw(self, book: Book, count: int) -> None:
        """Take in that so many items of a book are not queued any more."""
        line = book.line
        assert line is not None, "a book with queued work stands in a line"
        book.queued -= count
        line.queued -= count
        self.queued -= count
        if book.queued:
            return
        book.queue.clear()  # nothing real is in it
        book.line = None
        line.remove(book)
        if not line.queued:
            del self._waiting[line]
            if line.reserved is not None:
                self._unreserve(line.reserved)

    # --- whose turn it is ---

    def next(self) -> tuple[Line, HostLane, int] | None:
        """Return the line whose turn it is, the lane that its work goes to, and for how many jobs there is room."""
        able = [line for line in self._waiting if line.lanes]
        if len(able) > 1:
            able.sort(key=_precedence)
        for line in able:
            found = self._choose(line)
            if found is not None:
                return line, *found
        return None

    def _choose(self, line: Line) -> tuple[HostLane, int] | None:
        """Return the lane that a line's work goes to, and for how many jobs it has room; None if none has any."""
        if not line.takes:
            return next(reversed(line.lanes.values())), MAX_ITEMS
        for lane in list(reversed(line.lanes.values())):
            room = lane.room_beside(line)
            if room > 0:
                return lane, room
            if lane.room_for(line) <= 0:
                self._leave_out(line, lane)
        return None

    def served(self, line: Line, book: Book, lane: HostLane) -> None:
        """Take in that a lane was given work of a book: others come first now."""
        if book.queued:
            line.remove(book)
            line.enter(book, self._back())
        if line.reserved is not None:
            self._unreserve(line.reserved)
        self.review(lane)
        if lane.open and lane.group is not None:
            for other in lane.group.lines:
                if lane.number in other.lanes:
                    other.lanes.move_to_end(lane.number, last=False)

    # --- room that is kept ---

    def reserve(self) -> None:
        """Keep room for the lines that wait for some, if there are several that want any."""
        wanting = [line for line in self._waiting if line.takes]
        if len(wanting) < 2:
            return
        for line in sorted(wanting, key=_precedence):
            if line.reserved is None and self._choose(line) is None:
                lane = self._nearest(line)
                if lane is not None:
                    line.reserved, lane.reserved = lane, line

    def _nearest(self, line: Line) -> HostLane | None:
        """Return the lane that has most of the room that a line's jobs need, of those that can ever have it."""
        able = [
            lane
            for group in line.groups
            for lane in group.lanes.values()
            if lane.told and lane.wanted == "run" and lane.reserved is None and has_enough(lane.offer, line.takes)
        ]
        return max(able, key=lambda lane: (lane.open, lane.share_for(line)), default=None)

    def _unreserve(self, lane: HostLane) -> None:
        """Keep a lane's room for nobody."""
        if lane.reserved is not None:
            lane.reserved.reserved = None
            lane.reserved = None

    # --- for people ---

    def waiting(self) -> list[Line]:
        """Return the lines in which something stands."""
        return list(self._waiting)


def has_enough(offer: Offer, takes: tuple[tuple[str, int], ...]) -> bool:
    """Tell whether a host has all that a job takes, if nothing else runs there."""
    amounts = offer.amounts()
    return all(amounts.get(name, 0) >= amount for name, amount in takes)


def _precedence(line: Line) -> tuple[int, int]:
    """Return what is lowest for the line whose turn it is; something stands in it."""
    return -line.priority, line.first.turn
