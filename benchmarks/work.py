"""The functions that contestants run as jobs. Every worker loads this module: it imports nothing heavy."""

import os
import time
from typing import Any


def noop(item: int) -> int:
    """Return the argument: all the time that a job takes is overhead."""
    return item


def busy(seconds: float) -> float:
    """Spin until `seconds` have passed on the clock; return the seconds it really took."""
    started = time.perf_counter()
    end = started + seconds
    while (now := time.perf_counter()) < end:
        pass
    return now - started


def busy_cpu(seconds: float) -> float:
    """Spin until this thread has used `seconds` of CPU time; return the CPU seconds it really used."""
    started = time.thread_time()
    end = started + seconds
    while (now := time.thread_time()) < end:
        pass
    return now - started


def sleepy(seconds: float) -> float:
    """Sleep `seconds`; return the seconds it really took."""
    started = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - started


def length(array: Any) -> int:
    """Number of elements of an array: the array travels, the work is nothing."""
    return int(array.size)


def wait_for_file(path: str) -> None:
    """Keep the worker occupied until `path` exists."""
    while not os.path.exists(path):
        time.sleep(0.02)


def die(code: int) -> None:
    """End the process without a word."""
    os._exit(code)
