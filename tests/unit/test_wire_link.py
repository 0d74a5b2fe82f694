"""The wire between hosts: messages come back as they were sent, and nothing else gets through but as WireError."""

from __future__ import annotations

import contextlib
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztasks.core.link import CHUNK_FRAMES
from ztasks.errors import WireError
from ztasks.io import netlimits
from ztasks.wire import link as vocabulary
from ztasks.wire.certificate import DeathCertificate
from ztasks.wire.link import (
    CHUNK_BYTES,
    MAX_NAMES,
    PROTOCOL,
    Accepted,
    Alive,
    Answer,
    Ask,
    Batch,
    Cancel,
    Chunk,
    Define,
    Died,
    Forget,
    FromClient,
    FromForeman,
    Greeting,
    Held,
    Hello,
    Holding,
    Keeping,
    Leaving,
    Outcome,
    Recall,
    Received,
    Refused,
    Reject,
    Resume,
    Returned,
    Submit,
    ToClient,
    ToForeman,
    Void,
    Welcome,
)
from ztasks.wire.link_codec import (
    check_names,
    check_tables,
    decode_at_head,
    decode_at_peer,
    decode_from_client,
    decode_from_foreman,
    decode_to_client,
    decode_to_foreman,
    encode,
    items_in,
)
from ztasks.wire.loss import Loss
from ztasks.wire.messages import INLINE_BYTES, MAX_ITEMS, Failure, Struct
from ztasks.wire.outcomes import items_of, with_items
from ztasks.wire.payload import Items, Pickled, pack

change = msgspec.structs.replace

SESSION = 2**64 - 1

CERTIFICATE = DeathCertificate(
    pid=4711, host="alpha", signal="SIGSEGV", job=f"{SESSION:016x}-7", attempt=2, seconds=0.25, stack="äöü"
)
FAILURE = Failure(1, "raised", "ValueError", "no", "Traceback: äöü\n", b"\x80\x05N.", True, 2.5)
LOSS = Loss(
    2, "lost", "WorkerLost", "gone", "", b"", False,
    what="lost", name="resize", shape="call", payload=None, history=("one",), certificates=(CERTIFICATE,),
)  # fmt: skip

HELLO = Hello(
    "foreman",
    "left",
    SESSION,
    2**62,
    PROTOCOL,
    "1.0",
    "3.11",
    "alpha",
    8,
    ("default", "gpu"),
    ("big",),
    {"gpu": 2},
    1e9,
)
DEFINE = Define(
    b"k" * 16, "resize", "app.tasks.resize", False, "3.11", 3, 1.0, 60.0, 0.2, 2.5, 5.0, 2, False, True, 1, None,
    "gpu", ("big",), {"gpu": 1}, 5, 3600.0,
)  # fmt: skip
OUTCOME = Outcome(
    session=SESSION, numbers=[7, 9, 8], count=3, attempt=[1, 2, 1], form="each", sizes=[6, 0, 0], buffers=None,
    failures=[FAILURE, LOSS], withheld=[], cancelled=[], started=[1e9, 1e9, 1e9], seconds=[0.1, 0.2, 0.3], busy=0.6,
    max_rss=2**40, host="alpha", pid=4711, payload=b"sixsix",
)  # fmt: skip
SUBMIT = Submit(
    key=b"k" * 16, first=70, count=3, whole=True, index=1000, map_number=2, shape="one", form="each", skip=0,
    sizes=[1, 0, 5], buffers=[0, 2, 0], detail=True, durable=True, sent=False, payload=b"sixsix",
)  # fmt: skip
BATCH = Batch(
    session=SESSION, key=b"k" * 16, numbers=70, count=3, whole=True, index=1000, map_number=2, failures=0,
    crashes=[0, 1, 0], shape="star", form="each", skip=0, sizes=[1, 0, 5], buffers=[0, 2, 0], detail=True,
    payload=b"sixsix",
)  # fmt: skip

