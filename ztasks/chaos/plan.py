"""The plan: which faults strike, when, and which jobs misbehave. The seed decides all of it.

Pure: the same seed, number of jobs and amounts give the same plan, in every process and on every version of Python (so
only `Random.random` is used, whose sequence is guaranteed). Each kind of fault draws from a sequence of its own, so
that asking for one more kind leaves the others as they were.
"""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from random import Random
from typing import Final, Literal, NamedTuple

from ztasks.errors import InvalidOption

StrikeKind = Literal["kill", "freeze"]
JobFaultKind = Literal["slow", "large", "fail", "exit", "segfault", "hang"]
Phase = Literal["starting", "fresh", "running", "returned", "any"]
"""What a worker shall be doing when it is struck: coming up, at its first jobs, in a job, just done with one."""

STRIKES: Final[tuple[StrikeKind, ...]] = ("kill", "freeze")
JOB_FAULTS: Final[tuple[JobFaultKind, ...]] = ("fail", "exit", "segfault", "hang", "slow", "large")
MILD: Final = frozenset({"slow", "large"})
"""A job with one of these ends well at once; with any other fault, that execution fails or takes its worker down."""

DEFAULTS: Final = "kill=2,freeze=1,slow=1%,large=0.5%,fail=1%,exit=0.2%,segfault=0.2%"
SHORTHANDS: Final = {"crash": ("exit", "segfault"), "all": (*STRIKES, *JOB_FAULTS)}

PHASES: Final[dict[Phase, int]] = {"running": 4, "returned": 3, "starting": 2, "fresh": 1, "any": 1}
"""How often each is aimed at."""

PAUSES: Final = (0.005, 1.0)
"""The shortest and the longest freeze in seconds; short ones are more frequent."""

SLEEPS: Final = (0.050, 0.500)
"""How long a slow result takes, in seconds."""

SIZES: Final = (64 * 1024, 8 * 1024 * 1024)
"""How many bytes a large result has more than it would."""

CLOSING_SECONDS: Final = 0.030
"""How soon after the closing has begun a strike meets it."""


class Amount(NamedTuple):
    """How much of one fault: per second, or a number of jobs, or a share of the jobs."""

    number: float
    share: bool = False

    def jobs(self, of: int) -> int:
        """Return how many of so many jobs; a share that is not 0 means at least one."""
        wanted = math.ceil(self.number * of) if self.share else int(self.number)
        return min(of, wanted)


class Strike(NamedTuple):
    """One fault that meets a worker process."""

    at: float
    """Seconds after the start of the passage, or of the closing."""
    kind: StrikeKind
    phase: Phase
    pick: float
    """Which of the workers that are in this phase, as a share of them."""
    pause: float
    """How long a frozen worker stays so, in seconds; 0 for a kill."""


class JobFault(NamedTuple):
    """One fault of a job, at one of its executions."""

    kind: JobFaultKind
    late: bool
    """After the task has been called instead of before; for `hang`: it does not heed its timeout either."""
    amount: float
    """Seconds of a slow result, bytes of a large one; else 0."""


class Plan:
    """All faults of one run: those of jobs as a mapping by job number, those of workers as a stream without end."""

    def __init__(self, seed: int, jobs: int, amounts: Mapping[str, Amount]) -> None:
        self.seed = seed
        self.jobs = jobs
        self.amounts = dict(amounts)
        self.job_faults = self._job_faults()
        """By job number; a job's faults in the order of its executions, those that let it end well last."""
        self.closing = tuple(self._closing())
        """The strikes that meet the closing of the executor."""
        self.closes_early = self._random("closes early").random() < 0.5
        """Whether the executor is closed while submitted jobs still wait, instead of after the last result."""

    def strikes(self) -> Iterator[Strike]:
        """Yield the faults of worker processes in the order of time, without end."""
        return heapq.merge(*(self._strikes(kind) for kind in STRIKES if self._rate(kind)))

    def most(self, *kinds: JobFaultKind) -> int:
        """Return the largest number of faults of these kinds that one job has."""
        counts = (sum(fault.kind in kinds for fault in faults) for faults in self.job_faults.values())
        return max(counts, default=0)

    def count(self, kind: JobFaultKind) -> int:
        """Return how many faults of a kind the jobs have in all."""
        return sum(fault.kind == kind for faults in self.job_faults.values() for fault in faults)

    def most_strikes(self, kind: StrikeKind, seconds: float) -> int:
        """Return a bound on the strikes of a kind in so many seconds: far more are as good as impossible."""
        expected = self._rate(kind) * seconds
        return math.ceil(expected + 10 * math.sqrt(expected) + 10) + len(self.closing)

    def _random(self, purpose: str) -> Random:
        return Random(f"{self.seed} {purpose}")

    def _rate(self, kind: StrikeKind) -> float:
        amount = self.amounts.get(kind)
        return 0.0 if amount is None else amount.number

    def _strikes(self, kind: StrikeKind) -> Iterator[Strike]:
        chance, at = self._random(kind).random, 0.0
        while True:
            at += -math.log(1.0 - chance()) / self._rate(kind)
            yield Strike(at, kind, _choose(PHASES, chance()), chance(), _pause(kind, chance()))

    def _closing(self) -> Iterator[Strike]:
        for kind in STRIKES:
            if self._rate(kind):
                chance = self._random(f"closing {kind}").random
                at, pick, pause = chance() * CLOSING_SECONDS, chance(), _pause(kind, chance())
                if chance() < 0.5:
                    yield Strike(at, kind, "any", pick, pause)

    def _job_faults(self) -> dict[int, tuple[JobFault, ...]]:
        keyed: dict[int, list[tuple[bool, float, JobFault]]] = {}
        for kind in JOB_FAULTS:
            amount = self.amounts.get(kind)
            if amount is None:
                continue
            chance = self._random(kind).random
            for number in _sample(chance, self.jobs, amount.jobs(self.jobs)):
                for _ in range(_repeats(kind, chance())):
                    fault = JobFault(kind, chance() < 0.5, _size(kind, chance()))
                    keyed.setdefault(number, []).append((kind in MILD, chance(), fault))
        return {number: tuple(fault for *_, fault in sorted(keyed[number])) for number in sorted(keyed)}


