"""The deadline: whatever hangs, the run ends, says which jobs have not ended, and what everybody was doing.

Its thread does not need the main thread, which may wait for ever for a job or for the closing. Should even that thread
not get its turn, a timer without need of the interpreter ends the process a little later.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final

from ztasks.chaos.ledger import Looker
from ztasks.chaos.workers import send, state, workers

if TYPE_CHECKING:
    from ztasks.chaos.batch import Passage

LAST_RESORT_SECONDS: Final = 20.0
STACK_SECONDS: Final = 1.0
"""How long workers may take to write down their stacks."""

SHOWN: Final = 20


class Watchdog:
    """Calls `on_deadline` when the time is up, and then ends the process with exit code 1. Use it in a `with`."""

    def __init__(self, seconds: float, on_deadline: Callable[[], None], place: str) -> None:
        """`place`: a directory that is to be removed at the end."""
        self.end = monotonic() + seconds
        self._seconds = seconds
        self._on_deadline = on_deadline
        self._place = place
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ztasks-chaos-watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        faulthandler.dump_traceback_later(self._seconds + LAST_RESORT_SECONDS, exit=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _run(self) -> None:
        if self._over.wait(max(0.0, self.end - monotonic())):
            return
        try:
            self._on_deadline()
        finally:
            for pid in workers():
                with contextlib.suppress(OSError):
                    os.killpg(pid, signal.SIGKILL)
            shutil.rmtree(self._place, ignore_errors=True)
            os._exit(1)


def dump_state(passage: Passage, to: Any = None) -> None:
    """Write down what everybody is doing: jobs, workers, the head's books, all threads, the workers' stacks."""
    to = to or sys.stderr
    print("ztasks chaos: the deadline has passed; this is the state of things", file=to)
    looker = Looker(passage.path)
    looker.look()
    for record in looker.running():
        print(f"  job {record.number} is being executed in {record.pid} ({state(record.pid)})", file=to)
    pids = workers()
    for pid in pids:
        print(f"  worker {pid}: {state(pid)}, {looker.phase(pid)}", file=to)
    if passage.executor is not None:
        try:
            for line in _books(passage.executor):
                print(f"  {line}", file=to)
        except Exception as error:  # noqa: BLE001 - another thread may be changing them
            print(f"  the head's books cannot be read: {error!r}", file=to)
    to.flush()
    faulthandler.dump_traceback(to, all_threads=True)
    for pid in pids:
        send(pid, signal.SIGABRT)  # faulthandler writes its stack; the head passes it on
    sleep(STACK_SECONDS)
    written = b"".join(passage.output).decode(errors="replace")
    print(f"  the last that the workers have written:\n{written}", file=to)
    to.flush()


def _books(executor: Any) -> list[str]:
    """Return the head's books in words. Another thread may be writing them: it is a glance."""
    head = executor._head
    books = head._ventilator
    lines = [f"head: {books.pending} pending, {len(head.inbox)} in the inbox, asleep: {head.inbox.asleep}"]
    for lane in list(books.lanes.values())[:SHOWN]:
        worker = head._watch.crew.workers.get(lane.number)
        fields = list(worker.cell.fields) if worker is not None else []
        held = [(batch.position, batch.count) for batch in lane.batches]
        lines.append(
            f"lane {lane.number}: {lane.state.value}, dispatched {lane.dispatched}, received {lane.received}, "
            f"cut {lane.cut}, batches (position, count) {held[:SHOWN]}; worker {worker.pid if worker else None}, "
            f"cell {fields}"
        )
    return lines
