"""A head for tests of the client: a thread that accepts, runs jobs in this process, and misbehaves as it is told.

It has real sockets and real links, and the roster of a real head; its books are the simplest that can be.
"""

from __future__ import annotations

import pickle
import selectors
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from support import DEADLINE

import ztasks
from ztasks.core.link import Link
from ztasks.core.roster import Roster
from ztasks.errors import WireError
from ztasks.io.join import JoinFile
from ztasks.io.net import HeadSockets
from ztasks.io.wakeup import Wakeup
from ztasks.wire import failures
from ztasks.wire.link import (
    Accepted,
    Alive,
    Answer,
    Ask,
    Cancel,
    Chunk,
    Define,
    Hello,
    Leaving,
    Outcome,
    Received,
    Refused,
    Reject,
    Resume,
    Submit,
    Void,
    Welcome,
)
from ztasks.wire.link_codec import decode_at_head, decode_from_client, encode
from ztasks.wire.messages import Failure
from ztasks.wire.outcomes import items_of, part, with_items
from ztasks.wire.payload import Items, Pickled, dump, load, pack, pack_primitives
from ztasks.wire.verdict import Judged

T = TypeVar("T")

HEARTBEAT = 0.1
LEASE = 0.8


class Work(NamedTuple):
    """One item that was accepted and has not ended."""

    key: bytes
    shape: str
    call: Any
    """A Pickled, or the value of a list."""
    whole: bool
    detail: bool


class Ended(NamedTuple):
    """How one item ended: it is at an offset of an outcome."""

    how: str
    outcome: Outcome
    items: Items | None
    offset: int

    def frames(self) -> list[Any]:
        return with_items(*part(self.outcome, self.items, self.offset, self.offset + 1))


class State:
    """What outlives a head, if it has a journal."""

    def __init__(self) -> None:
        self.accepted: dict[int, int] = {}
        self.works: dict[int, dict[int, Work]] = {}
        self.ended: dict[int, dict[int, Ended]] = {}
        """By session and number."""
        self.callables: dict[bytes, bytes] = {}
        self.lock = threading.Lock()


