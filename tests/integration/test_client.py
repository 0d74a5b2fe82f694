"""The client against a head that does as the test says: joining, submitting, losses, restarts, cancelling, closing."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jobs
import numpy
import pytest
import support
from fake_head import LEASE, FakeHead, outcome_of, pickled, serving
from support import wait_for

import ztasks
from ztasks import Client
from ztasks.wire.link import Accepted, Ask, Cancel, Define, Leaving, Refused, Resume, Submit
from ztasks.wire.link_codec import encode
from ztasks.wire.loss import Loss
from ztasks.wire.messages import Failure


@pytest.fixture
def head() -> Iterator[FakeHead]:
    with serving() as head:
        yield head


@pytest.fixture
def client(head: FakeHead) -> Iterator[Client]:
    """A client of that head; it is closed before the head."""
    client = Client(head.join, reconnect_timeout=20)
    yield client
    client.kill()


def numbers_of(submits: list[Submit]) -> list[int]:
    return [number for submit in submits for number in range(submit.first, submit.first + submit.count)]


class Submitting(threading.Thread):
    """A thread that submits, and keeps what came of it."""

    def __init__(self, client: Client, fn: Any, *args: Any) -> None:
        super().__init__(daemon=True)
        self.future: Any = None
        self.error: BaseException | None = None
        self._call = client, fn, args
        self.start()

    def run(self) -> None:
        client, fn, args = self._call
        try:
            self.future = client.submit(fn, *args)
        except BaseException as error:
            self.error = error

    def end(self) -> Any:
        self.join(support.DEADLINE)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.future


# --- the interface of an executor ---


def test_the_interface_of_an_executor(head: FakeHead) -> None:
    with Client(head.join) as client:
        assert isinstance(client, concurrent.futures.Executor)
        future = client.submit(jobs.add, 1, right=2, extra=3)
        assert isinstance(future, ztasks.Future)
        assert future.result(10) == 6
        assert list(client.map(jobs.square, range(100))) == [number**2 for number in range(100)]
        assert sorted(client.map_unordered(jobs.add, [1, 2], [3, 4])) == [4, 6]
        assert jobs.measure.submit("abc").result(10) == 3
        assert list(jobs.measure.map(["a", "bb"])) == [1, 2]
        stream = client.stream(jobs.add)
        feeder = threading.Thread(target=stream.feed, args=([((1, 2), {}), ((3,), {"right": 4})],))
        feeder.start()
        assert sorted(outcome.value for outcome in stream) == [3, 7]
        feeder.join()
    with pytest.raises(ztasks.ExecutorClosed):
        client.submit(jobs.square, 1)
    with pytest.raises(ztasks.ExecutorClosed):
        client.map(jobs.square, [1])
    support.wait_for(lambda: not head.links, "the end of the link")
    (leaving,) = head.of(Leaving)
    assert not leaving.cancel


def test_outcomes_say_where_a_job_ran(client: Client) -> None:
    good, bad = client.outcomes(jobs.fail_if_odd, [2, 3])
    assert (good.value, good.attempts, str(good.worker), good.max_rss) == (2, 1, "elsewhere:4711", 4096)
    assert good.started is not None
    assert isinstance(bad.exception, ValueError)
    remote = ztasks.remote_traceback(bad.exception)
    assert remote is not None
    assert "fail_if_odd" in remote


def test_failures_arrive_as_what_was_raised(client: Client) -> None:
    with pytest.raises(KeyError, match="gone"):
        client.submit(jobs.fail, KeyError("gone")).result(10)
    with pytest.raises(ValueError, match="1 is odd"):
        list(client.map(jobs.fail_if_odd, range(4)))


def test_large_arguments_and_results(client: Client) -> None:
    array = numpy.arange(700_000)
    assert (client.submit(jobs.echo, array).result(20) == array).all()
    text = "x" * 3_000_000
    assert client.submit(jobs.echo, text).result(20) == text
    assert [len(each) for each in client.map(jobs.echo, [text, text])] == [len(text)] * 2


def test_ten_thousand_jobs_from_one_thread_without_waiting(head: FakeHead) -> None:
    with Client(head.join, durable=False) as client:
        futures = [client.submit(jobs.square, number) for number in range(10_000)]
        assert [future.result(20) for future in futures] == [number**2 for number in range(10_000)]
    submits = head.of(Submit)
    assert numbers_of(submits) == list(range(1, 10_001))
    assert len(submits) < 2_000, "what waits travels together"
    assert len(head.of(Define)) == 1


def test_callbacks_are_called_in_the_delivery_thread(head: FakeHead, client: Client) -> None:
    head.runs = False
    called: list[str] = []
    done = threading.Event()

    def callback(future: Any) -> None:
        called.append(threading.current_thread().name)
        assert client.submit(jobs.square, future.result()).result(10) == 16
        done.set()

    client.submit(jobs.square, 2).add_done_callback(callback)
    head.runs = True
    head.run_all()
    assert done.wait(10)
    assert called == ["ztasks-delivery"]


def test_running_jobs(head: FakeHead, client: Client) -> None:
    head.runs = False
    future = client.submit(jobs.square, 1)
    assert [job.job for job in client.running()] == [future.job_id]
    head.run_all()
    assert future.result(10) == 1
    assert client.running() == []


def test_coroutines_await_futures(head: FakeHead) -> None:
    async def work() -> list[int]:
        async with Client(head.join) as client:
            first = await client.submit(jobs.square, 3)
            rest = await asyncio.gather(*(client.submit(jobs.square, number) for number in range(20)))
            with pytest.raises(ValueError, match="odd"):
                await client.submit(jobs.fail_if_odd, 1)
            assert await jobs.measure.submit("abc") == 3
            return [first, *rest]

    assert asyncio.run(work()) == [9, *(number**2 for number in range(20))]
    support.wait_for(lambda: not head.links, "the end of the link")


def test_a_coroutine_that_is_cancelled_cancels_its_job(head: FakeHead) -> None:
    head.runs = False

    async def work() -> None:
        async with Client(head.join) as client:
            future = client.submit(jobs.square, 3)
            task = asyncio.ensure_future(_await(future))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(wait_for, future.cancelled, "the job to be cancelled")

    asyncio.run(work())


async def _await(future: Any) -> Any:
    return await future


def test_an_event_loop_is_not_held_up(head: FakeHead) -> None:
    head.accepts = head.runs = False

    async def work() -> None:
        client = Client(head.join)
        future = client.submit(jobs.square, 3)  # would wait for ever
        await asyncio.to_thread(wait_for, lambda: head.of(Submit), "the job")
        assert not future.done()
        head.run_all()
        assert await future == 9
        await asyncio.to_thread(client.shutdown)

    asyncio.run(work())


# --- lazy, and nothing left ---


def test_nothing_is_started_before_it_is_used() -> None:
    before = support.belongings()
    client = Client("127.0.0.1:9")
    assert repr(client) == "<ztasks.Client of the head at 127.0.0.1:9, open>"
    assert support.belongings() == before
    with client:
        pass
    client.shutdown()
    client.kill()
    assert client.running() == []
    assert repr(client).endswith("closed>")
    assert support.belongings() == before


def test_nothing_is_left_after_closing(head: FakeHead) -> None:
    before = set(support.descriptors())
    for how in ("shutdown", "kill"):
        client = Client(head.join)
        client.submit(jobs.square, 2).result(10)
        getattr(client, how)()
        getattr(client, how)()
    with Client(head.join) as client:
        client.submit(jobs.square, 2).add_done_callback(lambda future: client.shutdown())

    def left() -> set[str]:  # the head's side of a connection closes when it has noticed
        return {line.split()[1] for line in set(support.descriptors()) - before}

    wait_for(lambda: not left(), f"the end of {left()}")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ztasks-")]


def test_a_client_that_was_forgotten(head: FakeHead, tmp_path: Path) -> None:
    text = f"""
    import jobs, ztasks
    client = ztasks.Client("127.0.0.1:{head.port}")
    print(client.submit(jobs.square, 3).result())
    {{}}
    """
    env = support.environment(PYTHONPATH=f"{Path(jobs.__file__).parent}:{support.ROOT}")
    for how in ("del client", "pass"):
        done = support.run_script(tmp_path, text.format(how), env=env)
        assert (done.code, done.out) == (0, "9\n"), done.err
        assert re.search("ResourceWarning: .*ztasks.Client of the head at .*was not closed", done.err)
    assert len(head.of(Leaving)) == 2


def test_an_unused_client_needs_no_closing(tmp_path: Path) -> None:
    assert support.check_script(tmp_path, 'import ztasks\nclient = ztasks.Client("127.0.0.1:9")\n') == ""


def test_jobs_that_are_under_way_at_the_end_of_the_program_are_finished(head: FakeHead, tmp_path: Path) -> None:
    text = f"""
    import warnings, jobs, ztasks
    warnings.simplefilter("ignore")
    client = ztasks.Client("127.0.0.1:{head.port}", durable=False)
    for number in range(100):
        client.submit(jobs.square, number).add_done_callback(lambda future: print(future.result()))
    """
    env = support.environment(PYTHONPATH=f"{Path(jobs.__file__).parent}:{support.ROOT}")
    out = support.check_script(tmp_path, text, env=env)
    assert sorted(map(int, out.split())) == [number**2 for number in range(100)]


def test_after_a_fork_the_child_has_a_session_of_its_own(head: FakeHead, tmp_path: Path) -> None:
    text = f"""
    import os, warnings, jobs, ztasks
    warnings.filterwarnings("ignore", "This process", DeprecationWarning)  # of fork, from 3.12 on
    client = ztasks.Client("127.0.0.1:{head.port}")
    done = client.submit(jobs.square, 3)
    print(done.result(), flush=True)
    waiting = client.submit(jobs.echo, "WAIT")
    child = os.fork()
    if child == 0:
        print(done.result(), flush=True)
        try:
            waiting.result(5)
        except ztasks.ForkedExecutor:
            print("forked", flush=True)
        other = client.submit(jobs.square, 4)
        print(other.result(), other.job_id.split("-")[1], flush=True)
        print(list(client.map(jobs.square, range(3))), flush=True)
        client.shutdown()
        raise SystemExit(3)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), waiting.done(), client.submit(jobs.square, 5).result())
    client.job(waiting.job_id).cancel()
    client.shutdown()
    """
    env = support.environment(PYTHONPATH=f"{Path(jobs.__file__).parent}:{support.ROOT}")
    plain = head._run_works

    def run_works(session: int, numbers: list[int]) -> None:
        works = head.state.works[session]
        plain(
            session,
            [each for each in numbers if each in works and b"WAIT" not in getattr(works[each].call, "data", b"")],
        )

    head._run_works = run_works  # type: ignore[method-assign]
    out = support.check_script(tmp_path, text, env=env)
    assert out == "9\n9\nforked\n16 1\n[0, 1, 4]\n3 False 25\n"
    assert len({hello.incarnation for hello in head.hellos}) == 2


# --- what a head is told ---


def test_how_a_task_is_defined(head: FakeHead) -> None:
    routes = {"jobs.sq*": "fast", "*": "rest"}
    with Client(head.join, routes=routes, name="tester") as client:
        client.submit(jobs.square, 1).result(10)
        options: dict[str, Any] = {
            "queue": "gpu",
            "tags": "big",
            "resources": {"gpu": 2},
            "priority": 3,
        }
        client.submit(
            ztasks.options(jobs.echo, retries=2, timeout=5, memory="1k", cpus=2, expires="1h", **options), 1
        ).result(10)
        client.submit(ztasks.options(lambda: 1, name="local", queue="gpu", at_most_once=True)).result(10)
        client.submit(ztasks.options(jobs.echo, retry_on=(OSError,)), 1).result(10)
        list(client.map(jobs.square, [1, 2]))
    square, other, local, judged = head.defines.values()
    assert (square.name, square.path, square.by_value, square.queue) == ("square", "jobs.square", False, "fast")
    assert (square.crash_retries, square.retries, square.retries_timeouts) == (2, 0, True)
    assert (other.path, other.queue, other.tags, other.resources) == ("jobs.echo", "rest", ("big",), {"gpu": 2})
    assert (other.priority, other.expires, other.timeout, other.memory, other.cpus) == (3, 3600.0, 5.0, 1000, 2)
    assert (local.path, local.by_value, local.queue, local.name) == ("", True, "gpu", "local")
    assert (local.at_most_once, local.crash_retries) == (True, 0)
    assert (judged.retries_timeouts, judged.by_value) == (False, False)
    assert len({define.key for define in head.defines.values()}) == 4
    assert len(head.of(Define)) == 4, "each is defined once"
    (hello,) = head.hellos[:1]
    assert (hello.kind, hello.name, hello.ztasks) == ("client", "tester", ztasks.__version__)
    assert sys.version.startswith(f"{hello.python}.")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"routes": ["a"]}, "routes must be a dict"),
        ({"routes": {"a": "b c"}}, r"routes\['a'\] must be a name"),
        ({"durable": 1}, "durable must be True or False"),
        ({"cancel_on_exit": None}, "cancel_on_exit must be True or False"),
        ({"join_timeout": "soon"}, "join_timeout must be a duration"),
        ({"reconnect_timeout": "soon"}, "reconnect_timeout must be a duration"),
        ({"max_bytes": 0}, "max_bytes must be more than 0"),
        ({"name": ""}, "name must be text"),
        ({"head": 7070}, "head must be text"),
    ],
)
def test_wrong_arguments_are_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ztasks.InvalidOption, match=message):
        Client(**{"head": "127.0.0.1:9", **how})


def test_the_head_comes_from_the_environment(head: FakeHead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTASKS_HEAD", f"127.0.0.1:{head.port}")
    with Client() as client:
        assert client.submit(jobs.square, 2).result(10) == 4
    monkeypatch.delenv("ZTASKS_HEAD")
    with pytest.raises(ztasks.BadJoinFile, match="ZTASKS_HEAD"):
        Client()
    with pytest.raises(ztasks.BadJoinFile, match="no join file"):
        Client("@nowhere/client.join")


# --- acceptance ---


def test_submit_returns_when_the_job_is_accepted(head: FakeHead, client: Client) -> None:
    head.accepts = head.runs = False
    submitting = [Submitting(client, jobs.square, number) for number in range(8)]
    wait_for(lambda: len(numbers_of(head.of(Submit))) == 8, "all to be submitted, though none is accepted")
    assert all(thread.is_alive() for thread in submitting)
    head.say(Accepted(8))
    futures = [thread.end() for thread in submitting]
    assert not any(future.done() for future in futures)
    head.run_all()
    assert [future.result(10) for future in futures] == [number**2 for number in range(8)]


def test_submit_does_not_wait_if_that_is_not_wanted(head: FakeHead) -> None:
    head.accepts = head.runs = False
    with Client(head.join, durable=False) as client:
        future = client.submit(jobs.square, 3)
        wait_for(lambda: head.of(Submit), "the job")
        assert not head.of(Submit)[0].durable
        assert future.job_id is not None
        head.run_all()
        assert future.result(10) == 9


@pytest.mark.parametrize(
    ("code", "kind"), [("full", ztasks.HeadFull), ("stopping", ztasks.HeadLost), ("invalid", ztasks.InvalidOption)]
)
def test_a_job_that_is_refused_is_refused_at_the_call(head: FakeHead, client: Client, code: str, kind: type) -> None:
    head.refuses = code
    with pytest.raises(kind, match="the test says so"):
        client.submit(jobs.square, 3)
    with pytest.raises(kind, match="the test says so"):
        client.send(jobs.square, 3)
    with pytest.raises(kind, match="the test says so"):
        list(client.map(jobs.square, range(3)))
    head.refuses = None
    assert client.submit(jobs.square, 3).result(10) == 9
    assert client._inbox.taken == client._inbox.freed


def test_refused_without_anybody_waiting(head: FakeHead) -> None:
    head.refuses = "full"
    with Client(head.join, durable=False) as client:
        assert isinstance(client.submit(jobs.square, 3).exception(10), ztasks.HeadFull)


def test_an_interrupted_submit_leaves_all_well(head: FakeHead, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a submit waits for its acceptance: nobody has the future, so the job is stopped."""
    head.accepts = head.runs = False

    def interrupted(owner: Any) -> None:
        wait_for(lambda: owner.number, "the job to be sent")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ztasks.client.wait_for", interrupted)
        for give in (client.submit, client.send):
            with pytest.raises(KeyboardInterrupt):
                give(jobs.square, 3)
    wait_for(lambda: len(head.of(Cancel)) == 2, "both to be cancelled")
    assert all(cancel.running for cancel in head.of(Cancel))
    head.accepts = head.runs = True
    assert client.submit(jobs.square, 4).result(10) == 16
    wait_for(lambda: client._remote._books.empty, "all to have ended")  # type: ignore[union-attr]


