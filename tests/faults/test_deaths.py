"""Workers that die (rows 2 to 4 of the fault matrix), and what their death certificates say."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fault_jobs
import hard_jobs as jobs
import pytest
import support
from tracks import lines, started

import ztasks
from ztasks import DeathCertificate, Executor, PoisonJob, WorkerLost
from ztasks.io.stacks import DUMP_SIGNAL
from ztasks.io.worker_main import OOM_SCORE

FOLDER = str(Path(jobs.__file__).parent)
MIB = 1 << 20


def death_of(future: ztasks.Future[Any]) -> DeathCertificate:
    error = future.exception(20)
    assert isinstance(error, WorkerLost)
    assert error.certificate is not None
    return error.certificate


def once(fn: Any, **changes: Any) -> Any:
    return ztasks.options(fn, crash_retries=0, **changes)


# --- 2: signals ---


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGKILL", "SIGTERM", "SIGRTMAX"])
def test_row_02_death_by_a_signal(name: str) -> None:
    """Which signal, which job, for how long; the Python stack where the signal allows it; what it said last."""
    with Executor(max_workers=1, output=lambda text: None) as executor:
        death = death_of(executor.submit(once(jobs.die), int(signal.Signals[name]), said="the last\nwords"))
        assert executor.submit(fault_jobs.square, 3).result(10) == 9
    assert (death.signal, death.exit_code, death.reason) == (name, None, "")
    assert death.oom == "" or "on this host meanwhile" in death.oom, "it counts what happens elsewhere, and says so"
    assert (death.host, death.job, death.attempt) == (os.uname().nodename, "1", 1)
    assert death.call == f"die({int(signal.Signals[name])}, said='the last\\nwords')"
    assert death.seconds is not None
    assert 0.05 <= death.seconds < 10
    assert death.stderr.splitlines()[:2] == ["the last", "words"]
    if name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"):
        assert death.stack.startswith("Fatal Python error: ")
        assert "hard_jobs.py" in death.stack
        assert " in die" in death.stack
        assert "ztasks" + os.sep + "io" not in death.stack  # the worker's own frames say nothing
    else:
        assert death.stack == ""
    assert name in death.summary
    assert death.call in death.details


def test_row_02_segfault_by_a_null_pointer(capfd: Any) -> None:
    """The third death is the last; the history tells of all attempts, and the message shows where it was."""
    with Executor(max_workers=2) as executor:
        bad = executor.submit(jobs.read_address, 0)
        good = [executor.submit(fault_jobs.square, number) for number in range(100)]
        error = bad.exception(20)
        assert type(error) is PoisonJob
        assert [future.result(10) for future in good] == [number * number for number in range(100)]
    assert [death.signal for death in error.certificates] == ["SIGSEGV"] * 3
    assert [death.attempt for death in error.certificates] == [1, 2, 3]
    assert len({death.pid for death in error.certificates}) == 3
    assert error.certificate is error.certificates[-1]
    assert [line.split(":")[0] for line in error.history] == ["attempt 1", "attempt 2", "attempt 3"]
    assert all("SIGSEGV" in line for line in error.history)
    for words in ("read_address(0)", "SIGSEGV", "in read_address", "crash_retries=2"):
        assert words in str(error)
    assert "in read_address" in capfd.readouterr().err  # whoever looks at the terminal sees it as well
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.history, again.certificates) == (str(error), error.history, error.certificates)


def test_row_02_arguments_are_shown_shortly() -> None:
    """Long arguments are cut, large ones are not unpickled, and those that cannot be shown do no harm."""
    with Executor(max_workers=1, output=lambda text: None) as executor:
        calls = {
            "long": executor.submit(once(jobs.die_with), "x" * 10_000, key=list(range(1000))),
            "large": executor.submit(once(jobs.die_with), bytes(2 * MIB)),
            "shy": executor.submit(once(jobs.die_with), jobs.Shy()),
            "own": executor.submit(once(jobs.die_with, name="a name of its own"), 1),
        }
        shown = {name: death_of(future).call for name, future in calls.items()}
    assert shown["long"].startswith("die_with('xxxx")
    assert len(shown["long"]) < 300
    assert shown["large"].startswith("die_with(... ")
    assert str(2 * MIB)[:3] in shown["large"]
    assert shown["shy"].startswith("die_with(<Shy")
    assert shown["own"] == "a name of its own(1)"


@pytest.mark.parametrize("what", ["argument", "callable", "module"])
def test_row_03_death_while_it_is_loaded(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is charged like any other, so that it ends; showing the call does not end this process, too."""
    (tmp_path / "zt_fatal.py").write_text("import os\nif 'ZTASKS_WORKER' in os.environ: os._exit(3)\ndef job(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("ZTASKS_WORKER", raising=False)
    with Executor(max_workers=2) as executor:
        if what == "argument":
            future = executor.submit(len, jobs.Ends())
        elif what == "callable":
            future = executor.submit(jobs.Ends())
        else:
            future = executor.submit(importlib.import_module("zt_fatal").job)
        good = [executor.submit(fault_jobs.square, number) for number in range(20)]
        error = future.exception(20)
        assert type(error) is PoisonJob
        assert [death.exit_code for death in error.certificates] == [3, 3, 3]
        assert [one.result(10) for one in good] == [number * number for number in range(20)]


def test_row_03_death_while_it_is_loaded_charges_the_first_items_of_a_map_only() -> None:
    with Executor(max_workers=1) as executor:
        outcomes = list(executor.outcomes(ztasks.options(jobs.Ends(), crash_retries=0), range(3)))
        assert [type(outcome.exception) for outcome in outcomes] == [PoisonJob] * 3


@pytest.mark.parametrize("ordered", [True, False])
def test_row_02_in_a_map(tmp_path: Path, ordered: bool) -> None:
    """The certificate names the item; its neighbours are not charged, whatever travelled with it."""
    with Executor(max_workers=2, output=lambda text: None) as executor:
        task = once(fault_jobs.die_if)
        list(executor.map(task, range(500), itertools.repeat(-1)))  # known to be quick: slices of many
        outcomes = list(executor.outcomes(task, range(200), itertools.repeat(77), ordered=ordered))
    (lost,) = [outcome for outcome in outcomes if not outcome.ok]
    assert isinstance(lost.exception, PoisonJob)
    death = lost.exception.certificate
    assert death is not None
    assert (lost.index, death.call, death.signal, death.attempt) == (77, "die_if(77, 77)", "SIGKILL", 1)
    assert death.job.endswith(".77")
    assert sorted(outcome.value for outcome in outcomes if outcome.ok) == [n for n in range(200) if n != 77]
    assert {outcome.attempts for outcome in outcomes} == {1}


def test_row_02_a_forked_child_s_death_is_not_its_worker_s() -> None:
    """Its stack goes to stderr; the worker lives. When the worker dies of something else, that stack is not its own."""
    said: list[bytes] = []
    with Executor(max_workers=1, output=said.append) as executor:
        pid = executor.submit(os.getpid).result(10)
        assert executor.submit(jobs.crash_forked_child).result(10) == -signal.SIGSEGV
        assert executor.submit(os.getpid).result(10) == pid
        death = death_of(executor.submit(once(jobs.crash_forked_child_and_die)))
    assert (death.signal, death.stack) == ("SIGKILL", "")
    assert b"crash_forked_child" in b"".join(said)


def test_row_02_a_stack_of_an_earlier_job_says_nothing(tmp_path: Path) -> None:
    """A worker was asked for its stack, but the job ended in time: neither a later death nor a normal end shows it."""
    said: list[bytes] = []
    with Executor(max_workers=1, output=said.append) as executor:
        for name in ("first", "second"):
            folder = tmp_path / name
            folder.mkdir()
            held = executor.submit(fault_jobs.hold, str(folder))
            (pid,) = started(folder)
            (worker,) = (worker for worker in executor._head._watch.crew.workers.values() if worker.pid == pid)
            os.kill(pid, DUMP_SIGNAL)
            support.wait_for(lambda: worker.stack_size() > 0, "the stack")  # noqa: B023
            (folder / "release").touch()
            assert held.result(10) == pid
            if name == "first":
                assert death_of(executor.submit(once(fault_jobs.exit_now), 3)).stack == ""
    assert b"wait_for_file" not in b"".join(said)


def test_row_02_what_is_known_of_peak_memory(tmp_path: Path) -> None:
    """In a small process of its own: a worker's figure begins with that of the process that starts it."""
    text = f"""
    import sys
    sys.path.insert(0, {FOLDER!r})
    import hard_jobs, ztasks
    with ztasks.Executor(max_workers=1, output=lambda text: None) as executor:
        dying = ztasks.options(hard_jobs.die, crash_retries=0)
        for megabytes in (100, 200):
            print(executor.submit(dying, 9, megabytes=megabytes).exception().certificate.peak_memory >> 20)
    """
    first, second = map(int, support.check_script(tmp_path, text).split())
    assert 100 <= first < 200 <= second < 300


def test_row_02_phases(tmp_path: Path) -> None:
    """A worker that dies between jobs leaves no certificate to anybody: nobody is charged."""
    with Executor(max_workers=1) as executor:
        for _ in range(3):
            os.kill(executor.submit(os.getpid).result(10), signal.SIGSEGV)
        assert executor.submit(once(fault_jobs.square), 3).result(10) == 9
        held = executor.submit(once(fault_jobs.hold), str(tmp_path))
        behind = [executor.submit(once(jobs.attempt_of), number) for number in range(20)]
        os.kill(started(tmp_path)[0], signal.SIGABRT)
        death = death_of(held)
        assert death.call.startswith("hold(")
        assert "in wait_for_file" in death.stack
        assert [future.result(10) for future in behind] == [(number, 1) for number in range(20)]


# --- 3: exit codes ---


@pytest.mark.parametrize("code", [0, 1, 7, 255])
@pytest.mark.parametrize("fn", [fault_jobs.exit_now, jobs.exit_in_thread])
def test_row_03_exit_code(fn: Any, code: int) -> None:
    with Executor(max_workers=1) as executor:
        death = death_of(executor.submit(once(fn), code))
        assert executor.submit(fault_jobs.square, 3).result(10) == 9
    assert (death.signal, death.exit_code, death.stack) == (None, code, "")
    assert f"exited with code {code}" in death.summary
    assert death.call == f"{fn.__name__}({code})"


def test_row_03_kill_of_the_executor(tmp_path: Path) -> None:
    """Jobs that ran then are lost, and not blamed: there is no certificate."""
    executor = Executor(max_workers=1)
    held = executor.submit(fault_jobs.hold, str(tmp_path))
    started(tmp_path)
    executor.kill()
    error = held.exception(10)
    assert type(error) is WorkerLost
    assert error.certificate is None
    assert error.certificates == ()


# --- 4: memory ---


def test_row_04_a_memory_error_is_an_ordinary_failure() -> None:
    """RLIMIT_AS in the worker: the job fails with MemoryError, is retried like others, and the worker lives."""
    with Executor(max_workers=1, initializer=jobs.limit_address_space, initargs=(256 * MIB,)) as executor:
        pid = executor.submit(os.getpid).result(10)
        error = executor.submit(ztasks.options(jobs.allocate, retries=1, backoff=0), 1024 * MIB).exception(20)
        assert type(error) is MemoryError
        assert "in allocate" in str(ztasks.remote_traceback(error))
        assert executor.submit(jobs.allocate, MIB).result(10) == MIB
        assert executor.submit(os.getpid).result(10) == pid


MEMORY = Path("/sys/fs/cgroup/memory")
UNIFIED = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]


