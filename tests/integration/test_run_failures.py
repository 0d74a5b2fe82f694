"""What `ztasks run` does when jobs fail: retries, timeouts, limits of failures, exit codes; and programs as jobs.

Jobs tell the test where they are through files: a test waits for `started-*` and lets jobs go on by making `go`.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from run_support import records, results, statuses, ztasks
from support import DEADLINE, alive, environment, running, wait_for, wait_gone, workers

TASKS = """
import os, signal, subprocess, sys, time
from pathlib import Path
from ztasks import current_job, task

def echo(x):
    return x

def odd(x):
    if int(x) % 2:
        raise ValueError(f"{x} is odd")
    return int(x)

@task(backoff=0.01)
def fail_twice(x):
    Path(f"try-{x}-{current_job().attempt}").touch()
    if current_job().attempt < 3:
        raise OSError(f"try {current_job().attempt}")
    return current_job().max_attempts

@task(grace=0.1)
def ignore(x):
    '''Take no notice of anything that would stop it.'''
    Path("child").write_text(str(subprocess.Popen(["sleep", "3600"]).pid))
    while True:
        try:
            time.sleep(3600)
        except BaseException:
            pass

def sleep(x):
    time.sleep(float(x))
    return x

def each_in_its_way(x):
    '''End as it is told.'''
    if x == "exit":
        sys.exit("I leave")
    if x == "interrupt":
        raise KeyboardInterrupt
    if x == "die":
        os._exit(3)
    if x == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if x == "group":
        raise ExceptionGroup("several", [ValueError(1), OSError(2)])
    if x == "unicode":
        raise ValueError("caf\\u00e9 \\udcff \\0")
    if x == "odd":
        raise Odd(1, 2)
    return x

class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(one)
    def __str__(self):
        raise RuntimeError("no words")

def wait_or_fail(x):
    '''Fail if it is told so; else tell that it has started, and wait for `go`.'''
    if x.startswith("fail"):
        while not list(Path().glob("started-*")):
            time.sleep(0.005)
        raise ValueError(x)
    Path(f"started-{x}").touch()
    while not os.path.exists("go"):
        time.sleep(0.005)
    Path(f"finished-{x}").touch()
    return x

def step(x):
    '''Take its turn: the next number is only done when the test has seen this one.'''
    while not os.path.exists(f"go-{x}"):
        time.sleep(0.005)
    if int(x) % 2:
        raise ValueError(x)

READY = []

def setup():
    with open("setups", "a") as file:
        file.write(f"{os.getpid()}\\n")
    READY.append(os.getpid())

def ready(x):
    time.sleep(0.01)
    return [READY, os.getpid()]

def broken_setup():
    raise LookupError("no licence left")

def needs_argument(x):
    pass

def exiting_setup():
    os._exit(7)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tasks.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(folder: Path, text: str) -> str:
    """Write a program for /bin/sh; return its name."""
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return "./program"


def pid_in(path: str) -> int:
    """The number that a job writes into a file, once it is there."""
    return int(wait_for(lambda: os.path.exists(path) and Path(path).read_text().strip(), f"a number in {path}"))


def count(found: Iterable[dict[str, Any]], status: str) -> int:
    return sum(record["status"] == status for record in found)


# --- retries and timeouts ---


def test_retries() -> None:
    done = ztasks("tasks.py:fail_twice", "a", "--retries", "2")
    [record] = records(done.out)
    assert (done.code, record["attempts"], record["result"], record["error"]) == (0, 3, 3, None)
    assert len(list(Path().glob("try-a-*"))) == 3
    done = ztasks("tasks.py:odd", "1", "2", "--retries", "0", "-k")
    first, second = records(done.out)
    assert (done.code, first["attempts"], second["attempts"]) == (1, 1, 1)
    assert first["error"]["message"] == "1 is odd"


def test_a_timeout_stops_the_job_and_the_others_go_on() -> None:
    done = ztasks("tasks.py:sleep", "3600", "0", "0.0", "--timeout", "300ms", "-k")
    first, second, third = records(done.out)
    assert done.code == 1
    assert (first["status"], second["result"], third["result"]) == ("timeout", "0", "0.0")
    assert first["error"]["type"] == "ztasks.JobTimeout"
    assert "longer than its timeout" in first["error"]["message"]
    assert "time.sleep(float(x))" in first["error"]["traceback"]
    assert 0.3 <= first["seconds"] < DEADLINE
    assert "3 jobs: 2 ok, 1 timeout" in done.err
    assert "1 x ztasks.JobTimeout, such as 3600: " in done.err


