"""Where the jobs of a run are run: by workers of this host, or by those of a head elsewhere."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from ztasks.errors import InvalidOption, ZtasksError
from ztasks.executor import Executor
from ztasks.runs.job import prepare
from ztasks.runs.progress import Activity

if TYPE_CHECKING:
    from ztasks.client import Client
    from ztasks.runs.batch import Work
    from ztasks.stream import Stream
    from ztasks.tasks import Task

JOIN_SECONDS: Final = 10.0
"""How long a head may take to answer at first."""

LOOK_SECONDS: Final = 2.0
"""How often a head is asked for its workers."""

ANSWER_SECONDS: Final = 5.0
"""How long it may take to answer before people are told that it does not."""

NAME_LENGTH: Final = 200
"""The most that a head is told of what this is, for people."""


class Place(Protocol):
    """Workers, here or elsewhere."""

    @property
    def workers(self) -> int:
        """How many there are; of those of a head, the most that there were."""

    def activity(self, unfinished: int) -> Activity:
        """Return what they are doing; `unfinished`: how many jobs of this run have not ended."""

    def close(self) -> None:
        """All jobs have ended, or are not wanted any more."""

    def kill(self) -> None:
        """Stop what runs."""


class Here:
    """Workers of this host, which are there for this run alone."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    @property
    def workers(self) -> int:
        """How many there are."""
        return self._executor.max_workers

    def activity(self, unfinished: int) -> Activity:
        """Return what they are doing."""
        running = self._executor.running()
        return Activity(len(running), self.workers, max((job.seconds for job in running), default=0.0))

    def close(self) -> None:
        """Close the executor."""
        self._executor.shutdown(cancel_futures=True)

    def kill(self) -> None:
        """Kill them."""
        self._executor.kill()


class Elsewhere:
    """The workers of a head. A thread of its own asks it now and then how many they are."""

    def __init__(self, client: Client) -> None:
        """Raises HeadLost if no head answers."""
        self._client = client
        self._status: dict[str, Any] = client.ask("status")
        self._silent = False
        self.workers = self._status["workers"]
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ztasks-fleet", daemon=True)
        self._thread.start()

    def activity(self, unfinished: int) -> Activity:
        """Return what is known of what they are doing: they may have jobs of others as well."""
        workers, hosts = self._status["workers"], self._status["hosts"]
        if self._silent:
            return Activity(unfinished, workers, None, "the head does not answer")
        fleet = f"{workers:,} worker{'s' * (workers != 1)} on {hosts:,} host{'s' * (hosts != 1)}"
        if not workers:
            fleet = "no workers: `ztasks worker` starts some"
        return Activity(min(unfinished, workers), workers, None, fleet)

    def close(self) -> None:
        """Leave the head."""
        self._closed.set()
        self._client.shutdown(cancel_futures=True)
        self._thread.join(ANSWER_SECONDS)

    def kill(self) -> None:
        """Have the jobs stopped, and leave."""
        self._closed.set()
        self._client.kill()

    def _run(self) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            try:
                self._status = self._client.ask_whole("status", {}, ANSWER_SECONDS).value
            except TimeoutError:
                self._silent = True
            except ZtasksError:  # it is lost, or the client is closed: the run learns of it otherwise
                return
            else:
                self._silent = False
                self.workers = max(self.workers, self._status["workers"])


@contextlib.contextmanager
def open_place(
    work: Work, logs: str | None, head: str | None, output: Callable[[bytes], None] | None, how: Mapping[str, Any]
) -> Iterator[tuple[Place, Stream]]:
    """Start workers, or find those of a head; yield the place, and the stream for the jobs. On leaving, all is closed.

    `output` takes what workers of this host write; `how`: options of the executor. Raises InvalidOption,
    WorkersCannotStart, HeadLost.
    """
    task: Task[Any, Any] = work.task(logs, elsewhere=head is not None)
    if head is None:
        executor = Executor(initializer=prepare, initargs=(work.steps, logs is None), output=output, **how)
        with executor:
            yield Here(executor), executor.stream(task)  # a stream also if records are ordered: none holds up another
        return
    check_elsewhere(how, logs)
    from ztasks.client import Client

    # The output is the run's journal: what is done is there, and the rest is done anew. So the head need not keep it.
    how = {"durable": False, "cancel_on_exit": True, "join_timeout": JOIN_SECONDS}
    with Client(head, name=f"a run of {work.name}"[:NAME_LENGTH], **how) as client:
        place = Elsewhere(client)
        try:
            yield place, client.stream(task)
        finally:
            place.close()


def check_elsewhere(how: Mapping[str, Any], logs: str | None) -> None:
    """Refuse what is about workers of this host; raises InvalidOption."""
    given = {"workers" if name == "max_workers" else name for name, value in how.items() if value is not None}
    if logs is not None:
        given.add("logs_dir")
    if given:
        raise InvalidOption(
            f"{', '.join(sorted(given))} is about workers of this host, and with head=, those of the head are used. "
            "Nothing was run. Leave it out; `ztasks worker` has such options on the hosts themselves."
        )
