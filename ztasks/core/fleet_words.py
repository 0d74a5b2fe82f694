"""What people are told of a fleet: why a job is where it is, and how many there are of what."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ztasks.core.routing import Offer, shown_takes, why_never
from ztasks.core.slices import State

if TYPE_CHECKING:
    from ztasks.core.fleet_books import FleetBooks
    from ztasks.core.host_lane import HostLane
    from ztasks.core.lines import Line
    from ztasks.core.session_books import Book
    from ztasks.core.work import Work


def offers(fleet: FleetBooks) -> list[Offer]:
    """Return what those workers offer that take work, or will as soon as they have said what they hold."""
    return [lane.offer for lane in fleet.lanes.values() if lane.wanted == "run" and lane.offer.slots > 0]


def why(fleet: FleetBooks, session: int, number: int, now: float) -> str:
    """Say what a job waits for, or where it is."""
    work = fleet.find(session, number)
    if work is None:
        return "it neither waits nor runs here: it has ended, or was never accepted"
    if work.batch is not None:
        return _why_assigned(work, work.batch.lane, now - work.batch.since)
    if work.state is State.DELAYED:
        return f"waits {max(0.0, work.since - now):.3g} s for its retry{_attempt(work)}"
    book = fleet.book(work)
    reason = fleet.stuck(work.spec) or _why_queued(fleet, book, _ahead(book, work, number))
    return f"queued for {max(0.0, now - work.accepted_at):.3g} s{_attempt(work)}: {reason}"


def _attempt(work: Work) -> str:
    return f" (attempt {work.attempt})" if work.attempt > 1 else ""


def _why_assigned(work: Work, lane: HostLane, seconds: float) -> str:
    where = f"{lane.offer.name} on host {lane.offer.host}" if lane.offer.host != lane.offer.name else lane.offer.name
    if not lane.told:
        return f"was with {where}, which is joining anew and has not said yet what it holds{_attempt(work)}"
    crowd = ""
    if lane.outstanding > lane.slots:
        crowd = f"; {where} holds {lane.outstanding} jobs for {lane.slots} workers, so it may not have begun"
    stopping = "; it is being cancelled" if work.stopping else ""
    verb = "waiting or running" if crowd else "running"
    return f"{verb} on {where} since {max(0.0, seconds):.3g} s (attempt {work.attempt}){crowd}{stopping}"


def _ahead(book: Book, work: Work, number: int) -> int:
    """Return how many items of the same session and task go before one."""
    ahead = number - work.first
    for other in book.queue:
        if other is work:
            break
        ahead += other.count if other.state is State.QUEUED else 0
    return ahead


def _why_queued(fleet: FleetBooks, book: Book, ahead: int) -> str:
    """Say what a job waits for that some worker could take."""
    line = book.line
    assert line is not None, "a book with queued work stands in a line"
    before = []
    if ahead:
        before.append(f"{ahead} jobs of its own task")
    others = [other for each in fleet.waiting_lines() for other in each.books()]
    beside = sum(other.queued for other in others if other.line is line and other.spec.priority == book.spec.priority)
    if beside > book.queued:
        before.append(f"in turn with {beside - book.queued} others")
    urgent = sum(other.queued for other in others if other.spec.priority > book.spec.priority)
    if urgent:
        before.append(f"{urgent} of higher priority")
    behind = f"behind {', '.join(before)}; " if before else "the next in turn; "
    return behind + _why_no_lane(fleet, line)


def _why_no_lane(fleet: FleetBooks, line: Line) -> str:
    """Say what the lanes that could take a line's work are doing."""
    if line.lanes:
        return "it is about to be sent"
    able = [lane for group in line.groups for lane in group.lanes.values() if lane.wanted == "run"]
    names = ", ".join(lane.offer.name for lane in able[:5]) + (f" and {len(able) - 5} more" if len(able) > 5 else "")
    if line.takes and any(lane.open for lane in able):
        return f"no worker ({names}) has {shown_takes(line.takes)} free now"
    return f"all workers that may take it are busy ({names})"


def counts(fleet: FleetBooks) -> dict[str, int]:
    """Return how many items there are in each state."""
    assigned = sum(lane.outstanding for lane in fleet.lanes.values())
    return {"queued": fleet.queued, "assigned": assigned, "delayed": fleet.pending - fleet.queued - assigned}


def stuck_items(fleet: FleetBooks) -> int:
    """Return how many of the queued items no worker that has joined can ever take."""
    there = offers(fleet)
    return sum(line.queued for line in fleet.waiting_lines() if why_never(line.route, there) is not None)


def queues(fleet: FleetBooks) -> dict[str, dict[str, int]]:
    """Return how many items of each queue there are in each state."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: {"queued": 0, "assigned": 0, "delayed": 0})
    for line in fleet.waiting_lines():
        found[line.route.queue]["queued"] += line.queued
    for lane in fleet.lanes.values():
        for spec, count in lane.counts.items():
            found[spec.demand.queue]["assigned"] += count
    for work in fleet.delayed_works():
        found[work.spec.demand.queue]["delayed"] += work.count
    return dict(found)
