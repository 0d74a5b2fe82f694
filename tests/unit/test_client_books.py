"""A client's books: numbers, acceptance, what is submitted again, and that each item ends once for its owner."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ztasks.core.options import Options
from ztasks.core.slices import Slice, State, TaskBooks
from ztasks.errors import HeadFull, HeadLost, InvalidOption, JobExpired, WireError
from ztasks.io.client_books import ClientBooks
from ztasks.io.client_lots import LOT_BYTES, Lot, SentSlice
from ztasks.io.client_outcomes import bring
from ztasks.wire.callables import ShippedCallable
from ztasks.wire.link import Outcome, Refused
from ztasks.wire.loss import Loss
from ztasks.wire.messages import MAX_ITEMS, Failure
from ztasks.wire.payload import Items, Pickled, pack, pack_primitives

SESSION = 0xABC


class Owner:
    """A job's owner: notes what it is told."""

    def __init__(self, *, detached: bool = False, waits: bool = True) -> None:
        self.detached = detached
        self.unsure = waits
        self.number = 0
        self.ends: list[Any] = []

    def accept(self) -> None:
        self.unsure = False

    def succeed(self, data: bytes, buffers: Any) -> None:
        self.ends.append((bytes(data), list(buffers)))

    def fail(self, error: Any) -> None:
        self.ends.append(error)

    def cancelled_by_head(self) -> None:
        self.ends.append("cancelled")


class MapOwner:
    """A map: notes how often each of its items has ended, and how."""

    def __init__(self) -> None:
        self.ends: dict[int, list[Any]] = {}
        self.segments: list[Any] = []

    def arrive(self, segment: Any) -> None:
        self.segments.append(segment)
        for place in range(segment.count):
            if place not in segment.missing:
                self._end(segment.first + place, segment.failures.get(place, "arrived"))

    def abandon(self, first: int, count: int, error: BaseException | None) -> None:
        for index in range(first, first + count):
            self._end(index, error or "cancelled")

    def _end(self, index: int, how: Any) -> None:
        self.ends.setdefault(index, []).append(how)


def task(name: str = "task", *, map_number: int = 0, **options: Any) -> TaskBooks:
    shipped = ShippedCallable(name.encode(), b"", name, by_reference=True)
    return TaskBooks(shipped, Options(**options), "one" if map_number else "call", map_number=map_number)


JOBS = task()
ONCE = task("once", at_most_once=True)


def job(books: TaskBooks = JOBS, payload: Any = b"call", **how: Any) -> Slice:
    return Slice(books, Owner(**how), 0, 1, payload, threading.Lock())


def slice_of(owner: MapOwner, first: int, count: int, books: TaskBooks) -> Slice:
    items = pack_primitives(list(range(first, first + count)))
    assert items is not None
    return Slice(books, owner, first, count, items)


def outcome(numbers: int | list[int], count: int, **fields: Any) -> Outcome:
    made = Outcome(
        session=SESSION, numbers=numbers, count=count, attempt=1, form="each", sizes=None, buffers=None, failures=[],
        withheld=[], cancelled=[], started=None, seconds=None, busy=0.0, max_rss=1, host="h", pid=2, payload=None,
    )  # fmt: skip
    return msgspec.structs.replace(made, **fields)


def results(count: int) -> Items:
    return pack([Pickled(pickle.dumps(value, 5), []) for value in range(count)])


def failure(offset: int, name: str = "ValueError", kind: Any = "raised") -> Failure:
    return Failure(offset, kind, name, "no", "", b"", retry=False)


def taken(books: ClientBooks) -> list[Lot]:
    found = []
    while (lot := books.next_lot()) is not None:
        found.append(lot)
    return found


def bounds(lots: list[Lot]) -> list[tuple[int, int]]:
    return [(lot.first, lot.last) for lot in lots]


@pytest.fixture
def books() -> ClientBooks:
    return ClientBooks(SESSION)


def add(books: ClientBooks, *slices: Slice) -> list[Slice]:
    for slice_ in slices:
        books.add(slice_)
    return list(slices)


# --- numbers and lots ---


def test_jobs_of_one_task_that_wait_together_travel_together(books: ClientBooks) -> None:
    jobs = add(books, *(job(payload=b"%d" % number) for number in range(5)))
    (lot,) = taken(books)
    assert (lot.first, lot.last, lot.whole, lot.detached) == (1, 5, False, False)
    assert [bytes(pickled.data) for pickled in lot.items.pickles()] == [b"0", b"1", b"2", b"3", b"4"]
    assert [each.owner.number for each in jobs] == [each.first for each in jobs] == [1, 2, 3, 4, 5]
    assert all(not each.gate.acquire(False) for each in jobs)  # type: ignore[union-attr]


