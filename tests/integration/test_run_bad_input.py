"""Every option of `ztasks run` with what it cannot take: exit code 2, a message that says what to do, nothing changed.

`WRONG` holds for each option the arguments that are tried and what must be said. The cases of an option run in one
process, each in a child of its own that has the command's modules loaded already: there are too many for a start each.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from run_support import ztasks
from support import DEADLINE, environment, run_python, write_script

from ztasks.cli.run import command
from ztasks.units import cut

TASKS = """
from pathlib import Path

def echo(x):
    Path("ran").touch()
    return x

def typed(n: int, name: str = ""):
    Path("ran").touch()

NUMBER = 5

async def asynchronous(x):
    pass

class Klass:
    pass

def raises():
    raise LookupError("no cases today")
"""

DRIVER = """
import json, os, select, signal, sys, tempfile, traceback
from ztasks.cli import run
from ztasks.cli.main import main
import ztasks.executor, ztasks.runs.batch

def attempt(arguments, files):
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in zip((1, 2), files):
        os.dup2(file.fileno(), number)
    try:
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)

for arguments in json.loads(sys.argv[1]):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork() or attempt(arguments, (out, err))
        ended = os.pidfd_open(pid)
        if not select.select([ended], [], [], float(sys.argv[2]))[0]:
            os.kill(pid, signal.SIGKILL)
        os.close(ended)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        texts = [file.seek(0) or file.read().decode(errors="replace") for file in (out, err)]
        changed = sorted(set(os.listdir()) - {"__pycache__"})
        print(json.dumps([code, *texts, changed]), flush=True)
