"""The options of a task, checked when they are given.

The same names serve `@task(...)`, `.options(...)` and the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ztasks.errors import InvalidOption
from ztasks.units import LONGEST_TASK_NAME, cut, encodable, parse_duration, parse_flag, parse_size, reason, shown
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
    queue: str = "default"
    """Across hosts: which queue its jobs go into; a worker takes from those that it names with `-Q`."""
    tags: tuple[str, ...] = ()
    """Across hosts: what a worker must have been started with (`--tag`), all of them."""
    resources: tuple[tuple[str, int], ...] = ()
    """Across hosts: how much a job takes of what hosts have, besides cpus and memory. Given as a dict, `{"gpu": 1}`."""
    priority: int = 0
    """Across hosts: jobs of a higher one go first."""
    expires: float | None = None
    """Across hosts: a job that has not begun when this is over is given up with JobExpired; None: it waits for ever."""

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

LONGEST_NAME: Final = 128
"""The most characters of a queue, a tag or a resource."""

MAX_NAMES: Final = 64
"""The most tags or resources. As in `wire/link.py`, which few programs need and which takes 2 ms to import."""

NAMES: Final = frozenset(Options.__struct_fields__)


def _task_name(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_TASK_NAME or value != encodable(value):
        raise InvalidOption(
            f"name must be a string of 1 to {LONGEST_TASK_NAME} characters, all of which UTF-8 can hold, or None, not "
            f"{shown(value)}"
        )
    return str.__str__(value)  # a plain one, whatever it is a subclass of


def _checked(name: str, value: Any) -> Any:
    """Check one option's value and convert it; raises InvalidOption."""
    if name == "name":
        return None if value is None else _task_name(value)
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
    if name in ("timeout", "expires"):
        if value is None:
            return None
        seconds = parse_duration(value, name)
        if seconds <= 0:
            raise InvalidOption(f"{name} must be more than 0, not {shown(value)}; None means never")
        return seconds
    if name in _ROUTING:
        return _ROUTING[name](value)
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


def name_of(value: object, what: str) -> str:
    """Check the name of a queue, a tag or a resource; raises InvalidOption."""
    name = str.__str__(value) if isinstance(value, str) else ""
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable() or set(name) & _PARTS:
        raise InvalidOption(
            f"{what} must be a name of at most {LONGEST_NAME} characters without spaces, commas and '=', not "
            f"{shown(value)}"
        )
    return name


def _tags(value: Any) -> tuple[str, ...]:
    """Check one tag, or a collection of such; sorted."""
    if not isinstance(value, str | tuple | list | set | frozenset):
        raise InvalidOption(f"tags must be a name or a list of names, not {shown(value)}")
    try:
        names = (value,) if isinstance(value, str) else tuple(value)
    except Exception as error:
        raise InvalidOption(f"tags must be a list of names; reading it raised {reason(error)}") from error
    if len(names) > MAX_NAMES:
        raise InvalidOption(f"tags must be at most {MAX_NAMES}, not {len(names)}")
    return tuple(sorted({name_of(name, "tags") for name in names}))


def _resources(value: Any) -> tuple[tuple[str, int], ...]:
    """Check amounts of named resources; sorted, and without those of 0."""
    try:
        amounts = dict(value) if isinstance(value, Mapping | tuple) else None
    except Exception:  # noqa: BLE001 - reading it runs any code
        amounts = None
    if amounts is None:
        raise InvalidOption(
            f'resources must be a dict of names and whole numbers, such as {{"gpu": 1}}, not {shown(value)}'
        )
    for name in amounts:
        if name_of(name, "resources") in ("cpus", "memory"):
            raise InvalidOption(f"resources must be others than {name}: that is an option of its own, {name}=")
    if len(amounts) > MAX_NAMES:
        raise InvalidOption(f"resources must be at most {MAX_NAMES}, not {len(amounts)}")
    checked = ((str.__str__(name), count(amount, f"resources[{name!r}]")) for name, amount in amounts.items())
    return tuple(sorted(pair for pair in checked if pair[1]))


def _priority(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -MAX_COUNT <= int.__index__(value) <= MAX_COUNT:
        raise InvalidOption(f"priority must be a whole number from -{MAX_COUNT} to {MAX_COUNT}, not {shown(value)}")
    return int.__index__(value)


_PARTS: Final = frozenset(" ,=")
"""What separates names on the command line."""

_ROUTING: Final[dict[str, Any]] = {
    "queue": lambda value: name_of(value, "queue"),
    "tags": _tags,
    "resources": _resources,
    "priority": _priority,
}


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
