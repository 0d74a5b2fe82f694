"""Callables: what a worker shall call, pickled once and named by its content.

A callable that a worker can import travels by reference. A function by value (a lambda, a closure, anything of
`__main__`) costs 23 us to pickle, so its pickle is kept under a *fingerprint*: its code, its defaults, and the identity
of all that it names in cells and globals, also through other functions by value that it calls. So rebinding a name is
noticed by the next `submit`; mutating in place what a name is bound to is not. Everything else by value (bound methods,
partials, instances, whatever names a class of `__main__`) is pickled anew each time.
"""

from __future__ import annotations

import pickle
import sys
from functools import partial
from itertools import islice
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final, NamedTuple

from ztasks.errors import CallNotPicklable
from ztasks.units import LONGEST_TASK_NAME, cut, encodable
from ztasks.wire.verdict import EVERYTHING, Judged, Verdict

CACHE_SIZE: Final = 1024
"""How many callables are remembered; the oldest goes first."""

REMEMBERED_BYTES: Final = 64 * 1024
"""Pickles of functions by value that are larger are not kept, nor is what they were made of."""

CONTENTS_LOOKED_AT: Final = 32
"""How many items of a container that a function names are searched for code."""

_MISSING: Final = object()


class ShippedCallable(NamedTuple):
    """A pickled callable: `key` is a digest of `pickled` and names it on every lane."""

    key: bytes
    pickled: bytes
    name: str
    by_reference: bool
    """Whether a worker imports it: then its pickle never changes."""


class _Remembered(NamedTuple):
    shipped: ShippedCallable
    references: list[object]
    """What the fingerprint was made of: kept alive, so that none of the identities in it can be reused."""


_by_fingerprint: dict[tuple[Any, ...], _Remembered] = {}
_by_reference: dict[object, ShippedCallable] = {}
_names_of_code: dict[CodeType, tuple[str, ...]] = {}


def ship(function: Any) -> ShippedCallable:
    """Pickle a callable, or find its pickle; raises CallNotPicklable."""
    function = getattr(function, "ztasks_shipped", function)
    kind = type(function)
    if kind is FunctionType:
        found = _by_reference.get(function)
        if found is not None:
            return found
        references: list[object] = []
        fingerprint = _fingerprint(function, references, set()) if _is_by_value(function) else None
        if fingerprint is None:
            return _pickle(function)
        known = _by_fingerprint.get(fingerprint)
        if known is not None:
            return known.shipped
        shipped = _pickle(function)
        if len(shipped.pickled) <= REMEMBERED_BYTES:  # what a closure captures would live as long as the cache
            _remember(_by_fingerprint, fingerprint, _Remembered(shipped, references))
        return shipped
    if kind is BuiltinFunctionType or kind is type:
        found = _by_reference.get(function)
        if found is not None:
            return found
    return _pickle(function)


def ship_judged(function: Any, verdict: Verdict) -> ShippedCallable:
    """Pickle a callable together with what may be retried of it; raises CallNotPicklable."""
    shipped = ship(function)
    if verdict == EVERYTHING:
        return shipped
    judged = _pickle(Judged(getattr(function, "ztasks_shipped", function), verdict))
    return judged._replace(name=shipped.name, by_reference=shipped.by_reference)


def describe(function: Any) -> str:
    """Return a callable's name for messages and records."""
    if isinstance(function, MethodType):
        return cut(encodable(f"{type(function.__self__).__name__}.{function.__name__}"), LONGEST_TASK_NAME)
    inner = getattr(function, "func", None)  # functools.partial
    name = getattr(function, "__qualname__", None) or getattr(inner, "__qualname__", None)
    return cut(encodable(name if isinstance(name, str) else type(function).__name__), LONGEST_TASK_NAME)


