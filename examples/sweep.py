"""A parameter sweep: how long do customers wait, in one queue for four counters or in a queue for each?

    $ ztasks run examples/sweep.py:simulate --from examples/sweep.py:cases --set customers=4000 -o sweep.jsonl
    ztasks: 36 jobs: 36 ok
    ...
    $ python examples/sweep.py sweep.jsonl
    load  queue   waited  expected
     0.5  each     1.039     1.000
     0.5  shared   0.080     0.087
     0.7  each     2.430     2.333
     0.7  shared   0.330     0.357
     0.9  each     9.307     9.000
     0.9  shared   1.686     1.969

`cases` yields the keyword arguments of each job, here with an Enum; what --set gives is an argument of every call, and
becomes an int because the annotation says so. Each case has a seed of its own, so the results are the same on any
number of workers. Add seeds, and --resume runs only the cases that are new; with other customers it runs them all.
"""

import random
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import product
from math import factorial
from statistics import fmean
from typing import Any

from ztasks import read_records


class Queue(Enum):
    EACH = "each"
    SHARED = "shared"


LOADS = (0.5, 0.7, 0.9)
COUNTERS = 4
SEEDS = range(6)


@dataclass
class Waiting:
    """How long customers waited; the unit is the mean time that one of them takes at a counter."""

    mean: float
    longest: float
    share: float
    """Of those who had to wait at all."""


def cases() -> Iterator[dict[str, Any]]:
    """Yield the arguments of each job."""
    for load, queue, seed in product(LOADS, Queue, SEEDS):
        yield {"load": load, "queue": queue, "seed": seed}


def simulate(load: float, queue: Queue, seed: int, customers: int = 1000) -> Waiting:
    """Let customers arrive at random at counters that are busy for a share `load` of the time."""
    if not 0 < load < 1:
        raise ValueError(f"with a load of {load}, the queue grows for ever")
    rng = random.Random(seed)
    free_at = [0.0] * COUNTERS
    now, waits = 0.0, []
    for _ in range(customers):
        now += rng.expovariate(load * COUNTERS)
        counter = free_at.index(min(free_at)) if queue is Queue.SHARED else rng.randrange(COUNTERS)
        begins = max(now, free_at[counter])
        free_at[counter] = begins + rng.expovariate(1)
        waits.append(begins - now)
    return Waiting(fmean(waits), max(waits), fmean(wait > 0 for wait in waits))


def expected(load: float, counters: int) -> float:
    """Return the mean wait in one queue for all counters, in the long run (Erlang's C formula, 1917)."""
    offered = load * counters
    full = offered**counters / factorial(counters) / (1 - load)
    waits = full / (sum(offered**n / factorial(n) for n in range(counters)) + full)
    return waits / (counters * (1 - load))


def report(path: str) -> None:
    """Print the mean over the seeds beside what theory says."""
    means = defaultdict(list)
    for record in read_records(path):
        if record.ok:
            means[record.input["load"], record.input["queue"]].append(record.result["mean"])
    print("load  queue   waited  expected")
    for (load, queue), found in sorted(means.items()):
        theory = expected(load, COUNTERS if queue == "shared" else 1)
        print(f"{load:4}  {queue:6}  {fmean(found):6.3f}  {theory:8.3f}")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        report(argument)
    if not sys.argv[1:]:
        print(__doc__)