"""

LONG = "x" * 300
HUGE = "9" * 5000
TASK = "tasks.py:echo"

NOT_A_FILE = {
    "missing": "cannot read missing: No such file or directory",
    "folder": "it is a directory; --glob 'folder/*' gives what is in it",
    "tasks.py/x": "Not a directory",
    "loop": "Too many levels of symbolic links",
    LONG: "File name too long",
    "": "it is empty; is a variable of the shell not set?",
    "tasks.py,missing": "No such file",
}
NO_FILE_TO_WRITE = {
    "folder": "Is a directory",
    "no/such/folder": "No such file or directory",
    "tasks.py/x": "Not a directory",
    "loop": "Too many levels of symbolic links",
    LONG: "File name too long",
    "": "it is empty; is a variable of the shell not set?",
}
NOT_LOADED = {
    "missing.py:x": "the file missing.py does not exist",
    "missing:x": "there is no module 'missing'",
    "tasks.py": "names no",
    "tasks.py:": "names no",
    "tasks.py:nmae": "tasks.py has no 'nmae'",
    "tasks.py:x.y": "tasks.py has no 'x.y'",
    "folder:x": "",
    "raising.py:x": "raising.py cannot be loaded:",
    "exiting.py:x": "exiting.py cannot be loaded:",
    "syntax.py:x": "SyntaxError",
    "a b:x": "is neither a file nor the name of a module: write file.py:TASK or module:TASK",
    "": "it is empty",
}
NO_WHOLE_NUMBER = {
    **dict.fromkeys(("x", "1.5", "nan", "1e3", "0x10", " "), "is not a valid integer"),
    "-1": "is not in the range",
    HUGE: "is not a valid integer",
}


class Case(NamedTuple):
    arguments: list[str]
    said: str
    code: int = 2


def values(option: str, wrong: dict[str, str], *more: str) -> list[Case]:
    """A case for each wrong value of an option."""
    return [Case([TASK, "a", *more, f"{option}={value}"], said) for value, said in wrong.items()]


def inputs(option: str, wrong: dict[str, str]) -> list[Case]:
    return [Case([TASK, f"{option}={value}"], said) for value, said in wrong.items()]


def flag(option: str, *cases: Case) -> list[Case]:
    return [Case([TASK, "a", f"{option}=yes"], "does not take a value"), *cases]


WRONG: dict[str, list[Case]] = {
    "--head": [
        *values("--head", {"nope": "is neither @FILE, nor -", "@nope.join": "there is no join file nope.join"}),
        *values("--head", {"example.org:70": "is not on this host", "": "it is empty"}),
        *values("--head", {"@tasks.py": ""}),
        Case([TASK, "a", "--head"], "requires an argument"),
        Case([TASK, "a", "--head", "127.0.0.1:70", "-j", "2"], "-j"),
    ],
    "--glob": [
        *inputs("--glob", {"*.none": "no file matches '*.none': look at the pattern", "": "it is empty"}),
        *inputs("--glob", {"missing": "no file matches", "folder": "no file matches", "[": "no file matches"}),
        *inputs("--glob", {LONG: "no file matches", "**/*.none": "no file matches", "loop/*": "no file matches"}),
        Case([TASK, "raising.py", "--glob", "tasks.py"], "Quote the pattern"),
        Case([TASK, "--glob"], "requires an argument"),
    ],
    "--lines": [
        *inputs("--lines", NOT_A_FILE),
        Case([TASK, "--lines", "-", "--lines", "-"], "stdin can be read only once"),
        Case([TASK, "--lines", "full", "-o", "full", "--append"], "-o full is the file that is read as full"),
        Case([TASK, "--lines"], "requires an argument"),
    ],
    "--null": flag("--null", Case([TASK, "a", "-0"], "-0 is for --lines"), Case([TASK, "--null"], "-0 is for --lines")),
    "--jsonl": [
        *inputs("--jsonl", NOT_A_FILE),
        Case([TASK, "--jsonl", "-", "--csv", "-"], "stdin can be read only once"),
        Case([TASK, "--jsonl", "full", "-o", "link", "--overwrite"], "-o link is the file that is read as full"),
    ],
    "--csv": [
        *inputs("--csv", NOT_A_FILE),
        Case([TASK, "--csv", "twice.csv"], "names a more than once", code=3),
        Case([TASK, "--csv", "latin1.csv"], "is not UTF-8", code=3),
    ],
    "--from": [
        *inputs("--from", {**NOT_LOADED, "tasks.py:NUMBER": "must be an iterable of inputs, not 5"}),
        *inputs(
            "--from", {"tasks.py:raises": "raised LookupError: no cases today", "tasks.py:echo": "raised TypeError"}
        ),
    ],
    "--limit": values("--limit", NO_WHOLE_NUMBER),
    "--strict": flag("--strict", Case(["tasks.py:typed", "x", "--strict"], "With --strict that stops the run", code=3)),
    "--set": [
        *values("--set", dict.fromkeys(("x", "", "=1", "a b=1", "1=2", "-x=1"), "is not NAME=VALUE")),
        *values("--set", {"unknown=1": "the task has no argument 'unknown' for a constant; it has x"}),
        Case(["tasks.py:typed", "--set", "n=x", "a"], "a constant cannot be used: n='x' does not become int"),
    ],
    "--no-unpack": flag("--no-unpack"),
    "--command": [
        Case(["--command", "", "a"], "it is empty"),
        Case(["--command", " ", "a"], "it is empty"),
        Case(["--command", "no-such-program", "a"], "there is no program 'no-such-program' on PATH"),
        Case(["--command", "./tasks.py", "a"], "it must be a file that may be executed (chmod +x)"),
        Case(["--command", "folder/", "a"], "there is no program"),
        Case(["--command", "echo '{}", "a"], "has a quote that is not closed"),
        Case(["--command", "echo {0}", "a"], "arguments are counted from 1"),
        Case(["--command", "'' a", "a"], "the command is empty"),
        Case(["--command", "echo"], "no input: give arguments"),
    ],
    "--shell": flag(
        "--shell",
        Case([TASK, "a", "--shell"], "--shell is for --command"),
        Case(["--shell", "--command", "echo `x {}`", "a"], "is not certain, so it cannot be quoted"),
    ),
    "--dry-run": flag("--dry-run", Case([TASK, "--dry-run"], "no input: give arguments")),
    "--output": [
        *values("--output", NO_FILE_TO_WRITE),
        *values("--output", NO_FILE_TO_WRITE, "--overwrite"),
        *values(
            "--output", {"full": "full exists and is not empty: --resume goes on with what it lacks, --append adds"}
        ),
        *values("--output", {"tasks.py": "is the file that is read as tasks.py"}, "--overwrite"),
        *values("--output", {"/dev/null": "is no regular file"}, "--resume"),
    ],
    "--resume": flag(
        "--resume",
        Case([TASK, "a", "--resume"], "--resume needs the file: give -o FILE"),
        Case([TASK, "a", "--resume", "-o", "-"], "--resume needs the file: give -o FILE"),
        Case([TASK, "a", "--resume", "--overwrite", "-o", "new"], "exclude each other"),
    ),
    "--skip-failed": flag(
        "--skip-failed", Case([TASK, "a", "--skip-failed", "-o", "new"], "--skip-failed is for --resume")
    ),
    "--append": flag(
        "--append",
        Case([TASK, "a", "--append"], "--append needs the file: give -o FILE"),
        Case([TASK, "a", "--append", "--resume", "-o", "new"], "exclude each other"),
    ),
    "--overwrite": flag(
        "--overwrite",
        Case([TASK, "a", "--overwrite"], "--overwrite needs the file: give -o FILE"),
        Case([TASK, "a", "--overwrite", "--append", "-o", "full"], "exclude each other"),
        *(
            Case([TASK, "a", "--overwrite", "-o", "full", option], "")
            for option in (
                "--timeout=x",
                "-j=0",
                "-j=999999",
                "--init=no.py:x",
                "--logs-dir=tasks.py",
                "--pickle=folder",
            )
        ),
    ),
    "--ordered": flag("--ordered"),
    "--pickle": [
        *values("--pickle", NO_FILE_TO_WRITE),
        *values("--pickle", {"tasks.py": "holds something else than pickled results: give another name"}),
        Case([TASK, "a", "--pickle", "new", "-o", "new"], "give another name"),
    ],
    "--logs-dir": [
        *values("--logs-dir", {"tasks.py": "the directory tasks.py cannot be used for logs: File exists"}),
        *values("--logs-dir", {"tasks.py/x": "Not a directory", "": "it is empty", LONG: "File name too long"}),
        *values(
            "--logs-dir",
            {"/proc/x": "the directory /proc/x cannot be used for logs", "loop": "cannot be used for logs"},
        ),
    ],
    "--workers": [
        *values(
            "--workers",
            dict.fromkeys(("0", "-1", "x", "1.5", "", "%", "0%", "-5%", "nan", HUGE), "is neither a number"),
        ),
        *values("--workers", dict.fromkeys(("99999", "999999%"), "max_workers must be at most 10000")),
    ],
    "--cpus-per-job": [*values("--cpus-per-job", {**NO_WHOLE_NUMBER, "0": "is not in the range"})],
    "--memory-per-job": [
        *values(
            "--memory-per-job", dict.fromkeys(("x", "-1", "", "nan", "1.5", "1 XB", HUGE), "must be a size in whole")
        ),
        *values("--memory-per-job", dict.fromkeys(("0", "999PiB"), "--memory-per-job must be from 1 to the ")),
    ],
    "--gpus": [
        *values("--gpus", dict.fromkeys(("x", "-1", "", "1.5", "all"), "gpus must be 'auto' or a whole number")),
        *values(
            "--gpus", {"0": "at least 1", "99999999": "--gpus must be at most 10000", HUGE: "must be at most 10000"}
        ),
        *values("--gpus", {"99999999": "--gpus must be at most 10000"}, "-j1"),
    ],
    "--init": [
        *values("--init", {**NOT_LOADED, "tasks.py:NUMBER": "tasks.py:NUMBER is a int, not a function"}),
        *values("--init", {"tasks.py:asynchronous": "is an async function, which only an event loop can run"}),
    ],
    "--retries": [
        *values("--retries", NO_WHOLE_NUMBER),
        *values("--retries", {"9999999999": "retries must be at most"}),
    ],
    "--timeout": [
        *values(
            "--timeout", dict.fromkeys(("x", "-1", "", "nan", "inf", "1x", "1s1h", "1 2", HUGE), "must be a duration")
        ),
        *values("--timeout", dict.fromkeys(("0", "0s"), "timeout must be more than 0")),
    ],
    "--max-failures": [
        *values("--max-failures", dict.fromkeys(("x", "-1", "", "0", "1.5", "nan"), "must be a number of failures")),
        *values("--max-failures", dict.fromkeys(("0%", "101%", "-5%", "%", "5%%", HUGE), "or a share, such as 5%")),
        *values("--max-failures", {"1": "--fail-fast is --max-failures 1: give one of them"}, "--fail-fast"),
    ],
    "--fail-fast": flag("--fail-fast"),
    "--halt": values("--halt", dict.fromkeys(("x", "", "Soon", "never", "1"), "is not one of 'soon', 'now'")),
    "--quiet": flag("--quiet"),
    "--no-progress": flag("--no-progress"),
}

WRONG_TARGETS: list[Case] = [
    *(Case([target, "a"], said) for target, said in NOT_LOADED.items() if target),
    Case(["", "a"], "is neither a file nor the name of a module"),
    Case([":", "a"], "is neither a file nor the name of a module"),
    Case([":echo", "a"], "is neither a file nor the name of a module"),
    Case(["tasks.py:NUMBER", "a"], "tasks.py:NUMBER is a int, not a function"),
    Case(["tasks.py:asynchronous", "a"], "write a plain function that calls asyncio.run() on it"),
    Case(["..tasks:echo", "a"], "is neither a file nor the name of a module"),
    Case([], "no TARGET: give file.py:task, module:task, or --command"),
    Case(["--lines", "full"], "no TARGET"),
    Case([TASK], "no input: give arguments, --glob, --lines, --jsonl, --csv or --from"),
    Case([TASK, "a", "--lime", "full"], "No such option"),
    Case([TASK, "a", "-z"], "No such option"),
    Case([TASK, "-1"], "No such option"),
]


class Result(NamedTuple):
    code: int
    out: str
    err: str
    names: list[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "here"
    (path / "folder").mkdir(parents=True)
    for name, text in {
        "tasks.py": TASKS,
        "raising.py": "raise LookupError('broken')\n",
        "exiting.py": "import sys\nsys.exit(0)\n",
        "syntax.py": "def x(:\n",
        "full": "1\n2\n",
        "twice.csv": "a,a\n1,2\n",
    }.items():
        (path / name).write_text(text)
    (path / "latin1.csv").write_bytes(b"caf\xe9\n1\n")
    (path / "loop").symlink_to("loop")
    (path / "link").symlink_to("full")
    monkeypatch.chdir(path)
    yield path
    monkeypatch.chdir(tmp_path)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text("latin1") for path in folder.iterdir() if path.is_file()}


def attempt(folder: Path, cases: list[list[str]]) -> list[Result]:
    """Run the command with each list of arguments."""
    script = write_script(folder.parent, DRIVER)
    seconds = DEADLINE + len(cases)
    done = run_python(str(script), json.dumps([["run", *case] for case in cases]), str(DEADLINE), seconds=seconds)
    assert (done.code, done.err) == (0, "")
    return [Result(*json.loads(line)) for line in done.out.splitlines()]


def defects(case: Case, result: Result, names: list[str]) -> Iterator[str]:
    """Say what is wrong with how the command took it."""
    if result.code != case.code:
        yield f"exit code {result.code} instead of {case.code}"
    if case.said not in result.err:
        yield f"does not say {case.said!r}"
    if result.names != names:
        yield f"has changed the directory: {sorted(set(result.names) ^ set(names))}"
    if case.code == 2 and result.out:
        yield f"has written {result.out!r} to stdout"
    if "Traceback" in result.err and "cannot be loaded" not in result.err:
        yield "a traceback"
    if "cli/run" in result.err:
        yield "our own code in a traceback"
    if not 20 < len(result.err) < 2500 + sum(map(len, case.arguments)):
        yield f"a message of {len(result.err)} characters"


def check(folder: Path, cases: list[Case]) -> None:
    before = contents(folder)
    names = sorted(os.listdir())
    results = attempt(folder, [case.arguments for case in cases])
    assert len(results) == len(cases)
    complaints = [
        f"{cut(' '.join(case.arguments), 100)!r}: {'; '.join(found)}\n{result.err[:1500]}"
        for case, result in zip(cases, results, strict=True)
        if (found := list(defects(case, result, names)))
    ]
    assert not complaints, "\n\n".join(complaints)
    assert contents(folder) == before
    assert sorted(os.listdir("folder")) == []


def test_every_option_is_tried() -> None:
    declared = {max(each.opts, key=len) for each in command.params if each.param_type_name == "option"}
    assert set(WRONG) == declared
    for option, cases in WRONG.items():
        short = next(each.opts for each in command.params if option in each.opts)
        for case in cases:
            assert any(word.partition("=")[0] in short for word in case.arguments), case.arguments


@pytest.mark.parametrize("option", WRONG)
def test_wrong_values_of_an_option(folder: Path, option: str) -> None:
    check(folder, WRONG[option])


def test_wrong_targets(folder: Path) -> None:
    check(folder, WRONG_TARGETS)


def test_the_same_from_the_environment(folder: Path) -> None:
    """A value that is wrong for an option is as wrong in its variable, unless it is empty, which is none."""
    wrong = {
        "WORKERS": "x",
        "RETRIES": "x",
        "TIMEOUT": "x",
        "HALT": "x",
        "MAX_FAILURES": "x",
        "LIMIT": "x",
        "QUIET": "x",
    }
    wrong |= {"LINES": "missing", "CSV": "missing", "OUTPUT": "folder", "LOGS_DIR": "tasks.py", "INIT": "x", "SET": "x"}
    for name, value in wrong.items():
        done = ztasks(TASK, "a", env=environment(**{f"ZTASKS_{name}": value}))
        assert (done.code, done.out) == (2, ""), (name, done)
        assert value in done.err
        assert "Traceback" not in done.err
    assert not os.path.exists("ran")
    done = ztasks(TASK, "a", env=environment(**dict.fromkeys((f"ZTASKS_{name}" for name in wrong), "")))
    assert done.code == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_files_that_may_not_be_read_or_written(folder: Path) -> None:
    (folder / "full").chmod(0)
    (folder / "folder").chmod(0o555)
    try:
        for arguments in (["--lines", "full"], ["--csv", "full"], ["a", "-o", "full"], ["a", "-o", "folder/new"]):
            done = ztasks(TASK, *arguments)
            assert (done.code, done.out) == (2, "")
            assert "Permission denied" in done.err
            assert "Traceback" not in done.err
    finally:
        (folder / "folder").chmod(0o755)
        (folder / "full").chmod(0o644)
    assert not os.path.exists("ran")


def test_absurd_values_that_mean_something(folder: Path) -> None:
    """They are no mistakes: as good as none at all."""
    arguments = ("--limit", HUGE[:18], "--timeout", "9999d", "--retries", "2147483647", "--max-failures", "100%")
    done = ztasks(
        TASK, "a", *arguments, "--cpus-per-job", "99999", "--memory-per-job", "1", "--set", "x=2", "-j", "300%"
    )
    assert done.code == 0, done.err
    assert "; 1 worker," in done.err
    assert json.loads(done.out)["result"] == "a"
