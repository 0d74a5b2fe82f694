"""Dask distributed on one machine."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.contestants.base import Chunks, Contestant, Handle, Pace


class Dask(Contestant):
    """A `LocalCluster` of processes with one thread each; the scheduler lives in the caller's process."""

    key = "dask"
    title = "Dask distributed"
    module = "distributed"
    distribution = "distributed"
    pace = Pace.SLOW
    chunks = Chunks.NONE
    first_result = """\
from distributed import Client, LocalCluster
from benchmarks.work import noop
if __name__ == "__main__":
    with LocalCluster(n_workers={workers}, threads_per_worker=1, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            print(client.submit(noop, 1, pure=False).result(), flush=True)
"""

    def open(self) -> None:
        """Start the cluster, without its dashboard, and a client."""
        from distributed import Client, LocalCluster

        self._cluster = LocalCluster(
            n_workers=self.workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=logging.ERROR,
        )
        self._client = Client(self._cluster)

    def close(self) -> None:
        """Close the client, then the cluster."""
        self._client.close()
        self._cluster.close()

    def submit(self, fn: Callable[..., Any], arg: Any) -> Handle:
        """Submit one call that may not be answered from the results of an equal one."""
        return self._client.submit(fn, arg, pure=False)

    def collect(self, handles: list[Handle]) -> list[Any]:
        """Gather all results at once."""
        results: list[Any] = self._client.gather(handles)
        return results

    def map(self, fn: Callable[..., Any], items: Iterable[Any], chunk: int | None) -> list[Any]:
        """`Client.map`: one job per item."""
        return self.collect(self._client.map(fn, list(items), pure=False))

    def discard(self, handles: list[Handle]) -> None:
        """Cancel all at once."""
        self._client.cancel(handles)
