"""Row 26: a peer with no key, an unknown or revoked one, or one of another role is refused, counted and told of; none
of its messages reaches the head, and none of the head's reaches it. Those who were let in go on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import support
import zmq
from small_head import HOST, KINDS, Honest, SmallHead, small_head
from zmq.utils.monitor import recv_monitor_message

from ztasks.errors import BadKeyStore, CannotListen
from ztasks.io.gatekeeper import REPORT_SECONDS, REPORTS, Allowed, Gatekeeper, Refusal
from ztasks.io.join import JoinFile
from ztasks.io.net import HeadSockets, NetSocket, PeerSockets, make_keypair

ROLES = {"clients": "client", "sink": "worker", "control": "worker", "lane": "worker"}


@pytest.fixture
def head(tmp_path: Path) -> Iterator[SmallHead]:
    with small_head(tmp_path / "keys") as made:
        yield made


def with_keys(join: JoinFile, **keys: str) -> JoinFile:
    fields: dict[str, Any] = {name: getattr(join, name) for name in join.__struct_fields__}
    return JoinFile(**{**fields, **keys})


def opened(peer: PeerSockets, kind: str, head: SmallHead) -> NetSocket:
    if kind == "lane":
        return peer.lane(head.lane.port)
    return peer.control(b"") if kind == "control" else {"clients": peer.clients, "sink": peer.sink}[kind]()


def check_shut_out(head: SmallHead, sock: NetSocket) -> None:
    """Neither side gets anything of the other's."""
    assert not sock.send(b"stolen") if sock.raw.type in (zmq.DEALER, zmq.PUSH) else sock.receive() is None
    head.control.send(b"w/secret")
    head.pump()
    assert head.take() == []
    assert sock.receive() is None if sock.raw.type != zmq.PUSH else True


def refused(head: SmallHead, peer: PeerSockets, kind: str, why: str) -> None:
    """Wait until a peer was refused, for this reason and no other; the peer knows it, too."""
    domain = {"lane": head.lane.domain}.get(kind, kind)
    head.wait_for(lambda: head.refusals, "a refusal")
    assert {(r.address, r.domain, r.why) for r in head.refusals} == {(HOST, domain, why)}
    assert head.sockets.gatekeeper.refused[why] >= 1
    head.wait_for(peer.trouble, "the peer to know why")
    assert "refuses this key: it was revoked, or is for another role" in peer.trouble()


@pytest.mark.parametrize("kind", KINDS)
def test_row_26_an_unknown_key_is_refused(head: SmallHead, kind: str) -> None:
    honest = Honest(head)
    honest.check()
    pair = make_keypair()
    join = with_keys(head.join(ROLES[kind]), public_key=pair.public_key, secret_key=pair.secret_key)
    peer = head.peer(join)
    sock = opened(peer, kind, head)
    refused(head, peer, kind, "its key is not in the allow-list")
    check_shut_out(head, sock)
    honest.check()
    said = f"{[str(refusal) for refusal in head.refusals]} {peer.trouble()} {join!r} {head.store.keypair()!r}"
    assert not [key for key in (pair.public_key, pair.secret_key, join.server_key) if key in said]


@pytest.mark.parametrize("kind", KINDS)
def test_row_26_a_key_of_another_role_is_refused(head: SmallHead, kind: str) -> None:
    """A worker's key used as a client's, and the reverse on the three other kinds of ports."""
    honest = Honest(head)
    honest.check()
    other, role = ("worker", "client") if kind == "clients" else ("client", "worker")
    peer = head.peer(other)
    sock = opened(peer, kind, head)
    refused(head, peer, kind, f"its key {other!r} is for a {other}, and a {role} is expected there")
    check_shut_out(head, sock)
    honest.check()


def test_row_26_a_lane_admits_one_key_only(head: SmallHead) -> None:
    """Also of workers: another one would steal half of the jobs."""
    honest = Honest(head)
    honest.check()
    head.store.add("other", "worker")
    peer = head.peer("other")
    sock = opened(peer, "lane", head)
    refused(head, peer, "lane", "its key 'other' is not the one that this lane is for")
    check_shut_out(head, sock)
    for _ in range(10):
        honest.check()  # each of them would have been shared between both
    second = head.open_lane("other")
    own = peer.lane(second.port)
    head.wait_for(lambda: second.send(b"job"), "the way to the other worker")
    assert head.wait_for(own.receive, "its job").frames == [b"job"]


