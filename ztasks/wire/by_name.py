"""Callables that are sent by their names, without importing them here: `client.send("myapp.tasks.resize", path)`.

What travels is the name. Unpickled on a worker it becomes what the worker imports under that name; of a task, with what
the task says of retries there.
"""

from __future__ import annotations

import importlib
import importlib.util
import keyword
import os
import sys
from typing import Any, Final

from ztasks.errors import InvalidOption
from ztasks.units import shown
from ztasks.wire.verdict import EVERYTHING, Judged

MAX_NAME: Final = 512
"""The most characters of a name with its module."""


class ByName:
    """What is importable on the workers under a name, `module.qualname`. Called here, it is imported here."""

    def __init__(self, path: str, *, own_verdict: bool = True) -> None:
        """`own_verdict`: whether the worker asks the task there what may be retried. Raises InvalidOption."""
        self.path = _checked(path)
        self._own_verdict = own_verdict
        self.__module__, _, self.__qualname__ = path.rpartition(".")
        self.__name__ = self.__qualname__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it here and now."""
        return _find(self.path)(*args, **kwargs)

    def judged_elsewhere(self) -> ByName:
        """Return the same for whoever says himself what may be retried."""
        return ByName(self.path, own_verdict=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return import_by_name, (self.path, self._own_verdict)

    def __repr__(self) -> str:
        return f"<{self.path}, by name>"


def _checked(path: object) -> str:
    """Check a name; raises InvalidOption."""
    parts = path.split(".") if isinstance(path, str) and len(path) <= MAX_NAME else []
    if len(parts) < 2 or not all(part.isidentifier() and not keyword.iskeyword(part) for part in parts):
        raise InvalidOption(
            f"a task is sent by a name such as 'package.module.function', not {shown(path)}. Nothing was sent."
        )
    if parts[0] == "__main__":
        raise InvalidOption(
            f"{shown(path)} is in __main__, which no worker can import. Nothing was sent. Send the function itself, or "
            "put it into a module."
        )
    return ".".join(parts)


def import_by_name(path: str, own_verdict: bool = True) -> Any:
    """Import what has this name (runs while a worker unpickles); raises ImportError, which says what to do."""
    found = _find(_checked(path))
    options = getattr(found, "ztasks_options", None)
    if own_verdict and options is not None and options.verdict != EVERYTHING:
        return Judged(found, options.verdict)
    return found


def _find(path: str) -> Any:
    """Import the longest part of the path that is a module, and follow the rest of it."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:length])
        if _is_module(name):
            break
    else:
        raise ImportError(_missing(path, f"there is no module {parts[0]!r}"))
    found: Any = importlib.import_module(name)  # what this raises is raised: the module is there, and is broken
    for place, part in enumerate(parts[length:], length):
        try:
            found = getattr(found, part)
        except AttributeError:
            where = ".".join(parts[:place])
            what = f"{where!r}, as this worker has imported it from {_origin(name)}, has no {part!r}"
            cure = " (if it has been added since: start the worker again)"
            raise ImportError(_missing(path, what + cure)) from None
    if not callable(found):
        raise ImportError(_missing(path, f"it is no callable but {shown(found)}"))
    return found


def _is_module(name: str) -> bool:
    """Tell whether a module can be found; its packages are imported for that."""
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            return False  # it, or a package that it would be in, is missing
        raise
    except ValueError:
        return False


def _origin(name: str) -> str:
    module = sys.modules[name]
    return getattr(module, "__file__", None) or "no file"


def _missing(path: str, what: str) -> str:
    host = os.uname().nodename
    return (
        f"{path} cannot be imported on {host}: {what} (sys.path there: {sys.path}). Install it on that host, in the "
        "environment of `ztasks worker`; or start the worker in its directory, with PYTHONPATH set, and with --import "
        "MODULE, so that it is missed at the start"
    )
