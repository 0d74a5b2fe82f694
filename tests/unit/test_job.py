"""What is around a task in a worker: labels before each line, progress bars, and logs of their own."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ztasks.runs import job
from ztasks.runs.job import JobStream, RunCommand, RunJob, prepare


@pytest.fixture(autouse=True)
def _given_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`prepare` replaces what the process writes to, for good: that is undone here."""
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    yield
    for file in job._kept:
        os.close(file)
    job._kept.clear()
    job._streams.clear()
    job._running.clear()


class Reader:
    """What has been written to a stream that leads to a file."""

    def __init__(self, path: Path, *, labels: bool) -> None:
        self._path = path
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.stream = JobStream(self.file, labels=labels)

    @property
    def lines(self) -> list[str]:
        return self._path.read_text().splitlines(keepends=True)


@pytest.fixture
def labelled(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path / "labelled", labels=True)
    yield reader
    os.close(reader.file)


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path / "plain", labels=False)
    yield reader
    os.close(reader.file)


def during(stream: JobStream, write: Any, *args: Any, constants: frozenset[str] = frozenset(), **kwargs: Any) -> None:
    """Run a job that writes, as a worker does."""
    job._streams[:] = [stream]
    RunJob(lambda *_, **__: write(), None, constants)(0, *args, **kwargs)


# --- lines ---


def test_each_line_has_its_label(labelled: Reader) -> None:
    during(labelled.stream, lambda: labelled.stream.write("one\ntwo\n"), "a.py")
    assert labelled.lines == ["[a.py] one\n", "[a.py] two\n"]


def test_without_labels_lines_are_as_they_are(plain: Reader) -> None:
    during(plain.stream, lambda: plain.stream.write("one\ntwo"), "a.py")
    assert plain.lines == ["one\n", "two\n"]


def test_before_the_first_job_there_is_no_label(labelled: Reader) -> None:
    labelled.stream.write("imported\n")
    assert labelled.lines == ["imported\n"]


def test_a_line_in_pieces_is_written_once_it_is_whole(labelled: Reader) -> None:
    def write() -> None:
        print("one", end=" ", file=labelled.stream)
        print("two", end="", file=labelled.stream)
        labelled.stream.flush()
        assert labelled.lines == []
        print(file=labelled.stream)
        assert labelled.lines == ["[x] one two\n"]

    during(labelled.stream, write, "x")


def test_what_is_no_whole_line_is_written_at_the_end_of_its_job(labelled: Reader) -> None:
    during(labelled.stream, lambda: labelled.stream.write("one\nno end"), "first")
    assert labelled.lines == ["[first] one\n", "[first] no end\n"]
    during(labelled.stream, lambda: labelled.stream.write("two\n"), "second")
    assert labelled.lines[2:] == ["[second] two\n"]


def test_it_is_written_also_if_the_job_fails(labelled: Reader) -> None:
    def write() -> None:
        labelled.stream.write("almost")
        raise ValueError

    with pytest.raises(ValueError):
        during(labelled.stream, write, "x")
    assert labelled.lines == ["[x] almost\n"]


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["\r 10%", "\r 20%", "\r 30%", "\n"], " 30%\n"),
        (["10%\r", "20%\r", "30%\r"], "30%\n"),
        (["\r 10%\r 20%\r 30%\n"], " 30%\n"),
        (["10%\r20%\r30%"], "30%\n"),
        (["one\r\n", "two\r", "\n"], "one\ntwo\n"),
        (["10%\r20%\nnext\r\nlast"], "20%\nnext\nlast\n"),
    ],
)
def test_what_a_progress_bar_overwrites_is_not_shown(plain: Reader, pieces: list[str], shown: str) -> None:
    during(plain.stream, lambda: [plain.stream.write(piece) for piece in pieces])
    assert "".join(plain.lines) == shown


def test_a_progress_bar_does_not_fill_the_memory(plain: Reader) -> None:
    for number in range(1000):
        plain.stream.write(f"\r{number} {'x' * 80}")
    assert len(plain.stream._rest) < 200


def test_text_that_is_no_utf8_is_written(plain: Reader) -> None:
    during(plain.stream, lambda: plain.stream.write("caf\u00e9 \udce9\n"))
    assert plain.lines == ["caf\u00e9 \\udce9\n"]


