"""The wire: messages come back as they were sent, and nothing else gets through as anything but WireError."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztasks.errors import WireError
from ztasks.wire.messages import (
    INLINE_BYTES,
    MAX_ITEMS,
    Batch,
    Bye,
    Control,
    Failure,
    Leave,
    Ready,
    Results,
    StartFailed,
    check_items,
    decode_control,
    decode_from_worker,
    decode_to_worker,
    encode,
    inline,
)

FAILURE = Failure(1, "raised", "ValueError", "no", "Traceback: äöü\n", b"\x80\x05N.", True)

BATCH = Batch(
    cut=3, position=70, count=3, key=b"k" * 16, ships=True, forget=(b"a", b"b"), shape="star", form="each", skip=0,
    sizes=[1, 0, 5], buffers=[0, 2, 0], map_number=4, prefix="", indices=100, attempts=1, max_attempts=3, timeout=2.5,
    grace=5.0, detail=True, payload=b"sixsix",
)  # fmt: skip

RESULTS = Results(
    lane=2, position=70, count=3, form="each", sizes=[1, 0, 5], buffers=None, failures=[FAILURE], busy=0.5, idle=0.0,
    started=[1e9, 1e9, 1e9], seconds=[0.1, 0.2, 0.3], max_rss=2**40, payload=b"sixsix",
)  # fmt: skip

change = msgspec.structs.replace

TO_WORKER = [
    BATCH,
    change(BATCH, sizes=None, buffers=None, indices=[7, 9, 8], attempts=[1, 2, 1], timeout=None, payload=None),
    Leave(),
]
FROM_WORKER = [
    Ready(0, 12345),
    StartFailed(1, FAILURE),
    RESULTS,
    change(RESULTS, form="list", sizes=None, failures=[], started=None, seconds=None, payload=None),
    Bye(2**40),
]
CONTROL = [Control("drain"), Control("stop")]
DIRECTIONS = [(decode_to_worker, TO_WORKER), (decode_from_worker, FROM_WORKER), (decode_control, CONTROL)]
MESSAGES = [(decode, message) for decode, messages in DIRECTIONS for message in messages]


@pytest.mark.parametrize(("decode", "message"), MESSAGES)
def test_round_trip(decode: Any, message: Any) -> None:
    back = decode(encode(message))
    assert type(back) is type(message)
    assert back == message


@pytest.mark.parametrize("decode", [decode for decode, _ in DIRECTIONS])
@pytest.mark.parametrize("message", [message for _, messages in DIRECTIONS for message in messages])
def test_a_message_is_taken_in_its_own_direction_only(decode: Any, message: Any) -> None:
    if any(message is mine for other, messages in DIRECTIONS if other is decode for mine in messages):
        return
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
        encode(Bye(1))[:-1],
        encode(Bye(1)).replace(b"bye", b"b\xffe"),  # no UTF-8
        encode(StartFailed(1, FAILURE)).replace(b"ValueError", b"\xffalueError"),
        encode(Control("stop")).replace(b"stop", b"halt"),
        b"\x93" + encode(Bye(1))[1:] + b"\x91" * 100_000 + b"\x01",  # a field too many, nested without end
        b"\xdd\xff\xff\xff\xff" + encode(Bye(1))[1:],  # says that it has 2**32 fields
        encode(change(RESULTS, failures=[])).replace(b"\x90", b"\xdd\xff\xff\xff\xff"),
        encode(Bye(1)) + b"\x00",
    ],
)
def test_malformed(decode: Any, header: bytes) -> None:
    with pytest.raises(WireError, match="does not follow the protocol"):
        decode(header)


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
        if isinstance(back, Batch | Results):
            check_items(back, len(back.payload or b""))


@pytest.mark.parametrize("message", [BATCH, RESULTS])
@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, 6),
        ({"sizes": [0, 0, 0]}, 0),
        ({"form": "list", "sizes": None, "count": MAX_ITEMS, "buffers": None, "started": None, "seconds": None}, 9),
    ],
)
def test_what_fits(message: Any, changes: dict[str, Any], size: int) -> None:
    check_items(changed(message, changes), size)


@pytest.mark.parametrize("message", [BATCH, RESULTS])
@pytest.mark.parametrize(
    ("changes", "size", "why"),
    [
        ({"count": 0, "sizes": None, "buffers": None}, 0, "allowed are 1 to"),
        ({"count": -1}, 6, "allowed are 1 to"),
        ({"count": MAX_ITEMS + 1, "form": "list", "sizes": None, "buffers": None}, 6, "allowed are 1 to"),
        ({}, 5, "the size table"),
        ({}, 7, "the size table"),
        ({"sizes": [1, 5]}, 6, "the size table"),
        ({"sizes": []}, 0, "the size table"),
        ({"sizes": [7, -2, 1]}, 6, "the size table"),
        ({"sizes": None}, 6, "without a size table"),
        ({"buffers": [0, 1]}, 6, "the buffer table"),
        ({"buffers": []}, 6, "the buffer table"),
        ({"buffers": [1, -1, 0]}, 6, "the buffer table"),
    ],
)
def test_tables_that_do_not_fit(message: Any, changes: dict[str, Any], size: int, why: str) -> None:
    with pytest.raises(WireError, match=why):
        check_items(changed(message, changes), size)


def failures_at(*offsets: int) -> list[Failure]:
    return [change(FAILURE, offset=offset) for offset in offsets]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"failures": failures_at(3)}, "a failure of item 3"),
        ({"failures": failures_at(-1)}, "a failure of item -1"),
        ({"failures": failures_at(1, 1)}, "a failure of item 1 after one of item 1"),  # would be retried twice
        ({"failures": failures_at(2, 0)}, "a failure of item 0 after one of item 2"),
        ({"started": [0.0]}, "1 measurements"),
        ({"seconds": [0.0] * 4}, "4 measurements"),
        ({"busy": float("nan")}, "busy for nan"),
        ({"busy": float("inf")}, "busy for inf"),
        ({"idle": -1.0}, "idle for -1"),
    ],
)
def test_outcomes_that_do_not_fit(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(WireError, match=why):
        check_items(changed(RESULTS, changes), 6)


def test_all_may_fail() -> None:
    check_items(changed(RESULTS, {"failures": failures_at(0, 1, 2)}), 6)


def changed(message: Any, changes: dict[str, Any]) -> Any:
    return change(message, **{name: value for name, value in changes.items() if hasattr(message, name)})


def test_small_payloads_ride_in_the_header() -> None:
    assert inline(b"x" * INLINE_BYTES) == b"x" * INLINE_BYTES
    assert inline(b"x" * (INLINE_BYTES + 1)) is None
    assert inline(b"") == b""
