"""Whatever ends a program, it ends in bounded time, with its exit code, and leaves no process, and no directory either
unless it was killed: then the next start sweeps it.

All programs here are real processes; for Ctrl-C they have a terminal of their own.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import support
from programs import CTRL_C, Program, program, script

from ztasks import Executor
from ztasks.io import rundir

PREAMBLE = """
import atexit, itertools, os, signal, sys, threading, time, warnings
import ztasks

def wait_for(name):
    while not os.path.exists(name):
        time.sleep(0.002)

def touch(name):
    open(name, "w").close()

def hold(name="a"):
    touch(f"started-{name}")
    wait_for("go")
    touch(f"finished-{name}")

def tell(text):
    return lambda done: print(text, done.cancelled(), flush=True)
"""

KILLED = 1.5
"""Seconds in which a second Ctrl-C has ended all: 1, and some for a machine that is busy with other tests."""

TRACEBACK = r"Traceback \(most recent call last\):\n(  .*\n)+"
THREAD = r"Exception in thread .*:\nTraceback \(most recent call last\):\n(  .*\n)+"


def check_swept(ended: Program) -> None:
    """What a killed program has left behind goes with the next start."""
    [left] = ended.directories()
    assert left.startswith("ztasks-")
    before = os.environ["TMPDIR"]
    os.environ["TMPDIR"] = str(ended.tmp)
    try:
        with Executor(max_workers=1):
            assert left not in ended.directories()
    finally:
        os.environ["TMPDIR"] = before


# --- a script that ends by itself ---

ENDS = {
    "normal": ("with ztasks.Executor(2) as e: print(e.submit(pow, 2, 3).result())", 0, "8\n", ""),
    "open": ("e = ztasks.Executor(2); e.submit(print, 'ran', flush=True)", 0, "ran\n", ""),
    "unused": ("e = ztasks.Executor(2)", 0, "", ""),
    "an exception": (
        "with ztasks.Executor(2) as e:\n    e.submit(print, 'ran', flush=True)\n    raise ValueError('mine')",
        1,
        "ran\n",
        TRACEBACK + "ValueError: mine\n",
    ),
    "an exception, open": (
        "e = ztasks.Executor(2); e.submit(print, 'ran', flush=True); raise ValueError('mine')",
        1,
        "ran\n",
        TRACEBACK + "ValueError: mine\n",
    ),
    "sys.exit": ("with ztasks.Executor(2) as e: e.submit(pow, 2, 3).result(); sys.exit(5)", 5, "", ""),
    "sys.exit, open": ("e = ztasks.Executor(2); e.submit(print, 'ran', flush=True); sys.exit(5)", 5, "ran\n", ""),
    "sys.exit in a thread": (
        "def work():\n    with ztasks.Executor(2) as e: print(e.submit(pow, 2, 3).result()); sys.exit(5)\n"
        "t = threading.Thread(target=work); t.start(); t.join()",
        0,
        "8\n",
        "",
    ),
    "an exception in a thread": (
        "def work():\n    with ztasks.Executor(2) as e: print(e.submit(pow, 2, 3).result()); raise ValueError('mine')\n"
        "t = threading.Thread(target=work); t.start(); t.join()",
        0,
        "8\n",
        THREAD + "ValueError: mine\n",
    ),
    "an exception in a thread, open": (
        "def work():\n    e = ztasks.Executor(2); print(e.submit(pow, 2, 3).result()); raise ValueError('mine')\n"
        "t = threading.Thread(target=work); t.start(); t.join()",
        0,
        "8\n",
        THREAD + "ValueError: mine\n",
    ),
    "made in a daemon thread": (
        "def work():\n    global e\n    e = ztasks.Executor(2); e.submit(touch, 'up').result(); time.sleep(60)\n"
        "threading.Thread(target=work, daemon=True).start(); wait_for('up')",
        0,
        "",
        "",
    ),
    "made in a daemon thread, in a with": (
        "def work():\n    with ztasks.Executor(2) as e: e.submit(touch, 'up').result(); time.sleep(60)\n"
        "threading.Thread(target=work, daemon=True).start(); wait_for('up')",
        0,
        "",
        "",
    ),
    "a daemon thread waits": (
        "def work():\n    job = e.submit(time.sleep, 0.3); touch('up'); job.result(); print('done')\n"
        "e = ztasks.Executor(1); threading.Thread(target=work, daemon=True).start(); wait_for('up')",
        0,
        "(done\n)?",
        "",
    ),
    "a daemon thread submits for ever": (
        "def work():\n    jobs = []\n    while True:\n        jobs.append(e.submit(time.sleep, 0.001))\n"
        "        if len(jobs) > 200: jobs.pop(0).result(); touch('up')\n"
        "e = ztasks.Executor(2); threading.Thread(target=work, daemon=True).start(); wait_for('up')",
        0,
        "",
        f"({THREAD}ztasks.*ExecutorClosed: .*\n)?",
    ),
    "a daemon thread maps for ever": (
        "def work():\n    for number in e.map(abs, itertools.count()): touch('up')\n"
        "e = ztasks.Executor(2); threading.Thread(target=work, daemon=True).start(); wait_for('up')",
        0,
        "",
        f"({THREAD}(ztasks.*ExecutorClosed|.*CancelledError).*\n)?",
    ),
    "a thread goes on": (
        "def work():\n    while True: time.sleep(0.01); e.submit(abs, 1).result()\n"
        "e = ztasks.Executor(2); threading.Thread(target=work).start()",
        0,
        "",
        THREAD + "ztasks.*ExecutorClosed: .*\n",
    ),
    "made after the main thread": (
        "ztasks.Executor\ndef work(): threading.main_thread().join(); time.sleep(0.1); ztasks.Executor(2)\n"
        "threading.Thread(target=work).start()",
        0,
        "",
        THREAD + "ztasks.*ExecutorClosed: no executor can be made .*\n",
    ),
    "used and made at exit": (
        "e = ztasks.Executor(2)\n@atexit.register\ndef work():\n"
        "    for use in (lambda: e.submit(abs, 1), ztasks.Executor):\n"
        "        try: use()\n        except ztasks.ExecutorClosed: print('closed')",
        0,
        "closed\nclosed\n",
        "",
    ),
    "closed at exit": ("e = ztasks.Executor(2); e.submit(abs, 1); atexit.register(e.shutdown)", 0, "", ""),
    "in a cycle": ("e = ztasks.Executor(2); e.me = e; e.submit(print, 'ran', flush=True); del e", 0, "ran\n", ""),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_script_ends(tmp_path: Path, end: str) -> None:
    """With its exit code, what it has to say and nothing else; neither process nor directory is left."""
    text, code, out, err = ENDS[end]
    with script(tmp_path, PREAMBLE + text) as running:
        assert running.finish() == code, running.err
        assert re.fullmatch(out, running.out)
        assert re.fullmatch(err, running.err), running.err
        assert running.directories() == []


@pytest.mark.parametrize("how", ["os._exit(7)", "os.abort()", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_script_that_ends_at_once(tmp_path: Path, how: str) -> None:
    """Its workers end with it, whatever they do; its directory goes with the next start."""
    text = f"{PREAMBLE}\ne = ztasks.Executor(2); e.submit(hold); wait_for('started-a'); {how}"
    with script(tmp_path, text) as running:
        assert running.finish() in (7, -signal.SIGABRT, -signal.SIGKILL)
        assert (running.out, running.err) == ("", "")
        check_swept(running)
    assert not (tmp_path / "finished-a").exists()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGQUIT", "SIGKILL", "SIGUSR1"])
def test_a_signal_that_a_script_does_not_handle(tmp_path: Path, name: str) -> None:
    """It ends at once, and its workers with it."""
    number = signal.Signals[name]
    with script(tmp_path, f"{PREAMBLE}\nwith ztasks.Executor(2) as e: e.submit(hold)") as running:
        running.wait_for_file("started-a")
        assert len(running.processes()) >= 2
        running.send(number)
        assert running.finish() == -number
        assert (running.out, running.err) == ("", "")
        check_swept(running)
    assert not (tmp_path / "finished-a").exists()


def test_sigterm_that_a_script_turns_into_an_exit(tmp_path: Path) -> None:
    """The usual handler: all is closed in order."""
    text = f"""{PREAMBLE}
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
with ztasks.Executor(1) as e:
    running, waiting = e.submit(hold), [e.submit(abs, 1) for _ in range(20)]
    waiting[-1].add_done_callback(tell("cancelled"))
    running.result()
