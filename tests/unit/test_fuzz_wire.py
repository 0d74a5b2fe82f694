"""Any message at all: what reads it takes it or raises WireError, unpickles nothing, and leaves all books right.

Each example goes through the decoders and through a head's sink with work assigned (`tests/fuzz/fuzz_wire.py`, which
atheris runs as well).
"""

from __future__ import annotations

import pickle
import struct
import sys
import tracemalloc
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))

import fuzz_wire
from fuzz_wire import FAILURE, JOBS, MAP, ODD, as_head, change_field, join, one_input, one_message, seeds, split

from ztasks.errors import WireError
from ztasks.wire.messages import (
    StartFailed,
    decode_control,
    decode_from_worker,
    decode_to_worker,
    encode,
)

change = msgspec.structs.replace

SEEDS = seeds()
REPORTS = [frames for frames in SEEDS if frames[0][1:9] == b"\xa7results"]


def report(frames: list[bytes] = SEEDS[0], **changes: Any) -> list[bytes]:
    """A valid report with some fields changed."""
    results = decode_from_worker(frames[0])
    return [encode(change(results, **changes)), *frames[1:]]


# --- the harness itself ---


def test_each_seed_is_taken_by_whom_it_is_for() -> None:
    takers = [one_message(frames) for frames in SEEDS]
    assert takers.count(["decode_from_worker", "head"]) == 9
    assert takers.count(["decode_to_worker"]) == 3
    assert takers.count(["decode_control"]) == 2
    assert len(REPORTS) == 6


def test_what_the_head_takes_changes_its_books() -> None:
    scene = as_head([SEEDS[0]])
    assert {record.end for item, record in scene.records.items() if item[0] == 0} == {"done"}
    assert scene.books_text() != as_head([]).books_text()


def test_unpickling_would_be_noticed() -> None:
    with fuzz_wire.nothing_unpickled(), pytest.raises(AssertionError, match="a pickle was loaded"):
        pickle.loads(b"\x80\x05N.")
    assert pickle.loads(b"\x80\x05N.") is None


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_frames_are_cut_as_they_were_joined(frames: list[bytes]) -> None:
    frames = [*frames, b"\xff\xff and the last"]
    assert split(join(frames)) == frames


# --- any bytes ---


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    one_input(data)


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=5))
def test_any_frames(frames: list[bytes]) -> None:
    one_message(frames)


