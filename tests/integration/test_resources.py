"""Resources of one host: cpus and memory that jobs say they take, GPUs that workers are pinned to, the warm spare."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import resource_jobs as jobs
import support

import ztasks
from ztasks import Executor, InvalidOption, TooLarge, WorkerLost

MIB = 1 << 20


def most_at_a_time(path: Path) -> int:
    """The largest sum of what jobs took that ran at the same moment, by the times that they have noted."""
    changes = []
    for line in path.read_text().splitlines():
        begin, end, share = line.split()
        changes += [(float(begin), int(share)), (float(end), -int(share))]
    total = most = 0
    for _, change in sorted(changes):
        total += change
        most = max(most, total)
    return most


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# --- cpus ---


def test_cpus_are_room(tmp_path: Path) -> None:
    """Four workers: never more than four cpus at a time, whatever the mix."""
    path = tmp_path / "times"
    with Executor(max_workers=4) as executor:
        tasks = {cpus: ztasks.options(jobs.occupy, cpus=cpus) for cpus in (1, 2, 3, 9)}
        mix = list(itertools.islice(itertools.cycle([1, 2, 1, 3, 9, 1, 2]), 50))
        futures = [executor.submit(tasks[cpus], str(path), min(cpus, 4), 0.004) for cpus in mix]
        assert [future.result(20) for future in futures] == [min(cpus, 4) for cpus in mix]
    assert most_at_a_time(path) == 4


def test_cpus_in_a_map_beside_submitted_jobs(tmp_path: Path) -> None:
    path = tmp_path / "times"
    with Executor(max_workers=3) as executor:
        two, one = ztasks.options(jobs.occupy, cpus=2), ztasks.options(jobs.occupy)
        mapped = executor.map(two, [str(path)] * 30, [2] * 30, [0.002] * 30)
        futures = [executor.submit(one, str(path), 1, 0.002) for _ in range(30)]
        assert list(mapped) == [2] * 30
        assert [future.result(20) for future in futures] == [1] * 30
    assert 2 <= most_at_a_time(path) <= 3


def test_who_wants_much_is_not_starved(tmp_path: Path) -> None:
    """A job that wants all workers gets its turn among a stream of small ones."""
    path = tmp_path / "times"
    with Executor(max_workers=2) as executor:
        small = [executor.submit(ztasks.options(jobs.occupy, memory=1), str(path), 1, 0.005) for _ in range(100)]
        big = executor.submit(ztasks.options(jobs.occupy, cpus=2), str(path), 2, 0)
        small += [executor.submit(ztasks.options(jobs.occupy, memory=1), str(path), 1, 0.005) for _ in range(100)]
        assert big.result(20) == 2
        assert sum(future.done() for future in small) < 190
        assert [future.result(20) for future in small] == [1] * 200
    assert most_at_a_time(path) == 2


# --- memory ---


def test_memory_is_room(tmp_path: Path) -> None:
    path = tmp_path / "times"
    with Executor(max_workers=4, memory="10MiB") as executor:
        tasks = {share: ztasks.options(jobs.occupy, memory=share * MIB) for share in (1, 4, 5, 10)}
        mix = list(itertools.islice(itertools.cycle([4, 5, 1, 4, 10, 1, 5, 5]), 48))
        futures = [executor.submit(tasks[share], str(path), share, 0.004) for share in mix]
        free = [executor.submit(jobs.pid) for _ in range(20)]  # says nothing, takes nothing
        assert [future.result(20) for future in futures] == mix
        assert all(future.result(20) for future in free)
    assert 5 < most_at_a_time(path) <= 10


def test_memory_and_cpus_and_at_most_once_together(tmp_path: Path) -> None:
    path = tmp_path / "times"
    with Executor(max_workers=3, memory=100) as executor:
        tasks = [
            ztasks.options(jobs.occupy, memory=60, cpus=2),
            ztasks.options(jobs.occupy, memory=40, at_most_once=True),
            ztasks.options(jobs.occupy, memory=100),
        ]
        shares = [60, 40, 100]
        futures = [executor.submit(tasks[n % 3], str(path), shares[n % 3], 0.002) for n in range(60)]
        assert [future.result(20) for future in futures] == shares * 20
    assert most_at_a_time(path) == 100


def test_room_is_given_back_after_deaths_and_cancels(tmp_path: Path) -> None:
    with Executor(max_workers=2, memory=100) as executor:
        dying = ztasks.options(jobs.die, memory=100, crash_retries=0)
        hung = ztasks.options(time.sleep, memory=100, timeout=0.05, grace=5)
        held = ztasks.options(jobs.hold, memory=100)
        futures = [
            executor.submit(dying),
            executor.submit(hung, 600),
            executor.submit(held, f"{tmp_path}/s", "/nowhere"),
        ]
        assert isinstance(futures[0].exception(20), WorkerLost)
        assert type(futures[1].exception(20)) is ztasks.JobTimeout
        support.wait_for(lambda: lines(tmp_path / "s"), "the third")
        assert futures[2].cancel(running=True)
        assert executor.submit(ztasks.options(jobs.occupy, memory=100), f"{tmp_path}/times", 100, 0).result(20) == 100


def test_memory_that_can_never_fit() -> None:
    """Refused at the call; nothing was sent."""
    with Executor(max_workers=1, memory="1GiB") as executor:
        greedy = ztasks.options(jobs.pid, memory=2**30 + 1)
        for call in (
            lambda: executor.submit(greedy),
            lambda: executor.map(greedy, [1]),
            lambda: executor.map_unordered(greedy, [1]),
            lambda: executor.outcomes(greedy, [1]),
        ):
            with pytest.raises(TooLarge, match="Nothing was sent"):
                call()
        assert executor.submit(greedy.options(memory="1GiB")).result(10)
    with Executor(max_workers=1) as executor, pytest.raises(TooLarge):  # more than this host has
        executor.submit(ztasks.options(jobs.pid, memory="1000TiB"))


@pytest.mark.parametrize("options", [{"cpus": 0}, {"cpus": 1.5}, {"memory": -1}, {"memory": "much"}, {"cpus": None}])
def test_wrong_values(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        ztasks.options(jobs.pid, **options)


# --- GPUs ---


def devices_of(executor: Executor, workers: int) -> dict[int, str | None]:
    """Return what each worker sees, once so many have told it."""
    found: dict[int, str | None] = {}

    def ask() -> bool:
        found.update(future.result(10) for future in [executor.submit(jobs.device) for _ in range(2 * workers)])
        return len(found) >= workers

    support.wait_for(ask, f"{workers} workers")
    return found


@pytest.fixture
def three_and_five(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who was given two of the host's GPUs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")


@pytest.mark.usefixtures("three_and_five")
@pytest.mark.parametrize("gpus", ["auto", 2])
def test_one_worker_for_each_gpu(gpus: Any) -> None:
    with Executor(gpus=gpus) as executor:
        assert executor.max_workers == 2
        assert sorted(map(str, devices_of(executor, 2).values())) == ["3", "5"]


@pytest.mark.usefixtures("three_and_five")
def test_fewer_gpus_than_there_are() -> None:
    with Executor(gpus=1) as executor:
        assert executor.max_workers == 1
        assert list(devices_of(executor, 1).values()) == ["3"]


@pytest.mark.usefixtures("three_and_five")
def test_more_workers_than_gpus_share_them() -> None:
    with Executor(max_workers=5, gpus="auto") as executor:
        assert sorted(map(str, devices_of(executor, 5).values())) == ["3", "3", "3", "5", "5"]


@pytest.mark.usefixtures("three_and_five")
@pytest.mark.parametrize("how", ["crash", "kill", "recycle"])
def test_a_worker_that_takes_another_s_place_takes_its_gpu(how: str) -> None:
    with Executor(gpus="auto", max_tasks_per_child=20 if how == "recycle" else None) as executor:
        seen = devices_of(executor, 2)
        for _ in range(2):
            victim = next(iter(seen))
            if how == "crash":
                executor.submit(ztasks.options(jobs.die, crash_retries=0)).exception(10)
            elif how == "kill":
                os.kill(victim, signal.SIGKILL)
                support.wait_gone({victim})
            else:
                assert len([executor.submit(jobs.pid).result(10) for _ in range(20)]) == 20
            support.wait_for(lambda: len(support.workers()) == 2, "two workers")
            seen = {pid: device for pid, device in devices_of(executor, 2).items() if support.alive(pid)}
            if how != "recycle":  # there they go on being replaced
                assert sorted(map(str, seen.values())) == ["3", "5"]
            assert set(seen.values()) <= {"3", "5"}


def test_gpus_that_are_not_told_are_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is known of devices, a number is taken at its word."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if any(name.startswith("nvidia") for name in os.listdir("/dev")):
        pytest.skip("this host has GPUs")
    with Executor(gpus=2) as executor:
        assert sorted(map(str, devices_of(executor, 2).values())) == ["0", "1"]
    with pytest.raises(InvalidOption, match="no GPU was found"):
        Executor(gpus="auto")


@pytest.mark.parametrize("told", ["", "-1", " , "])
def test_auto_where_none_is_visible(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
    with pytest.raises(InvalidOption, match="no GPU was found"):
        Executor(gpus="auto")


@pytest.mark.usefixtures("three_and_five")
@pytest.mark.parametrize("gpus", [0, -1, 3, "two", "", 1.5, True])
def test_wrong_numbers_of_gpus(gpus: Any) -> None:
    with pytest.raises(InvalidOption):
        Executor(gpus=gpus)


def test_no_gpus_leaves_the_variable_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with Executor(max_workers=1) as executor:
        assert executor.submit(jobs.device).result(10)[1] == "3,5"


# --- the warm spare ---


def spare_of(executor: Executor) -> int:
    """Wait until a spare is up; return its pid."""
    watch = executor._head._watch
    support.wait_for(lambda: watch._spare.lane is not None and watch._spare._ready, "a spare")
    return watch.crew.workers[watch._spare.lane].pid  # type: ignore[index]


def test_after_a_death_a_spare_is_kept_and_takes_over(tmp_path: Path) -> None:
    """The replacing process was there before the death, and had run the initializer; it had no work until then."""
    path, before = tmp_path / "prepared", support.workers()
    with Executor(max_workers=1, initializer=jobs.prepare, initargs=(str(path),)) as executor:
        worker = executor.submit(jobs.pid).result(10)
        assert support.workers() - before == {worker}  # none is kept where none has died
        os.kill(worker, signal.SIGKILL)
        worker = executor.submit(jobs.pid).result(10)
        for _ in range(3):
            spare = spare_of(executor)
            assert support.workers() - before == {worker, spare}
            assert lines(path)[-1] == str(spare)
            assert {executor.submit(jobs.pid).result(10) for _ in range(30)} == {worker}
            os.kill(worker, signal.SIGKILL)
            died = time.monotonic()
            worker, born = executor.submit(jobs.born).result(10)
            assert worker == spare
            assert born < died
        spare = spare_of(executor)
    assert not support.alive(spare)


def test_where_workers_are_recycled_a_spare_is_kept_from_the_beginning(tmp_path: Path) -> None:
    path = tmp_path / "prepared"
    before = support.workers()
    with Executor(max_workers=1, max_tasks_per_child=5, initializer=jobs.prepare, initargs=(str(path),)) as executor:
        executor.submit(jobs.pid).result(10)
        support.wait_for(lambda: len(lines(path)) == 2, "a spare")
        assert len(support.workers() - before) == 2
        pids = [executor.submit(jobs.pid).result(10) for _ in range(24)]
        runs = [len(list(run)) for _, run in itertools.groupby(pids)]
        assert runs == [4, 5, 5, 5, 5]
        for _, run in itertools.groupby(pids):
            assert str(next(run)) in lines(path)


def test_a_spare_counts_as_no_worker(tmp_path: Path) -> None:
    """No more jobs run at a time than there are workers asked for."""
    path = tmp_path / "times"
    with Executor(max_workers=2, max_tasks_per_child=7) as executor:
        futures = [executor.submit(jobs.occupy, str(path), 1, 0.002) for _ in range(50)]
        assert [future.result(20) for future in futures] == [1] * 50
    assert most_at_a_time(path) <= 2


def test_a_spare_that_dies_is_no_loss(tmp_path: Path) -> None:
    """Nobody is charged, jobs go on, and after the next death there is a worker all the same."""
    path = tmp_path / "prepared"
    with Executor(max_workers=1, max_tasks_per_child=100, initializer=jobs.prepare, initargs=(str(path),)) as executor:
        worker = executor.submit(jobs.pid).result(10)
        spare = spare_of(executor)
        os.kill(spare, signal.SIGKILL)
        task = ztasks.options(jobs.pid, crash_retries=0)
        assert {executor.submit(task).result(10) for _ in range(10)} == {worker}
        os.kill(worker, signal.SIGKILL)
        assert executor.submit(task).result(10) not in (worker, spare)


def test_close_while_a_spare_is_starting_or_warm() -> None:
    for pause in (0, 0.02, 0.1):
        with Executor(max_workers=1, max_tasks_per_child=10) as executor:
            executor.submit(jobs.pid).result(10)
            time.sleep(pause)
            begin = time.monotonic()
        assert time.monotonic() - begin < 2.5


# --- ztasks run ---

OCCUPY = """
    import sys
    sys.path.insert(0, {folder!r})
    import resource_jobs

    def work(number):
        return resource_jobs.occupy({path!r}, 1, 0.02)

    def device(number):
        return resource_jobs.device()[1]
