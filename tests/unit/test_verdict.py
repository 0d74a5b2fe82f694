"""Verdicts: which exceptions may be retried, judged where they are; and `Retry`, by which a job asks for it."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
from books import tell

from ztasks.errors import InvalidOption, JobCancelled, JobTimeout, RemoteError, ZtasksError
from ztasks.wire import failures
from ztasks.wire.callables import ship_judged
from ztasks.wire.messages import Failure, StartFailed, decode_from_worker, encode
from ztasks.wire.payload import load
from ztasks.wire.verdict import EVERYTHING, Judged, Retry, Verdict


class Mine(OSError):
    pass


@pytest.mark.parametrize(
    ("verdict", "error", "allowed"),
    [
        (EVERYTHING, ValueError(), True),
        (EVERYTHING, SystemExit(), True),
        (EVERYTHING, JobTimeout(), True),
        (EVERYTHING, Retry(), True),
        (Verdict((OSError,)), OSError(), True),
        (Verdict((OSError,)), Mine(), True),
        (Verdict((Mine,)), OSError(), False),
        (Verdict((OSError, ValueError)), ValueError(), True),
        (Verdict((OSError,)), KeyError(), False),
        (Verdict((OSError,)), JobTimeout(), False),
        (Verdict((Exception,)), KeyboardInterrupt(), False),
        (Verdict(()), OSError(), False),
        (Verdict(()), Retry(), True),
        (Verdict((OSError,)), Retry(), True),
        (Verdict(None, (OSError,)), OSError(), False),
        (Verdict(None, (OSError,)), Mine(), False),
        (Verdict(None, (OSError,)), KeyError(), True),
        (Verdict((OSError,), (Mine,)), OSError(), True),
        (Verdict((OSError,), (Mine,)), Mine(), False),
        (Verdict((Mine,), (OSError,)), Mine(), False),
        (Verdict(None, (Retry,)), Retry(), False),
        (Verdict(None, (ZtasksError,)), Retry(), False),
    ],
)
def test_what_is_allowed(verdict: Verdict, error: BaseException, allowed: bool) -> None:
    assert verdict.allows(error) is allowed
    assert failures.raised(0, error, verdict).retry is allowed


def test_a_stop_is_never_retried() -> None:
    assert not failures.raised(0, JobCancelled("stop"), EVERYTHING).retry


# --- how it gets to the worker ---


def test_a_callable_travels_with_its_verdict() -> None:
    verdict = Verdict((Mine, OSError), (TimeoutError,))
    loaded = load(ship_judged(tell, verdict).pickled)
    assert type(loaded) is Judged
    assert (loaded.function, loaded.verdict) == (tell, verdict)


def test_where_everything_may_be_retried_nothing_is_said() -> None:
    assert load(ship_judged(tell, EVERYTHING).pickled) is tell


def test_two_verdicts_on_one_callable_are_two_things_to_ship() -> None:
    keys = {ship_judged(tell, verdict).key for verdict in (EVERYTHING, Verdict((OSError,)), Verdict(None, (OSError,)))}
    assert len(keys) == 3


def test_an_exception_of_main_travels_by_value() -> None:
    local = type("Local", (Exception,), {"__module__": "__main__"})
    loaded = load(ship_judged(tell, Verdict((local,))).pickled)
    assert [kind.__name__ for kind in loaded.verdict.retry_on] == ["Local"]


# --- Retry ---


def arrived(error: BaseException) -> tuple[Failure, BaseException]:
    """Describe an error, send it through the codec and rebuild it."""
    message = decode_from_worker(encode(StartFailed(0, failures.raised(0, error))))
    assert isinstance(message, StartFailed)
    return message.failure, failures.rebuild(message.failure)


@pytest.mark.parametrize(("after", "seconds"), [(None, None), (0, 0.0), (2.5, 2.5), ("30s", 30.0), ("1m30s", 90.0)])
def test_retry_tells_its_pause(after: Any, seconds: float | None) -> None:
    failure, error = arrived(Retry(after))
    assert (failure.retry, failure.after) == (True, seconds)
    assert isinstance(error, Retry)
    assert error.after == seconds
    assert pickle.loads(pickle.dumps(Retry(after))).after == seconds


def test_retry_tells_why() -> None:
    _, error = arrived(Retry("1s", "the server is busy"))
    assert str(error) == "the server is busy"
    assert str(Retry()) == "the job asked to be run again"


@pytest.mark.parametrize("after", [-1, "soon", math.nan, math.inf, True, [], "-3s"])
def test_a_pause_that_is_none_is_refused_in_the_job(after: Any) -> None:
    with pytest.raises(InvalidOption, match=r"^after must be"):
        Retry(after)


class Again(Retry):
    """A job's own kind of Retry, which knows better than its base class."""

    def __init__(self, server: str) -> None:
        super().__init__(3.0, f"{server} is busy")


class Careless(Retry):
    def __init__(self, after: Any) -> None:
        super().__init__()
        self.after = after


def test_a_kind_of_retry_counts_as_one_even_if_it_does_not_travel() -> None:
    failure, error = arrived(Again("example.org"))
    assert (failure.retry, failure.after) == (True, 3.0)
    assert isinstance(error, Again | RemoteError)
    assert "example.org is busy" in str(error)


@pytest.mark.parametrize("after", ["soon", True, -1.0, math.nan, math.inf, 1e12, object()])
def test_a_pause_that_only_a_subclass_could_mean_is_none(after: Any) -> None:
    """Whatever goes wrong in a job's exception: the report arrives, and the books of the head hold no such number."""
    failure, _ = arrived(Careless(after))
    assert (failure.retry, failure.after) == (True, None)