"""
    with script(tmp_path, text) as running:
        running.wait_for_file("started-a")
        running.send(signal.SIGTERM)
        running.wait_for("cancelled True")
        running.touch("go")
        assert running.finish() == 143
        assert running.directories() == []
    assert (tmp_path / "finished-a").exists()


# --- forks ---

FORK = (
    PREAMBLE
    + """
warnings.filterwarnings("ignore", "This process", DeprecationWarning)  # of fork, from 3.12 on
e = ztasks.Executor(2)
print(e.submit(pow, 2, 3).result(), flush=True)
"""
)

CHILDREN = {
    "ends at once": ("os._exit(4)", 4, ""),
    "exits": ("sys.exit(4)", 4, ""),
    "raises": ("raise ValueError('mine')", 1, TRACEBACK + "ValueError: mine\n"),
    "uses and closes it": (
        "try: e.submit(abs, 1)\n    except ztasks.ForkedExecutor: pass\n    e.shutdown(); e.kill(); sys.exit(4)",
        4,
        "",
    ),
    "drops it": ("del e; sys.exit(4)", 4, ""),
    "has its own": ("with ztasks.Executor(1) as own: own.submit(abs, 1).result()\n    sys.exit(4)", 4, ""),
    "leaves its own open": ("own = ztasks.Executor(1); own.submit(abs, 1).result(); sys.exit(4)", 4, ""),
    "execs": ("os.execv(sys.executable, [sys.executable, '-c', 'raise SystemExit(4)'])", 4, ""),
}


@pytest.mark.parametrize("what", CHILDREN)
def test_a_fork_while_open(tmp_path: Path, what: str) -> None:
    """Whatever the child does, its end is its own, and the parent's executor works on."""
    child, code, err = CHILDREN[what]
    text = f"""{FORK}
child = os.fork()
if child == 0:
    {child}
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), e.submit(pow, 2, 5).result())
e.shutdown()
"""
    with script(tmp_path, text) as running:
        assert running.finish() == 0, running.err
        assert running.out == f"8\n{code} 32\n"
        assert re.fullmatch(err, running.err), running.err
        assert running.directories() == []


