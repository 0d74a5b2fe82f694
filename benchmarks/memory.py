"""Memory of this process and others, as Linux counts it, in bytes."""

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


def kinds_of(pid: int | str) -> dict[str, int]:
    """All that `/proc` says of the memory of a process, by the names that it has there; nothing if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {field[0].rstrip(":"): int(field[1]) * KIB for field in fields}


def _status(field: str) -> int:
    return kinds_of("self")[field]
