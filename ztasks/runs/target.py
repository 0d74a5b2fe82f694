"""What to run: `file.py:task` or `package.module:task`, loaded here and found again by the workers.

Workers import a function by the name of its module, with this process's `sys.path`. A module target is importable
anyway. A file is loaded under its own name (`stats.py` as `stats`) with its directory first in `sys.path`, as
`python stats.py` would do: then the workers find it too. Where that name would find something else (a file called
`json.py`, or one whose name is no identifier), it gets a name of its own, and every worker loads the file under that
name before its first job; its directory then goes last, so that it does not hide the other module. For workers on
other hosts, which may not have the file, shipping.py loads it.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

from ztasks.errors import ZtasksError
from ztasks.runs import shipping
from ztasks.runs.shipping import ShippedFunction

MAX_LISTED: Final = 40


class BadTarget(ZtasksError):
    """The caller's fault: the target does not name a function that can be run. Nothing was started."""


class Target(NamedTuple):
    """A loaded target."""

    function: Callable[..., Any]
    name: str
    """Module and qualified name, such as `stats:measure`: the same wherever the command is started."""
    in_workers: tuple[Callable[..., object], tuple[Any, ...]] | None
    """What each worker must call before its first job, so that it finds the function."""
    source: str | None = None
    """A digest of the file that it is from; None if there is none."""
    shipped: ShippedFunction | None = None
    """What workers of other hosts are sent in its place; None: they import it."""

    def step(self) -> tuple[Callable[..., object], tuple[Any, ...]]:
        """Return what a worker does to call it before its first job."""
        if self.shipped is not None:
            return self.shipped, ()
        if self.in_workers is None:
            return self.function, ()
        return call_again, (*self.in_workers[1], self.name.rpartition(":")[2])


def load(text: str, *, ship: bool = False) -> Target:
    """Load a target. Changes `sys.path`; raises BadTarget, or whatever is no Exception (KeyboardInterrupt).

    ship: workers on other hosts shall be able to run it, which do not have its file.
    """
    place, name, module, in_workers = _open(text, ship=ship)
    if not name:
        raise BadTarget(f"{text!r} names no task: write {place}:TASK. {_what_is_there(module)}")
    function = _check_callable(_find(module, name, place), f"{place}:{name}", module)
    full_name = f"{_short_name(module)}:{name}"
    return Target(function, full_name, in_workers, source_digest(function), shipping.shipped(module, name))


def load_value(text: str) -> Any:
    """Load whatever a name stands for, for use in this process. Changes `sys.path`; raises BadTarget."""
    place, name, module, _ = _open(text)
    if not name:
        raise BadTarget(f"{text!r} names nothing: write {place}:NAME")
    return _find(module, name, place)


def names_a_task(text: str) -> bool:
    """Tell whether a target says which task of a file or module is meant."""
    place, colon, name = text.rpartition(":")
    return bool(place and colon and name)


def listing(text: str) -> str:
    """Return the tasks in a file or module, for people. Changes `sys.path`; raises BadTarget."""
    place, _, module, _ = _open(text)
    names = tasks_in(module)
    if not names:
        raise BadTarget(f"{place} defines no functions.")
    width = max(map(len, _listed(place, names)))
    documents = [(getattr(value, "__doc__", None) or "").strip().partition("\n")[0] for value in names.values()]
    lines = zip(_listed(place, names), documents, strict=True)
    return "\n".join(f"{line:{min(width, 60)}}  {document}".rstrip() for line, document in lines)


def _listed(place: str, names: dict[str, Any]) -> list[str]:
    return [f"{place}:{name}{_signature(value)}" for name, value in names.items()]


def source_digest(function: Any) -> str | None:
    """Return a digest of the file in which a function is defined."""
    inner = innermost(function)
    path = getattr(sys.modules.get(getattr(inner, "__module__", None) or ""), "__file__", None)
    try:
        with open(path or "", "rb") as file:
            return blake2b(file.read(), digest_size=4).hexdigest()
    except OSError:
        return None


def innermost(function: Any) -> Any:
    """Return the function that a task or a partial calls in the end."""
    inner = getattr(function, "ztasks_function", function)
    while isinstance(inner, partial):
        inner = inner.func
    return inner


