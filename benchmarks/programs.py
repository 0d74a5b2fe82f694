"""Programs that stay: heads, schedulers, brokers and workers, as somebody would start them on hosts of their own."""

import os
import random
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

PATIENCE = 60.0
"""Seconds that a program has until it is ready."""


class Program:
    """A program, with all that it writes in the file `log`."""

    def __init__(self, name: str, argv: Sequence[str], folder: Path, env: dict[str, str] | None = None) -> None:
        """Start it, with `env` besides this process's environment."""
        self.name = name
        self.log = folder / f"{name}.log"
        self._read = 0
        if self.log.exists():
            self._read = self.log.stat().st_size
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                argv,
                cwd=folder,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        """What it has written since it was started."""
        with self.log.open("rb") as file:
            file.seek(self._read)
            return file.read().decode(errors="replace")

    def wait_for(self, words: str, count: int = 1, patience: float = PATIENCE) -> None:
        """Wait until it has written this so many times. Raises RuntimeError if it ends or takes too long."""
        deadline = time.monotonic() + patience
        while self.said.count(words) < count:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} has not said {words!r}: {self.said[-500:]}")
            time.sleep(0.002)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for who does not heed it."""
        self.process.terminate()
        try:
            self.process.wait(10.0)
        except subprocess.TimeoutExpired:
            self.kill()


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on, below those that the system gives out itself."""
    for _ in range(1000):
        first = random.randrange(10_000, 30_000 - count)
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    sock = stack.enter_context(socket.socket())
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise RuntimeError(f"no {count} ports in a row are free")
