"""Evidence of the kernel's out-of-memory killer: it says nothing to those it kills, but it counts."""

from __future__ import annotations

from typing import Final

from ztasks.io.limits import Cgroups, field, read

VMSTAT: Final = "/proc/vmstat"


class OomCounters:
    """The counters of this process's cgroup and of the whole host, as they were when last looked at.

    Workers are in the cgroup of their parent. The host's counter also moves when others are killed, and says so.
    """

    def __init__(self, groups: Cgroups | None = None, vmstat: str = VMSTAT) -> None:
        self._groups = groups if groups is not None else Cgroups()
        self._vmstat = vmstat
        self._in_group = self._groups.oom_kills()
        self._on_host = field(read(vmstat), "oom_kill")
        self._more = 0
        """How many more it has killed in this cgroup than were asked about."""

    def evidence(self) -> str:
        """Say whether the killer has struck since the last call; empty if not. To be called once for each death: if it
        has struck twice at once, so it says at the next call as well."""
        in_group, on_host = self._groups.oom_kills(), field(read(self._vmstat), "oom_kill")
        struck, self._in_group = in_group - self._in_group, in_group
        struck_group = struck > 0
        struck_host, self._on_host = on_host > self._on_host, on_host
        if struck_group:
            self._more = struck - 1
        elif self._more > 0:
            self._more -= 1
            struck_group = True
        if struck_group:
            return f"the out-of-memory killer struck in its cgroup (oom_kill: {in_group})"
        if struck_host:
            return f"the out-of-memory killer struck on this host meanwhile ({self._vmstat}: oom_kill {on_host})"
        return ""
