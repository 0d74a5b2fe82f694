"""A fleet among fakes, and what is known of it from the outside.

`FleetRig` plays the service: it feeds events to the fleet and gives what `dispatch` returns to fake foremen. It keeps a
record of each item, and says beforehand how each event must end it; `_settle` compares that with what the fleet says
(nothing missing, nothing more) and has all books checked (`fleet_invariants.py`). What foremen say goes through the
real codec.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from fleet_invariants import check_fleet, check_known, check_send

from ztasks.core.fleet import Ended, Fleet, HostSend, Offer, Settled, TaskSpec, Work
from ztasks.core.ranges import Ranges
from ztasks.wire.certificate import DeathCertificate
from ztasks.wire.link import Define, Died, Holding, Outcome, Range, Returned
from ztasks.wire.link_codec import check_tables, decode_from_foreman, encode
from ztasks.wire.loss import Loss
from ztasks.wire.messages import Failure
from ztasks.wire.payload import Items, dump, pack, pack_primitives

Item = tuple[int, int]
"""Names an item: its session and number."""

QUEUED, DELAYED = "queued", "delayed"

KILLED = DeathCertificate(pid=1, signal="SIGKILL")


def define(name: str = "task", **changes: Any) -> Define:
    """Return the definition of a task."""
    values: dict[str, Any] = {
        "key": name.encode(), "name": name, "path": f"app.{name}", "by_value": False, "python": "3.11", "retries": 0,
        "backoff": 1.0, "max_backoff": 60.0, "jitter": 0.0, "timeout": None, "grace": 5.0, "crash_retries": 2,
        "at_most_once": False, "retries_timeouts": True, "cpus": 1, "memory": None,
    }  # fmt: skip
    if changes.get("at_most_once"):
        values["crash_retries"] = 0
    return Define(**(values | changes))


def spec(name: str = "task", **changes: Any) -> TaskSpec:
    """Return a task as the head knows it."""
    return TaskSpec(define(name, **changes), b"a callable")


def offer(name: str = "a", slots: int = 2, **changes: Any) -> Offer:
    """Return what a host offers."""
    values: dict[str, Any] = {
        "name": name, "host": f"{name}.example", "slots": slots, "queues": frozenset({"default"}),
        "tags": frozenset(), "resources": {}, "python": "3.11",
    }  # fmt: skip
    return Offer(**(values | changes))


@dataclass
class Record:
    """What must be true of one item, told from the outside."""

    spec: TaskSpec
    accepted_at: float
    place: str | int = QUEUED
    """Queued, delayed, or the lane that holds it."""
    failures: int = 0
    crashes: int = 0
    begun: bool = False
    """Whether the fleet must suppose that it has begun."""
    stopping: bool = False
    due: float = 0.0
    starts: int = 0
    """How often it has really begun, on any host."""
    results: int = 0
    end: str | None = None

    @property
    def attempt(self) -> int:
        return self.failures + self.crashes + 1


@dataclass(eq=False)
class Copy:
    """An item that a foreman holds."""

    item: Item
    attempt: int
    running: bool = False
    unwanted: bool = False


class FakeForeman:
    """A foreman process: it keeps what it holds, and what it has to tell, over its joins."""

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.lane: int | None = None
        self.inbox: deque[tuple[HostSend, list[Copy]] | tuple[int, Range]] = deque()
        """On the way to it: work, and ranges to be cancelled. Lost with its lane."""
        self.defined: set[bytes] = set()
        self.copies: list[Copy] = []
        self.outbox: deque[tuple[bytes, list[Copy]]] = deque()
        """To be told, and what each is about; kept until the head has taken it in."""

    def receive(self) -> None:
        """Take in what has come."""
        while self.inbox:
            what, which = self.inbox.popleft()
            if isinstance(what, HostSend):
                self.defined -= set(what.forget)
                if what.define is not None:
                    self.defined.add(what.define.key)
                self.copies += which  # type: ignore[arg-type]
            else:
                self.cancel(what, which)  # type: ignore[arg-type]

    def cancel(self, session: int, items: Range) -> None:
        """Give up what has not begun of a range; the others may heed it or not."""
        first, count = items
        for copy in [copy for copy in self.copies if copy.item[0] == session and 0 <= copy.item[1] - first < count]:
            copy.unwanted = True
            if not copy.running:
                self.tell_outcome([(copy, "cancelled")])

    def begin(self, copy: Copy, record: Record) -> None:
        copy.running = True
        record.starts += 1

    def tell_outcome(self, ended: list[tuple[Copy, str]], busy: float = 0.001) -> None:
        """Report how copies of one session have ended: ok, fatal, retry, after, cancelled or withheld."""
        copies = [copy for copy, _ in ended]
        over = [copy for copy, fate in ended if fate != "withheld"]
        self.copies = [copy for copy in self.copies if copy not in over]
        numbers = [copy.item[1] for copy in copies]
        in_a_row = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        attempts = [copy.attempt for copy in copies]
        fates = [fate for _, fate in ended]
        failures = [
            Failure(offset, "raised", "OSError", str(copies[offset].item), "", b"", fate != "fatal",
                    7.0 if fate == "after" else None)
            for offset, fate in enumerate(fates) if fate in ("fatal", "retry", "after")
        ]  # fmt: skip
        ok = "ok" in fates
        sizes = [int(fate == "ok") for fate in fates]
        outcome = Outcome(
            copies[0].item[0], numbers[0] if in_a_row else numbers, len(ended),
            attempts[0] if len(set(attempts)) == 1 else attempts, "each" if ok else None, sizes if ok else None, None,
            failures, [offset for offset, fate in enumerate(fates) if fate == "withheld"],
            [offset for offset, fate in enumerate(fates) if fate == "cancelled"], None, None, busy * len(ended), 0,
            self.offer.host, 1, b"r" * sum(sizes) if ok else None,
        )  # fmt: skip
        self.outbox.append((encode(outcome), over))

    def tell_death(self, copy: Copy, *, late: bool) -> None:
        self.copies.remove(copy)
        self.outbox.append((encode(Died(*copy.item, copy.attempt, late, KILLED)), [copy]))

    def give_back(self, copies: list[Copy]) -> None:
        """Return what has not begun."""
        for session in {copy.item[0] for copy in copies}:
            mine = [copy for copy in copies if copy.item[0] == session]
            self.copies = [copy for copy in self.copies if copy not in mine]
            self.outbox.append((encode(Returned(session, [(copy.item[1], 1) for copy in mine])), mine))

    def waiting(self) -> list[Copy]:
        return [copy for copy in self.copies if not copy.running]

    def running(self) -> list[Copy]:
        return [copy for copy in self.copies if copy.running]

    def held(self) -> list[Holding]:
        """All that it holds, or has to tell of."""
        told = [copy for _, copies in self.outbox for copy in copies]
        return [Holding(*copy.item, 1, copy.attempt) for copy in [*told, *self.copies]]


@dataclass
class FleetRig:
    """The service's part: events in, sends out, and after each event everything is checked."""

    fleet: Fleet = field(default_factory=lambda: Fleet(lambda: 0.5))
    records: dict[Item, Record] = field(default_factory=dict)
    foremen: list[FakeForeman] = field(default_factory=list)
    known: dict[int, set[bytes]] = field(default_factory=dict)
    """The tasks that each lane has been told of."""
    numbers: dict[int, int] = field(default_factory=dict)
    """The last number of each session."""
    now: float = 0.0
    failed: bool = False
    """Whether a check has failed: what comes after that says nothing new."""
    _lanes: int = 0

    # --- work ---

    def next_number(self, session: int, count: int) -> int:
        first = self.numbers.get(session, 0) + 1
        self.numbers[session] = first + count - 1
        return first

    def submit(
        self, spec: TaskSpec, count: int = 1, session: int = 1, ballast: int = 0, *, detail: bool = False
    ) -> list[Item]:
        """Submit jobs; each carries its own name, and `ballast` bytes."""
        first = self.next_number(session, count)
        items = [(session, number) for number in range(first, first + count)]
        works = [
            Work(*item, 1, spec, pickle.dumps((item, b"x" * ballast)), accepted_at=self.now, detail=detail)
            for item in items
        ]
        return self._submit(works, items)

    def submit_slice(self, spec: TaskSpec, count: int, session: int = 1, shape: str = "one") -> list[Item]:
        """Submit a slice of a map; its items are their own numbers."""
        first = self.next_number(session, count)
        numbers = list(range(first, first + count))
        packed = pack_primitives(numbers) if shape == "one" else pack([dump(number) for number in numbers])
        assert packed is not None
        work = Work(
            session, first, count, spec, packed, whole=True, index=first + 100, map_number=3, shape=shape,  # type: ignore[arg-type]
            accepted_at=self.now,
        )  # fmt: skip
        return self._submit([work], [(session, number) for number in numbers])

    def _submit(self, works: list[Work], items: list[Item]) -> list[Item]:
        for item in items:
            self.records[item] = Record(works[0].spec, self.now)
        self.fleet.on_submit(works, self.now)
        self._settle([])
        return items

    def cancel(self, session: int, ranges: list[Range], *, running: bool) -> None:
        """The client cancels; the foremen are told."""
        wanted = [
            item for item in self.alive()
            if item[0] == session and any(0 <= item[1] - first < count for first, count in ranges)
        ]  # fmt: skip
        self._cancelled(wanted, running, self.fleet.on_cancel(session, ranges, running, self.now))

    def forget(self, session: int, keep: Iterable[int] = ()) -> None:
        """The client is gone for good: as a head does it, all its numbers are cancelled but for some."""
        unwanted = Ranges([(1, 2**62)])
        for number in keep:
            unwanted.discard(number, 1)
        self.cancel(session, list(unwanted), running=True)

    def _cancelled(
        self, wanted: list[Item], running: bool, answer: tuple[list[Ended], list[tuple[int, int, Range]]]
    ) -> None:
        ended, tell = answer
        told = {(lane, (session, number)) for lane, session, items in tell for number in _range(items)}
        expected = set()
        waiting = [item for item in wanted if isinstance(self.records[item].place, str)]
        for item in wanted:
            record = self.records[item]
            if running and isinstance(record.place, int) and not record.stopping:
                expected.add((record.place, item))
                record.stopping = True
        assert told == expected
        self._tell_foremen(tell)
        self._settle([(item, "cancelled") for item in waiting], ended)

    def _tell_foremen(self, tell: list[tuple[int, int, Range]]) -> None:
        for lane, session, items in tell:
            self.foreman(lane).inbox.append((session, items))

    # --- foremen come and go ---

    def start(self, offer_: Offer | None = None, credit: int = 1000) -> FakeForeman:
        """A foreman starts, and joins."""
        foreman = FakeForeman(offer_ or offer())
        self.foremen.append(foreman)
        self.join(foreman, credit=credit)
        return foreman

    def join(
        self, foreman: FakeForeman, *, follows: bool = False, credit: int | None = 1000, tell: bool = True
    ) -> None:
        """A foreman joins, anew or for the first time. `follows`: its earlier lane has not been lost."""
        earlier, foreman.lane = foreman.lane, self._lanes
        self._lanes += 1
        foreman.inbox.clear()
        if follows and earlier is not None:
            for record in self.records.values():
                record.place = foreman.lane if record.place == earlier else record.place
        elif earlier is not None:
            self.lose_lane(foreman, earlier)
        self.fleet.on_join(foreman.lane, foreman.offer, self.now, earlier=earlier if follows else None)
        self.known[foreman.lane] = set()
        if credit is not None:
            self.fleet.on_credit(foreman.lane, credit)
        self._settle([])
        if tell:
            self.tell_held(foreman)

    def tell_held(self, foreman: FakeForeman) -> None:
        """It says what it holds, which is its own again if nobody else has it and it is not outdated."""
        lane = foreman.lane
        assert lane is not None
        mine: set[Item] = set()
        drops: set[Item] = set()
        holdings = foreman.held()
        for holding in holdings:
            item = holding.session, holding.first
            record = self.records[item]
            if record.end is None and holding.attempt >= record.attempt and record.place in (QUEUED, DELAYED, lane):
                mine.add(item)
                record.begun = record.begun or record.place != lane
                record.place = lane
            else:
                drops.add(item)
        expected = []
        for item, record in self.records.items():
            if record.place == lane and record.end is None and item not in mine:  # it never arrived
                record.place = QUEUED
                if record.stopping:
                    expected.append((item, "cancelled"))
        self.known[lane] = set(foreman.defined)
        answer = self.fleet.on_held(lane, holdings, self.now, defined=foreman.defined)
        dropped = {(session, number) for session, items in answer for number in _range(items)}
        assert dropped == drops
        for session, items in answer:
            foreman.inbox.append((session, items))
        self._settle(expected)

    def lose(self, foreman: FakeForeman) -> None:
        """A foreman's lane is lost; the process goes on."""
        if foreman.lane is not None:
            lane, foreman.lane = foreman.lane, None
            foreman.inbox.clear()
            self.lose_lane(foreman, lane)

    def lose_lane(self, foreman: FakeForeman, lane: int) -> None:
        expected = []
        for item, record in self.records.items():
            if record.place == lane and record.end is None:
                record.place, record.begun = QUEUED, True
                if record.stopping:
                    expected.append((item, "cancelled"))
                elif record.spec.options.at_most_once:
                    expected.append((item, "lost"))
        self._settle(expected, self.fleet.on_lost(lane, self.now, "no sign of life for 10 s"))

    def kill(self, foreman: FakeForeman) -> None:
        """A foreman dies with all that it holds."""
        self.lose(foreman)
        self.foremen.remove(foreman)

    def foreman(self, lane: int) -> FakeForeman:
        return next(foreman for foreman in self.foremen if foreman.lane == lane)

    # --- the service's turn ---

    def dispatch(self) -> list[HostSend]:
        """Work goes out, and is on its way to the foremen."""
        for record in self.records.values():
            if record.place == DELAYED and record.due <= self.now and record.end is None:
                record.place = QUEUED
        self.failed = True
        sends = self.fleet.dispatch(self.now)
        for send in sends:
            check_send(self, send)
        for send in sends:
            check_known(self, send)
            copies = []
            for work in send.works:
                assert list(_values(work)) == [self._value(work, number) for number in range(work.first, work.end)]
                for number in range(work.first, work.end):
                    record = self.records[work.session, number]
                    assert record.place == QUEUED, "it was not queued"
                    record.place = send.lane
                    copies.append(Copy((work.session, number), record.attempt))
            self.foreman(send.lane).inbox.append((send, copies))
        assert self.fleet._lines.next() is None, "work was not sent that could have been"
        self._settle([])
        return sends

    def _value(self, work: Work, number: int) -> object:
        return number if work.whole else (work.session, number)

    def deliver(self, foreman: FakeForeman, most: int = 1000) -> None:
        """What a foreman has to tell arrives."""
        while most and foreman.outbox and foreman.lane is not None:
            data, _ = foreman.outbox.popleft()
            message = decode_from_foreman(data)
            most -= 1
            if isinstance(message, Outcome):
                self._outcome(foreman, message)
            elif isinstance(message, Died):
                self._died(foreman, message)
            else:
                self._returned(foreman, message)

    def _outcome(self, foreman: FakeForeman, outcome: Outcome) -> None:
        check_tables(outcome, 0, len(outcome.payload or b""))
        failures = {failure.offset: failure for failure in outcome.failures}
        expected, skip, retried, copies = [], [], [], set()
        for offset in range(outcome.count):
            number = outcome.numbers + offset if isinstance(outcome.numbers, int) else outcome.numbers[offset]
            attempt = outcome.attempt if isinstance(outcome.attempt, int) else outcome.attempt[offset]
            item = outcome.session, number
            record = self.records[item]
            mine = record.place == foreman.lane and record.attempt == attempt
            success = offset not in failures and offset not in outcome.cancelled
            if record.end or offset in outcome.withheld or not (success or mine):
                skip.append(offset)
            elif success:
                record.results += 1
                if isinstance(record.place, int) and record.place != foreman.lane:
                    copies.add((record.place, item))
                record.end = "soon"  # a second copy in the same outcome does not count
                expected.append((item, "done"))
            elif offset in outcome.cancelled and not record.stopping:
                skip.append(offset)
                record.place = QUEUED
            elif offset in failures and self._retry(record, failures[offset]):
                skip.append(offset)
                retried.append(item)
            else:
                record.end = "soon"
                expected.append((item, "failed" if offset in failures else "cancelled"))
        for item, _ in expected:
            self.records[item].end = None
        settled = self.fleet.on_outcome(foreman.lane, outcome, self.now)  # type: ignore[arg-type]
        assert settled.skip == skip
        self._retried(settled, retried)
        to_cancel, self.fleet.to_cancel = self.fleet.to_cancel, []
        assert {(lane, (session, n)) for lane, session, items in to_cancel for n in _range(items)} == copies
        self._tell_foremen(to_cancel)
        self._settle(expected, settled.ended)

    def _retry(self, record: Record, failure: Failure | None) -> bool:
        """A job has failed: tell whether it is tried again, and note for when. None: it had to be killed."""
        options = record.spec.options
        allowed = record.spec.define.retries_timeouts if failure is None else failure.retry
        if not allowed or record.failures >= options.retries or record.stopping:
            return False
        record.failures += 1
        record.begun, record.place = True, DELAYED
        pause = min(options.backoff * 2 ** (record.failures - 1), options.max_backoff)
        record.due = self.now + (pause if failure is None or failure.after is None else failure.after)
        return True

    def _died(self, foreman: FakeForeman, died: Died) -> None:
        item = died.session, died.number
        record = self.records[item]
        expected, retried = [], []
        if record.end is None and record.place == foreman.lane and record.attempt == died.attempt:
            if record.stopping:
                expected = [(item, "cancelled")]
            elif died.late:
                retried, expected = ([item], []) if self._retry(record, None) else ([], [(item, "timeout")])
            elif record.spec.options.at_most_once:
                expected = [(item, "lost")]
            elif record.crashes < record.spec.options.crashes_allowed:
                record.crashes += 1
                record.place, record.begun = QUEUED, True
                retried = [item]
            else:
                expected = [(item, "poison")]
        settled = self.fleet.on_died(foreman.lane, died, self.now)  # type: ignore[arg-type]
        assert settled.skip == []
        self._retried(settled, retried)
        self._settle(expected, settled.ended)

    def _retried(self, settled: Settled, expected: list[Item]) -> None:
        found = []
        for work in settled.retried:
            assert work.count == 1
            found.append((work.session, work.first))
            record = self.records[found[-1]]
            assert (work.failures, work.crashes) == (record.failures, record.crashes)
        assert found == expected

    def _returned(self, foreman: FakeForeman, returned: Returned) -> None:
        expected = []
        for items in returned.ranges:
            for number in _range(items):
                record = self.records[returned.session, number]
                if record.end is None and record.place == foreman.lane:
                    record.place = QUEUED
                    if record.stopping:
                        expected.append(((returned.session, number), "cancelled"))
        self.fleet.on_returned(foreman.lane, returned.session, returned.ranges, self.now)  # type: ignore[arg-type]
        self._settle(expected)

    # --- what foremen do ---

    def run(self, foreman: FakeForeman, fates: Iterable[str] = (), busy: float = 0.001) -> None:
        """A foreman's workers end jobs, in the order in which it got them: one outcome for each session."""
        foreman.receive()
        ended: dict[int, list[tuple[Copy, str]]] = {}
        for fate, copy in zip(fates, [*foreman.running(), *foreman.waiting()], strict=False):
            if not copy.running:
                self.begin(foreman, copy)
            how = "cancelled" if fate == "heed" and copy.unwanted else "ok" if fate == "heed" else fate
            ended.setdefault(copy.item[0], []).append((copy, how))
        for copies in ended.values():
            foreman.tell_outcome(copies, busy)

    def begin(self, foreman: FakeForeman, copy: Copy) -> None:
        record = self.records[copy.item]
        foreman.begin(copy, record)
        assert record.starts == 1 or not record.spec.options.at_most_once, "it was run a second time"

    def work(self, foreman: FakeForeman, fate: str = "ok", most: int = 10**6, busy: float = 0.001) -> None:
        """A foreman ends up to so many jobs, all with one fate, and what it tells arrives."""
        foreman.receive()
        self.run(foreman, [fate] * min(most, len(foreman.copies)), busy)
        self.deliver(foreman)

    # --- checks ---

    def alive(self) -> list[Item]:
        return [item for item, record in self.records.items() if record.end is None]

    def expiring(self) -> list[tuple[Item, str]]:
        return [
            (item, "expired") for item in self.alive()
            if (record := self.records[item]).place == QUEUED and not record.begun
            and record.spec.expires is not None and record.accepted_at + record.spec.expires <= self.now
        ]  # fmt: skip

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self._settle([])

    def _settle(self, expected: list[tuple[Item, str]], ended: Iterable[Ended] = ()) -> None:
        """The fleet has said exactly what was expected; then all books are right."""
        self.failed = True
        gone = {item for item, _ in expected}
        expected = sorted(expected + [each for each in self.expiring() if each[0] not in gone])
        found = []
        for end in [*ended, *self.fleet.expire(self.now)]:
            work = end.work
            how = end.failure.what if isinstance(end.failure, Loss) else end.state
            assert end.state in ("failed", "expired") or end.failure is None
            if end.failure is not None:
                msgspec.msgpack.encode(end.failure)  # it can be sent
            found += [((work.session, number), how) for number in range(work.first, work.end)]
        assert sorted(found) == expected
        for item, how in found:
            record = self.records[item]
            assert record.end is None, f"{item} ended twice"
            record.end = how
        check_fleet(self)
        self.failed = False

    def finish(self) -> None:
        """Drive everything to its end: all that waits is run, by new workers where there are none that can."""
        idle = 0
        for foreman in list(self.foremen):
            if foreman.lane is None:
                self.join(foreman)
            elif not self.fleet.lanes[foreman.lane].told:
                self.tell_held(foreman)
            self.fleet.on_wanted(foreman.lane, "run")  # type: ignore[arg-type]
            self.fleet.on_credit(foreman.lane, 1000)  # type: ignore[arg-type]
        while self.alive():
            before = len(self.alive())
            self.pass_time(100.0)
            self.dispatch()
            for foreman in self.foremen:
                self.work(foreman)
            idle = 0 if len(self.alive()) < before else idle + 1
            assert idle < 5, [self.fleet.why(*item, self.now) for item in self.alive()[:5]]
        self.pass_time(100.0)
        assert self.dispatch() == []  # which forgets what was cancelled while it was delayed
        assert self.fleet.pending == self.fleet.queued == 0
        assert self.fleet.next_event(self.now) is None


def _range(items: Range) -> range:
    return range(items[0], items[0] + items[1])


def _values(work: Work) -> Iterator[object]:
    payload = work.payload
    if isinstance(payload, Items):
        yield from payload.values()
    else:
        assert isinstance(payload, bytes)
        yield pickle.loads(payload)[0]
