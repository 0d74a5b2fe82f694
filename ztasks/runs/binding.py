"""Binding: the constants of a run, and what text becomes for a task's annotated parameters.

`def convert(path: Path, day: date, n: int = 3)` gets a Path, a date and an int, wherever its inputs are text. What has
no annotation, or one that text cannot become, stays as it is. Values that are not text (JSON, Python) are converted
only where JSON has no such type: a date, a Path, a dataclass.
"""

from __future__ import annotations

import datetime
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from inspect import Parameter
from pathlib import PurePath
from typing import Any, Final

import msgspec

from ztasks.errors import InvalidOption, ZtasksError
from ztasks.units import cut, shown

Convert = Callable[[Any], Any]
Args = tuple[Any, ...]
Kwargs = dict[str, Any]

_TRUTHS: Final = {"yes": True, "on": True, "no": False, "off": False}
_TEXT: Final = (str, Any, object, Parameter.empty)
_NATIVE: Final = (*_TEXT, int, float, bool, type(None), list, dict)
"""Types that JSON has: values of them come as they are."""


_CURES: Final = {
    int: "write a whole number",
    float: "write a number",
    bool: "write true or false, yes or no, 1 or 0",
    datetime.date: "write it as 2026-03-01",
    datetime.datetime: "write it as 2026-03-01T10:00:00",
}
"""How values of common types are written."""


class BadValue(ZtasksError):
    """An input does not become what the task's annotation says. That job fails; the others go on."""


class Binder:
    """Makes the arguments of a task out of inputs."""

    def __init__(self, function: Callable[..., Any], constants: Mapping[str, Any] | None = None) -> None:
        """`constants`: arguments of every call, where its input does not give them. Raises InvalidOption."""
        self.constants: dict[str, Any] = {}
        parameters = _parameters(function)
        self._text = _Converters(parameters, text=True)
        self._values = _Converters(parameters, text=False)
        self._positional = [each.name for each in parameters if each.kind in _BY_POSITION]
        if constants:
            self._check_names(constants, parameters)
            try:
                self.constants = {name: self._constant(name, value) for name, value in constants.items()}
            except BadValue as error:
                raise InvalidOption(f"a constant cannot be used: {error}") from error

    @property
    def idle(self) -> bool:
        """Whether calls stay as they are."""
        return not (self.constants or self._text.any or self._values.any)

    def bind(self, args: Args, kwargs: Kwargs, *, text: bool) -> tuple[Args, Kwargs]:
        """Convert what needs it, and add the constants. Raises BadValue."""
        converters = self._text if text else self._values
        if converters.any:
            args, kwargs = converters.convert(args, kwargs)
        if self.constants:
            given = self._positional[: len(args)]
            kwargs = {**{name: value for name, value in self.constants.items() if name not in given}, **kwargs}
        return args, kwargs

    def _constant(self, name: str, value: Any) -> Any:
        converters = self._text if isinstance(value, str) else self._values
        return converters.convert((), {name: value})[1][name]

    def _check_names(self, constants: Mapping[str, Any], parameters: list[Parameter]) -> None:
        names = [each.name for each in parameters if each.kind in _BY_NAME]
        if any(each.kind is Parameter.VAR_KEYWORD for each in parameters):
            return
        for name in constants:
            if name not in names:
                raise InvalidOption(
                    f"the task has no argument {name!r} for a constant; it has {', '.join(names) or 'none'}"
                )


_BY_POSITION: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME: Final = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