def test_a_job_that_ignores_its_timeout_is_killed_with_all_that_it_has_started() -> None:
    done = ztasks("tasks.py:ignore", "a", "--timeout", "0.2s")
    [record] = records(done.out)
    assert (done.code, record["status"], record["ok"]) == (1, "timeout", False)
    assert "was killed with its worker" in record["error"]["message"]
    wait_gone({pid_in("child")})


def test_each_way_to_fail_has_its_record() -> None:
    ways = ["exit", "interrupt", "die", "kill", "group", "unicode", "odd", "well"]
    done = ztasks("tasks.py:each_in_its_way", *ways, "-k")
    found = dict(zip(ways, records(done.out), strict=True))
    assert done.code == 1
    assert {way: record["status"] for way, record in found.items()} == {
        **dict.fromkeys(ways, "failed"),
        "die": "lost",
        "kill": "lost",
        "well": "ok",
    }
    errors = {way: record["error"] for way, record in found.items() if record["error"]}
    assert {way: error["type"] for way, error in errors.items()} == {
        "exit": "SystemExit",
        "interrupt": "KeyboardInterrupt",
        "group": "ExceptionGroup",
        "unicode": "ValueError",
        "die": "ztasks.PoisonJob",
        "kill": "ztasks.PoisonJob",
        "odd": "tasks.Odd",
    }
    assert errors["exit"]["message"] == "I leave"
    assert "exited with code 3" in errors["die"]["message"]
    assert "was killed by SIGKILL" in errors["kill"]["message"]
    assert errors["unicode"]["message"] == "caf\u00e9 \udcff \0"
    assert (found["die"]["attempts"], found["well"]["attempts"]) == (3, 1)
    assert "8 jobs: 1 ok, 5 failed, 2 lost" in done.err


# --- when too much fails ---


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (["--max-failures", "3"], "stopped after 3 failures"),
        (["--max-failures", "60%"], "stopped after 3 failures"),
        (["--fail-fast"], "stopped after 1 failure"),
    ],
)
def test_a_run_stops_when_too_much_fails(option: list[str], told: str) -> None:
    done = ztasks("tasks.py:odd", *(["1"] * 5000), *option, "-k")
    found = records(done.out)
    assert done.code == 3
    assert f"ztasks: {told}: no new jobs\n" in done.err
    assert f"{told}: inputs that had not been read have no record" in done.err
    assert 3 <= count(found, "failed") + 2 < 5000
    assert count(found, "failed") + count(found, "cancelled") == len(found)
    assert [record["index"] for record in found] == list(range(len(found)))
    assert "Traceback" not in done.err


def test_a_limit_of_failures_is_exact_for_jobs_that_take_their_time() -> None:
    """One at a time: the second failure is the third job."""
    for number in (1, 2, 3):
        Path(f"go-{number}").touch()
    arguments = ("tasks.py:step", *"123456", "-j1", "--max-failures", "2")
    with running("-m", "ztasks", "run", *arguments) as process:
        assert process.stdout is not None
        for place in (1, 2, 3):
            assert json.loads(process.stdout.readline())["input"] == str(place)
        wait_for(lambda: process.poll() is not None or Path("go-4").touch(), "the end of the run")
        rest = records(process.stdout.read())
        assert process.returncode == 3
    assert count(rest, "failed") == 0
    assert {statuses(rest).get(name, "not read") for name in ("5", "6")} <= {"cancelled", "not read"}


@pytest.mark.parametrize("option", [["--max-failures", "4"], ["--max-failures", "51%"], ["--max-failures", "100%"]])
def test_a_run_goes_on_below_the_limit(option: list[str]) -> None:
    done = ztasks("tasks.py:odd", *map(str, [2, 1, 2, 3, 4, 5]), *option, "-k", "-j1")
    assert done.code == 1
    assert [record["ok"] for record in records(done.out)] == [True, False, True, False, True, False]
    assert "stopped" not in done.err


@pytest.mark.parametrize("halt", ["soon", "now"])
def test_what_runs_when_the_run_stops_is_finished_or_killed(halt: str) -> None:
    arguments = ("tasks.py:wait_or_fail", "long", "fail", *"0123456789", "--fail-fast", "--halt", halt, "-j2")
    with running("-m", "ztasks", "run", *arguments) as process:
        assert process.stderr is not None
        wait_for(lambda: os.path.exists("started-long"), "the job to start")
        crew = workers(process.pid)
        told = "no new jobs" if halt == "soon" else "what runs is killed"
        assert any(f"ztasks: stopped after 1 failure: {told}" in line for line in process.stderr)
        if halt == "soon":
            Path("go").touch()
        out, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == 3
        found = statuses(records(out))
        assert found["fail"] == "failed"
        assert found["long"] == ("ok" if halt == "soon" else "cancelled")
        assert os.path.exists("finished-long") == (halt == "soon")
        assert found.get("9", "cancelled") == "cancelled"
        wait_gone(crew)


