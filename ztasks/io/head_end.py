"""The end of a head that is a service: what is waited for, and what peers are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ztasks.core.roster import Roster
from ztasks.io.books import Books
from ztasks.io.client_desk import ClientDesk
from ztasks.io.peers import Peer
from ztasks.wire.link import Alive, Wanted

FAREWELL_SECONDS: Final = 2.0
"""How long peers may take to acknowledge the last that they are told."""

REMIND_SECONDS: Final = 10.0
"""How often it is said what is still waited for."""

_PLANS: Final[dict[Wanted, str]] = {
    "run": "no new work is given out; what runs is waited for",
    "stop": "workers finish what runs, and leave",
    "drain": "all that is queued is finished first; then workers leave",
}


class HeadEnd:
    """Brings the end about, once it is `wanted`."""

    def __init__(
        self, books: Books, roster: Roster, clients: ClientDesk, drain_seconds: float, log: Callable[..., None]
    ) -> None:
        """`drain_seconds`: how long what runs is waited for, if workers are to go on with the next head."""
        self.wanted: Wanted | None = None
        """`run`: workers wait for the next head; `stop`: they finish what runs, and leave; `drain`: all that is queued
        is finished first, then they leave. None: there is no end in sight."""
        self._books = books
        self._roster = roster
        self._clients = clients
        self._drain_seconds = drain_seconds
        self._log = log
        self._since: float | None = None
        self._remind_at = 0.0
        self._leave_at: float | None = None

    def reached(self, now: float, say: Callable[[Peer, Alive], None]) -> bool:
        """Do what is to be done before the end; tell whether it is there. `say` tells a foreman on control."""
        wanted = self.wanted or "run"
        if self._since is None:
            self._since, self._remind_at = now, now + REMIND_SECONDS
            self._clients.closing = "the head is stopping"
            self._roster.stopping = True
            self._log("stopping", f"stopping: {_PLANS[wanted]}")
        if wanted == "stop":
            self._tell_foremen("stop", say)
        fleet = self._books.fleet
        done = not fleet.pending if wanted == "drain" else not fleet.running
        if not done and (wanted != "run" or now - self._since < self._drain_seconds):
            self._remind(wanted, now)
            return False
        if self._leave_at is None:
            self._leave_at = now + FAREWELL_SECONDS
        if wanted != "run" or not self._books.ledger.is_kept:
            self._tell_foremen("stop", say)  # also those who have joined anew just now
        quiet = all(peer.link.idle for peer in self._books.peers.values())
        foremen = any(peer.is_foreman for peer in self._books.peers.values())
        return now >= self._leave_at or (quiet and (wanted == "run" or not foremen))

    def _remind(self, wanted: Wanted, now: float) -> None:
        """Say now and then what is waited for: without limit, where all that is queued shall be finished."""
        if now < self._remind_at:
            return
        self._remind_at = now + REMIND_SECONDS
        fleet = self._books.fleet
        left = f"{fleet.running:,} jobs that run"
        if wanted == "drain":
            left += f", {fleet.pending - fleet.running:,} that wait"
            if stuck := fleet.stuck_items():
                left += (
                    f"; {stuck:,} of these no worker here can take: cancel them (ztasks why JOB says why), or leave "
                    "them to the journal with ztasks stop"
                )
        self._log("stopping", f"stopping: waits for {left}")

    def _tell_foremen(self, wanted: Wanted, say: Callable[[Peer, Alive], None]) -> None:
        for peer in self._books.peers.values():
            if peer.is_foreman and peer.link.wanted != wanted:
                peer.link.wanted = wanted
                say(peer, peer.link.sign())
