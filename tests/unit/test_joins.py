"""Who has joined a head: how peers come in, come anew, and are given up. Sockets and the gatekeeper are fakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from head_rig import FakeClient, FakeJournal, Head, Rig

from ztasks.core.roster import Roster
from ztasks.errors import BadKeyStore, CannotListen, WireError
from ztasks.io import lifesigns
from ztasks.io.books import SESSION_SECONDS
from ztasks.io.joins import Joins
from ztasks.io.lifesigns import LifeSigns
from ztasks.io.net import Received
from ztasks.io.terms import SELDOM, SELDOM_SECONDS, Place, Seldom, Terms
from ztasks.wire.link import PROTOCOL, Alive, Hello, Reject, Void, Welcome
from ztasks.wire.link_codec import decode_at_peer

KEY = "k" * 40


class FakeSocket:
    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.sent: list[tuple[Any, ...]] = []
        self.closed = False

    def send(self, *frames: Any) -> bool:
        assert not self.closed, "something is sent through a socket that is closed"
        self.sent.append(frames)
        return True

    def heard(self) -> Any:
        """Return the last message that went out, without its topic or route."""
        return decode_at_peer(self.sent[-1][-1])


class FakeSockets:
    """The sockets of a head, and the gatekeeper."""

    def __init__(self) -> None:
        self.router, self.control = FakeSocket(), FakeSocket()
        self.lanes: list[FakeSocket] = []
        self.room = 10
        self.counted = 0
        self.revoked: set[str] = set()
        self.unreadable = False
        self.gatekeeper = self

    def lane(self, host: str, ports: Any, number: int, user_id: str) -> FakeSocket:
        if sum(not lane.closed for lane in self.lanes) >= self.room:
            raise CannotListen("all ports for lanes are taken")
        self.lanes.append(FakeSocket(7000 + len(self.lanes)))
        return self.lanes[-1]

    def close_one(self, sock: FakeSocket, linger: int = 0) -> None:
        sock.closed = True

    def count(self) -> None:
        self.counted += 1

    def who(self, key: str) -> object:
        if self.unreadable:
            raise BadKeyStore("the allow-list is damaged")
        return None if key in self.revoked else key


class Door:
    """A head's door: the parts that let peers in and out."""

    def __init__(self, *, journal: bool = False, **terms: Any) -> None:
        self.head = Head(FakeJournal() if journal else None, 100.0, 1 << 30, 0)
        self.books = self.head.books
        self.sockets: Any = FakeSockets()
        self.logged: list[tuple[str, str]] = []
        self.roster = Roster(1, "0.1")
        log: Callable[..., None] = lambda event, what, **_: self.logged.append((event, what))  # noqa: E731
        terms_ = Terms(**{"lease": 10.0, "heartbeat": 1.0, **terms})
        desks = self.head.clients, self.head.foremen
        self.head.clients._on_forgotten = self.roster.free
        self.joins = Joins(
            self.sockets, Place("h", 1, range(3)), terms_, self.roster, self.books, desks, lambda _: None, log
        )
        self.joins.open(self.sockets.router, self.sockets.control)
        self.signs = LifeSigns(self.sockets, terms_, self.books, self.joins, log)
        self.signs.open(self.sockets.control)

    def greet(self, hello: Hello, *, key: str = KEY, now: float = 100.0) -> Any:
        """Greet; return the answer."""
        sock = self.sockets.router if hello.kind == "client" else self.sockets.control
        route = b"route" if hello.kind == "client" else b""
        at = self.sockets.router if hello.kind == "client" else None
        self.joins.greet(hello, Received(key, route, []), at, now)
        return sock.heard()

    def peer(self, welcome: Welcome) -> Any:
        return self.books.peers[welcome.lane]


def hello(kind: str, name: str = "a", incarnation: int = 5, **changes: Any) -> Hello:
    made = Hello(kind, name, incarnation, 0, PROTOCOL, "0", "3.11", "host", 2, started=50.0)  # type: ignore[arg-type]
    return msgspec.structs.replace(made, **changes)


# --- coming in ---


