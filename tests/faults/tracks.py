"""Reading what jobs leave in files: who has begun, how often, and when; and bringing jobs into a phase."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import support

from ztasks import Executor


def lines(path: Path) -> list[str]:
    """Return the whole lines of a file; none if it is not there."""
    if not path.exists():
        return []
    return [line for line in path.read_text().split("\n")[:-1] if line]


def started(folder: Path, attempts: int = 1) -> list[int]:
    """Wait until jobs have noted in `folder/started` that they have begun so many times; return their pids."""
    file = folder / "started"
    support.wait_for(lambda: len(lines(file)) >= attempts, f"attempt {attempts} of the job")
    return [int(line.split()[0]) for line in lines(file)]


def make_quick(executor: Executor, *tasks: Any) -> None:
    """Let these tasks count as quick, however busy this host is: then many of their jobs travel together."""
    for task in tasks:
        executor._known.find(task).run_time.seconds = 1e-5
