"""A session's books: where each item that has not ended is, found by its number.

Every such item belongs to exactly one work. Submitted jobs are found by one look into a dict; slices, of which there
are far fewer, by bisection.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from typing import TYPE_CHECKING, Final

from ztasks.core.work import TaskSpec, Work
from ztasks.wire.messages import Shape

if TYPE_CHECKING:
    from ztasks.core.lines import Line


SPARE_BOOKS: Final = 8
"""So many books in which nothing is queued a session may keep."""


class Book:
    """What is queued of one session and task, in order. All of it has one shape, so that jobs can travel together."""

    __slots__ = ("detail", "line", "queue", "queued", "session", "shape", "spec", "turn")

    def __init__(self, session: int, spec: TaskSpec, shape: Shape, detail: bool) -> None:
        self.session = session
        self.spec = spec
        self.shape: Shape = shape
        self.detail = detail
        self.queue: deque[Work] = deque()
        """Works that have ended or were taken out otherwise may be among these until they come up."""
        self.queued = 0
        """Items that are really queued."""
        self.line: Line | None = None
        """Where it stands while there are any."""
        self.turn = 0
        """The lowest is the next in its line."""


class SessionBooks:
    """The works of one session."""

    __slots__ = ("_books", "_firsts", "_most_books", "jobs", "number", "slices")

    def __init__(self, number: int) -> None:
        self.number = number
        self.jobs: dict[int, Work] = {}
        """Submitted jobs by their number."""
        self.slices: dict[int, Work] = {}
        """Slices and parts of slices by their first number."""
        self._firsts: list[int] = []
        """Their first numbers, sorted."""
        self._books: dict[tuple[TaskSpec, Shape, bool], Book] = {}
        self._most_books = SPARE_BOOKS
        """With more, those in which nothing is queued are dropped, and with them callables that may be large."""

    @property
    def empty(self) -> bool:
        """Whether everything has ended."""
        return not (self.jobs or self.slices)

    def book(self, work: Work) -> Book:
        """Return the book that a work is queued in."""
        name = work.spec, work.shape, work.detail
        book = self._books.get(name)
        if book is None:
            if len(self._books) >= self._most_books:
                self._books = {name_: each for name_, each in self._books.items() if each.queued}
                self._most_books = 2 * len(self._books) + SPARE_BOOKS
            book = self._books[name] = Book(self.number, *name)
        return book

    def add(self, work: Work) -> None:
        """Enter a new work; that its numbers are new is the caller's care, and a defect in ztasks if they are not."""
        first = work.first
        if not work.whole:
            if first in self.jobs:
                raise AssertionError(f"job {work.id} is there already")
            self.jobs[first] = work
            return
        if first in self.slices:
            raise AssertionError(f"item {work.id} is there already")
        self.slices[first] = work
        if not self._firsts or first > self._firsts[-1]:
            self._firsts.append(first)
        else:
            self._firsts.insert(bisect_left(self._firsts, first), first)

    def remove(self, work: Work) -> None:
        """Forget a work."""
        if not work.whole:
            del self.jobs[work.first]
            return
        del self.slices[work.first]
        del self._firsts[bisect_left(self._firsts, work.first)]

    def renew(self, work: Work) -> Work:
        """Put another work of the same items in the place of one that can stay where it is, and is void from now on."""
        new = work.part(0, work.count)
        (self.slices if work.whole else self.jobs)[work.first] = new
        return new

    def cut(self, work: Work, at: int) -> Work:
        """Cut a slice in two: it keeps its first `at` items; return the others."""
        rest = work.cut(at)
        self.add(rest)
        return rest

    def find(self, number: int) -> Work | None:
        """Return the work that an item belongs to, or None: it has ended, or never was."""
        work = self.jobs.get(number)
        if work is not None or not self._firsts:
            return work
        place = bisect_right(self._firsts, number)
        if not place:
            return None
        work = self.slices[self._firsts[place - 1]]
        return work if number < work.end else None

    def within(self, first: int, count: int) -> list[Work]:
        """Return the works that have items in a range, which may be huge, in the order of their numbers."""
        end = first + count
        found: list[Work] = []
        if self.jobs:
            if count <= len(self.jobs):
                found = [self.jobs[number] for number in range(first, end) if number in self.jobs]
            else:
                found = [work for number, work in self.jobs.items() if first <= number < end]
                found.sort(key=_first)
        if self._firsts:
            start = bisect_right(self._firsts, first)
            if start and self.slices[self._firsts[start - 1]].end > first:
                start -= 1
            stop = bisect_left(self._firsts, end)
            slices = [self.slices[number] for number in self._firsts[start:stop]]
            found = sorted(found + slices, key=_first) if found else slices
        return found

    def works(self) -> list[Work]:
        """Return all works in the order of their numbers."""
        return sorted([*self.jobs.values(), *self.slices.values()], key=_first)


def _first(work: Work) -> int:
    return work.first
