"""Pickles that are read only to be shown: nothing that they name is imported or run.

What it must hold: whatever is in a pickle, showing it neither ends this process nor does anything else than take a
little time. A job that has killed three workers may have done so with its arguments.

Values of the plain types are what they are; whatever else stands there is represented by a stand-in that knows its name
and what it would have been made of.
"""

from __future__ import annotations

import io
import pickle
import reprlib
import sys
from collections.abc import Iterable
from typing import Any, Final

from ztasks.wire.payload import Buffer

_PATHS: Final = frozenset({"Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath"})
_ARRAYS: Final = frozenset({"_frombuffer", "_reconstruct", "scalar"})

HARMLESS: Final = {
    "builtins": frozenset({"bytearray", "complex", "frozenset", "range", "set", "slice"}),
    "collections": frozenset({"Counter", "OrderedDict", "deque"}),
    "datetime": frozenset({"date", "datetime", "time", "timedelta", "timezone"}),
    "decimal": frozenset({"Decimal"}),
    "fractions": frozenset({"Fraction"}),
    "numpy": frozenset({"dtype", "ndarray"}),
    "numpy._core.multiarray": _ARRAYS,
    "numpy._core.numeric": _ARRAYS,
    "numpy.core.multiarray": _ARRAYS,
    "numpy.core.numeric": _ARRAYS,
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,
    "uuid": frozenset({"UUID"}),
}
"""What may be made for the purpose, of modules that are loaded anyway."""


def load_to_show(data: bytes, buffers: Iterable[Buffer] | None = None) -> Any:
    """Unpickle what may be shown, with stand-ins for all that would run code; raises what a broken pickle does."""
    return _Reader(io.BytesIO(data), buffers=buffers).load()


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle names, or a stand-in."""
        if module in sys.modules and name in HARMLESS.get(module, ()):
            return super().find_class(module, name)
        return _Named(name.rpartition(".")[2], (_StandIn,), {})


class _Named(type):
    """A class or a function that is not here."""

    def __repr__(cls) -> str:
        return f"<{cls.__name__}>"


class _StandIn(metaclass=_Named):
    """What would have been made of arguments and a state."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _StandIn:
        self = object.__new__(cls)
        self.__dict__["_made_of"] = args, kwargs
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """All has been done in `__new__`, with which pickles make objects."""

    def __call__(self, *args: Any, **kwargs: Any) -> _StandIn:
        return self

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            args, kwargs = self.__dict__["_made_of"]
            self.__dict__["_made_of"] = args, {**kwargs, **state}

    def __setitem__(self, key: Any, value: Any) -> None:
        """Take in an item of a subclass of dict; it is not shown."""

    def extend(self, values: Any) -> None:
        """Take in items of a subclass of list; they are not shown."""

    append = add = extend

    @reprlib.recursive_repr("...")
    def __repr__(self) -> str:
        args, kwargs = self.__dict__["_made_of"]
        parts = [repr(value) for value in args] + [f"{name}={value!r}" for name, value in kwargs.items()]
        return f"{type(self).__name__}({', '.join(parts)})" if parts else f"<{type(self).__name__}>"
