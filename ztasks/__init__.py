"""ztasks: parallel batch jobs in Python, from a laptop to a fleet, with no broker to install.

The path of a job, file by file (docs/path-of-a-job.md tells it in full):

    1. executor.py          submit() pickles the call and posts it
    2. io/head.py           the head's thread reads it, asks the ventilator, sends it down a lane
    3. core/ventilator.py   decides which lane takes it, and what its outcome means
    4. io/runner.py         the worker claims it, runs it, pickles its result
    5. future.py            the result arrives, and is unpickled by whoever asks for it
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ztasks.client import Client
    from ztasks.core.options import Options
    from ztasks.errors import (
        BadJoinFile,
        BadKeyStore,
        CallNotLoadable,
        CallNotPicklable,
        CannotListen,
        ExecutorClosed,
        ForkedExecutor,
        HeadFailed,
        HeadFull,
        HeadLost,
        InvalidOption,
        JobCancelled,
        JobExpired,
        JobNotFound,
        JobTimeout,
        JournalError,
        NoExecutor,
        NotPrivate,
        PoisonJob,
        RemoteError,
        RemoteTraceback,
        ResultNotLoadable,
        ResultNotPicklable,
        TooLarge,
        WorkerLost,
        WorkersCannotStart,
        ZtasksError,
        remote_traceback,
    )
    from ztasks.executor import Executor
    from ztasks.future import Future
    from ztasks.io.current import CurrentJob, current_job
    from ztasks.io.looking import RunningJob
    from ztasks.job import Job
    from ztasks.outcome import Outcome
    from ztasks.runs.batch import run_batch
    from ztasks.runs.command import CommandFailed
    from ztasks.runs.pickles import BadPickles, read_pickles
    from ztasks.runs.record_file import BadOutput, read_records
    from ztasks.runs.records import Record
    from ztasks.runs.summary import RunSummary
    from ztasks.tasks import Task, options, set_default, task
    from ztasks.wire.certificate import DeathCertificate
    from ztasks.wire.verdict import Retry

__version__ = "0.1.0"

_HOMES = {
    "client": ("Client",),
    "core.options": ("Options",),
    "errors": (
        "BadJoinFile",
        "BadKeyStore",
        "CallNotLoadable",
        "CallNotPicklable",
        "CannotListen",
        "ExecutorClosed",
        "ForkedExecutor",
        "HeadFailed",
        "HeadFull",
        "HeadLost",
        "InvalidOption",
        "JobCancelled",
        "JobExpired",
        "JobNotFound",
        "JobTimeout",
        "JournalError",
        "NoExecutor",
        "NotPrivate",
        "PoisonJob",
        "RemoteError",
        "RemoteTraceback",
        "ResultNotLoadable",
        "ResultNotPicklable",
        "TooLarge",
        "WorkerLost",
        "WorkersCannotStart",
        "ZtasksError",
        "remote_traceback",
    ),
    "executor": ("Executor",),
    "future": ("Future",),
    "io.current": ("CurrentJob", "current_job"),
    "io.looking": ("RunningJob",),
    "job": ("Job",),
    "outcome": ("Outcome",),
    "runs.batch": ("run_batch",),
    "runs.command": ("CommandFailed",),
    "runs.pickles": ("BadPickles", "read_pickles"),
    "runs.record_file": ("BadOutput", "read_records"),
    "runs.records": ("Record",),
    "runs.summary": ("RunSummary",),
    "tasks": ("Task", "options", "set_default", "task"),
    "wire.certificate": ("DeathCertificate",),
    "wire.verdict": ("Retry",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BadJoinFile",
    "BadKeyStore",
    "BadOutput",
    "BadPickles",
    "CallNotLoadable",
    "CallNotPicklable",
    "CannotListen",
    "Client",
    "CommandFailed",
    "CurrentJob",
    "DeathCertificate",
    "Executor",
    "ExecutorClosed",
    "ForkedExecutor",
    "Future",
    "HeadFailed",
    "HeadFull",
    "HeadLost",
    "InvalidOption",
    "Job",
    "JobCancelled",
    "JobExpired",
    "JobNotFound",
    "JobTimeout",
    "JournalError",
    "NoExecutor",
    "NotPrivate",
    "Options",
    "Outcome",
    "PoisonJob",
    "Record",
    "RemoteError",
    "RemoteTraceback",
    "ResultNotLoadable",
    "ResultNotPicklable",
    "Retry",
    "RunSummary",
    "RunningJob",
    "Task",
    "TooLarge",
    "WorkerLost",
    "WorkersCannotStart",
    "ZtasksError",
    "current_job",
    "options",
    "read_pickles",
    "read_records",
    "remote_traceback",
    "run_batch",
    "set_default",
    "task",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: a worker needs little of it and starts in half the time."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'ztasks' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ztasks.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
