"""Task functions and values for the tests of bad input; workers import the functions."""

from __future__ import annotations

import contextlib
import decimal
import fractions
import math
import os
import socket
import tempfile
import threading
import types
from collections.abc import Iterator
from typing import Any

import jobs

import ztasks


def note_and_wait(number: int, notes: str, release: str) -> int:
    """Note in a file that this job has begun, then wait until the other file is there."""
    with open(notes, "ab", buffering=0) as file:
        file.write(b"%d\n" % number)
    assert jobs.wait_for_file(release)
    return number


def anything(*args: Any, **kwargs: Any) -> int:
    """Take whatever comes; return how much it was."""
    return len(args) + len(kwargs)


def ask_for_another(message: Any) -> None:
    raise ztasks.Retry(message=message)


class Refused(Exception):
    """What the objects below raise."""


def _refuse(self: Any, *args: Any, **how: Any) -> Any:
    raise Refused("no")


METHODS = [
    *("__repr__", "__str__", "__len__", "__iter__", "__next__", "__hash__", "__eq__", "__ne__", "__lt__", "__bool__"),
    *("__reduce_ex__", "__getattr__", "__contains__", "__getitem__", "__float__", "__index__", "__int__", "__format__"),
]


def broken(*names: str, base: type = object, value: tuple[Any, ...] = ()) -> Any:
    """Make an object of which these methods raise."""
    return type("Broken", (base,), dict.fromkeys(names, _refuse))(*value)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@contextlib.contextmanager
def odd_values() -> Iterator[dict[str, Any]]:
    """All kinds of values that somebody may give for a parameter, by a name."""
    with contextlib.ExitStack() as stack:
        pipe = socket.socketpair()
        for end in pipe:
            stack.enter_context(end)
        file = stack.enter_context(tempfile.TemporaryFile())

        class Local:
            pass

        yield {
            "None": None, "True": True, "False": False, "0": 0, "1": 1, "-1": -1, "2**31": 2**31, "2**63": 2**63,
            "10**100": 10**100, "-10**100": -(10**100), "10**5000": 10**5000, "1.5": 1.5, "-1.5": -1.5, "nan": math.nan,
            "inf": math.inf, "-inf": -math.inf, "1e308": 1e308, "-1e308": -1e308, "1j": 1j,
            "a decimal": decimal.Decimal("1.5"), "a fraction": fractions.Fraction(3, 2),
            "an empty string": "", "a word": "soon", "a digit": "1", "a duration": "1s", "a size": "1MiB", "nul": "\0",
            "a long string": "x" * 5_000_000, "a long digit": "9" * 5_000_000, "no text": "\udcff",
            "empty bytes": b"", "bytes": b"1", "a bytearray": bytearray(b"1"), "a memoryview": memoryview(b"1"),
            "an empty list": [], "a list": [1, 2], "a tuple": (1,), "an empty tuple": (), "an empty dict": {},
            "a dict": {"a": 1}, "a set": {1}, "a long list": list(range(100_000)), "a deep list": nested(50_000),
            "an object": object(), "a class": Local, "an instance": Local(), "an exception": ValueError("x"),
            "an exception type": ValueError, "a lambda": lambda *args: None, "a lock": threading.Lock(),
            "a list with a lock": [threading.Lock()], "a socket": pipe[0], "a file": file, "a module": os,
            "a generator": (n for n in range(3)), "a namespace": types.SimpleNamespace(a=1), "an ellipsis": ...,
            "not implemented": NotImplemented, "a range": range(3), "an iterator": iter([1, 2]),
            **{f"broken {name}": broken(name) for name in METHODS}, "all broken": broken(*METHODS),
            "a broken int": broken("__repr__", "__bool__", base=int, value=(3,)),
            "a broken string": broken("__repr__", "__hash__", base=str, value=("text",)),
            "a broken list": broken("__iter__", "__len__", base=list, value=([1],)),
        }  # fmt: skip
