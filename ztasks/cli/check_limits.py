"""Checks of what the system allows: descriptors, processes, memory, shared memory, CPUs; and how many workers fit."""

from __future__ import annotations

import os
import resource
from typing import Final

from ztasks.cli.findings import OK, PROBLEM, WARNING, Finding, size
from ztasks.io.hostinfo import default_workers
from ztasks.io.limits import (
    BARE_WORKER_BYTES,
    DESCRIPTORS_BASE,
    DESCRIPTORS_PER_WORKER,
    SOCKETS_LIMIT,
    THREADS_PER_WORKER,
    Bound,
    Cgroups,
    host_memory,
    open_descriptors,
    user_threads,
)

SHARED_DEFAULT: Final = 64 * 1024 * 1024
"""What Docker gives to /dev/shm."""

ROOMY_WORKER_BYTES: Final = 4 * BARE_WORKER_BYTES
"""With less memory than this for each worker, warn: a job that imports NumPy takes as much."""

SMALL_ADDRESS_SPACE: Final = 1024**3

WHY_DESCRIPTORS: Final = f"Each worker takes {DESCRIPTORS_PER_WORKER} descriptors and one socket of the head."
WHY_PROCESSES: Final = f"Each worker is a process with {THREADS_PER_WORKER} threads; numeric libraries start more."
WHY_MEMORY: Final = "Workers share this memory; when it runs out, the kernel kills one, and its job is run again."
WHY_SHARED: Final = "ztasks does not use it, but jobs may: NumPy's and PyTorch's shared arrays, multiprocessing."
WHY_CPUS: Final = (
    "As many workers are started by default: the least of CPU affinity, cgroup quota and SLURM_CPUS_PER_TASK."
)


