"""Ray on one machine."""

import os
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.contestants.base import Chunks, Contestant, Handle, Pace


class Ray(Contestant):
    """Remote functions, one job per item; a local Ray is started with as many CPUs as there are workers."""

    key = "ray"
    title = "Ray"
    module = "ray"
    distribution = "ray"
    pace = Pace.SLOW
    chunks = Chunks.NONE
    first_result = """\
import os
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
from benchmarks.work import noop
ray.init(num_cpus={workers}, include_dashboard=False, log_to_driver=False, logging_level="error")
print(ray.get(ray.remote(noop).remote(1)), flush=True)
ray.shutdown()
"""

    def open(self) -> None:
        """Start a local Ray."""
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        import ray

        ray.init(num_cpus=self.workers, include_dashboard=False, log_to_driver=False, logging_level="error")
        self._ray = ray
        self._remotes: dict[Callable[..., Any], Any] = {}

    def close(self) -> None:
        """Stop the local Ray."""
        self._ray.shutdown()

    def submit(self, fn: Callable[..., Any], arg: Any) -> Handle:
        """Call the remote function, which is made once per function."""
        remote = self._remotes.get(fn)
        if remote is None:
            remote = self._remotes[fn] = self._ray.remote(fn)
        return remote.remote(arg)

    def collect(self, handles: list[Handle]) -> list[Any]:
        """Get all results at once."""
        results: list[Any] = self._ray.get(handles)
        return results

    def map(self, fn: Callable[..., Any], items: Iterable[Any], chunk: int | None) -> list[Any]:
        """One remote call per item."""
        return self.collect([self.submit(fn, item) for item in items])
