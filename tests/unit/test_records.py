"""Records: the fields, the statuses, and that every job becomes a line of JSON."""

import json
import math
from concurrent.futures import CancelledError
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztasks.errors import (
    HeadFailed,
    JobTimeout,
    PoisonJob,
    RemoteError,
    RemoteTraceback,
    WorkerLost,
    WorkersCannotStart,
)
from ztasks.io.deliver import WorkerName
from ztasks.outcome import Outcome
from ztasks.runs.command import CommandFailed
from ztasks.runs.encoding import Encoder
from ztasks.runs.records import (
    FAILURES,
    STATUSES,
    JobError,
    Record,
    Recorder,
    describe,
    from_outcome,
    from_unreadable,
    status_of,
)
from ztasks.wire.certificate import DeathCertificate

FIELDS = ["v", "index", "key", "input", "ok", "status", "result", "error", "started", "seconds", "attempts"]
FIELDS += ["host", "pid", "max_rss"]
KEY = "9a3eba37fb76e983"
DIED = (DeathCertificate(pid=7, signal="SIGSEGV"),)


def outcome(value: Any = None, exception: BaseException | None = None) -> Outcome[Any]:
    return Outcome(0, ("x",), value, exception, 1700000000.5, 0.25, 1, WorkerName("host", 7), 4096)


def record(input_: Any, done: Outcome[Any], recorder: Recorder) -> Record:
    result = recorder.encode_result(done.value)[0] if done.exception is None else b"null"
    return from_outcome(3, KEY, Encoder().encode(input_), done, result)


def written(input_: Any, done: Outcome[Any], recorder: Recorder | None = None) -> dict[str, Any]:
    """The record as a strict reader finds it."""
    recorder = recorder or Recorder()
    line = recorder.line(record(input_, done, recorder))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    found = json.loads(line, parse_constant=pytest.fail)
    assert isinstance(found, dict)
    return found


