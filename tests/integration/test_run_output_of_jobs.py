"""What becomes of all that jobs write: never a byte among the records, on stderr with the input in front, or in logs.

Jobs tell the test where they are through files: a test waits for `started-*` and lets jobs go on by making `go`.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from run_support import Terminal, records, results, ztasks
from support import DEADLINE, Finished, environment, running, wait_for

TASKS = """
import ctypes, logging, os, subprocess, sys, threading, time, warnings
from pathlib import Path
from ztasks import current_job, task

print("the module prints this")

def all_ways(x):
    print("printed by", x)
    print("complaint of", x, file=sys.stderr)
    sys.stdout.buffer.write(f"bytes of {x}\\n".encode())
    sys.stderr.buffer.write(f"error bytes of {x}\\n".encode())
    os.write(1, f"descriptor 1 of {x}\\n".encode())
    os.write(2, f"descriptor 2 of {x}\\n".encode())
    subprocess.run(["sh", "-c", f"echo child of {x}; echo angry child of {x} >&2"])
    os.system(f"echo system of {x}")
    ctypes.CDLL(None).puts(f"native of {x}".encode())
    print("rest of", x, end="")
    return x

def odd_ways(x):
    sys.stdout.write("in ")
    sys.stdout.write("parts\\nand ")
    sys.stdout.flush()
    print("a rest", end="")
    print("", file=sys.stderr)
    sys.stderr.writelines(["one\\n", "two\\n", "caf\\u00e9 \\udcff\\n"])
    thread = threading.Thread(target=print, args=("from a thread",))
    thread.start()
    thread.join()
    logging.warning("logged")
    sys.__stderr__.write("original\\n")
    sys.stdout.reconfigure(line_buffering=True)
    return [sys.stdout.isatty(), sys.stdout.encoding, sys.stdout.writable()]

def bar(x):
    for step in range(101):
        sys.stderr.write(f"\\r{step}% of {x}")
        sys.stderr.flush()
    if x == "a":
        sys.stderr.write("\\n")
    print("windows\\r")
    print("50%\\r60%\\rdone")
    return x

def talk(*args, **kwargs):
    print("hello")

def many_lines(x):
    for number in range(2000):
        print(x * 100, number)

def flood(x):
    sys.stdout.write("y" * 999_999 + "\\n")
    for _ in range(50_000):
        print(x)

def sometimes(x):
    if x == "loud":
        print("something")

@task(backoff=0.01)
def twice(x):
    print("try", current_job().attempt)
    os.write(2, b"by descriptor\\n")
    if current_job().attempt < 2:
        raise OSError("not yet")

def crash(x):
    print("last words", flush=True)
    ctypes.CDLL(None).puts(b"of C")
    os.write(1, b"of descriptor 1\\n")
    os._exit(3)

@task(crash_retries=0)
def crash_once(x):
    crash(x)

def sleep(x):
    print("going to sleep")
    time.sleep(3600)

def wait(x):
    print(f"before {x}")
    os.write(2, f"bytes before {x}\\n".encode())
    Path(f"started-{x}").touch()
    while not os.path.exists("go"):
        time.sleep(0.005)
    print(f"after {x}")
    return x
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tasks.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines_of(done: Finished, prefix: str = "") -> list[str]:
    """The lines on stderr that begin so, without that."""
    return [line.removeprefix(prefix) for line in done.err.split("\n") if line.startswith(prefix)]


def log_of(record: dict[str, Any]) -> str:
    return Path(record["log"]).read_text()


def everything(x: str) -> dict[str, bool]:
    """All lines of `all_ways`, and whether they are Python's."""
    return {
        **dict.fromkeys((f"printed by {x}", f"complaint of {x}", f"rest of {x}"), True),
        **dict.fromkeys(
            (f"bytes of {x}", f"error bytes of {x}", f"descriptor 1 of {x}", f"descriptor 2 of {x}"), False
        ),
        **dict.fromkeys((f"child of {x}", f"angry child of {x}", f"system of {x}", f"native of {x}"), False),
    }


# --- stdout is for records ---


def test_stdout_is_pure_json_whatever_jobs_do() -> None:
    done = ztasks("tasks.py:all_ways", "a", "b", "-k")
    assert results(done) == ["a", "b"]
    lines = done.err.splitlines()
    for x in ("a", "b"):
        for line, python in everything(x).items():
            assert lines.count(f"[{x}] {line}" if python else line) == 1, line
    assert "the module prints this" in lines, "what is printed outside of jobs belongs to none"


