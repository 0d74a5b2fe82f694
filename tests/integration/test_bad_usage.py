"""Bad input on the command line: exit code 2 with one clear message, no traceback of ours, and nothing is run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import support

TASKS = """
from pathlib import Path

def echo(*args):
    Path("ran").touch()
    return args

async def later(value):
    return value

NUMBER = 5
"""

WRONG: dict[str, tuple[list[str], str]] = {
    "nothing at all": ([], "no TARGET: give file.py:task"),
    "no number of workers": (["tasks.py:echo", "a", "-j", ""], "neither a number of workers"),
    "a share of nothing": (["tasks.py:echo", "a", "-j", "0%"], "neither a number of workers"),
    "half a worker": (["tasks.py:echo", "a", "-j", "1.5"], "neither a number of workers"),
    "workers beyond counting": (["tasks.py:echo", "a", "-j", "9" * 500], "neither a number of workers"),
    "an option without its value": (["tasks.py:echo", "a", "-j"], "requires an argument"),
    "retries that are no number": (["tasks.py:echo", "a", "--retries", "nan"], "--retries"),
    "retries beyond counting": (["tasks.py:echo", "a", "--retries", "9" * 30], "retries must be at most"),
    "no GPU": (["tasks.py:echo", "a", "--gpus", "0"], "gpus must be"),
    "GPUs in words": (["tasks.py:echo", "a", "--gpus", "some"], "gpus must be 'auto' or a whole number"),
    "no CPU": (["tasks.py:echo", "a", "--cpus-per-job", "0"], "--cpus-per-job"),
    "half a CPU": (["tasks.py:echo", "a", "--cpus-per-job", "0.5"], "--cpus-per-job"),
    "memory in words": (["tasks.py:echo", "a", "--memory-per-job", "lots"], "--memory-per-job must be a size"),
    "negative memory": (["tasks.py:echo", "a", "--memory-per-job", "-1"], "--memory-per-job must be a size"),
    "memory beyond all": (["tasks.py:echo", "a", "--memory-per-job", "9" * 60], "--memory-per-job must be a size"),
    "an empty pattern": (["tasks.py:echo", "--glob", ""], "it is empty"),
    "a pattern that is no text": (["tasks.py:echo", "--glob", "\udcff*"], "no file matches"),
    "lines of a file without a name": (["tasks.py:echo", "--lines", ""], "it is empty"),
    "a name that is too long": (["tasks.py:echo", "--lines", "x" * 3000], "File name too long"),
    "output to a folder": (["tasks.py:echo", "a", "-o", "/"], "Is a directory"),
    "output to a file without a name": (["tasks.py:echo", "a", "-o", ""], "it is empty"),
    "a target without a name": (["", "a"], "neither a file nor the name of a module"),
    "a target of only a colon": ([":", "a"], "neither a file nor the name of a module"),
    "a target that is no text": (["\udcff:echo", "a"], "neither a file nor the name of a module"),
    "a target with two colons": (["tasks:echo:x", "a"], "neither a file nor the name of a module"),
    "a target with a line end": (["tasks.py:echo\n", "a"], "Did you mean echo?"),
    "a target that is a number": (["tasks.py:NUMBER", "a"], "is a int, not a function"),
    "a target that is asynchronous": (["tasks.py:later", "a"], "asyncio.run"),
    "a target that is the root": (["/:echo", "a"], "is a directory"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_usage(tmp_path: Path, what: str) -> None:
    arguments, said = WRONG[what]
    (tmp_path / "tasks.py").write_text(TASKS)
    done = support.run_python("-m", "ztasks", "run", *arguments, cwd=tmp_path, errors="backslashreplace")
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "Traceback" not in done.err
    assert len(done.err) < 1000 + sum(map(len, arguments))
    assert not (tmp_path / "ran").exists()
    assert {*os.listdir(tmp_path)} <= {"tasks.py", "__pycache__"}
