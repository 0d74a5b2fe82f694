"""The tests' own proxy does to connections what it says, and leaves nothing."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
import support
import zmq
from proxy import Line, Proxy, ProxySet
from proxy_loop import hold, reserve
from proxy_port import ROOM, Address, Way

QUIET = 0.1
"""Seconds in which nothing may arrive."""


class Target:
    """What a proxy leads to."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(support.DEADLINE)
        self.address: Address = self.listener.getsockname()
        self.opened: list[socket.socket] = [self.listener]

    def pair(self, address: Address) -> tuple[socket.socket, socket.socket]:
        """Connect to an address that leads here; return both ends."""
        near = self.connect(address)
        return near, self.accept()

    def connect(self, address: Address) -> socket.socket:
        near = socket.create_connection(address, support.DEADLINE)
        self.opened.append(near)
        return near

    def accept(self) -> socket.socket:
        far = self.listener.accept()[0]
        far.settimeout(support.DEADLINE)
        self.opened.append(far)
        return far

    def close(self) -> None:
        for each in self.opened:
            each.close()


@pytest.fixture
def target() -> Iterator[Target]:
    with contextlib.closing(Target()) as target:
        yield target


@pytest.fixture
def proxy(target: Target) -> Iterator[Proxy]:
    with Proxy(target.address) as proxy:
        yield proxy


def receive(connection: socket.socket, count: int) -> bytes:
    """Receive exactly so many bytes, or what comes before the end."""
    data = bytearray()
    while len(data) < count and (part := connection.recv(count - len(data))):
        data += part
    return bytes(data)


def check_passes(*ends: socket.socket) -> None:
    """Bytes pass both ways."""
    for source, drain in (ends, ends[::-1]):
        source.sendall(b"to and fro")
        assert receive(drain, 10) == b"to and fro"


def check_reset(end: socket.socket) -> None:
    with pytest.raises(ConnectionResetError):
        collections.deque(iter(lambda: end.recv(ROOM), b""), maxlen=0)


def check_silent(*ends: socket.socket) -> None:
    """Neither bytes nor an end nor a reset arrive."""
    for end in ends:
        end.settimeout(QUIET)
        with pytest.raises(TimeoutError):
            end.recv(1)
        end.settimeout(support.DEADLINE)


# --- without a fault ---


def test_bytes_pass_both_ways_and_are_counted(target: Target, proxy: Proxy) -> None:
    near, far = target.pair(proxy.address)
    proxy.wait_connected(1)
    check_passes(near, far)
    far.sendall(b"more")
    assert receive(near, 4) == b"more"
    support.wait_for(lambda: (proxy.up, proxy.down) == (10, 14), "the counts")
    assert (proxy.connected, proxy.accepted, proxy.lost) == (1, 1, 0)


def test_much_passes_whole_to_a_slow_reader(target: Target, proxy: Proxy) -> None:
    near, far = target.pair(proxy.address)
    data = bytes(range(256)) * 64 * 1024

    def send() -> None:
        near.sendall(data)
        near.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    digest, count = hashlib.sha256(), 0
    while part := far.recv(100_000):
        digest.update(part)
        count += len(part)
        time.sleep(0.001)
    sender.join(support.DEADLINE)
    assert (count, digest.digest()) == (len(data), hashlib.sha256(data).digest())


def test_an_end_passes_and_the_other_way_stays_open(target: Target, proxy: Proxy) -> None:
    near, far = target.pair(proxy.address)
    near.sendall(b"last words")
    near.shutdown(socket.SHUT_WR)
    assert receive(far, 100) == b"last words"
    far.sendall(b"heard")
    assert receive(near, 5) == b"heard"
    far.close()
    assert near.recv(1) == b""
    support.wait_for(lambda: proxy.connected == 0, "the end of the connection")


def test_a_target_that_is_not_there_is_a_reset() -> None:
    with contextlib.closing(hold("127.0.0.1", 0)) as nobody, Proxy(nobody.getsockname()) as proxy:

        def talk() -> None:
            with socket.create_connection(proxy.address, support.DEADLINE) as near:
                near.recv(1)

        with pytest.raises(ConnectionResetError):
            talk()
        assert proxy.accepted == 0


