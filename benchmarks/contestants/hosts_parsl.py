"""Parsl's HighThroughputExecutor, set for speed."""

import tempfile
from typing import Any

from benchmarks.contestants.parsl_ import Parsl


class ParslHosts(Parsl):
    """As in the measures of one host, but without encryption, with jobs fetched ahead and a poll each millisecond."""

    def open(self) -> None:
        """Start the interchange and the workers, with their logs in a temporary directory."""
        from parsl.concurrent import ParslPoolExecutor

        self._folder = tempfile.mkdtemp(prefix="benchmarks-parsl-")
        self.executor = ParslPoolExecutor(_config(self.workers, self._folder))


def _config(workers: int, folder: str) -> Any:
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    return Config(
        run_dir=folder,
        executors=[
            HighThroughputExecutor(
                label="hosts",
                address="127.0.0.1",
                max_workers_per_node=workers,
                prefetch_capacity=100,
                poll_period=1,
                encrypted=False,
                provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
            )
        ],
        strategy="none",
        initialize_logging=False,
    )
