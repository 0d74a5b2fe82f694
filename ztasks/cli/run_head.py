"""`ztasks run --head`: which options go with it, and which are about workers of this host."""

from __future__ import annotations

from typing import Any, Final

import click
from click.core import ParameterSource

from ztasks.cli.run_workers import gpu_number, workers_for
from ztasks.errors import InvalidOption

LOCAL: Final = {"workers": "-j", "gpus": "--gpus", "logs": "--logs-dir"}
"""What is refused, by its name among the parameters."""


def place_options(asked: Any) -> dict[str, Any]:
    """Return the options of the executor, or nothing if the jobs go to a head. Raises InvalidOption, click.UsageError.

    Of a variable of the environment and the command line the latter wins, so it decides which of the two is meant.
    """
    if asked.head is None:
        number = workers_for(asked.workers, asked.cpus_per_job, asked.memory_per_job, asked.gpus)
        return {"max_workers": number, "gpus": None if asked.gpus is None else gpu_number(asked.gpus)}
    by_variable = _is_of_environment("head")
    given = [flag for name, flag in LOCAL.items() if getattr(asked, name) is not None]
    if not by_variable:
        given = [flag for name, flag in LOCAL.items() if flag in given and not _is_of_environment(name)]
        asked.workers = asked.gpus = asked.logs = None
    if given:
        flags, are = " and ".join(given), "are" if len(given) > 1 else "is"
        head = "the variable ZTASKS_HEAD names a head" if by_variable else "--head names one"
        cure = "Unset ZTASKS_HEAD, as in ZTASKS_HEAD= ztasks run ..., to use this host." if by_variable else ""
        raise InvalidOption(
            f"{flags} {are} about workers of this host, and {head}, whose workers are used: they have been started by "
            f"`ztasks worker` on their hosts. Nothing was run. Leave {flags} out. {cure}".rstrip()
        )
    return {}


def task_options(asked: Any) -> dict[str, Any]:
    """Return the task's options that the command line gives."""
    found = {name: getattr(asked, name) for name in ("retries", "timeout")}
    if asked.head is not None:  # the head sees to it; else it is a matter of how many workers there are
        found |= {"cpus": asked.cpus_per_job, "memory": asked.memory_per_job}
    return {name: value for name, value in found.items() if value is not None}


def _is_of_environment(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.ENVIRONMENT
