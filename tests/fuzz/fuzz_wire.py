"""Fuzzes what reads messages, guided by coverage. Not part of the tests, which run the same function on a few seeds.

    pip install atheris                                  (it has wheels for CPython 3.11 and 3.12)
    python tests/fuzz/fuzz_wire.py -max_total_time=180   any option of libFuzzer, and directories with a corpus

What must hold for any message: nothing but WireError comes out of the decoders, nothing is unpickled, the head reads
on, and all books are right afterwards; after a message that was refused they are as they were before.
"""

from __future__ import annotations

import os
import pickle
import random
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[2]
for _folder in (ROOT, ROOT / "tests" / "unit"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))

if __name__ == "__main__":
    import atheris

    instrumented: Any = atheris.instrument_imports(include=["ztasks"])
else:
    instrumented = nullcontext()

with instrumented:
    import msgspec
    import zmq
    from books import Gate, Record, Rig

    from ztasks.core.slices import Slice, TaskBooks
    from ztasks.errors import WireError
    from ztasks.io import sink as sink_module
    from ztasks.io.sink import Sink
    from ztasks.io.sockets import Socket
    from ztasks.wire.messages import (
        Batch,
        Bye,
        Control,
        Failure,
        Leave,
        Ready,
        Results,
        StartFailed,
        check_buffers,
        check_items,
        decode_control,
        decode_from_worker,
        decode_to_worker,
        encode,
    )
    from ztasks.wire.payload import Items, dump, dump_call, pack, pack_primitives

JOBS, STARTING, MAP = 0, 1, 2
"""The lanes of the scene: one that holds submitted jobs, one that is being started, one that holds items of a map."""


# --- a socket that receives what it is told to ---


class Incoming:
    """Stands for a PULL socket: multi-part messages, read as zmq lets them be read."""

    def __init__(self, *messages: list[bytes]) -> None:
        self._parts = deque((part, index + 1 < len(parts)) for parts in messages for index, part in enumerate(parts))
        self._more = False

    def get(self, option: int) -> int:
        if option == zmq.EVENTS:
            return zmq.POLLIN if self._parts else 0
        assert option == zmq.RCVMORE
        return int(self._more)

    def recv(self, flags: int, copy: bool = True) -> Any:
        part, self._more = self._parts.popleft()
        return part if copy else SimpleNamespace(buffer=memoryview(bytearray(part)))


# --- a head with some work assigned ---


class Owner:
    """Stands for futures and maps: counts what it is told, and unpickles nothing."""

    def __init__(self, rig: Rig, number: int, first: int) -> None:
        self.rig, self.number, self.first = rig, number, first

    def _tell(self, index: int, how: str) -> None:
        self.rig.ended.append(((self.number, index), how))

    def succeed(self, data: bytes, buffers: list[Any]) -> None:
        self._tell(self.first, "done")

    def fail(self, failure: Any) -> None:
        self._tell(self.first, "failed")

    def cancelled_by_head(self) -> None:
        self._tell(self.first, "cancelled")

    def arrive(self, segment: Any) -> None:
        for place in range(segment.count):
            if place not in segment.missing:
                self._tell(segment.first + place, "failed" if place in segment.failures else "done")


class Scene(Rig):
    """Lane 0 holds five submitted jobs, lane 2 ten items of a map; all of them may be tried again."""

    def __init__(self) -> None:
        super().__init__()
        jobs, items = self.task(retries=1), self.task("one", map_number=7, detail=True, retries=1)
        self.start()
        self.start(ready=False)
        jobs.run_time.seconds = 0.001
        self._enter(jobs, [Slice(jobs, Owner(self, 0, n), n, 1, dump_call((0, n), {}), Gate()) for n in range(5)])
        self.dispatch()
        assert self.ventilator.lanes[JOBS].outstanding == 5
        self.start()
        items.run_time.seconds = 0.001
        values = pack_primitives(list(range(10)))
        assert values is not None
        self.leave(self.workers[JOBS])  # lest it is given some of them
        self._enter(items, [Slice(items, Owner(self, 7, 0), 0, 10, values)])
        self.dispatch()
        assert self.ventilator.lanes[MAP].outstanding == 10
        self.killed: list[int] = []
        """The lanes of which a report was refused."""
        self.refusals: list[str] = []
        """What was told on stderr."""

    def _enter(self, task: TaskBooks, slices: list[Slice]) -> None:
        for slice_ in slices:
            for index in range(slice_.first, slice_.first + slice_.count):
                self.records[task.map_number, index] = Record(task, slice_.owner, slice_.gate)  # type: ignore[arg-type]
        self.ventilator.on_submit(slices)
        self._settle()

    def watch(self) -> Any:
        """What the sink needs of the head's watch."""
        return SimpleNamespace(
            on_ready=lambda lane: None,
            on_start_failed=lambda lane, failure: None,
            on_bye=lambda lane, now: None,
            kill=lambda lane, why: self.killed.append(lane),
            crew=SimpleNamespace(workers={number: SimpleNamespace(pid=1) for number in range(3)}),
        )

    def books_text(self) -> str:
        """All that a refused message must leave as it is."""
        lanes = [
            (lane.number, lane.state, lane.received, lane.dispatched, lane.nbytes, lane.target, lane.starved)
            for lane in self.ventilator.lanes.values()
        ]
        slices = [
            (batch.position, batch.count, slice_.first, slice_.count, slice_.state, slice_.failures, slice_.stopping)
            for lane in self.ventilator.lanes.values()
            for batch in lane.batches
            for slice_ in batch.slices
        ]
        learnt = [task.run_time.seconds for task in self.tasks]
        ventilator = self.ventilator
        return repr((lanes, slices, learnt, ventilator.pending, list(ventilator._open), sorted(self.places().items())))

    def check(self) -> None:
        """Enter in the records what the owners were told, then check all books against them."""
        for due, _, job in self.ventilator._delayed:
            assert 0 <= due < 1e10
            record = self.records[job.task.map_number, job.first]
            record.failures, record.due = job.failures, due
        self._settle(list(self.ended))


