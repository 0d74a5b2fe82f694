"""Memory of this process, as Linux counts it, in bytes."""

import time
from pathlib import Path

KIB = 1024
MIB = 1024 * KIB


def resident() -> int:
    """Resident memory now."""
    return _status("VmRSS")


def peak() -> int:
    """The most that has been resident since the start of the process or the last `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Let `peak` start again from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def settled(limit: float = 20.0) -> int:
    """Resident memory once it has stopped growing for half a second, after `limit` seconds at the latest."""
    deadline = time.monotonic() + limit
    last = resident()
    while time.monotonic() < deadline:
        time.sleep(0.5)
        now = resident()
        if now <= last:
            return now
        last = now
    return last


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * KIB
    raise LookupError(f"/proc/self/status has no {field}")
