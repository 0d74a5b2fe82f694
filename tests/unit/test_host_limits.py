"""What an executor's options mean on a host with so many cpus, GPUs and bytes."""

from __future__ import annotations

import resource
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ztasks import limits
from ztasks.errors import InvalidOption, WorkersCannotStart
from ztasks.io import hostinfo
from ztasks.io.budgets import Limits
from ztasks.io.devices import DEVICE_VARIABLE
from ztasks.io.limits import Cgroups
from ztasks.limits import HARD_FACTOR, LEAST_BYTES, MAX_WORKERS, make_limits

MIB = 2**20
GIB = 2**30

NOTHING = {
    "max_workers": None,
    "max_bytes": None,
    "memory_limit": None,
    "max_tasks_per_child": None,
    "kill_memory_per_child": None,
    "gpus": None,
    "soft_memory": None,
}


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with six cpus, two GPUs and 8 GiB."""
    monkeypatch.setattr(limits, "default_workers", lambda: 6)
    monkeypatch.setattr(limits, "memory", lambda: 8 * GIB)
    monkeypatch.setenv(DEVICE_VARIABLE, "4,7")


def made(**options: Any) -> Limits:
    return make_limits(**{**NOTHING, **options})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Limits(6, 2 * GIB, 8 * GIB)),
        ({"max_workers": 3}, Limits(3, 2 * GIB, 8 * GIB)),
        ({"max_bytes": "10M"}, Limits(6, 10_000_000, 8 * GIB)),
        ({"memory_limit": "1GiB"}, Limits(6, 2 * GIB, GIB)),
        ({"memory_limit": 99 * GIB}, Limits(6, 2 * GIB, 99 * GIB)),
        ({"max_tasks_per_child": 5}, Limits(6, 2 * GIB, 8 * GIB, 5)),
        ({"gpus": "auto"}, Limits(2, 2 * GIB, 8 * GIB, devices=("4", "7"))),
        ({"gpus": 1}, Limits(1, 2 * GIB, 8 * GIB, devices=("4",))),
        ({"gpus": 2, "max_workers": 5}, Limits(5, 2 * GIB, 8 * GIB, devices=("4", "7"))),
        ({"soft_memory": MIB}, Limits(6, 2 * GIB, 8 * GIB, kill_memory=HARD_FACTOR * MIB)),
        ({"soft_memory": MIB, "kill_memory_per_child": MIB}, Limits(6, 2 * GIB, 8 * GIB, kill_memory=MIB)),
        ({"kill_memory_per_child": "1MiB"}, Limits(6, 2 * GIB, 8 * GIB, kill_memory=MIB)),
    ],
)
def test_what_options_mean(options: dict[str, Any], expected: Limits) -> None:
    assert made(**options) == expected


def test_the_byte_budget_has_a_least_size_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "memory", lambda: 100 * MIB)
    assert made().max_bytes == LEAST_BYTES
    assert made(max_bytes=5).max_bytes == 5, "unless it is said otherwise"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_workers": 0}, "^max_workers must be"),
        ({"max_workers": True}, "^max_workers must be"),
        ({"max_workers": MAX_WORKERS + 1}, "^max_workers must be at most"),
        ({"max_bytes": 0}, "^max_bytes must be more than 0"),
        ({"max_bytes": -1}, "^max_bytes must be"),
        ({"max_bytes": "much"}, "^max_bytes must be"),
        ({"memory_limit": 0}, "^memory must be more than 0"),
        ({"max_tasks_per_child": 0}, "^max_tasks_per_child must be"),
        ({"kill_memory_per_child": 0}, "^kill_memory_per_child must be more than 0"),
        (
            {"kill_memory_per_child": MIB - 1, "soft_memory": MIB},
            r"^kill_memory_per_child \(1048575 bytes\) must be at",
        ),
        ({"gpus": 3}, "^gpus=3, but 2 can be used"),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        made(**options)


@pytest.mark.parametrize(("limit", "fits"), [(resource.RLIM_INFINITY, True), (10**6, True), (100, False)])
def test_descriptors_are_counted_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, limit: int, fits: bool
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (limit, limit))
    if fits:
        assert made(max_workers=50).workers == 50
    else:
        with pytest.raises(WorkersCannotStart, match=r"50 workers .* may have 100\. Nothing was started\. .*ulimit -n"):
            made(max_workers=50)


# --- how much memory there is ---


@pytest.fixture
def memory_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what `memory` makes of cgroup files, on a host of 64 GiB without a limit of address space."""

    def read(membership: str, files: dict[str, str], address_space: int = resource.RLIM_INFINITY) -> int:
        (tmp_path / "cgroup").write_text(membership)
        for name, text in files.items():
            path = tmp_path / "sys" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        groups = partial(Cgroups, str(tmp_path / "cgroup"), str(tmp_path / "sys"))
        monkeypatch.setattr(hostinfo, "Cgroups", groups)
        monkeypatch.setattr(hostinfo.os, "sysconf", lambda name: 64 * GIB // hostinfo.PAGE)
        monkeypatch.setattr(resource, "getrlimit", lambda what: (address_space, address_space))
        return hostinfo.memory()

    return read


@pytest.mark.parametrize(
    ("membership", "files", "limit"),
    [
        ("", {}, 64 * GIB),
        ("0::/\n", {"memory.max": "max\n"}, 64 * GIB),
        ("0::/a/b\n", {"a/b/memory.max": f"{3 * GIB}\n", "a/memory.max": "max\n"}, 3 * GIB),
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": f"{2 * GIB}\n"}, 2 * GIB),
        ("0::/a\n", {"a/memory.max": f"{99 * GIB}\n"}, 64 * GIB),
        ("5:memory:/a\n", {"memory/a/memory.limit_in_bytes": f"{GIB}\n"}, GIB),
        ("5:memory:/a\n", {"memory/a/memory.limit_in_bytes": "9223372036854771712\n"}, 64 * GIB),
        ("5:memory:/docker/1\n", {"memory/memory.limit_in_bytes": f"{GIB}\n"}, GIB),
        ("4:cpu:/a\n", {"memory/a/memory.limit_in_bytes": f"{GIB}\n"}, 64 * GIB),
    ],
)
def test_the_least_of_all_limits_counts(memory_of: Any, membership: str, files: dict[str, str], limit: int) -> None:
    assert memory_of(membership, files) == limit
    assert memory_of(membership, files, GIB // 2) == GIB // 2


def test_a_limit_counts_however_much_of_it_is_used(memory_of: Any) -> None:
    """The outer group has less left; but more than the inner one's limit is never there."""
    files = {
        "a/b/memory.max": f"{2 * GIB}\n",
        "a/b/memory.current": f"{GIB}\n",
        "a/memory.max": f"{10 * GIB}\n",
        "a/memory.current": f"{10 * GIB - MIB}\n",
    }
    assert memory_of("0::/a/b\n", files) == 2 * GIB
