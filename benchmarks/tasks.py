"""The tasks of the command lines: `ztasks run benchmarks/tasks.py:noop ...`. Every worker loads this file."""

import time
from typing import Any


def noop(line: Any) -> Any:
    """Return the argument."""
    return line


def wait(seconds: float) -> None:
    """Sleep as `sleep` does, without a program for it."""
    time.sleep(seconds)


def measure(number: int, text: str) -> int:
    """What becomes of a line of JSON: a few bytes."""
    return len(text)
