"""The interface through which every measure drives every contestant."""

import contextlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from enum import Enum
from importlib import metadata
from typing import Any, ClassVar

from benchmarks import work

Handle = Any
"""Whatever a contestant returns for one submitted job: a future, an object reference, a number."""


def version_of(distribution: str) -> str:
    """The version of a package, or what is there of it."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(checkout)" if importlib.util.find_spec(distribution) else "(absent)"


class Pace(Enum):
    """How many jobs a contestant can be given before a round takes too long; rates stay comparable."""

    FAST = "fast"
    MIDDLE = "middle"
    SLOW = "slow"


class Chunks(Enum):
    """Whether `map` takes a chunk size: `NONE` sizes itself, `OPTIONAL` has a default worth running."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"


class Entrant(ABC):
    """Whoever takes part: a library (`Contestant`) or a command line (`Command`)."""

    key: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, workers: int) -> None:
        """Remember the number of worker processes."""
        self.workers = workers

    @classmethod
    @abstractmethod
    def absence(cls) -> str:
        """Why it cannot run here; empty when it can."""

    @classmethod
    @abstractmethod
    def version(cls) -> tuple[str, str] | None:
        """What it is called and its version; None for the standard library."""


class Contestant(Entrant):
    """One way to run jobs on worker processes.

    Subclasses import their library in `open`, never at the top, so that any of them may be absent.
    """

    module: ClassVar[str]
    """The module whose presence tells that the contestant can run."""
    distribution: ClassVar[str | None] = None
    """The package whose version stands in the header; None for the standard library."""
    pace: ClassVar[Pace] = Pace.FAST
    chunks: ClassVar[Chunks] = Chunks.REQUIRED
    can_recover: ClassVar[bool] = False
    """Whether a job that kills its worker ends with an error, so that one can go on after it."""
    can_queue: ClassVar[bool] = True
    """Whether jobs can be queued, each with a future of its own, while the workers are occupied."""
    first_result: ClassVar[str]
    """What a user would write to get one result: a script, with `{workers}` to be filled in."""

    @classmethod
    def absence(cls) -> str:
        """Look for the module."""
        try:
            found = importlib.util.find_spec(cls.module)
        except ImportError:
            found = None
        return "" if found else f"no module {cls.module!r}"

    @classmethod
    def version(cls) -> tuple[str, str] | None:
        """Ask for the version of the package."""
        return None if cls.distribution is None else (cls.distribution, version_of(cls.distribution))

    @abstractmethod
    def open(self) -> None:
        """Start the workers."""

    @abstractmethod
    def close(self) -> None:
        """Stop the workers."""

    @abstractmethod
    def submit(self, fn: Callable[..., Any], arg: Any) -> Handle:
        """Send one job."""

    @abstractmethod
    def collect(self, handles: list[Handle]) -> list[Any]:
        """Wait for the results of `handles`, in the quickest way the library has."""

    @abstractmethod
    def map(self, fn: Callable[..., Any], items: Iterable[Any], chunk: int | None) -> Iterable[Any]:
        """Results of `fn` for all items, in order; `chunk` is None for the library's default."""

    def lose_worker(self) -> None:
        """Run a job that kills its worker, and see it fail."""
        with contextlib.suppress(Exception):
            self.collect([self.submit(work.die, 1)])

    def recover(self) -> None:
        """Get the result of a no-op after a worker was lost: with a new pool where the old one is broken."""
        try:
            self.collect([self.submit(work.noop, 1)])
        except Exception:
            self.close()
            self.open()
            self.collect([self.submit(work.noop, 1)])

    def discard(self, handles: list[Handle]) -> None:
        """Cancel jobs that have not started; by default they are left to run."""

    def chunk_choices(self, *sizes: int) -> tuple[int | None, ...]:
        """The chunk sizes worth trying: the default where there is one, and `sizes` where they are taken."""
        match self.chunks:
            case Chunks.NONE:
                return (None,)
            case Chunks.OPTIONAL:
                return (None, *sizes)
            case Chunks.REQUIRED:
                return sizes

    def jobs(self, fast: int, middle: int, slow: int) -> int:
        """Pick the number of jobs that suits this contestant."""
        return {Pace.FAST: fast, Pace.MIDDLE: middle, Pace.SLOW: slow}[self.pace]

    def warm_up(self) -> None:
        """Have every worker up, with the library's lazy imports done and its connections made."""
        self.collect([self.submit(work.sleepy, 0.05) for _ in range(4 * self.workers)])
        count = self.jobs(fast=1_000, middle=200, slow=50)
        self.collect([self.submit(work.noop, index) for index in range(count)])
        for _ in self.map(work.noop, range(count), 10):
            pass


class FuturesContestant(Contestant):
    """A contestant whose library offers a `concurrent.futures.Executor`; `open` sets `executor`."""

    executor: Any

    def close(self) -> None:
        """Shut the executor down."""
        self.executor.shutdown()

    def submit(self, fn: Callable[..., Any], arg: Any) -> Handle:
        """Submit one call; the handle is its future."""
        return self.executor.submit(fn, arg)

    def collect(self, handles: list[Handle]) -> list[Any]:
        """Ask each future for its result."""
        return [handle.result() for handle in handles]

    def map(self, fn: Callable[..., Any], items: Iterable[Any], chunk: int | None) -> Iterable[Any]:
        """Map through the executor."""
        options = {} if chunk is None or self.chunks is Chunks.NONE else {"chunksize": chunk}
        results: Iterable[Any] = self.executor.map(fn, items, **options)
        return results

    def discard(self, handles: list[Handle]) -> None:
        """Cancel what has not started, last first, so that nothing moves up into the gap."""
        for handle in reversed(handles):
            handle.cancel()
