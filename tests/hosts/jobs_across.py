"""Jobs of the tests across hosts. They tell where they run and as which attempt, and note in a file what they do.

A note is one line, appended at once, so that those of several processes stay whole.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from ztasks import Client, Future, current_job, task

UNTIL = 60.0
"""A job that is held ends after so long all the same: the test has failed by then."""


def place() -> str:
    """Return the name of the foreman whose worker this is."""
    return os.environ["ZT_FLEET"].rpartition("/")[2].rpartition("-")[0]


def attempt() -> int:
    """Return the number of this attempt."""
    job = current_job()
    assert job is not None
    return job.attempt


def note(path: str, *words: Any) -> None:
    """Append a line."""
    line = " ".join(map(str, words)) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def notes(path: Path) -> list[str]:
    """Return the lines that are there, whole ones only."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


def wait_for_note(path: Path, words: str, count: int = 1) -> None:
    """Wait until there are so many lines that begin with these words."""
    from support import wait_for  # not at the top: workers do not find it

    def there() -> bool:
        return sum(line.startswith(words) for line in notes(path)) >= count

    wait_for(there, f"{count} lines {words!r} in {path}, where there is {notes(path)[-20:]}")


UNHEARD = "the head has not been heard of"
"""What a foreman says when its lease is over."""


def wait_for_last(part: Any, words: str, *, behind: str) -> None:
    """Wait until a part has written these words, and has not written the others since."""
    from support import wait_for

    wait_for(lambda: part.text.rfind(words) > part.text.rfind(behind), f"{words!r} behind {behind!r}; {part.told()}")


def wait_lost(head: Any, foreman: Any) -> None:
    """Wait until a head and a foreman have both noticed that they do not hear of each other."""
    wait_for_last(head, f"worker {foreman.name} is gone", behind=f"worker {foreman.name} has joined")
    wait_for_last(foreman, UNHEARD, behind="joined")


# --- jobs ---


def nothing(number: int) -> int:
    return number


@task
def run(path: str, number: int, seconds: float = 0.0) -> tuple[int, int]:
    """Note that it runs; return its number and its attempt."""
    note(path, number)
    if seconds:
        sleep(seconds)
    return number, attempt()


@task(crash_retries=0)  # whoever charges it ends it: PoisonJob
def hold(path: str, number: int, go: str) -> tuple[int, int, str]:
    """Run until there is a file `go`, or one whose name has the place behind that; return number, attempt and place."""
    here = place()
    note(path, "begun", number, here)
    sleep(0.005)  # not so short that a worker would claim several at once
    end = monotonic() + UNTIL
    while not (os.path.exists(go) or os.path.exists(f"{go}-{here}")):
        assert monotonic() < end, f"nobody has let job {number} go on"
        sleep(0.005)
    note(path, "ended", number, here)
    return number, attempt(), here


def hold_with_child(path: str, number: int, go: str) -> tuple[int, int, str]:
    """The same, with a process of its own that would outlive it."""
    nothing = subprocess.DEVNULL
    with subprocess.Popen(["sleep", "600"], stdin=nothing, stdout=nothing, stderr=nothing) as child:
        note(path, "child", number, child.pid)
        try:
            return hold.__wrapped__(path, number, go)
        finally:
            child.kill()


def blob(number: int, size: int) -> tuple[int, int, bytes]:
    """Return many bytes."""
    return number, attempt(), bytes([number % 251]) * size


def echo(number: int, data: bytes) -> tuple[int, int, bytes]:
    """Return what was given."""
    return number, attempt(), data


# --- who submits them ---


@contextlib.contextmanager
def using(client: Client) -> Iterator[Client]:
    """Use a client. If the test fails, all that it has submitted is stopped, and not waited for."""
    try:
        yield client
    except BaseException:
        client.kill()
        raise
    client.shutdown()


class Pressure:
    """Threads that submit jobs and map items while heads come and go."""

    def __init__(self, client: Client, notes: Path) -> None:
        self.results = 0
        """How many have come so far."""
        self.count = 0
        """How many jobs were submitted, or items mapped."""
        self._client, self._notes = client, str(notes)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._troubles: list[BaseException] = []
        self._threads = [threading.Thread(target=self._keep, args=[each]) for each in (self._submit, self._map)]

    def _next(self, count: int) -> range:
        with self._lock:
            self.count += count
            return range(self.count - count, self.count)

    def _keep(self, work: Any) -> None:
        try:
            while not self._stopped.is_set():
                work()
        except BaseException as error:
            self._troubles.append(error)

    def _submit(self) -> None:
        futures: list[tuple[int, Future[Any]]] = []
        for number in self._next(20):
            futures.append((number, self._client.submit(run, self._notes, number, 0.001)))
        for number, future in futures:
            assert future.result(UNTIL) == (number, 1)
            self.results += 1

    def _map(self) -> None:
        numbers = self._next(200)
        for number, result in zip(numbers, self._client.map(run, [self._notes] * 200, numbers), strict=True):
            assert result == (number, 1)
            self.results += 1

    def wait_for_more(self) -> None:
        """Wait for further results; fail if a thread has failed."""
        from support import wait_for

        before = self.results

        def more() -> bool:
            if self._troubles:
                raise self._troubles[0]
            return self.results > before

        wait_for(more, f"more than {before} results")

    def __enter__(self) -> Pressure:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stopped.set()
        if kind is not None:
            self._client.kill()  # else it would be waited for
        for thread in self._threads:
            thread.join()
        if kind is None and self._troubles:
            raise self._troubles[0]
