"""A journal in memory, item by item, that becomes durable when it is told, and can be killed."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

_models = str(Path(__file__).parents[1] / "integration")
if _models not in sys.path:
    sys.path.append(_models)

from journal_model import Model  # noqa: E402

from ztasks.errors import JournalError  # noqa: E402
from ztasks.io.journal_ops import (  # noqa: E402
    Accepted,
    AnyOperation,
    Begun,
    Defined,
    Ended,
    JobLine,
    Kept,
    Noted,
    Outcome,
    Recovered,
    State,
    Unneeded,
)


class FakeJournal:
    """Carries operations out as they become durable."""

    def __init__(self) -> None:
        self.refusing: str | None = None
        self.broken = False
        """Whether nothing can be read."""
        self.operations: list[AnyOperation] = []
        self.durable = 0
        self.begun: set[tuple[int, int]] = set()
        """Of which it is durable that they begin."""
        self.ended: set[tuple[int, int]] = set()
        """Of which it is durable that they have ended, and that have not been revived since."""
        self._model = Model()
        self._tasks: dict[bytes, Defined] = {}
        self._unneeded: set[bytes] = set()
        self._notes: dict[str, bytes] = {}

    # --- the interface ---

    def append(self, operation: AnyOperation) -> int:
        first, count = getattr(operation, "first", 0), getattr(operation, "count", 0)
        assert 0 <= first <= first + count < 1 << 63, f"SQLite cannot hold the numbers of {operation}"
        self.operations.append(operation)
        return len(self.operations)

    def load(self) -> Recovered:
        needed = {waiting.accepted.key for waiting in self._model.waiting()}
        needed |= {one.accepted.key for one in self._model.slices}
        assert needed <= self._tasks.keys(), "a task was forgotten whose jobs are there"
        return Recovered(
            [self._tasks[key] for key in needed],
            self._model.waiting(),
            [
                Kept(one.accepted.session, number, 1, item[0].state, one.accepted.key, one.accepted.sent, 1)
                for one in self._model.slices
                for number, item in one.items.items()
                if isinstance(item, tuple) and not item[1]
            ],
            dict(self._model.highest),
            dict(self._notes),
            [],
            "what there was",
        )

    def start(self) -> None:
        pass

    def outcome(self, session: int, number: int) -> Outcome | None:
        if self.broken:
            raise JournalError("the journal cannot be read")
        for one in self._model.slices:
            if one.accepted.session == session and isinstance(item := one.items.get(number), tuple):
                ended, fetched = item
                return Outcome(
                    session, number, 1, ended.state, ended.header, bytes(ended.payload),
                    tuple(map(bytes, ended.buffers)), ended.first, ended.count, fetched, 1.0,
                )  # fmt: skip
        return None

    def work(self, session: int, number: int) -> Accepted | None:
        return self._model.work(session, number)

    def jobs(self, state: State | None, limit: int) -> list[JobLine]:
        if self.broken:
            raise JournalError("the journal cannot be read")
        found = []
        for one in self._model.slices:
            accepted = one.accepted
            spec = self._tasks[accepted.key].spec
            for number, item in one.items.items():
                how = "waiting" if item is None else item[0].state if isinstance(item, tuple) else "gone"
                if how in (state, "waiting" if state is None else state) or (state is None and how != "gone"):
                    line = JobLine(accepted.session, number, 1, how, accepted.key, spec, accepted.sent, 1.0, 2.0)
                    found.append(line)
        return found[:limit]

    def close(self, seconds: float) -> bool:
        return True

    # --- what tests do ---

    def settle(self, upto: int | None = None) -> None:
        """Let all operations up to this one become durable."""
        upto = len(self.operations) if upto is None else min(upto, len(self.operations))
        while self.durable < upto:
            operation = self.operations[self.durable]
            self.durable += 1
            if isinstance(operation, Defined):
                self._tasks[operation.key] = operation
                self._unneeded.discard(operation.key)
            elif isinstance(operation, Unneeded):
                self._unneeded.add(operation.key)
            elif isinstance(operation, Noted):
                self._notes[operation.name] = operation.value
            else:
                self._note(operation)
                self._model.on(operation)
        for key in self._unneeded - {one.accepted.key for one in self._model.slices}:
            self._tasks.pop(key, None)

    def _note(self, operation: AnyOperation) -> None:
        first = getattr(operation, "first", 0)
        names = {(operation.session, first + at) for at in range(getattr(operation, "count", 1))}  # type: ignore[union-attr]
        if isinstance(operation, Begun):
            (self.begun.update if operation.begun else self.begun.difference_update)(names)
        elif isinstance(operation, Ended):
            self.ended |= {name for name in names if self._model._find(*name) is not None}
        elif type(operation).__name__ == "Revived":
            self.ended -= names
            self.begun -= names

    def killed(self) -> FakeJournal:
        """Return what a further head finds: what was durable."""
        found = copy.copy(self)
        found._model, found._tasks = copy.deepcopy(self._model), dict(self._tasks)
        found._notes, found._unneeded = dict(self._notes), set()
        found.operations, found.durable = [], 0
        found.begun, found.ended = set(self.begun), set(self.ended)
        return found

    def knows(self, session: int, number: int) -> bool:
        """Tell whether an item is in the journal, whatever has become of it."""
        return self._model._find(session, number) is not None
