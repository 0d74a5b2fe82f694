"""Stacks of workers: what is kept of what faulthandler writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ztasks.io import stacks
from ztasks.io.stacks import MAX_BYTES

PACKAGE = "/usr/lib/python3/site-packages/ztasks"

OURS = f"""\
  File "{PACKAGE}/io/runner.py", line 180 in _run_interruptible
  File "{PACKAGE}/io/worker.py", line 99 in run
"""
JOB = """\
  File "/home/someone/job.py", line 7 in inner
  File "/home/someone/job.py", line 12 in work
"""
THREAD = """\
  File "/usr/lib/python3.11/threading.py", line 982 in run
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap
"""
FLUSH = f"""\
Thread 0x00007f1 (most recent call first):
  File "{PACKAGE}/io/outbox.py", line 120 in _flush_late
{THREAD}"""
HELPER = f"""\
Thread 0x00007f2 (most recent call first):
  File "/home/someone/job.py", line 30 in poll
{THREAD}"""
MAIN = f"Current thread 0x00007f3 (most recent call first):\n{JOB}"


def read(folder: Path, text: str) -> str:
    path = folder / "stack-3"
    path.write_text(text)
    found = stacks.read(str(path))
    assert not path.exists(), "it was left behind"
    return found


def test_a_fatal_error_tells_where_the_job_was(tmp_path: Path) -> None:
    text = f"Fatal Python error: Segmentation fault\n\n{MAIN}{OURS}\nExtension modules: msgspec._core (total: 1)\n"
    assert read(tmp_path, text) == f"Fatal Python error: Segmentation fault\n\n{MAIN.rstrip()}"


def test_the_worker_s_own_threads_are_left_out(tmp_path: Path) -> None:
    assert read(tmp_path, f"{FLUSH}\n{MAIN}{OURS}") == MAIN.rstrip()


def test_the_job_s_own_thread_comes_first_although_it_is_the_oldest(tmp_path: Path) -> None:
    """A certificate shows the first lines only."""
    sections = read(tmp_path, f"{HELPER}\n{FLUSH}\n{MAIN}{OURS}").split("\n\n")
    assert sections == [MAIN.rstrip(), HELPER.rstrip()]


def test_a_job_s_own_frames_of_threading_are_kept(tmp_path: Path) -> None:
    text = f"Current thread 0x1 (most recent call first):\n{THREAD}"
    assert read(tmp_path, text) == text.rstrip()


def test_a_worker_that_hangs_in_its_own_code_shows_nothing_that_is_not_there(tmp_path: Path) -> None:
    assert read(tmp_path, f"Current thread 0x1 (most recent call first):\n{OURS}") == ""


@pytest.mark.parametrize("text", ["", "\n\n\n", "   "])
def test_nothing_was_written(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == ""


def test_a_file_that_is_not_there_tells_nothing(tmp_path: Path) -> None:
    assert stacks.read(str(tmp_path / "missing")) == ""


def test_a_recursion_without_end_is_cut(tmp_path: Path) -> None:
    found = read(tmp_path, "Current thread 0x1 (most recent call first):\n" + JOB * 100_000)
    assert found.startswith("Current thread 0x1")
    assert len(found) <= MAX_BYTES


def test_what_is_no_text_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "stack-3"
    path.write_bytes(b'Current thread 0x1:\n  File "caf\xe9.py", line 1 in work\n')
    assert stacks.read(str(path)) == 'Current thread 0x1:\n  File "caf\ufffd.py", line 1 in work'
