"""From trials to figures: medians, spread, ratios, and whether goals are met."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from benchmarks.contestants import TITLES
from benchmarks.model import Goal, Row
from benchmarks.rounds import Trial

OURS = "ztasks"


@dataclass
class Figures:
    """All samples of one contestant for one row, by round."""

    by_round: dict[int, float] = field(default_factory=dict)
    jobs: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.by_round.values())

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest value."""
        return min(self.by_round.values()), max(self.by_round.values())


@dataclass(frozen=True)
class Ratio:
    """ztasks over a peer: of the medians, and the least and greatest of the rounds that have both."""

    value: float
    least: float
    greatest: float


@dataclass(frozen=True)
class Verdict:
    """A goal, in words, and whether it is met; None when one side was not measured."""

    goal: Goal
    text: str
    met: bool | None


class Report:
    """The figures of a run, by row and contestant."""

    def __init__(self, trials: Iterable[Trial]) -> None:
        """Sort the samples of all trials into their rows."""
        self._figures: dict[tuple[str, str], Figures] = {}
        self.problems: list[str] = []
        for trial in trials:
            for sample in trial.samples:
                figures = self._figures.setdefault((sample.row, trial.contestant), Figures())
                figures.by_round[trial.round] = sample.value
                figures.jobs = sample.jobs
                if sample.note and sample.note not in figures.notes:
                    figures.notes.append(sample.note)
            if trial.problem:
                title = TITLES[trial.contestant]
                self.problems.append(f"{trial.measure}, {title}, round {trial.round}: {trial.problem}")

    def figures(self, row: Row, contestant: str) -> Figures | None:
        """The figures, or None when there is no sample."""
        return self._figures.get((row.key, contestant))

    def ratio(self, row: Row, peer: str) -> Ratio | None:
        """ztasks over `peer`, or None when one of them has no sample."""
        ours, theirs = self.figures(row, OURS), self.figures(row, peer)
        if ours is None or theirs is None or not theirs.median:
            return None
        paired = [
            value / theirs.by_round[number] for number, value in ours.by_round.items() if theirs.by_round.get(number)
        ] or [ours.median / theirs.median]
        return Ratio(ours.median / theirs.median, min(paired), max(paired))

    def verdicts(self, row: Row) -> list[Verdict]:
        """All goals of a row."""
        return [Verdict(goal, _words(row, goal), self._met(row, goal)) for goal in row.goals]

    def _met(self, row: Row, goal: Goal) -> bool | None:
        if goal.peer is None:
            ours = self.figures(row, OURS)
            value = None if ours is None else ours.median
        else:
            ratio = self.ratio(row, goal.peer)
            value = None if ratio is None else ratio.value
        if value is None:
            return None
        return value >= goal.limit if row.higher_is_better else value <= goal.limit


def _words(row: Row, goal: Goal) -> str:
    sign = ">=" if row.higher_is_better else "<="
    if goal.peer is None:
        return f"{sign} {goal.limit:,g} {row.unit}"
    return f"{sign} {goal.limit:g}x {TITLES[goal.peer]}"