WAIT = "touch living; until [ -e die ]; do sleep 0.01; done"
LIVING = {
    "a fork": "if os.fork() == 0:\n    touch('living')\n    wait_for('die')\n    os._exit(0)",
    "an exec": f"if os.fork() == 0: os.execv('/bin/sh', ['sh', '-c', {WAIT!r}])",
    "a subprocess": f"import subprocess; subprocess.Popen(['sh', '-c', {WAIT!r}], close_fds=False)",
}


@pytest.mark.parametrize("what", LIVING)
def test_a_child_that_lives_on_holds_up_neither_closing_nor_the_exit(tmp_path: Path, what: str) -> None:
    text = f"{FORK}\n{LIVING[what]}\nwait_for('living')\ne.shutdown()\ntouch('closed')\nwait_for('go')\nos._exit(3)"
    with script(tmp_path, text) as running:
        running.wait_for_file("closed")
        assert running.workers() == set()
        assert running.directories() == []
        assert len(running.processes()) >= 2
        running.touch("go")
        assert running.process.wait(support.DEADLINE) == 3
        assert running.processes()
        running.touch("die")
        assert running.finish() == 3


@pytest.mark.parametrize("what", LIVING)
def test_a_child_that_lives_on_keeps_no_worker_alive(tmp_path: Path, what: str) -> None:
    """The parent is killed: its workers die, and its directory can be swept, while its child lives."""
    text = f"{FORK}\ne.submit(hold)\nwait_for('started-a')\n{LIVING[what]}\nwait_for('never')"
    with script(tmp_path, text) as running:
        running.wait_for_file("living")
        assert running.workers()
        running.send(signal.SIGKILL)
        support.wait_for(lambda: not running.workers(), "the end of the workers", 3.0)
        assert running.processes()
        check_swept(running)
        running.touch("die")
        assert running.finish() == -signal.SIGKILL


