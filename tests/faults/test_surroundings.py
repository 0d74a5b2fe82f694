"""Descriptors run out, disks are full, directories cannot be used, the clock jumps: a typed error or a way round it,
and nothing is left behind.

Limits are set in scripts of their own; full disks are small file systems in a mount namespace of their own.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import support

import ztasks

HERE = Path(__file__).parent
PREAMBLE = f"""
import os, sys, time
sys.path.insert(0, {str(HERE)!r})
import surroundings
from surroundings import *
"""


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a path so short that sockets fit into it."""
    folder = Path(tempfile.mkdtemp(prefix="s"))
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


# --- 20: descriptors ---


def test_row_20_too_few_descriptors_at_the_start(tmp_path: Path) -> None:
    """Whatever is missing: a typed error at once, or it works; nothing is left either way."""
    text = """
    warm()
    before, told = belongings(), 0
    for spare in (0, 1, 2, 5, 10, 20, 30, 35, 38, 45, 100):
        allow(200)
        taken = take_descriptors(spare)
        begin = time.monotonic()
        try:
            with Executor(max_workers=2) as executor:
                works(executor)
        except ztasks.WorkersCannotStart as error:
            assert "descriptors" in str(error) and "ulimit -n" in str(error), error
            told += 1
        within(10, begin)
        for descriptor in taken:
            os.close(descriptor)
        assert belongings() == before, (spare, before, belongings())
    print(told)
    """
    assert 5 <= int(support.check_script(tmp_path, PREAMBLE + dedented(text))) < 11


def test_row_20_descriptors_run_out_while_workers_are_replaced(tmp_path: Path) -> None:
    """The process is not aborted; each job ends; with descriptors again, all goes on or says what was wrong."""
    text = """
    allow(200)
    warm()
    before = belongings()
    for spare in (0, 4, 8, 9, 10, 14, 20):
        executor = Executor(max_workers=2)
        works(executor)
        executor.submit(DIE, 3).exception(20)
        works(executor)
        taken = take_descriptors(spare)
        begin = time.monotonic()
        lost = [executor.submit(DIE, 3) for _ in range(3)]
        assert all(isinstance(future.exception(20), ztasks.WorkerLost | ztasks.WorkersCannotStart) for future in lost)
        for descriptor in taken:
            os.close(descriptor)
        try:
            works(executor)
        except ztasks.WorkersCannotStart as error:
            assert "Too many open files" in str(error), error
        executor.shutdown()
        within(20, begin)
        assert belongings() == before, (spare, before, belongings())
    """
    support.check_script(tmp_path, PREAMBLE + dedented(text))


def test_row_20_not_one_descriptor_is_left_while_jobs_run(tmp_path: Path) -> None:
    """As in a server at its limit: somebody takes each that becomes free. An executor that is up works and closes."""
    text = """
    allow(200)
    warm()
    before = belongings()
    executor = Executor(max_workers=2)
    pids = set()
    while len(pids) < 2:  # both are up
        pids |= {future.result(20) for future in [executor.submit(surrounding_jobs.slow_pid) for _ in range(2)]}
    taken, ended = [], threading.Event()

    def take():
        while not ended.wait(0.001):
            taken.extend(take_descriptors(0))

    thief = threading.Thread(target=take)
    thief.start()
    slow = [executor.submit(time.sleep, 0.2) for _ in range(2)]
    for _ in range(20):
        works(executor)
    try:
        Executor(max_workers=1)
    except ztasks.WorkersCannotStart as error:
        assert "descriptors" in str(error) or "Too many open files" in str(error), error
    else:
        raise AssertionError("it starts")
    begin = time.monotonic()
    executor.shutdown()
    within(10, begin)
    assert all(future.result(0) is None for future in slow)
    ended.set()
    thief.join()
    for descriptor in taken:
        os.close(descriptor)
    assert belongings() == before, (before, belongings())
    """
    support.check_script(tmp_path, PREAMBLE + dedented(text))


# --- 20: disks ---


