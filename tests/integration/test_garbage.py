"""Garbage on the sockets of a live executor, sent by another process of the same user: it is dropped, and costs at most
the worker that it claims to come from, whose work is done by another."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bad_jobs
import jobs
import pytest
import support
import zmq

from ztasks import Executor
from ztasks.wire.messages import Bye, Control, Failure, Leave, Ready, Results, StartFailed, encode

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))

import fuzz_wire

ITEMS = 300

FAILURE = Failure(0, "raised", "ValueError", "forged", "", b"", True)


def path_of(executor: Executor, name: str) -> str:
    return os.path.join(executor._head._rundir.path, name)


@contextlib.contextmanager
def peer(path: str, kind: int = zmq.PUSH, linger: int = 2000) -> Iterator[Any]:
    """A socket of somebody else's, connected to one of the executor's."""
    context = zmq.Context()
    sock = context.socket(kind)
    sock.connect(f"ipc://{path}")
    try:
        yield sock
    finally:
        context.destroy(linger=linger)


def forged(lane: int, position: int = 0, count: int = 1, **how: Any) -> bytes:
    """A report as the worker of a lane would send it."""
    fields = {
        "form": "each", "sizes": None, "buffers": None, "failures": [], "busy": 0.0, "idle": 0.0, "started": None,
        "seconds": None, "max_rss": 0, "payload": b"\x80\x05N.",
    }  # fmt: skip
    return encode(Results(lane=lane, position=position, count=count, **{**fields, **how}))


def random_messages(number: int) -> list[list[bytes]]:
    chance = random.Random(number)
    return [
        [chance.randbytes(chance.choice((0, 1, 10, 3000))) for _ in range(chance.randint(1, 4))] for _ in range(number)
    ]


DROPPED: dict[str, Callable[[], list[list[bytes]]]] = {
    "random bytes": lambda: random_messages(500),
    "messages of the other direction": lambda: [[encode(Leave())], [encode(Control("stop"))], [b"", b"", b""]],
    "cut messages": lambda: [[frames[0][:end]] for frames in fuzz_wire.seeds() for end in range(0, len(frames[0]), 7)],
    "many frames": lambda: [[b"x"] * 5000],
    "a huge frame": lambda: [[b"\x91" * 30_000_000]],
    "reports of lanes that do not exist": lambda: [[forged(lane)] for lane in (-1, 99, 2**62)],
    "words of lanes that do not exist": lambda: [[encode(message)] for message in (Ready(99, 1), Bye(99), Bye(-1))],
    "a start that failed where none was": lambda: [
        [encode(StartFailed(99, FAILURE))],
        [encode(StartFailed(0, FAILURE))],
    ],
}


def check_all_is_done(executor: Executor, results: Any) -> None:
    assert list(results) == list(range(ITEMS))
    assert executor.submit(pow, 2, 5).result(support.DEADLINE) == 32


@pytest.mark.parametrize("what", DROPPED)
def test_garbage_on_the_sink_is_dropped(what: str, capfd: pytest.CaptureFixture[str]) -> None:
    with Executor(max_workers=2) as executor:
        assert executor.submit(pow, 2, 3).result(support.DEADLINE) == 8
        before = support.wait_for(lambda: len(found := support.workers()) == 2 and found, "two workers")
        results = executor.map(jobs.slow, range(ITEMS), [0.001] * ITEMS)
        with peer(path_of(executor, "sink")) as sock:
            for frames in DROPPED[what]():
                sock.send_multipart(frames)
        check_all_is_done(executor, results)
        assert support.workers() == before, "a worker had to die for it"
    if "lanes that do not exist" not in what:
        assert "does not follow the protocol" in capfd.readouterr().err or "start" in what


@pytest.mark.parametrize(
    "how",
    [
        {"position": 10**6},
        {"position": -1},
        {"count": 60_000, "sizes": [0] * 60_000},
        {"busy": 1e308},
        {"buffers": [-1], "payload": None},
        {"sizes": [5]},
        {"failures": [FAILURE, FAILURE]},
        {"failures": [Failure(0, "raised", "E", "", "", b"", True, float("nan"))]},
    ],
)
def test_what_a_worker_held_is_run_again_when_a_forged_report_costs_it_its_life(
    how: dict[str, Any], tmp_path: Path
) -> None:
    """Each job ends once, with its own result; those of the other worker are run once."""
    notes = tmp_path / "notes"
    with Executor(max_workers=2) as executor:
        assert executor.submit(pow, 2, 3).result(support.DEADLINE) == 8
        before = support.wait_for(lambda: len(found := support.workers()) == 2 and found, "two workers")
        futures = [executor.submit(bad_jobs.note_and_wait, n, str(notes), str(tmp_path / "go on")) for n in range(20)]
        support.wait_for(lambda: notes.exists() and len(notes.read_text().split()) == 2, "a job in each worker")
        with peer(path_of(executor, "sink")) as sock:
            sock.send(forged(1, **how))
        support.wait_for(lambda: len(before - support.workers()) == 1, "the end of the worker of lane 1")
        (tmp_path / "go on").touch()
        assert [future.result(support.DEADLINE) for future in futures] == list(range(20))
        assert executor.submit(pow, 2, 5).result(support.DEADLINE) == 32
    ran = notes.read_text().split()
    assert set(ran) == {str(n) for n in range(20)}
    assert len(ran) == 21, "only the job that the killed worker was running is run twice"


def test_a_forged_goodbye_costs_a_worker_and_no_job(tmp_path: Path) -> None:
    with Executor(max_workers=2) as executor:
        results = executor.map(jobs.slow, range(ITEMS), [0.002] * ITEMS)
        assert next(results) == 0
        with peer(path_of(executor, "sink")) as sock:
            for lane in (0, 1):
                sock.send(encode(Bye(lane)))
        assert list(results) == list(range(1, ITEMS))


STRANGE_BYTES = [
    b"",
    b"GET / HTTP/1.0\r\n\r\n",
    b"\xff" * 10,
    b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f",  # the beginning of a greeting of ZMTP 3
    b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x01NULL" + bytes(48),  # a greeting, and no handshake
    b"\x01\x00",  # a greeting of ZMTP 1.0, without an identity
    b"\x01\x00\x05\x00hello" * 10,  # and messages
    os.urandom(20_000),
]


@pytest.mark.parametrize("name", ["sink", "control", "lane-0"])
def test_bytes_that_are_no_zeromq(name: str) -> None:
    with Executor(max_workers=2) as executor, contextlib.ExitStack() as stack:
        assert executor.submit(pow, 2, 3).result(support.DEADLINE) == 8
        results = executor.map(jobs.slow, range(ITEMS), [0.001] * ITEMS)
        for data in STRANGE_BYTES:
            raw = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            raw.connect(path_of(executor, name))
            with contextlib.suppress(OSError):  # it may hang up at once
                raw.sendall(data)
        check_all_is_done(executor, results)


@pytest.mark.parametrize(
    "kind", [zmq.PUSH, zmq.DEALER, zmq.REQ, zmq.SUB, zmq.PAIR], ids=["PUSH", "DEALER", "REQ", "SUB", "PAIR"]
)
def test_sockets_of_another_kind_at_a_lane(kind: int) -> None:
    with Executor(max_workers=2) as executor:
        assert executor.submit(pow, 2, 3).result(support.DEADLINE) == 8
        results = executor.map(jobs.slow, range(ITEMS), [0.001] * ITEMS)
        with peer(path_of(executor, "lane-0"), kind, linger=0) as sock, contextlib.suppress(zmq.Again, zmq.ZMQError):
            for frames in random_messages(50):
                sock.send_multipart(frames, zmq.NOBLOCK)
        check_all_is_done(executor, results)


def test_a_flood_does_not_stop_the_workers() -> None:
    """It is read beside what the workers send; nobody waits for its end."""
    with Executor(max_workers=2, output=lambda lines: None) as executor:
        assert executor.submit(pow, 2, 3).result(support.DEADLINE) == 8
        with peer(path_of(executor, "sink")) as sock:
            for _ in range(20_000):
                sock.send(b"garbage")
            check_all_is_done(executor, executor.map(jobs.slow, range(ITEMS), [0.001] * ITEMS))


def test_a_thief_of_batches_loses_no_job() -> None:
    """A PULL socket at a lane gets some of the worker's batches; they are missed, and given again."""
    with Executor(max_workers=2) as executor:
        assert executor.submit(pow, 2, 3).result(support.DEADLINE) == 8
        with peer(path_of(executor, "lane-0"), zmq.PULL):
            futures = [executor.submit(jobs.slow, n, 0.001) for n in range(ITEMS)]
            assert [future.result(support.DEADLINE) for future in futures] == list(range(ITEMS))


def test_a_thief_of_the_callable_is_noticed_by_the_worker(capfd: pytest.CaptureFixture[str]) -> None:
    """What comes behind a stolen batch is not run: neither with a callable that never came, nor as another's job."""
    with Executor(max_workers=1) as executor:
        assert executor.submit(pow, 2, 3).result(support.DEADLINE) == 8
        with peer(path_of(executor, "lane-0"), zmq.PULL) as thief:
            futures = [executor.submit(jobs.slow, 0, 0.001)]
            while not thief.poll(100):  # they take turns, and it is not said who begins
                futures.append(executor.submit(jobs.slow, len(futures), 0.001))
            futures += [executor.submit(jobs.slow, n, 0.001) for n in range(len(futures), ITEMS)]
            assert [future.result(support.DEADLINE) for future in futures] == list(range(ITEMS))
    assert "batches on the lane are lost: item" in capfd.readouterr().err