TO_HEAD = [
    HELLO,
    Hello("client", "a script", 5, 0, PROTOCOL, "1.0", "3.11"),
    Chunk(3, 4, 1, 5, 2, True, False),
    Received(3, 5, 2, True, 1),
    Alive(3, 1, 9, 1, 5, 2, "drain", 100),
]
TO_PEER = [
    Welcome(SESSION, 2**33, 2**63 - 1, 7073, 1.0, 10.0, True),
    Reject(5, "fenced", "a newer worker has joined"),
    Void(3),
    Chunk(3, 4, 1, 5, 2, False, False),
    Received(3, 5, 2, False, 1),
    Alive(3, 1, 9, 1, 5, 2),
]
OF_CLIENT = [
    DEFINE,
    Resume([(1, 5), (9, 1)], 12, True),
    SUBMIT,
    change(SUBMIT, whole=False, sizes=None, buffers=None, count=1, payload=None),
    Cancel(5, [(1, 2**40)], True),
    Ask(1, "jobs", {"state": "failed", "limit": 10}),
    Leaving(True),
]
OF_FOREMAN = [
    Held([Holding(5, 1, 9, 2)], [b"k" * 16]),
    OUTCOME,
    change(OUTCOME, form=None, sizes=None, payload=None, started=None, seconds=None, numbers=1, attempt=1),
    Returned(5, [(1, 2)]),
    Died(5, 7, 2, True, CERTIFICATE),
    Leaving(False),
]
OF_HEAD_TO_CLIENT = [
    Accepted(12),
    Refused([(3, 1)], "full", "no room"),
    Answer(1, "", {"jobs": [1, "a", None]}),
    OUTCOME,
]
OF_HEAD_TO_FOREMAN = [
    DEFINE,
    BATCH,
    change(BATCH, numbers=[7, 9, 8], whole=False, failures=[0, 1, 0], crashes=0, payload=None),
    Cancel(5, [(1, 2)], False),
    Recall(),
    Forget([b"a", b"b"]),
]
DIRECTIONS: list[tuple[Any, list[Any]]] = [
    (decode_at_head, TO_HEAD),
    (decode_at_peer, TO_PEER),
    (decode_from_client, OF_CLIENT),
    (decode_from_foreman, OF_FOREMAN),
    (decode_to_client, OF_HEAD_TO_CLIENT),
    (decode_to_foreman, OF_HEAD_TO_FOREMAN),
]
MESSAGES = [(decode, message) for decode, messages in DIRECTIONS for message in messages]


def test_every_message_is_tried_in_every_direction_that_it_has() -> None:
    told = {name for name, value in vars(vocabulary).items() if isinstance(value, type) and issubclass(value, Struct)}
    told -= {"Struct", "Failure", "Loss"}
    assert {type(message).__name__ for _, message in MESSAGES} == told
    for union, messages in (
        (FromClient, OF_CLIENT),
        (FromForeman, OF_FOREMAN),
        (ToClient, OF_HEAD_TO_CLIENT),
        (ToForeman, OF_HEAD_TO_FOREMAN),
        (Greeting | Keeping, TO_HEAD + TO_PEER),
    ):
        assert set(map(type, messages)) == set(get_args(union))


@pytest.mark.parametrize(("decode", "message"), MESSAGES)
def test_round_trip(decode: Any, message: Any) -> None:
    back = decode(encode(message))
    assert type(back) is type(message)
    assert back == message


@pytest.mark.parametrize("decode", [decode for decode, _ in DIRECTIONS])
def test_a_message_is_taken_in_its_own_direction_only(decode: Any) -> None:
    mine = {type(message) for other, messages in DIRECTIONS if other is decode for message in messages}
    others = [message for _, message in MESSAGES if type(message) not in mine]
    assert len(others) > 10
    for message in others:
        with pytest.raises(WireError, match="does not follow the protocol"):
            decode(encode(message))


@pytest.mark.parametrize("decode", [decode for decode, _ in DIRECTIONS])
@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc0",
        b"\x90",
        b"\x91\xa7unknown",
        encode(Void(1))[:-1],
        encode(Void(1)).replace(b"void", b"v\xffid"),  # no UTF-8
        encode(change(OUTCOME, failures=[FAILURE])).replace(b"ValueError", b"\xffalueError"),
        encode(Alive(3, 1, 9, 1, 5, 2, "drain")).replace(b"drain", b"dance"),
        b"\x93" + encode(Void(1))[1:] + b"\x91" * 100_000 + b"\x01",  # a field too many, nested without end
        encode(Ask(1, "jobs", {})).replace(b"\x80", b"\x81\xa1a" + b"\x91" * 100_000 + b"\x01"),
        b"\xdd\xff\xff\xff\xff" + encode(Void(1))[1:],  # says that it has 2**32 fields
        encode(Void(1)) + b"\x00",
        encode(Received(1, 2, 3, True, 4))[:-2] + b"\x01\x04",  # a number for a truth value
        encode(Cancel(5, [(1, 2)], False)).replace(b"\x92\x01\x02", b"\x93\x01\x02\x03"),
    ],
)
def test_malformed(decode: Any, header: bytes) -> None:
    with pytest.raises(WireError, match="does not follow the protocol"):
        decode(header)


