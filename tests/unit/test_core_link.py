"""Links: contents arrive once each and in order over any connection, and what cannot be is refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from lossy import CHUNK, FRAMES, WINDOW, End, Pair, Path, Slow, bad, check_books, small

from ztasks.core import link as link_module
from ztasks.core.link import Link
from ztasks.errors import WireError
from ztasks.wire.link import CHUNK_BYTES, HEARTBEAT, LEASE, WINDOW_BYTES, Alive, Chunk, Received

FRAME = st.binary(max_size=3 * CHUNK) | st.sampled_from([b"", b"x" * CHUNK, b"y" * (2 * CHUNK), b"z" * (CHUNK + 1)])
CONTENT = st.lists(FRAME, min_size=1, max_size=2 * FRAMES + 1)
CONTENTS = st.lists(CONTENT, max_size=8)


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    with small():
        yield


# --- over a connection that loses, repeats, reorders and delays ---


@given(there=CONTENTS, back=CONTENTS, seed=st.integers(0, 2**32), prompt=st.booleans())
def test_row_34_contents_arrive_once_and_in_order(
    there: list[list[bytes]], back: list[list[bytes]], seed: int, prompt: bool
) -> None:
    chance = Random(seed)
    pair = Pair(bad(chance), bad(chance), prompt=prompt)
    for _ in range(max(len(there), len(back))):
        for end, contents in ((pair.left, there), (pair.right, back)):
            if len(end.said) < len(contents):
                end.say(contents[len(end.said)])
            end.full = chance.random() < 0.3
            end.deal(chance.randrange(2))
        pair.step(chance.choice([0.0, 0.1, 1.0]))
    for end, _ in pair.ends:
        end.full = False
    pair.run(60 * HEARTBEAT)
    for end, other in pair.ends:
        assert other.got == end.said
        assert end.link.queued_bytes == 0
        assert end.link.idle


class AnyOrder(RuleBasedStateMachine):
    """Any order of sending, losing, repeating, overtaking, cutting and acknowledging; then all is well for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.paths = Path(), Path()
        self.ends = (
            End(3, self.paths[0], at_head=True, prompt=False),
            End(3, self.paths[1], at_head=False, prompt=False),
        )

    side = st.integers(0, 1)

    @rule(side=side, content=CONTENT)
    def say(self, side: int, content: list[bytes]) -> None:
        self.ends[side].say(content)

    @rule(side=side, full=st.sampled_from([False, False, True]))
    def pump(self, side: int, full: bool) -> None:
        self.ends[side].full = full
        self.ends[side].pump(self.now)

    @rule(side=side)
    def sign(self, side: int) -> None:
        self.paths[side].put(self.ends[side].link.sign(), [], self.now)

    @rule(side=side, count=st.integers(1, 4))
    def deal(self, side: int, count: int) -> None:
        self.ends[side].deal(count)

    @rule(side=side, count=st.integers(1, 9))
    def arrive(self, side: int, count: int) -> None:
        for _ in range(min(count, len(self.paths[side].under_way))):
            self.ends[1 - side].hear(self.paths[side].under_way.pop(0), self.now)

    @rule(side=side, pick=st.integers(0, 9), how=st.sampled_from(["lose", "repeat", "overtake"]))
    def meddle(self, side: int, pick: int, how: str) -> None:
        under_way = self.paths[side].under_way
        if under_way:
            message = under_way[pick % len(under_way)]
            if how == "lose":
                under_way.pop(pick % len(under_way))
            else:
                self.ends[1 - side].hear(message, self.now)
                if how == "overtake":
                    under_way.pop(pick % len(under_way))

    @rule(side=side)
    def cut(self, side: int) -> None:
        self.paths[side].cut()

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    def check_invariants(self, *args: Any, **kwargs: Any) -> None:
        super().check_invariants(*args, **kwargs)
        for end, other in (self.ends, self.ends[::-1]):
            assert other.got == end.said[: len(other.got)]
            check_books(end.link)

    def teardown(self) -> None:
        pair = Pair()
        pair.left, pair.right = self.ends
        pair.now = self.now
        for end, _ in pair.ends:
            end.full = False
        windows = sum(end.link.queued_bytes for end, _ in pair.ends) / WINDOW
        pair.run(2.5 * HEARTBEAT + 0.1 * windows, tick=0.05)


