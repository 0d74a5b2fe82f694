"""What a head says when it refuses."""

from __future__ import annotations

from ztasks.errors import ExecutorClosed, WorkersCannotStart


def cannot_open(error: OSError) -> WorkersCannotStart:
    """The system refuses what an executor needs."""
    return WorkersCannotStart(f"the executor cannot open what it needs: {error}. Nothing was run. See `ztasks doctor`.")


def closed_meanwhile() -> ExecutorClosed:
    """A job was posted when the executor had been closed."""
    return ExecutorClosed("the executor was closed while this job was being submitted; it was not run")
