"""What the workers of an executor are doing just now, for the progress bar and for Ctrl-C."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ztasks.cli.progress import Activity

if TYPE_CHECKING:
    from ztasks.executor import Executor


def activity(executor: Executor) -> Activity:
    """Return how many workers run a job, of how many, and for how long the longest has been running."""
    running = executor.running()
    return Activity(len(running), executor.max_workers, max((job.seconds for job in running), default=0.0))
