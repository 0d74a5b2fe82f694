"""A foreman's books: of every item that it was given the head hears once what became of it, whatever happens."""

from __future__ import annotations

from math import inf
from typing import Any

import msgspec
import pytest
from fleet_rig import define

from ztasks.core.slices import RunTime, Slice
from ztasks.errors import TooLarge, WireError, WorkersCannotStart
from ztasks.io.deliver import Segment, WorkerName
from ztasks.io.holdings import Holdings
from ztasks.io.reports import Content
from ztasks.wire.certificate import DeathCertificate
from ztasks.wire.link import Batch, Cancel, Died, Holding, Outcome, Returned
from ztasks.wire.link_codec import decode_from_foreman
from ztasks.wire.loss import Loss
from ztasks.wire.messages import Failure
from ztasks.wire.outcomes import items_of, packed, with_items
from ztasks.wire.payload import Items, Pickled, dump, pack, pack_primitives

TASK = define()
FAILURE = Failure(0, "raised", "OSError", "oh", "", b"", True)


def holdings(**changes: Any) -> Holdings:
    made = Holdings(lambda: None)
    made.on_define(define(**changes), b"a callable")
    return made


def batch(
    numbers: list[int], *, whole: bool = False, session: int = 7, failures: int | list[int] = 0, **changes: Any
) -> tuple[Batch, list[Any]]:
    items = pack([dump(number) for number in numbers])
    made = Batch(
        session, TASK.key, packed(numbers), len(numbers), whole, 0, int(whole), failures, 0, "one", "each", 0, None,
        None, False, None,
    )  # fmt: skip
    header, *frames = with_items(made, items)
    return msgspec.structs.replace(msgspec.msgpack.decode(header, type=Batch), **changes), frames


def give(mine: Holdings, numbers: list[int], **how: Any) -> list[Slice]:
    message, frames = batch(numbers, **how)
    return mine.on_batch(message, frames)


def loss(signal: str = "SIGKILL", what: str = "lost") -> Loss:
    death = DeathCertificate(pid=5, signal=signal)
    return Loss(0, "lost", "WorkerLost", "", "", b"", False, what=what, name="task", shape="one", payload=b"",  # type: ignore[arg-type]
                history=(), certificates=(death,))  # fmt: skip


def segment(first: int, count: int, **changes: Any) -> Segment:
    values: dict[str, Any] = {
        "items": pack([dump(("r", first + at)) for at in range(count)]), "failures": {}, "missing": frozenset(),
        "attempt": 1, "started": None, "seconds": None, "max_rss": 0, "worker": WorkerName("h", 3), "error": None,
    }  # fmt: skip
    return Segment(first, count, **(values | changes))


def told(mine: Holdings, *, leaving: bool = False) -> list[Any]:
    """Return what the head is told: (how, number) of each item."""
    found: list[Any] = []
    for content in mine.take_reports(leaving=leaving):
        found += read(content)
    return found


def read(content: Content) -> list[Any]:
    message = decode_from_foreman(bytes(content.frames[0]))  # type: ignore[arg-type]
    if isinstance(message, Returned):
        return [("returned", number) for first, count in message.ranges for number in range(first, first + count)]
    if isinstance(message, Died):
        return [("died", message.number)]
    assert isinstance(message, Outcome)
    items = items_of(message, content.frames[1:])
    numbers = message.numbers
    every = range(numbers, numbers + message.count) if isinstance(numbers, int) else numbers
    failures = {failure.offset: failure.kind for failure in message.failures}
    values = list(items.pickles()) if items is not None and items.form == "each" else [Pickled(b"", [])] * message.count
    found: list[Any] = []
    for offset, number in enumerate(every):
        if offset in message.cancelled:
            found.append(("cancelled", number))
        elif offset in failures:
            found.append((failures[offset], number))
        elif offset not in message.withheld:
            found.append(("ok", number))
            assert items is not None
            assert values[offset].data or items.form == "list"
    return found


# --- jobs ---


def test_jobs_end_in_any_order_and_are_told_together() -> None:
    mine = holdings()
    one, two, three = give(mine, [1, 2, 3])
    assert (mine.items, mine.empty) == (3, False)
    three.owner.succeed(b"r3", [])
    one.owner.fail(FAILURE)
    two.owner.succeed(b"r2", [b"x" * 10])
    (content,) = mine.take_reports(leaving=False)
    assert read(content) == [("raised", 1), ("ok", 2), ("ok", 3)]
    assert content.holdings == [Holding(7, number, 1, 1) for number in (1, 2, 3)]
    assert (mine.items, mine.empty) == (0, True)
    mine.told(4, content)
    assert not mine.empty
    mine.on_acknowledged(3)
    assert not mine.empty
    mine.on_acknowledged(4)
    assert mine.empty


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("cancelled unwanted", "cancelled"),
        ("cancelled", "returned"),
        ("cannot run", "returned"),
        ("too large", "large"),
        ("died", "died"),
        ("failed", "raised"),
    ],
)
def test_what_the_head_hears_of_a_job(how: str, found: str) -> None:
    mine = holdings()
    (job,) = give(mine, [9])
    if how == "cancelled unwanted":
        wanted = mine.on_cancel(Cancel(7, [(1, 20)], True))
        assert wanted is not None
        assert wanted(job)
    ends: dict[str, Any] = {
        "cannot run": WorkersCannotStart("no"), "too large": TooLarge("it is large"), "died": loss(), "failed": FAILURE,
    }  # fmt: skip
    if how.startswith("cancelled"):
        job.owner.cancelled_by_head()
    else:
        job.owner.fail(ends[how])
    assert told(mine) == [(found, 9)]
    assert mine.items == 0


