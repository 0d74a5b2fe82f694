"""`python -m ztasks.chaos`: with real faults nothing is lost; and where something is lost, it says so."""

from __future__ import annotations

import json
import os
import re
import signal
import textwrap
from pathlib import Path
from typing import Any

import pytest
import support

BRIEF = ("--no-base", "--jobs", "150", "--deadline", "30s")


def chaos(*arguments: str, code: int = 0, **how: Any) -> tuple[dict[str, Any], str]:
    """Run the chaos test; return its account and what it wrote to stderr."""
    done = support.run_python("-m", "ztasks.chaos", "--json", *arguments, seconds=50, **how)
    assert done.code == code, f"exit code {done.code}; it wrote:\n{done.out}\n{done.err}"
    return json.loads(done.out), done.err


def defective(folder: Path, defect: str, *arguments: str) -> tuple[dict[str, Any], str]:
    """Run the chaos test with a defect planted in ztasks; it must notice."""
    main = "import sys\nfrom ztasks.chaos.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"
    script = support.write_script(folder, textwrap.dedent(defect) + main)
    done = support.run_python(str(script), "--json", "--no-base", *arguments, seconds=50)
    assert done.code == 1, f"exit code {done.code}; it wrote:\n{done.out}\n{done.err}"
    report = json.loads(done.out)
    assert not report["ok"]
    return report, done.err


# --- nothing is lost ---


@pytest.mark.parametrize(
    ("seed", "api", "faults"),
    [
        (1, "both", "kill=4,freeze=2,slow=1%,large=1%,fail=4%,crash=2"),
        (2, "map", "kill=6,fail=5%"),
        (3, "submit", "kill=4,freeze=3,crash=2,hang=1"),
    ],
)
def test_nothing_is_lost(seed: int, api: str, faults: str) -> None:
    report, err = chaos(*BRIEF, "--seed", str(seed), "--api", api, "--faults", faults, "--timeout", "500ms", "-j", "2")
    side = report["chaos"]
    assert report["ok"]
    assert (side["losses"], side["left"], side["problems"]) == (0, [], [])
    assert side["succeeded"] == report["jobs"] == 150
    duplicates = side["duplicates"]
    assert side["executions"] == 150 + sum(duplicates.values())
    assert duplicates["unexplained"] == 0
    planned = report["planned"]
    crashes = planned.get("exit", 0) + planned.get("segfault", 0)
    assert bool(crashes) <= duplicates["crashed as planned"] <= crashes, "a kill may come before a planned fault"
    assert bool(planned.get("fail")) <= duplicates["failed as planned"] <= planned.get("fail", 0)
    assert err == f"ztasks chaos: seed {seed}: 150 jobs of the built-in task through " + {
        "both": "submit and map, 2 workers\n"
    }.get(api, f"{api}, 2 workers\n")


def test_a_target_with_inputs_and_the_cost(tmp_path: Path) -> None:
    support.write_script(tmp_path, "def length(text): return len(text)\n", "stats.py")
    (tmp_path / "lines.txt").write_text("one\ntwo\nthree\n")
    report, _ = chaos(
        "stats.py:length", "--lines", "lines.txt", "--jobs", "90", "--faults", "fail=20%,exit=1", cwd=tmp_path
    )
    assert (report["ok"], report["jobs"], report["task"]) == (True, 90, "stats:length")
    assert report["base"]["executions"] == 90
    assert report["chaos"]["duplicates"]["failed as planned"] == report["planned"]["fail"] >= 18
    assert report["cost"] == pytest.approx(report["chaos"]["seconds"] / report["base"]["seconds"], rel=0.01)


def test_a_task_that_fails_by_itself_loses_nothing(tmp_path: Path) -> None:
    code = "def invert(number):\n    print('noise')\n    return 1 / (number % 3)\n"
    support.write_script(tmp_path, code, "maths.py")
    report, _ = chaos("maths.py:invert", *BRIEF, "--faults", "kill=3,fail=5%", cwd=tmp_path)
    assert (report["ok"], report["chaos"]["failed"], report["chaos"]["losses"]) == (True, 50, 0)


def test_a_task_that_must_not_run_twice(tmp_path: Path) -> None:
    code = """
    import ztasks

    @ztasks.task(at_most_once=True)
    def charge(number):
        return number
    """
    support.write_script(tmp_path, code, "shop.py")
    report, _ = chaos("shop.py:charge", *BRIEF, "--faults", "kill=4,fail=5%,crash=2", "--seed", "5", cwd=tmp_path)
    side = report["chaos"]
    assert (report["ok"], side["losses"], sum(side["duplicates"].values())) == (True, 0, 0)
    assert side["failed"] >= 8, "5% of the jobs fail as planned, and are not run again"
    assert side["succeeded"] + side["failed"] == 150


def test_the_text_for_reading() -> None:
    done = support.run_python("-m", "ztasks.chaos", "--jobs", "60", "--seed", "4", "--faults", "fail=10%")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split() == ["without", "faults", "with", "faults"]
    assert lines[1].split() == ["jobs", "60", "60"]
    assert next(line for line in lines if line.startswith("losses")).split() == ["losses", "0", "0"]
    assert lines[-1] == "ok: nothing lost, nothing left behind"
    assert len({len(line) for line in lines[:8]}) == 1, "the numbers are aligned"


# --- and where something is, it says so ---

