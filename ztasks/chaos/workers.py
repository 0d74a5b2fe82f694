"""Which processes are this process's workers now, and how to signal them without ever hitting another process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Final

from ztasks.io.crew import MAIN

_MAIN: Final = os.fsencode(MAIN)


def workers() -> list[int]:
    """Return the pids of the worker processes that this process has started and not yet reaped, in order."""
    return sorted(pid for pid in children() if _is_worker(pid))


def children() -> list[int]:
    """Return the pids of this process's children, zombies included."""
    ours = os.getpid()
    return [pid for pid, (_, parent, _) in processes().items() if parent == ours]


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal to a worker; tell whether it was still there. Its number cannot have passed to another process."""
    if not hasattr(signal, "pidfd_send_signal"):
        return _send_by_number(pid, number)
    try:
        held = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not _is_worker(pid):  # looked at after the descriptor was opened: it is of this very process
            return False
        signal.pidfd_send_signal(held, number)
    except OSError:
        return False
    finally:
        os.close(held)
    return True


def processes() -> dict[int, tuple[str, int, int]]:
    """Return state, parent and process group of every process of this host."""
    if sys.platform != "linux":
        return _from_ps()
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            state, parent, group, *_ = _read(f"/proc/{entry}/stat").rpartition(b")")[2].split() or [b"?", b"0", b"0"]
            found[int(entry)] = (state.decode(), int(parent), int(group))
    return found


def state(pid: int) -> str:
    """Return what the system says about a process: its state, and where in the kernel it waits."""
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"State:"):
            waits = _read(f"/proc/{pid}/wchan").decode(errors="replace")
            return f"{line[6:].decode().strip()}{f' in {waits}' if waits not in ('', '0') else ''}"
    return "gone"


def _is_worker(pid: int) -> bool:
    if sys.platform == "linux":
        return _MAIN in _read(f"/proc/{pid}/cmdline").split(b"\0")
    listed = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False)
    return _MAIN in listed.stdout


def _send_by_number(pid: int, number: signal.Signals) -> bool:
    try:
        if pid not in workers():
            return False
        os.kill(pid, number)
    except OSError:
        return False
    return True


def _from_ps() -> dict[int, tuple[str, int, int]]:
    """Where there is no /proc (macOS)."""
    listed = subprocess.run(["ps", "-axo", "pid=,stat=,ppid=,pgid="], capture_output=True, check=False)
    rows = (line.split() for line in listed.stdout.splitlines())
    return {int(pid): (stat[:1].decode(), int(parent), int(group)) for pid, stat, parent, group in rows}


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
