"""ztasks itself."""

from benchmarks.contestants.base import Chunks, FuturesContestant


class Ztasks(FuturesContestant):
    """`ztasks.Executor`, with nothing tuned: `map` sizes its own batches."""

    key = "ztasks"
    title = "ztasks"
    module = "ztasks.executor"
    distribution = "ztasks"
    chunks = Chunks.NONE
    first_result = """\
from ztasks import Executor
from benchmarks.work import noop
with Executor(max_workers={workers}) as executor:
    print(executor.submit(noop, 1).result(), flush=True)
"""

    def open(self) -> None:
        """Create the executor."""
        from ztasks import Executor

        self.executor = Executor(max_workers=self.workers)
