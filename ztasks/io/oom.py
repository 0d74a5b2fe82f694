"""Evidence of the kernel's out-of-memory killer: it says nothing to those it kills, but it counts."""

from __future__ import annotations

import os
from typing import Final

VMSTAT: Final = "/proc/vmstat"
CGROUPS: Final = "/sys/fs/cgroup"


class OomCounters:
    """The counters of this process's cgroup (version 2, or 1) and of the whole host, as they were when last looked at.

    Workers are in the cgroup of their parent. The host's counter also moves when others are killed, and says so.
    """

    def __init__(self, proc: str = "/proc/self/cgroup", root: str = CGROUPS, vmstat: str = VMSTAT) -> None:
        self._group = _counter_file(proc, root)
        self._vmstat = vmstat
        self._in_group = _count(self._group)
        self._on_host = _count(self._vmstat)

    def evidence(self) -> str:
        """Say whether the killer has struck since the last call; empty if not."""
        in_group, on_host = _count(self._group), _count(self._vmstat)
        struck_group, self._in_group = in_group > self._in_group, in_group
        struck_host, self._on_host = on_host > self._on_host, on_host
        if struck_group:
            return f"the out-of-memory killer struck in its cgroup ({self._group}: oom_kill {in_group})"
        if struck_host:
            return f"the out-of-memory killer struck on this host meanwhile ({self._vmstat}: oom_kill {on_host})"
        return ""


def _counter_file(proc: str, root: str) -> str:
    """Return the file that counts the kills in this process's memory cgroup; empty if there is none."""
    for line in _read(proc).splitlines():
        _, controllers, name = line.split(":", 2)
        if not controllers:
            found = os.path.join(root, name.lstrip("/"), "memory.events")
        elif "memory" in controllers.split(","):
            found = os.path.join(root, "memory", name.lstrip("/"), "memory.oom_control")
        else:
            continue
        if os.path.exists(found):
            return found
    return ""


def _count(path: str) -> int:
    """Return what a file of `name number` lines says after oom_kill; 0 if it does not."""
    for line in _read(path).splitlines():
        name, _, number = line.partition(" ")
        if name == "oom_kill" and number.strip().isdigit():
            return int(number)
    return 0


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
