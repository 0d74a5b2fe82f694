"""Verdicts: whether a failure may be retried. Evaluated in the worker, where the exception is; only the head counts."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from ztasks.errors import ZtasksError
from ztasks.units import parse_duration


class Retry(ZtasksError):
    """Raised by a job that wants to be run again: `raise ztasks.Retry(after="30s") from error`.

    It counts against the task's `retries`, whatever `retry_on` says; when these are used up, the job fails with it.
    `after`: the pause in seconds, or text with units; None: as the task's `backoff` says. Raises InvalidOption.
    """

    def __init__(self, after: float | str | None = None, message: str = "the job asked to be run again") -> None:
        super().__init__(message)
        self.after = None if after is None else parse_duration(after, "after")

    def __reduce__(self) -> tuple[type[Retry], tuple[float | None, str]]:
        return type(self), (self.after, str(self.args[0]))


class Verdict(NamedTuple):
    """Which exceptions of a task may be retried."""

    retry_on: tuple[type[BaseException], ...] | None = None
    """Only these; None: all."""
    no_retry_on: tuple[type[BaseException], ...] = ()
    """Not these, even if they are in `retry_on`."""

    def allows(self, error: BaseException) -> bool:
        """Tell whether a job that raised this may be run again."""
        if isinstance(error, self.no_retry_on):
            return False
        return self.retry_on is None or isinstance(error, (Retry, *self.retry_on))


EVERYTHING: Final = Verdict()


class Judged:
    """A callable that travels together with its verdict."""

    def __init__(self, function: Any, verdict: Verdict) -> None:
        self.function = function
        self.verdict = verdict

    def __reduce__(self) -> tuple[type[Judged], tuple[Any, Verdict]]:
        return Judged, (self.function, self.verdict)
