"""Inputs from files and pipes: what each kind yields, what it refuses, and that reading is lazy and can be stopped."""

import csv
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztasks.runs import files
from ztasks.runs.files import CsvRows, JsonLines, Lines
from ztasks.runs.inputs import BadInput, Call, Entry, Inputs, Source, Total, Unreadable, Values

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(data: bytes, name: str = "input") -> str:
        path = tmp_path / name
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


def read(source: Source) -> list[Entry]:
    try:
        return list(source)
    finally:
        source.close()


def texts(source: Source) -> list[str]:
    return [entry.input for entry in read(source)]


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
def test_lines(write: Write, data: bytes, lines: list[str]) -> None:
    assert texts(Lines(write(data))) == lines


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"", []),
        (b"a\0b\0", ["a", "b"]),
        (b"a\0b", ["a", "b"]),
        (b"a\nb\0c\r\0", ["a\nb", "c\r"]),
        (b"\0", [""]),
        (b"a\n", ["a\n"]),
    ],
)
def test_names_that_end_with_nul(write: Write, data: bytes, names: list[str]) -> None:
    """As `find -print0` writes them: nothing but the NUL is taken off."""
    assert texts(Lines(write(data), end=b"\0")) == names


def test_a_line_knows_where_it_stands(write: Write) -> None:
    assert read(Lines(write(b"a\n\nb\n"))) == [Call((each,), {}, each, at) for at, each in enumerate(["a", "", "b"], 1)]


@given(st.lists(st.text(alphabet="ab\r", max_size=6)), st.integers(1, 7))
def test_lines_do_not_depend_on_where_blocks_end(lines: list[str], block: int) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK", block)
        try:
            assert texts(Lines(f"/dev/fd/{reading}")) == [line.removesuffix("\r") for line in lines]
        finally:
            os.close(reading)


def test_a_line_that_is_no_utf8_is_told_with_its_number(write: Write) -> None:
    path = write(b"good\ncaf\xe9\nalso good\n")
    first, second, third = read(Lines(path))
    assert (first.input, third.input) == ("good", "also good")
    assert isinstance(second, Unreadable)
    assert second.input == "caf\\xe9"
    assert second.message.startswith(f"line 2 of {path} is not UTF-8: byte 0xe9 at position 4")


def test_a_byte_that_is_no_utf8_is_one_of_the_line_behind_a_bom(write: Write) -> None:
    [entry] = read(Lines(write(b"\xef\xbb\xbfab\xff")))
    assert isinstance(entry, Unreadable)
    assert "byte 0xff at position 3" in entry.message


def test_a_line_without_end_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BLOCK", 100)
    monkeypatch.setattr(files, "MAX_LINE", 10_000)
    with pytest.raises(BadInput, match=r"a line longer than .* after 1 inputs"):
        read(Lines(write(b"good\n" + b"x" * 100_000)))


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot read .*missing: No such file or directory"):
        Lines(str(tmp_path / "missing"))
    with pytest.raises(BadInput, match="it is a directory; --glob"):
        Lines(str(tmp_path))


def test_the_total_of_a_file_is_estimated_and_exact_at_its_end(write: Write) -> None:
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
    assert source.total() is None
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
    entries: Iterator[Entry] = iter(source)
    pipe.write(b"x\n" * 10)
    next(entries)
    source.stop()
    assert list(entries) == []
    source.close()
    pipe.end()


def test_sources_release_their_descriptors(write: Write) -> None:
    path = write(b"a\n")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        read(Inputs([Lines(path), JsonLines(path), CsvRows(path)]))
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
def test_json_lines(write: Write, line: str, call: Call) -> None:
    assert read(JsonLines(write(f"\n{line}\n".encode()))) == [call._replace(line=2)]


def test_a_broken_json_line_is_told_and_the_rest_goes_on(write: Write) -> None:
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


@pytest.mark.parametrize("line", ['{"a": 1}', "[1, 2]", "[]", "3", "null"])
def test_without_unpacking_a_document_is_the_one_argument(write: Write, line: str) -> None:
    value = json.loads(line)
    assert read(JsonLines(write(line.encode()), unpack=False)) == [Call((value,), {}, value, 1)]


def test_json_values_are_no_text_and_the_others_are(write: Write) -> None:
    path = write(b"")
    assert [kind.is_text for kind in (Lines, JsonLines, CsvRows)] == [True, False, True]
    for source in (Lines(path), JsonLines(path), CsvRows(path)):
        assert source.name == path
        source.close()


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


