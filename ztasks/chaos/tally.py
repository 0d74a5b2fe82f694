"""Executions against outcomes: what explains each duplicate, and which jobs are lost.

Pure but for the reading of the file of executions. A job is lost unless it has ended exactly once, with a result that
one of its own executions has computed or an exception that its last execution has raised.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Final, NamedTuple

from ztasks.chaos.job import InjectedFailure, name_checksum
from ztasks.chaos.ledger import Execution, Fate, Ledger
from ztasks.chaos.outcomes import Error, Outcomes
from ztasks.chaos.strikes import Hit

LATE_NS: Final = 5_000_000_000
"""How long after its end a result may still have been on its way when its worker died. A result is sent within some
10 ms; but its worker may have been frozen, and the host busy."""

SLACK_NS: Final = 50_000_000
"""A worker may still append a record while the signal that kills it is on its way."""

ALONE: Final = "its worker died by itself"
UNEXPLAINED: Final = "unexplained"
CAUSES: Final = (
    "killed while it ran",
    "ended, but its result was lost with its worker",
    "crashed as planned",
    "failed as planned",
    "ran out of time",
    "failed by itself",
    ALONE,
    UNEXPLAINED,
)
"""Why a job was executed once more than it needed."""

INJECTED: Final = f"{InjectedFailure.__module__}.{InjectedFailure.__qualname__}"
INJECTED_CHECKSUM: Final = name_checksum(INJECTED)
TIMEOUT: Final = "ztasks.errors.JobTimeout"
LOST_TYPES: Final = frozenset({"ztasks.errors.WorkerLost", "ztasks.errors.PoisonJob"})


class Loss(NamedTuple):
    """A job that did not end as it should."""

    number: int
    why: str
    executions: list[Execution]


class Tally(NamedTuple):
    """What became of all jobs of one passage."""

    jobs: int
    succeeded: int
    failed: int
    """Jobs whose own exception reached the caller; not lost."""
    executions: int
    duplicates: dict[str, int]
    """Executions beyond the first of each job, by their cause."""
    losses: list[Loss]
    kills: dict[str, int]
    """What each kill has hit, as the executions show it."""
    repeated: list[Loss]
    """Jobs with executions that nothing explains."""


class Accountant:
    """Compares the executions of one passage with its outcomes."""

    def __init__(
        self,
        ledger: Ledger,
        outcomes: Outcomes,
        hits: list[Hit],
        *,
        at_most_once: bool = False,
        harmless: bool = False,
        timeout: float | None = None,
    ) -> None:
        """`harmless`: the task never takes its worker down, only the plan may; `timeout`: that of the jobs."""
        self._ledger = ledger
        self._outcomes = outcomes
        self._kills = [hit for hit in hits if hit.kind == "kill"]
        self._once = at_most_once
        self._timeout_ns = None if timeout is None else int(timeout * 1e9)
        self._wrong_causes = {UNEXPLAINED, *([ALONE] if harmless else [])}
        self._deaths = self._find_deaths()
        self._killed = {hit.pid for hit in self._kills}

    def tally(self) -> Tally:
        """Return the account."""
        ledger, outcomes = self._ledger, self._outcomes
        jobs = len(outcomes.arrived)
        histories = ledger.histories(self._to_look_at(jobs))
        duplicates, losses, repeated, failed = Counter[str](), [], [], 0
        for number, executions in sorted(histories.items()):
            why = self._why_lost(number, executions)
            if why:
                losses.append(Loss(number, why, executions))
            elif number in outcomes.errors:
                failed += 1
            causes = self._causes(number, executions)
            duplicates.update(causes)
            if self._wrong_causes & set(causes):
                repeated.append(Loss(number, "executed again for no reason", executions))
        return Tally(
            jobs,
            jobs - failed - len(losses),
            failed,
            ledger.executions,
            {cause: duplicates[cause] for cause in CAUSES},
            losses,
            self._what_kills_hit(),
            repeated,
        )

    def _to_look_at(self, jobs: int) -> set[int]:
        """Return the numbers of jobs that are not simply: begun once, returned, and that is what has arrived."""
        ledger, outcomes = self._ledger, self._outcomes
        usual = (number for number in range(jobs) if number not in ledger.unusual)
        return {
            *ledger.unusual,
            *outcomes.errors,
            *outcomes.wrong,
            *(
                number
                for number in usual
                if outcomes.arrived[number] != 1
                or not ledger.returned(number, outcomes.serials[number], outcomes.checksums[number])
            ),
        }

    # --- losses ---

    def _why_lost(self, number: int, executions: list[Execution]) -> str:
        """Tell why a job counts as lost; empty if it does not."""
        outcomes = self._outcomes
        arrived = outcomes.arrived[number]
        if arrived != 1:
            return "it has not ended" if not arrived else f"it has ended {arrived} times"
        if number in outcomes.wrong:
            return outcomes.wrong[number]
        if self._once and len(executions) > 1:
            return "it was executed more than once, which at_most_once forbids"
        error = outcomes.errors.get(number)
        if error is not None:
            return self._why_failed(error, executions)
        return "" if self._source(number, executions) else "none of its executions has returned what arrived"

    def _why_failed(self, error: Error, executions: list[Execution]) -> str:
        """Tell why a job should not have failed in this way; empty if that is what it has raised itself."""
        told = f"{error.type_name}: {error.message}"
        last = executions[-1] if executions else None
        if self._once and error.type_name in LOST_TYPES:
            return (
                "" if last is None or self._death_after(last) else f"its worker did not die, yet it failed with {told}"
            )
        if last is None or last.fate is not Fate.RAISED or last.checksum != name_checksum(error.type_name):
            return f"it failed with {told}"
        if last.checksum == INJECTED_CHECKSUM and not self._once:
            return f"it was not run again after a planned failure: {told}"
        if error.type_name == TIMEOUT:
            return f"it was not run again after it ran out of time: {told}"
        return ""

    # --- duplicates ---

    def _causes(self, number: int, executions: list[Execution]) -> list[str]:
        """Return why each execution but the one that counted was not the last."""
        if len(executions) < 2:
            return []
        counted = self._counted(number, executions)
        following = [*executions[1:], None]
        pairs = zip(executions, following, strict=True)
        return [self._cause(each, after) for each, after in pairs if each is not counted]

    def _counted(self, number: int, executions: list[Execution]) -> Execution:
        """Return the execution whose outcome has reached the caller, or else the last."""
        return self._source(number, executions) or executions[-1]

    def _source(self, number: int, executions: list[Execution]) -> Execution | None:
        """Return the execution whose result has reached the caller."""
        if number in self._outcomes.errors:
            return None
        came = (self._outcomes.serials[number], self._outcomes.checksums[number])
        found = (each for each in executions if each.fate is Fate.RETURNED and (each.serial, each.checksum) == came)
        return next(found, None)

    def _cause(self, execution: Execution, following: Execution | None) -> str:
        """Return why an execution was not the one that counted."""
        if execution.fate is Fate.RAISED:
            if execution.checksum == INJECTED_CHECKSUM:
                return "failed as planned"
            return "ran out of time" if execution.checksum == name_checksum(TIMEOUT) else "failed by itself"
        if execution.fate is Fate.RETURNED:
            if self._death_after(execution):
                return "ended, but its result was lost with its worker"
            return "ran out of time" if self._was_late(execution, following) else UNEXPLAINED
        if {"exit", "segfault"} & set(execution.faults):
            return "crashed as planned"
        if execution.pid in self._killed:
            return "killed while it ran"
        return "ran out of time" if self._was_late(execution, following) else ALONE

    def _was_late(self, execution: Execution, following: Execution | None) -> bool:
        """Tell whether a job may have been stopped because of its timeout: also while its result was being pickled, and
        with its worker while that was frozen."""
        if self._timeout_ns is None or following is None:
            return False
        return following.began - execution.began >= self._timeout_ns - SLACK_NS

    def _death_after(self, execution: Execution) -> bool:
        """Tell whether the worker of an execution has died so soon that the outcome may have been lost with it."""
        since = execution.ended or execution.began
        deaths = self._deaths.get(execution.pid, [])
        place = bisect_left(deaths, since - SLACK_NS)
        return place < len(deaths) and (execution.ended is None or deaths[place] - since <= LATE_NS)

    def _find_deaths(self) -> dict[int, list[int]]:
        """Return by pid when its workers died: by kills, by planned crashes, or in the midst of a job."""
        deaths: dict[int, list[int]] = {}
        for hit in self._kills:
            deaths.setdefault(hit.pid, []).append(hit.at)
        for record in self._ledger.crashes:
            deaths.setdefault(record.pid, []).append(record.at)
        for record in self._ledger.cut_off().values():
            deaths.setdefault(record.pid, []).append(record.at)
        return {pid: sorted(times) for pid, times in deaths.items()}

    def _what_kills_hit(self) -> dict[str, int]:
        """Count the kills by what the worker was doing, as its last record says."""
        found, cut_off = Counter[str](), self._ledger.cut_off()
        for hit in self._kills:
            if hit.closing:
                found["at the closing"] += 1
            elif hit.pid not in self._ledger.last_of:
                found["before a first job"] += 1
            else:
                found["in a job" if hit.pid in cut_off else "between jobs"] += 1
        return dict(found)
