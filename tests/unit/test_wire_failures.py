"""Failures: described in the worker, rebuilt at the caller, whatever the exception's class gets up to."""

from __future__ import annotations

import pickle
import traceback
from typing import Any

import pytest

from ztasks.errors import (
    CallNotLoadable,
    JobTimeout,
    PoisonJob,
    RemoteError,
    RemoteTraceback,
    ResultNotPicklable,
    WorkersCannotStart,
    remote_traceback,
)
from ztasks.wire import failures
from ztasks.wire.messages import Failure, StartFailed, decode_from_worker, encode


def raise_it(error: BaseException) -> BaseException:
    """Raise and catch an exception, so that it has a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


def travel(failure: Failure) -> BaseException:
    """Send a failure through the codec and rebuild the exception."""
    message = decode_from_worker(encode(StartFailed(0, failure)))
    assert isinstance(message, StartFailed)
    return failures.rebuild(message.failure)


def sent(error: BaseException) -> BaseException:
    return travel(failures.raised(0, raise_it(error)))


class TwoArguments(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


class TwoArgumentsDoneRight(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("holds a generator")
        self.held = (x for x in ())


class BrokenStr(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class ExitingStr(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class ExitingReduce(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit(3)


class AnotherComesBack(Exception):
    def __reduce__(self) -> Any:
        return ValueError, ("something else",)


class StrOfItsOwn(str):
    __slots__ = ()


class OddStr(Exception):
    def __str__(self) -> str:
        return StrOfItsOwn("odd")


class WithBuffer(Exception):
    pass


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        ValueError(),
        KeyError("key"),
        FileNotFoundError(2, "No such file", "x.txt"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        TwoArgumentsDoneRight(3, "why"),
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
        BaseExceptionGroup("worse", [SystemExit(1)]),
        OddStr(),
        BrokenStr("x"),
        RemoteError("Other", "from a nested executor", "its traceback"),
        PoisonJob("died", ("attempt 1: died",)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_it_arrives_as_its_own_type(error: BaseException) -> None:
    back = sent(error)
    assert type(back) is type(error)
    assert back.args == error.args or isinstance(error, BaseExceptionGroup | RemoteError)
    assert vars(back) == vars(error)


@pytest.mark.parametrize(
    ("error", "type_name", "message"),
    [
        (TwoArguments(3, "why"), "test_wire_failures.TwoArguments", "3: why"),
        (Unpicklable(), "test_wire_failures.Unpicklable", "holds a generator"),
        (ExitingReduce("x"), "test_wire_failures.ExitingReduce", "x"),
        (AnotherComesBack("x"), "test_wire_failures.AnotherComesBack", "x"),
        (ValueError("x", lambda: (yield)), "ValueError", "x"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_travel_is_stood_for(error: BaseException, type_name: str, message: str) -> None:
    if isinstance(error, ValueError):
        error.args = ("x",)
        error.held = iter([].__iter__, 1)  # type: ignore[attr-defined]  # does not pickle
        error.generator = (x for x in ())  # type: ignore[attr-defined]
    back = sent(error)
    assert isinstance(back, RemoteError)
    assert (back.type_name, back.message) == (type_name, message)
    assert str(back) == f"{type_name}: {message}"
    assert f"{type_name}: {message}" in back.traceback
    assert remote_traceback(back) == back.traceback


@pytest.mark.parametrize("error", [BrokenStr("x"), ExitingStr("x")])
def test_a_broken_str_does_not_hide_the_error(error: BaseException) -> None:
    failure = failures.raised(0, raise_it(error))
    assert failure.message == "<its __str__ raised>"
    assert type(error).__name__ in failure.traceback


@pytest.mark.parametrize("error", [ValueError("file \udcff\udc80"), KeyError("\ud800"), OSError(2, "no", "\udcff")])
def test_undecodable_file_names_can_be_reported(error: BaseException) -> None:
    failure = failures.raised(0, raise_it(error))
    assert "\\udc" in failure.message or "\\ud8" in failure.message
    assert sent(error).args == error.args


def test_the_traceback_comes_along_as_the_cause() -> None:
    back = sent(ValueError("no"))
    text = remote_traceback(back)
    assert text is not None
    assert isinstance(back.__cause__, RemoteTraceback)
    assert text.startswith("Traceback (most recent call last):")
    assert "in raise_it" in text
    assert "ValueError: no" in text
    assert "in raise_it" in "".join(traceback.format_exception(back)), "it is shown where the error is"


def test_the_traceback_tells_causes_contexts_groups_and_notes() -> None:
    error = ExceptionGroup("several", [raise_it(ValueError("a")), raise_it(KeyError("b"))])  # type: ignore[list-item]
    error.add_note("look at the input")
    error.__cause__ = raise_it(OSError("disk"))
    text = remote_traceback(sent(error)) or ""
    for told in ("ExceptionGroup: several", "ValueError: a", "KeyError: 'b'", "look at the input", "OSError: disk",
                 "direct cause"):  # fmt: skip
        assert told in text


def test_notes_arrive() -> None:
    error = ValueError("no")
    error.add_note("line 7")
    assert sent(error).__notes__ == ["line 7"]


def test_the_workers_own_frames_are_left_out() -> None:
    namespace: dict[str, Any] = {"__name__": "ztasks.io.runner"}
    exec("def run(function): function()", namespace)

    def job() -> None:
        raise ValueError("no")

    try:
        namespace["run"](job)
    except ValueError as error:
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
        failure = failures.raised(0, error)
    assert "in job" in failure.traceback
    assert "in run" not in failure.traceback


def test_large_buffers_do_not_travel_with_an_exception() -> None:
    error = WithBuffer(pickle.PickleBuffer(bytearray(100_000)))
    back = sent(error)
    assert isinstance(back, RemoteError)


def test_a_class_that_breaks_at_the_caller_only_is_stood_for() -> None:
    failure = Failure(0, "raised", "app.Odd", "odd", "Traceback ...", b"cmissing_module\nOdd\n.", True)
    back = travel(failure)
    assert isinstance(back, RemoteError)
    assert back.type_name == "app.Odd"
    assert isinstance(travel(Failure(0, "raised", "X", "", "", pickle.dumps("no exception"), True)), RemoteError)


def test_a_raised_error_may_be_retried_and_others_may_not() -> None:
    error = raise_it(ValueError("no"))
    verdicts = [
        failures.raised(0, error).retry,
        failures.raised(0, JobTimeout("late")).retry,
        failures.not_loadable(0, "it", error).retry,
        failures.not_picklable(0, 1, error).retry,
        failures.start_failed("it", error).retry,
    ]
    assert verdicts == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("failure", "kind", "told"),
    [
        (
            failures.not_loadable(3, "the arguments of this job", ModuleNotFoundError("No module named 'x'", name="x")),
            CallNotLoadable,
            ["could not load the arguments of this job", "The module 'x' cannot be imported on", "did not run"],
        ),
        (
            failures.not_loadable(3, "the callable of this job", AttributeError("no f")),
            CallNotLoadable,
            ["AttributeError: no f", "define the function in __main__"],
        ),
        (
            failures.not_picklable(3, (x for x in ()), TypeError("cannot pickle 'generator' object")),
            ResultNotPicklable,
            ["builtins.generator", "cannot pickle 'generator' object", "Return a list"],
        ),
        (failures.start_failed("the initializer", OSError("disk")), WorkersCannotStart, ["the initializer raised OSE"]),
        (failures.raised(3, JobTimeout("ran longer than 3 s")), JobTimeout, ["ran longer than 3 s"]),
    ],
)
def test_each_kind_is_rebuilt_as_its_error(failure: Failure, kind: type, told: list[str]) -> None:
    back = travel(failure)
    assert type(back) is kind
    for part in told:
        assert part in str(back)


def test_rebuilding_knows_every_kind_there_is() -> None:
    kinds = Failure.__annotations__["kind"]
    for kind in eval(kinds, vars(__import__("typing"))).__args__:
        assert isinstance(travel(Failure(0, kind, "X", "x", "", b"", False)), Exception)
