"""Death certificates and losses: what they say, what is cut, and that a strange job cannot spoil them."""

from __future__ import annotations

import datetime
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from ztasks.errors import JobTimeout, PoisonJob, WorkerLost
from ztasks.wire import failures
from ztasks.wire.certificate import SHOWN_LINES, DeathCertificate
from ztasks.wire.loss import SHOWN_BYTES, Loss
from ztasks.wire.messages import Shape
from ztasks.wire.payload import Items, Pickled, dump, dump_call, pack, pack_primitives

MIB = 2**20

FULL = DeathCertificate(
    pid=7,
    host="here",
    signal="SIGKILL",
    reason="ztasks did this because it took 5 MiB of memory, more than the limit of 4 MiB",
    job="3.14",
    attempt=2,
    seconds=1.23456,
    peak_memory=5 * MIB,
    oom="the out-of-memory killer struck in its cgroup (oom_kill: 4)",
    stack='Current thread 0x1 (most recent call first):\n  File "job.py", line 3 in work\n',
    stderr="first\nlast\n",
)


# --- certificates ---


@pytest.mark.parametrize(
    ("certificate", "summary"),
    [
        (DeathCertificate(pid=7), "worker 7 is gone"),
        (DeathCertificate(pid=7, exit_code=0), "worker 7 exited with code 0"),
        (DeathCertificate(pid=7, exit_code=3, job="5"), "worker 7 exited with code 3"),
        (DeathCertificate(pid=7, signal="SIGSEGV"), "worker 7 was killed by SIGSEGV"),
        (DeathCertificate(pid=7, signal="SIGSEGV", seconds=2.0), "worker 7 was killed by SIGSEGV"),  # of no job
        (
            DeathCertificate(pid=7, signal="SIGSEGV", job="5", seconds=12345.6),
            "worker 7 was killed by SIGSEGV after running job 5 for 1.23e+04 s",
        ),
        (
            DeathCertificate(pid=7, exit_code=1, job="5", seconds=0.0, peak_memory=0),
            "worker 7 exited with code 1 after running job 5 for 0 s",
        ),
        (
            DeathCertificate(pid=7, signal="SIGKILL", oom="the killer struck"),
            "worker 7 was killed by SIGKILL; the killer struck",
        ),
        (
            FULL,
            "worker 7 was killed by SIGKILL after running job 3.14 for 1.23 s with a peak memory of 5 MiB; ztasks did "
            "this because it took 5 MiB of memory, more than the limit of 4 MiB; the out-of-memory killer struck in "
            "its cgroup (oom_kill: 4)",
        ),
    ],
)
def test_the_summary_says_what_is_known_in_one_line(certificate: DeathCertificate, summary: str) -> None:
    assert certificate.summary == summary
    assert str(certificate).splitlines()[0] == summary


def test_the_details_stand_on_lines_of_their_own() -> None:
    assert DeathCertificate(pid=7, exit_code=1).details == ""
    assert str(FULL).splitlines()[1:] == [
        "  stack:",
        "    Current thread 0x1 (most recent call first):",
        '      File "job.py", line 3 in work',
        "  stderr:",
        "    first",
        "    last",
    ]


def numbered(count: int) -> str:
    return "".join(f"line {number}\n" for number in range(count))


@pytest.mark.parametrize("head", ["", "Timeout (0:00:05)!\n", "Stack (most recent call first):\n", "Thread 0x1:\n"])
def test_of_a_long_stderr_the_end_is_shown_whatever_it_begins_with(head: str) -> None:
    details = DeathCertificate(pid=7, stderr=head + numbered(100)).details.splitlines()
    assert details[1] == "    ..."
    assert [line.strip() for line in details[2:]] == [f"line {number}" for number in range(88, 100)]


@pytest.mark.parametrize("head", ["Fatal Python error: Aborted", "Current thread 0x1:", "Thread 0x1:", "  File 1"])
def test_of_a_long_stack_the_beginning_is_shown_which_is_the_innermost_call(head: str) -> None:
    details = DeathCertificate(pid=7, stack=f"{head}\n{numbered(100)}").details.splitlines()
    assert details[1].strip() == head.strip()
    assert details[-2:] == ["    line 10", "    ..."]
    assert len(details) == 1 + SHOWN_LINES + 1


