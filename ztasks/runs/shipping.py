"""A file as the home of a task on other hosts: its text goes along, and is loaded there as it is here.

On this host workers load the same file. On another one it need not be there, or may be another version of it. So its
text is sent, and loaded, there and here, under a name that tells it from all others: pickles that name its functions
and classes mean the same on both ends. What the file itself imports must be there.
"""

from __future__ import annotations

import functools
import importlib.util
import linecache
import os
import re
import sys
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

_loaded: dict[str, tuple[str, bytes]] = {}
"""Path and text of the modules that were loaded here, by their names."""


class ShippedFunction:
    """Stands for a function of such a file; once it is unpickled it is the function itself."""

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def __call__(self) -> Any:
        """Call it here, without arguments."""
        return _find(sys.modules[self._module], self._name)()

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return load_function, (self._module, *_loaded[self._module], self._name)


def knows(path: str) -> bool:
    """Tell whether a file has been loaded here to be sent."""
    return any(known == path for known, _ in _loaded.values())


def load_file(path: str) -> ModuleType:
    """Load a file here, so that its functions can be sent; or return its module, if that has been done."""
    for module, (known, _) in _loaded.items():
        if known == path:
            return sys.modules[module]
    with open(path, "rb") as file:
        text = file.read()
    name = f"{_stem(path)}_{blake2b(text, key=os.fsencode(path)[-64:], digest_size=6).hexdigest()}"
    _loaded[name] = path, text
    try:
        return _execute(name, path, text)
    except BaseException:
        del _loaded[name]
        raise


def shipped(module: ModuleType, name: str) -> ShippedFunction | None:
    """Return what is sent in the place of a function; None if its module was not loaded to be sent."""
    return ShippedFunction(module.__name__, name) if module.__name__ in _loaded else None


def short_name(module: str) -> str | None:
    """Return what a module is called for people that was loaded here; None if it was not."""
    return Path(_loaded[module][0]).stem if module in _loaded else None


def load_function(module: str, path: str, text: bytes, name: str) -> Any:
    """In a worker: load the file, unless this one has it already, and find a function in it (runs while unpickling)."""
    there = sys.modules.get(module)
    if there is None:
        directory = os.path.dirname(path)
        if os.path.isdir(directory) and directory not in sys.path:
            sys.path.append(directory)  # hosts may share it: what lies beside the file is found then
        try:
            there = _execute(module, path, text)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{os.path.basename(path)} imports {error.name}, which this host does not have: only the file itself "
                "is sent. Install it there, or start the worker in a directory from which it can be imported.",
                name=error.name,
                path=error.path,
            ) from error
    return getattr(_find(there, name), "ztasks_function", _find(there, name))


def _find(module: ModuleType, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), module)


def _stem(path: str) -> str:
    """Return the beginning of a module's name; without `__main__`, which has a meaning in pickles."""
    stem = re.sub(r"\W", "_", Path(path).stem).strip("_")
    return stem if stem.isidentifier() else f"file_{stem}"


def _execute(name: str, path: str, text: bytes) -> ModuleType:
    """Run a file's text as a module. It is registered before: dataclasses and pickle look themselves up there."""
    spec = importlib.util.spec_from_loader(name, None, origin=path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = path
    source = importlib.util.decode_source(text)
    if not os.path.exists(path):
        lines = source.splitlines(keepends=True)
        linecache.cache[path] = len(text), None, lines, path  # for tracebacks
    sys.modules[name] = module
    try:
        exec(compile(text, path, "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module
