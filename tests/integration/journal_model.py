"""What a journal means, item by item, in plain Python: what the tables must agree with."""

from __future__ import annotations

from typing import Any

from ztasks.io.journal_ops import (
    Accepted,
    AnyOperation,
    Begun,
    Charged,
    Ended,
    Fetched,
    Forgot,
    Mark,
    Outcome,
    Range,
    Revived,
    Waiting,
)

GONE = "gone"
MAY_REVIVE = ("failed", "expired")


class Slice:
    def __init__(self, accepted: Accepted) -> None:
        self.accepted = accepted
        self.items: dict[int, Any] = dict.fromkeys(range(accepted.first, accepted.first + accepted.count))
        """None: open; GONE; or the Ended and whether it was fetched."""
        self.marks: dict[int, Mark] = {}
        self.dropped = False
        """Whether its content is gone."""
        self.may_revive = False

    def settle(self) -> None:
        if None not in self.items.values() and not self.may_revive:
            self.dropped = True


class Model:
    def __init__(self) -> None:
        self.slices: list[Slice] = []
        self.highest: dict[int, int] = {}
        self.seen: set[tuple[int, int]] = set()

    def is_in_order(self, operation: AnyOperation) -> bool:
        """Tell whether a head would append this now; if so, carry it out.

        It gives no number twice, and speaks of an item only after it was accepted, and of its outcome after it has one.
        """
        numbers = (
            {(operation.session, operation.first + n) for n in range(getattr(operation, "count", 1))}
            if (not isinstance(operation, Forgot))
            else set()
        )
        found = {key: self._find(*key) for key in numbers}
        if isinstance(operation, Accepted):
            fits = all(slice_ is not None or key not in self.seen for key, slice_ in found.items())
        elif isinstance(operation, Fetched):
            fits = all(
                key in self.seen and (one is None or one.items[key[1]] is not None) for key, one in found.items()
            )
        else:
            fits = numbers <= self.seen
        if fits:
            self.on(operation)
        return fits

    def on(self, operation: AnyOperation) -> None:
        getattr(self, f"_on_{type(operation).__name__.lower()}")(operation)
        self.slices = [one for one in self.slices if set(one.items.values()) != {GONE}]

    def _find(self, session: int, number: int) -> Slice | None:
        return next((one for one in self.slices if one.accepted.session == session and number in one.items), None)

    def _on_accepted(self, one: Accepted) -> None:
        last = one.first + one.count - 1
        self.seen |= {(one.session, number) for number in range(one.first, last + 1)}
        self.highest[one.session] = max(self.highest.get(one.session, 0), last)
        if not any(self._find(one.session, number) for number in range(one.first, last + 1)):
            self.slices.append(Slice(one))

    def _on_ended(self, one: Ended) -> None:
        found = self._find(one.session, one.first)
        numbers = range(one.first, one.first + one.count)
        if found is None or any(found.items.get(number, GONE) is not None for number in numbers):
            return
        found.may_revive |= one.state in MAY_REVIVE
        found.items.update(dict.fromkeys(numbers, (one, False)))
        found.settle()

    def _on_fetched(self, one: Fetched) -> None:
        for number in range(one.first, one.first + one.count):
            found = self._find(one.session, number)
            if found and isinstance(found.items[number], tuple):
                ended, _ = found.items[number]
                found.items[number] = (ended, True) if ended.state in MAY_REVIVE and not one.failed else GONE

    def _on_begun(self, one: Begun) -> None:
        if found := self._find(one.session, one.first):
            found.marks[one.first] = found.marks.get(one.first, Mark())._replace(begun=one.begun)

    def _on_charged(self, one: Charged) -> None:
        if found := self._find(one.session, one.first):
            found.marks[one.first] = found.marks.get(one.first, Mark())._replace(
                failures=one.failures, crashes=one.crashes, history=one.history
            )

    def _on_revived(self, one: Revived) -> None:
        for number in range(one.first, one.first + one.count):
            found = self._find(one.session, number)
            if found and isinstance(found.items[number], tuple) and found.items[number][0].state in MAY_REVIVE:
                found.items[number] = None
                found.marks.pop(number, None)
        for slice_ in self.slices:
            states = [item[0].state for item in slice_.items.values() if isinstance(item, tuple)]
            slice_.may_revive = any(state in MAY_REVIVE for state in states)

    def _on_forgot(self, one: Forgot) -> None:
        self.highest.pop(one.session, None)
        for found in self.slices:
            if found.accepted.session == one.session and not found.accepted.sent:
                for number, item in found.items.items():
                    keeps = isinstance(item, tuple) and item[0].state in MAY_REVIVE
                    found.items[number] = (item[0], True) if keeps else GONE
                found.settle()

    # --- what can be read ---

    def numbers(self) -> list[tuple[int, int]]:
        return sorted(self.seen)

    def waiting(self) -> list[Waiting]:
        found = []
        for one in self.slices:
            numbers = [number for number, item in one.items.items() if item is None]
            if numbers:
                marks = {number: mark for number, mark in one.marks.items() if number in numbers}
                found.append(Waiting(one.accepted, ranges(one.accepted.session, numbers), marks))
        return found

    def outcomes(self) -> dict[tuple[int, int], Any]:
        return {
            (one.accepted.session, number): (item[0].state, item[0].header, item[0].first, item[0].count, item[1])
            for one in self.slices
            for number, item in one.items.items()
            if isinstance(item, tuple)
        }

    def work(self, session: int, number: int) -> Accepted | None:
        found = self._find(session, number)
        return None if found is None or found.dropped else found.accepted


def seen(outcome: Outcome) -> Any:
    return (outcome.state, outcome.header, outcome.whole_first, outcome.whole_count, outcome.fetched)


def ranges(session: int, numbers: list[int]) -> list[Range]:
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return [Range(session, group[0], len(group)) for group in found]