# --- exit codes ---


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["tasks.py:odd", "2", "4"], 0),
        (["tasks.py:odd", "--lines", "/dev/null"], 0),
        (["tasks.py:odd", "2", "3"], 1),
        (["tasks.py:odd", "2", "x"], 1),
        (["tasks.py:odd", "2", "--timeout", "x"], 2),
        (["tasks.py:odd", "3", "5", "--fail-fast"], 3),
        (["tasks.py:odd", "2", "--init", "tasks.py:broken_setup"], 3),
        (["tasks.py:echo", "2", "-o", "/dev/full"], 3),
    ],
)
def test_exit_codes(arguments: list[str], code: int) -> None:
    done = ztasks(*arguments)
    assert done.code == code
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("number", "code", "told"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_drains_and_a_second_one_kills(number: signal.Signals, code: int, told: str) -> None:
    for times in (1, 2):
        with running("-m", "ztasks", "run", "tasks.py:wait_or_fail", "a", "b", "-j1") as process:
            assert process.stderr is not None
            wait_for(lambda: os.path.exists("started-a"), "the job to start")
            crew = workers(process.pid)
            process.send_signal(number)
            assert any(line.startswith(f"ztasks: {told}: no new jobs; 1 running") for line in process.stderr)
            if times == 1:
                Path("go").touch()
            else:
                process.send_signal(number)
            out, err = process.communicate(timeout=DEADLINE)
            assert process.returncode == code
            assert statuses(records(out)).get("a") == ("ok" if times == 1 else "cancelled")
            assert f"{told}: inputs that had not been read have no record" in err
            assert "Traceback" not in err
            wait_gone(crew)
        for name in ("go", "started-a", "finished-a"):
            Path(name).unlink(missing_ok=True)


# --- what each worker does first ---


def test_init_is_called_once_in_each_worker() -> None:
    done = ztasks("tasks.py:ready", *map(str, range(30)), "-j2", "--init", "tasks.py:setup")
    calls = Path("setups").read_text().split()
    assert len(calls) == len(set(calls)) <= 3, "a spare one may have come up"
    for seen, pid in results(done):
        assert seen == [pid]
    done = ztasks("--command", "echo", "a", "--init", "tasks.py:setup", "-j1", "-q")
    assert results(done) == ["a\n"]
    assert len(Path("setups").read_text().split()) > len(calls)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken_setup", "the initializer raised LookupError: no licence left"),
        ("needs_argument", "missing 1 required positional argument"),
        ("exiting_setup", "exited with code 7"),
    ],
)
def test_an_init_that_fails_stops_the_run(name: str, said: str) -> None:
    done = ztasks("tasks.py:echo", "a", "b", "--init", f"tasks.py:{name}", "-k")
    assert done.code == 3
    found = records(done.out)
    assert {record["status"] for record in found} <= {"cancelled"}
    assert [record["input"] for record in found] == ["a", "b"][: len(found)]
    assert done.err.count("ztasks: error: the workers cannot start") == 1
    assert said in done.err
    assert "ztasks/" not in done.err


# --- programs ---


def test_placeholders(folder: Path) -> None:
    (folder / "calls").write_text('{"name": "n 1", "stem": "own"}\n["x", 2, true]\n')
    done = ztasks("--command", "printf '[%s]' {#} {} {.} {/} {//} {stem} {ext}", "a b/c.tar.gz", "$(touch pwned)", "-k")
    assert results(done) == [
        "[1][a b/c.tar.gz][a b/c.tar][c.tar.gz][a b][c.tar][.gz]",
        "[2][$(touch pwned)][$(touch pwned)][$(touch pwned)][.][$(touch pwned)][]",
    ]
    done = ztasks("--command", "printf '[%s]' {name} {stem}", "--jsonl", "calls", "-k", "--set", "name=set")
    assert [record["result"] for record in records(done.out)] == ["[n 1][own]", "[set][x]"]
    assert results(ztasks("--command", "printf '<%s>'", "x y", "z", "-k")) == ["<x y>", "<z>"], "put at the end"
    assert not os.path.exists("pwned")


