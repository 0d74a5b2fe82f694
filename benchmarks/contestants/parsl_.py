"""Parsl with its HighThroughputExecutor (HTEX) on one machine."""

import shutil
import tempfile
from typing import Any

from benchmarks.contestants.base import Chunks, FuturesContestant, Handle, Pace


class Parsl(FuturesContestant):
    """One block with one worker process per CPU asked for; every call is an app, one job per item."""

    key = "parsl"
    title = "Parsl HTEX"
    module = "parsl"
    distribution = "parsl"
    pace = Pace.SLOW
    chunks = Chunks.NONE
    first_result = """\
import tempfile
from parsl.concurrent import ParslPoolExecutor
from benchmarks.contestants.parsl_ import config
from benchmarks.work import noop
with tempfile.TemporaryDirectory() as folder, ParslPoolExecutor(config({workers}, folder)) as executor:
    print(executor.submit(noop, 1).result(), flush=True)
"""

    def open(self) -> None:
        """Start the interchange and the workers, with their logs in a temporary directory."""
        from parsl.concurrent import ParslPoolExecutor

        self._folder = tempfile.mkdtemp(prefix="benchmarks-parsl-")
        self.executor = ParslPoolExecutor(config(self.workers, self._folder))

    def close(self) -> None:
        """Stop Parsl, and remove its logs."""
        self.executor.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)

    def discard(self, handles: list[Handle]) -> None:
        """Parsl cannot cancel: the jobs are left to run."""


def config(workers: int, folder: str) -> Any:
    """A Parsl configuration for `workers` processes on this machine, which writes below `folder`."""
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    return Config(
        run_dir=folder,
        executors=[
            HighThroughputExecutor(
                label="local",
                address="127.0.0.1",
                max_workers_per_node=workers,
                provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
            )
        ],
        strategy="none",
        initialize_logging=False,
    )
