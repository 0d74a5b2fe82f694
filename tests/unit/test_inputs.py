"""Inputs: what each source yields, what it refuses, and that reading is lazy and can be stopped."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztasks.cli import inputs as inputs_module
from ztasks.cli.inputs import BadInput, Call, Glob, Inputs, JsonLines, Lines, Source, Total, Unreadable, Values


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], str]:
    def write_file(data: bytes) -> str:
        path = tmp_path / "input"
        path.write_bytes(data)
        return str(path)

    return write_file


class Pipe:
    """A named pipe, so that a test decides when more input comes."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "pipe")
        os.mkfifo(self.path)
        self._keeper = os.open(self.path, os.O_RDWR)  # so that opening it for reading does not wait

    def write(self, data: bytes) -> None:
        os.write(self._keeper, data)

    def end(self) -> None:
        os.close(self._keeper)


def read(source: Source) -> list[Call | Unreadable]:
    try:
        return list(source)
    finally:
        source.close()


def texts(source: Source) -> list[str]:
    return [entry.input for entry in read(source)]


# --- values and patterns ---


def test_each_value_is_one_argument() -> None:
    assert read(Values(["a", "-1"])) == [Call(("a",), {}, "a"), Call(("-1",), {}, "-1")]
    assert Values(["a", "b"]).total() == Total(2, exact=True)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.py", "a.py", "sub/c.py", "sub/deep/d.py", "sub/e.txt", ".hidden.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.py").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("*.py", ["a.py", "b.py"]),
        ("**/*.py", ["a.py", "b.py", "sub/c.py", "sub/deep/d.py"]),
        ("sub/**", ["sub/c.py", "sub/deep/d.py", "sub/e.txt"]),
        ("*/", ["folder.py/", "sub/"]),
        (".*.py", [".hidden.py"]),
    ],
)
def test_a_pattern_gives_sorted_files(tree: Path, pattern: str, paths: list[str]) -> None:
    source = Glob(pattern)
    assert texts(source) == paths
    assert source.total() == Total(len(paths), exact=True)


def test_a_pattern_without_a_match_is_refused_with_the_cure(tree: Path) -> None:
    with pytest.raises(BadInput, match=r"no file matches '\*\.pyx'.*quote it"):
        Glob("*.pyx")


def test_a_file_name_that_is_no_utf8_reaches_the_task(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    open(name, "wb").close()
    [path] = texts(Glob(f"{tmp_path}/*.txt"))
    assert os.fsencode(path) == name


# --- lines ---


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\r\nb\r", ["a", "b"]),
        (b"\n\na\n", ["", "", "a"]),
        (b" a b \t\n", [" a b \t"]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),
        ("ä\u2028ß\x0cx\n".encode(), ["ä\u2028ß\x0cx"]),
    ],
)
def test_lines(write: Callable[[bytes], str], data: bytes, lines: list[str]) -> None:
    assert texts(Lines(write(data))) == lines


@given(st.lists(st.text(alphabet="ab\r", max_size=6)), st.integers(1, 7))
def test_lines_do_not_depend_on_where_blocks_end(lines: list[str], block: int) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs_module, "BLOCK", block)
        try:
            assert texts(Lines(f"/dev/fd/{reading}")) == [line.removesuffix("\r") for line in lines]
        finally:
            os.close(reading)


def test_a_line_that_is_no_utf8_is_told_with_its_number(write: Callable[[bytes], str]) -> None:
    path = write(b"good\ncaf\xe9\nalso good\n")
    first, second, third = read(Lines(path))
    assert (first.input, third.input) == ("good", "also good")
    assert isinstance(second, Unreadable)
    assert second.input == "caf\\xe9"
    assert second.message.startswith(f"line 2 of {path} is not UTF-8: byte 0xe9 at position 4")


def test_a_line_without_end_is_refused(write: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs_module, "BLOCK", 100)
    monkeypatch.setattr(inputs_module, "MAX_LINE", 10_000)
    with pytest.raises(BadInput, match=r"a line longer than .* after 1 inputs"):
        read(Lines(write(b"good\n" + b"x" * 100_000)))


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot read .*missing: No such file or directory"):
        Lines(str(tmp_path / "missing"))
    with pytest.raises(BadInput, match="it is a directory; --glob"):
        Lines(str(tmp_path))


def test_the_total_of_a_file_is_estimated_and_exact_at_its_end(write: Callable[[bytes], str]) -> None:
    source = Lines(write(b"12345678\n" * 1000))
    assert source.total() is None
    entries = iter(source)
    for _ in range(10):
        next(entries)
    assert source.total() == Total(1000, exact=False)
    assert len(list(entries)) == 990
    assert source.total() == Total(1000, exact=True)
    source.close()


