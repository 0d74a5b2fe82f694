"""How a job fails when it is the head that says so: its workers died, or it had to be killed."""

from __future__ import annotations

from typing import Literal

import msgspec

from ztasks.core.slices import Slice
from ztasks.errors import JobTimeout, TooLarge
from ztasks.wire.certificate import DeathCertificate
from ztasks.wire.loss import Loss


def named(job: Slice, certificate: DeathCertificate) -> DeathCertificate:
    """Enter in a worker's death certificate which job it was running."""
    return msgspec.structs.replace(certificate, job=job.id, attempt=job.attempt)


def poison(job: Slice) -> Loss:
    """Describe a job whose worker died too often."""
    options = job.task.options
    return _loss(
        job,
        "poison",
        f"a job of {_name(job)} was given up after {job.crashes + 1} of its workers died while running it "
        f"(crash_retries={options.crashes_allowed}); the last: {_line(job.history[-1])}",
        retry=False,
    )


def lost(job: Slice) -> Loss:
    """Describe a job with `at_most_once` whose worker died."""
    message = (
        f"a job of {_name(job)} is lost: its worker died while running it, and at_most_once forbids to run it again. "
        f"What it has done until then is done. {_line(job.history[-1])}"
    )
    return _loss(job, "lost", message, retry=False)


def timeout(job: Slice) -> Loss:
    """Describe a job that had to be killed."""
    options = job.task.options
    message = (
        f"a job of {_name(job)} ran longer than its timeout of {options.timeout} s, did not stop within its grace of "
        f"{options.grace} s, and was killed with its worker (attempt {job.attempt})"
    )
    return _loss(job, "timeout", message, retry=options.verdict.allows(JobTimeout()))


def _name(job: Slice) -> str:
    return job.task.options.name or job.task.callable.name


def _loss(job: Slice, what: Literal["poison", "lost", "timeout"], message: str, *, retry: bool) -> Loss:
    attempts = range(1, len(job.history) + 1)
    return Loss(
        0,
        "timeout" if what == "timeout" else "lost",
        {"poison": "PoisonJob", "lost": "WorkerLost", "timeout": "JobTimeout"}[what],
        message,
        "",
        b"",
        retry,
        what=what,
        name=_name(job),
        shape=job.task.shape,
        payload=job.payload,
        history=tuple(f"attempt {attempt}: {_line(end)}" for attempt, end in zip(attempts, job.history, strict=True)),
        certificates=tuple(end for end in job.history if isinstance(end, DeathCertificate)),
    )


def _line(end: str | DeathCertificate) -> str:
    return end.summary if isinstance(end, DeathCertificate) else end


def no_memory(size: int) -> TooLarge:
    """Say that arguments could not be sent."""
    return TooLarge(
        f"there was not enough memory in this process to send {size} bytes of arguments. The job did not run. Pass a "
        "path instead of the data, or let fewer jobs wait (Executor's max_bytes)."
    )
