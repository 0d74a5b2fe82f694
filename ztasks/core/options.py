"""The options of a task, checked when they are given.

The same names serve `@task(...)`, `.options(...)` and the command line.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ztasks.errors import InvalidOption
from ztasks.units import parse_duration


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a task's jobs are run; durations are in seconds."""

    name: str | None = None
    """The task's name in messages and records; None: its qualified name."""
    retries: int = 0
    """How often a job that raised is run again."""
    backoff: float = 1.0
    """The pause before the first retry; it doubles with each further one."""
    max_backoff: float = 60.0
    """The longest pause before a retry (jitter comes on top)."""
    jitter: float = 0.2
    """By which share a pause is varied at random, so that retries do not come all at once."""
    timeout: float | None = None
    """How long a job may run before it is stopped with JobTimeout; None: for ever."""
    grace: float = 5.0
    """How long after its timeout a job may still clean up before its worker is killed."""
    crash_retries: int = 2
    """How often a job is run again whose worker died while it ran."""

    def replaced(self, changes: dict[str, Any]) -> Options:
        """Return a copy with other values, given by name; raises InvalidOption."""
        unknown = changes.keys() - NAMES
        if unknown:
            raise InvalidOption(
                f"unknown option {', '.join(sorted(unknown))}; the options of a task are {', '.join(sorted(NAMES))}"
            )
        return msgspec.structs.replace(self, **{name: _checked(name, value) for name, value in changes.items()})


MAX_COUNT: Final = 2**31 - 1
"""The largest number that any option takes."""

NAMES: Final = frozenset(Options.__struct_fields__)
DEFAULTS: Final = Options()


def _checked(name: str, value: Any) -> Any:
    """Check one option's value and convert it; raises InvalidOption."""
    if name == "name":
        if value is not None and not (isinstance(value, str) and value):
            raise InvalidOption(f"name must be a string that is not empty, or None, not {value!r}")
        return value
    if name in ("retries", "crash_retries"):
        return count(value, name)
    if name == "jitter":
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InvalidOption(f"jitter must be a share from 0 to 1, not {value!r}")
        return float(value)
    if name == "timeout":
        if value is None:
            return None
        seconds = parse_duration(value, name)
        if seconds <= 0:
            raise InvalidOption(f"timeout must be more than 0, not {value!r}; None means no timeout")
        return seconds
    return parse_duration(value, name)


def count(value: object, what: str, least: int = 0) -> int:
    """Check that `value` is a whole number of at least `least`; raises InvalidOption."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidOption(f"{what} must be a whole number of at least {least}, not {value!r}")
    if value > MAX_COUNT:
        raise InvalidOption(f"{what} must be at most {MAX_COUNT}, not {value!r}")
    return value


def retry_delay(options: Options, failures: int, chance: float) -> float:
    """Return the seconds to wait before a job that has failed `failures` times is run again.

    Exponential with a cap; `chance`, from 0 to 1, picks the place within the jitter.
    """
    pause = min(options.max_backoff, options.backoff * 2.0 ** min(failures - 1, 60))
    return pause * (1 + options.jitter * (2 * chance - 1))