def test_a_job_that_is_told_of_twice_counts_once() -> None:
    """When the crew is killed, what had ended is failed once more."""
    mine = holdings()
    (job,) = give(mine, [1])
    job.owner.succeed(b"r", [])
    job.owner.fail(WorkersCannotStart("the end"))
    assert told(mine) == [("ok", 1)]
    assert mine.items == 0


@pytest.mark.parametrize(("leaving", "signal", "what", "found"), [
    (True, "SIGTERM", "lost", []), (False, "SIGTERM", "lost", ["died"]), (True, "SIGKILL", "lost", []),
    (False, "SIGKILL", "lost", ["died"]), (True, "SIGSEGV", "lost", ["died"]),
    (True, "SIGTERM", "timeout", ["died"]),
])  # fmt: skip
def test_a_worker_that_got_the_same_signal_as_its_foreman_charges_nobody(
    leaving: bool, signal: str, what: str, found: list[str]
) -> None:
    """Batch systems send it to all processes. What is not told goes elsewhere when the foreman is gone."""
    mine = holdings()
    (job,) = give(mine, [1])
    (slice_,) = give(mine, [5, 6], whole=True)
    job.owner.fail(loss(signal, what))
    slice_.owner.arrive(segment(5, 2, failures={1: loss(signal, what)}))
    told_ = told(mine, leaving=leaving)
    assert [how for how, _ in told_ if how == "died"] == found * 2
    assert ("ok", 5) in told_
    assert mine.items == 0


def test_outcomes_of_several_sessions_or_of_many_bytes_are_told_apart() -> None:
    mine = holdings()
    jobs = give(mine, [1, 2, 3]) + give(mine, [1], session=8)
    for job in jobs[:3]:
        job.owner.succeed(b"r", [b"x" * 400_000])
    jobs[3].owner.succeed(b"r", [])
    assert [len(content.holdings) for content in mine.take_reports(leaving=False)] == [2, 1, 1]


def test_the_time_that_jobs_take_cannot_exceed_what_a_head_believes() -> None:
    mine = holdings()
    jobs = give(mine, list(range(1, 101)))
    run_time: RunTime = jobs[0].task.run_time
    run_time.learn(5e8, 1)
    for job in jobs:
        job.owner.succeed(b"r", [])
    (content,) = mine.take_reports(leaving=False)
    assert len(read(content)) == 100  # it is checked there


# --- slices ---


def test_parts_of_a_slice_end_by_and_by() -> None:
    mine = holdings()
    (slice_,) = give(mine, list(range(11, 21)), whole=True)
    slice_.owner.arrive(segment(14, 3, failures={1: msgspec.structs.replace(FAILURE, offset=1)}))
    assert told(mine) == [("ok", 14), ("raised", 15), ("ok", 16)]
    assert (mine.items, slice_.owner.open) == (7, [(11, 3), (17, 4)])
    slice_.owner.arrive(segment(11, 3, failures={0: loss()}))
    assert told(mine) == [("died", 11), ("ok", 12), ("ok", 13)]
    slice_.owner.abandon(17, 2, None)
    slice_.owner.abandon(19, 2, WorkersCannotStart("no"))
    assert told(mine) == [("returned", number) for number in (17, 18, 19, 20)]
    assert (mine.items, mine.relays) == (0, {})


def test_items_that_are_missing_in_a_segment_are_still_here() -> None:
    mine = holdings()
    (slice_,) = give(mine, [1, 2, 3, 4], whole=True)
    slice_.owner.arrive(segment(1, 4, missing=frozenset({0, 2})))
    assert told(mine) == [("ok", 2), ("ok", 4)]
    assert (mine.items, slice_.owner.open) == (2, [(1, 1), (3, 1)])
    assert mine.held([]).holdings == [Holding(7, 1, 1, 1), Holding(7, 3, 1, 1)]


def test_a_slice_that_is_not_wanted_is_told_as_cancelled_but_only_as_a_whole() -> None:
    mine = holdings()
    (slice_,) = give(mine, [1, 2, 3, 4], whole=True)
    assert mine.on_cancel(Cancel(8, [(1, 4)], True)) is None
    wanted = mine.on_cancel(Cancel(7, [(3, 2), (1, 2)], True))
    assert wanted is not None
    assert wanted(slice_)
    slice_.owner.abandon(1, 4, None)
    assert told(mine) == [("cancelled", number) for number in (1, 2, 3, 4)]


