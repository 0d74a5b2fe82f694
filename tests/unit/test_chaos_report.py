"""The chaos test's report: what counts as a problem, and how it is told."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ztasks.chaos import job
from ztasks.chaos.batch import Batch, Passage
from ztasks.chaos.job import BEGUN, HEADER, RECORD, RETURNED
from ztasks.chaos.ledger import Ledger
from ztasks.chaos.outcomes import Outcomes
from ztasks.chaos.plan import Plan, parse_faults
from ztasks.chaos.report import SHOWN, Report, account, as_json, text

FAULTS = "kill=2,fail=10%"


def batch(function: Any = None, jobs: int = 3) -> Batch:
    return Batch("work", function or job.Work(0.0), list(range(jobs)), str, None, 2, "both", None, None)


def passage(folder: Path, jobs: int = 3, function: Any = None, **changes: Any) -> Passage:
    """Make what is left of a passage in which each job ran once and returned the right answer."""
    outcomes = Outcomes(jobs)
    path = folder / "executions"
    with path.open("wb") as file:
        for number in range(jobs):
            file.write(RECORD.pack(BEGUN, number, 77, 0, number + 1, 10**9))
            file.write(RECORD.pack(RETURNED, number, 77, 0, number + 1, 2 * 10**9))
            outcomes.take(number, HEADER.pack(number, 0, number + 1))
    fields = {
        "batch": batch(function, jobs),
        "outcomes": outcomes,
        "ledger": Ledger(str(path), jobs),
        "hits": [],
        "striker": None,
        "seconds": 2.0,
        "closing_seconds": 0.02,
        "broken": "",
        "left": [],
    }
    return SimpleNamespace(**{**fields, **changes})  # type: ignore[return-value]


def report(base: Passage | None, chaos: Passage | None, problems: list[str] | None = None) -> Report:
    sides = [None if each is None else account(each) for each in (base, chaos)]
    return Report(batch(), Plan(5, 3, parse_faults(FAULTS)), FAULTS, *sides, problems or [])


def test_all_is_well(tmp_path: Path) -> None:
    good = report(passage(tmp_path), passage(tmp_path, seconds=5.0))
    assert good.ok
    assert good.ratio == 2.5
    assert text(good).splitlines()[-1] == "ok: nothing lost, nothing left behind"
    document = json.loads(as_json(good))
    assert (document["ok"], document["seed"], document["cost"], document["faults"]) == (True, 5, 2.5, FAULTS)
    assert (document["base"]["losses"], document["chaos"]["executions"]) == (0, 3)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"left": ["thread x"]}, "left behind: thread x"),
        ({"broken": "ValueError: x"}, "the run stopped: ValueError: x"),
        ({"closing_seconds": 3.01}, "the closing took 3.01 s: workers did not leave, and were killed"),
        ({"outcomes": Outcomes(3)}, "lost: job 0 (0): it has not ended [returned after 1.0 s in 77]"),
    ],
)
def test_what_is_a_problem(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    bad = report(passage(tmp_path), passage(tmp_path, **changes))
    assert not bad.ok
    assert bad.chaos is not None
    assert bad.chaos.problems[0] == problem
    lines = text(bad).splitlines()
    assert f"  {problem}" in lines
    assert lines[-1] == "FAILED (seed 5)"
    assert not json.loads(as_json(bad))["ok"]


def test_a_user_s_task_may_keep_its_worker_from_leaving(tmp_path: Path) -> None:
    assert report(None, passage(tmp_path, function=len, closing_seconds=3.5)).ok


def test_a_problem_of_the_base_or_of_the_run_is_one_too(tmp_path: Path) -> None:
    good = passage(tmp_path)
    assert not report(passage(tmp_path, left=["thread x"]), None).ok
    assert not report(good, good, ["it did not end"]).ok
    assert "  it did not end" in text(report(good, good, ["it did not end"])).splitlines()
    assert not report(None, None).ok


def test_many_losses_are_not_all_told(tmp_path: Path) -> None:
    bad = report(None, passage(tmp_path, jobs=50, outcomes=Outcomes(50)))
    assert bad.chaos is not None
    assert len(bad.chaos.problems) == SHOWN + 1
    assert bad.chaos.problems[-1] == f"and {50 - SHOWN} more lost"


def test_there_is_no_cost_without_a_base(tmp_path: Path) -> None:
    assert report(None, passage(tmp_path)).ratio is None
    assert "cost in time" not in text(report(None, passage(tmp_path)))