def test_a_foreman_is_welcome_and_has_a_lane() -> None:
    door = Door()
    welcome = door.greet(hello("foreman"))
    assert (welcome.incarnation, welcome.port, welcome.lease, welcome.durable) == (5, 7000, 10.0, False)
    assert door.greet(hello("foreman")) == welcome
    assert door.sockets.control.sent[0][0] == b"%016x" % 5
    assert [what for _, what in door.logged] == ["worker a has joined from host (2 workers, queues default)"]
    assert door.books.fleet.lanes.keys() == {welcome.lane}


def test_who_greets_on_the_wrong_port_is_not_heard() -> None:
    door = Door()
    for kind, sock in (("client", door.sockets.control), ("foreman", door.sockets.router)):
        with pytest.raises(WireError, match="on the wrong port"):
            door.joins.greet(hello(kind), Received(KEY, b"", []), sock, 100.0)
    assert door.books.peers == {}


def test_a_foreman_that_comes_anew_keeps_its_books_and_one_that_was_started_anew_does_not() -> None:
    door = Door()
    first = door.greet(hello("foreman"))
    second = door.greet(hello("foreman", after=first.lane))
    assert second.lane > first.lane
    assert [lane.closed for lane in door.sockets.lanes] == [True, False]
    assert door.books.fleet.lanes.keys() == {second.lane}
    third = door.greet(hello("foreman", incarnation=6, started=60.0))
    assert door.books.peers.keys() == {third.lane}
    assert door.logged[-2:] == [
        ("left", "worker a is gone: a newer one has its name"),
        ("joined", "worker a has joined from host (2 workers, queues default)"),
    ]
    refused = door.greet(hello("foreman", after=second.lane))
    assert (refused.code, door.books.peers.keys()) == ("fenced", {third.lane})


def test_without_room_for_its_lane_a_foreman_is_refused_and_its_work_goes_elsewhere() -> None:
    """Its books are closed: nothing may be given to a lane that leads nowhere."""
    door = Door()
    first = door.greet(hello("foreman"))
    door.sockets.room = 0
    refused = door.greet(hello("foreman", after=first.lane))
    assert isinstance(refused, Reject)
    assert (refused.code, refused.why) == ("full", "all ports for lanes are taken")
    assert (door.books.peers, door.books.fleet.lanes, door.roster.members) == ({}, {}, {})
    door.head.foremen.dispatch(101.0)
    door.sockets.room = 1
    assert isinstance(door.greet(hello("foreman", after=first.lane)), Welcome)


def test_nothing_is_sent_to_a_peer_that_is_lost() -> None:
    door = Door()
    peer = door.peer(door.greet(hello("foreman")))
    peer.say(b"something")
    door.joins.lose(peer, 101.0, "why not")
    peer.flush()
    peer.say_received()
    assert not peer.send_raw(b"")
    door.joins.lose(peer, 102.0, "again")
    assert [event for event, _ in door.logged] == ["joined", "left"]


def test_a_client_that_comes_anew_keeps_its_jobs_also_if_it_wants_them_cancelled_when_it_goes() -> None:
    rig = Rig(journal=False)
    door = Door()
    rig.head = door.head
    first = door.greet(hello("client", incarnation=9))
    client = FakeClient(rig, 9)
    client.peer = door.peer(first)
    client.submit(rig.define(), 3)
    session = door.books.sessions[9]
    session.cancel_on_exit = True
    second = door.greet(hello("client", incarnation=9, after=first.lane))
    assert (session.lane, door.books.fleet.pending) == (second.lane, 3)
    door.joins.lose(door.peer(second), 101.0, "it is silent")
    door.head.clients.look_after_gone(101.0)
    assert door.books.fleet.pending == 3  # it may come back
    door.head.clients.look_after_gone(101.0 + SESSION_SECONDS)
    assert (door.books.sessions, door.books.fleet.pending) == ({}, 0)


def test_names_and_sessions_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ztasks.io.joins.LOST_NAMES", 2)
    door = Door()
    for number in range(4):
        peer = door.peer(door.greet(hello("foreman", f"f{number}", 10 + number)))
        door.joins.lose(peer, 101.0, "it is silent")
    assert [door.greet(hello("foreman", f"f{n}", 20 + n), key="other").__class__ for n in (0, 3)] == [Welcome, Reject]
    left = door.peer(door.greet(hello("foreman", "left", 30)))
    door.joins.lose(left, 101.0)
    assert isinstance(door.greet(hello("foreman", "left", 31), key="other"), Welcome)
    client = door.peer(door.greet(hello("client", "c", 40)))
    assert door.greet(hello("client", "c", 40, after=client.lane), key="other").code == "forbidden"
    door.joins.lose(client, 101.0)
    door.head.clients.look_after_gone(1000.0)
    assert isinstance(door.greet(hello("client", "c", 40, after=client.lane), key="other"), Welcome)


