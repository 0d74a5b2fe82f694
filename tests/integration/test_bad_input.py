"""Bad input: each parameter of all that is public is tried with all kinds of values that make no sense.

What must hold: the call that got it raises an error of ztasks (or the one that Python itself has for it), which names
the parameter and is short enough to be read; and the executor works as before. What is accepted must work, too.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bad_jobs
import jobs
import pytest
import support

import ztasks
from ztasks import CallNotPicklable, Executor, InvalidOption, ZtasksError

Oddities = dict[str, Any]


@pytest.fixture(scope="module")
def odd() -> Iterator[Oddities]:
    with bad_jobs.odd_values() as values:
        yield values


@pytest.fixture(autouse=True)
def _probe(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test the shared executor, if it was used, runs jobs as before."""
    yield
    if "shared" in request.fixturenames:
        executor = request.getfixturevalue("shared")
        assert executor.submit(jobs.square, 7).result(support.DEADLINE) == 49
        assert list(executor.map(jobs.square, range(5))) == [0, 1, 4, 9, 16]
        assert not executor._maps


def complaints(odd: Oddities, call: Callable[[Any], object], accepted: set[str], said: str) -> list[str]:
    """Call with each value; say what went otherwise than it should."""
    assert accepted <= odd.keys(), "a name of a value is wrong"
    found = []
    for name, value in odd.items():
        try:
            call(value)
        except ZtasksError as error:
            text = str(error)
            if name in accepted:
                found.append(f"{name}: refused: {text[:200]}")
            elif said not in text or not 20 < len(text) < 1000:
                found.append(f"{name}: the message does not help: {text[:200]}")
            elif not text.isprintable() and "\n" not in text:
                found.append(f"{name}: the message cannot be printed: {text[:200]!a}")
        except BaseException as error:
            found.append(f"{name}: {type(error).__name__} came out")
        else:
            if name not in accepted:
                found.append(f"{name}: accepted")
    return found


def check(odd: Oddities, call: Callable[[Any], object], accepted: set[str], said: str) -> None:
    """Call with each value: those that are not accepted must be refused, with a message that says `said`."""
    found = complaints(odd, call, accepted, said)
    assert not found, "\n".join(found)


# --- what is accepted ---

WHOLE = {"1", "a broken int"}
DURATIONS = {"0", "1", "2**31", "2**63", "10**100", "1.5", "1e308", "a digit", "a duration", "a broken int"}
SIZES = {"0", "1", "2**31", "a digit", "a size", "a broken int"}
FLAGS = {"True", "False"}
CALLABLES = {"a class", "an exception type", "a lambda"}
WORDS = {"a word", "a digit", "a duration", "a size", "nul", "a long string", "a long digit", "no text"}
NAMES = {"a word", "a digit", "a duration", "a size", "a broken string"}
WAITS = {
    "None", "0", "1", "-1", "2**31", "2**63", "10**100", "-10**100", "10**5000", "1.5", "-1.5", "inf", "-inf", "1e308",
    "-1e308", "a decimal", "a fraction", "a digit", "a duration", "a broken int",
}  # fmt: skip

OPTIONS: dict[str, set[str]] = {
    "name": (WORDS - {"a long string", "a long digit", "no text"}) | {"None", "a broken string"},
    "retries": {"0", "1", "a broken int"},
    "crash_retries": {"None", "0", "1", "a broken int"},
    "backoff": DURATIONS,
    "max_backoff": DURATIONS,
    "grace": DURATIONS,
    "timeout": DURATIONS - {"0"} | {"None"},
    "jitter": {"0", "1"},
    "retry_on": {"None", "an exception type", "an empty list", "an empty tuple"},
    "no_retry_on": {"an exception type", "an empty list", "an empty tuple"},
    "at_most_once": FLAGS,
    "cpus": WHOLE,
    "memory": SIZES | {"None"},
    "queue": NAMES,
    "tags": NAMES | {"an empty list", "an empty tuple"},
    "resources": {"an empty tuple", "an empty dict", "a dict"},
    "priority": {"0", "1", "-1", "a broken int"},
    "expires": DURATIONS - {"0"} | {"None"},
}

