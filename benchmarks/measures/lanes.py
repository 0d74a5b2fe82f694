"""The books of a head with 10,000 foremen: what a job costs beside one with ten, and what a lane takes in memory.

Nothing is sent: the pure core alone, with the foremen's part played in the same loop.
"""

import gc
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from benchmarks.contestants.base import Contestant
from benchmarks.model import Goal, Measure, Row, Sample, Settings

FEW, MANY = 10, 10_000
SLOTS = 2
TURN = 10
"""Outcomes that the head reads before it dispatches again."""

ROUNDS = 5
"""How often each number of lanes is measured, alternating; the least counts."""


class Simulation:
    """A fleet whose foremen have two workers each, with jobs of a second: each is given one at a time."""

    def __init__(self, lanes: int, *, busy: bool = True) -> None:
        """Have all foremen join, and give each what it can run, if they are to be busy."""
        from ztasks.core.fleet import Fleet, Offer, TaskSpec
        from ztasks.wire.link import Define

        define = Define(
            key=b"task", name="task", path="app.task", by_value=False, python="3.11", retries=0, backoff=1.0,
            max_backoff=60.0, jitter=0.0, timeout=None, grace=5.0, crash_retries=2, at_most_once=False,
            retries_timeouts=True, cpus=1, memory=None,
        )  # fmt: skip
        self._spec = TaskSpec(define, b"")
        self._fleet = Fleet(lambda: 0.5)
        self._now = 0.0
        self._numbers = count(1)
        self._held: deque[tuple[int, int]] = deque()
        """(lane, number) in the order of dispatch, which is that of their ends."""
        for lane in range(lanes):
            offer = Offer(f"host-{lane}", f"host-{lane}", SLOTS, frozenset({"default"}), frozenset(), {}, "3.11")
            self._fleet.on_join(lane, offer, self._now)
            self._fleet.on_credit(lane, 2 * SLOTS)
            self._fleet.on_held(lane, [], self._now)
        if busy:
            self._spec.run_time.learn(1.0, 1)
            self._submit(SLOTS * lanes + 1000)
            self._turn()

    def run(self, jobs: int) -> float:
        """Let so many jobs end, with as many new ones coming in; return the seconds of one."""
        started = time.perf_counter()
        for _ in range(jobs // TURN):
            self._now += 0.001
            for lane, number in [self._held.popleft() for _ in range(TURN)]:
                settled = self._fleet.on_outcome(lane, _outcome(number), self._now)
                if len(settled.ended) != 1:
                    raise AssertionError("a job has not ended")
            self._submit(TURN)
            self._turn()
        return (time.perf_counter() - started) / jobs

    def _submit(self, jobs: int) -> None:
        from ztasks.core.fleet import Work

        now, spec, numbers = self._now, self._spec, self._numbers
        works = [Work(1, next(numbers), 1, spec, b"a call", accepted_at=now) for _ in range(jobs)]
        self._fleet.on_submit(works, now)

    def _turn(self) -> None:
        """What the head asks of its books in each turn."""
        fleet, held, now = self._fleet, self._held, self._now
        fleet.expire(now)
        for send in fleet.dispatch(now):
            held.extend((send.lane, work.first) for work in send.works)
        fleet.recallable(now)
        fleet.next_event(now)


def _outcome(number: int) -> Any:
    from ztasks.wire.link import Outcome

    return Outcome(1, number, 1, 1, "each", [1], None, [], [], [], None, None, 1.0, 0, "host", 1, b"r")


def run(contestant: Contestant, settings: Settings) -> Iterator[Sample]:
    """The cost of a job with few and with many lanes, in turn; then the memory."""
    jobs = settings.scaled(30_000)
    simulations = {lanes: Simulation(lanes) for lanes in (FEW, MANY)}
    gc.collect()
    gc.freeze()
    best = dict.fromkeys(simulations, float("inf"))
    for _ in range(ROUNDS):
        for lanes, simulation in simulations.items():
            best[lanes] = min(best[lanes], simulation.run(jobs))
    yield Sample("lanes-few", best[FEW] * 1e6, jobs)
    yield Sample("lanes-many", best[MANY] * 1e6, jobs)
    yield Sample("lanes-ratio", best[MANY] / best[FEW], jobs)
    del simulations
    yield Sample("lanes-memory", _bytes_of(lambda: Simulation(MANY, busy=False)) / MANY, MANY)
    yield Sample("lanes-memory-busy", _bytes_of(lambda: Simulation(MANY)) / MANY, MANY)
    yield Sample("lanes-link", _bytes_of(_links) / MANY, MANY)


def _links() -> list[Any]:
    from ztasks.core.link import Link

    return [Link(number, 1, 0.0) for number in range(MANY)]


def _bytes_of(make: Callable[[], Any]) -> int:
    """What something takes of the allocator."""
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    made = make()
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del made
    return after - before


MEASURE = Measure(
    name="lanes",
    rows=(
        Row(
            "lanes-few",
            "books of the head on one job, from submit to its end: 10 foremen",
            "us",
            higher_is_better=False,
            digits=2,
        ),
        Row("lanes-many", "the same, 10,000 foremen", "us", higher_is_better=False, digits=2),
        Row("lanes-ratio", "10,000 foremen over 10", "x", higher_is_better=False, digits=2, goals=(Goal(1.3),)),
        Row("lanes-memory", "books on a foreman that has nothing", "bytes", higher_is_better=False),
        Row("lanes-memory-busy", "books on one that runs two jobs, these included", "bytes", higher_is_better=False),
        Row("lanes-link", "the link to it, when nothing is under way", "bytes", higher_is_better=False),
    ),
    run=run,
    opens_itself=True,
    hosts=True,
    only=frozenset({"ztasks"}),
)
