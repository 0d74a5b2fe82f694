"""The file that records are written to. It is the journal of its runs: what it holds is done.

What it must hold: it is written by one run at a time; each line that is in it is whole, but for the last if the run was
killed, and that is cut off when the next one begins; and of several records with one key, the last one counts.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic
from typing import IO, Any, Final, Literal, NamedTuple

import msgspec

from ztasks.errors import ZtasksError
from ztasks.runs.counts import Counts
from ztasks.runs.encoding import Decoder
from ztasks.runs.keys import parse_key
from ztasks.runs.output import write_all
from ztasks.runs.records import STATUSES, Record

Mode = Literal["new", "overwrite", "append", "resume"]


_START: Final = b'{"v":'
"""How the line of a record begins: a last line that begins otherwise is none that a kill has torn."""


LOOK_EVERY: Final = 1.0
"""How often it is looked whether the file still has its name, in seconds: editors replace what they save."""


class BadOutput(ZtasksError):
    """The output cannot be written. The caller's fault before the run; after that, the message says what is lost."""


class _Seen(msgspec.Struct):
    """As much of a record as a run that goes on wants to know."""

    key: str
    ok: bool = True
    status: str = ""
    source: str = ""


_STALE: Final = 16
"""Added to the number of a status."""


class _End(NamedTuple):
    """What is behind the last whole line."""

    at: int
    """Where that line ends."""
    rest: bytes


class Found:
    """What a file holds: the last record of each key."""

    def __init__(self) -> None:
        self.records = dict.fromkeys(STATUSES, 0)
        """How many keys there are, by the status of their last record."""
        self.strange = 0
        """Lines that are no records."""
        self._statuses = Counts()

    @property
    def total(self) -> int:
        """How many keys there are."""
        return sum(self.records.values())

    def enter(self, line: bytes, source: str | None) -> None:
        """Take in a line."""
        try:
            seen = _decode_seen(line)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            self.strange += bool(line.strip())
            return
        key = parse_key(seen.key)
        if key is None or seen.status not in STATUSES:
            self.strange += 1
            return
        if seen.status == "ok" and not seen.ok:  # somebody wants it to be run again
            seen.status = "failed"
        before = self.status(key.number)
        if before is not None:
            self.records[before] -= 1
        self.records[seen.status] += 1
        stale = bool(source and seen.source and seen.source != source)
        self._statuses.set(key.number, STATUSES.index(seen.status) + 1 + _STALE * stale)

    def status(self, number: int) -> str | None:
        """Return the status of the last record with a key; None if there is none."""
        found = self._statuses.get(number) % _STALE
        return STATUSES[found - 1] if found else None

    def is_stale(self, number: int) -> bool:
        """Tell whether that record was made when the task's source was another."""
        return self._statuses.get(number) >= _STALE

    def close(self) -> None:
        """Release the memory."""
        self._statuses.close()