# --- faults ---


def test_cut_resets_both_sides(target: Target, proxy: Proxy) -> None:
    pairs = [target.pair(proxy.address) for _ in range(3)]
    proxy.wait_connected(3)
    assert proxy.cut() == 3
    for end in (end for pair in pairs for end in pair):
        check_reset(end)
    assert proxy.connected == 0
    check_passes(*target.pair(proxy.address))
    assert proxy.accepted == 4


def test_refused_until_healed(target: Target, proxy: Proxy) -> None:
    pair = target.pair(proxy.address)
    proxy.refuse()
    proxy.refuse()
    check_passes(*pair)
    with pytest.raises(ConnectionRefusedError):
        target.connect(proxy.address)
    with pytest.raises(OSError, match="in use"):
        hold(*proxy.address)
    proxy.heal()
    proxy.heal()
    check_passes(*target.pair(proxy.address))
    check_passes(*pair)


def test_swallowed_bytes_are_lost_and_connections_stay(target: Target, proxy: Proxy) -> None:
    near, far = target.pair(proxy.address)
    leaving, left = target.pair(proxy.address)
    check_passes(near, far)
    check_passes(leaving, left)
    proxy.swallow()
    near.sendall(bytes(4 * ROOM))
    far.sendall(bytes(100))
    leaving.close()
    late = target.connect(proxy.address)
    late.sendall(b"is anybody there?")
    support.wait_for(lambda: proxy.lost == 4 * ROOM + 100, "what is swallowed")
    check_silent(near, far, left, late)
    assert (proxy.up, proxy.down) == (20, 20)
    proxy.resume()
    for end in (near, far, left, late):
        check_reset(end)
    check_passes(*target.pair(proxy.address))


def test_of_what_nothing_was_swallowed_goes_on(target: Target, proxy: Proxy) -> None:
    pair = target.pair(proxy.address)
    check_passes(*pair)
    proxy.swallow()
    proxy.resume()
    check_passes(*pair)


def test_what_is_stalled_arrives_later(target: Target, proxy: Proxy) -> None:
    near, far = target.pair(proxy.address)
    leaving, left = target.pair(proxy.address)
    check_passes(leaving, left)
    proxy.stall()
    near.sendall(b"later")
    leaving.close()
    late = target.connect(proxy.address)
    late.sendall(b"me too")
    check_silent(near, far, left, late)
    proxy.resume()
    assert receive(far, 5) == b"later"
    assert left.recv(1) == b""
    assert receive(target.accept(), 6) == b"me too"
    assert proxy.lost == 0


@pytest.mark.parametrize("way", ["up", "down"])
def test_bytes_under_way_are_lost_with_their_connection(target: Target, proxy: Proxy, way: Way) -> None:
    near, far = target.pair(proxy.address)
    source, drain = (near, far) if way == "up" else (far, near)
    check_passes(near, far)
    proxy.lose_after(1000, lost=5000, way=way)
    source.sendall(bytes(500) + b"x" * 500)
    assert receive(drain, 1000) == bytes(500) + b"x" * 500
    source.sendall(b"never seen" * 100)
    check_silent(near, far)
    drain.sendall(b"back")
    assert receive(source, 4) == b"back"
    source.sendall(b"never seen" * 400)
    check_reset(near)
    check_reset(far)
    assert (proxy.losses, proxy.lost) == (1, 5000)
    check_passes(*target.pair(proxy.address))


def test_the_end_of_who_sends_completes_a_loss(target: Target, proxy: Proxy) -> None:
    near, far = target.pair(proxy.address)
    proxy.lose_after(2, lost=100, way="up")
    near.sendall(b"ok, and this is lost")
    near.close()
    assert receive(far, 2) == b"ok"
    check_reset(far)
    assert (proxy.losses, proxy.lost) == (1, 18)


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_limit_holds_for_all_connections_together(target: Target, proxy: Proxy, way: Way) -> None:
    pairs = [target.pair(proxy.address) for _ in range(2)]
    proxy.limit(2_000_000)
    begin = time.monotonic()
    for near, far in pairs:
        (near if way == "up" else far).sendall(bytes(300_000))
    for near, far in pairs:
        assert len(receive(far if way == "up" else near, 300_000)) == 300_000
    assert 0.27 < time.monotonic() - begin < 5
    proxy.limit(None)
    for pair in pairs:
        check_passes(*pair)


