"""What an executor checks before it takes something in, and what it says when it refuses."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from ztasks.errors import CallNotPicklable, ExecutorClosed, ForkedExecutor, InvalidOption, ZtasksError
from ztasks.io.setup import Setup
from ztasks.wire.callables import describe
from ztasks.wire.payload import Pickled, dump

CACHED_TASKS: Final = 1024
"""How many tasks an executor remembers; the oldest goes first."""


def make_setup(initializer: Callable[..., object] | None, initargs: tuple[Any, ...], preload: Sequence[str]) -> Setup:
    """Check and pickle what every worker is told at its start."""
    if (
        isinstance(preload, str)
        or not isinstance(preload, Sequence)
        or not all(isinstance(name, str) for name in preload)
    ):
        raise InvalidOption(f"preload must be a list of module names, not {preload!r}")
    pickled = Pickled(b"", [])
    if initializer is not None:
        if not callable(initializer):
            raise InvalidOption(f"initializer must be callable, not {initializer!r}")
        if not isinstance(initargs, Sequence) or isinstance(initargs, str):
            raise InvalidOption(f"initargs must be a tuple, not {initargs!r}")
        try:
            pickled = dump((getattr(initializer, "ztasks_shipped", initializer), tuple(initargs)))
        except Exception as error:
            raise CallNotPicklable(
                f"the initializer {describe(initializer)} or its initargs cannot be pickled: "
                f"{type(error).__name__}: {error}. Nothing was started."
            ) from error
    try:
        cwd: bytes | None = os.getcwdb()
    except OSError:  # it has been deleted; workers will not find it either
        cwd = None
    return Setup(
        [os.fsencode(path) for path in sys.path if isinstance(path, str | bytes | os.PathLike)],
        cwd,
        [os.fsencode(word) for word in sys.argv],
        list(preload),
        pickled.data,
        [bytearray(cast("bytes", buffer)) for buffer in pickled.buffers],
    )


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
        f"{which} of a job of {describe(fn)} cannot be pickled: {type(error).__name__}: {error}. Nothing was sent. "
        "Pass what the job can make it from (a path instead of an open file)."
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
