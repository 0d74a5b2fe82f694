"""ztasks itself."""

import contextlib

from benchmarks import work
from benchmarks.contestants.base import Chunks, FuturesContestant


class Ztasks(FuturesContestant):
    """`ztasks.Executor`, with nothing tuned: `map` sizes its own batches."""

    key = "ztasks"
    title = "ztasks"
    module = "ztasks.executor"
    distribution = "ztasks"
    chunks = Chunks.NONE
    can_recover = True
    first_result = """\
from ztasks import Executor
from benchmarks.work import noop
with Executor(max_workers={workers}) as executor:
    print(executor.submit(noop, 1).result(), flush=True)
"""

    def lose_worker(self) -> None:
        """Run a job that kills its worker, once: by default it would be tried three times."""
        from ztasks import WorkerLost, options

        with contextlib.suppress(WorkerLost):
            self.executor.submit(options(work.die, crash_retries=0), 1).result()

    def open(self) -> None:
        """Create the executor."""
        from ztasks import Executor

        self.executor = Executor(max_workers=self.workers)
