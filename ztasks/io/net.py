"""The TCP sockets between a head and its peers on other hosts: made here, with all that must be set on them.

What it must hold: a socket that listens is open to loopback only, or else takes part in CURVE, and asks the gatekeeper
about each connection before it delivers anything; a message says whose it is; one that is out of all proportion is
dropped and counted; and a peer's connections are tended (tending.py).
"""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import zmq

from ztasks.errors import CannotListen
from ztasks.io import netlimits as limits
from ztasks.io.gatekeeper import PLAIN_PASSWORD, UNABLE, Allowed, Gatekeeper, Refusal
from ztasks.io.join import JoinFile, KeyPair, format_address, is_loopback, needs_ipv6
from ztasks.io.sockets import CONNECTING_DESCRIPTORS, LINGER_MS, SPARE_DESCRIPTORS, Socket, Sockets, _check_descriptors
from ztasks.io.tending import Connection, Event

_EVENTS: Final[dict[int, Event]] = {
    zmq.EVENT_ACCEPTED: "accepted",
    zmq.EVENT_HANDSHAKE_SUCCEEDED: "admitted",
    zmq.EVENT_CONNECTED: "connected",
    zmq.EVENT_CONNECT_RETRIED: "retried",
    zmq.EVENT_DISCONNECTED: "lost",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "refused",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "strange",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "failed",
}
_ALL_EVENTS: Final = sum(_EVENTS)
_INCOMING: Final = zmq.EVENT_ACCEPTED | zmq.EVENT_HANDSHAKE_SUCCEEDED
"""Without ACCEPT_FAILED: where there are no descriptors, that comes a hundred thousand times a second."""


