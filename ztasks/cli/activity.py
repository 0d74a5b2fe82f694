"""What the workers of an executor are doing just now, for the progress bar and for Ctrl-C."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from ztasks.cli.progress import Activity
from ztasks.core.lane import LaneState

if TYPE_CHECKING:
    from ztasks.executor import Executor


def activity(executor: Executor) -> Activity:
    """Read the books of the executor's head. Another thread may be writing them: it is a glance, not a count.

    A lane that holds work is busy; when its worker runs jobs for long, it has held one since it was last given work or
    told of an outcome.
    """
    now = monotonic()
    lanes = list(executor._head._ventilator.lanes.values())
    since = [lane.moved for lane in lanes if lane.batches and lane.state is LaneState.READY]
    return Activity(len(since), executor.max_workers, max((now - moved for moved in since), default=0.0))
