"""What this host and this process may use."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Final

PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@cache
def host_name() -> str:
    """Return the name of this host, for records and messages."""
    return os.uname().nodename or "localhost"


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
    quota = _cgroup_quota()
    return affinity if quota is None else max(1, min(affinity, quota))


def _cgroup_quota(proc: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> int | None:
    """Return the least whole number of CPUs that the cgroups (version 2, or 1) allow; None without a quota."""
    quotas: list[float] = []
    lines = _read(proc).splitlines()
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root if not controllers else os.path.join(root, "cpu")
        folder = os.path.normpath(os.path.join(top, name.lstrip("/")))
        while folder.startswith(top):
            quota = _quota(folder)
            if quota is not None:
                quotas.append(quota)
            folder = os.path.dirname(folder)
    return max(1, int(min(quotas))) if quotas else None


def _quota(folder: str) -> float | None:
    """Read one cgroup's quota in CPUs."""
    text = _read(os.path.join(folder, "cpu.max"))
    if not text:
        text = _read(os.path.join(folder, "cpu.cfs_quota_us")) + " " + _read(os.path.join(folder, "cpu.cfs_period_us"))
    try:
        quota, period = text.split()
        return None if quota in ("max", "-1") else float(quota) / float(period)
    except (ValueError, ZeroDivisionError):
        return None


def resident(pid: int) -> int:
    """Return how much memory a process has resident, in bytes; 0 if that cannot be told."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * PAGE
    except (OSError, IndexError):
        return peak_memory() if pid == os.getpid() else 0


def peak_memory() -> int:
    """Return the most memory that this process has had resident, in bytes.

    Not getrusage, where there is /proc: its figure begins with that of the process that started this one.
    """
    for line in _read("/proc/self/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory() -> int:
    """Return how much memory this process and its workers may take, in bytes: the least of what the host has, what the
    cgroups (version 2, or 1) allow and what the limit on this process's address space is."""
    import resource

    limits = [os.sysconf("SC_PHYS_PAGES") * PAGE]
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        limits.append(address_space)
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        if not controllers or "memory" in controllers.split(","):
            limits += _memory_limits("/sys/fs/cgroup" if not controllers else "/sys/fs/cgroup/memory", name)
    return min(limits)


def _memory_limits(top: str, name: str) -> list[int]:
    """Return the limits of a cgroup and of those that it is in."""
    limits = []
    folder = os.path.normpath(os.path.join(top, name.lstrip("/")))
    while folder.startswith(top):
        for file in ("memory.max", "memory.limit_in_bytes"):
            text = _read(os.path.join(folder, file)).strip()
            if text.isdigit():
                limits.append(int(text))
        folder = os.path.dirname(folder)
    return limits


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
