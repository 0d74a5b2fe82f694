"""The floor: what PUSH and PULL sockets do when nothing is promised, only the work is done.

One PUSH socket deals messages to all workers in turn, one PULL socket takes the answers. There are no
futures, no credit, no watch on the workers, no errors; all high-water marks are off. `pipeline_worker` is the
other end.
"""

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from benchmarks.contestants.base import Contestant, Handle


class Pipeline(Contestant):
    """A hand-written ventilator and sink."""

    key = "pyzmq"
    title = "raw pyzmq"
    module = "zmq"
    distribution = "pyzmq"
    can_queue = False
    first_result = """\
from benchmarks.contestants.pipeline import Pipeline
from benchmarks.work import noop
pipeline = Pipeline({workers})
pipeline.open()
print(*pipeline.collect([pipeline.submit(noop, 1)]), flush=True)
pipeline.close()
"""

    def open(self) -> None:
        """Bind both sockets, start the workers, and wait until each has said that it is there."""
        import zmq

        self._folder = tempfile.TemporaryDirectory(prefix="benchmarks-pipeline-")
        self._context = zmq.Context()
        self._jobs = self._context.socket(zmq.PUSH)
        self._sink = self._context.socket(zmq.PULL)
        addresses = [f"ipc://{self._folder.name}/{name}" for name in ("jobs", "sink")]
        for socket, address in zip((self._jobs, self._sink), addresses, strict=True):
            socket.set_hwm(0)
            socket.bind(address)
        command = [sys.executable, "-m", "benchmarks.pipeline_worker", *addresses]
        self._processes = [subprocess.Popen(command) for _ in range(self.workers)]
        self._next = 0
        self._results: dict[int, list[Any]] = {}
        for _ in self._processes:
            self._sink.recv()

    def close(self) -> None:
        """End the workers, and close the sockets.

        Not by messages: PUSH deals them in turn to whoever is connected yet, so one worker may get two stops.
        """
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait()
        self._context.destroy(linger=0)
        self._folder.cleanup()

    def submit(self, fn: Callable[..., Any], arg: Any) -> Handle:
        """Send a message with one job; the handle is its number."""
        return self._send(fn, [arg])

    def collect(self, handles: list[Handle]) -> list[Any]:
        """Receive until the answers to all of `handles` are in."""
        return [self._receive(handle)[0] for handle in handles]

    def map(self, fn: Callable[..., Any], items: Iterable[Any], chunk: int | None) -> Iterator[Any]:
        """Send messages of `chunk` items, all of them before the first answer is read."""
        iterator = iter(items)
        sent = []
        while batch := list(islice(iterator, chunk or 1)):
            sent.append(self._send(fn, batch))
        for number in sent:
            yield from self._receive(number)

    def _send(self, fn: Callable[..., Any], batch: list[Any]) -> int:
        self._next += 1
        buffers: list[pickle.PickleBuffer] = []
        data = pickle.dumps((self._next, fn, batch), protocol=5, buffer_callback=buffers.append)
        if buffers:
            self._jobs.send_multipart([data, *buffers], copy=False)
        else:
            self._jobs.send(data)
        return self._next

    def _receive(self, number: int) -> list[Any]:
        while number not in self._results:
            key, results = pickle.loads(self._sink.recv())
            self._results[key] = results
        return self._results.pop(number)