def descriptors(workers: int) -> list[Finding]:
    """Check whether the descriptors suffice for so many workers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [judge_descriptors(workers, soft, hard, open_descriptors())]


def judge_descriptors(workers: int, soft: int, hard: int, taken: int) -> Finding:
    """Judge the limits of descriptors; -1 is none."""
    fit = SOCKETS_LIMIT
    if soft != resource.RLIM_INFINITY:
        fit = min(fit, max(0, (soft - taken - DESCRIPTORS_BASE) // DESCRIPTORS_PER_WORKER))
    details = {"soft": soft, "hard": hard, "open": taken, "workers_that_fit": fit, "workers_wanted": workers}
    found = f"{_limit(soft)} (hard limit {_limit(hard)}): enough for {fit:,} workers"
    if workers > SOCKETS_LIMIT:
        why = f"{WHY_DESCRIPTORS} ZeroMQ opens at most 1,023 sockets in a process."
        cure = f"Use at most {SOCKETS_LIMIT:,} workers in an executor."
        return Finding("descriptors", PROBLEM, f"{found}; {workers:,} are wanted", why, cure, details=details)
    enough = DESCRIPTORS_BASE + taken + DESCRIPTORS_PER_WORKER * 2 * workers
    cure = f"ulimit -n {_round_up(enough)}"
    if hard != resource.RLIM_INFINITY and enough > hard:
        ways = f"limits.conf, LimitNOFILE= of systemd, docker run --ulimit nofile={_round_up(enough)}"
        cure = f"Raise the hard limit ({ways}), or use fewer workers."
    if fit < workers:
        return Finding(
            "descriptors", PROBLEM, f"{found}; {workers:,} are wanted", WHY_DESCRIPTORS, cure, details=details
        )
    if fit < 2 * workers and fit < SOCKETS_LIMIT:
        found += "; more would be good, since files that your program opens count, too"
        return Finding("descriptors", WARNING, found, WHY_DESCRIPTORS, cure, details=details)
    return Finding("descriptors", OK, found, WHY_DESCRIPTORS, details=details)


def _round_up(number: int) -> int:
    """Return the next power of two that is at least 1,024: limits are usually given so."""
    return max(1024, 1 << (number - 1).bit_length())


def _limit(number: int) -> str:
    return "unlimited" if number == resource.RLIM_INFINITY else f"{number:,}"


def processes(workers: int) -> list[Finding]:
    """Check whether so many more processes may be started."""
    bounds = []
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    taken = user_threads()
    if soft != resource.RLIM_INFINITY and taken is not None and os.geteuid() != 0:  # root is exempt
        bounds.append(Bound(soft, taken, "ulimit -u"))
    group = Cgroups().processes()
    if group is not None:
        bounds.append(group)
    return [judge_processes(workers, min(bounds, key=lambda bound: bound.free, default=None))]


def judge_processes(workers: int, bound: Bound | None) -> Finding:
    """Judge the tightest limit of processes and threads."""
    if bound is None:
        return Finding("processes", OK, "no limit that binds", WHY_PROCESSES)
    fit = bound.free // THREADS_PER_WORKER
    details = {**bound._asdict(), "workers_that_fit": fit, "workers_wanted": workers}
    found = f"{bound.used:,} of {bound.limit:,} threads in use ({bound.source})"
    if bound.source == "ulimit -u":
        cure = "End what you do not need, raise the limit (ulimit -u, limits.conf), or use fewer workers."
    else:
        cure = "Raise the limit (TasksMax= of systemd, docker run --pids-limit), or use fewer workers."
    if fit < workers:
        found += f": {fit:,} workers fit, {workers:,} are wanted"
        return Finding("processes", PROBLEM, found, WHY_PROCESSES, cure, details=details)
    if fit < 4 * workers:
        found += f": {fit:,} workers fit that start no further threads"
        return Finding("processes", WARNING, found, WHY_PROCESSES, cure, details=details)
    return Finding("processes", OK, found, WHY_PROCESSES, details=details)


def memory(workers: int) -> list[Finding]:
    """Check how much memory there is for so many workers."""
    groups = Cgroups()
    findings = [judge_memory(workers, host_memory(), groups.memory(), groups.oom_kills())]
    space = min(resource.getrlimit(resource.RLIMIT_AS)[0], resource.getrlimit(resource.RLIMIT_DATA)[0], key=_as_limit)
    if _as_limit(space) < SMALL_ADDRESS_SPACE:
        why = (
            "It is the limit of each worker, too: what cannot be allocated is a MemoryError, or a crash in native code."
        )
        cure = "ulimit -v unlimited; ulimit -d unlimited"
        found = f"the address space is limited to {size(space)} (ulimit -v, ulimit -d)"
        findings.append(Finding("memory", WARNING, found, why, cure, details={"address_space_bytes": space}))
    return findings


def _as_limit(number: int) -> float:
    return float("inf") if number == resource.RLIM_INFINITY else number


def judge_memory(workers: int, host: Bound | None, group: Bound | None, kills: int) -> Finding:
    """Judge the memory that is left on the host and in the cgroup; `kills`: by the kernel, in this cgroup."""
    bounds = [bound for bound in (host, group) if bound is not None]
    details = {
        "host": host._asdict() if host else None,
        "cgroup": group._asdict() if group else None,
        "oom_kills": kills,
        "workers_wanted": workers,
    }
    if not bounds:
        return Finding("memory", OK, "unknown", WHY_MEMORY, details=details)
    told = []
    if group is not None:
        told.append(f"{size(group.free)} of the cgroup's {size(group.limit)} free ({group.source})")
    if host is not None:
        told.append(f"{size(host.free)} of the host's {size(host.limit)} free")
    found, each = ", ".join(told), min(bound.free for bound in bounds) / workers
    cure = "Free memory, raise the cgroup's limit (docker run --memory, MemoryMax= of systemd), or use fewer workers."
    if each < BARE_WORKER_BYTES:
        found += f": {size(each)} for each of {workers:,} workers, less than one takes by itself"
        return Finding("memory", PROBLEM, found, WHY_MEMORY, cure, details=details)
    if each < ROOMY_WORKER_BYTES:
        found += f": {size(each)} for each of {workers:,} workers is little"
        return Finding("memory", WARNING, found, WHY_MEMORY, cure, details=details)
    if kills:
        found += f"; here the kernel has killed {kills:,} process{'' if kills == 1 else 'es'} for want of it"
    return Finding("memory", OK, found, WHY_MEMORY, details=details)


def shared_memory(path: str = "/dev/shm") -> list[Finding]:
    """Check the size of /dev/shm."""
    try:
        status = os.statvfs(path)
    except OSError as error:
        found = f"{path}: {error.strerror}"
        cure = f"mount -t tmpfs tmpfs {path}; in a container it is usually there unless it was taken away."
        return [Finding("shared memory", WARNING, found, WHY_SHARED, cure)]
    total, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
    details = {"total_bytes": total, "free_bytes": free}
    found = f"{size(free)} of {size(total)} free in {path}"
    if total <= SHARED_DEFAULT:
        cure = "If your jobs use it: docker run --shm-size=1g (Kubernetes: an emptyDir with medium: Memory)."
        return [Finding("shared memory", WARNING, f"{found}: that is little", WHY_SHARED, cure, details=details)]
    if free < SHARED_DEFAULT:
        cure = f"See what has been left in {path}, and remove it."
        return [Finding("shared memory", WARNING, f"{found}: it is nearly full", WHY_SHARED, cure, details=details)]
    return [Finding("shared memory", OK, found, WHY_SHARED, details=details)]


def cpus(workers: int | None) -> list[Finding]:
    """Check how many workers there are by default, and what that follows from; `workers`: what was asked for."""
    total = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    quota, slurm = Cgroups().cpus(), os.environ.get("SLURM_CPUS_PER_TASK", "")
    default = default_workers()
    details = {"cpus": total, "affinity": affinity, "quota": quota, "slurm": slurm, "default_workers": default}
    reasons = [f"{affinity} of {total} CPU{'' if total == 1 else 's'} allowed"]
    reasons += [f"quota of {quota:g}"] if quota is not None else []
    reasons += [f"SLURM_CPUS_PER_TASK={slurm}"] if slurm else []
    found = f"{default} worker{'' if default == 1 else 's'} by default ({', '.join(reasons)})"
    if "ZTASKS_WORKER" in os.environ:
        why = f"{WHY_CPUS} Inside a job of ztasks it is one, so that processes do not multiply."
        cure = "If this is no job: unset ZTASKS_WORKER"
        found = f"{default} worker by default, since ZTASKS_WORKER is set"
        return [Finding("cpus", WARNING, found, why, cure, details=details)]
    if quota is not None and quota < 1:
        cure = "Give the container at least one CPU (docker run --cpus, resources.limits.cpu of Kubernetes)."
        return [Finding("cpus", WARNING, f"{found}: that is less than one", WHY_CPUS, cure, details=details)]
    usable = min(affinity, quota or affinity)
    if workers is not None and workers > 2 * usable:
        cure = "For jobs that compute, use as many workers as CPUs; for jobs that wait, threads will do."
        return [
            Finding("cpus", WARNING, f"{workers} workers for {usable:g} CPUs; {found}", WHY_CPUS, cure, details=details)
        ]
    return [Finding("cpus", OK, found, WHY_CPUS, details=details)]
