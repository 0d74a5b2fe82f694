"""`ztasks run` as users run it: the real command in a process of its own, and on a terminal where that matters.

Jobs tell the test where they are through files: a test waits for `started-*` and lets jobs go on by making `go`.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from run_support import Terminal, peak_memory, records, results, statuses, ztasks
from support import DEADLINE, environment, run_python, running, wait_for, wait_gone, workers

from ztasks.runs.pickles import read_pickles

TASKS = """
import os, sys, time
from datetime import date
from pathlib import Path

print("the module prints this")

def echo(x):
    return x

def call(*args, **kwargs):
    return [args, kwargs]

def odd(x):
    if int(x) % 2:
        raise ValueError(f"{x} is odd")
    return int(x)

def talk(x):
    print(f"job {x} prints")
    print(f"job {x} complains", file=sys.stderr)
    os.system(f"echo a child of job {x} prints")
    return x

def wait(x):
    '''Tell that it has started, wait for `go`.'''
    Path(f"started-{x}").touch()
    while not os.path.exists("go"):
        time.sleep(0.005)
    Path(f"finished-{x}").touch()
    return x

def wait_on_a(x):
    return wait(x) if x == "a" else x

def fail_twice(x):
    with open(f"tries-{x}", "a") as file:
        file.write("x")
    if os.path.getsize(f"tries-{x}") < 3:
        raise OSError("not yet")
    return x

def die(x):
    os._exit(3)

def pid(x):
    time.sleep(0.02)
    return os.getpid()

def children(x):
    '''Start a process that would live for an hour.'''
    import subprocess
    child = subprocess.Popen(["sleep", "3600"])
    Path("child").write_text(str(child.pid))
    return wait(x)

def unpicklable(x):
    return (each for each in x)

def another_form(x):
    return {(1, 2): {3}, "nan": float("nan"), "path": Path("a"), "day": date(2024, 5, 6), "bytes": b"x"}

def imaginary(x):
    return {"bad": complex(0, int(x))}
"""

DECORATED = """
import threading
from ztasks import current_job, task

LOCK = threading.Lock()  # what cannot be pickled may stand in the module

@task(retries=1, backoff=0.01)
def count(path):
    with LOCK, open(path, "a+") as file:
        file.write("x")
        file.seek(0)
        tries = len(file.read())
    if tries < 3:
        raise OSError(f"try {tries}")
    return [current_job().attempt, current_job().max_attempts]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tasks.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- targets ---


@pytest.mark.parametrize("target", ["tasks.py:echo", "tasks:echo", "./tasks.py:echo"])
def test_targets(target: str) -> None:
    assert results(ztasks(target, "a")) == ["a"]


@pytest.mark.parametrize("name", ["json.py", "my-tasks.py", "threading.py"])
def test_a_file_with_an_awkward_name(folder: Path, name: str) -> None:
    other = folder / "other"
    other.mkdir()
    (other / name).write_text(TASKS)
    assert results(ztasks(f"other/{name}:echo", "a", "b", "-k")) == ["a", "b"]


def test_wrong_targets_are_usage_errors_and_say_what_to_do() -> None:
    for target, said in {
        "tasks.py:eco": "Did you mean echo?",
        "tasks.py": "There is:\n    another_form(x)\n    call(*args, **kwargs)",
        "task.py:echo": "Did you mean tasks.py?",
        "taks:echo": "Did you mean tasks?",
    }.items():
        done = ztasks(target, "a")
        assert (done.code, done.out) == (2, "")
        assert said in done.err
        assert "Traceback" not in done.err


def test_the_command_and_its_help() -> None:
    done = run_python("-m", "ztasks", "--help")
    assert done.code == 0
    assert "run  " in done.out
    done = ztasks("--help")
    assert done.code == 0
    for code in ("0 ", "1 ", "2 ", "130", "141"):
        assert f"\n    {code}" in done.out
    assert run_python("-m", "ztasks", "--version").out.startswith("ztasks")
    assert run_python("-m", "ztasks", "rnu").code == 2


def test_help_imports_neither_sockets_nor_tables() -> None:
    program = "import sys; from ztasks.cli.main import main; main(['run', '--help']); print(*sys.modules)"
    modules = set(run_python("-c", program).out.split())
    assert "click" in modules
    assert not modules & {"zmq", "rich", "cloudpickle", "msgspec", "asyncio"}


# --- inputs ---


