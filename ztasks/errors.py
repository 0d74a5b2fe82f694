"""Every error that ztasks raises, under one root.

Each message says whose fault it is, what was lost (nothing, or exactly what) and the cure. Nothing else lives
here, and this module imports nothing of ztasks, so that every layer can raise what is defined here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ztasks.wire.certificate import DeathCertificate


class ZtasksError(Exception):
    """The root of all errors of ztasks; the message says whose fault it is, what was lost, and the cure."""


class InvalidOption(ZtasksError, ValueError, TypeError):
    """The caller's fault: an argument or option has a wrong type or value. Nothing was started."""


class ExecutorClosed(ZtasksError, RuntimeError):
    """The caller's fault: work was given to an executor that is closed or closing. That work was not accepted."""


class NoExecutor(ZtasksError, RuntimeError):
    """The caller's fault: `task.submit` or `task.map` was called outside a `with Executor(...)` block."""


class ForkedExecutor(ZtasksError, RuntimeError):
    """The caller's fault: an executor was used in a forked child; it belongs to the process that made it."""


class CallNotPicklable(ZtasksError, TypeError):
    """The caller's fault: a callable or an argument cannot be pickled. Raised by `submit`; nothing was sent."""


class CallNotLoadable(ZtasksError):
    """The worker could not load the callable or the arguments: a module is missing there, or unpickling failed.

    The job did not run and is not retried; the other jobs go on.
    """


class ResultNotPicklable(ZtasksError, TypeError):
    """The task's fault: the job ran, but what it returned cannot be pickled. The result of that job is lost."""


class ResultNotLoadable(ZtasksError):
    """The job ran and its result arrived, but unpickling it in this process failed. Only that result is lost."""


class RemoteError(ZtasksError):
    """A job raised an exception that cannot travel; this stands for it, with its type, message and traceback."""

    def __init__(self, type_name: str, message: str, traceback: str) -> None:
        super().__init__(f"{type_name}: {message}" if message else type_name)
        self.type_name = type_name
        self.message = message
        self.traceback = traceback

    def __reduce__(self) -> tuple[type[RemoteError], tuple[str, str, str]]:
        return type(self), (self.type_name, self.message, self.traceback)


class RemoteTraceback(ZtasksError):
    """The cause of a job's exception: the traceback as it was in the worker, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'


class TooLarge(ZtasksError, ValueError):
    """The caller's or the task's fault: arguments or a result exceed the byte budget, and could never fit.

    Raised by `submit` for arguments (nothing was sent); a job whose result is too large fails with it.
    """


class JobTimeout(ZtasksError):
    """The job ran longer than its `timeout=` and was stopped. No TimeoutError: `result(timeout=)` raises that.

    If its worker had to be killed, `certificate` says what the job was doing.
    """

    certificate: DeathCertificate | None = None


class JobCancelled(ZtasksError):
    """Raised inside a running job that is stopped by `future.cancel(running=True)`. The future is cancelled."""


class WorkerLost(ZtasksError):
    """A worker process died while it ran the job, and the job could not be run again. Its other jobs are unharmed.

    `certificates` says of each worker that the job took down how it died; `certificate` is the last of them, or None.
    """

    def __init__(self, message: str, certificates: tuple[DeathCertificate, ...] = ()) -> None:
        super().__init__(message)
        self.certificates = certificates

    @property
    def certificate(self) -> DeathCertificate | None:
        """How the last of its workers died."""
        return self.certificates[-1] if self.certificates else None

    def __reduce__(self) -> tuple[type[WorkerLost], tuple[object, ...]]:
        return type(self), (str(self.args[0]), self.certificates)


class PoisonJob(WorkerLost):
    """The job's worker died each time it was run, more often than `crash_retries` allows.

    `history` says how each attempt ended, failures included.
    """

    def __init__(
        self, message: str, history: tuple[str, ...] = (), certificates: tuple[DeathCertificate, ...] = ()
    ) -> None:
        super().__init__(message, certificates)
        self.history = history

    def __reduce__(self) -> tuple[type[PoisonJob], tuple[object, ...]]:
        return type(self), (str(self.args[0]), self.history, self.certificates)


class WorkersCannotStart(ZtasksError, RuntimeError):
    """No worker process came up: the message holds what the last one wrote to stderr. Queued jobs fail with this."""


class HeadFailed(ZtasksError, RuntimeError):
    """A defect in ztasks stopped the head's thread; every job that was not done fails with this. Please report it."""


class WireError(ZtasksError):
    """A message does not follow the protocol. The message was dropped before anything in it was unpickled."""


def remote_traceback(exception: BaseException) -> str | None:
    """Return the traceback text that came with a job's exception, or None if it did not come from a worker.

    Raises InvalidOption for what is no exception.
    """
    if not isinstance(exception, BaseException):
        raise InvalidOption(f"remote_traceback needs an exception, not a {type(exception).__name__}")
    if isinstance(exception, RemoteError):
        return exception.traceback
    cause = exception.__cause__
    return cause.text if isinstance(cause, RemoteTraceback) else None


class BadJoinFile(ZtasksError, ValueError):
    """The caller's fault: what was given as the head is no join file, address or text that can be used.

    Nothing was started. The message never holds a key.
    """


class BadKeyStore(ZtasksError):
    """A head's keys cannot be read or changed: a missing directory, a damaged file, a name that is taken or unknown."""


class NotPrivate(ZtasksError):
    """A file or directory with keys can be used by others, or is not this user's own. It was not used."""


class CannotListen(ZtasksError):
    """A head cannot listen: the port is taken, the address is not this host's, or it would be open to everybody."""


class HeadLost(ZtasksError, RuntimeError):
    """Nobody's fault that a client can see: its head is not there, does not answer any more, or does not take it in.

    Nothing is known of a job that fails with it: it may wait, run, or have ended. With a journal it goes on as soon as
    the head is back, and the message says how to get its result.
    """


class HeadFull(ZtasksError, RuntimeError):
    """The head has no room for more: its limits of memory, disk or jobs are reached. The job was not accepted."""


class JobNotFound(ZtasksError, LookupError):
    """The head knows no job of this id: it never had it, or has given up what it kept of it."""


class JobExpired(ZtasksError):
    """The job had not begun when its `expires=` was over: it was given up, and did not run."""


class JournalError(ZtasksError):
    """A head's journal cannot be used: its place, its version, another head that holds it, or damage.

    What is in it was not changed; the message names the cure.
    """