def test_a_dry_run_shows_command_lines(folder: Path) -> None:
    (folder / "t.csv").write_text("a,b\n1,it's\n")
    done = ztasks("--command", "echo {} {#}", "x y", "$HOME", "--dry-run")
    assert (done.code, done.out, done.err) == (0, "echo 'x y' 1\necho '$HOME' 2\n", "")
    done = ztasks("--command", "echo {a} {b} | wc -c", "--shell", "--csv", "t.csv", "--dry-run")
    assert (done.code, done.err) == (0, "")
    shown = subprocess.run(["sh", "-c", done.out], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == str(len("1 it's\n"))
    done = ztasks("--command", "touch ran {c}", "--csv", "t.csv", "--dry-run")
    assert "no keyword argument 'c'" in done.out
    assert not os.path.exists("ran")


def test_how_a_program_ends_is_in_the_record(folder: Path) -> None:
    program = script(folder, 'seq 3000 >&2; echo the end >&2; echo out; [ "$1" = k ] && kill -9 $$; exit $1\n')
    done = ztasks("--command", f"{program} {{}}", "0", "7", "k", "-k", "--retries", "1")
    ok, failed, killed = records(done.out)
    assert done.code == 1
    assert (ok["status"], ok["result"], ok["error"]) == ("ok", "out\n", None)
    assert (failed["status"], failed["result"], failed["attempts"]) == ("failed", None, 2)
    assert {key: failed["error"][key] for key in ("type", "message", "traceback", "exit_code")} == {
        "type": "CommandFailed",
        "message": "exit code 7: the end",
        "traceback": None,
        "exit_code": 7,
    }
    assert failed["error"]["stderr"].endswith("2999\n3000\nthe end\n")
    assert 1000 < len(failed["error"]["stderr"]) <= 4096
    assert (killed["error"]["exit_code"], killed["error"]["message"]) == (-9, "killed by SIGKILL: the end")
    assert "[7] the end\n" in done.err, "stderr is passed on with the input in front"
    assert "[7] out" not in done.err
    assert "2 x CommandFailed, such as 7: exit code 7: the end" in done.err


def test_a_shell(folder: Path) -> None:
    done = ztasks(
        "--command", "echo {} | tr a-z A-Z; test {} != b", "--shell", "a; touch pwned", "b", "'\"$(touch pwned)", "-k"
    )
    first, second, third = records(done.out)
    assert first["result"] == "A; TOUCH PWNED\n"
    assert (second["ok"], second["error"]["exit_code"]) == (False, 1)
    assert third["result"] == "'\"$(TOUCH PWNED)\n"
    assert not os.path.exists("pwned")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--command", "no-such-program {}"], "there is no program 'no-such-program' on PATH"),
        (["--command", "./data {}"], "there is no program './data': it must be a file that may be executed (chmod +x)"),
        (["--command", "echo 'a {}"], "has a quote that is not closed"),
        (["--command", "echo {0}"], "{0} is no placeholder"),
        (["--command", "  "], "is empty"),
        (["--command", "echo a |", "--shell"], "has no placeholder"),
        (["--command", "echo", "--shell", "--init", "tasks.py:no"], "tasks.py has no 'no'"),
    ],
)
def test_commands_that_cannot_be_run(folder: Path, arguments: list[str], said: str) -> None:
    (folder / "data").touch()
    done = ztasks(*arguments, "a")
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_timeout_ends_a_program_and_its_group_before_the_next_job(folder: Path) -> None:
    first = "trap '' TERM; sleep 3600 & echo $! >child; echo $$ >self; sleep 3600"
    second = "for name in child self; do grep -qs '^State:.[RSD]' /proc/$(cat $name)/status && echo lives; done; true"
    program = script(folder, f"if [ $1 = first ]; then {first}; else {second}; fi\n")
    done = ztasks("--command", program, "first", "second", "--timeout", "500ms", "-j1", "-k")
    killed, other = records(done.out)
    assert (done.code, killed["status"], killed["error"]["type"]) == (1, "timeout", "ztasks.JobTimeout")
    assert (other["pid"], other["result"]) == (killed["pid"], ""), "the worker stays, and nothing of the program"
    wait_gone({pid_in("child"), pid_in("self")})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_end_of_the_run_ends_its_programs(folder: Path, number: signal.Signals) -> None:
    program = script(folder, "sleep 3600 &\necho $! >child\necho $$ >self\nwait\n")
    with running("-m", "ztasks", "run", "--command", program, "a", "b", "-j1") as process:
        pids = {pid_in("child"), pid_in("self")}
        assert all(map(alive, pids))
        crew = workers(process.pid)
        process.send_signal(number)
        if number == signal.SIGINT:
            assert process.stderr is not None
            assert any("ztasks: interrupted: no new jobs; 1 running" in line for line in process.stderr)
            process.send_signal(number)
        assert process.wait(DEADLINE) == (130 if number == signal.SIGINT else -9)
        wait_gone({*pids, *crew})
    assert ztasks("tasks.py:echo", "a").code == 0, "the next run sweeps away its private directory"


def test_a_program_hears_nothing_from_stdin_and_has_the_environment() -> None:
    done = ztasks(
        "--command",
        "echo $(cat) {} $ZT_TEST",
        "--shell",
        "--lines",
        "-",
        stdin="a\nb\n",
        env=environment(ZT_TEST="here"),
    )
    assert sorted(results(done)) == ["a here\n", "b here\n"]
