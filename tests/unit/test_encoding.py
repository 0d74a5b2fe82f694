"""Encoding: any value as a line of JSON that a strict reader takes, and what is noted of it."""

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import math
import pathlib
import types
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztasks.errors import JobTimeout
from ztasks.runs.encoding import MAX_KINDS, NOT_FINITE, Decoder, Encoder, decode, shortened, type_name

np = pytest.importorskip("numpy")


def written(value: Any, encoder: Encoder | None = None) -> Any:
    """The value as a strict reader finds it."""
    line = (encoder or Encoder()).encode(value)
    assert b"\n" not in line
    found = json.loads(line, parse_constant=pytest.fail)
    assert decode(line) == found
    return found


# --- what becomes of values ---


@dataclasses.dataclass
class Point:
    x: int
    y: object = None


class Colour(enum.Enum):
    RED = "red"


class Text(str):
    __slots__ = ()


class Number(int):
    pass


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, None),
        ([math.inf, -math.inf, 1.5], [None, None, 1.5]),
        (2**70, 2**70),
        (Point(1, Point(2)), {"x": 1, "y": {"x": 2, "y": None}}),
        ((1, {2}), [1, [2]]),
        (Pair(1, 2), [1, 2]),
        (b"ab", "YWI="),
        (datetime.datetime(2024, 1, 2, 3, 4, 5), "2024-01-02T03:04:05"),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        (decimal.Decimal("1.50"), "1.50"),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (Colour.RED, "red"),
        (Text("t"), "t"),
        (Number(3), 3),
        (range(3), [0, 1, 2]),
        (collections.deque([1]), [1]),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (np.float64(1.5), 1.5),
        (np.float32(0.5), 0.5),
        (np.float64("nan"), None),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.arange(6).reshape(2, 3), [[0, 1, 2], [3, 4, 5]]),
        (np.array([1.0, math.nan]), [1.0, None]),
        ({1: "a", 2.5: "b"}, {"1": "a", "2.5": "b"}),
        ({None: 1, True: 2}, {"null": 1, "true": 2}),
        ({(1, 2): 3}, {"(1, 2)": 3}),
        ({pathlib.PurePosixPath("p"): 1}, {"p": 1}),
        ("\udcff", "\udcff"),
        ({"\udcff": [math.nan, 2**70, {"k": (1,)}]}, {"\udcff": [None, 2**70, {"k": [1]}]}),
        ("line\nbreak\u2028", "line\nbreak\u2028"),
    ],
)
def test_values_are_written_sensibly(value: Any, expected: Any) -> None:
    encoder = Encoder()
    assert written(value, encoder) == expected
    assert not encoder.met_marker


class BrokenRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Chatty:
    def __repr__(self) -> str:
        return "x" * 5000


class Struct(msgspec.Struct):
    a: int
    b: Any = None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Struct(1, [Struct(2)]), {"a": 1, "b": [{"a": 2, "b": None}]}),
        (frozenset({1}), [1]),
        (datetime.time(3, 4, 5), "03:04:05"),
        (datetime.timedelta(hours=1), "PT3600S"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (bytearray(b"ab"), "YWI="),
        ([pathlib.Path("a"), {"p": pathlib.Path("b")}], ["a", {"p": "b"}]),
        ({"p": pathlib.Path("caf\udce9")}, {"p": "caf\udce9"}),
        ({np.int64(3): np.float32(0.5)}, {"3": 0.5}),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array(5), 5),
        (np.datetime64("2024-01-02"), "2024-01-02"),
        (Point(1, np.array([math.inf])), {"x": 1, "y": [None]}),
        ({Colour.RED: 1}, {"red": 1}),
    ],
)
def test_further_values(value: Any, expected: Any) -> None:
    encoder = Encoder()
    assert written(value, encoder) == expected
    assert not encoder.met_marker


# --- what JSON cannot hold ---


def test_what_json_cannot_hold_is_marked_in_its_place() -> None:
    encoder = Encoder()
    result = written({"n": 1, "bad": 1 + 2j, "worse": [object]}, encoder)
    assert result["n"] == 1
    assert result["bad"] == {"$repr": "(1+2j)", "$type": "complex"}
    assert result["worse"] == [{"$repr": "<class 'object'>", "$type": "type"}]
    assert encoder.met_marker
    encoder.met_marker = False
    written(1, encoder)
    assert not encoder.met_marker


@pytest.mark.parametrize("around", [lambda value: value, lambda value: {"\udcff": [value]}])
def test_each_way_of_encoding_notes_markers(around: Any) -> None:
    encoder = Encoder()
    assert b'{"$repr":"1j","$type":"complex"}' in encoder.encode(around(1j))
    assert encoder.met_marker


def test_markers_are_short_and_never_fail() -> None:
    assert len(written(Chatty())["$repr"]) == 1000
    assert "BrokenRepr object at" in written([BrokenRepr()])[0]["$repr"]
    assert "BrokenRepr object at" in next(iter(written({BrokenRepr(): 1})))
    assert shortened("x" * 998) == repr("x" * 998)
    assert shortened("x" * 999) == "'" + "x" * 996 + "..."


def circle() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def knot() -> list[Any]:
    """Contains itself in more places than can be visited."""
    found: list[Any] = []
    found.extend([found, {"a": found, "b": (found, 1)}])
    return found