def test_a_byte_budget(head: FakeHead) -> None:
    head.runs = False
    with Client(head.join, max_bytes=1000) as client:
        with pytest.raises(ztasks.TooLarge, match="max_bytes"):
            client.submit(len, bytes(2000))
        first = client.submit(len, bytes(600))
        second = Submitting(client, len, bytes(601))
        wait_for(lambda: client._inbox._waiting, "a thread that waits for room")
        head.run_all()
        head.runs = True
        assert (first.result(10), second.end().result(10)) == (600, 601)
        assert client.send(len, bytes(900)).result(10) == 900
    assert client._remote is not None
    assert client._remote.inbox.taken == client._remote.inbox.freed


# --- sent jobs ---


def test_a_sent_job_is_found_by_its_id_elsewhere_and_later(head: FakeHead) -> None:
    head.runs = False
    with Client(head.join) as client:
        job = client.send("jobs.square", 7)
        assert isinstance(job, ztasks.Job)
        assert re.fullmatch("[0-9a-f]{16}-1", str(job))
        assert job.id == str(job)
        assert job.state == "queued"
        (submit,) = head.of(Submit)
        assert submit.sent
        assert submit.durable
        with pytest.raises(TimeoutError):
            job.result(0)
        with pytest.raises(TimeoutError):
            job.result(0.05)
    with Client(head.join) as other:
        same = other.job(str(job))
        assert same == job
        assert hash(same) == hash(job)
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(other.job(job).result()))
        thread.start()
        wait_for(lambda: [ask for ask in head.of(Ask) if ask.arguments.get("wait")][1:], "the question")
        head.run_all()
        thread.join(10)
        assert found == [49]
        assert same.state == "done"
        assert same.info()["id"] == job.id
        assert same.exception() is None


