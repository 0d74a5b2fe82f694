"""What users write: durations and sizes as plain numbers (seconds, bytes) or text with units; and how it is shown.

    parse_duration("1h30m", "timeout") == 5400.0        us, ms, s, m or min, h, d; largest first
    parse_size("512MiB", "buffer_bytes") == 536870912   k, M, G, T count in thousands; with an i, in 1024s
    parse_wait(-1, "timeout") == 0.0                    how long to wait; None and infinity: for ever

The i alone makes a size binary: `64k`, `64kB` and `64KB` are 64,000 bytes, `64Ki` and `64KiB` are 65,536.
Upper and lower case are alike.
"""

from __future__ import annotations

import contextlib
import math
import re
import reprlib
from decimal import Decimal
from typing import Final

from ztasks.errors import InvalidOption

_NUMBER: Final = r"\d+(?:\.\d*)?|\.\d+"
_PLAIN: Final = re.compile(rf"(?:{_NUMBER})(?:e[+-]?\d{{1,3}})?")
_SECONDS: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}
_DURATION_PART: Final = re.compile(rf"\s*({_NUMBER})\s*(us|ms|min|[dhms])")
_SIZE: Final = re.compile(rf"({_NUMBER})\s*(?:([kmgtp])(i?)b?|b)?")
_POWER: Final = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_MAX_TEXT: Final = 64
"""Nobody writes a longer one: what is longer is a mistake, and is not worth parsing."""

MAX_WAIT: Final = 1e9
"""A wait of more seconds than this (30 years) is one for ever: the operating system's clocks end somewhere."""

MAX_SIZE: Final = 2**63 - 1
"""More bytes than any memory or file has."""

LONGEST_TASK_NAME: Final = 512
"""The most characters of a task's name."""

_MAX_SHOWN: Final = 80
"""How many characters of a value a message shows."""

_MAX_REASON: Final = 500
"""How many characters of another error's message a message repeats."""


class _Short(reprlib.Repr):
    """A repr whose cost is bounded where the value is a large container or string."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = 2 * _MAX_SHOWN

    def repr_instance(self, x: object, level: int) -> str:
        """Show what is no container of a known type."""
        return repr(x)


_short: Final = _Short()

_DURATION_CURE: Final = 'give seconds as a number, or text such as "30s", "500ms", "2h" or "1m30s"'
_SIZE_CURE: Final = 'give bytes as a number, or text such as "64k", "512MiB" or "1GB"'


def parse_duration(value: float | int | str, what: str) -> float:
    """Return a duration in seconds; `what` names the option in the message. Raises InvalidOption."""
    if isinstance(value, str):
        seconds = _duration_from_text(value)
        if seconds is None:
            raise InvalidOption(f"{what} must be a duration, not {shown(value)}: {_DURATION_CURE}")
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidOption(f"{what} must be a duration, not {shown(value)}: {_DURATION_CURE}")
    else:
        seconds = _as_float(value)
    if not 0 <= seconds < math.inf:
        raise InvalidOption(
            f"{what} must be a finite duration that is not negative, not {shown(value)}: {_DURATION_CURE}"
        )
    return seconds


def parse_wait(value: float | int | str | None, what: str) -> float | None:
    """Return for how many seconds to wait, or None: for ever. A time that is over already gives 0, as in the standard
    library. `what` names the parameter in the message. Raises InvalidOption."""
    if value is None:
        return None
    seconds = math.nan
    if isinstance(value, str):
        seconds = parse_duration(value, what)
    elif not isinstance(value, bool) and (hasattr(type(value), "__float__") or hasattr(type(value), "__index__")):
        with contextlib.suppress(Exception):  # also NumPy's numbers, and Fractions; a broken number is none
            seconds = _as_float(value)
    if math.isnan(seconds):
        raise InvalidOption(f"{what} must be seconds to wait, or None, not {shown(value)}: None waits for ever")
    return max(0.0, seconds) if seconds <= MAX_WAIT else None


def parse_flag(value: object, what: str) -> bool:
    """Return a flag; `what` names the parameter in the message. Raises InvalidOption for all but True and False."""
    if not isinstance(value, bool):
        raise InvalidOption(f"{what} must be True or False, not {shown(value)}")
    return value


def parse_size(value: float | int | str, what: str) -> int:
    """Return a size in bytes; `what` names the option in the message. Raises InvalidOption.

    A fraction of a unit is rounded down to whole bytes; a fraction of a byte is refused.
    """
    size: int | None = None
    if isinstance(value, str):
        size = _size_from_text(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        size = int.__index__(value)
    elif isinstance(value, float) and float.is_integer(value):
        size = float.__int__(value)
    if size is None or not 0 <= size <= MAX_SIZE:
        raise InvalidOption(f"{what} must be a size in whole bytes, not {shown(value)}: {_SIZE_CURE}")
    return size


def _duration_from_text(text: str) -> float | None:
    """Add up the parts of a duration, which must stand largest first; None if it is none."""
    text = text.strip().lower()
    if len(text) > _MAX_TEXT:
        return None
    if _PLAIN.fullmatch(text):
        return float(text)
    total, last, end = 0.0, math.inf, 0
    while end < len(text):
        part = _DURATION_PART.match(text, end)
        if part is None or _SECONDS[part[2]] >= last:
            return None
        last = _SECONDS[part[2]]
        total += float(part[1]) * last
        end = part.end()
    return total if end else None


def _size_from_text(text: str) -> int | None:
    """Return what a text says in bytes; None if it is no size."""
    text = text.strip().lower()
    found = _SIZE.fullmatch(text) if len(text) <= _MAX_TEXT else None
    if found is None:
        return None
    number, unit, binary = found.groups()
    factor = 1 if unit is None else (1024 if binary else 1000) ** _POWER[unit]
    size = Decimal(number) * factor
    if factor == 1 and size != int(size):
        return None
    return int(size)


def _as_float(value: float | int) -> float:
    """Return an exact float; what a subclass has made of its methods does not matter."""
    try:
        if isinstance(value, int):
            return int.__float__(value)
        return float.__float__(value) if isinstance(value, float) else float(value)
    except OverflowError:
        return -math.inf if isinstance(value, int) and int.__index__(value) < 0 else math.inf


def shown(value: object) -> str:
    """Show a value in a message, cut where it is long; whatever its `__repr__` does wrong must not hide the mistake."""
    try:
        if isinstance(value, int) and abs(int.__index__(value)) >= 10**20:
            return "an integer of more than 20 digits"  # and repr refuses those of more than 4300
        text = _short.repr(value)
    except Exception:  # noqa: BLE001 - it runs any code
        text = f"a {type(value).__name__}"
    return cut(text, _MAX_SHOWN)


def reason(error: BaseException) -> str:
    """Repeat an error in a message: its type, and what it says, cut where it is long."""
    try:
        said = str(error).removesuffix(".")
    except Exception:  # noqa: BLE001 - a broken __str__ must not hide the error
        said = "<its __str__ raised>"
    return cut(f"{type(error).__name__}: {said}" if said else type(error).__name__, _MAX_REASON)


def encodable(text: str) -> str:
    """Return a text without what UTF-8 cannot hold: lone surrogates, as undecodable file names have."""
    return text.encode("utf-8", "replace").decode()


def cut(text: str, most: int) -> str:
    """Return the beginning of a long text, and that there is more."""
    return text if len(text) <= most else text[: most - 3] + "..."