@pytest.mark.parametrize("field", ["stack", "stderr"])
def test_what_fits_is_not_cut(field: str) -> None:
    certificate = DeathCertificate(pid=7, **{field: numbered(SHOWN_LINES)})  # type: ignore[arg-type]
    assert "..." not in certificate.details
    assert getattr(certificate, field) == numbered(SHOWN_LINES), "the certificate itself has all"


# --- losses ---


class BrokenRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class ReprOfAnotherKind:
    def __repr__(self) -> Any:
        return 3


def refuse(*_: object) -> None:
    raise RuntimeError("not in this process")


class Unloadable:
    def __reduce__(self) -> Any:
        return refuse, (1,)


class Traced:
    """Notes that it was unpickled."""

    loaded = 0

    def __setstate__(self, state: object) -> None:
        Traced.loaded += 1


def loss_of(
    payload: Any, shape: Shape = "call", what: Any = "lost", certificates: tuple[DeathCertificate, ...] = (FULL,)
) -> Loss:
    history = tuple(f"attempt {number}: it died" for number in range(1, len(certificates) + 1))
    return Loss(
        0, "lost", "WorkerLost", "the job is lost", "", b"", False,
        what=what, name="work", shape=shape, payload=payload, history=history, certificates=certificates,
    )  # fmt: skip


def call_of(*args: Any, **kwargs: Any) -> str:
    error = failures.rebuild(loss_of(dump_call(args, kwargs)))
    assert isinstance(error, WorkerLost)
    assert error.certificate is not None
    return error.certificate.call


@pytest.mark.parametrize(
    ("args", "kwargs", "call"),
    [
        ((), {}, "work()"),
        ((1, "a"), {"b": [2]}, "work(1, 'a', b=[2])"),
        (("x" * 1000,), {}, f"work('{'x' * 27}...{'x' * 28}')"),
        ((list(range(1000)),), {}, "work([0, 1, 2, 3, 4, 5, ...])"),
        ((10**5000,), {}, None),
        ((b"y" * 100_000,), {}, None),
        (({n: n for n in range(1000)},), {}, None),
        ((BrokenRepr(), 5), {}, None),
        ((ReprOfAnotherKind(), 5), {}, None),
    ],
)
def test_a_loss_shows_the_call_with_its_arguments_shortened(
    args: tuple[Any, ...], kwargs: dict[str, Any], call: str | None
) -> None:
    shown = call_of(*args, **kwargs)
    assert call is None or shown == call
    assert shown.startswith("work(")
    assert shown.endswith(")")
    assert len(shown) < 200
    if len(args) == 2 and not isinstance(args[0], int):
        assert type(args[0]).__name__ in shown, "what has no repr is told by its type"
        assert shown.endswith(", 5)")


@pytest.mark.parametrize(
    ("payload", "shape", "call"),
    [
        (pack_primitives([3]), "one", "work(3)"),
        (pack([dump([3])]), "one", "work([3])"),
        (pack([dump((3, "a"))]), "star", "work(3, 'a')"),
        (pack([dump((3, "a"))]), "one", "work((3, 'a'))"),
        (dump_call((), {"key": pickle.PickleBuffer(b"z" * 70_000)}), "call", None),
    ],
)
def test_whatever_form_the_call_had_when_it_was_sent(payload: Any, shape: Shape, call: str | None) -> None:
    error = failures.rebuild(loss_of(payload, shape))
    assert isinstance(error, WorkerLost)
    assert error.certificate is not None
    assert error.certificate.call == call or (call is None and error.certificate.call.startswith("work(key="))


class Ends:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> Any:
        return os._exit, (3,)


class Point:
    def __init__(self, x: int, inner: object = None) -> None:
        self.x = x
        self.inner = inner


class Numbers(list[int]):
    pass