def test_threads_of_a_job_do_not_mix_their_lines(labelled: Reader) -> None:
    def write() -> None:
        threads = [
            threading.Thread(target=lambda text=text * 20: [labelled.stream.write(f"{text}\n") for _ in range(200)])
            for text in "abcd"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    during(labelled.stream, write, "x")
    assert sorted(labelled.lines) == sorted(f"[x] {text * 20}\n" for text in "abcd" for _ in range(200))


def test_a_stream_is_what_scripts_expect_of_stdout(plain: Reader) -> None:
    stream: Any = plain.stream
    assert (stream.writable(), stream.readable(), stream.isatty(), stream.closed) == (True, False, False, False)
    assert (stream.encoding, stream.errors) == ("utf-8", "backslashreplace")
    assert stream.fileno() == plain.file
    stream.reconfigure(encoding="latin-1", line_buffering=True)
    assert stream.write("caf\u00e9\n") == 5
    stream.writelines(["a\n", "b\n"])
    stream.buffer.write(b"bytes\n")
    stream.buffer.flush()
    assert plain.lines == ["caf\u00e9\n", "a\n", "b\n", "bytes\n"]


# --- labels ---


@pytest.mark.parametrize(
    ("args", "kwargs", "label"),
    [
        (("a.py",), {}, "[a.py] "),
        ((), {}, "[''] "),
        ((3, None), {}, "[3 None] "),
        ((Path("a b/c"),), {}, "[a b/c] "),
        (({"a": 1},), {}, "[{'a': 1}] "),
        ((), {"name": "x", "n": 3}, "[name=x n=3] "),
        (("a",), {"deep": True, "currency": "EUR"}, "[a deep=True] "),
        (("a\nb\x1b[0m",), {}, r"[a\nb\x1b[0m] "),
        (("x" * 1000,), {}, f"[{'x' * 18}...{'x' * 18}] "),
    ],
)
def test_a_label_is_what_the_job_was_given(
    labelled: Reader, args: tuple[Any, ...], kwargs: dict[str, Any], label: str
) -> None:
    during(labelled.stream, lambda: labelled.stream.write("-\n"), *args, constants=frozenset({"currency"}), **kwargs)
    assert labelled.lines == [f"{label}-\n"]


class BrokenRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_an_argument_without_a_repr_does_not_fail_the_job(labelled: Reader) -> None:
    during(labelled.stream, lambda: labelled.stream.write("-\n"), BrokenRepr())
    assert labelled.lines == ["[<BrokenRepr>] -\n"]


# --- jobs ---


def test_a_job_is_given_its_arguments_and_not_its_place() -> None:
    run = RunJob(lambda *args, **kwargs: (args, kwargs), None, frozenset())
    assert run(7, 1, "b", tag=3) == ((1, "b"), {"tag": 3})


def test_a_command_is_given_its_number() -> None:
    run = RunCommand(lambda number, args, kwargs: (number, args, kwargs), None, frozenset())
    assert run(7, 1, b=2) == (8, (1,), {"b": 2})


def test_prepare_replaces_both_streams_and_then_takes_the_steps() -> None:
    steps = []
    prepare([(lambda: steps.append((sys.stdout, sys.stderr)), ()), (steps.append, ("second",))], labels=True)
    assert steps == [(sys.stdout, sys.stderr), "second"]
    assert [type(stream) for stream in (sys.stdout, sys.stderr)] == [JobStream, JobStream]
    assert [stream.fileno() for stream in (sys.stdout, sys.stderr)] == [1, 2]
    assert len(job._kept) == 2


def test_a_step_that_fails_is_told() -> None:
    with pytest.raises(ZeroDivisionError):
        prepare([(lambda: 1 / 0, ())], labels=True)


# --- logs ---

LOGS = """
import os, subprocess, sys
from ztasks.runs.job import RunJob, Tag, prepare

logs = sys.argv[1]
prepare((), labels=False)
before = len(os.listdir("/proc/self/fd"))

def job(what):
    if what == "loud":
        print("printed")
        os.write(1, b"native\\n")
        subprocess.run(["echo", "child"], check=True)
        print("to stderr", file=sys.stderr)
        print("no end", end="")
    if what == "fails":
        print("about to fail")
        1 / 0
    return what

run = RunJob(job, logs, frozenset())
assert run(Tag(0, "loud.log"), "loud") == "loud"
assert run(Tag(1, "silent.log"), "silent") == "silent"
try:
    run(Tag(2, "fails.log"), "fails")
except ZeroDivisionError:
    pass
else:
    raise AssertionError("it did not fail")
assert len(os.listdir("/proc/self/fd")) == before
print("between jobs")
sys.stdout.end_line()
os.write(2, b"native between jobs\\n")
"""


def test_with_logs_all_that_a_job_writes_goes_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "loud.log").write_text("of an earlier run\n")
    done = subprocess.run(
        [sys.executable, "-c", LOGS, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "between jobs\n", "native between jobs\n")
    assert (tmp_path / "loud.log").read_text() == "printed\nnative\nchild\nto stderr\nno end\n"
    assert (tmp_path / "fails.log").read_text() == "about to fail\n"
    assert sorted(os.listdir(tmp_path)) == ["fails.log", "loud.log"], "what wrote nothing has no log"
