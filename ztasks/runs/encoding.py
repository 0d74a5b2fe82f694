"""Any Python value as JSON, as sensibly as it goes.

Dataclasses, msgspec structs and attrs classes become objects, tuples and sets arrays, bytes base64, dates ISO 8601,
Decimal and UUID strings, enums their values, paths strings, NumPy scalars numbers and its arrays nested arrays. NaN and
the infinities become null. What JSON cannot hold stands as `{"$repr": "<its repr, at most 1,000 characters>", "$type":
"module.Class"}` in its place; keys become strings.
"""

from __future__ import annotations

import datetime
import json
import math
import os
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from ztasks.runs import shipping

MAX_REPR: Final = 1000
MAX_DEPTH: Final = 100
"""Deeper values are cut with a marker; they may contain themselves."""

MAX_KINDS: Final = 20
"""So many kinds of what was written otherwise than it was are told apart."""

NOT_FINITE: Final = "NaN or infinity"

NO_TEXT: Final = "dict with keys that are no text"

_HOLDERS: Final = frozenset({dict, list, tuple})
_KEYWORDS: Final = ("false", "true")


class Encoder:
    """Encodes values, and notes what was not written as it is."""

    def __init__(self, *, order: Literal["deterministic"] | None = None) -> None:
        """`order`: give dicts and sets that are equal the same bytes."""
        self._order = order
        self._around: set[int] = set()
        """The ids of the containers that are being rebuilt: where one is met again, it contains itself."""
        self.met_marker = False
        """Whether something was replaced by its repr since this was last reset."""
        self.changed: dict[str, int] = {}
        """How often values were written as something else, by kind: NaN as null, an array as a list."""
        self._encode: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=self._hook, order=order).encode

    def encode(self, value: Any) -> bytes:
        """Encode any value; never fails."""
        before, marked = self.changed.copy(), self.met_marker
        try:
            data = self._encode(value)
        except Exception:  # noqa: BLE001 - encoding runs any code: the slow way copes with everything
            self.changed, self.met_marker = before, marked  # what it noted before it gave up
            # ASCII only: lone surrogates, which stand for bytes that are no UTF-8, can be written as escapes
            plain = self._plain(value, 0)
            data = json.dumps(plain, separators=(",", ":"), allow_nan=False, sort_keys=self._order is not None).encode()
        else:
            if b"null" in data and value is not None and _has_non_finite(value, 0):
                self._note(NOT_FINITE)
            if type(value) in _HOLDERS:
                self._look_at_keys(value)
        return data

    def _look_at_keys(self, value: Any) -> None:
        """Note keys that became text, and whether some became the same. The value has been encoded: it has an end."""
        if isinstance(value, dict):
            if any(type(key) is not str for key in value):
                self._note(NO_TEXT)
                self.met_marker = self.met_marker or len({self._key(key) for key in value}) < len(value)
            value = value.values()
        elif not value or type(value[0]) not in _HOLDERS:  # of a list, the first item tells what is in it
            return
        for each in value:
            if type(each) in _HOLDERS:
                self._look_at_keys(each)

    def _note(self, kind: str) -> None:
        if kind not in self.changed and len(self.changed) >= MAX_KINDS:
            kind = "other types"
        self.changed[kind] = self.changed.get(kind, 0) + 1

    def _hook(self, value: Any) -> Any:
        """Tell msgspec what to write for a type that it does not know; as a key, it must be a string."""
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            return _KEYWORDS[value] if isinstance(value, bool) else int(value)
        if isinstance(value, float):
            return float(value)
        if value is None:  # only as a key
            return "null"
        plain = self._known(value)
        if plain is not None:
            self._note(type_name(type(value)))
            return plain[0]
        self.met_marker = True
        return {"$repr": shortened(value), "$type": type_name(type(value))}

    def _known(self, value: Any) -> tuple[Any] | None:
        """Return what stands for a value of a type that is met often; None for all others."""
        if isinstance(value, os.PathLike):
            return (os.fsdecode(value),)
        if isinstance(value, Mapping):
            return (dict(value),)
        if isinstance(value, deque | range):
            return (list(value),)
        if isinstance(value, datetime.date | datetime.time):  # a subclass, such as pandas.Timestamp
            return (value.isoformat(),)
        if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
            return (value.tolist(),)
        return None

    def _plain(self, value: Any, depth: int) -> Any:
        """Rebuild a value of what `json` can write; used where msgspec gave up."""
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            if math.isfinite(value):
                return value
            self._note(NOT_FINITE)
            return None
        if depth >= MAX_DEPTH or id(value) in self._around:
            self.met_marker = True
            what = "contains itself" if id(value) in self._around else f"nested more than {MAX_DEPTH} deep"
            return {"$repr": f"<{what}>", "$type": type_name(type(value))}
        self._around.add(id(value))
        try:
            return self._plain_inside(value, depth)
        finally:
            self._around.remove(id(value))

    def _plain_inside(self, value: Any, depth: int) -> Any:
        if isinstance(value, Mapping):
            plain = {self._key(key): self._plain(item, depth + 1) for key, item in value.items()}
            self.met_marker = self.met_marker or len(plain) < len(value)  # keys that became the same
            if any(not isinstance(key, str) for key in value):
                self._note(NO_TEXT)
            return plain
        if isinstance(value, list | tuple | set | frozenset):
            items = [self._plain(item, depth + 1) for item in value]
            return sorted(items, key=repr) if self._order and isinstance(value, set | frozenset) else items
        try:
            return self._plain(msgspec.to_builtins(value, enc_hook=self._hook, str_keys=True), depth + 1)
        except Exception:  # noqa: BLE001 - it fails in a way of its own: show that it was there
            self.met_marker = True
            return {"$repr": shortened(value), "$type": type_name(type(value))}

    def _key(self, key: Any) -> str:
        """Write a key as msgspec would, or as its repr."""
        if isinstance(key, str):
            return str.__str__(key)
        plain = self._plain(key, MAX_DEPTH - 1)
        if plain is None or isinstance(plain, bool):
            return "null" if plain is None else _KEYWORDS[plain]
        return str(plain) if isinstance(plain, str | int | float) else shortened(key)


