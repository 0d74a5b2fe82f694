"""Cleaning up is explicit: it happens with the collector off, and while references to everything are held.

The scripts hold all sockets, contexts, mappings, pipes' processes and selectors that are made, so that neither the
collector nor the end of a last reference can close anything: whatever is closed, somebody has closed.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import fault_jobs as jobs
import pytest
import support

import ztasks
from ztasks import Executor

FOLDER = str(Path(__file__).parent)

SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, {folder!r})
import holding
import ztasks
import fault_jobs as jobs

def used(executor):
    futures = [executor.submit(jobs.square, number) for number in range(100)]
    futures[0].add_done_callback(lambda done: None)
    assert [future.result() for future in futures] == [number * number for number in range(100)]
    assert executor.submit(bytearray, bytearray(200_000)).result() == bytearray(200_000)
    assert isinstance(executor.submit(jobs.raise_chain).exception(), ValueError)
    assert executor.submit(lambda number: number + 1, 2).result() == 3
    assert sum(executor.map(jobs.square, range(1000))) == 332833500
    return executor

used(ztasks.Executor(1)).shutdown()  # what is imported late, is imported now
holding.hold()
before = holding.belongings()
{way}
holding.check(before)
"""

WAYS = {
    "unused": "ztasks.Executor(2).shutdown()",
    "used": "used(ztasks.Executor(2)).shutdown()",
    "a with": "with ztasks.Executor(2) as executor: used(executor)",
    "in the background": """
executor = ztasks.Executor(2)
future = executor.submit(jobs.square, 3)
executor.shutdown(wait=False)
assert future.result() == 9
executor.shutdown()
""",
    "crashes": """
with ztasks.Executor(2) as executor:
    for _ in range(3):
        assert isinstance(executor.submit(jobs.exit_now, 3).exception(), ztasks.WorkerLost)
    used(executor)
""",
    "recycled": """
with ztasks.Executor(1, max_tasks_per_child=1) as executor:
    for number in range(4):
        executor.submit(jobs.square, number).result()
""",
    "killed": """
executor = used(ztasks.Executor(2))
futures = [executor.submit(time.sleep, 600) for _ in range(6)]
executor.kill()
assert all(isinstance(future.exception(), ztasks.WorkerLost) for future in futures if not future.cancelled())
""",
    "timeouts": """
with ztasks.Executor(1) as executor:
    hung = executor.submit(ztasks.options(time.sleep, timeout=0.05, grace=0.2), 600)
    assert isinstance(hung.exception(), ztasks.JobTimeout)
""",
    "a map left": """
with ztasks.Executor(2) as executor:
    results = executor.map(jobs.square, iter(int, 1))
    next(results)
""",
    "workers that cannot start": """
sys.executable = "/nonexistent"
executor = ztasks.Executor(2)
assert isinstance(executor.submit(jobs.square, 2).exception(), ztasks.WorkersCannotStart)
executor.shutdown()
""",
    "a broken preload": """
executor = ztasks.Executor(2, preload=["no_such_module"], output=lambda lines: None)
assert isinstance(executor.submit(jobs.square, 2).exception(), ztasks.WorkersCannotStart)
executor.shutdown()
""",
    "three at once": """
executors = [used(ztasks.Executor(1)) for _ in range(3)]
for executor in executors:
    executor.shutdown()
""",
}


@pytest.mark.parametrize("way", WAYS)
def test_closing_does_all_itself(tmp_path: Path, way: str) -> None:
    """When closing returns, all that was made is closed: not a little later, not by the collector."""
    text = SCRIPT.format(folder=FOLDER, way=WAYS[way])
    made = json.loads(support.check_script(tmp_path, text))
    assert made["contexts"] == made["selectors"] == (3 if way == "three at once" else 1)
    assert made["sockets"] == 2 * made["contexts"] + made["processes"]
    assert made["mappings"] >= made["processes"] >= (way != "workers that cannot start")


def test_a_worker_closes_all_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves by itself when it is told to. Sockets and context are closed before the interpreter ends, and no thread
    and descriptor of ours is left."""
    monkeypatch.setenv("ZT_REPORTS", str(tmp_path))
    with Executor(max_workers=2, preload=["holding_worker"]) as executor:
        assert sum(executor.map(jobs.square, range(1000))) == 332833500
        assert isinstance(executor.submit(jobs.raise_chain).exception(10), ValueError)
        assert executor.submit(bytearray, bytearray(200_000)).result(10) == bytearray(200_000)
        pids = {executor.submit(os.getpid).result(10) for _ in range(10)}
        timed = executor.submit(ztasks.options(time.sleep, timeout=0.05), 600)
        assert isinstance(timed.exception(10), ztasks.JobTimeout)
    reports = {int(file.stem): json.loads(file.read_text()) for file in tmp_path.iterdir()}
    assert pids <= set(reports), "these were killed"
    for report in reports.values():
        assert report["sockets"] == [True] * 3
        assert report["contexts"] == [True]
        assert report["threads"] == ["MainThread"]
        ours = [line for line in report["descriptors"] if int(line.split()[0]) > 2]
        assert all("/stack-" in line or "pipe:" in line for line in ours), "the lifeline lasts to the end"
