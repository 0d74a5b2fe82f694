"""How a foreman tells its head what became of work: the contents Outcome, Died and Returned.

What it must hold: what the head may not know as a crash (the host is being shut down) is not told as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ztasks.errors import TooLarge
from ztasks.io.deliver import Segment
from ztasks.io.hostinfo import host_name
from ztasks.wire.link import Died, Holding, Outcome, Range, Returned
from ztasks.wire.link_codec import encode
from ztasks.wire.loss import Loss
from ztasks.wire.messages import MAX_ITEMS, MAX_SECONDS, Failure
from ztasks.wire.outcomes import packed, with_items
from ztasks.wire.payload import Buffer, Pickled, pack

if TYPE_CHECKING:
    from ztasks.io.holdings import Relay, Report

OUTCOME_BYTES = 512 * 1024
"""About how much of jobs' results goes into one content."""


class Content(NamedTuple):
    """What is told, and what items it is about."""

    frames: list[Buffer]
    holdings: list[Holding]


def job_contents(reports: list[Report], *, leaving: bool) -> list[Content]:
    """Return what tells of jobs: those of one session together. `leaving`: see `_goes_with_host`."""
    contents: list[Content] = []
    group: list[Report] = []
    back: list[Relay] = []
    size = 0
    for report in reports:
        relay = report.relay
        if isinstance(report.rest, Loss):
            if not _goes_with_host(report.rest, leaving=leaving):
                contents.append(_died(relay, relay.first, report.rest))
            continue
        if report.data is None and _comes_back(relay, report.rest):
            back.append(relay)
            continue
        if group and (group[0].relay.session != relay.session or size > OUTCOME_BYTES or len(group) == MAX_ITEMS):
            contents.append(_outcome_of_jobs(group))
            group, size = [], 0
        group.append(report)
        if report.data is not None:
            size += len(report.data) + sum(map(len, report.rest))
    if group:
        contents.append(_outcome_of_jobs(group))
    return contents + _returned_jobs(back)


def _goes_with_host(loss: Loss, *, leaving: bool) -> bool:
    """Tell whether a worker has got the same signal as this foreman, which is leaving: batch systems send it to all.

    Then the job is not charged, as none is whose host is lost: the head has it run elsewhere when this foreman is gone.
    """
    return leaving and loss.what != "timeout" and loss.certificates[-1].signal in ("SIGTERM", "SIGKILL")


def untold(relay: Relay, rest: object, *, leaving: bool) -> list[Holding]:
    """Return the items of a report of which the head is told nothing."""
    failures = rest.failures.items() if isinstance(rest, Segment) else [(0, rest)]
    first = rest.first if isinstance(rest, Segment) else relay.first
    return [
        Holding(relay.session, first + place, 1, relay.attempt)
        for place, failure in failures
        if isinstance(failure, Loss) and _goes_with_host(failure, leaving=leaving)
    ]


def _comes_back(relay: Relay, rest: object) -> bool:
    """Tell whether a job that has no result was not run, and shall be run elsewhere."""
    if rest is None:
        return not relay.cancelled
    return isinstance(rest, BaseException) and not isinstance(rest, TooLarge)


def _outcome_of_jobs(group: list[Report]) -> Content:
    group.sort(key=lambda report: report.relay.first)  # the fewer stretches, the fewer lines in the journal
    relays = [report.relay for report in group]
    pickles: list[Pickled] = []
    failures: list[Failure | Loss] = []
    cancelled: list[int] = []
    for offset, report in enumerate(group):
        pickles.append(Pickled(report.data or b"", report.rest if report.data is not None else []))
        if report.data is None:
            if report.rest is None:
                cancelled.append(offset)
            else:
                failures.append(_failure(report.rest, offset))
    numbers = [relay.first for relay in relays]
    attempts = [relay.attempt for relay in relays]
    seconds = relays[0].task.run_time.seconds or 0.0
    outcome = Outcome(
        relays[0].session,
        packed(numbers),
        len(group),
        attempts[0] if attempts.count(attempts[0]) == len(attempts) else attempts,
        None,
        None,
        None,
        failures,
        [],
        cancelled,
        None,
        None,
        min(seconds * len(group), MAX_SECONDS / 2),
        0,
        host_name(),
        0,
        None,
    )
    items = pack(pickles) if len(failures) + len(cancelled) < len(group) else None
    holdings = [Holding(relay.session, relay.first, 1, relay.attempt) for relay in relays]
    return Content(with_items(outcome, items), holdings)


def _failure(error: Failure | BaseException, offset: int) -> Failure:
    if isinstance(error, Failure):
        return msgspec.structs.replace(error, offset=offset)
    return Failure(offset, "large", type(error).__name__, str(error), "", b"", False)


def segment_contents(relay: Relay, segment: Segment, *, back: type[BaseException], leaving: bool) -> list[Content]:
    """Return what tells of a part of a slice; an error of type `back` means that it was cancelled."""
    session, attempt = relay.session, relay.attempt
    if segment.error is not None:
        rest = None if isinstance(segment.error, back) else segment.error
        if _comes_back(relay, rest):
            return [_returned(relay, segment.first, segment.count)]
    contents: list[Content] = []
    failures: list[Failure | Loss] = []
    withheld = sorted(segment.missing)
    for place, failure in sorted(segment.failures.items()):
        if isinstance(failure, Loss):
            withheld.append(place)
            if not _goes_with_host(failure, leaving=leaving):
                contents.append(_died(relay, segment.first + place, failure))
        else:
            failures.append(msgspec.structs.replace(failure, offset=place))
    cancelled: list[int] = []
    if segment.error is not None:
        if isinstance(segment.error, back):
            cancelled = list(range(segment.count))
        else:
            failures = [_failure(segment.error, offset) for offset in range(segment.count)]
    if len(withheld) == segment.count:
        return contents
    outcome = Outcome(
        session,
        segment.first,
        segment.count,
        attempt,
        None,
        None,
        None,
        failures,
        sorted(withheld),
        cancelled,
        segment.started,
        segment.seconds,
        min((relay.task.run_time.seconds or 0.0) * segment.count, MAX_SECONDS / 2),
        segment.max_rss,
        segment.worker.host if segment.worker is not None else host_name(),
        segment.worker.pid if segment.worker is not None else 0,
        None,
    )
    holding = Holding(session, segment.first, segment.count, attempt)
    return [*contents, Content(with_items(outcome, segment.items), [holding])]


def _died(relay: Relay, number: int, loss: Loss) -> Content:
    content = Died(relay.session, number, relay.attempt, loss.what == "timeout", loss.certificates[-1])
    return Content([encode(content)], [Holding(relay.session, number, 1, relay.attempt)])


def _returned_jobs(relays: list[Relay]) -> list[Content]:
    """Return what tells of jobs that come back: one content for each session, in the order of their numbers."""
    by_session: dict[int, list[Relay]] = {}
    for relay in relays:
        by_session.setdefault(relay.session, []).append(relay)
    contents = []
    for session, mine in by_session.items():
        ranges: list[Range] = []
        for relay in sorted(mine, key=lambda relay: relay.first):
            if ranges and sum(ranges[-1]) == relay.first:
                ranges[-1] = ranges[-1][0], ranges[-1][1] + 1
            else:
                ranges.append((relay.first, 1))
        holdings = [Holding(session, relay.first, 1, relay.attempt) for relay in mine]
        contents.append(Content([encode(Returned(session, ranges))], holdings))
    return contents


def _returned(relay: Relay, first: int, count: int) -> Content:
    content = Returned(relay.session, [(first, count)])
    return Content([encode(content)], [Holding(relay.session, first, count, relay.attempt)])
