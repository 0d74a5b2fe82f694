"""Routing: what jobs ask of a host, what a host offers, and whether the one can ever meet the other.

A job waits in a queue, may insist on tags, and may take of what its host counts: cpus, memory, gpu, or anything else. A
job of one cpu takes what every worker has, so it is not counted, and nobody looks for room for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from ztasks.errors import WireError
from ztasks.units import cut
from ztasks.wire.link import Define
from ztasks.wire.link_codec import check_names

CPUS: Final = "cpus"
MEMORY: Final = "memory"

ALONE: Final = ""
"""Counts the jobs that must not run twice as if they were a resource, so that none waits behind another: a host has as
many as it has slots. No real resource can have this name."""

SHOWN: Final = 5
"""How many workers a message names."""

MAX_PRIORITY: Final = 2**31 - 1


class Offer(NamedTuple):
    """What the workers of one host do: said when their foreman joins."""

    name: str
    host: str
    slots: int
    """How many workers there are."""
    queues: frozenset[str]
    tags: frozenset[str]
    resources: dict[str, int]
    """What all jobs on it together may take; as many cpus as slots, unless it says otherwise."""
    python: str
    """Such as `3.11`."""

    def amounts(self) -> dict[str, int]:
        """Return all that is counted."""
        return {CPUS: self.slots, **self.resources, ALONE: self.slots}


class Demand(NamedTuple):
    """What the jobs of a task ask of a host, and when it is their turn."""

    queue: str = "default"
    tags: frozenset[str] = frozenset()
    resources: tuple[tuple[str, int], ...] = ()
    """What each job takes of each resource, sorted; cpus only if it takes more than one."""
    priority: int = 0
    expires: float | None = None
    python: str | None = None
    """The only Python that can load it; None: any."""
    alone: bool = False
    """Whether it must not run twice."""

    def route(self) -> Demand:
        """Return the same, but for what says nothing of the hosts: when it is their turn."""
        return self._replace(priority=0, expires=None)

    def takes(self) -> tuple[tuple[str, int], ...]:
        """Return all that is counted of each job, if anything."""
        return (*self.resources, (ALONE, 1)) if self.alone else self.resources


def demand_of(define: Define) -> Demand:
    """Return what a task's jobs ask for; raises WireError for what cannot be."""
    check_names((define.queue,), "a queue")
    check_names(define.tags, "tags")
    check_names(define.resources, "resources")
    amounts = dict(define.resources)
    if not amounts.keys().isdisjoint((CPUS, MEMORY)):
        raise WireError("a task names cpus or memory among its resources; they are options of their own")
    if define.cpus < 1 or (define.memory or 0) < 0 or min(amounts.values(), default=0) < 0:
        raise WireError("a task takes less than nothing of a resource, or no cpu")
    if abs(define.priority) > MAX_PRIORITY or not (define.expires is None or define.expires >= 0):
        raise WireError(f"a task has priority {define.priority} and expires after {define.expires} s")
    if define.cpus > 1:
        amounts[CPUS] = define.cpus
    if define.memory:
        amounts[MEMORY] = define.memory
    return Demand(
        define.queue,
        frozenset(define.tags),
        tuple(sorted((name, amount) for name, amount in amounts.items() if amount)),
        define.priority,
        define.expires,
        define.python if define.by_value else None,
        define.at_most_once,
    )


def admits(queues: frozenset[str], tags: frozenset[str], python: str, demand: Demand) -> bool:
    """Tell whether such workers take such jobs, if they have room."""
    return demand.queue in queues and demand.tags <= tags and demand.python in (None, python)


def why_never(demand: Demand, offers: Sequence[Offer]) -> str | None:
    """Say why none of these workers can ever take such a job; None if one can."""
    if not offers:
        return "no worker has joined"
    able = [offer for offer in offers if demand.queue in offer.queues]
    if not able:
        served = _several(f"{offer.name} ({','.join(sorted(offer.queues))})" for offer in offers)
        return f"no worker serves queue {demand.queue!r}; workers: {served}"
    among, able = able, [offer for offer in able if demand.tags <= offer.tags]
    if not able:
        have = _several(f"{offer.name} ({','.join(sorted(offer.tags)) or 'none'})" for offer in among)
        return f"no worker of queue {demand.queue!r} has all of the tags {','.join(sorted(demand.tags))}; tags: {have}"
    among, able = able, [offer for offer in able if demand.python in (None, offer.python)]
    if not able:
        pythons = ", ".join(sorted({offer.python for offer in among}))
        return f"by-value code of Python {demand.python}, which no other can load; workers have {pythons}"
    return _why_no_room(demand, able)


def _why_no_room(demand: Demand, offers: list[Offer]) -> str | None:
    """Say which resource none of these workers has enough of; None if one has enough of all."""
    takes = demand.takes()
    have = [offer.amounts() for offer in offers]
    if any(all(amounts.get(name, 0) >= amount for name, amount in takes) for amounts in have):
        return None
    for name, amount in takes:
        most = max(amounts.get(name, 0) for amounts in have)
        if most < amount:
            offered = f"the largest worker offers {shown_amount(name, most)}" if most else "no worker offers any"
            return f"needs {shown_takes([(name, amount)])}, {offered}"
    return f"needs {shown_takes(takes)}, and no single worker offers all of that"


def shown_takes(takes: Iterable[tuple[str, int]]) -> str:
    """Return amounts of resources as text, such as `gpu 1, memory 4 GiB`."""
    return ", ".join(f"{name or 'an idle worker:'} {shown_amount(name, amount)}" for name, amount in takes)


def shown_amount(name: str, amount: int) -> str:
    """Return an amount of one resource as text."""
    if name != MEMORY:
        return str(amount)
    if amount >= 2**30:
        return f"{amount / 2**30:.4g} GiB"
    return f"{amount / 2**20:.4g} MiB"


def _several(texts: Iterable[str]) -> str:
    """Return the first of some texts, and how many more there are."""
    all_ = list(texts)
    more = f", and {len(all_) - SHOWN} more" if len(all_) > SHOWN else ""
    return ", ".join(cut(text, 80) for text in all_[:SHOWN]) + more