def test_arguments_may_begin_with_a_dash() -> None:
    assert results(ztasks("-k", "tasks.py:echo", "--", "-1", "--glob")) == ["-1", "--glob"]


def test_glob(folder: Path) -> None:
    for name in ("src/b.txt", "src/deep/a.txt", "src/c.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert results(ztasks("tasks.py:echo", "-k", "--glob", "src/**/*.txt")) == ["src/b.txt", "src/deep/a.txt"]


def test_lines_and_jsonl(folder: Path) -> None:
    (folder / "lines").write_text("a b\n\nc")
    (folder / "calls").write_text('{"x": 1}\n[2, 3]\n"four"\n\nnull\n')
    done = ztasks("tasks.py:call", "arg", "--lines", "lines", "--jsonl", "calls", "-k")
    assert results(done) == [
        [["arg"], {}],
        [["a b"], {}],
        [[""], {}],
        [["c"], {}],
        [[], {"x": 1}],
        [[2, 3], {}],
        [["four"], {}],
        [[None], {}],
    ]
    assert [record["input"] for record in records(done.out)] == ["arg", "a b", "", "c", {"x": 1}, [2, 3], "four", None]
    assert [record["index"] for record in records(done.out)] == list(range(8))


def test_stdin() -> None:
    assert sorted(results(ztasks("tasks.py:echo", "--lines", "-", stdin="a\nb\n"))) == ["a", "b"]
    assert results(ztasks("tasks.py:echo", "--jsonl", "-", stdin="[1]\n")) == [1]


def test_inputs_that_are_no_calls_are_failed_records_and_the_rest_goes_on(folder: Path) -> None:
    (folder / "calls").write_bytes(b'1\n{"a": }\n"caf\xe9"\n4\n')
    done = ztasks("tasks.py:echo", "-k", "--jsonl", "calls")
    assert done.code == 1
    first, second, third, fourth = records(done.out)
    assert (first["result"], fourth["result"]) == (1, 4)
    assert second["error"]["type"] == third["error"]["type"] == "InvalidInput"
    assert second["error"]["message"] == "line 2 of calls is not JSON: Expecting value at column 7"
    assert second["input"] == '{"a": }'
    assert "line 3 of calls is not UTF-8" in third["error"]["message"]
    assert [second["index"], second["status"], second["attempts"]] == [1, "failed", 0]
    assert "2 x InvalidInput, such as" in done.err


def test_empty_input_is_no_failure() -> None:
    done = ztasks("tasks.py:echo", "--lines", "/dev/null")
    assert (done.code, done.out) == (0, "")
    assert "0 jobs" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no input: give arguments, --glob, --lines, --jsonl, --csv or --from"),
        (["--lines", "missing"], "cannot read missing: No such file or directory"),
        (["--jsonl", "."], "it is a directory"),
        (["--glob", "*.nothing"], "no file matches '*.nothing'"),
        (["--lines", "-", "--jsonl", "-"], "stdin can be read only once"),
        (["a", "-j", "0"], "is neither a number of workers"),
        (["a", "-j", "-1"], "is neither a number of workers"),
        (["a", "-j", "many"], "is neither a number of workers"),
        (["a", "-j", "999999"], "max_workers must be at most"),
        (["a", "--retries", "-1"], "--retries"),
        (["a", "--retries", "x"], "--retries"),
        (["a", "-o", "no/such/folder"], "cannot write no/such/folder"),
        (["a", "-o", "full"], "full exists and is not empty"),
        (["a", "--no-such-option"], "No such option"),
    ],
)
def test_wrong_usage(folder: Path, arguments: list[str], said: str) -> None:
    (folder / "full").write_text("kept")
    done = ztasks("tasks.py:echo", *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "Traceback" not in done.err
    assert (folder / "full").read_text() == "kept"


def test_results_come_while_the_input_is_still_open() -> None:
    with running("-m", "ztasks", "run", "tasks.py:echo", "--lines", "-") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for text in ("a", "b", "c"):
            process.stdin.write(f"{text}\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["result"] == text
        process.stdin.close()
        assert process.wait(DEADLINE) == 0


@pytest.mark.parametrize("ordered", [[], ["-k"]])
def test_an_endless_pipe_needs_constant_memory(ordered: list[str]) -> None:
    arguments = ["-m", "ztasks", "run", "tasks.py:echo", "-q", "--lines", "-", *ordered]
    with running(*arguments, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        source, sink = process.stdin.fileno(), process.stdout.fileno()
        feeder = threading.Thread(target=write_for_ever, args=(source, b"x" * 1999 + b"\n"))
        feeder.start()
        passed = 0
        while passed < 2**30:  # bytes of records: each holds its line twice, as input and as result
            data = os.read(sink, 2**20)
            assert data
            passed += len(data)
        peak = peak_memory(process.pid)
        process.send_signal(signal.SIGINT)
        while os.read(sink, 2**20):
            pass
        assert process.wait(DEADLINE) == 130
        feeder.join(DEADLINE)
    assert peak < 320 * 2**20, "1 GiB has passed through"


def write_for_ever(file: int, line: bytes) -> None:
    """Write lines until nobody reads them any more."""
    with contextlib.suppress(BrokenPipeError):
        while True:
            os.write(file, line * 100)


# --- output ---


def test_records_have_all_fields() -> None:
    [record] = records(ztasks("tasks.py:odd", "2").out)
    assert list(record) == [
        *("v", "index", "key", "input", "ok", "status", "result", "error", "started", "seconds", "attempts"),
        *("host", "pid", "max_rss", "source"),
    ]
    assert record["status"] == "ok"
    assert record["max_rss"] > 2**20
    assert abs(record["started"] - os.stat("tasks.py").st_mtime) < 60


def test_failures_are_told(folder: Path) -> None:
    done = ztasks("tasks.py:odd", "1", "2", "3", "-k", "-o", "out.jsonl")
    assert (done.code, done.out) == (1, "")
    first, second, third = records((folder / "out.jsonl").read_text())
    assert [first["ok"], second["ok"], third["ok"]] == [False, True, False]
    assert first["error"]["type"] == "ValueError"
    assert first["error"]["message"] == "1 is odd"
    assert 'raise ValueError(f"{x} is odd")' in first["error"]["traceback"]
    assert "3 jobs: 1 ok, 2 failed" in done.err
    assert "2 x ValueError, such as 1: 1 is odd" in done.err
    assert "of their time in jobs" in done.err
    assert "slowest: " in done.err


def test_keys_are_the_same_in_every_run(folder: Path) -> None:
    def keys(*arguments: str) -> list[str]:
        return [record["key"] for record in records(ztasks(*arguments, "-k").out)]

    first = keys("tasks.py:echo", "a", "b", "a")
    assert first[0] != first[1]
    assert first[2] == f"{first[0]}-2", "equal inputs are jobs of their own"
    assert keys(f"{folder}/tasks.py:echo", "b", "a", "a") == [first[1], first[0], first[2]]
    assert not set(keys("tasks.py:call", "a", "b", "a")) & set(first)
    assert not set(keys("tasks.py:call", "a", "b", "a", "--set", "n=1")) & set(keys("tasks.py:call", "a", "b", "a"))


def test_in_order_of_input(folder: Path) -> None:
    with running("-m", "ztasks", "run", "tasks.py:wait_on_a", "a", "b", "c", "-k", "-j2", "-q") as process:
        wait_for(lambda: os.path.exists("started-a"), "job a to start")
        Path("go").touch()
        out, _ = process.communicate(timeout=DEADLINE)
    assert [record["input"] for record in records(out)] == ["a", "b", "c"]


def test_as_they_finish() -> None:
    with running("-m", "ztasks", "run", "tasks.py:wait_on_a", "a", "b", "c", "-j2", "-q") as process:
        assert process.stdout is not None
        first = [json.loads(process.stdout.readline())["input"] for _ in range(2)]
        assert sorted(first) == ["b", "c"]
        Path("go").touch()
        assert json.loads(process.stdout.readline())["input"] == "a"
        assert process.wait(DEADLINE) == 0


def test_a_long_job_does_not_hold_back_the_records_before_it() -> None:
    with running("-m", "ztasks", "run", "tasks.py:wait_on_a", *"bcdefa", "-j1", "-k") as process:
        assert process.stdout is not None
        assert [json.loads(process.stdout.readline())["input"] for _ in range(5)] == list("bcdef")
        Path("go").touch()
        assert process.wait(DEADLINE) == 0


def test_what_jobs_print_goes_to_stderr() -> None:
    done = ztasks("tasks.py:talk", "1", "2", "-k")
    assert results(done) == ["1", "2"]
    lines = done.err.splitlines()
    for line in (
        *("[1] job 1 prints", "[1] job 1 complains", "[2] job 2 prints", "[2] job 2 complains"),
        *("a child of job 1 prints", "a child of job 2 prints", "the module prints this"),
    ):
        assert line in lines


def test_the_output_is_fit_for_jq() -> None:
    jq = subprocess.run(["sh", "-c", "command -v jq"], capture_output=True, check=False)
    if jq.returncode:
        pytest.skip("jq is not installed")
    command = f"{sys.executable} -m ztasks run tasks.py:talk $(seq 50) -k | jq -c '[.index, .result]'"
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, env=environment(), timeout=30, check=True
    )
    assert done.stdout.splitlines() == [f'[{index},"{index + 1}"]' for index in range(50)]


def test_results_that_json_holds_in_another_form() -> None:
    done = ztasks("tasks.py:another_form", "x")
    assert results(done) == [{"(1, 2)": [3], "nan": None, "path": "a", "day": "2024-05-06", "bytes": "eA=="}]
    assert "JSON has no such values" in done.err
    assert "1 x NaN or infinity" in done.err
    assert "1 x dict with keys that are no text" in done.err


def test_a_result_that_json_cannot_hold_stops_the_run_and_is_saved(folder: Path) -> None:
    done = ztasks("tasks.py:imaginary", "1", "2", "-j1", "-k")
    first, *_ = records(done.out)
    assert done.code == 3
    assert (first["status"], first["result"]) == ("ok", {"bad": {"$repr": "1j", "$type": "complex"}})
    assert first["pickle"] == "ztasks.unsaved.pickle"
    assert "Go on with --pickle ztasks.unsaved.pickle" in done.err
    assert next(read_pickles("ztasks.unsaved.pickle")) == (first["key"], {"bad": 1j})
    done = ztasks("tasks.py:imaginary", "1", "2", "-k", "--pickle", "saved")
    assert [record["pickle"] for record in records(done.out)] == ["saved", "saved"]
    assert done.code == 0
    assert "2 results that JSON cannot hold are in saved" in done.err
    assert [value for _, value in sorted(read_pickles("saved"), key=lambda each: str(each[1]))] == [
        {"bad": 1j},
        {"bad": 2j},
    ]


def test_a_result_that_cannot_be_sent_is_a_failure() -> None:
    [record] = records(ztasks("tasks.py:unpicklable", "x").out)
    assert record["error"]["type"] == "ztasks.ResultNotPicklable"


def test_file_names_that_are_no_utf8(folder: Path) -> None:
    name = b"caf\xe9.txt"
    (folder / os.fsdecode(name)).touch()
    [result] = results(ztasks("tasks.py:echo", "--glob", "*.txt"))
    assert os.fsencode(result) == name


def test_the_output_file(folder: Path) -> None:
    assert ztasks("tasks.py:echo", "a", "-o", "out").code == 0
    assert ztasks("tasks.py:echo", "b", "-o", "out").code == 2
    assert [record["input"] for record in records((folder / "out").read_text())] == ["a"]
    assert ztasks("tasks.py:echo", "b", "-o", "out", "--overwrite").code == 0
    assert [record["input"] for record in records((folder / "out").read_text())] == ["b"]
    assert results(ztasks("tasks.py:echo", "c", "-o", "-")) == ["c"]


def test_a_full_disk_is_told() -> None:
    done = ztasks("tasks.py:echo", "a", "b", "-o", "/dev/full")
    assert done.code == 3
    assert "writing the output failed" in done.err
    assert "No space left on device" in done.err
    assert "Traceback" not in done.err


def test_a_closed_pipe_is_quiet() -> None:
    with running("-m", "ztasks", "run", "tasks.py:echo", "--lines", "-", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write("a\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["result"] == "a"
        crew = workers(process.pid)
        assert crew
        process.stdout.close()
        process.stdin.write("b\n")
        process.stdin.flush()  # and stays open: what ends the run is that nobody reads its output
        assert process.wait(DEADLINE) == 141
        assert set(process.stderr.read().splitlines()) == {"the module prints this"}
        wait_gone(crew)


def test_head() -> None:
    command = f"yes | {sys.executable} -m ztasks run tasks.py:echo --lines - -q | head -n 3"
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, env=environment(), timeout=30, check=True
    )
    assert [record["result"] for record in records(done.stdout)] == ["y"] * 3
    assert set(done.stderr.splitlines()) == {"the module prints this"}


def test_without_stdout() -> None:
    run = f"{sys.executable} -m ztasks run tasks.py:talk a"
    command = f"{run} >&- 2>err; echo $?; {run} -o out >&-"
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, env=environment(), timeout=30, check=True
    )
    assert done.stdout == "2\n"
    assert "stdout is closed: give -o FILE" in Path("err").read_text()
    assert [record["result"] for record in records(Path("out").read_text())] == ["a"]


# --- options ---


@pytest.mark.parametrize(("workers", "expected"), [("1", {1}), ("3", {1, 2, 3}), ("1%", {1})])
def test_number_of_workers(workers: str, expected: set[int]) -> None:
    done = ztasks("tasks.py:pid", *map(str, range(12)), "-j", workers)
    assert len(set(results(done))) in expected
    assert f"; {max(expected)} worker" in done.err


def test_retries_of_a_plain_function(folder: Path) -> None:
    done = ztasks("tasks.py:fail_twice", "a", "--retries", "1")
    [record] = records(done.out)
    assert (done.code, record["attempts"], record["error"]["message"]) == (1, 2, "not yet")
    (folder / "tries-b").write_text("x")
    [record] = records(ztasks("tasks.py:fail_twice", "b", "--retries", "2").out)
    assert (record["attempts"], record["result"]) == (2, "b")


def test_the_command_line_wins_over_the_decorator(folder: Path) -> None:
    (folder / "decorated.py").write_text(DECORATED)
    [record] = records(ztasks("decorated.py:count", "a").out)
    assert (record["attempts"], record["ok"]) == (2, False)
    [record] = records(ztasks("decorated.py:count", "b", "--retries", "0").out)
    assert (record["attempts"], record["ok"]) == (1, False)
    [record] = records(ztasks("decorated.py:count", "c", "--retries", "4").out)
    assert (record["attempts"], record["result"]) == (3, [3, 5])


def test_a_job_that_kills_its_worker_is_lost_and_the_others_go_on(folder: Path) -> None:
    (folder / "mixed.py").write_text(TASKS + "\ndef some(x):\n    return die(x) if x == '2' else x\n")
    done = ztasks("mixed.py:some", "1", "2", "3", "-k")
    first, second, third = records(done.out)
    assert done.code == 1
    assert (first["result"], third["result"]) == ("1", "3")
    assert second["status"] == "lost"
    assert second["error"]["type"] == "ztasks.PoisonJob"


def test_quiet() -> None:
    done = ztasks("tasks.py:talk", "1", "--quiet")
    assert "job 1 prints" in done.err
    assert "ztasks:" not in done.err
    done = ztasks("tasks.py:talk", "1", "--no-progress")
    assert "ztasks: 1 job: 1 ok" in done.err


# --- progress ---


def test_a_plain_line_now_and_then() -> None:
    with running("-m", "ztasks", "run", "tasks.py:wait", "a", "b", "-j1") as process:
        assert process.stderr is not None
        lines = iter(process.stderr)
        line = next(line for line in lines if line.startswith("ztasks: "))
        assert line == "ztasks: 0/2 done (0%), 1/1 workers busy\n"
        Path("go").touch()
        assert process.wait(DEADLINE) == 0


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*arguments: str, **how: Any) -> Terminal:
        opened.append(Terminal(*arguments, **how))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def test_a_bar_on_a_terminal_with_output_above_it(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("tasks.py:talk", "a", "b", out="out")
    assert screen.finish() == 0
    assert "workers busy" in screen.text or "starting" in screen.text
    assert "━" in screen.text
    assert "job a prints\r\n" in screen.text
    assert "2 jobs: 2 ok" in screen.text
    assert screen.text.rindex("━") < screen.text.rindex("2 jobs: 2 ok"), "the bar goes before the summary comes"
    assert screen.text.count("\x1b[?25l") <= screen.text.count("\x1b[?25h"), "the cursor is shown again"
    assert len(records(Path("out").read_text())) == 2


def test_a_bar_shows_how_far_it_is(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("tasks.py:wait_on_a", "b", "a", "-j1", out="out")
    screen.wait_for("1/2 done (50%)")
    screen.wait_for("1/1 workers busy")
    Path("go").touch()
    assert screen.finish() == 0


def test_records_on_the_terminal_stand_above_the_bar(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("tasks.py:wait_on_a", "b", "a", "-j1")
    screen.wait_for('"result":"b"')
    Path("go").touch()
    assert screen.finish() == 0
    lines = [line.rpartition("\x1b[2K")[2] for line in screen.text.split("\r\n")]
    shown = [json.loads(line)["result"] for line in lines if line.startswith('{"v":1')]
    assert shown == ["b", "a"]


@pytest.mark.parametrize("option", ["--quiet", "--no-progress"])
def test_no_bar(terminal: Callable[..., Terminal], option: str) -> None:
    screen = terminal("tasks.py:echo", "a", option, out="out")
    assert screen.finish() == 0
    assert "━" not in screen.text
    assert ("1 job: 1 ok" in screen.text) == (option == "--no-progress")


# --- Ctrl-C ---


def test_ctrl_c_drains_what_runs_and_says_so(terminal: Callable[..., Terminal]) -> None:
    names = [f"job{number}" for number in range(20)]
    screen = terminal("tasks.py:wait", *names, "-j2", out="out")
    wait_for(lambda: len(list(Path().glob("started-*"))) == 2, "two jobs to start")
    screen.press(b"\x03")
    screen.wait_for("interrupted: no new jobs; 2 running, the longest for ")
    screen.wait_for("press Ctrl-C again to kill them")
    Path("go").touch()
    assert screen.finish() == 130
    finished = {path.name.removeprefix("finished-") for path in Path().glob("finished-*")}
    found = records(Path("out").read_text())
    assert finished == {record["input"] for record in found if record["ok"]}
    assert len(finished) == 2, "what was queued is not run"
    assert {record["status"] for record in found} == {"ok", "cancelled"}
    assert f"{len(found)} jobs: 2 ok, {len(found) - 2} cancelled" in screen.text
    wait_gone(screen.crew)


def test_ctrl_c_twice_kills_at_once(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("tasks.py:children", "a", "b", "c", "-j1", out="out")
    wait_for(lambda: os.path.exists("started-a"), "the job to start")
    grandchild = int(Path("child").read_text())
    screen.press(b"\x03")
    screen.wait_for("press Ctrl-C again to kill them")
    begin = monotonic()
    screen.press(b"\x03")
    assert screen.finish() == 130
    assert monotonic() - begin < 1.0
    assert not os.path.exists("finished-a")
    found = statuses(records(Path("out").read_text()))
    assert "a" in found
    assert set(found.values()) == {"cancelled"}, "the job did not fail: it was killed"
    assert screen.text.count("\x1b[?25l") <= screen.text.count("\x1b[?25h"), "the cursor is shown again"
    assert screen.crew
    wait_gone({*screen.crew, grandchild})


def test_ctrl_c_while_a_pipe_is_silent() -> None:
    with running("-m", "ztasks", "run", "tasks.py:echo", "--lines", "-") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("a\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["result"] == "a"
        crew = workers(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 130
        wait_gone(crew)


def test_ctrl_c_while_nobody_takes_the_output() -> None:
    reading, writing = os.pipe()
    try:
        with running("-m", "ztasks", "run", "tasks.py:echo", "-q", "--lines", "-", stdout=writing) as process:
            assert process.stdin is not None
            assert process.stderr is not None
            source, messages = process.stdin.fileno(), iter(process.stderr)
            os.set_blocking(source, False)

            def full() -> bool:
                with contextlib.suppress(BlockingIOError):
                    os.write(source, b"x" * 999 + b"\n")
                return not select.select([], [writing], [], 0)[1]

            wait_for(full, "the pipe for the output to be full")
            crew = workers(process.pid)
            process.send_signal(signal.SIGINT)
            assert any(line.startswith("ztasks: interrupted: no new jobs") for line in messages)
            begin = monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(DEADLINE) == 130
            assert monotonic() - begin < 1.0
            wait_gone(crew)
    finally:
        os.close(reading)
        os.close(writing)
    assert ztasks("tasks.py:echo", "a").code == 0, "the next run sweeps away what an end by force may leave"


def test_ctrl_c_while_the_target_is_loaded(folder: Path) -> None:
    (folder / "slow.py").write_text(
        textwrap.dedent("""
            import time
            from pathlib import Path
            Path("loading").touch()
            time.sleep(60)
        """)
    )
    with running("-m", "ztasks", "run", "slow.py:f", "a") as process:
        wait_for(lambda: os.path.exists("loading"), "the target to be loaded")
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 130
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_a_killed_run_leaves_no_process() -> None:
    with running("-m", "ztasks", "run", "tasks.py:children", "a", "-j1") as process:
        wait_for(lambda: os.path.exists("started-a"), "the job to start")
        crew = {*workers(process.pid), int(Path("child").read_text())}
        assert len(crew) == 2
        process.kill()
        process.wait(DEADLINE)
        wait_gone(crew)
    assert ztasks("tasks.py:echo", "a").code == 0, "the next run sweeps away its private directory"