# --- tables ---


def rows(source: CsvRows) -> list[Any]:
    """What is a row as a dict, the others as they are."""
    return [entry.kwargs if isinstance(entry, Call) else entry for entry in read(source)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n\n", []),
        (b"a,b\n", []),
        (b"a,b\n1,2\n3,4", [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]),
        (b"a,b\r\n1,2\r\n", [{"a": "1", "b": "2"}]),
        (b"a\n\n1\n\n\n2\n", [{"a": "1"}, {"a": "2"}]),
        (b"\n\na,b\n1,2\n", [{"a": "1", "b": "2"}]),
        (b"\xef\xbb\xbfa,b\n1,2\n", [{"a": "1", "b": "2"}]),
        (b'\xef\xbb\xbf"a",b\n1,2\n', [{"a": "1", "b": "2"}]),
        (b'a,b\n"x,""y""",\n', [{"a": 'x,"y"', "b": ""}]),
        (b'a,b\n"one\ntwo\n",2\n3,4\n', [{"a": "one\ntwo\n", "b": "2"}, {"a": "3", "b": "4"}]),
        (b"a,b\n 1 ,\t2\n", [{"a": " 1 ", "b": "\t2"}]),
        ("ä;é\nß;\u2028\n".encode(), [{"ä;é": "ß;\u2028"}]),
        (b"a,b\n\0,2\n", [{"a": "\0", "b": "2"}]),
        (b"a,\n1,2\n", [{"a": "1", "": "2"}]),
    ],
)
def test_rows(write: Write, data: bytes, expected: list[dict[str, str]]) -> None:
    source = CsvRows(write(data))
    assert rows(source) == expected
    assert source.total() == Total(len(expected), exact=True)


def test_a_row_knows_the_line_where_it_begins(write: Write) -> None:
    entries = read(CsvRows(write(b'a,b\n"x\ny\nz",1\n\n2,3\n')))
    assert [entry.line for entry in entries if isinstance(entry, Call)] == [2, 6]
    assert [entry.input for entry in entries] == [{"a": "x\ny\nz", "b": "1"}, {"a": "2", "b": "3"}]


def test_tabs_separate_what_is_called_tsv(write: Write) -> None:
    assert rows(CsvRows(write(b"a\tb,c\n1\t2,3\n", "table.tsv"))) == [{"a": "1", "b,c": "2,3"}]


def test_without_unpacking_a_row_is_the_one_argument(write: Write) -> None:
    row = {"a": "1", "b": "2"}
    assert read(CsvRows(write(b"a,b\n1,2\n"), unpack=False)) == [Call((row,), {}, row, 2)]


def test_a_row_with_too_few_or_too_many_values_is_told_and_the_rest_goes_on(write: Write) -> None:
    path = write(b'a,b\n1\n"x\ny",2,3\n1,2\n')
    short, long, good = rows(CsvRows(path))
    assert short == Unreadable(["1"], f"line 2 of {path} has 1 values, and its first row names 2 columns")
    assert long == Unreadable(["x\ny", "2", "3"], f"line 3 of {path} has 3 values, and its first row names 2 columns")
    assert good == {"a": "1", "b": "2"}


def test_a_row_that_is_no_utf8_is_told_and_the_rest_goes_on(write: Write) -> None:
    path = write(b'a,b\ncaf\xe9,1\n"two\nl\xefnes",2\n3,4\n')
    first, second, good = rows(CsvRows(path))
    assert first == Unreadable(["caf\\xe9", "1"], f"line 2 of {path} is not UTF-8; convert it (iconv)")
    assert second == Unreadable(["two\nl\\xefnes", "2"], f"line 3 of {path} is not UTF-8; convert it (iconv)")
    assert good == {"a": "3", "b": "4"}


@pytest.mark.parametrize("broken", [b'"x"y,1', b'x,"1" ', b"x,1\r2", b'caf\xe9,"x"y'])
def test_a_row_that_is_broken_is_told_and_the_rest_goes_on(write: Write, broken: bytes) -> None:
    path = write(b"a,b\n0,0\n" + broken + b"\n3,4\n")
    _, bad, good = rows(CsvRows(path))
    assert isinstance(bad, Unreadable)
    assert bad.message.startswith(f"line 3 of {path} is no row of a table: ")
    assert good == {"a": "3", "b": "4"}


