"""Records: the fields, the keys, and that every result becomes a line of JSON."""

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import math
import pathlib
import types
from concurrent.futures import CancelledError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztasks.cli.records import Recorder, describe, from_outcome, from_unreadable, status_of
from ztasks.errors import JobTimeout, PoisonJob, RemoteError, RemoteTraceback, WorkerLost
from ztasks.io.deliver import WorkerName
from ztasks.outcome import Outcome

np = pytest.importorskip("numpy")

FIELDS = ["v", "index", "key", "input", "ok", "status", "result", "error", "started", "seconds", "attempts"]
FIELDS += ["host", "pid", "max_rss"]


def outcome(value: Any = None, exception: BaseException | None = None) -> Outcome[Any]:
    return Outcome(0, ("x",), value, exception, 1700000000.5, 0.25, 1, WorkerName("host", 7), 4096)


def written(value: Any, recorder: Recorder | None = None) -> Any:
    """The result as a strict reader finds it in the record."""
    line = (recorder or Recorder("m:f")).line(from_outcome(0, "x", outcome(value)))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    return json.loads(line, parse_constant=pytest.fail)["result"]


def test_the_record_of_a_success() -> None:
    record = json.loads(Recorder("m:f").line(from_outcome(3, {"a": 1}, outcome([1, None]))))
    assert list(record) == FIELDS
    key = record.pop("key")
    assert len(key) == 16
    assert int(key, 16)
    assert record == {
        "v": 1,
        "index": 3,
        "input": {"a": 1},
        "ok": True,
        "status": "ok",
        "result": [1, None],
        "error": None,
        "started": 1700000000.5,
        "seconds": 0.25,
        "attempts": 1,
        "host": "host",
        "pid": 7,
        "max_rss": 4096,
    }


def test_the_record_of_a_failure() -> None:
    error = ValueError("no good")
    error.__cause__ = RemoteTraceback("Traceback: there")
    record = json.loads(Recorder("m:f").line(from_outcome(0, "x", outcome(None, error))))
    assert record["ok"] is False
    assert record["status"] == "failed"
    assert record["result"] is None
    assert record["error"] == {"type": "ValueError", "message": "no good", "traceback": "Traceback: there"}


def test_the_record_of_a_job_that_never_ran() -> None:
    cancelled = Outcome(0, ("x",), None, CancelledError(), None, 0.0, 0, None)
    record = json.loads(Recorder("m:f").line(from_outcome(0, "x", cancelled)))
    assert record["status"] == "cancelled"
    assert record["error"]["message"] == "cancelled before it was started"
    assert [record[name] for name in ("started", "attempts", "host", "pid", "max_rss")] == [None, 0, None, None, None]


def test_the_record_of_an_input_that_is_no_call() -> None:
    record = json.loads(Recorder("m:f").line(from_unreadable(5, "{oops", "line 6 of x is not JSON: why")))
    assert list(record) == FIELDS
    assert record["input"] == "{oops"
    assert record["status"] == "failed"
    assert record["error"] == {"type": "InvalidInput", "message": "line 6 of x is not JSON: why", "traceback": None}


@pytest.mark.parametrize(
    ("exception", "status"),
    [
        (ValueError(), "failed"),
        (TimeoutError(), "failed"),
        (SystemExit(3), "failed"),
        (RemoteError("T", "m", "tb"), "failed"),
        (JobTimeout("late"), "timeout"),
        (WorkerLost("gone"), "lost"),
        (PoisonJob("poison", ("a",)), "lost"),
        (CancelledError(), "cancelled"),
    ],
)
def test_statuses(exception: BaseException, status: str) -> None:
    assert status_of(exception) == status


class BrokenStrError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_errors_are_named_as_users_import_them() -> None:
    assert describe(KeyError("k")).type == "KeyError"
    assert describe(WorkerLost("gone")).type == "ztasks.WorkerLost"
    assert describe(CancelledError()).type == "concurrent.futures.CancelledError"
    assert describe(json.JSONDecodeError("m", "d", 0)).type == "json.decoder.JSONDecodeError"
    remote = describe(RemoteError("my.Error", "msg", "tb"))
    assert (remote.type, remote.message, remote.traceback) == ("my.Error", "msg", "tb")
    assert describe(BrokenStrError()).message == "<its __str__ raised>"


# --- keys ---


def key(target: str, input_: Any) -> str:
    return str(json.loads(Recorder(target).line(from_outcome(0, input_, outcome())))["key"])


def test_a_key_depends_on_target_and_input_only() -> None:
    assert key("m:f", "x") == key("m:f", "x")
    assert len({key("m:f", "x"), key("m:g", "x"), key("m:f", "y"), key("m:f", ["x"])}) == 4
    recorder = Recorder("m:f")
    first = json.loads(recorder.line(from_outcome(0, "x", outcome(1))))
    second = json.loads(recorder.line(from_outcome(9, "x", outcome(None, ValueError()))))
    assert first["key"] == second["key"] == key("m:f", "x")


def test_keys_stay_the_same_in_later_versions() -> None:
    assert key("stats:measure", "a.py") == "9a3eba37fb76e983"


# --- results ---


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
def test_results_are_written_sensibly(value: Any, expected: Any) -> None:
    recorder = Recorder("m:f")
    assert written(value, recorder) == expected
    assert recorder.marked == 0 or isinstance(next(iter(value), None), tuple)


class BrokenRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Chatty:
    def __repr__(self) -> str:
        return "x" * 5000


def test_what_json_cannot_hold_is_marked_in_its_place() -> None:
    recorder = Recorder("m:f")
    result = written({"n": 1, "bad": 1 + 2j, "worse": [object]}, recorder)
    assert result["n"] == 1
    assert result["bad"] == {"$repr": "(1+2j)", "$type": "complex"}
    assert result["worse"] == [{"$repr": "<class 'object'>", "$type": "type"}]
    assert recorder.marked == 1
    written(1, recorder)
    assert recorder.marked == 1


def test_markers_are_short_and_never_fail() -> None:
    assert len(written(Chatty())["$repr"]) == 1000
    assert "BrokenRepr object at" in written([BrokenRepr()])[0]["$repr"]
    assert "BrokenRepr object at" in next(iter(written({BrokenRepr(): 1})))


def test_a_result_that_contains_itself_is_cut() -> None:
    recorder = Recorder("m:f")
    circle: list[Any] = []
    circle.append(circle)
    text = json.dumps(written(circle, recorder))
    assert "nested more than 100 deep" in text
    assert recorder.marked == 1


def test_an_input_or_message_with_lone_surrogates_is_written() -> None:
    record = from_outcome(0, "/tmp/caf\udce9", outcome(None, OSError("no /tmp/caf\udce9")))
    line = json.loads(Recorder("m:f").line(record))
    assert line["input"] == "/tmp/caf\udce9"
    assert line["error"]["message"] == "no /tmp/caf\udce9"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_what_json_has_comes_back_as_it_was(value: Any) -> None:
    assert written(value) == value
