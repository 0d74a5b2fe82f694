"""The standard library's two pools, with the start method that is the default of the running Python."""

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.contestants.base import Chunks, Contestant, FuturesContestant, Handle


class ProcessPool(FuturesContestant):
    """`concurrent.futures.ProcessPoolExecutor`."""

    key = "process-pool"
    title = "ProcessPoolExecutor"
    can_recover = True
    module = "concurrent.futures"
    first_result = """\
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from benchmarks.work import noop
with ProcessPoolExecutor({workers}, mp_context=get_context("spawn")) as executor:
    print(executor.submit(noop, 1).result(), flush=True)
"""

    def open(self) -> None:
        """Create the executor."""
        from concurrent.futures import ProcessPoolExecutor

        self.executor = ProcessPoolExecutor(self.workers)


class Pool(Contestant):
    """`multiprocessing.Pool`: `apply_async` for single jobs, `map` for many."""

    key = "pool"
    title = "multiprocessing.Pool"
    module = "multiprocessing.pool"
    chunks = Chunks.OPTIONAL
    first_result = """\
from multiprocessing import get_context
from benchmarks.work import noop
with get_context("spawn").Pool({workers}) as pool:
    print(pool.apply_async(noop, (1,)).get(), flush=True)
"""

    def open(self) -> None:
        """Create the pool."""
        import multiprocessing

        self._pool = multiprocessing.Pool(self.workers)

    def close(self) -> None:
        """Terminate: a Pool cannot cancel what is queued."""
        self._pool.terminate()
        self._pool.join()

    def submit(self, fn: Callable[..., Any], arg: Any) -> Handle:
        """Apply asynchronously; the handle is an AsyncResult."""
        return self._pool.apply_async(fn, (arg,))

    def collect(self, handles: list[Handle]) -> list[Any]:
        """Get each result."""
        return [handle.get() for handle in handles]

    def map(self, fn: Callable[..., Any], items: Iterable[Any], chunk: int | None) -> list[Any]:
        """`Pool.map`, which reads all items and cuts them into chunks before it starts."""
        return self._pool.map(fn, items, chunksize=chunk)
