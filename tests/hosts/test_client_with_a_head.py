"""The client with a real head and real workers: what a fake head cannot show."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
import support
from fleet import Fleet

import ztasks
from ztasks import Client


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, _own_tmpdir: None) -> Iterator[Client]:
    with Fleet(tmp_path_factory.mktemp("fleet"), journal=True) as fleet:
        fleet.start_head()
        fleet.start_foreman("one", workers=2)
        client = fleet.client()
        client.submit(abs, -1).add_done_callback(lambda future: None)  # its threads are there when a test begins
        assert client.submit(abs, -2).result(support.DEADLINE) == 2
        yield client


def test_the_interface_of_an_executor(client: Client) -> None:
    factor = 3
    assert client.submit(lambda number: factor * number, 7).result(20) == 21
    assert list(client.map(abs, range(-1000, 0))) == list(range(1000, 0, -1))
    assert sorted(client.map_unordered(pow, [2, 3], [2, 2])) == [4, 9]
    outcomes = list(client.outcomes(lambda number: 1 / number, [0, 1]))
    assert [outcome.ok for outcome in outcomes] == [False, True]
    assert outcomes[1].worker is not None
    with pytest.raises(KeyError, match="gone") as caught:
        client.submit({}.__getitem__, "gone").result(20)
    assert ztasks.remote_traceback(caught.value)
    data = bytes(5_000_000)
    assert client.submit(len, data).result(20) == len(data)
    assert len(client.submit(bytes, 5_000_000).result(20)) == 5_000_000


def test_a_job_by_its_name_and_its_id(client: Client) -> None:
    job = client.send("os.path.join", "a", "b")
    assert client.job(str(job)).result(20) == "a/b"
    job.forget()
    with pytest.raises(ztasks.JobNotFound):
        job.result(20)
    assert job.state == "done"
    with pytest.raises(ztasks.CallNotLoadable, match=r"zt_nowhere.task cannot be imported on .*--import"):
        client.send("zt_nowhere.task").result(20)
    with pytest.raises(ztasks.JobNotFound):
        client.job("0123456789abcdef-7").result(20)


def test_what_is_cancelled_and_what_is_stopped(client: Client) -> None:
    begun = [client.submit(time.sleep, 60) for _ in range(2)]
    support.wait_for(lambda: len(client.running()) == 2, "both to run")
    assert all(job.task == "sleep" and 0 < job.seconds < 20 for job in client.running())
    waiting = [client.submit(time.sleep, 60) for _ in range(2)]
    assert not begun[0].cancel()
    assert [future.cancel() for future in waiting] == [True, True]
    assert all(future.cancelled() for future in waiting)
    assert all(future.cancel(running=True) for future in begun)
    for future in begun:
        with pytest.raises(CancelledError):
            future.result(20)
    results = client.map(time.sleep, [0.001] * 5000)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert client.submit(abs, -3).result(20) == 3


def test_a_job_that_waits_too_long_expires(client: Client) -> None:
    late = client.submit(ztasks.options(abs, queue="nobody", expires="100ms"), -1)
    with pytest.raises(ztasks.JobExpired):
        late.result(20)


def test_a_lost_job_is_shown_with_its_call(client: Client) -> None:
    task = ztasks.options("os._exit", crash_retries=0)
    with pytest.raises(ztasks.PoisonJob, match=r"_exit\(3\)") as caught:
        client.submit(task, 3).result(20)
    assert caught.value.certificate is not None
    assert caught.value.certificate.exit_code == 3
    job = client.send(task, 4)
    with pytest.raises(ztasks.PoisonJob):
        job.result(20)


def test_a_head_that_ends_and_comes_back(tmp_path: Path) -> None:
    with Fleet(tmp_path, journal=True) as fleet:
        fleet.start_head()
        client = fleet.client(reconnect_timeout=30)
        futures = [client.submit(abs, -number) for number in range(20)]
        sent = client.send(abs, -100)
        fleet.head.kill()
        fleet.start_head()
        fleet.start_foreman("one")
        assert [future.result(20) for future in futures] == list(range(20))
        assert sent.result(20) == 100
        client.shutdown()