@pytest.mark.parametrize(
    ("args", "call"),
    [
        ((Unloadable(),), "work(refuse(1))"),
        ((1, [Unloadable()]), "work(1, [refuse(1)])"),
        ((Ends(),), "work(_exit(3))"),
        ((Point(1, Point(2)),), "work(Point(x=1, inner=Point(x=2, inner=None)))"),
        ((Numbers([1, 2]),), "work(<Numbers>)"),
        ((Point, len), "work(<Point>, <len>)"),
        ((datetime.date(2026, 11, 26), {1}, Path("/tmp")), "work(datetime.date(2026, 11, 26), {1}, PosixPath('/tmp'))"),
    ],
)
def test_arguments_are_shown_without_running_what_they_name(args: tuple[Any, ...], call: str) -> None:
    """It may be what has ended the workers."""
    assert call_of(*args) == call


def test_arguments_that_hold_themselves_are_shown() -> None:
    point = Point(1)
    point.inner = point
    assert call_of(point) == "work(Point(x=1, inner=...))"


def test_by_value_code_is_shown_without_being_made() -> None:
    number = 7
    assert call_of(lambda: number).startswith("work(")


def test_a_pickle_that_is_none_does_not_hide_the_loss() -> None:
    error = failures.rebuild(loss_of(b"no pickle"))
    assert str(error).startswith("the job is lost\n  call: work(... its arguments cannot be shown: ")


@pytest.mark.parametrize("form", ["bytes", "buffers", "items"])
def test_huge_arguments_are_not_unpickled_to_be_shown(form: str) -> None:
    Traced.loaded = 0
    ballast = bytes(SHOWN_BYTES)
    payload: Any = dump_call((Traced(), ballast), {})
    if form == "buffers":
        payload = dump_call((Traced(), pickle.PickleBuffer(bytearray(ballast))), {})
        assert isinstance(payload, Pickled)
    elif form == "items":
        payload = pack([dump((Traced(), ballast))])
        assert isinstance(payload, Items)
    error = failures.rebuild(loss_of(payload, "star" if form == "items" else "call"))
    assert Traced.loaded == 0
    assert "\n  call: work(... 262" in str(error)
    assert " bytes of arguments ...)\n" in str(error)


# --- what is raised ---


@pytest.mark.parametrize(("what", "kind"), [("lost", WorkerLost), ("poison", PoisonJob), ("timeout", JobTimeout)])
def test_a_loss_becomes_the_exception_that_says_it_all(what: str, kind: type[BaseException]) -> None:
    first = DeathCertificate(pid=5, exit_code=1)
    error: Any = failures.rebuild(loss_of(dump_call((1,), {}), what=what, certificates=(first, FULL)))
    assert type(error) is kind
    assert str(error).splitlines()[:3] == ["the job is lost", "  call: work(1)", "  stack:"]
    assert error.certificate.pid == 7
    assert error.certificate.call == "work(1)"
    assert error.__cause__ is None
    if what != "timeout":
        assert [certificate.pid for certificate in error.certificates] == [5, 7]
    if what == "poison":
        assert error.history == ("attempt 1: it died", "attempt 2: it died")


@pytest.mark.parametrize("what", ["lost", "poison", "timeout"])
def test_without_a_certificate_it_still_says_what_is_known(what: str) -> None:
    error: Any = failures.rebuild(loss_of(dump_call((1,), {}), what=what, certificates=()))
    assert str(error) == "the job is lost"
    assert error.certificate is None


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("what", ["lost", "poison", "timeout"])
def test_it_survives_a_pickle_with_all_its_certificates(what: str, protocol: int) -> None:
    error: Any = failures.rebuild(loss_of(dump_call((1,), {}), what=what))
    error.add_note("seen in the night")
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.certificate == error.certificate
    assert getattr(again, "certificates", None) == getattr(error, "certificates", None)
    assert getattr(again, "history", None) == getattr(error, "history", None)


def test_it_travels_as_what_a_job_raised() -> None:
    """A job that has an executor of its own, and fails with what that raised."""
    inner: Any = failures.rebuild(loss_of(dump_call((1,), {}), what="poison"))
    failure = failures.raised(0, inner)
    error = failures.rebuild(failure)
    assert type(error) is PoisonJob
    assert error.certificates == inner.certificates