def test_a_lot_is_of_one_task_one_kind_and_of_bounded_size(books: ClientBooks) -> None:
    large = bytes(LOT_BYTES // 2 + 1)
    add(books, job(), job(task("other")), job(), job(detached=True), job(detached=True), job(payload=large))
    add(books, job(payload=large), job())
    assert bounds(taken(books)) == [(1, 1), (2, 2), (3, 3), (4, 5), (6, 7), (8, 8)]
    add(books, *(job() for _ in range(MAX_ITEMS + 1)))
    assert bounds(taken(books)) == [(9, MAX_ITEMS + 8), (MAX_ITEMS + 9, MAX_ITEMS + 9)]


def test_jobs_with_buffers_travel_with_them(books: ClientBooks) -> None:
    add(books, job(payload=Pickled(b"a", [b"xx"])), job(payload=b"b"), job(payload=Pickled(b"c", [b"y", b"z"])))
    (lot,) = taken(books)
    assert list(lot.items.pickles()) == [(b"a", [b"xx"]), (b"b", []), (b"c", [b"y", b"z"])]


def test_a_slice_of_a_map_travels_alone_and_takes_a_number_for_each_item(books: ClientBooks) -> None:
    owner, of_map = MapOwner(), task(map_number=3)
    add(books, job(), slice_of(owner, 10, 4, of_map), slice_of(owner, 14, 2, of_map), job())
    lots = taken(books)
    assert bounds(lots) == [(1, 1), (2, 5), (6, 7), (8, 8)]
    assert [(lot.place, lot.whole) for lot in lots] == [(0, False), (10, True), (14, True), (0, False)]


def test_what_was_cancelled_while_it_waited_gets_no_number(books: ClientBooks) -> None:
    first, second, third = add(books, job(), job(), job())
    for cancelled in (first, third):
        assert cancelled.gate is not None
        assert cancelled.gate.acquire(False)
        books.strike(cancelled)
    assert not books.empty
    assert bounds(taken(books)) == [(1, 1)]
    assert second.owner.number == 1
    books.pop_job(1)
    assert books.empty


# --- acceptance ---


def test_acceptance_is_told_to_those_who_wait_in_order(books: ClientBooks) -> None:
    owners = [each.owner for each in add(books, job(), job(task("other")), job(), job(waits=False))]
    taken(books)
    books.on_accepted(2)
    assert [owner.unsure for owner in owners] == [False, False, True, False]
    books.on_accepted(4)
    assert not any(owner.unsure for owner in owners)
    assert not any(owner.ends for owner in owners)
    assert not books.empty


def test_a_detached_job_is_out_of_the_books_when_it_is_accepted(books: ClientBooks) -> None:
    add(books, job(detached=True))
    taken(books)
    assert not books.empty
    books.on_accepted(1)
    assert books.empty


def test_only_what_is_not_known_to_be_accepted_is_submitted_again_within_the_same_bounds(books: ClientBooks) -> None:
    add(books, job(), job())
    taken(books)
    add(books, job(), job(), job())
    taken(books)
    owner = MapOwner()
    add(books, slice_of(owner, 0, 3, task(map_number=1)), job())
    taken(books)
    books.on_accepted(2)
    add(books, job())
    resume = books.join(cancel_on_exit=True)
    assert (resume.outstanding, resume.accepted, resume.cancel_on_exit) == ([(1, 2)], 2, True)
    assert bounds(taken(books)) == [(3, 5), (6, 8), (9, 9), (10, 10)]
    books.on_accepted(5)
    assert books.join(cancel_on_exit=False).outstanding == [(1, 5)]
    assert bounds(taken(books)) == [(6, 8), (9, 9), (10, 10)]


def test_what_has_ended_before_it_was_known_to_be_accepted_is_not_submitted_again(books: ClientBooks) -> None:
    add(books, *(job() for _ in range(5)))
    taken(books)
    bring(books, outcome([2, 5], 2), results(2))
    assert books.join(cancel_on_exit=False).outstanding == []
    assert bounds(taken(books)) == [(1, 1), (3, 4)]


def test_an_outcome_is_as_good_as_acceptance(books: ClientBooks) -> None:
    (one,) = add(books, job())
    taken(books)
    bring(books, outcome(1, 1), results(1))
    assert not one.owner.unsure
    books.on_accepted(1)
    assert len(one.owner.ends) == 1


def test_acceptance_stops_what_was_about_to_be_sent_again(books: ClientBooks) -> None:
    add(books, job(), job(task("other")))
    taken(books)
    books.join(cancel_on_exit=False)
    books.on_accepted(1)
    assert bounds(taken(books)) == [(2, 2)]


def test_outstanding_ranges_leave_out_what_has_ended(books: ClientBooks) -> None:
    owner = MapOwner()
    add(books, job(), job(), slice_of(owner, 0, 5, task(map_number=1)), job())
    taken(books)
    books.on_accepted(8)
    bring(books, outcome(2, 1), results(1))
    bring(books, outcome(4, 2), results(2))
    assert books.join(cancel_on_exit=False).outstanding == [(1, 1), (3, 1), (6, 3)]


# --- refusals ---


@pytest.mark.parametrize(("code", "error"), [("full", HeadFull), ("stopping", HeadLost), ("invalid", InvalidOption)])
def test_what_is_refused_fails_and_releases_who_waits(books: ClientBooks, code: Any, error: type) -> None:
    owner = MapOwner()
    one, two, _ = add(books, job(), job(), slice_of(owner, 5, 3, task(map_number=1)))
    taken(books)
    books.on_refused(Refused([(2, 3)], code, "the disk is full"))
    assert not one.owner.ends
    assert [type(end) for end in two.owner.ends] == [error]
    assert "the disk is full" in str(two.owner.ends[0])
    assert not two.owner.unsure
    assert {index: [type(end) for end in ends] for index, ends in owner.ends.items()} == {5: [error], 6: [error]}
    books.on_refused(Refused([(1, 100)], code, "all"))
    assert books.empty


def test_what_the_head_has_lost_is_submitted_under_new_numbers(books: ClientBooks) -> None:
    owner = MapOwner()
    one, two, _ = add(books, job(), job(waits=False), slice_of(owner, 0, 6, task(map_number=1)))
    taken(books)
    books.on_accepted(8)
    bring(books, outcome(5, 2), results(2))
    books.on_refused(Refused([(2, 7)], "unknown", "it was started anew"))
    assert bounds(taken(books)) == [(9, 9), (10, 11), (12, 13)]
    assert (one.owner.number, two.owner.number) == (1, 9)
    assert not two.owner.ends
    bring(books, outcome(10, 4), results(4))
    bring(books, outcome([1, 9], 2), results(2))
    assert sorted(owner.ends) == [0, 1, 2, 3, 4, 5]
    assert all(len(ends) == 1 for ends in [*owner.ends.values(), one.owner.ends, two.owner.ends])
    assert books.empty


def test_what_may_run_only_once_is_not_submitted_anew(books: ClientBooks) -> None:
    owner = MapOwner()
    one, _ = add(books, job(ONCE), slice_of(owner, 0, 2, task("m", map_number=1, at_most_once=True)))
    taken(books)
    books.on_accepted(3)
    books.on_refused(Refused([(1, 3)], "unknown", "it was started anew"))
    assert [type(end) for end in one.owner.ends] == [HeadLost]
    assert "at_most_once" in str(one.owner.ends[0])
    assert [type(ends[0]) for ends in owner.ends.values()] == [HeadLost, HeadLost]
    assert books.empty
    assert taken(books) == []


@pytest.mark.parametrize("durable", [False, True])
def test_what_may_run_only_once_and_was_not_answered_is_lost_with_a_head_that_had_no_journal(
    books: ClientBooks, durable: bool
) -> None:
    owner = MapOwner()
    books.join(cancel_on_exit=False, epoch=5)
    one, other, _ = add(books, job(ONCE), job(), slice_of(owner, 0, 2, task("m", map_number=1, at_most_once=True)))
    before = taken(books)
    books.join(cancel_on_exit=False, epoch=5, durable=durable)
    assert len(taken(books)) == len(before), "the same head knows what it has heard of"
    books.join(cancel_on_exit=False, epoch=6, durable=durable)
    again = taken(books)
    if durable:
        assert len(again) == len(before)
        return
    assert [lot.task.options.at_most_once for lot in again] == [False]
    assert [type(end) for end in one.owner.ends] == [HeadLost]
    assert not other.owner.ends
    assert [type(ends[0]) for ends in owner.ends.values()] == [HeadLost, HeadLost]


# --- outcomes ---


def test_outcomes_of_jobs_go_to_their_owners_whatever_their_numbers(books: ClientBooks) -> None:
    jobs = add(books, *(job() for _ in range(4)))
    taken(books)
    bring(books, outcome([4, 2, 77], 3), results(3))
    assert jobs[3].owner.ends == [(pickle.dumps(0, 5), [])]
    assert jobs[1].owner.ends == [(pickle.dumps(1, 5), [])]
    assert not jobs[0].owner.ends


def test_failures_cancellations_and_what_is_withheld(books: ClientBooks) -> None:
    jobs = add(books, *(job() for _ in range(5)))
    taken(books)
    bring(books, outcome(1, 5, failures=[failure(1)], withheld=[2], cancelled=[3]), results(5))
    assert [len(each.owner.ends) for each in jobs] == [1, 1, 0, 1, 1]
    assert jobs[1].owner.ends == [failure(1)]
    assert jobs[3].owner.ends == ["cancelled"]
    assert list(books.jobs) == [3]


def test_what_is_answered_twice_is_passed_over(books: ClientBooks) -> None:
    owner = MapOwner()
    one, _ = add(books, job(), slice_of(owner, 0, 4, task(map_number=1)))
    taken(books)
    bring(books, outcome(3, 2), results(2))
    for _ in range(2):
        bring(books, outcome(1, 1), results(1))
        bring(books, outcome(2, 4, failures=[failure(0), failure(1)]), results(4))
    assert len(one.owner.ends) == 1
    assert {index: len(ends) for index, ends in owner.ends.items()} == {0: 1, 1: 1, 2: 1, 3: 1}
    assert owner.ends[1] == ["arrived"]
    assert isinstance(owner.ends[0][0], Failure)


def test_a_segment_says_what_a_map_hands_out(books: ClientBooks) -> None:
    owner = MapOwner()
    add(books, slice_of(owner, 100, 6, task(map_number=1)))
    taken(books)
    fields: dict[str, Any] = {"attempt": [1, 1, 2, 2], "started": [1.0, 2.0, 3.0, 4.0], "seconds": [0.1, 0.2, 0.3, 0.4]}
    bring(books, outcome(2, 4, failures=[failure(3)], withheld=[0], **fields), results(4))
    first, second = owner.segments
    assert (first.first, first.count, first.missing, first.attempt) == (101, 2, frozenset({0}), 1)
    assert (second.first, second.count, second.failures, second.attempt) == (103, 2, {1: failure(3)}, 2)
    assert (second.started, second.seconds) == ([3.0, 4.0], [0.3, 0.4])
    assert [pickle.loads(pickled.data) for pickled in second.items.pickles()] == [2, 3]
    assert (str(second.worker), second.max_rss) == ("h:2", 1)
    sent = books.find_slice(1)
    assert isinstance(sent, SentSlice)
    assert list(sent.open()) == [(0, 2), (5, 6)]


def test_one_outcome_may_be_of_several_slices(books: ClientBooks) -> None:
    owner, of_map = MapOwner(), task(map_number=1)
    add(books, slice_of(owner, 0, 3, of_map), slice_of(owner, 3, 3, of_map))
    taken(books)
    bring(books, outcome([1, 3, 4, 5], 4), results(4))
    assert sorted(owner.ends) == [0, 2, 3, 4]
    bring(books, outcome([2, 6], 2), results(2))
    assert books.empty


def test_a_lost_job_is_shown_with_its_call(books: ClientBooks) -> None:
    owner = MapOwner()
    one, _ = add(books, job(payload=b"the call"), slice_of(owner, 7, 2, task(map_number=1)))
    taken(books)
    loss = Loss(
        0, "lost", "PoisonJob", "died", "", b"", retry=False, what="poison", name="task", shape="call", payload=None,
        history=(), certificates=(),
    )  # fmt: skip
    bring(books, outcome(1, 1, form=None, failures=[loss]), None)
    bring(books, outcome(3, 1, form=None, failures=[loss]), None)
    assert one.owner.ends[0].payload == b"the call"
    (told,) = owner.ends[8]
    assert (list(told.payload.values()), told.shape) == ([8], "one")


def test_a_job_that_has_expired(books: ClientBooks) -> None:
    owner = MapOwner()
    one, _ = add(books, job(), slice_of(owner, 0, 2, task(map_number=1)))
    taken(books)
    late = failure(0, "JobExpired", "timeout")
    bring(books, outcome(1, 1, form=None, failures=[late]), None)
    bring(books, outcome(2, 2, failures=[late]), results(2))
    assert [type(end) for end in one.owner.ends] == [JobExpired]
    assert type(owner.ends[0][0]) is JobExpired
    assert owner.ends[1] == ["arrived"]


def test_run_times_are_learnt(books: ClientBooks) -> None:
    one, of_map = task("one"), task(map_number=1)
    add(books, job(one), slice_of(MapOwner(), 0, 4, of_map))
    taken(books)
    bring(books, outcome(1, 1, busy=2.0), results(1))
    bring(books, outcome(2, 4, busy=2.0), results(4))
    assert (one.run_time.seconds, of_map.run_time.seconds) == (2.0, 0.5)


def test_outcomes_that_cannot_be(books: ClientBooks) -> None:
    (one,) = add(books, job())
    taken(books)
    with pytest.raises(WireError, match="another client"):
        bring(books, outcome(1, 1, session=5), results(1))
    with pytest.raises(WireError, match="tells of 0"):
        bring(books, outcome(1, 1, form=None), None)
    assert not one.owner.ends
    bring(books, outcome(1, 1, form="list"), pack_primitives([1]))
    assert "form" in str(one.owner.ends[0])


# --- cancelling, and the end ---


def test_what_the_head_does_not_have_is_cancelled_here(books: ClientBooks) -> None:
    sent, lost, waiting = job(), job(), job()
    add(books, sent, lost)
    taken(books)
    books.on_accepted(2)
    books.on_refused(Refused([(2, 1)], "unknown", "lost"))
    add(books, waiting)
    assert not books.cancel_unsent(sent)
    assert books.cancel_unsent(lost)
    assert books.cancel_unsent(waiting)
    assert [each.owner.ends for each in (sent, lost, waiting)] == [[], ["cancelled"], ["cancelled"]]
    assert taken(books) == []
    bring(books, outcome(1, 1), results(1))
    assert not books.cancel_unsent(sent)
    assert len(sent.owner.ends) == 1
    assert books.empty


def test_one_map_is_cancelled_and_the_other_is_not(books: ClientBooks) -> None:
    mine, other, of_map, of_other = MapOwner(), MapOwner(), task(map_number=1), task(map_number=2)
    add(books, slice_of(mine, 0, 4, of_map), slice_of(other, 0, 2, of_other), job())
    taken(books)
    bring(books, outcome(2, 1), results(1))
    add(books, slice_of(mine, 4, 4, of_map), slice_of(other, 2, 2, of_other))
    books.cancel_waiting(mine)
    assert books.want_no_more(mine) == [(1, 1), (3, 2)]
    assert mine.ends == {1: ["arrived"], **{index: ["cancelled"] for index in (4, 5, 6, 7)}}
    assert not other.ends
    books.join(cancel_on_exit=False)
    assert books.unwanted() == ([(1, 1), (3, 2)], [])
    bring(books, outcome([1, 3, 4], 3, form=None, cancelled=[0, 1, 2]), None)
    assert books.unwanted() == ([], [])
    assert all(len(ends) == 1 for ends in mine.ends.values())


def test_all_is_cancelled(books: ClientBooks) -> None:
    owner = MapOwner()
    add(books, job(), job(), slice_of(owner, 0, 3, task(map_number=1)))
    taken(books)
    assert books.want_no_more(maps_only=True) == [(3, 3)]
    assert books.want_no_more() == [(1, 5)]
    books.want_job_no_more(2, running=True)
    books.want_job_no_more(99, running=True)
    assert books.unwanted() == ([(3, 3), (1, 1)], [(2, 1)])
    assert books.want_no_more(running=True) == [(1, 5)]
    assert books.unwanted()[0] == []


def test_all_fails(books: ClientBooks) -> None:
    owner = MapOwner()
    one, _ = add(books, job(), slice_of(owner, 0, 3, task(map_number=1)))
    taken(books)
    bring(books, outcome(3, 1), results(1))
    two, cancelled, _ = add(books, job(), job(), slice_of(owner, 3, 1, task(map_number=2)))
    assert cancelled.gate is not None
    cancelled.gate.acquire()
    books.fail_all(lambda number: HeadLost(f"number {number}"))
    assert [str(each.owner.ends[0]) for each in (one, two)] == ["number 1", "number None"]
    assert not cancelled.owner.ends
    assert not one.owner.unsure
    assert {index: str(ends[0]) for index, ends in owner.ends.items()} == {
        0: "number 2", 1: "arrived", 2: "number 4", 3: "number None",
    }  # fmt: skip
    assert books.empty
    add(books, job())
    assert bounds(taken(books)) == [(5, 5)]


# --- any history ---


class Histories(RuleBasedStateMachine):
    """A client's books and the simplest head, with links that break and a head that forgets."""

    def __init__(self) -> None:
        super().__init__()
        self.books = ClientBooks(SESSION)
        self.jobs: list[Slice] = []
        self.maps: list[tuple[MapOwner, int]] = []
        self.accepted = 0
        """The head's."""
        self.told = 0
        self.held: set[int] = set()
        """Numbers that the head has accepted and not ended."""
        self.cancelled: set[int] = set()

    @rule(count=st.integers(1, 4), other=st.booleans())
    def submit(self, count: int, other: bool) -> None:
        self.jobs += add(self.books, *(job(ONCE if other else JOBS) for _ in range(count)))

    @rule(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3))
    def map(self, sizes: list[int]) -> None:
        owner, first = MapOwner(), 0
        of_map = task(map_number=len(self.maps) + 1)
        for size in sizes:
            add(self.books, slice_of(owner, first, size, of_map))
            first += size
        self.maps.append((owner, first))

    @rule(reaches=st.booleans())
    def send(self, reaches: bool) -> None:
        lot = self.books.next_lot()
        if lot is None or not reaches:
            return
        assert lot.first > self.accepted or lot.last <= self.accepted, "it would be accepted twice"
        if lot.last > self.accepted:
            self.accepted = lot.last
            self.held.update(range(lot.first, lot.last + 1))

    @rule()
    def hear_of_acceptance(self) -> None:
        self.told = self.accepted
        self.books.on_accepted(self.accepted)

    @rule()
    def join_anew(self) -> None:
        resume = self.books.join(cancel_on_exit=False)
        assert resume.accepted == self.told
        assert {number for first, count in resume.outstanding for number in range(first, first + count)} <= set(
            range(1, self.told + 1)
        )

    @precondition(lambda self: self.held)
    @rule(data=st.data(), withheld=st.booleans(), cancelled=st.booleans())
    def end_some(self, data: st.DataObject, withheld: bool, cancelled: bool) -> None:
        numbers = data.draw(st.lists(st.sampled_from(sorted(self.held)), min_size=1, max_size=6, unique=True))
        fields: dict[str, Any] = {
            "withheld": [0] if withheld else [],
            "cancelled": [len(numbers) - 1] if cancelled else [],
        }
        of_jobs = [number for number in numbers if number in self.books.jobs]
        for group in (of_jobs, [number for number in numbers if number not in of_jobs]):
            if group:
                limits = {name: [at for at in offsets if at < len(group)] for name, offsets in fields.items()}
                bring(self.books, outcome(group, len(group), **limits), results(len(group)))
                self.held -= {number for at, number in enumerate(group) if at not in limits["withheld"]}

    @precondition(lambda self: self.told)
    @rule()
    def start_anew_without_a_journal(self) -> None:
        resume = self.books.join(cancel_on_exit=False)
        self.held.clear()
        self.accepted = self.told
        if resume.outstanding:
            self.books.on_refused(Refused(resume.outstanding, "unknown", "forgotten"))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.jobs))
        if one.state in (State.QUEUED, State.ASSIGNED):
            self.books.cancel_unsent(one)

    @rule()
    def close_a_map(self) -> None:
        for owner, _ in self.maps[-1:]:
            self.books.cancel_waiting(owner)
            self.books.want_no_more(owner)

    @invariant()
    def nothing_ends_twice(self) -> None:
        assert all(len(each.owner.ends) <= 1 for each in self.jobs)
        assert all(len(ends) == 1 for owner, _ in self.maps for ends in owner.ends.values())

    @invariant()
    def what_has_not_ended_is_outstanding(self) -> None:
        left = sum(not each.owner.ends for each in self.jobs)
        left += sum(count - len(owner.ends) for owner, count in self.maps)
        numbered = sum(count for _, count in self.books.ranges())
        waiting = sum(each.count for each in self.books.waiting if each.state is not State.CANCELLED)
        assert left == numbered + waiting

    def teardown(self) -> None:
        self.books.fail_all(lambda number: HeadLost("the end"))
        assert all(len(each.owner.ends) == 1 for each in self.jobs)
        assert all(sorted(owner.ends) == list(range(count)) for owner, count in self.maps)
        assert self.books.empty


TestHistories = Histories.TestCase