# --- 16: Ctrl-C, in a script ---

PHASES = {
    "start-up": "with ztasks.Executor(1, initializer=hold) as e: submit(e)[0].result()",
    "waiting for a result": "with ztasks.Executor(1) as e: submit(e)[0].result()",
    "in a map": "with ztasks.Executor(1) as e: submit(e); list(e.map(abs, itertools.count()))",
    "draining": "with ztasks.Executor(1) as e: submit(e)",
    "draining, without with": "e = ztasks.Executor(1); submit(e); e.shutdown()",
    "without with": "e = ztasks.Executor(1); submit(e)[0].result()",
    "at exit": "e = ztasks.Executor(1); submit(e)",
}

SUBMIT = """
def submit(e):
    futures = [e.submit(hold if number == 0 else abs, "a" if number == 0 else 1) for number in range(20)]
    futures[-1].add_done_callback(tell("cancelled"))
    return futures
"""


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
@pytest.mark.parametrize("phase", PHASES)
def test_row_16_ctrl_c_in_a_script(tmp_path: Path, phase: str, times: int) -> None:
    """Once: what waits is cancelled, what runs is finished. Twice: what runs is killed. It dies of the interrupt."""
    with script(tmp_path, PREAMBLE + SUBMIT + PHASES[phase], terminal=True) as running:
        running.wait_for_file("started-a")
        begin = time.monotonic()
        running.press(CTRL_C)
        running.wait_for("cancelled True")
        if times == 2:
            begin = time.monotonic()
            running.press(CTRL_C)
        elif phase != "start-up":
            assert running.process.poll() is None
            running.touch("go")
        # a main thread that has ended has set the exit code already
        assert running.finish() == (0 if phase == "at exit" else -signal.SIGINT)
        assert running.ended_at - begin < (KILLED if times == 2 else 10.0)
        assert running.out.startswith("^C")
        if (phase, times) != ("start-up", 2):  # the second may come when all is closed, and end it before it can say so
            assert "KeyboardInterrupt" in running.out
        assert "ztasks:" not in running.out
        if times == 2:  # it gives itself 0.7 s for the end; if that is not enough, the next start removes what is left
            rundir.sweep(str(running.tmp))
        assert running.directories() == []
    assert (tmp_path / "finished-a").exists() == (times == 1 and phase != "start-up")


def test_row_16_ctrl_c_at_any_moment(tmp_path: Path) -> None:
    """Also while the executor is made: nothing is left, and the process may go on."""
    with program(tmp_path, str(Path(__file__).parent / "interrupting.py"), "1", "30") as running:
        assert running.finish(30.0) == 0, running.err
        assert int(running.out) > 10


# --- 16: Ctrl-C and its kin, in `ztasks run` ---

TASKS = """
import os, time

def touch(name):
    open(name, "w").close()

def wait_for(name):
    while not os.path.exists(name):
        time.sleep(0.002)

def hold(name):
    touch(f"started-{name}")
    wait_for("go")
    touch(f"finished-{name}")
    return name

if os.environ.get("ZT_LOADING") == ("worker" if "ZTASKS_WORKER" in os.environ else "head"):
    touch("started-loading")
    wait_for("go")
"""