def _pickle(function: Any) -> ShippedCallable:
    """Pickle a callable, by reference if that works from a worker, and remember it if it went by reference."""
    by_reference = False
    try:
        pickled = pickle.dumps(function, 5)
        by_reference = b"__main__" not in pickled
    except Exception:  # noqa: BLE001, S110 - by value is tried next and tells the reason
        pass
    if not by_reference:
        from ztasks.wire import by_value

        try:
            pickled = by_value.dumps(function)
        except Exception as error:
            raise CallNotPicklable(
                f"the callable {describe(function)} cannot be pickled, so no worker can run it: "
                f"{type(error).__name__}: {error}. Nothing was sent. Define it at the top level of a module, and "
                "create what cannot travel (locks, sockets, open files) inside it or in `initializer=`."
            ) from error
    from hashlib import blake2b  # late: it loads OpenSSL, and is not needed before the first job

    by_reference = by_reference and _is_imported(function)
    shipped = ShippedCallable(blake2b(pickled, digest_size=16).digest(), pickled, describe(function), by_reference)
    if by_reference:
        _remember(_by_reference, function, shipped)
    return shipped


def _is_imported(function: Any) -> bool:
    """Tell whether a pickle is nothing but a name; that of `{}.get`, a partial or a bound method holds values, too."""
    if type(function) is BuiltinFunctionType:
        return isinstance(function.__self__, ModuleType | type | None)
    return type(function) in (FunctionType, type) or hasattr(function, "ztasks_function")  # a task travels by its name


def _remember(cache: dict[Any, Any], key: object, value: object) -> None:
    """Put into a bounded cache. Several threads may do this at once: each step is atomic, a lost race costs nothing."""
    cache[key] = value
    while len(cache) > CACHE_SIZE:
        try:
            cache.pop(next(iter(cache)), None)
        except (StopIteration, RuntimeError):  # another thread was quicker
            break


def _is_by_value(function: FunctionType) -> bool:
    """Tell whether importing the function by its name would not give this very function."""
    module_name = function.__module__
    if module_name is None or module_name == "__main__":
        return True
    found: Any = sys.modules.get(module_name)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is not function


def _fingerprint(function: FunctionType, references: list[object], seen: set[FunctionType]) -> tuple[Any, ...] | None:
    """Return what a by-value function's pickle depends on, as identities; None if that cannot be told cheaply.

    `references` receives the objects whose identities are in it; `seen` are the functions already walked through.
    """
    seen.add(function)
    keywords = function.__kwdefaults__ or {}
    parts: list[Any] = [function.__code__, function.__qualname__, *keywords, *function.__dict__]
    values: list[object] = [*(function.__defaults__ or ()), *keywords.values()]
    values += function.__dict__.values()
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # a cell that is still empty
            values.append(_MISSING)
    namespace = function.__globals__
    values += [namespace.get(name, _MISSING) for name in _names(function.__code__)]
    for value in values:
        references.append(value)
        parts.append(id(value))
        inner = getattr(value, "ztasks_shipped", value) if callable(value) else value
        if isinstance(inner, FunctionType):
            if inner not in seen and _is_by_value(inner):
                deeper = _fingerprint(inner, references, seen)
                if deeper is None:
                    return None
                parts.append(deeper)
        elif _hides_code(inner):
            return None
    return tuple(parts)


def _hides_code(value: object, depth: int = 3) -> bool:
    """Tell whether a value may lead to code by value that a fingerprint does not see, or to attributes rebound later.

    So do classes of `__main__` and their instances, partials and bound methods, and containers that hold such things
    or functions (of large ones the beginning is looked at; what is nested deeper than `depth` counts as hidden).
    """
    if depth == 0:
        return True
    if isinstance(value, type):
        return value.__module__ == "__main__"
    if type(value).__module__ == "__main__" or isinstance(value, partial | MethodType):
        return True
    if isinstance(value, dict):
        value = [*islice(value.values(), CONTENTS_LOOKED_AT)]
    if isinstance(value, list | tuple | set | frozenset):
        return any(
            isinstance(item, FunctionType) or _hides_code(item, depth - 1) for item in islice(value, CONTENTS_LOOKED_AT)
        )
    return False


def _names(code: CodeType) -> tuple[str, ...]:
    """Return the global names that code may use, its inner functions included (attribute names too: harmless)."""
    found = _names_of_code.get(code)
    if found is None:
        names = dict.fromkeys(code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                names.update(dict.fromkeys(_names(constant)))
        found = tuple(names)
        _remember(_names_of_code, code, found)
    return found