def family() -> Point:
    parent = Point(0, [])
    parent.y = [Point(1, parent), Point(2, parent)]
    return parent


@pytest.mark.parametrize("make", [circle, knot, family])
def test_a_value_that_contains_itself_is_cut(make: Any) -> None:
    encoder = Encoder()
    text = json.dumps(written(make(), encoder))
    assert '"$repr": ' in text
    assert len(text) < 3000
    assert encoder.met_marker


def test_a_value_that_is_in_several_places_does_not_contain_itself() -> None:
    twin = {"\udcff": [1]}
    encoder = Encoder()
    assert written([twin, {"a": twin, "b": [twin]}], encoder) == [twin, {"a": twin, "b": [twin]}]
    assert not encoder.met_marker


def test_a_value_that_is_nested_too_deep_is_cut() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    encoder = Encoder()
    assert "nested more than 100 deep" in json.dumps(written(deep, encoder))
    assert encoder.met_marker
    while deep:  # or freeing it would go as deep
        deep = deep.pop()


# --- what was written otherwise than it was ---


@pytest.mark.parametrize(
    ("value", "changed"),
    [
        (1.5, {}),
        (None, {}),
        ("null", {}),
        ([None, "null", {"null": None}], {}),
        ({"a": (1, {2}), "b": datetime.date(2024, 1, 2)}, {}),
        (Point(1), {}),
        (math.nan, {NOT_FINITE: 1}),
        ([1.0, [{"a": (math.inf,)}]], {NOT_FINITE: 1}),
        (Point(1, -math.inf), {NOT_FINITE: 1}),
        (Struct(1, {2: math.nan}), {NOT_FINITE: 1}),
        ({"a": np.array([[1.0, math.nan]])}, {"numpy.ndarray": 1, NOT_FINITE: 1}),
        (np.float64("nan"), {NOT_FINITE: 1}),
        (np.float32("nan"), {"numpy.float32": 1, NOT_FINITE: 1}),
        ([np.int64(1), np.int64(2)], {"numpy.int64": 2}),
        (pathlib.PurePosixPath("a"), {"pathlib.PurePosixPath": 1}),
        ({"a": pathlib.PurePosixPath("a"), "\udcff": [math.nan]}, {"pathlib.PurePosixPath": 1, NOT_FINITE: 1}),
        (collections.Counter("a"), {}),
        (collections.deque([1]), {"collections.deque": 1}),
        (types.MappingProxyType({}), {"mappingproxy": 1}),
        (1j, {}),
    ],
)
def test_what_was_changed_is_noted(value: Any, changed: dict[str, int]) -> None:
    encoder = Encoder()
    encoder.encode(value)
    assert encoder.changed == changed


def test_what_was_changed_is_counted_over_all_values() -> None:
    encoder = Encoder()
    for _ in range(3):
        encoder.encode([math.nan, pathlib.PurePosixPath("a")])
    assert encoder.changed == {"pathlib.PurePosixPath": 3, NOT_FINITE: 3}


def test_a_kind_for_each_value_does_not_fill_the_memory() -> None:
    encoder = Encoder()
    for number in range(100):
        kind = type(f"Kind{number}", (collections.deque,), {})
        encoder.encode(kind())
    assert len(encoder.changed) == MAX_KINDS + 1
    assert encoder.changed["other types"] == 100 - MAX_KINDS


# --- order ---


def test_with_order_equal_values_have_equal_bytes() -> None:
    encoder = Encoder(order="deterministic")
    for one, other in [
        ({"a": 1, "b": {"d": 1, "c": 2}}, {"b": {"c": 2, "d": 1}, "a": 1}),
        ({"a": 1, "p": pathlib.Path("x")}, {"p": pathlib.Path("x"), "a": 1}),
        ({"\udcff": 1, "b": {"d": 1, "c": 2}}, {"b": {"c": 2, "d": 1}, "\udcff": 1}),
        ({8, 0}, {0, 8} | set()),
    ]:
        assert encoder.encode(one) == encoder.encode(other)
    assert encoder.encode({"\udcff", "b", "a"}) == b'["\\udcff","a","b"]'
    assert Encoder().encode({"b": 1, "a": 2}) == b'{"b":1,"a":2}'


# --- and back ---

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_what_json_has_comes_back_as_it_was(value: Any) -> None:
    encoder = Encoder()
    assert written(value, encoder) == value
    assert not encoder.met_marker
    assert encoder.changed == {}


@pytest.mark.parametrize("data", [b"", b"{", b'"\\ud800', b"[1] 2", b"\xff", b'"\\udcff" x'])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises((msgspec.MsgspecError, ValueError)):
        decode(data)


def test_a_decoder_wants_what_it_was_made_for() -> None:
    decoder = Decoder(Struct)
    assert decoder.decode(b'{"a": 1, "b": "\\udcff"}') == Struct(1, "\udcff")
    with pytest.raises(ValueError):
        decoder.decode(b'{"a": "\\udcff"}')
    with pytest.raises(msgspec.ValidationError):
        decoder.decode(b'{"a": "x"}')


# --- names ---


def test_types_are_named_as_users_import_them() -> None:
    assert type_name(int) == "int"
    assert type_name(collections.OrderedDict) == "collections.OrderedDict"
    assert type_name(JobTimeout) == "ztasks.JobTimeout"
    assert type_name(np.ndarray) == "numpy.ndarray"