@pytest.mark.parametrize("mechanism", ["NULL", "PLAIN"])
@pytest.mark.parametrize("kind", KINDS)
def test_row_26_a_peer_without_a_key_gets_nowhere(head: SmallHead, kind: str, mechanism: str) -> None:
    """It does not even come as far as the gatekeeper."""
    honest = Honest(head)
    honest.check()
    kinds = {"clients": zmq.DEALER, "sink": zmq.PUSH, "control": zmq.SUB, "lane": zmq.PULL}
    before = head.sockets.count()
    with zmq.Context() as context, context.socket(kinds[kind]) as raw:
        raw.linger = 0
        if mechanism == "PLAIN":
            raw.plain_username, raw.plain_password = ROLES[kind].encode(), b"-"
        if kind == "control":
            raw.subscribe(b"")
        monitor = raw.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        raw.connect(f"tcp://{HOST}:{head.port(kind)}")
        if kind in ("clients", "sink"):
            raw.send(b"stolen")
        head.wait_for(lambda: monitor.poll(0), "the handshake to end")
        assert recv_monitor_message(monitor)["event"] == zmq.EVENT_DISCONNECTED
        honest.check()
        assert kind == "sink" or not raw.poll(0)
        raw.disable_monitor()
        monitor.close()
    if kind != "lane":
        assert head.sockets.count() > before
    assert head.refusals == []


def test_row_26_a_head_with_other_keys_is_not_joined(head: SmallHead) -> None:
    """Whoever stands in the head's place learns nothing: the peer's key is not shown to it."""
    sent = with_keys(head.join("client"), server_key=make_keypair().public_key)
    peer = head.peer(sent)
    sock = peer.clients()
    head.wait_for(peer.trouble, "the peer to know why")
    assert "it has other keys now, so that this join file is out of date" in peer.trouble()
    check_shut_out(head, sock)
    assert head.refusals == []
    assert head.sockets.gatekeeper.admitted == 0


def test_row_26_a_revoked_key_is_worth_nothing_at_once(head: SmallHead) -> None:
    """An open connection's messages are dropped from then on, and no new one is made with that key."""
    honest = Honest(head)
    honest.check()
    head.store.add("leaver", "client")
    join = head.join("leaver")
    leaver = head.peer(join)
    sock = leaver.clients()
    head.wait_for(lambda: sock.send(b"while it may"), "the way in")
    head.wait_for(lambda: head.received, "its message")
    (received,) = head.take()
    gatekeeper = head.sockets.gatekeeper
    assert gatekeeper.who(received.user_id) == Allowed("leaver", "client")
    head.store.changed()
    assert not head.store.changed()

    head.store.revoke("leaver")

    assert head.store.changed()
    assert not head.store.changed()
    assert gatekeeper.who(received.user_id) is None
    assert sock.send(b"after that")
    head.wait_for(lambda: head.clients.dropped, "its message to be dropped")
    assert head.take() == []
    again = head.peer(join)
    other = again.clients()
    refused(head, again, "clients", "its key is not in the allow-list")
    check_shut_out(head, other)
    honest.check()


def test_row_26_a_key_that_is_allowed_later_comes_in_by_itself(head: SmallHead) -> None:
    head.store.add("early", "worker")
    join = head.join("early")
    before = Path(head.store.path("allowed.json")).read_bytes()
    head.store.revoke("early")
    peer = head.peer(join)
    sock = peer.sink()
    refused(head, peer, "sink", "its key is not in the allow-list")
    new = Path(head.store.path("new"))
    new.touch(0o600)
    new.write_bytes(before)
    os.replace(new, head.store.path("allowed.json"))
    peer.tend(monotonic() + 60)  # its pause is over
    head.wait_for(lambda: sock.send(b"in"), "the way in")
    head.wait_for(lambda: head.received, "its message")
    assert [(r.user_id, r.frames) for r in head.take()] == [(join.public_key, [b"in"])]
    assert (peer.trouble(), peer.connected(sock)) == ("", True)


def test_row_26_a_key_whose_role_was_changed_is_not_heard_in_the_old_one(head: SmallHead) -> None:
    honest = Honest(head)
    honest.check()
    path = Path(head.store.path("allowed.json"))
    path.write_text(path.read_text().replace('"role": "client"', '"role": "worker"'))
    assert honest.dealer.send(b"as a client")
    head.wait_for(lambda: head.clients.dropped, "its message to be dropped")
    assert head.take() == []


