"""Durations and sizes: plain numbers (seconds, bytes), or text with units.

    parse_duration("1h30m", "timeout") == 5400.0        us, ms, s, m or min, h, d; largest first
    parse_size("512MiB", "buffer_bytes") == 536870912   k, M, G, T count in thousands; with an i, in 1024s

The i alone makes a size binary: `64k`, `64kB` and `64KB` are 64,000 bytes, `64Ki` and `64KiB` are 65,536.
Upper and lower case are alike.
"""

from __future__ import annotations

import math
import re
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

_DURATION_CURE: Final = 'give seconds as a number, or text such as "30s", "500ms", "2h" or "1m30s"'
_SIZE_CURE: Final = 'give bytes as a number, or text such as "64k", "512MiB" or "1GB"'


def parse_duration(value: float | int | str, what: str) -> float:
    """Return a duration in seconds; `what` names the option in the message. Raises InvalidOption."""
    if isinstance(value, str):
        seconds = _duration_from_text(value)
        if seconds is None:
            raise InvalidOption(f"{what} must be a duration, not {_shown(value)}: {_DURATION_CURE}")
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidOption(f"{what} must be a duration, not {_shown(value)}: {_DURATION_CURE}")
    else:
        seconds = _as_float(value)
    if not 0 <= seconds < math.inf:
        raise InvalidOption(
            f"{what} must be a finite duration that is not negative, not {_shown(value)}: {_DURATION_CURE}"
        )
    return seconds


def parse_size(value: float | int | str, what: str) -> int:
    """Return a size in bytes; `what` names the option in the message. Raises InvalidOption.

    A fraction of a unit is rounded down to whole bytes; a fraction of a byte is refused.
    """
    size: int | None = None
    if isinstance(value, str):
        size = _size_from_text(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, float) and value.is_integer():
        size = int(value)
    if size is None or size < 0:
        raise InvalidOption(f"{what} must be a size in whole bytes, not {_shown(value)}: {_SIZE_CURE}")
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
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _shown(value: object) -> str:
    """Show a value in a message, cut where it is long."""
    if isinstance(value, int) and abs(value) >= 10**20:
        return "an integer of more than 20 digits"  # and repr refuses those of more than 4300
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a broken __repr__ must not hide the mistake
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
