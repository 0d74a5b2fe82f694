r"""The record of a job: one line of JSON.

    v         version of this format: 1
    index     the input's place, from 0
    key       16 hexadecimal digits: a digest of target and input, the same in every run on the same input
    input     the argument, line or JSON document (bytes that are no UTF-8: as Python shows them)
    ok        whether the job succeeded
    status    ok | failed | timeout | lost | cancelled
    result    what the task returned; null if it failed
    error     null, or {type, message, traceback}
    started   when its last attempt began, in seconds since the epoch; null if it never ran
    seconds   how long that took
    attempts  how often it was run; 0 if it never was
    host, pid the worker that ran it last; null if none did
    max_rss   that worker's peak memory so far, in bytes; null if unknown

Results are written as JSON has them. Dataclasses, msgspec structs and attrs classes become objects, tuples and sets
arrays, bytes base64, dates ISO 8601, Decimal and UUID strings, enums their values, paths strings, NumPy scalars
numbers and its arrays nested arrays. NaN and the infinities become null. What JSON cannot hold stands as
`{"$repr": "<its repr, at most 1,000 characters>", "$type": "module.Class"}` in its place; keys become strings.
"""

from __future__ import annotations

import datetime
import json
import os
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ztasks.errors import JobTimeout, RemoteError, WorkerLost, remote_traceback

if TYPE_CHECKING:
    from ztasks.outcome import Outcome

VERSION: Final = 1
MAX_REPR: Final = 1000
MAX_DEPTH: Final = 100
"""Deeper results are cut with a marker; they may contain themselves."""


class JobError(msgspec.Struct):
    """Why a job failed."""

    type: str
    message: str
    traceback: str | None


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


class Recorder:
    """Makes records and their lines. `marked` counts those in which a result is replaced by its repr."""

    def __init__(self, target: str) -> None:
        self.marked = 0
        self._digest = blake2b(os.fsencode(target) + b"\0", digest_size=8)
        self._encode: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=self._hook).encode
        self._met_marker = False

    def line(self, record: Record) -> bytes:
        """Encode a record, with its key filled in. Not to be called by two threads at once."""
        original = record.input
        shown = self.encode(original)
        digest = self._digest.copy()
        digest.update(shown)
        record.key = digest.hexdigest()
        record.input = msgspec.Raw(shown)
        self._met_marker = False
        try:
            return self._encode(record) + b"\n"
        except Exception:  # noqa: BLE001 - encoding runs any code: the slow way copes with everything
            record.input = original
            return self._slowly(msgspec.structs.asdict(record)) + b"\n"
        finally:
            record.input = original
            self.marked += self._met_marker

    def encode(self, value: Any) -> bytes:
        """Encode any value; never fails."""
        try:
            return self._encode(value)
        except Exception:  # noqa: BLE001 - as in `line`
            return self._slowly(value)

    def _slowly(self, value: Any) -> bytes:
        # ASCII only: lone surrogates, which stand for bytes that are no UTF-8, can be written as escapes
        return json.dumps(self._plain(value, 0), separators=(",", ":"), allow_nan=False).encode()

    def _hook(self, value: Any) -> Any:
        """Tell msgspec what to write for a type that it does not know; as a key, it must be a string."""
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            return _KEYWORDS[value] if isinstance(value, bool) else int(value)
        if isinstance(value, float):
            return float(value)
        if value is None:  # only as a key
            return "null"
        if isinstance(value, os.PathLike):
            return os.fsdecode(value)
        if isinstance(value, Mapping):
            return dict(value)
        if isinstance(value, deque | range):
            return list(value)
        if isinstance(value, datetime.date | datetime.time):  # a subclass, such as pandas.Timestamp
            return value.isoformat()
        if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
            return value.tolist()
        self._met_marker = True
        return {"$repr": _repr(value), "$type": _type_name(type(value))}

    def _plain(self, value: Any, depth: int) -> Any:
        """Rebuild a value of what `json` can write; used where msgspec gave up."""
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if abs(value) <= _LARGEST else None
        if depth >= MAX_DEPTH:
            self._met_marker = True
            return {"$repr": f"<nested more than {MAX_DEPTH} deep>", "$type": _type_name(type(value))}
        if isinstance(value, Mapping):
            return {self._key(key): self._plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._plain(item, depth + 1) for item in value]
        try:
            return self._plain(msgspec.to_builtins(value, enc_hook=self._hook, str_keys=True), depth + 1)
        except Exception:  # noqa: BLE001 - it fails in a way of its own: show that it was there
            self._met_marker = True
            return {"$repr": _repr(value), "$type": _type_name(type(value))}

    def _key(self, key: Any) -> str:
        """Write a key as msgspec would, or as its repr."""
        if isinstance(key, str):
            return str.__str__(key)
        plain = self._plain(key, MAX_DEPTH - 1)
        if plain is None or isinstance(plain, bool):
            return "null" if plain is None else _KEYWORDS[plain]
        return str(plain) if isinstance(plain, str | int | float) else _repr(key)


_KEYWORDS: Final = ("false", "true")
_LARGEST: Final = 1.7976931348623157e308


def from_outcome(index: int, input_: Any, outcome: Outcome[Any]) -> Record:
    """Make the record of a job that has ended; its key is still missing."""
    exception, worker = outcome.exception, outcome.worker
    host, pid = (None, None) if worker is None else worker
    if exception is None:
        status, error = "ok", None
    else:
        status, error = status_of(exception), describe(exception)
    return Record(
        VERSION,
        index,
        "",
        input_,
        exception is None,
        status,
        outcome.value,
        error,
        outcome.started,
        outcome.seconds,
        outcome.attempts,
        host,
        pid,
        outcome.max_rss,
    )


def from_unreadable(index: int, input_: str, message: str) -> Record:
    """Make the record of an input that is no call: a job that failed before it could be one."""
    error = JobError("InvalidInput", message, None)
    return Record(VERSION, index, "", input_, False, "failed", None, error, None, 0.0, 0, None, None, None)


def status_of(exception: BaseException) -> str:
    """Return the status of a job that ended with this exception."""
    if isinstance(exception, WorkerLost):
        return "lost"
    if isinstance(exception, JobTimeout):
        return "timeout"
    return "cancelled" if isinstance(exception, CancelledError) else "failed"


def describe(exception: BaseException) -> JobError:
    """Return type, message and remote traceback of a job's exception."""
    if isinstance(exception, RemoteError):
        return JobError(exception.type_name, exception.message, exception.traceback)
    try:
        message = str(exception)
    except Exception:  # noqa: BLE001 - a broken __str__ must not hide the failure
        message = "<its __str__ raised>"
    if not message and isinstance(exception, CancelledError):
        message = "cancelled before it was started"
    return JobError(_type_name(type(exception)), message, remote_traceback(exception))


def _type_name(kind: type) -> str:
    module = kind.__module__
    for private, public in (("ztasks.", "ztasks"), ("concurrent.futures.", "concurrent.futures")):
        if module.startswith(private):
            module = public  # where users import it from
    return kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"


def _repr(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - any class may define a broken one
        text = object.__repr__(value)
    return text if len(text) <= MAX_REPR else text[: MAX_REPR - 3] + "..."