@pytest.mark.parametrize("how", ["missing", "damaged", "readable by others"])
def test_row_26_without_an_allow_list_nobody_new_is_let_in_and_nobody_is_put_off(head: SmallHead, how: str) -> None:
    honest = Honest(head)
    honest.check()
    path = Path(head.store.path("allowed.json"))
    good = path.read_bytes()
    if how == "missing":
        path.rename(path.with_name("away"))
    elif how == "damaged":
        path.write_bytes(good[: len(good) // 2])
    else:
        path.chmod(0o644)
    peer = head.peer("client")
    sock = peer.clients()
    head.wait_for(lambda: head.refusals, "a refusal")
    assert "nobody new is let in: " in head.refusals[0].why
    head.wait_for(peer.trouble, "the peer to know why")
    assert "cannot read its allow-list" in peer.trouble()
    assert not sock.send(b"x")
    honest.check()
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_bytes(good)
    peer.tend(monotonic() + 60)  # its pause is over
    head.wait_for(lambda: sock.send(b"x"), "the way in")
    head.wait_for(lambda: head.received, "its message")
    head.take()
    honest.check()


def test_row_26_each_message_says_whose_it_is(head: SmallHead) -> None:
    """Two workers at one sink: neither can speak in the other's name."""
    names = [f"host-{number}" for number in range(4)]
    for name in names:
        head.store.add(name, "worker")
    socks = {name: head.peer(name).sink() for name in names}
    for name, sock in socks.items():
        for _ in range(5):
            head.wait_for(lambda sock=sock, name=name: sock.send(b"I am", name.encode()), "the way in")
    head.wait_for(lambda: len(head.received) == 20, "all messages")
    for received in head.take():
        assert head.store.allowed()[received.user_id] == Allowed(bytes(received.frames[1]).decode(), "worker")


# --- without CURVE ---


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "*", "eth0", "10.1.2.3", "example.com", ""])
def test_row_26_without_curve_a_head_listens_on_loopback_only(host: str) -> None:
    sockets = HeadSockets(None, None, lambda refusal: None)
    try:
        for listen in (sockets.clients, sockets.sink, sockets.control, lambda at: sockets.lane(at, (0,), 1, "worker")):
            with pytest.raises(CannotListen, match=r"Leave CURVE on, or listen at 127\.0\.0\.1"):
                listen(host)
    finally:
        sockets.close()


@pytest.mark.parametrize(("name", "kind"), [("client", "sink"), ("client", "lane"), ("worker", "clients")])
def test_row_26_roles_are_told_apart_without_curve_too(tmp_path: Path, name: str, kind: str) -> None:
    """By what the peer says: on loopback this keeps mistakes out, and nobody else."""
    with small_head(tmp_path / "keys", curve=False) as head:
        honest = Honest(head)
        honest.check()
        sock = opened(head.peer(name), kind, head)
        head.wait_for(lambda: head.refusals, "a refusal")
        assert f"is for a {name}" in head.refusals[0].why
        check_shut_out(head, sock)
        honest.check()


# --- the gatekeeper alone ---


class Knocking:
    """Requests as ZeroMQ makes them."""

    def __init__(self) -> None:
        self.waiting: list[list[bytes]] = []
        self.answers: list[tuple[bytes, bytes]] = []

    def knock(self, address: str, domain: str = "clients", mechanism: bytes = b"CURVE", *credentials: bytes) -> None:
        self.waiting.append([b"1.0", b"1", domain.encode(), address.encode(), b"", mechanism, *credentials])

    def readable(self) -> bool:
        return bool(self.waiting)

    def receive_all(self) -> list[bytes]:
        return self.waiting.pop(0)

    def send(self, *frames: Any) -> bool:
        self.answers.append((frames[2], frames[4]))
        return True


def gatekeeper(allowed: dict[str, Allowed] | None) -> tuple[Knocking, Gatekeeper, list[Refusal]]:
    knocking, reports = Knocking(), list[Refusal]()
    keeper = Gatekeeper(knocking, None if allowed is None else lambda: allowed, reports.append)
    keeper.admit("clients", "client")
    return knocking, keeper, reports


def test_row_26_refusals_are_all_counted_and_do_not_fill_the_log() -> None:
    knocking, keeper, reports = gatekeeper({})
    for number in range(1000):
        knocking.knock(f"10.0.{number // 256}.{number % 256}", "clients", b"CURVE", bytes(32))
    assert keeper.answer(0.0) == 1000
    assert len(reports) == REPORTS
    knocking.knock("10.1.1.1", "clients", b"CURVE", bytes(32))
    keeper.answer(REPORT_SECONDS - 0.1)
    assert len(reports) == REPORTS
    knocking.knock("10.1.1.1", "clients", b"CURVE", bytes(32))
    knocking.knock("10.1.1.1", "clients", b"CURVE", bytes(32))
    keeper.answer(REPORT_SECONDS)
    assert keeper.refused.total() == 1003
    assert len(reports) == REPORTS + 1
    assert str(reports[-1]) == (
        "refused a connection from 10.1.1.1 to clients: its key is not in the allow-list; "
        f"{1001 - REPORTS} more were refused since the last line like this"
    )
    assert {code for code, _ in knocking.answers} == {b"400"}


