"""What the operating system allows this process and its workers: descriptors, processes, memory, CPUs.

It is read, not decided upon: `ztasks doctor` says what follows. Cgroups are looked at from the process's own up to the
root, since each of them binds; those of version 1 have a folder per kind, version 2 has one for all.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

UNLIMITED: Final = 2**60
"""Limits from here on (cgroups of version 1 have no word for none) are no limits."""

DESCRIPTORS_BASE: Final = 32
"""How many descriptors a program with an executor has open before the first worker, about."""

HEAD_DESCRIPTORS: Final = 20
"""Measured, with some to spare: what a head opens besides its workers: context, sink, control, wake-up, lock."""

DESCRIPTORS_PER_WORKER: Final = 10
"""Measured: process, pipes, cell, and the sockets of its lane, sink and control with what ZeroMQ needs for them."""

SOCKETS_LIMIT: Final = 1023 - 2
"""ZeroMQ opens 1,023 sockets in a context by default; sink and control are two, each worker's lane is one."""

THREADS_PER_WORKER: Final = 4
"""Its own, one that flushes outcomes, and two of ZeroMQ."""

BARE_WORKER_BYTES: Final = 32 * 1024 * 1024
"""The memory of a worker that has imported nothing of the user's, about."""


class Bound(NamedTuple):
    """A limit, how much of it is used, and who sets it."""

    limit: int
    used: int
    source: str

    @property
    def free(self) -> int:
        """What is left."""
        return max(0, self.limit - self.used)


class Cgroups:
    """The cgroups that this process is in. `proc`, `root`: where to read; only tests give other places."""

    def __init__(self, proc: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> None:
        self._root = root
        self._lines = [line.split(":", 2) for line in read(proc).splitlines() if line.count(":") >= 2]

    def version(self) -> str:
        """Return the version in words."""
        if not self._lines:
            return "none"
        kinds = {"2" if not kinds else "1" for _, kinds, _ in self._lines}
        return "1 and 2" if len(kinds) == 2 else kinds.pop()

    def folders(self, kind: str) -> Iterator[str]:
        """Yield the folders that may hold this kind's files, for each version from the innermost out."""
        for _, kinds, name in self._lines:
            if kinds and kind not in kinds.split(","):
                continue
            tops = [self._root, os.path.join(self._root, "unified")] if not kinds else []
            if kinds:
                tops = [os.path.join(self._root, kind), os.path.join(self._root, kinds)]
            for top in dict.fromkeys(tops):
                folder = os.path.normpath(os.path.join(top, name.lstrip("/")))
                if not f"{folder}/".startswith(f"{top}/"):
                    folder = top  # the group lies outside of what this container sees
                while f"{folder}/".startswith(f"{top}/"):
                    yield folder
                    folder = os.path.dirname(folder)

    def memory(self) -> Bound | None:
        """Return the memory limit that leaves the least; caches that the kernel would give back do not count."""
        return min(self._memory(), key=lambda bound: bound.free, default=None)

    def memory_limit(self) -> int | None:
        """Return the least limit of memory, however much of it is used."""
        return min((bound.limit for bound in self._memory()), default=None)

    def _memory(self) -> list[Bound]:
        names = [("memory.max", "memory.current"), ("memory.high", "memory.current")]
        names.append(("memory.limit_in_bytes", "memory.usage_in_bytes"))
        return self._bounds("memory", names, _reclaimable)

    def processes(self) -> Bound | None:
        """Return the limit of processes and threads that leaves the least."""
        bounds = self._bounds("pids", [("pids.max", "pids.current")], lambda folder: 0)
        return min(bounds, key=lambda bound: bound.free, default=None)

    def cpus(self) -> float | None:
        """Return the least quota, in CPUs."""
        found = []
        for folder in self.folders("cpu"):
            text = read(f"{folder}/cpu.max")
            text = text or f"{read(f'{folder}/cpu.cfs_quota_us')} {read(f'{folder}/cpu.cfs_period_us')}"
            with contextlib.suppress(ValueError, ZeroDivisionError):
                quota, period = text.split()
                if quota not in ("max", "-1"):
                    found.append(float(quota) / float(period))
        return min(found, default=None)

    def oom_kills(self) -> int:
        """Return how often the kernel has killed something in this process's own cgroup for want of memory."""
        for folder in self.folders("memory"):
            text = read(f"{folder}/memory.events") or read(f"{folder}/memory.oom_control")
            if text:
                return field(text, "oom_kill")
        return 0

    def _bounds(self, kind: str, names: list[tuple[str, str]], reclaimable: Callable[[str], int]) -> list[Bound]:
        found = []
        for folder in self.folders(kind):
            for limit_name, used_name in names:
                limit, used = number(read(f"{folder}/{limit_name}")), number(read(f"{folder}/{used_name}"))
                if limit is not None and limit < UNLIMITED:
                    used = max(0, (used or 0) - reclaimable(folder))
                    found.append(Bound(limit, used, f"{folder}/{limit_name}"))
        return found


def host_memory(path: str = "/proc/meminfo") -> Bound | None:
    """Return the host's memory; None where that cannot be told."""
    text = read(path).replace(":", "")
    total, available = field(text, "MemTotal") * 1024, field(text, "MemAvailable") * 1024
    return Bound(total, total - available, "this host") if total and available else None


def open_descriptors() -> int:
    """Return how many descriptors this process has open."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return len(os.listdir(folder)) - 1  # one is the look itself
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]  # there is not even one left to look with


def user_threads(proc: str = "/proc") -> int | None:
    """Return how many threads of this user there are, as RLIMIT_NPROC counts them; None where that cannot be told."""
    user, count = os.getuid(), 0
    try:
        names = [name for name in os.listdir(proc) if name.isdigit()]
    except OSError:
        return None
    for name in names:
        text = read(f"{proc}/{name}/status").replace(":", "")
        if text and field(text, "Uid") == user:
            count += field(text, "Threads")
    return count or None


def read(path: str) -> str:
    """Return a small file's text; empty if it cannot be read."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def number(text: str) -> int | None:
    """Return the number that a file holds; None for `max`, or if there is none."""
    text = text.strip()
    return int(text) if text.isdigit() else None


def field(text: str, name: str) -> int:
    """Return the number behind a word at the beginning of a line."""
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name and words[1].isdigit():
            return int(words[1])
    return 0


def _reclaimable(folder: str) -> int:
    text = read(f"{folder}/memory.stat")
    return field(text, "total_inactive_file") or field(text, "inactive_file")
