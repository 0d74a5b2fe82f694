"""Whatever somebody gives a client: a typed error at the call, which says what was wrong, and all goes on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import bad_jobs
import jobs
import pytest
import support
from fake_head import FakeHead, serving
from test_bad_input import CALLABLES, FLAGS, SIZES, WAITS, WORDS, check

import ztasks
from ztasks import Client

Oddities = dict[str, Any]


@pytest.fixture(scope="module")
def odd() -> Iterator[Oddities]:
    with bad_jobs.odd_values() as values:
        yield values


@pytest.fixture(scope="module")
def head(_own_tmpdir: None) -> Iterator[FakeHead]:
    with serving() as head:
        yield head


@pytest.fixture(scope="module")
def client(head: FakeHead) -> Iterator[Client]:
    with Client(head.join) as client:
        client.submit(jobs.square, 2).add_done_callback(lambda future: None)
        client.submit(jobs.square, 2).result(support.DEADLINE)
        yield client


@pytest.fixture(autouse=True)
def _probe(client: Client) -> Iterator[None]:
    """After each test the client works as before."""
    yield
    assert client.submit(jobs.square, 7).result(support.DEADLINE) == 49
    assert list(client.map(jobs.square, range(5))) == [0, 1, 4, 9, 16]
    assert not client._maps


CONSTRUCTOR: dict[str, set[str]] = {
    "routes": {"None", "an empty dict"},
    "durable": FLAGS,
    "cancel_on_exit": FLAGS,
    "join_timeout": WAITS,
    "reconnect_timeout": WAITS,
    "max_bytes": SIZES - {"0"} | {"None"},
    "name": WORDS - {"nul", "a long string", "a long digit", "no text"} | {"None", "a broken string"},
}


@pytest.mark.parametrize("name", CONSTRUCTOR)
def test_constructor(odd: Oddities, name: str) -> None:
    check(odd, lambda value: Client("127.0.0.1:9", **{name: value}), CONSTRUCTOR[name], name)


def test_which_head(odd: Oddities, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZTASKS_HEAD", raising=False)
    texts = {what: value for what, value in odd.items() if value is None or isinstance(value, str)}
    check(texts, Client, set(), "head")
    check({what: value for what, value in odd.items() if what not in texts}, Client, set(), "head must be")


def test_routes(odd: Oddities) -> None:
    queues = {"a word", "a digit", "a duration", "a size", "a broken string"}
    check(odd, lambda value: Client("127.0.0.1:9", routes={"a.*": value}), queues, "routes")
    hashable = {what: value for what, value in odd.items() if what not in UNHASHABLE}
    check(hashable, lambda value: Client("127.0.0.1:9", routes={value: "gpu"}), WORDS, "routes")


UNHASHABLE = {
    "a bytearray", "an empty list", "a list", "an empty dict", "a dict", "a set", "a long list", "a deep list",
    "a list with a lock", "a namespace", "broken __hash__", "broken __eq__", "all broken", "a broken string",
    "a broken list",
}  # fmt: skip


def test_what_is_called(odd: Oddities, client: Client) -> None:
    calls: list[Callable[[Any], Any]] = [
        client.submit,
        lambda value: client.map(value, []),
        lambda value: client.map_unordered(value, []),
        lambda value: client.outcomes(value, []),
        lambda value: client.stream(value).close(),
    ]
    for call in calls:
        check(odd, call, CALLABLES, "a job needs a callable")
    names = {what: value for what, value in odd.items() if isinstance(value, str)}
    check(names, client.send, set(), "a task is sent by a name")
    check({what: value for what, value in odd.items() if what not in names}, client.send, CALLABLES, "needs a callable")


def test_any_argument_is_submitted_and_sent_or_refused_at_the_call(odd: Oddities, client: Client) -> None:
    for give in (client.submit, client.send):
        for name, value in odd.items():
            try:
                done = give(bad_jobs.anything, value, odd=value)
            except ztasks.CallNotPicklable:
                continue
            error = done.exception(support.DEADLINE)
            assert error is None or isinstance(error, Exception), name


@pytest.mark.parametrize("name", ["wait", "cancel_futures"])
def test_closing(odd: Oddities, head: FakeHead, name: str) -> None:
    client = Client(head.join)
    check(
        {what: value for what, value in odd.items() if what not in FLAGS},
        lambda value: client.shutdown(**{name: value}),
        set(),
        name,
    )
    assert client.submit(jobs.square, 2).result(support.DEADLINE) == 4
    client.shutdown(**{name: False})  # type: ignore[arg-type]


def test_jobs(odd: Oddities, client: Client) -> None:
    check(odd, client.job, set(), "a job's id is text")
    check(odd, ztasks.Job, set(), "a job's id is text")
    job = client.send(jobs.square, 3)
    check(odd, job.result, WAITS, "timeout")
    check(odd, job.exception, WAITS, "timeout")
    check(odd, lambda value: job.cancel(running=value), FLAGS, "running")


def test_futures(odd: Oddities, client: Client) -> None:
    future = client.submit(jobs.square, 3)
    assert future.result(support.DEADLINE) == 9
    check(odd, future.result, WAITS, "timeout")
    check(odd, lambda value: future.cancel(running=value), FLAGS, "running")


def test_questions(odd: Oddities, client: Client) -> None:
    check(odd, client.ask, set(), "question")
    check(odd, lambda value: client.ask("nonsense", id=value), set(), "question")


def test_after_the_end_each_call_says_so(odd: Oddities, head: FakeHead) -> None:
    client = Client(head.join)
    client.submit(jobs.square, 1).result(support.DEADLINE)
    client.shutdown()
    for call in (client.submit, client.map, client.map_unordered, client.outcomes, client.stream, client.send):
        check(odd, call, set(), "shutdown")
    assert client.running() == []


TRIED = (
    {f"Client.__init__({name})" for name in (*CONSTRUCTOR, "head")}
    | {
        "Client.submit(fn)",
        "Client.submit(args)",
        "Client.submit(kwargs)",
        "Client.stream(fn)",
        "Client.stream(ordered)",
    }
    | {"Client.send(task)", "Client.send(args)", "Client.send(kwargs)", "Client.job(job)"}
    | {"Client.ask(what)", "Client.ask(arguments)"}
    | {"Job.result(timeout)", "Job.exception(timeout)", "Job.cancel(running)"}
)

NOT_FOR_CALLERS = {"Client.ask_whole": "called by Job", "Job.__init__": "called by Client"}


def test_every_public_parameter_is_tried() -> None:
    found = set()
    for kind in (Client, ztasks.Job):
        for name, function in vars(kind).items():
            if inspect.isfunction(function) and (name == "__init__" or not name.startswith("_")):
                where = f"{kind.__name__}.{name}"
                found |= {f"{where}({each})" for each in inspect.signature(function).parameters if each != "self"}
    left_out = {entry for entry in found if entry.partition("(")[0] in NOT_FOR_CALLERS}
    assert found - left_out == TRIED
    assert {entry.partition("(")[0] for entry in left_out} == NOT_FOR_CALLERS.keys(), "an exemption too many"