def test_a_pipe_behind_it_reads_records_only() -> None:
    Path("reader.py").write_text("import json, sys; print(sum(json.loads(line)['ok'] for line in sys.stdin))")
    command = f"{sys.executable} -m ztasks run tasks.py:all_ways $(seq 40) 2>err | {sys.executable} reader.py"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment(), timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "40\n", "")
    assert Path("err").read_text().count("native of ") == 40


# --- what is in front ---


def test_lines_and_parts_of_lines() -> None:
    done = ztasks("tasks.py:odd_ways", "x", "-q")
    assert results(done) == [[False, "utf-8", True]]
    assert lines_of(done, "[x] ") == [
        *("in parts", "", "one", "two", "caf\u00e9 \\udcff", "and a restfrom a thread", "WARNING:root:logged")
    ]
    assert "original\n" in done.err


def test_a_progress_bar_of_a_job_is_one_line() -> None:
    done = ztasks("tasks.py:bar", "a", "b", "-k", "-j1", "-q")
    assert results(done) == ["a", "b"]
    assert lines_of(done, "[a] ") == ["100% of a", "windows", "done"]
    assert sorted(lines_of(done, "[b] ")) == ["100% of b", "done", "windows"]
    assert "\r" not in done.err


def test_the_input_is_what_is_in_front(folder: Path) -> None:
    (folder / "calls").write_text('{"name": "n", "size": 2}\n["x", 2.5, null]\n[]\n{"path": "' + "p" * 100 + '"}\n')
    done = ztasks("tasks.py:talk", "two words", "", "a\nb\t\x1b[31m", "--jsonl", "calls", "--set", "c=constant", "-q")
    assert done.code == 0
    heads = {line.removesuffix(" hello") for line in done.err.splitlines() if line.endswith(" hello")}
    assert len(heads) == 6
    assert {"[two words]", "['']", r"[a\nb\t\x1b[31m]", "[name=n size=2]", "[x 2.5 None]"} <= heads
    [long] = [head for head in heads if head.startswith("[path=")]
    assert 30 < len(long) <= 42
    assert "..." in long
    assert "constant" not in done.err


def test_lines_of_jobs_that_run_at_once_are_not_mixed() -> None:
    done = ztasks("tasks.py:many_lines", *"abcd", "-j4", "-q")
    assert done.code == 0
    for x in "abcd":
        assert lines_of(done, f"[{x}] ") == [f"{x * 100} {number}" for number in range(2000)]


def test_a_flood_arrives_whole() -> None:
    done = ztasks("tasks.py:flood", "x", "-q")
    assert done.code == 0
    assert lines_of(done, "[x] ") == ["y" * 999_999, *["x"] * 50_000]


def test_what_a_crash_leaves_behind() -> None:
    done = ztasks("tasks.py:crash_once", "x", "-q")
    [record] = records(done.out)
    assert record["status"] == "lost"
    assert lines_of(done, "[x] ")[:1] == ["last words"]
    assert "of descriptor 1\n" in done.err


def test_nobody_reads_stderr() -> None:
    with running("-m", "ztasks", "run", "tasks.py:many_lines", *"abcd", "-k") as process:
        assert process.stderr is not None
        assert process.stdout is not None
        process.stderr.close()
        assert [record["ok"] for record in records(process.stdout.read())] == [True] * 4
        assert process.wait(DEADLINE) == 0


# --- logs ---


def test_a_log_holds_all_that_its_job_wrote_and_nothing_else() -> None:
    done = ztasks("tasks.py:all_ways", "a", "b", "b", "--logs-dir", "logs/of/jobs", "-k", "-j2")
    found = records(done.out)
    assert done.code == 0
    for record in found:
        assert record["log"] == f"logs/of/jobs/{record['key']}.log"
        assert sorted(log_of(record).splitlines()) == sorted(everything(record["input"])), "and nothing is in front"
    assert len({record["log"] for record in found}) == 3
    assert sorted(os.listdir("logs/of/jobs")) == sorted(os.path.basename(record["log"]) for record in found)
    assert not {line for line in done.err.splitlines() if line.endswith((" a", " b"))}
    assert "the module prints this" in done.err