class FakeHead:
    """One run of a head. Flags may be changed at any time, by any thread; they hold from the next message on."""

    def __init__(
        self,
        *,
        port: int = 0,
        durable: bool = True,
        state: State | None = None,
        epoch: int = 1,
        heartbeat: float = HEARTBEAT,
    ) -> None:
        self.silent = False
        """It neither reads nor writes."""
        self.accepts = True
        """It says what it has accepted."""
        self.runs = True
        """It runs what it has accepted."""
        self.refuses: str | None = None
        self.rejects: str | None = None
        self.answers = True
        self.state = state if state is not None else State()
        self.received: list[Any] = []
        """All contents that came, decoded."""
        self.hellos: list[Hello] = []
        self.lanes: list[int] = []
        self.begun: set[int] = set()
        """Numbers that cannot be cancelled unless running."""
        self.executed: list[tuple[int, int]] = []
        """Session and number of what was run."""
        self.defines: dict[bytes, Define] = {}
        self._durable = durable
        self._heartbeat = heartbeat
        self._todo: list[Callable[[], object]] = []
        self._waiting: list[tuple[int, Ask]] = []
        self._wakeup = Wakeup()
        self._sockets = HeadSockets(None, None, lambda refusal: None)
        self._router = self._sockets.clients("127.0.0.1", port)
        self.port = self._router.port
        self._roster = Roster(epoch, ztasks.__version__)
        self.links: dict[int, Link] = {}
        self._routes: dict[int, bytes] = {}
        self._ends = False
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fake-head", daemon=True)
        self._thread.start()
        self.do(lambda: None)  # it has all that it opens

    @property
    def join(self) -> JoinFile:
        return JoinFile.plain("client", "127.0.0.1", self.port)

    # --- the test's thread ---

    def close(self) -> None:
        self._ends = True
        self._wakeup.set()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        if self._failed is not None:
            raise self._failed

    def restarted(self, *, forgets: bool = False, durable: bool | None = None) -> FakeHead:
        """End it without a word and start its successor on the same port."""
        self.close()
        state = State() if forgets else self.state
        return FakeHead(
            port=self.port,
            durable=self._durable if durable is None else durable,
            state=state,
            epoch=self._roster.epoch + 1,
            heartbeat=self._heartbeat,
        )

    def do(self, call: Callable[[], T]) -> T:
        """Call something in its thread."""
        found: list[T] = []
        done = threading.Event()

        def run() -> None:
            try:
                found.append(call())
            finally:
                done.set()

        self._todo.append(run)
        self._wakeup.set()
        assert done.wait(DEADLINE)
        return found[0]

    def of(self, kind: type[T]) -> list[T]:
        """Return the contents of one kind that came."""
        return [message for message in self.received if isinstance(message, kind)]

    def run_all(self) -> None:
        """Run what waits."""
        self.do(lambda: [self._run_works(session, list(works)) for session, works in self.state.works.items()])

    def say(self, message: Any, *frames: Any) -> None:
        """Say something to all clients."""
        self.do(lambda: [link.send([encode(message), *frames]) for link in self.links.values()])

    def say_outcome(self, outcome: Outcome, items: Items | None) -> None:
        self.do(lambda: [link.send(with_items(outcome, items)) for link in self.links.values()])

    def void(self) -> None:
        """Forget all lanes."""

        def void() -> None:
            for lane in list(self.links):
                self._router.send(self._routes[lane], encode(Void(lane)))
                self._forget(lane)

        self.do(void)

    # --- its thread ---

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:
            self._failed = error
        finally:
            self._sockets.close()
            self._wakeup.close()

    def _loop(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wakeup.fileno(), selectors.EVENT_READ)
            gate: Any = self._sockets.gatekeeper.socket
            for sock in (self._router, gate):
                selector.register(sock.descriptor(), selectors.EVENT_READ)
            while not self._ends:
                now = time.monotonic()
                self._wakeup.clear()
                self._sockets.gatekeeper.answer(now)
                while self._todo:
                    self._todo.pop(0)()
                if not self.silent:
                    while self._router.readable() and not self.silent and not self._todo:
                        message = self._router.receive()
                        if message is not None:
                            self._take(message, now)
                    self._flush(now)
                if not self._todo and not self._ends:
                    selector.select(0.01)

    def _flush(self, now: float) -> None:
        for lane, link in list(self.links.items()):
            route = self._routes[lane]
            for chunk, frames in link.outgoing():
                if not self._router.send(route, encode(chunk), *frames):
                    link.unsent(chunk.number)
                    break
            for word in (link.receipt(), link.alive(now)):
                if word is not None:
                    self._router.send(route, encode(word))
            if link.expired(now):
                self._forget(lane)

    def _forget(self, lane: int) -> None:
        self.links.pop(lane, None)
        self._roster.remove(lane)

    def _take(self, message: Any, now: float) -> None:
        header = decode_at_head(bytes(message.frames[0]))
        if isinstance(header, Hello):
            self._greet(header, message, now)
            return
        link = self.links.get(header.lane)
        if link is None:
            self._router.send(message.route, encode(Void(header.lane)))
            return
        self._routes[header.lane] = message.route
        if isinstance(header, Chunk):
            content = link.on_chunk(header, message.frames[1:], now)
            if content is not None:
                self._on_content(header.lane, content.frames)
                if header.lane in self.links:
                    link.acknowledge(content.upto)
        elif isinstance(header, Received):
            link.on_received(header, now)
        else:
            assert isinstance(header, Alive)
            link.on_alive(header, now)

    def _greet(self, hello: Hello, message: Any, now: float) -> None:
        self.hellos.append(hello)
        if self.rejects is not None:
            code: Any = self.rejects
            self._router.send(message.route, encode(Reject(hello.incarnation, code, "the test says so")))
            return
        found = self._roster.on_hello(hello, message.user_id)
        assert not isinstance(found, Reject)
        lane = found.member.lane
        if found.new:
            if found.replaced is not None:
                self.links.pop(found.replaced.lane, None)
            self.links[lane] = Link(lane, self._roster.epoch, now, heartbeat=self._heartbeat, lease=LEASE)
            self.lanes.append(lane)
        self._routes[lane] = message.route
        welcome = Welcome(hello.incarnation, self._roster.epoch, lane, 0, self._heartbeat, LEASE, durable=self._durable)
        self._router.send(message.route, encode(welcome))

    def _on_content(self, lane: int, frames: list[Any]) -> None:
        message = decode_from_client(bytes(frames[0]))
        self.received.append(message)
        session = self._roster.members[lane].hello.incarnation
        link = self.links[lane]
        if isinstance(message, Define):
            self.defines[message.key] = message
            self.state.callables[message.key] = bytes(frames[1])
        elif isinstance(message, Resume):
            self._resume(session, link, message)
        elif isinstance(message, Submit):
            self._submit(session, link, message, frames[1:])
        elif isinstance(message, Cancel):
            for first, count in message.ranges:
                for number in range(first, first + count):
                    self._cancel(session, number, running=message.running)
        elif isinstance(message, Ask):
            if self.answers:
                self._answer(link, session, message)
        else:
            assert isinstance(message, Leaving)
            link.acknowledge(link._received)
            self._flush(time.monotonic())
            self._forget(lane)

    def _resume(self, session: int, link: Link, resume: Resume) -> None:
        accepted = self.state.accepted
        accepted[session] = max(accepted.get(session, 0), resume.accepted)
        works, ended = self.state.works.get(session, {}), self.state.ended.get(session, {})
        for first, count in resume.outstanding:
            self._tell_again(session, link, first, count)
            for number in range(first, first + count):
                if number not in ended and number not in works:
                    link.send([encode(Refused([(number, 1)], "unknown", "the head does not know it"))])
        if self.accepts and accepted[session] > resume.accepted:
            link.send([encode(Accepted(accepted[session]))])

    def _submit(self, session: int, link: Link, submit: Submit, frames: list[Any]) -> None:
        state = self.state
        last = submit.first + submit.count - 1
        accepted = state.accepted.get(session, 0)
        assert submit.first > accepted or last <= accepted, "lots were cut otherwise than before"
        items = items_of(submit, frames)
        assert items is not None
        if last <= accepted:
            self._tell_again(session, link, submit.first, submit.count)
        else:
            state.accepted[session] = last
            if self.refuses is not None:
                code: Any = self.refuses
                link.send([encode(Refused([(submit.first, submit.count)], code, "the test says so"))])
            else:
                calls: list[Any] = items.listed() if items.form == "list" else list(items.pickles())
                works = state.works.setdefault(session, {})
                for number, call in enumerate(calls, submit.first):
                    works[number] = Work(submit.key, submit.shape, call, submit.whole, submit.detail)
        if self.accepts:
            link.send([encode(Accepted(last))])
        if self.runs and self.refuses is None:
            self._run_works(session, list(range(submit.first, last + 1)))

    def _tell_again(self, session: int, link: Link, first: int, count: int) -> None:
        ended = self.state.ended.get(session, {})
        found = [ended[number] for number in range(first, first + count) if number in ended]
        for outcome, items in {id(each.outcome): (each.outcome, each.items) for each in found}.values():
            link.send(with_items(outcome, items))

    # --- running ---

    def _run_works(self, session: int, numbers: list[int]) -> None:
        """Run what of these waits: one outcome for all of one task that are alike."""
        works = self.state.works.get(session, {})
        kinds: dict[Any, list[int]] = {}
        for number in numbers:
            if number in works:
                kinds.setdefault((works[number].key, works[number].whole), []).append(number)
        for alike in kinds.values():
            self._run_alike(session, alike)

    def _run_alike(self, session: int, todo: list[int]) -> None:
        works = self.state.works[session]
        values: list[Any] = []
        failed: list[Failure] = []
        whole = works[todo[0]].whole
        began = time.time()
        for offset, number in enumerate(todo):
            work = works.pop(number)
            self.executed.append((session, number))
            try:
                values.append(self._call(work))
            except Exception as error:
                values.append(None)
                failed.append(failures.raised(offset, error))
        items = pack_primitives(values) if whole else None
        if items is None:
            items = pack([dump(value, answering=True) for value in values])
        outcome = outcome_of(session, todo, failed)
        if whole:
            outcome = _replaced(outcome, started=[began] * len(todo), seconds=[0.001] * len(todo))
        self._end(session, outcome, items, "done")

    def _call(self, work: Work) -> Any:
        function = load(self.state.callables[work.key])
        if isinstance(function, Judged):
            function = function.function
        value = load(*work.call) if isinstance(work.call, Pickled) else work.call
        if work.shape == "call":
            return function(*value[0], **value[1])
        return function(*value) if work.shape == "star" else function(value)

    def _end(self, session: int, outcome: Outcome, items: Items | None, how: str) -> None:
        frames = with_items(outcome, items)
        numbers = outcome.numbers
        every = range(numbers, numbers + outcome.count) if isinstance(numbers, int) else numbers
        for offset, number in enumerate(every):
            self.state.ended.setdefault(session, {})[number] = Ended(how, outcome, items, offset)
        for lane, link in self.links.items():
            if self._roster.members[lane].hello.incarnation == session:
                link.send(frames)
        for question_lane, ask in list(self._waiting):
            wanted_session, wanted = _parse(ask.arguments["id"])
            if wanted_session == session and wanted in every and question_lane in self.links:
                self._waiting.remove((question_lane, ask))
                self._answer(self.links[question_lane], session, ask)

    def _cancel(self, session: int, number: int, *, running: bool) -> int:
        if (number in self.begun and not running) or number not in self.state.works.get(session, {}):
            return 0
        del self.state.works[session][number]
        outcome = _replaced(outcome_of(session, [number], []), cancelled=[0], form=None)
        self._end(session, outcome, None, "cancelled")
        return 1

    def _answer(self, link: Link, session: int, ask: Ask) -> None:
        if ask.what == "status":
            self._reply(link, ask, {"workers": 3})
        elif ask.what == "cancel":
            found = [self._cancel(*_parse(each), running=ask.arguments["running"]) for each in ask.arguments["ids"]]
            self._reply(link, ask, sum(found))
        elif ask.what == "jobs":
            lines = [
                {"id": f"{each:016x}-{number}", "task": "task", "state": "running", "attempt": 1}
                for each, works in self.state.works.items()
                for number in works
            ]
            self._reply(link, ask, lines)
        elif ask.what in ("job", "result"):
            self._answer_about_job(link, ask, ask.arguments["id"])
        else:
            why = f"the head does not know the question {ask.what[:80]!r}"
            link.send([encode(Answer(ask.question, why, {"code": "invalid"}))])

    def _answer_about_job(self, link: Link, ask: Ask, job: str) -> None:
        session, number = _parse(job)
        ended = self.state.ended.get(session, {}).get(number)
        if ended is not None:
            self._reply(link, ask, {"id": job, "state": ended.how}, *(ended.frames() if ask.what == "result" else ()))
        elif number not in self.state.works.get(session, {}):
            link.send([encode(Answer(ask.question, f"there is no job {job}", {"code": "not-found"}))])
        elif ask.what == "job":
            self._reply(link, ask, {"id": job, "state": "queued"})
        elif ask.arguments["wait"]:
            self._waiting.append((link.lane, ask))
        else:
            link.send([encode(Answer(ask.question, "it has not ended", {"code": "not-ended"}))])

    def _reply(self, link: Link, ask: Ask, value: Any, *frames: Any) -> None:
        link.send([encode(Answer(ask.question, "", value)), *frames])