Loader = tuple[Callable[..., object], tuple[Any, ...]]


def _open(text: str, *, ship: bool = False) -> tuple[str, str, ModuleType, Loader | None]:
    """Load the module of a target; return its place, the name behind it, and what workers must call for it."""
    place, colon, name = text.rpartition(":")
    if not colon or not place:
        place, name = text.rstrip(":"), ""
    if _is_file(place):
        return place, name, *_load_file(place, ship=ship)
    return place, name, _load_module(place), None


def load_again(path: str, name: str) -> None:
    """In a worker: load a file under the name that it has in the parent."""
    if name not in sys.modules:
        _execute(path, name)


def call_again(path: str, name: str, function: str) -> None:
    """In a worker: call a function of such a file. Pickled itself, it could not be found before the file is loaded."""
    load_again(path, name)
    functools.reduce(getattr, function.split("."), sys.modules[name])()  # type: ignore[operator]


# --- files ---


def _is_file(place: str) -> bool:
    return place.endswith(".py") or os.sep in place or os.path.isfile(place)


def _load_file(place: str, *, ship: bool = False) -> tuple[ModuleType, Loader | None]:
    path = os.path.realpath(place)
    if not os.path.isfile(path):
        kind = "is a directory" if os.path.isdir(path) else "does not exist"
        raise BadTarget(f"the file {place} {kind}.{_close(place, _files_beside(path))}")
    directory, name = os.path.dirname(path), Path(path).stem
    if ship or shipping.knows(path):
        if directory not in sys.path:
            sys.path.insert(len(sys.path) * (name in sys.stdlib_module_names), directory)  # it must not hide json
        return _run_module_code(lambda: shipping.load_file(path), place), None
    if (there := _loaded(path, name)) is not None:  # --from and --init often name the target's own file
        return there, None
    if (there := _loaded(path, own_name := _own_name(path))) is not None:
        return there, (load_again, (path, own_name))
    if _importable(path, directory, name):
        return _run_module_code(lambda: _execute(path, name), place), None
    sys.path.append(directory)
    module = _run_module_code(lambda: _execute(path, own_name), place)
    return module, (load_again, (path, own_name))


def _loaded(path: str, name: str) -> ModuleType | None:
    """Return the module of a file if it has been loaded under this name: twice, its classes would not be the same."""
    module = sys.modules.get(name)
    return module if module is not None and os.path.realpath(getattr(module, "__file__", None) or "") == path else None


def _importable(path: str, directory: str, name: str) -> bool:
    """Tell whether `import name` finds this file in a worker; if so, its directory is now first in `sys.path`."""
    if not name.isidentifier() or name in sys.modules or name in sys.stdlib_module_names:
        return False
    if not _finds(name, path) and _find_spec(name) is not None:
        return False  # a module of that name is installed; this process and the file itself may need it
    sys.path.insert(0, directory)
    importlib.invalidate_caches()
    if _finds(name, path):
        return True
    sys.path.remove(directory)  # a package of the same name lies beside the file, or it does not end in .py
    return False


def _find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _finds(name: str, path: str) -> bool:
    spec = _find_spec(name)
    return spec is not None and spec.origin is not None and os.path.realpath(spec.origin) == path


def _own_name(path: str) -> str:
    """Return a module name that nothing else has; without `__main__`, which has a meaning in pickles."""
    stem = re.sub(r"\W", "_", Path(path).stem).strip("_")
    if not stem.isidentifier():
        stem = f"file_{stem}"
    return f"{stem}_{blake2b(os.fsencode(path), digest_size=4).hexdigest()}"


def _execute(path: str, name: str) -> ModuleType:
    """Load a file as a module. It is registered before it runs: dataclasses and pickle look themselves up there."""
    loader = SourceFileLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _files_beside(path: str) -> list[str]:
    with contextlib.suppress(OSError):
        return [name for name in os.listdir(os.path.dirname(path)) if name.endswith(".py")]
    return []


# --- modules ---


