"""The tasks that the head knows, by their keys.

What it must hold: a task is known as long as any of its jobs has not ended; of the others, those used last are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from ztasks.core.work import TaskSpec, Work
from ztasks.errors import WireError
from ztasks.io.ledger import Ledger
from ztasks.wire.link import Define

IDLE: Final = 10_000
"""How many tasks are kept of which no job is left; clients define what is older again."""

MAX_KEY: Final = 64
MAX_TEXT: Final = 4096
"""The most bytes of a key, and characters of a task's name and path."""


class Specs:
    """All tasks."""

    def __init__(self, ledger: Ledger, most_bytes: int) -> None:
        """`most_bytes`: how much the callables may take of tasks of which no job is left."""
        self.nbytes = 0
        """Of the callables of tasks of which jobs are left."""
        self._ledger = ledger
        self._most_bytes = most_bytes
        self._known: dict[bytes, TaskSpec] = {}
        self._items: dict[bytes, int] = {}
        """How many items of a task have not ended, if any."""
        self._idle: OrderedDict[bytes, TaskSpec] = OrderedDict()
        self._idle_bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: bytes) -> TaskSpec | None:
        """Return a task, if it is known."""
        return self._known.get(key)

    def define(self, define: Define, callable_: bytes) -> None:
        """Take in a task; raises WireError for what cannot be."""
        key = define.key
        known = self._known.get(key)
        if known is not None:
            if known.define != define or known.callable != callable_:
                raise WireError("a task is defined under the key of another one")
            if key in self._idle:
                self._idle.move_to_end(key)
            return
        if not 0 < len(key) <= MAX_KEY or max(len(define.name), len(define.path), len(define.python)) > MAX_TEXT:
            raise WireError("a task is defined with a key, a name or a path that cannot be")
        self._known[key] = TaskSpec(define, callable_)
        self._rest(self._known[key])

    def use(self, work: Work) -> None:
        """Work of a task has come in."""
        spec = work.spec
        if spec.key not in self._items:
            self.nbytes += len(spec.callable)
            if self._idle.pop(spec.key, None) is not None:
                self._idle_bytes -= len(spec.callable)
        self._known.setdefault(spec.key, spec)  # it was forgotten, and one of its jobs is run again
        self._items[spec.key] = self._items.get(spec.key, 0) + work.count

    def release(self, work: Work) -> None:
        """Work of a task has ended."""
        spec = work.spec
        self._items[spec.key] -= work.count
        if not self._items[spec.key]:
            del self._items[spec.key]
            self.nbytes -= len(spec.callable)
            self._rest(self._known[spec.key])

    def _rest(self, spec: TaskSpec) -> None:
        """No job of a task is left: it may be forgotten."""
        self._idle[spec.key] = spec
        self._idle_bytes += len(spec.callable)
        while len(self._idle) > IDLE or (self._idle_bytes > self._most_bytes and len(self._idle) > 1):
            key, oldest = self._idle.popitem(last=False)
            self._idle_bytes -= len(oldest.callable)
            del self._known[key]
            self._ledger.forget_task(key)