EXECUTOR: dict[str, set[str]] = {
    "max_workers": {"1"},
    "initializer": {"None"},
    "initargs": {"an empty tuple", "an empty list", "a list", "a tuple", "a range", "a memoryview"},
    "preload": {"an empty list", "an empty tuple"},
    "max_tasks_per_child": {"None", "1"},
    "max_memory_per_child": {"None"},
    "kill_memory_per_child": {"None"},
    "max_bytes": {"None"},
    "memory": {"None", "1"},
    "gpus": {"None"},
    "output": {"None", "a lambda"},
}
"""Of what is accepted as well, but would start thousands of workers, the rest is left to other tests."""

LEFT_OUT: dict[str, set[str]] = {
    "max_workers": {"None", "a broken int"},
    "initializer": CALLABLES,
    "initargs": {"a long list", "a deep list"},
    "max_tasks_per_child": {"a broken int"},
    "output": CALLABLES,
    **dict.fromkeys(("max_memory_per_child", "kill_memory_per_child", "max_bytes", "memory"), SIZES),
    "gpus": WHOLE,
}

MAP: dict[str, set[str]] = {
    "timeout": WAITS,
    "chunksize": WHOLE,
    "buffersize": WHOLE | {"None"},
    "buffer_bytes": SIZES,
    "return_exceptions": FLAGS,
    "ordered": FLAGS,
}

# --- options ---

