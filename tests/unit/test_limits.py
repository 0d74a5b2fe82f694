"""What is read from cgroups and /proc: trees as kernels of both versions lay them out, made by hand."""

import os
from pathlib import Path

import pytest

from ztasks.io.limits import Bound, Cgroups, host_memory, user_threads

MIB = 2**20


def tree(folder: Path, membership: str, files: dict[str, str]) -> Cgroups:
    """Lay out a cgroup file system, and what /proc/self/cgroup says of it."""
    (folder / "cgroup").write_text(membership)
    for name, text in files.items():
        path = folder / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Cgroups(str(folder / "cgroup"), str(folder / "sys"))


def test_version_2_takes_the_tightest_of_all_that_hold_it(tmp_path: Path) -> None:
    groups = tree(
        tmp_path,
        "0::/user.slice/run.scope\n",
        {
            "user.slice/run.scope/memory.max": "max\n",
            "user.slice/run.scope/memory.events": "low 0\noom 3\noom_kill 2\n",
            "user.slice/run.scope/pids.max": "100\n",
            "user.slice/run.scope/pids.current": "40\n",
            "user.slice/run.scope/cpu.max": "150000 100000\n",
            "user.slice/memory.max": f"{512 * MIB}\n",
            "user.slice/memory.current": f"{200 * MIB}\n",
            "user.slice/memory.stat": f"anon 5\ninactive_file {50 * MIB}\n",
            "user.slice/cpu.max": "max 100000\n",
        },
    )
    assert groups.version() == "2"
    assert groups.memory() == Bound(512 * MIB, 150 * MIB, f"{tmp_path}/sys/user.slice/memory.max")
    assert groups.processes() == Bound(100, 40, f"{tmp_path}/sys/user.slice/run.scope/pids.max")
    assert groups.cpus() == 1.5
    assert groups.oom_kills() == 2


def test_version_1_in_a_container_that_sees_only_its_own_groups(tmp_path: Path) -> None:
    groups = tree(
        tmp_path,
        "5:memory:/docker/0123\n4:cpu,cpuacct:/docker/0123\n3:pids:/docker/0123\n1:name=systemd:/docker/0123\n",
        {
            "memory/memory.limit_in_bytes": f"{256 * MIB}\n",
            "memory/memory.usage_in_bytes": f"{100 * MIB}\n",
            "memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {10 * MIB}\n",
            "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n",
            "cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
            "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "pids/pids.max": "max\n",
        },
    )
    assert groups.version() == "1"
    assert groups.memory() == Bound(256 * MIB, 90 * MIB, f"{tmp_path}/sys/memory/memory.limit_in_bytes")
    assert groups.cpus() == 0.5
    assert groups.oom_kills() == 7
    assert groups.processes() is None


def test_no_limit_is_told_from_a_huge_one(tmp_path: Path) -> None:
    groups = tree(
        tmp_path,
        "4:memory:/\n3:cpu:/\n0::/\n",
        {
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "cpu/cpu.cfs_quota_us": "-1\n",
            "cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert groups.version() == "1 and 2"
    assert (groups.memory(), groups.cpus(), groups.oom_kills()) == (None, None, 0)


def test_a_group_outside_of_the_container_s_view(tmp_path: Path) -> None:
    groups = tree(tmp_path, "0::/../../other\n", {"memory.max": f"{64 * MIB}\n"})
    assert groups.memory() == Bound(64 * MIB, 0, f"{tmp_path}/sys/memory.max")


@pytest.mark.parametrize("text", ["", "nonsense\n", "0::", "::::\n\n"])
def test_what_is_no_cgroup_file_is_no_limit(tmp_path: Path, text: str) -> None:
    groups = tree(tmp_path, text, {"memory.max": "abc\n", "cpu.max": "1\n", "pids.max": ""})
    assert (groups.memory(), groups.cpus(), groups.processes(), groups.oom_kills()) == (None, None, None, 0)


def test_the_host_s_memory(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  400 kB\n")
    assert host_memory(f"{tmp_path}/meminfo") == Bound(1000 * 1024, 600 * 1024, "this host")
    assert host_memory(f"{tmp_path}/missing") is None


def test_threads_of_this_user_are_counted(tmp_path: Path) -> None:
    for pid, user, threads in ((1, os.getuid(), 3), (22, os.getuid(), 4), (333, os.getuid() + 1, 100)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "status").write_text(f"Name:\tx\nUid:\t{user}\t{user}\nThreads:\t{threads}\n")
    (tmp_path / "44").mkdir()  # it has ended meanwhile
    (tmp_path / "self").mkdir()
    assert user_threads(str(tmp_path)) == 7
    assert user_threads(f"{tmp_path}/missing") is None


def test_what_is_left_is_never_negative() -> None:
    assert Bound(10, 15, "").free == 0
