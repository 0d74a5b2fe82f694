"""What a job can know of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class CurrentJob(NamedTuple):
    """The job that is running in this worker."""

    id: str
    """The job's name within its executor: its number, or map and index, as in `2.17`."""
    attempt: int
    """1 for the first."""
    max_attempts: int
    """If this attempt fails with that number, the job has failed."""
    deadline: float | None
    """When its timeout strikes, on the clock of `time.monotonic()`; None without a timeout."""


_ask: Callable[[], CurrentJob | None] | None = None


def current_job() -> CurrentJob | None:
    """Return what is known of the job that calls this; None outside a job."""
    return None if _ask is None else _ask()


def provide(ask: Callable[[], CurrentJob | None]) -> None:
    """Let `current_job` ask this (called once, by the worker)."""
    global _ask
    _ask = ask
