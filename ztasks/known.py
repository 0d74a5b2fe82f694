"""The tasks that an executor knows: a callable's books are made once, and found again as quickly as it allows."""

from __future__ import annotations

from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final

from ztasks.core.options import Options
from ztasks.core.slices import TaskBooks
from ztasks.errors import TooLarge
from ztasks.intake import check_callable, put_bounded
from ztasks.tasks import Task, options_of
from ztasks.wire.callables import REMEMBERED_BYTES, describe, ship_judged

QUICK: Final = frozenset({FunctionType, BuiltinFunctionType, type, Task})
"""The types of callables that are told apart by identity."""


class KnownTasks:
    """The books on all callables that one executor has been given, as far as they are remembered."""

    def __init__(self, memory: int | None) -> None:
        """`memory`: the bytes that there are for all jobs together."""
        self.quick: dict[Any, TaskBooks] = {}
        """By the callable itself, where its pickle can never change."""
        self._tasks: dict[tuple[bytes, Options], TaskBooks] = {}
        self._memory = memory

    def find(self, fn: Callable[..., Any]) -> TaskBooks:
        """Find or make the books on a callable. Raises InvalidOption, CallNotPicklable, TooLarge."""
        known = self.quick.get(fn) if type(fn) in QUICK else None
        if known is not None:
            return known
        check_callable(fn)
        options = options_of(fn)
        if options.memory is not None and self._memory is not None and options.memory > self._memory:
            raise TooLarge(
                f"a job of {describe(fn)} takes {options.memory} bytes of memory, as its option says; this executor "
                f"has {self._memory} for all jobs together. Nothing was sent. Lower the task's memory=, or raise "
                "Executor's."
            )
        shipped = ship_judged(fn, options.verdict)
        task = self._tasks.get((shipped.key, options))
        if task is None:
            task = TaskBooks(shipped, options)
            if len(shipped.pickled) <= REMEMBERED_BYTES:
                put_bounded(self._tasks, (shipped.key, options), task)
        if shipped.by_reference and type(fn) in QUICK:
            put_bounded(self.quick, fn, task)
        return task
