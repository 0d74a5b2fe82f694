"""How a job fails when it is the head that says so: its workers died, or it had to be killed."""

from __future__ import annotations

from ztasks.core.slices import Slice
from ztasks.wire.messages import Failure


def poison(job: Slice, how: str) -> Failure:
    """Describe a job whose worker died too often."""
    name = job.task.options.name or job.task.callable.name
    message = (
        f"a job of {name} was given up after {job.crashes + 1} of its workers died while running it "
        f"(crash_retries={job.task.options.crash_retries}); the last: {how}"
    )
    return Failure(0, "poison", "PoisonJob", message, "\n".join(job.history), b"", retry=False)


def timeout(job: Slice) -> Failure:
    """Describe a job that had to be killed."""
    options = job.task.options
    message = (
        f"a job of {options.name or job.task.callable.name} ran longer than its timeout of {options.timeout} s, did "
        f"not stop within its grace of {options.grace} s, and was killed with its worker (attempt {job.attempt})"
    )
    return Failure(0, "timeout", "JobTimeout", message, "", b"", retry=True)