@contextmanager
def nothing_unpickled() -> Iterator[None]:
    """Fail if something unpickles."""

    def refuse(*args: Any, **how: Any) -> Any:
        raise AssertionError("a pickle was loaded while a message was read")

    before, pickle.loads = pickle.loads, refuse
    try:
        yield
    finally:
        pickle.loads = before


# --- the function that is fuzzed ---


def one_message(frames: list[bytes]) -> list[str]:
    """Read one message in every way in which messages are read; return which of them took it."""
    took = []
    with nothing_unpickled():
        for decode in (decode_to_worker, decode_from_worker, decode_control):
            try:
                message = decode(frames[0])
                if isinstance(message, Batch):
                    as_worker(message, frames[1:])
            except WireError:
                continue
            took.append(decode.__name__)
    if not as_head([frames]).refusals:
        took.append("head")
    return took


def as_worker(batch: Batch, frames: list[bytes]) -> Items:
    """Take in a batch as `io/worker.py` does, but for loading its callable; raises WireError."""
    check_buffers(batch)
    small = int(batch.ships) + (batch.payload is None)
    sock = Socket(Incoming([b"header", *frames]), None)  # type: ignore[arg-type]
    sock.receive_header()
    received = sock.receive_frames(small, sum(batch.buffers or ()))
    if batch.ships:
        received.pop(0)
    data = received.pop(0) if batch.payload is None else batch.payload
    check_items(batch, len(data))
    items = Items(batch.form, batch.count, data, batch.sizes, batch.buffers, received, batch.skip)
    assert batch.form == "list" or len(list(items.pickles())) == batch.count
    return items


def as_head(messages: list[list[bytes]]) -> Scene:
    """Let a head read messages, checking all books after each; return its scene."""
    scene = Scene()
    sink: Any = Sink(Socket(Incoming(), None), scene.ventilator, scene.watch())  # type: ignore[arg-type]
    write, sink_module.write_stderr = sink_module.write_stderr, lambda text: scene.refusals.append(text.decode())
    try:
        for frames in messages:
            before, refused = scene.books_text(), len(scene.refusals)
            sink._sock = Socket(Incoming(frames), None)  # type: ignore[arg-type]
            with nothing_unpickled():
                sink.read(1.0)
            assert not sink.waiting(), "it has left a part of the message unread"
            assert len(scene.refusals) == refused or scene.books_text() == before, "a refused message changed the books"
            scene.check()
    finally:
        sink_module.write_stderr = write
    assert all(0 < len(text) < 2000 for text in scene.refusals)
    assert len(scene.killed) <= len(scene.refusals), "a worker was killed, and nobody told why"
    return scene


def split(data: bytes) -> list[bytes]:
    """Cut the fuzzer's bytes into frames: two bytes of length before each but the last."""
    frames = []
    while len(data) > 2 and len(frames) < 8:
        size = int.from_bytes(data[:2], "little")
        if size + 2 >= len(data):
            break
        frames.append(data[2 : size + 2])
        data = data[size + 2 :]
    return [*frames, data]


def join(frames: list[bytes]) -> bytes:
    """Undo `split`, for frames that are not too long."""
    *most, last = frames
    return b"".join(len(frame).to_bytes(2, "little") + frame for frame in most) + last


def one_input(data: bytes) -> None:
    """What the fuzzer calls."""
    one_message(split(data))


# --- seeds ---

