"""Stacks of workers: where the interpreter writes them down when it dies, hangs, or is asked to.

faulthandler writes from a signal handler in C, without the interpreter's lock, so this also tells of native code that
never comes back. The file is the worker's own, in the private directory.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import sys
from typing import Final

DUMP_SIGNAL: Final = signal.SIGRTMIN + 1 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR1
"""Asks a worker for its stack. Reserved: a job must not use it."""

MAX_BYTES: Final = 64 * 1024
LAST_WORDS: Final = (b"Fatal Python error", b"Timeout (")
"""What faulthandler begins with when the interpreter dies, or when the watchdog ends it."""

_OURS: Final = re.compile(r'"[^"]*/ztasks/(io|wire)/\w+\.py"')
"""Frames of the worker itself; it may run another copy of this package than its parent."""


def file_name(lane: int) -> str:
    """Return the name of a worker's file in the private directory."""
    return f"stack-{lane}"


def write_to(path: str) -> int:
    """Worker: let the stack be written there; return the descriptor."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:  # a full disk, or no descriptors: then it goes to stderr
        file = 2
    faulthandler.enable(file, all_threads=False)
    faulthandler.register(DUMP_SIGNAL, file, all_threads=True, chain=False)  # any thread may take the signal
    return file


def write_to_stderr() -> None:
    """In a child forked by a job: what happens there is not the worker's end."""
    faulthandler.unregister(DUMP_SIGNAL)
    if sys.stderr is not None:
        faulthandler.enable(2, all_threads=False)


def read(path: str, start: int | None = 0) -> str:
    """Parent: return what was written about the worker's end, but for its own frames; then remove the file.

    `start`: where in the file that begins; None: nobody has asked for it, so it is what the interpreter wrote when it
    died, if it did. What is before that was asked for because of a job that ended in time after all.
    """
    try:
        with open(path, "rb") as file:
            written = file.read()
        os.unlink(path)
    except OSError:
        return ""
    if start is None:
        start = max(written.rfind(words) for words in LAST_WORDS)
        if start < 0:
            return ""
    text = written[start : start + MAX_BYTES].decode(errors="replace")
    sections = [_without_ours(section) for section in text.split("\n\n")]
    sections.sort(key=lambda section: section.startswith("Thread "))  # what is current, or fatal, comes first
    return "\n\n".join(filter(None, sections))


def _without_ours(section: str) -> str:
    """Drop the worker's own frames from what was written about one thread; empty if these were all."""
    lines = section.strip().splitlines()
    frames = [line for line in lines if line.startswith("  File ")]
    kept = [line for line in frames if not _OURS.search(line)]
    if len(kept) < len(frames) and all("threading.py" in line for line in kept):
        return ""
    heads = [line for line in lines if line not in frames and not line.startswith("Extension modules:")]
    return "\n".join(heads + kept)