def outcome_of(session: int, numbers: list[int], failed: list[Failure]) -> Outcome:
    """An outcome of items with these numbers, without their results."""
    consecutive = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return Outcome(
        session=session,
        numbers=numbers[0] if consecutive else numbers,
        count=len(numbers),
        attempt=1,
        form="each",
        sizes=None,
        buffers=None,
        failures=list(failed),
        withheld=[],
        cancelled=[],
        started=None,
        seconds=None,
        busy=0.0001 * len(numbers),
        max_rss=4096,
        host="elsewhere",
        pid=4711,
        payload=None,
    )


def _replaced(outcome: Outcome, **fields: Any) -> Outcome:
    import msgspec

    return msgspec.structs.replace(outcome, **fields)


def _parse(job: str) -> tuple[int, int]:
    session, number = job.split("-")
    return int(session, 16), int(number)


def pickled(*values: Any) -> Items:
    """Results of jobs."""
    return pack([Pickled(pickle.dumps(value, 5), []) for value in values])


@contextmanager
def serving(**how: Any) -> Iterator[FakeHead]:
    """A head for one test; what the test starts in its place closes itself."""
    head = FakeHead(**how)
    try:
        yield head
    finally:
        head.close()


__all__ = ["FakeHead", "State", "WireError", "outcome_of", "pickled", "serving"]
