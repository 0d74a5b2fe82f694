"""The recipes in `workers/`: units and scripts say what they must, and their command lines do what their READMEs say.

`tests/hosts/test_slurm.py` runs the script for Slurm in a real one.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import click
import pytest
import support

import ztasks
from ztasks.cli.head import command as head_command
from ztasks.cli.worker import command as worker_command

RECIPES = Path(__file__).parents[2] / "workers"
SYSTEMD = RECIPES / "systemd"
SBATCH = RECIPES / "slurm" / "ztasks.sbatch"
RUN, HEAD, WORKER = "ztasks-run@", "ztasks-head", "ztasks-worker"
UNITS = {RUN: "example.conf", HEAD: "head.conf", WORKER: "worker.conf"}
"""Units, and the examples of the files with their options."""

PROGRAM = "/opt/ztasks/bin/ztasks"
SECONDS = {"": 1, "s": 1, "sec": 1, "min": 60, "h": 3600}


def service(unit: str) -> dict[str, str]:
    """The settings of a unit's section [Service]."""
    parser = ConfigParser(interpolation=None, comment_prefixes=("#", ";"))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((SYSTEMD / f"{unit}.service").read_text())  # strict: a setting that stands twice is an error
    return dict(parser["Service"])


def environment_file(path: Path) -> dict[str, str]:
    """What systemd reads from an EnvironmentFile (as far as ours goes: no quotes around values)."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if line and line[0] not in "#;")


def expanded(command: str, variables: dict[str, str], **specifiers: str) -> list[str]:
    """Expand a command line as systemd does: ${NAME} within a word, $NAME as a word of its own into several."""
    for letter, text in specifiers.items():
        command = command.replace(f"%{letter}", text)
    words: list[str] = []
    for word in shlex.split(command):
        if re.fullmatch(r"\$\w+", word):
            words += shlex.split(variables.get(word[1:], ""))
        else:
            words.append(re.sub(r"\$\{(\w+)\}", lambda match: variables.get(match[1], ""), word))
    assert not re.search(r"%[a-zA-Z]", " ".join(words)), "a specifier that the test does not know"
    return words


def seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)\s*(\w*)", text)
    assert found
    return int(found[1]) * SECONDS[found[2]]


def flags(command: click.Command) -> set[str]:
    return {flag for parameter in command.params if isinstance(parameter, click.Option) for flag in parameter.opts}


# --- systemd ---


def test_a_stop_of_a_run_reaches_the_main_process_only_and_as_ctrl_c() -> None:
    settings = service(RUN)
    assert settings["Type"] == "exec"
    assert settings["KillMode"] == "mixed"
    assert settings["KillSignal"] == "SIGINT"
    assert seconds(settings["TimeoutStopSec"]) >= 60
    assert settings["SuccessExitStatus"] == "130"
    assert settings["OOMPolicy"] == "continue"
    assert "--resume" in settings["ExecStart"].split()
    assert settings["Restart"] == "on-abnormal"  # goes on after a kill; not after an exit code of its own


def test_a_head_drains_when_it_is_stopped_and_comes_back_when_it_dies() -> None:
    settings = service(HEAD)
    words = settings["ExecStart"].split()
    assert settings["Type"] == "notify"
    assert settings["KillSignal"] == "SIGTERM"
    drain = seconds(words[words.index("--drain-timeout") + 1])
    assert seconds(settings["TimeoutStopSec"]) >= drain + 20
    assert settings["Restart"] == "on-failure"
    assert settings["RestartPreventExitStatus"] == "2"
    assert settings["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert settings["WorkingDirectory"] == f"/var/lib/{settings['StateDirectory']}"
    for option in ("--journal", "--join-dir"):
        assert "/" not in words[words.index(option) + 1], "it is in the state directory"
    assert settings["StateDirectoryMode"] == "0700"


def test_workers_stop_in_order_and_come_back_whatever_they_have_ended_with() -> None:
    settings = service(WORKER)
    assert settings["Type"] == "exec"  # a host whose head is away boots all the same
    assert settings["KillMode"] == "mixed"
    assert settings["KillSignal"] == "SIGTERM"
    assert seconds(settings["TimeoutStopSec"]) >= 60
    assert settings["Restart"] == "always"
    assert settings["RestartPreventExitStatus"] == "2"
    assert settings["OOMPolicy"] == "continue"


@pytest.mark.parametrize("unit", [HEAD, WORKER])
def test_what_is_protected(unit: str) -> None:
    settings = service(unit)
    assert settings["NoNewPrivileges"] == settings["PrivateTmp"] == settings["RestrictSUIDSGID"] == "yes"
    assert settings["ProtectSystem"] == "strict"
    assert settings["User"] == {HEAD: "ztasks-head", WORKER: "ztasks"}[unit]  # jobs cannot read the head's keys


@pytest.mark.parametrize("unit", UNITS)
def test_the_example_sets_what_the_unit_uses(unit: str) -> None:
    used = set(re.findall(r"\$\{?(\w+)", service(unit)["ExecStart"]))
    assert environment_file(SYSTEMD / UNITS[unit]).keys() == used


def test_the_example_of_a_run() -> None:
    assert expanded(service(RUN)["ExecStart"], environment_file(SYSTEMD / UNITS[RUN]), i="nightly") == [
        *(PROGRAM, "run", "/srv/jobs/codestats.py:measure"),
        *("--glob", "/srv/jobs/src/**/*.py", "--retries", "2", "--output", "records.jsonl", "--resume"),
    ]


@pytest.mark.parametrize(("unit", "command"), [(HEAD, head_command), (WORKER, worker_command)])
def test_the_example_of_a_fleet_names_options_that_exist(unit: str, command: click.Command) -> None:
    words = expanded(service(unit)["ExecStart"], environment_file(SYSTEMD / UNITS[unit]), H="one")
    assert words[:2] == [PROGRAM, command.name]
    command.make_context(str(command.name), words[2:]).close()  # raises UsageError


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_accepts_the_unit(unit: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze on this machine")
    command = tmp_path / "ztasks"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    path = tmp_path / f"{unit}.service"
    path.write_text((SYSTEMD / path.name).read_text().replace(PROGRAM, str(command)))
    if unit.endswith("@"):
        path = tmp_path / f"{unit}nightly.service"
        os.symlink(tmp_path / f"{unit}.service", path)
    done = subprocess.run(
        [analyze, "verify", path], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=50
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if "ztasks" in line]
    if done.returncode and not said:
        pytest.skip(f"systemd-analyze does not work here: {(done.stdout + done.stderr).strip()[:200]}")
    assert (done.returncode, said) == (0, [])


def test_systemd_finds_the_head_well_protected(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze on this machine")
    path = tmp_path / f"{HEAD}.service"
    shutil.copy(SYSTEMD / path.name, path)
    command = [analyze, "security", "--offline=true", "--no-pager", "--threshold=25", path]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=50)
    if "exposure level" not in done.stdout:
        pytest.skip(f"systemd-analyze security does not work here: {(done.stdout + done.stderr).strip()[:200]}")
    assert done.returncode == 0, done.stdout  # 0 to 100; systemd's own word for up to 19 is OK


# --- a run's command line ---


JOBS = """
    import os, pathlib, time

    def work(number):
        folder = pathlib.Path(__file__).parent
        (folder / f"started-{number}").touch()
        print("job", number, "runs")
        deadline = time.monotonic() + 20
        while not (folder / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return int(number)
"""


def test_the_command_drains_at_the_stop_signal(tmp_path: Path) -> None:
    script = support.write_script(tmp_path, JOBS, "slow.py")
    numbers = tmp_path / "numbers.txt"
    numbers.write_text("".join(f"{number}\n" for number in range(200)))
    variables = {
        "TARGET": f"{script}:work",
        "INPUTS": f"--lines '{numbers}'",
        "OPTIONS": "--workers 2 --retries 2",
        "OUTPUT": "records.jsonl",
    }
    settings = service(RUN)
    program, *arguments = expanded(settings["ExecStart"], variables, i="test")
    assert program == PROGRAM
    with support.running("-m", "ztasks", *arguments, cwd=tmp_path, stdin=subprocess.DEVNULL) as process:
        support.wait_for(lambda: len(list(tmp_path.glob("started-*"))) == 2, "two jobs that run")
        workers = support.workers(process.pid)
        assert len(workers) == 2
        process.send_signal(signal.Signals[settings["KillSignal"]])  # KillMode=mixed: to the main process only
        assert process.stderr is not None
        told = process.stderr.readline()
        while told and "interrupted" not in told:
            told = process.stderr.readline()
        assert told, "it ended without a word on the interrupt"
        assert process.poll() is None, "it did not wait for the jobs that ran"
        (tmp_path / "go").touch()
        out, err = process.communicate(timeout=min(seconds(settings["TimeoutStopSec"]), 30))
    assert process.returncode == 130, err
    assert str(process.returncode) in settings["SuccessExitStatus"].split()
    assert out == ""
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    started = {int(path.name.removeprefix("started-")) for path in tmp_path.glob("started-*")}
    assert {record["result"] for record in records if record["ok"]} == started
    assert {record["status"] for record in records} <= {"ok", "cancelled"}
    assert len(started) < 20
    support.wait_gone(workers)


# --- the command lines of a fleet ---


@contextlib.contextmanager
def notices() -> Iterator[tuple[str, socket.socket]]:
    """What systemd hears: the path of its socket, and the socket."""
    with support.short_tmpdir() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        path = os.path.join(folder, "notify")
        sock.bind(path)
        yield path, sock


def free_port() -> int:
    """A port that is free, as the two behind it are, most probably."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def head(folder: Path) -> Iterator[tuple[subprocess.Popen[str], socket.socket]]:
    """The head of the unit, ready, in its own directory; and what systemd hears of it."""
    variables = {"LISTEN": f"127.0.0.1:{free_port()}", "OPTIONS": ""}
    program, *arguments = expanded(service(HEAD)["ExecStart"], variables)
    assert program == PROGRAM
    folder.mkdir(mode=0o700)
    with notices() as (path, heard), open(folder / "log", "w") as log:
        env = support.environment(NOTIFY_SOCKET=path)
        with support.running("-m", "ztasks", *arguments, cwd=folder, env=env, stderr=log) as process:
            hear(process, heard, b"READY=1", folder)
            yield process, heard


def hear(process: subprocess.Popen[str], heard: socket.socket, words: bytes, folder: Path) -> None:
    """Hear what the head tells systemd; fail at once if it has ended without."""
    heard.setblocking(False)

    def received() -> bytes:
        over = process.poll() is not None
        with contextlib.suppress(BlockingIOError):
            return heard.recv(100)
        assert not over, f"it has ended without a word: {said(folder)}"
        return b""

    assert support.wait_for(received, f"{words!r}") == words


def said(folder: Path) -> str:
    return (folder / "log").read_text()


def test_a_head_tells_systemd_when_it_is_ready_and_when_it_stops(tmp_path: Path) -> None:
    folder = tmp_path / "head"
    with head(folder) as (process, heard):
        assert {path.name for path in (folder / "join").glob("*.join")} == {"client.join", "worker.join"}
        assert (folder / "state.db").exists()
        with ztasks.Client(f"@{folder}/join/client.join", join_timeout=support.DEADLINE) as client:
            assert client.ask("workers") == []
        process.send_signal(signal.SIGHUP)  # ExecReload
        support.wait_for(lambda: "looking at the keys again" in said(folder), "the reload")
        process.send_signal(signal.Signals[service(HEAD)["KillSignal"]])
        hear(process, heard, b"STOPPING=1", folder)
        assert process.wait(support.DEADLINE) == 0, said(folder)
    assert "Traceback" not in said(folder)


def test_workers_finish_what_runs_when_they_are_stopped_and_the_rest_waits(tmp_path: Path) -> None:
    own = tmp_path / "worker"
    own.mkdir()
    support.write_script(own, JOBS, "slow.py")
    settings = service(WORKER)
    with head(tmp_path / "head") as (process, _):
        join = tmp_path / "head" / "join"
        start = settings["ExecStart"].replace("/etc/ztasks/worker.join", str(join / "worker.join"))
        program, *arguments = expanded(start, {"OPTIONS": "-j 1"}, H="one")
        assert program == PROGRAM
        with ztasks.Client(f"@{join}/client.join") as client, open(own / "log", "w") as log:
            with support.running("-m", "ztasks", *arguments, cwd=own, stdout=log, stderr=log) as worker:
                support.wait_for(lambda: "joined" in said(own), "the worker")
                with monkeypatched_path(own):
                    from slow import work
                futures = [client.submit(work, number) for number in range(5)]
                support.wait_for(lambda: list(own.glob("started-*")), "a job that runs")
                worker.send_signal(signal.Signals[settings["KillSignal"]])  # KillMode=mixed: to the main process only
                support.wait_for(
                    lambda: [(one["state"], one["holds"]) for one in client.ask("workers")] == [("stop", 1)],
                    "what has not begun, at the head",
                )
                assert worker.poll() is None, "it did not wait for the job that ran"
                (own / "go").touch()
                assert worker.wait(support.DEADLINE) == 0, said(own)
            assert futures[0].result(support.DEADLINE) == 0
            assert len(list(own.glob("started-*"))) == 1
            assert not any(future.done() for future in futures[1:])
            client.shutdown(wait=True, cancel_futures=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(support.DEADLINE) == 0, said(tmp_path / "head")


@contextlib.contextmanager
def monkeypatched_path(folder: Path) -> Iterator[None]:
    """Import from a folder."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


# --- Slurm ---


def test_the_script_becomes_the_worker(tmp_path: Path) -> None:
    """With the options that it says, and those that it is given last, where they win; no key is among them."""
    command = tmp_path / "ztasks"
    command.write_text('#!/bin/sh\necho "$$"; for word; do echo "$word"; done\n')
    command.chmod(0o755)
    env = {
        "PATH": os.environ["PATH"],
        "HOME": "/home/ann",
        "ZTASKS_COMMAND": str(command),
        "SLURM_JOB_ID": "125",
        "SLURM_ARRAY_JOB_ID": "123",
        "SLURM_ARRAY_TASK_ID": "2",
    }
    with subprocess.Popen(
        ["bash", SBATCH, "-Q", "gpu", "--walltime", "237m"], env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        out, _ = process.communicate(timeout=support.DEADLINE)
    pid, *words = out.splitlines()
    assert int(pid) == process.pid, "signals reach it"
    assert words == [
        *("worker", "--head", "@/home/ann/ztasks/worker.join", "--name", "slurm-123_2"),
        *("--walltime", "57m", "--idle-timeout", "5m", "--join-timeout", "60s", "-Q", "gpu", "--walltime", "237m"),
    ]
    context = worker_command.make_context("worker", words[1:])
    assert context.params["walltime"] == 237 * 60
    context.close()


def test_the_script_tells_slurm_what_it_must() -> None:
    told = re.findall(r"^#SBATCH (--[\w-]+)(?:=(.*))?$", SBATCH.read_text(), re.MULTILINE)
    options = dict(told)
    assert len(options) == len(told)
    match = re.fullmatch(r"B:USR1@(\d+)", options["--signal"])
    assert match
    hours, minutes, _ = map(int, options["--time"].split(":"))
    walltime = re.search(r"--walltime (\d+)m ", SBATCH.read_text())
    assert walltime
    assert int(walltime[1]) * 60 <= (hours * 60 + minutes) * 60 - int(match[1])
    assert "--requeue" in options
    assert (options["--nodes"], options["--ntasks"]) == ("1", "1")


@pytest.mark.parametrize("folder", ["slurm", "systemd"])
def test_readmes_name_options_that_exist(folder: str) -> None:
    text = (RECIPES / folder / "README.md").read_text()
    ours = {flag for line in re.findall(r"`(?:ztasks )?(--?[a-zA-Z][\w-]*)", text) for flag in [line]}
    foreign = {"--signal", "--time", "--requeue", "--cpus-per-task", "--exclusive", "--mem", "--nodes", "--array"}
    assert ours
    assert ours - foreign - flags(head_command) - flags(worker_command) <= {"--resume"}


def test_every_recipe_is_listed_and_has_a_readme() -> None:
    folders = [path for path in RECIPES.iterdir() if path.is_dir()]
    text = (RECIPES / "README.md").read_text()
    assert folders
    for folder in folders:
        assert f"({folder.name}/README.md)" in text
        assert "The one thing to get right" in (folder / "README.md").read_text()


if sys.platform != "linux":
    pytestmark = pytest.mark.skip(reason="systemd and /proc are Linux's")