WAYS: dict[str, Callable[[str, Any], Any]] = {
    "task": lambda name, value: ztasks.task(**{name: value})(jobs.echo),
    "options": lambda name, value: ztasks.options(jobs.echo, **{name: value}),
    "Task.options": lambda name, value: ztasks.task(jobs.echo).options(**{name: value}),
    "Options": lambda name, value: ztasks.Options(**{name: value}),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("way", WAYS)
def test_options(odd: Oddities, way: str, name: str) -> None:
    check(odd, lambda value: WAYS[way](name, value), OPTIONS[name], name)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_are_accepted_work(odd: Oddities, shared: Executor, name: str) -> None:
    for value in OPTIONS[name]:
        task = ztasks.options(jobs.echo, **{name: odd[value]})
        try:
            assert shared.submit(task, value).result(support.DEADLINE) == value
        except ztasks.TooLarge:
            assert name == "memory"


def test_an_option_that_does_not_exist() -> None:
    for call in (ztasks.task, lambda **how: ztasks.options(len, **how), ztasks.task(len).options):
        with pytest.raises(InvalidOption, match=r"unknown option retrys; the options .*retries") as caught:
            call(retrys=3)
        assert len(str(caught.value)) < 1000
        with pytest.raises(InvalidOption) as caught:
            call(**{"x" * 1_000_000: 1})
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("make", [ztasks.task, ztasks.options, ztasks.Task], ids=["task", "options", "Task"])
def test_what_is_made_a_task(odd: Oddities, make: Any) -> None:
    accepted = CALLABLES | ({"None"} if make is ztasks.task else set())
    if make is ztasks.options:  # it takes names as well
        names = {what: value for what, value in odd.items() if isinstance(value, str)}
        check(names, make, set(), "a task is sent by a name such as")
        odd = {what: value for what, value in odd.items() if what not in names}
    check(odd, make, accepted, "a task needs a callable")
    check(odd, ztasks.task(), CALLABLES, "a task needs a callable")


def test_the_default(odd: Oddities) -> None:
    check(odd, ztasks.set_default, {"None"}, "the default must be")


def test_options_of_a_task_as_an_object(odd: Oddities) -> None:
    check(odd, lambda value: ztasks.Task(jobs.echo, value), set(), "options must be ztasks.Options")


# --- the executor ---


@pytest.mark.parametrize("name", EXECUTOR)
def test_constructor(odd: Oddities, name: str) -> None:
    def make(value: Any) -> None:
        more = {"max_workers": 1, "initializer": jobs.initialize} if name == "initargs" else {"max_workers": 1}
        with Executor(**{**more, name: value}) as executor:  # type: ignore[arg-type]
            assert executor.submit(pow, 2, 3).result(support.DEADLINE) == 8

    values = {what: value for what, value in odd.items() if what not in LEFT_OUT.get(name, set()) - EXECUTOR[name]}
    check(values, make, EXECUTOR[name], name)


@pytest.mark.parametrize("how", ["map", "map_unordered", "outcomes"])
@pytest.mark.parametrize("name", MAP)
def test_map(odd: Oddities, shared: Executor, how: str, name: str) -> None:
    if name == ("ordered" if how != "outcomes" else "return_exceptions"):
        pytest.skip("it has no such parameter")

    def map_(value: Any) -> None:
        results = getattr(shared, how)(jobs.echo, [1, 2, 3], **{name: value})
        try:
            found = sorted(getattr(result, "value", result) for result in results)
        except TimeoutError:
            assert name == "timeout"
        else:
            assert found == [1, 2, 3]

    check(odd, map_, MAP[name], name)


def test_what_is_called(odd: Oddities, shared: Executor) -> None:
    calls: list[Callable[[Any], Any]] = [
        shared.submit,
        lambda value: shared.map(value, []),
        lambda value: shared.map_unordered(value, []),
        lambda value: shared.outcomes(value, []),
        lambda value: shared.stream(value).close(),
    ]
    for call in calls:
        check(odd, call, CALLABLES, "a job needs a callable")


class Odd:
    """A callable whose method of some other name is broken."""

    def __init__(self, name: str) -> None:
        self.__class__ = type("Odd", (Odd,), {name: bad_jobs._refuse})

    def __call__(self) -> int:
        return 5


@pytest.mark.parametrize("name", bad_jobs.METHODS)
def test_callables_with_a_broken_method(shared: Executor, name: str) -> None:
    """They are run, where the method is not needed, or refused."""
    if name in ("__getattr__", "__reduce_ex__"):
        with pytest.raises((InvalidOption, CallNotPicklable), match="Refused: no"):
            shared.submit(Odd(name))
    else:
        assert shared.submit(Odd(name)).result(support.DEADLINE) == 5


async def coroutine() -> None:
    return None


async def asynchronous_generator() -> Any:
    yield 1


class AsynchronousCall:
    async def __call__(self) -> None:
        return None


@pytest.mark.parametrize("fn", [coroutine, asynchronous_generator, AsynchronousCall(), ztasks.task(coroutine)])
def test_coroutines(shared: Executor, fn: Any) -> None:
    for call in (shared.submit, lambda fn: shared.map(fn, [1]), lambda fn: Executor(1, initializer=fn)):
        with pytest.raises(InvalidOption, match=r"coroutine function.*asyncio\.run"):
            call(fn)


# --- arguments and inputs ---

NOT_PICKLABLE = {
    *("a lock", "a list with a lock", "a socket", "a file", "a generator", "a deep list", "a broken list"),
    *("broken __reduce_ex__", "all broken"),
}


def check_pickling(odd: Oddities, call: Callable[[Any], Any], said: str) -> None:
    """Call with each value; those that cannot be pickled must be refused with the right error, and only those."""

    def call_and_look(value: Any) -> None:
        try:
            call(value)
        except ZtasksError as error:
            if type(error) is not CallNotPicklable:
                raise RuntimeError("the wrong error") from error
            raise

    check(odd, call_and_look, odd.keys() - NOT_PICKLABLE, said)


def test_arguments(odd: Oddities, shared: Executor) -> None:
    futures: list[Any] = []
    calls: dict[str, Callable[[Any], None]] = {
        "argument 0": lambda value: futures.append(shared.submit(bad_jobs.anything, value)),
        "argument 1": lambda value: futures.append(shared.submit(bad_jobs.anything, 1, value)),
        "argument 'key'": lambda value: futures.append(shared.submit(bad_jobs.anything, key=value)),
    }
    for said, call in calls.items():
        check_pickling(odd, call, said)
    assert {future.exception(support.DEADLINE) for future in futures} == {None}
    assert {future.result() for future in futures} == {1, 2}


@pytest.mark.parametrize("how", ["map", "map_unordered", "outcomes"])
def test_inputs(odd: Oddities, shared: Executor, how: str) -> None:
    """What cannot be pickled is raised at its place; what came before it is handed out."""

    def map_(value: Any) -> None:
        got = list(getattr(shared, how)(bad_jobs.anything, [0, 1, value, 3]))
        assert [getattr(result, "value", result) for result in got] == [1, 1, 1, 1]

    check_pickling(odd, map_, "input 2")


def test_calls_of_a_stream(odd: Oddities, shared: Executor) -> None:
    def feed(*calls: Any) -> list[Any]:
        stream = shared.stream(bad_jobs.anything, ordered=True)
        try:
            stream.feed(calls)
        finally:
            outcomes = list(stream)
            assert [outcome.value for outcome in outcomes][:2] == [1, 1]
        return outcomes

    good = ((1,), {}), ((), {"a": 1})
    check_pickling(odd, lambda value: feed(*good, ((value,), {})), "call 2")
    check_pickling(odd, lambda value: feed(*good, ((), {"key": value})), "call 2")
    check(odd, lambda value: feed(*good, value), set(), "call 2 of this stream must be")
    for call in (((1,),), ((1,), {}, 3), (1, {}), ((1,), [1]), ((1,), {1: 2}), [(1,), {}]):
        with pytest.raises(InvalidOption, match="call 2 of this stream must be"):
            feed(*good, call)


def test_what_a_stream_is_fed(odd: Oddities, shared: Executor) -> None:
    def feed(value: Any) -> None:
        stream = shared.stream(bad_jobs.anything)
        try:
            stream.feed(value)
        finally:
            assert list(stream) == []

    empty = {"an empty string", "empty bytes", "an empty list", "an empty tuple", "an empty dict", "a file"}
    values = {
        name: value
        for name, value in odd.items()
        if "__iter__" not in name and name not in ("all broken", "a broken list")
    }
    check(values, feed, empty, "must be a")
    stream = shared.stream(bad_jobs.anything)
    stream.feed([])
    with pytest.raises(InvalidOption, match="fed once"):
        stream.feed([((1,), {})])
    assert list(stream) == []
    check(odd, lambda value: shared.stream(len, ordered=value).close(), FLAGS, "ordered")


# --- iterables ---


class Input:
    """An iterable over three numbers, of which one thing is odd."""

    def __init__(self, **methods: Callable[..., Any]) -> None:
        self.__class__ = type("Input", (Input,), {f"__{name}__": method for name, method in methods.items()})

    def __iter__(self) -> Any:
        return iter([1, 2, 3])


def raises(self: Any) -> Any:
    raise bad_jobs.Refused("the input's own")


def endless(self: Any) -> Iterator[int]:
    while True:
        yield 1


def raises_at(place: int) -> Callable[[Any], Iterator[int]]:
    def numbers(self: Any) -> Iterator[int]:
        yield from range(place)
        raise bad_jobs.Refused("the input's own")

    return numbers


GOOD: dict[str, Any] = {
    "a length that raises": Input(len=raises),
    "a negative length": Input(len=lambda self: -1),
    "a huge length": Input(len=lambda self: 2**63),
    "a length that is no number": Input(len=lambda self: "3"),
    "a length that is too small": Input(len=lambda self: 1),
    "a length that is too large": Input(len=lambda self: 10**9),
    "a length of None": Input(len=lambda self: None),
    "a hint that raises": Input(length_hint=raises),
    "a hint that lies": Input(length_hint=lambda self: 10**12),
    "no truth": Input(bool=raises),
    "no hash, no equality": Input(eq=raises, hash=raises),
    "no text": Input(repr=raises, str=raises),
    "items by number": type("Old", (), {"__getitem__": lambda self, at: [1, 2, 3][at]})(),
}
BAD: dict[str, tuple[Any, type[BaseException], str]] = {
    "no iterator": (Input(iter=lambda self: 5), InvalidOption, "cannot be iterated over"),
    "an iterator that raises": (Input(iter=raises), bad_jobs.Refused, "the input's own"),
    "iteration forbidden": (type("Forbidden", (), {"__iter__": None})(), InvalidOption, "is no iterable"),
}


@pytest.mark.parametrize("how", ["map", "map_unordered", "outcomes"])
@pytest.mark.parametrize("what", GOOD)
def test_odd_iterables(shared: Executor, how: str, what: str) -> None:
    def values(*iterables: Any) -> list[Any]:
        results = getattr(shared, how)(bad_jobs.anything, *iterables, timeout=support.DEADLINE)
        return [getattr(result, "value", result) for result in results]

    assert values(GOOD[what]) == [1, 1, 1]
    assert values(range(100), GOOD[what]) == [2, 2, 2]
    assert values(GOOD[what], [1]) == [2]


@pytest.mark.parametrize("how", ["map", "map_unordered", "outcomes"])
@pytest.mark.parametrize("what", BAD)
def test_iterables_that_cannot_be_read(shared: Executor, how: str, what: str) -> None:
    iterable, kind, said = BAD[what]
    for iterables in ([iterable], [[1], iterable], [iterable, [1]]):
        with pytest.raises(kind, match=said):
            getattr(shared, how)(bad_jobs.anything, *iterables)


@pytest.mark.parametrize("how", ["map", "map_unordered", "outcomes"])
def test_what_is_no_iterable(odd: Oddities, shared: Executor, how: str) -> None:
    iterable = (WORDS - {"a long string", "a long digit"}) | {
        *("an empty string", "a broken string", "empty bytes", "bytes", "a bytearray", "a memoryview", "a range"),
        *("an empty list", "a list", "a tuple", "an empty tuple", "an empty dict", "a dict", "a set"),
        *("a generator", "an iterator", "a file"),
    }
    left_out = ("broken __", "a long ", "all ", "a broken list", "a list with a lock", "a deep list")
    values = {name: value for name, value in odd.items() if not name.startswith(left_out)}

    def map_(value: Any) -> None:
        list(getattr(shared, how)(bad_jobs.anything, value))

    check(values, map_, iterable, "iterable 1 of this map is no iterable")


@pytest.mark.parametrize("place", [0, 1, 100])
def test_an_iterable_that_raises_midway(shared: Executor, place: int) -> None:
    for iterables in ([Input(iter=raises_at(place))], [range(1000), Input(iter=raises_at(place))]):
        for how in ("map", "outcomes"):
            results = getattr(shared, how)(bad_jobs.anything, *iterables)
            for _ in range(place):
                next(results)
            with pytest.raises(bad_jobs.Refused, match="the input's own"):
                next(results)
            assert list(results) == []


def test_an_endless_iterable_whose_length_lies(shared: Executor) -> None:
    results = shared.map(bad_jobs.anything, Input(iter=endless, len=lambda self: 3))
    assert [next(results) for _ in range(1000)] == [1] * 1000
    results.close()  # type: ignore[attr-defined]


# --- futures ---


def test_waits(odd: Oddities, shared: Executor) -> None:
    done = shared.submit(pow, 2, 3)
    done.result()
    for call in (done.result, done.exception):
        check(odd, call, WAITS, "timeout")


def test_waits_for_what_has_not_ended(odd: Oddities, shared: Executor, tmp_path: Any) -> None:
    """A wait that is over at once is a TimeoutError; what is no wait is refused although nothing is there."""
    future = shared.submit(jobs.wait_for_file, str(tmp_path / "go on"))
    over = {"0", "-1", "-1.5", "-inf", "-1e308", "-10**100"}
    for wait in (future.result, future.exception):
        for name in over:
            with pytest.raises(TimeoutError):
                wait(odd[name])
        values = {name: value for name, value in odd.items() if name not in WAITS}
        check(values, wait, set(), "timeout")
    assert not future._sleepers
    (tmp_path / "go on").touch()
    threads = [
        threading.Thread(target=future.result, args=[odd[name]]) for name in ("inf", "1e308", "10**5000", "2**63")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(support.DEADLINE)
        assert not thread.is_alive()


def test_cancel_and_callbacks(odd: Oddities, shared: Executor) -> None:
    future = shared.submit(pow, 2, 3)
    assert future.result() == 8
    check(odd, lambda value: future.cancel(running=value), FLAGS, "running")
    check(odd, future.add_done_callback, CALLABLES, "callback must be callable")
    assert future.result() == 8


def test_a_future_is_not_for_its_holder_to_complete(odd: Oddities, shared: Executor, tmp_path: Any) -> None:
    future = shared.submit(jobs.wait_for_file, str(tmp_path / "go on"))
    for value in odd.values():
        for call in (future.set_result, future.set_exception):
            with pytest.raises(ZtasksError, match="completed by its executor"):
                call(value)
    with pytest.raises(ZtasksError, match="completed by its executor"):
        future.set_running_or_notify_cancel()
    assert not future.done()
    (tmp_path / "go on").touch()
    assert future.result(support.DEADLINE) is True


# --- no stack left ---


def at_depth(levels: int, call: Callable[[], Any]) -> Any:
    return call() if levels <= 0 else at_depth(levels - 1, call)


STACK_CALLS: dict[str, Callable[[Executor, list[Any]], Any]] = {
    "submit": lambda executor, futures: futures.append(executor.submit(jobs.echo, [1])),
    "submit by value": lambda executor, futures: futures.append(executor.submit(lambda: [1])),
    "result": lambda executor, futures: futures.append(executor.submit(jobs.echo, [1])) or futures[0].result(),
    "map": lambda executor, futures: list(executor.map(jobs.echo, [[1], 2, 3])),
    "outcomes": lambda executor, futures: list(executor.outcomes(jobs.echo, [[1], 2, 3])),
    "callback": lambda executor, futures: executor.submit(jobs.echo, [1]).add_done_callback(futures.append),
}


def sweep(call: Callable[[], Any]) -> int:
    """Call with less and less stack left, in a thread; return how often there was too little."""
    caught = 0

    def run() -> None:
        nonlocal caught
        room = sys.getrecursionlimit() - len(inspect.stack())
        for spare in range(80, 0, -1):
            try:
                at_depth(room - spare, call)
            except (RecursionError, CallNotPicklable):
                caught += 1

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(40)
    assert not thread.is_alive()
    return caught


@pytest.mark.parametrize("what", STACK_CALLS)
def test_calls_with_little_stack_left(what: str) -> None:
    """RecursionError may come out of a call at any point: then the job is not there, or it ends as any other."""
    call, futures = STACK_CALLS[what], list[Any]()
    with Executor(max_workers=2) as executor:
        assert executor.submit(pow, 2, 3).result(support.DEADLINE) == 8
        assert sweep(lambda: call(executor, futures)) > 3
        for future in futures:
            assert future.result(support.DEADLINE) == [1]
        assert executor.submit(pow, 2, 3).result(support.DEADLINE) == 8
    assert executor._inbox.taken == executor._inbox.freed, "bytes of the budget are lost"


def test_cancel_with_little_stack_left(tmp_path: Any) -> None:
    """What is left of a job that could not be cancelled all the way: it is cancelled, or it is run."""
    with Executor(max_workers=1) as executor:
        blocked = executor.submit(jobs.wait_for_file, str(tmp_path / "go on"))
        futures = [executor.submit(jobs.echo, [1]) for _ in range(100)]
        waiting = iter(futures)
        assert sweep(lambda: next(waiting).cancel()) > 3
        (tmp_path / "go on").touch()
        assert blocked.result(support.DEADLINE) is True
        for future in futures:
            assert future.cancelled() or future.result(support.DEADLINE) == [1]
    assert any(future.cancelled() for future in futures)


# --- the end ---


def test_shutdown(odd: Oddities) -> None:
    """A flag that is none leaves the executor open."""
    with Executor(max_workers=1) as executor:
        values = {what: value for what, value in odd.items() if what not in FLAGS}
        check(values, lambda value: executor.shutdown(wait=value), set(), "wait")
        check(values, lambda value: executor.shutdown(cancel_futures=value), set(), "cancel_futures")
        assert executor.submit(pow, 2, 3).result(support.DEADLINE) == 8


def test_after_the_end_each_call_says_so(odd: Oddities) -> None:
    executor = Executor(max_workers=1)
    executor.shutdown()
    for call in (executor.submit, executor.map, executor.map_unordered, executor.outcomes, executor.stream):
        check(odd, call, set(), "shutdown")
    executor.shutdown()
    executor.kill()
    assert executor.running() == []


# --- errors ---


def test_retry(odd: Oddities) -> None:
    check(odd, lambda value: ztasks.Retry(after=value), DURATIONS | {"None"}, "after")


def test_whatever_a_job_says_when_it_asks_for_another_attempt(odd: Oddities, shared: Executor) -> None:
    """As with any exception the message may be anything; the job fails with it, or with what stands for it."""
    for name in odd.keys() - NOT_PICKLABLE:
        error = shared.submit(bad_jobs.ask_for_another, odd[name]).exception(support.DEADLINE)
        assert isinstance(error, ztasks.Retry | ztasks.RemoteError), name


def test_remote_traceback(odd: Oddities) -> None:
    check(odd, ztasks.remote_traceback, {"an exception"}, "remote_traceback")


def test_a_task_outside_of_an_executor(odd: Oddities) -> None:
    task = ztasks.task(jobs.echo)
    for call in (task.submit, task.send, task.map, task.map_unordered, task.outcomes):
        check(odd, call, set(), "outside a `with")


# --- wrong numbers of arguments ---


@pytest.mark.parametrize(
    "call",
    [
        lambda executor: executor.submit(),
        lambda executor: executor.submit(fn=pow),
        lambda executor: executor.map(),
        lambda executor: executor.map(pow, [1], chunk=3),
        lambda executor: executor.outcomes(pow, [1], return_exceptions=True),
        lambda executor: executor.stream(),
        lambda executor: executor.stream(pow, True),
        lambda executor: executor.shutdown(True, True),
        lambda executor: executor.kill(True),
        lambda executor: executor.running(1),
        lambda executor: Executor(1, print),
        lambda executor: Executor(workers=3),
        lambda executor: ztasks.current_job(1),
        lambda executor: ztasks.options(),
        lambda executor: ztasks.task(pow, 3),
        lambda executor: ztasks.Options("name"),
        lambda executor: ztasks.remote_traceback(),
        lambda executor: executor.submit(pow, **{1: 2}),
    ],
)
def test_wrong_number_of_arguments(shared: Executor, call: Callable[[Executor], Any]) -> None:
    with pytest.raises(TypeError) as caught:
        call(shared)
    assert type(caught.value) is TypeError


@pytest.mark.parametrize(
    ("fn", "args", "kwargs"),
    [
        (jobs.square, (), {}),
        (jobs.square, (1, 2), {}),
        (jobs.keyword_only, (1,), {}),
        (jobs.square, (1,), {"number": 2}),
        (jobs.square, (1,), {"no such": 2}),
        (str.upper, (5,), {}),
    ],
)
def test_a_call_that_does_not_fit_its_function_fails_as_a_job(
    shared: Executor, fn: Any, args: Any, kwargs: Any
) -> None:
    """Its job fails, as with concurrent.futures: who could tell beforehand what a callable takes?"""
    error = shared.submit(fn, *args, **kwargs).exception(support.DEADLINE)
    assert type(error) is TypeError
    assert ztasks.remote_traceback(error) is not None


# --- files that are read ---


@pytest.mark.parametrize("read", [ztasks.read_records, ztasks.read_pickles])
def test_a_file_that_is_none(tmp_path: Path, read: Callable[[Any], Iterator[Any]]) -> None:
    """They are the caller's, as with open(); of what is no record, and no pickled result, nothing is handed out."""
    (tmp_path / "other").write_bytes(bytes(range(256)) * 40)
    assert list(read(tmp_path / "other")) == []
    assert list(read(str(tmp_path / "other"))) == []
    for path, kind in ((tmp_path / "missing", FileNotFoundError), (tmp_path, IsADirectoryError), (None, TypeError)):
        with pytest.raises(kind):
            list(read(path))


# --- nothing is left out ---

RECORDS = {"CurrentJob", "DeathCertificate", "Outcome", "Record", "RunSummary", "RunningJob"}
"""They hold what ztasks found out; nobody else makes them, and they do nothing."""

ELSEWHERE = {"run_batch", "Client", "Job"}
"""Tried in files of their own, which see to it that all is: test_run_batch.py, test_client_bad_input.py."""

NOT_FOR_CALLERS = {
    "Future.__init__": "made by submit",
    "Future.succeed": "called by the head",
    "Future.fail": "called by the head",
    "Options.replaced": "called by task and options",
    "RemoteError.__init__": "made by ztasks, from texts",
    "RemoteTraceback.__init__": "made by ztasks, from a text",
    "CommandFailed.__init__": "made by ztasks",
    "PoisonJob.__init__": "made by ztasks",
    "WorkerLost.__init__": "made by ztasks",
}
TRIED = (
    {f"Executor.__init__({name})" for name in EXECUTOR}
    | {f"Options.__init__({name})" for name in OPTIONS}
    | {f"Executor.{how}({name})" for how in ("map", "map_unordered") for name in MAP if name != "ordered"}
    | {f"Executor.outcomes({name})" for name in MAP if name != "return_exceptions"}
    | {f"Executor.{how}(fn)" for how in ("submit", "map", "map_unordered", "outcomes", "stream")}
    | {f"Executor.{how}(iterables)" for how in ("map", "map_unordered", "outcomes")}
    | {"Executor.submit(args)", "Executor.submit(kwargs)", "Executor.stream(ordered)", "Stream.feed(calls)"}
    | {"Executor.shutdown(wait)", "Executor.shutdown(cancel_futures)"}
    | {"Future.result(timeout)", "Future.exception(timeout)", "Future.cancel(running)", "Future.add_done_callback(fn)"}
    | {"Future.set_result(result)", "Future.set_exception(exception)"}
    | {"Task.__init__(function)", "Task.__init__(options)", "Task.options(changes)", "task(function)", "task(options)"}
    | {"options(function)", "options(changes)", "remote_traceback(exception)", "Retry.__init__(after)"}
    | {"read_records(path)", "read_pickles(path)"}
    | {"Retry.__init__(message)", "Task.submit(args)", "Task.submit(kwargs)", "Task.send(args)", "Task.send(kwargs)"}
    | {"set_default(executor)"}
    | {f"Task.{how}({name})" for how in ("map", "map_unordered", "outcomes") for name in ("iterables", "how")}
)


def parameters(name: str, function: Any) -> set[str]:
    return {f"{name}({parameter})" for parameter in inspect.signature(function).parameters if parameter != "self"}


def public_parameters() -> set[str]:
    """All parameters of all public functions, constructors and methods."""
    from ztasks.base_executor import BaseExecutor
    from ztasks.stream import Stream

    found = parameters("Stream.feed", Stream.feed) | parameters("Stream.cancel", Stream.cancel)
    for name in ztasks.__all__:
        value = getattr(ztasks, name)
        if not isinstance(value, type):
            found |= parameters(name, value) if name not in ELSEWHERE else set()
            continue
        if name in RECORDS | ELSEWHERE:
            continue
        if "__init__" in vars(value) or name == "Options":
            found |= parameters(f"{name}.__init__", value)
        methods = {**(vars(BaseExecutor) if name == "Executor" else {}), **vars(value)}
        for method, function in methods.items():
            if not method.startswith("_") and inspect.isfunction(function):
                found |= parameters(f"{name}.{method}", function)
    return found


def test_every_public_parameter_is_tried() -> None:
    left_out = {entry for entry in public_parameters() if entry.partition("(")[0] in NOT_FOR_CALLERS}
    assert public_parameters() - left_out == TRIED
    assert {entry.partition("(")[0] for entry in left_out} == NOT_FOR_CALLERS.keys(), "an exemption too many"


def test_the_records_are_only_records() -> None:
    for name in RECORDS:
        kind = getattr(ztasks, name)
        methods = [
            method for method in vars(kind) if not method.startswith("_") and inspect.isfunction(vars(kind)[method])
        ]
        assert methods == []


def test_the_complaints_see_what_is_wrong(odd: Oddities) -> None:
    """The checker itself: whatever goes otherwise than it should is told."""

    def refuse(text: str) -> Callable[[Any], Any]:
        def call(value: Any) -> None:
            raise InvalidOption(text)

        return call

    few = {"0": 0, "1": 1}
    help_ = "number must be something else, not 0: give a positive one"
    check(few, refuse(help_), set(), "number")
    assert len(complaints(few, refuse(help_), {"1"}, "number")) == 1
    assert len(complaints(few, refuse(help_), set(), "another name")) == 2
    assert len(complaints(few, refuse(help_ * 100), set(), "number")) == 2
    assert len(complaints(few, refuse(help_ + "\udcff"), set(), "number")) == 2
    assert len(complaints(few, lambda value: None, {"1"}, "number")) == 1
    assert len(complaints(few, lambda value: 1 / 0, set(), "number")) == 2
