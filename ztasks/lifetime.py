"""What becomes of executors when the process forks, or ends without having closed them."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

from ztasks.intake import forked
from ztasks.io.delivery import Delivery
from ztasks.io.head import Head

if TYPE_CHECKING:
    from ztasks.executor import Executor

executors: weakref.WeakSet[Executor] = weakref.WeakSet()
deliveries: weakref.WeakSet[Delivery] = weakref.WeakSet()
heads: weakref.WeakSet[Head] = weakref.WeakSet()
"""All heads that have not ended: at exit they are closed, whether or not their executor still exists. A head that runs
is kept by its thread; one that has ended need not have been waited for."""


def _after_fork() -> None:
    """In a forked child: no executor of the parent's may be used, closed or waited for here."""
    for executor in list(executors):
        executor._refuse = forked
    for head in list(heads):
        head.after_fork()
    heads.clear()


def _at_exit() -> None:
    """At the interpreter's exit, before threads are joined: finish and close what was not closed."""
    running = list(heads)
    for head in running:
        head.post_close()
    for head in running:
        head.join()
    for delivery in list(deliveries):
        delivery.close()


os.register_at_fork(after_in_child=_after_fork)
# Runs before non-daemon threads are joined; atexit runs after, and would never be reached. concurrent.futures relies
# on the same function.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
