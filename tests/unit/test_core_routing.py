"""Routing: whose jobs go to which hosts, in which order, and what is said when none can take them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from fleet_rig import Copy, FakeForeman, FleetRig, define, offer, spec

from ztasks.core.fleet import Demand, HostLane, HostSend, Offer, TaskSpec, Work
from ztasks.core.lines import MAX_LINES
from ztasks.core.routing import demand_of, why_never
from ztasks.errors import WireError
from ztasks.wire.link_codec import decode_from_foreman

GIB = 2**30


def lanes(sends: list[HostSend]) -> list[int]:
    return [send.lane for send in sends]


def counts(sends: list[HostSend]) -> list[int]:
    return [sum(work.count for work in send.works) for send in sends]


def names(sends: list[HostSend]) -> list[str]:
    return [send.works[0].spec.name for send in sends]


def known(seconds: float | None, name: str = "task", **changes: Any) -> TaskSpec:
    """A task whose jobs are known to take so long."""
    made = spec(name, **changes)
    made.run_time.seconds = seconds
    return made


# --- what a task asks for ---


def test_a_plain_task_asks_for_nothing_that_is_counted() -> None:
    assert spec().demand == Demand()
    assert spec().takes == ()


def test_a_demand_tells_all_that_matters() -> None:
    demand = spec(
        queue="gpu", tags=("b", "a"), resources={"gpu": 1, "licence": 2, "none": 0}, cpus=4, memory=GIB, priority=3,
        expires=5.0, by_value=True, python="3.12", at_most_once=True,
    ).demand  # fmt: skip
    takes = (("cpus", 4), ("gpu", 1), ("licence", 2), ("memory", GIB))
    assert demand == Demand("gpu", frozenset({"a", "b"}), takes, 3, 5.0, "3.12", True)
    assert demand.takes() == (*takes, ("", 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"queue": ""},
        {"tags": ("",)},
        {"resources": {"": 1}},
        {"resources": {"gpu": -1}},
        {"resources": {"cpus": 2}},
        {"resources": {"memory": 2}},
        {"cpus": 0},
        {"memory": -1},
        {"priority": 2**40},
        {"expires": -1.0},
        {"expires": float("nan")},
        {"retries": -1},
        {"backoff": float("inf")},
        {"jitter": 2.0},
        {"timeout": 0.0},
        {"name": ""},
        {"at_most_once": True, "retries": 1},
    ],
)
def test_a_definition_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        TaskSpec(define(**changes), b"")


def test_options_are_those_of_the_definition() -> None:
    options = spec(retries=3, crash_retries=1, timeout=4.0, grace=2.0, retries_timeouts=False).options
    assert (options.retries, options.crashes_allowed, options.timeout, options.grace) == (3, 1, 4.0, 2.0)
    assert options.no_retry_on
    assert not spec().options.no_retry_on


# --- what no worker can ever take ---

OFFERS = [
    offer("a", 4),
    offer("b", 8, queues=frozenset({"default", "video"}), tags=frozenset({"big"}), resources={"memory": 16 * GIB}),
    offer("c", 2, resources={"memory": 4 * GIB, "gpu": 2}, python="3.12"),
]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"cpus": 8, "memory": 16 * GIB}, None),
        ({"resources": {"gpu": 2}}, None),
        ({"queue": "gpu"}, "no worker serves queue 'gpu'; workers: a (default), b (default,video), c (default)"),
        ({"queue": "video", "tags": ("ssd",)}, "no worker of queue 'video' has all of the tags ssd; tags: b (big)"),
        (
            {"tags": ("big", "ssd")},
            "no worker of queue 'default' has all of the tags big,ssd; tags: a (none), b (big), c (none)",
        ),
        ({"memory": 64 * GIB}, "needs memory 64 GiB, the largest worker offers 16 GiB"),
        ({"memory": 512 * 2**20, "queue": "video", "resources": {"gpu": 1}}, "needs gpu 1, no worker offers any"),
        ({"cpus": 9}, "needs cpus 9, the largest worker offers 8"),
        (
            {"memory": 8 * GIB, "resources": {"gpu": 1}},
            "needs gpu 1, memory 8 GiB, and no single worker offers all of that",
        ),
        (
            {"by_value": True, "python": "3.13"},
            "by-value code of Python 3.13, which no other can load; workers have 3.11, 3.12",
        ),
        ({"by_value": False, "python": "3.13"}, None),
    ],
)  # fmt: skip
def test_why_no_worker_can_take_it(changes: dict[str, Any], why: str | None) -> None:
    assert why_never(demand_of(define(**changes)), OFFERS) == why
    rig = FleetRig()
    made = spec(**changes)
    assert rig.fleet.stuck(made) == "no worker has joined"
    for each in OFFERS:
        rig.start(each)
    assert rig.fleet.stuck(made) == why
    (item,) = rig.submit(made)
    assert bool(rig.dispatch()) == (why is None)
    if why is not None:
        assert why in rig.fleet.why(*item, rig.now)


def test_many_workers_are_not_all_named() -> None:
    many = [offer(f"w{number}") for number in range(9)]
    assert why_never(Demand("gpu"), many) == (
        "no worker serves queue 'gpu'; workers: w0 (default), w1 (default), w2 (default), w3 (default), w4 (default), "
        "and 4 more"
    )


def test_what_is_stuck_goes_out_as_soon_as_a_worker_comes_that_can() -> None:
    rig = FleetRig()
    rig.start()
    rig.submit(spec(queue="gpu"))
    assert rig.dispatch() == []
    able = rig.start(offer("g", queues=frozenset({"gpu"})))
    assert lanes(rig.dispatch()) == [able.lane]


def test_a_worker_that_drains_can_take_nothing() -> None:
    rig = FleetRig()
    foreman = rig.start()
    assert foreman.lane is not None
    rig.fleet.on_wanted(foreman.lane, "drain")
    rig.submit(spec())
    assert rig.dispatch() == []
    assert rig.fleet.stuck(spec()) == "no worker has joined"
    rig.fleet.on_wanted(foreman.lane, "run")
    assert counts(rig.dispatch()) == [1]


def test_a_foreman_without_workers_gets_nothing() -> None:
    rig = FleetRig()
    rig.start(offer(slots=0))
    rig.submit(spec())
    assert rig.dispatch() == []
    assert rig.fleet.stuck(spec())


# --- how much goes to whom ---


def test_jobs_of_unknown_length_fill_the_slots_first() -> None:
    rig = FleetRig()
    rig.start(offer(slots=4))
    rig.submit(spec(), 20)
    assert counts(rig.dispatch()) == [4]
    assert rig.dispatch() == []


def test_short_jobs_are_sent_ahead() -> None:
    rig = FleetRig()
    rig.start(offer(slots=4))
    rig.submit(known(0.05), 100)
    assert sum(counts(rig.dispatch())) == 4 + 8  # those that run, and 0.1 s of work for each slot


def test_long_jobs_are_not_sent_ahead() -> None:
    rig = FleetRig()
    foreman = rig.start(offer(slots=4))
    rig.submit(known(10.0), 100)
    assert sum(counts(rig.dispatch())) == 4
    rig.work(foreman, most=1, busy=10.0)
    assert counts(rig.dispatch()) == [1]


def test_two_jobs_go_to_two_hosts() -> None:
    rig = FleetRig()
    one, other = rig.start(offer("a", 4)), rig.start(offer("b", 4))
    rig.submit(known(1e-5), 2)
    assert sorted(lanes(rig.dispatch())) == [one.lane, other.lane]


def test_a_slice_is_shared_in_proportion_to_the_slots() -> None:
    rig = FleetRig()
    small, large = rig.start(offer("a", 2)), rig.start(offer("b", 6))
    rig.submit_slice(known(1e-3), 80)
    sends = rig.dispatch()
    assert dict(zip(lanes(sends), counts(sends), strict=True)) == {large.lane: 60, small.lane: 20}


def test_a_slice_is_not_cut_for_little_work() -> None:
    rig = FleetRig()
    rig.start(offer("a", 1)), rig.start(offer("b", 1))
    rig.submit_slice(known(1e-6), 1000)
    assert counts(rig.dispatch()) == [1000]


def test_credit_is_never_exceeded_not_even_to_spare_a_cut() -> None:
    rig = FleetRig()
    foreman = rig.start(credit=7)
    rig.submit_slice(known(1e-6), 1000)
    assert counts(rig.dispatch()) == [7]
    assert rig.dispatch() == []
    rig.work(foreman, most=3)
    assert counts(rig.dispatch()) == [3]


def test_credit_that_shrinks_takes_nothing_back() -> None:
    rig = FleetRig()
    foreman = rig.start(credit=7)
    assert foreman.lane is not None
    rig.submit(known(1e-6), 20)
    rig.dispatch()
    rig.fleet.on_credit(foreman.lane, 2)
    rig.work(foreman, most=5)
    assert rig.dispatch() == []
    rig.work(foreman, most=1)
    assert counts(rig.dispatch()) == [1]


def test_a_lane_holds_no_more_than_its_bytes() -> None:
    rig = FleetRig()
    foreman = rig.start()
    rig.submit(known(1e-6), 6, ballast=5 * 2**20)
    assert counts(rig.dispatch()) == [3]
    rig.work(foreman)
    assert counts(rig.dispatch()) == [3]


def test_lanes_take_turns() -> None:
    rig = FleetRig()
    one, other = rig.start(offer("a", 4)), rig.start(offer("b", 4))
    got = []
    for _ in range(4):
        rig.submit(known(60.0))
        got += lanes(rig.dispatch())
    assert sorted(got[:2]) == sorted(got[2:]) == [one.lane, other.lane]


def test_a_task_is_defined_once_on_a_lane() -> None:
    rig = FleetRig()
    foreman = rig.start()
    made = known(1e-6)
    for expected in (made, None):
        rig.submit(made)
        (send,) = rig.dispatch()
        assert send.define is expected
        rig.work(foreman)
    rig.lose(foreman)
    rig.join(foreman)  # it says that it still knows the task
    rig.submit(made)
    assert rig.dispatch()[0].define is None


def test_the_task_unused_for_longest_is_forgotten_and_none_that_is_in_use() -> None:
    rig = FleetRig()
    foreman = rig.start(offer(slots=400), credit=10**6)
    tasks = [known(60.0, f"task {number}") for number in range(260)]
    rig.submit(tasks[0])
    rig.dispatch()  # this one stays
    sends = []
    for each in tasks[1:]:
        rig.submit(each)
        sends += rig.dispatch()
        foreman.receive()
        rig.begin(foreman, foreman.copies[-1])
        foreman.tell_outcome([(foreman.copies[-1], "ok")], 60.0)
        rig.deliver(foreman)
    assert [key for send in sends for key in send.forget] == [f"task {number}".encode() for number in (1, 2, 3, 4)]


# --- the order ---


def test_higher_priorities_go_first() -> None:
    rig = FleetRig()
    rig.start(offer(slots=1))
    for priority in (0, -3, 7, 2):
        rig.submit(known(60.0, f"p{priority}", priority=priority))
    got = []
    for _ in range(4):
        got += names(rig.dispatch())
        rig.work(rig.foremen[0], busy=60.0)
    assert got == ["p7", "p2", "p0", "p-3"]


def test_priorities_hold_whatever_the_jobs_need() -> None:
    rig = FleetRig()
    foreman = rig.start(offer(slots=1, resources={"memory": 9, "gpu": 1}))
    rig.submit(known(60.0, "a", priority=1))
    rig.submit(known(60.0, "b", priority=3, memory=2))
    rig.submit(known(60.0, "c", priority=2, resources={"gpu": 1}))
    rig.submit(known(60.0, "d", priority=4))
    got = []
    for _ in range(4):
        got += names(rig.dispatch())
        rig.work(foreman, busy=60.0)
    assert got == ["d", "b", "c", "a"]


def test_a_task_that_no_lane_takes_now_does_not_hold_up_others() -> None:
    rig = FleetRig()
    rig.start()
    rig.submit(spec("stuck", queue="gpu", priority=9))
    rig.submit(spec("other"))
    assert names(rig.dispatch()) == ["other"]


def test_sessions_and_tasks_take_turns() -> None:
    rig = FleetRig()
    foreman = rig.start(offer(slots=1))
    tasks = [known(60.0, "a"), known(60.0, "b")]
    rig.submit(tasks[0], 3, session=1)
    rig.submit(tasks[1], 3, session=1)
    rig.submit(tasks[0], 3, session=2)
    got = []
    for _ in range(9):
        (send,) = rig.dispatch()
        got.append((send.works[0].session, send.works[0].spec.name, send.works[0].first))
        rig.work(foreman, busy=60.0)
    rounds = [(1, "a"), (1, "b"), (2, "a")]
    assert [each[:2] for each in got] == rounds * 3
    assert [first for session, name, first in got if (session, name) == (1, "b")] == [4, 5, 6]


def test_a_session_that_comes_later_does_not_wait_for_all_before_it() -> None:
    rig = FleetRig()
    foreman = rig.start(offer(slots=1))
    made = known(60.0)
    rig.submit(made, 50, session=1)
    rig.dispatch()
    rig.submit(made, 1, session=2)
    rig.work(foreman, busy=60.0)
    first = rig.dispatch()[0].works[0].session
    rig.work(foreman, busy=60.0)
    assert 2 in (first, rig.dispatch()[0].works[0].session)


def test_lines_that_nothing_stands_in_are_forgotten() -> None:
    rig = FleetRig()
    foreman = rig.start(offer(slots=1000))
    for number in range(3 * MAX_LINES):
        rig.submit(known(1e-6, f"task {number}", priority=number))
        rig.dispatch()
        rig.work(foreman)
    assert len(rig.fleet._lines._lines) <= MAX_LINES + 1
    assert len(foreman_lane(rig, foreman).group.lines) <= MAX_LINES + 1  # type: ignore[union-attr]


def foreman_lane(rig: FleetRig, foreman: FakeForeman) -> HostLane:
    assert foreman.lane is not None
    return rig.fleet.lanes[foreman.lane]


# --- room ---


def memory(name: str, gib: int, **changes: Any) -> TaskSpec:
    return known(60.0, name, memory=gib * GIB, **changes)


def host(name: str = "m", slots: int = 100, gib: int = 16, **resources: int) -> Offer:
    return offer(name, slots, resources={"memory": gib * GIB, **resources})


def test_jobs_on_a_host_take_no_more_memory_than_it_has() -> None:
    rig = FleetRig()
    foreman = rig.start(host())
    rig.submit(memory("m", 5), 10)
    assert sum(counts(rig.dispatch())) == 3
    rig.work(foreman, most=2)
    assert sum(counts(rig.dispatch())) == 2


def test_a_slice_is_cut_to_the_room_there_is() -> None:
    rig = FleetRig()
    rig.start(host())
    rig.submit_slice(memory("m", 5), 10)
    assert counts(rig.dispatch()) == [3]


def test_cpus_count_for_those_jobs_only_that_take_several() -> None:
    rig = FleetRig()
    rig.start(offer(slots=8))
    rig.submit(known(1e-6), 3)
    rig.submit(known(60.0, "broad", cpus=3), 5)
    sends = rig.dispatch()
    assert (
        sum(count for send, count in zip(sends, counts(sends), strict=True) if send.works[0].spec.name == "broad") == 2
    )


def test_gpus_are_counted_and_what_needs_none_goes_on() -> None:
    rig = FleetRig()
    rig.start(host(gpu=2))
    rig.submit(known(60.0, "gpu", resources={"gpu": 1}), 5)
    rig.submit(known(60.0, "plain"), 3)
    sends = rig.dispatch()
    assert sorted(zip(names(sends), counts(sends), strict=True)) == [("gpu", 2), ("plain", 3)]
    assert "no worker (m) has gpu 1 free now" in rig.fleet.why(1, 5, rig.now)


def test_a_job_that_must_not_run_twice_travels_alone_and_waits_behind_no_other_of_its_kind() -> None:
    rig = FleetRig()
    rig.start(offer(slots=3))
    rig.submit(known(1e-6, at_most_once=True), 10)
    assert counts(rig.dispatch()) == [1, 1, 1]
    assert "an idle worker" in rig.fleet.why(1, 9, rig.now)


def test_a_large_job_is_not_passed_over_for_ever() -> None:
    rig = FleetRig()
    foreman = rig.start(host())
    rig.submit(memory("small", 4), 50, session=1)
    rig.dispatch()
    rig.submit(memory("large", 16), 1, session=2)
    for _ in range(8):  # small ones end one by one, and there are always more of them
        rig.work(foreman, most=1)
        if "large" in names(rig.dispatch()):
            return
    pytest.fail("it waits although room has become free four times over")


def test_lines_that_want_the_same_room_alternate() -> None:
    rig = FleetRig()
    foreman = rig.start(host())
    rig.submit(memory("small", 12), 20, session=1)
    rig.submit(memory("large", 16), 20, session=2)
    got = []
    for _ in range(8):
        got += names(rig.dispatch())
        rig.work(foreman)
    assert got in (["small", "large"] * 4, ["large", "small"] * 4)


def test_room_that_is_kept_for_one_resource_leaves_the_others_free() -> None:
    rig = FleetRig()
    foreman = rig.start(host(gpu=1, licence=1))
    rig.submit(known(60.0, "gpu", resources={"gpu": 1}), 3)
    rig.submit(known(60.0, "licence", resources={"licence": 1}), 3)
    rig.dispatch()
    assert foreman_lane(rig, foreman).reserved is not None
    rig.submit(memory("m", 8), 2)
    assert sum(counts(rig.dispatch())) == 2


@pytest.mark.parametrize("which", [0, 1])
def test_room_is_kept_where_least_is_missing(which: int) -> None:
    rig = FleetRig()
    foremen = [rig.start(host("a")), rig.start(host("b"))]
    rig.submit(memory("most", 12), 2)
    rig.dispatch()
    rig.work(foremen[which], busy=60.0)
    rig.submit(memory("some", 5))
    rig.dispatch()
    rig.submit(memory("large", 16))
    rig.submit(memory("larger", 16, priority=-1, tags=("none",)))
    rig.dispatch()
    reserved = [foreman_lane(rig, foreman).reserved for foreman in foremen]
    assert [line is not None for line in reserved] == [which == 0, which == 1]


def test_a_higher_priority_is_not_held_up_by_what_is_reserved() -> None:
    rig = FleetRig()
    foreman = rig.start(host())
    rig.submit(memory("small", 12), 3)
    rig.submit(memory("large", 16), 3)
    rig.dispatch()
    rig.submit(memory("urgent", 12, priority=1))
    rig.work(foreman, most=1)
    assert names(rig.dispatch()) == ["urgent"]


@pytest.mark.parametrize("end", ["lose", "drain", "cancel"])
def test_a_reservation_ends_with_its_lane_or_its_job(end: str) -> None:
    rig = FleetRig()
    foreman = rig.start(host())
    rig.submit(memory("small", 12), 3, session=1)
    rig.submit(memory("large", 16), 1, session=2)
    rig.dispatch()
    lane = foreman_lane(rig, foreman)
    assert lane.reserved is not None
    if end == "lose":
        rig.lose(foreman)
    elif end == "drain":
        rig.fleet.on_wanted(lane.number, "drain")
    else:
        rig.cancel(1, [(1, 100)], running=False)
        rig.cancel(2, [(1, 100)], running=False)
    assert lane.reserved is None
    assert not any(line.reserved for line in rig.fleet._lines._lines.values())


# --- recalling ---


def crowd(rig: FleetRig, slots: int = 1) -> FakeForeman:
    """A foreman that holds ten jobs, which were thought to be short, and runs as many as it has slots."""
    foreman = rig.start(offer("a", slots))
    rig.submit(known(1e-3), 10)
    rig.dispatch()
    foreman.receive()
    for copy in foreman.copies[:slots]:
        rig.begin(foreman, copy)
    return foreman


def test_work_is_recalled_when_another_host_idles() -> None:
    rig = FleetRig()
    foreman = crowd(rig)
    assert rig.fleet.recallable(rig.now) == []
    idle = rig.start(offer("b"))
    assert rig.dispatch() == []
    assert rig.fleet.recallable(rig.now) == []  # it has just been given that
    rig.pass_time(0.3)
    assert rig.fleet.recallable(rig.now) == [foreman.lane]
    foreman.give_back(foreman.waiting())
    rig.deliver(foreman)
    sends = rig.dispatch()
    assert idle.lane in lanes(sends)


def test_patience_grows_while_nothing_comes_back() -> None:
    rig = FleetRig()
    foreman = crowd(rig)
    rig.start(offer("b"))
    asked = []
    for _ in range(100):
        rig.pass_time(0.1)
        asked += [rig.now for number in rig.fleet.recallable(rig.now) if number == foreman.lane]
    pauses = [later - earlier for earlier, later in pairwise(asked)]
    assert len(asked) >= 4
    assert all(later > 1.5 * earlier for earlier, later in pairwise(pauses))


def test_a_lane_that_moves_again_is_soon_looked_at_again() -> None:
    rig = FleetRig()
    foreman = crowd(rig)
    rig.start(offer("b"))
    for _ in range(4):
        rig.pass_time(5.0)
        assert rig.fleet.recallable(rig.now) == [foreman.lane]
    rig.work(foreman, most=1)
    rig.pass_time(0.3)
    assert rig.fleet.recallable(rig.now) == [foreman.lane]


def test_what_the_idle_host_cannot_do_is_not_recalled() -> None:
    rig = FleetRig()
    crowd(rig)
    rig.start(offer("b", queues=frozenset({"video"})))
    for _ in range(10):
        rig.pass_time(1.0)
        assert rig.fleet.recallable(rig.now) == []
        assert rig.fleet.next_event(rig.now) != 0.0, "nobody shall spin"


def test_nothing_is_recalled_from_who_holds_no_more_than_it_can_run() -> None:
    rig = FleetRig()
    crowd(rig, slots=10)
    rig.start(offer("b"))
    rig.pass_time(10.0)
    assert rig.fleet.recallable(rig.now) == []


# --- cost ---


def test_neither_dispatch_nor_an_outcome_looks_at_all_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [_looks(number, monkeypatch) for number in (10, 1000)]
    assert looks[1] <= looks[0] + 2


def _looks(number: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a lane is looked at while one of so many, all busy, gets work and ends it."""
    rig = FleetRig()
    made = known(60.0)
    for lane in range(number):
        rig.fleet.on_join(lane, offer(f"w{lane}", resources={"memory": lane}), 0.0)
        rig.fleet.on_held(lane, [], 0.0)
    rig.fleet.on_submit([Work(1, first, 1, made, b"") for first in range(1, 3 * number)], 0.0)
    first = rig.fleet.dispatch(0.0)[0]
    seen = 0

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal seen
            seen += 1
            return method(*args)

        return call

    with monkeypatch.context() as patched:
        for name in ("wants_more", "room_for", "allowance", "release", "hold"):
            patched.setattr(HostLane, name, counted(getattr(HostLane, name)))
        foreman = FakeForeman(offer())
        foreman.tell_outcome([(Copy((1, first.works[0].first), 1), "ok")])
        rig.fleet.on_outcome(first.lane, decode_from_foreman(foreman.outbox[0][0]), 0.0)
        assert len(rig.fleet.dispatch(0.0)) == 1
        rig.fleet.recallable(0.0)
        rig.fleet.next_event(0.0)
    return seen