def make_keypair() -> KeyPair:
    """Make a new key pair from the system's randomness."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


class Received(NamedTuple):
    """A message, and whose it is."""

    user_id: str
    """What the gatekeeper has named the sender: its public key, or without CURVE its role. Empty at a peer."""
    route: bytes
    """Of ROUTER: what leads back to the sender while its connection lasts."""
    frames: list[bytes | memoryview]
    """Small frames as bytes, large ones where ZeroMQ has received them."""


class NetSocket(Socket):
    """A TCP socket. Belongs to one thread at a time."""

    def __init__(self, raw: zmq.Socket[bytes]) -> None:
        super().__init__(raw, None)
        self.port = 0
        """Where it listens, or what it is connected to."""
        self.endpoint = ""
        self.domain = ""
        self.dropped = 0
        """Messages that were too large, had too many frames, or came with a key that was revoked."""
        self.accepted = 0
        self.admitted = 0
        """Connections: so many came, so many of them have passed the gatekeeper. Lanes do not count."""
        self._monitor: zmq.Socket[bytes] | None = None
        self.welcome: Callable[[str], bool] | None = None
        """Of a socket that listens: whether a sender may (still) be heard."""
        self._routed = raw.type == zmq.ROUTER

    def send(self, *frames: Any) -> bool:
        """Send frames as one message, by copy and without blocking; False if there is no peer (of that route)."""
        try:
            return super().send(*frames)
        except zmq.ZMQError as error:
            if error.errno == errno.EHOSTUNREACH:
                return False
            raise

    def receive(self) -> Received | None:
        """Receive a message if there is one; None if there is none, or it was dropped: `readable` tells."""
        raw = self.raw
        try:
            frame = raw.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        user_id = _user_id(frame) if self.welcome is not None else ""
        route, frames, count, size = b"", [], 0, 0
        if self._routed and frame.more:
            route, frame = frame.bytes, raw.recv(zmq.NOBLOCK, copy=False)
        while True:
            count += 1
            size += len(frame)
            if count <= limits.MAX_FRAMES and size <= limits.MAX_BYTES:
                frames.append(frame.bytes if len(frame) <= limits.COPIED else frame.buffer)
            else:
                frames.clear()  # the rest is read and forgotten
            if not frame.more:
                break
            frame = raw.recv(zmq.NOBLOCK, copy=False)
        if not frames or (self.welcome is not None and not self.welcome(user_id)):
            self.dropped += 1
            return None
        return Received(user_id, route, frames)

    def receive_all(self) -> list[bytes]:
        """Receive the frames of a message that is there, of a sender in this process."""
        return self.raw.recv_multipart(zmq.NOBLOCK)

    def watch(self, monitor: zmq.Socket[bytes], address: str, wanted: int) -> None:
        """Learn of events from now on, through a PAIR socket that becomes part of this one."""
        self._monitor = monitor
        monitor.setsockopt(zmq.RCVHWM, 0)  # where it is full, ZeroMQ's own thread would wait
        self.raw.monitor(address, wanted)
        monitor.connect(address)

    def events(self) -> list[Event]:
        """Return what has happened to its connections since the last time."""
        found: list[Event] = []
        while self._monitor is not None and int(self._monitor.get(zmq.EVENTS)) & zmq.POLLIN:
            number, value = struct.unpack("=HI", self._monitor.recv_multipart(zmq.NOBLOCK)[0])
            refused = number == zmq.EVENT_HANDSHAKE_FAILED_AUTH and value == int(UNABLE)
            found.append("unable" if refused else _EVENTS[number])
        return found

    def count(self) -> None:
        """Count connections that have come in."""
        events = self.events()
        self.accepted += events.count("accepted")
        self.admitted += events.count("admitted")

    def connect(self) -> None:
        """Connect to its endpoint."""
        self.raw.connect(self.endpoint)

    def disconnect(self) -> None:
        """Let go of the connection to its endpoint; ZeroMQ may have done that before."""
        with contextlib.suppress(zmq.ZMQError):
            self.raw.disconnect(self.endpoint)

    def close(self, linger: int) -> None:
        """Close it."""
        if self._monitor is not None:
            # In this order: ZeroMQ's own thread would block for good on a monitor that nobody is connected to.
            self.raw.disable_monitor()
            self._monitor.close(linger=0)
            self._monitor = None
        super().close(linger)


def _user_id(frame: zmq.Frame) -> str:
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:  # there is none, which the gatekeeper prevents
        return ""


class _Context(Sockets):
    """A context and its sockets, which are closed in order and in bounded time, as those of one host are."""

    def __init__(self, threads: int) -> None:
        super().__init__(limits.MAX_SOCKETS)
        self._context.set(zmq.IO_THREADS, threads)
        self._monitors = 0

    def make(self, kind: int, options: Mapping[int, int | bytes], watched: int = 0) -> NetSocket:
        """Make a socket; `watched`: the events that it shall know of. Raises OSError."""
        _check_descriptors(SPARE_DESCRIPTORS + CONNECTING_DESCRIPTORS)
        try:
            sock = NetSocket(self._context.socket(kind))
            self._open[sock] = None
            for option, value in options.items():
                sock.raw.setsockopt(option, value)
            if watched:
                self._monitors += 1
                sock.watch(self._context.socket(zmq.PAIR), f"inproc://monitor-{self._monitors}", watched)
        except zmq.ZMQError as error:  # too many sockets or descriptors
            raise OSError(error.errno, str(error)) from error
        return sock


def _options(kind: int, *, ipv6: bool) -> dict[int, int | bytes]:
    """Return what is set on every socket."""
    idle, interval, looks = limits.KEEPALIVE_SECONDS
    return {
        zmq.LINGER: LINGER_MS,
        zmq.SNDHWM: limits.CONTROL_HWM if kind == zmq.PUB else 0,
        zmq.RCVHWM: 0,
        zmq.MAXMSGSIZE: limits.MAX_SMALL_FRAME if kind in (zmq.PUB, zmq.PUSH) else limits.MAX_FRAME,
        zmq.HANDSHAKE_IVL: limits.HANDSHAKE_MS,
        zmq.TCP_MAXRT: limits.UNANSWERED_MS,
        zmq.TCP_KEEPALIVE: 1,
        zmq.TCP_KEEPALIVE_IDLE: idle,
        zmq.TCP_KEEPALIVE_INTVL: interval,
        zmq.TCP_KEEPALIVE_CNT: looks,
        zmq.IPV6: int(ipv6),
    }


class HeadSockets:
    """The sockets of a head, with the gatekeeper. All belong to one thread."""

    def __init__(
        self,
        keys: KeyPair | None,
        allowed: Callable[[], Mapping[str, Allowed]] | None,
        report: Callable[[Refusal], None],
        *,
        threads: int = 1,
    ) -> None:
        """`keys` and `allowed` (see Gatekeeper) are None together: no CURVE. `report` is told of refusals."""
        if (keys is None) != (allowed is None):
            raise ValueError("a head has a key pair and an allow-list, or neither")
        self._keys = keys
        self._all = _Context(threads)
        self._service: list[NetSocket] = []
        self._next_port = 0
        try:
            self._asked = self._all.make(zmq.REP, {zmq.LINGER: 0})
            self._asked.raw.bind("inproc://zeromq.zap.01")
        except BaseException:
            self._all.close()
            raise
        self.gatekeeper = Gatekeeper(self._asked, allowed, report)
        self.gatekeeper.admit("clients", "client")
        self.gatekeeper.admit("sink", "worker")
        self.gatekeeper.admit("control", "worker")

    def clients(self, host: str, port: int = 0) -> NetSocket:
        """Listen for clients (ROUTER). Port 0: any. Raises CannotListen and OSError."""
        sock = self._make(zmq.ROUTER, "clients", host, watched=_INCOMING)
        sock.raw.setsockopt(zmq.ROUTER_MANDATORY, 1)  # and no ROUTER_HANDOVER: nobody takes over another's route
        return self._serve(sock, host, port)

    def sink(self, host: str, port: int = 0) -> NetSocket:
        """Listen for what foremen push (PULL)."""
        return self._serve(self._make(zmq.PULL, "sink", host, watched=_INCOMING), host, port)

    def control(self, host: str, port: int = 0) -> NetSocket:
        """Listen for foremen that subscribe (PUB)."""
        return self._serve(self._make(zmq.PUB, "control", host, watched=_INCOMING), host, port)

    def lane(self, host: str, ports: Sequence[int], number: int, user_id: str) -> NetSocket:
        """Open a lane (PUSH) for one foreman on the next free port of `ports`; raises CannotListen and OSError."""
        sock = self._make(zmq.PUSH, f"lane-{number}", host)
        self.gatekeeper.admit(sock.domain, "worker", user_id)
        for _ in range(len(ports)):
            # Ports are used in turn: whoever still connects to an old lane's port shall find nobody there.
            port = ports[self._next_port % len(ports)]
            self._next_port += 1
            if self._bind(sock, host, port):
                return sock
        self.close_one(sock, linger=0)
        raise CannotListen(
            f"all {len(ports)} ports for lanes are taken, so that one more worker cannot join. Nothing else is "
            "affected. Give the head a larger range of ports."
        )

    def _make(self, kind: int, domain: str, host: str, *, watched: int = 0) -> NetSocket:
        if self._keys is None and not is_loopback(host):
            raise CannotListen(
                f"without CURVE a head listens on this host only: at {host}, whoever reaches it could run code here. "
                "Nothing was started. Leave CURVE on, or listen at 127.0.0.1."
            )
        security: dict[int, int | bytes] = {zmq.PLAIN_SERVER: 1}
        if self._keys is not None:
            security = {zmq.CURVE_SERVER: 1, zmq.CURVE_SECRETKEY: self._keys.secret_key.encode()}
        # The domain first of all. Without one, ZeroMQ asks nobody, and takes random bytes for messages.
        options = {zmq.ZAP_DOMAIN: domain.encode(), zmq.ZAP_ENFORCE_DOMAIN: 1, zmq.BACKLOG: 1024, **security}
        sock = self._all.make(kind, options | _options(kind, ipv6=":" in host), watched)
        sock.domain = domain
        sock.welcome = partial(self.gatekeeper.is_welcome, domain)
        return sock

    def _serve(self, sock: NetSocket, host: str, port: int) -> NetSocket:
        if not self._bind(sock, host, port):
            self.close_one(sock, linger=0)
            raise CannotListen(
                f"port {port} at {host} is taken by another program, perhaps another head. Nothing was started. End "
                f"that program (ss -ltnp 'sport = :{port}' shows it), or listen on another port."
            )
        self._service.append(sock)
        return sock

    def _bind(self, sock: NetSocket, host: str, port: int) -> bool:
        """Have a socket listen; False if the port is taken. Raises CannotListen and OSError, and then it is closed."""
        address = format_address(host, port)
        try:
            sock.raw.bind(f"tcp://{address if port else address.removesuffix('0') + '*'}")
        except zmq.ZMQError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            self.close_one(sock, linger=0)
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise OSError(error.errno, str(error)) from error
            raise CannotListen(
                f"the head cannot listen at {address}: {error.strerror}. Nothing was started. Give an address of this "
                "host (ip address shows them), such as 0.0.0.0 for all, and a port from 1024 on."
            ) from None
        sock.port = int(bytes(sock.raw.get(zmq.LAST_ENDPOINT)).rstrip(b"\0").rpartition(b":")[2])
        return True

    def count(self) -> int:
        """Count what has come in, and return how many connections were never let in (or not yet).

        To be called each second: what is not counted is kept in memory.
        """
        for sock in self._service:
            sock.count()
        return sum(sock.accepted - sock.admitted for sock in self._service)

    def close_one(self, sock: NetSocket, linger: int = LINGER_MS) -> None:
        """Close one socket; nobody is let in to a lane that is closed."""
        if sock.domain.startswith("lane-"):
            self.gatekeeper.forget(sock.domain)
        if sock in self._service:
            self._service.remove(sock)
        self._all.close_one(sock, linger)

    def close(self) -> None:
        """Close all sockets and terminate the context, in bounded time."""
        self._all.close()


class PeerSockets:
    """The sockets of a foreman or a client: all connect to the head of a join file. All belong to one thread."""

    def __init__(self, join: JoinFile, *, threads: int = 1) -> None:
        self._join = join
        self._all = _Context(threads)
        self._ipv6 = needs_ipv6(join.address)
        self._tended: dict[NetSocket, Connection] = {}

    def clients(self) -> NetSocket:
        """Connect to the port for clients (DEALER)."""
        return self._connect(zmq.DEALER, self._join.ports.clients)

    def sink(self) -> NetSocket:
        """Connect to the sink (PUSH)."""
        return self._connect(zmq.PUSH, self._join.ports.sink)

    def control(self, topic: bytes) -> NetSocket:
        """Connect to control (SUB), for what begins with a topic."""
        return self._connect(zmq.SUB, self._join.ports.control, {zmq.SUBSCRIBE: topic})

    def lane(self, port: int) -> NetSocket:
        """Connect to a lane (PULL)."""
        return self._connect(zmq.PULL, port)

    def _connect(self, kind: int, port: int, more: Mapping[int, int | bytes] | None = None) -> NetSocket:
        join = self._join
        options = _options(kind, ipv6=self._ipv6) | {
            zmq.RECONNECT_IVL: limits.RECONNECT_MS,
            zmq.RECONNECT_IVL_MAX: limits.MAX_RECONNECT_MS,
            zmq.CONNECT_TIMEOUT: limits.CONNECT_MS,
        }
        if kind in (zmq.PUSH, zmq.DEALER):
            options[zmq.IMMEDIATE] = 1  # nothing is kept for a head that is not there: the link sends it again
        if join.curve:
            options[zmq.CURVE_SERVERKEY] = join.server_key.encode()
            options[zmq.CURVE_PUBLICKEY] = join.public_key.encode()
            options[zmq.CURVE_SECRETKEY] = join.secret_key.encode()
        else:
            options |= {zmq.PLAIN_USERNAME: join.role.encode(), zmq.PLAIN_PASSWORD: PLAIN_PASSWORD.encode()}
        sock = self._all.make(kind, {**options, **(more or {})}, _ALL_EVENTS)
        where = format_address(join.address, port)
        sock.port, sock.endpoint = port, f"tcp://{where}"
        self._tended[sock] = Connection(sock, where, curve=join.curve)
        sock.connect()
        return sock

    def tend(self, now: float) -> None:
        """Look after all connections; to be called each second."""
        for connection in self._tended.values():
            connection.tend(now)

    def connected(self, sock: NetSocket) -> bool:
        """Tell whether a socket was connected, and let in, when it was last tended."""
        return self._tended[sock].connected

    def trouble(self) -> str:
        """Say why some socket is not connected, for people; empty if all are, or there was no time yet."""
        return next((each.trouble for each in self._tended.values() if each.trouble), "")

    def close_one(self, sock: NetSocket, linger: int = LINGER_MS) -> None:
        """Close one socket."""
        del self._tended[sock]
        self._all.close_one(sock, linger)

    def close(self) -> None:
        """Close all sockets and terminate the context, in bounded time."""
        self._tended.clear()
        self._all.close()
