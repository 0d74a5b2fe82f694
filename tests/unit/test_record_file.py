"""The output file: how it is opened, locked and mended, and what is read from it."""

import errno
import os
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztasks.errors import ZtasksError
from ztasks.runs import record_file
from ztasks.runs.keys import parse_key
from ztasks.runs.output import write_all
from ztasks.runs.record_file import BadOutput, Mode, RecordFile, read_records
from ztasks.runs.records import STATUSES, JobError, Record, Recorder

MODES: list[Mode] = ["new", "overwrite", "append", "resume"]


def line(
    number: int = 0, status: str = "ok", *, input_: Any = "x", source: str | None = None, occurrence: int = 0
) -> bytes:
    """The record of a job."""
    key = f"{number:016x}" + (f"-{occurrence + 1}" if occurrence else "")
    error = None if status == "ok" else JobError("ValueError", "no good", None)
    made = Record(1, number, key, input_, status == "ok", status, None, error, 1.5, 0.25, 1, "host", 7, 4096)
    return Recorder(source).line(made)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


class Opened:
    """An output file that is closed at the end of a test, and what it found."""

    def __init__(self) -> None:
        self.files: list[RecordFile] = []

    def __call__(self, path: Path, mode: Mode, source: str | None = None) -> RecordFile:
        self.files.append(RecordFile(str(path), mode, source))
        return self.files[-1]


@pytest.fixture
def opened() -> Iterator[Opened]:
    made = Opened()
    yield made
    for file in made.files:
        file.close()


def status(file: RecordFile, text: str | int) -> str | None:
    key = parse_key(f"{text:016x}" if isinstance(text, int) else text)
    assert key is not None
    return file.found.status(key.number)


# --- modes ---


@pytest.mark.parametrize("mode", MODES)
def test_a_file_that_is_not_there_is_made(path: Path, opened: Opened, mode: Mode) -> None:
    file = opened(path, mode)
    file.begin()
    file.write(line(1) + line(2))
    file.write(line(3))
    file.close()
    assert path.read_bytes() == line(1) + line(2) + line(3)
    assert file.found.total == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_file_that_was_made_for_nothing_goes_again(path: Path, opened: Opened, mode: Mode) -> None:
    opened(path, mode).close()
    assert not path.exists()
    path.touch()
    opened(path, mode).close()
    assert path.exists(), "it was there before"


def test_a_file_that_holds_something_is_not_lost(path: Path, opened: Opened) -> None:
    path.write_text("a night's work\n")
    with pytest.raises(
        BadOutput, match=r"exists and is not empty: --resume .*--append .*--overwrite .*Nothing was run"
    ):
        opened(path, "new")
    assert path.read_text() == "a night's work\n"
    path.write_bytes(b"")
    opened(path, "new").begin()


@pytest.mark.parametrize(
    ("mode", "after"),
    [("overwrite", line(9)), ("append", line(1) + line(9)), ("resume", line(1) + line(9))],
)
def test_what_becomes_of_what_is_there(path: Path, opened: Opened, mode: Mode, after: bytes) -> None:
    path.write_bytes(line(1))
    file = opened(path, mode)
    assert path.read_bytes() == line(1), "the run may still be refused"
    file.begin()
    file.write(line(9))
    assert path.read_bytes() == after
    assert file.found.total == (mode == "resume")


def test_a_file_that_is_refused_after_opening_stays_as_it_was(path: Path, opened: Opened) -> None:
    for mode in ("overwrite", "append", "resume"):
        path.write_bytes(line(1) + line(2)[:40])
        opened(path, mode).close()  # type: ignore[arg-type]
        assert path.read_bytes() == line(1) + line(2)[:40]


def test_what_is_no_file_can_be_written_to_but_not_read_again(opened: Opened) -> None:
    for mode in ("new", "append", "overwrite"):
        file = opened(Path("/dev/null"), mode)  # type: ignore[arg-type]
        file.begin()
        file.write(line(1))
        assert not file.regular
        file.close()
    with pytest.raises(BadOutput, match=r"/dev/null is no regular file.*Leave out --resume"):
        opened(Path("/dev/null"), "resume")


def test_records_go_through_a_named_pipe(tmp_path: Path, opened: Opened) -> None:
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    file = opened(tmp_path / "pipe", "new")
    file.begin()
    file.write(line(1))
    file.close()
    assert os.read(reading, 100_000) == line(1)
    os.close(reading)
    assert (tmp_path / "pipe").exists()


