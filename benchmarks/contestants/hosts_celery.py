"""Celery with Redis: a Redis server, and a worker with a pool of processes."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.contestants.base import Chunks, Contestant, Handle, Pace
from benchmarks.programs import Program, free_ports


class CeleryRedis(Contestant):
    """Prefork, acknowledged when received (Celery's default), jobs fetched ahead, no events, no gossip.

    Redis keeps its snapshots off, so nothing is durable. `map` has `chunks`, Celery's own way to send several items
    at once.
    """

    key = "celery"
    title = "Celery with Redis"
    module = "celery"
    distribution = "celery"
    pace = Pace.SLOW
    chunks = Chunks.REQUIRED

    @classmethod
    def absence(cls) -> str:
        """It needs a server and two packages."""
        if shutil.which("redis-server") is None:
            return "apt-get install redis-server"
        return super().absence()

    def open(self) -> None:
        """Start the server and the worker."""
        self._folder = tempfile.TemporaryDirectory(prefix="benchmarks-celery-")
        folder, port = Path(self._folder.name), free_ports(1)
        os.environ["BENCHMARKS_REDIS"] = f"redis://127.0.0.1:{port}/0"
        server = Program("redis", ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""], folder)
        server.wait_for("eady to accept connections")
        celery = [sys.executable, "-m", "celery", "-A", "benchmarks.celery_app", "worker"]
        self._programs = [server, Program("worker", [*celery, *_WORKER, "-c", str(self.workers)], folder)]

        from benchmarks import celery_app

        self._tasks = celery_app.TASKS
        self._app = celery_app.app

    def close(self) -> None:
        """Stop the worker, then the server."""
        for program in reversed(self._programs):
            program.stop()
        self._folder.cleanup()

    def submit(self, fn: Callable[..., Any], arg: Any) -> Handle:
        """Apply asynchronously; the handle is an AsyncResult."""
        return self._tasks[fn].apply_async((arg,))

    def collect(self, handles: list[Handle]) -> list[Any]:
        """One result as it is, several through a set that asks Redis for many at once."""
        from celery.result import ResultSet

        if len(handles) == 1:
            return [handles[0].get()]
        results: list[Any] = ResultSet(handles).join_native()
        return results

    def map(self, fn: Callable[..., Any], items: Iterable[Any], chunk: int | None) -> Iterable[Any]:
        """One job per item, or `chunks`."""
        if chunk is None:
            return self.collect([self.submit(fn, item) for item in items])
        group = self._tasks[fn].chunks(((item,) for item in items), chunk).group()
        return [result for part in group.apply_async().join_native() for result in part]


_WORKER = ["--pool", "prefork", "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