def parse_faults(text: str) -> dict[str, Amount]:
    """Read `kill=2,fail=1%,crash`: kinds, each with how much of it (default: that of DEFAULTS). Raises InvalidOption.

    Strikes are counted per second (`kill=2` or `kill=2/s`), faults of jobs in jobs (`fail=5`) or as a share of them
    (`fail=1%`). `crash` stands for `exit` and `segfault`, `all` for every kind, `none` for no fault at all.
    """
    found: dict[str, Amount] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, given, value = part.partition("=")
        name = name.strip()
        if name == "none":
            continue
        kinds = SHORTHANDS.get(name, (name,))
        if not set(kinds) <= {*STRIKES, *JOB_FAULTS}:
            known = ", ".join((*STRIKES, *JOB_FAULTS, *SHORTHANDS, "none"))
            raise InvalidOption(f"there is no fault {name!r}: give some of {known}")
        for kind in kinds:
            found[kind] = _amount(kind, value.strip()) if given else _default(kind)
    return {kind: amount for kind, amount in found.items() if amount.number > 0}


def _default(kind: str) -> Amount:
    """Return the amount of a kind that is named without one."""
    for part in DEFAULTS.split(","):
        name, _, value = part.partition("=")
        if name == kind:
            return _amount(kind, value)
    return Amount(0.002, share=True)


def _amount(kind: str, text: str) -> Amount:
    units, example = (r"/s", f"{kind}=2 (per second)") if kind in STRIKES else ("%", f"{kind}=5 or {kind}=1%")
    found = re.fullmatch(rf"(\d{{1,7}}(?:\.\d{{1,6}})?)\s*({units})?", text)
    if not found:
        raise InvalidOption(f"{kind}={text} does not say how much: write for example {example}")
    number, share = float(found[1]), found[2] == "%"
    if (share and number > 100) or (kind in STRIKES and number > 1000):
        raise InvalidOption(f"{kind}={text} is too much: at most {'100%' if share else '1000 per second'}")
    if kind in JOB_FAULTS and not share and not number.is_integer():
        raise InvalidOption(f"{kind}={text} does not say how much: write for example {example}")
    return Amount(number / 100 if share else number, share)


def _choose(weights: Mapping[Phase, int], chance: float) -> Phase:
    """Choose one, each as often as its weight says."""
    bounds = list(accumulate(weights.values()))
    place = chance * bounds[-1]
    return next(name for name, bound in zip(weights, bounds, strict=True) if place < bound)


def _between(bounds: tuple[float, float], chance: float) -> float:
    """Return a number between two, evenly on a logarithmic scale."""
    low, high = bounds
    return float(low * (high / low) ** chance)


def _pause(kind: StrikeKind, chance: float) -> float:
    return _between(PAUSES, chance) if kind == "freeze" else 0.0


def _size(kind: JobFaultKind, chance: float) -> float:
    if kind == "slow":
        return _between(SLEEPS, chance)
    return float(int(_between(SIZES, chance))) if kind == "large" else 0.0


def _repeats(kind: JobFaultKind, chance: float) -> int:
    """Return at how many of its executions a job has a fault."""
    most = {"fail": 3, "exit": 2, "segfault": 2}.get(kind, 1)
    return 1 + int(chance * most)


def _sample(chance: Callable[[], float], of: int, wanted: int) -> list[int]:
    """Return `wanted` different numbers below `of` (Floyd's algorithm)."""
    chosen: dict[int, None] = {}
    for top in range(of - wanted, of):
        number = int(chance() * (top + 1))
        chosen[top if number in chosen else number] = None
    return list(chosen)
