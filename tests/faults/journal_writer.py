"""A head's journal in a process of its own, for tests that kill it, or take its disk away.

The operations follow from their number: who knows how many are durable knows what must be there.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ztasks.io.journal import SqliteJournal
from ztasks.io.journal_ops import Accepted, AnyOperation, Defined, Ended
from ztasks.io.journal_schema import Sync

BEHIND = 20
"""How many slices are accepted before the first one ends."""


def operations(session: int, size: int = 40) -> Iterator[AnyOperation]:
    """Yield a task, then slices and their outcomes, without end."""
    yield Defined(b"key", b"spec", b"callable")
    number = 0
    while True:
        number += 1
        yield Accepted(session, number, 1, b"key", b"header %d" % number, bytes(size))
        if number > BEHIND:
            yield Ended(session, number - BEHIND, 1, "done", b"outcome %d" % (number - BEHIND), bytes(size))


def first(session: int, durable: int, size: int = 40) -> tuple[set[int], set[int]]:
    """Return which items were accepted, and which have ended, by so many operations."""
    accepted, ended = set(), set()
    for _, operation in zip(range(durable), operations(session, size), strict=False):
        if isinstance(operation, Accepted):
            accepted.add(operation.first)
        elif isinstance(operation, Ended):
            ended.add(operation.first)
    return accepted, ended


class Watched:
    """A journal, and what it has told."""

    def __init__(self, path: str, sync: Sync = "full", min_free: int = 0) -> None:
        self.durable = 0
        self.failed: list[Exception] = []
        self.changed = threading.Condition()
        calls = {"on_durable": self._on_durable, "on_failed": self._on_failed, "on_dropped": print, "wall": time.time}
        self.journal = SqliteJournal(path, sync=sync, min_free=min_free, **calls)
        self.appended = 0

    def _on_durable(self, number: int) -> None:
        with self.changed:
            self.durable = number
            self.changed.notify_all()

    def _on_failed(self, error: Exception) -> None:
        with self.changed:
            self.failed.append(error)
            self.changed.notify_all()

    def wait(self, condition: Callable[[], object]) -> None:
        """Wait until a condition of what was told holds."""
        with self.changed:
            assert self.changed.wait_for(condition, 20), (self.durable, self.failed, self.journal.refusing)

    def append(self, *given: AnyOperation) -> None:
        """Append operations, and wait until they are durable."""
        for operation in given:
            self.appended = self.journal.append(operation)
        self.wait(lambda: self.durable >= self.appended)


def write_for_ever(path: str, session: int, sync: Any) -> None:
    """Append without end, and print the number of each operation that is durable."""
    watched = Watched(path, sync=sync)
    watched.journal.load()
    watched.journal.start()
    threading.Thread(target=_print, args=(watched,), daemon=True).start()
    for operation in operations(session):
        if watched.journal.append(operation) % 50 == 0:
            watched.wait(lambda: watched.journal._appended - watched.durable < 500)


def _print(watched: Watched) -> None:
    told = 0
    while True:
        watched.wait(lambda: watched.durable > told)  # noqa: B023 - it is called at once
        told = watched.durable
        print(told, flush=True)


if __name__ == "__main__":
    write_for_ever(sys.argv[1], int(sys.argv[2]), sys.argv[3])