def test_of_a_slice_that_is_wanted_in_part_the_rest_goes_on_and_the_part_comes_back() -> None:
    mine = holdings()
    (slice_,) = give(mine, [1, 2, 3, 4], whole=True)
    wanted = mine.on_cancel(Cancel(7, [(2, 2)], True))
    assert wanted is not None
    assert not wanted(slice_)
    assert [wanted(slice_.part(place, place + 1)) for place in range(4)] == [False, True, True, False]
    slice_.owner.abandon(2, 2, None)
    assert told(mine) == [("returned", 2), ("returned", 3)]


def test_what_a_leaving_foreman_does_not_tell_is_still_its_own_when_it_joins_anew() -> None:
    mine = holdings()
    (job,) = give(mine, [9])
    death = DeathCertificate(pid=1, signal="SIGTERM")
    job.owner.fail(msgspec.structs.replace(loss(), certificates=(death,)))
    assert mine.take_reports(leaving=True) == []
    assert mine.empty
    assert mine.held([]).holdings == [Holding(7, 9, 1, 1)]


def test_results_in_one_list_are_passed_on_as_they_are() -> None:
    mine = holdings()
    (slice_,) = give(mine, [1, 2], whole=True)
    items = pack_primitives([5, 6])
    slice_.owner.arrive(segment(1, 2, items=items))
    (content,) = mine.take_reports(leaving=False)
    assert read(content) == [("ok", 1), ("ok", 2)]
    outcome = decode_from_foreman(bytes(content.frames[0]))  # type: ignore[arg-type]
    found: Items | None = items_of(outcome, content.frames[1:])
    assert found is not None
    assert list(found.values()) == [5, 6]


# --- joining anew ---


def test_what_is_not_acknowledged_and_what_is_here_is_held() -> None:
    mine = holdings()
    one, two, three = give(mine, [1, 2, 3], failures=[0, 0, 2])
    give(mine, [11, 12, 13], whole=True)
    one.owner.succeed(b"r", [])
    (content,) = mine.take_reports(leaving=False)
    mine.told(inf, content)  # there was no link
    mine.on_acknowledged(10**9)
    assert mine.untold == 1
    again = mine.take_unacknowledged()
    held = mine.held(again)
    assert held.holdings == [Holding(7, 1, 2, 1), Holding(7, 3, 1, 3), Holding(7, 11, 3, 1)]
    assert held.defined == [TASK.key]
    assert again == [content]
    for job in (two, three):
        job.owner.succeed(b"r", [])


def test_of_an_item_that_came_anew_the_latest_attempt_is_held() -> None:
    """The failure of the first is not acknowledged, and the second is here."""
    mine = holdings()
    (first,) = give(mine, [1])
    first.owner.fail(FAILURE)
    (content,) = mine.take_reports(leaving=False)
    give(mine, [1], failures=1)
    assert mine.held([content]).holdings == [Holding(7, 1, 1, 2)]


def test_two_copies_of_an_item_are_told_apart() -> None:
    mine = holdings()
    (old,) = give(mine, [1])
    (new,) = give(mine, [1], failures=1)
    assert mine.items == 2
    old.owner.succeed(b"r", [])
    assert told(mine) == [("ok", 1)]
    assert mine.items == 1
    new.owner.succeed(b"r", [])
    assert told(mine) == [("ok", 1)]
    assert mine.empty


# --- tasks ---


def test_tasks_are_forgotten_when_the_head_says_so() -> None:
    mine = holdings()
    give(mine, [1])
    mine.forget([TASK.key, b"another"])
    with pytest.raises(WireError, match="not defined"):
        give(mine, [2])
    assert mine._tasks == {}


def test_the_books_on_tasks_are_bounded_and_share_their_run_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ztasks.io.holdings.TASKS", 3)
    mine = holdings()
    slices = [give(mine, [1], session=session)[0] for session in range(1, 10)]
    assert len(mine._tasks) == 3
    assert len({id(slice_.task.run_time) for slice_ in slices}) == 1
    assert [slice_.id for slice_ in slices[:2]] == [f"{1:016x}-1", f"{2:016x}-1"]


@pytest.mark.parametrize(
    "changes",
    [{"key": b"other"}, {"count": 2}, {"count": 0}, {"numbers": 0}, {"whole": True, "numbers": [1]}, {"skip": 1 << 40},
     {"failures": [1, 2]}, {"sizes": [-1]}],
)  # fmt: skip
def test_a_batch_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    mine = holdings()
    message, frames = batch([1])
    message = msgspec.structs.replace(message, **changes)
    with pytest.raises(WireError):
        mine.on_batch(message, frames)
    assert mine.empty


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(WireError, match="options that cannot be"):
        holdings(retries=-1)
