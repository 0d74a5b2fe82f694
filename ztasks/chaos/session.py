"""A whole run: the batch without faults as the base, then with them; the deadline; the account."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final, NamedTuple

from ztasks.chaos.batch import Batch, Passage
from ztasks.chaos.ledger import Ledger
from ztasks.chaos.plan import Plan
from ztasks.chaos.report import Report, Side, account, as_json, text
from ztasks.chaos.watchdog import Watchdog, dump_state

OK: Final = 0
FAILED: Final = 1
INTERRUPTED: Final = 130

MAX_PLACE: Final = 45
"""The longest path of the directory for temporary files: the addresses of sockets must fit below it."""


class Settings(NamedTuple):
    """How a run is made."""

    faults: str
    """As they were asked for."""
    base: bool
    """Whether the batch is run without faults first."""
    deadline: float
    as_json: bool


class Session:
    """A run of the chaos test. `run()` it once, in the main thread."""

    def __init__(self, batch: Batch, plan: Plan, settings: Settings, place: str) -> None:
        """`place`: a private directory for temporary files."""
        self._batch = batch
        self._plan = plan
        self._settings = settings
        self._place = place
        self._sides: dict[str, Side] = {}
        self._passage: Passage | None = None
        self._problems: list[str] = []

    def run(self) -> int:
        """Run all, write the account, and return the exit code."""
        began = monotonic()
        try:
            with Watchdog(self._settings.deadline, self._give_up, self._place) as watchdog:
                if not self._settings.base or self._pass("base", None, 0.0):
                    self._pass("chaos", self._plan, (watchdog.end - monotonic()) / 2)
        except KeyboardInterrupt:
            tell(f"interrupted after {monotonic() - began:.1f} s (seed {self._plan.seed})")
            for what in self._passage.left if self._passage is not None else ():
                tell(f"left behind: {what}")
            return INTERRUPTED
        return self._write()

    def _pass(self, name: str, plan: Plan | None, calm_after: float) -> bool:
        """Run the batch once; tell whether all was well."""
        early = self._plan.closes_early
        self._passage = Passage(self._batch, plan, self._place, name, calm_after, early)
        self._passage.run()
        side = self._sides[name] = account(self._passage)
        return not side.problems

    def _give_up(self) -> None:
        """The deadline has passed: in a thread of its own, and the process ends when this returns."""
        self._problems.append(f"it did not end within its deadline of {self._settings.deadline:g} s")
        passage = self._passage
        if passage is not None and passage.name not in self._sides:
            dump_state(passage)
            passage.collect_what_is_there()
            passage.ledger = Ledger(passage.path, len(self._batch.items))
            self._sides[passage.name] = account(passage)
        self._write()
        sys.stdout.flush()

    def _write(self) -> int:
        sides = self._sides
        report = Report(
            self._batch, self._plan, self._settings.faults, sides.get("base"), sides.get("chaos"), self._problems
        )
        print(as_json(report) if self._settings.as_json else text(report))
        if not report.ok:
            tell(f"FAILED; the same faults again: --seed {self._plan.seed}")
        return OK if report.ok else FAILED


def run(batch: Batch, plan: Plan, settings: Settings) -> int:
    """Make a run in a private directory; return the exit code."""
    how = f"{len(batch.items):,} jobs of {batch.name} through {'submit and map' if batch.api == 'both' else batch.api}"
    tell(f"seed {plan.seed}: {how}, {batch.workers} workers")
    with _private_place() as place:
        return Session(batch, plan, settings, place).run()


def tell(line: str) -> None:
    """Write a line to stderr."""
    print(f"ztasks chaos: {line}", file=sys.stderr, flush=True)


@contextmanager
def _private_place() -> Iterator[str]:
    """Make a directory the one for temporary files of executors, so that what they leave there can be told."""
    base = tempfile.gettempdir()
    place = tempfile.mkdtemp(prefix="zt-chaos-", dir=base if len(os.fsencode(base)) <= MAX_PLACE else "/tmp")
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = place
    try:
        yield place
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before
        shutil.rmtree(place, ignore_errors=True)
