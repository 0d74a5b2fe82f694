"""What an executor checks before it takes something in, and what it says when it refuses."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final, cast

from ztasks.errors import CallNotPicklable, ExecutorClosed, ForkedExecutor, InvalidOption, TooLarge, ZtasksError
from ztasks.io.setup import Setup
from ztasks.units import reason, shown
from ztasks.wire.callables import describe
from ztasks.wire.messages import Shape
from ztasks.wire.payload import Pickled, dump

CACHED_TASKS: Final = 1024
"""How many tasks an executor remembers; the oldest goes first."""

LONGEST_NAME: Final = 255
"""No file, and so no module, has a longer one."""

_PLAIN_CALLABLES: Final = frozenset({FunctionType, BuiltinFunctionType, MethodType, functools.partial, type})
"""Types whose own `__call__` is no coroutine function."""


def make_setup(initializer: Callable[..., object] | None, initargs: tuple[Any, ...], preload: Sequence[str]) -> Setup:
    """Check and pickle what every worker is told at its start."""
    names = _module_names(preload)
    if not isinstance(initargs, Sequence) or isinstance(initargs, str | bytes | bytearray):
        raise InvalidOption(f"initargs must be a tuple, not {shown(initargs)}")
    pickled = Pickled(b"", [])
    if initializer is not None:
        check_callable(initializer, "initializer")
        try:
            pickled = dump((getattr(initializer, "ztasks_shipped", initializer), tuple(initargs)))
        except Exception as error:
            raise CallNotPicklable(
                f"the initializer {describe(initializer)} or its initargs cannot be pickled: {reason(error)}. Nothing "
                "was started."
            ) from error
    try:
        cwd: bytes | None = os.getcwdb()
    except OSError:  # it has been deleted; workers will not find it either
        cwd = None
    return Setup(
        [os.fsencode(path) for path in sys.path if isinstance(path, str | bytes | os.PathLike)],
        cwd,
        [os.fsencode(word) for word in getattr(sys, "argv", ()) if isinstance(word, str | bytes | os.PathLike)],
        names,
        pickled.data,
        [bytearray(cast("bytes", buffer)) for buffer in pickled.buffers],
    )


def _module_names(preload: Sequence[str]) -> list[str]:
    """Check the names of modules; raises InvalidOption."""
    try:
        names = [*preload] if isinstance(preload, Sequence) and not isinstance(preload, str | bytes) else None
    except Exception as error:
        raise InvalidOption(f"preload must be a list of module names; reading it raised {reason(error)}") from error
    if names is None or not all(isinstance(name, str) for name in names):
        raise InvalidOption(f"preload must be a list of module names, not {shown(preload)}")
    for name in names:
        if not all(0 < len(part) <= LONGEST_NAME and part.isprintable() for part in name.split(".")):
            raise InvalidOption(
                f"preload must be a list of names such as 'numpy' or 'package.module', not {shown(name)}"
            )
    return names


def check_callable(function: object, what: str = "a job") -> None:
    """Check that workers can call something and get a result from it; raises InvalidOption."""
    if not callable(function):
        needs = "needs a callable" if what == "a job" else "must be callable"
        raise InvalidOption(f"{what} {needs}, not {shown(function)}")
    try:
        inner = getattr(function, "__wrapped__", function)
        getattr(function, "ztasks_shipped", None)  # is asked for by whoever pickles it
    except Exception as error:
        raise InvalidOption(f"{what} needs a callable; looking at this one raised {reason(error)}") from error
    method = None if type(function) in _PLAIN_CALLABLES else type(function).__call__
    if any(inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in (inner, method)):
        raise InvalidOption(
            f"{describe(function)} is a coroutine function: a worker would only make a coroutine of it. Give {what} a "
            "function that calls asyncio.run() on it."
        )


def make_source(iterables: tuple[Iterable[Any], ...]) -> tuple[Shape, Iterator[Any]]:
    """Return how the items of a map become calls, and an iterator over them; raises InvalidOption.

    What an iterable's own `__iter__` raises is raised as it is.
    """
    for place, iterable in enumerate(iterables, 1):
        kind = type(iterable)
        if getattr(kind, "__iter__", None) is None and not hasattr(kind, "__getitem__"):
            raise InvalidOption(
                f"iterable {place} of this map is no iterable: {shown(iterable)}. Nothing was sent. Put a single input "
                "into a list; give other arguments with functools.partial."
            )
    try:
        if len(iterables) == 1:
            return "one", iter(iterables[0])
        return "star", zip(*iterables, strict=False)
    except TypeError as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise  # it comes from an __iter__ of the user's
        raise InvalidOption(f"an iterable of this map cannot be iterated over: {reason(error)}") from error


def known_length(iterables: tuple[Iterable[Any], ...]) -> int | None:
    """Return how many items a map has, if all of its iterables say so; one whose `__len__` fails does not say so."""
    try:
        lengths = [len(iterable) for iterable in iterables if isinstance(iterable, Sized)]
    except Exception:  # noqa: BLE001 - it is a hint
        return None
    return min(lengths) if lengths and len(lengths) == len(iterables) else None


def bad_arguments(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
) -> CallNotPicklable:
    """Find out which argument cannot be pickled."""
    which = "the arguments"
    named = [(f"argument {index}", value) for index, value in enumerate(args)]
    for name, value in named + [(f"argument {name!r}", value) for name, value in kwargs.items()]:
        try:
            dump(value)
        except Exception:  # noqa: BLE001 - this is the one
            which = f"{name}, of type {type(value).__qualname__},"
            break
    return CallNotPicklable(
        f"{which} of a job of {describe(fn)} cannot be pickled: {reason(error)}. Nothing was sent. "
        "Pass what the job can make it from (a path instead of an open file)."
    )


def no_memory_to_pickle(fn: Callable[..., Any]) -> TooLarge:
    """There is no memory for a copy of the arguments."""
    return TooLarge(
        f"there is not enough memory in this process to pickle the arguments of a job of {describe(fn)}. Nothing was "
        "sent. Pass a path instead of the data."
    )


def never_started() -> ZtasksError:
    """The executor's constructor has not come to its end."""
    return ExecutorClosed("this executor was never started: its constructor raised")


def closed() -> ZtasksError:
    """The executor is closed or closing."""
    return ExecutorClosed(
        "cannot schedule new jobs after shutdown: the executor is closed or closing. The job was not accepted; make a "
        "new executor, or submit before the `with` ends."
    )


def exiting() -> ZtasksError:
    """The interpreter is about to end."""
    return ExecutorClosed(
        "no executor can be made at the end of the program: the main thread has ended, and executors are closed then. "
        "Nothing was started. Let the main thread wait for the threads that work on."
    )


def forked() -> ZtasksError:
    """The executor is another process's."""
    return ForkedExecutor(
        "this executor belongs to the process that made it; this process is a forked child of that. The job was not "
        "accepted: make a new executor here."
    )


def put_bounded(cache: dict[Any, Any], key: Any, value: Any) -> None:
    """Put into a bounded cache; each step is atomic."""
    cache[key] = value
    while len(cache) > CACHED_TASKS:
        try:
            cache.pop(next(iter(cache)), None)
        except (StopIteration, RuntimeError):  # another thread was quicker
            return
