"""Keys: what an input is known by in every run, so that a later one finds out what has been done.

A key is 16 hexadecimal digits, a digest of the target's name, the constants and the input. Where equal inputs come more
than once, each is a job of its own: the second has the key `...-2`, and so on. So a key depends neither on where an
input stands, nor on what becomes of it.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping
from functools import partial
from hashlib import blake2b
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any, Final, NamedTuple

import msgspec

from ztasks.runs.counts import Counts
from ztasks.runs.encoding import Encoder

_GOLDEN: Final = 0x9E3779B97F4A7C15
_MASK: Final = 2**64 - 1
_ADDRESS: Final = re.compile(rb" at 0x[0-9a-fA-F]+")
_KEY: Final = re.compile(r"([0-9a-f]{16})(?:-([1-9]\d{0,9}))?")


class Key(NamedTuple):
    """A key, as a number that files are searched by."""

    digest: int
    occurrence: int
    """How many equal inputs came before it."""

    def __str__(self) -> str:
        return f"{self.digest:016x}-{self.occurrence + 1}" if self.occurrence else f"{self.digest:016x}"

    @property
    def number(self) -> int:
        """One 64-bit number that stands for both."""
        return (self.digest + self.occurrence * _GOLDEN) & _MASK


def parse_key(text: str) -> Key | None:
    """Read a key; None if it is none."""
    found = _KEY.fullmatch(text)
    return None if found is None else Key(int(found[1], 16), int(found[2] or 1) - 1)


class Keys:
    """Gives the inputs of one run their keys, in the order in which they come."""

    def __init__(self, target: str, constants: Mapping[str, Any] | None = None, carried: bytes = b"") -> None:
        """`carried`: what else tells the target from others of its name."""
        start = os.fsencode(target) + b"\0"
        if carried:
            start += carried + b"\0"
        if constants:
            start += _canonical(dict(constants)) + b"\0"
        self._digest = blake2b(start, digest_size=8)
        self._seen = Counts()

    def next(self, input_: Any, shown: bytes) -> Key:
        """Return the key of the next input; `shown` is how its record shows it."""
        digest = self._digest.copy()
        digest.update(shown if type(input_) is str else _canonical(input_))
        number = int.from_bytes(digest.digest(), "big")
        return Key(number, self._seen.add(number))

    def close(self) -> None:
        """Release the memory of what has been seen."""
        self._seen.close()


def carried_by(function: Any) -> bytes:
    """Return what tells a callable from others of its name: what partials, closures, methods and instances hold.

    Nothing for a function that a module defines, though a decorator may have made a closure of it: its name says all.
    """
    if isinstance(function, partial):
        held: Any = [carried_by(function.func), list(function.args), function.keywords]
    elif isinstance(function, MethodType):
        held = function.__self__
    elif isinstance(function, FunctionType):
        if "<" not in function.__qualname__:  # neither <lambda> nor <locals>
            return b""
        held = [_content(cell) for cell in function.__closure__ or ()]
        if function.__name__ == "<lambda>":
            code = function.__code__
            held += [code.co_code, code.co_names, [each for each in code.co_consts if not isinstance(each, CodeType)]]
    elif isinstance(getattr(function, "__qualname__", None), str):
        return b""
    else:
        held = function
    return _canonical(held)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


_sorted: Final = msgspec.json.Encoder(order="deterministic").encode


def _canonical(value: Any) -> bytes:
    """Return bytes that are the same for equal values, in every run: neither order nor addresses matter."""
    try:
        return _sorted(value)
    except Exception:  # noqa: BLE001 - it is not all JSON: another encoder copes with everything
        encoder = Encoder(order="deterministic")
        shown = encoder.encode(value)
    if not encoder.met_marker:
        return shown
    try:
        return pickle.dumps(value, 5)
    except Exception:  # noqa: BLE001 - it runs any code
        return _ADDRESS.sub(b"", shown)
