"""Files of pickled results: for what JSON cannot hold.

A file is a sequence of pickles, each of `(key, pickled result)`. So it can be looked through without running code from
it, and a last entry that was torn by a kill is found and cut off.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import re
from collections.abc import Iterator
from typing import IO, Any, Final, NoReturn

from ztasks.errors import ZtasksError
from ztasks.runs.output import write_all
from ztasks.wire.payload import dump, load

_BEGINNING: Final = re.compile(
    rb"|\x80|\x80\x05|\x80\x05\x95.{0,8}|\x80\x05\x95.{8}\x8c[\x10-\x1b]?[0-9a-f]{0,16}", re.DOTALL
)
"""What a file of ours begins with, of whose first entry a kill may have left any part."""

_BEGINNING_BYTES: Final = 29


class BadPickles(ZtasksError):
    """A file of pickled results cannot be written, or is none. The caller's fault; nothing was run."""


class PickleFile:
    """A file that results are added to. It is made when the first one comes, readable by this user only."""

    def __init__(self, path: str, *, opened: bool = False) -> None:
        """`opened`: open it now, so that a wrong path is told before anything runs. Raises BadPickles."""
        self.path = path
        self.saved = 0
        self._file = -1
        self._made = False
        self._given = opened
        if opened:
            try:
                self._open()
            except OSError as error:
                raise BadPickles(f"cannot write {path}: {error.strerror}. Nothing was run.") from error

    def add(self, key: str, value: object) -> None:
        """Save a result. Raises OSError, and whatever pickling it raises."""
        pickled = dump(value)
        buffers: list[Any] = list(pickled.buffers)
        entry = pickle.dumps((key, pickled.data, [bytes(memoryview(buffer)) for buffer in buffers]), 5)
        if self._file < 0:
            self._open()
        size = os.fstat(self._file).st_size
        try:
            write_all(self._file, entry)
        except OSError:
            os.ftruncate(self._file, size)
            raise
        self.saved += 1

    def _open(self) -> None:
        self._made = not os.path.lexists(self.path)
        follow = 0 if self._given else os.O_NOFOLLOW  # a link that nobody has asked for may lead anywhere
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | follow, 0o600)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadPickles(f"{self.path} is being written by another run: give another name.") from None
            except OSError:  # a file system without locks
                pass
            if not os.fstat(file).st_nlink:
                raise BadPickles(f"{self.path} has just been removed by another run: try again.")
            with open(os.dup(file), "rb") as stream:
                stream.seek(0)
                end = 0
                for _ in _entries(stream):
                    end = stream.tell()
                if not end and not _is_torn(stream):
                    raise BadPickles(f"{self.path} holds something else than pickled results: give another name.")
            os.ftruncate(file, end)
        except BaseException:
            os.close(file)
            raise
        self._file = file

    def close(self) -> None:
        """Close it."""
        if self._file >= 0:
            file, self._file = self._file, -1
            if self._made and not os.fstat(file).st_size:
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
            os.close(file)


def read_pickles(path: str | os.PathLike[str]) -> Iterator[tuple[str, Any]]:
    """Yield the key and the result of each entry that `--pickle` has written, in their order.

    Unpickling runs code: read only what you trust. Raises OSError, and what unpickling a result raises.
    """
    with open(path, "rb") as stream:
        for key, data, buffers in _entries(stream):
            yield key, load(data, [bytearray(buffer) for buffer in buffers])


def _entries(stream: IO[bytes]) -> Iterator[tuple[str, bytes, list[bytes]]]:
    """Yield the entries up to the end, or to where one is torn; runs no code of theirs."""
    while True:
        try:
            entry = _Plain(stream).load()
        except OSError:
            raise
        except Exception:  # noqa: BLE001 - bytes that are no pickle raise anything, MemoryError among it
            return
        if not (isinstance(entry, tuple) and len(entry) == 3 and isinstance(entry[1], bytes)):
            return
        yield entry


def _is_torn(stream: IO[bytes]) -> bool:
    """Tell whether a file without a whole entry is empty, or the beginning of one of ours."""
    stream.seek(0)
    if not _BEGINNING.fullmatch(stream.read(_BEGINNING_BYTES)):
        return False
    stream.seek(0)
    try:
        _Plain(stream).load()
    except EOFError:
        return True
    except pickle.UnpicklingError as error:
        return "truncated" in str(error)
    return False


class _Plain(pickle.Unpickler):
    """Loads nothing but plain values."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"{module}.{name} is not plain")
