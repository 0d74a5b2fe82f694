"""What the file of executions says: what each worker is doing just now, and what became of each job in all.

The file may be large (two records for each execution), so it is never held in memory: whoever counts reads it from its
beginning, whoever looks on reads what was added.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Collection, Iterator
from enum import Enum
from time import monotonic_ns
from typing import Final, NamedTuple

from ztasks.chaos.job import BEGUN, FAULT, RAISED, RECORD, RETURNED
from ztasks.chaos.plan import JOB_FAULTS, JobFaultKind, Phase

BLOCK: Final = RECORD.size * 8192
FRESH_NS: Final = 50_000_000
"""How long after its first job began a worker counts as fresh."""


class Record(NamedTuple):
    """One record of the file."""

    kind: int
    number: int
    pid: int
    checksum: int
    serial: int
    at: int
    """CLOCK_MONOTONIC nanoseconds."""


class Fate(Enum):
    """How one execution ended."""

    RETURNED = "returned"
    RAISED = "raised"
    CUT = "cut off"
    """It began, and there is no record of its end: its worker died."""


class Execution:
    """One execution of a job."""

    __slots__ = ("began", "checksum", "ended", "fate", "faults", "number", "pid", "serial")

    def __init__(self, first: Record) -> None:
        self.number = first.number
        self.pid = first.pid
        self.serial = first.serial
        self.began = first.at
        self.ended: int | None = None
        self.fate = Fate.CUT
        self.checksum = 0
        self.faults: list[JobFaultKind] = []

    def add(self, record: Record) -> None:
        """Take in a further record of it."""
        if record.kind == FAULT:
            self.faults.append(JOB_FAULTS[record.checksum])
        elif record.kind in (RETURNED, RAISED):
            self.fate = Fate.RETURNED if record.kind == RETURNED else Fate.RAISED
            self.checksum, self.ended = record.checksum, record.at


class Looker:
    """Follows the file while it grows: what each worker did last."""

    def __init__(self, path: str) -> None:
        self.last: dict[int, Record] = {}
        self.first: dict[int, int] = {}
        """When the first job of each worker began."""
        self._path = path
        self._offset = 0

    def look(self) -> None:
        """Read what was added."""
        for record in read(self._path, self._offset):
            self._offset += RECORD.size
            self.last[record.pid] = record
            self.first.setdefault(record.pid, record.at)

    def phase(self, pid: int) -> Phase:
        """Return what a worker is doing, as far as known: `starting` as long as it has not begun a job."""
        last = self.last.get(pid)
        if last is None:
            return "starting"
        if monotonic_ns() - self.first[pid] < FRESH_NS:
            return "fresh"
        return "returned" if last.kind in (RETURNED, RAISED) else "running"

    def running(self) -> list[Record]:
        """Return the jobs that are being executed, as far as known."""
        return [record for record in self.last.values() if record.kind in (BEGUN, FAULT)]


class Ledger:
    """The executions of all jobs, counted."""

    def __init__(self, path: str, jobs: int) -> None:
        self.path = path
        self.executions = 0
        self.last_of: dict[int, Record] = {}
        """By pid: the last record of that worker."""
        self.begun = array("I", bytes(4 * jobs))
        """By job number: how many of its executions began."""
        self.unusual: set[int] = set()
        """The numbers of jobs whose account is not simply: begun, returned."""
        self.crashes: list[Record] = []
        """Records of jobs that were about to take their worker down."""
        self.foreign = 0
        """Records that cannot be: of jobs that are not in the batch."""
        self._closed = bytearray(jobs)
        self._checksums = array("I", bytes(4 * jobs))
        self._serials = array("Q", bytes(8 * jobs))
        self._count(jobs)

    def _count(self, jobs: int) -> None:
        deadly = {JOB_FAULTS.index("exit"), JOB_FAULTS.index("segfault")}
        begun, closed, unusual = self.begun, self._closed, self.unusual
        for record in read(self.path):
            number = record.number
            self.last_of[record.pid] = record
            if number >= jobs:
                self.foreign += 1
            elif record.kind == BEGUN:
                self.executions += 1
                begun[number] += 1
                if begun[number] > 1:
                    unusual.add(number)
            elif record.kind == RETURNED:
                closed[number] = 1
                self._checksums[number] = record.checksum
                self._serials[number] = record.serial
            else:
                unusual.add(number)
                if record.kind == FAULT and record.checksum in deadly:
                    self.crashes.append(record)
        unusual.update(number for number in range(jobs) if begun[number] != 1 or not closed[number])

    def returned(self, number: int, serial: int, checksum: int) -> bool:
        """Tell whether this is what the one execution of a job that is not unusual has returned."""
        return self._serials[number] == serial and self._checksums[number] == checksum

    def cut_off(self) -> dict[int, Record]:
        """Return by pid the last record of workers that died (or are) in the midst of a job."""
        return {pid: record for pid, record in self.last_of.items() if record.kind in (BEGUN, FAULT)}

    def histories(self, wanted: Collection[int]) -> dict[int, list[Execution]]:
        """Return all executions of some jobs, in the order in which they began."""
        histories: dict[int, list[Execution]] = {number: [] for number in wanted}
        by_serial: dict[tuple[int, int], Execution] = {}
        for record in read(self.path):
            if record.number in histories:
                key = (record.number, record.serial)
                if record.kind == BEGUN:
                    by_serial[key] = Execution(record)
                    histories[record.number].append(by_serial[key])
                elif key in by_serial:
                    by_serial[key].add(record)
        for executions in histories.values():
            executions.sort(key=lambda execution: execution.began)
        return histories


def read(path: str, offset: int = 0) -> Iterator[Record]:
    """Yield the whole records of the file from an offset on."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # no worker has come up yet
        return
    try:
        while block := os.pread(file, BLOCK, offset):
            whole = len(block) - len(block) % RECORD.size
            if not whole:
                return
            yield from map(Record._make, RECORD.iter_unpack(block[:whole]))
            offset += whole
    finally:
        os.close(file)
