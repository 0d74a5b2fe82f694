"""What the workers run: the task, the faults that are planned for the job, and a note of each execution in a file.

The notes are taken outside the executor's own books: before and after each execution one record of fixed size is
appended to one file, in one write, so that it is there even if the worker dies at the next instruction. What the job
returns travels as bytes, with the number of the job, that of the execution and a checksum: so the caller can tell of
each result whether it is one that an execution of this very job has computed, byte for byte.

Nothing heavy is imported here: every worker loads this module.
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pickle import PickleBuffer
from struct import Struct
from time import monotonic, monotonic_ns, perf_counter, sleep
from typing import Any, Final
from zlib import crc32

from ztasks.chaos.plan import JOB_FAULTS, MILD, JobFault
from ztasks.errors import RemoteError, ZtasksError
from ztasks.wire.payload import dump, load

RECORD: Final = Struct("<B3xIIIQQ")
"""Kind, number of the job, pid, checksum, number of the execution, CLOCK_MONOTONIC nanoseconds."""

BEGUN: Final = 1
RETURNED: Final = 2
"""Checksum: that of the result."""
RAISED: Final = 3
"""Checksum: that of the exception's type."""
FAULT: Final = 4
"""A planned fault is about to happen. Checksum: its place in JOB_FAULTS."""

HEADER: Final = Struct("<IIQ")
"""What stands before each result: number of the job, checksum, number of the execution."""

EXIT_CODE: Final = 77
HANG_SECONDS: Final = 3600.0


class InjectedFailure(ZtasksError):
    """Raised by the chaos test in the place of the task, as planned; the job is run again."""


class Account:
    """What a worker needs to run jobs and to give an account of them."""

    def __init__(
        self, path: str, markers: str, function: Callable[..., Any], faults: Mapping[int, tuple[JobFault, ...]]
    ) -> None:
        self.function = function
        self.faults = faults
        self._markers = markers
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._pid = os.getpid()
        self._serial = int.from_bytes(os.urandom(4), "little") << 32
        """Random in its upper half: another worker may get the pid of one that has gone."""

    def next_serial(self) -> int:
        """Return the number of the execution that is about to begin."""
        self._serial += 1
        return self._serial

    def note(self, kind: int, number: int, serial: int, checksum: int = 0) -> None:
        """Append a record."""
        os.write(self._file, RECORD.pack(kind, number, self._pid, checksum, serial, monotonic_ns()))

    def next_fault(self, number: int) -> JobFault | None:
        """Return the next fault of a job that keeps it from ending well; each happens once, whichever worker has it."""
        for place, fault in enumerate(self.faults[number]):
            if fault.kind in MILD:
                break
            try:
                os.close(os.open(f"{self._markers}/{number}.{place}", os.O_CREAT | os.O_EXCL, 0o600))
            except FileExistsError:
                continue
            return fault
        return None


_account: Account | None = None


def set_up(
    path: str,
    markers: str,
    find: tuple[Callable[..., object], tuple[Any, ...]] | None,
    pickled: bytes,
    faults: Mapping[int, tuple[JobFault, ...]],
) -> None:
    """Make a worker ready (its initializer). `find`: what must be called before the task can be unpickled."""
    global _account
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if find is not None:
        find[0](*find[1])
    function = load(pickled)
    _account = Account(path, markers, getattr(function, "ztasks_function", function), faults)


def run(item: Any) -> Any:
    """Run one job. `item`: its number, which is the argument too; or its number, arguments, keyword arguments."""
    account = _account
    assert account is not None, "set_up() has not been called"
    number, args, kwargs = (item, (item,), {}) if type(item) is int else item
    serial = account.next_serial()
    try:
        account.note(BEGUN, number, serial)
        if number in account.faults:
            return _run_with_faults(account, number, serial, args, kwargs)
        body = _body(account.function(*args, **kwargs))
        checksum = crc32(body)
        account.note(RETURNED, number, serial, checksum)
        return HEADER.pack(number, checksum, serial) + body
    except BaseException as error:
        account.note(RAISED, number, serial, name_checksum(type_name(error)))
        raise


def _run_with_faults(account: Account, number: int, serial: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    fault = account.next_fault(number)
    if fault is not None and not fault.late:
        _commit(account, number, serial, fault)
    body = _body(account.function(*args, **kwargs))
    if fault is not None:
        _commit(account, number, serial, fault)
    padding = bytearray()
    for mild in account.faults[number]:
        if mild.kind in MILD:
            account.note(FAULT, number, serial, JOB_FAULTS.index(mild.kind))
        if mild.kind == "slow":
            sleep(mild.amount)
        elif mild.kind == "large":
            padding = bytearray(number.to_bytes(8, "little") * (int(mild.amount) // 8))
    checksum = crc32(padding, crc32(body))
    account.note(RETURNED, number, serial, checksum)
    head = HEADER.pack(number, checksum, serial) + body
    return (head, PickleBuffer(padding)) if padding else head


def _commit(account: Account, number: int, serial: int, fault: JobFault) -> None:
    """Carry out a fault that ends this execution."""
    account.note(FAULT, number, serial, JOB_FAULTS.index(fault.kind))
    if fault.kind == "fail":
        raise InjectedFailure(f"the chaos test lets job {number} fail, as planned")
    if fault.kind == "exit":
        os._exit(EXIT_CODE)
    if fault.kind == "segfault":
        ctypes.string_at(0)
    end = monotonic() + HANG_SECONDS
    while monotonic() < end:
        try:
            sleep(end - monotonic())
        except BaseException:
            if not fault.late:
                raise


def _body(value: object) -> bytes:
    """Return a result as bytes: pickled here and now, as the worker would do it."""
    data, buffers = dump(value, answering=True)
    return b"".join((data, *buffers)) if buffers else data  # type: ignore[arg-type]


def receive(delivered: Any) -> tuple[int, int, int, bytes]:
    """In the caller's process: return number of the job, checksum, number of the execution, and the body.

    Raises ValueError if the result is damaged.
    """
    head, padding = delivered if type(delivered) is tuple else (delivered, b"")
    number, checksum, serial = HEADER.unpack_from(head)
    body = head[HEADER.size :]
    if crc32(padding, crc32(body)) != checksum:
        raise ValueError("its checksum does not fit")
    return number, checksum, serial, body


def type_name(error: BaseException) -> str:
    """Return the name of an exception's type, or of the type that it stands for."""
    if isinstance(error, RemoteError):
        return error.type_name
    kind = type(error)
    plain = kind.__module__ in ("builtins", "__main__")
    return kind.__qualname__ if plain else f"{kind.__module__}.{kind.__qualname__}"


def name_checksum(name: str) -> int:
    """Return a checksum that stands for the name of a type."""
    return crc32(name.encode(errors="backslashreplace"))


# --- the built-in task ---


class Work:
    """The built-in task: spins for some time, then gives an answer that the caller can verify."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, number: int) -> bytes:
        """Spin, and answer."""
        if self.seconds:
            end = perf_counter() + self.seconds
            while perf_counter() < end:
                pass
        return answer(number)


def answer(number: int) -> bytes:
    """Return what the built-in task must return for a number."""
    return blake2b(number.to_bytes(8, "little"), digest_size=16).digest()
