"""A head that is nothing but its sockets, its gatekeeper and its keys, and the peers that it lets in."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import support

from ztasks.io.gatekeeper import Refusal
from ztasks.io.join import JoinFile, Ports
from ztasks.io.keys import KeyStore
from ztasks.io.net import HeadSockets, NetSocket, PeerSockets, Received

T = TypeVar("T")

HOST = "127.0.0.1"

KINDS = ("clients", "sink", "control", "lane")


class SmallHead:
    """All in the thread of the test: whoever waits for something has the head do its part meanwhile."""

    def __init__(self, directory: Path, *, curve: bool = True) -> None:
        self.curve = curve
        self.refusals: list[Refusal] = []
        self.received: list[Received] = []
        self.store = KeyStore.create(str(directory))
        keys, allowed = (self.store.keypair(), self.store.allowed) if curve else (None, None)
        self.sockets = HeadSockets(keys, allowed, self.refusals.append)
        self.clients = self.sockets.clients(HOST)
        self.sink = self.sockets.sink(HOST)
        self.control = self.sockets.control(HOST)
        self.ports = Ports(self.clients.port, self.sink.port, self.control.port)
        self.store.announce(HOST, self.ports)
        self.lanes = 0
        self.lane = self.open_lane("worker")
        self.peers: list[PeerSockets] = []
        self.worker = self.peer("worker")
        self.client = self.peer("client")

    def open_lane(self, name: str) -> NetSocket:
        self.lanes += 1
        return self.sockets.lane(HOST, (0,), self.lanes, self.join(name).public_key if self.curve else name)

    def join(self, name: str) -> JoinFile:
        """What is in NAME.join, with the ports that this head happens to have."""
        found = JoinFile.read(self.store.path(f"{name}.join"))
        if self.curve:
            return found
        return JoinFile(role=found.role, name=name, address=HOST, ports=self.ports, curve=False)

    def peer(self, name: str | JoinFile) -> PeerSockets:
        made = PeerSockets(self.join(name) if isinstance(name, str) else name)
        self.peers.append(made)
        return made

    def port(self, kind: str) -> int:
        return {"clients": self.clients, "sink": self.sink, "control": self.control, "lane": self.lane}[kind].port

    def pump(self) -> None:
        """Do what a head's loop does, and what its peers' loops do."""
        now = monotonic()
        self.sockets.gatekeeper.answer(now)
        for peer in self.peers:
            peer.tend(now)
        for sock in (self.clients, self.sink):
            while sock.readable():
                if (received := sock.receive()) is not None:
                    self.received.append(received)

    def wait_for(self, condition: Callable[[], T], what: str) -> T:
        def looked() -> T:
            self.pump()
            return condition()

        return support.wait_for(looked, what)

    def take(self) -> list[Received]:
        """What has come since the last time."""
        found, self.received = self.received, []
        return found

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        self.sockets.close()


class Honest:
    """A worker and a client that have every right to be there, on all kinds of ports."""

    def __init__(self, head: SmallHead) -> None:
        self.head = head
        self.dealer = head.client.clients()
        self.push = head.worker.sink()
        self.sub = head.worker.control(b"w/")
        self.pull = head.worker.lane(head.lane.port)
        self.number = 0

    def check(self) -> None:
        """Something arrives each way, whose it is is known, and nothing else arrives at all."""
        self.number += 1
        data, head = str(self.number).encode(), self.head
        keys = {name: head.join(name).public_key if head.curve else name for name in ("worker", "client")}
        head.wait_for(lambda: self.dealer.send(b"from client", data), "a way to the head's port for clients")
        head.wait_for(lambda: self.push.send(b"from worker", data), "a way to the sink")
        head.wait_for(lambda: len(head.received) >= 2, "two messages")
        found = sorted(head.take(), key=lambda received: bytes(received.frames[0]))
        assert [(r.user_id, r.frames) for r in found] == [
            (keys["client"], [b"from client", data]),
            (keys["worker"], [b"from worker", data]),
        ]
        assert head.clients.send(found[0].route, b"to client", data)
        head.wait_for(lambda: head.lane.send(b"to worker", data), "a way to the worker")
        assert self.get(self.dealer) == [b"to client", data]
        assert self.get(self.pull) == [b"to worker", data]
        head.wait_for(lambda: self.heard(data), "what control says")

    def get(self, sock: NetSocket) -> list[Any]:
        return self.head.wait_for(sock.receive, "an answer").frames

    def heard(self, data: bytes) -> bool:
        """Control drops what is said before a peer has subscribed, so it is said again."""
        self.head.control.send(b"w/", data)
        return any(received.frames == [b"w/", data] for received in iter(self.sub.receive, None))


@contextlib.contextmanager
def small_head(directory: Path, *, curve: bool = True) -> Iterator[SmallHead]:
    head = SmallHead(directory, curve=curve)
    try:
        yield head
    finally:
        head.close()


@contextlib.contextmanager
def connection(port: int) -> Iterator[socket.socket]:
    """A TCP connection without ZeroMQ at this end."""
    with socket.create_connection((HOST, port), timeout=support.DEADLINE) as made:
        yield made