def test_row_34_any_order_of_events() -> None:
    many = settings(max_examples=80, stateful_step_count=30, suppress_health_check=[HealthCheck.too_slow])
    run_state_machine_as_test(AnyOrder, settings=many)


def test_row_34_whatever_becomes_of_the_first_messages() -> None:
    for fates in itertools.product([(), (0.0,), (0.0, 0.4)], repeat=6):
        left = iter(fates)
        pair = Pair(lambda _, left=left: next(left, (0.0,)))  # type: ignore[misc]
        pair.left.say([b"a" * CHUNK, b"", b"b" * CHUNK])
        pair.right.say([b"c"])
        pair.run((2.5 + fates.count(())) * HEARTBEAT, tick=0.25)


class Losing:
    """Loses the n-th message of one kind."""

    def __init__(self, kind: type, number: int, *more: int) -> None:
        self.kind = kind
        self.lost = {number, *more}
        self.seen = 0

    def __call__(self, header: Any) -> tuple[float, ...]:
        if not isinstance(header, self.kind):
            return (0.0,)
        self.seen += 1
        return () if self.seen - 1 in self.lost else (0.0,)


CHUNKS = 12


@pytest.mark.parametrize("number", range(CHUNKS))
def test_row_34_one_lost_chunk_costs_at_most_one_window(number: int) -> None:
    pair = Pair(Losing(Chunk, number))
    for _ in range(CHUNKS):
        pair.left.say([b"x" * CHUNK])
    pair.run(1.3 * HEARTBEAT)
    assert pair.left.out.put_bytes <= CHUNKS * CHUNK + WINDOW
    if number < CHUNKS - 1 - WINDOW // CHUNK:
        assert pair.now < 0.5 * HEARTBEAT, "the next chunk shows the loss, no sign of life is needed"


@pytest.mark.parametrize("number", range(CHUNKS))
@pytest.mark.parametrize("again", range(1, 5))
def test_row_34_a_chunk_that_is_lost_again_when_it_is_sent_again(number: int, again: int) -> None:
    pair = Pair(Losing(Chunk, number, number + again))
    for _ in range(CHUNKS):
        pair.left.say([b"x" * CHUNK])
    pair.run(3 * HEARTBEAT)
    assert pair.left.out.put_bytes <= CHUNKS * CHUNK + 2 * WINDOW


@pytest.mark.parametrize("lost", [Received, Alive])
def test_row_34_a_lost_receipt_or_complaint_is_made_good_by_the_next_sign_of_life(lost: type) -> None:
    pair = Pair(Losing(Chunk, 1), Losing(lost, 0, 1, 2))
    for _ in range(CHUNKS):
        pair.left.say([b"x" * CHUNK])
    pair.run(4.5 * HEARTBEAT)
    assert pair.left.out.put_bytes <= CHUNKS * CHUNK + WINDOW * 2


def test_row_34_many_breaks_of_the_connection_cost_a_window_each() -> None:
    pair, breaks = Pair(lambda _: (0.1,), lambda _: (0.1,)), 0
    for _ in range(100):
        pair.left.say([b"x" * (CHUNK - 1)])
    while not pair.done:
        pair.step(0.05)
        if breaks < 20 and round(pair.now / 0.05) % 9 == 0:
            pair.left.out.cut()
            breaks += 1
        assert pair.now < 60
    assert breaks == 20
    assert pair.left.out.put_bytes <= 100 * (CHUNK - 1) + breaks * (WINDOW + CHUNK)