def test_a_sent_job_that_failed(head: FakeHead, client: Client) -> None:
    job = client.send(jobs.fail, KeyError("gone"))
    with pytest.raises(KeyError, match="gone") as caught:
        job.result(10)
    assert ztasks.remote_traceback(caught.value)
    assert isinstance(job.exception(10), KeyError)


def test_a_sent_job_that_was_cancelled(head: FakeHead, client: Client) -> None:
    head.runs = False
    job = client.send(jobs.square, 3)
    assert job.cancel()
    assert not job.cancel()
    with pytest.raises(CancelledError):
        job.result(10)
    with pytest.raises(CancelledError):
        job.exception(10)


def test_a_job_that_is_not_known(client: Client) -> None:
    job = client.job("0123456789abcdef-7")
    for ask in (lambda: job.state, job.result, job.exception):
        with pytest.raises(ztasks.JobNotFound, match="there is no job 0123456789abcdef-7"):
            ask()


@pytest.mark.parametrize("text", ["", "7", "0123456789abcdef", "0123456789abcdef-0", "0123456789ABCDEF-1", None, 7])
def test_what_is_no_id(client: Client, text: Any) -> None:
    with pytest.raises(ztasks.InvalidOption, match="a job's id is text such as"):
        client.job(text)


def test_jobs_travel_without_their_client(client: Client) -> None:
    job = client.send(jobs.square, 3)
    copy = pickle.loads(pickle.dumps(job))
    assert copy == job
    with pytest.raises(ztasks.NoExecutor, match=r"client\.job\(job\)"):
        copy.result()
    assert client.job(copy).result(10) == 9
    assert repr(copy) == f"<ztasks.Job {job.id}>"


