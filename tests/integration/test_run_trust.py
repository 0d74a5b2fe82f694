"""What must not go wrong in silence: results that are lost, jobs that do not run, work that stands still."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from run_support import records, results, ztasks
from support import DEADLINE, environment, running, wait_for

from ztasks import InvalidOption, read_pickles, read_records, run_batch

TASKS = """
import os, time
from pathlib import Path

def echo(x):
    return x

def show(*args):
    return repr(args)

def wait(x):
    Path(f"started-{x}").touch()
    while not os.path.exists("go"):
        time.sleep(0.005)
    return x

def straggle(x):
    if x == "0":
        wait(x)
    else:
        time.sleep(0.001)
        with open("ran", "a") as file:
            file.write("x")
    return x

def move(x):
    os.chdir("/")
    print("moved", x)

def equal_keys(x):
    return {1: "a", "1": "b"} if x == "same" else {1: "a", (2, 3): "b"}

def dots(x):
    for _ in range(300_000):
        print(".", end="")
    return x
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tasks.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("what", ["replaced", "removed"])
def test_an_output_that_is_replaced_while_it_is_written_stops_the_run(what: str) -> None:
    """As by an editor that saves: what is written to the old one is nobody's."""
    with running("-m", "ztasks", "run", "tasks.py:wait", "a", "b", "c", "-j1", "-o", "out") as process:
        wait_for(lambda: os.path.exists("started-a"), "the first job")
        os.unlink("out")
        if what == "replaced":
            Path("out").touch()
        Path("go").touch()
        _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 3
    assert "out was removed or replaced while the run was writing to it; the records since then are lost" in err
    assert ztasks("tasks.py:echo", "a", "-o", "out", "--resume").code == 0


def test_a_job_that_takes_long_holds_up_no_other_also_in_order(folder: Path) -> None:
    (folder / "lines").write_text("".join(f"{number}\n" for number in range(3000)))
    with running("-m", "ztasks", "run", "tasks.py:straggle", "-k", "-j2", "-q", "--lines", "lines", "-o", "out") as run:
        ran = folder / "ran"
        wait_for(lambda: ran.exists() and ran.stat().st_size == 2999, "all others to have run")
        assert Path("out").read_bytes() == b""
        Path("go").touch()
        assert run.wait(DEADLINE) == 0
    assert [record.index for record in read_records("out")] == list(range(3000))


def test_arithmetic_of_the_shell_is_no_way_in(folder: Path) -> None:
    done = ztasks("--shell", "--command", "echo $(({} + 1))", "$(touch pwned)")
    assert done.code == 2
    assert "is not certain" in done.err
    assert not (folder / "pwned").exists()


def test_a_job_that_changes_the_directory_moves_no_log() -> None:
    done = ztasks("tasks.py:move", "a", "b", "c", "-j1", "-k", "--logs-dir", "logs", "-q")
    assert done.code == 0, done.err
    for record in records(done.out):
        assert Path(record["log"]).read_text() == f"moved {record['input']}\n"


def test_a_directory_that_takes_no_logs_is_refused() -> None:
    done = ztasks("tasks.py:echo", "a", "--logs-dir", "/proc/self/fdinfo")
    assert (done.code, done.out) == (2, "")
    assert "cannot be used for logs" in done.err


def test_keys_that_become_the_same_lose_no_value() -> None:
    done = ztasks("tasks.py:equal_keys", "same", "-o", "out")
    assert done.code == 3
    [(_, value)] = read_pickles("out.unsaved.pickle")
    assert value == {1: "a", "1": "b"}
    done = ztasks("tasks.py:equal_keys", "other")
    assert results(done) == [{"1": "a", "(2, 3)": "b"}]
    assert "1 x dict with keys that are no text" in done.err


def test_a_place_that_is_taken_loses_no_result(folder: Path) -> None:
    (folder / "out.unsaved.pickle").write_text("something else")
    assert ztasks("tasks.py:equal_keys", "same", "-o", "out").code == 3
    [record] = read_records("out")
    assert (record.ok, record.pickle) == (True, "out.unsaved.pickle.2")
    assert [value for _, value in read_pickles("out.unsaved.pickle.2")] == [{1: "a", "1": "b"}]


def test_a_link_at_the_place_for_results_is_not_followed(folder: Path) -> None:
    os.symlink(folder / "elsewhere", "out.unsaved.pickle")
    assert ztasks("tasks.py:equal_keys", "same", "-o", "out").code == 3
    assert not (folder / "elsewhere").exists()
    assert [value for _, value in read_pickles("out.unsaved.pickle.2")] == [{1: "a", "1": "b"}]


def test_what_changes_the_call_changes_the_key(folder: Path) -> None:
    command = "echo $HOME {}"
    assert results(ztasks("--command", command, "a", "-o", "-")) == ["$HOME a\n"]
    ztasks("--command", command, "a", "-o", "out")
    ztasks("--command", command, "a", "-o", "out", "--resume", "--shell")
    assert [record.result == "$HOME a\n" for record in read_records("out")] == [True, False]
    (folder / "calls").write_text("[1, 2]\n")
    ztasks("tasks.py:show", "--jsonl", "calls", "-o", "whole")
    ztasks("tasks.py:show", "--jsonl", "calls", "-o", "whole", "--resume", "--no-unpack")
    assert [record.result for record in read_records("whole")] == ["(1, 2)", "([1, 2],)"]


def test_a_record_that_was_set_to_false_by_hand_is_made_anew() -> None:
    assert ztasks("tasks.py:echo", "a", "b", "-k", "-o", "out").code == 0
    first, second = Path("out").read_text().splitlines()
    Path("out").write_text(first.replace('"ok":true', '"ok":false') + f"\n{second}\n")
    assert "1 job: 1 ok, 1 skipped" in ztasks("tasks.py:echo", "a", "b", "-o", "out", "--resume").err


def test_a_summary_is_not_ok_when_nobody_has_read_the_records() -> None:
    import tasks  # type: ignore[import-not-found]

    os.mkfifo("fifo")
    reader = threading.Thread(target=lambda: open("fifo", "rb").close())
    reader.start()
    summary = run_batch(tasks.echo, range(100_000), output="fifo", workers=1)
    reader.join()
    assert not summary.ok
    assert summary.stopped == "the output cannot be written"


def test_printing_without_end_of_line_takes_no_longer_than_with() -> None:
    done = ztasks("tasks.py:dots", "a", "-q", seconds=20)
    assert results(done) == ["a"]
    assert done.err.count(".") == 300_000


def test_one_file_for_records_and_results_is_refused() -> None:
    done = ztasks("tasks.py:echo", "a", "-o", "out", "--pickle", "./out")
    assert (done.code, "cannot hold both" in done.err) == (2, True)
    with pytest.raises(InvalidOption, match=r"options=\{'retries': 3\}"):
        run_batch(len, ["a"], output=None, retries=3)


def test_a_key_that_is_no_text_is_shown_by_a_dry_run(folder: Path) -> None:
    (folder / "calls").write_text('{"\\ud800": 1}\n')
    done = subprocess.run(
        [sys.executable, "-m", "ztasks", "run", "tasks.py:echo", "--jsonl", "calls", "--dry-run"],
        capture_output=True,
        env=environment(),
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"echo(\\ud800=1)\n")
