"""What must be true of all books of a fleet, against each other and against what is known from the outside.

All of it is checked after each event (`FleetRig` calls `check_fleet`), and `check_send` for all that is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ztasks.core.fleet import HostLane, HostSend, Work
from ztasks.core.lane import MAX_BYTES, MAX_CALLABLES
from ztasks.core.lines import Line
from ztasks.core.slices import State
from ztasks.wire.messages import MAX_ITEMS

if TYPE_CHECKING:
    from fleet_rig import FleetRig


def check_send(rig: FleetRig, send: HostSend) -> None:
    """What goes to a lane can be one message, is for its workers, and is within what it may hold."""
    lane, works, spec = rig.fleet.lanes[send.lane], send.works, send.works[0].spec
    demand, known = spec.demand, rig.known[send.lane]
    assert lane.told
    assert lane.wanted == "run"
    assert demand.queue in lane.offer.queues
    assert demand.tags <= lane.offer.tags
    assert not spec.define.by_value or spec.define.python == lane.offer.python
    assert len({(work.session, work.spec, work.shape, work.detail) for work in works}) == 1
    count = sum(work.count for work in works)
    assert 0 < count <= MAX_ITEMS
    assert len(works) == (1 if works[0].whole else count)
    assert count == 1 or not demand.alone, "it is not alone"
    assert lane.outstanding <= lane.credit
    assert len(works) == 1 or sum(work.size for work in works) <= MAX_BYTES
    assert all(lane.free[name] >= 0 for name, _ in spec.takes), "more was sent than there is room"
    assert (send.define is spec) == (spec.key not in known)
    assert send.define is None or send.define is spec
    known -= set(send.forget)
    known.add(spec.key)
    for work in works:
        assert work.session in rig.numbers
        assert work.index == (work.first + 100 if work.whole else 0)


def check_known(rig: FleetRig, send: HostSend) -> None:
    """After all that goes out: each lane knows the tasks of all that it holds, and not too many others."""
    lane, known = rig.fleet.lanes[send.lane], rig.known[send.lane]
    assert {work.spec.key for batch in lane.batches for work in batch.held()} <= known
    assert len(known) <= max(MAX_CALLABLES, len(lane.counts))


def check_fleet(rig: FleetRig) -> None:
    """Check all books."""
    fleet = rig.fleet
    alive = set(rig.alive())
    assert fleet.pending == len(alive)
    check_index(rig, {(work.session, number): work for work in works(rig) for number in range(work.first, work.end)})
    for lane in fleet.lanes.values():
        check_lane(rig, lane)
    check_lines(rig)
    counts = fleet.counts()
    assert sum(counts.values()) == len(alive)
    assert counts["queued"] == fleet.queued
    by_queue = fleet.queues()
    for name, so_many in counts.items():
        assert sum(each[name] for each in by_queue.values()) == so_many
    check_times(rig)
    for item in rig.alive()[:3]:
        assert fleet.why(*item, rig.now)


def works(rig: FleetRig) -> list[Work]:
    return [work for books in rig.fleet._sessions.values() for work in books.works()]


def check_index(rig: FleetRig, found: dict[tuple[int, int], Work]) -> None:
    """Every item that has not ended is in one work, which is where it should be; and nothing else is there."""
    fleet = rig.fleet
    assert found.keys() == set(rig.alive()), "an item is lost, or is still somewhere after its end"
    assert sum(work.count for work in works(rig)) == len(found), "an item is in two works"
    assert not any(books.empty for books in fleet._sessions.values())
    queued: dict[int, int] = {}
    for books in fleet._sessions.values():
        assert sorted(books.slices) == books._firsts
        for book in books._books.values():
            for work in book.queue:
                if work.state is State.QUEUED:
                    assert id(work) not in queued, "it is queued twice"
                    queued[id(work)] = work.count
            assert book.queued == sum(work.count for work in book.queue if work.state is State.QUEUED)
            assert (book.line is not None) == bool(book.queued)
            assert book.queued or not book.queue
    delayed = {id(work): due for due, _, work in fleet._delayed if work.state is State.DELAYED}
    for item, work in found.items():
        record = rig.records[item]
        place = {State.QUEUED: "queued", State.DELAYED: "delayed"}.get(
            work.state, work.batch and work.batch.lane.number
        )
        assert place == record.place, f"{item} is not where it should be"
        assert (id(work) in queued) == (work.state is State.QUEUED)
        assert (id(work) in delayed) == (work.state is State.DELAYED)
        assert (work.batch is not None) == (work.state is State.ASSIGNED)
        assert work.state is not State.DELAYED or delayed[id(work)] == work.since == record.due
        assert work.batch is None or work in work.batch.works
        check_history(rig, item, work)


def check_history(rig: FleetRig, item: tuple[int, int], work: Work) -> None:
    record = rig.records[item]
    assert work.spec is record.spec
    assert (work.failures, work.crashes) == (record.failures, record.crashes), "another one was charged"
    assert work.attempt == record.attempt
    assert len(work.history) == work.failures + work.crashes
    assert work.begun == record.begun
    assert work.stopping == record.stopping
    assert not work.stopping or work.state is State.ASSIGNED
    assert record.failures <= record.spec.options.retries
    assert record.crashes <= record.spec.options.crashes_allowed


def check_lane(rig: FleetRig, lane: HostLane) -> None:
    """A lane's counts are those of what it holds."""
    held = lane.held()
    assert lane.outstanding == sum(work.count for work in held)
    assert lane.nbytes == sum(batch.nbytes for batch in lane.batches)
    for batch in lane.batches:
        mine = batch.held()
        assert batch.lane is lane
        assert batch.left == sum(work.count for work in mine) > 0
        assert batch.nbytes >= sum(work.size for work in mine)
        assert all(work.spec is batch.spec for work in mine)
    counts = {}
    free = lane.offer.amounts()
    for work in held:
        counts[work.spec] = counts.get(work.spec, 0) + work.count
        for name, amount in work.spec.takes:
            free[name] = free.get(name, 0) - amount * work.count
    assert lane.counts == counts
    assert {name: lane.free.get(name, 0) for name in free} == free
    if lane.outstanding < lane.slots:  # else what it wants depends on what is learned meanwhile of its jobs
        assert lane.open == lane.wants_more()
    assert lane.open or lane.outstanding >= min(lane.slots, lane.credit) or not lane.told or lane.wanted != "run"
    recalling = rig.fleet._recalling
    assert (lane.number in recalling._idle) == (lane.open and lane.outstanding < lane.slots)
    assert (lane.number in recalling._crowded) == (lane.outstanding > lane.slots)
    assert lane.reserved is None or lane.reserved.reserved is lane


