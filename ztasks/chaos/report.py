"""The account of a run, as text for reading and as JSON."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from ztasks import __version__
from ztasks.chaos.batch import Batch, Passage
from ztasks.chaos.ledger import Execution
from ztasks.chaos.plan import JOB_FAULTS, Plan
from ztasks.chaos.tally import Accountant, Loss, Tally
from ztasks.io.head import STOP_SECONDS
from ztasks.runs.text import duration_text, input_text, one_line

SHOWN: Final = 20
"""How many losses are told in words."""

LABEL: Final = 52
"""The width of the first column."""

NUMBER: Final = 12


class Side(NamedTuple):
    """One passage and its account."""

    passage: Passage
    tally: Tally
    problems: list[str]
    """What must not be; each is a sentence."""


class Report(NamedTuple):
    """The account of a run."""

    batch: Batch
    plan: Plan
    faults: str
    """As they were asked for."""
    base: Side | None
    chaos: Side | None
    problems: list[str]
    """What went wrong beside the jobs: that the run hung, for example."""

    @property
    def ok(self) -> bool:
        """Whether nothing was lost, unexplained or left behind."""
        sides = [side for side in (self.base, self.chaos) if side is not None]
        return not self.problems and bool(sides) and not any(side.problems for side in sides)

    @property
    def ratio(self) -> float | None:
        """The time under faults as a multiple of that without."""
        if self.base is None or self.chaos is None or not self.base.passage.seconds or not self.chaos.passage.seconds:
            return None
        return self.chaos.passage.seconds / self.base.passage.seconds


def account(passage: Passage) -> Side:
    """Compare executions with outcomes, and say what is wrong."""
    batch = passage.batch
    tally = Accountant(
        passage.ledger,
        passage.outcomes,
        passage.hits,
        at_most_once=batch.at_most_once,
        harmless=batch.built_in,
        timeout=batch.timeout,
    ).tally()
    problems = [_tell(batch, loss, "lost") for loss in tally.losses[:SHOWN]]
    if len(tally.losses) > SHOWN:
        problems.append(f"and {len(tally.losses) - SHOWN:,} more lost")
    problems += [_tell(batch, loss, "repeated") for loss in tally.repeated[:SHOWN]]
    if passage.ledger.foreign:
        problems.append(f"{passage.ledger.foreign:,} executions of jobs that are not in the batch")
    if passage.broken:
        problems.append(f"the run stopped: {passage.broken}")
    if batch.built_in and passage.closing_seconds >= STOP_SECONDS:
        problems.append(f"the closing took {passage.closing_seconds:.2f} s: workers did not leave, and were killed")
    problems += [f"left behind: {what}" for what in passage.left]
    return Side(passage, tally, problems)


def _tell(batch: Batch, loss: Loss, what: str) -> str:
    executions = "; ".join(map(_execution_text, loss.executions[-5:])) or "never executed"
    shown = input_text(batch.shown(loss.number), 60)
    return f"{what}: job {loss.number} ({shown}): {one_line(loss.why, 300)} [{executions}]"


def _execution_text(execution: Execution) -> str:
    took = "" if execution.ended is None else f" after {duration_text((execution.ended - execution.began) / 1e9)}"
    faults = f" ({', '.join(execution.faults)})" if execution.faults else ""
    return f"{execution.fate.value}{took} in {execution.pid}{faults}"


# --- as text ---


def text(report: Report) -> str:
    """Return the account for reading."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    base, chaos = report.base, report.chaos
    sides = [side for side in (base, chaos) if side is not None]
    heads = ["without faults"] * (base is not None) + ["with faults"] * (chaos is not None)
    yield _row("", *heads)
    for label, value in (
        ("jobs", lambda side: f"{side.tally.jobs:,}"),
        ("executions", lambda side: f"{side.tally.executions:,}"),
        ("  duplicates", lambda side: f"{sum(side.tally.duplicates.values()):,}"),
        ("jobs that succeeded", lambda side: f"{side.tally.succeeded:,}"),
        ("jobs that failed by themselves", lambda side: f"{side.tally.failed:,}"),
        ("losses", lambda side: f"{len(side.tally.losses):,}"),
        ("left behind", lambda side: f"{len(side.passage.left):,}"),
        ("seconds", lambda side: f"{side.passage.seconds:.2f}"),
        ("seconds to close", lambda side: f"{side.passage.closing_seconds:.3f}"),
    ):
        yield _row(label, *map(value, sides))
    if report.ratio is not None:
        yield _row("cost in time", *[""] * (len(sides) - 1), f"x {report.ratio:.2f}")
    if chaos is not None:
        yield from _fault_lines(report, chaos)
    problems = [*report.problems, *(problem for side in sides for problem in side.problems)]
    yield ""
    yield from (f"  {problem}" for problem in problems)
    yield "ok: nothing lost, nothing left behind" if report.ok else f"FAILED (seed {report.plan.seed})"