def test_the_record_of_a_success() -> None:
    found = written({"a": 1}, outcome([1, None]))
    assert list(found) == FIELDS
    assert found == {
        "v": 1,
        "index": 3,
        "key": KEY,
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
    found = written("x", outcome(None, error))
    assert list(found) == FIELDS
    assert found["ok"] is False
    assert found["status"] == "failed"
    assert found["result"] is None
    assert found["error"] == {"type": "ValueError", "message": "no good", "traceback": "Traceback: there"}


def test_the_record_of_a_program_that_failed() -> None:
    found = written("x", outcome(None, CommandFailed(3, "one\nno such codec\n")))
    assert found["error"] == {
        "type": "CommandFailed",
        "message": "exit code 3: no such codec",
        "traceback": None,
        "exit_code": 3,
        "stderr": "one\nno such codec\n",
    }


def test_the_record_of_a_job_that_never_ran() -> None:
    found = written("x", Outcome(0, ("x",), None, CancelledError(), None, 0.0, 0, None))
    assert found["status"] == "cancelled"
    assert found["error"]["message"] == "cancelled before it was started"
    assert [found[name] for name in ("started", "attempts", "host", "pid", "max_rss")] == [None, 0, None, None, None]


def test_the_record_of_an_input_that_is_no_call() -> None:
    line = Recorder().line(from_unreadable(5, KEY, b'"{oops"', "line 6 of x is not JSON: why"))
    found = json.loads(line)
    assert list(found) == FIELDS
    assert (found["index"], found["key"], found["input"]) == (5, KEY, "{oops")
    assert (found["ok"], found["status"], found["attempts"]) == (False, "failed", 0)
    assert found["error"] == {"type": "InvalidInput", "message": "line 6 of x is not JSON: why", "traceback": None}


def test_what_is_not_always_there_comes_last() -> None:
    recorder = Recorder("0123abcd")
    made = record("x", outcome(1), recorder)
    made.log, made.pickle = "logs/x.log", "out.pickle"
    found = json.loads(recorder.line(made))
    assert list(found) == [*FIELDS, "source", "log", "pickle"]
    assert (found["source"], found["log"], found["pickle"]) == ("0123abcd", "logs/x.log", "out.pickle")


# --- results ---


def test_a_result_tells_whether_json_holds_it() -> None:
    recorder = Recorder()
    assert recorder.encode_result([1, math.nan]) == (b"[1,null]", True)
    assert recorder.encode_result({"a": 1j}) == (b'{"a":{"$repr":"1j","$type":"complex"}}', False)
    assert recorder.encode_result("x") == (b'"x"', True)
    assert recorder.changed == {"NaN or infinity": 1}


# --- what is no UTF-8 ---


@pytest.mark.parametrize("input_", ["/tmp/caf\udce9", {"path": "/tmp/caf\udce9"}, "plain"])
@pytest.mark.parametrize("message", ["no /tmp/caf\udce9", "plain"])
def test_lone_surrogates_are_written(input_: Any, message: str) -> None:
    found = written(input_, outcome(None, OSError(message)))
    assert found["input"] == input_
    assert found["error"] == {"type": "OSError", "message": message, "traceback": None}
    assert list(found) == FIELDS


def test_lone_surrogates_in_all_that_may_be_there() -> None:
    recorder = Recorder("0123abcd")
    made = record("caf\udce9", outcome({"\udce9": [1.5]}), recorder)
    made.log = made.pickle = "caf\udce9"
    made.error = describe(CommandFailed(1, "caf\udce9"))
    found = json.loads(recorder.line(made))
    assert list(found) == [*FIELDS, "source", "log", "pickle"]
    assert (found["input"], found["result"]) == ("caf\udce9", {"\udce9": [1.5]})
    assert found["log"] == found["pickle"] == found["error"]["stderr"] == "caf\udce9"
    assert found["error"]["exit_code"] == 1


texts = st.text(st.characters(codec=None), max_size=20)


@given(texts, texts, texts)
def test_any_text_is_written(input_: str, message: str, traceback: str) -> None:
    found = written([input_], outcome(None, RemoteError("my.Error", message, traceback)))
    assert found["input"] == [input_]
    assert found["error"] == {"type": "my.Error", "message": message, "traceback": traceback}


# --- statuses and errors ---


@pytest.mark.parametrize(
    ("exception", "status"),
    [
        (ValueError(), "failed"),
        (TimeoutError(), "failed"),
        (SystemExit(3), "failed"),
        (CommandFailed(1, ""), "failed"),
        (RemoteError("T", "m", "tb"), "failed"),
        (JobTimeout("late"), "timeout"),
        (WorkerLost("gone", DIED), "lost"),
        (PoisonJob("poison", ("a",), DIED), "lost"),
        (PoisonJob("poison", ("a",)), "lost"),
        (WorkerLost("killed by us"), "cancelled"),
        (WorkersCannotStart("why"), "cancelled"),
        (HeadFailed("why"), "cancelled"),
        (CancelledError(), "cancelled"),
    ],
)
def test_statuses(exception: BaseException, status: str) -> None:
    assert status_of(exception) == status
    assert status in STATUSES


def test_failures_are_what_is_neither_ok_nor_cancelled() -> None:
    assert set(STATUSES) - set(FAILURES) == {"ok", "cancelled"}


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


def test_a_record_comes_back_as_it_was_written() -> None:
    recorder = Recorder("0123abcd")
    made = record({"a": [1]}, outcome({"b": 2}), recorder)
    back = msgspec.json.decode(recorder.line(made), type=Record)
    assert (back.input, back.result, back.source) == ({"a": [1]}, {"b": 2}, "0123abcd")
    assert back.log is msgspec.UNSET
    failed = recorder.line(record("x", outcome(None, CommandFailed(-9, "tail")), recorder))
    assert msgspec.json.decode(failed, type=Record).error == JobError(
        "CommandFailed", "killed by SIGKILL: tail", None, -9, "tail"
    )
