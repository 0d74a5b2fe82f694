"""What this host and this process may use."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Final

from ztasks.io.limits import Cgroups, read

PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@cache
def host_name() -> str:
    """Return the name of this host, for records and messages."""
    return os.uname().nodename or "localhost"


def random_number() -> int:
    """Return a random 63-bit number, above 0."""
    return int.from_bytes(os.urandom(8), "big") >> 1 or 1


def default_workers() -> int:
    """Return how many workers to start: the least of CPU affinity, cgroup quota and SLURM_CPUS_PER_TASK.

    Inside a worker it is one, so that an executor made by a task does not multiply processes.
    """
    if "ZTASKS_WORKER" in os.environ:
        return 1
    limits = [cores()]
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if slurm.isdigit() and int(slurm) > 0:
        limits.append(int(slurm))
    return max(1, min(limits))


def cores() -> int:
    """Return how many CPUs this process may use: the lesser of its affinity and its cgroup's quota."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Cgroups().cpus()
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def resident(pid: int) -> int:
    """Return how much memory a process has resident, in bytes; 0 if that cannot be told."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE
    except (OSError, IndexError):
        return peak_memory() if pid == os.getpid() else 0


def is_stopped(pid: int) -> bool:
    """Tell whether a process has been stopped by a signal, and not continued."""
    return read(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1] == ["T"]


def peak_memory() -> int:
    """Return the most memory that this process has had resident, in bytes.

    Not getrusage, where there is /proc: its figure begins with that of the process that started this one.
    """
    for line in read("/proc/self/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory() -> int:
    """Return how much memory this process and its workers may take, in bytes: the least of what the host has, what the
    cgroups allow and what the limit on this process's address space is."""
    import resource

    limits = [os.sysconf("SC_PHYS_PAGES") * PAGE]
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        limits.append(address_space)
    group = Cgroups().memory_limit()
    return min(limits) if group is None else min(*limits, group)