T = TypeVar("T")


class Decoder(Generic[T]):
    """Reads JSON as `Encoder` writes it: lone surrogates as well, which msgspec refuses."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._decode: Callable[[bytes], T] = msgspec.json.Decoder(kind).decode

    def decode(self, data: bytes) -> T:
        """Raises msgspec.MsgspecError, ValueError or RecursionError if it is not JSON, or no such value."""
        try:
            return self._decode(data)
        except msgspec.DecodeError:
            if b"\\u" not in data:
                raise
            return msgspec.convert(json.loads(data), self._kind)


decode: Final[Callable[[bytes], Any]] = Decoder(object).decode
"""Read any value."""


def _has_non_finite(value: Any, depth: int) -> bool:
    """Tell whether a number in it was written as null."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if depth >= MAX_DEPTH or isinstance(value, str | bytes | int):
        return False
    if isinstance(value, Mapping):
        return any(_has_non_finite(item, depth + 1) for item in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return any(_has_non_finite(item, depth + 1) for item in value)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return _has_non_finite(value.tolist(), depth + 1)
    fields: Any = getattr(type(value), "__struct_fields__", None) or getattr(type(value), "__dataclass_fields__", ())
    return any(_has_non_finite(getattr(value, name, None), depth + 1) for name in fields)


def type_name(kind: type) -> str:
    """Return a type's name as users import it."""
    module = shipping.short_name(kind.__module__) or kind.__module__
    for public in ("ztasks", "concurrent.futures", "pathlib"):  # from 3.13 on, a path is of pathlib._local
        if module.startswith(f"{public}."):
            module = public
    return kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"


def shortened(value: object) -> str:
    """Return a value's repr, cut; of what has none, the name of its type."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - any class may define a broken one
        text = object.__repr__(value)
    return text if len(text) <= MAX_REPR else text[: MAX_REPR - 3] + "..."
