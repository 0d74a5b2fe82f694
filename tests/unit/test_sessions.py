"""What is kept for one client, and what is remembered of jobs that have ended: all of it is counted, and bounded."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from head_rig import define

from ztasks.core.work import Ended, TaskSpec, Work
from ztasks.errors import WireError
from ztasks.io.history import History, Result, Results
from ztasks.io.ledger import Ledger
from ztasks.io.sessions import Pending, Session, Weight
from ztasks.io.specs import Specs
from ztasks.wire.payload import dump, pack


def session() -> Session:
    return Session(1, Weight())


def spec(name: str = "task") -> TaskSpec:
    return TaskSpec(define(name), b"a callable")


def work(number: int, name: str = "task", size: int = 10) -> Work:
    return Work(1, number, 1, spec(name), b"x" * size)


# --- what is kept ---


def test_what_is_kept_is_counted_until_it_is_dropped() -> None:
    one, other = Session(1, weight := Weight()), Session(2, weight)
    name = one.keep([b"12345", b"678"], [(1, 3), (7, 1)], 5)
    other.keep([b"x"], [(1, 1)])
    assert weight.nbytes == 9
    assert list(one.held) == [(1, 3), (7, 1)]
    kept = one.drop(name)
    assert kept is not None
    assert (kept.ranges, weight.nbytes, list(one.held)) == ([(1, 3), (7, 1)], 1, [])
    assert one.drop(name) is None


def test_only_what_is_durable_is_left_to_the_journal() -> None:
    one = session()
    one.keep([b"a"], [(1, 2)], 5)
    one.keep([b"b"], [(3, 1)], 6)
    one.keep([b"c"], [(4, 1)])
    one.spill(5)
    assert (list(one.stored), list(one.held)) == ([(1, 2)], [(3, 2)])
    one.spill(6)
    assert (list(one.stored), list(one.held)) == ([(1, 3)], [(4, 1)])


def test_an_outcome_may_become_void_in_part() -> None:
    one = session()
    name = one.keep([b"a"], [(1, 3)], 1)
    one.stored.add(10, 3)
    one.keep_not(2)
    kept = one.get(name)
    assert kept is not None
    assert (kept.ranges, list(one.held)) == ([(1, 1), (3, 1)], [(1, 1), (3, 1)])
    for number in (1, 3, 11, 99):
        one.keep_not(number)
    assert (one.get(name), list(one.held), list(one.stored)) == (None, [], [(10, 1), (12, 1)])
    assert one._weight.nbytes == 0


@pytest.mark.parametrize("why", ["kept", "sent", "pending", "stored", "nothing", "left"])
def test_when_a_session_is_idle(why: str) -> None:
    one = session()
    if why == "kept":
        one.keep([b""], [(1, 1)])
    elif why == "sent":
        one.sent.add(1)
    elif why == "pending":
        one.wait(Pending(1, 1, 1, []))
    elif why in ("stored", "left"):
        one.stored.add(1, 1)
        one.left = why == "left"
    assert one.idle == (why in ("nothing", "left"))


def test_all_below_the_first_that_is_pending_is_acceptable() -> None:
    one = session()
    one.accepted = 3
    assert one.take_acceptable() == 3
    assert one.take_acceptable() is None
    one.wait(Pending(1, 4, 2, [work(4), work(5)]))
    one.wait(Pending(2, 6, 1, [work(6)]))
    one.accepted = 9  # of which 7 to 9 need not be durable
    assert one.take_acceptable() is None
    assert [each.first for each in one.accept_next()] == [4, 5]
    assert (one.take_acceptable(), list(one.undurable)) == (5, [(6, 1)])
    one.accept_next()
    assert one.take_acceptable() == 9


# --- results and ends ---


def result(size: int) -> Result:
    return Result("done", [b"x" * size])


def test_results_are_bounded_by_bytes_and_the_oldest_go_first() -> None:
    results = Results(100)
    for number in range(1, 6):
        results.put(1, number, result(30))
    assert [number for number in range(1, 6) if results.get(1, number)] == [3, 4, 5]
    assert results.nbytes == 90
    results.put(1, 4, result(10))
    assert results.nbytes == 70
    results.put(1, 6, result(1000))
    assert results.nbytes == 0


def test_results_are_bounded_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ztasks.io.history.RESULTS", 3)
    results = Results(1000)
    for number in range(1, 6):
        results.put(1, number, result(1))
    assert [number for number in range(1, 6) if results.get(1, number)] == [3, 4, 5]


@pytest.mark.parametrize("count", [2, 1 << 60])
def test_a_range_of_results_is_dropped(count: int) -> None:
    results = Results(1000)
    for number in range(1, 6):
        results.put(1, number, result(10))
    results.put(2, 3, result(10))
    results.drop_range(1, 3, count)
    left = [number for number in range(1, 6) if results.get(1, number)]
    assert left == ([1, 2, 5] if count == 2 else [1, 2])
    assert results.get(2, 3) is not None
    assert results.nbytes == 10 * (len(left) + 1)


def test_failed_jobs_can_be_run_again_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ztasks.io.history.REVIVABLE_BYTES", 100)
    history = History()
    for number in range(1, 5):
        history.note(Ended(work(number, size=40), "failed"), "h", "E: what")
    history.note(Ended(work(9), "done"), "h", "")
    assert list(history.revivable) == [(1, 3), (1, 4)]
    assert history.take(1, 3) is not None
    assert history.take(1, 3) is None
    history.take(1, 4)
    assert history._revivable_bytes == 0
    assert history.totals == {"done": 1, "failed": 4, "cancelled": 0, "expired": 0}


def test_failed_items_of_a_map_share_their_payload_which_is_counted_once() -> None:
    slice_ = Work(1, 1, 100, spec(), pack([dump(b"x" * 1000)] * 100), whole=True)
    history = History()
    for offset in range(5, 50):
        history.note(Ended(slice_.part(offset, offset + 1), "failed"), "h", "")
    assert 100_000 < history._revivable_bytes < 110_000
    kept = history.take(1, 6)
    assert kept is not None
    assert kept.payload.nbytes < 1200  # type: ignore[union-attr]
    for number in range(7, 51):
        assert history.take(1, number) is not None
    assert (history._revivable_bytes, history._sources) == (0, {})


def test_a_payload_that_is_too_large_is_not_kept_for_its_failed_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ztasks.io.history.REVIVABLE_BYTES", 50_000)
    slice_ = Work(1, 1, 100, spec(), pack([dump(b"x" * 1000)] * 100), whole=True)
    history = History()
    history.note(Ended(work(1000), "failed"), "h", "")
    for offset in range(5, 50):
        history.note(Ended(slice_.part(offset, offset + 1), "failed"), "h", "")
    assert (list(history.revivable), history._revivable_bytes) == ([(1, 1000)], 10)


def test_what_peers_say_is_remembered_shortened() -> None:
    history = History()
    history.note(Ended(work(1), "failed"), "h" * 10_000, "E" * 10_000_000)
    line = history.find(1, 1)
    assert line is not None
    assert (len(line.host), len(line.error)) == (300, 300)
    assert history.find(1, 2) is None


# --- tasks ---


def test_a_task_is_known_as_long_as_it_has_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ztasks.io.specs.IDLE", 2)
    specs = Specs(Ledger(None), 1000)
    works = []
    for name in ("a", "b", "c", "d"):
        specs.define(define(name), b"a callable")
        found = specs.get(name.encode())
        assert found is not None
        works.append(Work(1, 1, 3, found, pack([dump(1)] * 3), whole=True))
        specs.use(works[-1])
    assert (len(specs), specs.nbytes) == (4, 40)
    specs.release(works[0].part(0, 2))
    assert specs.nbytes == 40
    for each in (works[0].part(2, 3), *works[1:]):
        specs.release(each)
    assert (len(specs), specs.nbytes) == (2, 0)
    assert specs.get(b"a") is None
    specs.use(works[0])  # run again
    assert specs.get(b"a") is works[0].spec


def test_large_callables_of_idle_tasks_go_first() -> None:
    specs = Specs(Ledger(None), 100)
    for name in ("a", "b", "c"):
        specs.define(define(name), b"x" * 60)
    assert (specs.get(b"a"), specs.get(b"b"), len(specs)) == (None, None, 1)
    specs.define(define("d"), b"x" * 600)
    assert specs.get(b"d") is not None  # the last one stays: it is about to be used


@pytest.mark.parametrize(
    "changes",
    [{"key": b""}, {"key": b"k" * 65}, {"name": "n" * 5000}, {"path": "p" * 5000}, {"retries": -1}, {"cpus": 0},
     {"priority": 1 << 40}, {"expires": float("nan")}, {"timeout": float("nan")}, {"grace": float("inf")},
     {"queue": ""}, {"resources": {"": 1}}, {"name": ""}],
)  # fmt: skip
def test_a_task_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    specs = Specs(Ledger(None), 1000)
    with pytest.raises(WireError):
        specs.define(msgspec.structs.replace(define(), **changes), b"")
    assert len(specs) == 0
