"""What this host and this process may use."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


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


def _cgroup_quota(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the least whole number of CPUs that the cgroups (version 2, or 1) allow; None without a quota."""
    quotas: list[float] = []
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root if not controllers else root / "cpu"
        folder = top / name.lstrip("/")
        for place in (folder, *folder.parents):
            quota = _read_quota(place)
            if quota is not None:
                quotas.append(quota)
            if place == top:
                break
    return max(1, int(min(quotas))) if quotas else None


def _read_quota(folder: Path) -> float | None:
    """Read one cgroup's quota in CPUs."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        return None if quota in ("max", "-1") else float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
