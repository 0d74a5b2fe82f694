"""How a job's exception travels: described in the worker, rebuilt in the thread that asks for the result."""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any

from ztasks.errors import (
    CallNotLoadable,
    JobCancelled,
    JobTimeout,
    RemoteError,
    RemoteTraceback,
    ResultNotPicklable,
    TooLarge,
    WorkerLost,
    WorkersCannotStart,
    ZtasksError,
)
from ztasks.wire.loss import Loss, rebuild_loss
from ztasks.wire.messages import MAX_SECONDS, Failure
from ztasks.wire.payload import dump
from ztasks.wire.verdict import EVERYTHING, Retry, Verdict


def raised(offset: int, error: BaseException, verdict: Verdict = EVERYTHING) -> Failure:
    """Describe what a job raised; the exception itself comes along if it survives a round trip."""
    if type(error) is JobTimeout and error.certificate is None:  # with one, it is of an executor of the job's own
        retry = verdict.allows(error)
        return Failure(offset, "timeout", "JobTimeout", _message(error), _traceback(error), b"", retry)
    if type(error) is JobCancelled:
        return Failure(offset, "stopped", "JobCancelled", _message(error), _traceback(error), b"", retry=False)
    try:
        pickled = _pickle(error)
    except BaseException:  # noqa: BLE001 - whatever its pickling does wrong, the description still arrives
        pickled = b""
    after = error.after if isinstance(error, Retry) else None
    sensible = isinstance(after, int | float) and not isinstance(after, bool) and 0 <= after < MAX_SECONDS
    if not sensible:  # a subclass may mean something else by it
        after = None
    retry = verdict.allows(error)
    return Failure(offset, "raised", _type_name(error), _message(error), _traceback(error), pickled, retry, after)


def not_loadable(offset: int, what: str, error: BaseException) -> Failure:
    """Describe that a worker could not load a callable or its arguments."""
    cure = ""
    if isinstance(error, ModuleNotFoundError):
        cure = (
            f" The module {error.name!r} cannot be imported on {os.uname().nodename} (sys.path there: {sys.path}): "
            "install it there, or start the program where the module is importable before the executor is created."
        )
    elif isinstance(error, AttributeError):
        cure = (
            " The worker imports the module afresh, so the name must be there at the top level; in a notebook or the "
            "REPL define the function in __main__."
        )
    message = f"the worker could not load {what}: {_type_name(error)}: {_message(error)}.{cure} The job did not run."
    return Failure(offset, "load", "CallNotLoadable", message, _traceback(error), b"", retry=False)


def not_picklable(offset: int, result: object, error: BaseException) -> Failure:
    """Describe that what a job returned cannot be pickled."""
    kind = type(result)
    hint = " Return a list instead of a generator." if kind.__name__ == "generator" else ""
    message = (
        f"the job ran, but its result of type {kind.__module__}.{kind.__qualname__} cannot be pickled: "
        f"{_type_name(error)}: {_message(error)}. The result is lost; the job is not run again.{hint}"
    )
    return Failure(offset, "result", "ResultNotPicklable", message, _traceback(error), b"", retry=False)


def too_large(offset: int, size: int, limit: int) -> Failure:
    """Describe that what a job returned exceeds the byte budget."""
    message = (
        f"the job ran, but its result takes {size} bytes, more than the {limit} that this executor allows. The "
        "result is lost; the job is not run again. Let the job write it to a file and return the path, or give the "
        "Executor a larger max_bytes."
    )
    return Failure(offset, "large", "TooLarge", message, "", b"", retry=False)


def start_failed(what: str, error: BaseException) -> Failure:
    """Describe that a worker's preload or initializer raised."""
    message = f"{what} raised {_type_name(error)}: {_message(error)}"
    return Failure(0, "start", "WorkersCannotStart", message, _traceback(error), b"", retry=False)


def rebuild(failure: Failure) -> BaseException:
    """Make the exception that a future raises; calls what the exception's class defines for unpickling."""
    error = _rebuild(failure)
    if failure.traceback and not isinstance(error, RemoteError):
        # Not by assignment: an exception's class may forbid that, as frozen dataclasses do.
        BaseException.__dict__["__cause__"].__set__(error, RemoteTraceback(failure.traceback))
    return error


def _rebuild(failure: Failure) -> BaseException:
    kind = failure.kind
    if kind == "raised":
        if failure.pickled:
            try:
                error = pickle.loads(failure.pickled)
            except Exception:  # noqa: BLE001 - the class is missing or broken here: the stand-in tells all the same
                error = None
            if isinstance(error, BaseException):
                return error
        return RemoteError(failure.type_name, failure.message, failure.traceback)
    if isinstance(failure, Loss):
        return rebuild_loss(failure)
    maker: type[ZtasksError] = {
        "load": CallNotLoadable,
        "result": ResultNotPicklable,
        "large": TooLarge,
        "timeout": JobTimeout,
        "stopped": JobCancelled,
        "lost": WorkerLost,
        "start": WorkersCannotStart,
    }[kind]
    return maker(failure.message)


def _pickle(error: BaseException) -> bytes:
    """Pickle an exception and try whether it comes back as what it was; empty if not."""
    pickled = dump(error, answering=True)
    if pickled.buffers:
        return b""
    back: Any = pickle.loads(pickled.data)
    return pickled.data if type(back) is type(error) else b""


def _type_name(error: BaseException) -> str:
    kind = type(error)
    plain = kind.__module__ in ("builtins", "__main__")
    return _encodable(kind.__qualname__ if plain else f"{kind.__module__}.{kind.__qualname__}")


def _message(error: BaseException) -> str:
    try:
        return _encodable(str(error))
    except BaseException:  # noqa: BLE001 - a broken __str__ must not hide the error
        return "<its __str__ raised>"


def _encodable(text: str) -> str:
    """Escape lone surrogates, as they stand for undecodable bytes of file names: a message holds UTF-8 only."""
    return text.encode("utf-8", "backslashreplace").decode()


def _is_ours(module: object) -> bool:
    return isinstance(module, str) and module.startswith(("ztasks.io.", "ztasks.wire.", "ztasks.runs."))


def _traceback(error: BaseException) -> str:
    """Format the traceback, with causes, groups and notes, without the worker's own frames."""
    import traceback  # late: 10 ms, needed only for failures

    trace = error.__traceback__
    while trace is not None and _is_ours(trace.tb_frame.f_globals.get("__name__")):
        trace = trace.tb_next
    try:
        return _encodable("".join(traceback.format_exception(type(error), error, trace)))
    except BaseException:  # noqa: BLE001 - an exception that cannot even be formatted
        return f"{_type_name(error)}: {_message(error)}\n"