def check_lines(rig: FleetRig) -> None:
    """Lines hold what the books say, and know all lanes that could take their work."""
    lines, lanes = rig.fleet._lines, rig.fleet.lanes
    books = [book for each in rig.fleet._sessions.values() for book in each._books.values() if book.queued]
    assert lines.queued == sum(book.queued for book in books)
    assert lines._waiting.keys() == {book.line for book in books}
    assert {lane.number for group in lines._groups.values() for lane in group.lanes.values()} == lanes.keys()
    for line in lines._lines.values():
        mine = [book for book in books if book.line is line]
        assert line.queued == sum(book.queued for book in mine)
        assert line.books() == sorted(mine, key=lambda book: (-book.spec.priority, book.turn))
        assert all(book.spec.route == line.route for book in mine)
        check_line(rig, line)


def check_line(rig: FleetRig, line: Line) -> None:
    lanes = rig.fleet.lanes
    demand = line.route
    mine = [group for group in rig.fleet._lines._groups.values() if group.admits(demand)]
    assert sorted(map(id, line.groups)) == sorted(map(id, mine))
    assert all(line in group.lines for group in mine)
    could = {
        number for number, lane in lanes.items()
        if lane.open and demand.queue in lane.offer.queues and demand.tags <= lane.offer.tags
        and demand.python in (None, lane.offer.python)
    }  # fmt: skip
    assert line.lanes.keys() <= could
    assert line.slots == sum(lane.slots for lane in line.lanes.values())
    assert {number for number in could if lanes[number].room_for(line) > 0} <= line.lanes.keys(), (
        "it would wait for ever"
    )
    assert line.reserved is None or (line.queued and line.reserved.reserved is line)
    assert line.reserved is None or lanes.get(line.reserved.number) is line.reserved


def check_times(rig: FleetRig) -> None:
    """Somebody wakes up for what falls due by itself."""
    fleet, now = rig.fleet, rig.now
    due = fleet.next_event(now)
    assert due is None or due >= 0
    waits = [record.due - now for record in rig.records.values() if record.place == "delayed" and record.end is None]
    waits += [
        record.accepted_at + record.spec.expires - now for item in rig.alive()
        if (record := rig.records[item]).place == "queued" and record.spec.expires is not None and not record.begun
    ]  # fmt: skip
    assert not waits or (due is not None and due <= max(0.0, min(waits)))
