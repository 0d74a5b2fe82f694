"""joblib, and loky, the executor that it stands on."""

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.contestants.base import Chunks, FuturesContestant, Pace


class Loky(FuturesContestant):
    """Single jobs through loky's executor, many through `joblib.Parallel`, which has workers of its own."""

    key = "loky"
    title = "joblib/loky"
    module = "joblib"
    distribution = "joblib"
    pace = Pace.MIDDLE
    chunks = Chunks.OPTIONAL
    first_result = """\
from joblib.externals.loky import get_reusable_executor
from benchmarks.work import noop
executor = get_reusable_executor(max_workers={workers})
print(executor.submit(noop, 1).result(), flush=True)
"""

    def open(self) -> None:
        """Create the executor."""
        from joblib.externals.loky import ProcessPoolExecutor

        self.executor = ProcessPoolExecutor(max_workers=self.workers)

    def map(self, fn: Callable[..., Any], items: Iterable[Any], chunk: int | None) -> list[Any]:
        """`Parallel`, with batches that it sizes by itself or with batches of `chunk` items."""
        from joblib import Parallel, delayed

        parallel = Parallel(n_jobs=self.workers, batch_size="auto" if chunk is None else chunk)
        results: list[Any] = parallel(delayed(fn)(item) for item in items)
        return results