def test_a_cut_while_connections_are_made_leaves_none_half_made(target: Target, proxy: Proxy) -> None:
    near = [target.connect(proxy.address) for _ in range(20)]
    support.wait_for(lambda: proxy.accepted == 20, "the connections")
    proxy.cut()
    for end in near:
        check_reset(end)


# --- a head's ports ---


def test_a_set_keeps_the_distance_of_ports() -> None:
    holders = reserve(6)
    first = holders[0].getsockname()[1]
    with ProxySet(("127.0.0.1", first), lanes=3) as proxies, contextlib.ExitStack() as stack:
        assert proxies.address == f"127.0.0.1:{proxies.base}"
        targets = []
        for holder in holders:
            targets.append(listener := socket.create_server(holder.getsockname()))
            stack.enter_context(listener)
            stack.enter_context(holder)
            listener.settimeout(support.DEADLINE)
        for offset, listener in enumerate(targets):
            near = stack.enter_context(socket.create_connection(("127.0.0.1", proxies.base + offset)))
            far = stack.enter_context(listener.accept()[0])
            far.sendall(bytes([offset]))
            assert near.recv(1) == bytes([offset])
        parts: list[Line] = [proxies.clients, proxies.sink, proxies.control, *map(proxies.lane, proxies.lane_ports)]
        for count, part in enumerate(parts, start=1):
            part.wait_connected(1)
            assert (part.cut(), proxies.connected) == (1, 6 - count)
        assert proxies.down == 6


def test_a_set_of_another_address_has_the_same_ports() -> None:
    """So whoever is told a port of one of them may use another's."""
    with (
        ProxySet(("127.0.0.1", 1), lanes=1) as one,
        ProxySet(("127.0.0.1", 1), lanes=1, host="127.0.1.1", base=one.base) as other,
    ):
        assert other.address == f"127.0.1.1:{one.base}"
        with pytest.raises(OSError, match="in use"):
            ProxySet(("127.0.0.1", 1), lanes=1, base=one.base)


def test_a_reserved_port_is_for_those_who_know_of_it() -> None:
    with contextlib.closing(reserve(1)[0]) as holder:
        host, port = holder.getsockname()
        with pytest.raises(OSError, match="in use"):
            hold(host, port)
        for _ in range(2):  # a head that is started again
            with zmq.Context() as context, context.socket(zmq.PULL) as pull:
                pull.bind(f"tcp://{host}:{port}")


# --- what it is for ---


def test_messages_that_zeromq_has_accepted_are_lost_under_way() -> None:
    """Both sides live, and the connection is made again: the loss that receipts are there for."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as push, context.socket(zmq.PULL) as pull:
        for each in (push, pull):
            each.linger = 0
            each.rcvtimeo = each.sndtimeo = int(support.DEADLINE * 1000)
        pull.reconnect_ivl = 10
        port = push.bind_to_random_port("tcp://127.0.0.1")
        with Proxy(("127.0.0.1", port)) as proxy:
            pull.connect("tcp://{}:{}".format(*proxy.address))
            push.send(b"first")
            assert pull.recv() == b"first"
            proxy.lose_after(0, lost=8 * 100)
            for number in range(8):
                push.send(struct.pack("B", number) * 100)
            support.wait_for(lambda: proxy.losses == 1, "the loss")
            proxy.wait_connected(1)
            push.send(b"afterwards")
            assert pull.recv() == b"afterwards"


def test_closing_leaves_nothing(target: Target) -> None:
    before, threads = support.descriptors(), threading.active_count()
    proxies = ProxySet(target.address, lanes=2)
    near = socket.create_connection((proxies.host, proxies.base))
    unheard = socket.create_connection((proxies.host, proxies.base + 1))
    far = target.accept()
    proxies.wait_connected(1)
    proxies.limit(1)
    far.sendall(bytes(1000))
    proxies.close()
    proxies.close()
    for end in (near, unheard, far):
        check_reset(end)
        end.close()
    assert (support.descriptors(), threading.active_count()) == (before, threads)
