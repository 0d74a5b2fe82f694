"""What a process holds, sampled at quiet moments, and whether that stays the same."""

import contextlib
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

RESIDENT = "resident"
"""Resident memory in bytes. It moves by itself, so what counts is its growth; all else must not exceed its start."""

BEGIN_SECONDS = 5.0
"""The longest wait for the first sample, which is taken when nothing has changed for STABLE_SECONDS."""

STABLE_SECONDS = 0.5

Holdings = dict[str, int]


def holdings(folder: str, pid: int | str = "self") -> Holdings:
    """What a process holds now; `files` are all below `folder`."""
    process = Path(f"/proc/{pid}")
    threads = os.listdir(process / "task")
    return {
        "descriptors": len(os.listdir(process / "fd")) - (pid == "self"),  # one is the listing's own
        "threads": len(threads),
        "children": len(children(pid)),
        "files": sum(len(folders) + len(files) for _, folders, files in os.walk(folder)),
        RESIDENT: int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
    }


def children(pid: int | str = "self") -> list[int]:
    """The children of a process, those included that have ended but were not waited for."""
    found = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError):  # the thread has just ended
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """The children of a process, and theirs; who has just ended is left out."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for child in children(pid):
            found += [child, *descendants(child)]
    return found


def is_memory(kind: str) -> bool:
    """Tell whether these are bytes, and not things that can be counted."""
    return kind.endswith(RESIDENT)


@dataclass
class Series:
    """The samples of one quantity: after how much work, and how much there was."""

    done: list[int] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    most: int = 0
    """The greatest value seen, in busy moments too."""

    @property
    def slope(self) -> float:
        """Growth per unit of work over the second half, by least squares: the first half fills caches."""
        half = len(self.values) // 2
        done, values = self.done[half:], self.values[half:]
        return statistics.linear_regression(done, values).slope if len(set(done)) > 1 else 0.0

    @property
    def growth(self) -> float:
        """Growth over the second half, as the difference of two medians: outliers do not count."""
        half, quarter = len(self.values) // 2, max(1, len(self.values) // 4)
        return statistics.median(self.values[-quarter:]) - statistics.median(self.values[half : half + quarter])


@dataclass(frozen=True)
class Quantity:
    """What became of one quantity."""

    kind: str
    start: int
    end: int
    maximum: int
    slope: float
    flat: bool

    @classmethod
    def of(cls, kind: str, series: Series, growth_limit: float) -> "Quantity":
        """Judge a series: memory may grow by less than `growth_limit` bytes, anything else may not exceed its start."""
        values = series.values
        flat = series.growth < growth_limit if is_memory(kind) else max(values) <= values[0]
        return cls(kind, values[0], values[-1], max(series.most, *values), series.slope, flat)

    def line(self) -> str:
        """A line of a table."""
        unit = 1024 if is_memory(self.kind) else 1
        title = f"{self.kind}, KiB" if unit > 1 else self.kind
        cells = "".join(f"{value // unit:>12,}" for value in (self.start, self.end, self.maximum))
        slope = f"{self.slope:,.1f} B" if unit > 1 else f"{self.slope:.4f}"
        return f"  {title:<24}{cells}{slope:>14}  {'flat' if self.flat else 'RISES'}"


class Watcher:
    """Takes the samples of one part of a soak."""

    def __init__(self, take: Callable[[], Holdings], patience: float) -> None:
        """`patience`: how many seconds after the work what it needed may still be there."""
        self._take = take
        self._patience = patience
        self.series: dict[str, Series] = {}

    def begin(self) -> None:
        """Take the first sample, when nothing has changed for a while."""
        now, since = _counts(self._take()), time.monotonic()
        deadline = since + BEGIN_SECONDS
        while time.monotonic() < min(since + STABLE_SECONDS, deadline):
            time.sleep(0.01)
            before, now = now, _counts(self._take())
            if now != before:
                since = time.monotonic()
        self._add(0, self._take())

    def quiet(self, done: int) -> None:
        """Take a sample after so much work, at a moment when nothing is under way."""
        deadline = time.monotonic() + self._patience
        while self._more(now := self._take()) and time.monotonic() < deadline:
            time.sleep(0.005)
        if self._more(now):
            self._patience = 0.0  # the verdict is clear: do not wait each time
        self._add(done, now)

    def busy(self) -> None:
        """Take a sample in the midst of work: it counts for the maximum only."""
        for kind, value in self._take().items():
            if kind in self.series:
                self.series[kind].most = max(self.series[kind].most, value)

    def judge(self, growth_limit: float) -> list[Quantity]:
        """Say of each quantity whether it stayed the same."""
        return [Quantity.of(kind, series, growth_limit) for kind, series in self.series.items()]

    def _more(self, now: Holdings) -> bool:
        return any(value > self.series[kind].values[0] for kind, value in _counts(now).items())

    def _add(self, done: int, now: Holdings) -> None:
        for kind, value in now.items():
            series = self.series.setdefault(kind, Series())
            series.done.append(done)
            series.values.append(value)


def _counts(now: Holdings) -> Holdings:
    return {kind: value for kind, value in now.items() if not is_memory(kind)}