def test_tasks_are_sent_with_the_default_client(client: Client) -> None:
    ztasks.set_default(client)
    try:
        assert jobs.measure.send("abc").result(10) == 3
        assert jobs.measure.submit("abcd").result(10) == 4
        assert list(jobs.measure.map(["a"])) == [1]
        in_thread: list[int] = []
        thread = threading.Thread(target=lambda: in_thread.append(jobs.measure.submit("ab").result(10)))
        thread.start()
        thread.join()
        assert in_thread == [2]
    finally:
        ztasks.set_default(None)
    with pytest.raises(ztasks.NoExecutor, match="set_default"):
        jobs.measure.send("abc")
    with pytest.raises(ztasks.InvalidOption, match="default must be"):
        ztasks.set_default(3)  # type: ignore[arg-type]


def test_an_executor_cannot_send(shared: ztasks.Executor) -> None:
    ztasks.set_default(shared)
    try:
        with pytest.raises(ztasks.NoExecutor, match="cannot be sent with an Executor"):
            jobs.measure.send("abc")
    finally:
        ztasks.set_default(None)


def test_a_lost_job_of_another_client_is_told_without_its_call(head: FakeHead, client: Client) -> None:
    head.runs = False
    job = client.send(jobs.square, 3)
    loss = Loss(
        0, "lost", "PoisonJob", "it was given up", "", b"", retry=False, what="poison", name="square", shape="call",
        payload=None, history=(), certificates=(),
    )  # fmt: skip
    session, number = int(job.id[:16], 16), 1
    outcome = outcome_of(session, [number], [loss])
    head.do(lambda: [head.state.works[session].clear(), head._end(session, outcome, None, "failed")])
    with pytest.raises(ztasks.PoisonJob, match="it was given up"):
        job.result(10)