def _load_module(place: str) -> ModuleType:
    """Import a module, with the working directory first in `sys.path`, as `python -m` does."""
    if not all(part.isidentifier() for part in place.split(".")):
        raise BadTarget(f"{place!r} is neither a file nor the name of a module: write file.py:TASK or module:TASK")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return _run_module_code(lambda: importlib.import_module(place), place)
    except ModuleNotFoundError as error:
        beside = _files_beside(os.path.join(here, place))
        cure = f" There is a file of that name: write {place}.py:TASK." if f"{place}.py" in beside else ""
        raise BadTarget(
            f"there is no module {error.name!r} (sys.path begins with {sys.path[0]!r}).{cure}"
            f"{_close(place, [name.removesuffix('.py') for name in beside]) if not cure else ''}"
        ) from None


def _run_module_code(load_it: Callable[[], ModuleType], place: str) -> ModuleType:
    """Load a module; what its own code raises becomes BadTarget, with the traceback."""
    try:
        return load_it()
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(f"{error.name}.")):
            raise  # the target itself
        raise BadTarget(f"{place} cannot be loaded:\n{_user_traceback(error)}") from error
    except (Exception, SystemExit) as error:
        cure = ""
        if isinstance(error, ImportError) and "relative import" in str(error):
            cure = "\nThe file is part of a package: write package.module:TASK, from the directory of the package."
        raise BadTarget(f"{place} cannot be loaded:\n{_user_traceback(error)}{cure}") from error


def _user_traceback(error: BaseException) -> str:
    """Format a traceback without our own frames and those of importlib at its beginning."""
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        if (
            name not in (__name__, shipping.__name__)
            and not name.startswith("importlib")
            and "importlib" not in trace.tb_frame.f_code.co_filename
        ):
            break
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()


# --- names in a module ---


def _find(module: ModuleType, name: str, place: str) -> Any:
    """Find what a name stands for in the module; dotted names lead into classes."""
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            names = [each for each in dir(found) if not each.startswith("__")]
            raise BadTarget(f"{place} has no {name!r}.{_close(part, names)} {_what_is_there(module)}") from None
    return found


def _check_callable(found: Any, target: str, module: ModuleType) -> Callable[..., Any]:
    if not callable(found):
        raise BadTarget(f"{target} is a {type(found).__name__}, not a function. {_what_is_there(module)}")
    inner = getattr(found, "ztasks_function", found)
    if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner):
        raise BadTarget(
            f"{target} is an async function, which only an event loop can run: write a plain function that "
            "calls asyncio.run() on it."
        )
    return found  # type: ignore[no-any-return]


def _short_name(module: ModuleType) -> str:
    """Return the module's name as the user wrote it: without what `_own_name` added."""
    path = getattr(module, "__file__", None)
    if (shipped := shipping.short_name(module.__name__)) is not None:
        return shipped
    if path is not None and module.__name__ == _own_name(path):
        return Path(path).stem
    return module.__name__


def tasks_in(module: ModuleType) -> dict[str, Any]:
    """Return the public functions that are defined in a module, decorated ones first."""
    found = {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and not isinstance(value, type)
        and getattr(value, "__module__", None) == module.__name__
    }
    return dict(sorted(found.items(), key=lambda item: (not hasattr(item[1], "ztasks_function"), item[0])))


def _what_is_there(module: ModuleType) -> str:
    names = tasks_in(module)
    if not names:
        return "It defines no functions."
    lines = [f"    {name}{_signature(value)}" for name, value in list(names.items())[:MAX_LISTED]]
    if len(names) > MAX_LISTED:
        lines.append(f"    ... and {len(names) - MAX_LISTED} more")
    return "There is:\n" + "\n".join(lines)


def _signature(function: Any) -> str:
    try:
        return str(inspect.signature(function))
    except (TypeError, ValueError):
        return "(...)"


def _close(name: str, names: list[str]) -> str:
    """Suggest what was probably meant."""
    directory, base = os.path.split(name)
    found = difflib.get_close_matches(base, names, n=3, cutoff=0.5)
    if not found:
        return ""
    return f" Did you mean {' or '.join(os.path.join(directory, each) for each in found)}?"
