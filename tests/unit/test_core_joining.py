"""Joining: whatever becomes of greetings, a peer and its head come to have the same lane, or the peer knows why not."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from lossy import Path, bad

from ztasks.core.joining import FIRST_PAUSE, MOST_PAUSE, Joining
from ztasks.core.link import Link
from ztasks.core.roster import Roster
from ztasks.wire.link import HEARTBEAT, LEASE, PROTOCOL, Alive, Hello, Reject, Void, Welcome
from ztasks.wire.link_codec import decode_at_head, decode_at_peer

KEY = "k" * 40
HELLO = Hello("foreman", "left", 11, 0, PROTOCOL, "1.0", "3.11", host="alpha", slots=4, started=1000.0)

change = msgspec.structs.replace


class Peer:
    """A peer, and the connection to its head and back."""

    def __init__(self, hello: Hello, now: float, key: str = KEY) -> None:
        self.joining = Joining(hello, now)
        self.key = key
        self.up, self.down = Path(), Path()

    @property
    def lane(self) -> int | None:
        return self.joining.link.lane if self.joining.link is not None else None

    def pump(self, now: float) -> None:
        """Say what is to be said."""
        self.joining.keep(now)
        if (hello := self.joining.hello(now)) is not None:
            self.up.put(hello, [], now)
        if self.joining.link is not None and (alive := self.joining.link.alive(now)) is not None:
            self.up.put(alive, [], now)

    def hear(self, header: bytes, now: float) -> None:
        """Take in what the head has said."""
        message = decode_at_peer(header)
        joining = self.joining
        if isinstance(message, Welcome):
            joining.on_welcome(message, now)
        elif isinstance(message, Reject):
            joining.on_reject(message)
        elif isinstance(message, Void):
            joining.on_void(message, now)
        else:
            assert isinstance(message, Alive)
            if joining.on_alive(message, now):
                assert joining.link is not None
                joining.link.on_alive(message, now)


class Head:
    """A head as far as greetings go, with an epoch for each run of it."""

    def __init__(self) -> None:
        self.roster = Roster(1, "1.0")
        self.links: dict[int, Link] = {}
        self.given: list[int] = []
        """All lanes that it has ever given out."""

    def restart(self) -> None:
        """Be another run of the head, which knows nobody."""
        self.roster = Roster(self.roster.epoch + 1, "1.0")
        self.links.clear()

    def hear(self, header: bytes, peer: Peer, now: float) -> None:
        """Take in a message; say what there is to say to it."""
        message = decode_at_head(header)
        if isinstance(message, Hello):
            peer.down.put(self.welcome(message, peer.key, now), [], now)
            return
        assert isinstance(message, Alive)
        if self.roster.of_sender(message.lane, peer.key) is None:
            peer.down.put(Void(message.lane), [], now)
        else:
            self.links[message.lane].on_alive(message, now)

    def welcome(self, hello: Hello, key: str, now: float) -> Welcome | Reject:
        answer = self.roster.on_hello(hello, key)
        if isinstance(answer, Reject):
            return answer
        lane = answer.member.lane
        if answer.new:
            assert lane > max(self.given, default=0)
            self.given.append(lane)
            self.links[lane] = Link(lane, self.roster.epoch, now)
        if answer.replaced is not None:
            del self.links[answer.replaced.lane]
        return Welcome(hello.incarnation, self.roster.epoch, lane, 7073, HEARTBEAT, LEASE, False)

    def pump(self, peers: list[Peer], now: float) -> None:
        """Say what is to be said, each to the peer that has the lane, and give up who is silent."""
        for lane, link in list(self.links.items()):
            if link.expired(now):
                self.roster.remove(lane)
                del self.links[lane]
            elif (alive := link.alive(now)) is not None:
                session = self.roster.members[lane].hello.incarnation
                for peer in peers:
                    if peer.joining._hello.incarnation == session:
                        peer.down.put(alive, [], now)


class World:
    """A head and its peers."""

    def __init__(self, *hellos: Hello) -> None:
        self.now = 0.0
        self.head = Head()
        self.peers = [Peer(hello, 0.0) for hello in hellos]

    def fate(self, fate: Any) -> None:
        for peer in self.peers:
            peer.up.fate = peer.down.fate = fate

    def step(self, seconds: float) -> None:
        self.now += seconds
        for peer in self.peers:
            peer.pump(self.now)
            for message in peer.up.take(self.now):
                self.head.hear(message.header, peer, self.now)
        self.head.pump(self.peers, self.now)
        for peer in self.peers:
            for message in peer.down.take(self.now):
                peer.hear(message.header, self.now)
        self.check()

    def check(self) -> None:
        """A lane is of one peer only, and both ends agree on whose it is."""
        lanes = [peer.lane for peer in self.peers if peer.lane is not None]
        assert len(lanes) == len(set(lanes))
        assert self.head.links.keys() == self.head.roster.members.keys()
        for peer in self.peers:
            if peer.lane in self.head.roster.members:
                assert self.head.roster.members[peer.lane].hello.incarnation == peer.joining._hello.incarnation
            assert (peer.joining.lost_since is None) == (peer.lane is not None)

    @property
    def agreed(self) -> bool:
        """Whether all that are not refused have the lanes that the head believes them to have, and nobody else has."""
        here = [peer.lane for peer in self.peers if peer.joining.refused is None]
        return None not in here and set(here) == set(self.head.roster.members)

    def settle(self, seconds: float) -> float:
        """Let time pass until all agree; return how long it took. Fails if it takes longer."""
        start = self.now
        while not self.agreed:
            assert self.now - start <= seconds, f"they do not agree after {seconds} s"
            self.step(0.1)
        return self.now - start


# --- over a connection that loses, repeats, reorders and delays ---


@given(seed=st.integers(0, 2**32), restarts=st.integers(0, 3), kinds=st.lists(st.booleans(), min_size=1, max_size=3))
def test_row_34_both_ends_come_to_have_the_same_lane(seed: int, restarts: int, kinds: list[bool]) -> None:
    chance = Random(seed)
    world = World(
        *(
            change(HELLO, kind="client" if client else "foreman", name=str(number), incarnation=number)
            for number, client in enumerate(kinds)
        )
    )
    world.fate(bad(chance, delay=3.0))
    for _ in range(restarts + 1):
        for _ in range(chance.randrange(80)):
            world.step(0.1)
        if chance.random() < 0.5:
            world.fate(lambda _: ())  # nothing gets through, until leases are over
            for _ in range(chance.randrange(130)):
                world.step(0.1)
            world.fate(bad(chance, delay=3.0))
        world.head.restart()
    assert world.settle(6 * LEASE) <= 6 * LEASE
    world.fate(lambda _: (0.0,))
    for _ in range(50):
        world.step(0.1)
    world.settle(LEASE)
    lanes = [peer.lane for peer in world.peers]
    for _ in range(300):
        world.step(0.1)
    assert [peer.lane for peer in world.peers] == lanes, "who has joined stays"


class AnyOrder(RuleBasedStateMachine):
    """Any order of greetings, losses, repetitions, restarts and silences, also of two incarnations of one name."""

    def __init__(self) -> None:
        super().__init__()
        newer = change(HELLO, incarnation=12, started=1000.5)
        client = change(HELLO, kind="client", incarnation=13)
        self.world = World(HELLO, newer, client)

    which = st.integers(0, 2)

    @rule(which=which, down=st.booleans(), pick=st.integers(0, 5), how=st.sampled_from(["lose", "repeat", "arrive"]))
    def meddle(self, which: int, down: bool, pick: int, how: str) -> None:
        world, peer = self.world, self.world.peers[which]
        under_way = (peer.down if down else peer.up).under_way
        if not under_way:
            return
        message = under_way[pick % len(under_way)]
        if how != "repeat":
            under_way.remove(message)
        if how != "lose" and down:
            peer.hear(message.header, world.now)
        elif how != "lose":
            world.head.hear(message.header, peer, world.now)

    @rule(seconds=st.sampled_from([0.1, 0.3, 1.0, 4.0, LEASE + 0.1]), deaf=st.booleans())
    def step(self, seconds: float, deaf: bool) -> None:
        self.world.fate((lambda _: (1e9,)) if deaf else (lambda _: (0.0,)))  # else `meddle` says what arrives
        self.world.step(seconds)

    @rule()
    def restart(self) -> None:
        self.world.head.restart()

    @rule(which=which)
    def lose(self, which: int) -> None:
        self.world.peers[which].joining.lose(self.world.now)

    def check_invariants(self, *args: Any, **kwargs: Any) -> None:
        super().check_invariants(*args, **kwargs)
        self.world.check()

    def teardown(self) -> None:
        world = self.world
        world.fate(lambda _: (0.0,))
        world.settle(2 * LEASE)
        older, newer, client = (peer.joining for peer in world.peers)
        assert client.refused is None
        assert newer.refused is None
        assert older.refused is None or older.refused.code == "fenced"
        for _ in range(20):
            world.step(0.3)
        assert older.refused is not None
        assert world.agreed


def test_row_34_any_order_of_greetings() -> None:
    many = settings(max_examples=100, stateful_step_count=30, suppress_health_check=[HealthCheck.too_slow])
    run_state_machine_as_test(AnyOrder, settings=many)


def test_a_head_that_restarts_is_noticed_within_a_heartbeat() -> None:
    world = World(HELLO)
    world.settle(1.0)
    first = world.peers[0].lane
    world.head.restart()
    assert world.settle(2 * HEARTBEAT) <= HEARTBEAT + 0.2
    assert world.peers[0].lane != first


@pytest.mark.parametrize("deaf", ["peer", "head", "both"])
def test_silence_ends_a_join_on_either_side_and_another_follows(deaf: str) -> None:
    world = World(HELLO)
    world.settle(1.0)
    (peer,) = world.peers
    first = peer.lane
    if deaf != "head":
        peer.down.fate = lambda _: ()
    if deaf != "peer":
        peer.up.fate = lambda _: ()
    while peer.lane == first:
        world.step(0.1)
        assert world.now < (2 if deaf == "head" else 1) * LEASE + 3, "a deaf head speaks until its own lease is over"
    assert world.now >= LEASE
    world.fate(lambda _: (0.0,))
    world.settle(MOST_PAUSE + 0.2)
    assert peer.lane is not None
    assert peer.lane != first


# --- who is refused ---


def test_row_33_a_peer_of_another_protocol_knows_why_it_is_refused() -> None:
    world = World(change(HELLO, protocol=PROTOCOL + 1))
    world.step(0.1)
    (peer,) = world.peers
    assert peer.joining.refused is not None
    assert peer.joining.refused.code == "protocol"
    assert peer.joining.next_event(world.now) is None
    assert peer.joining.hello(world.now + 60) is None


def test_row_33_the_older_of_two_incarnations_gives_way_and_the_newer_stays() -> None:
    world = World(HELLO)
    world.settle(1.0)
    world.peers.append(Peer(change(HELLO, incarnation=12, started=1000.5), world.now))
    world.settle(2 * HEARTBEAT)
    for _ in range(100):
        world.step(0.1)
    older, newer = world.peers
    assert older.joining.refused is not None
    assert older.joining.refused.code == "fenced"
    assert newer.joining.refused is None
    assert list(world.head.roster.members) == [newer.lane]


# --- the peer's side alone ---


def welcome(lane: int, epoch: int = 1, incarnation: int = 11) -> Welcome:
    return Welcome(incarnation, epoch, lane, 7073, 2.0, 30.0, True)


def test_greetings_are_repeated_with_growing_pauses() -> None:
    joining, now, said = Joining(HELLO, 5.0), 5.0, []
    while now < 15.0:
        if joining.hello(now) is not None:
            said.append(now)
        due = joining.next_event(now)
        assert due is not None
        assert due > 0
        now += due
    pauses = [after - before for before, after in pairwise(said)]
    assert said[0] == 5.0
    assert pauses == [FIRST_PAUSE, 0.5, 1.0, *[MOST_PAUSE] * (len(pauses) - 3)]


def test_a_welcome_makes_a_link_once() -> None:
    joining = Joining(HELLO, 0.0)
    link = joining.on_welcome(welcome(5), 1.0)
    assert link is joining.link
    assert link is not None
    assert (link.lane, link.epoch, link.heard) == (5, 1, 1.0)
    assert link.next_event(1.0) == 0.0
    assert not link.expired(31.0)
    assert joining.lost_since is None
    assert joining.hello(100.0) is None
    assert joining.on_welcome(welcome(5), 2.0) is None
    assert joining.on_welcome(welcome(4), 2.0) is None
    assert joining.on_welcome(welcome(9, incarnation=12), 2.0) is None
    assert joining.link is link
    later = joining.on_welcome(welcome(6), 3.0)
    assert later is joining.link
    assert later is not link


def test_a_lane_that_was_given_up_is_not_taken_again() -> None:
    joining = Joining(HELLO, 0.0)
    joining.on_welcome(welcome(5), 1.0)
    joining.lose(2.0)
    assert joining.lost_since == 2.0
    hello = joining.hello(2.0)
    assert hello == change(HELLO, after=5)
    assert joining.on_welcome(welcome(5), 2.1) is None
    assert joining.on_welcome(welcome(6), 2.2) is not None
    joining.lose(3.0)
    joining.lose(4.0)
    assert joining.lost_since == 3.0
    assert joining.hello(3.0) == change(HELLO, after=6)


def test_only_its_own_lane_can_be_declared_void() -> None:
    joining = Joining(HELLO, 0.0)
    assert not joining.on_void(Void(5), 0.5)
    joining.on_welcome(welcome(5), 1.0)
    assert not joining.on_void(Void(4), 1.5)
    assert joining.on_void(Void(5), 2.0)
    assert joining.link is None
    assert not joining.on_void(Void(5), 2.5)


def test_a_sign_of_life_of_a_later_run_of_the_head_ends_the_join() -> None:
    joining = Joining(HELLO, 0.0)
    sign = Alive(5, 1, 0, 0, 0, 0)
    assert not joining.on_alive(sign, 0.5)
    joining.on_welcome(welcome(5), 1.0)
    assert joining.on_alive(sign, 1.5)
    assert not joining.on_alive(change(sign, lane=4), 1.5)
    assert not joining.on_alive(change(sign, epoch=0), 1.5)
    assert joining.link is not None
    assert not joining.on_alive(change(sign, lane=8, epoch=2), 1.5)
    assert joining.link is None


def test_a_join_is_kept_while_the_head_is_heard() -> None:
    joining = Joining(HELLO, 0.0)
    assert not joining.keep(1000.0)
    link = joining.on_welcome(welcome(5), 0.0)
    assert link is not None
    assert not joining.keep(30.0)
    link.on_alive(Alive(5, 1, 0, 0, 0, 0), 20.0)
    assert not joining.keep(50.0)
    assert joining.next_event(50.0) == 0.0
    assert joining.keep(50.1)
    assert joining.link is None


@pytest.mark.parametrize("how", ["silence", "void"])
def test_a_head_is_missed_once_for_each_lane_that_is_lost(how: str) -> None:
    joining, lease = Joining(HELLO, 0.0), welcome(5).lease
    assert not joining.missed(1000.0), "it has not been there yet"
    for lane, begin in (5, 1000.0), (6, 2000.0):
        joining.on_welcome(welcome(lane), begin)
        assert not joining.missed(begin + lease - 0.1)
        if how == "void":
            assert joining.on_void(Void(lane), begin + 3.0)
            assert not joining.missed(begin + lease + 2.9), "it has just been heard"
            assert joining.missed(begin + lease + 3.0)
        else:
            assert joining.keep(begin + lease + 0.1)
            assert joining.missed(begin + lease + 0.1)
        assert not joining.missed(begin + 3 * lease), "told already"


def test_who_is_refused_does_not_miss_its_head() -> None:
    joining = Joining(HELLO, 0.0)
    joining.on_welcome(welcome(5), 1.0)
    assert joining.on_reject(Reject(11, "fenced", "go"))
    assert not joining.missed(1000.0)


def test_a_refusal_is_for_one_incarnation_and_is_final() -> None:
    joining = Joining(HELLO, 0.0)
    assert not joining.on_reject(Reject(12, "full", "no lane is free"))
    assert joining.refused is None
    reject = Reject(11, "full", "no lane is free")
    assert joining.on_reject(reject)
    assert not joining.on_reject(Reject(11, "stopping", "another"))
    assert joining.refused == reject
    assert joining.on_welcome(welcome(5), 1.0) is None
    assert joining.link is None


@pytest.mark.parametrize("code", ["protocol", "full", "stopping"])
def test_a_late_refusal_of_an_earlier_greeting_does_not_end_a_join(code: Any) -> None:
    joining = Joining(HELLO, 0.0)
    joining.on_welcome(welcome(5), 1.0)
    assert not joining.on_reject(Reject(11, code, "late"))
    assert joining.refused is None
    assert joining.link is not None


@pytest.mark.parametrize("code", ["fenced", "forbidden"])
def test_who_is_fenced_or_whose_key_is_revoked_loses_its_lane(code: Any) -> None:
    joining = Joining(HELLO, 0.0)
    joining.on_welcome(welcome(5), 1.0)
    assert joining.on_reject(Reject(11, code, "go"))
    assert joining.refused is not None
    assert joining.link is None
    assert joining.lost_since == 1.0
    assert joining.next_event(2.0) is None


def test_the_first_join_may_take_only_so_long() -> None:
    joining = Joining(HELLO, 5.0, join_timeout=1.0)
    assert joining.hello(5.0) is not None
    assert joining.next_event(5.0) == FIRST_PAUSE
    assert not joining.too_late(5.9)
    for now in (5.25, 5.75):
        assert joining.hello(now) is not None
    assert joining.next_event(5.9) == pytest.approx(0.1)
    assert joining.too_late(6.0)
    joining.on_welcome(welcome(5), 6.5)
    assert not joining.too_late(60.0), "it has joined"
    joining.lose(70.0)
    assert not joining.too_late(700.0), "a later join may take as long as it takes"
