"""Run as a script: interrupts the use of an executor at random moments, again and again; each time nothing may be left.

python interrupting.py SEED ROUNDS
"""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import sys
import tempfile
import threading
import time

import fault_jobs as jobs
from holding import children, descriptors

import ztasks.io.sockets  # what is imported late, is imported now
from ztasks import Executor

SPANS = (0.004, 0.004, 0.15)
"""Within so many seconds it is interrupted: mostly while it is made."""


def use() -> None:
    with Executor(max_workers=1) as executor:
        future = executor.submit(jobs.square, 3)
        future.add_done_callback(lambda done: None)
        executor.submit(jobs.square, 4)
        assert future.result() == 9
        assert list(executor.map(jobs.square, range(3))) == [0, 1, 4]


def interrupted(delay: float) -> bool:
    """Use an executor and press Ctrl-C meanwhile; return whether that was in time."""
    main, over = threading.get_ident(), threading.Event()

    def press() -> None:
        if not over.wait(delay):
            signal.pthread_kill(main, signal.SIGINT)

    presser = threading.Thread(target=press)
    try:
        presser.start()
        try:
            use()
        finally:
            over.set()
            presser.join()
    except KeyboardInterrupt:
        over.set()
        presser.join()
        return True
    return False


def belongings() -> tuple[int, int, int, list[str]]:
    """Return how many threads, children and descriptors there are, and what is in the directory for temporary files."""
    return threading.active_count(), len(children()), len(descriptors()), os.listdir(tempfile.gettempdir())


def main(seed: int, rounds: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chance = random.Random(seed)
    use()
    before, hit = belongings(), 0
    for number in range(rounds):
        faulthandler.dump_traceback_later(20, exit=True)
        hit += interrupted(chance.random() * chance.choice(SPANS))
        deadline = time.monotonic() + 5
        while (left := belongings()) != before and time.monotonic() < deadline:
            time.sleep(0.002)
        assert left == before, f"round {number}: {before} has become {left}"
    faulthandler.cancel_dump_traceback_later()
    print(hit)


assert ztasks.io.sockets
main(int(sys.argv[1]), int(sys.argv[2]))