# --- strangers ---


def test_a_stranger_is_told_that_its_lane_is_void_but_not_too_often() -> None:
    door = Door()
    message = Received(KEY, b"", [])
    for now in (100.0, 100.1, 100.3):
        door.joins.answer_stranger(77, message, door.sockets.control, now)
    assert [decode_at_peer(sent[-1]) for sent in door.sockets.control.sent] == [Void(77), Void(77)]
    assert {sent[0] for sent in door.sockets.control.sent} == {b"*"}


def test_whoever_names_anothers_lane_is_not_answered() -> None:
    """All foremen hear it when a lane is void: the one that has it would give it up."""
    door = Door()
    welcome = door.greet(hello("foreman"))
    before = len(door.sockets.control.sent)
    door.joins.answer_stranger(welcome.lane, Received("other", b"", []), door.sockets.control, 101.0)
    assert len(door.sockets.control.sent) == before
    assert door.logged[-1][0] == "stranger"


# --- signs of life ---


def test_who_is_silent_for_its_lease_is_given_up() -> None:
    door = Door()
    silent, heard = (door.peer(door.greet(hello("foreman", name, number))) for number, name in enumerate("ab", 1))
    for now in range(101, 120):
        heard.link.heard = float(now)
        door.signs.go_on(float(now))
    assert (silent.lost, heard.lost) == (True, False)
    assert ("left", "worker a is gone: nothing was heard of it for 11.0 s") in door.logged
    told = [decode_at_peer(sent[-1]) for sent in door.sockets.control.sent if sent[0] == b"%016x" % 2]
    assert sum(isinstance(each, Alive) for each in told) == 19


def test_who_was_not_heard_since_this_process_did_not_run_has_time_to_be_heard() -> None:
    door = Door()
    peer = door.peer(door.greet(hello("foreman")))
    door.signs.go_on(101.0)
    door.signs.go_on(200.0)  # stopped for a while
    assert not peer.lost
    door.signs.go_on(203.0)
    assert not peer.lost
    door.signs.go_on(206.0)
    assert peer.lost


def test_whose_key_is_revoked_is_given_up_but_not_if_that_cannot_be_told() -> None:
    door = Door()
    peer = door.peer(door.greet(hello("foreman")))
    door.sockets.unreadable = True
    for now in range(101, 101 + 2 * SELDOM):
        peer.link.heard = float(now)
        door.signs.go_on(float(now))
    assert not peer.lost
    assert ("keys", "the allow-list is damaged") in door.logged
    door.sockets.unreadable = False
    door.sockets.revoked = {KEY}
    door.signs.go_on(200.0)
    assert door.logged[-1] == ("left", "worker a is gone: its key was revoked")


def test_many_peers_are_looked_at_in_several_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifesigns, "PEERS_AT_ONCE", 3)
    door = Door()
    peers = [door.peer(door.greet(hello("client", "c", number))) for number in range(1, 9)]
    before = len(door.sockets.router.sent)
    assert [door.signs.go_on(101.0), door.signs.due(101.0)] == [True, 0.0]
    assert len(door.sockets.router.sent) - before == 3
    door.joins.lose(peers[4], 101.0)
    assert [door.signs.go_on(101.0), door.signs.due(101.0)] == [False, 0.0]
    assert [door.signs.go_on(101.0), door.signs.due(101.0)] == [False, 0.5]
    assert len(door.sockets.router.sent) - before == 7
    assert door.sockets.counted == 1


# --- what others can cause to be logged ---


def test_what_others_cause_is_logged_seldom() -> None:
    lines: list[str] = []
    seldom = Seldom(lambda event, what, level: lines.append(what))
    for _ in range(1000):
        seldom("event", "what", 100.0)
    assert lines == ["what"] * SELDOM
    seldom("event", "what", 100.0 + SELDOM_SECONDS)
    assert lines[-1] == f"what ({1000 - SELDOM} lines like this were left out)"