FAILURE = Failure(1, "raised", "ValueError", "no", "Traceback\n", b"\x80\x05N.", True, 0.5)


def seeds() -> list[list[bytes]]:
    """Valid messages of all kinds, among them some that the scene's head takes."""
    values = pack_primitives([3 * n for n in range(10)])
    each = pack([dump((n,)) for n in range(5)])
    assert values is not None

    def report(lane: int, count: int, items: Items, **changes: Any) -> Results:
        measured = [0.5] * count if lane == MAP else None
        results = Results(
            lane=lane, position=0, count=count, form=items.form, sizes=items.sizes, buffers=None, failures=[], busy=0.1,
            idle=0.0, started=measured, seconds=measured, max_rss=1, payload=items.data,
        )  # fmt: skip
        return msgspec.structs.replace(results, **changes)

    batch = Batch(
        cut=0, position=0, count=5, key=b"k" * 16, ships=True, forget=(b"a",), shape="call", form="each", skip=0,
        sizes=each.sizes, buffers=None, map_number=0, prefix="", indices=[1, 2, 3, 4, 5], attempts=1,
        max_attempts=[2] * 5, timeout=1.5, grace=5.0, detail=True, payload=each.data,
    )  # fmt: skip
    return [
        [encode(report(JOBS, 5, each))],
        [encode(report(JOBS, 5, each, failures=[FAILURE]))],
        [encode(report(JOBS, 5, each, payload=None)), each.data],
        [encode(report(JOBS, 5, each, buffers=[0, 2, 0, 0, 1])), b"one", b"two", b"three"],
        [encode(report(MAP, 10, values))],
        [encode(report(MAP, 5, each, failures=[FAILURE]))],
        [encode(batch), b"callable"],
        [encode(msgspec.structs.replace(batch, payload=None, ships=False)), each.data],
        [encode(Leave())],
        [encode(Ready(STARTING, 1234))],
        [encode(StartFailed(STARTING, FAILURE))],
        [encode(Bye(MAP))],
        [encode(Control("stop"))],
        [encode(Control("drain"))],
    ]


# --- mutations that keep the shape of a message ---


ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 5, 7, 20, 65_536, 65_537, 2**31, 2**63 - 1, 2**64 - 1, -(2**63), 0.0, -1.0, 0.5,
    1e308, float("nan"), float("inf"), "", "each", "list", "call", "star", "one", "raised", "timeout", "lost", "start",
    "x" * 300, b"", b"\x80\x05N.", b"x" * 3000, [], [0], [-1], [1] * 5, [0] * 20, [[]], {}, {"a": 1},
)  # fmt: skip
"""What fields are changed to."""


def change_field(tree: list[Any], chance: Any) -> None:
    """Change one field of a decoded message, at any depth."""
    place = chance.randrange(len(tree))
    value = tree[place]
    if isinstance(value, list) and value and chance.random() < 0.6:
        change_field(value, chance)
    elif chance.random() < 0.15:
        del tree[place:]
    elif chance.random() < 0.15:
        tree.insert(place, deepcopy(chance.choice(ODD)))
    elif isinstance(value, list) and chance.random() < 0.3:
        tree[place] = [*value, *deepcopy(value)]
    elif isinstance(value, int) and chance.random() < 0.4:
        tree[place] = min(max(value + chance.choice((-1, 1, 4)), -(2**63)), 2**64 - 1)
    else:
        tree[place] = deepcopy(chance.choice(ODD))


# --- atheris ---


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """Change fields of a message, or its frames, or just bytes."""
    chance = random.Random(seed)
    frames = split(data)
    try:
        tree = msgspec.msgpack.decode(frames[0])
        if not isinstance(tree, list) or not tree or chance.random() < 0.2:
            raise ValueError("not a message, or to be changed as bytes")
        for _ in range(chance.randint(1, 3)):
            if tree:
                change_field(tree, chance)
        frames[0] = msgspec.msgpack.encode(tree)
    except Exception:
        return atheris.Mutate(data, most)  # type: ignore[no-any-return]
    if chance.random() < 0.2:
        frames[1:] = [chance.randbytes(chance.randint(0, 40)) for _ in range(chance.randint(0, 4))]
    return join(frames)[:most]


def main() -> None:
    """Run atheris, in a child: it ends its process as it likes. The seeds are its first corpus."""
    with tempfile.TemporaryDirectory() as folder:
        for number, frames in enumerate(seeds()):
            one_message(frames)
            Path(folder, str(number)).write_bytes(join(frames))
        child = os.fork()
        if not child:
            atheris.Setup([*sys.argv, folder], one_input, custom_mutator=mutate)
            atheris.Fuzz()
        status = os.waitpid(child, 0)[1]
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
