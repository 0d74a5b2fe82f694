"""The output file of `ztasks run -o`: the journal that a later run goes on with, whatever has happened to it.

Jobs note each execution in the file `ran`, so that a test can tell what was run from what was only recorded.
"""

import contextlib
import ctypes
import json
import os
import resource
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, Finished, run_python, running, wait_for, workers

import ztasks

TASKS = """
import dataclasses, datetime, os, time
from pathlib import Path

def note(x):
    with open("ran", "a") as file:
        file.write(f"{x}\\n")

def echo(x, n=0):
    note(x)
    return x

def other(x, n=0):
    note(x)
    return x

def odd(x):
    '''Fail for odd numbers until somebody has mended something.'''
    note(x)
    if int(x) % 2 and not os.path.exists("mended"):
        raise ValueError(f"{x} is odd")
    return int(x)

def long(x):
    note(x)
    return "x" * 1000

def wait(x):
    note(x)
    Path(f"started-{x}").touch()
    while not os.path.exists("go"):
        time.sleep(0.005)
    return x

def thing(x):
    note(x)
    return complex(x) if "j" in x else x

@dataclasses.dataclass
class Point:
    x: int
    when: datetime.date

def awkward(x):
    import numpy
    return {
        "nan": [1.5, float("nan"), float("-inf")],
        "scalar": numpy.float32(0.5),
        "array": numpy.arange(3),
        "path": Path("a") / "b",
        "point": Point(1, datetime.date(2024, 2, 29)),
        "when": datetime.datetime(2024, 2, 29, 1, 2, 3),
    }
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tasks.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(task: str, *arguments: str, output: str = "out", **how: Any) -> Finished:
    """Run a task with one worker; its records go to a file."""
    return run_python("-m", "ztasks", "run", f"tasks.py:{task}", "-o", output, "-j1", *arguments, **how)


def ran() -> list[str]:
    """Return what was executed since this was last called."""
    path = Path("ran")
    found = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def lines(path: str = "out") -> list[bytes]:
    """Return the lines of a file; the last must be whole."""
    data = Path(path).read_bytes()
    assert data == b"" or data.endswith(b"\n")
    return data.splitlines()


def records(path: str = "out") -> list[dict[str, Any]]:
    """Parse what must be JSON Lines and nothing else."""
    return [json.loads(line) for line in lines(path)]


def final(path: str = "out") -> list[tuple[Any, str]]:
    """Return each input with the status of its final record."""
    return [(record.input, record.status) for record in ztasks.read_records(path)]


def write_lines(*inputs: str) -> list[str]:
    """Write an input file; return the options for it."""
    Path("in").write_text("".join(f"{line}\n" for line in inputs))
    return ["--lines", "in"]


# --- a file that holds something ---


def test_a_file_that_holds_something_is_refused_and_the_cures_are_told() -> None:
    Path("out").write_text("not empty")
    done = run("echo", "a")
    assert (done.code, done.out) == (2, "")
    assert "out exists and is not empty" in done.err
    for cure in ("--resume goes on", "--append adds", "--overwrite empties"):
        assert cure in done.err
    assert Path("out").read_text() == "not empty"
    assert ran() == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--overwrite", "-j", "999999"], 2),
        (["--overwrite", "--pickle", "no/such/file"], 2),
        (["--overwrite", "--logs-dir", "tasks.py"], 2),
        (["--overwrite", "--resume"], 2),
        (["--skip-failed"], 2),
        (["--overwrite", "--dry-run"], 0),
        (["--resume", "--dry-run"], 0),
    ],
)
@pytest.mark.parametrize("held", ['{"torn', None])
def test_what_runs_nothing_leaves_the_file_as_it_was(arguments: list[str], code: int, held: str | None) -> None:
    if held is not None:
        Path("out").write_text(held)
    done = run("echo", "a", *arguments)
    assert done.code == code, done.err
    assert (Path("out").read_text() if os.path.exists("out") else None) == held
    assert ran() == []


def test_append_and_overwrite() -> None:
    assert run("odd", "1", "2").code == 1
    before = lines()
    Path("mended").touch()
    assert run("odd", "1", "2", "--append").code == 0
    assert lines()[:2] == before
    assert [record["ok"] for record in records()] == [False, True, True, True]
    assert final() == [("1", "ok"), ("2", "ok")], "the last record of an input counts"
    assert ran() == ["1", "2", "1", "2"]
    assert run("odd", "3", "--overwrite").code == 0
    assert final() == [("3", "ok")]
    assert len(lines()) == 1


def test_append_cuts_off_a_torn_record_and_nothing_else() -> None:
    Path("out").write_text('somebody\'s own line\n{"v":1,"index":0,"ke')
    assert "its 20 bytes were cut off" in run("echo", "a", "--append").err
    assert lines()[0] == b"somebody's own line"
    assert len(lines()) == 2
    Path("out").write_text("a line without an end")
    assert "cut" not in run("echo", "a", "--append").err
    assert lines()[0] == b"a line without an end"
    assert [status for _, status in final()] == ["ok"]


# --- going on ---


def test_resume_does_what_has_no_record_of_a_success() -> None:
    given = write_lines(*"12345")
    assert run("odd", *given, "--limit", "4").code == 1
    assert ran() == list("1234")
    done = run("odd", *given, "--resume", "--skip-failed")
    assert done.code == 1
    assert "out has records of 4 inputs (2 ok, 2 failed): what is ok or has failed there is skipped" in done.err
    assert "1 job: 1 failed, 4 skipped" in done.err
    assert ran() == ["5"]
    Path("mended").touch()
    done = run("odd", *given, "--resume")
    assert done.code == 0
    assert "out has records of 5 inputs (2 ok, 3 failed): what is ok there is skipped" in done.err
    assert "3 jobs: 3 ok, 2 skipped" in done.err
    assert ran() == list("135")
    assert sorted(final()) == [(number, "ok") for number in "12345"]
    assert len(lines()) == 8, "records of failures stay"
    done = run("odd", *given, "--resume", "-q")
    assert (done.code, done.out, done.err, ran()) == (0, "", "", [])


def test_resume_of_no_file_and_of_an_empty_one() -> None:
    assert run("echo", "a", "--resume").code == 0
    Path("empty").touch()
    assert run("echo", "a", "--resume", output="empty").code == 0
    assert final() == final("empty") == [("a", "ok")]
    assert run("echo", "a", output="/dev/null").code == 0


def test_a_changed_input() -> None:
    assert run("echo", *write_lines("a", "b", "a", "c", "d")).code == 0
    keys = [record["key"] for record in records()]
    assert keys[2] == f"{keys[0]}-2", "equal inputs are jobs of their own"
    assert len(set(keys)) == 5
    ran()
    done = run("echo", *write_lines("d", "new", "a", "c", "a", "a"), "--resume")
    assert "2 jobs: 2 ok, 4 skipped" in done.err
    assert ran() == ["new", "a"], "b was taken out, there is a third a"
    assert records()[-1]["key"] == f"{keys[0]}-3"
    assert [record["index"] for record in records()[5:]] == [1, 5], "the index is the place in the input of that run"
    assert sorted(final()) == [(each, "ok") for each in ("a", "a", "a", "b", "c", "d", "new")]


def test_equal_inputs_have_equal_keys_wherever_they_come_from(folder: Path) -> None:
    (folder / "jsonl").write_text('["a"]\n"a"\n{"x": "a", "n": 1}\n')
    assert run("echo", "--jsonl", "jsonl").code == 0
    assert ran() == ["a"] * 3
    (folder / "jsonl").write_text('{ "n": 1, "x": "a" }\n')
    (folder / "cases.py").write_text('cases = ["a", ("a",), {"n": 1, "x": "a"}, "b"]\n')
    arguments = ("--jsonl", "jsonl", "--from", "cases.py:cases", "--resume")
    done = run("echo", *arguments)
    assert "2 jobs: 2 ok, 3 skipped" in done.err, "the order of names in an object does not matter"
    assert ran() == ["a", "b"], "the second of the equal objects"


def test_target_and_constants_are_part_of_the_key() -> None:
    nothing = "nothing was skipped: no record in the output is of this task, these constants and one of the inputs"
    for task, *constants in (["echo"], ["echo", "--set", "n=1"], ["echo", "--set", "n=2"], ["other"]):
        for again in (False, True):
            done = run(task, "a", *constants, "--resume")
            assert done.code == 0
            assert ran() == ([] if again else ["a"])
            assert (nothing in done.err) == (task != "echo" or bool(constants)) * (not again)
    assert final() == [("a", "ok")] * 4
    assert len({record["key"] for record in records()}) == 4


def test_a_file_edited_by_hand() -> None:
    inputs = list("abcdefgh")
    assert run("echo", *inputs).code == 0
    ran()
    found = lines()
    edited = [
        b"# my notes",
        found[0],
        found[1][:-1],  # b: a broken line
        b"",
        found[3],  # c: a deleted line
        json.dumps(json.loads(found[4]), indent=None).encode(),
        found[5].replace(b'"status":"ok"', b'"status":"fine"'),
        b"  ",
        b'{"key": 5}',
        b"\xff\xfe",
        found[6],
        found[7],
    ]
    Path("out").write_bytes(b"\n".join(edited))
    done = run("echo", *inputs, "--resume")
    assert done.code == 0
    assert "5 of the lines in out are no records; they stay as they are" in done.err
    assert "3 jobs: 3 ok, 5 skipped" in done.err
    assert "torn" not in done.err
    assert ran() == ["b", "c", "f"]
    assert lines()[: len(edited)] == edited, "only the last end of line was added"
    Path("out").write_bytes(Path("out").read_bytes().replace(b"\n", b"\r\n"))
    assert "8 skipped" in run("echo", *inputs, "--resume").err, "as an editor of another system writes it"


def test_a_torn_last_line() -> None:
    assert run("echo", "a", "b", "c").code == 0
    ran()
    whole = Path("out").read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for kept in (1, 5, 50, len(whole) - start - 2):
        Path("out").write_bytes(whole[: start + kept])
        done = run("echo", "a", "b", "c", "--resume")
        assert done.code == 0
        assert f"the last line of out was torn, as after a kill: its {kept} bytes were cut off" in done.err
        assert ran() == ["c"]
        assert [record["input"] for record in records()] == ["a", "b", "c"]
    Path("out").write_bytes(whole[:-1])
    done = run("echo", "a", "b", "c", "--resume")
    assert "torn" not in done.err, "all of the record is there"
    assert (ran(), Path("out").read_bytes()) == ([], whole)


def test_a_changed_source_warns(folder: Path) -> None:
    assert run("odd", "1", "2").code == 1
    (folder / "tasks.py").write_text(f"{TASKS}\n# changed\n")
    done = run("odd", "1", "2", "--resume", "-q")
    assert done.code == 1
    assert "warning: the task's source has changed since results that are skipped were made. They are kept" in done.err
    assert "--overwrite" in done.err
    assert ran() == ["1", "2", "1"]
    (folder / "tasks.py").write_text(TASKS)
    assert "warning" not in run("odd", "1", "2", "--resume").err


def test_ordered_with_resume_keeps_the_order() -> None:
    inputs = [str(number) for number in range(60)]
    assert run("echo", *inputs).code == 0
    gone = set(range(0, 60, 7)) | {1, 2, 3, 58}
    Path("out").write_bytes(b"".join(line + b"\n" for place, line in enumerate(lines()) if place not in gone))
    kept = len(lines())
    assert run("echo", *inputs, "--resume", "-k", "-j2").code == 0
    assert [record["index"] for record in records()[kept:]] == sorted(gone)


# --- two runs ---


def test_two_runs_on_one_file() -> None:
    arguments = ("-m", "ztasks", "run", "tasks.py:wait", "a", "b", "-j1", "-o", "out")
    with running(*arguments) as process:
        wait_for(lambda: os.path.exists("started-a"), "the job to start")
        for mode in ((), ("--resume",), ("--append",), ("--overwrite",)):
            done = run("echo", "c", *mode)
            assert done.code == 2
            assert "out is being written by another run" in done.err
        assert os.path.exists("out")
        Path("go").touch()
        assert process.wait(DEADLINE) == 0
    assert ran() == ["a", "b"]
    assert final() == [("a", "ok"), ("b", "ok")]
    assert run("wait", "a", "b", "c", "--resume").code == 0
    assert ran() == ["c"]


# --- an output that cannot be written ---


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Callable[[], None]]:
    """Mount a disk of 300 KiB; yield what makes room on it."""
    path.mkdir()
    program = shutil.which("mount")

    def make_room() -> None:
        subprocess.run([str(program), "-o", "remount,size=64m", str(path)], check=True, timeout=DEADLINE)

    how = ["-t", "tmpfs", "-o", "size=300k", "ztasks-test", str(path)]
    if program is None or subprocess.run([program, *how], capture_output=True, timeout=DEADLINE).returncode:
        pytest.skip("a disk cannot be mounted here")
    try:
        yield make_room
    finally:
        subprocess.run(["umount", str(path)], check=True, timeout=DEADLINE)


def check_goes_on_after_a_full_disk(full: Finished, go_on: Callable[[], Finished], path: str, count: int) -> None:
    assert full.code == 3, full.err
    assert "writing the output failed: " in full.err
    assert "make room, and go on with --resume" in full.err
    done = [record["input"] for record in records(path)]
    assert len(done) < count
    assert os.path.getsize(path) > 290_000, "what was written whole has stayed"
    assert set(done) <= set(ran())
    second = go_on()
    assert second.code == 0, second.err
    assert "torn" not in second.err
    again = ran()
    assert not set(done) & set(again)
    assert len(again) == count - len(done)
    assert sorted(final(path)) == sorted((str(number), "ok") for number in range(count))


def test_a_full_disk(tmp_path: Path) -> None:
    given = write_lines(*map(str, range(1000)))
    with small_disk(tmp_path / "disk") as make_room:
        full = run("long", *given, output="disk/out")

        def go_on() -> Finished:
            make_room()
            return run("long", *given, "--resume", output="disk/out")

        check_goes_on_after_a_full_disk(full, go_on, "disk/out", 1000)


def test_a_file_that_may_not_grow() -> None:
    """The same without a disk of our own."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    given = write_lines(*map(str, range(1000)))
    full = run("long", *given, preexec_fn=limit)
    check_goes_on_after_a_full_disk(full, lambda: run("long", *given, "--resume"), "out", 1000)


