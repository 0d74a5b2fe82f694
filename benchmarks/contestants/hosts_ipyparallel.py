"""ipyparallel: a controller, and an engine for each worker."""

import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.contestants.base import Chunks, Contestant, Handle, Pace
from benchmarks.programs import Program


class IPyParallel(Contestant):
    """A load-balanced view: least load, no bound on what an engine is given ahead, no database of results.

    The scheduler in C (`pure`) is a little quicker, but gives up when an engine is missed.
    """

    key = "ipyparallel"
    title = "ipyparallel"
    module = "ipyparallel"
    distribution = "ipyparallel"
    pace = Pace.SLOW
    chunks = Chunks.REQUIRED

    def open(self) -> None:
        """Start the controller, the engines and a client."""
        import ipyparallel

        self._folder = tempfile.TemporaryDirectory(prefix="benchmarks-ipyparallel-")
        folder = Path(self._folder.name)
        env = {"IPYTHONDIR": self._folder.name}
        controller = Program("controller", [sys.executable, "-m", "ipyparallel.controller", *_CONTROLLER], folder, env)
        security = folder / "profile_default" / "security"
        controller.wait_for("ipcontroller-engine.json")
        engine = [sys.executable, "-m", "ipyparallel.engine", f"--file={security / 'ipcontroller-engine.json'}"]
        self._programs = [
            controller,
            *(Program(f"engine-{number}", engine, folder, env) for number in range(self.workers)),
        ]
        self._client = ipyparallel.Client(str(security / "ipcontroller-client.json"))
        self._client.wait_for_engines(self.workers, timeout=60)
        self._view = self._client.load_balanced_view()

    def close(self) -> None:
        """Close the client, then stop the engines and the controller."""
        self._client.close()
        for program in reversed(self._programs):
            program.stop()
        self._folder.cleanup()

    def submit(self, fn: Callable[..., Any], arg: Any) -> Handle:
        """Apply asynchronously; the handle is an AsyncResult."""
        return self._view.apply_async(fn, arg)

    def collect(self, handles: list[Handle]) -> list[Any]:
        """Get each result."""
        return [handle.get() for handle in handles]

    def map(self, fn: Callable[..., Any], items: Iterable[Any], chunk: int | None) -> Iterable[Any]:
        """The view's `map`, one job per item or per chunk."""
        results: Iterable[Any] = self._view.map_async(fn, list(items), chunksize=chunk or 1)
        return results


_CONTROLLER = [
    "--ip=127.0.0.1",
    "--IPController.db_class=ipyparallel.controller.dictdb.NoDB",
    "--TaskScheduler.scheme_name=leastload",
    "--TaskScheduler.hwm=0",
]
