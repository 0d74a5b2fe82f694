"""How much of everything there may be in one executor, once all options have been checked."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """How much of everything there may be in one executor. Sizes are in bytes; None: any number."""

    workers: int
    max_bytes: int
    """Of arguments that submitted jobs hold."""
    memory: int | None = None
    """Of memory that all jobs take that say how much they take."""
    max_tasks: int | None = None
    """Jobs that a worker runs before it is replaced."""
    kill_memory: int | None = None
    """Of memory that a worker may have resident."""
    devices: tuple[str, ...] = ()
    """The GPUs that workers are pinned to."""