# --- connections that break, heads that go away ---


def test_a_lane_that_is_void_costs_nothing(head: FakeHead, client: Client) -> None:
    head.runs = False
    futures = [client.submit(jobs.square, number) for number in range(5)]
    head.void()
    wait_for(lambda: len(head.lanes) == 2, "another join")
    futures.append(client.submit(jobs.square, 5))
    head.run_all()
    assert [future.result(10) for future in futures] == [number**2 for number in range(6)]
    assert head.of(Resume)[1].outstanding == [(1, 5)]
    assert numbers_of(head.of(Submit)) == [1, 2, 3, 4, 5, 6], "what was accepted is not submitted again"


def test_a_head_that_is_silent_is_greeted_anew(head: FakeHead, client: Client) -> None:
    head.runs = False
    futures = [client.submit(jobs.square, number) for number in range(3)]
    head.silent = True
    waiting = Submitting(client, jobs.square, 3)
    wait_for(lambda: client._remote._way.link is None, "the end of the lease", LEASE + 5)  # type: ignore[union-attr]
    assert not any(future.done() for future in futures)
    head.silent = False
    futures.append(waiting.end())
    head.run_all()
    assert [future.result(10) for future in futures] == [0, 1, 4, 9]
    assert sorted(head.executed) == [(client._remote.session, number) for number in (1, 2, 3, 4)]  # type: ignore[union-attr]


def test_what_was_accepted_and_never_told_is_not_run_twice(head: FakeHead, client: Client) -> None:
    """The head accepts, and its word of that is lost with the link: the same is submitted again, and known."""
    head.accepts = head.runs = False
    waiting = [Submitting(client, jobs.square, number) for number in range(4)]
    wait_for(lambda: len(numbers_of(head.of(Submit))) == 4, "the jobs")
    head.accepts = True
    head.void()
    futures = [thread.end() for thread in waiting]
    head.run_all()
    assert sorted(future.result(10) for future in futures) == [0, 1, 4, 9]
    assert sorted(number for _, number in head.executed) == [1, 2, 3, 4]


def test_an_outcome_that_comes_twice_is_passed_over(head: FakeHead, client: Client) -> None:
    future = client.submit(jobs.square, 3)
    assert future.result(10) == 9
    session = client._remote.session  # type: ignore[union-attr]
    for number in (1, 1, 99):
        head.say_outcome(outcome_of(session, [number], []), pickled("other"))
    assert client.submit(jobs.square, 4).result(10) == 16
    assert future.result() == 9


