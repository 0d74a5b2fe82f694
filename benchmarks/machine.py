"""Where and with what a run was made."""

import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.contestants.base import Entrant, version_of


def describe(entrants: Iterable[type[Entrant]], workers: int) -> list[str]:
    """Lines for the header: machine, Python, versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = f"{len(os.sched_getaffinity(0))} cores"
    versions = [f"{name} {version}" for name, version in _versions(entrants).items()]
    load = os.getloadavg()[0]
    return [
        f"machine: {cores}, {_cpu_model()}, {memory:.0f} GiB; {platform.system()} {platform.release()}",
        f"python: {platform.python_implementation()} {platform.python_version()}; {workers} workers",
        f"versions: {', '.join(versions)}",
        f"load average at the start: {load:.2f}",
    ]


def _versions(entrants: Iterable[type[Entrant]]) -> dict[str, str]:
    found = dict(filter(None, (entrant.version() for entrant in entrants)))
    found |= {name: version_of(name) for name in ("pyzmq", "numpy")}
    return dict(sorted(found.items()))


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine() or sys.platform
