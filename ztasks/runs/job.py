"""What is around a task in a worker: what it writes is shown with its input in front, or kept in a file of its own.

What Python code prints goes through `sys.stdout` and `sys.stderr`, which are replaced before anything of the task's is
imported: each line gets its prefix there. What native code and child processes write goes to the descriptors, and so
without a prefix to the run's stderr; but with a directory for logs, the descriptors themselves lead to the job's file.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Final, NamedTuple

from ztasks.io.current import current_job
from ztasks.runs.text import input_text

LABEL_LENGTH: Final = 40

MAX_LINE: Final = 64 * 1024
"""What is longer without a newline is written as several lines."""

Step = tuple[Callable[..., object], tuple[Any, ...]]


class Tag(NamedTuple):
    """What a job is told of itself: the place of its input, and the name of its log."""

    place: int
    """The input's index."""
    log: str


class RunJob:
    """The callable of all jobs of a run. Its first argument is the input's index, or with logs a Tag."""

    def __init__(self, function: Callable[..., Any], logs: str | None, constants: frozenset[str]) -> None:
        """`logs`: the directory for logs; `constants`: the names of arguments that tell nothing of a job."""
        self._function = function
        self._logs = logs
        self._constants = constants

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a worker: call the function itself, so that no traceback shows the task around it."""
        self.__dict__.update(state)
        self._function = getattr(self._function, "ztasks_function", self._function)

    def __call__(self, tag: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run the job."""
        _running[:] = args, kwargs, self._constants
        if self._logs is not None:
            with _log(os.path.join(self._logs, tag.log)):
                return self._call(tag.place, args, kwargs)
        try:
            return self._call(tag, args, kwargs)
        finally:
            for stream in _streams:
                stream.end_line()

    def _call(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._function(*args, **kwargs)


class RunCommand(RunJob):
    """The same for a command."""

    def _call(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._function(index + 1, args, kwargs)


class ElsewhereJob:
    """The same for workers of a head, which serve others too: nothing of theirs is changed, and no label is written."""

    def __init__(self, job: RunJob, steps: Sequence[Step]) -> None:
        """`steps`: what each worker does before its first job of the run."""
        self._job = job
        self._steps = list(steps)

    def __call__(self, index: int, /, *args: Any, **kwargs: Any) -> Any:
        """Run the job."""
        while self._steps:
            function, arguments = self._steps[0]
            function(*arguments)  # if it raises, this job fails, and the next one tries it again
            del self._steps[0]
        return self._job._call(index, args, kwargs)


_running: Final[list[Any]] = []
"""Arguments of the job that is running, or ran last, and which of them are constants."""

_streams: list[JobStream] = []

_kept: list[int] = []
"""Copies of the descriptors to which both streams lead between jobs."""


def prepare(steps: Sequence[Step], labels: bool) -> None:
    """Call once in each worker, before anything else; then the steps are taken."""
    sys.stdout, sys.stderr = streams = JobStream(1, labels=labels), JobStream(2, labels=labels)
    _streams[:] = streams
    _kept[:] = os.dup(1), os.dup(2)
    if not labels:
        _buffer_lines_of_native_code()
    for function, arguments in steps:
        function(*arguments)


class JobStream(io.TextIOBase):
    """Writes whole lines to a descriptor, each with what says whose it is (`labels`)."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, file: int, *, labels: bool) -> None:
        self._file = file
        self._labels = labels
        self._rest: list[str] = []
        self._size = 0
        """How many characters that is."""
        self._bytes: Any = None
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        """Write lines; what is no whole line yet is kept until it is, or the job ends."""
        with self._lock:
            self._rest.append(text)
            self._size += len(text)
            if "\n" in text or "\r" in text or self._size > MAX_LINE:
                lines, newline, rest = "".join(self._rest).rpartition("\n")
                if newline:
                    self._write_lines(lines)
                if "\r" in rest:  # a progress bar: what it overwrites is not shown
                    rest = rest[rest.rstrip("\r").rfind("\r") + 1 :]
                self._rest, self._size = [rest], len(rest)
                if self._size > MAX_LINE:
                    self.end_line()
        return len(text)

    def end_line(self) -> None:
        """Write what is no whole line as if it were one."""
        if self._size:
            with self._lock:
                line, self._rest, self._size = "".join(self._rest), [], 0
                self._write_lines(line.rstrip("\r"))

    def _write_lines(self, lines: str) -> None:
        label = _label() if self._labels else ""
        shown = [line.rstrip("\r").rpartition("\r")[2] for line in lines.split("\n")]
        data = "".join([f"{label}{line}\n" for line in shown]).encode(errors="backslashreplace")
        while data:
            data = data[os.write(self._file, data) :]

    def reconfigure(self, **how: Any) -> None:
        """Do nothing: it is UTF-8, in whole lines, whatever a script asks of its stdout when it starts."""

    def fileno(self) -> int:
        """Return the descriptor, for those who write to it directly."""
        return self._file

    def writable(self) -> bool:
        """Yes."""
        return True

    @property
    def buffer(self) -> BinaryIO:
        """The descriptor, for bytes."""
        if self._bytes is None:
            self._bytes = open(self._file, "wb", buffering=0, closefd=False)  # noqa: SIM115
        return self._bytes  # type: ignore[no-any-return]


def _label() -> str:
    """Return what stands before each line of the running job."""
    if not _running:
        return ""
    args, kwargs, constants = _running
    shown = [_shown(value) for value in args]
    shown += [f"{name}={_shown(value)}" for name, value in kwargs.items() if name not in constants]
    return f"[{input_text(' '.join(shown), LABEL_LENGTH)}] "


def _shown(value: object) -> str:
    """Show an argument about as it was given: a date as its text, not as the call that makes it."""
    if not isinstance(value, str | bytes | list | tuple | dict | set):
        with contextlib.suppress(Exception):  # a broken __str__: what repr makes of it will do
            value = os.fsdecode(value) if isinstance(value, os.PathLike) else str(value)
    return input_text(value, LABEL_LENGTH)


@contextlib.contextmanager
def _log(path: str) -> Iterator[None]:
    """Let both streams lead to a file; it is removed again if nothing was written."""
    job = current_job()
    first = os.O_TRUNC if job is None or job.attempt == 1 else 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    file = os.open(path, flags | first, 0o666)
    try:
        os.dup2(file, 1)
        os.dup2(file, 2)
        try:
            yield
        finally:
            for stream in _streams:
                stream.end_line()
            _flush_native()
    finally:
        for kept, number in zip(_kept, (1, 2), strict=True):
            os.dup2(kept, number)
        written = os.fstat(file).st_size
        os.close(file)
        if not written:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _buffer_lines_of_native_code() -> None:
    """Let C's stdout be written by lines, as on a terminal: in blocks, it would end up in another job's file."""
    with contextlib.suppress(Exception):  # where this is not to be had, `_flush_native` sees to most of it
        import ctypes

        libc, by_line = ctypes.CDLL(None), 1
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, by_line, ctypes.c_size_t(0))


def _flush_native() -> None:
    """Write what C still holds back."""
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).fflush(None)