def _fault_lines(report: Report, chaos: Side) -> Iterator[str]:
    passage, tally = chaos.passage, chaos.tally
    strikes = Counter(hit.kind for hit in passage.hits)
    frozen = sum(hit.pause for hit in passage.hits)
    yield ""
    yield "faults"
    yield _row("  kill", f"{strikes['kill']:,}")
    for what, number in tally.kills.items():
        yield _row(f"    {what}", f"{number:,}")
    yield _row("  freeze", f"{strikes['freeze']:,}", f"{frozen:.1f} s in all" if frozen else "")
    for kind in JOB_FAULTS:
        if kind in report.plan.amounts:
            yield _row(f"  {kind}", f"{report.plan.count(kind):,}", "planned")
    if passage.striker is not None and passage.striker.missed:
        yield _row("  strikes that met nobody", f"{passage.striker.missed:,}")
    yield ""
    yield "why jobs were executed again"
    for cause, number in tally.duplicates.items():
        if number or cause == "unexplained":
            yield _row(f"  {cause}", f"{number:,}")


def _row(label: str, *values: str) -> str:
    return f"{label:<{LABEL}}{''.join(f'{value:>{NUMBER + 4}}' for value in values)}".rstrip()


# --- as JSON ---


def as_json(report: Report) -> str:
    """Return the account as one JSON object."""
    document = {
        "ok": report.ok,
        "seed": report.plan.seed,
        "task": report.batch.name,
        "jobs": len(report.batch.items),
        "workers": report.batch.workers,
        "api": report.batch.api,
        "recycle": report.batch.recycle,
        "faults": report.faults,
        "closes_early": report.plan.closes_early,
        "planned": {kind: report.plan.count(kind) for kind in JOB_FAULTS if kind in report.plan.amounts},
        "base": None if report.base is None else _side_document(report.base),
        "chaos": None if report.chaos is None else _side_document(report.chaos),
        "cost": report.ratio,
        "problems": report.problems,
        "ztasks": __version__,
        "python": platform.python_version(),
    }
    return json.dumps(document, indent=1)


def _side_document(side: Side) -> dict[str, Any]:
    passage, tally = side.passage, side.tally
    strikes = Counter(hit.kind for hit in passage.hits)
    return {
        "seconds": round(passage.seconds, 4),
        "closing_seconds": round(passage.closing_seconds, 4),
        "executions": tally.executions,
        "succeeded": tally.succeeded,
        "failed": tally.failed,
        "duplicates": tally.duplicates,
        "losses": len(tally.losses),
        "left": passage.left,
        "kills": strikes["kill"],
        "kills_hit": tally.kills,
        "freezes": strikes["freeze"],
        "frozen_seconds": round(sum(hit.pause for hit in passage.hits), 3),
        "missed_strikes": passage.striker.missed if passage.striker is not None else 0,
        "problems": side.problems,
    }