@pytest.mark.parametrize("mode", MODES)
def test_what_cannot_be_written_is_refused(tmp_path: Path, opened: Opened, mode: Mode) -> None:
    with pytest.raises(BadOutput, match=r"cannot write .*/missing/out: No such file or directory. Nothing was run"):
        opened(tmp_path / "missing" / "out", mode)
    with pytest.raises(BadOutput, match="Is a directory"):
        opened(tmp_path, mode)


def test_refusals_leave_no_descriptor_open(tmp_path: Path, path: Path, opened: Opened) -> None:
    path.write_bytes(line(1))
    before = len(os.listdir("/proc/self/fd"))
    for wrong in (path, tmp_path, tmp_path / "missing" / "x"):
        with pytest.raises(BadOutput):
            opened(wrong, "new")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_new_file_has_the_rights_that_the_umask_leaves(path: Path, opened: Opened) -> None:
    before = os.umask(0o027)
    try:
        opened(path, "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


# --- one run at a time ---


@pytest.mark.parametrize("mode", MODES)
def test_a_file_is_written_by_one_run_at_a_time(path: Path, opened: Opened, mode: Mode) -> None:
    first = opened(path, "new")
    first.begin()
    first.write(line(1))
    with pytest.raises(BadOutput, match=r"is being written by another run: wait for its end.*Nothing was run"):
        opened(path, mode)
    first.write(line(2))
    first.close()
    assert path.read_bytes() == line(1) + line(2)
    opened(path, "resume")


def test_a_file_that_the_other_run_removes_meanwhile_is_not_written_to(
    path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = RecordFile._lock

    def wait_and_lock(file: RecordFile) -> None:
        path.unlink()
        lock(file)

    monkeypatch.setattr(RecordFile, "_lock", wait_and_lock)
    with pytest.raises(BadOutput, match="has just been removed by another run: try again"):
        opened(path, "new")


def test_a_file_system_without_locks_will_do(path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: int, how: int) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(record_file.fcntl, "flock", refuse)
    opened(path, "new").begin()


# --- the end of what is there ---

WHOLE = line(1) + line(2, "failed")
LAST = line(3, input_='caf\u00e9 \udce9 {"v":')


@pytest.mark.parametrize("mode", ["resume", "append"])
def test_a_torn_last_line_is_cut_wherever_it_is_torn(path: Path, mode: Mode) -> None:
    for torn in range(1, len(LAST) - 1):
        path.write_bytes(WHOLE + LAST[:torn])
        file = RecordFile(str(path), mode)
        file.begin()
        file.write(LAST)
        file.close()
        assert file.cut == torn
        assert path.read_bytes() == WHOLE + LAST, torn
        assert file.found.records["ok"] == (mode == "resume")
        assert file.found.strange == 0


@pytest.mark.parametrize("torn", [1, 40, len(LAST) - 2])
def test_a_torn_line_may_be_all_there_is(path: Path, opened: Opened, torn: int) -> None:
    path.write_bytes(LAST[:torn])
    file = opened(path, "resume")
    file.begin()
    assert path.read_bytes() == b""
    assert (file.cut, file.found.total) == (torn, 0)


@pytest.mark.parametrize("mode", ["resume", "append"])
def test_a_last_line_that_lacks_only_its_end_is_a_record(path: Path, opened: Opened, mode: Mode) -> None:
    path.write_bytes(WHOLE + LAST.rstrip(b"\n"))
    file = opened(path, mode)
    file.begin()
    file.write(line(4))
    assert path.read_bytes() == WHOLE + LAST + line(4)
    assert file.cut == 0
    if mode == "resume":
        assert status(file, 3) == "ok"
        assert file.found.records == {"ok": 2, "failed": 1, "timeout": 0, "lost": 0, "cancelled": 0}


@pytest.mark.parametrize("mode", ["resume", "append"])
@pytest.mark.parametrize("rest", [b"notes of mine", b"def f(): pass", b"[1", b"\xff\xfe", b' {"v":1', b'{"version'])
def test_a_last_line_that_is_none_of_ours_is_not_cut_off(path: Path, opened: Opened, mode: Mode, rest: bytes) -> None:
    path.write_bytes(WHOLE + rest)
    file = opened(path, mode)
    file.begin()
    file.write(line(4))
    assert path.read_bytes() == WHOLE + rest + b"\n" + line(4)
    assert file.cut == 0


@pytest.mark.parametrize("length", [10, 65_535, 65_536, 65_537, 200_000])
def test_to_append_the_end_is_found_from_behind(path: Path, opened: Opened, length: int) -> None:
    torn = b'{"v":' + b"x" * (length - 5)
    for before in (b"", WHOLE):
        path.write_bytes(before + torn)
        file = opened(path, "append")
        file.begin()
        file.close()
        assert path.read_bytes() == before
        assert file.cut == length


# --- what is found ---


def test_of_several_records_of_an_input_the_last_one_counts(path: Path, opened: Opened) -> None:
    path.write_bytes(
        line(1, "failed")
        + line(2)
        + line(1)
        + line(2, "timeout")
        + line(3, "lost")
        + line(1, "cancelled", occurrence=1)
    )
    file = opened(path, "resume")
    assert [status(file, number) for number in range(5)] == [None, "ok", "timeout", "lost", None]
    assert status(file, f"{1:016x}-2") == "cancelled"
    assert file.found.records == {"ok": 1, "failed": 0, "timeout": 1, "lost": 1, "cancelled": 1}
    assert file.found.total == 4


def test_lines_that_are_no_records_are_counted_and_stay(path: Path, opened: Opened) -> None:
    strange = [
        b"not json",
        b"{}",
        b"[]",
        b"3",
        b'{"key": 5}',
        b'{"key": "' + b"0" * 15 + b'", "status": "ok"}',
        b'{"key": "' + b"0" * 16 + b'", "status": "fine"}',
        b'{"key": "' + b"0" * 16 + b'"}',
        b"\xff\xfe",
        b"\0" * 100,
        line(7)[:60],
        line(7)[:60] + line(8).rstrip(),
        b"[" * 100_000,
        b'{"key": "\\udcff", "status": "ok"}',
    ]
    data = line(1) + b"\n".join(strange) + b"\n\n  \r\n" + line(2)
    path.write_bytes(data)
    file = opened(path, "resume")
    file.begin()
    assert file.found.strange == len(strange)
    assert file.found.total == 2
    assert path.read_bytes() == data
    assert [record.index for record in read_records(path)] == [1, 2]


def test_a_file_edited_by_hand_is_understood(path: Path, opened: Opened) -> None:
    path.write_bytes(b'  {"status": "ok", "mine": [1], "key": "%016x"}  \r\n' % 5 + line(6).replace(b",", b", "))
    file = opened(path, "resume")
    assert [status(file, number) for number in (5, 6)] == ["ok", "ok"]
    assert file.found.strange == 0


def test_a_record_whose_input_is_no_utf8_counts_as_any_other(path: Path, opened: Opened) -> None:
    path.write_bytes(line(1, input_="caf\udce9") + line(2, input_={"\udce9": "\ud83d"}))
    file = opened(path, "resume")
    assert [status(file, number) for number in (1, 2)] == ["ok", "ok"]
    assert file.found.strange == 0
    assert [record.input for record in read_records(path)] == ["caf\udce9", {"\udce9": "\ud83d"}]


def test_records_of_another_source_are_told_apart(path: Path, opened: Opened) -> None:
    path.write_bytes(
        line(1, source="aaaa")
        + line(2, source="bbbb")
        + line(3)
        + line(4, "failed", source="aaaa")
        + line(5, source="aaaa")
    )
    found = opened(path, "resume", "bbbb").found
    assert [found.is_stale(number) for number in range(1, 7)] == [True, False, False, True, True, False]
    assert found.records["ok"] == 4
    opened.files[-1].close()
    found = opened(path, "resume", None).found
    assert not any(found.is_stale(number) for number in range(1, 7))


def test_a_success_that_was_made_anew_is_not_of_another_source(path: Path, opened: Opened) -> None:
    path.write_bytes(line(1, source="aaaa") + line(1, source="bbbb"))
    found = opened(path, "resume", "bbbb").found
    assert (found.records["ok"], found.is_stale(1)) == (1, False)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(STATUSES)), max_size=30))
