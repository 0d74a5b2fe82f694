"""What an executor's options mean on this host: how much of everything there may be."""

from __future__ import annotations

from typing import Final

from ztasks.core.options import count
from ztasks.errors import InvalidOption, WorkersCannotStart
from ztasks.io.budgets import Limits
from ztasks.io.devices import find_devices
from ztasks.io.hostinfo import default_workers, memory
from ztasks.io.limits import DESCRIPTORS_PER_WORKER, HEAD_DESCRIPTORS, open_descriptors
from ztasks.units import parse_size, shown

MAX_WORKERS: Final = 10_000

SHARE_OF_MEMORY: Final = 4
"""Submitted jobs may hold this part of the memory that there is."""

LEAST_BYTES: Final = 64 * 1024 * 1024
"""The least byte budget that is chosen by itself."""

HARD_FACTOR: Final = 2
"""A worker is killed when it takes so many times what `max_memory_per_child` allows, unless it is said otherwise."""


def make_limits(
    max_workers: int | None,
    max_bytes: int | str | None,
    memory_limit: int | str | None,
    max_tasks_per_child: int | None,
    kill_memory_per_child: int | str | None,
    gpus: int | str | None,
    soft_memory: int | None,
) -> Limits:
    """Check the options of an executor; raises InvalidOption."""
    devices = () if gpus is None else tuple(find_devices(gpus))
    workers = len(devices) or default_workers() if max_workers is None else count(max_workers, "max_workers", 1)
    if workers > MAX_WORKERS:
        raise InvalidOption(f"max_workers must be at most {MAX_WORKERS}, not {shown(max_workers)}")
    check_descriptors(workers)
    if max_tasks_per_child is not None:
        count(max_tasks_per_child, "max_tasks_per_child", 1)
    there_is = memory()
    budget = max(LEAST_BYTES, there_is // SHARE_OF_MEMORY) if max_bytes is None else positive(max_bytes, "max_bytes")
    room = there_is if memory_limit is None else positive(memory_limit, "memory")
    kill = None if soft_memory is None else HARD_FACTOR * soft_memory
    if kill_memory_per_child is not None:
        kill = positive(kill_memory_per_child, "kill_memory_per_child")
        if soft_memory is not None and kill < soft_memory:
            raise InvalidOption(
                f"kill_memory_per_child ({kill} bytes) must be at least max_memory_per_child ({soft_memory} bytes)"
            )
    return Limits(workers, budget, room, max_tasks_per_child, kill, devices)


def check_descriptors(workers: int) -> None:
    """Check that this process may open what so many workers need: ZeroMQ ends the process when it runs out."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = HEAD_DESCRIPTORS + DESCRIPTORS_PER_WORKER * workers
    if limit == resource.RLIM_INFINITY or open_descriptors() + wanted <= limit:
        return
    raise WorkersCannotStart(
        f"an executor with {workers} workers needs some {wanted} descriptors; this process has {open_descriptors()} "
        f"open and may have {limit}. Nothing was started. Raise the limit (`ulimit -n`), or use fewer workers."
    )


def positive(value: int | str, what: str) -> int:
    """Check a size that must be more than 0; raises InvalidOption."""
    size = parse_size(value, what)
    if size == 0:
        raise InvalidOption(f"{what} must be more than 0; leave it out for no limit of your own")
    return size