RUN_PHASES = {
    "loading": "the target is imported",
    "start-up": "the target is imported in the worker",
    "running": "jobs run and wait",
    "draining": "the last job runs",
    "reading": "the input is open and silent",
}


def arguments(phase: str) -> list[str]:
    inputs = {"draining": ["a"], "reading": ["a", "--lines", "pipe"]}.get(phase, ["a", "b", "c", "d"])
    return ["-m", "ztasks", "run", "tasks.py:hold", "-j1", "-o", "out", *inputs]


@contextmanager
def start(folder: Path, phase: str, *, terminal: bool) -> Iterator[Program]:
    """Start a run, and wait until it is in that phase."""
    (folder / "tasks.py").write_text(TASKS)
    os.mkfifo(folder / "pipe")
    writer = os.open(folder / "pipe", os.O_RDWR)
    loading = {"loading": "head", "start-up": "worker"}.get(phase, "")
    try:
        with program(folder, *arguments(phase), terminal=terminal, ZT_LOADING=loading) as running:
            running.wait_for_file("started-loading" if loading else "started-a")
            yield running
    finally:
        os.close(writer)


def statuses(folder: Path) -> dict[str, str]:
    lines = (folder / "out").read_text().splitlines() if (folder / "out").exists() else []
    return {record["input"]: record["status"] for record in map(json.loads, lines)}


SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
@pytest.mark.parametrize("number", SIGNALS, ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("phase", RUN_PHASES)
def test_row_16_ctrl_c_in_a_run(tmp_path: Path, phase: str, number: signal.Signals, times: int) -> None:
    """Once: what runs is finished, what waits is cancelled, and it says so. Twice: all is killed within a second."""
    with start(tmp_path, phase, terminal=number == signal.SIGINT) as running:

        def give() -> None:
            if number == signal.SIGINT:
                running.press(CTRL_C)
            else:
                running.send(number)

        begin = time.monotonic()
        give()
        if phase != "loading":
            running.wait_for(": no new jobs")
            if times == 2:
                begin = time.monotonic()
                give()
            else:  # also if it is being loaded
                running.wait_for("1 running, the longest for ")
                running.wait_for("Ctrl-C again to kill" if number == signal.SIGINT else "a second SIGTERM kills them")
                running.touch("go")
        assert running.finish() == 128 + number
        assert running.ended_at - begin < (KILLED if times == 2 else 10.0)
        assert "Traceback" not in running.out + running.err
        assert running.directories() == []
    if phase == "loading":
        assert not (tmp_path / "out").exists()
        return
    found = statuses(tmp_path)
    ran = "ok" if times == 1 else "cancelled"
    assert found.pop("a") == ran
    assert set(found.values()) <= {"cancelled"}
    assert (tmp_path / "finished-a").exists() == (ran == "ok")


@pytest.mark.parametrize("phase", RUN_PHASES)
def test_a_run_whose_terminal_is_closed(tmp_path: Path, phase: str) -> None:
    """The terminal goes away, as with a connection that breaks: all is killed and closed in order, records included."""
    with start(tmp_path, phase, terminal=True) as running:
        running.hang_up()
        assert running.finish(5.0) == 128 + signal.SIGHUP
        assert running.directories() == []
    assert statuses(tmp_path).pop("a", None) == (None if phase == "loading" else "cancelled")


def test_a_run_under_nohup(tmp_path: Path) -> None:
    """A signal that is ignored stays ignored."""
    (tmp_path / "tasks.py").write_text(TASKS)
    command = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"
    )
    with program(tmp_path, "-c", command, sys.executable, *arguments("running")) as running:
        running.wait_for_file("started-a")
        running.send(signal.SIGHUP)
        running.touch("go")
        assert running.finish() == 0
    assert set(statuses(tmp_path).values()) == {"ok"}


def test_a_run_that_is_killed(tmp_path: Path) -> None:
    with start(tmp_path, "running", terminal=False) as running:
        running.send(signal.SIGKILL)
        assert running.finish() == -signal.SIGKILL
        check_swept(running)