DROP = """
    from ztasks.future import Future

    succeed, count = Future.succeed, iter(range(10**6))

    def lossy(self, data, buffers):
        if next(count) == 20:
            self._gate.release()
        else:
            succeed(self, data, buffers)

    Future.succeed = lossy
"""


def test_an_outcome_that_never_comes_is_a_loss_at_the_deadline(tmp_path: Path) -> None:
    arguments = ("--jobs", "60", "--api", "submit", "--faults", "none", "--deadline", "4s", "--seed", "3", "-j", "1")
    report, err = defective(tmp_path, DROP, *arguments)
    assert not report["closes_early"]
    assert report["chaos"]["losses"] == 1
    assert report["problems"] == ["it did not end within its deadline of 4 s"]
    (problem,) = report["chaos"]["problems"]
    assert problem.startswith("lost: job 20 (20): it has not ended [returned after ")
    assert "the state of things" in err
    assert re.search(r"worker \d+: S \(sleeping\).*, returned\n", err)
    assert re.search(r"lane 0: ready, dispatched 60, received 60", err)
    assert "in _wait\n" in err, "the stack of the main thread"
    assert "Fatal Python error: Aborted" in err, "the stack of the worker"


SWAP = """
    from ztasks.future import Future

    succeed, kept = Future.succeed, []

    def swapping(self, data, buffers):
        kept.append((self, data, buffers))
        if len(kept) == 2:
            (first, *of_first), (second, *of_second) = kept
            succeed(first, *of_second)
            succeed(second, *of_first)
        elif len(kept) > 2:
            succeed(self, data, buffers)

    Future.succeed = swapping
"""

TWICE = """
    from ztasks.executor import Executor

    submit, count = Executor.submit, iter(range(10**6))

    def eager(self, fn, /, *args, **kwargs):
        if next(count) == 7:
            submit(self, fn, *args, **kwargs)
        return submit(self, fn, *args, **kwargs)

    Executor.submit = eager
"""

GIVE_UP = """
    from ztasks.chaos import batch

    options = batch.options
    batch.options = lambda function, **changes: options(function, **{**changes, "retries": 0})
"""

LEAVE = """
    import os, subprocess, threading
    from ztasks.executor import Executor

    shutdown = Executor.shutdown

    def careless(self, *args, **kwargs):
        shutdown(self, *args, **kwargs)
        threading.Thread(target=threading.Event().wait, name="forgotten", daemon=True).start()
        os.dup(2)
        os.mkdir(os.path.join(os.environ["TMPDIR"], "ztasks-forgotten"))
        subprocess.Popen(["sleep", "5"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    Executor.shutdown = careless
"""


@pytest.mark.parametrize(
    ("defect", "faults", "problems"),
    [
        (SWAP, "none", ["it got the result of job 1", "it got the result of job 0"]),
        (TWICE, "none", ["repeated: job 7 (7): executed again for no reason"]),
        (GIVE_UP, "fail=1", ["it was not run again after a planned failure"]),
        (LEAVE, "none", ["left behind: descriptor", "left behind: directory", "behind: process", "thread forgotten"]),
    ],
    ids=["results swapped", "a job run twice", "a job not run again", "things left behind"],
)
def test_a_defect_is_noticed(tmp_path: Path, defect: str, faults: str, problems: list[str]) -> None:
    report, _ = defective(tmp_path, defect, "--jobs", "30", "--api", "submit", "--faults", faults, "-j", "1")
    found = report["chaos"]["problems"]
    assert len(found) == len(problems)
    assert all(wanted in problem for wanted, problem in zip(problems, found, strict=True)), found


def test_a_batch_that_fails_without_faults_is_not_run_under_faults(tmp_path: Path) -> None:
    support.write_script(tmp_path, "import os\ndef leave(number): os._exit(3)\n", "deadly.py")
    report, err = chaos("deadly.py:leave", "--jobs", "2", "--deadline", "30s", cwd=tmp_path, code=1)
    assert (report["ok"], report["chaos"], report["base"]["losses"]) == (False, None, 2)
    assert "PoisonJob" in report["base"]["problems"][0]
    assert "FAILED" in err


# --- usage ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--faults", "meteor"], "there is no fault 'meteor'"),
        (["--jobs", "0"], "--jobs"),
        (["--deadline", "soon"], "--deadline must be a duration"),
        (["-j", "none"], "neither a number of workers"),
        (["nowhere.py:task"], "does not exist"),
        (["json:dumps", "--lines", "missing.txt"], "cannot read missing.txt"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = support.run_python("-m", "ztasks.chaos", *arguments, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert message in done.err.replace("\n", " ")
    assert "Traceback" not in done.err


@pytest.mark.parametrize("faults", ["none", "freeze=50"])
def test_ctrl_c_leaves_nothing(faults: str) -> None:
    arguments = ("--no-base", "--jobs", "100000", "--faults", faults, "--seed", "1", "-j", "2")
    with support.running("-m", "ztasks.chaos", *arguments) as process:
        workers = support.wait_for(lambda: len(found := support.workers(process.pid)) == 2 and found, "two workers")
        assert process.stderr is not None
        assert "seed 1" in process.stderr.readline()
        folders = support.wait_for(lambda: list(Path(os.environ["TMPDIR"]).glob("zt-chaos-*/*.executions")), "jobs")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=support.DEADLINE)
        assert (process.returncode, out) == (130, "")
        assert err.startswith("ztasks chaos: interrupted after ")
        assert len(err.splitlines()) == 1
        support.wait_gone(workers)
        assert not any(folder.parent.exists() for folder in folders)
