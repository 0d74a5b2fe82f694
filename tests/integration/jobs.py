"""Task functions that workers import."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import ztasks

STATE: list[Any] = []
"""What an initializer leaves in its worker."""


def square(number: int) -> int:
    return number * number


def add(left: int, right: int, *, extra: int = 0) -> int:
    return left + right + extra


def echo(value: Any) -> Any:
    return value


def keyword_only(*, value: Any) -> Any:
    return value


@ztasks.task
def measure(text: str, *, times: int = 1) -> int:
    """How long a text is."""
    return len(text) * times


@ztasks.task(retries=3, backoff=0.01)
def flaky(path: str, failures: int) -> int:
    """Fail so many times, as counted in a file, then return the attempt's number."""
    with open(path, "ab") as file:
        file.write(b".")
    if os.path.getsize(path) <= failures:
        raise ConnectionError(f"attempt {os.path.getsize(path)}")
    job = ztasks.current_job()
    assert job is not None
    return job.attempt


class Adder:
    """An instance, whose methods and which itself can be jobs."""

    def __init__(self, start: int) -> None:
        self.start = start

    def add(self, number: int) -> int:
        return self.start + number

    def __call__(self, number: int) -> int:
        return self.start + number

    @classmethod
    def made(cls, number: int) -> int:
        return cls(number).start

    @staticmethod
    def double(number: int) -> int:
        return 2 * number

    @ztasks.task
    def decorated(self, number: int) -> int:
        return self.start * number


add_ten = functools.partial(add, 10)


def fail(error: BaseException) -> None:
    raise error


def fail_if_odd(number: int) -> int:
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number


def pid(_: Any = None) -> int:
    return os.getpid()


def job_facts() -> tuple[str, int, int, Any] | None:
    job = ztasks.current_job()
    return None if job is None else (job.id, job.attempt, job.max_attempts, job.deadline)


def initialize(*values: Any) -> None:
    STATE.append(values)


def state() -> list[Any]:
    return STATE


def broken_initializer(why: str) -> None:
    raise OSError(f"no licence: {why}")


def wait_for_file(path: str, seconds: float = 30.0) -> bool:
    """Block until a file is there: how a test holds a worker, and lets it go."""
    end = time.monotonic() + seconds
    while not os.path.exists(path):
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def hold(started: str, release: str) -> str:
    """Say that the job has begun, by a file, then block until the other file is there."""
    with open(started, "w") as file:
        file.write(str(os.getpid()))
    assert wait_for_file(release)
    return "released"


def slow(number: int, seconds: float = 0.02) -> int:
    time.sleep(seconds)
    return number


def count_in_file(item: Any, path: str) -> Any:
    """Note in a file that this item has been run."""
    with open(path, "ab") as file:
        file.write(b"%s\n" % repr(item).encode())
    return item


def generator() -> Iterator[int]:
    yield 1


def lock() -> Any:
    return threading.Lock()


def nested(number: int) -> tuple[int, int]:
    """Use an executor of its own."""
    with ztasks.Executor() as executor:
        return executor.max_workers, sum(executor.map(square, range(number)))


def deeply_nested(depth: int) -> int:
    if depth == 0:
        return 1
    with ztasks.Executor() as executor:
        return executor.max_workers + executor.submit(deeply_nested, depth - 1).result()


BUFFER: list[int] = [0]


def reused_buffer(number: int) -> list[int]:
    """Return the same list each time, changed."""
    BUFFER[0] = number
    return BUFFER


class NotLoadable:
    """Pickles well, and fails to unpickle: at the caller, or only in a worker."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __reduce__(self) -> Any:
        return _load, (self.where,)


def _load(where: str) -> NotLoadable:
    here = "worker" if "ZTASKS_WORKER" in os.environ else "caller"
    if here == where:
        raise ZeroDivisionError(f"does not load in the {here}")
    return NotLoadable(where)


def make_not_loadable(number: int, where: str = "caller") -> Any:
    return NotLoadable(where) if number == 3 else number


def unpicklable_if_three(number: int) -> Any:
    return threading.Lock() if number == 3 else (number,)


class TwoArguments(Exception):
    """An exception whose constructor breaks unpickling."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Custom(Exception):
    """An exception with a state of its own."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def raise_two_arguments() -> None:
    raise TwoArguments(7, "seven")


def raise_custom() -> None:
    raise Custom(7)


def raise_chain() -> None:
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise ValueError("outer") from error


def raise_group() -> None:
    raise ExceptionGroup("several", [ValueError("one"), TypeError("two")])


def raise_with_note() -> None:
    error = ValueError("with a note")
    error.add_note("the note itself")
    raise error


def deep(levels: int) -> None:
    if levels == 0:
        raise RuntimeError("at the bottom")
    deep(levels - 1)


def writable(array: Any) -> bool:
    array[0] = 1
    return bool(array.flags.writeable)


def sum_array(array: Any) -> float:
    return float(array.sum())


def make_array(size: int) -> Any:
    import numpy as np

    return np.arange(size, dtype=np.float64)