@pytest.mark.parametrize("message", [HELLO, TO_PEER[0]])
def test_greetings_of_later_versions_can_be_read(message: Any) -> None:
    """What is added stands at the end, so that a head can tell a newer peer why it is refused."""
    fields = msgspec.msgpack.decode(encode(message))
    decode = decode_at_head if message is HELLO else decode_at_peer
    assert decode(msgspec.msgpack.encode([*fields, "more", {"and": "more"}])) == message


@given(st.binary(max_size=200), st.sampled_from(DIRECTIONS))
def test_any_bytes_are_a_message_or_a_wire_error(header: bytes, direction: Any) -> None:
    decode, messages = direction
    with contextlib.suppress(WireError):
        assert type(decode(header)) in set(map(type, messages))


@given(st.data(), st.sampled_from(MESSAGES))
def test_mutated_messages_are_messages_or_wire_errors(data: st.DataObject, valid: Any) -> None:
    decode, message = valid
    header = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(header)))
        end = data.draw(st.integers(start, min(start + 4, len(header))))
        header[start:end] = data.draw(st.binary(max_size=6))
    with contextlib.suppress(WireError):
        back = decode(bytes(header))
        if isinstance(back, Batch | Outcome | Submit):
            items = items_of(back, [b"1", b"2"])
            assert items is None or items.count == back.count


# --- the tables of a message ---


def check(message: Any, changes: dict[str, Any], *, frames: int | None = None, size: int = 6) -> None:
    changed = change(message, **{name: value for name, value in changes.items() if hasattr(message, name)})
    wanted = sum(changed.buffers or ()) + (changed.payload is None and changed.form is not None)
    check_tables(changed, wanted if frames is None else frames, size)


WORK = [BATCH, SUBMIT]
ALL = [BATCH, SUBMIT, change(OUTCOME, failures=[], sizes=[1, 0, 5], buffers=[0, 2, 0])]
PLAIN = {"sizes": None, "buffers": None, "started": None, "seconds": None}


@pytest.mark.parametrize("message", ALL)
@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, 6),
        ({"payload": None}, 6),
        ({"sizes": [0, 0, 0]}, 0),
        ({"sizes": None, "buffers": None, "count": 1, "numbers": 5, "crashes": 0, "attempt": 1, **PLAIN}, 6),
        ({**PLAIN, "form": "list", "count": MAX_ITEMS, "numbers": 5, "crashes": 0, "attempt": 1, "skip": 4}, 9),
    ],
)
def test_tables_that_fit(message: Any, changes: dict[str, Any], size: int) -> None:
    check(message, changes, size=size)


@pytest.mark.parametrize("message", ALL)
@pytest.mark.parametrize(
    ("changes", "size", "why"),
    [
        ({**PLAIN, "count": 0}, 0, "allowed are 1 to"),
        ({"count": -1}, 6, "allowed are 1 to"),
        ({**PLAIN, "count": MAX_ITEMS + 1, "form": "list"}, 6, "allowed are 1 to"),
        ({}, 5, "the size table"),
        ({}, 7, "the size table"),
        ({"sizes": [1, 5]}, 6, "the size table"),
        ({"sizes": []}, 0, "the size table"),
        ({"sizes": [7, -2, 1]}, 6, "the size table"),
        ({"sizes": None}, 6, "without a size table"),
        ({"buffers": [0, 1]}, 6, "the buffer table"),
        ({"buffers": []}, 6, "the buffer table"),
        ({"buffers": [1, -1, 0]}, 6, "the buffer table"),
        ({"skip": -1}, 6, "skips -1"),
    ],
)
def test_tables_that_do_not_fit(message: Any, changes: dict[str, Any], size: int, why: str) -> None:
    with pytest.raises(WireError, match=why):
        check(message, changes, size=size)


@pytest.mark.parametrize("message", ALL)
@pytest.mark.parametrize("payload", [b"sixsix", None])
@pytest.mark.parametrize("more", [-1, 1])
def test_frames_that_do_not_fit(message: Any, payload: bytes | None, more: int) -> None:
    wanted = 2 + (payload is None)
    with pytest.raises(WireError, match=f"{wanted + more} frames behind its header instead of {wanted}"):
        check(message, {"payload": payload}, frames=wanted + more)


