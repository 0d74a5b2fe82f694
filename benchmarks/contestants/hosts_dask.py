"""Dask distributed, with its scheduler and its workers in processes of their own."""

import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.contestants.base import Chunks, Contestant, Handle, Pace
from benchmarks.programs import Program, free_ports


class DaskHosts(Contestant):
    """`dask scheduler` and `dask worker`, one thread in each worker process; no dashboard, no nanny, plain TCP."""

    key = "dask"
    title = "Dask distributed"
    module = "distributed"
    distribution = "distributed"
    pace = Pace.SLOW
    chunks = Chunks.NONE

    def open(self) -> None:
        """Start the scheduler, the workers and a client."""
        from distributed import Client

        self._folder = tempfile.TemporaryDirectory(prefix="benchmarks-dask-")
        folder, port = Path(self._folder.name), free_ports(1)
        address = f"tcp://127.0.0.1:{port}"
        dask = [sys.executable, "-m", "dask"]
        self._programs = [
            Program("scheduler", [*dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-show"], folder),
            *(
                Program(f"worker-{number}", [*dask, "worker", address, *_WORKER], folder)
                for number in range(self.workers)
            ),
        ]
        self._client = Client(address)
        self._client.wait_for_workers(self.workers)

    def close(self) -> None:
        """Close the client, then stop the workers and the scheduler."""
        self._client.close()
        for program in reversed(self._programs):
            program.stop()
        self._folder.cleanup()

    def submit(self, fn: Callable[..., Any], arg: Any) -> Handle:
        """Submit one call that may not be answered from the results of an equal one."""
        return self._client.submit(fn, arg, pure=False)

    def collect(self, handles: list[Handle]) -> list[Any]:
        """One result as the future gives it, several gathered at once."""
        results: list[Any] = [handles[0].result()] if len(handles) == 1 else self._client.gather(handles)
        return results

    def map(self, fn: Callable[..., Any], items: Iterable[Any], chunk: int | None) -> list[Any]:
        """`Client.map`: one job per item."""
        return self.collect(self._client.map(fn, list(items), pure=False))


_WORKER = ["--nthreads", "1", "--no-dashboard", "--no-nanny", "--host", "127.0.0.1", "--memory-limit", "0"]
