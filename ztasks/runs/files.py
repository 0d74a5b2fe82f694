"""Inputs from files and pipes: lines, JSON documents, rows of tables.

Lines       UTF-8, without their end (\n or \r\n; or NUL); an empty line is an input like any other
JsonLines   one JSON document a line: an object is keyword arguments, an array positional ones, everything else one
            argument; blank lines are skipped
CsvRows     the first row names the columns; each row is keyword arguments, all of them text
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import select
import stat
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from ztasks.runs.inputs import BadInput, Call, Entry, Total, Unreadable, as_call

BLOCK: Final = 256 * 1024
"""How many bytes are read at once."""

MAX_LINE: Final = 256 * 1024 * 1024
"""A line longer than this is not a line: the input is something else, such as /dev/zero."""

MAX_ROW_LINES: Final = 10_000
"""A row of a table that takes more lines has a quote that is not closed."""

_BOM: Final = b"\xef\xbb\xbf"


class Lines:
    """The lines of a file or of stdin (`-`), each one argument. Raises BadInput if it cannot be opened."""

    is_text = True

    def __init__(self, path: str, *, end: bytes = b"\n") -> None:
        """`end`: what is at the end of a line; after another one than a newline, nothing is taken off."""
        self.name = "stdin" if path == "-" else path
        self._end = end
        self._file = _open(path)
        self._wakeup, self._waker = os.pipe()
        details = os.fstat(self._file)
        self._size = details.st_size if stat.S_ISREG(details.st_mode) else None
        self._read = 0
        self._yielded = 0
        self._ended = False
        self._stopped = False

    def __iter__(self) -> Iterator[Entry]:
        try:
            for number, line in enumerate(self._lines(), 1):
                entry = self._parse(number, line if number > 1 else line.removeprefix(_BOM))
                if entry is not None:
                    self._yielded += 1
                    yield entry
            self._ended = not self._stopped
        except OSError as error:
            raise BadInput(f"reading {self.name} failed after {self._yielded} inputs: {error}") from error

    def total(self) -> Total | None:
        """Return the number of inputs: exact at the end, before that an estimate for files whose size is known."""
        if self._ended:
            return Total(self._yielded, exact=True)
        if self._size is None or not self._read or not self._yielded:
            return None
        return Total(max(self._yielded, round(self._yielded * self._size / self._read)), exact=False)

    def stop(self) -> None:
        """End the iteration, even if it waits for a pipe."""
        self._stopped = True
        with contextlib.suppress(OSError):
            os.write(self._waker, b"\0")

    def close(self) -> None:
        """Close the file."""
        for descriptor in (self._file, self._wakeup, self._waker):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _parse(self, number: int, line: bytes) -> Entry | None:
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            return self._not_utf8(number, line, error)
        return Call((text,), {}, text, number)

    def _not_utf8(self, number: int, line: bytes, error: UnicodeDecodeError) -> Unreadable:
        return Unreadable(
            line.decode(errors="backslashreplace"),
            f"line {number} of {self.name} is not UTF-8: byte {line[error.start] if line else 0:#04x} at position "
            f"{error.start + 1}; convert it (iconv), or give file names with --glob",
        )

    def _lines(self) -> Iterator[bytes]:
        """Cut what is read into lines; what has been read is handed out before more is waited for."""
        parts: list[bytes] = []
        for block in self._blocks():
            if self._end not in block:
                parts.append(block)
                if len(parts) % 64 == 0:
                    self._check_length(parts)
                continue
            *lines, rest = b"".join([*parts, block]).split(self._end)
            parts = [rest] if rest else []
            for line in lines:
                if self._stopped:
                    return
                self._read += len(line) + 1
                yield self._without_return(line)
        if parts and not self._stopped:
            yield self._without_return(b"".join(parts))

    def _without_return(self, line: bytes) -> bytes:
        return line[:-1] if self._end == b"\n" and line.endswith(b"\r") else line

    def _check_length(self, parts: list[bytes]) -> None:
        if sum(map(len, parts)) > MAX_LINE:
            raise BadInput(
                f"{self.name} has a line longer than {MAX_LINE // 2**20} MiB after {self._yielded} inputs: it does "
                "not hold lines of text"
            )

    def _blocks(self) -> Iterator[bytes]:
        """Read blocks as they come, until the end or `stop()`."""
        poller = select.poll()
        poller.register(self._wakeup, select.POLLIN)
        poller.register(self._file, select.POLLIN)
        while not self._stopped:
            if self._size is None:  # a regular file never waits
                poller.poll()
                if self._stopped:
                    return
            try:
                block = os.read(self._file, BLOCK)
            except BlockingIOError:  # another process has made the pipe non-blocking
                continue
            if not block:
                return
            yield block


class JsonLines(Lines):
    """One JSON document a line; see the module. Raises BadInput if the file cannot be opened."""

    is_text = False
    _decode: Callable[[bytes], Any] = staticmethod(msgspec.json.Decoder().decode)

    def __init__(self, path: str, *, unpack: bool = True) -> None:
        """Without `unpack` each document is the one argument."""
        super().__init__(path)
        self._unpack = unpack

    def _parse(self, number: int, line: bytes) -> Entry | None:
        try:
            value = self._decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            if not line.strip():
                return None
            try:  # accepts NaN, which Python writes, and words its errors better
                value = json.loads(line.decode())
            except UnicodeDecodeError as error:
                return self._not_utf8(number, line, error)
            except json.JSONDecodeError as error:
                return self._broken(number, line, f"{error.msg} at column {error.colno}")
            except (ValueError, RecursionError) as error:  # too many digits, or nested too deeply
                return self._broken(number, line, str(error))
        return as_call(value, number, unpack=self._unpack)

    def _broken(self, number: int, line: bytes, why: str) -> Unreadable:
        return Unreadable(line.decode(), f"line {number} of {self.name} is not JSON: {why}")


class CsvRows(Lines):
    """The rows of a table, comma-separated, or tab-separated if its name ends in .tsv. Raises BadInput."""

    def __init__(self, path: str, *, unpack: bool = True) -> None:
        """Without `unpack` each row is one argument, a dict."""
        super().__init__(path)
        self._unpack = unpack

    def __iter__(self) -> Iterator[Entry]:
        csv.field_size_limit(MAX_LINE)
        lines = _RowLines(self._text())
        rows = self._reader(lines)
        try:
            names = self._names(rows, lines)
            while not self._stopped:
                lines.begin_row()
                try:
                    row = next(rows)
                except StopIteration:
                    break
                except csv.Error as error:
                    if self._stopped:
                        break
                    entry: Entry = self._no_row(lines, error)
                    rows = self._reader(lines)
                else:
                    if not row:
                        continue
                    entry = self._row(names, row, lines)
                self._yielded += 1
                yield entry
            self._ended = not self._stopped
        except OSError as error:
            raise BadInput(f"reading {self.name} failed after {self._yielded} inputs: {error}") from error

    def _reader(self, lines: _RowLines) -> Iterator[list[str]]:
        return csv.reader(lines, delimiter="\t" if self.name.endswith(".tsv") else ",", strict=True)

    def _text(self) -> Iterator[_Line]:
        for number, line in enumerate(self._lines(), 1):
            data = line if number > 1 else line.removeprefix(_BOM)
            try:
                yield _Line(data.decode() + "\n", is_text=True)
            except UnicodeDecodeError:
                yield _Line(data.decode(errors="backslashreplace") + "\n", is_text=False)

    def _names(self, rows: Iterator[list[str]], lines: _RowLines) -> list[str]:
        """Read and check the first row."""
        try:
            row = next(filter(None, rows), [])
        except csv.Error as error:
            raise BadInput(f"the first row of {self.name}, which names its columns, is none: {error}") from error
        twice = sorted({name for name in row if row.count(name) > 1})
        if twice or not lines.are_text:
            what = f"names {', '.join(twice)} more than once" if twice else "is not UTF-8"
            raise BadInput(f"the first row of {self.name}, which names its columns, {what}.")
        return row

    def _row(self, names: list[str], row: list[str], lines: _RowLines) -> Entry:
        place = f"line {lines.first} of {self.name}"
        if not lines.are_text:
            return Unreadable(row, f"{place} is not UTF-8; convert it (iconv)")
        if len(row) != len(names):
            return Unreadable(row, f"{place} has {len(row)} values, and its first row names {len(names)} columns")
        return as_call(dict(zip(names, row, strict=True)), lines.first, unpack=self._unpack)

    def _no_row(self, lines: _RowLines, error: csv.Error) -> Unreadable:
        """Say what is wrong with a row. If a quote in it has swallowed what follows, only its first line is lost."""
        why = str(error)
        if lines.take_back():
            why = "a quote is opened in it and not closed"
        return Unreadable(
            lines.row[0].text.rstrip("\n"), f"line {lines.first} of {self.name} is no row of a table: {why}"
        )


class _Line(NamedTuple):
    """A line of a table, and whether it is UTF-8."""

    text: str
    is_text: bool


class _RowLines:
    """Gives lines to a reader of rows, and keeps those of the row that it is at, to take them back."""

    def __init__(self, lines: Iterator[_Line]) -> None:
        self.row: list[_Line] = []
        self._lines = lines
        self._back: deque[_Line] = deque()
        self._number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self.row) >= MAX_ROW_LINES:
            raise csv.Error(f"it takes more than {MAX_ROW_LINES:,} lines")
        line = self._back.popleft() if self._back else next(self._lines)
        self.row.append(line)
        self._number += 1
        return line.text

    def begin_row(self) -> None:
        """What is given from now on is of the next row."""
        self.row = []

    @property
    def first(self) -> int:
        """The number of the row's first line."""
        return self._number - len(self.row) + 1

    @property
    def are_text(self) -> bool:
        """Whether all lines of the row are UTF-8."""
        return all(line.is_text for line in self.row)

    def take_back(self) -> bool:
        """Give all lines of the row but the first once more; tell whether there were any."""
        back = self.row[1:]
        self._back.extendleft(reversed(back))
        self._number -= len(back)
        self.row = self.row[:1]
        return bool(back)


def _open(path: str) -> int:
    """Open a file or take stdin. Bare descriptors: a thread that waits in `sys.stdin` would abort the exit."""
    try:
        file = os.dup(0) if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        name = "stdin" if path == "-" else path
        raise BadInput(f"cannot read {name}: {error.strerror}") from error
    if stat.S_ISDIR(os.fstat(file).st_mode):
        os.close(file)
        raise BadInput(f"cannot read {path}: it is a directory; --glob '{path.rstrip('/')}/*' gives what is in it")
    return file