@contextmanager
def serving_after(head: FakeHead, **how: Any) -> Iterator[FakeHead]:
    """The successor of a head, which runs all that it finds."""
    second = head.restarted(**how)
    try:
        second.run_all()
        yield second
    finally:
        second.close()


def test_a_head_that_restarts_with_its_journal(head: FakeHead) -> None:
    head.runs = False
    with Client(head.join) as client:
        futures = [client.submit(jobs.square, number) for number in range(3)]
        results = client.map(jobs.square, range(10))
        sent = client.send(jobs.square, 9)
        with serving_after(head) as second:
            assert [future.result(10) for future in futures] == [0, 1, 4]
            assert list(results) == [number**2 for number in range(10)]
            assert sent.result(10) == 81
            assert len(second.executed) == len(set(second.executed)) == 14
            second.runs = True
            assert client.submit(jobs.square, 5).result(10) == 25


def test_a_head_that_restarts_without_a_journal_gets_the_jobs_again(head: FakeHead) -> None:
    head.runs = False
    with Client(head.join) as client:
        future = client.submit(jobs.square, 3)
        once = client.submit(ztasks.options(jobs.square, at_most_once=True), 4)
        results = client.map(jobs.square, range(10))
        first_id = future.job_id
        with serving_after(head, forgets=True) as second:
            assert future.result(10) == 9
            assert list(results) == [number**2 for number in range(10)]
            with pytest.raises(ztasks.HeadLost, match="at_most_once"):
                once.result(10)
            assert future.job_id != first_id
            assert len(second.executed) == 11


def test_a_head_that_does_not_come_back(head: FakeHead) -> None:
    head.runs = False
    client = Client(head.join, reconnect_timeout=0.3)
    future = client.submit(jobs.square, 3)
    results = client.map(jobs.square, range(3))
    job = client.job(future.job_id or "")
    head.silent = True
    with pytest.raises(ztasks.HeadLost, match=rf"has not answered for 0.3 s.*client\.job\('{future.job_id}'\)"):
        future.result(20)
    with pytest.raises(ztasks.HeadLost, match="reconnect_timeout"):
        list(results)
    for attempt in (
        lambda: client.submit(jobs.square, 4),
        lambda: client.send(jobs.square, 4),
        lambda: client.map(jobs.square, [4]),
        lambda: job.state,
    ):
        with pytest.raises(ztasks.HeadLost, match=r"has not answered for .* Nothing was submitted"):
            attempt()
    head.silent = False
    wait_for(lambda: client._remote.lost is None, "the head")  # type: ignore[union-attr]
    head.run_all()
    assert job.result(10) == 9, "with a journal it has gone on"
    head.runs = True
    assert client.submit(jobs.square, 4).result(10) == 16
    client.shutdown()


def test_what_a_head_without_a_journal_has_lost_is_said_so() -> None:
    with serving(durable=False) as head:
        head.runs = False
        client = Client(head.join, reconnect_timeout=0.2)
        future = client.submit(jobs.square, 3)
        head.silent = True
        with pytest.raises(ztasks.HeadLost, match="no journal"):
            future.result(20)
        client.kill()


def test_no_head_at_all() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with Client(address, join_timeout=0.3) as client:
            for _ in range(2):
                with pytest.raises(ztasks.HeadLost, match=rf"no head has answered at {address} .*ztasks head"):
                    client.submit(jobs.square, 3)
            with pytest.raises(ztasks.HeadLost):
                client.job("0123456789abcdef-1").result()
            with pytest.raises(ztasks.HeadLost):
                list(client.map(jobs.square, [1, 2]))
        with Client(address, join_timeout=0.3, durable=False) as client:
            assert isinstance(client.submit(jobs.square, 3).exception(20), ztasks.HeadLost)


def test_a_head_that_is_started_later(head: FakeHead) -> None:
    port = head.port
    head.close()
    with Client(f"127.0.0.1:{port}", join_timeout=0.2) as client:
        with pytest.raises(ztasks.HeadLost):
            client.submit(jobs.square, 3)
        with serving(port=port):
            wait_for(lambda: client._remote.lost is None, "the head")  # type: ignore[union-attr]
            assert client.submit(jobs.square, 3).result(10) == 9


def test_a_head_that_does_not_take_a_client_in(head: FakeHead, client: Client) -> None:
    head.rejects = "forbidden"
    for _ in range(2):
        with pytest.raises(ztasks.HeadLost, match="does not take this client in: the test says so"):
            client.submit(jobs.square, 3)
    head.rejects = "full"
    with pytest.raises(ztasks.HeadFull, match="the test says so"):
        client.submit(jobs.square, 3)
    head.rejects = None
    assert client.submit(jobs.square, 3).result(10) == 9, "whoever submits is greeted anew"