def with_mounts(folder: Path, mounts: str, text: str, *arguments: str, **env: str) -> support.Finished:
    """Run a script in a mount namespace of its own, after commands that mount."""
    namespace = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    probe = subprocess.run(
        [*namespace, "mount", "-t", "tmpfs", "x", folder], capture_output=True, text=True, check=False
    )
    if probe.returncode:
        pytest.skip(f"no file systems can be mounted here: {probe.stderr.strip()}")
    script = support.write_script(folder, PREAMBLE + dedented(text)) if text else None
    command = [sys.executable, *([str(script)] if script else []), *arguments]
    done = subprocess.run(
        [*namespace, "sh", "-ec", f'{mounts}\nexec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
        env=support.environment(**env),
        cwd=folder,
    )
    return support.Finished(done.returncode, done.stdout, done.stderr)


def check_with_mounts(folder: Path, mounts: str, text: str, **env: str) -> str:
    done = with_mounts(folder, mounts, text, **env)
    assert (done.code, done.err) == (0, ""), f"{done.out}\n{done.err}"
    return done.out


READ_ONLY = """
for place in /tmp /var/tmp /dev/shm; do
    mount --rbind $place $place
    mount -o remount,bind,ro $place
done
"""
"""What is mounted inside of them stays as it is."""


def test_row_20_a_full_disk_at_the_start(tmp_path: Path, short: Path) -> None:
    """There are other places: one of them is taken."""
    text = """
    fill(os.environ["TMPDIR"])
    before = belongings()
    with Executor(max_workers=2) as executor:
        works(executor)
        assert belongings()[2] == ["filling"]
    assert belongings()[1:] == before[1:] == (["MainThread"], ["filling"])
    """
    check_with_mounts(tmp_path, f"mount -t tmpfs -o size=64k x {short}", text, TMPDIR=str(short), XDG_RUNTIME_DIR="")


@pytest.mark.parametrize("options", ["size=64k", "size=1m,nr_inodes=4"])
@pytest.mark.parametrize("leave", [0, 4096, 20480])
def test_row_20_all_disks_are_full_at_the_start(tmp_path: Path, short: Path, options: str, leave: int) -> None:
    """A typed error that names the place, and nothing is left behind."""
    full, other = short / "full", short / "other"
    full.mkdir()
    other.mkdir()
    text = f"""
    warm()
    folder = os.environ["TMPDIR"] = {str(full)!r}
    fill(folder, leave={leave})
    for number in range(10):
        try:
            open(os.path.join(folder, str(number)), "x").close()
        except OSError:
            break
    before = belongings()
    begin = time.monotonic()
    for _ in range(2):
        try:
            with Executor(max_workers=2) as executor:
                works(executor)
        except ztasks.WorkersCannotStart as error:
            print("No space left on device" in str(error), folder in str(error))
        assert belongings() == before, (before, belongings())
    within(10, begin)
    """
    mounts = f"mount -t tmpfs -o {options} x {full}\nmount -t tmpfs x {other}\n{READ_ONLY}"
    done = check_with_mounts(tmp_path, mounts, text, TMPDIR=str(other), XDG_RUNTIME_DIR="")
    assert done == "True True\nTrue True\n"


def test_row_20_a_disk_that_becomes_full(tmp_path: Path, short: Path) -> None:
    """Who works goes on. Workers that die are replaced when there is room again, or jobs fail with what is wrong."""
    text = """
    warm()
    before = belongings()
    for lost in (1, 2):
        executor = Executor(max_workers=2)
        works(executor)
        executor.submit(DIE, 3).exception(20)
        works(executor)
        filling = fill(os.environ["TMPDIR"])
        begin = time.monotonic()
        works(executor)
        ended = [executor.submit(DIE, 3).exception(20) for _ in range(lost)]
        assert all(isinstance(error, ztasks.WorkerLost | ztasks.WorkersCannotStart) for error in ended)
        try:
            works(executor)
        except ztasks.WorkersCannotStart as error:
            assert "No space left on device" in str(error), error
        os.unlink(filling)
        executor.shutdown()
        within(20, begin)
        assert belongings() == before, (before, belongings())
    """
    check_with_mounts(tmp_path, f"mount -t tmpfs -o size=256k x {short}", text, TMPDIR=str(short))


def test_row_20_a_full_disk_under_the_records(tmp_path: Path, short: Path) -> None:
    """The run ends soon, says what is wrong, and that records are lost; those that were written are whole."""
    (tmp_path / "tasks.py").write_text("def work(number):\n    return number * 100\n")
    arguments = ["-m", "ztasks", "run", "tasks.py:work", "--lines", "lines", "-o", f"{short}/out"]
    (tmp_path / "lines").write_text("".join(f"{number}\n" for number in range(100_000)))
    keep = f'trap \'cp {short}/out {tmp_path}/kept\' EXIT\nrun() {{ "$@"; }}\nset -- run "$@"\n'
    mounts = f'mount -t tmpfs -o size=64k x {short}\n{keep}\n"$@"\nexit'
    done = with_mounts(tmp_path, mounts, "", *arguments)
    assert done.code == 3, done.err
    assert "writing the output failed" in done.err
    assert "No space left on device" in done.err
    assert "Traceback" not in done.err
    *whole, last = (tmp_path / "kept").read_text().split("\n")
    assert len(whole) > 10
    assert all(json.loads(line)["ok"] for line in whole)
    assert len(last) < 1000


# --- 20: directories that cannot be used ---

PLACES = {
    "a long path": "folder = folder + '/' + 'x' * 90; os.mkdir(folder)",
    "missing": "folder += '/missing'",
    "a file": "folder += '/file'; open(folder, 'w').close(); os.chmod(folder, 0o755)",
    "not writable": "os.chmod(folder, 0o500)",
    "not listable": "os.chmod(folder, 0o300)",
    "not enterable": "os.chmod(folder, 0o600)",
    "forbidden": "os.chmod(folder, 0)",
    "a dangling link": "folder += '/link'; os.symlink('/nonexistent', folder)",
    "empty": "folder = ''",
    "relative": "os.chdir(folder); os.mkdir('here'); folder = 'here'",
    "not UTF-8": "folder += os.fsdecode(b'/caf\\xe9'); os.mkdir(folder)",
}


@pytest.mark.parametrize("place", PLACES)
def test_row_20_a_directory_that_cannot_be_used(tmp_path: Path, short: Path, place: str) -> None:
    """Another one is used, or this one after all; nothing is left in either."""
    text = f"""
    warm()
    folder, used = {str(short)!r}, []
    {PLACES[place]}
    obey_permissions()
    os.environ["TMPDIR"] = folder
    before = belongings()
    for _ in range(2):
        with Executor(max_workers=1) as executor:
            used.append(executor._head._rundir.path)
            assert os.path.isdir(used[-1])
            works(executor)
            executor.submit(DIE, 3).exception(20)
            works(executor)
    assert belongings()[:2] == before[:2], (before, belongings())
    os.chmod({str(short)!r}, 0o700)
    assert not any(map(os.path.exists, used)), used
    left = [name for _, names, _ in os.walk({str(short)!r}) for name in names if name.startswith("ztasks-")]
    assert left == [], left
    """
    support.check_script(tmp_path, PREAMBLE + dedented(text), env=support.environment(XDG_RUNTIME_DIR=""))


def test_row_20_no_directory_can_be_used(tmp_path: Path) -> None:
    """A typed error that names the cure."""
    text = """
    before = belongings()
    for folder in ("/tmp", "/nonexistent", "x" * 100):
        os.environ["TMPDIR"] = folder
        try:
            Executor()
        except ztasks.WorkersCannotStart as error:
            print(folder in str(error) and "Set TMPDIR to a directory with a short path" in str(error))
    assert belongings()[:2] == before[:2], (before, belongings())
    """
    done = check_with_mounts(tmp_path, READ_ONLY, text, XDG_RUNTIME_DIR="")
    assert done == "True\nTrue\nTrue\n"


# --- 23: clocks ---

MAY_LOOK_AT_THE_WALL_CLOCK = {
    "cli/head.py": "when jobs came in and ended, for `ztasks jobs` after a restart",
    "cli/jobs.py": "how long ago that was",
    "cli/serving.py": "for lines of the log",
    "cli/worker.py": "when it started: of two with one name the newer wins, and no other clock is common to both",
    "cli/workers.py": "how long ago that was",
    "io/answers.py": "for how long the head has run",
    "io/client_link.py": "when it started, for people",
    "io/deliver.py": "when a lost job began, for the records",
    "io/history.py": "when jobs ended, for `ztasks jobs`",
    "io/keys.py": "when a key was added, for `ztasks keys list`",
    "io/outbox.py": "when a job began, for the records",
    "io/runner.py": "when a job began, for the records",
    "io/service.py": "an epoch without a journal, greater than that of the run before; lanes count on if it is not",
    "io/rundir.py": "the age of a directory, which the file system notes by the wall clock",
}


def test_row_23_only_monotonic_clocks_decide() -> None:
    """No other module calls a function that tells the time of day."""
    found = set()
    package = Path(ztasks.__file__).parent
    for module in package.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Attribute):
                names = {f"{getattr(node.value, 'id', getattr(node.value, 'attr', ''))}.{node.attr}"}
            elif isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
            else:
                continue
            if names & WALL_CLOCKS:
                found.add(str(module.relative_to(package)))
    assert found == set(MAY_LOOK_AT_THE_WALL_CLOCK)


