"""What becomes of executors when the process forks, or ends without having closed them."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ztasks.io.delivery import Delivery
from ztasks.io.head import Head

if TYPE_CHECKING:
    from ztasks.base_executor import BaseExecutor
    from ztasks.io.client_thread import RemoteHead

executors: weakref.WeakSet[BaseExecutor] = weakref.WeakSet()
"""All executors and clients."""
deliveries: weakref.WeakSet[Delivery] = weakref.WeakSet()
ending = threading.Event()
"""The interpreter is about to end: an executor that is made now would never be closed."""

heads: weakref.WeakSet[Head | RemoteHead] = weakref.WeakSet()
"""All heads that have not ended: at exit they are closed, whether or not their executor still exists. A head that runs
is kept by its thread; one that has ended need not have been waited for."""


def _after_fork() -> None:
    """In a forked child: no executor of the parent's may be used, closed or waited for here; a client begins anew."""
    for executor in list(executors):
        executor._after_fork()
    for head in list(heads):
        head.after_fork()
    heads.clear()


def _at_exit() -> None:
    """At the interpreter's exit, before threads are joined: finish and close what was not closed.

    Ctrl-C cancels what waits, or has done so if it has ended the program; the next one kills.
    """
    ending.set()
    for executor in list(executors):
        executor._close_intake()  # else a thread that goes on submitting would keep the program from ending
    running = list(heads)
    steps: list[Callable[[Any], None]] = [lambda head: head.post_close(), _interrupt, _kill]
    interrupt: KeyboardInterrupt | None = None
    for step in steps[_interrupted() :]:
        for head in running:
            step(head)
        try:
            for head in running:
                head.join()
            break
        except KeyboardInterrupt as error:
            interrupt = error
    for delivery in list(deliveries):
        delivery.close()
    if interrupt is not None:
        raise interrupt


def _interrupt(head: Any) -> None:
    """Ctrl-C: cancel what waits. A client decides for itself: with a journal its jobs may go on without it."""
    if isinstance(head, Head):
        head.post_close(cancel_waiting=True)
    else:
        head.post_leave()


def _kill(head: Any) -> None:
    if isinstance(head, Head):
        head.post_kill()
    else:
        head.post_leave()  # again: at once


def _interrupted() -> bool:
    """Tell whether KeyboardInterrupt has ended the main thread; at a prompt it only ends a command."""
    return getattr(sys, "last_type", None) is KeyboardInterrupt and not hasattr(sys, "ps1")


os.register_at_fork(after_in_child=_after_fork)
# Runs before non-daemon threads are joined; atexit runs after, and would never be reached. concurrent.futures relies
# on the same function.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
