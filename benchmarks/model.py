"""What a measure produces: rows with goals, and samples that belong to rows."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.contestants import COMMANDS, CONTESTANTS, FLEETS, Entrant


@dataclass(frozen=True)
class Goal:
    """A limit for a row of ztasks: on the ratio ztasks / peer, or on the value itself when `peer` is None.

    Whether it is a lower or an upper limit follows from the row: "at least" where higher is better.
    """

    limit: float
    peer: str | None = None


@dataclass(frozen=True)
class Row:
    """One line of figures: a key that samples name, a title with what was run, the goals of the design."""

    key: str
    title: str
    unit: str
    higher_is_better: bool = True
    digits: int = 0
    goals: tuple[Goal, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One figure of one contestant in one round; `jobs` is how many jobs it was taken from."""

    row: str
    value: float
    jobs: int
    note: str = ""


@dataclass(frozen=True)
class Settings:
    """What a run of a measure depends on, besides the contestant."""

    workers: int = 2
    quick: bool = False
    records: int = 500_000
    """Inputs of a run for `records`."""
    input_mib: int = 1024
    """The largest input of `input_memory`."""

    def scaled(self, jobs: int) -> int:
        """The number of jobs to run: a tenth of `jobs` with `--quick`."""
        return max(1, jobs // 10) if self.quick else jobs


@dataclass(frozen=True)
class Measure:
    """A measure: its rows, and a generator that yields samples for them.

    `run` gets a contestant that is open and warm, unless `opens_itself` or `commands` is set.
    """

    name: str
    rows: tuple[Row, ...]
    run: Callable[[Any, Settings], Iterator[Sample]]
    opens_itself: bool = False
    commands: bool = False
    """Whether it runs the contestants that are command lines, not libraries."""
    hosts: bool = False
    """Whether it runs those that can be spread over several hosts, as they are started there."""
    only: frozenset[str] = frozenset()
    """Set: who alone can take part."""

    @property
    def entrants(self) -> Mapping[str, type[Entrant]]:
        """Who can take part in it."""
        group: Mapping[str, type[Entrant]] = COMMANDS if self.commands else FLEETS if self.hosts else CONTESTANTS
        return {key: entrant for key, entrant in group.items() if not self.only or key in self.only}
