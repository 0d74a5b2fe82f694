"""Durations, rates and values for people to read."""

from __future__ import annotations

from typing import Any, Final

INPUT_LENGTH: Final = 80


def duration_text(seconds: float) -> str:
    """Return a duration for reading: `480 us`, `35 ms`, `1.2 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def rate_text(rate: float) -> str:
    """Return a rate for reading: `51,200/s`, `4.1/s`, `12/min`."""
    if rate >= 10:
        return f"{rate:,.0f}/s"
    return f"{rate:.1f}/s" if rate >= 0.5 else f"{rate * 60:.1f}/min"


def input_text(value: Any, length: int = INPUT_LENGTH) -> str:
    """Return an input for reading: text as it is, everything else as Python shows it; cut in the middle."""
    text = value if isinstance(value, str) else _repr(value)
    return one_line(text, length) or "''"


def one_line(text: str, length: int) -> str:
    """Return text for one line of a terminal: control characters escaped, cut in the middle."""
    if len(text) > 4 * length:
        text = text[: 2 * length] + text[-2 * length :]
    text = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text.strip())
    if len(text) <= length:
        return text
    half = (length - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def call_text(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return a call as it would be written in Python."""
    return f"{name}({', '.join([*map(_repr, args), *[f'{key}={_repr(value)}' for key, value in kwargs.items()]])})"


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - any class may define a broken one
        return f"<{type(value).__qualname__}>"
