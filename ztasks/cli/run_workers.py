"""How many workers `ztasks run` starts: what `-j`, `--cpus-per-job`, `--memory-per-job` and `--gpus` come to."""

from __future__ import annotations

import re

import click

from ztasks.errors import InvalidOption
from ztasks.io.hostinfo import cores, default_workers, memory
from ztasks.units import cut, parse_size, shown


def parse_workers(text: str | None) -> int:
    """Return the number of workers that `-j` asks for. Raises click.BadParameter."""
    if text is None:
        return default_workers()
    found = re.fullmatch(r"\s*(\d{1,6})\s*(%?)\s*", text)
    number = int(found[1]) if found else 0
    if not found or not number:
        raise click.BadParameter(
            f"{shown(text)} is neither a number of workers, such as 4, nor a share, such as 50%", param_hint="-j"
        )
    return max(1, default_workers() * number // 100) if found[2] else number


def workers_for(workers: str | None, cpus_per_job: int | None, memory_per_job: str | None, gpus: str | None) -> int:
    """Return how many workers may run at a time, given what each job takes; raises InvalidOption."""
    number = parse_workers(workers)
    wanted = None if gpus is None else gpu_number(gpus)
    if wanted is not None and workers is None:
        from ztasks.io.devices import find_devices

        number = len(find_devices(wanted))
    if cpus_per_job is not None:
        number = min(number, max(1, cores() // cpus_per_job))
    if memory_per_job is not None:
        each, there_is = parse_size(memory_per_job, "--memory-per-job"), memory()
        if not 0 < each <= there_is:
            raise InvalidOption(
                f"--memory-per-job must be from 1 to the {there_is} bytes there are, not {memory_per_job}"
            )
        number = min(number, there_is // each)
    return number


def gpu_number(text: str) -> int | str:
    """Return what `--gpus` asks for; what is neither a number nor `auto` is refused later. Raises InvalidOption."""
    from ztasks.limits import MAX_WORKERS

    if not text.isdecimal():
        return text
    if len(text) > len(str(MAX_WORKERS)):
        raise InvalidOption(f"--gpus must be at most {MAX_WORKERS}, not {cut(text, 40)}: each has a worker of its own")
    return int(text)
