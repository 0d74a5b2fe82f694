"""Workers in the slots of a real Slurm: they join, do the work, and the end of a slot costs no job anything.

A Slurm of one host is started for this file, from the system's packages (`slurm-wlm`): munged, slurmctld and slurmd, on
loopback, with a configuration and all their files in a directory of their own. They are killed at the end. Where the
packages are not installed, or do not start, the tests are skipped, and say why.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import support
from fleet import Fleet, marked
from proxy_loop import reserve

import ztasks
from ztasks.io import rundir

SCRIPT = Path(__file__).parents[2] / "workers" / "slurm" / "ztasks.sbatch"
PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "sinfo")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,sched_interval=1,bf_interval=1
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

JOBS = """
    import os, time
    from pathlib import Path


    def hold(folder, name):
        \"\"\"Say that it runs, and in which slot; end when it is told to.\"\"\"
        slot = os.environ["SLURM_ARRAY_JOB_ID"] + "_" + os.environ["SLURM_ARRAY_TASK_ID"]
        Path(folder, f"began-{name}-{time.monotonic_ns()}").touch()
        deadline = time.monotonic() + 20
        while not Path(folder, "go").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return slot, int(os.environ.get("SLURM_RESTART_COUNT", "0"))
"""


class Slurm:
    """One cluster of this host."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.configuration = folder, folder / "slurm.conf"
        self._daemons: list[subprocess.Popen[bytes]] = []

    # --- its start and end ---

    def start(self) -> None:
        """Start the three daemons; raises AssertionError."""
        host = socket.gethostname().partition(".")[0]
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o600)
        holders = reserve(2)
        with contextlib.ExitStack() as stack:
            controller, daemon = (
                stack.enter_context(contextlib.closing(holder)).getsockname()[1] for holder in holders
            )
        self.configuration.write_text(
            CONFIGURATION.format(
                host=host,
                controller=controller,
                daemon=daemon,
                user=getpass.getuser(),
                folder=self.folder,
            )
        )
        files = {"socket": "munge", "key-file": "munge.key", "pid-file": "munge.pid", "seed-file": "munge.seed"}
        # --force: the socket is in a directory that other users cannot enter, which is as it should be here.
        options = [f"--{option}={self.folder / name}" for option, name in files.items()]
        self._daemon("munged", "--foreground", "--force", f"--log-file={self.folder / 'munge.log'}", *options)
        support.wait_for((self.folder / "munge").exists, "munged", 5)
        self._daemon("slurmctld", "-D")
        self._daemon("slurmd", "-D")
        support.wait_for(lambda: "idle" in self._said("sinfo", "-h", "-o", "%T"), "a host that is idle")

    def _daemon(self, program: str, *options: str) -> None:
        path = shutil.which(program, path=PATH)
        assert path is not None
        with open(self.folder / f"{program}.log", "wb") as log:
            self._daemons.append(
                subprocess.Popen(
                    [path, *options],
                    cwd=self.folder,
                    env=self.environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def close(self) -> None:
        """Kill the daemons, and what runs in slots: nothing of it is needed any more."""
        for daemon in self._daemons:
            daemon.kill()
            daemon.wait(support.DEADLINE)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        support.wait_for(lambda: not self.processes(), "the end of all processes of Slurm")

    def told(self) -> str:
        """Return what the daemons have written."""
        return "\n".join(f"{path.name}:\n{path.read_text()[-2000:]}" for path in self.folder.glob("*.log"))

    def processes(self) -> set[int]:
        """Return all processes that have to do with it, but for the daemons."""

        def is_here(pid: int) -> bool:  # slurmstepd, whose environment is empty
            with contextlib.suppress(OSError):
                return os.readlink(f"/proc/{pid}/cwd") == str(self.folder)
            return False

        found = {process.pid for process in support.processes() if process.state not in "ZX" and is_here(process.pid)}
        daemons = {daemon.pid for daemon in self._daemons}
        return (found | marked(f"SLURM_CONF={self.configuration}".encode())) - daemons

    # --- its commands ---

    def environment(self, **more: str) -> dict[str, str]:
        """Return what finds it."""
        return {**support.environment(**more), "SLURM_CONF": str(self.configuration), "PATH": PATH}

    def run(self, *command: str, cwd: Path | None = None, **env: str) -> str:
        """Run one of its commands; return what that prints."""
        done = subprocess.run(
            command, env=self.environment(**env), cwd=cwd, capture_output=True, text=True, timeout=20, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.told()}"
        return done.stdout

    def _said(self, *command: str) -> str:
        with contextlib.suppress(AssertionError):
            return self.run(*command)
        return ""


@functools.cache
def missing() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


@pytest.fixture(scope="module")
def slurm(_own_tmpdir: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if missing():
        pytest.skip(f"there is no Slurm on this system (slurm-wlm): no {', '.join(missing())}")
    cluster = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        try:
            cluster.start()
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"Slurm does not start here: {error}; {cluster.told()}")
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def fleet(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A head; its workers are in Slurm. Each test has a queue of its own."""
    folder = tmp_path_factory.mktemp("fleet")
    support.write_script(folder, JOBS, "slot_jobs.py")
    with Fleet(folder) as fleet:
        fleet.start_head()
        try:
            yield fleet
        finally:
            slurm.run("scancel", "--user", getpass.getuser())
            support.wait_for(lambda: not slurm.run("squeue", "-h"), "the end of all slots")
            rundir.sweep(str(fleet.tmp))  # what Slurm has killed left a directory, which the next worker would remove


class Slots:
    """The jobs of one array that run `ztasks.sbatch`. What stands behind goes to `ztasks worker`."""

    def __init__(self, slurm: Slurm, fleet: Fleet, *behind: str, array: str = "1", join: str | None = None) -> None:
        self._slurm, self._fleet = slurm, fleet
        command = fleet.folder / "ztasks"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m ztasks "$@"\n')
        command.chmod(0o755)
        self.number = slurm.run(
            *("sbatch", "--parsable", f"--array={array}", "--cpus-per-task=1", "--time=5", str(SCRIPT), *behind),
            cwd=fleet.folder,  # as a user would: in the directory with the modules of the jobs
            ZTASKS_COMMAND=str(command),
            ZTASKS_JOIN=join or fleet.join("worker")[1:],
            TMPDIR=str(fleet.tmp),
        ).strip()

    def name(self, task: int = 1) -> str:
        """Return what squeue calls a slot."""
        return f"{self.number}_{task}"

    def detail(self, field: str, task: int = 1) -> str:
        """Return a field of `scontrol show job`."""
        found = re.search(rf"\b{field}=(\S+)", self._slurm.run("scontrol", "show", "job", self.name(task)))
        assert found
        return found[1]

    def log(self, task: int = 1) -> str:
        """Return what a slot has printed."""
        path = self._fleet.folder / f"ztasks-{self.name(task)}.log"
        return path.read_text() if path.exists() else ""

    def wait(self, task: int = 1) -> tuple[str, str]:
        """Wait until a slot has ended; return its state and exit code."""
        running = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")
        self._wait_for(lambda: self.detail("JobState", task) not in running, "the end", task)
        return self.detail("JobState", task), self.detail("ExitCode", task)

    def wait_for(self, words: str, task: int = 1) -> None:
        """Wait until a slot has printed this."""
        self._wait_for(lambda: words in self.log(task), repr(words), task)

    def _wait_for(self, condition: Callable[[], bool], what: str, task: int) -> None:
        try:
            support.wait_for(condition, f"{what} of slot {task}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it has printed:\n{self.log(task)}\n{self._slurm.told()}") from None


class Holding:
    """Jobs that run until they may end. A crash would be the end of any."""

    def __init__(self, folder: Path, futures: list[ztasks.Future[tuple[str, int]]]) -> None:
        self._folder, self._futures = folder, futures

    def wait_began(self, count: int) -> None:
        """Wait until so many have begun, those that have begun before included."""
        support.wait_for(lambda: self.began >= count, f"{count} jobs that have begun")

    @property
    def began(self) -> int:
        """How often a job has begun."""
        return len(list(self._folder.glob("began-*")))

    def end(self) -> list[tuple[str, int]]:
        """Let them end; return for each in which slot it was, and how often Slurm had started that again."""
        (self._folder / "go").touch()
        return [future.result(support.DEADLINE) for future in self._futures]


@contextlib.contextmanager
def holding(fleet: Fleet, folder: Path, queue: str, names: str) -> Iterator[Holding]:
    """Submit such jobs, one for each letter of `names`."""
    sys.path.insert(0, str(fleet.folder))
    try:
        from slot_jobs import hold
    finally:
        sys.path.remove(str(fleet.folder))
    task = ztasks.task(queue=queue, crash_retries=0)(hold)
    with ztasks.Client(fleet.join("client")) as client:
        try:
            yield Holding(folder, [client.submit(task, str(folder), name) for name in names])
        except BaseException:
            client.shutdown(wait=False, cancel_futures=True)
            raise


def test_slots_join_do_the_work_and_are_given_back_when_there_is_none(
    slurm: Slurm, fleet: Fleet, tmp_path: Path
) -> None:
    with holding(fleet, tmp_path, "idle", "ab") as jobs:
        slots = Slots(slurm, fleet, "-Q", "idle", "--idle-timeout", "1s", array="1-2")
        jobs.wait_began(2)
        assert sorted(jobs.end()) == [(slots.name(1), 0), (slots.name(2), 0)]
    for task in (1, 2):
        assert slots.wait(task) == ("COMPLETED", "0:0")
        assert "idle-timeout" in slots.log(task)


def test_the_signal_before_the_end_of_a_slot_hands_back_and_drains(slurm: Slurm, fleet: Fleet, tmp_path: Path) -> None:
    """What `--signal=B:USR1@120` does, done at once."""
    assert re.search(r"^#SBATCH --signal=B:USR1@\d+$", SCRIPT.read_text(), re.MULTILINE)
    first = Slots(slurm, fleet, "-Q", "signal")
    with holding(fleet, tmp_path, "signal", "abc") as jobs:
        jobs.wait_began(1)
        slurm.run("scancel", "--batch", "--signal=USR1", first.number)
        first.wait_for("handing back")
        second = Slots(slurm, fleet, "-Q", "signal")
        jobs.wait_began(2)
        assert first.detail("JobState") == "RUNNING", "it did not wait for the job that ran"
        assert jobs.end() == [(first.name(), 0), (second.name(), 0), (second.name(), 0)]
        assert jobs.began == 3, "each job has run once"
    assert first.wait() == ("COMPLETED", "0:0")


def test_what_ran_in_a_slot_that_is_taken_away_runs_again_and_is_not_charged(
    slurm: Slurm, fleet: Fleet, tmp_path: Path
) -> None:
    """Slurm sends SIGTERM to all processes of the slot, and SIGKILL after KillWait. One of two comes again."""
    slots = Slots(slurm, fleet, "-Q", "taken", array="1-2")
    with holding(fleet, tmp_path, "taken", "ab") as jobs:
        jobs.wait_began(2)
        slurm.run("scancel", slots.name(1))
        slurm.run("scontrol", "requeue", slots.name(2))
        fleet.head.wait_for(f"worker slurm-{slots.name(2)} has joined", count=2)
        jobs.wait_began(3)
        assert jobs.end() == [(slots.name(2), 1)] * 2
    assert slots.wait(1)[0] == "CANCELLED"


def test_slots_that_end_by_themselves(slurm: Slurm, fleet: Fleet, tmp_path: Path) -> None:
    """With the walltime; without a head; and with a join file that others can read, which is the head's too."""
    content = json.loads(Path(fleet.join("worker")[1:]).read_text())
    lax, lost = tmp_path / "lax.join", tmp_path / "lost.join"
    lax.write_text(json.dumps(content))
    with contextlib.closing(reserve(1)[0]) as holder:
        port = holder.getsockname()[1]
        content["ports"] = dict.fromkeys(content["ports"], port)
        lost.write_text(json.dumps(content))
        lost.chmod(0o600)
        headless = Slots(slurm, fleet, "--join-timeout", "0.5s", join=str(lost))
        refused = Slots(slurm, fleet, join=str(lax))
        over = Slots(slurm, fleet, "-Q", "over", "--walltime", "1s")
        assert headless.wait() == ("FAILED", "1:0")
    assert "no head answered" in headless.log()
    assert refused.wait() == ("FAILED", "1:0")
    assert "chmod 600" in refused.log()
    assert over.wait() == ("COMPLETED", "0:0")
    assert "its walltime is over" in over.log()