class RecordFile:
    """An output file, open for writing and locked."""

    def __init__(self, path: str, mode: Mode, source: str | None = None) -> None:
        """Raises BadOutput. `source`: the digest of the task's source, to compare what is there with."""
        self.path = path
        self.found = Found()
        self._look_at = 0.0
        self.cut = 0
        """How many bytes of a torn last line are cut off."""
        self._mend: Callable[[], object] | None = None
        """What is to be done before anything is written."""
        self._made = not os.path.lexists(path)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            details = os.stat(path) if os.path.exists(path) else None
            if details is not None and not stat.S_ISREG(details.st_mode):
                if mode == "resume" and not stat.S_ISDIR(details.st_mode):
                    raise BadOutput(
                        f"{path} is no regular file: what was written to it cannot be read again. Leave out --resume."
                    )
                flags = os.O_WRONLY | os.O_CLOEXEC
            self._file = os.open(path, flags, 0o666)
        except OSError as error:
            raise BadOutput(f"cannot write {path}: {error.strerror}. Nothing was run.") from error
        try:
            self.regular = stat.S_ISREG(os.fstat(self._file).st_mode)
            """Whether it can be read again."""
            self._prepare(mode, source)
        except BaseException as error:
            os.close(self._file)
            if isinstance(error, OSError):
                raise BadOutput(f"cannot write {path}: {error.strerror}. Nothing was run.") from error
            raise

    def _prepare(self, mode: Mode, source: str | None) -> None:
        if not self.regular:
            return
        self._lock()
        details = os.fstat(self._file)
        if not details.st_nlink:
            raise BadOutput(f"{self.path} has just been removed by another run: try again. Nothing was run.")
        self._good = size = details.st_size
        self._made = self._made and not size
        if mode == "new" and size:
            raise BadOutput(
                f"{self.path} exists and is not empty: --resume goes on with what it lacks, --append adds to it, "
                "--overwrite empties it. Nothing was run."
            )
        if mode == "overwrite":
            self._mend = partial(os.ftruncate, self._file, 0)
        elif size:
            self._read(mode, source)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadOutput(
                f"{self.path} is being written by another run: wait for its end, or give another name. Nothing was run."
            ) from None
        except OSError:  # a file system without locks
            pass

    def _read(self, mode: Mode, source: str | None) -> None:
        """Take in what is there, and see how its end is mended."""
        with open(os.dup(self._file), "rb") as file:
            file.seek(0)
            end = _scan(file, self.found, source) if mode == "resume" else _find_end(file)
        if not end.rest:
            return
        try:
            whole = parse_key(_decode_seen(end.rest).key) is not None
        except (msgspec.MsgspecError, ValueError, RecursionError):
            whole = False
        if whole:  # somebody's editor has left out the last end of line
            self._mend = partial(write_all, self._file, b"\n")
            if mode == "resume":
                self.found.enter(end.rest, source)
        elif not end.rest.startswith(_START[: len(end.rest)]):  # somebody's own line is not ours to cut off
            self._mend = partial(write_all, self._file, b"\n")
            self.found.strange += 1
        else:
            self._mend = partial(os.ftruncate, self._file, end.at)
            self.cut = len(end.rest)

    def begin(self) -> None:
        """Empty or mend it: the run is about to begin. What was refused before that leaves it as it was."""
        try:
            if self._mend is not None:
                self._mend()
            self._good = os.fstat(self._file).st_size
        except OSError as error:
            raise BadOutput(f"cannot write {self.path}: {error.strerror}. Nothing was run.") from error
        self._made = False

    def write(self, data: bytes) -> None:
        """Write whole lines; if that fails, those stay that were written whole. Raises OSError."""
        if monotonic() >= self._look_at:
            self.verify()
        try:
            write_all(self._file, data)
        except OSError:
            if self.regular:
                with contextlib.suppress(OSError):
                    written = max(0, os.fstat(self._file).st_size - self._good)
                    self._good += data.rfind(b"\n", 0, written) + 1
                    os.ftruncate(self._file, self._good)
            raise
        if self.regular:
            self._good += len(data)

    def verify(self) -> None:
        """Raise OSError if what has its name is another file by now: what is written here would be lost."""
        self._look_at = monotonic() + LOOK_EVERY
        if not self.regular:
            return
        try:
            same = os.path.samestat(os.stat(self.path), os.fstat(self._file))
        except FileNotFoundError:
            same = False
        if not same:
            raise OSError(errno.ESTALE, f"{self.path} was removed or replaced while the run was writing to it")

    def close(self) -> None:
        """Close it, and let others have it."""
        if self._file >= 0:
            if self._made:  # before it is unlocked
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
            file, self._file = self._file, -1
            os.close(file)
            self.found.close()


_decode_seen: Final = Decoder(_Seen).decode
_decode_record: Final = Decoder(Record).decode


def _scan(file: IO[bytes], found: Found, source: str | None) -> _End:
    """Take in all whole lines."""
    at = 0
    for line in file:
        if not line.endswith(b"\n"):
            return _End(at, line)
        at += len(line)
        found.enter(line, source)
    return _End(at, b"")


def _find_end(file: IO[bytes]) -> _End:
    """Find the end of the last whole line, from behind."""
    size, rest = file.seek(0, os.SEEK_END), b""
    at = size
    while at:
        at = max(0, at - 65536)
        file.seek(at)
        rest = file.read(size - at - len(rest)) + rest
        newline = rest.rfind(b"\n")
        if newline >= 0:
            return _End(at + newline + 1, rest[newline + 1 :])
    return _End(0, rest)


def read_records(path: str | os.PathLike[str]) -> Iterator[Record]:
    """Yield the records of a file that `ztasks run -o` or `run_batch` has written: of each input the last one.

    Lines that are no records are passed over, as is a last one that was torn. Reads the file twice, lazily, in some 30
    bytes of memory a record. Raises OSError.
    """
    counts = Counts()
    try:
        with open(path, "rb") as file:
            for record in _records(file):
                if (key := parse_key(record.key)) is not None:
                    counts.add(key.number)
            file.seek(0)
            for record in _records(file):
                key = parse_key(record.key)
                if key is None:
                    continue
                left = counts.get(key.number)
                counts.set(key.number, max(left, 1) - 1)
                if left == 1:
                    yield record
    finally:
        counts.close()


def _records(file: IO[bytes]) -> Iterator[Any]:
    for line in file:
        try:
            yield _decode_record(line)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
