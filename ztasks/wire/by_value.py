"""Pickling by value: functions and classes that a worker cannot import, such as those of `__main__`.

cloudpickle does the work; this module adds one rule. A class that was received by value goes back *by key*: the
caller then finds its own class under that key, instead of having it rebuilt and its attributes reset by the copy that
the worker had (cloudpickle alone would do that, as it applies the received state to a class it already knows).
"""

from __future__ import annotations

import io
import pickle
import uuid
import weakref
from collections.abc import Callable
from typing import Any

import cloudpickle

_class_of: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()
_key_of: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()
_received: weakref.WeakSet[type] = weakref.WeakSet()


def _receive_class(key: str, make: Callable[..., type], args: tuple[Any, ...]) -> type:
    """Rebuild a class that came by value and remember the key it came under (runs while unpickling)."""
    known = _class_of.get(key)
    cls = known if known is not None else make(*args)
    if known is None:
        _remember(cls, key)
        _received.add(cls)
    return cls


def _own_class(key: str) -> type:
    """Find the class that this process once sent under this key (runs while unpickling)."""
    cls = _class_of.get(key)
    if cls is None:
        raise pickle.UnpicklingError(
            "the class of this object was made in this process and has been deleted since; keep a reference to it"
        )
    return cls


def _remember(cls: type, key: str) -> None:
    _class_of[key] = cls
    _key_of[cls] = key


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's pickler, with classes under keys."""

    answering = False

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, type):
            return super().reducer_override(obj)
        if self.answering and obj in _received:
            return _own_class, (_key_of[obj],)
        reduced = super().reducer_override(obj)
        by_value = isinstance(reduced, tuple) and len(reduced) > 2  # by reference it is a string or two parts
        if not by_value:
            return reduced
        key = _key_of.get(obj)
        if key is None:
            key = uuid.uuid4().hex
            _remember(obj, key)
        make, args = reduced[:2]
        slots = vars(obj).get("__slots__")
        if slots and args[0] is type(obj):
            args[3]["__slots__"] = slots  # cloudpickle's copy would have none, and could not come back
        return _receive_class, (key, make, args), *reduced[2:]


def dumps(
    value: object,
    buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
    *,
    answering: bool = False,
) -> bytes:
    """Pickle `value`, by value where importing would not find it; `answering`: it goes where its classes are from."""
    file = io.BytesIO()
    pickler = _Pickler(file, protocol=5, buffer_callback=buffer_callback)
    pickler.answering = answering
    pickler.dump(value)
    return file.getvalue()
