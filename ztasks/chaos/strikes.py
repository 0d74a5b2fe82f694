"""Carries out the strikes of a plan: kills and freezes worker processes, in a thread of its own, and notes what it did.

Two rules beside the plan. Of workers that have not begun a job yet, at most two in a row are killed: after three the
executor takes it that none can start. And after a time (`calm_after`) nothing strikes any more, so that a batch that
does not come to its end then hangs for another reason than the faults.
"""

from __future__ import annotations

import heapq
import signal
import threading
from collections.abc import Iterator
from itertools import count
from time import monotonic, monotonic_ns, sleep
from typing import Final, NamedTuple

from ztasks.chaos.ledger import Looker
from ztasks.chaos.plan import Phase, Plan, Strike, StrikeKind
from ztasks.chaos.workers import send, workers

AIM_SECONDS: Final = 0.100
"""How long to wait for a worker that is in the phase that is wanted; then any other that has come up will do."""

PATIENCE_SECONDS: Final = 0.500
"""How long to wait for one at all. Strikes that fall due meanwhile are let go: they would all meet the first worker
that comes up, and so every one of them at its birth."""

AIM_STEP: Final = 0.001
AIM_STEPS: Final = 20
"""After so many steps the list of processes is read anew: that costs a millisecond itself."""

MAX_STARTING_KILLS: Final = 2
"""How many workers may be killed before their first job, until one that was started later has come up."""


class Hit(NamedTuple):
    """A strike that was carried out."""

    kind: StrikeKind
    pid: int
    at: int
    """CLOCK_MONOTONIC nanoseconds."""
    phase: Phase
    """What the worker was doing, as far as known."""
    pause: float
    closing: bool


class Striker:
    """Strikes until it is stopped. `start()` it; `close()` when the executor is about to be closed; then `stop()`."""

    def __init__(self, plan: Plan, path: str, calm_after: float) -> None:
        """`path`: the file of executions; `calm_after`: in so many seconds from the start the last strike may come."""
        self.hits: list[Hit] = []
        self.missed = 0
        """Strikes for which there was no worker, or which came too late."""
        self._plan = plan
        self._looker = Looker(path)
        self._calm_after = calm_after
        self._began = 0.0
        self._strikes: Iterator[Strike] = plan.strikes()
        self._closing: float | None = None
        self._frozen: list[tuple[float, int]] = []
        """A heap: when to thaw which worker."""
        self._seen: dict[int, float] = {}
        """A time before each worker's start: when the list of processes that it was not in yet was about to be read."""
        self._listed = 0.0
        self._up: set[int] = set()
        """The workers that have begun a job."""
        self._killed: set[int] = set()
        """The workers that have been killed and may not be gone yet: nobody is killed twice."""
        self._starting_kills: list[float] = []
        """When workers were killed that had not begun a job."""
        self._word = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="ztasks-chaos-striker", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._began = monotonic()
        self._thread.start()

    def close(self) -> None:
        """The executor is about to be closed: from now on the strikes of the closing are due, and no others."""
        self._closing = monotonic()
        self._word.set()

    def stop(self) -> None:
        """Strike no more, thaw what is frozen, and end."""
        self._stopped = True
        self._word.set()
        if self._thread.ident is not None:
            self._thread.join()

    # --- the thread ---

    def _run(self) -> None:
        closing = False
        began, strikes = self._began, self._strikes
        due = self._next(strikes, began)
        while not self._stopped:
            if self._closing is not None and not closing:
                closing, began = True, self._closing
                strikes = iter(sorted(self._plan.closing))
                due = self._next(strikes, began)
            self._thaw()
            late = -1.0 if due is None else monotonic() - began - due.at
            if due is not None and late >= 0:
                if late < AIM_SECONDS:
                    self._carry_out(due, closing)
                else:
                    self.missed += 1
                due = self._next(strikes, began)
                continue
            times = [self._frozen[0][0]] if self._frozen else []
            times += [began + due.at] if due is not None else []
            self._word.wait(max(0.0, min(times) - monotonic()) if times else None)
            self._word.clear()
        self._thaw(everybody=True)

    def _next(self, strikes: Iterator[Strike], began: float) -> Strike | None:
        """Return the next strike, or None if there is none before it shall be calm."""
        strike = next(strikes, None)
        return strike if strike is not None and began + strike.at < self._began + self._calm_after else None

    def _carry_out(self, strike: Strike, closing: bool) -> None:
        found = self._aim(strike, closing)
        if found is None:
            self.missed += 1
            return
        pid, phase = found
        if not send(pid, signal.SIGKILL if strike.kind == "kill" else signal.SIGSTOP):
            self.missed += 1
            return
        if strike.kind == "kill":
            self._killed.add(pid)
        if strike.kind == "freeze":
            heapq.heappush(self._frozen, (monotonic() + strike.pause, pid))
        elif phase == "starting":
            self._starting_kills.append(monotonic())
        self.hits.append(Hit(strike.kind, pid, monotonic_ns(), phase, strike.pause, closing))

    def _aim(self, strike: Strike, closing: bool) -> tuple[int, Phase] | None:
        """Find a worker in the phase that is wanted, or after a while another that has come up."""
        began, pids = monotonic(), self._list()
        for step in count(1):
            if step % AIM_STEPS == 0:
                pids = self._list()
            phases = self._phases(pids)
            if strike.kind == "kill" and len(self._starting_kills) >= MAX_STARTING_KILLS:
                phases = {pid: phase for pid, phase in phases.items() if phase != "starting"}
            waited = monotonic() - began
            wanted = [pid for pid, phase in phases.items() if strike.phase in (phase, "any")]
            if not wanted and waited >= AIM_SECONDS:
                wanted = [pid for pid, phase in phases.items() if phase != "starting"]
            if wanted:
                pid = wanted[int(strike.pick * len(wanted))]
                return pid, phases[pid]
            if waited >= PATIENCE_SECONDS or self._stopped or (self._closing is not None and not closing):
                break
            sleep(AIM_STEP)
            self._thaw()
        return None

    def _list(self) -> list[int]:
        """Return the workers there are, but for those that have been killed."""
        before, self._listed = self._listed, monotonic()
        pids = workers()
        self._killed.intersection_update(pids)
        pids = [pid for pid in pids if pid not in self._killed]
        for pid in pids:
            self._seen.setdefault(pid, before)
        return pids

    def _phases(self, pids: list[int]) -> dict[int, Phase]:
        """Return what each worker is doing."""
        looker = self._looker
        looker.look()
        for pid in looker.first.keys() - self._up:  # it may have been ready for a while: what came since still counts
            self._up.add(pid)
            since = self._seen.get(pid, 0.0)
            self._starting_kills = [at for at in self._starting_kills if at > since]
        return {pid: looker.phase(pid) for pid in pids}

    def _thaw(self, *, everybody: bool = False) -> None:
        now = monotonic()
        while self._frozen and (everybody or self._frozen[0][0] <= now):
            _, pid = heapq.heappop(self._frozen)
            if all(pid != other for _, other in self._frozen):  # else it was frozen again meanwhile
                send(pid, signal.SIGCONT)