@pytest.mark.parametrize(
    ("message", "changes", "why"),
    [
        (SUBMIT, {"first": 0}, "cannot be"),
        (SUBMIT, {"index": -1}, "cannot be"),
        (SUBMIT, {"map_number": -1}, "cannot be"),
        (BATCH, {"numbers": 0}, "cannot be"),
        (BATCH, {"numbers": [3, 0, 1], "whole": False}, "cannot be"),
        (BATCH, {"numbers": [3, 4, 5]}, "without consecutive numbers"),
        (BATCH, {"numbers": [3, 4], "whole": False}, "a table of 2 numbers"),
        (BATCH, {"numbers": [], "whole": False}, "a table of 0 numbers"),
        (BATCH, {"failures": [1]}, "a table of 1 numbers"),
        (BATCH, {"crashes": [1, 2, 3, 4]}, "a table of 4 numbers"),
        (SUBMIT, {**PLAIN, "whole": False, "form": "list"}, "only slices have"),
        (BATCH, {**PLAIN, "whole": False, "form": "list"}, "only slices have"),
    ],
)
def test_work_that_cannot_be(message: Any, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(WireError, match=why):
        check(message, changes)


def failures_at(*offsets: int) -> list[Failure]:
    return [change(FAILURE, offset=offset) for offset in offsets]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"failures": failures_at(3)}, "a failure of item 3"),
        ({"failures": failures_at(-1)}, "a failure of item -1"),
        ({"failures": failures_at(1, 1)}, "a failure of item 1 after one of item 1"),
        ({"failures": failures_at(2, 0)}, "a failure of item 0 after one of item 2"),
        ({"failures": [change(FAILURE, after=-1.0)]}, "a pause of -1"),
        ({"failures": [change(FAILURE, after=float("nan"))]}, "a pause of nan"),
        ({"numbers": [1, 2]}, "a table of 2 numbers"),
        ({"attempt": [1, 2, 3, 4]}, "a table of 4 numbers"),
        ({"started": []}, "a table of 0 numbers"),
        ({"seconds": [0.0]}, "a table of 1 numbers"),
        ({"withheld": [0, 3]}, "offsets beyond 3 items"),
        ({"withheld": [-1]}, "offsets beyond 3 items"),
        ({"cancelled": [7]}, "offsets beyond 3 items"),
        ({"busy": float("nan")}, "took nan"),
        ({"busy": -1.0}, "took -1"),
        ({"busy": float("inf")}, "took inf"),
    ],
)
def test_outcomes_that_cannot_be(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(WireError, match=why):
        check(OUTCOME, changes)


def test_all_may_fail_and_then_there_is_no_payload() -> None:
    nothing = change(OUTCOME, form=None, sizes=None, payload=None, failures=failures_at(0, 1, 2))
    check_tables(nothing, 0, 0)
    with pytest.raises(WireError, match="1 frames behind its header instead of 0"):
        check_tables(nothing, 1, 0)


@pytest.mark.parametrize("data", [b"x" * INLINE_BYTES, b"x" * (INLINE_BYTES + 1)])
@pytest.mark.parametrize("message", ALL)
def test_items_come_back_from_their_frames(message: Any, data: bytes) -> None:
    fields = {"numbers": 5, "count": 2, "crashes": 0, "attempt": 1, "started": None, "seconds": None}
    message = change(message, **{name: value for name, value in fields.items() if hasattr(message, name)})
    items = pack([Pickled(data, [b"buffer"]), Pickled(b"", [])])
    header, *frames = with_items(message, items)
    decode = {Batch: decode_to_foreman, Submit: decode_from_client, Outcome: decode_from_foreman}[type(message)]
    back = decode(bytes(header))  # type: ignore[arg-type]
    assert len(frames) == 1 + (len(data) > INLINE_BYTES)
    again = items_of(back, frames)
    assert isinstance(again, Items)
    assert list(again.pickles()) == list(items.pickles())


# --- ranges and names ---


def test_ranges_are_counted() -> None:
    assert items_in([]) == 0
    assert items_in([(1, 5), (2**62, 2)]) == 7


@pytest.mark.parametrize("range_", [(0, 1), (-1, 1), (1, 0), (1, -1)])
def test_ranges_that_cannot_be(range_: tuple[int, int]) -> None:
    with pytest.raises(WireError, match="cannot be"):
        items_in([(1, 1), range_])


def test_names_are_few_and_short() -> None:
    check_names(("a" * 128,) * MAX_NAMES, "tags")
    for names in (("",), ("a" * 129,), ("a",) * (MAX_NAMES + 1)):
        with pytest.raises(WireError, match="tags must be at most"):
            check_names(names, "tags")


def test_a_chunk_passes_the_limits_of_the_sockets() -> None:
    """What sockets drop would be sent again for ever."""
    longest = encode(Chunk(2**63, 2**63, 2**63, 2**63, 2**63, True, True))
    assert netlimits.MAX_FRAMES >= CHUNK_FRAMES + 1
    assert len(longest) + CHUNK_BYTES <= netlimits.MAX_BYTES
    assert netlimits.MAX_FRAME >= CHUNK_BYTES