def cgroup_places() -> Iterator[tuple[Path, str]]:
    """Yield the memory cgroups that this process is in, each with the name of the file that limits one."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, kinds, name = line.split(":", 2)
        if "memory" in kinds.split(","):
            yield Path("/sys/fs/cgroup/memory", name.lstrip("/")), "memory.limit_in_bytes"
        elif not kinds:
            for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
                yield Path(top, name.lstrip("/")), "memory.max"


@contextlib.contextmanager
def small_cgroup(limit: int) -> Iterator[Path]:
    """Make a memory cgroup below this process's own, with a limit; skip where that is not allowed."""
    for parent, file in cgroup_places():
        group = parent / f"ztasks-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / file).write_text(str(limit))
        except OSError:
            group.rmdir()
            continue
        try:
            yield group
        finally:
            support.wait_for(lambda procs=group / "cgroup.procs": not procs.read_text(), "the end of what ran in it")
            group.rmdir()
        return
    pytest.skip("no memory cgroup can be made here (that needs root, or delegation)")


def test_row_04_the_kernel_s_out_of_memory_killer(tmp_path: Path) -> None:
    """In a cgroup of its own with a small limit: the certificate says that the killer struck; the pool goes on."""
    text = f"""
    import json, sys
    sys.path.insert(0, {FOLDER!r})
    import hard_jobs, ztasks
    with ztasks.Executor(max_workers=2) as executor:
        bad = executor.submit(ztasks.options(hard_jobs.allocate_too_much, crash_retries=1), {1024 * MIB})
        good = executor.submit(pow, 2, 5)
        error = bad.exception()
        print(json.dumps([
            type(error).__name__, str(error), good.result(), executor.submit(pow, 2, 6).result(),
            [(death.signal, death.oom, (death.peak_memory or 0) >> 20) for death in error.certificates],
        ]))
        killed = executor.submit(ztasks.options(hard_jobs.die, crash_retries=0), 9)
        print(json.dumps(killed.exception().certificate.oom))
    """
    script = support.write_script(tmp_path, text)
    with small_cgroup(200 * MIB) as group:
        done = subprocess.run(
            ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", sys.executable, str(script)],
            env=support.environment(), capture_output=True, text=True, timeout=40, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    name, message, good, later, deaths = first
    assert (name, good, later) == ("PoisonJob", 32, 64)
    assert [signal for signal, _, _ in deaths] == ["SIGKILL"] * 2
    assert all("out-of-memory killer struck in its cgroup" in oom for _, oom, _ in deaths), deaths
    assert all(50 <= peak < 200 for _, _, peak in deaths)
    assert "out-of-memory killer" in message
    assert second == ""  # what has been told once is not held against the next


def test_row_04_the_kernel_takes_a_worker_rather_than_its_head() -> None:
    def score() -> int:
        return int(Path("/proc/self/oom_score_adj").read_text())

    with Executor(max_workers=1) as executor:
        assert executor.submit(score).result(10) == min(1000, score() + OOM_SCORE)


def test_row_04_a_worker_that_grows_too_large_while_a_job_runs(tmp_path: Path) -> None:
    """kill_memory_per_child: killed while running, with the stack; the others go on."""
    with Executor(max_workers=2, kill_memory_per_child="150MiB", output=lambda text: None) as executor:
        bad = executor.submit(once(jobs.grow), str(tmp_path / "grown"), 1024 * MIB)
        good = [executor.submit(fault_jobs.square, number) for number in range(50)]
        death = death_of(bad)
        assert [future.result(10) for future in good] == [number * number for number in range(50)]
        assert executor.submit(fault_jobs.square, 3).result(10) == 9
    assert lines(tmp_path / "grown") == []
    assert death.signal == "SIGKILL"
    assert "150 MiB" in death.reason
    assert "in grow" in death.stack
    assert death.oom == "" or "on this host meanwhile" in death.oom
    if death.peak_memory is not None:  # unknown where this process has had more
        assert 150 * MIB < death.peak_memory < 1024 * MIB


def test_row_04_growing_too_large_is_charged_as_a_death(tmp_path: Path) -> None:
    with Executor(max_workers=1, kill_memory_per_child="120MiB", output=lambda text: None) as executor:
        error = executor.submit(
            ztasks.options(jobs.grow, crash_retries=1), str(tmp_path / "grown"), 512 * MIB
        ).exception(20)
        assert type(error) is PoisonJob
        assert ["120 MiB" in death.reason for death in error.certificates] == [True, True]


@pytest.mark.parametrize("through", ["submit", "map"])
def test_row_04_a_worker_that_is_too_large_between_jobs(tmp_path: Path, through: str) -> None:
    """max_memory_per_child: it is replaced between jobs, and each worker runs at least one; nobody is charged."""
    path = tmp_path / "pids"
    begin = time.monotonic()
    with Executor(max_workers=1, max_memory_per_child="1MiB", kill_memory_per_child="1GiB") as executor:
        if through == "submit":
            futures = [executor.submit(once(jobs.keep), 0, str(path)) for _ in range(6)]
            pids = [future.result(20) for future in futures]
        else:
            pids = list(executor.map(once(jobs.keep), [0] * 6, [str(path)] * 6))
    assert time.monotonic() - begin < 30
    assert len(pids) == len(lines(path)) == 6  # none ran twice
    assert len(set(pids)) >= 2 if through == "map" else len(set(pids)) == 6  # items of a map are claimed together


def test_row_04_a_worker_below_the_limit_stays(tmp_path: Path) -> None:
    path = str(tmp_path / "pids")
    with Executor(max_workers=1, max_memory_per_child="220MiB") as executor:
        small = [executor.submit(jobs.keep, 0, path).result(20) for _ in range(5)]
        large = [executor.submit(jobs.keep, 120 * MIB, path).result(20) for _ in range(4)]
    assert len(set(small + large[:1])) == 1
    assert len(set(large)) == 2  # two of them are too much for one worker
