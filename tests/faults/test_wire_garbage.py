"""Row 25: whatever bytes come to a port of a head, nothing reaches a decoder unless its sender was let in, what is out
of proportion is dropped and counted, and those who were let in go on. And the same at the other end."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import support
from small_head import HOST, KINDS, Honest, SmallHead, connection, small_head

from ztasks.io import netlimits as limits
from ztasks.io.join import JoinFile, Ports
from ztasks.io.net import PeerSockets


def greeting(mechanism: bytes, *, minor: int = 1, server: bool = False) -> bytes:
    """The first 64 bytes of ZMTP 3."""
    return (
        b"\xff" + bytes(7) + b"\x01\x7f\x03" + bytes([minor]) + mechanism.ljust(20, b"\0") + bytes([server]) + bytes(31)
    )


def frame(data: bytes, flags: int = 0) -> bytes:
    return bytes([flags | 2]) + struct.pack(">Q", len(data)) + data


COMMAND = 4
HELLO = frame(b"\x05HELLO\x01\x00" + bytes(72 + 32 + 8 + 80), COMMAND)

GARBAGE = {
    "nothing": b"",
    "HTTP": b"GET / HTTP/1.1\r\nHost: head\r\n\r\n",
    "TLS": bytes.fromhex("160301020001000001fc0303") + os.urandom(500),
    "ZMTP 1.0, a message": b"\x01\x00\x06\x00HELLO",
    "ZMTP 1.0, many": b"\x01\x00" + b"\x06\x00HELLO" * 20_000,
    "ZMTP 1.0, with an identity": b"\x06\x00peer1" + b"\x03\x00hi" * 100,
    "ZMTP 2.0": b"\xff" + bytes(7) + b"\x01\x7f\x01\x08" + b"\x00\x00" + b"\x00\x05hello" * 100,
    "NULL": greeting(b"NULL")
    + frame(b"\x05READY" + b"\x0bSocket-Type\x00\x00\x00\x06DEALER", COMMAND)
    + frame(b"hello"),
    "PLAIN": greeting(b"PLAIN") + frame(b"\x05HELLO\x06worker\x05wrong" + bytes(5), COMMAND) + frame(b"hello"),
    "half a greeting": greeting(b"CURVE")[:11],
    "a greeting": greeting(b"CURVE"),
    "both are servers": greeting(b"CURVE", server=True) + HELLO,
    "a forged HELLO": greeting(b"CURVE") + HELLO + frame(b"hello"),
    "messages before the handshake": greeting(b"CURVE") + frame(b"hello", 1) + frame(b"world"),
    "a frame of 2^62 bytes": greeting(b"CURVE") + b"\x06" + struct.pack(">Q", 2**62) + bytes(1000),
    "a frame of 2^64 - 1 bytes": greeting(b"CURVE") + b"\x02" + b"\xff" * 8 + bytes(1000),
    "20,000 frames": greeting(b"CURVE") + frame(b"x", 1) * 20_000 + frame(b"x"),
    "20,000 commands": greeting(b"CURVE") + frame(b"\x05HELLO", COMMAND) * 20_000,
    "the unknown mechanism": greeting(b"\xff" * 20),
    "4 KiB of chance": random.Random(25).randbytes(4096),
    "1 MiB of chance": b"\xff" + random.Random(26).randbytes(1024 * 1024),
}


@pytest.fixture(params=[True, False], ids=["curve", "loopback"])
def head(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallHead]:
    with small_head(tmp_path / "keys", curve=request.param) as made:
        yield made


def test_row_25_garbage_on_each_port_is_ignored_and_counted(head: SmallHead) -> None:
    """With all of it open at once: nobody who was let in is held up, neither before nor after."""
    honest = Honest(head)
    honest.check()
    before = accepted(head), head.sockets.count()
    with contextlib.ExitStack() as stack:
        for kind in KINDS:
            for data in GARBAGE.values():
                raw = stack.enter_context(connection(head.port(kind)))
                with contextlib.suppress(OSError):  # the head may hang up before it has all
                    raw.sendall(data)
        expected = before[0] + (len(KINDS) - 1) * len(GARBAGE)
        head.wait_for(lambda: accepted(head) == expected, "all connections")
        honest.check()  # fails if anything else was received
    honest.check()
    assert head.sockets.count() - before[1] == (len(KINDS) - 1) * len(GARBAGE), "each stranger is counted"
    assert (head.clients.dropped, head.sink.dropped) == (0, 0), "nothing even came so far that it could be dropped"


def accepted(head: SmallHead) -> int:
    head.sockets.count()
    return head.clients.accepted + head.sink.accepted + head.control.accepted


@pytest.mark.parametrize("kind", KINDS)
def test_row_25_half_handshakes_are_cut_off(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_MS", 300)
    with small_head(tmp_path / "keys") as head, contextlib.ExitStack() as stack:
        honest = Honest(head)
        honest.check()
        halves = [b"", greeting(b"CURVE")[:30], greeting(b"CURVE"), greeting(b"CURVE") + HELLO[:50]] * 10
        opened = [stack.enter_context(connection(head.port(kind))) for _ in halves]
        for raw, data in zip(opened, halves, strict=True):
            raw.sendall(data)
        for raw in opened:
            _drain(raw)  # until the head hangs up; fails after a deadline
        honest.check()


def _drain(raw: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):
        while raw.recv(4096):
            pass


def too_much(kind: str) -> list[bytes]:
    return {
        "20,000 frames": [b"x" * 900] * 20_000,
        "one frame too many": [b""] * (limits.MAX_FRAMES + 1),
        "one byte too many": [bytes(limits.MAX_BYTES // 2), bytes(limits.MAX_BYTES // 2), b"x"],
    }[kind]


@pytest.mark.parametrize("kind", ["20,000 frames", "one frame too many", "one byte too many"])
def test_row_25_messages_out_of_proportion_are_dropped_even_from_those_who_were_let_in(
    head: SmallHead, kind: str
) -> None:
    honest = Honest(head)
    honest.check()
    assert honest.push.send(*too_much(kind))
    assert honest.dealer.send(*too_much(kind))
    head.wait_for(lambda: (head.clients.dropped, head.sink.dropped) == (1, 1), "two messages that are dropped")
    honest.check()
    most = [[b"x"] * limits.MAX_FRAMES, [bytes(limits.MAX_BYTES // 2)] * 2]
    for frames in most:
        assert honest.push.send(*frames)
        head.wait_for(lambda: head.received, "a message that is just small enough")
        (received,) = head.take()
        assert [bytes(each) for each in received.frames] == frames


def test_row_25_a_huge_frame_ends_its_connection_and_its_sender_comes_back(head: SmallHead) -> None:
    honest = Honest(head)
    honest.check()
    assert honest.push.send(bytes(limits.MAX_FRAME + 1))
    assert honest.dealer.send(bytes(limits.MAX_FRAME + 1))
    head.wait_for(lambda: head.sockets.count() == 0 and accepted(head) == 5, "both to have come back")
    honest.check()
    assert (head.clients.dropped, head.sink.dropped) == (0, 0)


def test_row_25_a_huge_subscription_ends_its_connection(head: SmallHead) -> None:
    honest = Honest(head)
    honest.check()
    assert accepted(head) == 3
    head.worker.control(bytes(limits.MAX_SMALL_FRAME + 1))
    head.wait_for(lambda: accepted(head) == 5, "it to be cut off, and to come again")
    honest.check()


# --- the other end ---


@contextlib.contextmanager
def false_head(data: bytes) -> Iterator[tuple[int, list[socket.socket]]]:
    """Something that listens, says the same to everybody, and is no head."""
    opened: list[socket.socket] = []
    listener = socket.create_server((HOST, 0))

    def serve() -> None:
        while True:
            try:
                made, _ = listener.accept()
            except OSError:
                return
            opened.append(made)
            with contextlib.suppress(OSError):
                made.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], opened
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for made in opened:
            made.close()


@pytest.mark.parametrize("curve", [True, False], ids=["curve", "loopback"])
@pytest.mark.parametrize("what", ["HTTP", "ZMTP 1.0, a message", "ZMTP 2.0", "NULL", "4 KiB of chance"])
def test_row_25_garbage_from_what_is_no_head_is_ignored_and_told(tmp_path: Path, what: str, curve: bool) -> None:
    """ZeroMQ would never connect again after that; a peer does, each few seconds, whatever it met."""
    with small_head(tmp_path / "keys", curve=curve) as head, false_head(GARBAGE[what]) as (port, opened):
        join = head.join("worker")
        peer = PeerSockets(
            JoinFile(
                **{**{name: getattr(join, name) for name in join.__struct_fields__}, "ports": Ports(port, port, port)}
            )
        )
        try:
            sub, pull = peer.control(b""), peer.lane(port)
            now = 0.0

            def tended() -> bool:
                nonlocal now
                now += 0.5  # its clock is ours: no need to wait for the pauses
                peer.tend(now)
                assert (sub.receive(), pull.receive()) == (None, None)
                return len(opened) >= 8 and bool(peer.trouble())

            support.wait_for(tended, "the peer to connect again and again")
            assert f"{HOST}:{port} is no head" in peer.trouble()
            assert not any(map(peer.connected, (sub, pull)))
        finally:
            peer.close()


def test_row_25_a_peer_that_met_garbage_finds_the_head_when_it_is_there(tmp_path: Path) -> None:
    with small_head(tmp_path / "keys") as head:
        with false_head(GARBAGE["HTTP"]) as (port, opened):
            pull = head.worker.lane(port)
            head.wait_for(lambda: opened and head.worker.trouble(), "the peer to meet garbage")
        lane = head.sockets.lane(HOST, (port,), 99, head.join("worker").public_key)
        head.wait_for(lambda: lane.send(b"at last"), "the peer to come back")
        assert head.wait_for(pull.receive, "a message").frames == [b"at last"]
        head.wait_for(lambda: head.worker.connected(pull), "the peer to know that")
