r"""The record of a job: one line of JSON.

    v         version of this format: 1
    index     the input's place, from 0
    key       a digest of target, constants and input, the same in every run; "...-2" for the second of equal inputs
    input     the argument, line, row or JSON document (bytes that are no UTF-8: as Python shows them)
    ok        whether the job succeeded
    status    ok | failed | timeout | lost | cancelled
    result    what the task returned, as `encoding.py` writes it; null if it failed
    error     null, or {type, message, traceback}; of a program also {exit_code, stderr}
    started   when its last attempt began, in seconds since the epoch; null if it never ran
    seconds   how long that took
    attempts  how often it was run; 0 if it never was
    host, pid the worker that ran it last; null if none did
    max_rss   that worker's peak memory so far, in bytes; null if unknown

and where there is something to say:

    source    a digest of the task's source file
    log       the file with what the job wrote to stdout and stderr (`--logs-dir`)
    pickle    the file with the result itself, of which `result` holds only what JSON can
"""

from __future__ import annotations

import re
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from ztasks.errors import (
    HeadFailed,
    HeadLost,
    JobTimeout,
    PoisonJob,
    RemoteError,
    WorkerLost,
    WorkersCannotStart,
    remote_traceback,
)
from ztasks.runs.command import CommandFailed
from ztasks.runs.encoding import Encoder, decode, type_name

if TYPE_CHECKING:
    from ztasks.outcome import Outcome

VERSION: Final = 1

FAILURES: Final = ("failed", "timeout", "lost")
"""The statuses of jobs that ended otherwise than well."""

STATUSES: Final = ("ok", *FAILURES, "cancelled")


class JobError(msgspec.Struct):
    """Why a job failed."""

    type: str
    message: str
    traceback: str | None
    exit_code: int | UnsetType = UNSET
    """Of a program; negative: the number of the signal that ended it."""
    stderr: str | UnsetType = UNSET
    """Of a program: the last it wrote."""


class Record(msgspec.Struct):
    """One job's record; the order of the fields is that of the line."""

    v: int
    index: int
    key: str
    input: Any
    ok: bool
    status: str
    result: Any
    error: JobError | None
    started: float | None
    seconds: float
    attempts: int
    host: str | None
    pid: int | None
    max_rss: int | None
    source: str | UnsetType = UNSET
    log: str | UnsetType = UNSET
    pickle: str | UnsetType = UNSET


class Recorder:
    """Writes records as lines. Not for two threads at once."""

    def __init__(self, source: str | None = None) -> None:
        self._source: str | UnsetType = UNSET if source is None else source
        self._results = Encoder()
        self._lines = msgspec.json.Encoder()
        self._rest = Encoder()

    @property
    def changed(self) -> dict[str, int]:
        """How often results were written as something else, by kind."""
        return self._results.changed

    def encode_result(self, value: Any) -> tuple[bytes, bool]:
        """Return a result as JSON, and whether JSON holds it."""
        self._results.met_marker = False
        data = self._results.encode(value)
        return data, not self._results.met_marker

    def line(self, record: Record) -> bytes:
        """Encode a record whose input and result are JSON already."""
        record.source = self._source
        try:
            return self._lines.encode(record) + b"\n"
        except Exception:  # noqa: BLE001 - an error's message may hold what is no UTF-8
            return self._rest.encode(_as_dict(record)) + b"\n"


def _as_dict(record: Record) -> dict[str, Any]:
    fields = msgspec.structs.asdict(record)
    for name in ("input", "result"):
        if isinstance(fields[name], msgspec.Raw):
            fields[name] = decode(bytes(fields[name]))
    if record.error is not None:
        fields["error"] = _without_unset(msgspec.structs.asdict(record.error))
    return _without_unset(fields)


def _without_unset(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not UNSET}


def from_outcome(index: int, key: str, shown: bytes, outcome: Outcome[Any], result: bytes) -> Record:
    """Make the record of a job that has ended; input and result are given as JSON."""
    exception, worker = outcome.exception, outcome.worker
    host, pid = (None, None) if worker is None else worker
    return Record(
        VERSION,
        index,
        key,
        msgspec.Raw(shown),
        exception is None,
        "ok" if exception is None else status_of(exception),
        msgspec.Raw(result),
        None if exception is None else describe(exception),
        outcome.started,
        outcome.seconds,
        outcome.attempts,
        host,
        pid,
        outcome.max_rss,
    )


def from_unreadable(index: int, key: str, shown: bytes, message: str) -> Record:
    """Make the record of an input that is no call: a job that failed before it could be one."""
    error = JobError("InvalidInput", message, None)
    input_ = msgspec.Raw(shown)
    return Record(VERSION, index, key, input_, False, "failed", None, error, None, 0.0, 0, None, None, None)


_OWN_ARGUMENT: Final = re.compile(r"^([^(]*\()(?:\d+|Tag\([^)]*\))(?:, )?")
"""What `job.py` is given before the task's own arguments."""


def plain_input(input_: Any) -> Any:
    """Return an input of a record, which may still be JSON."""
    return decode(bytes(input_)) if isinstance(input_, msgspec.Raw) else input_


def status_of(exception: BaseException) -> str:
    """Return the status of a job that ended with this exception."""
    if isinstance(exception, CancelledError) or none_can_run(exception):
        return "cancelled"
    if isinstance(exception, WorkerLost):  # without a certificate it was ended by `kill`
        return "lost" if exception.certificates or isinstance(exception, PoisonJob) else "cancelled"
    return "timeout" if isinstance(exception, JobTimeout) else "failed"


def none_can_run(exception: BaseException) -> bool:
    """Tell whether a job has no outcome because there is nobody to run any."""
    if isinstance(exception, HeadLost):
        return remote_traceback(exception) is None  # else a job has raised it that is a client of a head itself
    return isinstance(exception, WorkersCannotStart | HeadFailed)


def describe(exception: BaseException) -> JobError:
    """Return type, message and remote traceback of a job's exception."""
    if isinstance(exception, RemoteError):
        return JobError(exception.type_name, exception.message, exception.traceback)
    try:
        message = str(exception)
    except Exception:  # noqa: BLE001 - a broken __str__ must not hide the failure
        message = "<its __str__ raised>"
    for certificate in getattr(exception, "certificates", ()):
        message = message.replace(certificate.call, _OWN_ARGUMENT.sub(r"\1", certificate.call, count=1))
    if isinstance(exception, CommandFailed):
        return JobError("CommandFailed", message, None, exception.exit_code, exception.stderr)
    if not message and isinstance(exception, CancelledError):
        message = "cancelled before it was started"
    return JobError(type_name(type(exception)), message, remote_traceback(exception))