def test_the_device_that_is_always_full() -> None:
    done = run("echo", *map(str, range(5000)), output="/dev/full")
    assert done.code == 3
    assert "writing the output failed: [Errno 28] No space left on device" in done.err
    assert "--resume" not in done.err, "there is nothing to go on with"
    assert len(ran()) <= 5000


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_stdout_by_name(name: str) -> None:
    done = run("echo", "a", output=name)
    assert [done.code, json.loads(done.out)["result"]] == [0, "a"]
    done = run("echo", "a", "--resume", output=name)
    assert (done.code, done.out) == (2, "")
    assert "--resume needs the file: give -o FILE" in done.err


def test_a_pipe_with_a_name() -> None:
    os.mkfifo("out")
    got: list[str] = []

    def read(count: int) -> None:
        with open("out") as pipe:
            got.extend(pipe.readline() for _ in range(count))

    for inputs, count, code in ((("a", "b"), 3, 0), (tuple(map(str, range(20_000))), 1, 141)):
        reader = threading.Thread(target=read, args=(count,))
        reader.start()
        done = run("echo", *inputs)
        reader.join(DEADLINE)
        assert (done.code, done.out) == (code, "")
        assert ("Traceback" in done.err, "error" in done.err) == (False, False)
    assert [json.loads(line)["input"] for line in got if line] == ["a", "b", "0"]
    refused = run("echo", "a", "--resume")  # nobody reads it
    assert refused.code == 2
    assert "out is no regular file: what was written to it cannot be read again" in refused.err


