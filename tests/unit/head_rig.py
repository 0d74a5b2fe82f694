"""A head without sockets and threads, among fake peers and a fake journal.

The rig plays the service: it hands contents to the desks, and what they say to the peers. All that is said goes through
the real codec. Clients and foremen keep books of their own, and complain about what must not be; `Rig.check` compares
the head's books with each other, and with what is durable.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from fake_journal import FakeJournal
from fleet_rig import define

from ztasks.core.ranges import Ranges
from ztasks.core.roster import Member
from ztasks.io.books import SESSION_SECONDS, Books
from ztasks.io.client_desk import ClientDesk
from ztasks.io.foreman_desk import ForemanDesk
from ztasks.io.journal_ops import Accepted as AcceptedOperation
from ztasks.io.journal_ops import Charged as ChargedOperation
from ztasks.io.journal_ops import Ended as EndedOperation
from ztasks.io.ledger import FOREMEN, Ledger, load_foremen
from ztasks.io.peers import Peer
from ztasks.io.recovery import recover
from ztasks.io.reviving import Reviving
from ztasks.wire.certificate import DeathCertificate
from ztasks.wire.link import (
    Accepted,
    Alive,
    Answer,
    Batch,
    Cancel,
    Define,
    Died,
    Forget,
    Held,
    Hello,
    Holding,
    Leaving,
    Outcome,
    Recall,
    Refused,
    Resume,
    Returned,
    Submit,
)
from ztasks.wire.link_codec import decode_to_client, decode_to_foreman, encode
from ztasks.wire.messages import Failure
from ztasks.wire.outcomes import items_of, number_at, packed, with_items
from ztasks.wire.payload import Items, Pickled, dump, pack

Item = tuple[int, int]


class FakeLink:
    """What is said is noted; the peer reads and acknowledges it when it likes."""

    def __init__(self, on_said: Callable[[list[Any]], object] = lambda _: None) -> None:
        self.said: list[list[Any]] = []
        self.on_said = on_said
        self.acknowledged_there = 0
        self.acknowledged = 0
        """So many contents of the peer have been dealt with."""
        self.wanted = "run"

    def send(self, frames: Sequence[Any]) -> int:
        self.said.append([bytes(frame) for frame in frames])
        self.on_said(self.said[-1])
        return len(self.said)

    @property
    def queued_bytes(self) -> int:
        return sum(len(frame) for frames in self.said[self.acknowledged_there :] for frame in frames)

    @property
    def idle(self) -> bool:
        return self.acknowledged_there == len(self.said)

    def acknowledge(self, upto: int) -> None:
        self.acknowledged = max(self.acknowledged, upto)

    def outgoing(self) -> list[Any]:
        return []

    def receipt(self) -> None:
        return None

    def silent(self, now: float) -> float:
        return 0.0


def hello(kind: str, name: str, incarnation: int, slots: int = 8) -> Hello:
    return Hello(kind, name, incarnation, 0, 1, "0.2.0", "3.11", name, slots, ("default",))  # type: ignore[arg-type]


class Head:
    """One run of a head."""

    def __init__(self, journal: FakeJournal | None, now: float, most_bytes: int, lanes: int) -> None:
        self.journal = journal
        self.ledger = Ledger(journal)  # type: ignore[arg-type]
        self.books = Books(self.ledger, most_bytes)
        self.recovered = recover(journal, self.books) if journal is not None else None  # type: ignore[arg-type]
        notes = self.recovered.notes if self.recovered is not None else {}
        awaited = load_foremen(notes.get(FOREMEN, b"")) if self.books.fleet.pending or self.books.doubtful else []
        self.logged: list[str] = []
        self.foremen = ForemanDesk(self.books, lambda event, what: self.logged.append(what), awaited, now + 5)
        self.answered: list[Any] = []
        self.forgotten: list[int] = []
        self.clients = ClientDesk(self.books, lambda *question: self.answered.append(question), self.forgotten.append)
        self.reviving = Reviving(self.books, journal)  # type: ignore[arg-type]
        self.lanes = lanes

    def peer(self, hello_: Hello) -> Peer:
        self.lanes += 1
        return Peer(Member(self.lanes, hello_, ""), FakeLink(), lambda *_: True, touch=lambda _: None)  # type: ignore[arg-type]


class Told(NamedTuple):
    """A content that a foreman has told, until it is acknowledged."""

    upto: int
    frames: list[Any]
    items: list[tuple[Item, int]]
    operations: list[int]
    """Of how many operations the head knew when it had dealt with it."""


class Copy:
    """An item that a foreman holds."""

    def __init__(self, item: Item, attempt: int, whole: bool) -> None:
        self.item, self.attempt, self.whole = item, attempt, whole
        self.running = self.unwanted = False


class FakeForeman:
    """It runs what it is told to, and tells of it until that is acknowledged."""

    def __init__(self, rig: Rig, name: str, incarnation: int) -> None:
        self.rig, self.hello = rig, hello("foreman", name, incarnation)
        self.peer: Peer | None = None
        self.defined: dict[bytes, Define] = {}
        self.copies: list[Copy] = []
        self.outbox: list[Told] = []
        self._read = self._told = 0

    @property
    def link(self) -> FakeLink:
        assert self.peer is not None
        return self.peer.link  # type: ignore[return-value]

    def join(self, *, follows: bool = False) -> None:
        """Join, anew or for the first time. `follows`: its lane has not been lost."""
        head, earlier = self.rig.head, self.peer
        if earlier is not None and not follows:
            self.lose()
        elif earlier is not None:
            earlier.lost = True
            del head.books.peers[earlier.lane]
        self.peer = head.peer(self.hello)
        self.link.on_said = self.rig.check_given
        head.books.peers[self.peer.lane] = self.peer
        head.foremen.on_join(self.peer, self.rig.now, earlier.lane if earlier is not None and follows else None)
        head.foremen.on_alive(
            self.peer, Alive(self.peer.lane, 1, sent=0, turn=0, received=0, acknowledged=0, credit=65536)
        )
        self._read = self._told = 0
        again, self.outbox = self.outbox, []
        told = [each for content in again for each in content.items]
        holdings = [Holding(*item, 1, attempt) for item, attempt in told]
        holdings += [Holding(*copy.item, 1, copy.attempt) for copy in self.copies]
        self.tell(Held(holdings, list(self.defined)), [])
        for content in again:
            self._tell(content.frames, content.items)

    def lose(self) -> None:
        """Its lane is lost, and it does not know."""
        if self.peer is not None:
            peer, self.peer = self.peer, None
            del self.rig.head.books.peers[peer.lane]
            self.rig.head.foremen.on_gone(peer, self.rig.now, "it was silent")
            peer.lost = True

    def tell(self, message: Any, items: list[tuple[Item, int]]) -> None:
        self._tell([encode(message)], items)

    def _tell(self, frames: list[Any], items: list[tuple[Item, int]]) -> None:
        if self.peer is None:  # told when it has joined anew
            self.outbox.append(Told(0, frames, items, []))
            return
        self._told += 1
        told = Told(self._told, frames, items, [])
        if items:  # what is only for this join is not told again
            self.outbox.append(told)
        self.rig.head.foremen.on_content(self.peer, frames, self._told, self.rig.now)
        told.operations.append(self.rig.head.ledger.appended)
        self.hear()

    def hear(self) -> None:
        """Forget what the head has acknowledged."""
        while self.peer is not None and self.outbox and self.outbox[0].upto <= self.link.acknowledged:
            self.rig.check_acknowledged(self, self.outbox.pop(0))

    def read(self) -> None:
        """Take in what the head has said."""
        while self.peer is not None and self._read < len(self.link.said):
            frames = self.link.said[self._read]
            self._read += 1
            self._take(decode_to_foreman(frames[0]), frames)
        if self.peer is not None:
            self.link.acknowledged_there = self._read
            self.peer.flush()

    def _take(self, message: Any, frames: list[Any]) -> None:
        if isinstance(message, Define):
            self.defined[message.key] = message
        elif isinstance(message, Forget):
            for key in message.keys:
                del self.defined[key]
        elif isinstance(message, Batch):
            self._take_batch(message, frames)
        elif isinstance(message, Cancel):
            wanted = Ranges(message.ranges)
            for copy_ in [each for each in self.copies if each.item[0] == message.session]:
                if copy_.item[1] in wanted:
                    copy_.unwanted = True
                    if not copy_.running:
                        self.end([(copy_, "cancelled")])
        else:
            assert isinstance(message, Recall)

    def _take_batch(self, batch: Batch, frames: list[Any]) -> None:
        assert batch.key in self.defined, "a task was not defined"
        items = items_of(batch, frames[1:])
        assert items is not None
        values = list(items.values())
        for place, value in enumerate(values):
            number = batch.numbers + place if isinstance(batch.numbers, int) else batch.numbers[place]
            assert value == (batch.session, number), "it came with another's arguments"
            failures = batch.failures if isinstance(batch.failures, int) else batch.failures[place]
            crashes = batch.crashes if isinstance(batch.crashes, int) else batch.crashes[place]
            copy_ = Copy((batch.session, number), failures + crashes + 1, batch.whole)
            self.rig.given[copy_.item] += 1
            self.copies.append(copy_)

    # --- what becomes of jobs ---

    def begin(self, copy_: Copy) -> None:
        if not copy_.running:
            copy_.running = True
            self.rig.note_begun(copy_.item)

    def end(self, ended: list[tuple[Copy, str]]) -> None:
        """Tell how copies of one session have ended: ok, fatal, retry or cancelled."""
        for copy_, fate in ended:
            self.copies.remove(copy_)
            if fate != "cancelled":
                self.begin(copy_)
        ended = sorted(ended, key=lambda each: each[0].item)
        session = ended[0][0].item[0]
        pickles, failures, cancelled = [], [], []
        for offset, (copy_, fate) in enumerate(ended):
            pickles.append(dump(("result", copy_.item)) if fate == "ok" else Pickled(b"", []))
            if fate == "cancelled":
                cancelled.append(offset)
            elif fate != "ok":
                failures.append(Failure(offset, "raised", "OSError", "oh", "", b"", fate == "retry"))
        attempts = [copy_.attempt for copy_, _ in ended]
        outcome = Outcome(
            session, packed([copy_.item[1] for copy_, _ in ended]), len(ended), attempts, None, None, None, failures,
            [], cancelled, None, None, 0.001 * len(ended), 0, self.hello.name, 1, None,
        )  # fmt: skip
        items: Items | None = pack(pickles) if len(failures) + len(cancelled) < len(ended) else None
        self._tell(list(with_items(outcome, items)), [(copy_.item, copy_.attempt) for copy_, _ in ended])

    def work(self, fates: Iterable[str], most: int = 1000) -> None:
        """Read, and end up to so many jobs with these fates, those of one session in one outcome."""
        self.read()
        groups: dict[tuple[int, bool], list[tuple[Copy, str]]] = {}
        for copy_, fate in zip(self.copies[:most], fates, strict=False):
            groups.setdefault((copy_.item[0], copy_.whole), []).append((copy_, fate))
        for group in groups.values():
            self.end(group)

    def die(self, copy_: Copy) -> None:
        """A worker dies with its job."""
        self.begin(copy_)
        self.copies.remove(copy_)
        died = Died(*copy_.item, copy_.attempt, False, DeathCertificate(pid=1, signal="SIGKILL"))
        self.tell(died, [(copy_.item, copy_.attempt)])

    def give_back(self) -> None:
        """Give back what has not begun."""
        back = [copy_ for copy_ in self.copies if not copy_.running]
        for session in {copy_.item[0] for copy_ in back}:
            mine = [copy_ for copy_ in back if copy_.item[0] == session]
            self.copies = [copy_ for copy_ in self.copies if copy_ not in mine]
            ranges = list(Ranges((copy_.item[1], 1) for copy_ in mine))
            self.tell(Returned(session, ranges), [(copy_.item, copy_.attempt) for copy_ in mine])

    def die_itself(self) -> None:
        """The process is gone with all that it has."""
        self.lose()
        self.copies.clear()
        self.outbox.clear()
        self.defined.clear()
        self.hello = msgspec.structs.replace(self.hello, incarnation=self.hello.incarnation + 1)


class Lot(NamedTuple):
    first: int
    count: int
    key: bytes
    whole: bool
    durable: bool
    sent: bool


class FakeClient:
    """It submits, and notes what becomes of each item."""

    def __init__(self, rig: Rig, session: int) -> None:
        self.rig, self.session = rig, session
        self.peer: Peer | None = None
        self.accepted = 0
        self.ends: dict[int, str] = {}
        """How each item has ended, or that it was refused or lost."""
        self.detached: set[int] = set()
        self.lots: list[Lot] = []
        self.answers: dict[int, tuple[Answer, Any]] = {}
        self.questions = self.repeated = 0
        self._last = self._read = 0
        self._head = rig.head

    def is_volatile(self, lot: Lot) -> bool:
        """Tell whether a lot is in no journal."""
        return not lot.durable or self.rig.head.journal is None

    @property
    def link(self) -> FakeLink:
        assert self.peer is not None
        return self.peer.link  # type: ignore[return-value]

    def join(self) -> None:
        """Join, anew or for the first time, and submit again what is not known to be accepted."""
        head, earlier = self.rig.head, self.peer
        if earlier is not None:
            earlier.lost = True
            head.books.peers.pop(earlier.lane, None)
            head.clients.on_gone(earlier, self.rig.now)
        self.peer = head.peer(hello("client", "c", self.session))
        head.books.peers[self.peer.lane] = self.peer
        head.clients.on_join(self.peer, self.rig.now)
        self._read = 0
        outstanding = [number for number in self.open() if number <= self.accepted]
        self.say(Resume(list(Ranges((number, 1) for number in outstanding)), self.accepted))
        for lot in self.lots:
            numbers = range(lot.first, lot.first + lot.count)
            if lot.first <= self.accepted or all(number in self.ends for number in numbers):
                continue
            if self._head is not head and self.rig.definitions[lot.key].at_most_once and self.is_volatile(lot):
                self.ends.update(dict.fromkeys(numbers, "unknown"))  # the head that is no more may have given it out
            else:
                self._submit(lot)
        self._head = head

    def lose(self) -> None:
        """Its lane is lost: the head has not heard of it."""
        if self.peer is not None:
            peer, self.peer = self.peer, None
            peer.lost = True
            del self.rig.head.books.peers[peer.lane]
            self.rig.head.clients.on_gone(peer, self.rig.now)

    def leave(self, *, cancel: bool) -> None:
        self.say(Leaving(cancel))
        self.lose()

    def open(self) -> list[int]:
        """The items that it waits for."""
        numbers = (number for lot in self.lots for number in range(lot.first, lot.first + lot.count))
        return [number for number in numbers if number not in self.ends and number not in self.detached]

    def say(self, message: Any, *frames: Any) -> None:
        assert self.peer is not None
        self.rig.head.clients.on_content(self.peer, [encode(message), *frames], self.rig.now)

    def submit(
        self, definition: Define, count: int = 1, *, whole: bool = False, durable: bool = True, sent: bool = False
    ) -> list[int]:
        """Submit jobs, or a slice."""
        self.say(definition, b"a callable")
        lot = Lot(self._last + 1, count, definition.key, whole, durable, sent)
        self._last += count
        self.lots.append(lot)
        numbers = list(range(lot.first, lot.first + count))
        if sent:
            self.detached.update(numbers)
        self._submit(lot)
        return numbers

    def _submit(self, lot: Lot) -> None:
        items = pack([dump((self.session, number)) for number in range(lot.first, lot.first + lot.count)])
        self.say(self.rig.definitions[lot.key], b"a callable")
        submit = Submit(
            lot.key, lot.first, lot.count, lot.whole, 0, int(lot.whole), "one", "each", 0, None, None, False,
            lot.durable, lot.sent, None,
        )  # fmt: skip
        header, *frames = with_items(submit, items)
        assert self.peer is not None
        self.rig.head.clients.on_content(self.peer, [header, *frames], self.rig.now)

    def read(self, most: int = 10**6) -> None:
        """Take in what the head has said, and acknowledge it."""
        while self.peer is not None and most and self._read < len(self.link.said):
            frames = self.link.said[self._read]
            self._read += 1
            most -= 1
            self._take(decode_to_client(frames[0]), frames)
            self.link.acknowledged_there = self._read
            self.peer.flush()

    def _take(self, message: Any, frames: list[Any]) -> None:
        if isinstance(message, Accepted):
            self.rig.check_accepted(self, message.upto)
            self.accepted = max(self.accepted, message.upto)
        elif isinstance(message, Refused):
            for first, count in message.ranges:
                for number in range(first, first + count):
                    if number not in self.ends:
                        self.ends[number] = message.code
                        self.detached.discard(number)
        elif isinstance(message, Outcome):
            self._take_outcome(message, items_of(message, frames[1:]))
        else:
            self.answers[message.question] = message, frames[1:]

    def _take_outcome(self, outcome: Outcome, items: Items | None) -> None:
        assert outcome.session == self.session
        for number, how, value in read_outcome(outcome, items):
            assert number not in self.detached, "it was told of a detached job"
            if how == "done":
                assert value == ("result", (self.session, number)), "it got another's result"
            if number in self.ends:
                self.repeated += 1
            else:
                self.ends[number] = how


def read_outcome(outcome: Outcome, items: Items | None) -> list[tuple[int, str, Any]]:
    """Return what an outcome says of each item."""
    failures = {failure.offset: failure for failure in outcome.failures}
    pickles = list(items.pickles()) if items is not None else []
    found: list[tuple[int, str, Any]] = []
    for offset in range(outcome.count):
        number = number_at(outcome, offset)
        assert (offset in failures) + (offset in outcome.cancelled) + (offset in outcome.withheld) <= 1
        if offset in outcome.cancelled:
            found.append((number, "cancelled", None))
        elif offset in failures:
            expired = failures[offset].type_name == "JobExpired"
            found.append((number, "expired" if expired else "failed", failures[offset]))
        elif offset not in outcome.withheld:
            found.append((number, "done", pickle.loads(pickles[offset].data)))
    return found


class Rig:
    """A head, its journal, its peers."""

    def __init__(self, *, journal: bool = True, most_bytes: int = 1 << 30) -> None:
        self.now = 100.0
        self.most_bytes = most_bytes
        self.definitions: dict[bytes, Define] = {}
        self.head = Head(FakeJournal() if journal else None, self.now, most_bytes, 0)
        self.clients: list[FakeClient] = []
        self.foremen: list[FakeForeman] = []
        self.given: Counter[Item] = Counter()
        self.begun: Counter[Item] = Counter()
        self._operations: dict[tuple[str, int], int] = {}
        """For each content of a foreman, how many operations there were when it had been told."""

    @property
    def journal(self) -> FakeJournal:
        assert self.head.journal is not None
        return self.head.journal

    def define(self, name: str = "task", **changes: Any) -> Define:
        made = define(name, **changes)
        self.definitions[made.key] = made
        return made

    def client(self, session: int = 1) -> FakeClient:
        client = FakeClient(self, session)
        self.clients.append(client)
        client.join()
        return client

    def foreman(self, name: str = "a") -> FakeForeman:
        foreman = FakeForeman(self, name, 1000 * (len(self.foremen) + 1))
        self.foremen.append(foreman)
        foreman.join()
        return foreman

    # --- the service's turn ---

    def turn(self, *, settle: bool = True) -> None:
        """What the service does in a turn; `settle`: all operations are durable before it."""
        head, now = self.head, self.now
        if head.journal is not None:
            if settle:
                head.journal.settle()
            head.ledger.durable = head.journal.durable
            head.clients.on_durable(head.ledger.durable, now)
            head.foremen.on_durable(head.ledger.durable, now)
            for peer in head.books.peers.values():
                peer.on_durable(head.ledger.durable)
        head.foremen.expire(now)
        if not head.foremen.waits(now):
            head.foremen.dispatch(now)
        head.reviving.go_on(now)
        head.clients.tell_accepted()
        head.clients.look_after_gone(now)
        head.foremen.note_names()
        for peer in list(head.books.peers.values()):
            peer.flush()
        for foreman in self.foremen:
            foreman.hear()
        self.check()

    def settle_all(self) -> None:
        """Turn, until nothing changes any more by itself; all peers read what they are told."""
        for _ in range(3):
            self.turn()
            for client in self.clients:
                client.read()
            for foreman in self.foremen:
                foreman.read()
        self.turn()

    def finish(self, fate: str = "ok") -> None:
        """All foremen end all that they hold or get with this fate, until nothing is left."""
        for _ in range(100):
            self.settle_all()
            if not self.head.books.fleet.pending:
                return
            for foreman in self.foremen:
                foreman.work([fate] * 10_000)
            self.now += 1
        raise AssertionError("work is left that nobody does")

    def restart(self) -> None:
        """The head is killed, and started again with what was durable."""
        journal = self.head.journal.killed() if self.head.journal is not None else None
        lanes = self.head.lanes + 1000
        self._operations.clear()
        for peer in [*self.clients, *self.foremen]:
            peer.peer = None
        self.head = Head(journal, self.now, self.most_bytes, lanes)

    # --- what must not be ---

    def check_given(self, frames: list[Any]) -> None:
        """What foremen are given is durable, and what has ended durably is not given to them."""
        batch, journal = decode_to_foreman(frames[0]), self.head.journal
        session = self.head.books.sessions.get(batch.session) if isinstance(batch, Batch) else None
        if journal is None or session is None or not session.journaled:
            return
        first = batch.numbers
        for number in range(first, first + batch.count) if isinstance(first, int) else first:
            item = batch.session, number
            assert item not in journal.ended, f"{item} is run again, although it is durable that it has ended"
            if number not in session.volatile:
                once = self.definitions[batch.key].at_most_once
                assert journal.knows(*item), f"{item} was given out before it was durable"
                assert not once or item in journal.begun, f"{item} was not durably said to begin"

    def note_begun(self, item: Item) -> None:
        """A foreman's worker begins an item."""
        self.begun[item] += 1

    def check_acknowledged(self, foreman: FakeForeman, told: Told) -> None:
        """What is acknowledged is durable."""
        journal = self.head.journal
        if journal is None:
            return
        items = {item for item, _ in told.items}
        for operation in journal.operations[journal.durable : told.operations[0]]:
            if isinstance(operation, EndedOperation | ChargedOperation):
                count = getattr(operation, "count", 1)
                late = {(operation.session, operation.first + at) for at in range(count)} & items
                assert not late, f"what became of {late} was acknowledged before it was durable"

    def check_accepted(self, client: FakeClient, upto: int) -> None:
        """What a client is told to be accepted is durable, if it is to be."""
        journal = self.head.journal
        for operation in journal.operations[journal.durable :] if journal is not None else ():
            if isinstance(operation, AcceptedOperation) and operation.session == client.session:
                assert operation.first > upto, "it was told to be accepted before it was durable"

    def check(self) -> None:
        """The books agree with each other."""
        books = self.head.books
        pending = [work for session in books.sessions.values() for each in session.pending for work in each.works]
        stopped = [end.work for end in books.fleet._stopped]  # which the next turn tells of
        works = [*books.fleet.works(), *books.doubtful.values(), *pending, *stopped]
        assert books.work_bytes == sum(work.nbytes for work in works)
        items: Counter[bytes] = Counter()
        for work in works:
            items[work.spec.key] += work.count
        assert books.specs._items == dict(items)
        assert books.specs.nbytes == sum(len(books.specs._known[key].callable) for key in items)
        kept = [each for session in books.sessions.values() for _, each in session.kept()]
        assert books._weight.nbytes == sum(each.nbytes for each in kept)
        for session in books.sessions.values():
            numbers = Ranges(range_ for _, each in session.kept() for range_ in each.ranges)
            assert list(session.held) == list(numbers)
            waiting = Ranges((work.first, work.count) for each in session.pending for work in each.works)
            assert list(session.undurable) == list(waiting)
            assert (session.lane is None) == (session.number in books.gone)
        for peer in books.peers.values():
            for session_, number in peer.asked:
                assert any(lane == peer.lane for lane, _ in books.telling.asked(session_)[number])

    def check_empty(self) -> None:
        """When all has ended, nothing is left."""
        self.now += SESSION_SECONDS + 1
        self.turn()
        self.now += SESSION_SECONDS + 1
        self.turn()
        books = self.head.books
        assert (books.work_bytes, books.fleet.pending, books._weight.nbytes) == (0, 0, 0)
        assert books.specs._items == {}
        assert books.doubtful == {}
        assert not books.undurable
        assert books.telling._asked == {}
        assert not self.head.foremen._beginning
        if self.head.journal is not None:
            self.head.journal.settle()
            waiting = self.head.journal.load().waiting
            assert waiting == [], [
                (type(each).__name__, each.session, getattr(each, "first", 0), getattr(each, "count", 1))
                for each in self.head.journal.operations
                if hasattr(each, "session")
            ]
