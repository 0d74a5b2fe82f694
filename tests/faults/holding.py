"""Holds all that is made, with the collector off: whatever is closed after that, somebody has closed.

Neither the collector nor the end of a last reference can close anything then.
"""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
import os
import selectors
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import zmq

import ztasks.io.sockets  # what is imported late, is imported now

MADE: dict[str, list[Any]] = {"sockets": [], "contexts": [], "mappings": [], "processes": [], "selectors": []}


class Context(zmq.Context):  # type: ignore[type-arg]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        MADE["contexts"].append(self)

    def socket(self, *args: Any, **kwargs: Any) -> Any:
        MADE["sockets"].append(super().socket(*args, **kwargs))
        return MADE["sockets"][-1]


class Mapping(mmap.mmap):
    def __new__(cls, *args: Any, **kwargs: Any) -> Mapping:
        MADE["mappings"].append(super().__new__(cls, *args, **kwargs))
        return MADE["mappings"][-1]  # type: ignore[no-any-return]


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        MADE["processes"].append(self)


class Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    def __init__(self) -> None:
        super().__init__()
        MADE["selectors"].append(self)


def belongings() -> dict[str, set[str]]:
    """Return what this process has now."""
    return {
        "descriptors": descriptors(),
        "threads": {thread.name for thread in threading.enumerate()},
        "children": children(),
        "files": set(os.listdir(tempfile.gettempdir())),
        "mappings": {
            line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "ztasks-" in line
        },
        "shared": set(os.listdir("/dev/shm")),
    }


def children() -> set[str]:
    """Return the children of all threads, zombies included."""
    found: set[str] = set()
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has just ended
            found |= set(Path(f"/proc/self/task/{thread}/children").read_text().split())
    return found


def descriptors() -> set[str]:
    """Return the open descriptors, each with what it leads to."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own is gone
            found.add(f"{entry} {os.readlink(f'/proc/self/fd/{entry}')}")
    return found


def check(before: dict[str, set[str]]) -> None:
    """Fail unless all that was made is closed, and this process has what it had before; print how much was made."""
    after = belongings()
    for kind, had in before.items():
        assert after[kind] == had, f"{kind}: {after[kind] - had} more, {had - after[kind]} less"
    assert all(raw.closed for raw in MADE["sockets"])
    assert all(context.closed for context in MADE["contexts"])
    assert all(mapping.closed for mapping in MADE["mappings"])
    assert all(process.returncode is not None for process in MADE["processes"])
    assert all(selector.get_map() is None for selector in MADE["selectors"])
    assert not gc.isenabled()
    print(json.dumps({kind: len(all_) for kind, all_ in MADE.items()}))


def hold() -> None:
    """From now on hold all that is made, without the collector."""
    gc.disable()
    zmq.Context = Context  # type: ignore[misc]
    mmap.mmap = Mapping  # type: ignore[misc]
    subprocess.Popen = Popen  # type: ignore[misc]
    selectors.DefaultSelector = Selector  # type: ignore[misc]
    assert ztasks.io.sockets.zmq.Context is Context