@pytest.mark.parametrize(
    ("mechanism", "credentials"),
    [(b"NULL", ()), (b"PLAIN", (b"client", b"-")), (b"CURVE", ()), (b"CURVE", (bytes(31),)), (b"GSSAPI", (b"x",))],
)
def test_row_26_what_brings_no_key_is_refused(mechanism: bytes, credentials: tuple[bytes, ...]) -> None:
    knocking, keeper, reports = gatekeeper({"0" * 40: Allowed("client", "client")})
    knocking.knock(HOST, "clients", mechanism, *credentials)
    knocking.knock(HOST, "clients", b"CURVE", bytes(32))
    keeper.answer(0.0)
    assert knocking.answers == [(b"400", b""), (b"200", b"0" * 40)]
    assert [report.why for report in reports] == ["it has no key"]


@pytest.mark.parametrize("address", ["10.0.0.1", "::2", "", "fe80::1%eth0", "128.0.0.1"])
def test_row_26_without_curve_other_hosts_are_refused(address: str) -> None:
    """They cannot come that far: it is asked all the same."""
    knocking, keeper, _ = gatekeeper(None)
    for each in (address, HOST, "::1", "::ffff:127.0.0.1"):
        knocking.knock(each, "clients", b"PLAIN", b"client", b"-")
    keeper.answer(0.0)
    assert knocking.answers == [(b"400", b""), *[(b"200", b"client")] * 3]


def test_row_26_where_nothing_was_opened_nobody_is_let_in() -> None:
    knocking, keeper, reports = gatekeeper({"0" * 40: Allowed("client", "client")})
    keeper.admit("lane-1", "worker", "0" * 40)
    keeper.forget("clients")
    for domain in ("clients", "", "lane-2"):
        knocking.knock(HOST, domain, b"CURVE", bytes(32))
    keeper.answer(0.0)
    assert {code for code, _ in knocking.answers} == {b"400"}
    assert {report.why for report in reports} == {"nothing is to come in there"}


def test_row_26_an_allow_list_that_cannot_be_read_is_not_the_peers_fault() -> None:
    def broken() -> dict[str, Allowed]:
        raise BadKeyStore("the disk is gone")

    knocking, reports = Knocking(), list[Refusal]()
    keeper = Gatekeeper(knocking, broken, reports.append)
    keeper.admit("clients", "client")
    knocking.knock(HOST, "clients", b"CURVE", bytes(32))
    keeper.answer(0.0)
    assert knocking.answers == [(b"500", b"")]
    assert "the disk is gone" in str(reports[0])


# --- listening ---


def test_row_26_ports_of_lanes_are_used_in_turn(head: SmallHead) -> None:
    """So that who still connects to an old lane's port finds nobody there; a port that is taken is passed over."""
    free = [head.sockets.lane(HOST, (0,), number, "x" * 40) for number in range(10, 14)]
    ports = [sock.port for sock in free]
    for sock in free[1:]:
        head.sockets.close_one(sock, linger=0)
    used = []
    for number in range(20, 26):
        sock = support.wait_for(lambda number=number: _lane(head, ports, number), "ZeroMQ to give the port back")
        used.append(sock.port)
        head.sockets.close_one(sock, linger=0)
    assert set(used) == set(ports[1:])
    assert used[0] != used[1] != used[2] != used[0]
    with pytest.raises(CannotListen, match="all 1 ports for lanes are taken"):
        head.sockets.lane(HOST, ports[:1], 30, "x" * 40)


def _lane(head: SmallHead, ports: list[int], number: int) -> NetSocket | None:
    with contextlib.suppress(CannotListen):
        return head.sockets.lane(HOST, ports, number, "x" * 40)
    return None


def test_row_26_a_port_that_is_taken_is_told(head: SmallHead) -> None:
    with pytest.raises(CannotListen, match=rf"port {head.clients.port} at {HOST} is taken"):
        head.sockets.clients(HOST, head.clients.port)
    with pytest.raises(CannotListen, match=r"Give an address of this host"):
        head.sockets.clients("192.0.2.1", 7070)
    Honest(head).check()


def test_row_26_ipv6(head: SmallHead) -> None:
    try:
        sink = head.sockets.sink("::1")
    except CannotListen:
        pytest.skip("this host has no IPv6")
    ports = with_ports(head.join("worker"), sink.port)
    sock = head.peer(ports).sink()
    head.wait_for(lambda: sock.send(b"by IPv6"), "the way in")
    assert head.wait_for(sink.receive, "its message").frames == [b"by IPv6"]


def with_ports(join: JoinFile, sink: int) -> JoinFile:
    fields: dict[str, Any] = {name: getattr(join, name) for name in join.__struct_fields__}
    return JoinFile(**{**fields, "address": "::1", "ports": type(join.ports)(sink, sink, sink)})