def test_a_silent_job_has_no_log(folder: Path) -> None:
    (folder / "logs").mkdir()
    (folder / "logs" / "mine").write_text("stays")
    done = ztasks("tasks.py:sometimes", "loud", "quiet", "--logs-dir", "logs", "-k")
    loud, quiet = records(done.out)
    assert log_of(loud) == "something\n"
    assert "log" not in quiet
    assert sorted(os.listdir("logs")) == sorted([os.path.basename(loud["log"]), "mine"])
    assert (folder / "logs" / "mine").read_text() == "stays"


def test_tries_are_appended_and_a_new_run_begins_anew() -> None:
    for _ in range(2):
        [record] = records(ztasks("tasks.py:twice", "x", "--logs-dir", "logs", "--retries", "2", "-q").out)
        assert (record["attempts"], log_of(record)) == (2, "try 1\nby descriptor\ntry 2\nby descriptor\n")


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["tasks.py:crash", "x"], "lost", "last words\nof C\nof descriptor 1\n" * 3),
        (["tasks.py:sleep", "x", "--timeout", "300ms"], "timeout", "going to sleep\n"),
        (["--command", "echo {}; echo {} >&2; exit 5", "--shell", "x"], "failed", "x\n"),
    ],
)
def test_a_job_that_fails_keeps_its_log(arguments: list[str], status: str, expected: str) -> None:
    done = ztasks(*arguments, "--logs-dir", "logs", "-q")
    [record] = records(done.out)
    assert (done.code, record["status"], log_of(record)) == (1, status, expected)


def test_a_log_can_be_read_while_its_job_runs() -> None:
    with running("-m", "ztasks", "run", "tasks.py:wait", "x", "--logs-dir", "logs", "-q") as process:
        assert process.stdout is not None
        wait_for(lambda: os.path.exists("started-x"), "the job to start")
        [name] = os.listdir("logs")
        assert Path("logs", name).read_text() == "before x\nbytes before x\n"
        Path("go").touch()
        record = json.loads(process.stdout.read())
        assert process.wait(DEADLINE) == 0
    assert log_of(record) == "before x\nbytes before x\nafter x\n"


# --- on a terminal ---


def screen_of(text: str) -> list[str]:
    """The rows of a terminal that has been sent this, as far as our bar needs one."""
    rows, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            rows += [""] * (row + 1 - len(rows))
        elif part == "\x1b[2K":
            rows[row] = ""
        elif part == "\x1b[K":
            rows[row] = rows[row][:column]
        elif part.startswith("\x1b["):
            row -= int(part[2:-1] or 1) if part.endswith("A") else 0
        else:
            rows[row] = rows[row][:column].ljust(column) + part + rows[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in rows]


def test_the_bar_stays_below_what_jobs_write() -> None:
    with Terminal("tasks.py:wait", "a", "b", "-j2", out="out") as screen:
        wait_for(lambda: {"started-a", "started-b"} <= set(os.listdir()), "both jobs to start")
        lines = {"[a] before a", "[b] before b", "bytes before a", "bytes before b"}

        def drawn() -> list[str]:
            rows = [row for row in screen_of(screen.text) if row]
            return rows if rows and lines <= set(rows) and "workers busy" in rows[-1] else []

        rows = wait_for(drawn, "what both jobs wrote, above the bar")
        assert sum("workers busy" in row or "starting" in row for row in rows) == 1
        Path("go").touch()
        assert screen.finish() == 0
        rows = [row for row in screen_of(screen.text) if row]
    assert {*lines, "[a] after a", "[b] after b"} <= set(rows)
    assert not any("workers busy" in row or "━" in row for row in rows), "the bar is taken away"
    assert "ztasks: 2 jobs: 2 ok" in rows


def test_records_and_output_on_one_terminal() -> None:
    with Terminal("tasks.py:all_ways", *map(str, range(20)), "-q") as screen:
        assert screen.finish() == 0
        rows = screen_of(screen.text)
    shown = [json.loads(row)["result"] for row in rows if row.startswith('{"v":1')]
    assert sorted(shown, key=int) == [str(number) for number in range(20)]
    assert {f"[{number}] printed by {number}" for number in range(20)} <= set(rows)
    assert {f"native of {number}" for number in range(20)} <= set(rows)