WALL_CLOCKS = {f"time.{name}" for name in ("time", "time_ns", "localtime", "gmtime", "ctime", "CLOCK_REALTIME")} | {
    f"{module}.{name}" for module in ("datetime", "date") for name in ("now", "utcnow", "today")
}

JUMPS_IN_PYTHON = """
import itertools, time
_real, _offsets = time.time, itertools.cycle((0.0, 86400.0, -86400.0, 0.5, -0.5, 1e8, -1e8, 3.0))
time.time = lambda: _real() + next(_offsets)
time.time_ns = lambda: int(time.time() * 1e9)
"""

JUMPS_IN_C = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <sys/time.h>
#include <time.h>

static const long offsets[] = {0, 86400, -86400, 1, -1, 100000000, -100000000, 3};
static unsigned calls;
static long offset(void) { return offsets[__atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED) % 8]; }

int clock_gettime(clockid_t id, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(id, now);
    if (!code && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
    return code;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;
    int code = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return code;
}

time_t time(time_t *place)
{
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (place) *place = precise.tv_sec;
    return precise.tv_sec;
}
"""


def jumping(folder: Path, how: str) -> dict[str, str]:
    """Return an environment in which the clock jumps to and fro, in all processes."""
    if how == "time.time":
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(JUMPS_IN_PYTHON)
        path = os.pathsep.join([str(folder / "site"), support.environment()["PYTHONPATH"]])
        return support.environment() | {"PYTHONPATH": path}
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here")
    (folder / "jumps.c").write_text(JUMPS_IN_C)
    library = str(folder / "jumps.so")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", library, str(folder / "jumps.c"), "-ldl"], check=True, timeout=60
    )
    return support.environment(LD_PRELOAD=library)


@pytest.mark.parametrize("how", ["time.time", "the C library"])
def test_row_23_the_clock_jumps(tmp_path: Path, how: str) -> None:
    """By seconds, days and years, to and fro, for the user's process and the workers: timeouts, retries, waits, recalls
    and deaths are what they would be."""
    text = f"""
    jumps = [time.time() for _ in range(100)]
    assert max(jumps) - min(jumps) > 1e7, "the clock does not jump"
    begin = time.monotonic()
    with Executor(max_workers=2) as executor:
        seen = executor.submit(surrounding_jobs.wall_clock, 100).result(20)
        assert max(seen) - min(seen) > 1e7, "the clock of the workers does not jump"
        works(executor)
        hung = executor.submit(ztasks.options(time.sleep, timeout=0.5, grace=5), 600)
        slow = executor.submit(ztasks.options(time.sleep, timeout=30), 0.7)
        quick = [executor.submit(ztasks.options(jobs.square, timeout=10), number) for number in range(300)]
        stubborn = ztasks.options(surrounding_jobs.fail_twice, retries=2, backoff=0.05)
        again = executor.submit(stubborn, {str(tmp_path / "tries")!r})
        held = executor.submit(jobs.hold, {str(tmp_path)!r})
        behind = [executor.submit(jobs.square, number) for number in range(300)]
        try:
            held.result(0.3)
        except TimeoutError:
            pass
        assert isinstance(hung.exception(20), ztasks.JobTimeout)
        assert slow.result(20) is None
        assert again.result(20) == "at last"
        assert [future.result(20) for future in quick + behind] == [number * number for number in range(300)] * 2
        open({str(tmp_path / "release")!r}, "w").close()
        held.result(20)
        assert isinstance(executor.submit(DIE, 3).exception(20), ztasks.WorkerLost)
        works(executor)
    within(20, begin)
    """
    support.check_script(tmp_path, PREAMBLE + dedented(text), env=jumping(tmp_path, how))


def dedented(text: str) -> str:
    lines = text.splitlines()
    return "\n".join(line.removeprefix("    ") for line in lines)