def test_a_head_that_is_stopping_may_come_back(head: FakeHead, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ztasks.io.client_link.PAUSE_SECONDS", 0.05)
    head.runs = False
    future = client.submit(jobs.square, 3)
    head.rejects = "stopping"
    head.void()
    wait_for(lambda: len(head.hellos) >= 4, "several greetings")
    head.rejects = None
    head.run_all()
    assert future.result(10) == 9


def test_a_head_that_says_what_cannot_be(head: FakeHead, client: Client) -> None:
    head.runs = False
    future = client.submit(jobs.square, 3)
    session = client._remote.session  # type: ignore[union-attr]
    head.say_outcome(outcome_of(session + 1, [1], []), pickled(1))
    with pytest.raises(ztasks.HeadLost, match="does not follow the protocol"):
        future.result(10)
    head.runs = True
    assert client.submit(jobs.square, 4).result(10) == 16
    head.do(lambda: [head._router.send(route, b"\xff\x00garbage") for route in head._routes.values()])
    assert client.submit(jobs.square, 5).result(10) == 25


# --- cancelling ---


def test_a_job_that_has_not_been_sent_is_cancelled_here(head: FakeHead) -> None:
    with Client(head.join, durable=False) as client:
        assert client.submit(jobs.square, 1).result(10) == 1
        head.silent = True
        wait_for(lambda: client._remote._way.link is None, "the end of the lease", LEASE + 5)  # type: ignore[union-attr]
        future = client.submit(jobs.square, 3)
        assert future.cancel()
        assert future.cancelled()
        assert future.job_id is None
        head.silent = False
        assert client.submit(jobs.square, 2).result(10) == 4
    assert len(head.executed) == 2


def test_a_job_that_was_sent_is_cancelled_by_the_head(head: FakeHead, client: Client) -> None:
    head.runs = False
    waiting, begun = client.submit(jobs.square, 3), client.submit(jobs.square, 4)
    head.begun.add(2)
    assert waiting.cancel()
    assert waiting.cancelled()
    with pytest.raises(CancelledError):
        waiting.result(10)
    assert not begun.cancel()
    assert not begun.done()
    assert begun.cancel(running=True)
    with pytest.raises(CancelledError):
        begun.result(10)
    assert [cancel for cancel in head.of(Cancel) if cancel.running][-1].ranges == [(2, 1)]
    done = client.submit(jobs.square, 5)
    head.run_all()
    assert done.result(10) == 25
    assert not done.cancel()


def test_a_head_that_does_not_answer_in_time_leaves_it_open(
    head: FakeHead, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ztasks.client_future.CANCEL_SECONDS", 0.05)
    head.runs = head.answers = False
    future = client.submit(jobs.square, 3)
    assert not future.cancel()
    assert not future.done()
    head.answers = True
    head.void()  # what was asked is asked again
    wait_for(future.cancelled, "the head's word")


def test_a_cancel_that_was_lost_is_said_again(head: FakeHead, client: Client) -> None:
    head.runs = False
    future = client.submit(jobs.square, 3)
    plain = head._on_content
    head._on_content = lambda lane, frames: None  # type: ignore[method-assign, assignment]
    future.cancel(running=True)
    client._remote.inbox.ask(lambda: None)  # type: ignore[union-attr]
    head._on_content = plain  # type: ignore[method-assign]
    head.void()
    wait_for(future.cancelled, "the job to be cancelled")


def test_a_closed_map_cancels_what_is_outstanding(head: FakeHead, client: Client) -> None:
    plain = head._run_works
    head._run_works = lambda session, numbers: plain(session, [each for each in numbers if each < 5])  # type: ignore[method-assign]
    results = client.map(jobs.square, range(1000), buffersize=50)
    assert next(results) == 0
    wait_for(lambda: any(head.state.works.values()), "work that waits")
    results.close()  # type: ignore[attr-defined]
    wait_for(lambda: not any(head.state.works.values()), "the head to have nothing left")
    wait_for(lambda: client._remote._books.empty, "the client to have nothing left")  # type: ignore[union-attr]


# --- closing ---


def test_closing_waits_for_what_is_outstanding(head: FakeHead) -> None:
    head.runs = False
    client = Client(head.join)
    future = client.submit(jobs.square, 3)
    results = client.map(jobs.square, range(100), buffersize=10)
    closing = threading.Thread(target=client.shutdown)
    closing.start()
    wait_for(lambda: client._refuse is not None, "the shutdown")
    assert closing.is_alive()
    head.runs = True
    head.run_all()
    closing.join(10)
    assert not closing.is_alive()
    assert future.result() == 9
    found: list[int] = []
    with pytest.raises(CancelledError):  # the rest of the input was not read
        found.extend(results)
    assert found == [number**2 for number in range(10)]


def test_shutdown_in_the_maps_thread_finishes_its_input(head: FakeHead) -> None:
    with Client(head.join) as client:
        results = client.map(jobs.square, range(3000), buffersize=100)
        assert next(iter(results)) == 0
    assert list(results) == [number**2 for number in range(1, 3000)]


def test_closing_without_waiting(head: FakeHead) -> None:
    client = Client(head.join)
    futures = [client.submit(jobs.square, number) for number in range(10)]
    client.shutdown(wait=False)
    assert [future.result(10) for future in futures] == [number**2 for number in range(10)]


def test_cancel_futures_cancels_what_has_not_begun(head: FakeHead) -> None:
    head.runs = False
    client = Client(head.join)
    begun, waiting = client.submit(jobs.square, 3), client.submit(jobs.square, 4)
    sent = client.send(jobs.square, 5)
    head.begun.add(1)
    closing = threading.Thread(target=client.shutdown, kwargs={"cancel_futures": True})
    closing.start()
    wait_for(waiting.cancelled, "the job to be cancelled")
    assert not begun.done()
    head.run_all()
    closing.join(10)
    assert begun.result() == 9
    with Client(head.join) as other:
        assert other.job(sent).result(10) == 25


def test_killing_stops_what_runs(head: FakeHead) -> None:
    head.runs = False
    client = Client(head.join)
    future = client.submit(jobs.square, 3)
    sent = client.send(jobs.square, 5)
    head.begun.add(1)
    client.kill()
    with pytest.raises(ztasks.HeadLost, match="killed"):
        future.result(0)
    assert [cancel.running for cancel in head.of(Cancel)] == [True]
    assert [leaving.cancel for leaving in head.of(Leaving)] == [True]
    head.runs = True
    head.run_all()
    with Client(head.join) as other:
        assert other.job(sent).result(10) == 25


def test_closing_when_the_head_has_gone_is_bounded(head: FakeHead) -> None:
    client = Client(head.join)
    assert client.submit(jobs.square, 3).result(10) == 9
    head.silent = True
    begin = time.monotonic()
    client.shutdown()
    assert time.monotonic() - begin < 8


@pytest.mark.parametrize("durable", [True, False])
def test_an_interrupted_with_leaves_what_has_a_journal_and_cancels_all_else(durable: bool) -> None:
    with serving(durable=durable) as head:
        head.runs = False
        futures: list[Any] = []
        with pytest.raises(KeyboardInterrupt), Client(head.join) as client:  # noqa: PT012
            futures.append(client.submit(jobs.square, 3))
            client.map(jobs.square, range(5))
            raise KeyboardInterrupt
        wait_for(lambda: head.of(Leaving), "the farewell")
        (leaving,) = head.of(Leaving)
        assert leaving.cancel is not durable
        works = [number for works in head.state.works.values() for number in works]
        if durable:
            with pytest.raises(ztasks.HeadLost, match=rf"client.job\('{futures[0].job_id}'\)"):
                futures[0].result(0)
            assert works == [1], "the map is cancelled: nobody could take its results"
        else:
            assert futures[0].cancelled()
            assert works == []


def test_cancel_on_exit(head: FakeHead) -> None:
    head.runs = False
    with pytest.raises(KeyboardInterrupt), Client(head.join, cancel_on_exit=True) as client:  # noqa: PT012
        future = client.submit(jobs.square, 3)
        raise KeyboardInterrupt
    assert future.cancelled()
    assert head.of(Resume)[0].cancel_on_exit
    assert head.of(Leaving)[0].cancel


def test_an_error_in_the_with_finishes_what_was_submitted(head: FakeHead) -> None:
    with pytest.raises(ZeroDivisionError), Client(head.join) as client:  # noqa: PT012
        future = client.submit(jobs.square, 3)
        raise ZeroDivisionError
    assert future.result(0) == 9


def test_use_from_a_closed_client(head: FakeHead) -> None:
    with Client(head.join) as client:
        job = client.send(jobs.square, 3)
    with pytest.raises(ztasks.ExecutorClosed):
        job.result()
    with pytest.raises(ztasks.ExecutorClosed):
        client.send(jobs.square, 3)
    with pytest.raises(ztasks.ExecutorClosed):
        client.ask("status")


def test_questions_of_other_kinds(client: Client) -> None:
    assert client.ask("status") == {"workers": 3}
    with pytest.raises(ztasks.InvalidOption, match="the question 'nonsense'"):
        client.ask("nonsense")


def test_threads_may_share_a_client(client: Client) -> None:
    def work(start: int) -> list[int]:
        return [client.submit(jobs.square, number).result(20) for number in range(start, start + 50)]

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        found = list(threads.map(work, range(0, 400, 50)))
    assert [value for values in found for value in values] == [number**2 for number in range(400)]


def test_a_refusal_after_acceptance_fails_the_future(head: FakeHead, client: Client) -> None:
    head.runs = False
    future = client.submit(jobs.square, 3)
    head.say(Refused([(1, 1)], "invalid", "its task is not known"))
    assert isinstance(future.exception(10), ztasks.InvalidOption)


def test_a_job_that_has_expired(head: FakeHead, client: Client) -> None:
    head.runs = False
    future = client.submit(jobs.square, 3)
    late = Failure(0, "timeout", "JobExpired", "it had not begun when its time was over", "", b"", retry=False)
    outcome = outcome_of(client._remote.session, [1], [late])  # type: ignore[union-attr]
    head.say_outcome(outcome, None)
    with pytest.raises(ztasks.JobExpired, match="its time was over"):
        future.result(10)
    assert encode(outcome)
