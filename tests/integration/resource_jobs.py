"""Jobs that tell what they were given, and when they ran; workers import them."""

from __future__ import annotations

import os
import time
from typing import Any

BORN = time.monotonic()
"""When this module was imported: in a worker, by its initializer."""


def note(path: str, text: object) -> None:
    with open(path, "ab") as file:
        file.write(f"{text}\n".encode())


def occupy(path: str, share: int, seconds: float) -> int:
    """Note on one monotonic clock from when to when it has run, and what it took meanwhile."""
    begin = time.monotonic()
    time.sleep(seconds)
    note(path, f"{begin} {time.monotonic()} {share}")
    return share


def device(_: Any = None) -> tuple[int, str | None]:
    time.sleep(0.005)
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")


def prepare(path: str) -> None:
    """An initializer: note which process it has run in."""
    note(path, os.getpid())


def born(_: Any = None) -> tuple[int, float]:
    return os.getpid(), BORN


def pid(_: Any = None) -> int:
    return os.getpid()


def die(_: Any = None) -> None:
    os._exit(1)


def hold(started: str, release: str) -> int:
    note(started, os.getpid())
    while not os.path.exists(release):
        time.sleep(0.002)
    return os.getpid()
