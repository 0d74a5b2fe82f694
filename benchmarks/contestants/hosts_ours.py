"""ztasks across hosts: a head, a foreman with the workers, and a client, as the README shows them."""

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.contestants.base import Chunks, FuturesContestant, Pace
from benchmarks.programs import Program, free_ports

PORTS = 8
"""Clients, sink, control, and some lanes."""


class ZtasksHosts(FuturesContestant):
    """`ztasks head`, `ztasks worker` and a `Client`, nothing tuned, on loopback TCP with CURVE; no journal."""

    key = "ztasks"
    title = "ztasks"
    module = "ztasks.client"
    distribution = "ztasks"
    chunks = Chunks.NONE
    plain: ClassVar[bool] = False
    """Without keys and encryption."""
    journal: ClassVar[bool] = False
    durable: ClassVar[bool] = True
    """Whether `submit` returns when the head has accepted the job: with a journal, when it is on the disk."""

    def open(self) -> None:
        """Start all of them."""
        self.start()
        self.executor = self.client()

    def start(self, *, worker: bool = True, address: str | None = None, port: int | None = None) -> None:
        """Start the head, and a worker. `address`: what the head shall advertise instead of its own."""
        self._folder = tempfile.TemporaryDirectory(prefix="benchmarks-hosts-", ignore_cleanup_errors=True)
        self.folder, self.port = Path(self._folder.name), port or free_ports(PORTS)
        self._advertise = address
        self.head = self.start_head()
        self.foreman = self.start_foreman() if worker else None

    def start_head(self) -> Program:
        """Start the head, the first time or again."""
        options = ["--listen", f"127.0.0.1:{self.port}", "--lane-ports", f"{self.port + 3}-{self.port + PORTS - 1}"]
        options += ["--join-dir", str(self.folder / "join")]
        options += ["--plain"] if self.plain else []
        options += ["--journal", str(self.folder / "state.db")] if self.journal else []
        options += ["--advertise", self._advertise] if self._advertise else []
        head = Program("head", [*_ZTASKS, "head", *options], self.folder)
        head.wait_for("ready")
        return head

    def start_foreman(self, *, ready: bool = True) -> Program:
        """Start a foreman with all workers."""
        foreman = Program(
            "foreman", [*_ZTASKS, "worker", "--head", self.join("worker"), "-j", str(self.workers)], self.folder
        )
        if ready:
            foreman.wait_for("joined")
        return foreman

    def join(self, role: str) -> str:
        """What a peer of this role joins with."""
        if self.plain:
            return self._advertise or f"127.0.0.1:{self.port}"
        return f"@{self.folder / 'join' / role}.join"

    def client(self, *, durable: bool | None = None) -> Any:
        """A client of its own."""
        from ztasks import Client

        return Client(self.join("client"), durable=self.durable if durable is None else durable)

    def close(self) -> None:
        """Close the client, then stop the foreman and the head."""
        if hasattr(self, "executor"):
            super().close()
        self.stop()

    def stop(self) -> None:
        """Stop the foreman and the head."""
        for program in (self.foreman, self.head):
            if program is not None:
                program.stop()
        with contextlib.suppress(OSError):
            self._folder.cleanup()


class ZtasksPlain(ZtasksHosts):
    """The same without keys and encryption: what the peers are."""

    key = "ztasks-plain"
    title = "ztasks, plain"
    plain = True


class ZtasksJournal(ZtasksHosts):
    """The same with CURVE and a journal: `submit` returns when the job is durable."""

    key = "ztasks-journal"
    title = "ztasks, journal"
    journal = True
    pace = Pace.MIDDLE


class ZtasksUndurable(ZtasksJournal):
    """With a journal, but `submit` does not wait for it."""

    key = "ztasks-undurable"
    title = "ztasks, journal, durable=False"
    durable = False
    pace = Pace.FAST


_ZTASKS = [sys.executable, "-m", "ztasks"]
