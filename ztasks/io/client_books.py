"""A client's books: which of its work has been given a number, what its head has accepted, and what has not ended.

What it must hold: numbers are given in the order of sending; what the head may have accepted is submitted again only
under the same number and within the same bounds, so that it is not accepted twice; what the head says that it has lost
is submitted anew, under another number; and each item's owner learns of exactly one end.

    add() -> waiting --next_lot()--> [numbered] --on_accepted()--> [accepted] --on_outcome()--> its owner
                ^                      |  |
                |   join(): again <----+  +---- on_refused()
                +--- lost by the head

Used by the client's thread only. The owner of a job is a future, or a `Sending` (see `ztasks/client.py`); that of a
slice is a map.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from typing import Any

from ztasks.core.slices import Slice, State
from ztasks.io.client_errors import refusal, too_large
from ztasks.io.client_lots import LOT_BYTES, Lot, SentSlice, lot_of
from ztasks.wire.link import Range, Refused, Resume
from ztasks.wire.messages import MAX_ITEMS
from ztasks.wire.payload import Items


class ClientBooks:
    """The books on all work of one session."""

    def __init__(self, session: int) -> None:
        self.session = session
        self._epoch = 0
        self.accepted = 0
        """All numbers up to this one have been accepted or refused."""
        self.waiting: deque[Slice] = deque()
        """What has no number yet, or is to be given another one."""
        self.jobs: dict[int, Slice] = {}
        """Jobs by their numbers, in the order of these."""
        self._next = 1
        """The number that is given next."""
        self._slices: dict[int, SentSlice] = {}
        self._firsts: list[int] = []
        """The first numbers of all slices of maps that have one, sorted."""
        self._sent: deque[tuple[int, int]] = deque()
        """First and last number of each lot that is not accepted yet."""
        self._again: deque[tuple[int, int]] = deque()
        """Those of them that must be sent again."""
        self._unsure: deque[tuple[int, Any]] = deque()
        """Owners that wait until their number is accepted."""
        self.max_bytes = 0
        """More than these the head does not take at once; 0: it has not said."""
        self._unwanted: dict[int, bool] = {}
        """First numbers of what shall be cancelled, and whether also if it is running."""

    @property
    def empty(self) -> bool:
        """Whether nothing is outstanding."""
        waiting = self.waiting
        while waiting and waiting[0].state is State.CANCELLED:
            waiting.popleft()
        return not (self.jobs or self._slices or waiting)

    @property
    def submits_again(self) -> bool:
        """Whether something is still to be submitted again on this link."""
        return bool(self._again)

    # --- out ---

    def add(self, slice_: Slice) -> None:
        """Take in work."""
        self.waiting.append(slice_)

    def next_lot(self) -> Lot | None:
        """Return what is to be submitted next, with its numbers; None if there is nothing."""
        while self._again:
            first, last = self._again.popleft()
            lot = self._lot_again(first, last)
            if lot is not None:
                if lot.last < last:
                    self._again.appendleft((lot.last + 1, last))
                return lot
        slice_ = self._next_waiting(None)
        if slice_ is None:
            return None
        lot = self._number_slice(slice_) if slice_.task.map_number else self._number_jobs(slice_)
        self._sent.append((lot.first, lot.last))
        return lot

    def _next_waiting(self, like: Slice | None) -> Slice | None:
        """Take the next that waits and has not been cancelled; or None if it is not `like` another job."""
        waiting = self.waiting
        while waiting:
            slice_ = waiting[0]
            if like is not None and (
                slice_.task is not like.task or slice_.owner.detached is not like.owner.detached
            ):  # a map has a task of its own
                return None
            waiting.popleft()
            if _have(slice_):
                slice_.state = State.ASSIGNED
                if not self._is_too_large(slice_):
                    return slice_
                self.fail(slice_, too_large(self.max_bytes))
        return None

    def _is_too_large(self, slice_: Slice) -> bool:
        return 0 < self.max_bytes < max(slice_.nbytes, len(slice_.task.callable.pickled))

    def _number_slice(self, slice_: Slice) -> Lot:
        items = slice_.payload
        assert isinstance(items, Items)
        first = self._next
        self._next += slice_.count
        self._slices[first] = SentSlice(first, slice_)
        self._firsts.append(first)
        return Lot(slice_.task, first, items, slice_.first, whole=True, detached=False)

    def _number_jobs(self, like: Slice) -> Lot:
        """Number a job, and the ones like it that wait directly behind it."""
        jobs, unsure = self.jobs, self._unsure
        found: list[Slice] = []
        size, slice_ = 0, like
        while True:
            number = self._next
            self._next = number + 1
            slice_.first = slice_.owner.number = number
            jobs[number] = slice_
            if slice_.owner.unsure:
                unsure.append((number, slice_.owner))
            found.append(slice_)
            size += slice_.nbytes
            if size >= LOT_BYTES or len(found) == MAX_ITEMS or (following := self._next_waiting(like)) is None:
                break
            slice_ = following
        return lot_of(found)

    def _lot_again(self, first: int, last: int) -> Lot | None:
        """Make a lot of what has not ended of one that was sent before, up to the first gap."""
        sent = self._slices.get(first)
        if sent is not None:
            slice_ = sent.slice
            assert isinstance(slice_.payload, Items)
            return Lot(slice_.task, first, slice_.payload, slice_.first, whole=True, detached=False)
        found: list[Slice] = []
        for number in range(first, last + 1):
            job = self.jobs.get(number)
            if job is not None:
                found.append(job)
            elif found:
                break
        return lot_of(found) if found else None

    # --- a new link ---

    def join(self, *, cancel_on_exit: bool, epoch: int = 0, durable: bool = True) -> Resume:
        """There is a new link: return what it begins with; what is not known to be accepted is submitted again.

        But if it is with another run of the head (`epoch`), and nothing of the one before is in a journal (`durable`),
        what must not run twice is lost: it may have begun there.
        """
        if self._epoch not in (0, epoch) and not durable:
            self._lose_unheard()
        self._epoch = epoch
        self._again = deque(self._sent)
        outstanding = [range_ for range_ in self.ranges() if range_[0] <= self.accepted]
        return Resume(outstanding, self.accepted, cancel_on_exit)

    def _lose_unheard(self) -> None:
        for first, last in list(self._sent):
            sent = self._slices.get(first)
            job = next((self.jobs[number] for number in range(first, last + 1) if number in self.jobs), None)
            task = sent.slice.task if sent is not None else job.task if job is not None else None
            if task is not None and task.options.at_most_once:
                why = "the head was started anew, and had not said whether it has accepted this job"
                self.on_refused(Refused([(first, last - first + 1)], "unknown", why))

    def ranges(self) -> list[Range]:
        """Return the numbers of all that has not ended, as ranges that end where acceptance does."""
        numbers = [(number, 1) for number in self.jobs]
        for first in self._firsts:
            sent = self._slices[first]
            numbers += [(first + start, stop - start) for start, stop in sent.open()]
        if self._firsts:
            numbers.sort()
        found: list[Range] = []
        for first, count in numbers:
            if found and sum(found[-1]) == first and first != self.accepted + 1:
                found[-1] = (found[-1][0], found[-1][1] + count)
            else:
                found.append((first, count))
        return found

    def unwanted(self) -> tuple[list[Range], list[Range]]:
        """Return what shall be cancelled: if it has not begun, and also if it has."""
        found: tuple[list[Range], list[Range]] = [], []
        for first, running in self._unwanted.items():
            sent = self._slices.get(first)
            if sent is not None:
                found[running].extend((first + start, stop - start) for start, stop in sent.open())
            elif first in self.jobs:
                found[running].append((first, 1))
        return found

    # --- acceptance ---

    def on_accepted(self, upto: int) -> None:
        """All numbers up to this one are accepted or refused."""
        self.accepted = max(self.accepted, upto)
        while self._sent and self._sent[0][1] <= upto:
            self._sent.popleft()
        while self._again and self._again[0][1] <= upto:
            self._again.popleft()
        unsure = self._unsure
        while unsure and unsure[0][0] <= upto:
            number, owner = unsure.popleft()
            if owner.detached:  # its outcome is not for us
                self.pop_job(number)
            owner.accept()

    def on_refused(self, refused: Refused) -> None:
        """The head has not taken these items in, or has lost them."""
        for first, count in refused.ranges:
            for number in _within(self.jobs, first, count):
                unwanted = number in self._unwanted
                job = self.pop_job(number)
                assert job is not None
                self._refuse_job(job, refused, unwanted=unwanted)
            for sent in self._slices_within(first, count):
                self._refuse_slice(sent, first, count, refused)

    def _refuse_job(self, job: Slice, refused: Refused, *, unwanted: bool) -> None:
        if refused.code in ("unknown", "undefined") and unwanted:
            _cancel(job)
            return
        if _goes_again(job, refused):
            job.state = State.ASSIGNED  # nobody can cancel it without this thread
            self.waiting.append(job)
            return
        job.owner.fail(refusal(refused))
        job.owner.accept()

    def _refuse_slice(self, sent: SentSlice, first: int, count: int, refused: Refused) -> None:
        low, high = max(0, first - sent.first), min(sent.slice.count, first + count - sent.first)
        for start, stop in list(sent.open(low, high)):
            part = sent.slice.part(start, stop)
            if refused.code in ("unknown", "undefined") and sent.first in self._unwanted:
                _cancel(part)
            elif _goes_again(part, refused):
                self.waiting.append(part)
            else:
                part.owner.abandon(part.first, part.count, refusal(refused))
            self.end_items(sent, start, stop)

    # --- ends ---

    def pop_job(self, number: int) -> Slice | None:
        """A job has ended: take it out of the books; None if it had ended before."""
        if self._unwanted:
            self._unwanted.pop(number, None)
        job = self.jobs.pop(number, None)
        if job is not None:
            job.state = State.DONE
        return job

    def find_slice(self, number: int) -> SentSlice | None:
        """Return the slice of a map that a number belongs to."""
        place = bisect_right(self._firsts, number) - 1
        sent = self._slices[self._firsts[place]] if place >= 0 else None
        return sent if sent is not None and number < sent.first + sent.slice.count else None

    def _slices_within(self, first: int, count: int) -> list[SentSlice]:
        slices = [self._slices[each] for each in self._firsts]
        return [sent for sent in slices if sent.first < first + count and first < sent.first + sent.slice.count]

    def end_items(self, sent: SentSlice, start: int, stop: int) -> None:
        """Items of a slice, from offset `start` to `stop`, have ended."""
        sent.end(start, stop)
        if not sent.left and self._slices.pop(sent.first, None) is not None:
            del self._firsts[bisect_right(self._firsts, sent.first) - 1]
            self._unwanted.pop(sent.first, None)

    # --- cancelling ---

    def strike(self, job: Slice) -> None:
        """A caller has acquired the gate of a job that has no number, and has cancelled it."""
        job.state = State.CANCELLED

    def cancel_unsent(self, job: Slice) -> bool:
        """Cancel a job that the head does not have; False if it may have it, or the job has ended."""
        if job.state is State.QUEUED:
            if job.gate is not None and job.gate.acquire(False):
                _cancel(job)
            return True  # else somebody cancels it just now
        if job.state is State.ASSIGNED and job.first not in self.jobs:  # the head has lost it
            _cancel(job)
            return True
        return False

    def cancel_waiting(self, owner: object = None) -> None:
        """Cancel what the head does not have; of one owner, or of all."""
        kept: deque[Slice] = deque()
        for slice_ in self.waiting:
            if owner is not None and slice_.owner is not owner:
                kept.append(slice_)
            elif _have(slice_):
                _cancel(slice_)
        self.waiting = kept

    def want_no_more(self, owner: object = None, *, running: bool = False, maps_only: bool = False) -> list[Range]:
        """Note that what the head has of one owner, or of all, shall be cancelled; return its numbers."""
        ranges: list[Range] = []
        for sent in self._slices.values():
            if owner is None or sent.slice.owner is owner:
                self._want_no_more(sent.first, running=running)
                ranges += [(sent.first + start, stop - start) for start, stop in sent.open()]
        if owner is not None or maps_only:
            return ranges
        for number in self.jobs:
            self._want_no_more(number, running=running)
        return self.ranges()

    def want_job_no_more(self, number: int, *, running: bool) -> None:
        """Note that one job shall be cancelled."""
        if number in self.jobs:
            self._want_no_more(number, running=running)

    def _want_no_more(self, first: int, *, running: bool) -> None:
        self._unwanted[first] = running or self._unwanted.get(first, False)

    # --- the end ---

    def fail_all(self, error_of: Callable[[int | None], BaseException]) -> None:
        """Fail all that is outstanding; `error_of` is given the number of each job, or None if it has none."""
        jobs, slices, waiting = list(self.jobs.values()), list(self._slices.values()), self.waiting
        self.jobs, self._slices, self._firsts, self.waiting = {}, {}, [], deque()
        for emptied in (self._again, self._sent, self._unsure, self._unwanted):
            emptied.clear()
        for job in jobs:
            self.fail(job, error_of(job.first))
        for sent in slices:
            for start, stop in sent.open():
                sent.slice.owner.abandon(sent.slice.first + start, stop - start, error_of(sent.first + start))
        for slice_ in waiting:
            self.fail(slice_, error_of(None))

    @staticmethod
    def fail(slice_: Slice, error: BaseException) -> None:
        """Fail a slice that is in no books any more, unless its caller has cancelled it. Any thread."""
        if slice_.task.map_number:
            slice_.owner.abandon(slice_.first, slice_.count, error)
        elif _have(slice_):
            slice_.state = State.FAILED
            slice_.owner.fail(error)
            slice_.owner.accept()

    def outstanding_jobs(self) -> list[Slice]:
        """Return all jobs that have not ended."""
        return [*self.jobs.values(), *(slice_ for slice_ in self.waiting if not slice_.task.map_number)]


def _have(slice_: Slice) -> bool:
    """Tell whether a slice is the thread's to decide upon: else its caller has cancelled it."""
    if slice_.state is State.QUEUED:
        return slice_.gate is None or slice_.gate.acquire(False)
    return slice_.state is State.ASSIGNED


def _goes_again(slice_: Slice, refused: Refused) -> bool:
    """Tell whether what was refused is submitted anew: it was lost and may run twice, or was never taken in."""
    return refused.code == "undefined" or (refused.code == "unknown" and not slice_.task.options.at_most_once)


def _cancel(slice_: Slice) -> None:
    """Tell the owner that what is the thread's is cancelled."""
    slice_.state = State.CANCELLED
    if slice_.task.map_number:
        slice_.owner.abandon(slice_.first, slice_.count, None)
    else:
        slice_.owner.cancelled_by_head()
        slice_.owner.accept()


def _within(jobs: dict[int, Slice], first: int, count: int) -> list[int]:
    """Return the numbers of jobs that are within a range."""
    if count < len(jobs):
        return [number for number in range(first, first + count) if number in jobs]
    return [number for number in jobs if first <= number < first + count]
