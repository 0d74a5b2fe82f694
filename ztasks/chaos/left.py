"""What is left behind: processes, threads, descriptors and directories that were not there before.

The directory for temporary files is the test's own, so that other programs' directories are not taken for ours.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection
from time import monotonic, sleep
from typing import Final, NamedTuple

from ztasks.chaos.workers import children, processes, state

GRACE_SECONDS: Final = 1.0
"""How long what has been killed may take to vanish. What is gone at the first look counts as gone at once."""

STEP: Final = 0.005


class Belongings(NamedTuple):
    """What this process holds."""

    threads: frozenset[threading.Thread]
    children: frozenset[int]
    descriptors: frozenset[str]
    entries: frozenset[str]
    """What lies in the directory for temporary files."""


def belongings(temporary: str) -> Belongings:
    """Return what this process holds now; `temporary`: the directory for temporary files."""
    return Belongings(
        frozenset(threading.enumerate()),
        frozenset(children()),
        frozenset(_descriptors()),
        frozenset(entry for entry in os.listdir(temporary) if entry.startswith("ztasks-")),
    )


def left_behind(before: Belongings, temporary: str, workers: Collection[int]) -> list[str]:
    """Return what is there that was not there before, each in words. `workers`: the pids that workers have had."""
    end = monotonic() + GRACE_SECONDS
    while (found := _look(before, temporary, workers)) and monotonic() < end:
        sleep(STEP)
    return found


def _look(before: Belongings, temporary: str, workers: Collection[int]) -> list[str]:
    now = belongings(temporary)
    left = [f"thread {thread.name}" for thread in now.threads - before.threads]
    left += [f"process {pid} ({state(pid)})" for pid in now.children - before.children]
    left += [f"descriptor {which}" for which in now.descriptors - before.descriptors]
    left += [f"directory {os.path.join(temporary, entry)}" for entry in now.entries - before.entries]
    groups = set(workers)
    for pid, (status, _, group) in processes().items():
        if group in groups and status not in "ZX?" and pid not in now.children:
            left.append(f"process {pid} of the group of worker {group}")
    return sorted(left)


def _descriptors() -> list[str]:
    """Return the open descriptors of this process, each with what it leads to."""
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    found = []
    for entry in os.listdir(folder):
        try:
            target = os.readlink(f"{folder}/{entry}")
        except OSError:  # the one that listed the folder, or a system without links there
            target = ""
            try:
                os.fstat(int(entry))
            except OSError:
                continue
        found.append(f"{entry} {target}".rstrip())
    return found
