"""Jobs for `test_surroundings`; workers import them."""

from __future__ import annotations

import os
import time


def wall_clock(count: int) -> list[float]:
    return [time.time() for _ in range(count)]


def fail_twice(path: str) -> str:
    with open(path, "ab") as file:
        file.write(b"x")
    if os.path.getsize(path) < 3:
        raise OSError("not yet")
    return "at last"


def slow_pid() -> int:
    time.sleep(0.05)
    return os.getpid()