numbers = st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats()
fields = st.recursive(
    st.none() | numbers | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
TAGS = ["results", "ready", "bye", "start-failed", "batch", "leave", "control"]


@given(fields, st.sampled_from(TAGS))
def test_any_fields_behind_a_right_tag(value: Any, tag: str) -> None:
    one_message([msgspec.msgpack.encode([tag, *(value if isinstance(value, list) else [value])])])


# --- messages that were valid ---


@st.composite
def damaged(draw: st.DrawFn) -> list[bytes]:
    """A valid message with bits flipped, bytes changed, cut out or added, in any of its frames."""
    frames = [bytearray(frame) for frame in draw(st.sampled_from(SEEDS))]
    for _ in range(draw(st.integers(1, 3))):
        frame = draw(st.sampled_from(frames))
        start = draw(st.integers(0, len(frame)))
        how = draw(st.sampled_from(["flip", "change", "cut", "insert", "repeat"]))
        if how == "flip" and start < len(frame):
            frame[start] ^= 1 << draw(st.integers(0, 7))
        elif how == "change":
            frame[start : start + draw(st.integers(1, 8))] = draw(st.binary(max_size=8))
        elif how == "cut":
            del frame[start:]
        elif how == "insert":
            frame[start:start] = draw(st.binary(max_size=8))
        else:
            frame += frame[start:]
    return [bytes(frame) for frame in frames]


@given(damaged())
def test_damaged_messages(frames: list[bytes]) -> None:
    one_message(frames)


@given(st.sampled_from(SEEDS), st.randoms(use_true_random=False), st.integers(1, 3))
def test_messages_with_other_fields(frames: list[bytes], chance: Any, times: int) -> None:
    tree = msgspec.msgpack.decode(frames[0])
    for _ in range(times):
        if tree:
            change_field(tree, chance)
    one_message([msgspec.msgpack.encode(tree), *frames[1:]])


@pytest.mark.parametrize("value", ODD, ids=[f"{type(value).__name__} {index}" for index, value in enumerate(ODD)])
def test_each_field_of_each_message_with_each_odd_value(value: Any) -> None:
    for frames in SEEDS:
        tree = msgspec.msgpack.decode(frames[0])
        for place in range(len(tree)):
            one_message([msgspec.msgpack.encode([*tree[:place], value, *tree[place + 1 :]]), *frames[1:]])
        one_message([msgspec.msgpack.encode([*tree, value]), *frames[1:]])


@given(st.sampled_from(SEEDS), st.lists(st.binary(max_size=100), max_size=6))
def test_frames_that_do_not_fit_the_header(frames: list[bytes], others: list[bytes]) -> None:
    one_message([frames[0], *others])
    one_message([*frames, *others])


FORGED: dict[str, dict[str, Any]] = {
    "fewer items than the size table": {"count": 4},
    "more items than were given": {"count": 6, "sizes": [16] * 6, "payload": bytes(96)},
    "a position that is not due": {"position": 1},
    "a position before all": {"position": -1},
    "a lane that is starting": {"lane": 1},
    "a negative buffer table with as many frames as it says": {"buffers": [-1, 0, 0, 0, 0], "payload": None},
    "no size table": {"sizes": None},
    "the form of a map for submitted jobs": {"form": "list", "sizes": None},
    "busy for ever": {"busy": 1e308},
    "idle for ever": {"idle": float("inf")},
    "a pause that is no number": {"failures": [change(FAILURE, after=float("nan"))]},
    "a pause for ever": {"failures": [change(FAILURE, after=float("inf"))]},
    "a pause of more than a life": {"failures": [change(FAILURE, after=1e308)]},
    "a pause before now": {"failures": [change(FAILURE, after=-1.0)]},
    "one item failing twice": {"failures": [FAILURE, FAILURE]},
}


@pytest.mark.parametrize("which", FORGED)
def test_forged_reports_cost_their_worker_only(which: str) -> None:
    """The head kills the worker and reads on; what it held is not touched, so that its successor gets it."""
    scene = as_head([report(**FORGED[which]), SEEDS[4]])
    assert len(scene.refusals) == 1
    assert scene.killed == [1 if "starting" in which else JOBS]
    assert {record.end for item, record in scene.records.items() if item[0] == 0} == {None}
    assert {record.end for item, record in scene.records.items() if item[0] == 7} == {"done"}


def test_forged_reports_of_lanes_that_are_not_there_are_dropped() -> None:
    scene = as_head([report(lane=lane) for lane in (77, -1, 2**63 - 1)])
    assert scene.books_text() == as_head([]).books_text()
    assert not scene.killed


@pytest.mark.parametrize("lane", [JOBS, MAP])
def test_a_worker_that_works_cannot_have_failed_to_start(lane: int) -> None:
    assert len(as_head([[encode(StartFailed(lane, FAILURE))]]).refusals) == 1


@given(
    st.lists(damaged() | st.sampled_from(SEEDS) | st.lists(st.binary(max_size=30), min_size=1, max_size=3), max_size=5)
)
def test_a_head_reads_on(messages: list[list[bytes]]) -> None:
    """Whatever came before, the books are right after each message, and a report that fits is taken."""
    scene = as_head(messages)
    if not {results_of(frames) for frames in messages} & {JOBS}:
        assert as_head([*messages, SEEDS[0]]).records[0, 0].end == "done"
    assert scene.ventilator.pending == sum(record.end is None for record in scene.records.values())


def results_of(frames: list[bytes]) -> int | None:
    """The lane that a message speaks of."""
    try:
        return getattr(decode_from_worker(frames[0]), "lane", None)
    except WireError:
        return None


# --- cost ---


def tree_of(frames: list[bytes]) -> list[Any]:
    return list(msgspec.msgpack.decode(frames[0]))


def with_claim(claim: bytes) -> list[bytes]:
    """Headers in which each array or string in turn says that it is of another size."""
    headers = []
    for frames in SEEDS:
        header = frames[0]
        for place, byte in enumerate(header):
            if 0x80 <= byte < 0xA0 or byte in (0xC4, 0xD9, 0xDC):
                headers.append(header[:place] + claim + header[place + 1 :])
    return headers


COSTLY: dict[str, list[bytes]] = {
    **{
        f"{what} said to be of {size}": with_claim(struct.pack(">BI", code, size))
        for what, code in (("arrays", 0xDD), ("maps", 0xDF), ("bytes", 0xC6), ("strings", 0xDB))
        for size in (10**6, 2**31, 2**32 - 1)
    },
    "nested arrays": [b"\x91" * 10**6, b"\x95\xa7results" + b"\x91" * 10**6],
    "nested maps": [b"\x81" * 10**6, b"\x92\xa3bye" + b"\x81\xa1x" * 10**6],
    "a long tag": [b"\x91\xdb" + struct.pack(">I", 10**7) + b"x" * 10**7],
    "a long integer": [b"\x92\xa3bye" + b"\xcf" + b"\xff" * 8],
    "no UTF-8": [
        b"\x91\xa3b\xffe",
        b"\x91\xa3\xed\xa0\x80",
        encode(StartFailed(1, FAILURE)).replace(b"no", b"\xc0\x80"),
    ],
    "an extension": [b"\x92\xa3bye\xc9" + struct.pack(">IB", 2**31, 5), b"\xd4\xff\x00"],
    "many small failures": [
        msgspec.msgpack.encode(
            [*tree_of(SEEDS[0])[:7], [msgspec.to_builtins(FAILURE)] * 50_000, *tree_of(SEEDS[0])[8:]]
        )
    ],
    "a table of a million": [msgspec.msgpack.encode([*tree_of(SEEDS[0])[:5], [0] * 10**6, *tree_of(SEEDS[0])[6:]])],
}


@pytest.mark.parametrize("which", COSTLY)
def test_time_and_memory_are_bounded_by_the_message(which: str) -> None:
    for header in COSTLY[which]:
        tracemalloc.start()
        begin = perf_counter()
        try:
            for decode in (decode_to_worker, decode_from_worker, decode_control):
                assert len(refusal_of(decode, header)) < 1000
            assert perf_counter() - begin < 5
            assert tracemalloc.get_traced_memory()[1] < 10**6 + 200 * len(header)
        finally:
            tracemalloc.stop()
    one_message([COSTLY[which][0]])


def refusal_of(decode: Any, header: bytes) -> str:
    try:
        decode(header)
    except WireError as error:
        return str(error)
    return ""
