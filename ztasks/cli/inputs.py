"""What a task is run on: lazy streams of calls, read in a thread of their own.

A source yields a Call for each input, or Unreadable for one that cannot be understood: that one becomes a failed record
and the rest goes on. Nothing is read ahead but a block of a file, so that an endless pipe works in constant memory, and
`stop()` ends the reading at once even if that pipe never says another word.

    arguments   the arguments of the command line, each one argument
    Glob        the paths that a pattern matches, sorted; directories only if the pattern ends with a slash
    Lines       the lines of a file, UTF-8, without their end (\n or \r\n); an empty line is an input like any other
    JsonLines   one JSON document a line: an object is keyword arguments, an array positional ones, everything else one
                argument; blank lines are skipped
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import select
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from ztasks.errors import ZtasksError

BLOCK: Final = 256 * 1024
"""How many bytes are read at once."""

MAX_LINE: Final = 256 * 1024 * 1024
"""A line longer than this is not a line: the input is something else, such as /dev/zero."""

_BOM: Final = b"\xef\xbb\xbf"


class BadInput(ZtasksError):
    """The caller's fault: an input cannot be opened, or holds no lines. Nothing was started, or says what was read."""


class Call(NamedTuple):
    """One job: the arguments of the task, and what the record shows as its input."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    input: Any


class Unreadable(NamedTuple):
    """An input that is no call: what it was, and what is wrong with it."""

    input: str
    message: str


Entry = Call | Unreadable


class Total(NamedTuple):
    """How many inputs there are."""

    number: int
    exact: bool
    """False: estimated from the part of the file that has been read."""


class Source(Protocol):
    """Where inputs come from."""

    def __iter__(self) -> Iterator[Entry]:
        """Yield the inputs; can be done once."""

    def total(self) -> Total | None:
        """Tell how many there are, as far as known by now. Callable from any thread."""

    def stop(self) -> None:
        """End the iteration soon, even if it waits. Callable from any thread."""

    def close(self) -> None:
        """Release what is open; after the iteration has ended."""


class Values:
    """Inputs that are there already: the arguments of the command line."""

    def __init__(self, values: Sequence[str]) -> None:
        self._values = values
        self._stopped = False

    def __iter__(self) -> Iterator[Entry]:
        for value in self._values:
            if self._stopped:
                return
            yield Call((value,), {}, value)

    def total(self) -> Total | None:
        """Return their number."""
        return Total(len(self._values), exact=True)

    def stop(self) -> None:
        """Yield no more."""
        self._stopped = True

    def close(self) -> None:
        """Nothing is open."""


class Glob(Values):
    """The paths that a pattern matches, sorted. Raises BadInput if there are none: that is a mistake in the pattern."""

    def __init__(self, pattern: str) -> None:
        matches = glob.iglob(pattern, recursive=True)
        wants_directories = pattern.endswith("/")
        paths = sorted(path for path in matches if wants_directories or not os.path.isdir(path))
        if not paths:
            raise BadInput(
                f"no file matches {pattern!r}: look at the pattern (quote it, so that the shell leaves it alone; ** "
                "goes into directories; end it with / to match directories; names that begin with a dot need a dot)"
            )
        super().__init__(paths)


class Lines:
    """The lines of a file or of stdin (`-`), each one argument. Raises BadInput if it cannot be opened."""

    def __init__(self, path: str) -> None:
        self._name = "stdin" if path == "-" else path
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
            raise BadInput(f"reading {self._name} failed after {self._yielded} inputs: {error}") from error

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
        return Call((text,), {}, text)

    def _not_utf8(self, number: int, line: bytes, error: UnicodeDecodeError) -> Unreadable:
        return Unreadable(
            line.decode(errors="backslashreplace"),
            f"line {number} of {self._name} is not UTF-8: byte {line[error.start] if line else 0:#04x} at position "
            f"{error.start + 1}; convert it (iconv), or give file names with --glob",
        )

    def _lines(self) -> Iterator[bytes]:
        """Cut what is read into lines; what has been read is handed out before more is waited for."""
        parts: list[bytes] = []
        for block in self._blocks():
            if b"\n" not in block:
                parts.append(block)
                if len(parts) % 64 == 0:
                    self._check_length(parts)
                continue
            *lines, rest = b"".join([*parts, block]).split(b"\n")
            parts = [rest] if rest else []
            for line in lines:
                if self._stopped:
                    return
                self._read += len(line) + 1
                yield line[:-1] if line.endswith(b"\r") else line
        if parts and not self._stopped:
            yield b"".join(parts).removesuffix(b"\r")

    def _check_length(self, parts: list[bytes]) -> None:
        if sum(map(len, parts)) > MAX_LINE:
            raise BadInput(
                f"{self._name} has a line longer than {MAX_LINE // 2**20} MiB after {self._yielded} inputs: it does "
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

    _decode: Callable[[bytes], Any] = staticmethod(msgspec.json.Decoder().decode)

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
        if isinstance(value, dict):
            return Call((), value, value)
        if isinstance(value, list):
            return Call(tuple(value), {}, value)
        return Call((value,), {}, value)

    def _broken(self, number: int, line: bytes, why: str) -> Unreadable:
        return Unreadable(line.decode(), f"line {number} of {self._name} is not JSON: {why}")


class Inputs:
    """Several sources, one after the other."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._stopped = False

    def __iter__(self) -> Iterator[Entry]:
        for source in self._sources:
            if self._stopped:
                return
            yield from source

    def total(self) -> Total | None:
        """Return how many inputs there are in all, if each source knows or can guess."""
        totals = [source.total() for source in self._sources]
        known = [total for total in totals if total is not None]
        if len(known) < len(totals):
            return None
        return Total(sum(total.number for total in known), all(total.exact for total in known))

    def stop(self) -> None:
        """End the iteration soon."""
        self._stopped = True
        for source in self._sources:
            source.stop()

    def close(self) -> None:
        """Release what is open."""
        for source in self._sources:
            source.close()


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