def test_what_is_found_is_what_a_dictionary_would_hold(jobs: list[tuple[int, str]]) -> None:
    found = record_file.Found()
    for number, what in jobs:
        found.enter(line(number, what), None)
    expected = dict(jobs)
    assert {number: found.status(number) for number in expected} == expected
    assert found.records == {what: list(expected.values()).count(what) for what in STATUSES}
    found.close()


# --- writing that fails ---


def failing(written: int) -> Callable[[int, bytes], None]:
    def write_some(file: int, data: bytes) -> None:
        write_all(file, data[:written])
        raise OSError(errno.ENOSPC, "No space left on device")

    return write_some


def test_after_a_write_that_failed_the_file_ends_with_a_whole_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = line(2) + line(3)
    for written in range(len(data)):
        file = RecordFile(str(path), "overwrite")
        file.begin()
        file.write(line(1))
        with monkeypatch.context() as patch:
            patch.setattr(record_file, "write_all", failing(written))
            with pytest.raises(OSError, match="No space left"):
                file.write(data)
        whole = line(1) + (line(2) if written >= len(line(2)) else b"")
        assert path.read_bytes() == whole, written
        file.write(line(4))
        assert path.read_bytes() == whole + line(4), "and it can be written to once there is room"
        file.close()


def test_a_write_that_fails_does_not_shorten_what_is_no_file(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    file = opened(Path("/dev/full"), "new")
    file.begin()
    with pytest.raises(OSError, match="No space left"):
        file.write(line(1))


# --- reading ---


def test_of_each_input_the_last_record_is_read_in_the_order_of_the_file(path: Path) -> None:
    path.write_bytes(
        line(1, "failed") + line(2) + line(3, "failed") + line(1) + line(3, "timeout") + line(1, occurrence=1) + line(3)
    )
    records = list(read_records(path))
    assert [(record.key[15:], record.status) for record in records] == [
        ("2", "ok"),
        ("1", "ok"),
        ("1-2", "ok"),
        ("3", "ok"),
    ]
    assert all(isinstance(record, Record) for record in records)


def test_a_record_is_read_as_it_was_written(path: Path) -> None:
    path.write_bytes(line(1, "failed", input_={"n": [1, None]}, source="aaaa"))
    [record] = read_records(str(path))
    assert (record.index, record.input, record.ok, record.seconds) == (1, {"n": [1, None]}, False, 0.25)
    assert record.error == JobError("ValueError", "no good", None)
    assert record.source == "aaaa"
    assert record.log is msgspec.UNSET


@pytest.mark.parametrize("torn", [1, 30, len(line(2)) - 2])
def test_a_torn_last_line_is_passed_over(path: Path, torn: int) -> None:
    path.write_bytes(line(1, "failed") + line(2, "failed") + line(2)[:torn])
    assert [(record.index, record.status) for record in read_records(path)] == [(1, "failed"), (2, "failed")]


def test_what_is_no_record_is_passed_over(path: Path) -> None:
    path.write_bytes(
        b"\n\0\0\nnonsense\n{}\n" + line(1) + b'{"key": "x"}\n' + line(2).replace(b"0000", b"000x") + line(3)
    )
    assert [record.index for record in read_records(path)] == [1, 3]


def test_an_empty_file_has_none_and_a_missing_one_is_told(path: Path) -> None:
    path.touch()
    assert list(read_records(path)) == []
    with pytest.raises(FileNotFoundError):
        next(read_records(path.parent / "missing"))


def test_records_that_are_added_meanwhile_do_no_harm(path: Path) -> None:
    path.write_bytes(line(1) + line(2))
    records = read_records(path)
    assert next(records).index == 1
    with open(path, "ab") as file:
        file.write(line(3) + line(2, "failed"))
    assert [record.index for record in records] == [2]


def test_reading_can_be_left_off(path: Path) -> None:
    path.write_bytes(line(1) + line(2))
    before = len(os.listdir("/proc/self/fd"))
    records = read_records(path)
    next(records)
    records.close()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_big_file_is_read_in_little_memory(path: Path, opened: Opened) -> None:
    number = 20_000
    padding = "x" * 300
    with open(path, "wb") as out:
        for each in range(number):
            out.write(line(each, input_=padding))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_records(path)) == number
        file = opened(path, "resume")
        assert file.found.total == number
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_refusals_are_errors_of_ours() -> None:
    assert issubclass(BadOutput, ZtasksError)