"""


def run(tmp_path: Path, *arguments: str, task: str = "work", **env: str) -> support.Finished:
    text = OCCUPY.format(folder=str(Path(jobs.__file__).parent), path=str(tmp_path / "times"))
    file = support.write_script(tmp_path, text, "job.py")
    return support.run_python("-m", "ztasks", "run", f"{file}:{task}", *arguments, env=support.environment(**env))


@pytest.mark.parametrize(
    ("options", "most"),
    [
        (["-j", "3"], 3),
        (["-j", "3", "--cpus-per-job", "1000"], 1),
        (["-j", "3", "--memory-per-job", "{most_memory}"], 1),
        (["-j", "3", "--memory-per-job", "1k", "--cpus-per-job", "1"], 3),
    ],
)
def test_run_with_fewer_at_a_time(tmp_path: Path, options: list[str], most: int) -> None:
    from ztasks.io.hostinfo import cores, memory

    options = [option.format(most_memory=memory() * 2 // 3) for option in options]
    done = run(tmp_path, *options, *map(str, range(12)))
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 12
    assert most_at_a_time(tmp_path / "times") <= (min(most, cores()) if "--cpus-per-job" in options else most)


@pytest.mark.parametrize(
    ("options", "devices"), [(["auto"], {"3", "5"}), (["1"], {"3"}), (["2", "-j", "4"], {"3", "5"})]
)
def test_run_with_gpus(tmp_path: Path, options: list[str], devices: set[str]) -> None:
    done = run(tmp_path, "--gpus", *options, *map(str, range(40)), task="device", CUDA_VISIBLE_DEVICES="3,5")
    assert done.code == 0, done.err
    assert {json.loads(line)["result"] for line in done.out.splitlines()} == devices


@pytest.mark.parametrize(
    "options",
    [
        ["--cpus-per-job", "0"],
        ["--cpus-per-job", "-1"],
        ["--cpus-per-job", "1.5"],
        ["--cpus-per-job", "many"],
        ["--memory-per-job", "0"],
        ["--memory-per-job", "much"],
        ["--memory-per-job", "-5"],
        ["--memory-per-job", "1000TiB"],
        ["--gpus", "0"],
        ["--gpus", "3"],
        ["--gpus", "all"],
        ["--gpus", "-1"],
        ["--gpus", ""],
        ["--gpus", "3", "-j", "1"],
    ],
)
def test_run_with_wrong_values(tmp_path: Path, options: list[str]) -> None:
    """Exit code 2, one clear message, and nothing was run."""
    done = run(tmp_path, *options, "1", CUDA_VISIBLE_DEVICES="3,5")
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    name = options[0].lstrip("-")
    assert name in done.err or name.split("-")[0] in done.err
    assert not (tmp_path / "times").exists()


def test_run_with_gpus_where_there_are_none(tmp_path: Path) -> None:
    done = run(tmp_path, "--gpus", "auto", "1", CUDA_VISIBLE_DEVICES="")
    assert (done.code, done.out) == (2, "")
    assert "no GPU was found" in done.err