@pytest.mark.parametrize("window_seconds", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("back", [0.0, 2.5])
def test_row_34_a_loss_on_a_slow_connection_costs_one_window_however_late_its_words_are(
    window_seconds: float, back: float
) -> None:
    pair = Pair(back=lambda _: (back,))
    pair.left.out = Slow(Losing(Chunk, 5), WINDOW / window_seconds)
    for _ in range(40):
        pair.left.say([b"x" * CHUNK])
    pair.run(200)
    assert pair.left.out.put_bytes <= 40 * CHUNK + WINDOW


# --- how contents are cut ---


@given(contents=CONTENTS)
def test_contents_are_cut_into_chunks_and_put_together(contents: list[list[bytes]]) -> None:
    link, total = Link(1, 1, 0.0), 0
    for content in contents:
        upto = link.send(content)
        total += sum(map(len, content))
        assert link.queued_bytes == total
        assert upto == link._sent + len(link._queue)
    for piece in link._queue:
        assert sum(map(len, piece.frames)) == piece.nbytes <= CHUNK
        assert 0 < len(piece.frames) <= FRAMES
        assert not piece.more or piece.nbytes == CHUNK or len(piece.frames) == FRAMES, "chunks are filled"
        assert piece.more or not piece.open
    pair = Pair()
    for content in contents:
        pair.left.say(content)
    pair.run(2 * HEARTBEAT)
    assert pair.right.got == contents


def test_a_frame_that_fills_a_chunk_is_not_cut() -> None:
    link = Link(1, 1, 0.0)
    link.send([b"a" * CHUNK, b"b" * CHUNK, b"", b"c"])
    assert [piece.frames for piece in link._queue] == [[b"a" * CHUNK], [b"b" * CHUNK, b""], [b"c"]]
    assert [(piece.more, piece.open) for piece in link._queue] == [(True, False), (True, False), (False, False)]


def test_a_content_of_many_mebibytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "CHUNK_BYTES", CHUNK_BYTES)
    monkeypatch.setattr(link_module, "WINDOW_BYTES", WINDOW_BYTES)
    pair = Pair(Losing(Chunk, 5))
    large = bytes(range(256)) * (9 * CHUNK_BYTES // 256)
    contents = [[b"head", large, b"", large[:CHUNK_BYTES]], [large[:CHUNK_BYTES]], [b"last"]]
    for content in contents:
        pair.left.say(content)
    pair.run(2 * HEARTBEAT)
    assert pair.right.got == contents
    assert pair.left.out.put_bytes <= sum(len(frame) for content in contents for frame in content) + 5 * CHUNK_BYTES


def test_frames_may_be_any_memory() -> None:
    pair = Pair()
    pair.left.link.send([bytearray(b"0123456789"), memoryview(b"abcdefghijk")[1:], b""])
    pair.left.said.append([b"0123456789", b"bcdefghijk", b""])
    pair.run(2 * HEARTBEAT)


# --- the window, and what is kept ---


def test_no_more_than_a_window_is_under_way() -> None:
    link = Link(1, 1, 0.0)
    link.send([b"x" * (10 * CHUNK)])
    assert [chunk.number for chunk, _ in link.outgoing()] == [0, 1, 2, 3]
    assert link.outgoing() == []
    link.on_received(Received(1, 1, 0, False, 0), 0.0)
    assert [chunk.number for chunk, _ in link.outgoing()] == [4]
    link.on_received(Received(1, 4, 0, False, 0), 0.0)
    assert [chunk.number for chunk, _ in link.outgoing()] == [5, 6, 7]
    check_books(link)


def test_what_has_been_received_and_not_acknowledged_is_kept_and_does_not_fill_the_window() -> None:
    pair = Pair(prompt=False)
    for _ in range(20):
        pair.left.say([b"x" * CHUNK])
    for _ in range(20):
        pair.step(0.01)
    assert len(pair.right.got) == 20
    assert pair.left.link.queued_bytes == 20 * CHUNK
    assert not pair.left.link.idle
    pair.right.deal(7)
    pair.step(0.01)
    pair.step(0.01)
    assert pair.left.link.acknowledged_there == 7
    assert pair.left.link.queued_bytes == 13 * CHUNK
    pair.run(2 * HEARTBEAT)
    assert pair.left.link.queued_bytes == 0


def test_what_the_socket_does_not_take_is_sent_later_in_the_same_order() -> None:
    link = Link(1, 1, 0.0)
    link.send([b"x" * (4 * CHUNK)])
    assert [chunk.number for chunk, _ in link.outgoing()] == [0, 1, 2, 3]
    link.unsent(2)
    assert link.sign().sent == 2, "who says more would be told that chunks are missing"
    check_books(link)
    assert [chunk.number for chunk, _ in link.outgoing()] == [2, 3]
    link.on_received(Received(1, 4, 4, False, 0), 0.0)
    link.unsent(3)  # it has arrived after all
    assert link.outgoing() == []
    assert link.idle


# --- receipts ---


def test_a_receipt_is_said_unless_a_chunk_has_carried_it() -> None:
    pair = Pair()
    pair.left.say([b"x"])
    (chunk, frames), *_ = pair.left.link.outgoing()
    assert pair.right.link.receipt() is None
    content = pair.right.link.on_chunk(chunk, frames, 0.0)
    assert content is not None
    assert pair.right.link.receipt() == Received(7, 1, 0, False, 0)
    assert pair.right.link.receipt() is None
    pair.right.link.acknowledge(content.upto)
    pair.right.link.send([b"y"])
    (carrier, _), *_ = pair.right.link.outgoing()
    assert (carrier.received, carrier.acknowledged) == (1, 1)
    assert pair.right.link.receipt() is None


def test_a_gap_is_complained_of_once_and_again_for_each_sign_of_life() -> None:
    link = Link(1, 1, 0.0)
    for number in (1, 2, 3):
        assert link.on_chunk(Chunk(1, number, 0, 0, 0, False, False), [b"x"], 0.0) is None
    assert link.receipt() == Received(1, 0, 0, True, 0)
    assert link.on_chunk(Chunk(1, 4, 0, 0, 0, False, False), [b"x"], 0.0) is None
    assert link.receipt() is None
    link.on_alive(Alive(1, 1, 5, 0, 0, 0), 1.0)
    link.send([b"a chunk that carries the receipt does not carry the complaint"])
    link.outgoing()
    assert link.receipt() == Received(1, 0, 0, True, 0)
    assert link.receipt() is None


def test_a_gap_that_was_closed_in_the_meantime_is_not_complained_of() -> None:
    link = Link(1, 1, 0.0)
    link.on_chunk(Chunk(1, 1, 0, 0, 0, False, False), [b"x"], 0.0)
    link.on_chunk(Chunk(1, 0, 0, 0, 0, False, False), [b"x"], 0.0)
    assert link.receipt() == Received(1, 1, 0, False, 0)


def test_a_sign_of_life_from_another_connection_shows_no_gap() -> None:
    link = Link(1, 1, 0.0)
    link.on_alive(Alive(1, 1, 5, 0, 0, 0), 1.0, behind=False)
    assert link.receipt() is None
    link.on_alive(Alive(1, 1, 5, 0, 0, 0), 1.0)
    assert link.receipt() == Received(1, 0, 0, True, 0)


def test_a_complaint_of_what_has_been_received_is_old() -> None:
    link = Link(1, 1, 0.0)
    for _ in range(4):
        link.send([b"x" * CHUNK])
    link.outgoing()
    link.on_received(Received(1, 2, 0, False, 0), 0.0)
    link.on_received(Received(1, 1, 0, True, 0), 0.0)
    assert link.outgoing() == []
    link.on_received(Received(1, 2, 0, True, 0), 0.0)
    assert [chunk.number for chunk, _ in link.outgoing()] == [2, 3]


def test_a_complaint_of_an_earlier_turn_is_old() -> None:
    link = Link(1, 1, 0.0)
    for _ in range(4):
        link.send([b"x" * CHUNK])
    link.outgoing()
    complaint = Received(1, 1, 0, True, 0)
    link.on_received(complaint, 0.0)
    assert [(chunk.number, chunk.turn) for chunk, _ in link.outgoing()] == [(1, 1), (2, 1), (3, 1)]
    assert link.sign().turn == 1
    link.on_received(complaint, 0.0)
    assert link.outgoing() == []
    link.on_received(Received(1, 1, 0, True, 1), 0.0)
    assert [(chunk.number, chunk.turn) for chunk, _ in link.outgoing()] == [(1, 2), (2, 2), (3, 2)]


def test_a_gap_is_complained_of_once_for_each_turn() -> None:
    link = Link(1, 1, 0.0)
    for turn in (0, 1):
        for number in (3, 4):
            link.on_chunk(Chunk(1, number, turn, 0, 0, False, False), [b"x"], 0.0)
        assert link.receipt() == Received(1, 0, 0, True, turn)
        assert link.receipt() is None
    link.on_chunk(Chunk(1, 5, 0, 0, 0, False, False), [b"x"], 0.0)
    assert link.receipt() is None, "what comes late says nothing of this turn"


# --- hostile input ---


def filled() -> Link:
    """A link in the midst of it: 4 chunks sent, 2 received there; 3 received, the last of which is half a content."""
    link = Link(1, 1, 0.0, max_content=3 * CHUNK)
    for _ in range(5):
        link.send([b"x" * CHUNK])
    link.outgoing()
    link.on_received(Received(1, 2, 1, False, 0), 0.0)
    for number in range(2):
        link.on_chunk(Chunk(1, number, 0, 0, 0, False, False), [b"y"], 0.0)
    link.on_chunk(Chunk(1, 2, 0, 0, 0, True, True), [b"z" * CHUNK, b""], 0.0)
    link.acknowledge(1)
    return link


def books(link: Link) -> dict[str, Any]:
    """All that a link knows, as a copy."""
    told = {name: value for name, value in vars(link).items() if name != "heard"}
    return {name: value.copy() if hasattr(value, "copy") else value for name, value in told.items()}


def hear(link: Link, kind: str, received: int = 2, acknowledged: int = 1, now: float = 0.0) -> None:
    """Let a message of a kind come in, with what it says of how far the other end has come."""
    if kind == "received":
        link.on_received(Received(1, received, acknowledged, False, 0), now)
    elif kind == "alive":
        link.on_alive(Alive(1, 1, 0, 0, received, acknowledged), now)
    else:
        link.on_chunk(Chunk(1, 3, 0, received, acknowledged, False, False), [b"x"], now)


@pytest.mark.parametrize(("received", "acknowledged"), [(-1, -1), (1, -1), (2, 3), (5, 2), (6, 6), (2**63, 0)])
@pytest.mark.parametrize("kind", ["received", "alive", "chunk"])
def test_receipts_of_what_was_never_sent(received: int, acknowledged: int, kind: str) -> None:
    link = filled()
    before = books(link)
    with pytest.raises(WireError, match="of 4"):
        hear(link, kind, received, acknowledged, 9.0)
    assert books(link) == before
    assert link.heard == 0.0, "it is no sign of life either"


@pytest.mark.parametrize(
    ("changes", "frames", "why"),
    [
        ({}, [], "0 frames"),
        ({"more": True}, [], "0 frames"),
        ({}, [b""] * (FRAMES + 1), f"{FRAMES + 1} frames"),
        ({}, [b"x" * (CHUNK + 1)], f"{CHUNK + 1} bytes"),
        ({"open": True}, [b"x"], "nothing follows"),
    ],
)
def test_chunks_that_cannot_be(changes: dict[str, bool], frames: list[bytes], why: str) -> None:
    link = filled()
    before = books(link)
    chunk = Chunk(1, 3, 0, 2, 1, changes.get("more", False), changes.get("open", False))
    with pytest.raises(WireError, match=why):
        link.on_chunk(chunk, list(frames), 0.0)
    assert books(link) == before
    content = link.on_chunk(Chunk(1, 3, 0, 2, 1, False, False), [b"good"], 0.0)
    assert content is not None
    assert content.frames == [b"z" * CHUNK, b"good"]


@pytest.mark.parametrize("number", [-1, 0, 2, 2**63])
def test_chunks_of_other_numbers_are_dropped_whatever_is_in_them(number: int) -> None:
    link = filled()
    before = books(link)
    for frames in ([], [b"x"] * 100):
        assert link.on_chunk(Chunk(1, number, 0, 2, 1, True, True), list(frames), 0.0) is None
    assert books(link) == {**before, "_complained": link._complained, "_told": link._told}, "it may complain"


def feed(link: Link, frame: bytes, *, goes_on: bool = True) -> None:
    """Let chunks come in of a content that never ends."""
    for number in range(1000):
        link.on_chunk(Chunk(1, number, 0, 0, 0, True, goes_on), [frame], 0.0)


def test_a_content_without_end_is_refused() -> None:
    link = Link(1, 1, 0.0, max_content=100 * CHUNK)
    with pytest.raises(WireError, match=f"more than {100 * CHUNK} bytes"):
        feed(link, b"x" * CHUNK)
    assert link._received == 100


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_content_of_nothing_but_empty_frames_is_refused(monkeypatch: pytest.MonkeyPatch, goes_on: bool) -> None:
    monkeypatch.setattr(link_module, "MAX_CONTENT_FRAMES", 100)
    link = Link(1, 1, 0.0)
    with pytest.raises(WireError, match="100 frames"):
        feed(link, b"", goes_on=goes_on)
    assert link._received == 100


@given(
    st.lists(
        st.tuples(st.integers(-2, 9), st.integers(-2, 9), st.integers(-2, 9), st.booleans(), st.booleans(), CONTENT),
        max_size=12,
    )
)
def test_any_chunks_leave_the_books_in_order(chunks: list[Any]) -> None:
    link = filled()
    for number, received, acknowledged, more, goes_on, frames in chunks:
        there = link._received, link._partial_bytes, link._partial_frames
        try:
            link.on_chunk(Chunk(1, number, 0, received, acknowledged, more, goes_on), list(frames), 0.0)
        except WireError:
            assert (link._received, link._partial_bytes, link._partial_frames) == there
        check_books(link)
        link.receipt()


def test_frames_are_counted_for_each_content_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "MAX_CONTENT_FRAMES", 2 * FRAMES)
    link = Link(1, 1, 0.0, max_content=CHUNK)
    for number in range(20):
        frames = [b"xx"] * FRAMES
        assert link.on_chunk(Chunk(1, number, 0, 0, 0, False, False), list(frames), 0.0) == (frames, number + 1)


