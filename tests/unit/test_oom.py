"""Evidence of the out-of-memory killer, read from counters as kernels of both versions of cgroups lay them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from ztasks.io.limits import Cgroups
from ztasks.io.oom import OomCounters

VERSION_2 = ("0::/user.slice/run.scope\n", "user.slice/run.scope/memory.events", "low 0\nhigh 0\nmax 7\noom 9\n")
VERSION_1 = ("5:memory:/jobs\n4:cpu:/jobs\n", "memory/jobs/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n")
HYBRID = ("5:memory:/jobs\n0::/jobs\n", "memory/jobs/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n")
CONTAINER = ("5:memory:/docker/0123\n", "memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n")


class Host:
    """A host's counters, as files."""

    def __init__(self, folder: Path, membership: str, name: str, text: str) -> None:
        self._group = folder / "sys" / name
        self._group.parent.mkdir(parents=True)
        self._text = text
        self._vmstat = folder / "vmstat"
        (folder / "cgroup").write_text(membership)
        self.set(group=3, host=5)
        groups = Cgroups(str(folder / "cgroup"), str(folder / "sys"))
        self.counters = OomCounters(groups, str(self._vmstat))

    def set(self, *, group: int, host: int) -> None:
        self._group.write_text(f"{self._text}oom_kill {group}\noom_group_kill 99\n")
        self._vmstat.write_text(f"nr_free_pages 12345\noom_kill {host}\npgfault 7\n")


@pytest.fixture(params=[VERSION_2, VERSION_1, HYBRID, CONTAINER], ids=["2", "1", "both", "1 in a container"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    return Host(tmp_path, *request.param)


def test_what_has_struck_before_is_no_evidence(host: Host) -> None:
    assert host.counters.evidence() == ""
    assert host.counters.evidence() == ""


def test_a_kill_in_the_own_group_is_told_once(host: Host) -> None:
    host.set(group=4, host=6)
    assert host.counters.evidence() == "the out-of-memory killer struck in its cgroup (oom_kill: 4)"
    assert host.counters.evidence() == ""
    host.set(group=6, host=8)
    assert "oom_kill: 6" in host.counters.evidence()
    assert "oom_kill: 6" in host.counters.evidence(), "two were killed at once"
    assert host.counters.evidence() == ""


def test_a_kill_elsewhere_on_the_host_is_told_as_such(host: Host) -> None:
    host.set(group=3, host=6)
    evidence = host.counters.evidence()
    assert evidence.startswith("the out-of-memory killer struck on this host meanwhile (")
    assert evidence.endswith("vmstat: oom_kill 6)")
    assert host.counters.evidence() == ""


def test_where_nothing_can_be_read_nothing_is_told(tmp_path: Path) -> None:
    counters = OomCounters(Cgroups(f"{tmp_path}/missing", f"{tmp_path}/missing"), f"{tmp_path}/missing")
    assert counters.evidence() == ""


@pytest.mark.parametrize("text", ["", "oom_kill\n", "oom_kill many\n", "oom_kill -3\n", "xoom_kill 9\n"])
def test_a_counter_that_is_none_is_nothing(tmp_path: Path, text: str) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("oom_kill 0\n")
    counters = OomCounters(Cgroups(f"{tmp_path}/missing"), str(vmstat))
    vmstat.write_text(text)
    assert counters.evidence() == ""
