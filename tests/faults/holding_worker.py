"""Preloaded into workers: notes at a worker's exit which of its sockets and contexts nobody has closed.

They are made before anything is preloaded, so they are found among the collector's objects; from then on they are held,
and the collector is off.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import threading
from pathlib import Path

import zmq
from holding import descriptors

gc.disable()
SOCKETS = [found for found in gc.get_objects() if isinstance(found, zmq.Socket)]
CONTEXTS = [found for found in gc.get_objects() if isinstance(found, zmq.Context)]


@atexit.register
def _report() -> None:
    report = {
        "sockets": [raw.closed for raw in SOCKETS],
        "contexts": [context.closed for context in CONTEXTS],
        "threads": [thread.name for thread in threading.enumerate()],
        "descriptors": sorted(descriptors()),
    }
    Path(os.environ["ZT_REPORTS"], f"{os.getpid()}.json").write_text(json.dumps(report))