class _Converters:
    """What each parameter's values go through."""

    def __init__(self, parameters: list[Parameter], *, text: bool) -> None:
        found = {each.name: _converter(each, text=text) for each in parameters}
        self._by_position = [(each.name, found[each.name]) for each in parameters if each.kind in _BY_POSITION]
        self._by_name = {each.name: found[each.name] for each in parameters if each.kind in _BY_NAME}
        rest = [(each.name, found[each.name]) for each in parameters if each.kind is Parameter.VAR_POSITIONAL]
        self._rest = rest[0] if rest else ("", None)
        others = [found[each.name] for each in parameters if each.kind is Parameter.VAR_KEYWORD]
        self._others = others[0] if others else None
        self.any = any(found.values())

    def convert(self, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        """Raises BadValue."""
        if args:
            places = [*self._by_position, *[self._rest] * (len(args) - len(self._by_position))]
            args = (
                tuple([_apply(name, convert, value) for (name, convert), value in zip(places, args, strict=False)])
                + args[len(places) :]
            )
        if kwargs:
            known, others = self._by_name, self._others
            kwargs = {name: _apply(name, known.get(name, others), value) for name, value in kwargs.items()}
        return args, kwargs


def _apply(name: str, convert: Convert | None, value: Any) -> Any:
    if convert is None:
        return value
    try:
        return convert(value)
    except BadValue as error:
        raise BadValue(f"{name}={shown(value)} {error}") from None


def _parameters(function: Callable[..., Any]) -> list[Parameter]:
    """Return the parameters with their annotations resolved; none if they cannot be told."""
    inner = getattr(function, "ztasks_function", function)
    try:
        signature = inspect.signature(inner)
    except (TypeError, ValueError):  # some builtins have none
        return [Parameter("args", Parameter.VAR_POSITIONAL), Parameter("kwargs", Parameter.VAR_KEYWORD)]
    try:
        signature = inspect.signature(inner, eval_str=True)
    except Exception:  # noqa: BLE001 - annotations may hold any code, or what is imported for type checkers only
        names = getattr(inspect.unwrap(inner), "__globals__", {})
        return [_evaluated(each, names) for each in signature.parameters.values()]
    return list(signature.parameters.values())


def _evaluated(parameter: Parameter, names: dict[str, Any]) -> Parameter:
    """Evaluate an annotation that is text; what fails to is left out."""
    if not isinstance(parameter.annotation, str):
        return parameter
    try:
        wanted = eval(parameter.annotation, names)
    except Exception:  # noqa: BLE001 - see above
        wanted = Parameter.empty
    return parameter.replace(annotation=wanted)


def _converter(parameter: Parameter, *, text: bool) -> Convert | None:
    """Return what converts a parameter's values; None if they stay as they are."""
    wanted = parameter.annotation
    if isinstance(wanted, typing.TypeVar) or _is_plain(wanted, text=text) or not _is_known(wanted):
        return None
    maybe_none = parameter.default is None
    says = getattr(wanted, "__name__", None) if isinstance(wanted, type) else str(wanted).replace("typing.", "")

    def convert(value: Any) -> Any:
        if (value is None and maybe_none) or (isinstance(wanted, type) and type(value) is wanted):
            return value
        try:
            return _convert(value, wanted)
        except Exception as error:
            why = next((cure for kind, cure in _CURES.items() if wanted is kind), None) or cut(str(error), 160)
            raise BadValue(f"does not become {says}: {why}") from error

    return convert


def _is_plain(wanted: Any, *, text: bool) -> bool:
    """Tell whether values come as they are."""
    if any(wanted is each for each in (_TEXT if text else _NATIVE)):  # not `in`: it may define any ==
        return True
    union = isinstance(wanted, types.UnionType) or typing.get_origin(wanted) is typing.Union
    return union and not text and all(_is_plain(member, text=False) for member in typing.get_args(wanted))


def _is_known(wanted: Any) -> bool:
    """Tell whether msgspec can make such values, paths included."""
    try:
        info = msgspec.inspect.type_info(wanted)
    except Exception:  # noqa: BLE001 - whatever it is, it is not known
        return False
    return _all_known(info, 0)


def _all_known(info: Any, depth: int) -> bool:
    if isinstance(info, msgspec.inspect.CustomType):
        return isinstance(info.cls, type) and issubclass(info.cls, PurePath)
    if depth > 8 or not isinstance(info, msgspec.inspect.Type):
        return True
    for name in info.__struct_fields__:
        value = getattr(info, name)
        for each in value if isinstance(value, tuple) else (value,):
            inner = getattr(each, "type", each)
            if isinstance(inner, msgspec.inspect.Type) and not _all_known(inner, depth + 1):
                return False
    return True


def _convert(value: Any, wanted: Any) -> Any:
    if not isinstance(value, str):
        return msgspec.convert(value, wanted, strict=False, dec_hook=_make_path)
    try:  # as it is, first: blanks may be part of a path
        return msgspec.convert(value, wanted, strict=False, dec_hook=_make_path)
    except msgspec.ValidationError:
        text: Any = value.strip()
        if not text and type(None) in typing.get_args(wanted):  # a cell that was left blank
            return None
        if text[:1] in ("[", "{"):
            return msgspec.json.decode(text, type=wanted, strict=False, dec_hook=_make_path)
        if bool in (wanted, *typing.get_args(wanted)):
            text = _TRUTHS.get(text.lower(), text)
        if text == value:
            raise
        return msgspec.convert(text, wanted, strict=False, dec_hook=_make_path)


def _make_path(kind: type, value: Any) -> Any:
    """Make what msgspec does not know by itself; paths are all that `_is_known` lets through."""
    return kind(value)