def test_links(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    os.symlink("elsewhere/real", "out")
    assert run("echo", "a", "-j", "10001").code == 2
    assert os.path.islink("out")
    assert run("echo", "a").code == 0
    assert run("echo", "a", "b", "--resume").code == 0
    assert ran() == ["a", "b"]
    assert os.path.islink("out")
    assert final("elsewhere/real") == [("a", "ok"), ("b", "ok")]


def without_privileges() -> None:
    """Let permissions hold for root too: take what overrides them from the set that the next program may have."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE


def test_places_that_cannot_be_written(folder: Path) -> None:
    (folder / "here").mkdir()
    (folder / "here" / "old").write_text("")
    (folder / "here" / "old").chmod(0o444)
    (folder / "here").chmod(0o555)
    try:
        for output, said in {
            "here": "Is a directory",
            "here/new": "Permission denied",
            "here/old": "Permission denied",
            "no/such/folder": "No such file or directory",
            "tasks.py/out": "Not a directory",
            "x" * 300: "File name too long",
        }.items():
            done = run("echo", "a", "--resume", output=output, preexec_fn=without_privileges)
            assert (done.code, done.out) == (2, "")
            assert done.err == f"ztasks run: cannot write {output}: {said}. Nothing was run.\n"
    finally:
        (folder / "here").chmod(0o755)
    assert os.listdir("here") == ["old"]
    assert ran() == []


# --- what JSON cannot hold ---


def test_results_that_json_cannot_hold_stop_the_run_and_are_saved() -> None:
    given = write_lines("1", "2j", *map(str, range(3, 3000)), "9j")
    done = run("thing", *given)
    assert done.code == 3
    assert "JSON cannot hold all of the result of 2j, a complex: it is saved in out.unsaved.pickle" in done.err
    assert "Go on with --resume --pickle out.unsaved.pickle" in done.err
    assert "a result does not fit into JSON: inputs that had not been read have no record" in done.err
    first = ran()
    assert sorted(record["input"] for record in records() if record["attempts"]) == sorted(first)
    assert len(first) < 2999
    [saved] = [record for record in records() if "pickle" in record]
    assert (saved["input"], saved["status"], saved["pickle"]) == ("2j", "ok", "out.unsaved.pickle")
    assert saved["result"] == {"$repr": "2j", "$type": "complex"}
    assert list(ztasks.read_pickles("out.unsaved.pickle")) == [(saved["key"], 2j)]
    assert os.stat("out.unsaved.pickle").st_mode & 0o777 == 0o600

    with open("out.unsaved.pickle", "ab") as file:
        file.write(b"\x80\x05torn")
    done = run("thing", *given, "--resume", "--pickle", "out.unsaved.pickle")
    assert done.code == 0, done.err
    assert "1 result that JSON cannot hold is in out.unsaved.pickle" in done.err
    assert not {"2j", *(record["input"] for record in records() if record["ok"])} - {*first, *(second := ran())}
    assert not set(first) & set(second), "nothing is run again, what was saved included"
    assert sorted(input_ for input_, status in final() if status == "ok") == sorted(first + second)
    assert len(first + second) == 3000
    results = {record.key: record.input for record in ztasks.read_records("out") if record.pickle}
    assert {results[key]: value for key, value in ztasks.read_pickles("out.unsaved.pickle")} == {"2j": 2j, "9j": 9j}


def test_results_are_lost_nowhere_when_the_place_for_them_cannot_be_written(folder: Path) -> None:
    (folder / "here").mkdir()
    (folder / "here" / "out").touch()
    (folder / "here").chmod(0o555)
    try:
        done = run("thing", "2j", output="here/out", preexec_fn=without_privileges)
    finally:
        (folder / "here").chmod(0o755)
    assert done.code == 3
    [record] = records("here/out")
    assert record["ok"]
    saved = Path(record["pickle"])
    assert saved.parent == Path(tempfile.gettempdir())
    assert f"it is saved in {saved}" in done.err
    assert [value for _, value in ztasks.read_pickles(saved)] == [2j]
    saved.unlink()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tasks.py", "tasks.py holds something else than pickled results"),
        (".", "cannot write .: Is a directory"),
        ("no/such", "cannot write no/such: No such file or directory"),
    ],
)
def test_wrong_files_for_pickles(folder: Path, name: str, said: str) -> None:
    done = run("thing", "1", "--pickle", name)
    assert done.code == 2
    assert said in done.err
    assert (folder / "tasks.py").read_text() == TASKS
    assert not os.path.exists("out")


def test_what_is_written_otherwise_is_listed() -> None:
    done = run("awkward", "a")
    assert done.code == 0
    [record] = records()
    assert record["result"] == {
        "nan": [1.5, None, None],
        "scalar": 0.5,
        "array": [0, 1, 2],
        "path": "a/b",
        "point": {"x": 1, "when": "2024-02-29"},
        "when": "2024-02-29T01:02:03",
    }
    [listed] = [line for line in done.err.splitlines() if "JSON has no such values" in line]
    assert "written as what comes near: " in listed
    for kind in ("1 x NaN or infinity", "1 x numpy.float32", "1 x numpy.ndarray", "1 x pathlib.PosixPath"):
        assert kind in listed


# --- being ended ---


def test_what_sigterm_leaves_is_done_by_the_next_run() -> None:
    given = write_lines(*map(str, range(500)))
    with running("-m", "ztasks", "run", "tasks.py:wait", *given, "-o", "out", "-j2") as process:
        wait_for(lambda: len(list(Path().glob("started-*"))) == 2, "two jobs to start")
        process.terminate()
        assert process.stderr is not None
        assert any("terminated: no new jobs; 2 running" in line for line in process.stderr)
        Path("go").touch()
        assert process.wait(DEADLINE) == 143
    first = ran()
    assert sorted(record["input"] for record in records() if record["ok"]) == sorted(first)
    assert len(first) == 2
    done = run("wait", *given, "--resume")
    assert done.code == 0
    assert "498 jobs: 498 ok, 2 skipped" in done.err
    assert sorted(first + ran()) == sorted(map(str, range(500)))
    assert sorted(final()) == sorted((str(number), "ok") for number in range(500))


def test_a_kill_while_jobs_run() -> None:
    with running("-m", "ztasks", "run", "tasks.py:wait", "a", "b", "-o", "out", "-j2", "--resume") as process:
        wait_for(lambda: len(list(Path().glob("started-*"))) == 2, "two jobs to start")
        crew = workers(process.pid)
        process.kill()
        process.wait(DEADLINE)
        Path("go").touch()
        done = run("wait", "a", "b", "--resume")
    assert (done.code, sorted(final())) == (0, [("a", "ok"), ("b", "ok")])
    assert crew
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in crew), "the end of the workers")
