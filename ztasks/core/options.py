"""The options of a task, checked when they are given.

The same names serve `@task(...)`, `.options(...)` and the command line.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ztasks.errors import InvalidOption
from ztasks.units import cut, parse_duration, parse_flag, parse_size, reason, shown
from ztasks.wire.verdict import Verdict

CRASH_RETRIES: Final = 2
"""So often a job is run again whose worker died, unless it is said otherwise."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a task's jobs are run; durations are in seconds."""

    name: str | None = None
    """The task's name in messages and records; None: its qualified name."""
    retries: int = 0
    """How often a job that raised is run again."""
    retry_on: tuple[type[BaseException], ...] | None = None
    """Only these exceptions are retried (and `Retry`); None: all."""
    no_retry_on: tuple[type[BaseException], ...] = ()
    """These exceptions are not retried, whatever `retry_on` says."""
    backoff: float = 1.0
    """The pause before the first retry; it doubles with each further one."""
    max_backoff: float = 60.0
    """The longest pause before a retry, jitter included."""
    jitter: float = 0.2
    """By which share a pause is varied at random, so that retries do not come all at once."""
    timeout: float | None = None
    """How long a job may run before it is stopped with JobTimeout; None: for ever."""
    grace: float = 5.0
    """How long after its timeout a job may still clean up before its worker is killed."""
    crash_retries: int | None = None
    """How often a job is run again whose worker died while it ran; None: twice, but never with `at_most_once`."""
    at_most_once: bool = False
    """A job that may have begun is never run again: with its worker it is lost. Rules out both kinds of retries."""
    cpus: int = 1
    """How many workers' share of the processors a job takes: so many fewer jobs run beside it."""
    memory: int | None = None
    """How many bytes a job takes: only as many jobs run at a time as fit into the executor's `memory`."""

    @property
    def crashes_allowed(self) -> int:
        """How often a job is really run again whose worker died."""
        if self.crash_retries is not None:
            return self.crash_retries
        return 0 if self.at_most_once else CRASH_RETRIES

    @property
    def verdict(self) -> Verdict:
        """Which exceptions may be retried."""
        return Verdict(self.retry_on, self.no_retry_on)

    @property
    def singular(self) -> bool:
        """Whether the ventilator must look where a job goes and what runs beside it."""
        return self.at_most_once or self.cpus > 1 or self.memory is not None

    def replaced(self, changes: dict[str, Any]) -> Options:
        """Return a copy with other values, given by name; raises InvalidOption."""
        unknown = changes.keys() - NAMES
        if unknown:
            raise InvalidOption(
                f"unknown option {cut(', '.join(sorted(unknown)), 200)}; the options of a task are "
                f"{', '.join(sorted(NAMES))}"
            )
        return msgspec.structs.replace(self, **changes)

    def __post_init__(self) -> None:
        """Check and convert all values."""
        for name in self.__struct_fields__:
            msgspec.structs.force_setattr(self, name, _checked(name, getattr(self, name)))
        if self.at_most_once:
            for name in ("retries", "crash_retries"):
                if number := getattr(self, name):
                    raise _excluded(name, number)


MAX_COUNT: Final = 2**31 - 1
"""The largest number that any option takes."""

NAMES: Final = frozenset(Options.__struct_fields__)


def _checked(name: str, value: Any) -> Any:
    """Check one option's value and convert it; raises InvalidOption."""
    if name == "name":
        if value is not None and not (isinstance(value, str) and value):
            raise InvalidOption(f"name must be a string that is not empty, or None, not {shown(value)}")
        return None if value is None else str.__str__(value)  # a plain one, whatever it is a subclass of
    if name == "crash_retries" and value is None:
        return None
    if name in ("retries", "crash_retries"):
        return count(value, name)
    if name == "cpus":
        return count(value, name, 1)
    if name == "memory":
        return None if value is None else parse_size(value, name)
    if name == "at_most_once":
        return parse_flag(value, name)
    if name in ("retry_on", "no_retry_on"):
        return None if value is None and name == "retry_on" else _exceptions(name, value)
    if name == "jitter":
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InvalidOption(f"jitter must be a share from 0 to 1, not {shown(value)}")
        return float(value)
    if name == "timeout":
        if value is None:
            return None
        seconds = parse_duration(value, name)
        if seconds <= 0:
            raise InvalidOption(f"timeout must be more than 0, not {shown(value)}; None means no timeout")
        return seconds
    return parse_duration(value, name)


def _excluded(name: str, number: object) -> InvalidOption:
    return InvalidOption(
        f"at_most_once rules out {name}={shown(number)}: a job that is run again may run twice. Leave {name} out, or "
        "at_most_once."
    )


def _exceptions(name: str, value: Any) -> tuple[type[BaseException], ...]:
    """Check an exception type, or a collection of such."""
    try:
        types = tuple(value) if isinstance(value, tuple | list | set | frozenset) else (value,)
    except Exception as error:
        raise InvalidOption(
            f"{name} must be an exception type or a tuple of them; reading it raised {reason(error)}"
        ) from error
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in types):
        raise InvalidOption(f"{name} must be an exception type or a tuple of them, not {shown(value)}")
    return types


def count(value: object, what: str, least: int = 0) -> int:
    """Check that `value` is a whole number of at least `least`; raises InvalidOption."""
    number = None if isinstance(value, bool) or not isinstance(value, int) else int.__index__(value)  # an exact one
    if number is None or number < least:
        raise InvalidOption(f"{what} must be a whole number of at least {least}, not {shown(value)}")
    if number > MAX_COUNT:
        raise InvalidOption(f"{what} must be at most {MAX_COUNT}, not {shown(value)}")
    return number


def retry_delay(options: Options, failures: int, chance: float) -> float:
    """Return the seconds to wait before a job that has failed `failures` times is run again.

    Exponential; `chance`, from 0 to 1, picks the place within the jitter; the cap holds with the jitter.
    """
    pause = min(options.max_backoff, options.backoff * 2.0 ** min(failures - 1, 60))
    return min(options.max_backoff, pause * (1 + options.jitter * (2 * chance - 1)))


DEFAULTS: Final = Options()