def test_a_quote_that_nothing_ends_is_told_where_it_begins(write: Write) -> None:
    path = write(b'a,b\n1,2\n3,"4\n5,6\n')
    good, bad, better = rows(CsvRows(path))
    assert (good, better) == ({"a": "1", "b": "2"}, {"a": "5", "b": "6"})
    assert isinstance(bad, Unreadable)
    assert bad.input == '3,"4'
    assert bad.message == f"line 3 of {path} is no row of a table: a quote is opened in it and not closed"


def test_quotes_that_nothing_ends_lose_their_own_lines_only(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_ROW_LINES", 5)
    text = b"a,b\n" + b"".join(b"%d,%s\n" % (n, b'"x' if n in (2, 9) else b"x") for n in range(30))
    found = list(CsvRows(write(text)))
    bad = [entry for entry in found if isinstance(entry, Unreadable)]
    assert [entry.message.split(" of ")[0] for entry in bad] == ["line 4", "line 11"]
    assert [entry.kwargs["a"] for entry in found if isinstance(entry, Call)] == [
        str(n) for n in range(30) if n not in (2, 9)
    ]
    assert [entry.line for entry in found if isinstance(entry, Call)] == [n + 2 for n in range(30) if n not in (2, 9)]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"a,b,a,c,b", "names a, b more than once"),
        (b"a,caf\xe9", "is not UTF-8"),
        (b'a,"b', "is none: unexpected end of data"),
        (b'a,"b"c', "is none: ',' expected after '\"'"),
    ],
)
def test_a_first_row_that_names_no_columns_is_refused(write: Write, header: bytes, said: str) -> None:
    path = write(header + b"\n1,2\n")
    with pytest.raises(BadInput) as caught:
        read(CsvRows(path))
    assert str(caught.value).startswith(f"the first row of {path}, which names its columns, {said}")


def test_a_value_may_be_large(write: Write) -> None:
    large = "x" * 3_000_000
    assert rows(CsvRows(write(f"a,b\n{large},1\n".encode()))) == [{"a": large, "b": "1"}]


def test_a_value_without_end_is_told_and_reading_goes_on_behind_it(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_LINE", 1000)
    before = csv.field_size_limit()
    try:
        bad, *others = rows(CsvRows(write(b'a\n"' + b"x\n" * 600 + b"7\n")))
    finally:
        csv.field_size_limit(before)
    assert isinstance(bad, Unreadable)
    assert "line 2" in bad.message
    assert "a quote is opened in it and not closed" in bad.message
    assert others[-1] == {"a": "7"}


tables = st.lists(st.lists(st.text(alphabet='a ,"\n\té', max_size=4), min_size=2, max_size=2), max_size=5)


@given(tables, st.integers(1, 9))
def test_any_table_comes_as_python_writes_it(table: list[list[str]], block: int) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["one", "two"], *table])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK", block)
        try:
            assert rows(CsvRows(f"/dev/fd/{reading}")) == [{"one": one, "two": two} for one, two in table]
        finally:
            os.close(reading)


def test_the_total_of_a_table_is_estimated_and_exact_at_its_end(write: Write) -> None:
    source = CsvRows(write(b"a,b\n" + b"12,45\n" * 1000))
    entries = iter(source)
    for _ in range(100):
        next(entries)
    estimated = source.total()
    assert estimated is not None
    assert not estimated.exact
    assert 980 < estimated.number < 1010
    assert len(list(entries)) == 900
    assert source.total() == Total(1000, exact=True)
    source.close()


@pytest.mark.parametrize("kind", [Lines, JsonLines, CsvRows])
def test_after_stop_nothing_more_comes(write: Write, kind: type[Lines]) -> None:
    source = kind(write(b"1\n2\n3\n4\n"))
    entries = iter(source)
    next(entries)
    source.stop()
    assert list(entries) == []
    assert source.total() != Total(1, exact=True), "how many there would have been is not known"
    source.close()


@pytest.mark.parametrize("kind", [Lines, JsonLines, CsvRows])
def test_a_file_that_cannot_be_read_on_is_told(
    write: Write, kind: type[Lines], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(b"1\n2\n")
    source = kind(path)
    entries = iter(source)
    next(entries)

    def fail(file: int, size: int) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "read", fail)
        with pytest.raises(BadInput, match=r"reading .*input failed after \d inputs: .*Input/output error"):
            list(entries)
    source.close()