def test_what_a_pipe_holds_is_handed_out_before_more_is_waited_for(tmp_path: Path) -> None:
    pipe = Pipe(tmp_path)
    source = Lines(pipe.path)
    entries = iter(source)
    pipe.write(b"one\ntwo\nthr")
    assert [next(entries).input, next(entries).input] == ["one", "two"]
    assert source.total() is None
    pipe.write(b"ee\n")
    assert next(entries).input == "three"
    pipe.end()
    assert list(entries) == []
    assert source.total() == Total(3, exact=True)
    source.close()


def test_stop_ends_a_wait_for_a_silent_pipe(tmp_path: Path) -> None:
    pipe = Pipe(tmp_path)
    source = Inputs([Values(["first"]), Lines(pipe.path), Values(["never"])])
    seen: list[str] = []
    first = threading.Event()

    def consume() -> None:
        for entry in source:
            seen.append(entry.input)
            first.set()

    thread = threading.Thread(target=consume)
    thread.start()
    assert first.wait(10)
    source.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert seen == ["first"]
    source.close()
    pipe.end()


def test_reading_an_endless_file_holds_one_block(tmp_path: Path) -> None:
    pipe = Pipe(tmp_path)
    source = Lines(pipe.path)
    entries: Iterator[Call | Unreadable] = iter(source)
    pipe.write(b"x\n" * 10)
    next(entries)
    source.stop()
    assert list(entries) == []
    source.close()
    pipe.end()


def test_sources_release_their_descriptors(write: Callable[[bytes], str]) -> None:
    path = write(b"a\n")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        read(Inputs([Lines(path), JsonLines(path)]))
    assert len(os.listdir("/proc/self/fd")) == before


# --- JSON lines ---


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ('{"a": 1, "b": [2]}', Call((), {"a": 1, "b": [2]}, {"a": 1, "b": [2]})),
        ("[1, null]", Call((1, None), {}, [1, None])),
        ("[]", Call((), {}, [])),
        ("{}", Call((), {}, {})),
        ("3", Call((3,), {}, 3)),
        ('"text"', Call(("text",), {}, "text")),
        ("null", Call((None,), {}, None)),
        ("true", Call((True,), {}, True)),
        ("1.0", Call((1.0,), {}, 1.0)),
        ("123456789012345678901234567890", Call((123456789012345678901234567890,), {}, 123456789012345678901234567890)),
        ("-Infinity", Call((-float("inf"),), {}, -float("inf"))),
        (r'"\ud800"', Call(("\ud800",), {}, "\ud800")),
    ],
)
def test_json_lines(write: Callable[[bytes], str], line: str, call: Call) -> None:
    assert read(JsonLines(write(f"{line}\n".encode()))) == [call]


def test_a_broken_json_line_is_told_and_the_rest_goes_on(write: Callable[[bytes], str]) -> None:
    path = write(b'1\n\n  \r\n{"a": }\n"caf\xe9"\n2 3\n' + b"[" * 100_000 + b"\n" + b"9" * 5000 + b"\n4")
    entries = read(JsonLines(path))
    assert [entry.input for entry in entries if isinstance(entry, Call)] == [1, 4]
    messages = [entry.message for entry in entries if isinstance(entry, Unreadable)]
    assert messages[0] == f"line 4 of {path} is not JSON: Expecting value at column 7"
    assert messages[1].startswith(f"line 5 of {path} is not UTF-8: byte 0xe9 at position 5")
    assert messages[2] == f"line 6 of {path} is not JSON: Extra data at column 3"
    assert messages[3].startswith(f"line 7 of {path} is not JSON")
    assert messages[4].startswith(f"line 8 of {path} is not JSON")
    assert entries[1].input == '{"a": }'


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists))
def test_any_document_comes_as_python_writes_it(value: object) -> None:
    reading, writing = os.pipe()
    os.write(writing, json.dumps(value).encode() + b"\n")
    os.close(writing)
    try:
        [entry] = read(JsonLines(f"/dev/fd/{reading}"))
    finally:
        os.close(reading)
    assert entry.input == value


# --- several ---


def test_sources_follow_each_other(write: Callable[[bytes], str]) -> None:
    source = Inputs([Values(["a"]), Lines(write(b"b\nc\n"))])
    assert source.total() is None
    assert texts(source) == ["a", "b", "c"]
    assert source.total() == Total(3, exact=True)