# --- signs of life ---


def test_a_sign_of_life_falls_due_each_heartbeat() -> None:
    link = Link(9, 4, 100.0, heartbeat=2.0, lease=7.0)
    link.wanted, link.credit = "drain", 12
    assert link.next_event(100.0) == 0.0
    assert link.alive(100.0) == Alive(9, 4, 0, 0, 0, 0, "drain", 12)
    assert link.alive(101.9) is None
    assert link.next_event(101.5) == pytest.approx(0.5)
    assert link.alive(102.0) is not None
    assert link.alive(102.1) is None


@pytest.mark.parametrize("kind", ["received", "alive", "chunk"])
def test_whatever_is_heard_renews_the_lease(kind: str) -> None:
    link = Link(1, 1, 0.0)
    assert not link.expired(LEASE)
    assert link.expired(LEASE + 0.01)
    hear(link, kind, 0, 0, 5.0)
    assert link.silent(8.0) == 3.0
    assert not link.expired(LEASE + 5.0)
    assert link.expired(LEASE + 5.01)


def test_the_end_of_the_lease_is_an_event() -> None:
    link = Link(1, 1, 0.0, heartbeat=60.0, lease=7.0)
    link.alive(0.0)
    due = link.next_event(0.0)
    assert not link.expired(due - 0.01)
    assert link.expired(due)
