"""Where and with what a run was made."""

import importlib.util
import os
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from benchmarks.contestants import CONTESTANTS, Contestant


def describe(contestants: Iterable[str], workers: int) -> list[str]:
    """Lines for the header: machine, Python, versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = f"{len(os.sched_getaffinity(0))} cores"
    versions = [f"{name} {version}" for name, version in _versions(contestants).items()]
    load = os.getloadavg()[0]
    return [
        f"machine: {cores}, {_cpu_model()}, {memory:.0f} GiB; {platform.system()} {platform.release()}",
        f"python: {platform.python_implementation()} {platform.python_version()}; {workers} workers",
        f"versions: {', '.join(versions)}",
        f"load average at the start: {load:.2f}",
    ]


def absence(contestant: type[Contestant]) -> str:
    """Why a contestant cannot run here; empty when it can."""
    try:
        found = importlib.util.find_spec(contestant.module)
    except ImportError:
        found = None
    return "" if found else f"no module {contestant.module!r}"


def _versions(contestants: Iterable[str]) -> dict[str, str]:
    names = {CONTESTANTS[contestant].distribution for contestant in contestants}
    names |= {"pyzmq", "numpy"}
    return {name: _version(name) for name in sorted(filter(None, names))}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(checkout)" if importlib.util.find_spec(name) else "(absent)"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine() or sys.platform
